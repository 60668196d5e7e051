//! Schedules: prepared from the command line and from Rust, fired once however many monitors there
//! are, caught up with after a pause, moved through a file.

use crate::harness::{Rework, hello, misbehaving, standalone, until};
use chrono::{DateTime, TimeDelta, Timelike, Utc};
use rework::{Client, client::CatchUp};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs};

fn prepared() -> Rework {
    Rework::with_plugins(&[misbehaving(), hello()])
}

/// A schedule of `misbehave` in mode `ok`; its id.
fn prepare(rework: &Rework, arguments: &[&str]) -> String {
    let common = ["prepare", "misbehave", "--input", r#"{"mode": "ok"}"#];
    rework.ok(&[&common, arguments].concat())
}

fn tasks_of(rework: &Rework, schedule: &str) -> Vec<Value> {
    let tasks = rework.json(&["list-tasks", "--domain", "misbehaving"]);
    let of_schedule = |task: &&Value| task["schedule"] == json!(schedule.parse::<i64>().unwrap());
    tasks
        .as_array()
        .unwrap()
        .iter()
        .filter(of_schedule)
        .cloned()
        .collect()
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn a_schedule_fires_once_with_two_monitors_and_at_its_times() {
    let rework = prepared();
    let _one = rework.monitor(&["--domain", "misbehaving"]);
    let _two = rework.monitor(&["--domain", "misbehaving"]);
    let _other = rework.monitor(&["--domain", "default"]);
    // Monitors that run already learn of it at once.
    let id = prepare(
        &rework,
        &[
            "--rule",
            "* * * * * *",
            "--every-second",
            "--metadata",
            r#"{"by": "cron"}"#,
        ],
    );
    let tasks = until(
        "four runs to be done",
        || tasks_of(&rework, &id),
        |tasks| tasks.iter().filter(|task| task["state"] == "done").count() >= 4,
    );
    assert_eq!(
        rework.ok(&["unprepare", &id]),
        format!("{id} : removed 1 prepared operation")
    );
    let times: Vec<_> = tasks
        .iter()
        .rev()
        .map(|task| time(&task["run_at"]))
        .collect();
    for pair in times.windows(2) {
        assert_eq!((pair[1] - pair[0]).num_milliseconds(), 1000, "{times:?}");
    }
    for task in &tasks {
        assert_eq!(task["metadata"], json!({"by": "cron"}));
        assert_eq!(time(&task["run_at"]).timestamp_subsec_micros(), 0);
        let late = time(&task["queued"]) - time(&task["run_at"]);
        // On a machine that is busy with other tests.
        assert!(
            late.num_milliseconds() < 5000,
            "queued {late} after its time"
        );
    }
    let refusal = rework.fails(1, &["unprepare", &id]);
    assert!(
        refusal.starts_with(&format!("error: no schedule {id}\nhint: ")),
        "{refusal}"
    );
    assert_eq!(rework.ok(&["list-scheduled"]), "");
    // What it has queued stays.
    assert!(tasks_of(&rework, &id).len() >= 4);
}

#[test]
fn an_identical_schedule_is_replaced() {
    let rework = prepared();
    let rule = "0 30 6 * * mon-fri";
    let id = prepare(&rework, &["--rule", rule]);
    assert_eq!(
        prepare(
            &rework,
            &["--rule", "0  30 6 * *  mon-fri ", "--catch-up", "all"]
        ),
        id
    );
    let noted = prepare(&rework, &["--rule", rule, "--metadata", r#"{"a": 1}"#]);
    assert_ne!(noted, id, "its tasks are not the same");
    let other = prepare(
        &rework,
        &[
            "--rule",
            rule,
            "--timezone",
            "Europe/Paris",
            "--host",
            "testhost",
        ],
    );
    assert_ne!(other, id);
    let rows = rework.json(&["list-scheduled"]);
    assert_eq!(rows.as_array().unwrap().len(), 3);
    assert_eq!(rows[0]["catch_up"], "all");
    assert_eq!(rows[1]["metadata"], json!({"a": 1}));
    assert_eq!(rows[0]["input"], json!({"mode": "ok"}));
    assert_eq!(rows[0]["last_run"], Value::Null);
    assert_eq!(rows[0]["paused"], false);
    assert_eq!(rows[2]["timezone"], "Europe/Paris");
    let (utc, paris) = (time(&rows[0]["next_run"]), time(&rows[2]["next_run"]));
    assert_eq!(utc.format("%H:%M:%S").to_string(), "06:30:00");
    assert!(["04:30:00", "05:30:00"].contains(&paris.format("%H:%M:%S").to_string().as_str()));
    assert_eq!(
        rework.ok(&["list-scheduled"]),
        format!(
            "{id} `misbehave` misbehaving `no host` `no meta` \"{rule}\"\n\
             {noted} `misbehave` misbehaving `no host` `{{\"a\":1}}` \"{rule}\"\n\
             {other} `misbehave` misbehaving `testhost` `no meta` \"{rule}\" Europe/Paris"
        )
    );
}

/// Files are kept whole, and shown by their size and hash; however they were given, they are the
/// same.
#[test]
fn a_file_in_a_schedule_is_shown_by_its_hash() {
    let rework = Rework::with_plugins(&[standalone()]);
    let path = rework.directory().join("content");
    fs::write(&path, "abc").unwrap();
    let file = format!("file={}", path.display());
    let rule = ["prepare", "reverse", "--rule", "0 0 * * * *"];
    let id = rework.ok(&[&rule[..], &["--input-file", &file]].concat());
    for input in [r#"{"file": "abc"}"#, r#"{"file": {"base64": "YWJj"}}"#] {
        assert_eq!(rework.ok(&[&rule[..], &["--input", input]].concat()), id);
    }
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        rework.json(&["list-scheduled"])[0]["input"],
        json!({"file": {"bytes": 3, "sha256": sha256}})
    );
    let exported: Value =
        serde_json::from_str(&rework.ok(&["export-scheduled", "--path", "-"])).unwrap();
    assert_eq!(
        exported["schedules"][0]["input"],
        json!({"file": {"base64": "YWJj"}})
    );
    rework
        .database
        .psql("update rework.sched set catch_up = 'one', since = now() - interval '90 minutes'");
    let _monitor = rework.monitor(&["--all-domains"]);
    let tasks = until(
        "its run",
        || rework.json(&["list-tasks"]),
        |tasks| tasks[0]["state"] == "done",
    );
    let task = tasks[0]["id"].to_string();
    assert_eq!(
        rework.ok(&["get-output", &task, "--field", "reversed"]),
        "cba"
    );
}

/// A run is for those that can run it: nobody else queues it for later.
#[test]
fn a_monitor_without_the_plugin_fires_nothing() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let rule = ["--rule", "* * * * * *", "--every-second"];
    let ok = ["--input", r#"{"mode": "ok"}"#];
    rework.ok(&[&["prepare", "misbehave"], &rule[..], &ok].concat());
    let _elsewhere = rework.monitor(&["--all-domains", "--host", "elsewhere"]);
    rework.ok(&[
        "register-operations",
        hello().to_str().unwrap(),
        "--host",
        "elsewhere",
    ]);
    rework.ok(&[&["prepare", "noop"], &rule[..]].concat());
    let of = |name: &str| {
        let count = format!("select count(*) from rework.task_view where operation = '{name}'");
        rework.database.psql(&count)
    };
    until(
        "two runs there",
        || of("noop").parse::<i64>().unwrap(),
        |count| *count >= 2,
    );
    assert_eq!(of("misbehave"), "0");
    let _here = rework.monitor(&["--domain", "misbehaving"]);
    until("a run here", || of("misbehave"), |count| count != "0");
}

#[test]
fn the_plan_is_in_order() {
    let rework = prepared();
    let two = prepare(&rework, &["--rule", "0 */30 * * * *"]);
    let one = prepare(&rework, &["--rule", "0 0 * * * *"]);
    rework.ok(&[
        "prepare",
        "my_first_task",
        "--rule",
        "0 * * * * *",
        "--input",
        "1",
    ]);
    let year = rework.run(&[
        "scheduled-plan",
        "misbehaving",
        "--hours",
        "8760",
        "--limit",
        "5",
    ]);
    assert_eq!(year.stdout.lines().count(), 5);
    assert!(
        year.stderr.contains("only the first 5 runs are shown"),
        "{}",
        year.stderr
    );
    let plan = rework.json(&["scheduled-plan", "misbehaving", "--hours", "2"]);
    let plan = plan.as_array().unwrap();
    assert_eq!(plan.len(), 6, "{plan:?}");
    assert!(plan.is_sorted_by_key(|run| time(&run["time"])));
    let by = |id: &str| {
        plan.iter()
            .filter(|run| run["schedule"] == json!(id.parse::<i64>().unwrap()))
            .count()
    };
    assert_eq!((by(&one), by(&two)), (2, 4));
    let lines = rework.ok(&["scheduled-plan", "misbehaving"]);
    assert_eq!(lines.lines().count(), 3);
    assert!(
        lines.lines().all(|line| line.ends_with("UTC misbehave")),
        "{lines}"
    );
    rework.ok(&["pause", "--schedule", &two]);
    assert_eq!(
        rework
            .ok(&["scheduled-plan", "misbehaving"])
            .lines()
            .count(),
        1
    );
}

#[test]
fn missed_runs_are_caught_up_with_as_asked() {
    let rework = prepared();
    // The same hours, written differently, or they would be one schedule.
    let policies = [
        ("skip", "0 0 * * * *"),
        ("one", "0 * * * *"),
        ("all", "00 00 * * * *"),
    ];
    let ids = policies.map(|(policy, rule)| {
        let id = prepare(&rework, &["--rule", rule, "--catch-up", policy]);
        // Nobody was there for the last five hours.
        rework.database.psql(&format!(
            "update rework.sched set since = now() - interval '5 hours' where id = {id}"
        ));
        id
    });
    let [skip, one, all] = &ids;
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let made_up = until(
        "all five runs to be made up for",
        || tasks_of(&rework, all),
        |tasks| tasks.len() >= 5 && tasks.iter().all(|task| task["state"] == "done"),
    );
    assert_eq!(made_up.len(), 5);
    let latest = tasks_of(&rework, one);
    assert_eq!(latest.len(), 1);
    assert_eq!(
        latest[0]["run_at"], made_up[0]["run_at"],
        "the last of them"
    );
    assert_eq!(tasks_of(&rework, skip), [] as [Value; 0]);
}

#[test]
fn a_paused_schedule_waits_and_does_not_make_up_for_it() {
    let rework = prepared();
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let every_second = [
        "--rule",
        "* * * * * *",
        "--every-second",
        "--catch-up",
        "all",
    ];
    let id = prepare(&rework, &every_second);
    let other = [
        "prepare",
        "misbehave",
        "--input",
        r#"{"mode": "ok", "seconds": 1}"#,
    ];
    let witness = rework.ok(&[&other, &every_second[..]].concat());
    until(
        "a first run",
        || tasks_of(&rework, &id).len(),
        |count| *count >= 1,
    );
    for by in ["resume", "prepare"] {
        assert_eq!(
            rework.ok(&["pause", "--schedule", &id]),
            format!("paused: schedule {id} (`misbehave` misbehaving)")
        );
        let before = rework.json(&["list-scheduled"]);
        let mut before = before.as_array().unwrap().iter();
        let before = before
            .find(|row| row["id"] == json!(id.parse::<i64>().unwrap()))
            .unwrap();
        assert_eq!(before["paused"], true);
        assert_eq!(before["next_run"], Value::Null);
        // Another schedule of the same times goes on meanwhile.
        let witnessed = tasks_of(&rework, &witness).len();
        let count = tasks_of(&rework, &id).len();
        until(
            "runs of the other schedule",
            || tasks_of(&rework, &witness).len(),
            |now| *now >= witnessed + 3,
        );
        assert_eq!(tasks_of(&rework, &id).len(), count);
        match by {
            "resume" => assert_eq!(
                rework.ok(&["resume", "--schedule", &id]),
                "nothing is paused"
            ),
            // The same schedule again is not paused either.
            _ => assert_eq!(prepare(&rework, &every_second), id),
        }
        let tasks = until(
            "another run",
            || tasks_of(&rework, &id),
            |tasks| tasks.len() > count,
        );
        let gap = time(&tasks[tasks.len() - count - 1]["run_at"])
            - time(&tasks[tasks.len() - count]["run_at"]);
        assert!(gap.num_seconds() >= 2, "{by}: {tasks:?}");
    }
    rework.ok(&["unprepare", &id]);
}

#[test]
fn schedules_move_through_a_file() {
    let rework = prepared();
    prepare(
        &rework,
        &[
            "--rule",
            "0 30 6 * * *",
            "--timezone",
            "Asia/Tokyo",
            "--catch-up",
            "one",
        ],
    );
    prepare(
        &rework,
        &[
            "--rule",
            "* * * * * *",
            "--every-second",
            "--metadata",
            r#"{"a": 1}"#,
        ],
    );
    assert_eq!(
        rework.ok(&["export-scheduled"]),
        "saved 2 entries into rework.sched"
    );
    let file = rework.directory().join("rework.sched");
    let document: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(document["version"], 1);
    assert_eq!(document["schedules"][0]["timezone"], "Asia/Tokyo");
    let listed = |rework: &Rework| {
        let mut rows = rework.json(&["list-scheduled"]);
        for row in rows.as_array_mut().unwrap() {
            row["id"] = Value::Null;
            row["next_run"] = Value::Null;
        }
        rows
    };

    let other = prepared();
    let path = file.to_str().unwrap();
    assert_eq!(
        other.ok(&["import-scheduled", "--path", path]),
        format!("loaded 2 entries from {path}")
    );
    assert_eq!(listed(&other), listed(&rework));
    // Again: identical ones are replaced.
    other.ok(&["import-scheduled", "--path", path]);
    assert_eq!(listed(&other), listed(&rework));

    // All or none.
    let mut broken = document.clone();
    broken["schedules"][0]["rule"] = "1 2 3 4 5 6".into();
    broken["schedules"][1]["input"] = json!({"mode": "dance"});
    fs::write(&file, broken.to_string()).unwrap();
    let refusal = other.fails(1, &["import-scheduled", "--path", path]);
    assert!(
        refusal
            .contains("schedule 2 of 2 (`misbehave`): input `mode` of `misbehave` must be one of"),
        "the entry is named: {refusal}"
    );
    assert_eq!(listed(&other), listed(&rework));
    broken["schedules"][1]["input"] = Value::Null;
    broken["schedules"][1]["raw_input"] = "***".into();
    fs::write(&file, broken.to_string()).unwrap();
    let refusal = other.fails(1, &["import-scheduled", "--path", path]);
    assert!(
        refusal.contains("schedule 2 of 2 (`misbehave`): its raw_input is not base64"),
        "{refusal}"
    );
    for version in [json!(2), json!(0), json!(-1), json!(1.5), json!("1")] {
        broken["version"] = version.clone();
        fs::write(&file, broken.to_string()).unwrap();
        let refusal = other.fails(1, &["import-scheduled", "--path", path]);
        let told = format!("version {version} of the format; this rework knows 1");
        assert!(refusal.contains(&told), "{refusal}");
    }
    // As some editors save it.
    fs::write(&file, format!("\u{feff}{document}")).unwrap();
    other.ok(&["import-scheduled", "--path", path]);
    fs::write(&file, "0 0 * * *").unwrap();
    let refusal = other.fails(1, &["import-scheduled", "--path", path]);
    assert!(refusal.contains("is no file of schedules"), "{refusal}");
    assert!(
        other
            .fails(1, &["import-scheduled", "--path", "nowhere"])
            .contains("nowhere")
    );
}

#[test]
fn what_cannot_be_prepared_is_refused() {
    let rework = prepared();
    let input = r#"{"mode": "ok"}"#;
    for (code, arguments, words) in [
        (
            2,
            ["--rule", "* * *", "--input", input].as_slice(),
            "it has 3 fields",
        ),
        (
            2,
            &["--rule", "0 0 0 30 2 *", "--input", input],
            "never fires",
        ),
        (
            2,
            &["--rule", "61 * * * * *", "--input", input],
            "is not a cron rule",
        ),
        (
            2,
            &["--rule", "0 */90 * * * *", "--input", input],
            "every 90 minutes takes 2 schedules: `0 0 */3 * * *`, `0 30 1-23/3 * * *`",
        ),
        (
            2,
            &["--rule", "0 0 */36 * * *", "--input", input],
            "a rule begins anew with every day, so it cannot say every 36 hours",
        ),
        (
            2,
            &["--rule", "0 0/90 * * * *", "--input", input],
            "a step needs `*` or a range before it",
        ),
        (
            2,
            &["--rule", "0 0 * * * *", "--timezone", "Mars/Olympus"],
            "is not a time zone",
        ),
        (
            2,
            &["--rule", "0 0 * * * *", "--catch-up", "some"],
            "is none of: skip, one, all",
        ),
        (
            2,
            &["--rule", "0 0 * * * *", "--input", "{"],
            "it is not JSON",
        ),
        (
            1,
            &["--rule", "* * * * * *", "--input", input],
            "fires every second",
        ),
        (
            1,
            &["--rule", "*/1 * * * * *", "--input", input],
            "fires every second",
        ),
        (
            1,
            &["--rule", "0 0 * * * *"],
            "missing required input `mode`",
        ),
        (
            1,
            &["--rule", "0 0 * * * *", "--input", r#"{"mood": "ok"}"#],
            "unknown input `mood`",
        ),
        (
            1,
            &["--rule", "0 0 * * * *", "--input", input, "--domain", "x"],
            "in domain `x`",
        ),
        (
            1,
            &["--rule", "0 0 * * * *", "--input", input, "--metadata", "3"],
            "metadata must be an object",
        ),
    ] {
        let refusal = rework.fails(code, &[&["prepare", "misbehave"], arguments].concat());
        assert!(refusal.contains(words), "{arguments:?}: {refusal}");
    }
    let refusal = rework.fails(1, &["prepare", "nothing", "--rule", "0 0 * * * *"]);
    assert!(refusal.contains("no operation `nothing`"), "{refusal}");
    assert_eq!(rework.ok(&["list-scheduled"]), "");
}

/// Either of them is enough, as in every cron, and hardly anybody knows.
#[test]
fn a_day_of_the_month_beside_a_day_of_the_week_is_noted() {
    let rework = prepared();
    let prepare = |rule: &str| {
        rework.run(&[
            "prepare",
            "misbehave",
            "--input",
            r#"{"mode": "ok"}"#,
            "--rule",
            rule,
        ])
    };
    let noted = prepare("0 0 0 13 * fri");
    assert_eq!(noted.code, 0, "{noted:?}");
    assert!(
        noted
            .stderr
            .contains("note: the rule fires on days that fit the day of the month (`13`) or")
            && noted.stderr.contains("write `+fri` for days that fit both"),
        "{noted:?}"
    );
    let both = prepare("0 0 0 13 * +fri");
    assert_eq!((both.code, both.stderr.as_str()), (0, ""));
    let rows = rework.json(&["list-scheduled"]);
    let next = time(&rows[1]["next_run"]);
    assert_eq!(next.format("%d %a").to_string(), "13 Fri");
}

/// The clock of the database was a day ahead for a moment: what was fired for stays fired for, and
/// everything else comes in its time.
#[test]
fn a_last_run_ahead_of_the_clock_silences_nothing() {
    let rework = prepared();
    let id = prepare(&rework, &["--rule", "* * * * * *", "--every-second"]);
    let ahead = |what: &str| {
        let update = format!("update rework.sched set {what} = now() + interval '1 day'");
        rework.database.psql(&update);
    };
    let runs = || tasks_of(&rework, &id).len();
    ahead("last_run");
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    until("a first run", runs, |count| *count >= 1);
    // While it is planned already, and for a monitor that comes later.
    for (what, restart) in [("last_run", false), ("last_run", true), ("since", true)] {
        ahead(what);
        let _another = restart.then(|| rework.monitor(&["--domain", "misbehaving"]));
        let before = runs();
        until(what, runs, |count| *count >= before + 2);
    }
    let row = rework.json(&["list-scheduled"])[0].clone();
    assert!(
        time(&row["last_run"]) <= Utc::now() + TimeDelta::seconds(2),
        "{row}"
    );
    // Each time once.
    let tasks = tasks_of(&rework, &id);
    let times: BTreeSet<_> = tasks.iter().map(|task| time(&task["run_at"])).collect();
    assert_eq!(times.len(), tasks.len(), "{tasks:?}");
}

#[test]
fn a_run_that_was_queued_ahead_of_its_time_is_not_planned_nor_queued_again() {
    let rework = prepared();
    let id = prepare(&rework, &["--rule", "* * * * * *", "--every-second"]);
    let next = Utc::now() + TimeDelta::seconds(6);
    let next = next.with_nanosecond(0).unwrap();
    rework.database.psql(&format!(
        "insert into rework.sched_run values ({id}, '{}')",
        next.to_rfc3339()
    ));
    let plan = rework.json(&["scheduled-plan", "misbehaving", "--limit", "20"]);
    let planned: Vec<_> = plan
        .as_array()
        .unwrap()
        .iter()
        .map(|run| time(&run["time"]))
        .collect();
    assert!(planned.first().unwrap() < &next && planned.last().unwrap() > &next);
    assert!(!planned.contains(&next), "{planned:?}");
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let tasks = until(
        "a run after it",
        || tasks_of(&rework, &id),
        |tasks| tasks.iter().any(|task| time(&task["run_at"]) > next),
    );
    assert!(
        tasks.iter().all(|task| time(&task["run_at"]) != next),
        "{tasks:?}"
    );
}

/// Zone data of version 2, by hand: no change is listed, the rule is the last line.
fn compiled_zone(rule: &str) -> Vec<u8> {
    let block = [&b"TZif2"[..], &[0; 15], &[0; 16], &[0, 0, 0, 1, 0, 0, 0, 4]].concat();
    // One kind of local time: no summer time, its letters at 0.
    let block = [&block[..], &[0; 6], b"UTC\0"].concat();
    [&block[..], &block[..], format!("\n{rule}\n").as_bytes()].concat()
}

#[test]
fn zone_data_of_the_system_are_followed_if_they_are_newer() {
    let rework = prepared();
    let id = prepare(
        &rework,
        &["--rule", "0 0 12 * * *", "--timezone", "Europe/Paris"],
    );
    let directory = rework.directory().join("zoneinfo");
    fs::create_dir_all(directory.join("Europe")).unwrap();
    let paris = directory.join("Europe/Paris");
    fs::write(&paris, compiled_zone("XYZ-5:30")).unwrap();
    let run = |arguments: &[&str]| {
        let output = rework
            .command(arguments)
            .env("TZDIR", &directory)
            .output()
            .unwrap();
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let noon = || {
        let rows: Value = serde_json::from_str(&run(&["list-scheduled", "--json"]).0).unwrap();
        assert_eq!(rows[0]["id"].to_string(), id);
        time(&rows[0]["next_run"]).format("%H:%M").to_string()
    };
    let version = |version: &str| {
        fs::write(
            directory.join("tzdata.zi"),
            format!("# version {version}\n"),
        )
        .unwrap();
    };

    version("2099a");
    assert_eq!(noon(), "06:30");
    let told = format!("time zones: 2099a, {}", directory.display());
    assert!(run(&["--version"]).0.contains(&told));
    assert!(run(&["doctor"]).0.contains(&format!("ok zones: {told}")));

    version("2001a");
    assert!(
        ["10:00", "11:00"].contains(&noon().as_str()),
        "what is built in is newer"
    );
    assert!(run(&["--version"]).0.contains(", built in"));

    // A file that is damaged does not count, and is told.
    version("2099a");
    fs::write(&paris, "TZif2 and nothing else").unwrap();
    assert!(["10:00", "11:00"].contains(&noon().as_str()));
    let (doctor, _) = run(&["doctor"]);
    assert!(
        doctor.contains("problem zones: time zones: 2099a")
            && doctor.contains("Europe/Paris: it is damaged"),
        "{doctor}"
    );
}

#[test]
fn moments_are_resolved_when_a_schedule_fires_in_its_zone() {
    let rework = Rework::with_plugins(&[standalone()]);
    let input = r#"{"horizon": "(shifted (monthstart (today)) #:hour 0 #:minute 0 #:second 0)"}"#;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let id = runtime.block_on(async {
        let client = Client::connect(&rework.database.url()).await.unwrap();
        client
            .prepare("plan", "0 0 * * * *")
            .timezone("Asia/Tokyo")
            .catch_up(CatchUp::One)
            .input(serde_json::from_str::<Value>(input).unwrap())
            .await
            .unwrap()
    });
    // The expression stays in the schedule.
    let row = &rework.json(&["list-scheduled"])[0];
    assert!(
        row["input"]["horizon"]
            .as_str()
            .unwrap()
            .starts_with("(shifted")
    );
    rework
        .database
        .psql("update rework.sched set since = now() - interval '2 hours'");
    let _monitor = rework.monitor(&["--all-domains"]);
    let tasks = until(
        "its run",
        || rework.json(&["list-tasks"]),
        |tasks| tasks[0]["state"] == "done",
    );
    assert_eq!(tasks[0]["schedule"], id.0);
    let task = rework.task(&tasks[0]["id"].to_string());
    let horizon = task["input"]["horizon"].as_str().unwrap();
    assert!(
        horizon.ends_with("T15:00:00Z"),
        "midnight in Tokyo: {horizon}"
    );
    assert_eq!(task["output"], horizon, "the operation saw the same");
}

#[test]
fn an_input_that_a_new_version_does_not_accept_is_marked() {
    let rework = prepared();
    let id = prepare(&rework, &["--rule", "0 0 * * * *", "--catch-up", "one"]);
    // As if another version had come that knows no mode `ok`.
    rework.database.psql(
        "update rework.plugin_operation
            set inputs = jsonb_set(inputs, '{0,choices}', '[\"dance\"]') where name = 'misbehave'",
    );
    let row = rework.json(&["list-scheduled"])[0].clone();
    assert!(
        row["error"]
            .as_str()
            .unwrap()
            .contains("must be one of \"dance\""),
        "{row}"
    );
    assert!(
        rework
            .ok(&["list-scheduled"])
            .contains("refused: input `mode` of `misbehave` must be one of")
    );
    rework.database.psql(&format!(
        "update rework.sched set since = now() - interval '90 minutes' where id = {id}"
    ));
    let monitor = rework.monitor(&["--domain", "misbehaving"]);
    until(
        "the run to be refused",
        || rework.json(&["list-scheduled"])[0].clone(),
        |row| row["last_run"] != Value::Null,
    );
    assert_eq!(tasks_of(&rework, &id), [] as [Value; 0]);
    assert!(
        monitor
            .log()
            .contains(&format!("schedule {id} could not queue its task"))
    );
    let why = |key: &str| rework.json(&["list-scheduled"])[0][key].clone();
    assert_eq!(why("error"), why("last_error"));
    // As if it had come back: what is past is told, but nothing is wrong any more.
    rework.database.psql(
        "update rework.plugin_operation
            set inputs = jsonb_set(inputs, '{0,choices}', '[\"ok\"]') where name = 'misbehave'",
    );
    assert_eq!(why("error"), Value::Null);
    assert_ne!(why("last_error"), Value::Null);
    assert!(
        rework
            .run(&["doctor"])
            .stdout
            .contains("no schedule is refused")
    );
}
