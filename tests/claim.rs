//! Claim: in batches, in order, each task by one monitor.

use crate::harness::{Rework, hello, misbehaving, until};

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
        "select count(rework.schedule('my_first_task', to_jsonb(n))) from generate_series(1, 3000) n",
    );
    let count = "select count(*) from rework.task where status = 'done'";
    until(
        "3000 tasks to end",
        || rework.database.psql(count),
        |count| count == "3000",
    );
    assert_eq!(
        rework.database.psql(
            "select count(distinct w.monitor) from rework.task t join rework.worker w on w.id = t.worker"
        ),
        "2",
        "each has run some"
    );
    assert_eq!(
        rework.database.psql(
            "select count(*) from rework.task
              where outcome = 'done' and attempt = 1 and output::int = 2 * input::int"
        ),
        "3000"
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.log_line"),
        "6000",
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
        .psql("select string_agg(priority::text, ' ' order by started) from rework.task");
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
                .psql("select count(*) from rework.task where status = 'done'")
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
                .psql("select count(*) from rework.task where status <> 'done'")
        },
        |count| count == "1",
    );
}
