//! Keys: one task of an operation for each, and whoever schedules is told which it is.

use crate::harness::{OpenTransaction, Rework, hello, report, standalone, until};
use rework::Client;
use std::thread;

#[test]
fn a_key_counts_for_its_operation_alone() {
    let rework = Rework::with_plugins(&[hello()]);
    let noop = rework.schedule(&["noop", "--key", "once"]);
    let first = rework.schedule(&["my_first_task", "--input", "1", "--key", "once"]);
    assert_ne!(noop, first);
    let again = rework.run(&["schedule", "my_first_task", "--input", "1", "--key", "once"]);
    assert_eq!((again.code, again.stdout.trim()), (0, first.as_str()));
    assert_eq!(
        again.stderr.trim(),
        format!("task {first} was known by its key")
    );
    let in_sql = |call: &str| {
        rework
            .database
            .psql(&format!("select id, is_new from {call}"))
    };
    assert_eq!(
        in_sql("rework.schedule_task('my_first_task', '1', key => 'once')"),
        format!("{first}|f")
    );
    assert!(in_sql("rework.schedule_task('my_first_task', '1', key => 'twice')").ends_with("|t"));
    let count = rework.database.psql("select count(*) from rework.ready");
    assert_eq!(count, "3");
    rework.ok(&["delete-task", &first]);
    let fresh = rework.schedule(&["my_first_task", "--input", "2", "--key", "once"]);
    assert_ne!(fresh, first, "a key is free when its task is gone");
}

#[test]
fn a_known_key_with_another_input_is_refused() {
    let rework = Rework::with_plugins(&[hello(), report(), standalone()]);
    let refused = |first: &[&str], second: &[&str]| {
        let id = rework.schedule(first);
        assert_eq!(rework.schedule(first), id, "the same again");
        let refusal = rework.fails(1, &[&["schedule"], second].concat());
        let expected = format!("task {id} has the key `k` already, with another input");
        assert!(refusal.contains(&expected), "{refusal}");
        assert!(refusal.contains("hint: "), "{refusal}");
    };
    let key = ["--key", "k"];
    let my = |input: &'static str| [&["my_first_task", "--input", input], &key[..]].concat();
    refused(&my("1"), &my("2"));
    let (small, other) = (rework.directory().join("a"), rework.directory().join("b"));
    for size in [10, 300_000] {
        std::fs::write(&small, vec![1_u8; size]).unwrap();
        std::fs::write(&other, vec![2_u8; size]).unwrap();
        let (small, other) = (small.to_str().unwrap(), other.to_str().unwrap());
        rework.ok(&["vacuum", "--tasks", "--queued"]);
        let raw = |path| [&["my_first_task", "--raw-input", path], &key[..]].concat();
        refused(&raw(small), &raw(other));
        let file = [format!("text={small}"), format!("text={other}")];
        let words = |n: usize| [&["word_frequencies", "--input-file", &file[n]], &key[..]].concat();
        refused(&words(0), &words(1));
    }
    let refusal = rework
        .database
        .psql_error("select rework.schedule('my_first_task', '7', key => 'k')");
    assert!(refusal.contains("with another input"), "{refusal}");
}

/// An expression means another time at each call, and is the same input all the same.
#[test]
fn a_moment_that_is_an_expression_does_not_tell_two_inputs_apart() {
    let rework = Rework::with_plugins(&[standalone()]);
    let plan = |horizon: &str| {
        let input = format!(r#"{{"horizon": "{horizon}"}}"#);
        rework.run(&["schedule", "plan", "--key", "k", "--input", &input])
    };
    let first = plan("(today)");
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(plan("(today)").stdout, first.stdout);
}

#[test]
fn many_at_once_with_one_key_are_one_task() {
    let rework = Rework::with_plugins(&[hello()]);
    let call =
        "select id || ' ' || is_new from rework.schedule_task('my_first_task', '1', key => 'k'),
                       pg_sleep(0.05)";
    let answers: Vec<String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| rework.database.psql(call)))
            .collect();
        callers.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let new = answers.iter().filter(|answer| answer.ends_with("true"));
    assert_eq!(new.count(), 1, "{answers:?}");
    assert_eq!(
        rework.database.psql("select count(*) from rework.task"),
        "1"
    );
}

#[test]
fn a_client_is_told_whether_a_task_is_new() {
    let rework = Rework::with_plugins(&[hello()]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let one = || client.schedule("my_first_task").input(1).key("k");
        let first = one().await.unwrap();
        let again = one().await.unwrap();
        assert_eq!(first.id(), again.id());
        assert!(first.is_new() && !again.is_new());
        let both = client
            .schedule_many([one(), client.schedule("noop")])
            .await
            .unwrap();
        assert!(!both[0].is_new() && both[1].is_new());
    });
}

/// Whether the key is taken is not known before the transaction ends, which may take for ever.
#[test]
fn a_key_in_a_transaction_that_does_not_end_is_refused_with_its_holder() {
    let rework = Rework::with_plugins(&[hello()]);
    let open = OpenTransaction::begin(&rework, "select rework.schedule('noop', key => 'k')");
    let pid = open.process();
    let holder = format!("the transaction of the server's process {pid}");
    thread::scope(|scope| {
        let refusal = scope.spawn(|| rework.fails(1, &["schedule", "noop", "--key", "k"]));
        until(
            "doctor to name who waits and for whom",
            || rework.run(&["doctor"]).stdout,
            |told| told.contains("has waited for") && told.contains(&holder),
        );
        let refusal = refusal.join().unwrap();
        for part in [
            "could not schedule `noop` with the key `k`",
            &holder,
            "has scheduled the same and has not ended",
            &format!("pg_terminate_backend({pid})"),
        ] {
            assert!(refusal.contains(part), "{part}: {refusal}");
        }
    });
    open.end();
    rework.schedule(&["noop", "--key", "k"]);
    assert_eq!(
        rework.database.psql("select count(*) from rework.ready"),
        "1"
    );
}

/// Who waits as well, and is ahead, holds nothing that could be let go.
#[test]
fn the_holder_is_named_and_not_another_who_waits() {
    let rework = Rework::with_plugins(&[hello()]);
    let open = OpenTransaction::begin(&rework, "select count(*) from rework.operation");
    let holder = format!("the server's process {}", open.process());
    thread::scope(|scope| {
        scope.spawn(|| {
            let waiting = "lock table rework.operation in access exclusive mode";
            rework.database.psql(&format!("begin; {waiting}; commit"));
        });
        until(
            "it to wait",
            || {
                rework
                    .database
                    .psql("select count(*) from pg_locks where not granted")
            },
            |count| count == "1",
        );
        let refusal = rework.fails(1, &["pause", "--operation", "noop"]);
        assert!(refusal.contains(&holder), "{refusal}");
        open.end();
    });
}

/// Without a key nobody else can have scheduled the same.
#[test]
fn a_table_that_is_locked_is_no_key_that_is_taken() {
    let rework = Rework::with_plugins(&[hello()]);
    let open = OpenTransaction::begin(&rework, "lock table rework.task in exclusive mode");
    let holder = format!("the server's process {}", open.process());
    for key in [&[][..], &["--key", "k"]] {
        let refusal = rework.fails(1, &[&["schedule", "noop"], key].concat());
        assert!(refusal.contains("could not schedule `noop`"), "{refusal}");
        assert!(refusal.contains(&holder), "{refusal}");
        assert!(refusal.contains("holds a lock that is needed"), "{refusal}");
    }
    open.end();
}

/// The same of whatever else waits for a lock.
#[test]
fn a_lock_that_is_not_let_go_is_refused_with_its_holder() {
    let rework = Rework::with_plugins(&[hello()])
        .with_periods("lock_wait=3000,answer_patience=100,answer_again=100");
    let open = OpenTransaction::begin(&rework, "lock table rework.operation in exclusive mode");
    let holder = format!("the server's process {}", open.process());
    let refusal = rework.fails(1, &["pause", "--operation", "noop"]);
    assert!(refusal.contains(&holder), "{refusal}");
    assert!(refusal.contains("hint: "), "{refusal}");
    open.end();
    rework.ok(&["pause", "--operation", "noop"]);
}

/// Of two that make the schema at once, the second waits for the first.
#[test]
fn a_schema_that_somebody_else_makes_is_refused_with_its_holder() {
    let rework = Rework::without_schema();
    let lock = "select pg_advisory_xact_lock(hashtext('rework.schema'))";
    let open = OpenTransaction::begin(&rework, lock);
    let holder = format!("the server's process {}", open.process());
    let refusal = rework.fails(1, &["init-db"]);
    for part in [
        "could not migrate the schema",
        &holder,
        "migrates it as well",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    open.end();
    rework.ok(&["init-db"]);
}

/// Who interrupts a command that waits does not want it to happen later.
#[test]
fn a_command_that_is_interrupted_while_it_waits_does_nothing_later() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["noop"]);
    let lock = format!("select 1 from rework.ready where id = {id} for update");
    let open = OpenTransaction::begin(&rework, &lock);
    let mut waiting = rework.command(&["abort-task", &id]).spawn().unwrap();
    let waiters = || {
        rework
            .database
            .psql("select count(*) from pg_locks where not granted")
    };
    until("it to wait", waiters, |count| count == "1");
    let pid = nix::unistd::Pid::from_raw(waiting.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    waiting.wait().unwrap();
    until("the server to know", waiters, |count| count == "0");
    open.end();
    assert_eq!(rework.task(&id)["state"], "queued");
}
