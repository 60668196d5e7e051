//! What tasks print: progress bars, carriage returns, floods; and how it is shown.

use crate::harness::{Rework, misbehaving, until};
use serde_json::json;
use std::process::Command;

/// Queues a task that prints these parts; its number.
fn prints(rework: &Rework, order: &serde_json::Value) -> String {
    rework.schedule(&["print_parts", "--input", &order.to_string()])
}

/// The texts of a task's lines.
fn texts(rework: &Rework, id: &str) -> Vec<String> {
    let lines = rework.json(&["log-task", id]);
    let lines = lines.as_array().unwrap().iter();
    lines
        .map(|line| line["line"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn of_a_progress_bar_its_end_is_kept_and_no_carriage_return() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    // As tqdm, curl and indicatif do it; longer than a line may be.
    let bar: Vec<String> = (0..=100)
        .map(|percent| format!("\r{percent:3}%|{}", "#".repeat(1000)))
        .collect();
    for (parts, kept) in [
        (
            json!([bar.concat(), "\n", "after it\n"]),
            vec![format!("100%|{}", "#".repeat(1000)), "after it".to_owned()],
        ),
        (
            json!(["  5%\r", " 50%\r", "100%\r"]),
            vec!["100%".to_owned()],
        ),
        (
            json!([
                "\u{1b}[2K\r 1/2",
                "\r\u{1b}[2K 2/2",
                "\r\u{1b}[K",
                "finished\n"
            ]),
            vec!["finished".to_owned()],
        ),
        (
            json!(["one\r\n", "two\r", "\nthree\r\n\r\n"]),
            vec![
                "one".to_owned(),
                "two".to_owned(),
                "three".to_owned(),
                String::new(),
            ],
        ),
    ] {
        for stderr in [false, true] {
            let id = prints(&rework, &json!({ "parts": parts, "stderr": stderr }));
            rework.wait(&id, &["done"]);
            assert_eq!(texts(&rework, &id), kept);
        }
    }
    let stored = rework
        .database
        .psql("select count(*) from rework.log_line where line like '%' || chr(13) || '%'");
    assert_eq!(stored, "0");
}

#[test]
fn a_progress_bar_is_seen_while_it_runs_and_one_line_in_the_end() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let parts = ["start\n", "\r 10%", "\r 20%", "\r 30%"];
    let id = prints(
        &rework,
        &json!({ "parts": parts, "pause": 0.7, "until_cancelled": true }),
    );
    until(
        "the latest state to be shown, and no other",
        || texts(&rework, &id),
        |lines| *lines == ["start", " 30%"],
    );
    let task = rework.task(&id);
    assert_eq!(task["last_lines"], json!(["start", " 30%"]), "{task:#}");
    assert_eq!(
        rework.ok(&["log-task", &id, "--tail", "1"]).lines().count(),
        1
    );
    rework.ok(&["abort-task", &id]);
    rework.wait(&id, &["aborted"]);
    until(
        "the last state alone to be left",
        || texts(&rework, &id),
        |lines| *lines == ["start", "100%"],
    );
}

#[test]
fn a_prompt_without_an_end_is_seen_too() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = prints(
        &rework,
        &json!({ "parts": ["working ", ". ", ". "], "until_cancelled": true }),
    );
    until(
        "what was printed to be shown",
        || texts(&rework, &id),
        |lines| *lines == ["working . . "],
    );
    rework.ok(&["kill-worker", &rework.task(&id)["worker"].to_string()]);
    rework.wait(&id, &["aborted"]);
    until(
        "it to be one line",
        || texts(&rework, &id),
        |lines| *lines == ["working . . "],
    );
}

#[test]
fn the_end_of_a_flood_tells_why_it_failed() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&["flood_and_fail"]);
    let task = rework.wait(&id, &["failed"]);
    let last = task["last_lines"].as_array().unwrap();
    assert_eq!(last[last.len() - 1], "residual 1e-3, not converged");
    let log = rework.ok(&["log-task", &id, "--tail", "2"]);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].ends_with(": line 199999 of a flood"), "{log}");
    assert!(
        lines[1].ends_with(": residual 1e-3, not converged"),
        "{log}"
    );
    assert_eq!(lines[2], "error: did not converge");
    let warnings = rework.ok(&["log-task", &id, "--level", "warn", "--tail", "10"]);
    assert!(
        warnings
            .lines()
            .next()
            .unwrap()
            .contains("output truncated: "),
        "{warnings}"
    );
}

/// The same command on a terminal: script(1) makes one.
fn on_a_terminal(rework: &Rework, arguments: &str, no_color: bool) -> String {
    let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_rework"));
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .env("REWORK_DB", rework.database.url())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_log_is_coloured_by_level_on_a_terminal_only() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("error");
    rework.wait(&id, &["failed"]);
    let arguments = format!("log-task {id}");
    let seen = on_a_terminal(&rework, &arguments, false);
    assert!(
        seen.contains("stdout:\u{1b}[32mINFO\u{1b}[0m: "),
        "{seen:?}"
    );
    assert!(seen.contains("\u{1b}[31merror: as you wish"), "{seen:?}");
    for plain in [
        on_a_terminal(&rework, &arguments, true),
        rework.ok(&["log-task", &id]),
    ] {
        assert!(plain.contains("stdout:INFO: "), "{plain:?}");
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
    }
}

#[test]
fn tracebacks_show_where_an_error_was_made() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("error");
    rework.wait(&id, &["failed"]);
    let listed = rework.ok(&["list-tasks", "--tracebacks"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].ends_with("error: as you wish"), "{listed}");
    assert!(
        lines[1].starts_with("  at ") && lines[1].contains("misbehaving/src/lib.rs:"),
        "{listed}"
    );
    assert!(!rework.ok(&["list-tasks"]).contains("\n  at "));
    let document = rework.json(&["list-tasks", "--tracebacks"]);
    assert!(
        document[0]["location"]
            .as_str()
            .unwrap()
            .contains("lib.rs:"),
        "{document:#}"
    );
}

#[test]
fn nothing_is_told_from_an_empty_answer() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let id = rework.misbehave("error");
    let refusal = rework.fails(1, &["get-output", &id]);
    assert!(
        refusal.starts_with(&format!(
            "error: task {id} has no output yet: it is queued\nhint: "
        )),
        "{refusal}"
    );
    let none = rework.schedule(&["print_parts"]);
    assert_eq!(
        rework.fails(1, &["get-input", &none]),
        format!("error: task {none} has no input\n")
    );
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    rework.wait(&id, &["failed"]);
    let refusal = rework.fails(1, &["get-output", &id]);
    assert!(
        refusal.starts_with(&format!(
            "error: task {id} has no output: it failed\nhint: "
        )),
        "{refusal}"
    );
    let silent = prints(&rework, &json!({ "parts": [] }));
    rework.wait(&silent, &["done"]);
    for command in [
        &["get-output", &silent][..],
        &["unprepare", "99"],
        &["vacuum", "--tasks", "--domain", "nope"],
        &["vacuum", "--workers", "--domain", "nope"],
    ] {
        rework.fails(1, command);
    }
}

#[test]
fn monitors_are_listed_with_their_host() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--minworkers", "1"]);
    until(
        "the monitor and its worker to be listed",
        || rework.ok(&["list-monitors"]),
        |listed| {
            let place = format!(") host(testhost) pid({}) workers(1)", monitor.pid());
            listed.contains(&place)
        },
    );
}

#[test]
fn several_tasks_are_aborted_at_once() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let ids = [(); 3].map(|()| rework.misbehave("ok"));
    // The database is named by the environment, and every argument is a task.
    let done = rework.ok(&["abort-task", &ids[0], &ids[1]]);
    assert_eq!(
        done,
        format!("task {} is aborted\ntask {} is aborted", ids[0], ids[1])
    );
    let output = rework.run(&["retry-task", &ids[0], "999", &ids[2], &ids[1]]);
    assert_eq!(output.code, 1, "{output:#?}");
    assert_eq!(output.stdout.lines().count(), 2, "{output:#?}");
    assert!(output.stderr.contains("error: no task 999"), "{output:#?}");
    let with_database = rework.database.url();
    rework.ok(&["delete-task", &with_database, &ids[0], &ids[1], &ids[2]]);
}
