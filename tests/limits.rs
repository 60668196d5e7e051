//! Limits: what an operation may use, and what its task says when it used more.

use crate::harness::{Rework, misbehaving, until};
use serde_json::{Value, json};

fn run(rework: &Rework, operation: &str, how: &str) -> Value {
    let id = rework.schedule(&[operation, "--input", &json!({ "how": how }).to_string()]);
    rework.wait(&id, &["aborted", "failed", "done"])
}

/// Ended by its limit: this cause, and these words.
fn is_over(task: &Value, cause: &str, begin: &str, end: &str) {
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &cause.into()),
        "{task:#}"
    );
    let error = task["error"].as_str().unwrap();
    assert!(error.starts_with(begin) && error.ends_with(end), "{error}");
}

#[test]
fn memory_of_the_process_itself() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    for how in ["at once", "slowly"] {
        let task = run(&rework, "eat_memory", how);
        let begin = "out of memory: memory allocation of ";
        is_over(&task, "memory", begin, " bytes failed; its limit is 64 MB");
        assert!(task["peak_memory_mb"].as_f64().unwrap() < 128.0, "{task:#}");
    }
}

#[test]
fn memory_of_all_that_it_starts() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    for how in ["shared", "in children"] {
        let task = run(&rework, "eat_memory", how);
        is_over(&task, "memory", "used ", " MB, its limit is 64 MB");
        let peak = task["peak_memory_mb"].as_f64().unwrap();
        assert!(peak > 64.0, "not less than it was killed for: {task:#}");
    }
    // What forked children share counts once.
    let task = run(&rework, "eat_memory", "forked");
    assert_eq!(task["state"], "done", "{task:#}");
    let nothing_below = "nothing of it to be left";
    until(
        nothing_below,
        || rework::internals::descendants::of(monitor.pid()).len(),
        |count| *count <= 1,
    );
}

#[test]
fn processor_time() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    for how in ["alone", "in children"] {
        let task = run(&rework, "burn", how);
        is_over(&task, "cpu", "used ", "its limit is 1s");
        let seconds = task["cpu_seconds"].as_f64().unwrap();
        assert!(how != "alone" || (0.9..4.0).contains(&seconds), "{task:#}");
    }
}

#[test]
fn a_limit_ends_with_its_task() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let before = limits(&rework);
    let open = |operation: &str, count: i64| {
        let input = json!({ "count": count }).to_string();
        let id = rework.schedule(&[operation, "--input", &input]);
        rework.wait(&id, &["failed", "done", "aborted"])
    };
    let first = open("open_files", 16);
    assert_eq!(first["state"], "done", "{first:#}");
    let refused = open("open_files", 17);
    assert_eq!(
        (&refused["state"], &refused["cause"]),
        (&"failed".into(), &"error".into())
    );
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("Too many open files"), "{error}");
    assert!(error.ends_with("; its limit is 16 open files"), "{error}");
    let free = open("open_more_files", 150);
    assert_eq!(free["state"], "done", "{free:#}");
    let polite = run(&rework, "eat_memory", "politely");
    assert_eq!(
        (&polite["state"], &polite["cause"]),
        (&"failed".into(), &"error".into()),
        "{polite:#}"
    );
    let error = polite["error"].as_str().unwrap();
    assert!(error.ends_with("; its limit is 64 MB"), "{error}");
    // All of them in one process, whose limits are what they were.
    assert!(
        [&refused, &free, &polite]
            .iter()
            .all(|task| task["worker"] == first["worker"])
    );
    assert_eq!(limits(&rework), before);
}

/// The limits of a worker's process, as the kernel shows them.
fn limits(rework: &Rework) -> String {
    let id = rework.schedule(&["look_around"]);
    let seen = rework.wait(&id, &["done"])["output"].clone();
    seen["limits"].as_str().unwrap().to_owned()
}

#[test]
fn a_task_is_not_charged_for_the_one_before() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let peak = |mode: &str| {
        let input = json!({"mode": mode, "seconds": 0.1}).to_string();
        let id = rework.schedule(&["misbehave", "--input", &input]);
        let task = rework.wait(&id, &["done", "aborted"]);
        task["peak_memory_mb"].as_f64().unwrap()
    };
    assert!(
        peak("daemon and no descriptors") > 1.0,
        "without a file to read it from"
    );
    assert!(peak("use memory") > 200.0);
    assert!(peak("ok") < 100.0);
    assert!(peak("segfault") < 100.0);
}

/// The time in the queue, and in the hands of a busy worker, is not the task's.
#[test]
fn a_timeout_counts_from_the_start() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let input = json!({"mode": "hang", "seconds": 4.0}).to_string();
    rework.schedule(&["misbehave", "--input", &input]);
    let id = rework.schedule(&["hang_with_timeout"]);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(task["cause"], "timeout", "{task:#}");
    let ran = rework.database.psql(&format!(
        "select started > queued + interval '1.5 seconds', finished >= started + interval '1 second'
           from rework.task_view where id = {id}"
    ));
    assert_eq!(ran, "t|t", "{task:#}");
}

#[test]
fn limits_are_listed() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let rows = rework.json(&["list-operations"]);
    let limits = |name: &str| {
        let rows = rows.as_array().unwrap().iter();
        let mut rows = rows.filter(|row| row["name"] == name);
        rows.next().unwrap()["limits"].clone()
    };
    let all = |memory: Value, cpu: Value, files: Value| json!({ "memory_mb": memory, "cpu_seconds": cpu, "open_files": files });
    assert_eq!(
        limits("eat_memory"),
        all(64.into(), Value::Null, Value::Null)
    );
    assert_eq!(limits("burn"), all(Value::Null, 1.into(), Value::Null));
    assert_eq!(
        limits("open_files"),
        all(Value::Null, Value::Null, 16.into())
    );
    assert_eq!(
        limits("misbehave"),
        all(Value::Null, Value::Null, Value::Null)
    );
}
