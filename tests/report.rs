//! Report: what became of a task, exactly once, also when things go wrong on the way.

use crate::harness::{
    OpenTransaction, Rework, hello, is_running, misbehaving, standalone, until, until_within,
};
use nix::sys::signal::Signal;
use std::{fs, time::Duration};

#[test]
fn an_error_fails_the_task_with_its_place() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("error");
    let task = rework.wait(&id, &["failed"]);
    assert_eq!(task["cause"], "error");
    assert_eq!(task["error"], "as you wish");
    assert!(
        task["location"]
            .as_str()
            .unwrap()
            .contains("misbehaving/src/lib.rs:"),
        "{task:#}"
    );
    let printed = rework.ok(&["log-task", &id]);
    assert!(
        printed.contains("error: as you wish"),
        "the error comes last: {printed}"
    );
    let refusal = rework.fails(
        1,
        &[
            "schedule",
            "misbehave",
            "--input",
            r#"{"mode": "error"}"#,
            "--wait",
        ],
    );
    assert!(refusal.contains(" failed: error: as you wish"), "{refusal}");
}

#[test]
fn a_panic_fails_the_task_with_message_place_and_backtrace() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let id = rework.misbehave("panic");
    let task = rework.wait(&id, &["failed"]);
    assert_eq!(
        (&task["cause"], &task["error"]),
        (&"panic".into(), &"as you wish".into())
    );
    assert!(
        task["location"]
            .as_str()
            .unwrap()
            .contains("misbehaving/src/lib.rs:"),
        "{task:#}"
    );
    assert!(
        task["backtrace"].as_str().unwrap().contains("misbehave")
            && !task["backtrace"]
                .as_str()
                .unwrap()
                .contains("rework_plugin"),
        "{task:#}"
    );
    // The worker lives on.
    let next = rework.misbehave("ok");
    assert_eq!(rework.wait(&next, &["done"])["worker"], task["worker"]);
}

#[test]
fn a_panic_in_a_thread_is_only_logged() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("panic in a thread");
    rework.wait(&id, &["done"]);
    let log = rework.log(&id);
    let panic = log
        .iter()
        .find(|line| line.starts_with("panic:error:thread"))
        .expect("a record");
    assert!(panic.contains("in a thread of its own"), "{log:?}");
}

#[test]
fn retries_keep_their_attempts_and_their_logs() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&["third_time_lucky"]);
    let task = rework.wait(&id, &["done", "failed"]);
    assert_eq!(task["output"], 3, "{task:#}");
    let attempts = task["attempts"].as_array().unwrap();
    let errors: Vec<Option<&str>> = attempts.iter().map(|one| one["error"].as_str()).collect();
    assert_eq!(
        errors,
        [Some("attempt 1 fails"), Some("attempt 2 fails"), None]
    );
    assert_eq!(attempts[2]["state"], "done");
    let lines: Vec<String> = rework
        .log(&id)
        .into_iter()
        .filter(|line| line.contains("attempt"))
        .collect();
    assert_eq!(
        lines,
        [
            "stdout:info:attempt 1",
            "stdout:info:attempt 2",
            "stdout:info:attempt 3"
        ]
    );
}

#[test]
fn an_output_that_postgres_cannot_store_fails_its_task_alone() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let bad = rework.misbehave("nul output");
    let good = rework.misbehave("ok");
    let task = rework.wait(&bad, &["failed"]);
    assert_eq!(task["cause"], "bad output");
    assert!(task["error"].as_str().unwrap().contains("NUL"), "{task:#}");
    rework.wait(&good, &["done"]);
}

#[test]
fn an_output_that_is_not_what_was_declared_fails_its_task() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let input = r#"{"a file.txt": "x", "number": -1}"#;
    let id = rework.schedule(&["mirror", "--input", input]);
    let task = rework.wait(&id, &["failed", "done"]);
    assert_eq!(task["cause"], "bad output");
    assert_eq!(
        task["error"],
        r#"output `size` must be one of "small", "large", not "negative""#
    );
    let operations = rework.json(&["list-operations"]);
    let operations = operations.as_array().unwrap();
    let mirror = operations.iter().find(|row| row["name"] == "mirror");
    let outputs = mirror.unwrap()["outputs"].as_array().unwrap();
    assert_eq!(outputs.len(), 8);
    assert_eq!(outputs[7]["default"], "nobody");
    assert_eq!(outputs[4]["choices"], serde_json::json!(["small", "large"]));
}

/// A server that cannot write for a moment, whatever the reason, costs nobody a result.
#[test]
fn a_server_that_refuses_for_a_while_loses_nothing() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.database.psql(
        "create table refusing (code text);
         create function refuse() returns trigger language plpgsql as $$
         declare code text;
         begin
             select r.code into code from refusing r;
             if found then
                 raise exception 'not now' using errcode = code;
             end if;
             return new;
         end $$;
         create trigger refuse before insert on rework.outcome for each row execute function refuse();
         insert into refusing values ('53100')",
    );
    let monitor = rework.monitor(&[]);
    let ids: Vec<String> = (1..=5)
        .map(|n| rework.schedule(&["my_first_task", "--input", &n.to_string()]))
        .collect();
    let first = |log: &String| log.contains("not now (SQLSTATE 53100)");
    until("the first refusal", || monitor.log(), first);
    for code in ["57014", "25006", "40P01"] {
        rework
            .database
            .psql(&format!("update refusing set code = '{code}'"));
        let before = monitor.log().matches("not now").count();
        until(
            "another refusal",
            || monitor.log().matches("not now").count(),
            |count| *count > before,
        );
    }
    rework.database.psql("delete from refusing");
    for (n, id) in (1..).zip(&ids) {
        assert_eq!(rework.wait(id, &["done", "failed"])["output"], 2 * n);
    }
}

/// What Postgres cannot store is found among the others, and harms only its own task.
#[test]
fn what_cannot_be_stored_harms_no_neighbour() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.database.psql(
        "create function poison() returns trigger language plpgsql as $$
         begin
             if new.output = '\"poisonpoison\"' or new.error like '%poison%' then
                 raise exception 'it cannot be swallowed' using errcode = '22P05';
             end if;
             return new;
         end $$;
         create trigger poison before insert on rework.outcome for each row execute function poison()",
    );
    // All of them end in one cycle, or in few.
    let ids: Vec<String> = ["1", "\"poison\"", "2", "[\"poison\"]", "3"]
        .iter()
        .map(|input| rework.schedule(&["my_first_task", "--input", input]))
        .collect();
    let _monitor = rework.monitor(&[]);
    for (id, output) in [(&ids[0], 2), (&ids[2], 4), (&ids[4], 6)] {
        assert_eq!(rework.wait(id, &["done", "failed"])["output"], output);
    }
    let task = rework.wait(&ids[1], &["failed"]);
    assert_eq!(task["cause"], "bad output");
    let error = task["error"].as_str().unwrap();
    assert!(
        error.starts_with("the output cannot be stored") && !error.contains("poisonpoison"),
        "{error}"
    );
    let task = rework.wait(&ids[3], &["failed"]);
    assert_eq!(task["error"], "(its words cannot be stored)");
    assert_eq!(rework.log(&ids[1]).len(), 2, "its log is kept");
}

#[test]
fn a_task_that_no_frame_can_carry_fails_alone() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    let id = rework.database.psql(
        "select rework.schedule('my_first_task', '1',
                                metadata => jsonb_build_object('a', repeat('x', 70000000)))",
    );
    let other = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&other, &["done"]);
    let task = until(
        "the task to fail",
        || {
            rework.database.psql(&format!(
                "select cause, error from rework.task_view where id = {id}"
            ))
        },
        |task| !task.starts_with('|'),
    );
    assert!(
        task.starts_with("error|it could not be handed to a worker: a frame of 67108865 bytes or more is too long"),
        "{task}"
    );
}

#[test]
fn a_timeout_that_a_task_obeys_is_retried_like_any_other() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let id = rework.schedule(&["until_cancelled"]);
    let task = rework.wait(&id, &["aborted", "done", "failed"]);
    assert_eq!(
        (&task["state"], &task["cause"]),
        (&"aborted".into(), &"timeout".into())
    );
    assert_eq!(task["attempt"], 2);
    assert_eq!(task["attempts"][0]["cause"], "timeout");
    assert_eq!(
        rework.log(&id),
        [
            "stdout:info:attempt 1 was cancelled",
            "stdout:info:attempt 2 was cancelled"
        ]
    );
}

/// A host that is gone says nothing: its lease expires, and any other monitor sees to its tasks.
#[test]
fn the_tasks_of_a_lost_host_follow_the_delivery_rule() {
    let rework = Rework::with_plugins(&[misbehaving(), hello()]);
    let once = rework.misbehave("ok");
    let again = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "ok"}"#,
        "--max-attempts",
        "2",
    ]);
    rework.database.psql(&format!(
        "insert into rework.monitor (host, pid, domains, pages, last_seen, lease)
         values ('elsewhere', 1, '{{misbehaving}}', '/nowhere', now() - interval '1 minute',
                 interval '1 second');
         insert into rework.claim select id, 1, array[{once}, {again}], '{{1, 1}}' from rework.monitor;
         insert into rework.worker (host, pid, domain, monitor, state, task, started)
         select 'elsewhere', 2, 'misbehaving', id, 'running', {once}, now() from rework.monitor;
         insert into rework.running (task, attempt, worker, plugin_operation, started)
         select held, 1, w.id, 1, now() from unnest(array[{once}, {again}]) held, rework.worker w;
         delete from rework.ready"
    ));
    assert_eq!(rework.json(&["list-monitors"])[0]["stale"], true);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    // It is watched for a whole lease.
    let task = until_within(
        Duration::from_secs(60),
        "the lost monitor to be buried",
        || rework.task(&once),
        |task| task["state"] == "aborted",
    );
    assert_eq!(task["cause"], "monitor lost");
    assert_eq!(task["error"], "the monitor on host elsewhere was lost");
    let task = rework.wait(&again, &["done", "aborted"]);
    assert_eq!(
        (&task["state"], &task["attempt"]),
        (&"done".into(), &2.into())
    );
    assert_eq!(task["attempts"][0]["cause"], "monitor lost");
    let workers = rework.json(&["list-workers"]);
    let dead = workers
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["host"] == "elsewhere");
    assert_eq!(dead.unwrap()["cause"], "monitor lost");
}

/// Interrupted twice, a monitor ends although the database has not heard of its task; then the next one
/// finds out.
#[test]
fn what_an_impatient_monitor_could_not_say_is_found_out() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let mut monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("hang");
    rework.wait(&id, &["running"]);
    let client = OpenTransaction::begin(
        &rework,
        &format!("select from rework.claim where {id} = any(tasks) for update"),
    );
    monitor.signal(Signal::SIGINT);
    monitor.signal(Signal::SIGINT);
    until(
        "both to be heard",
        || {
            if !monitor.log().contains("again") {
                monitor.signal(Signal::SIGINT);
            }
            monitor.log()
        },
        |log| log.contains("interrupted again"),
    );
    assert_eq!(monitor.wait(), Some(1), "{}", monitor.log());
    assert!(
        monitor
            .log()
            .contains("has not taken all that it had to say (results: 1); that is kept in "),
        "{}",
        monitor.log()
    );
    client.end();
    assert_eq!(rework.task(&id)["state"], "running");
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(
        task["cause"], "monitor exit",
        "it is known how it ended: {task:#}"
    );
}

/// What could not be written about a worker is not written beside what has become of it since.
#[test]
fn a_worker_that_dies_while_it_is_being_written_down_is_written_once() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&[
        "--domain",
        "misbehaving",
        "--maxruns",
        "1",
        "--maxworkers",
        "1",
    ]);
    let first = rework.misbehave("ok");
    let first = rework.wait(&first, &["done"])["worker"].clone();
    let pid_of_idle = || {
        let rows = rework.json(&["list-workers"]);
        let mut rows = rows.as_array().unwrap().iter();
        let idle = rows.find(|row| row["state"] == "idle" && row["id"] != first)?;
        idle["pid"].as_i64()
    };
    let pid = until("its successor", pid_of_idle, Option::is_some).unwrap();
    let pid = i32::try_from(pid).unwrap();
    let client = OpenTransaction::begin(&rework, "lock table rework.worker in exclusive mode");
    let here = "from pg_stat_activity where datname = current_database()";
    let blocked =
        format!("{here} and wait_event_type = 'Lock' and query like '%into rework.worker%'");
    let count = |what: &str| rework.database.psql(&format!("select count(*) {what}"));
    // Long enough to be seen running.
    let input = r#"{"mode": "hang", "seconds": 0.5}"#;
    let id = rework.schedule(&["misbehave", "--input", input]);
    until("a write to wait", || count(&blocked), |count| count == "1");
    // The worker that it is about ends meanwhile, with its task.
    until(
        "another one in its place",
        || rework::internals::descendants::of(monitor.pid()),
        |workers| !workers.is_empty() && workers.iter().all(|worker| worker.as_raw() != pid),
    );
    rework
        .database
        .psql(&format!("select pg_terminate_backend(pid) {blocked}"));
    client.end();
    until(
        "both to be written down as dead",
        || {
            rework
                .database
                .psql("select count(*) from rework.worker where cause = 'maxruns'")
        },
        |count| count == "2",
    );
    rework.wait(&id, &["done"]);
    assert!(!monitor.log().contains("second time"), "{}", monitor.log());
    assert_eq!(monitor.interrupt(), Some(0));
}

/// Figures are written when they change, not every second.
#[test]
fn an_idle_installation_writes_next_to_nothing() {
    let rework = Rework::with_plugins(&[hello()]).with_periods("lease=3000");
    let _monitor = rework.monitor(&[]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&id, &["done"]);
    rework.database.psql(
        "create sequence public.written;
         create function count_it() returns trigger language plpgsql
             as $$ begin perform nextval('public.written'); return null; end $$;
         do $$ declare name text; begin
             for name in select relname from pg_class
                          where relnamespace = 'rework'::regnamespace and relkind in ('r', 'p')
                            and not relispartition and relname <> 'monitor'
             loop
                 execute format('create trigger counted after insert or update or delete on rework.%I
                                     for each row execute function count_it()', name);
             end loop;
         end $$",
    );
    let written = || -> i64 {
        let count = "select last_value - 1 + is_called::int from public.written";
        rework.database.psql(count).parse().unwrap()
    };
    // The lease is renewed every second. At first what the task has used may still be written.
    until_within(
        Duration::from_secs(60),
        "four renewals with next to no writes",
        || {
            let before = written();
            rework.until_renewed(4);
            written() - before
        },
        |written| *written <= 3,
    );
}

#[test]
fn a_monitor_that_waits_for_its_last_task_does_not_spin() {
    let rework = Rework::with_plugins(&[misbehaving()]).with_periods("lease=1500");
    let monitor = rework.monitor(&["--domain", "misbehaving", "--grace", "1h"]);
    let id = rework.misbehave("hang");
    rework.wait(&id, &["running"]);
    let later = rework.schedule(&["misbehave", "--input", r#"{"mode": "ok"}"#, "--in", "1h"]);
    monitor.signal(Signal::SIGINT);
    until(
        "the monitor to drain",
        || monitor.log(),
        |log| log.contains("interrupted"),
    );
    let used = monitor.processor_share(|| rework.until_renewed(3));
    assert!(used < 0.2, "{used} of a processor");
    assert_eq!(rework.task(&later)["state"], "queued");
    // The second interrupt ends it at once.
    monitor.interrupt();
    assert_eq!(rework.task(&id)["cause"], "monitor exit");
}

#[test]
fn an_open_transaction_of_a_client_holds_up_nobody_else() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let locked = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "wait for cancel", "seconds": 1}"#,
    ]);
    rework.wait(&locked, &["running"]);
    let client = OpenTransaction::begin(
        &rework,
        &format!("select tasks from rework.claim where {locked} = any(tasks) for update"),
    );
    // There is one worker: it has ended the first task by then, which cannot be reported.
    let other = rework.misbehave("ok");
    rework.wait(&other, &["done"]);
    assert_eq!(rework.task(&locked)["state"], "running");
    client.end();
    rework.wait(&locked, &["done"]);
    // What a task was asked for, and what is shown of it, is not written by its report.
    let seen = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "wait for cancel", "seconds": 1}"#,
    ]);
    rework.wait(&seen, &["running"]);
    let client = OpenTransaction::begin(
        &rework,
        &format!(
            "select from rework.task t join rework.running r on r.task = t.id where t.id = {seen} for update"
        ),
    );
    rework.wait(&seen, &["done"]);
    client.end();
    until(
        "what was shown to be tidied away",
        || rework.database.psql("select count(*) from rework.running"),
        |count| count == "0",
    );
}

#[test]
fn when_the_database_goes_away_running_tasks_go_on_and_their_results_are_kept() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "wait for cancel", "seconds": 1}"#,
    ]);
    rework.wait(&id, &["running"]);
    let worker = rework.task(&id)["worker"].clone();
    rework.database.psql(
        "select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and pid <> pg_backend_pid()",
    );
    let task = rework.wait(&id, &["done", "aborted", "failed"]);
    assert_eq!(
        (&task["state"], &task["worker"]),
        (&"done".into(), &worker),
        "{}",
        monitor.log()
    );
    let next = rework.misbehave("ok");
    rework.wait(&next, &["done"]);
}

#[test]
fn a_monitor_that_is_killed_leaves_no_process_and_no_task_behind() {
    let rework = Rework::with_plugins(&[misbehaving(), hello()]);
    let mut first = rework.monitor(&["--all-domains", "--maxworkers", "1"]);
    let id = rework.misbehave("busy loop");
    rework.wait(&id, &["running"]);
    let workers = rework::internals::descendants::of(first.pid());
    assert!(!workers.is_empty());
    first.signal(Signal::SIGKILL);
    first.wait();
    until(
        "its workers to be gone",
        || {
            workers
                .iter()
                .filter(|pid| std::fs::exists(format!("/proc/{pid}")).unwrap())
                .count()
        },
        |count| *count == 0,
    );
    // The host's next monitor knows at once: it does not wait for the lease to expire.
    let _second = rework.monitor(&["--all-domains", "--maxworkers", "1"]);
    let task = rework.wait(&id, &["aborted"]);
    assert_eq!(task["cause"], "monitor lost");
    let causes = rework
        .database
        .psql("select string_agg(distinct cause, ',') from rework.worker where state = 'dead'");
    assert_eq!(causes, "monitor lost");
    let next = rework.misbehave("ok");
    rework.wait(&next, &["done"]);
    assert_eq!(rework.json(&["list-monitors"]).as_array().unwrap().len(), 1);
}

#[test]
fn a_path_in_the_database_is_not_what_a_recovery_removes() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let precious = rework.directory().join("monitor-of-a-stranger");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("letter"), "dear reader").unwrap();
    rework.database.psql(&format!(
        "insert into rework.monitor (host, pid, domains, pages, last_seen, lease)
         values ('testhost', 1, '{{}}', '{}', now() - interval '1 hour', interval '1 second')",
        precious.display()
    ));
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    until_within(
        Duration::from_secs(60),
        "the lost monitor to be buried",
        || {
            rework
                .database
                .psql("select count(*) from rework.monitor where pid = 1")
        },
        |count| count == "0",
    );
    assert_eq!(
        fs::read_to_string(precious.join("letter")).unwrap(),
        "dear reader"
    );
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_done_is_logged_with_its_cause() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--minworkers", "0"]);
    let id = rework.misbehave("ok");
    rework.wait(&id, &["done"]);
    // Its workers' pages have nowhere to be.
    let pages = rework.directory().join("pages");
    fs::remove_dir_all(&pages).unwrap();
    rework.database.psql("select pg_notify('rework_ready', '')");
    let worker = rework.task(&id)["worker"].to_string();
    rework.ok(&["kill-worker", &worker]);
    rework.misbehave("ok");
    until(
        "the next worker to be impossible",
        || monitor.log(),
        |log| {
            log.contains("no worker of domain misbehaving can be started")
                && log.contains("No such file or directory")
        },
    );
}

/// Somebody else may repeat the task once the lease is over, so the worker does not go on.
#[test]
fn a_worker_whose_monitor_could_not_renew_its_lease_says_so_and_the_task_is_tried_again() {
    let rework = Rework::with_plugins(&[misbehaving()]).with_periods("lease=1500");
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&["hang_once"]);
    rework.wait(&id, &["running"]);
    let client = OpenTransaction::begin(&rework, "select from rework.monitor for update");
    let worker = rework.task(&id)["worker"].as_i64().unwrap();
    let pid = rework.json(&["list-workers"])[0]["pid"].as_i64().unwrap();
    until("the worker to end", || is_running(pid as i32), |runs| !runs);
    client.end();
    assert_eq!(rework.wait(&id, &["done"])["attempt"], 2);
    let workers = rework.json(&["list-workers"]);
    let worker = workers
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["id"] == worker)
        .unwrap();
    assert_eq!(
        (&worker["cause"], &worker["error"]),
        (
            &"monitor lost".into(),
            &"its monitor could not renew its lease in time, and the worker ended itself".into()
        )
    );
}

#[test]
fn a_claim_that_was_made_unnoticed_goes_back_to_the_queue() {
    let rework = Rework::with_plugins(&[hello()]).with_periods("lease=1500");
    let monitor = rework.monitor(&[]);
    let first = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&first, &["done"]);
    rework.ok(&["pause", "--operation", "my_first_task"]);
    let id = rework.schedule(&["my_first_task", "--input", "2"]);
    // What a connection that was lost during a commit leaves: the claim is made, in a cycle of this
    // monitor, and it has not heard of it. Then its connection is lost indeed.
    let mut client = OpenTransaction::begin(
        &rework,
        "lock table rework.monitor in access exclusive mode",
    );
    client.psql(&format!(
        "delete from rework.ready where id = {id};
         insert into rework.claim (monitor, cycle, tasks, attempts)
         select id, 0, '{{{id}}}', '{{1}}' from rework.monitor"
    ));
    let renewing = "from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    until(
        "the monitor to wait",
        || rework.database.psql(&format!("select count(*) {renewing}")),
        |count| count != "0",
    );
    client.psql(&format!(
        "select pg_terminate_backend(pid) {renewing}; commit"
    ));
    rework.ok(&["resume", "--operation", "my_first_task"]);
    let task = rework.wait(&id, &["done"]);
    assert_eq!(task["attempt"], 1, "as if it had never been claimed");
    let log = monitor.log();
    assert!(
        log.contains(&format!(
            "task {id} was claimed unnoticed: back to the queue"
        )),
        "{log}"
    );
}

/// A lock on its row keeps a monitor from renewing its lease, and whoever waits for the lock must not take it
/// for lost when the lock ends.
#[test]
fn a_monitor_whose_row_is_locked_is_not_buried_and_the_holder_is_named() {
    let rework = Rework::with_plugins(&[misbehaving(), hello()]).with_periods("lease=3000");
    let first = rework.monitor(&["--domain", "misbehaving"]);
    let other = rework.monitor(&["--domain", "default", "--host", "elsewhere"]);
    let id = rework.misbehave("hang");
    rework.wait(&id, &["running"]);
    let number = rework
        .database
        .psql("select id from rework.monitor where host = 'testhost'");
    let client = OpenTransaction::begin(
        &rework,
        &format!("select from rework.monitor where id = {number} for update"),
    );
    let told = until(
        "doctor to name the holder",
        || rework.run(&["doctor"]).stdout,
        |told| told.contains("holds a lock on its row"),
    );
    assert!(
        told.contains(&format!("monitor {number} on testhost"))
            && told.contains(&format!("process {}", client.process())),
        "{told}"
    );
    until(
        "the monitor to say what it waits for",
        || first.log(),
        |log| log.contains("holds a lock"),
    );
    // The other monitor has found it silent for more than a lease by now.
    rework.until_renewed_on("elsewhere", 4);
    client.end();
    rework.until_renewed(2);
    assert!(!other.log().contains("was lost"), "{}", other.log());
    assert_eq!(rework.task(&id)["state"], "running");
    rework.ok(&["abort-task", &id]);
    rework.wait(&id, &["aborted"]);
}
