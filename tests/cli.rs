//! The command line: wrong input gets one line that names the thing, and the right exit code.

use crate::harness::{Rework, hello, misbehaving, report, until};
use std::process::Stdio;

#[test]
fn init_db_is_idempotent_and_never_drops() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    assert!(
        rework
            .ok(&["init-db"])
            .starts_with("schema rework is at version ")
    );
    assert_eq!(rework.task(&id)["state"], "queued");
    let refusal = rework.fails_with_stdin(1, &["reset-db"], "n\n");
    assert!(refusal.contains("nothing was dropped"), "{refusal}");
    assert_eq!(rework.task(&id)["state"], "queued");
    rework.ok(&["reset-db", "--yes"]);
    let refusal = rework.fails(1, &["list-tasks"]);
    assert!(
        refusal.contains("the database has no schema `rework`"),
        "{refusal}"
    );
    assert!(
        refusal.contains("hint: run `rework init-db` first"),
        "{refusal}"
    );
}

#[test]
fn two_at_once_make_one_schema() {
    let rework = Rework::without_schema();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| rework.ok(&["init-db"]));
        }
    });
    assert_eq!(rework.ok(&["list-tasks"]), "");
}

#[test]
fn a_schema_is_made_or_dropped_not_both_at_once() {
    let rework = Rework::without_schema();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| rework.ok(&["init-db"]));
            scope.spawn(|| rework.ok(&["reset-db", "--yes"]));
        }
    });
    rework.ok(&["init-db"]);
    assert_eq!(rework.ok(&["list-tasks"]), "");
}

#[test]
fn a_schema_that_is_newer_is_left_alone() {
    let rework = Rework::new();
    rework.database.psql(
        "insert into rework.migration (version, description, success, checksum, execution_time)
         values (9999, 'from the future', true, '', 0);
         update rework.installed set functions = 'from the future'",
    );
    // It serves this program still.
    rework.ok(&["list-tasks"]);
    assert_eq!(rework.ok(&["init-db"]), "schema rework is at version 9999");
    let functions = "select functions from rework.installed";
    assert_eq!(rework.database.psql(functions), "from the future");
    rework
        .database
        .psql("update rework.installed set serves_from = 9998");
    for command in [&["list-tasks"][..], &["init-db"], &["monitor"]] {
        let refusal = rework.fails(1, command);
        let message = "error: the schema is at version 9999 and serves programs of version 9998 or newer; \
                       this rework is of version ";
        assert!(refusal.starts_with(message), "{refusal}");
        assert!(
            refusal.ends_with("hint: use a newer rework on this host\n"),
            "{refusal}"
        );
    }
}

/// Functions of an earlier version are replaced, with what users have built upon them left in place.
#[test]
fn init_db_replaces_functions_that_differ() {
    let rework = Rework::new();
    let definition = "select prosrc from pg_proc where proname = 'white_space'";
    let ours = rework.database.psql(definition);
    rework.database.psql(
        "create or replace function rework.white_space()
         returns text language sql immutable as $$ select 'earlier' $$;
         create view of_users as select id, state from rework.task_view;",
    );
    // Nothing differs by what is written down, so nothing is done.
    rework.ok(&["init-db"]);
    assert_ne!(rework.database.psql(definition), ours);
    rework
        .database
        .psql("update rework.installed set functions = 'earlier'");
    rework.ok(&["init-db"]);
    assert_eq!(rework.database.psql(definition), ours);
    assert_eq!(rework.database.psql("select count(*) from of_users"), "0");
}

#[test]
fn wrong_databases_are_named_without_their_password() {
    let rework = Rework::without_schema();
    for (database, reason) in [
        (
            "postgres://babar:secret@127.0.0.1:1/jobs",
            "could not connect to database `jobs` at 127.0.0.1:1",
        ),
        (
            "postgres://babar:secret@127.0.0.1:port/jobs",
            "the database URL cannot be used",
        ),
        (
            "mysql://babar:secret@localhost/jobs",
            "does not start with postgres://",
        ),
        (
            "postgres://babar:secret@127.0.0.1/jobs?sslmod=require",
            "it has an unknown parameter `sslmod`",
        ),
        (
            "postgres://babar:sec?secret@127.0.0.1/jobs",
            "in a password, `/` is written as %2F, `?` as %3F",
        ),
        (
            "postgres://babar:secret@127.0.0.1/jobs?pooler=transaction",
            "cannot work through a pooler",
        ),
        (
            "postgres://babar:secret@127.0.0.1/jobs?channel_binding=require",
            "its parameter `channel_binding` asks for what this rework cannot do",
        ),
        ("nonsense", "is neither a database URL nor an alias"),
        ("u:secret@h/x", "`…` is neither a database URL nor an alias"),
        ("postgres//u:secret@h/x", "`…` is neither"),
        ("host=h password=secret", "`…` is neither"),
        ("embedded:", "names no directory"),
    ] {
        let complaint = rework.fails(1, &["list-tasks", database]);
        assert!(complaint.contains(reason), "{complaint}");
        assert!(!complaint.contains("secret"), "{complaint}");
        assert!(complaint.contains("hint: "), "{complaint}");
    }
}

/// A database that stands where something else is missing is not repeated with its password.
#[test]
fn a_misplaced_database_is_not_shown_with_its_password() {
    let rework = Rework::new();
    for (code, arguments) in [
        (2, &["schedule", "postgres://u:sekret@127.0.0.1:1/x"][..]),
        (2, &["show-task", "postgres://u:sekret@127.0.0.1:1/x"]),
        (2, &["scheduled-plan", "postgres://u:sekret@127.0.0.1:1/x"]),
        (
            2,
            &[
                "list-tasks",
                "postgres://127.0.0.1:1/x",
                "postgres://u:sekret@h/x",
            ],
        ),
        (1, &["list-tasks", "postgres:/u:sekret@h/x"]),
        (1, &["schedule", "postgresql:/u:sekret@h/x"]),
    ] {
        let complaint = rework.fails(code, arguments);
        assert!(!complaint.contains("sekret"), "{complaint}");
    }
    for postgres in ["postgres//u:sekret@h/x", "u:sekret@h/x"] {
        let output = rework.run(&["doctor", postgres]);
        assert!(!output.stdout.contains("sekret"), "{output:?}");
    }
    let complaint = rework.fails(2, &["schedule", "postgres://h/x"]);
    assert!(
        complaint.contains("<NAME>"),
        "what is missing is named: {complaint}"
    );
}

#[test]
fn what_was_typed_does_not_come_back_at_any_length() {
    let rework = Rework::with_plugins(&[hello()]);
    let deep = "[".repeat(100_000);
    let complaint = rework.fails(2, &["schedule", "my_first_task", "--input", &deep]);
    assert!(complaint.len() < 5000, "{} bytes", complaint.len());
}

#[test]
fn a_mistyped_cluster_is_not_made() {
    let rework = Rework::without_schema();
    let path = rework.directory().join("nowhere");
    let database = format!("embedded:{}", path.display());
    let complaint = rework.fails(1, &["list-tasks", &database]);
    assert!(
        complaint.contains("there is no cluster in ") && complaint.contains("rework init-db"),
        "{complaint}"
    );
    assert!(!path.exists());
}

#[test]
fn a_full_disk_is_an_error_and_no_panic() {
    let rework = Rework::with_plugins(&[hello()]);
    for arguments in [
        &["completions", "bash"][..],
        &["--help"],
        &["list-operations"],
    ] {
        let output = rework
            .command(arguments)
            .stdout(std::fs::File::create("/dev/full").unwrap())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {complaint}");
        assert!(
            complaint.starts_with("error: could not write"),
            "{complaint}"
        );
    }
}

/// Runs a command whose output nobody can write; what it complained.
fn into_a_full_disk(rework: &Rework, arguments: &[&str]) -> String {
    let output = rework
        .command(arguments)
        .stdout(std::fs::File::create("/dev/full").unwrap())
        .output()
        .unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {complaint}");
    let errors = complaint.lines().filter(|line| line.starts_with("error: "));
    assert_eq!(errors.count(), 1, "{arguments:?}: {complaint}");
    assert!(
        complaint.contains("could not write: No space left on device"),
        "{arguments:?}: {complaint}"
    );
    complaint
}

#[test]
fn every_command_fails_that_cannot_print() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["my_first_task", "--input", "21"]);
    // The plan of the next hour has something to show.
    rework.ok(&["prepare", "noop", "--rule", "0 */5 * * * *"]);
    let hello = hello();
    let monitor = rework.monitor(&[]);
    rework.wait(&id, &["done"]);
    for arguments in [
        &["--version"][..],
        &["schedule", "--help"],
        &["list-tasks"],
        &["list-tasks", "--json"],
        &["show-task", &id],
        &["show-task", &id, "--json"],
        &["log-task", &id],
        &["get-input", &id],
        &["get-output", &id],
        &["list-workers"],
        &["list-monitors"],
        &["list-plugins"],
        &["list-scheduled"],
        &["scheduled-plan", "default"],
        &["export-scheduled", "--path", "-"],
        &["check-plugin", hello.to_str().unwrap()],
        &["doctor"],
        &["doctor", "--json"],
    ] {
        into_a_full_disk(&rework, arguments);
    }
    monitor.interrupt();
}

/// A command about several tasks does it to all, whatever becomes of what it prints.
#[test]
fn output_that_is_not_taken_keeps_no_task_from_its_end() {
    let rework = Rework::with_plugins(&[hello()]);
    let ids = ["1", "2", "3"].map(|id| {
        assert_eq!(rework.schedule(&["noop"]), id);
        id
    });
    let complaint = into_a_full_disk(&rework, &[&["abort-task"], &ids[..]].concat());
    for part in ["task 1 is aborted; could not write", "task 2 is aborted"] {
        assert!(complaint.contains(part), "{complaint}");
    }
    for id in ids {
        assert_eq!(rework.task(id)["state"], "aborted");
    }
    // A refusal is a failure also where nobody reads.
    let mut command = rework.command(&["retry-task", "4", "1", "2", "3"]);
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("error: no task 4"), "{complaint}");
    for id in ids {
        assert_eq!(rework.task(id)["state"], "queued");
    }
}

#[test]
fn what_was_done_is_said_also_if_it_cannot_be_printed() {
    let rework = Rework::with_plugins(&[hello()]);
    let said = |arguments: &[&str], change: &str| {
        let complaint = into_a_full_disk(&rework, arguments);
        let wanted = format!("error: {change}");
        assert!(complaint.contains(&wanted), "{arguments:?}: {complaint}");
    };
    let schedule = [
        "schedule",
        "my_first_task",
        "--input",
        "21",
        "--key",
        "once",
    ];
    said(&schedule, "task 1 is queued; ");
    assert_eq!(rework.task("1")["state"], "queued");
    said(&schedule, "task 1 was known by its key; ");
    let prepare = ["prepare", "noop", "--rule", "0 0 12 * * *"];
    said(&prepare, "schedule 1 is prepared; ");
    said(&["pause", "--schedule", "1"], "schedule 1 is paused; ");
    said(&["resume", "--schedule", "1"], "schedule 1 is resumed; ");
    said(&["pause", "--domain", "maths"], "domain maths is paused; ");
    said(
        &["resume", "--domain", "maths"],
        "domain maths is resumed; ",
    );
    said(&["export-scheduled"], "saved 1 entries into ");
    said(&["import-scheduled"], "loaded 1 entries from ");
    said(&["unprepare", "1"], "1 : removed 1 prepared operation; ");
    said(&["abort-task", "1"], "task 1 is aborted; ");
    said(&["retry-task", "1"], "task 1 is queued again, attempt 1; ");
    said(&["abort-task", "1"], "task 1 is aborted; ");
    said(&["delete-task", "1"], "task 1 is deleted, with its log; ");
    said(&["vacuum", "--tasks", "--days", "0"], "deleted 0 tasks; ");
    {
        let _monitor = rework.monitor(&[]);
        let wait = ["schedule", "my_first_task", "--input", "21", "--wait"];
        // The known key has used up a number.
        said(&wait, "task 3 is done; ");
    }
    let unregister = ["unregister-operation", "noop", "--no-confirm"];
    said(&unregister, "delete noop default ");
    let register = ["register-operations", hello().to_str().unwrap()].map(str::to_owned);
    let register: Vec<&str> = register.iter().map(String::as_str).collect();
    said(&register, "registered 1 new operation ");
    said(&["init-db"], "schema rework is at version ");
    said(&["reset-db", "--yes"], "schema rework is gone; ");
}

/// As a shell does with `| true`.
#[test]
fn who_reads_no_output_hears_of_the_task() {
    let rework = Rework::with_plugins(&[hello()]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = rework
        .command(&["schedule", "my_first_task", "--input", "21"])
        .stdout(writer)
        .output()
        .unwrap();
    let note = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), note.trim()),
        (Some(0), "task 1 is queued")
    );
}

#[test]
fn an_alias_that_stands_for_nothing_is_named() {
    let rework = Rework::new();
    let configuration = rework.directory().join("rework.cfg");
    std::fs::write(&configuration, "[dburi]\nempty =\n").unwrap();
    let refusal = rework.fails(1, &["list-tasks", "empty"]);
    assert!(
        refusal.starts_with(
            "error: alias `empty` in section [dburi] of rework.cfg stands for nothing"
        ) && refusal.contains("\nhint: DB is a postgres:// URL"),
        "{refusal}"
    );
    let refusal = rework.fails(1, &["list-tasks", ""]);
    assert!(refusal.starts_with("error: DB is empty\n"), "{refusal}");
}

#[test]
fn aliases_come_from_the_configuration_file() {
    let rework = Rework::new();
    let configuration = format!("[dburi]\nmine = {}\n", rework.database.url());
    std::fs::write(rework.directory().join("rework.cfg"), configuration).unwrap();
    assert_eq!(rework.ok(&["list-tasks", "mine"]), "");
    let refusal = rework.fails(1, &["list-tasks", "yours"]);
    assert!(
        refusal.contains("no alias `yours` in section [dburi]") && refusal.contains("mine"),
        "{refusal}"
    );
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    let rework = Rework::with_plugins(&[hello()]);
    for arguments in [
        &["schedule", "my_first_task", "--input", "{"][..],
        &["schedule", "my_first_task", "--metadata", "nonsense"],
        &["schedule", "my_first_task", "--in", "3x"],
        &["schedule", "my_first_task", "--at", "tomorrow"],
        &["schedule", "my_first_task", "--max-attempts", "0"],
        &["schedule", "my_first_task", "--timeout", "3s"],
        &["schedule", "my_first_task", "--input-file", "nonsense"],
        &["list-tasks", "--status", "nonsense"],
        &["list-tasks", "--limit", "many"],
        &["show-task", "seven"],
        &["log-task", "1", "--level", "loud"],
        &["monitor", "--grace", "3x"],
        &["monitor", "--grace", "P99999999D"],
        &["monitor", "--start-timeout", "9223372036854775807"],
        &["schedule", "my_first_task", "--priority", "99999"],
        &["schedule", "my_first_task", "--in", "-3m"],
        &["list-tasks", "--limit", "-1"],
        &["vacuum", "--tasks", "--days", "-1"],
        &["log-task", "1", "--fromid", "-1"],
        &["monitor", "--minworkers", "5"],
        &["nonsense"],
        &["schedule"],
        &[
            "schedule",
            "my_first_task",
            "--input-file",
            "f=a",
            "--input-file",
            "f=b",
        ],
        &[
            "schedule",
            "my_first_task",
            "--input-file",
            "f=a",
            "--input",
            r#"{"f": 1}"#,
        ],
        &[
            "prepare",
            "my_first_task",
            "--rule",
            "0 0 * * * *",
            "--input-file",
            "f=a",
            "--input-file",
            "f=b",
        ],
    ] {
        let complaint = rework.fails(2, arguments);
        for leak in [
            "RUST_BACKTRACE",
            "unexpected argument '-",
            "digit found",
            "target type",
        ] {
            assert!(!complaint.contains(leak), "{complaint}");
        }
    }
    assert_eq!(rework.ok(&["list-tasks"]), "", "nothing was queued");
}

/// What is typed may have line breaks in it, the error has none.
#[test]
fn an_error_is_one_line_whatever_was_typed() {
    let rework = Rework::with_plugins(&[hello()]);
    for arguments in [
        &["schedule", "my_first_task", "--input", "{\n\"a\": "][..],
        &["schedule", "my_first_task", "--at=to\nmorrow\n"],
        &["list-tasks", "--status", "a\r\nb"],
        &["no\nsuch"],
        &["\n"],
        &["prepare", "noop", "--rule", "\n* *"],
    ] {
        let complaint = rework.fails(2, arguments);
        let lines: Vec<&str> = complaint.lines().collect();
        let is_known = |line: &&str| {
            line.is_empty()
                || [
                    "error: ",
                    "  [possible values",
                    "  tip: ",
                    "Usage: ",
                    "For more information",
                ]
                .iter()
                .any(|start| line.starts_with(start))
        };
        assert!(lines.iter().all(is_known), "{complaint}");
    }
    let complaint = rework.fails(1, &["schedule", "no\nsuch"]);
    assert_eq!(complaint.lines().count(), 2, "error and hint: {complaint}");
}

/// Where it may be what is missing, and nowhere else.
#[test]
fn who_leaves_out_the_database_is_told_where_it_belongs() {
    let rework = Rework::new();
    let without = |arguments: &[&str]| {
        let output = rework.command(arguments).env_remove("REWORK_DB").output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    let hint = "hint: DB is the first argument";
    assert!(without(&["list-tasks"]).contains(hint));
    for arguments in [
        &["check-plugin"][..],
        &["completions"],
        &["prepare", "embedded:/nowhere", "noop"],
    ] {
        assert!(!without(arguments).contains(hint), "{arguments:?}");
    }
}

/// An empty listing says so where the name may be mistyped; only beside the data.
#[test]
fn a_name_that_nothing_has_is_noted_where_a_listing_is_empty() {
    let rework = Rework::with_plugins(&[hello()]);
    for (arguments, note) in [
        (
            &["list-tasks", "--domain", "nope"][..],
            "no operation is in domain `nope`",
        ),
        (
            &["list-tasks", "--operation", "nope"],
            "no operation is called `nope`",
        ),
        (
            &["list-tasks", "--domain", "default", "--operation", "add"],
            "no operation of domain `default` is called `add`",
        ),
        (&["list-operations", "--domain", "nope"], "`nope`"),
        (&["list-workers", "--domain", "nope"], "`nope`"),
        (&["list-scheduled", "--domain", "nope"], "`nope`"),
        (&["scheduled-plan", "nope"], "`nope`"),
    ] {
        let output = rework.run(arguments);
        assert_eq!(output.code, 0, "{arguments:?}: {output:?}");
        assert!(output.stderr.contains(note), "{arguments:?}: {output:?}");
        assert!(!output.stdout.contains("nope"), "{output:?}");
    }
    for arguments in [
        &["list-tasks", "--domain", "maths"][..],
        &["list-tasks", "--operation", "noop", "--limit", "0"],
        &["list-scheduled"],
        &["scheduled-plan", "default"],
    ] {
        assert_eq!(rework.run(arguments).stderr, "", "{arguments:?}");
    }
}

#[test]
fn names_are_words() {
    let rework = Rework::with_plugins(&[hello()]);
    let long = "x".repeat(501);
    for name in ["", "a b", "a\u{202e}b", &long] {
        rework.fails(2, &["monitor", "--host", name]);
        rework.fails(2, &["register-operations", "plugin.so", "--asdomain", name]);
    }
}

#[test]
fn a_long_input_is_shown_by_its_beginning() {
    let rework = Rework::with_plugins(&[hello()]);
    let text = "long".repeat(10_000);
    let id = rework.schedule(&["my_first_task", "--input", &format!("\"{text}\"")]);
    let shown = rework.ok(&["show-task", &id]);
    assert!(shown.len() < 4000, "{} bytes", shown.len());
    assert!(
        shown.contains(&format!(
            "… (40002 bytes; `rework get-input {id}` prints all)"
        )),
        "{shown}"
    );
    assert_eq!(rework.task(&id)["input"], text);
}

#[test]
fn what_cannot_be_done_exits_with_1() {
    let rework = Rework::with_plugins(&[hello()]);
    for (arguments, reason) in [
        (&["show-task", "7"][..], "no task 7"),
        (&["log-task", "7"], "no task 7"),
        (&["get-output", "7"], "no task 7"),
        (&["get-input", "7", "--field", "x"], "no task 7"),
        (
            &["schedule", "my_first_task", "--raw-input", "/nowhere"],
            "could not read /nowhere",
        ),
        (
            &["schedule", "my_first_task", "--metadata", "[]"],
            "metadata must be an object",
        ),
        (
            &["schedule", "my_first_task", "--in", "P9999999D"],
            "is too far away",
        ),
        (
            &["schedule", "my_first_task", "--in", "P99999999999999D"],
            "the delay is too long",
        ),
        (
            &["schedule", "my_first_task", "--input", r#"{"a": "\u0000"}"#],
            "the input holds a NUL character",
        ),
        (
            &["schedule", "my_first_task", "--host", "nowhere"],
            "is not registered on host `nowhere`",
        ),
        (
            &["schedule", "my_first_task", "--domain", "nowhere"],
            "is registered in domain `nowhere`",
        ),
    ] {
        let complaint = rework.fails(1, arguments);
        assert!(complaint.contains(reason), "{complaint}");
    }
}

/// The planner may read the tables in any order.
#[test]
fn what_no_host_offers_is_refused_however_the_database_looks() {
    let rework = Rework::with_plugins(&[hello(), report(), misbehaving()]);
    rework.database.psql("analyze");
    for command in ["schedule", "prepare"] {
        let rule = ["--rule", "0 0 0 1 1 *"];
        let rule = if command == "prepare" { &rule[..] } else { &[] };
        for (name, host) in [("my_first_task", "nowhere"), ("nosuch", "testhost")] {
            let arguments = [&[command, name, "--host", host], rule].concat();
            let complaint = rework.fails(1, &arguments);
            assert!(complaint.contains(name), "{complaint}");
        }
    }
    for operation in ["my_first_task", "noop", "add"] {
        rework.ok(&["unregister-operation", operation, "--no-confirm"]);
    }
    rework.database.psql("analyze");
    let complaint = rework.fails(1, &["schedule", "my_first_task"]);
    assert!(complaint.contains("my_first_task"), "{complaint}");
}

#[test]
fn the_key_and_the_host_of_the_environment_are_checked_like_those_of_the_command_line() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.fails(
        2,
        &["schedule", "my_first_task", "--input", "1", "--key", ""],
    );
    let complaint = rework
        .database
        .psql_error("select rework.schedule('my_first_task', '1', key => '')");
    assert!(complaint.contains("the key is empty"), "{complaint}");
    let long = "x".repeat(1001);
    let complaint = rework.fails(1, &["schedule", "noop", "--key", &long]);
    assert!(complaint.contains("the key has 1001 bytes"), "{complaint}");
    let complaint = rework
        .database
        .psql_error("select rework.schedule('noop', key => repeat('x', 1001))");
    assert!(complaint.contains("the key has 1001 bytes"), "{complaint}");
    assert_eq!(rework.ok(&["list-tasks"]), "");
    for command in ["monitor", "bench"] {
        let output = rework
            .command(&[command])
            .env("REWORK_HOST", "two words")
            .output()
            .unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(
            complaint.contains("`two words` (--host or REWORK_HOST) cannot name a host"),
            "{complaint}"
        );
    }
}

/// What the programs could not read again would hold up everybody who meets it.
#[test]
fn documents_that_cannot_be_read_again_are_refused_everywhere() {
    let rework = Rework::with_plugins(&[hello()]);
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    for (document, reason) in [
        (deep(101), "the input is nested more than 100 levels deep"),
        (
            "1e400".to_owned(),
            "the number 1e400 is larger than a double holds",
        ),
        (
            "[{\"a\": -1e400}]".to_owned(),
            "the number -1e400 is larger than a double holds",
        ),
    ] {
        let call = format!("select rework.schedule('my_first_task', '{document}')");
        let complaint = rework.database.psql_error(&call);
        assert!(complaint.contains(reason), "{complaint}");
        let output = rework.run(&["schedule", "my_first_task", "--input", &document]);
        assert_ne!(output.code, 0, "{output:?}");
        let metadata = reason.replace("input", "metadata");
        let call = format!("select rework.schedule('noop', metadata => '{{\"m\": {document}}}')");
        let complaint = rework.database.psql_error(&call);
        // Metadata is jsonb when we see it: its numbers are written in full.
        let metadata = metadata.replace("1e400", "1000000000000");
        let (begin, end) = metadata.split_once(" is ").unwrap();
        assert!(
            complaint.contains(begin) && complaint.contains(end),
            "{complaint}"
        );
    }
    let complaint = rework.fails(1, &["schedule", "my_first_task", "--input", &deep(101)]);
    assert!(
        complaint.contains("nested more than 100 levels"),
        "{complaint}"
    );
    assert_eq!(rework.ok(&["list-tasks"]), "");
    // As deep as it may be, it comes back.
    let id = rework.schedule(&["my_first_task", "--input", &deep(100)]);
    assert_eq!(rework.ok(&["get-input", &id]), deep(100));
    rework.database.psql(&format!(
        "select rework.schedule('my_first_task', '{}')",
        deep(100)
    ));
    rework.ok(&["list-tasks"]);
}

#[test]
fn what_callers_wrote_does_nothing_to_a_terminal() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.ok(&["abort-task", &id, "--message", "\x1b]0;title\x07\rgone"]);
    let complaint = rework.fails(1, &["schedule", "\x1b[2J\x08none"]);
    for text in [rework.ok(&["list-tasks"]), complaint] {
        assert!(
            text.contains("\\u{1b}") && !text.contains(['\x1b', '\r', '\x07', '\x08']),
            "{text:?}"
        );
    }
}

/// The same in JSON, which stays what it was.
#[test]
fn documents_that_are_printed_can_be_read_again() {
    let rework = Rework::with_plugins(&[hello()]);
    let text = "\u{202e}\u{7f}\u{9b}\u{2067}ü\n";
    let input = serde_json::json!([text]).to_string();
    let id = rework.schedule(&["my_first_task", "--input", &input]);
    let printed = rework.ok(&["get-input", &id]);
    assert!(
        printed.contains(r"\u202e\u007f\u009b\u2067ü\n"),
        "{printed}"
    );
    for document in [printed, rework.task(&id)["input"].to_string()] {
        let read: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(read[0], text);
    }
}

#[test]
fn who_stops_waiting_is_told_what_goes_on() {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let rework = Rework::with_plugins(&[hello()]);
    // Nobody runs it.
    let waiting = rework
        .command(&["schedule", "my_first_task", "--input", "1", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let count = || rework.database.psql("select count(*) from rework.waiter");
    until("it to wait", count, |count| count != "0");
    kill(Pid::from_raw(waiting.id().cast_signed()), Signal::SIGINT).unwrap();
    let output = waiting.wait_with_output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.starts_with("error: interrupted while task 1 was waited for\nhint: it goes on"),
        "{complaint}"
    );
    assert_eq!(rework.task("1")["state"], "queued");
}

#[test]
fn help_and_completions_are_there() {
    let rework = Rework::without_schema();
    let help = rework.ok(&["--help"]);
    for command in [
        "register-operations",
        "schedule",
        "monitor",
        "list-tasks",
        "abort-task",
        "bench",
    ] {
        assert!(help.contains(command), "{help}");
    }
    assert!(
        !help.contains("new-worker"),
        "the hidden ones stay hidden: {help}"
    );
    assert!(
        rework
            .ok(&["completions", "bash"])
            .contains("register-operations")
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let rework = Rework::with_plugins(&[hello()]);
    rework
        .database
        .psql("select count(rework.schedule('my_first_task', '1')) from generate_series(1, 5000)");
    let shell = format!(
        "{} list-tasks --limit 5000 | head -1",
        env!("CARGO_BIN_EXE_rework")
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &format!("set -o pipefail; {shell}")])
        .env("REWORK_DB", rework.database.url())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}
