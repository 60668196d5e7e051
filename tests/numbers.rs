//! Numbers arrive as they were given, bit for bit, by every way in and out; those that cannot are
//! refused before anything is queued.

use crate::harness::{Rework, standalone, until};
use rework::Client;
use serde_json::{Value, json};

/// Doubles of all kinds: special ones, and random bits.
fn doubles() -> Vec<f64> {
    let mut doubles = vec![
        0.0,
        -0.0,
        117.633_311_394_000_17,
        0.1,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        f64::from_bits(1),
        -f64::from_bits(1),
        f64::from_bits(0x000f_ffff_ffff_ffff),
        1e308,
        9_007_199_254_740_993.0,
        1e22,
        1e19,
        -1e19,
    ];
    // Seeded, so that a failure can be had again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    while doubles.len() < 2000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Half of them of all sizes, half of those that people have.
        let double = match doubles.len() % 2 {
            0 => f64::from_bits(state),
            _ => (state >> 11) as f64 / 2_f64.powi(43),
        };
        if double.is_finite() {
            doubles.push(double);
        }
    }
    doubles
}

fn bits(doubles: &[f64]) -> Value {
    let shown = |double: &f64| format!("{:016x}", double.to_bits());
    doubles.iter().map(shown).collect()
}

fn as_text(doubles: &[f64]) -> String {
    serde_json::to_string(doubles).unwrap()
}

fn read(text: &str) -> Vec<f64> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What the operation has seen of the input of a task, and what everybody sees of both.
fn check(rework: &Rework, way: &str, task: &str, given: &[f64]) {
    rework.wait(task, &["done"]);
    let output: Value = serde_json::from_str(&rework.ok(&["get-output", task])).unwrap();
    let wanted = bits(given);
    for seen in ["bits", "value_bits"] {
        let seen_bits = output[seen].as_array().unwrap();
        for (place, (seen, wanted)) in seen_bits.iter().zip(wanted.as_array().unwrap()).enumerate()
        {
            assert_eq!(seen, wanted, "{way}: {:e}", given[place]);
        }
        assert_eq!(seen_bits.len(), given.len(), "{way}");
    }
    let returned: Vec<f64> = serde_json::from_value(output["doubles"].clone()).unwrap();
    assert_eq!(bits(&returned), wanted, "{way}: the output");
    let input = read(&rework.ok(&["get-input", task]));
    assert_eq!(bits(&input), wanted, "{way}: the input");
    let shown = rework.task(task);
    let shown: Vec<f64> = serde_json::from_value(shown["output"]["doubles"].clone()).unwrap();
    assert_eq!(bits(&shown), wanted, "{way}: show-task");
}

#[test]
fn doubles_keep_their_bits_by_every_way() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let doubles = doubles();
    let text = as_text(&doubles);
    let noted = 117.633_311_394_000_17_f64;
    let metadata = json!({ "double": noted }).to_string();

    let task = rework.schedule(&["doubles", "--input", &text, "--metadata", &metadata]);
    check(&rework, "the command line", &task, &doubles);
    let shown = rework.task(&task);
    assert_eq!(shown["output"]["noted"], bits(&[noted])[0]);
    assert_eq!(
        shown["metadata"]["double"].as_f64().unwrap().to_bits(),
        noted.to_bits()
    );

    let query = format!("select rework.schedule('doubles', '{text}')");
    let task = rework.database.psql(&query);
    check(&rework, "SQL", &task, &doubles);
    let query = format!("select id from rework.schedule_task('doubles', input => '{text}')");
    let task = rework.database.psql(&query);
    check(&rework, "SQL, schedule_task", &task, &doubles);

    // jsonb has no negative zero: there it is 0 before we see it.
    let positive: Vec<f64> = doubles.iter().map(|double| double + 0.0).collect();
    let query = format!("select rework.schedule('doubles', '{text}'::jsonb)");
    let task = rework.database.psql(&query);
    check(&rework, "SQL, jsonb", &task, &positive);

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (task, many) = runtime.block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        let task = client.schedule("doubles").input(&doubles).await.unwrap();
        task.join().await.unwrap();
        let output: Value = task.output().await.unwrap().unwrap();
        let returned: Vec<f64> = serde_json::from_value(output["doubles"].clone()).unwrap();
        assert_eq!(bits(&returned), bits(&doubles));
        let given: Option<Vec<f64>> = task.input().await.unwrap();
        assert_eq!(bits(&given.unwrap()), bits(&doubles));
        let many = [0, 1].map(|_| client.schedule("doubles").input(&doubles));
        let many = client.schedule_many(many).await.unwrap();
        (task.id(), many[1].id())
    });
    check(&rework, "Rust", &task.to_string(), &doubles);
    check(&rework, "Rust, many", &many.to_string(), &doubles);
}

#[test]
fn doubles_keep_their_bits_in_schedules_and_files_of_them() {
    let rework = Rework::with_plugins(&[standalone()]);
    let doubles = doubles();
    let text = as_text(&doubles);
    let every_second = ["--rule", "* * * * * *", "--every-second"];
    let prepare = ["prepare", "doubles", "--input", &text];
    let id = rework.ok(&[&prepare[..], &every_second].concat());
    let exported = rework.ok(&["export-scheduled", "--path", "-"]);
    let exported: Value = serde_json::from_str(&exported).unwrap();
    let of = |document: &Value| -> Vec<f64> {
        serde_json::from_value(document["schedules"][0]["input"].clone()).unwrap()
    };
    assert_eq!(bits(&of(&exported)), bits(&doubles));
    rework.ok(&["export-scheduled"]);
    rework.ok(&["import-scheduled"]);
    let again: Value =
        serde_json::from_str(&rework.ok(&["export-scheduled", "--path", "-"])).unwrap();
    assert_eq!(bits(&of(&again)), bits(&doubles));
    assert_eq!(
        rework.json(&["list-scheduled"])[0]["id"].to_string(),
        id,
        "it is the same"
    );

    let _monitor = rework.monitor(&["--all-domains"]);
    let tasks = until(
        "its run",
        || rework.json(&["list-tasks"]),
        |tasks| {
            tasks
                .as_array()
                .is_some_and(|tasks| tasks.iter().any(|task| task["state"] == "done"))
        },
    );
    rework.ok(&["unprepare", &id]);
    let done = tasks
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["state"] == "done")
        .unwrap();
    check(&rework, "a schedule", &done["id"].to_string(), &doubles);
}

#[test]
fn typed_numbers_keep_their_bits_and_whole_numbers_their_digits() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    for double in [117.633_311_394_000_17, f64::from_bits(1), f64::MAX, 1e22] {
        let input = json!({"a file.txt": "", "number": double}).to_string();
        let task = rework.schedule(&["mirror", "--input", &input]);
        rework.wait(&task, &["done"]);
        let number: f64 = rework
            .ok(&["get-output", &task, "--field", "number"])
            .parse()
            .unwrap();
        assert_eq!(number.to_bits(), double.to_bits(), "{double:e}");
    }
    let input = json!({"large": u64::MAX, "small": i64::MIN}).to_string();
    let sql = format!("select rework.schedule('whole', '{input}')");
    for task in [
        rework.schedule(&["whole", "--input", &input]),
        rework.database.psql(&sql),
    ] {
        rework.wait(&task, &["done"]);
        assert_eq!(
            rework.ok(&["get-output", &task]),
            "[18446744073709551615,-9223372036854775808,null,null]"
        );
    }
    let inexact = r#"{"large": 1, "small": 1, "exact": 9007199254740993}"#;
    let task = rework.schedule(&["whole", "--input", inexact]);
    rework.wait(&task, &["failed"]);
    assert_eq!(
        rework.task(&task)["error"],
        "input `exact` must be a number that a double holds, not 9007199254740993"
    );
}

#[test]
fn numbers_that_would_be_changed_are_refused() {
    let rework = Rework::with_plugins(&[standalone()]);
    for number in [
        "1e400",
        "-1e400",
        "1e-400",
        "3.141592653589793238462643383279502884197",
        "18446744073709551617",
        "4.35e-324",
        "1.2345678901234567e-320",
        "2e-324",
        "1e99999",
        "-1e-99999",
        "1.7976931348623159e308",
        "0.12345678901234567891",
        "9007199254740993.0",
        "-900719925474099.35",
        "0.30000000000000001",
        "905838151287412.61",
    ] {
        let input = format!("[1, {number}]");
        let refusal = rework.fails(2, &["schedule", "doubles", "--input", &input]);
        let from = refusal.find("the number ").expect("it is named");
        let message = refusal[from..].lines().next().unwrap_or_default();
        assert!(
            message.starts_with(&format!("the number {number} ")),
            "{refusal}"
        );
        // The same words from SQL.
        let call = format!("select rework.schedule('doubles', '{input}')");
        let from_sql = rework.database.psql_error(&call);
        assert!(from_sql.contains(message), "{message}: {from_sql}");
        let metadata = format!("{{\"a\": {number}}}");
        let refusal = rework.fails(
            2,
            &[
                "schedule",
                "doubles",
                "--input",
                "[]",
                "--metadata",
                &metadata,
            ],
        );
        assert!(
            refusal.contains(&format!("the number {number} ")),
            "{refusal}"
        );
        // What is jsonb by then is written in full; the largest of them the server refuses itself.
        for (what, call) in [
            (
                "jsonb",
                format!("rework.schedule('doubles', '{input}'::jsonb)"),
            ),
            (
                "metadata",
                format!("rework.schedule('doubles', '[]', metadata => '{metadata}')"),
            ),
        ] {
            let refusal = rework.database.psql_error(&format!("select {call}"));
            assert!(
                refusal.contains("give it as a string, or round it")
                    || number.contains("e99999")
                    || number.contains("e-99999"),
                "{what} {number}: {refusal}"
            );
        }
    }
    assert_eq!(rework.json(&["list-tasks"]), json!([]));
}

#[test]
fn digits_that_name_no_whole_number_are_those_of_the_double_by_every_way() {
    let rework = Rework::with_plugins(&[standalone()]);
    // A whole number with an exponent is a double for the programs, and for text that is given in SQL.
    let number = "9007199254740993e0";
    let input = format!("[{number}]");
    let refusal = rework.fails(2, &["schedule", "doubles", "--input", &input]);
    assert!(
        refusal.contains(&format!("the number {number} has more digits")),
        "{refusal}"
    );
    let call = format!("select rework.schedule('doubles', '{input}')");
    let refusal = rework.database.psql_error(&call);
    assert!(
        refusal.contains(&format!("the number {number} has more digits")),
        "{refusal}"
    );
    // The double in the middle of two decimals, and the only decimal of 16 digits beside a power of two.
    let input =
        "[905838151287412.62, 905838151287412.63, 5.684341886080802e-14, 9007199254740992.0]";
    rework.schedule(&["doubles", "--input", input]);
    for given in [format!("'{input}'"), format!("'{input}'::jsonb")] {
        rework
            .database
            .psql(&format!("select rework.schedule('doubles', {given})"));
    }
}

/// Texts that were read in a time that grew with the square of their length.
#[test]
fn a_text_that_is_no_document_is_refused_at_once_however_long() {
    let rework = Rework::with_plugins(&[standalone()]);
    let quotes = r#"repeat('\" ', 400000)"#;
    for text in [
        format!("'[1e400, ' || {quotes}"),
        format!("'[1234567890123456, -0, ' || {quotes}"),
        format!("'[1e999999, -0, ' || {quotes} || '\\'"),
    ] {
        let call =
            format!("set statement_timeout = '10s'; select rework.schedule('doubles', {text})");
        let refusal = rework.database.psql_error(&call);
        assert!(!refusal.contains("timeout"), "{text}: {refusal}");
    }
}
