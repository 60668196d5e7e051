//! Kill leaves no process behind: not the worker, not what it started, however often that forked and
//! whatever session it made, and however the end came.

use crate::harness::{Monitor, Rework, misbehaving, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A monitor whose one worker runs a task that has forked; all processes below it.
fn forked(mode: &str, at_least: usize) -> (Rework, Monitor, String, Vec<Pid>) {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave(mode);
    rework.wait(&id, &["running"]);
    let below = until(
        &format!("{at_least} processes of {mode}"),
        || rework::internals::descendants::of(monitor.pid()),
        |below| below.len() >= at_least && is_settled(below),
    );
    (rework, monitor, id, below)
}

/// Nobody is a shell that only forks any more.
fn is_settled(processes: &[Pid]) -> bool {
    processes.iter().all(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        ["rework-worker", "sleep", "sh"].contains(&name.trim())
    })
}

/// A daemon and its worker; the same where no file can be opened any more; a family of 31, their
/// sleeps among them, and their worker.
const MODES: [(&str, usize); 4] = [
    ("daemon", 2),
    ("daemon and no descriptors", 2),
    ("daemon and print", 2),
    ("many children", 32),
];

fn all_gone(processes: &[Pid]) {
    for process in processes {
        until(
            &format!("{process} of {processes:?} to be gone"),
            || std::fs::read_to_string(format!("/proc/{process}/stat")).ok(),
            // A zombie whose parent is not ours runs nothing.
            |stat| stat.as_ref().is_none_or(|stat| stat.contains(") Z ")),
        );
    }
}

/// The worker's process.
fn worker_of(rework: &Rework) -> (String, Pid) {
    let rows = until(
        "a worker that runs",
        || rework.json(&["list-workers"]),
        |rows| rows[0]["state"] == "running",
    );
    let pid = i32::try_from(rows[0]["pid"].as_i64().unwrap()).unwrap();
    (rows[0]["id"].to_string(), Pid::from_raw(pid))
}

#[test]
fn however_many_a_crash_leaves_behind() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave("crowd and segfault");
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(task["signal"], 11, "{task:#}");
    // The next worker is all that is left, and the monitor is still there.
    let next = rework.misbehave("ok");
    rework.wait(&next, &["done"]);
    until(
        "nothing else to be left",
        || rework::internals::descendants::of(monitor.pid()).len(),
        |count| *count == 1,
    );
    assert!(!monitor.log().contains("lost"), "{}", monitor.log());
}

#[test]
fn by_an_abort() {
    for (mode, count) in MODES {
        let (rework, _monitor, id, below) = forked(mode, count);
        rework.ok(&["abort-task", &id]);
        assert_eq!(rework.wait(&id, &["aborted"])["cause"], "abort");
        all_gone(&below);
    }
}

#[test]
fn by_a_timeout() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.schedule(&["daemon_with_timeout"]);
    let below = until(
        "a daemon",
        || rework::internals::descendants::of(monitor.pid()),
        |below| below.len() >= 2 && is_settled(below),
    );
    assert_eq!(rework.wait(&id, &["aborted"])["cause"], "timeout");
    all_gone(&below);
}

#[test]
fn by_kill_worker() {
    for (mode, count) in MODES {
        let (rework, _monitor, id, below) = forked(mode, count);
        let (worker, _) = worker_of(&rework);
        rework.ok(&["kill-worker", &worker]);
        assert_eq!(rework.wait(&id, &["aborted"])["cause"], "worker killed");
        all_gone(&below);
    }
}

#[test]
fn by_an_interrupt_of_the_monitor() {
    for (mode, count) in MODES {
        let (rework, monitor, id, below) = forked(mode, count);
        assert_eq!(monitor.interrupt(), Some(0));
        assert_eq!(rework.task(&id)["cause"], "monitor exit");
        all_gone(&below);
    }
}

#[test]
fn by_somebody_who_kills_the_worker_alone() {
    for (mode, count) in MODES {
        let (rework, _monitor, id, below) = forked(mode, count);
        let (_, pid) = worker_of(&rework);
        kill(pid, Signal::SIGKILL).unwrap();
        let task = rework.wait(&id, &["aborted"]);
        assert_eq!(
            (&task["cause"], &task["error"], &task["signal"]),
            (
                &"crash".into(),
                &"killed from outside (SIGKILL)".into(),
                &9.into()
            )
        );
        all_gone(&below);
    }
}

#[test]
fn by_the_death_of_the_monitor() {
    for (mode, count) in MODES {
        let (rework, monitor, id, below) = forked(mode, count);
        monitor.signal(Signal::SIGKILL);
        all_gone(&below);
        drop(monitor);
        // The host's next monitor tells what became of the task.
        let _next = rework.monitor(&["--domain", "misbehaving"]);
        assert_eq!(rework.wait(&id, &["aborted"])["cause"], "monitor lost");
    }
}

/// Also what does not run can be ended; its worker's threads have stopped with it.
#[test]
fn a_worker_that_is_stopped() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave("stop itself");
    rework.wait(&id, &["running"]);
    let (_, worker) = worker_of(&rework);
    let stat = || std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
    until("the worker to stop", stat, |stat| stat.contains(") T "));
    rework.ok(&["abort-task", &id]);
    assert_eq!(rework.ended(&id)["cause"], "abort");
    let next = rework.misbehave("ok");
    assert_eq!(rework.wait(&next, &["done"])["output"], "ok");
}
