//! Schedule: from the command line, from Rust, from SQL; what does not fit is refused before
//! anything is queued.

use crate::harness::{Rework, hello, report, standalone, until};
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
fn a_time_that_no_calendar_has_is_refused_in_sql_too() {
    let rework = Rework::with_plugins(&[hello()]);
    for time in ["infinity", "-infinity", "12020-01-01", "4000-01-01 BC"] {
        let refusal = rework.database.psql_error(&format!(
            "select rework.schedule('my_first_task', '1', run_at => '{time}')"
        ));
        assert!(
            refusal.contains("run_at must be in the years 1 to 9999"),
            "{refusal}"
        );
    }
    assert_eq!(rework.ok(&["list-tasks"]), "");
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
    let rule = [
        "prepare",
        "my_first_task",
        "--rule",
        "0 0 * * * *",
        "--input",
        "1",
    ];
    let refusal = rework.fails(1, &rule);
    assert!(
        refusal.contains("exists in several domains: default, mine"),
        "{refusal}"
    );
    rework.ok(&[&rule[..], &["--domain", "mine"]].concat());
    assert_eq!(rework.json(&["list-scheduled"])[0]["domain"], "mine");
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
    let again = rework.schedule(&["my_first_task", "--input", "1", "--key", "once"]);
    assert_eq!(again, id, "while the task exists, the key answers it");
}

#[test]
fn delayed_tasks_wait_and_then_run() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&[]);
    // Long enough for two looks on a machine that is busy.
    let id = rework.schedule(&["my_first_task", "--input", "1", "--in", "3s"]);
    assert_eq!(rework.task(&id)["state"], "queued");
    let late = rework.database.psql(&format!(
        "select pg_sleep(0); select count(*) from rework.delayed where id = {id}"
    ));
    assert_eq!(late.trim(), "1");
    rework.wait(&id, &["done"]);
    let waited = rework.database.psql(&format!(
        "select started >= run_at and started < run_at + interval '2 s' from rework.task_view where id = {id}"
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
    let id = rework
        .database
        .psql("select rework.schedule('word_frequencies', '{\"text\": \"b a b\", \"top\": 1}')");
    assert_eq!(
        rework.wait(&id, &["done"])["output"]["most_frequent"],
        "b 2"
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

fn every_type_goes_in_and_out() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let path = rework.directory().join("content");
    std::fs::write(&path, [0, 255, 10]).unwrap();
    let file = format!("a file.txt={}", path.display());
    let input = json!({
        "number": 1.5, "flag": true, "text": "hé", "size": "large",
        "time": "2026-05-01 09:00", "moment": "(shifted (date \"2024-1-31\") #:months 1)",
    });
    let output = rework.ok(&[
        "schedule",
        "mirror",
        "--input",
        &input.to_string(),
        "--input-file",
        &file,
        "--wait",
    ]);
    let output: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(
        output,
        json!({
            "a file.txt": {
                "bytes": 3,
                "sha256": "712450d3c4a79eea9509e75dc1dacdeff58034df538536cfae2da882bd8a0c50",
            },
            "number": 1.5, "flag": true, "text": "hé", "size": "large",
            "time": "2026-05-01T09:00:00Z", "moment": "2024-02-29T00:00:00Z", "by": "nobody",
        })
    );
    let stored = rework.task("1");
    assert_eq!(
        stored["input"]["moment"], "2024-02-29T00:00:00Z",
        "resolved once, when it was queued"
    );
    // Without the optional ones, a file as text or base64.
    for content in [json!("abc"), json!({"base64": "YWJj"})] {
        let input = json!({"a file.txt": content, "number": 2}).to_string();
        let id = rework.schedule(&["mirror", "--input", &input]);
        let task = rework.wait(&id, &["done", "failed"]);
        assert_eq!(task["output"]["size"], "small", "{task:#}");
        assert_eq!(task["output"].get("flag"), None);
        assert_eq!(
            rework.ok(&["get-output", &id, "--field", "a file.txt"]),
            "abc"
        );
        assert_eq!(rework.ok(&["get-input", &id, "--field", "number"]), "2");
    }
}

#[test]
fn moments_are_refused_where_they_cannot_be_meant() {
    let rework = Rework::with_plugins(&[standalone()]);
    for (horizon, fault) in [
        ("(tomorrow)", "`tomorrow` is unknown"),
        ("(shifted (today) #:moons 1)", "#:moons is unknown"),
        ("next week", "expected `(`"),
    ] {
        let input = json!({ "horizon": horizon }).to_string();
        let refusal = rework.fails(1, &["schedule", "plan", "--input", &input]);
        assert!(
            refusal.contains("input `horizon` of `plan` is not a moment")
                && refusal.contains(fault),
            "{refusal}"
        );
    }
    assert_eq!(rework.ok(&["list-tasks"]), "");
    // In the caller's zone, where nothing else is said.
    let input = json!({"horizon": "(date \"2026-07-01 09:00\")"}).to_string();
    let zoned = rework
        .command(&["schedule", "plan", "--input", &input])
        .env("TZ", "Europe/Paris")
        .output()
        .unwrap();
    let id = String::from_utf8(zoned.stdout).unwrap();
    assert_eq!(
        rework.task(id.trim())["input"]["horizon"],
        "2026-07-01T07:00:00Z"
    );
    // In SQL as elsewhere: a datetime is UTC unless it says otherwise, whatever the session's zone; an
    // expression is in that zone.
    let given = [
        ("(date \\\"2026-07-01 09:00\\\")", "2026-07-01T00:00:00Z"),
        ("2026-07-01", "2026-07-01T00:00:00Z"),
        ("2026-07-01 09:30", "2026-07-01T09:30:00Z"),
        ("2026-07-01T09:30:00.25-01:00", "2026-07-01T10:30:00.25Z"),
    ];
    for (horizon, stored) in given {
        let id = rework.database.psql(&format!(
            "set timezone = 'Asia/Tokyo'; select rework.schedule('plan', '{{\"horizon\": \"{horizon}\"}}')"
        ));
        assert_eq!(rework.task(&id)["input"]["horizon"], stored);
    }
    for horizon in ["infinity", "now", "2026-02-30", "2026-07-01 +02", "12:00"] {
        let refusal = rework.database.psql_error(&format!(
            "select rework.schedule('plan', '{{\"horizon\": \"{horizon}\"}}')"
        ));
        assert!(
            refusal.contains("input `horizon` of `plan` is not a moment"),
            "{refusal}"
        );
    }
}

/// Each a datetime and what is stored of it; nothing: it is refused.
const DATETIMES: [(&str, Option<&str>); 33] = [
    ("2026-7-1", Some("2026-07-01T00:00:00Z")),
    ("2026-07-01 9:30", Some("2026-07-01T09:30:00Z")),
    ("2026-07-01t09:30:01", Some("2026-07-01T09:30:01Z")),
    ("2026-07-01T09:30Z", Some("2026-07-01T09:30:00Z")),
    ("2026-07-01 09:30 +0200", Some("2026-07-01T07:30:00Z")),
    (
        "2026-07-01 09:30:00.25-05:30",
        Some("2026-07-01T15:00:00.25Z"),
    ),
    (
        "2026-07-01T09:30:00.1234567Z",
        Some("2026-07-01T09:30:00.123456Z"),
    ),
    (
        "2026-07-01T09:30:00.9999999",
        Some("2026-07-01T09:30:00.999999Z"),
    ),
    ("0001-01-01", Some("0001-01-01T00:00:00Z")),
    (
        "9999-12-31T23:59:59.999999Z",
        Some("9999-12-31T23:59:59.999999Z"),
    ),
    ("2024-02-29", Some("2024-02-29T00:00:00Z")),
    (
        "  2026-07-01T09:30:00 +02:00 ",
        Some("2026-07-01T07:30:00Z"),
    ),
    ("2026-07-01T09:30 Z", Some("2026-07-01T09:30:00Z")),
    ("26-07-01", None),
    ("+2026-07-01", None),
    ("12026-07-01", None),
    ("2026-07-01  09:30", None),
    ("2026-07-01T09:30\u{2212}02:00", None),
    ("2026-07-01T09:30:00.Z", None),
    ("2026-07-01T09:30+02", None),
    ("2026-07-01+02:00", None),
    ("2026-07-01T09:30Z+02:00", None),
    ("2026-02-30", None),
    ("2026-07-01T24:00:00", None),
    ("2026-07-01T23:59:60Z", None),
    ("2026-07-01T23:60", None),
    ("2026-07-01T09:30+16:00", None),
    ("2026-07-01T09:30+01:60", None),
    ("0000-01-01", None),
    ("0001-01-01T00:00+01:00", None),
    ("9999-12-31T23:59-01:00", None),
    ("20260701", None),
    ("now", None),
];

#[test]
fn a_datetime_means_the_same_in_sql_and_elsewhere() {
    let rework = Rework::with_plugins(&[standalone()]);
    for (horizon, stored) in DATETIMES {
        let input = json!({ "horizon": horizon }).to_string();
        let statement = format!("select rework.schedule('plan', '{input}')");
        let Some(stored) = stored else {
            rework.fails(1, &["schedule", "plan", "--input", &input]);
            rework.database.psql_error(&statement);
            continue;
        };
        let ids = [
            rework.schedule(&["plan", "--input", &input]),
            rework.database.psql(&statement),
        ];
        for id in ids {
            assert_eq!(rework.task(&id)["input"]["horizon"], stored, "{horizon}");
        }
    }
}

#[test]
fn files_are_given_in_sql_as_elsewhere() {
    let rework = Rework::with_plugins(&[standalone()]);
    let schedule = |file: &str| {
        format!(
            "select rework.schedule('mirror', jsonb_build_object('number', 1, 'a file.txt', {file}), key => 'k' || md5({file}::text))"
        )
    };
    let large = "repeat('a', 3000000)";
    for (file, content) in [
        ("to_jsonb('hé'::text)", "hé".to_owned()),
        (r#"'{"base64": "aMOp"}'::jsonb"#, "hé".to_owned()),
        ("to_jsonb(''::text)", String::new()),
        (&format!("to_jsonb({large})"), "a".repeat(3_000_000)),
    ] {
        let id = rework.database.psql(&schedule(file));
        let again = rework.database.psql(&schedule(file));
        assert_eq!(id, again, "one with this key");
        let field = ["get-input", &id, "--field", "a file.txt"];
        assert_eq!(rework.ok(&field), content);
        let shown = rework.task(&id)["input"]["a file.txt"].clone();
        assert_eq!(shown["bytes"], content.len(), "{shown}");
        let through = rework.schedule(&[
            "mirror",
            "--input",
            &json!({"number": 1, "a file.txt": content.get(..9).unwrap_or(&content)}).to_string(),
        ]);
        let same = content.len() <= 9;
        assert_eq!(rework.task(&through)["input"]["a file.txt"] == shown, same);
    }
    for (file, fault) in [
        (
            "to_jsonb(1)",
            "`a file.txt` of `mirror` must be a string or {\"base64\": \"…\"}, not a number",
        ),
        (
            r#"'{"base64": "***"}'::jsonb"#,
            "`a file.txt` of `mirror` is not base64",
        ),
        (
            r#"'{"bytes": 3, "sha256": "00"}'::jsonb"#,
            "must be a string or",
        ),
        (
            r#"'{"base64": "aMOp", "more": 1}'::jsonb"#,
            "must be a string or",
        ),
        (r#"'{"base64": "aM\\nOp"}'::jsonb"#, "is not base64"),
        (r#"'{"base64": "aGk=aGk="}'::jsonb"#, "is not base64"),
        (r#"'{"base64": "aGl="}'::jsonb"#, "is not base64"),
    ] {
        let refusal = rework.database.psql_error(&schedule(file));
        assert!(refusal.contains(fault), "{refusal}");
    }
    let id = rework
        .database
        .psql(&schedule(&format!("to_jsonb({large})")));
    let _monitor = rework.monitor(&["--all-domains"]);
    let task = rework.wait(&id, &["done", "failed"]);
    assert_eq!(task["output"]["a file.txt"]["bytes"], 3_000_000, "{task:#}");
}

/// What a key stands for keeps its own files.
#[test]
fn files_are_stored_once_for_a_task_that_is_known_by_its_key() {
    let rework = Rework::with_plugins(&[hello(), report()]);
    let input = r#"{"text": "abc"}"#;
    let known = rework.schedule(&["word_frequencies", "--key", "k", "--input", input]);
    let again = rework.database.psql(&format!(
        "select rework.schedule('word_frequencies', '{input}', key => 'k')"
    ));
    let through = rework.schedule(&["word_frequencies", "--key", "k", "--input", input]);
    assert_eq!((&again, &through), (&known, &known));
    let files = rework
        .database
        .psql("select count(*) from rework.task_file");
    assert_eq!(files, "1");
}

/// While versions are deployed that do not agree on what is a file, a task runs where its input fits.
#[test]
fn a_text_is_no_stored_file_of_another_version() {
    let rework = Rework::with_plugins(&[report()]);
    rework.database.psql(
        r#"insert into rework.plugin (hash, name, version, sdk, abi, rustc, target, panic, size)
           select repeat('ab', 32), name, '9.0.0', sdk, abi, rustc, target, panic, size from rework.plugin;
           insert into rework.plugin_operation (plugin, name, domain, inputs)
           select (select max(id) from rework.plugin), name, domain,
                  replace(inputs::text, '"file"', '"string"')::jsonb
             from rework.plugin_operation;
           insert into rework.deployment (operation, host, plugin_operation, path)
           select operation, 'elsewhere', (select max(id) from rework.plugin_operation), path
             from rework.deployment"#,
    );
    let input = r#"{"text": "abc"}"#;
    let ids = [
        rework.schedule(&["word_frequencies", "--input", input]),
        rework.database.psql(&format!(
            "select rework.schedule('word_frequencies', '{input}')"
        )),
    ];
    let accepts = ids.map(|id| {
        rework.database.psql(&format!(
            "select l.accepts from rework.task t join rework.lane l on l.id = t.lane where t.id = {id}"
        ))
    });
    assert_eq!(accepts[0], accepts[1]);
    assert_ne!(accepts[0], "", "not every version takes it");
}

#[test]
fn what_json_cannot_express_is_no_input() {
    let rework = Rework::with_plugins(&[hello()]);
    runtime().block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let refusal = client
            .schedule("my_first_task")
            .input(f64::NAN)
            .await
            .unwrap_err();
        assert!(
            refusal
                .to_string()
                .starts_with("the input holds NaN, which JSON cannot express"),
            "{refusal}"
        );
        let refusal = client.task(99).logs(0).await.unwrap_err();
        assert_eq!(refusal.to_string(), "no task 99");
    });
    assert_eq!(rework.ok(&["list-tasks"]), "");
}

#[test]
fn many_are_queued_in_order_all_or_none() {
    let rework = Rework::with_plugins(&[hello()]);
    runtime().block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let double = |n: i64| client.schedule("my_first_task").input(n);
        let tasks = client
            .schedule_many((1..=500).map(|n| match n {
                7 => double(n).priority(3).metadata(json!({"lucky": true})),
                8 => double(n).key("eight"),
                9 => client.schedule("my_first_task").raw_input(vec![9; 100_000]),
                10 => double(n).delay(Duration::from_secs(3600)),
                11 => client.schedule("add").input(json!({"a": 11})),
                n => double(n),
            }))
            .await
            .unwrap();
        assert_eq!(tasks.len(), 500);
        assert!(tasks.is_sorted_by(|a, b| a.id() < b.id()), "in this order");
        for (place, n) in [(0, 1), (5, 6), (7, 8), (11, 12), (499, 500)] {
            assert_eq!(tasks[place].input::<i64>().await.unwrap(), Some(n));
        }
        assert_eq!(tasks[6].metadata().await.unwrap(), json!({"lucky": true}));
        assert_eq!(tasks[8].raw_input().await.unwrap().unwrap().len(), 100_000);
        assert_eq!(tasks[10].row().await.unwrap().domain, "maths");
        let again = client
            .schedule_many([double(8).key("eight"), double(2)])
            .await
            .unwrap();
        assert_eq!(
            again[0].id(),
            tasks[7].id(),
            "while the task exists, the key answers it"
        );

        let refusal = client
            .schedule_many([double(1), client.schedule("add"), double(3)])
            .await
            .unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "task 2 of 3: missing required input `a` of `add`"
        );
        assert!(client.schedule_many([]).await.unwrap().is_empty());
    });
    let count = |statement: &str| rework.database.psql(statement);
    assert_eq!(count("select count(*) from rework.task"), "501");
    assert_eq!(count("select count(*) from rework.ready"), "500");
    assert_eq!(count("select count(*) from rework.delayed"), "1");
    let _monitor = rework.monitor(&["--all-domains"]);
    until(
        "all but the delayed one to end",
        || count("select count(*) from rework.task_view where finished is null"),
        |left| left == "1",
    );
}

/// As one by one, whatever the operation takes.
#[test]
fn many_are_queued_from_sql_in_order_all_or_none() {
    let rework = Rework::with_plugins(&[hello(), report()]);
    let sql = |statement: &str| rework.database.psql(statement);
    let ids = sql("select string_agg(id::text, ' ')
           from rework.schedule_many('add', array['{\"a\": 1}', '{\"a\": 2, \"b\": 5}']::jsonb[],
                                     metadata => '{\"of\": \"many\"}', priority => 3) id");
    assert_eq!(ids, "1 2", "in this order");
    sql(
        "select rework.schedule('add', '{\"a\": 1}', metadata => '{\"of\": \"many\"}', priority => 3)",
    );
    let columns = "operation, lane, host, priority, max_attempts, metadata, input_encoding, input";
    let kinds = format!(
        "select count(*) from (select distinct {columns} from rework.task where id in (1, 3)) t"
    );
    assert_eq!(sql(&kinds), "1", "as by itself");
    // Files take the long way.
    let texts = "array['{\"text\": \"a b a\"}', '{\"text\": \"b\"}']::jsonb[]";
    let files = format!("select count(*) from rework.schedule_many('word_frequencies', {texts})");
    assert_eq!(sql(&files), "2");
    sql(
        "select rework.schedule_many('my_first_task', array['1', null, '3']::jsonb[], run_at => now() + interval '1 h')",
    );
    assert_eq!(sql("select rework.schedule_many('noop', '{}')"), "");
    for (call, refusal) in [
        (
            "'add', array['{\"a\": 1}', '{}', '{\"a\": 1}']::jsonb[]",
            "task 2 of 3: missing required input `a` of `add`",
        ),
        (
            "'nix', array['1']::jsonb[]",
            "no operation `nix` is registered",
        ),
        (
            "'noop', array[null]::jsonb[], priority => 99999",
            "priority 99999 is out of range",
        ),
        (
            "'noop', array[null]::jsonb[], max_attempts => 0",
            "max_attempts must be at least 1, not 0",
        ),
    ] {
        let said = rework
            .database
            .psql_error(&format!("select rework.schedule_many({call})"));
        assert!(said.contains(refusal), "{call}: {said}");
    }
    assert_eq!(sql("select count(*) from rework.task"), "8");
    assert_eq!(sql("select count(*) from rework.delayed"), "3");
    let _monitor = rework.monitor(&["--all-domains"]);
    until(
        "all but the delayed ones to end",
        || sql("select count(*) from rework.task_view where finished is null"),
        |left| left == "3",
    );
    assert_eq!(
        sql("select string_agg(output::text, ' ' order by id) from rework.task_view where operation = 'add'"),
        sql("select concat_ws(' ', output, (select output from rework.task_view where id = 2), output)
               from rework.task_view where id = 3"),
    );
}

#[test]
fn what_is_stored_is_not_read_as_something_else() {
    let rework = Rework::with_plugins(&[hello(), standalone()]);
    runtime().block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let fields = client
            .schedule("my_first_task")
            .input("text")
            .await
            .unwrap();
        let raw = client.schedule("echo").raw_input(*b"raw").await.unwrap();
        let told = |error: rework::client::ClientError| error.to_string();
        assert_eq!(
            told(fields.raw_input().await.unwrap_err()),
            format!("the input of task {} is fields, not raw", fields.id())
        );
        assert_eq!(
            told(raw.input::<String>().await.unwrap_err()),
            format!("the input of task {} is raw, not fields", raw.id())
        );
        assert_eq!(
            told(fields.input::<i64>().await.unwrap_err()),
            format!(
                "the input of task {} is not of the type asked for",
                fields.id()
            )
        );
        assert_eq!(raw.raw_input().await.unwrap().as_deref(), Some(&b"raw"[..]));
        assert_eq!(raw.raw_output().await.unwrap(), None);
        assert_eq!(
            told(client.task(999).state().await.unwrap_err()),
            "no task 999"
        );
    });
}

/// Two versions of an operation, the newer one on another host.
#[test]
fn during_a_rolling_upgrade_a_task_goes_to_who_accepts_it() {
    let rework = Rework::with_plugins(&[hello()]);
    rework.database.psql(
        "with plugin as (
             insert into rework.plugin (hash, name, version, sdk, abi, rustc, target, panic, size)
             select repeat('0', 64), name, '9.0.0', sdk, abi, rustc, target, panic, size
               from rework.plugin returning id
         ), operation as (
             insert into rework.plugin_operation (plugin, name, domain, inputs)
             select plugin.id, 'add', 'maths', jsonb_set(inputs, '{0,name}', '\"first\"')
               from rework.plugin_operation, plugin where name = 'add' returning id
         )
         insert into rework.deployment (operation, host, plugin_operation, path)
         select o.id, 'otherhost', operation.id, '/elsewhere'
           from operation, rework.operation o where o.name = 'add'",
    );
    let _monitor = rework.monitor(&["--all-domains"]);
    let old = rework.schedule(&["add", "--input", r#"{"a": 1}"#]);
    let old_in_sql = rework
        .database
        .psql("select rework.schedule('add', '{\"a\": 2}')");
    let new = rework.schedule(&["add", "--input", r#"{"first": 1}"#]);
    let new_in_sql = rework
        .database
        .psql("select rework.schedule('add', '{\"first\": 2}')");
    let refusal = rework.fails(1, &["schedule", "add", "--input", r#"{"b": 1}"#]);
    assert!(
        refusal.contains("missing required input `first`"),
        "{refusal}"
    );
    assert_eq!(rework.wait(&old, &["done", "failed"])["output"], 1);
    assert_eq!(rework.wait(&old_in_sql, &["done", "failed"])["output"], 2);
    for id in [&new, &new_in_sql] {
        assert_eq!(rework.task(id)["state"], "queued", "nobody here accepts it");
    }
    // Once nobody has that version any more, others may try, and say why they cannot.
    rework
        .database
        .psql("update rework.deployment set retired = now() where host = 'otherhost'");
    let task = rework.wait(&new, &["failed"]);
    assert_eq!(task["error"], "missing required input `a`");
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
        "select (output #>> '{{}}') = repeat(input #>> '{{}}', 2) from rework.task_view where id = {id}"
    ));
    assert_eq!(doubled, "t");
}
