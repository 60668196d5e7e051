//! Deaths: what takes a worker's process with it ends one task, and nobody else's. A test for each
//! way to die; each says what the task says afterwards.

use crate::harness::{Rework, misbehaving, misbehaving_aborts, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// Runs a mode that kills its worker; the task as it ended.
fn crash(mode: &str) -> Value {
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
    let log = rework.json(&["log-task", &id]);
    let log: Vec<&Value> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["line"])
        .collect();
    let lines: Vec<&Value> = task["last_lines"].as_array().unwrap().iter().collect();
    assert_eq!(lines, log[log.len().saturating_sub(10)..], "{task:#}");
    let next = rework.misbehave("ok");
    let next = rework.wait(&next, &["done"]);
    assert_eq!(next["last_lines"], serde_json::json!([]), "it ended well");
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
    let why = format!(
        "{}: {}",
        task["cause"].as_str().unwrap(),
        task["error"].as_str().unwrap()
    );
    for listing in ["list-tasks", "list-workers"] {
        let listing = rework.ok(&[listing]);
        assert!(listing.contains(&why), "{why} is not in {listing}");
    }
    let shown = rework.ok(&["show-task", &id]);
    assert!(
        shown.contains(&why) && shown.contains("last_lines:"),
        "{shown}"
    );
    assert!(task["peak_memory_mb"].as_f64().unwrap() > 1.0, "{task:#}");
    assert!(task["cpu_seconds"].as_f64().is_some(), "{task:#}");
    task
}

/// A signal ended it: cause `crash` and the words begin so.
fn crash_by(mode: &str, signal: i32, words: &str) -> Value {
    let task = crash(mode);
    assert_eq!(
        (&task["state"], &task["cause"], &task["signal"]),
        (&"aborted".into(), &"crash".into(), &signal.into()),
        "{task:#}"
    );
    let error = task["error"].as_str().unwrap();
    assert!(error.starts_with(words), "{error}");
    task
}

/// `library+0x…`, where the plugin is named as its author named it.
fn is_in_the_plugin(task: &Value) {
    let location = task["location"].as_str().unwrap();
    let offset = location.strip_prefix("libmisbehaving.so+0x");
    let offset = offset.unwrap_or_else(|| panic!("{location}"));
    assert!(u64::from_str_radix(offset, 16).unwrap() > 0, "{location}");
    assert!(task["error"].as_str().unwrap().contains(location));
}

/// Nothing can catch a panic there, but what it says is heard before the process dies.
#[test]
fn a_panic_that_ends_its_process_is_told_as_a_panic() {
    let rework = Rework::new();
    let plugin = misbehaving_aborts();
    let said = rework.run(&["register-operations", plugin.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stderr.contains("panics end the worker process"),
        "{said:?}"
    );
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave("panic");
    let task = rework.wait(&id, &["failed", "aborted"]);
    assert_eq!(task["cause"], "panic", "{task:#}");
    assert!(
        task["error"].as_str().unwrap().starts_with("as you wish"),
        "{task:#}"
    );
    assert_eq!(task["signal"], 6, "{task:#}");
    assert!(
        task["location"]
            .as_str()
            .unwrap()
            .contains("misbehaving/src/lib.rs:"),
        "{task:#}"
    );
    let next = rework.misbehave("ok");
    assert_ne!(rework.wait(&next, &["done"])["worker"], task["worker"]);
}

#[test]
fn a_segfault_says_where() {
    let task = crash_by(
        "segfault",
        11,
        "SIGSEGV at address 0x8 in libmisbehaving.so+0x",
    );
    is_in_the_plugin(&task);
}

#[test]
fn a_segfault_in_a_thread_says_where() {
    let words = "SIGSEGV at address 0x8 in libmisbehaving.so+0x";
    is_in_the_plugin(&crash_by("segfault in a thread", 11, words));
}

#[test]
fn an_address_that_cannot_be() {
    let task = crash_by("wild address", 11, "SIGSEGV at ");
    is_in_the_plugin(&task);
}

#[test]
fn a_stack_overflow() {
    let task = crash_by(
        "stack overflow",
        11,
        "stack overflow in libmisbehaving.so+0x",
    );
    is_in_the_plugin(&task);
}

#[test]
fn a_stack_overflow_in_a_thread() {
    crash_by(
        "stack overflow in a thread",
        11,
        "SIGSEGV, probably a stack overflow in a thread",
    );
}

#[test]
fn a_forked_child_does_not_speak_for_its_worker() {
    // It has the worker's signal handler, and dies of another address.
    crash_by(
        "child crashes first",
        11,
        "SIGSEGV, probably a stack overflow in a thread",
    );
}

#[test]
fn a_bus_error() {
    is_in_the_plugin(&crash_by("bus error", 7, "SIGBUS at address 0x"));
}

#[test]
fn a_division_by_zero() {
    crash_by("division by zero", 8, "SIGFPE");
}

#[test]
fn an_illegal_instruction() {
    crash_by("illegal instruction", 4, "SIGILL");
}

#[test]
fn a_signal_that_the_operation_sends_to_itself() {
    crash_by("raise", 11, "SIGSEGV, which the operation sent to itself");
}

#[test]
fn an_abort() {
    crash_by("abort", 6, "SIGABRT (signal 6) ended the worker process");
}

#[test]
fn an_assertion_of_c_is_quoted() {
    let task = crash_by(
        "assertion",
        6,
        "SIGABRT (signal 6) ended the worker process",
    );
    let error = task["error"].as_str().unwrap();
    assert!(
        error.contains("sums.c:7: add: Assertion `1 == 2' failed."),
        "{error}"
    );
}

#[test]
fn a_signal_that_asks_for_the_end() {
    crash_by(
        "terminate itself",
        15,
        "SIGTERM (signal 15) ended the worker process",
    );
}

#[test]
fn a_kill_that_was_not_ours() {
    crash_by("kill itself", 9, "killed from outside (SIGKILL)");
}

#[test]
fn an_allocation_that_is_refused() {
    let task = crash("allocation refused");
    assert_eq!(
        (&task["state"], &task["cause"], &task["signal"]),
        (&"aborted".into(), &"memory".into(), &6.into())
    );
    assert_eq!(
        task["error"],
        "out of memory: memory allocation of 70368744177664 bytes failed"
    );
}

#[test]
fn an_exit_is_the_operations_own_doing() {
    for (mode, code) in [("exit", 0), ("exit with 3", 3)] {
        let task = crash(mode);
        assert_eq!(
            (&task["state"], &task["cause"], &task["exit_code"]),
            (&"aborted".into(), &"process exit".into(), &code.into())
        );
        let words = format!("the operation ended the process (exit code {code})");
        assert_eq!(task["error"], words);
        assert_eq!(task["signal"], Value::Null);
    }
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
    assert!(
        task["error"].as_str().unwrap().contains(" again"),
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
    for mode in [
        "close everything",
        "close everything and print",
        "shut down sockets",
    ] {
        let task = crash(mode);
        assert_eq!(
            (&task["state"], &task["cause"]),
            (&"aborted".into(), &"crash".into()),
            "{task:#}"
        );
        assert_eq!(
            task["error"], "the operation has closed the worker's connection to its monitor",
            "{mode}"
        );
    }
}

#[test]
fn a_task_whose_main_thread_has_ended_is_not_running_for_ever() {
    let task = crash("end the main thread");
    assert_eq!(
        (&task["state"], &task["cause"], &task["error"]),
        (
            &"aborted".into(),
            &"crash".into(),
            &"the operation has ended the worker's main thread, or the kernel has (seccomp)".into()
        ),
        "{task:#}"
    );
}

#[test]
fn a_worker_that_cannot_be_understood_is_ended() {
    let task = crash("garbage for the monitor");
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &"crash".into()),
        "{task:#}"
    );
    let error = task["error"].as_str().unwrap();
    assert!(
        error.starts_with("its worker sent what cannot be read: "),
        "{task:#}"
    );
}

#[test]
fn what_fails_without_a_death_keeps_its_worker() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let mut workers = Vec::new();
    for (mode, state, cause) in [
        ("error", "failed", "error".into()),
        ("panic", "failed", "panic".into()),
        ("nul output", "failed", "bad output".into()),
        ("panic in a thread", "done", Value::Null),
        ("child crashes", "done", Value::Null),
        // As programs do that know of no descriptors but their own.
        ("close low descriptors", "done", Value::Null),
    ] {
        let id = rework.misbehave(mode);
        let task = rework.wait(&id, &["failed", "done", "aborted"]);
        assert_eq!(
            (&task["state"], &task["cause"]),
            (&state.into(), &cause),
            "{task:#}"
        );
        workers.push(task["worker"].clone());
        if mode == "child crashes" {
            let said = "stdout:info:the child died of signal 11".to_owned();
            assert!(rework.log(&id).contains(&said));
        }
    }
    workers.dedup();
    assert_eq!(workers.len(), 1, "one worker ran them all");
    // It is alive, and a later death is its own.
    let id = rework.misbehave("abort");
    let task = rework.wait(&id, &["aborted"]);
    assert!(
        task["error"].as_str().unwrap().starts_with("SIGABRT"),
        "{task:#}"
    );
    assert_eq!(task["worker"], workers[0]);
}

#[test]
fn a_worker_that_somebody_kills() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave("hang");
    let worker = rework.wait(&id, &["running"])["worker"].clone();
    rework.ok(&["kill-worker", &worker.to_string()]);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(task["cause"], "worker killed");
    // By hand, behind the monitor's back.
    let id = rework.misbehave("hang");
    let worker = rework.wait(&id, &["running"])["worker"].clone();
    let row = until(
        "the worker to be listed",
        || rework.json(&["list-workers"]),
        |rows| {
            rows.as_array()
                .unwrap()
                .iter()
                .any(|row| row["id"] == worker)
        },
    );
    let row = row
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["id"] == worker)
        .unwrap()
        .clone();
    let pid = Pid::from_raw(row["pid"].as_i64().unwrap() as i32);
    kill(pid, Signal::SIGSEGV).unwrap();
    let task = rework.wait(&id, &["aborted"]);
    let words = format!("SIGSEGV, sent by process {}", std::process::id());
    assert_eq!(
        (&task["cause"], &task["error"]),
        (&"crash".into(), &words.into())
    );
}
