//! Run: in a process of its own, with everything that it prints and logs kept in order.

use crate::harness::{Rework, hello, misbehaving, report, standalone, until};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

#[test]
fn what_is_printed_and_logged_is_kept_in_order() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&["log_in_every_way"]);
    rework.wait(&id, &["done"]);
    let log = rework.log(&id);
    let stdout: Vec<&str> = log
        .iter()
        .map(String::as_str)
        .filter(|line| !line.starts_with("stderr"))
        .collect();
    assert_eq!(
        stdout,
        [
            "stdout:info:one",
            "misbehaving:warn:two",
            "misbehaving:info:span{number=3}: three answer=42",
            "misbehaving:error:five",
        ]
    );
    assert!(log.contains(&"stderr:info:four".to_owned()), "{log:?}");
    let warnings = rework.ok(&["log-task", &id, "--level", "warn"]);
    assert_eq!(warnings.lines().count(), 2, "{warnings}");
    assert!(warnings.starts_with("misbehaving:WARN: 20"), "{warnings}");
    let later = rework.json(&["log-task", &id, "--fromid", "4"]);
    assert_eq!(later[0]["id"], 5);
}

#[test]
fn c_code_the_system_and_children_print_into_the_same_log() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let first = rework.misbehave("native output");
    let second = rework.misbehave("ok");
    rework.wait(&first, &["done"]);
    rework.wait(&second, &["done"]);
    assert_eq!(
        rework.log(&first),
        [
            "stdout:info:about to: native output",
            "stdout:info:from Rust",
            "stdout:info:from C",
            "stdout:info:from the system",
            "stdout:info:from a child",
            "stdout:info:without a newline",
        ]
    );
    assert_eq!(rework.log(&second), ["stdout:info:about to: ok"]);
}

#[test]
fn output_of_a_child_that_outlives_its_task_stays_with_that_task() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let input = r#"{"mode": "child outlives", "seconds": 60}"#;
    let first = rework.schedule(&["misbehave", "--input", input]);
    rework.wait(&first, &["done"]);
    let second = rework.misbehave("ok");
    rework.wait(&second, &["done"]);
    let spoken = "stdout:info:child speaks".to_owned();
    until(
        "the child to speak",
        || rework.log(&first),
        |log| log.contains(&spoken),
    );
    assert_eq!(rework.log(&second), ["stdout:info:about to: ok"]);
    // And it does not outlive the monitor.
    let children = rework::internals::descendants::of(monitor.pid());
    assert!(
        children.len() >= 2,
        "the worker and what the task left: {children:?}"
    );
    assert_eq!(monitor.interrupt(), Some(0));
    for child in children {
        assert!(
            !fs::exists(format!("/proc/{child}")).unwrap(),
            "{child} is still there"
        );
    }
}

#[test]
fn closing_the_outputs_harms_nobody_else() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let first = rework.misbehave("close output");
    let second = rework.misbehave("ok");
    rework.wait(&first, &["done"]);
    rework.wait(&second, &["done"]);
    assert_eq!(rework.log(&second), ["stdout:info:about to: ok"]);
    assert_eq!(
        rework.task(&first)["worker"],
        rework.task(&second)["worker"]
    );
}

#[test]
fn closing_the_outputs_while_a_child_lives_harms_nobody_either() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "1"]);
    let input = r#"{"mode": "child outlives", "seconds": 60}"#;
    let child = rework.schedule(&["misbehave", "--input", input]);
    rework.wait(&child, &["done"]);
    // The worker makes new pipes after this one, and must not take the numbers it has closed.
    let closer = rework.misbehave("close output");
    rework.wait(&closer, &["done"]);
    let next = rework.misbehave("native output");
    let task = rework.wait(&next, &["done", "failed"]);
    assert_eq!(task["state"], "done", "{task:#}");
    assert_eq!(rework.log(&next).len(), 6, "{:?}", rework.log(&next));
    assert_eq!(task["worker"], rework.task(&child)["worker"]);
}

#[test]
fn a_flood_is_cut_visibly_and_harms_nobody() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.misbehave("flood");
    rework.wait(&id, &["done"]);
    let line = |number: u32| {
        rework.database.psql(&format!(
            "select line from rework.log_line where task = {id} and id >= {number} order by id limit 1"
        ))
    };
    assert_eq!(
        line(90_000),
        "line 89998 of a flood",
        "after one line before the flood"
    );
    let ends = rework.database.psql(&format!(
        "select line from (select id, line from rework.log_line where task = {id}
                            order by id desc limit 10001) l order by id limit 2"
    ));
    let (cut, next) = ends.split_once('\n').unwrap();
    assert!(
        cut.starts_with("output truncated: 100001 lines (") && cut.contains("are missing here"),
        "{cut}"
    );
    assert_eq!(next, "line 190000 of a flood");
    let count = rework.database.psql(&format!(
        "select count(*) from rework.log_line where task = {id}"
    ));
    assert_eq!(count, "100001");
}

#[test]
fn an_operation_chooses_what_is_kept() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains", "--maxworkers", "1"]);
    for (operation, kept) in [
        (
            "choosy",
            &[
                "standalone::capture:warn:a warning in the first scope",
                "stdout:info:printed in the second scope",
                "standalone::capture:debug:a detail in the second scope",
            ][..],
        ),
        ("records_only", &["standalone::capture:info:logged"]),
        ("discreet", &[]),
    ] {
        let id = rework.schedule(&[operation]);
        let task = rework.wait(&id, &["done", "failed"]);
        assert_eq!(task["state"], "done", "{task:#}");
        assert_eq!(rework.log(&id), kept);
    }
}

/// A plugin is loaded once by each worker, not once a task.
#[test]
fn a_worker_keeps_what_its_plugin_keeps() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains", "--maxworkers", "1"]);
    for expected in ["1", "2", "3"] {
        assert_eq!(rework.ok(&["schedule", "how_often", "--wait"]), expected);
    }
}

/// A pipe holds 64 kB: the monitor has to go on reading while one line is written.
#[test]
fn lines_of_megabytes_are_cut_and_block_nobody() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let ids: Vec<String> = [60_000, 300_000, 1_100_000, 2_000_000, 5_000_000]
        .into_iter()
        .cycle()
        .take(10)
        .map(|width| {
            let input = format!(r#"{{"count": 3, "width": {width}}}"#);
            rework.schedule(&["long_lines", "--input", &input])
        })
        .collect();
    for id in &ids {
        rework.wait(id, &["done"]);
        let log = rework.log(id);
        assert_eq!(log.len(), 3);
        assert!(log[2].starts_with("stdout:info:2 xxx"), "{}", &log[2][..30]);
    }
    let long = &rework.log(&ids[4])[0];
    assert!(
        long.contains("[line truncated: ") && long.ends_with("xxx"),
        "the end of a line is kept too"
    );
}

#[test]
fn watch_follows_a_log_live_and_ends_with_the_task() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let id = rework.schedule(&[
        "misbehave",
        "--input",
        r#"{"mode": "wait for cancel", "seconds": 30}"#,
    ]);
    let mut watch = rework
        .command(&["log-task", &id, "--watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.ends_with("about to: wait for cancel"), "{first}");
    assert_eq!(
        rework.task(&id)["state"],
        "running",
        "the line came while it ran"
    );
    rework.ok(&["abort-task", &id]);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(
        rest.iter()
            .any(|line| line.ends_with("cancelled, cleaning up")),
        "{rest:?}"
    );
    assert!(watch.wait().unwrap().success());
}

#[test]
fn a_worker_has_no_credentials_and_no_connection() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--env", "REWORK_HOST"]);
    let id = rework.schedule(&["look_around"]);
    let seen = rework.wait(&id, &["done"])["output"].clone();
    assert_eq!(
        seen["environment"],
        serde_json::json!(["REWORK_HOST=testhost"])
    );
    assert_eq!(
        seen["arguments"],
        serde_json::json!(["rework-worker", "new-worker"])
    );
    let sockets: BTreeSet<&str> = seen["descriptors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target.as_str().unwrap())
        .filter(|target| target.starts_with("socket:"))
        .collect();
    assert_eq!(
        sockets.len(),
        1,
        "the monitor's, by which this task came, and no other: {seen:#}"
    );
    // And so it is from outside, whatever the task was shown.
    let worker = rework.json(&["list-workers"])[0]["pid"].clone();
    let descriptors = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
    let held: BTreeSet<String> = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .map(|target| target.display().to_string())
        .filter(|target| target.starts_with("socket:"))
        .collect();
    assert_eq!(
        held.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        sockets
    );
}

#[test]
fn the_report_example_counts_the_words_of_a_licence() {
    let rework = Rework::with_plugins(&[report()]);
    let _monitor = rework.monitor(&["--domain", "reports"]);
    let licence = concat!(env!("CARGO_MANIFEST_DIR"), "/../LICENSE-MIT");
    let id = rework.schedule(&[
        "word_frequencies",
        "--input-file",
        &format!("text={licence}"),
        "--input",
        r#"{"top": 3}"#,
    ]);
    let task = rework.wait(&id, &["done", "failed"]);
    let text = fs::read_to_string(licence).unwrap().to_lowercase();
    let words: Vec<&str> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    assert_eq!(task["output"]["words"], words.len(), "{task:#}");
    let the = words.iter().filter(|word| **word == "the").count();
    assert!(
        task["output"]["most_frequent"]
            .as_str()
            .unwrap()
            .contains(&format!("the {the}"))
    );
    assert_eq!(task["progress"]["fraction"], 1.0);
    let csv = rework.ok(&["get-output", &id, "--field", "frequencies.csv"]);
    assert!(
        csv.starts_with("word,count\n") && csv.contains(&format!("the,{the}\n")),
        "{csv}"
    );
    let log = rework.log(&id);
    assert!(
        log[0].starts_with("report:info:counting words bytes="),
        "{log:?}"
    );
}

#[test]
fn an_async_operation_runs_on_a_runtime_of_its_plugin() {
    let rework = Rework::with_plugins(&[standalone()]);
    let _monitor = rework.monitor(&["--domain", "standalone"]);
    let said = rework.ok(&[
        "schedule",
        "wait_twice",
        "--input",
        r#"{"milliseconds": 5}"#,
        "--wait",
    ]);
    assert_eq!(said, "\"first and second\"");
}

#[test]
fn a_new_version_of_a_plugin_is_taken_up_and_cp_over_it_does_no_harm() {
    let rework = Rework::new();
    let plugin = rework.directory().join("plugin.so");
    fs::copy(misbehaving(), &plugin).unwrap();
    rework.ok(&["register-operations", plugin.to_str().unwrap()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let input = r#"{"mode": "wait for cancel", "seconds": 60}"#;
    let long = rework.schedule(&["misbehave", "--input", input]);
    rework.wait(&long, &["running"]);
    fs::copy(hello(), &plugin).unwrap();
    assert_eq!(rework.task(&long)["state"], "running");
    rework.ok(&["register-operations", plugin.to_str().unwrap()]);
    // The new one runs beside the old task.
    assert_eq!(
        rework.ok(&["schedule", "my_first_task", "--input", "2", "--wait"]),
        "4"
    );
    assert_eq!(rework.task(&long)["state"], "running");
    rework.ok(&["abort-task", &long]);
    rework.wait(&long, &["aborted", "done"]);
    let hashes = rework.database.psql(
        "select count(distinct p.plugin) from rework.task_view t join rework.plugin_operation p on p.id = t.plugin_operation",
    );
    assert_eq!(hashes, "2", "each task records the code that ran it");
}
