//! Deaths: what takes a worker's process with it ends one task, and nobody else's.

use crate::harness::{Rework, misbehaving};

/// Runs a mode that kills its worker; the task as it ended.
fn crash(mode: &str) -> serde_json::Value {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&[
        "--domain",
        "misbehaving",
        "--maxworkers",
        "2",
        "--minworkers",
        "2",
    ]);
    let bystander = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "wait for cancel", "seconds": 60}"#,
    ]);
    rework.wait(&bystander, &["running"]);
    let id = rework.misbehave(mode);
    let task = rework.wait(&id, &["aborted", "failed", "done"]);
    let line = format!("stdout:info:about to: {mode}");
    assert!(
        rework.log(&id).contains(&line),
        "last words are kept: {:?}",
        rework.log(&id)
    );
    let next = rework.misbehave("ok");
    rework.wait(&next, &["done"]);
    assert_eq!(
        rework.task(&bystander)["state"],
        "running",
        "{}",
        monitor.log()
    );
    let dead = rework.json(&["list-workers"]);
    let dead = dead
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["id"] == task["worker"])
        .unwrap()
        .clone();
    assert_eq!(
        (&dead["state"], &dead["cause"]),
        (&"dead".into(), &task["cause"])
    );
    task
}

#[test]
fn a_segfault() {
    let task = crash("segfault");
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &"crash".into())
    );
    assert_eq!(task["signal"], 11);
    assert!(
        task["error"]
            .as_str()
            .unwrap()
            .starts_with("SIGSEGV (signal 11) ended the worker process")
    );
    assert!(task["peak_memory_mb"].as_f64().unwrap() > 1.0);
}

#[test]
fn an_abort() {
    let task = crash("abort");
    assert_eq!(
        (&task["cause"], &task["signal"]),
        (&"crash".into(), &6.into())
    );
}

#[test]
fn a_stack_overflow() {
    let task = crash("stack overflow");
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &"crash".into())
    );
    assert!(task["signal"] == 6 || task["signal"] == 11, "{task:#}");
}

#[test]
fn an_exit_is_the_operations_own_doing() {
    let task = crash("exit");
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &"process exit".into())
    );
    assert_eq!(task["exit_code"], 0);
    assert_eq!(
        task["error"],
        "the operation ended the process (exit code 0)"
    );
}

#[test]
fn a_panic_that_cannot_be_caught_is_still_a_panic() {
    let task = crash("double panic");
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"failed".into(), &"panic".into())
    );
    assert_eq!(task["signal"], 6);
    assert!(
        task["location"]
            .as_str()
            .unwrap()
            .contains("misbehaving/src/lib.rs:"),
        "{task:#}"
    );
}

#[test]
fn a_panic_that_was_caught_is_not_what_a_later_death_is_called() {
    let task = crash("caught panic and segfault");
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &"crash".into())
    );
    assert_eq!(task["signal"], 11);
    assert!(
        task["error"].as_str().unwrap().starts_with("SIGSEGV"),
        "{task:#}"
    );
}

#[test]
fn closing_every_descriptor_ends_the_worker_at_once() {
    for mode in ["close everything", "close everything and print"] {
        let task = crash(mode);
        assert_eq!(
            (&task["state"], &task["cause"]),
            (&"aborted".into(), &"crash".into()),
            "{task:#}"
        );
        // Where it can still print it says why.
        if mode.ends_with("print") {
            let error = task["error"].as_str().unwrap();
            assert!(
                error.contains("has closed the worker's connection to its monitor"),
                "{error}"
            );
        }
    }
}
