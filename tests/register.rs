//! Register: a plugin is inspected, loaded by a child, and written down, or refused as a whole.

use crate::harness::{Rework, hello, misbehaving, patched, report, standalone};
use std::{fs, process::Command};

/// Without `--host` and REWORK_HOST a host has the name that the system gives it.
#[test]
fn a_host_is_called_as_the_system_calls_it() {
    let rework = Rework::new();
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    for (variable, option, host) in [
        (None, None, name.as_str()),
        (Some("elsewhere"), None, "elsewhere"),
        (Some("elsewhere"), Some("here"), "here"),
    ] {
        let mut command = rework.command(&["register-operations"]);
        command
            .arg(hello())
            .args(option.map(|host| format!("--host={host}")));
        match variable {
            Some(host) => command.env("REWORK_HOST", host),
            None => command.env_remove("REWORK_HOST"),
        };
        assert!(command.output().unwrap().status.success());
        let hosts = rework
            .database
            .psql("select string_agg(distinct host, ' ') from rework.deployment");
        assert!(
            hosts.split(' ').any(|known| known == host),
            "{host}: {hosts}"
        );
        rework.database.psql("truncate rework.deployment");
    }
}

#[test]
fn a_plugin_is_registered_once_and_known_after_that() {
    let rework = Rework::new();
    let hello = hello();
    let plugin = hello.to_str().unwrap();
    assert_eq!(
        rework.ok(&["register-operations", plugin]),
        "registered 3 new operation (0 already known)"
    );
    assert_eq!(
        rework.ok(&["register-operations", plugin]),
        "registered 0 new operation (3 already known)"
    );
    let listing = rework.ok(&["list-operations", "--domain", "maths"]);
    assert!(
        listing.ends_with(&format!(" `add` maths path({plugin}) host(testhost)")),
        "{listing}"
    );
    let rows = rework.json(&["list-operations", "--domain", "maths"]);
    let row = &rows[0];
    assert_eq!(row["timeout"], 180.0);
    assert_eq!(row["max_attempts"], 3);
    assert_eq!(
        row["description"],
        "Typed: arguments are named inputs, the return value is the output."
    );
    assert_eq!(
        row["inputs"],
        serde_json::json!([
            {"name": "a", "type": "number", "required": true, "choices": null, "default": null},
            {"name": "b", "type": "number", "required": false, "choices": null, "default": null}
        ])
    );
    let hash = row["hash"].as_str().unwrap();
    let sha256sum = Command::new("sha256sum").arg(&hello).output().unwrap();
    assert!(String::from_utf8_lossy(&sha256sum.stdout).starts_with(hash));
}

#[test]
fn a_strangers_plugin_is_as_good_as_ours() {
    let rework = Rework::with_plugins(&[standalone(), report()]);
    let rows = rework.json(&["list-operations"]);
    let names: Vec<&str> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    for name in ["reverse", "echo", "wait_twice", "word_frequencies"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let output = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == "word_frequencies");
    assert_eq!(output.unwrap()["outputs"][3]["name"], "frequencies.csv");
    assert_eq!(output.unwrap()["outputs"][3]["type"], "file");
    assert_eq!(output.unwrap()["inputs"][1]["default"], 10);
}

#[test]
fn domains_are_chosen_and_renamed() {
    let rework = Rework::new();
    let hello = hello();
    let plugin = hello.to_str().unwrap();
    assert_eq!(
        rework.ok(&["register-operations", plugin, "--domain", "maths"]),
        "registered 1 new operation (0 already known)"
    );
    assert_eq!(
        rework.ok(&["register-operations", plugin, "--asdomain", "mine"]),
        "registered 3 new operation (0 already known)"
    );
    assert_eq!(
        rework
            .ok(&["list-operations", "--domain", "mine"])
            .lines()
            .count(),
        3
    );
    let refusal = rework.fails(1, &["register-operations", plugin, "--domain", "none"]);
    assert!(
        refusal.contains("has no operation in domain `none`, only in: default, maths"),
        "{refusal}"
    );
    // What was registered under another domain stays: the plugin still offers it.
    assert_eq!(
        rework.ok(&["register-operations", plugin]),
        "registered 2 new operation (1 already known)\nadded my_first_task default\nadded noop default"
    );
    let mine = rework.ok(&["list-operations", "--domain", "mine"]);
    assert_eq!(mine.lines().count(), 3);
    for (option, value) in [("--asdomain", ""), ("--asdomain", "a b"), ("--host", "")] {
        let refusal = rework.fails(2, &["register-operations", plugin, option, value]);
        assert!(refusal.contains("it must be one word"), "{refusal}");
    }
}

#[test]
fn a_dry_run_writes_nothing() {
    let rework = Rework::new();
    let plugin = hello();
    let plan = rework.ok(&["register-operations", plugin.to_str().unwrap(), "--dry-run"]);
    assert_eq!(plan, "would register 3 new operation (0 already known)");
    assert_eq!(rework.ok(&["list-operations"]), "");
    let cached = std::fs::read_dir(rework.directory().join("plugins"));
    assert_eq!(cached.map_or(0, Iterator::count), 0);
}

#[test]
fn unregistering_keeps_tasks_and_says_what_goes() {
    let rework = Rework::with_plugins(&[hello()]);
    let task = rework.schedule(&["my_first_task", "--input", "1"]);
    assert_eq!(
        rework.ok(&["unregister-operation", "nonsense", "--no-confirm"]),
        "Nothing to unregister"
    );
    // Without an answer nothing is removed.
    let refusal = rework.fails_with_stdin(1, &["unregister-operation", "my_first_task"], "n\n");
    assert!(refusal.contains("nothing was removed"), "{refusal}");
    let gone = rework.ok(&["unregister-operation", "my_first_task", "--no-confirm"]);
    assert!(
        gone.starts_with("delete my_first_task default /") && gone.ends_with(" testhost"),
        "{gone}"
    );
    assert!(!rework.ok(&["list-operations"]).contains("my_first_task"));
    assert_eq!(rework.task(&task)["state"], "queued");
    let refusal = rework.fails(1, &["schedule", "my_first_task"]);
    assert!(
        refusal.contains("no operation `my_first_task` is registered"),
        "{refusal}"
    );
}

#[test]
fn what_a_new_version_no_longer_offers_is_retired_and_named() {
    let rework = Rework::new();
    let plugin = rework.directory().join("plugin.so");
    fs::copy(hello(), &plugin).unwrap();
    rework.ok(&["register-operations", plugin.to_str().unwrap()]);
    // `cp` over the file: the next version has other operations.
    fs::copy(report(), &plugin).unwrap();
    let said = rework.ok(&["register-operations", plugin.to_str().unwrap()]);
    assert!(
        said.starts_with("registered 1 new operation (0 already known)"),
        "{said}"
    );
    for name in ["my_first_task default", "add maths", "noop default"] {
        assert!(
            said.contains(&format!(
                "removed {name}: it is retired here; 0 queued tasks and 0 schedules stay"
            )),
            "{said}"
        );
    }
    assert_eq!(rework.ok(&["list-operations"]).lines().count(), 1);
}

#[test]
fn the_same_plugin_under_another_path_is_its_next_version() {
    let rework = Rework::new();
    let path = |name: &str| rework.directory().join(name);
    let (first, second) = (path("hello-1.so"), path("hello-2.so"));
    fs::copy(hello(), &first).unwrap();
    // A version with another operation instead of one.
    patched(&hello(), &second, b"noop", b"nope");
    rework.ok(&["register-operations", first.to_str().unwrap()]);
    let plan = rework.ok(&["register-operations", second.to_str().unwrap(), "--dry-run"]);
    assert!(plan.contains("removed noop default: "), "{plan}");
    let said = rework.ok(&["register-operations", second.to_str().unwrap()]);
    assert!(
        said.starts_with("registered 1 new operation (2 already known)\n")
            && said.contains("\nremoved noop default: it is retired here; "),
        "{said}"
    );
    let rows = rework.json(&["list-operations"]);
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 3, "{rows:#?}");
    for row in rows {
        assert_eq!(row["path"], second.to_str().unwrap());
    }
}

#[test]
fn an_operation_of_another_plugin_is_taken_over_only_when_asked() {
    let rework = Rework::with_plugins(&[hello()]);
    let other = rework.directory().join("other.so");
    patched(
        &hello(),
        &other,
        b"\"crate\":\"hello\"",
        b"\"crate\":\"other\"",
    );
    let other = other.to_str().unwrap();
    for options in [&[] as &[&str], &["--dry-run"]] {
        let refusal = rework.fails(1, &[&["register-operations", other], options].concat());
        assert_eq!(
            refusal.trim_end(),
            format!(
                "error: operation default/my_first_task on host testhost already comes from {} \
                 (plugin `hello`) (and 2 more); use --replace (nothing was registered)",
                hello().display()
            )
        );
    }
    assert_eq!(
        rework.database.psql("select count(*) from rework.plugin"),
        "1"
    );
    // On another host nobody is in the way; nor is a part that is.
    rework.ok(&["register-operations", other, "--host", "elsewhere"]);
    rework.ok(&["register-operations", other, "--asdomain", "apart"]);
    let maths = ["register-operations", other, "--domain", "maths"];
    let refusal = rework.fails(1, &maths);
    assert!(refusal.contains("operation maths/add on host"), "{refusal}");
    let said = rework.ok(&[&maths[..], &["--replace"]].concat());
    assert!(
        said.starts_with("registered 0 new operation (1 already known)\nhello 0.1.0 (")
            && said.contains(") → other 0.1.0 ("),
        "{said}"
    );
    // The others stay where they were.
    let rows = rework.json(&["list-operations"]);
    let from = |name: &str, domain: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| {
            row["name"] == name && row["domain"] == domain && row["host"] == "testhost"
        });
        row.unwrap()["path"].as_str().unwrap().to_owned()
    };
    assert_eq!(from("add", "maths"), other);
    assert_eq!(from("my_first_task", "default"), hello().to_str().unwrap());
    let said = rework.ok(&["register-operations", other, "--replace"]);
    assert!(
        said.starts_with("registered 0 new operation (3 already known)"),
        "{said}"
    );
}

#[test]
fn any_way_to_name_a_file_will_do() {
    let rework = Rework::new();
    let directory = rework.directory().join("a directory");
    fs::create_dir(&directory).unwrap();
    let plugin = directory.join("a plugin.so");
    fs::copy(hello(), &plugin).unwrap();
    std::os::unix::fs::symlink(&plugin, rework.directory().join("current.so")).unwrap();
    // The working directory of the tests is the installation's.
    rework.ok(&["register-operations", "current.so"]);
    let link = rework.directory().join("current.so");
    let listing = rework.ok(&["list-operations", "--domain", "maths"]);
    assert!(
        listing.contains(&format!("path({})", link.display())),
        "{listing}"
    );
    assert_eq!(
        rework.ok(&["register-operations", "a directory/a plugin.so"]),
        "registered 0 new operation (3 already known)"
    );
    let listing = rework.ok(&["list-operations", "--domain", "maths"]);
    assert!(
        listing.contains(&format!("path({})", plugin.display())),
        "{listing}"
    );
}

#[test]
fn a_plugin_whose_panics_abort_is_registered_with_a_warning() {
    let rework = Rework::new();
    let plugin = rework.directory().join("aborts.so");
    let (unwind, abort) = (b"\"panic\":\"unwind\"", b"\"panic\":\"abort\" ");
    patched(&hello(), &plugin, unwind, abort);
    let path = plugin.to_str().unwrap();
    let warning =
        format!("warning: {path} is built with panic = \"abort\": panics end the worker process\n");
    for command in ["check-plugin", "register-operations"] {
        let output = rework.run(&[command, path]);
        assert_eq!((output.code, &output.stderr), (0, &warning));
    }
    let document = rework.json(&["check-plugin", path]);
    assert_eq!(document["panic"], "abort");
    assert_eq!(
        document["warnings"][0],
        "is built with panic = \"abort\": panics end the worker process"
    );
}

#[test]
fn check_plugin_shows_what_a_plugin_offers_and_needs_no_database() {
    let rework = Rework::without_schema();
    let shown = rework.ok(&["check-plugin", misbehaving().to_str().unwrap()]);
    assert!(
        shown.contains("`misbehave` misbehaving Does what no operation should.\n"),
        "{shown}"
    );
    let shown = rework.ok(&["check-plugin", report().to_str().unwrap()]);
    for line in [
        "report 0.1.0\n",
        ", glibc 2.",
        "  panics     unwind\n",
        "`word_frequencies` reports Counts the words of a text.\n",
        "  input      text: file, top: number (default 10)\n",
        "  limits     timeout 10m, 1 attempt\n",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    let hello = hello();
    let shown = rework.ok(&["check-plugin", hello.to_str().unwrap()]);
    for line in [
        "  input      a: number, b: number (optional)\n",
        "  limits     timeout 3m, 3 attempts\n",
        "  input      any JSON or bytes\n  output     not declared\n",
    ] {
        assert!(shown.contains(line), "{line} in {shown}");
    }
    let document = rework.json(&["check-plugin", hello.to_str().unwrap()]);
    assert_eq!(document["crate"], "hello");
    assert_eq!(document["abi"], "1.1");
    assert_eq!(document["path"], hello.to_str().unwrap());
    assert_eq!(document["size"], fs::metadata(&hello).unwrap().len());
    assert_eq!(document["warnings"], serde_json::json!([]));
    assert_eq!(document["operations"].as_array().unwrap().len(), 3);
}

/// What a registration leaves alone: every task, log and schedule of its operations.
#[test]
fn registering_again_deletes_nothing() {
    let rework = Rework::with_plugins(&[hello()]);
    let monitor = rework.monitor(&[]);
    let done = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&done, &["done"]);
    monitor.interrupt();
    let queued = rework.schedule(&["my_first_task", "--input", "2"]);
    let rule = ["--rule", "0 30 6 * * *", "--input", "3"];
    rework.ok(&[&["prepare", "my_first_task"], &rule[..]].concat());
    let seen = || {
        (
            rework.json(&["list-tasks"]),
            rework.log(&done),
            rework.json(&["list-scheduled"]),
        )
    };
    let before = seen();
    let hello = hello();
    let path = hello.to_str().unwrap();
    rework.ok(&["register-operations", path]);
    rework.ok(&["unregister-operation", "my_first_task", "--no-confirm"]);
    rework.ok(&["register-operations", path]);
    let (tasks, log, mut schedules) = seen();
    assert_eq!((tasks, log), (before.0, before.1));
    schedules[0]["next_run"] = before.2[0]["next_run"].clone();
    assert_eq!(schedules, before.2);
    let _monitor = rework.monitor(&[]);
    assert_eq!(rework.wait(&queued, &["done", "failed"])["output"], 4);
}

#[test]
fn checking_a_plugin_keeps_nothing_of_it() {
    let rework = Rework::new();
    rework.ok(&["check-plugin", hello().to_str().unwrap()]);
    let kept = std::fs::read_dir(rework.directory().join("plugins"));
    let kept: Vec<_> = kept.map_or_else(|_| vec![], |entries| entries.flatten().collect());
    assert!(kept.is_empty(), "{kept:?}");
    assert_eq!(rework.ok(&["list-operations"]), "");
}
