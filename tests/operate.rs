//! What operators do: try again, delete, end workers, pause, vacuum.

use crate::harness::{Rework, hello, misbehaving, standalone, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

#[test]
fn a_retried_task_keeps_its_id_and_its_history() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("error");
    rework.wait(&id, &["failed"]);
    assert_eq!(
        rework.ok(&["retry-task", &id]),
        format!("task {id} is queued again, attempt 2")
    );
    let task = until(
        "the second attempt to fail",
        || rework.task(&id),
        |task| task["attempt"] == 2 && task["state"] == "failed",
    );
    assert_eq!(task["attempts"].as_array().unwrap().len(), 2);
    for place in [0, 1] {
        assert_eq!(task["attempts"][place]["attempt"], place + 1);
        assert_eq!(task["attempts"][place]["cause"], "error");
    }
    let shown = rework.ok(&["show-task", &id]);
    for line in ["  attempts:\n    1 failed [", "\n    2 failed ["] {
        assert!(shown.contains(line), "{shown}");
    }
    let lines = rework.log(&id);
    assert_eq!(lines.len(), 2, "both attempts are in the log: {lines:?}");

    let done = rework.misbehave("ok");
    rework.wait(&done, &["done"]);
    monitor.interrupt();
    rework.ok(&["retry-task", &done]);
    let task = rework.task(&done);
    assert_eq!(
        (&task["state"], &task["output"]),
        (&json!("queued"), &Value::Null)
    );
    assert_eq!(task["finished"], Value::Null);
    let refusal = rework.fails(1, &["retry-task", &done]);
    assert!(
        refusal.contains(&format!("task {done} has not ended: it is queued")),
        "{refusal}"
    );
    assert!(
        rework
            .fails(1, &["retry-task", "999"])
            .contains("no task 999")
    );
}

#[test]
fn a_deleted_task_is_gone_with_its_log_and_a_running_one_is_not_deleted() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let queued = rework.misbehave("ok");
    assert_eq!(
        rework.ok(&["delete-task", &queued]),
        format!("task {queued} is deleted, with its log")
    );
    let monitor = rework.monitor(&["--domain", "misbehaving"]);
    let done = rework.misbehave("ok");
    rework.wait(&done, &["done"]);
    let running = rework.misbehave("hang");
    rework.wait(&running, &["running"]);
    rework.ok(&["delete-task", &done]);
    let refusal = rework.fails(1, &["delete-task", &running]);
    assert!(
        refusal.contains(&format!("task {running} has not ended: it is running")),
        "{refusal}"
    );
    assert!(
        refusal.contains(&format!("hint: `rework abort-task {running}` ends it")),
        "{refusal}"
    );
    let refusal = rework.fails(1, &["retry-task", &running]);
    assert!(refusal.contains("it is running"), "{refusal}");
    for gone in [&queued, &done] {
        assert!(
            rework
                .fails(1, &["show-task", gone])
                .contains(&format!("no task {gone}"))
        );
        let left = rework.database.psql(&format!(
            "select count(*) from rework.log where task = {gone}"
        ));
        assert_eq!(left, "0");
    }
    assert_eq!(
        rework.database.psql("select count(*) from rework.ready"),
        "0"
    );
    assert_eq!(rework.task(&running)["state"], "running");
    // While nobody sees to it.
    monitor.signal(Signal::SIGSTOP);
    rework.ok(&["abort-task", &running]);
    for command in ["delete-task", "retry-task"] {
        let refusal = rework.fails(1, &[command, &running]);
        assert!(refusal.contains("it is aborting"), "{refusal}");
    }
    monitor.signal(Signal::SIGCONT);
    rework.wait(&running, &["aborted"]);
}

fn workers(rework: &Rework) -> Vec<Value> {
    rework.json(&["list-workers"]).as_array().unwrap().clone()
}

#[test]
fn a_worker_is_shut_down_after_its_task_or_killed_with_it() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.hang_until_released();
    let worker = rework.wait(&id, &["running"])["worker"].to_string();
    assert_eq!(
        rework.ok(&["shutdown-worker", &worker]),
        format!("worker {worker} will end after its task")
    );
    rework.release();
    assert_eq!(
        rework.wait(&id, &["done", "aborted"])["state"],
        "done",
        "its task was not harmed"
    );
    let dead = until(
        "the worker to end",
        || workers(&rework)[0].clone(),
        |worker| worker["state"] == "dead",
    );
    assert_eq!(dead["cause"], "shutdown");
    assert_ne!(dead["finished"], Value::Null);

    let id = rework.misbehave("hang");
    let worker = rework.wait(&id, &["running"])["worker"].to_string();
    assert_eq!(
        rework.ok(&["kill-worker", &worker]),
        format!("worker {worker} is being killed")
    );
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(task["cause"], "worker killed");
    let dead = until(
        "the worker to be dead",
        || {
            workers(&rework)
                .into_iter()
                .find(|row| row["id"] == json!(worker.parse::<i64>().unwrap()))
                .unwrap()
        },
        |worker| worker["state"] == "dead",
    );
    assert_eq!(dead["cause"], "killed");
    let refusal = rework.fails(1, &["kill-worker", &worker]);
    assert!(
        refusal.contains(&format!("worker {worker} is dead already: killed")),
        "{refusal}"
    );
    assert!(
        rework
            .fails(1, &["shutdown-worker", "999"])
            .contains("no worker 999")
    );
    // Another one takes its place.
    rework.wait(&rework.misbehave("ok"), &["done"]);
}

#[test]
fn a_worker_that_does_not_end_when_it_is_told_to_is_killed() {
    let rework = Rework::with_plugins(&[standalone()]);
    let monitor = rework.monitor(&["--all-domains", "--maxworkers", "1"]);
    let id = rework.schedule(&["slow_goodbye"]);
    let worker = rework.wait(&id, &["done"])["worker"].to_string();
    rework.ok(&["shutdown-worker", &worker]);
    let dead = until(
        "the worker to be dead",
        || workers(&rework)[0].clone(),
        |worker| worker["state"] == "dead",
    );
    assert_eq!(dead["cause"], "shutdown");
    assert!(
        monitor.log().contains("has nothing to do and does not end"),
        "{}",
        monitor.log()
    );
}

/// An abort that was asked for and not seen to, because the task was given back.
#[test]
fn an_old_request_to_abort_does_not_end_the_next_attempt() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    let request = format!("insert into rework.abort_request (task) values ({id})");
    rework.database.psql(&request);
    rework.ok(&["abort-task", &id]);
    let requests = || {
        rework
            .database
            .psql("select count(*) from rework.abort_request")
    };
    assert_eq!(requests(), "0");
    rework.database.psql(&request);
    rework.ok(&["retry-task", &id]);
    assert_eq!(requests(), "0");
    let _monitor = rework.monitor(&[]);
    assert_eq!(rework.wait(&id, &["done", "aborted"])["state"], "done");
}

#[test]
fn what_is_paused_waits_and_the_rest_goes_on() {
    let rework = Rework::with_plugins(&[misbehaving(), hello()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    assert_eq!(
        rework.ok(&["pause", "--domain", "misbehaving"]),
        "paused: domain misbehaving"
    );
    assert_eq!(
        rework.ok(&["pause", "--operation", "add"]),
        "paused: operation `add` maths\npaused: domain misbehaving"
    );
    let waiting = rework.misbehave("ok");
    let adding = rework.schedule(&["add", "--input", r#"{"a": 1}"#]);
    // The monitor has heard of it when the next task of another operation has run.
    let other = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&other, &["done"]);
    let paused = rework.json(&["list-operations"]);
    let is_paused = |name: &str| {
        let rows = paused.as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap()["paused"].clone()
    };
    assert_eq!(is_paused("misbehave"), true);
    assert_eq!(is_paused("add"), true);
    assert_eq!(is_paused("my_first_task"), false);
    assert_eq!(rework.task(&waiting)["state"], "queued");
    assert_eq!(
        rework.ok(&["resume", "--operation", "add"]),
        "paused: domain misbehaving"
    );
    rework.wait(&adding, &["done"]);
    assert_eq!(rework.task(&waiting)["state"], "queued");
    assert_eq!(
        rework.ok(&["resume", "--domain", "misbehaving"]),
        "nothing is paused"
    );
    rework.wait(&waiting, &["done"]);
    assert!(
        rework
            .fails(1, &["pause", "--domain", "x"])
            .contains("no operation is in domain `x`")
    );
    assert!(
        rework
            .fails(1, &["pause", "--operation", "x"])
            .contains("no operation `x`")
    );
    assert!(
        rework
            .fails(1, &["pause", "--schedule", "7"])
            .contains("no schedule 7")
    );
    assert!(rework.fails(2, &["pause"]).contains("say what to pause"));
}

#[test]
fn a_monitor_that_nobody_can_hear_goes_on() {
    let rework = Rework::with_plugins(&[hello()]);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut monitor = rework.command(&["monitor"]).stderr(full).spawn().unwrap();
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&id, &["done"]);
    let pid = nix::unistd::Pid::from_raw(monitor.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(monitor.wait().unwrap().code(), Some(0));
}

#[test]
fn what_no_host_offers_any_more_can_be_resumed() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.ok(&["pause", "--operation", "add"]);
    rework.ok(&["unregister-operation", "add", "--no-confirm"]);
    assert_eq!(
        rework.ok(&["resume", "--operation", "add", "--domain", "maths"]),
        "nothing is paused"
    );
}

#[test]
fn the_bench_says_that_its_operation_is_paused() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.ok(&["pause", "--operation", "noop"]);
    let complaint = rework.fails(1, &["bench", "--tasks", "1"]);
    assert!(
        complaint.contains("operation `noop` of domain default is paused"),
        "{complaint}"
    );
    // Nor are failures taken for work.
    let complaint = rework.fails(
        1,
        &[
            "bench",
            "--operation",
            "my_first_task",
            "--tasks",
            "3",
            "--samples",
            "1",
        ],
    );
    assert!(
        complaint.contains("3 of 3 tasks of `my_first_task` did not end done"),
        "{complaint}"
    );
    rework.ok(&["vacuum", "--tasks"]);
    // Nor is anything queued that would be refused.
    let complaint = rework.fails(1, &["bench", "--operation", "add"]);
    assert!(
        complaint.contains("missing required input `a`"),
        "{complaint}"
    );
    assert_eq!(rework.ok(&["list-tasks"]), "");
}

#[test]
fn vacuum_deletes_what_it_is_told_and_nothing_else() {
    let rework = Rework::with_plugins(&[misbehaving(), hello()]);
    let monitor = rework.monitor(&["--all-domains"]);
    let done = rework.misbehave("ok");
    let other = rework.schedule(&["my_first_task", "--input", "1"]);
    for id in [&done, &other] {
        rework.wait(id, &["done"]);
    }
    monitor.interrupt();
    let queued = rework.misbehave("ok");
    let later = rework.schedule(&["misbehave", "--input", r#"{"mode": "ok"}"#, "--in", "1h"]);
    assert_eq!(
        rework.ok(&["vacuum", "--tasks", "--days", "1"]),
        "deleted 0 tasks"
    );
    assert_eq!(
        rework.ok(&["vacuum", "--workers", "--domain", "default"]),
        "deleted 1 workers"
    );
    assert_eq!(rework.ok(&["vacuum", "--workers"]), "deleted 2 workers");
    // Tasks do not go with their workers.
    assert_eq!(rework.task(&done)["state"], "done");
    assert_eq!(
        rework.ok(&["vacuum", "--tasks", "--domain", "misbehaving"]),
        "deleted 1 tasks"
    );
    assert_eq!(rework.task(&other)["state"], "done");
    assert_eq!(rework.task(&queued)["state"], "queued");
    assert_eq!(
        rework.ok(&["vacuum", "--tasks", "--queued"]),
        "deleted 2 tasks"
    );
    assert!(rework.fails(1, &["show-task", &later]).contains("no task"));
    assert_eq!(
        rework.database.psql("select count(*) from rework.ready"),
        "0"
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.delayed"),
        "0"
    );
    assert_eq!(rework.task(&other)["state"], "done");
    assert_eq!(
        rework
            .database
            .psql("select count(*) from rework.log where task not in (select id from rework.task)"),
        "0"
    );
    for wrong in [
        ["vacuum"].as_slice(),
        &["vacuum", "--tasks", "--workers"],
        &["vacuum", "--workers", "--queued"],
    ] {
        rework.fails(2, wrong);
    }
}

/// To try again means now.
#[test]
fn what_was_planned_for_later_is_tried_again_at_once() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["noop", "--at", "2999-01-01"]);
    rework.ok(&["abort-task", &id]);
    rework.ok(&["retry-task", &id]);
    let _monitor = rework.monitor(&[]);
    let task = rework.wait(&id, &["done"]);
    assert!(task["run_at"].as_str().unwrap() < "2999", "{task:#}");
}

#[test]
fn a_monitor_vacuums_by_itself() {
    let rework = Rework::with_plugins(&[hello()]);
    let monitor = rework.monitor(&[]);
    let old = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&old, &["done"]);
    assert_eq!(monitor.interrupt(), Some(0));
    rework.database.psql(
        "update rework.task set queued = queued - interval '25 hours';
         update rework.outcome set finished = finished - interval '25 hours', started = started - interval '25 hours';
         update rework.worker set finished = finished - interval '25 hours'",
    );
    let _monitor = rework.monitor(&["--vacuum", "P1D"]);
    let fresh = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&fresh, &["done"]);
    until(
        "the old task to be deleted",
        || {
            rework
                .database
                .psql("select string_agg(id::text, ',') from rework.task")
        },
        |ids| *ids == fresh,
    );
    until(
        "the old worker to be deleted",
        || {
            rework
                .json(&["list-workers", "--all"])
                .as_array()
                .unwrap()
                .len()
        },
        |count| *count == 1,
    );
    let options = rework.json(&["list-monitors"])[0]["options"].clone();
    assert_eq!(options["vacuum"], "24h");
}

#[test]
fn a_bench_that_is_interrupted_leaves_no_names_behind() {
    let rework = Rework::with_plugins(&[hello()]);
    let mut bench = rework
        .command(&["bench", "--tasks", "2000000"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let names = || rework.ok(&["list-operations"]);
    until("its domains", names, |names| names.contains("bench-idle-9"));
    // Only the operation that is measured has several domains meanwhile.
    rework.schedule(&["my_first_task", "--input", "1"]);
    let pid = nix::unistd::Pid::from_raw(bench.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    let status = bench.wait().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(!names().contains("bench-idle"), "{}", names());
    rework.schedule(&["noop"]);
}

#[test]
fn an_abort_whose_monitor_is_gone_promises_nothing() {
    let rework = Rework::with_plugins(&[misbehaving()]).with_periods("lease=1500");
    let monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("hang");
    let worker = rework.wait(&id, &["running"])["worker"].to_string();
    monitor.signal(Signal::SIGKILL);
    let told = until(
        "the monitor to be missed",
        || rework.ok(&["abort-task", &id]),
        |told| told.contains("last seen"),
    );
    assert!(told.contains("so it ends when a monitor runs"), "{told}");
    let told = rework.ok(&["kill-worker", &worker]);
    assert!(
        told.contains("is taken for dead when a monitor runs"),
        "{told}"
    );
}

#[test]
fn a_long_error_is_cut_in_listings() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    // The error quotes what is no number.
    let input = serde_json::to_string(&(0..2000).collect::<Vec<_>>()).unwrap();
    let id = rework.schedule(&["my_first_task", "--input", &input]);
    rework.wait(&id, &["failed"]);
    let listed = rework.ok(&["list-tasks"]);
    assert!(
        listed.contains("error: ") && listed.len() < 1000,
        "{listed}"
    );
    let shown = rework.ok(&["show-task", &id]);
    assert!(shown.len() > 5000, "all of it: {shown}");
}
