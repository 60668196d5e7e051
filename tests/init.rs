//! A monitor ends what its workers have left behind, and nothing else: also as the first process of a
//! container, and in the place of a shell that had children.

use crate::{
    harness::{Monitor, Rework, misbehaving, until},
    signals::started_by,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::process::Command;

const MONITOR: [&str; 5] = ["monitor", "--domain", "misbehaving", "--maxworkers", "1"];

/// A worker dies, and what it has left is ended; then there are two workers' generations behind us.
fn let_a_worker_die(rework: &Rework) {
    let id = rework.misbehave("crowd and segfault");
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(task["signal"], 11, "{task:#}");
    let next = rework.misbehave("ok");
    rework.wait(&next, &["done"]);
}

/// The processes below one that sleep for so long.
fn sleepers(below: Pid, seconds: &str) -> Vec<Pid> {
    let mut all = rework::internals::descendants::of(below);
    all.retain(|process| {
        let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.starts_with(format!("sleep\0{seconds}\0").as_bytes())
    });
    all
}

#[test]
fn children_of_the_shell_before_it_live_on() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let starter = ["sh", "-c", "sleep 7531 & exec \"$0\" \"$@\""];
    let mut monitor = rework.monitor_by(started_by(&rework, &starter, &MONITOR));
    let_a_worker_die(&rework);
    let found = sleepers(monitor.pid(), "7531");
    assert_eq!(found.len(), 1, "{}", monitor.log());
    // One order, though it reaches both the monitor and the init above it.
    let input = r#"{"mode": "hang", "seconds": 600}"#;
    let id = rework.schedule(&["misbehave", "--input", input]);
    rework.wait(&id, &["running"]);
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait(), Some(0));
    assert_eq!(rework.task(&id)["cause"], "monitor exit");
    kill(found[0], Signal::SIGKILL).expect("the helper outlives the monitor");
}

#[test]
fn an_order_to_the_whole_unit_counts_once() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let starter = ["sh", "-c", "sleep 7532 & exec \"$0\" \"$@\""];
    let arguments = [&MONITOR[..], &["--grace", "30s"]].concat();
    let mut monitor = rework.monitor_by(started_by(&rework, &starter, &arguments));
    let id = rework.hang_until_released();
    rework.wait(&id, &["running"]);
    for process in rework::internals::descendants::of(monitor.pid()) {
        kill(process, Signal::SIGTERM).unwrap();
    }
    monitor.signal(Signal::SIGTERM);
    until(
        "the monitor to hear of it",
        || monitor.log(),
        |log| log.contains("no more claims"),
    );
    rework.release();
    assert_eq!(monitor.wait(), Some(0));
    assert_eq!(rework.task(&id)["state"], "done", "{}", monitor.log());
}

#[test]
fn a_monitor_whose_init_was_killed_ends() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let starter = ["sh", "-c", "sleep 7533 & exec \"$0\" \"$@\""];
    let mut monitor = rework.monitor_by(started_by(&rework, &starter, &MONITOR));
    let id = rework.misbehave("hang");
    rework.wait(&id, &["running"]);
    let helper = sleepers(monitor.pid(), "7533");
    monitor.signal(Signal::SIGKILL);
    assert_eq!(monitor.wait(), None);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(task["cause"], "monitor exit", "{task:#}");
    for process in helper {
        let _ = kill(process, Signal::SIGKILL);
    }
}

/// Whether this kernel gives us a container of our own.
fn has_namespaces() -> bool {
    let tried = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc", "true"])
        .output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        eprintln!("skipped: this kernel lets us make no namespace of processes");
    }
    may
}

/// The process that is the first one in the monitor's container.
fn first_process(monitor: &Monitor) -> Pid {
    let below = until(
        "the container",
        || {
            let processes = rework::internals::descendants::Processes::look();
            processes.children_of(monitor.pid()).to_vec()
        },
        |below| below.len() == 1,
    );
    below[0]
}

#[test]
fn as_the_first_process_of_a_container_it_ends_no_stranger() {
    if !has_namespaces() {
        return;
    }
    let rework = Rework::with_plugins(&[misbehaving()]);
    let starter = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let mut monitor = rework.monitor_by(started_by(&rework, &starter, &MONITOR));
    let first = first_process(&monitor);
    let id = rework.misbehave("ok");
    rework.wait(&id, &["done"]);
    // As `docker exec` does: what it starts is an orphan once it has ended.
    let entered = Command::new("nsenter")
        .args(["--pid", "--mount", "--target", &first.to_string()])
        .args(["sh", "-c", "setsid sleep 7534 >/dev/null 2>&1 </dev/null &"])
        .status()
        .unwrap();
    assert!(entered.success());
    until(
        "the orphan",
        || sleepers(monitor.pid(), "7534").len(),
        |count| *count == 1,
    );
    let_a_worker_die(&rework);
    assert_eq!(sleepers(monitor.pid(), "7534").len(), 1);
    // As `docker stop` does.
    kill(first, Signal::SIGTERM).unwrap();
    assert_eq!(monitor.wait(), Some(0));
}
