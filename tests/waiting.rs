//! Waiting: what no living host can run is seen to be stuck, by whoever asks.

use crate::harness::{Rework, hello, misbehaving, report};

/// The lines of `doctor` that name a problem.
fn problems(rework: &Rework) -> String {
    let doctor = rework.run(&["doctor"]);
    let lines = doctor.stdout.lines();
    let problems: Vec<&str> = lines.filter(|line| line.starts_with("problem ")).collect();
    assert_eq!(doctor.code, i32::from(!problems.is_empty()), "{doctor:?}");
    problems.join("\n")
}

#[test]
fn a_task_that_waits_for_a_host_without_a_monitor_is_told_and_shown() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let plugin = hello();
    let plugin = plugin.to_str().unwrap();
    rework.ok(&["register-operations", plugin, "--host", "hostb"]);
    let silent = rework.run(&["schedule", "my_first_task", "--input", "1"]);
    assert_eq!(silent.stderr, "", "where no monitor lives, nothing is said");
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let ok = rework.misbehave("ok");
    rework.wait(&ok, &["done"]);

    let said = rework.run(&["schedule", "my_first_task", "--input", "1"]);
    let id = said.stdout.trim();
    let never = "host hostb, which has never had a monitor";
    assert_eq!(
        said.stderr.trim(),
        format!("note: task {id} waits for {never}")
    );
    assert_eq!(rework.task(id)["waits"], never);
    let rule = ["--rule", "0 0 1 1 *"];
    let said = rework.run(&[&["prepare", "my_first_task", "--input", "1"], &rule[..]].concat());
    let schedule = said.stdout.trim();
    assert_eq!(
        said.stderr.trim(),
        format!("note: the tasks of schedule {schedule} wait for {never}")
    );
    let problems_now = problems(&rework);
    for line in [
        "problem waiting: no host can run task",
        "2 tasks of `my_first_task` default wait for host hostb, which has never had a monitor",
        "`rework unregister-host hostb`",
        &format!(
            "problem schedule: the tasks of schedule {schedule} of `my_first_task` default wait for"
        ),
        "problem host: host hostb has never had a monitor;",
    ] {
        assert!(problems_now.contains(line), "{line}: {problems_now}");
    }

    let elsewhere = tempfile::tempdir().unwrap();
    let other = rework.monitor_in(elsewhere.path(), &["--host", "hostb"]);
    rework.wait(id, &["done"]);
    assert_eq!(problems(&rework), "");
    assert_eq!(other.interrupt(), Some(0));
    let said = rework.run(&["schedule", "my_first_task", "--input", "1"]);
    assert!(
        said.stderr
            .contains("host hostb, which has had no monitor since 20"),
        "{said:?}"
    );
    rework.ok(&["unprepare", schedule]);
    rework.ok(&["abort-task", said.stdout.trim()]);
    let retired = rework.ok(&["unregister-host", "hostb", "--no-confirm"]);
    assert!(
        retired.contains("delete my_first_task default ") && retired.ends_with(" hostb"),
        "{retired}"
    );
    assert_eq!(problems(&rework), "");
    let refusal = rework.fails(1, &["unregister-host", "hostb", "--no-confirm"]);
    assert!(
        refusal.contains("nothing is registered for host `hostb`"),
        "{refusal}"
    );
}

/// Versions differ, and only that of a host that is gone takes the input.
#[test]
fn an_input_that_only_a_host_without_a_monitor_accepts_is_told() {
    let rework = Rework::with_plugins(&[report()]);
    rework.database.psql(
        r#"insert into rework.plugin (hash, name, version, sdk, abi, rustc, target, panic, size)
           select repeat('ab', 32), name, '0.0.1', sdk, abi, rustc, target, panic, size from rework.plugin;
           insert into rework.plugin_operation (plugin, name, domain, inputs)
           select (select max(id) from rework.plugin), name, domain,
                  '[{"name": "old", "type": "number", "required": true}]'
             from rework.plugin_operation;
           insert into rework.deployment (operation, host, plugin_operation, path)
           select operation, 'elsewhere', (select max(id) from rework.plugin_operation), path
             from rework.deployment"#,
    );
    let _monitor = rework.monitor(&["--all-domains"]);
    let fits = rework.schedule(&["word_frequencies", "--input", r#"{"text": "a"}"#]);
    rework.wait(&fits, &["done"]);
    assert_eq!(
        problems(&rework),
        "",
        "others do the work of the host that is gone"
    );
    let said = rework.run(&["schedule", "word_frequencies", "--input", r#"{"old": 1}"#]);
    assert!(
        said.stderr.contains("waits for host elsewhere, which"),
        "{said:?}"
    );
    let problems = problems(&rework);
    assert!(
        problems.contains(&format!(
            "problem waiting: no host can run task {}",
            said.stdout.trim()
        )) && problems.contains("`rework unregister-host elsewhere`"),
        "{problems}"
    );
}
