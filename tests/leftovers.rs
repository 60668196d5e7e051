//! What a task leaves in its process does not reach the next one: it is put back, or the worker ends.

use crate::harness::{Monitor, Rework, misbehaving, until};
use serde_json::{Value, json};

fn started() -> (Rework, Monitor) {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    (rework, monitor)
}

fn leave(rework: &Rework, what: &str) {
    let input = json!({ "what": what }).to_string();
    let id = rework.schedule(&["leave", "--input", &input]);
    let task = rework.ended(&id);
    assert_eq!(task["state"], "done", "{what}: {task:#}");
}

fn look(rework: &Rework) -> Value {
    let id = rework.schedule(&["look_at_process"]);
    let task = rework.ended(&id);
    assert_eq!(task["state"], "done", "{task:#}");
    task["output"].clone()
}

#[test]
fn what_can_be_put_back_is() {
    let (rework, monitor) = started();
    let before = look(&rework);
    let is_root = nix::unistd::geteuid().is_root();
    for what in [
        "nice",
        "processors",
        "locale",
        "undumpable",
        "first to die",
        "death of the parent",
        "zombie",
        // What follows cannot be put back, or is the plugin's own affair, and changes nothing here.
        "session",
        "thread",
        "socket",
        "locked memory",
        "a waiting alarm",
        "mask",
        "directory",
        "umask",
        "environment",
        "rounding",
        "non-blocking output",
        "closed input",
        "limit",
        "broken pipes",
        "ignored children",
        "ended by SIGTERM",
    ] {
        if what == "nice" && !is_root {
            // Only root can take it back.
            continue;
        }
        leave(&rework, what);
        // The same process, in the same state.
        assert_eq!(look(&rework), before, "{what}");
    }
    assert!(!monitor.log().contains("leaves its worker"));
}

#[test]
fn no_timer_of_one_task_ends_the_next() {
    let (rework, _monitor) = started();
    for what in ["alarm", "interval timer"] {
        leave(&rework, what);
        let later = r#"{"mode": "hang", "seconds": 1.5}"#;
        let id = rework.schedule(&["misbehave", "--input", later]);
        let task = rework.ended(&id);
        assert_eq!(task["state"], "done", "{what}: {task:#}");
    }
}

#[test]
fn a_worker_that_is_not_as_it_was_runs_nothing_more() {
    let (rework, monitor) = started();
    let is_root = nix::unistd::geteuid().is_root();
    let whats = [
        ("handler", "a handler for SIGUSR1"),
        ("ignored signal", "SIGUSR1 ignored"),
        ("real-time handler", "a handler for signal 40"),
        ("timer", "a timer (timer_create)"),
        ("root", "another root directory"),
        ("filter", "a seccomp filter"),
        ("network", "another network namespace"),
        ("user", "another user"),
    ];
    for (what, words) in whats {
        if !is_root && ["root", "network", "user"].contains(&what) {
            // Only root can change them.
            continue;
        }
        let before = look(&rework)["process"].clone();
        leave(&rework, what);
        assert_ne!(look(&rework)["process"], before, "{what}");
        let dead = until(
            "the worker to be gone",
            || rework.json(&["list-workers", "--all"]),
            |rows| {
                let rows = rows.as_array().unwrap();
                rows.iter()
                    .any(|row| row["pid"] == before && row["state"] == "dead")
            },
        );
        let rows = dead.as_array().unwrap();
        let row = rows.iter().find(|row| row["pid"] == before).unwrap();
        assert_eq!(row["cause"], "leftovers", "{what}: {row:#}");
        let error = rework.database.psql(&format!(
            "select error from rework.worker where id = {}",
            row["id"]
        ));
        assert!(error.contains(words), "{what}: {error}");
    }
    let said = monitor.log().matches("leaves its worker changed").count();
    assert_eq!(said, 1, "once for one operation: {}", monitor.log());
}

/// As in a container, whose processes all begin with a filter.
#[test]
fn a_further_filter_is_found_where_there_was_one() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor_that_misbehaves_on_load("filter", &["--maxworkers", "1"]);
    let before = look(&rework)["process"].clone();
    leave(&rework, "nothing");
    assert_eq!(look(&rework)["process"], before);
    leave(&rework, "filter");
    assert_ne!(look(&rework)["process"], before);
}

/// An operation that has left nothing so often is looked at less often, but no other operation finds what it
/// leaves then.
#[test]
fn an_operation_that_was_trusted_leaves_nothing_to_another() {
    let (rework, monitor) = started();
    let before = look(&rework)["process"].clone();
    rework.database.psql(
        r#"select count(rework.schedule('leave', '{"what": "nothing"}'))
             from generate_series(1, 145)"#,
    );
    let unfinished = "select count(*) from rework.task_view where finished is null";
    until(
        "all to be done",
        || rework.database.psql(unfinished),
        |count| count == "0",
    );
    leave(&rework, "handler");
    assert_ne!(look(&rework)["process"], before);
    let log = monitor.log();
    assert!(
        log.contains("operation `leave` of domain misbehaving leaves its worker changed (a handler for SIGUSR1)"),
        "{log}"
    );
    let dead = until(
        "the worker to be gone",
        || rework.json(&["list-workers", "--all"])[0].clone(),
        |row| row["state"] == "dead",
    );
    assert_eq!(dead["cause"], "leftovers", "{dead:#}");
}

/// With the handler that a task had left a crash was taken for a good end.
#[test]
fn a_handler_that_was_left_hides_no_crash() {
    let (rework, monitor) = started();
    leave(&rework, "handler of faults");
    let id = rework.misbehave("segfault");
    let task = rework.ended(&id);
    assert_eq!(
        (&task["cause"], &task["signal"]),
        (&"crash".into(), &11.into()),
        "{task:#}"
    );
    let log = monitor.log();
    assert!(
        log.contains("operation `leave` of domain misbehaving leaves its worker changed (a handler for SIGSEGV)"),
        "{log}"
    );
}

/// It used to be a crash: the worker could not put its output back.
#[test]
fn a_task_that_has_returned_has_not_crashed_whatever_it_leaves() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let mut arguments = vec!["--domain", "misbehaving", "--maxworkers", "1"];
    if nix::unistd::geteuid().is_root() {
        // Root could raise the limit again.
        arguments.extend(["--worker-user", "nobody"]);
    }
    let _monitor = rework.monitor(&arguments);
    for what in ["no descriptors", "no descriptors and a child"] {
        let before = look(&rework)["process"].clone();
        leave(&rework, what);
        let rows = until(
            "the worker to be gone",
            || rework.json(&["list-workers", "--all"]),
            |rows| {
                let mut rows = rows.as_array().unwrap().iter();
                rows.any(|row| row["pid"] == before && row["state"] == "dead")
            },
        );
        let row = rows
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["pid"] == before);
        let row = row.unwrap();
        assert_eq!(row["cause"], "leftovers", "{what}: {rows:#}");
        let error = row["error"].as_str().unwrap_or_default();
        assert!(error.contains("a lower RLIMIT_NOFILE"), "{what}: {rows:#}");
    }
    look(&rework);
}
