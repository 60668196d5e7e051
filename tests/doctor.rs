//! `doctor`: a line per check, with what to do about each problem.

use crate::harness::{OpenTransaction, Rework, hello, misbehaving, until};
use std::thread;

#[test]
fn problems_are_named_with_their_remedy() {
    let rework = Rework::without_schema();
    let doctor = rework.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    assert!(
        doctor.stdout.contains(
            "problem schema: the database has no schema `rework` — run `rework init-db` first"
        ),
        "{doctor:?}"
    );
    let doctor = rework.run(&["doctor", "postgres://nobody@127.0.0.1:1/nothing"]);
    assert_eq!(doctor.code, 1);
    assert!(
        doctor
            .stdout
            .starts_with("problem connection: could not connect to"),
        "{doctor:?}"
    );

    rework.ok(&["init-db"]);
    rework.ok(&["register-operations", hello().to_str().unwrap()]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    let doctor = rework.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    for line in [
        "ok server: PostgreSQL ".to_owned(),
        "ok clock: the clocks of this host and the server differ by ".to_owned(),
        "problem monitor: no monitor runs anywhere".to_owned(),
        format!(
            "problem waiting: no host can run task {id}: 1 task of `my_first_task` default waits — \
             start `rework monitor --domain default` on testhost"
        ),
    ] {
        assert!(doctor.stdout.contains(&line), "{line}: {doctor:?}");
    }
    assert!(
        doctor.stderr.contains("error: 2 problems were found"),
        "{doctor:?}"
    );
    let document: serde_json::Value =
        serde_json::from_str(&rework.run(&["doctor", "--json"]).stdout).unwrap();
    let problems = document
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["ok"] == false);
    assert_eq!(problems.count(), 2);

    let _monitor = rework.monitor(&[]);
    rework.wait(&id, &["done"]);
    rework.ok(&["pause", "--domain", "maths"]);
    let well = rework.ok(&["doctor"]);
    assert!(well.lines().all(|line| line.starts_with("ok ")), "{well}");
    assert!(well.contains("domain maths is paused"), "{well}");
}

#[test]
fn workers_that_never_start_are_a_problem() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let problem = "problem worker: workers of domain misbehaving for misbehaving on testhost die before they are ready";
    for how in ["exit", "hang"] {
        let monitor = rework.monitor_that_misbehaves_on_load(how, &["--start-timeout", "1"]);
        let doctor = || rework.run(&["doctor"]).stdout;
        let id = rework.misbehave("ok");
        let waiting =
            "problem waiting: 1 task of `misbehave` misbehaving waits: on testhost workers of";
        let is_told = |said: &String| said.contains(problem) && said.contains(waiting);
        until("the problem", doctor, is_told);
        for _ in 0..20 {
            let said = doctor();
            assert!(
                is_told(&said),
                "whatever the monitor does at the moment: {said}"
            );
        }
        let waits = rework.task(&id)["waits"].to_string();
        assert!(waits.contains("die before they are ready"), "{waits}");
        rework.ok(&["abort-task", &id]);
        assert_eq!(monitor.interrupt(), Some(0));
        // That they were ended by us is not the problem.
        assert!(doctor().contains(problem));
        rework.ok(&["vacuum", "--workers"]);
        assert!(!doctor().contains(problem));
    }
}

/// Long before `--start-timeout`.
#[test]
fn a_plugin_that_takes_long_to_load_is_named_by_everybody() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor_that_misbehaves_on_load("hang", &["--start-timeout", "600"]);
    let id = rework.misbehave("ok");
    let words =
        "workers of domain misbehaving for misbehaving on testhost have been loading it for ";
    let said = until(
        "the problem",
        || rework.run(&["doctor"]).stdout,
        |said| said.contains(&format!("problem worker: {words}")),
    );
    let waiting = "problem waiting: 1 task of `misbehave` misbehaving waits: on testhost workers of \
                   domain misbehaving for misbehaving have been loading it for ";
    assert!(said.contains(waiting), "{said}");
    let waits = rework.task(&id)["waits"].to_string();
    assert!(waits.contains("have been loading it for "), "{waits}");
    let listed = rework.ok(&["list-workers"]);
    assert!(listed.contains(" loading misbehaving for "), "{listed}");
    let log = monitor.log();
    assert!(
        log.contains("of domain misbehaving has been loading libmisbehaving.so for 5s; it is killed after 10m"),
        "{log}"
    );
}

#[test]
fn a_schedule_that_could_not_queue_its_task_is_a_problem() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    let rule = ["--rule", "* * * * * *", "--every-second"];
    let input = ["prepare", "my_first_task", "--input", "1"];
    let id = rework.ok(&[&input[..], &rule].concat());
    rework.ok(&["unregister-operation", "my_first_task", "--no-confirm"]);
    let problem = format!("problem schedule: schedule {id} of `my_first_task` default cannot");
    until(
        "the problem",
        || rework.run(&["doctor"]).stdout,
        |said| said.contains(&problem),
    );
}

#[test]
fn doctors_do_not_blame_each_other() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    thread::scope(|scope| {
        let doctors: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| rework.run(&["doctor"])))
            .collect();
        for doctor in doctors {
            let doctor = doctor.join().unwrap();
            let wanted = "ok write: the database takes what is written about tasks";
            assert!(doctor.stdout.contains(wanted), "{doctor:?}");
        }
    });
}

/// Monitors wait for it as well, perhaps not yet.
#[test]
fn a_table_that_somebody_locks_is_a_problem() {
    let rework = Rework::with_plugins(&[hello()]);
    let open = OpenTransaction::begin(&rework, "lock table rework.outcome in exclusive mode");
    let holder = format!("the server's process {}", open.process());
    let doctor = rework.run(&["doctor"]);
    let line = doctor.stdout.lines().find(|line| line.contains(" write: "));
    let line = line.unwrap_or_default();
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(
        line.starts_with("problem write: what is written"),
        "{doctor:?}"
    );
    assert!(line.contains(&holder), "{doctor:?}");
}

/// Nobody may read all of it, as behind `| head`.
#[test]
fn what_was_found_counts_also_where_nobody_reads_it() {
    let rework = Rework::with_plugins(&[hello()]);
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let output = rework.command(&["doctor"]).stdout(writer).output();
    assert_eq!(output.unwrap().status.code(), Some(1), "no monitor runs");
}

#[test]
fn a_lock_that_keeps_doctor_waiting_is_a_problem_of_its_own() {
    let rework = Rework::with_plugins(&[hello()])
        .with_periods("lock_wait=2000,answer_patience=200,answer_again=200");
    let lock = "lock table rework.task in access exclusive mode";
    let open = OpenTransaction::begin(&rework, lock);
    let doctor = rework.run(&["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    let line = |begin: &str| doctor.stdout.lines().find(|line| line.starts_with(begin));
    assert!(line("ok schema").is_some(), "{doctor:?}");
    let lock = line("problem lock: the other checks have to wait").unwrap_or_default();
    assert!(lock.contains(open.process()), "{doctor:?}");
}
