//! Inspect: the listings, for people and for programs.

use crate::harness::{Rework, hello, misbehaving, until};

#[test]
fn listings_have_their_shapes() {
    let rework = Rework::with_plugins(&[hello()]);
    let monitor = rework.monitor(&["--domain", "default"]);
    let done = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&done, &["done"]);
    let failed = rework.schedule(&["my_first_task", "--input", "[]"]);
    rework.wait(&failed, &["failed"]);
    let tasks = rework.ok(&["list-tasks"]);
    let mut lines = tasks.lines();
    let newest = lines.next().unwrap();
    assert!(
        newest.starts_with(&format!("{failed} my_first_task failed domain=default [20")),
        "{newest}"
    );
    assert!(newest.ends_with("UTC] error: cannot double []"), "{newest}");
    let oldest = lines.next().unwrap();
    assert_eq!(oldest.matches("] → [").count(), 2, "{oldest}");

    let workers = rework.ok(&["list-workers"]);
    assert!(
        workers.contains("@testhost ") && workers.contains(" Mb [running (idle)] [20"),
        "{workers}"
    );
    let monitors = rework.ok(&["list-monitors"]);
    assert!(
        monitors.contains("UTC default options(") && monitors.contains("maxworkers=2"),
        "{monitors}"
    );

    assert_eq!(monitor.interrupt(), Some(0));
    let workers = rework.ok(&["list-workers"]);
    assert!(
        workers.contains("[dead]") && workers.ends_with(" monitor exit"),
        "{workers}"
    );
    assert_eq!(
        rework.ok(&["list-monitors"]),
        "",
        "a monitor that ends in order vanishes"
    );
}

/// What a command prints on a terminal.
fn on_a_terminal(rework: &Rework, arguments: &[&str], no_color: Option<&str>) -> String {
    let command = rework.command(arguments);
    let program = command.get_program().to_str().unwrap();
    let mut terminal = std::process::Command::new("script");
    terminal.args([
        "-qec",
        &format!("{program} {}", arguments.join(" ")),
        "/dev/null",
    ]);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => terminal.env(name, value),
            None => terminal.env_remove(name),
        };
    }
    terminal
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR");
    if let Some(value) = no_color {
        terminal.env("NO_COLOR", value);
    }
    let output = terminal.output().expect("script(1) runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn listings_are_coloured_on_a_terminal_only() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.schedule(&["my_first_task", "--input", "1"]);
    for listing in ["list-tasks", "list-operations"] {
        let coloured = on_a_terminal(&rework, &[listing], None);
        assert!(coloured.contains("\x1b[3"), "{coloured:?}");
        assert!(!on_a_terminal(&rework, &[listing], Some("1")).contains('\x1b'));
        assert!(!rework.ok(&[listing]).contains('\x1b'));
    }
    let document = on_a_terminal(&rework, &["list-tasks", "--json"], None);
    assert!(!document.contains('\x1b'), "{document:?}");
}

#[test]
fn lines_have_microseconds_and_follow_each_other() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&["log_in_every_way"]);
    rework.wait(&id, &["done"]);
    let lines = rework.json(&["log-task", &id]);
    let times: Vec<&str> = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["time"].as_str().unwrap())
        .collect();
    assert!(times.len() >= 5, "{lines:#}");
    // One in ten ends with a zero, which is left out.
    assert!(
        times
            .iter()
            .any(|time| time.len() == "2026-05-01T09:00:00.123456Z".len()),
        "{times:?}"
    );
    let instants = times
        .iter()
        .map(|time| time.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
    assert!(instants.is_sorted(), "{times:?}");
}

#[test]
fn documents_have_the_keys_of_the_contract() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("hang");
    rework.wait(&id, &["running"]);
    let has = |document: &serde_json::Value, keys: &str| {
        for key in keys.split_whitespace() {
            assert!(
                document.get(key).is_some(),
                "no key `{key}` in {document:#}"
            );
        }
    };
    let tasks = "id operation domain host state cause error priority attempt max_attempts metadata key \
                 schedule worker queued run_at started finished";
    has(&rework.json(&["list-tasks"])[0], tasks);
    has(&rework.task(&id), tasks);
    has(
        &rework.task(&id),
        "input input_encoding output output_encoding progress location backtrace exit_code signal \
         peak_memory_mb cpu_seconds plugin_hash attempts",
    );
    has(
        &rework.json(&["list-operations"])[0],
        "id name domain path host hash timeout max_attempts inputs outputs description registered paused",
    );
    let workers = rework.json(&["list-workers"]);
    has(
        &workers[0],
        "id host pid domain monitor state task runs memory_mb cpu_percent created started finished cause",
    );
    assert_eq!(workers[0]["state"], "running");
    assert_eq!(workers[0]["task"].to_string(), id);
    let human = rework.ok(&["list-workers"]);
    assert!(human.contains(&format!("[running #{id}]")), "{human}");
    has(
        &rework.json(&["list-monitors"])[0],
        "id host pid domains options started last_seen stale",
    );
    has(
        &rework.json(&["log-task", &id])[0],
        "id task attempt time stream level target line",
    );
}

#[test]
fn tasks_are_filtered_and_paged() {
    let rework = Rework::with_plugins(&[hello()]);
    rework
        .database
        .psql("select count(rework.schedule('my_first_task', '1')) from generate_series(1, 5)");
    let add = rework.schedule(&["add", "--input", r#"{"a": 1}"#]);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let rows = rework.json(&[&["list-tasks"], arguments].concat());
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].to_string())
            .collect()
    };
    assert_eq!(
        ids(&["--domain", "maths"]),
        [add.as_str()],
        "queued tasks are shown too"
    );
    assert_eq!(
        ids(&["--operation", "my_first_task", "--limit", "2"]),
        ["5", "4"]
    );
    assert_eq!(ids(&["--limit", "2", "--before", "4"]), ["3", "2"]);
    assert_eq!(ids(&["--status", "done"]), Vec::<String>::new());
    assert_eq!(ids(&["--status", "queued"]).len(), 6);
}

#[test]
fn pages_follow_each_other_without_gaps() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.database.psql(
        "select count(rework.schedule(case when n % 3 = 0 then 'add' else 'my_first_task' end,
                                      case when n % 3 = 0 then '{\"a\": 1}' else '1' end::jsonb))
           from generate_series(1, 1000) n",
    );
    let page = |arguments: &[&str]| -> Vec<i64> {
        let rows = rework.json(&[&["list-tasks"], arguments].concat());
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(page(&[]), (751..=1000).rev().collect::<Vec<_>>());
    for (filter, size) in [
        (&[][..], 1000),
        (&["--domain", "maths"], 333),
        (&["--status", "queued"], 1000),
    ] {
        let mut seen = Vec::new();
        loop {
            let before = seen.last().map_or("9999".to_owned(), i64::to_string);
            let next = page(&[filter, &["--limit", "300", "--before", &before]].concat());
            if next.is_empty() {
                break;
            }
            seen.extend(next);
        }
        assert_eq!(seen.len(), size, "{filter:?}");
        assert!(seen.is_sorted_by(|a, b| a > b), "{filter:?}");
    }
}

#[test]
fn sql_sees_what_the_listing_shows() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    let id = rework
        .database
        .psql("select rework.schedule('my_first_task', '21')");
    rework.wait(&id, &["done"]);
    assert_eq!(
        rework.database.psql(&format!(
            "select operation, state, output from rework.task_view where id = {id}"
        )),
        "my_first_task|done|42"
    );
}

#[test]
fn a_running_task_shows_its_worker_at_once() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("hang");
    until(
        "the task to run",
        || {
            rework.database.psql(&format!(
                "select state from rework.task_view where id = {id}"
            ))
        },
        |state| state == "running",
    );
    assert_eq!(
        rework.database.psql(&format!(
            "select w.state, w.task = t.id from rework.task_view t join rework.worker w on w.id = t.worker where t.id = {id}"
        )),
        "running|t"
    );
}

#[test]
fn a_page_of_a_log_unfolds_what_it_shows_and_nothing_else() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let id = rework.misbehave("ok");
    // Chunks that cannot be unfolded stand before and behind those that are asked for.
    rework.database.psql(&format!(
        "insert into rework.log (task, attempt, first, lines)
         select {id}, 1, first, case when first in (1, 2001) then '{{}}' else lines end
           from generate_series(1, 2001, 200) as chunk (first),
                lateral (select jsonb_agg(jsonb_build_array(0, 'stdout', 'info', null, 'line ' || n)) as lines
                           from generate_series(first, first + 199) n) of_chunk"
    ));
    let page = rework.run(&["log-task", &id, "--fromid", "200"]);
    let lines: Vec<&str> = page.stdout.lines().collect();
    assert_eq!(
        page.code, 1,
        "the last page has what cannot be read: {page:#?}"
    );
    assert_eq!(lines.len(), 1000);
    assert!(lines[0].ends_with(": line 201"), "{}", lines[0]);
    assert!(lines[999].ends_with(": line 1200"), "{}", lines[999]);
    // In the middle of a chunk, with an unreadable one behind the page.
    rework.database.psql(&format!(
        "delete from rework.log where task = {id} and first = 2001"
    ));
    let rest = rework.json(&["log-task", &id, "--fromid", "1990"]);
    let ids: Vec<i64> = rest
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids, (1991..=2000).collect::<Vec<_>>());
    // A hole in the numbers ends no page too early.
    rework.database.psql(&format!(
        "delete from rework.log where task = {id} and first in (1, 201, 401)"
    ));
    let rest = rework.json(&["log-task", &id]);
    assert_eq!(rest.as_array().unwrap().len(), 1400);
}
