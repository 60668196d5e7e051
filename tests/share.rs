//! A domain's pool is shared by its plugins: each worker loads one of them, the limits hold over all,
//! and none of them waits for, or suffers from, another.

use crate::harness::{Rework, hello, hello_version, linked, misbehaving, place, until};

/// With `misbehaving` and, in the same domain, `hello`.
fn with_two() -> Rework {
    let rework = Rework::with_plugins(&[misbehaving()]);
    rework.ok(&[
        "register-operations",
        hello().to_str().unwrap(),
        "--asdomain",
        "misbehaving",
    ]);
    rework
}

/// Arguments of a monitor for that domain.
fn workers(most: &str) -> [&str; 4] {
    ["--domain", "misbehaving", "--maxworkers", most]
}

/// Queues so many tasks of `misbehaving` that take so many seconds.
fn queue_slow(rework: &Rework, count: u32, seconds: f64) {
    rework.database.psql(&format!(
        r#"select count(rework.schedule('misbehave', '{{"mode": "hang", "seconds": {seconds}}}'))
             from generate_series(1, {count})"#
    ));
}

fn queue_noops(rework: &Rework, count: u32) {
    rework.database.psql(&format!(
        "select count(rework.schedule('noop')) from generate_series(1, {count})"
    ));
}

fn count(rework: &Rework, what: &str) -> i64 {
    let count = rework
        .database
        .psql(&format!("select count(*) from rework.{what}"));
    count.parse().unwrap()
}

fn until_all_ended(rework: &Rework) {
    until(
        "all to end",
        || count(rework, "task_view where finished is null"),
        |count| *count == 0,
    );
}

/// In one process the second would get the first one's library, and its way to round, or would not load:
/// there is not enough static TLS for both.
#[test]
fn plugins_that_harm_each_other_are_not_loaded_together() {
    let rework = Rework::with_plugins(&linked());
    let _monitor = rework.monitor(&["--domain", "linked", "--maxworkers", "1"]);
    for _ in 0..2 {
        for (operation, output) in [
            ("number_one", "1"),
            ("number_two", "2"),
            ("room_one", "1000"),
            ("room_two", "1000"),
            ("quarter_two", "\"5.562684646268003e-309\""),
        ] {
            let id = rework.schedule(&[operation]);
            rework.wait(&id, &["done"]);
            let said = rework.database.psql(&format!(
                "select output from rework.task_view where id = {id}"
            ));
            assert_eq!(said, output, "{operation}");
        }
    }
}

#[test]
fn a_plugin_that_does_not_load_stops_only_its_own_operations() {
    let words = "libmisbehaving.so ended the process (exit 7) while loading";
    let rework = with_two();
    let monitor = rework.monitor_that_misbehaves_on_load("exit", &["--maxworkers", "1"]);
    let stopped = rework.misbehave("ok");
    let doctor = || rework.run(&["doctor"]).stdout;
    until("doctor to name it", doctor, |said| said.contains(words));
    // From then on it stays in the queue, where everybody sees it, while the other one's tasks run.
    for _ in 0..8 {
        queue_noops(&rework, 20);
        until(
            "the other plugin's tasks",
            || count(&rework, "task_view where finished is null"),
            |count| *count == 1,
        );
        assert_eq!(count(&rework, &format!("ready where id = {stopped}")), 1);
        assert!(doctor().contains(words));
    }
    let said = monitor.log().matches(words).count();
    assert_eq!(said, 1, "{}", monitor.log());
    // For its first start, nobody could know.
    let left = count(&rework, "worker where error like 'made room%'");
    assert!(left <= 1, "{left} workers had to leave for it");
}

/// Its workers are waited for until `--start-timeout`, and the others do not wait with them.
#[test]
fn a_plugin_that_never_finishes_loading_stops_only_its_own_operations() {
    let rework = with_two();
    let arguments = ["--maxworkers", "1", "--start-timeout", "600"];
    let _monitor = rework.monitor_that_misbehaves_on_load("hang", &arguments);
    let stopped = rework.misbehave("ok");
    until(
        "its worker to start",
        || count(&rework, "worker where state = 'unstarted'"),
        |count| *count == 1,
    );
    queue_noops(&rework, 50);
    until(
        "the other plugin's tasks",
        || count(&rework, "task_view where finished is null"),
        |count| *count == 1,
    );
    until(
        "its task to be given back",
        || count(&rework, &format!("ready where id = {stopped}")),
        |count| *count == 1,
    );
}

#[test]
fn an_idle_worker_of_another_plugin_makes_room_at_once() {
    let rework = with_two();
    let _monitor = rework.monitor(&workers("1"));
    for _ in 0..3 {
        for id in [rework.misbehave("ok"), rework.schedule(&["noop"])] {
            rework.wait(&id, &["done"]);
        }
    }
    let others = "worker where state = 'dead' and (cause <> 'idle' or error is null)";
    assert_eq!(count(&rework, others), 0);
    until(
        "those that made room to be written down",
        || count(&rework, "worker where error like 'made room%'"),
        // Five changes, but a start that takes long on a busy machine makes a place beside the others.
        |count| *count >= 2,
    );
}

/// Tasks of 5 ms, fifteen seconds of them, in the queue before the other plugin's task.
#[test]
fn an_endless_stream_of_one_plugin_does_not_hold_up_another() {
    let rework = with_two();
    let _monitor = rework.monitor(&workers("1"));
    queue_slow(&rework, 3000, 0.005);
    until(
        "the stream to flow",
        || count(&rework, "task_view where finished is not null"),
        |count| *count > 50,
    );
    for _ in 0..3 {
        let other = rework.schedule(&["noop"]);
        rework.wait(&other, &["done"]);
    }
    let left = count(&rework, "task_view where finished is null");
    assert!(left > 500, "it waited until {left} of 3000 were left");
}

#[test]
fn workers_are_not_changed_at_every_task() {
    let rework = with_two();
    rework.database.psql(
        r#"select count(rework.schedule('misbehave', '{"mode": "hang", "seconds": 0.005}')),
                  count(rework.schedule('noop'))
             from generate_series(1, 200)"#,
    );
    let _monitor = rework.monitor(&workers("1"));
    until_all_ended(&rework);
    // A second of tasks in turns of fifty milliseconds.
    let changes = count(&rework, "worker where error like 'made room%'");
    assert!((1..60).contains(&changes), "{changes} changes");
}

#[test]
fn the_most_urgent_runs_first_whichever_plugin_it_is_of() {
    let rework = with_two();
    let noop = |priority| rework.schedule(&["noop", "--priority", priority]);
    let order = r#"{"mode": "hang", "seconds": 0.01}"#;
    let slow =
        |priority: &str| rework.schedule(&["misbehave", "--input", order, "--priority", priority]);
    let ids = [
        noop("1"),
        slow("3"),
        noop("5"),
        slow("0"),
        slow("4"),
        noop("2"),
    ];
    let _monitor = rework.monitor(&workers("1"));
    for id in &ids {
        rework.wait(id, &["done"]);
    }
    let order = rework
        .database
        .psql("select string_agg(priority::text, ' ' order by started) from rework.task_view");
    assert_eq!(order, "5 4 3 2 1 0");
}

#[test]
fn the_maximum_holds_over_all_plugins() {
    let rework = with_two();
    let monitor = rework.monitor(&workers("2"));
    queue_slow(&rework, 60, 0.02);
    rework.database.psql(
        "select count(rework.schedule('my_first_task', to_jsonb(n), domain => 'misbehaving'))
           from generate_series(1, 2000) n",
    );
    let mut most = 0;
    until(
        "all to end",
        || {
            most = most.max(rework::internals::descendants::of(monitor.pid()).len());
            count(&rework, "task_view where finished is null")
        },
        |count| *count == 0,
    );
    assert_eq!(most, 2);
}

#[test]
fn an_upgrade_of_one_plugin_leaves_the_workers_of_the_others_alone() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let path = rework.directory().join("libhello.so");
    let register = |number| {
        place(&hello_version(number), &path);
        let file = path.to_str().unwrap();
        rework.ok(&["register-operations", file, "--asdomain", "misbehaving"]);
    };
    register(1);
    let _monitor = rework.monitor(&[&workers("3")[..], &["--minworkers", "2"]].concat());
    let run = |id: String| rework.wait(&id, &["done"])["worker"].clone();
    let one = || run(rework.misbehave("ok"));
    let other = || run(rework.schedule(&["noop"]));
    let (before, old) = (one(), other());
    // The minimum may have brought a second one.
    let of_it =
        format!("worker where plugin = (select plugin from rework.worker where id = {old})");
    let its_workers = count(&rework, &of_it);
    register(2);
    until(
        "the old workers to end",
        || count(&rework, "worker where cause = 'upgrade'"),
        |count| *count == its_workers,
    );
    assert_eq!(one(), before, "the same worker as before");
    assert_ne!(other(), old);
    assert_eq!(count(&rework, "worker where state = 'dead'"), its_workers);
}

/// Ten domains that have all had a task, of which one is busy: its workers must not stand idle until
/// the next periodic look.
#[test]
fn idle_domains_do_not_slow_a_busy_one() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    for number in 1..=9 {
        let domain = format!("idle{number}");
        let file = hello();
        let file = file.to_str().unwrap();
        rework.ok(&["register-operations", file, "--asdomain", &domain]);
    }
    let _monitor = rework.monitor(&["--all-domains", "--minworkers", "0", "--maxworkers", "3"]);
    rework.database.psql(
        "select count(rework.schedule('noop', domain => 'idle' || n)) from generate_series(1, 9) n",
    );
    until_all_ended(&rework);
    queue_slow(&rework, 60, 0.05);
    until_all_ended(&rework);
    // Once a second three of them, there were nineteen such gaps.
    let gaps = rework.database.psql(
        "select count(*)
           from (select started - lag(started) over (order by started) as gap
                   from rework.task_view where operation_id = rework.operation_resolve('misbehave', null, null)) g
          where gap > interval '0.5 s'",
    );
    let gaps: u32 = gaps.parse().unwrap();
    assert!(
        gaps <= 4,
        "{gaps} times nothing was begun for half a second"
    );
}
