//! Passwords: in a URL they are for the database, and no child of ours ever sees them.

use crate::harness::{Rework, hello, misbehaving, until};
use nix::unistd::Pid;
use std::{collections::BTreeSet, fs, process::Stdio};

const PASSWORD: &str = "rosebud-7261";

/// The URL of an installation with a password, which a server that knows its peer does not ask for.
fn url(rework: &Rework) -> String {
    let url = rework.database.url();
    url.replacen("postgres@", &format!("postgres:{PASSWORD}@"), 1)
}

/// The command line of a process, or what else `/proc` has of it.
fn shown(pid: Pid, file: &str) -> String {
    let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    String::from_utf8_lossy(&text).replace('\0', " ")
}

/// Where the password stands in the process table below a process; the first words of each command
/// line that was looked at are added to `seen`.
fn look(pid: Pid, seen: &mut BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for child in rework::internals::descendants::of(pid) {
        let command = shown(child, "cmdline");
        if command == shown(pid, "cmdline") {
            // Forked and not executed yet: it still is its parent.
            continue;
        }
        for text in [&command, &shown(child, "environ")] {
            if text.contains(PASSWORD) {
                found.push(format!("{child}: {text}"));
            }
        }
        seen.extend(command.split_whitespace().take(2).map(str::to_owned));
    }
    found
}

#[test]
fn a_password_reaches_no_worker_and_no_probe() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework
        .command(&["monitor", &url(&rework), "--domain", "misbehaving"])
        .env("REWORK_DB", url(&rework))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(monitor.id().cast_signed());
    let input = r#"{"mode": "child outlives", "seconds": 60}"#;
    let id = rework.schedule(&["misbehave", "--input", input]);
    rework.wait(&id, &["done"]);
    let mut seen = BTreeSet::new();
    let found = look(pid, &mut seen);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let log = monitor.wait_with_output().unwrap().stderr;
    let log = String::from_utf8_lossy(&log).into_owned();
    assert!(
        seen.contains("new-worker") && seen.contains("sleep"),
        "{seen:?}"
    );
    assert_eq!(found, [""; 0]);
    assert!(!log.contains(PASSWORD), "{log}");
}

#[test]
fn a_password_does_not_reach_the_monitor_of_the_bench() {
    let rework = Rework::with_plugins(&[hello()]);
    let mut bench = rework
        .command(&["bench", &url(&rework), "--tasks", "500", "--samples", "20"])
        .env("REWORK_DB", url(&rework))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(bench.id().cast_signed());
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let status = until(
        "the bench to end",
        || {
            found.extend(look(pid, &mut seen));
            bench.try_wait().unwrap()
        },
        Option::is_some,
    );
    assert!(status.unwrap().success());
    assert!(
        seen.contains("monitor") && seen.contains("new-worker"),
        "{seen:?}"
    );
    assert_eq!(found, [""; 0]);
}
