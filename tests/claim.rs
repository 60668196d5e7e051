//! Claim: in batches, in order, each task by one monitor.

use crate::harness::{Rework, hello, misbehaving, standalone, until, until_within};
use std::time::Duration;

#[test]
fn a_backlog_is_run_each_task_once_by_two_monitors() {
    let rework = Rework::with_plugins(&[hello()]);
    let _one = rework.monitor(&["--minworkers", "2"]);
    let _two = rework.monitor(&["--minworkers", "2"]);
    // Both are ready before there is anything to do.
    until(
        "all workers",
        || {
            rework
                .database
                .psql("select count(*) from rework.worker where state = 'idle'")
        },
        |count| count == "4",
    );
    rework.database.psql(
        "select count(rework.schedule('my_first_task', to_jsonb(n))) from generate_series(1, 2000) n",
    );
    let count = "select count(*) from rework.task_view where finished is not null";
    until(
        "2000 tasks to end",
        || rework.database.psql(count),
        |count| count == "2000",
    );
    assert_eq!(
        rework.database.psql(
            "select count(distinct w.monitor) from rework.task_view t join rework.worker w on w.id = t.worker"
        ),
        "2",
        "each has run some"
    );
    assert_eq!(
        rework.database.psql(
            "select count(*) from rework.task_view
              where state = 'done' and attempt = 1 and output::int = 2 * input::int"
        ),
        "2000"
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.log_line"),
        "4000",
        "two lines each, no more and no less"
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.ready"),
        "0"
    );
    until(
        "no claim to be left",
        || rework.database.psql("select count(*) from rework.claim"),
        |count| count == "0",
    );
}

#[test]
fn the_most_urgent_runs_first() {
    let rework = Rework::with_plugins(&[hello()]);
    let ids: Vec<String> = ["0", "-5", "7", "7"]
        .iter()
        .map(|priority| rework.schedule(&["my_first_task", "--input", "1", "--priority", priority]))
        .collect();
    let _monitor = rework.monitor(&["--maxworkers", "1"]);
    for id in &ids {
        rework.wait(id, &["done"]);
    }
    let order = rework
        .database
        .psql("select string_agg(priority::text, ' ' order by started) from rework.task_view");
    assert_eq!(order, "7 7 0 -5");
}

#[test]
fn a_pinned_task_waits_for_its_host() {
    let rework = Rework::with_plugins(&[hello()]);
    let plugin = hello();
    rework.ok(&[
        "register-operations",
        plugin.to_str().unwrap(),
        "--host",
        "other",
    ]);
    let here = rework.monitor(&[]);
    let pinned = rework.schedule(&["my_first_task", "--input", "1", "--host", "other"]);
    let free = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&free, &["done"]);
    assert_eq!(rework.task(&pinned)["state"], "queued");
    let _there = rework.monitor(&["--host", "other"]);
    rework.wait(&pinned, &["done"]);
    drop(here);
}

#[test]
fn tasks_of_other_domains_are_left_alone() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    let other = rework.schedule(&["add", "--input", r#"{"a": 1}"#]);
    let own = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&own, &["done"]);
    assert_eq!(rework.task(&other)["state"], "queued");
}

#[test]
fn a_short_task_is_not_trapped_behind_a_long_one() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "2"]);
    // Many short ones, so that workers are given several tasks at a time.
    let input = r#"{"mode": "ok"}"#;
    rework.database.psql(&format!(
        "select count(rework.schedule('misbehave', '{input}')) from generate_series(1, 300)"
    ));
    until(
        "the short ones to end",
        || {
            rework
                .database
                .psql("select count(*) from rework.task_view where finished is not null")
        },
        |count| count == "300",
    );
    rework.database.psql(&format!(
        "begin; select rework.schedule('misbehave', '{{\"mode\": \"hang\"}}');
         select count(rework.schedule('misbehave', '{input}')) from generate_series(1, 50); commit"
    ));
    until(
        "all but the long one to end",
        || {
            rework
                .database
                .psql("select count(*) from rework.task_view where finished is null")
        },
        |count| count == "1",
    );
}

/// No task is in the queue twice, nor once it has ended. Should a row be there all the same, as after somebody
/// has written into the queue by hand, it is only taken away.
#[test]
fn a_stale_row_of_the_queue_runs_nothing() {
    let rework = Rework::with_plugins(&[hello()]);
    let aborted = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.ok(&["abort-task", &aborted]);
    let deleted = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.ok(&["delete-task", &deleted]);
    rework.database.psql(&format!(
        "insert into rework.ready (lane, rank, id) values (1, 0, {aborted}), (1, 0, {deleted})"
    ));
    let twice = rework.schedule(&["my_first_task", "--input", "1"]);
    // In the other half.
    rework.database.psql(&format!(
        "insert into rework.ready (half, lane, rank, id)
         select 1 - half, lane, rank, id from rework.ready where id = {twice}"
    ));
    let _monitor = rework.monitor(&[]);
    rework.wait(&twice, &["done"]);
    until(
        "the queue to be empty",
        || rework.database.psql("select count(*) from rework.ready"),
        |count| count == "0",
    );
    assert_eq!(rework.task(&aborted)["state"], "aborted");
    assert_eq!(rework.log(&aborted), [] as [String; 0]);
    assert_eq!(rework.log(&twice).len(), 2, "it ran once");
}

#[test]
fn what_waits_behind_a_long_task_stays_in_the_queue() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let short = |count: u32| {
        rework.database.psql(&format!(
            "select count(rework.schedule('misbehave', '{{\"mode\": \"ok\"}}')) from generate_series(1, {count})"
        ));
    };
    let open = || {
        rework
            .database
            .psql("select count(*) from rework.task_view where finished is null")
    };
    // Short ones, so that the worker is given many at a time.
    short(300);
    until("the short ones to end", open, |count| count == "0");
    let long = rework.misbehave("hang");
    rework.wait(&long, &["running"]);
    short(50);
    let claimed = || {
        rework.database.psql(
            "select count(*)
               from rework.claim c, unnest(c.tasks, c.attempts) as held (task, attempt)
              where not exists (select from rework.running r where r.task = held.task)
                and not exists (select from rework.outcome o
                                 where o.task = held.task and o.attempt = held.attempt)",
        )
    };
    until("nothing to be claimed in vain", claimed, |count| {
        count == "0"
    });
    assert_eq!(
        rework
            .database
            .psql("select count(*), max(attempt) from rework.ready"),
        "50|1",
        "none of them has used up an attempt"
    );
    rework.ok(&["abort-task", &long]);
    until("the rest to end", open, |count| count == "0");
}

#[test]
fn thousands_that_fall_due_at_once_all_run_at_once() {
    // Between two periodic looks there is half a minute.
    let rework = Rework::with_plugins(&[hello()]).with_periods("queue_look=30000");
    rework.database.psql(
        "select count(rework.schedule('noop', run_at => now() + interval '4 seconds'))
           from generate_series(1, 3000)",
    );
    // When it starts, it sees when they will be due.
    let _monitor = rework.monitor(&[]);
    // A thousand are moved at a time: one look after the other, not one with each periodic look, which
    // would take a minute.
    let (delayed, late) = {
        let look =
            "select count(*), coalesce(extract(epoch from clock_timestamp() - min(run_at)), 0)
                      from rework.delayed";
        let mut late = 0.0;
        let delayed = until(
            "all of them to be due and queued",
            || {
                let row = rework.database.psql(look);
                let (count, seconds) = row.split_once('|').expect("two columns");
                late = seconds.parse::<f64>().unwrap().max(late);
                count.to_owned()
            },
            |count| count == "0",
        );
        (delayed, late)
    };
    assert!(
        late < 30.0,
        "{delayed} left, the last {late} s after their time"
    );
    until_within(
        Duration::from_secs(120),
        "all of them to end",
        || {
            rework
                .database
                .psql("select count(*) from rework.task_view where finished is null")
        },
        |count| count == "0",
    );
}

#[test]
fn large_inputs_are_fetched_when_a_worker_has_room() {
    let rework = Rework::with_plugins(&[standalone()]);
    rework.database.psql(
        "create table given as select rework.operation_resolve('echo', null, null) as id;
         insert into rework.task_file (task, direction, name, size, sha256)
         select (rework.task_enqueue(id, null, 'raw', null, null, null, 0, null, null, 1)).task_id,
                'input', '', 8 * 1048576, '' from given, generate_series(1, 30);
         insert into rework.task_file_chunk
         select f.id, n, decode(repeat('ab', 1048576), 'hex')
           from rework.task_file f, generate_series(0, 7) n",
    );
    let monitor = rework.monitor(&["--all-domains"]);
    // Half a gigabyte goes through the database.
    until_within(
        Duration::from_secs(120),
        "all of them to end",
        || {
            rework
                .database
                .psql("select count(*) from rework.task_view where finished is null")
        },
        |count| count == "0",
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", monitor.pid())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|kilobytes| kilobytes.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap();
    // All of them together are 240 MB, twice: in and out.
    eprintln!("the monitor has held {peak} kB at most");
    assert!(peak < 200 * 1024, "the monitor has held {peak} kB");
    assert_eq!(
        rework.database.psql(
            "select count(*) from rework.task_file where direction = 'output' and size = 8388608"
        ),
        "30"
    );
}

/// The statement of a cycle is planned once, perhaps when a new installation has no task yet, and goes on when
/// there are millions.
#[test]
fn a_cycle_that_is_planned_on_empty_tables_reads_no_table_as_a_whole() {
    let rework = Rework::with_plugins(&[hello()]);
    let tables = "task, ready, delayed, claim, running, outcome, log, abort_request, task_file";
    let tables = tables.replace(", ", ", rework.");
    rework
        .database
        .psql(&format!("vacuum analyze rework.{tables}"));
    for (statement, parameters) in [
        (include_str!("../host/src/store/claim.sql"), 11),
        (include_str!("../host/src/store/cycle.sql"), 50),
    ] {
        // The monitor and the number of the cycle; the rest are arrays.
        let types = |n: i32| {
            if matches!(n, 1 | 3) {
                "bigint"
            } else {
                "unknown"
            }
        };
        let types: Vec<&str> = (1..=parameters).map(types).collect();
        let nulls = vec!["null"; types.len()].join(", ");
        let plan = rework.database.psql(&format!(
            "set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_bitmapscan = off;
             set enable_sort = off; set enable_hashjoin = off; set enable_mergejoin = off;
             deallocate all; prepare cycle ({}) as {statement};
             explain (costs off) execute cycle ({nulls})",
            types.join(", ")
        ));
        assert!(!plan.contains("Join Filter"), "{plan}");
        let lines: Vec<&str> = plan.lines().map(str::trim).collect();
        let scans = lines
            .windows(2)
            .filter(|lines| lines[0].contains(" using "));
        let mut count = 0;
        for lines in scans {
            count += 1;
            let (scan, condition) = (lines[0], lines[1]);
            // Of the keys that have several columns: at least two.
            let is_by_key = condition.starts_with("Index Cond: ")
                && (condition.contains(" AND ")
                    || [
                        "task_pkey",
                        "running_pkey",
                        "abort_request_pkey",
                        "log_pkey",
                    ]
                    .iter()
                    .any(|key| scan.contains(key)));
            assert!(is_by_key, "{scan} {condition}: {plan}");
        }
        assert!(count > 5, "{plan}");
    }
}
