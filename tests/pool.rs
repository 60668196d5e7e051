//! The pool: how many workers a domain has, and when one of them has to go.

use crate::harness::{Rework, hello, misbehaving, until};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The workers that are not dead.
fn alive(rework: &Rework) -> usize {
    let count = rework
        .database
        .psql("select count(*) from rework.worker where state <> 'dead'");
    count.parse().unwrap()
}

/// The dead workers, the oldest first.
fn dead(rework: &Rework) -> Vec<Value> {
    let mut rows = rework.json(&["list-workers", "--all"]);
    let rows = rows.as_array_mut().unwrap();
    rows.retain(|row| row["state"] == "dead");
    rows.sort_by_key(|row| row["id"].as_i64());
    rows.clone()
}

#[test]
fn it_grows_with_demand_and_shrinks_to_its_minimum_one_at_a_time() {
    let rework = Rework::with_plugins(&[misbehaving()]).with_periods("worker_linger=1000");
    let monitor = rework.monitor(&[
        "--domain",
        "misbehaving",
        "--minworkers",
        "1",
        "--maxworkers",
        "3",
    ]);
    until("the minimum", || alive(&rework), |count| *count == 1);
    let input = r#"{"mode": "wait for cancel", "seconds": 1}"#;
    let tasks: Vec<String> = (0..7)
        .map(|_| rework.schedule(&["misbehave", "--input", input]))
        .collect();
    // Processes and rows, from the first task to the last surplus worker's end.
    let mut most = 0;
    let mut rows = vec![alive(&rework)];
    until(
        "the surplus to go",
        || {
            most = most.max(rework::internals::descendants::of(monitor.pid()).len());
            let now = alive(&rework);
            if rows.last() != Some(&now) {
                rows.push(now);
            }
            rows.clone()
        },
        |rows| rows.contains(&3) && rows.last() == Some(&1),
    );
    assert_eq!(most, 3, "{rows:?}");
    assert!(rows.ends_with(&[3, 2, 1]), "one at a time: {rows:?}");
    for task in tasks {
        assert_eq!(rework.task(&task)["state"], "done");
    }
    let causes: Vec<Value> = dead(&rework)
        .iter()
        .map(|row| row["cause"].clone())
        .collect();
    assert_eq!(causes, ["idle", "idle"]);
    // The minimum stays, longer than it would take one more to go.
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(2) {
        assert_eq!(alive(&rework), 1);
    }
}

#[test]
fn a_worker_ends_after_its_number_of_tasks() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&["--maxworkers", "1", "--maxruns", "2"]);
    let tasks: Vec<String> = (0..5)
        .map(|_| rework.schedule(&["my_first_task", "--input", "1"]))
        .collect();
    for task in &tasks {
        rework.wait(task, &["done"]);
    }
    let ended = until(
        "two to have ended",
        || dead(&rework),
        |dead| dead.len() == 2,
    );
    for worker in ended {
        assert_eq!(
            (&worker["cause"], &worker["runs"]),
            (&"maxruns".into(), &2.into()),
            "{worker:#}"
        );
    }
}

/// However short they are, so that several could be on their way to a worker at a time.
#[test]
fn no_worker_runs_more_tasks_than_it_may() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&["--maxworkers", "1", "--maxruns", "3"]);
    let queue = |count: u32| {
        let call =
            format!("select count(rework.schedule('noop')) from generate_series(1, {count})");
        rework.database.psql(&call);
        let left = "select count(*) from rework.task_view where finished is null";
        until(
            "all to end",
            || rework.database.psql(left),
            |left| left == "0",
        );
    };
    // The first ones tell how short they are.
    queue(6);
    queue(60);
    let ended = until(
        "22 to have ended",
        || dead(&rework),
        |dead| dead.len() == 22,
    );
    for worker in ended {
        assert_eq!(worker["runs"], 3, "{worker:#}");
    }
}

#[test]
fn a_worker_that_has_grown_too_large_ends_after_its_task() {
    let rework = Rework::with_plugins(&[hello()]);
    // No process is as small as that.
    let monitor = rework.monitor(&["--maxworkers", "1", "--maxmem", "1"]);
    for _ in 0..2 {
        let id = rework.schedule(&["my_first_task", "--input", "1"]);
        assert_eq!(rework.wait(&id, &["done", "aborted"])["state"], "done");
    }
    let ended = until(
        "two to have ended",
        || dead(&rework),
        |dead| dead.len() == 2,
    );
    for worker in ended {
        assert_eq!(
            (&worker["cause"], &worker["runs"]),
            (&"maxmem".into(), &1.into()),
            "{worker:#}"
        );
    }
    assert_eq!(monitor.interrupt(), Some(0));
    let _monitor = rework.monitor(&["--maxworkers", "1", "--maxmem", "500"]);
    let ids: Vec<String> = (0..5)
        .map(|_| rework.schedule(&["my_first_task", "--input", "1"]))
        .collect();
    let workers = ids
        .iter()
        .map(|id| rework.wait(id, &["done"])["worker"].clone());
    let workers: std::collections::HashSet<Value> = workers.collect();
    assert_eq!(workers.len(), 1, "one that is small enough stays");
}

/// Its children are counted with it.
#[test]
fn what_a_worker_uses_is_shown_while_its_task_runs() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave("child works");
    rework.wait(&id, &["running"]);
    until(
        "100 MB and a processor, of which a busy machine gives little",
        || rework.json(&["list-workers"])[0].clone(),
        |worker| {
            let figure = |key: &str| worker[key].as_f64().unwrap_or_default();
            figure("memory_mb") > 100.0 && figure("cpu_percent") > 2.0
        },
    );
    rework.ok(&["abort-task", &id]);
    rework.wait(&id, &["aborted"]);
}

#[test]
fn a_worker_that_is_not_ready_in_time_is_killed_and_the_next_one_waits() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let arguments = ["--maxworkers", "1", "--start-timeout", "1"];
    let monitor = rework.monitor_that_misbehaves_on_load("hang", &arguments);
    let ended = until(
        "two to have been killed",
        || dead(&rework),
        |dead| dead.len() >= 2,
    );
    assert_eq!(monitor.interrupt(), Some(0));
    for worker in &ended {
        assert_eq!(worker["cause"], "start timeout", "{worker:#}");
        assert_eq!(
            worker["error"], "libmisbehaving.so did not finish loading",
            "{worker:#}"
        );
    }
    let pause = rework.database.psql(
        "select extract(epoch from max(created) - min(finished))
           from (select * from rework.worker order by id limit 2) w",
    );
    let pause: f64 = pause.parse().unwrap();
    assert!(pause > 0.4, "the second came {pause} s after the first");
}

/// Which of a domain's plugins it was.
#[test]
fn the_plugin_that_ends_a_worker_while_it_loads_is_named() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    rework.ok(&[
        "register-operations",
        hello().to_str().unwrap(),
        "--asdomain",
        "misbehaving",
    ]);
    let monitor = rework.monitor_that_misbehaves_on_load("exit", &[]);
    // It may be the other plugin's worker that is kept while there is nothing to do.
    rework.misbehave("ok");
    let failed = || {
        let mut dead = dead(&rework);
        dead.retain(|worker| worker["cause"] == "crash");
        dead
    };
    let ended = until("one that crashed", failed, |dead| !dead.is_empty());
    rework.misbehave("ok");
    let words = "libmisbehaving.so ended the process (exit 7) while loading";
    assert_eq!(ended[0]["error"], words, "{:#}", ended[0]);
    assert!(monitor.log().contains(words), "{}", monitor.log());
    until(
        "doctor to say so",
        || rework.run(&["doctor"]).stdout,
        |said| said.contains(words),
    );
}

#[test]
fn an_idle_monitor_costs_next_to_nothing() {
    let rework = Rework::with_plugins(&[hello()]).with_periods("lease=1500");
    let monitor = rework.monitor(&["--minworkers", "2"]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&id, &["done"]);
    until("both workers", || alive(&rework), |count| *count == 2);
    // What its beginning costs is not meant.
    rework.until_renewed(2);
    let used = monitor.processor_share(|| rework.until_renewed(3));
    assert!(used < 0.1, "{used} of a processor");
}
