//! Waiting for tasks: many waits on few connections, told when it happens.

use crate::harness::{Rework, hello, misbehaving};
use rework::{Client, TaskState};
use serde_json::json;
use std::time::Duration;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn hundreds_of_waits_hold_no_connection_each() {
    let rework = Rework::with_plugins(&[hello()]);
    runtime().block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let tasks = client
            .schedule_many((0..300).map(|n| client.schedule("my_first_task").input(n)))
            .await
            .unwrap();
        let joins: Vec<_> = tasks
            .iter()
            .cloned()
            .map(|task| tokio::spawn(async move { task.join().await }))
            .collect();
        // Somebody says that somebody waits.
        let waiters = || async {
            let statement = "select count(*) from rework.waiter where until > now()";
            rework.database.psql(statement)
        };
        while waiters().await != "1" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let connections = rework.database.psql(
            "select count(*) from pg_stat_activity
              where datname = current_database() and application_name = 'rework'",
        );
        assert!(
            connections.parse::<i32>().unwrap() <= 4,
            "{connections} connections"
        );
        let _monitor = rework.monitor(&[]);
        for join in joins {
            assert_eq!(join.await.unwrap().unwrap(), TaskState::Done);
        }
        while waiters().await != "0" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

/// What nobody looked for in time is told: the periodic look alone would take a second.
#[test]
fn a_long_wait_ends_when_the_task_does() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    runtime().block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let mut lags = Vec::new();
        for _ in 0..4 {
            let task = client
                .schedule("misbehave")
                .input(json!({"mode": "hang", "seconds": 0.9}))
                .await
                .unwrap();
            assert_eq!(task.join_running().await.unwrap(), TaskState::Running);
            assert_eq!(task.join().await.unwrap(), TaskState::Done);
            let ended = task.row().await.unwrap().finished.expect("it has ended");
            lags.push((chrono::Utc::now() - ended).num_milliseconds());
        }
        // The quickest of them, for the machine may be busy.
        let quickest = lags.iter().min().unwrap();
        assert!(*quickest < 200, "told after {lags:?} ms");
    });
}

#[test]
fn whoever_waits_hears_of_every_way_to_end() {
    let rework = Rework::with_plugins(&[hello()]);
    runtime().block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let queue = || client.schedule("my_first_task").input(1);
        let (aborted, deleted) = (queue().await.unwrap(), queue().await.unwrap());
        let wait = |task: &rework::Task| {
            let task = task.clone();
            tokio::spawn(async move { task.join().await })
        };
        let (abort, delete) = (wait(&aborted), wait(&deleted));
        // Until then it looks by itself; what is tested is that it is told.
        while rework.database.psql("select count(*) from rework.waiter") != "1" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        rework.ok(&["abort-task", &aborted.id().to_string()]);
        rework.ok(&["delete-task", &deleted.id().to_string()]);
        assert_eq!(abort.await.unwrap().unwrap(), TaskState::Aborted);
        let gone = delete.await.unwrap().unwrap_err().to_string();
        assert_eq!(gone, format!("no task {}", deleted.id()));
        let unknown = client.task(999).join().await.unwrap_err();
        assert_eq!(unknown.to_string(), "no task 999");
    });
}
