//! Schedule: from the command line, from Rust, from SQL; what does not fit is refused before
//! anything is queued.

use crate::harness::{Rework, hello, report, standalone};
use rework::Client;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn the_same_task_from_the_command_line_sql_and_rust() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    assert_eq!(
        rework.ok(&[
            "schedule",
            "my_first_task",
            "--input",
            "\"hello\"",
            "--wait"
        ]),
        "\"hellohello\""
    );
    let id = rework
        .database
        .psql("select rework.schedule('my_first_task', '100'::jsonb)");
    assert_eq!(rework.wait(&id, &["done"])["output"], 200);

    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let t1 = client
            .schedule("my_first_task")
            .input("hello")
            .await
            .unwrap();
        let t2 = client
            .schedule("my_first_task")
            .input(100)
            .metadata(json!({"user": "Babar"}))
            .await
            .unwrap();
        t1.join().await.unwrap();
        t2.join_timeout(Duration::from_secs(5)).await.unwrap();
        assert_eq!(
            t1.output::<String>().await.unwrap().as_deref(),
            Some("hellohello")
        );
        assert_eq!(t2.output::<i64>().await.unwrap(), Some(200));
        assert_eq!(t2.metadata().await.unwrap(), json!({"user": "Babar"}));
        assert_eq!(t2.input::<i64>().await.unwrap(), Some(100));
        let lines: Vec<String> = t2
            .logs(0)
            .await
            .unwrap()
            .into_iter()
            .map(|row| row.line)
            .collect();
        assert_eq!(lines, ["I am running", "I am done"]);
    });
}

#[test]
fn a_join_that_takes_too_long_names_task_and_state() {
    let rework = Rework::with_plugins(&[hello()]);
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let task = client.schedule("my_first_task").input(1).await.unwrap();
        let error = task
            .join_timeout(Duration::from_millis(50))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("task {} is still queued after 0.05s", task.id())
        );
        assert_eq!(task.output::<i64>().await.unwrap(), None);
    });
    let refusal = rework.fails(
        1,
        &["schedule", "my_first_task", "--wait", "--timeout", "50ms"],
    );
    assert!(refusal.contains("is still queued after 0.05s"), "{refusal}");
}

#[test]
fn a_task_exists_if_and_only_if_the_callers_transaction_commits() {
    let rework = Rework::with_plugins(&[hello()]);
    rework
        .database
        .psql("begin; select rework.schedule('my_first_task', '1'); rollback");
    assert_eq!(rework.ok(&["list-tasks"]), "");
    rework
        .database
        .psql("begin; select rework.schedule('my_first_task', '1'); commit");
    assert_eq!(rework.json(&["list-tasks"]).as_array().unwrap().len(), 1);
}

#[test]
fn what_does_not_fit_is_refused_alike_from_everywhere() {
    let rework = Rework::with_plugins(&[hello()]);
    for (operation, input, reason) in [
        ("add", r#"{"b": 1}"#, "missing required input `a`"),
        ("add", r#"{"a": "1"}"#, "input `a` "),
        ("add", r#"{"a": 1, "z": 1}"#, "unknown input `z`"),
        ("add", "[1]", "must be an object of fields"),
        ("nonsense", "1", "no operation `nonsense` is registered"),
    ] {
        let refusal = rework.fails(1, &["schedule", operation, "--input", input]);
        assert!(refusal.contains(reason), "{refusal}");
        let statement = format!("select rework.schedule('{operation}', '{input}')");
        let refusal = rework.database.psql_error(&statement);
        assert!(refusal.contains(reason), "{refusal}");
    }
    assert_eq!(rework.ok(&["list-tasks"]), "");
}

#[test]
fn a_name_in_several_domains_has_to_be_told_apart() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.ok(&[
        "register-operations",
        hello().to_str().unwrap(),
        "--asdomain",
        "mine",
    ]);
    let refusal = rework.fails(1, &["schedule", "my_first_task", "--input", "1"]);
    assert!(
        refusal.contains("exists in several domains: default, mine"),
        "{refusal}"
    );
    assert!(
        refusal.contains("hint: ") && refusal.contains("--domain"),
        "{refusal}"
    );
    let refusal = rework
        .database
        .psql_error("select rework.schedule('my_first_task', '1')");
    assert!(
        refusal.contains("exists in several domains: default, mine"),
        "{refusal}"
    );
    let id = rework.schedule(&["my_first_task", "--input", "1", "--domain", "mine"]);
    assert_eq!(rework.task(&id)["domain"], "mine");
}

#[test]
fn options_are_kept_with_the_task() {
    let rework = Rework::with_plugins(&[hello()]);
    let id = rework.schedule(&[
        "my_first_task",
        "--input",
        "1",
        "--priority",
        "-3",
        "--key",
        "once",
        "--metadata",
        r#"{"user": "Babar"}"#,
        "--max-attempts",
        "2",
        "--at",
        "2100-01-01 09:00",
    ]);
    let task = rework.task(&id);
    assert_eq!(task["priority"], -3);
    assert_eq!(task["key"], "once");
    assert_eq!(task["metadata"], json!({"user": "Babar"}));
    assert_eq!(task["max_attempts"], 2);
    assert_eq!(task["run_at"], "2100-01-01T09:00:00Z");
    let again = rework.schedule(&["my_first_task", "--input", "2", "--key", "once"]);
    assert_eq!(again, id, "while the task exists, the key answers it");
}

#[test]
fn delayed_tasks_wait_and_then_run() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    let id = rework.schedule(&["my_first_task", "--input", "1", "--in", "300ms"]);
    assert_eq!(rework.task(&id)["state"], "queued");
    let late = rework.database.psql(&format!(
        "select pg_sleep(0); select count(*) from rework.delayed where id = {id}"
    ));
    assert_eq!(late.trim(), "1");
    rework.wait(&id, &["done"]);
    let waited = rework.database.psql(&format!(
        "select started >= run_at and started < run_at + interval '2 s' from rework.task where id = {id}"
    ));
    assert_eq!(waited, "t");
}

#[test]
fn files_and_raw_bytes_arrive_as_they_were_given() {
    let rework = Rework::with_plugins(&[standalone(), report()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    // Large enough to travel in memory of its own, and to be stored beside the row.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let path = rework.directory().join("bytes");
    std::fs::write(&path, &bytes).unwrap();
    let given = format!("file={}", path.display());
    let id = rework.schedule(&["reverse", "--input-file", &given]);
    let task = rework.wait(&id, &["done", "failed"]);
    assert_eq!(task["output"]["bytes"], 3_000_000, "{task:#}");
    let output = rework
        .command(&["get-output", &id, "--field", "reversed"])
        .output()
        .unwrap();
    let mut reversed = bytes.clone();
    reversed.reverse();
    assert!(output.stdout == reversed, "the file came back otherwise");

    let id = rework.schedule(&["echo", "--raw-input", path.to_str().unwrap()]);
    rework.wait(&id, &["done"]);
    let output = rework.command(&["get-output", &id]).output().unwrap();
    assert!(output.stdout == bytes, "the bytes came back otherwise");
    assert_eq!(rework.task(&id)["output_encoding"], "raw");
    let input = rework.command(&["get-input", &id]).output().unwrap();
    assert!(input.stdout == bytes);

    let id = rework.schedule(&[
        "word_frequencies",
        "--input",
        r#"{"text": "a b a", "top": 1}"#,
    ]);
    assert_eq!(
        rework.wait(&id, &["done"])["output"]["most_frequent"],
        "a 2"
    );
    let refusal = rework
        .database
        .psql_error("select rework.schedule('word_frequencies', '{\"text\": \"x\"}')");
    assert!(
        refusal.contains("rework schedule --input-file"),
        "{refusal}"
    );
}

#[test]
fn a_running_task_queues_another() {
    let rework = Rework::with_plugins(&[crate::harness::misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&["queue_another"]);
    let other = rework.wait(&id, &["done"])["output"].clone();
    let Value::Number(other) = other else {
        panic!("{other}")
    };
    assert_eq!(rework.wait(&other.to_string(), &["done"])["output"], "ok");
}

#[test]
fn a_running_task_queues_another_with_a_raw_input() {
    let rework = Rework::with_plugins(&[crate::harness::misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    // The large one travels beside the socket.
    for bytes in [0, 3, 300_000] {
        let input = format!("{{\"bytes\": {bytes}}}");
        let id = rework.schedule(&["queue_raw", "--input", &input]);
        let other = rework.wait(&id, &["done"])["output"].to_string();
        let task = rework.wait(&other, &["done"]);
        assert_eq!(task["input_encoding"], "raw", "{task:#}");
        let output = rework.command(&["get-output", &other]).output().unwrap();
        let expected: Vec<u8> = (0..bytes).map(|byte| byte as u8).rev().collect();
        assert!(output.stdout == expected, "{bytes} bytes");
    }
    let id = rework.schedule(&["queue_both"]);
    let task = rework.wait(&id, &["failed"]);
    assert_eq!(
        task["error"],
        "a task has either fields or raw input, not both"
    );
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn large_fields_arrive_whole() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    // Random, so that it stays large in its row.
    let id = rework.database.psql(
        "select rework.schedule('my_first_task', to_jsonb(string_agg(md5(n::text), '')))
           from generate_series(1, 10000) n",
    );
    rework.wait(&id, &["done"]);
    let doubled = rework.database.psql(&format!(
        "select (output #>> '{{}}') = repeat(input #>> '{{}}', 2) from rework.task where id = {id}"
    ));
    assert_eq!(doubled, "t");
}
