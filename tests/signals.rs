//! Signals that others send, ignore, block or handle.

use crate::harness::{Monitor, Rework, misbehaving, side_by_side, until};
use nix::sys::signal::{Signal, kill};
use std::process::Command;

/// A command of this installation that another program starts.
pub(crate) fn started_by(rework: &Rework, starter: &[&str], arguments: &[&str]) -> Command {
    let inner = rework.command(arguments);
    let mut command = Command::new(starter[0]);
    command
        .args(&starter[1..])
        .arg(inner.get_program())
        .args(inner.get_args())
        .current_dir(rework.directory())
        .stdin(std::process::Stdio::null());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// A shell that has inherited an ignored SIGPIPE would not end.
fn breaks_pipes(rework: &Rework) {
    let id = rework.schedule(&["break_pipes"]);
    let task = rework.ended(&id);
    assert_eq!(task["output"], "BrokenPipe", "{task:#}");
    assert_eq!(
        rework.log(&id),
        ["stdout:info:y", "stdout:info:the shell ended with 0"]
    );
}

#[test]
fn a_shell_that_c_starts_hears_of_a_broken_pipe() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    breaks_pipes(&rework);
}

/// A task is done, though every process gets this signal while it runs.
fn ends_by_its_monitor(rework: &Rework, mut monitor: Monitor, signal: Signal, how: &str) {
    let id = rework.hang_until_released();
    rework.wait(&id, &["running"]);
    for process in rework::internals::descendants::of(monitor.pid()) {
        kill(process, signal).unwrap();
    }
    monitor.signal(signal);
    until(
        "the monitor to hear of it",
        || monitor.log(),
        |log| log.contains("no more claims"),
    );
    rework.release();
    assert_eq!(monitor.wait(), Some(0), "{how} {signal}");
    let task = rework.task(&id);
    assert_eq!(task["state"], "done", "{how} {signal}: {task:#}");
}

/// The signals by which a monitor is told to end: all that are not ignored, as SIGHUP is under `nohup`, which
/// the monitor inherits and heeds.
fn ends() -> Vec<Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    let mut ends = vec![Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    ends.retain(|signal| ignored >> (*signal as i32 - 1) & 1 == 0);
    ends
}

/// As a service manager does that ends a unit.
#[test]
fn a_signal_to_every_process_leaves_the_end_to_the_monitor() {
    side_by_side(ends(), |signal| {
        let rework = Rework::with_plugins(&[misbehaving()]);
        let monitor = rework.monitor(&["--domain", "misbehaving", "--grace", "30s"]);
        ends_by_its_monitor(&rework, monitor, signal, "by itself");
    });
}

/// Libraries that set up signals for a program of their own do so.
#[test]
fn a_plugin_that_sets_signals_while_it_is_loaded_does_not_change_that() {
    let hows = ["reset signals", "end on signals"];
    let cases = hows.map(|how| ends().into_iter().map(move |signal| (how, signal)));
    side_by_side(cases.into_iter().flatten(), |(how, signal)| {
        let rework = Rework::with_plugins(&[misbehaving()]);
        let monitor = rework.monitor_that_misbehaves_on_load(how, &["--grace", "30s"]);
        ends_by_its_monitor(&rework, monitor, signal, how);
    });
}

#[test]
fn what_a_plugin_does_to_other_signals_while_it_is_loaded_hides_nothing() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor_that_misbehaves_on_load("reset signals", &[]);
    breaks_pipes(&rework);
    // Of a blocked signal no handler hears.
    let id = rework.misbehave("segfault");
    let task = rework.ended(&id);
    let error = task["error"].as_str().unwrap_or_default();
    assert!(
        error.starts_with("SIGSEGV at address 0x8 in libmisbehaving.so+0x"),
        "{task:#}"
    );
}

/// What a process sends to itself, its plugin hears of.
#[test]
fn a_handler_of_a_plugin_hears_what_its_operation_sends() {
    for (how, cause) in [("end on signals", "process exit"), ("nothing", "crash")] {
        let rework = Rework::with_plugins(&[misbehaving()]);
        let _monitor = rework.monitor_that_misbehaves_on_load(how, &[]);
        let id = rework.misbehave("terminate itself");
        let task = rework.ended(&id);
        assert_eq!(task["state"], "aborted", "{how}: {task:#}");
        assert_eq!(task["cause"], cause, "{how}: {task:#}");
    }
}

#[test]
fn a_task_that_asks_is_told_of_the_monitors_end() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let arguments = ["--domain", "misbehaving", "--kill-grace", "20s"];
    let mut monitor = rework.monitor(&arguments);
    let input = r#"{"mode": "wait for cancel", "seconds": 600}"#;
    let id = rework.schedule(&["misbehave", "--input", input]);
    rework.wait(&id, &["running"]);
    until(
        "it to have asked",
        || rework.log(&id).len(),
        |lines| *lines > 0,
    );
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait(), Some(0));
    let task = rework.task(&id);
    assert_eq!(
        (&task["state"], &task["cause"], &task["output"]),
        (&"aborted".into(), &"monitor exit".into(), &true.into()),
        "{task:#}"
    );
    let cleaned_up = "stdout:info:cancelled, cleaning up".to_owned();
    assert!(rework.log(&id).contains(&cleaned_up));
}

#[test]
fn a_second_signal_does_not_wait_for_a_task_that_was_told() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let arguments = ["--domain", "misbehaving", "--kill-grace", "1h"];
    let mut monitor = rework.monitor(&arguments);
    let id = rework.schedule(&["end_late_after_all"]);
    rework.wait(&id, &["running"]);
    until(
        "it to have asked",
        || rework.log(&id).len(),
        |lines| *lines > 0,
    );
    monitor.signal(Signal::SIGTERM);
    until(
        "it to be told",
        || rework.log(&id),
        |log| log.contains(&"stdout:info:cancelled, cleaning up".to_owned()),
    );
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait(), Some(0));
    assert_eq!(rework.task(&id)["cause"], "monitor exit");
}

/// What the starter ignores or blocks is its own affair.
#[test]
fn whoever_starts_it_may_ignore_and_block_signals() {
    let starter = [
        "env",
        "--ignore-signal=CHLD,USR1,PIPE",
        "--block-signal=TERM,CHLD,USR2",
    ];
    let rework = Rework::new();
    let plugin = misbehaving();
    let register = ["register-operations", plugin.to_str().unwrap()];
    let output = started_by(&rework, &starter, &register).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let arguments = ["monitor", "--domain", "misbehaving"];
    let mut monitor = rework.monitor_by(started_by(&rework, &starter, &arguments));
    let id = rework.schedule(&["look_at_process"]);
    let task = rework.ended(&id);
    let status = task["output"]["status"].to_string();
    assert!(status.contains("SigBlk:\\t0000000000000000"), "{status}");
    // The two that C keeps for its threads (32 and 33) are out of our reach.
    let ignored = status.split("SigIgn:\\t").nth(1).unwrap();
    let ignored = u64::from_str_radix(&ignored[..16], 16).unwrap();
    assert_eq!(ignored & !(0b11 << 31), 0, "{status}");
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait(), Some(0));
}

/// As the runtimes of other languages and crash reporters do.
#[test]
fn a_plugin_that_handles_faults_goes_on_doing_so() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor_that_misbehaves_on_load("handler", &["--maxworkers", "1"]);
    let id = rework.schedule(&["survive_faults", "--input", r#"{"times": 20000}"#]);
    let task = rework.ended(&id);
    assert_eq!(task["output"], 20000, "{task:#}");
    // What it has survived explains nothing.
    let id = rework.misbehave("exit with 3");
    let task = rework.ended(&id);
    assert_eq!(task["cause"], "process exit", "{task:#}");
    // What it cannot repair is told as ever.
    let id = rework.misbehave("segfault");
    let task = rework.ended(&id);
    let error = task["error"].as_str().unwrap_or_default();
    assert!(
        error.starts_with("SIGSEGV at address 0x8 in libmisbehaving.so+0x"),
        "{task:#}"
    );
}
