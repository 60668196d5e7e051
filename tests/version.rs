//! Versions of plugins: what a new one changes, which ran what, and the way back.

use crate::{
    drop_in::current,
    harness::{Database, Rework, hello, hello_version, place, until, with_texts},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

fn register(rework: &Rework, bytes: &[u8], path: &Path) -> String {
    place(bytes, path);
    rework.ok(&["register-operations", path.to_str().unwrap()])
}

fn path(rework: &Rework) -> PathBuf {
    rework.directory().join("hello.so")
}

#[test]
fn a_new_version_says_what_it_changes_and_whom_it_would_refuse() {
    let rework = Rework::new();
    let path = path(&rework);
    let plugin = path.to_str().unwrap();
    assert_eq!(
        register(&rework, &fs::read(hello()).unwrap(), &path),
        "registered 3 new operation (0 already known)"
    );
    for input in [r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#] {
        rework.schedule(&["add", "--input", input]);
    }
    rework.schedule(&["add", "--input", r#"{"a": 3}"#, "--in", "1h"]);
    rework.ok(&[
        "prepare",
        "add",
        "--rule",
        "0 0 6 * * *",
        "--input",
        r#"{"a": 1}"#,
    ]);

    let stricter = with_texts(
        &hello(),
        &[(
            r#""name":"b","type":"number","required":false"#,
            r#""name":"b","type":"number","required":true "#,
        )],
    );
    place(&stricter, &path);
    let difference = "changed add maths: input `b` is now required\n\
         the new inputs of add maths would refuse 2 queued tasks and 1 schedule";
    for (verb, option) in [("would register", Some("--dry-run")), ("registered", None)] {
        let arguments = ["register-operations", plugin].into_iter().chain(option);
        let said = rework.ok(&arguments.collect::<Vec<_>>());
        let (versions, changes): (Vec<&str>, Vec<&str>) =
            said.lines().partition(|line| line.contains(" → "));
        assert_eq!(
            changes.join("\n"),
            format!("{verb} 0 new operation (3 already known)\n{difference}")
        );
        assert!(
            versions.len() == 1 && versions[0].starts_with("hello 0.1.0 ("),
            "{versions:?}"
        );
    }
    assert_eq!(
        rework.ok(&["register-operations", plugin]),
        "registered 0 new operation (3 already known)"
    );
    // Another crate in the same file: what it lacks is retired, what waits stays.
    fs::copy(crate::harness::report(), &path).unwrap();
    let said = rework.ok(&["register-operations", plugin]);
    assert!(said.contains("\nadded word_frequencies reports"), "{said}");
    assert!(
        said.contains(
            "\nremoved add maths: it is retired here; 3 queued tasks and 1 schedule stay"
        ),
        "{said}"
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.task"),
        "3"
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.sched"),
        "1"
    );
}

#[test]
fn a_domain_is_pointed_back_at_once_and_without_the_file() {
    let rework = Rework::new();
    let path = path(&rework);
    for number in 1..=3 {
        register(&rework, &hello_version(number), &path);
    }
    let versions = rework.json(&["list-plugins"]);
    let of = |version: &str, key: &str| -> Value {
        let rows = versions.as_array().unwrap();
        let row = rows
            .iter()
            .find(|row| row["version"] == version && row["domain"] == "default");
        row.unwrap()[key].clone()
    };
    let hash = |version: &str| of(version, "hash").as_str().unwrap().to_owned();
    assert_eq!(of("0.3.0", "current"), true);
    assert_eq!(of("0.2.0", "current"), false);
    assert_eq!(of("0.3.0", "until"), Value::Null);
    assert_eq!(of("0.1.0", "host"), "testhost");
    fs::remove_file(&path).unwrap();

    let _monitor = rework.monitor(&["--all-domains"]);
    let ran = || {
        let id = rework.schedule(&["my_first_task", "--input", "1"]);
        rework.wait(&id, &["done"])["plugin_hash"].clone()
    };
    assert_eq!(ran(), hash("0.3.0"));
    let said = rework.ok(&["rollback-plugin", "default"]);
    assert_eq!(
        said,
        format!(
            "default on testhost: hello now points to 0.2.0 ({}), was 0.3.0 ({}); 2 operations",
            &hash("0.2.0")[..12],
            &hash("0.3.0")[..12]
        )
    );
    until("the version before to run", ran, |now| {
        *now == hash("0.2.0")
    });
    // The other domain of the same plugin was not meant.
    assert_eq!(current(&rework, "maths"), [hash("0.3.0")]);
    // A step further back, not forth again; and then there is nowhere to go.
    rework.ok(&["rollback-plugin", "default"]);
    until("the first version to run", ran, |now| *now == hash("0.1.0"));
    let refusal = rework.fails(1, &["rollback-plugin", "default"]);
    assert!(refusal.contains("there is no earlier version"), "{refusal}");
    // By its hash, in any direction.
    rework.ok(&[
        "rollback-plugin",
        "default",
        "--to",
        &hash("0.3.0")[..6],
        "--host",
        "testhost",
    ]);
    until("the named version to run", ran, |now| *now == hash("0.3.0"));
    for (arguments, reason) in [
        (["--to", "000000"], "has had no version with hash 000000"),
        (["--to", "0000"], "too short for a hash"),
        (["--to", &hash("0.3.0")], "is current already"),
        (["--host", "nowhere"], "on host `nowhere`"),
    ] {
        let refusal = rework.fails(
            1,
            &[&["rollback-plugin", "default"], &arguments[..]].concat(),
        );
        assert!(refusal.contains(reason), "{refusal}");
    }
    let refusal = rework.fails(1, &["rollback-plugin", "none"]);
    assert!(
        refusal.contains("no plugin was ever registered in domain `none`"),
        "{refusal}"
    );
    // Every task is counted with the version that ran it.
    let counted = |version: &str| {
        let rows = rework.json(&["list-plugins"]);
        let rows = rows.as_array().unwrap().clone();
        let row = rows
            .into_iter()
            .find(|row| row["version"] == version && row["domain"] == "default");
        row.unwrap()["tasks"].as_i64().unwrap()
    };
    assert!(counted("0.1.0") >= 1 && counted("0.2.0") >= 1 && counted("0.3.0") >= 2);
    let total = rework.database.psql("select count(*) from rework.task");
    let sum = counted("0.1.0") + counted("0.2.0") + counted("0.3.0");
    assert_eq!(sum.to_string(), total);
    // What the cache has lost cannot be returned to.
    let cached = rework
        .directory()
        .join("plugins")
        .join(format!("{}.so", hash("0.1.0")));
    fs::remove_file(cached).unwrap();
    let refusal = rework.fails(1, &["rollback-plugin", "default", "--to", &hash("0.1.0")]);
    assert!(
        refusal.contains(" is not in ") && refusal.contains("/plugins, the cache of this user"),
        "{refusal}"
    );
}

#[test]
fn a_drop_in_directory_does_not_undo_a_rollback() {
    let rework = Rework::new();
    let dir = rework.directory().join("plugins.d");
    fs::create_dir(&dir).unwrap();
    let arguments = ["--all-domains", "--plugin-dir", dir.to_str().unwrap()];
    let monitor = rework.monitor(&arguments);
    let file = place(&hello_version(1), &dir.join("hello.so"));
    let first = until(
        "version 1",
        || current(&rework, "default"),
        |now| now.len() == 1,
    );
    place(&hello_version(2), &file);
    let second = until(
        "version 2",
        || current(&rework, "default"),
        |now| *now != first,
    );
    rework.ok(&["rollback-plugin", "default"]);
    // Touched, and even looked at by another monitor: the content is what was rolled back.
    fs::write(&file, hello_version(2)).unwrap();
    monitor.interrupt();
    fs::create_dir(dir.join("default")).unwrap();
    place(
        &fs::read(crate::harness::report()).unwrap(),
        &dir.join("default/report.so"),
    );
    let _monitor = rework.monitor(&arguments);
    until(
        "the other file to be registered",
        || current(&rework, "default"),
        |now| now.len() == 2,
    );
    assert!(!current(&rework, "default").contains(&second[0]));
    assert!(current(&rework, "default").contains(&first[0]));
    place(&hello_version(3), &file);
    until(
        "the changed file to upgrade again",
        || current(&rework, "default"),
        |now| now.len() == 2 && !now.contains(&first[0]) && !now.contains(&second[0]),
    );
}

/// Queues tasks, one after the other, until it is told to stop.
fn feed(database: &Database) -> Child {
    database.psql("create table load_ends (x int)");
    let queue = "do $$ begin loop
            perform rework.schedule('my_first_task', '1');
            commit;
            exit when exists (select from load_ends);
            perform pg_sleep(0.004);
        end loop; end $$";
    Command::new(crate::harness::psql())
        .args([
            "--no-psqlrc",
            "--quiet",
            "--dbname",
            &database.url(),
            "--command",
            queue,
        ])
        .stdout(Stdio::null())
        .spawn()
        .expect("psql runs")
}

#[test]
fn ten_upgrades_and_a_rollback_under_load_lose_no_task_and_run_none_twice() {
    let rework = Rework::new();
    let dir = rework.directory().join("plugins.d");
    fs::create_dir(&dir).unwrap();
    let file = place(&hello_version(10), &dir.join("hello.so"));
    let monitor = rework.monitor(&["--plugin-dir", dir.to_str().unwrap()]);
    until(
        "the first version",
        || current(&rework, "default"),
        |now| now.len() == 1,
    );
    let mut feeder = feed(&rework.database);
    let newest = || {
        rework.database.psql(
            "select g.version from rework.task_view t
               join rework.plugin_operation p on p.id = t.plugin_operation
               join rework.plugin g on g.id = p.plugin
              where t.finished is not null order by t.finished desc limit 1",
        )
    };
    until("tasks to run", newest, |version| version == "1.0.0");
    for number in 11..=20 {
        // As `cp` does, half of the time.
        if number % 2 == 0 {
            fs::write(&file, hello_version(number)).unwrap();
        } else {
            place(&hello_version(number), &file);
        }
        let version = format!("{}.{}.0", number / 10, number % 10);
        until(&format!("version {version} to run"), newest, |now| {
            *now == version
        });
    }
    rework.ok(&["rollback-plugin", "default"]);
    until("the version before to run again", newest, |now| {
        now == "1.9.0"
    });
    rework.database.psql("insert into load_ends values (1)");
    assert!(feeder.wait().unwrap().success());
    until(
        "every task to end",
        || {
            rework
                .database
                .psql("select count(*) from rework.task_view where finished is null")
        },
        |open| open == "0",
    );
    let count = |what: &str| {
        rework
            .database
            .psql(&format!("select count(*) from {what}"))
    };
    let tasks = count("rework.task");
    assert_eq!(count("rework.task_view where state = 'done'"), tasks);
    assert_eq!(
        count("rework.task_view where attempt <> 1"),
        "0",
        "none was tried twice"
    );
    // Each ran once, on the code that its row names: its own words say which that was.
    assert_eq!(
        count("rework.log_line where line like 'I am runn-%'"),
        tasks
    );
    let strangers = "rework.log_line l
         join rework.task_view t on t.id = l.task
         join rework.plugin_operation p on p.id = t.plugin_operation
         join rework.plugin g on g.id = p.plugin
        where l.line like 'I am runn-%'
          and replace(g.version, '.', '') <> right(l.line, 2) || '0'";
    assert_eq!(count(strangers), "0");
    assert_eq!(
        count("(select distinct plugin_operation from rework.task_view) versions"),
        "11"
    );
    let gaps = rework.database.psql(
        "with finished as (
             select finished, finished - lag(finished) over (order by finished) as gap from rework.task_view
         )
         select string_agg(milliseconds::text, ' ' order by registered), max(milliseconds)
           from (select d.registered, max(extract(epoch from f.gap) * 1000)::int as milliseconds
                   from rework.deployment d
                   join rework.operation o on o.id = d.operation and o.name = 'my_first_task'
                   join finished f on f.finished between d.registered and d.registered + interval '800 ms'
                  group by d.registered) upgrades",
    );
    let delay = rework.database.psql(
        "select (extract(epoch from max(started - queued)) * 1000)::int from rework.task_view",
    );
    eprintln!(
        "{tasks} tasks; longest gaps after each change in ms: {gaps}; longest wait: {delay} ms"
    );
    let longest: i32 = gaps.rsplit('|').next().unwrap().parse().unwrap();
    // Far more than a change takes, for other tests may have the processors; how long tasks wait is a
    // matter of how fast they are queued here.
    assert!(longest < 5000, "{gaps}; longest wait: {delay} ms");
    let log = monitor.log();
    assert!(!log.contains("ERROR"), "{log}");
    // The old workers have retired.
    let workers = rework.json(&["list-workers"]);
    let upgraded = |row: &&Value| row["cause"] == "upgrade";
    assert!(workers.as_array().unwrap().iter().filter(upgraded).count() >= 11);
}
