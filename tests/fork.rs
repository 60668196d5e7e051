//! An operation that forks returns twice. Only what the worker itself returns counts, and only the
//! worker speaks to the monitor; the other process is named in the task's log.

use crate::harness::{Monitor, Rework, misbehaving, until};

fn started() -> (Rework, Monitor) {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    (rework, monitor)
}

fn forked(rework: &Rework, how: &str) -> String {
    let input = serde_json::json!({ "how": how }).to_string();
    rework.schedule(&["fork_and_return", "--input", &input])
}

/// The lines in which the runtime names a process that returned.
fn named(rework: &Rework, id: &str) -> Vec<String> {
    let mut lines = rework.log(id);
    lines.retain(|line| {
        line.starts_with("rework:warn:process ") && line.contains("returned from it")
    });
    lines
}

#[test]
fn only_the_workers_return_counts() {
    let (rework, _monitor) = started();
    for (how, times) in [
        ("fork", 1),
        ("clone", 1),
        ("grandchild", 2),
        ("panic", 1),
        ("error", 1),
        ("thread", 1),
    ] {
        let id = forked(&rework, how);
        let task = rework.ended(&id);
        assert_eq!(
            (&task["state"], &task["output"]),
            (&"done".into(), &42.into()),
            "{how}: {task:#}"
        );
        assert_eq!(named(&rework, &id).len(), times, "{how}");
        let log = rework.log(&id);
        let ended = "stdout:info:the child ended with 70".to_owned();
        assert!(log.contains(&ended), "{how}: {log:#?}");
    }
    let workers = rework.json(&["list-workers"]);
    assert_eq!(workers.as_array().unwrap().len(), 1, "{workers:#}");
}

#[test]
fn a_future_that_forks_is_run_by_the_worker_alone() {
    let (rework, _monitor) = started();
    let id = rework.schedule(&["fork_in_a_future"]);
    let task = rework.ended(&id);
    assert_eq!(
        (&task["state"], &task["output"]),
        (&"done".into(), &42.into()),
        "{task:#}"
    );
    assert_eq!(named(&rework, &id).len(), 1, "{:#?}", rework.log(&id));
    let ended = "stdout:info:the child ended with 70".to_owned();
    assert!(rework.log(&id).contains(&ended), "{:#?}", rework.log(&id));
}

#[test]
fn a_start_that_fails_is_the_operations_own_affair() {
    let (rework, _monitor) = started();
    for _ in 0..2 {
        let id = rework.schedule(&["start_what_is_not_there"]);
        let task = rework.ended(&id);
        // `ENOENT` twice, and what a shell answers.
        assert_eq!(task["output"], serde_json::json!([2, 2, 127]), "{task:#}");
        assert!(named(&rework, &id).is_empty());
    }
    let workers = rework.json(&["list-workers"]);
    assert_eq!(workers.as_array().unwrap().len(), 1, "{workers:#}");
}

/// It used to go on in the worker's loop, and to report the next task.
#[test]
fn one_that_returns_later_takes_no_task_of_another() {
    let (rework, monitor) = started();
    let first = forked(&rework, "late");
    assert_eq!(rework.wait(&first, &["done"])["output"], 42);
    let next = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "hang", "seconds": 1.5}"#,
    ]);
    until(
        "the child to return",
        || named(&rework, &first),
        |lines| lines.len() == 1,
    );
    let task = rework.ended(&next);
    assert_eq!(
        (&task["state"], &task["output"]),
        (&"done".into(), &"hang".into()),
        "{task:#}"
    );
    assert!(named(&rework, &next).is_empty());
    until(
        "the worker alone to be left",
        || rework::internals::descendants::of(monitor.pid()).len(),
        |count| *count == 1,
    );
}

#[test]
fn what_a_child_says_is_not_heard() {
    let (rework, _monitor) = started();
    let id = forked(&rework, "speak");
    let task = rework.ended(&id);
    assert_eq!(task["output"], 42, "{task:#}");
    assert_eq!(task["progress"], serde_json::Value::Null, "{task:#}");
    let log = rework.log(&id).join("\n");
    assert!(log.contains("called progress: only the worker"), "{log}");
    assert!(
        log.contains("the child may not schedule: process "),
        "{log}"
    );
    assert!(log.contains("the child is cancelled: false"), "{log}");
    let tasks = rework.json(&["list-tasks"]);
    assert_eq!(tasks.as_array().unwrap().len(), 1, "{tasks:#}");
}

#[test]
fn a_plugin_that_forks_while_it_is_loaded_is_one_worker() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor_that_misbehaves_on_load("fork", &["--maxworkers", "1"]);
    for _ in 0..2 {
        let id = rework.misbehave("ok");
        let task = rework.ended(&id);
        assert_eq!(task["state"], "done", "{task:#}");
    }
    let workers = rework.json(&["list-workers"]);
    assert_eq!(workers.as_array().unwrap().len(), 1, "{workers:#}");
    until(
        "the worker alone to be left",
        || rework::internals::descendants::of(monitor.pid()).len(),
        |count| *count == 1,
    );
}

/// A message that names a task which the worker does not run is nobody's word.
#[test]
fn a_process_that_speaks_of_another_task_ends_the_worker() {
    use rework::internals::wire::{Finished, FromWorker, Payload, frame};
    let (rework, monitor) = started();
    // Of the slot in which a task runs, but of another task.
    let words = FromWorker::Finished(Box::new(Finished {
        slot: 0,
        task: 100,
        output: Payload::None,
        files: Vec::new(),
        failure: None,
        started_us: 0,
        finished_us: 0,
        cpu_us: 0,
        peak_resident_bytes: 0,
        resident_bytes: 0,
        left_behind: None,
    }));
    let file = rework.directory().join("words");
    std::fs::write(&file, frame::encode(&words).unwrap()).unwrap();
    let id = rework.schedule(&["speak_from_a_child", "--raw-input", file.to_str().unwrap()]);
    let task = rework.ended(&id);
    let error = "its worker spoke of the end of task 100, which it does not run";
    assert_eq!(
        (&task["cause"], &task["error"]),
        (&"crash".into(), &error.into()),
        "{task:#}"
    );
    assert!(monitor.log().contains(error), "{}", monitor.log());
    // Its successor works.
    let next = rework.misbehave("ok");
    assert_eq!(rework.wait(&next, &["done"])["output"], "ok");
}
