//! Abort: a queued task at once, a running one with its worker and all that it started.

use crate::harness::{Rework, hello, misbehaving, until};
use serde_json::Value;
use std::time::{Duration, Instant};

#[test]
fn a_queued_task_is_aborted_at_once_and_never_runs() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    assert_eq!(
        rework.ok(&["abort-task", &id, "--message", "no longer needed"]),
        format!("task {id} is aborted")
    );
    let task = rework.task(&id);
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &"abort".into())
    );
    assert_eq!(task["error"], "no longer needed");
    let _monitor = rework.monitor(&[]);
    let next = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&next, &["done"]);
    assert_eq!(rework.task(&id)["attempt"], 0);
    let refusal = rework.fails(1, &["abort-task", &id]);
    assert!(
        refusal.contains(&format!("task {id} has ended already: it is aborted")),
        "{refusal}"
    );
    let refusal = rework.fails(1, &["abort-task", "999"]);
    assert!(refusal.contains("no task 999"), "{refusal}");
}

/// While a task takes its time to end, nothing else becomes the reason.
#[test]
fn the_first_reason_to_end_a_task_stays_the_reason() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--kill-grace", "30s"]);
    let aborted = rework.schedule(&["end_late"]);
    rework.wait(&aborted, &["running"]);
    rework.ok(&["abort-task", &aborted]);
    let late = rework.schedule(&["end_late"]);
    rework.wait(&late, &["running"]);
    // It has been told to end when its time was up.
    until(
        "its time to be up",
        || {
            rework.database.psql(&format!(
                "select clock_timestamp() > started + interval '5 seconds' from rework.task_view where id = {late}"
            ))
        },
        |is_late| is_late == "t",
    );
    rework.ok(&["abort-task", &late, "--message", "too late"]);
    for (id, cause, error) in [
        (aborted, "abort", Value::Null),
        (late, "timeout", "ran longer than 4s".into()),
    ] {
        let task = rework.wait(&id, &["aborted"]);
        assert_eq!(
            (&task["cause"], &task["error"]),
            (&cause.into(), &error),
            "{task:#}"
        );
        let ran = rework.database.psql(&format!(
            "select finished - started > interval '5 seconds' from rework.task_view where id = {id}"
        ));
        assert_eq!(ran, "t", "it was given its time");
    }
}

/// However it ends when it has been told to.
#[test]
fn a_task_that_dies_of_its_end_has_timed_out_all_the_same() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--kill-grace", "30s"]);
    let ids = ["exit", "crash"].map(|how| {
        let input = format!("{{\"how\": \"{how}\"}}");
        rework.schedule(&["die_when_told", "--input", &input])
    });
    for id in ids {
        let task = rework.wait(&id, &["aborted"]);
        assert_eq!(
            (&task["cause"], &task["error"]),
            (&"timeout".into(), &"ran longer than 1s".into()),
            "{task:#}"
        );
    }
}

#[test]
fn aborts_and_claims_race_and_no_task_is_lost() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&["--maxworkers", "2"]);
    let other = rework.monitor(&["--maxworkers", "2"]);
    rework
        .database
        .psql("select count(rework.schedule('my_first_task', '1')) from generate_series(1, 2000)");
    // The newest first, so that both sides meet; what has ended meanwhile is refused.
    rework.database.psql(
        "do $$
         declare task bigint;
         begin
             for task in select id from rework.task order by id desc loop
                 begin
                     perform rework.task_abort(task);
                 exception when sqlstate 'RW004' then null;
                 end;
                 commit;
             end loop;
         end $$",
    );
    until(
        "all of them to have ended",
        || {
            rework
                .database
                .psql("select count(*) from rework.task_view where finished is null")
        },
        |count| count == "0",
    );
    let odd = rework.database.psql(
        "select count(*) from rework.task_view
          where state not in ('done', 'aborted') or state = 'aborted' and cause <> 'abort'
             or state = 'done' and started is null",
    );
    assert_eq!(odd, "0");
    let counts = rework.database.psql(
        "select count(*) filter (where state = 'done') > 0, count(*) filter (where state = 'aborted') > 0
           from rework.task_view",
    );
    assert_eq!(counts, "t|t", "both have happened");
    // What each task that ran has printed: nothing ran twice, nothing aborted in the queue ran.
    let twice = rework.database.psql(
        "select count(*) from (select task from rework.log_line where line = 'I am running'
                                group by task having count(*) > 1) t",
    );
    assert_eq!(twice, "0");
    // What was asked for in the moment of an end is forgotten.
    until(
        "no request to be left",
        || {
            rework
                .database
                .psql("select count(*) from rework.abort_request")
        },
        |count| count == "0",
    );
    assert_eq!(other.interrupt(), Some(0));
}

#[test]
fn a_busy_loop_is_killed_and_its_process_is_gone() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave("busy loop");
    rework.wait(&id, &["running"]);
    let workers = rework::internals::descendants::of(monitor.pid());
    rework.ok(&["abort-task", &id, "--message", "enough"]);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(
        (&task["cause"], &task["error"]),
        (&"abort".into(), &"enough".into())
    );
    for worker in workers {
        assert!(
            !std::fs::exists(format!("/proc/{worker}")).unwrap(),
            "{worker} is still there"
        );
    }
    // Another worker takes its place.
    let next = rework.misbehave("ok");
    assert_ne!(rework.wait(&next, &["done"])["worker"], task["worker"]);
    assert_eq!(
        rework
            .database
            .psql("select count(*) from rework.abort_request"),
        "0",
        "the request has been answered"
    );
}

#[test]
fn a_task_that_asks_may_end_by_itself() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "wait for cancel", "seconds": 60}"#,
    ]);
    rework.wait(&id, &["running"]);
    until(
        "it to have asked",
        || rework.log(&id).len(),
        |lines| *lines > 0,
    );
    rework.ok(&["abort-task", &id]);
    let task = rework.wait(&id, &["aborted", "done"]);
    assert_eq!(task["state"], "aborted", "it ended because it was asked to");
    assert_eq!(task["cause"], "abort");
    assert!(
        rework
            .log(&id)
            .contains(&"stdout:info:cancelled, cleaning up".to_owned())
    );
    assert_eq!(
        rework.ok(&["list-workers"]).matches("[dead]").count(),
        0,
        "nobody had to be killed"
    );
}

#[test]
fn a_double_forked_grandchild_dies_with_its_task() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "child outlives", "seconds": 600}"#,
    ]);
    rework.wait(&id, &["done"]);
    let hang = rework.misbehave("hang");
    rework.wait(&hang, &["running"]);
    let all = rework::internals::descendants::of(monitor.pid());
    assert!(all.len() >= 2, "a worker and what it left: {all:?}");
    rework.ok(&["abort-task", &hang]);
    rework.wait(&hang, &["aborted"]);
    for process in all {
        until(
            "nothing to survive",
            || std::fs::exists(format!("/proc/{process}")).unwrap(),
            |exists| !exists,
        );
    }
}

#[test]
fn a_task_that_takes_too_long_is_killed() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&["hang_with_timeout"]);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(
        (&task["cause"], &task["error"]),
        (&"timeout".into(), &"ran longer than 1s".into())
    );
}

#[test]
fn an_interrupt_ends_what_runs_and_gives_back_what_waits() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let running = rework.misbehave("busy loop");
    rework.wait(&running, &["running"]);
    let waiting = rework.misbehave("ok");
    assert_eq!(monitor.interrupt(), Some(0));
    assert_eq!(rework.task(&running)["cause"], "monitor exit");
    assert_eq!(rework.task(&waiting)["state"], "queued");
    let _next = rework.monitor(&["--domain", "misbehaving"]);
    rework.wait(&waiting, &["done"]);
}

#[test]
fn with_grace_running_tasks_may_end() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--grace", "20s"]);
    let id = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "wait for cancel", "seconds": 1}"#,
    ]);
    rework.wait(&id, &["running"]);
    assert_eq!(monitor.interrupt(), Some(0));
    assert_eq!(rework.task(&id)["state"], "done");
}

/// Its worker lives on, and nothing happens to it or to the task when the time is up.
#[test]
fn a_task_that_has_ended_is_beyond_its_timeout() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.database.psql(
        "update rework.plugin_operation set timeout_ms = 300, domain = domain where name = 'my_first_task'",
    );
    let _monitor = rework.monitor(&["--maxworkers", "1"]);
    let first = rework.schedule(&["my_first_task", "--input", "1"]);
    let worker = rework.wait(&first, &["done"])["worker"].clone();
    // Another task of the same worker, when the first one's time is long up.
    let later = rework.schedule(&["my_first_task", "--input", "2", "--in", "700ms"]);
    let task = rework.wait(&later, &["done", "aborted"]);
    assert_eq!((&task["state"], &task["worker"]), (&"done".into(), &worker));
    assert_eq!(rework.task(&first)["state"], "done");
}

#[test]
fn a_message_outlives_the_monitor_that_should_have_heard_it() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let mut monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("hang");
    rework.wait(&id, &["running"]);
    monitor.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(monitor.wait(), None);
    assert_eq!(
        rework.ok(&["abort-task", &id, "--message", "no longer needed"]),
        format!("task {id} is aborting: its worker is being killed")
    );
    let _next = rework.monitor(&["--domain", "misbehaving"]);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(
        (&task["cause"], &task["error"]),
        (&"abort".into(), &"no longer needed".into()),
        "{task:#}"
    );
}

#[test]
fn whoever_forks_faster_than_it_can_be_killed_does_not_hold_up_the_monitor() {
    use nix::{
        sys::signal::{Signal, killpg},
        unistd::Pid,
    };
    use std::{os::unix::process::CommandExt, process::Command};
    // Unlike a worker it is not stopped first.
    let mut bomb = Command::new("/bin/sh")
        .args(["-c", "while :; do sleep 60 & done"])
        .process_group(0)
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(bomb.id().cast_signed());
    until(
        "it to fork",
        || rework::internals::descendants::of(pid).len(),
        |count| *count > 0,
    );
    let begun = Instant::now();
    rework::internals::descendants::kill_all(pid, Duration::from_millis(100));
    let took = begun.elapsed();
    killpg(pid, Signal::SIGKILL).unwrap();
    bomb.wait().unwrap();
    // It would go on for ever; a busy machine takes seconds.
    assert!(took < Duration::from_secs(30), "{took:?}");
}
