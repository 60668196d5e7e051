//! The boundary: a plugin carries its notes through strip and link-time optimisation, and a host
//! reads them without running it.

use crate::harness::{
    Rework, as_of_1_0, as_of_1_2, hello, misbehaving, place, standalone, with_texts,
};
use std::{fs, process::Command};

/// The stranger's plugin is built with fat LTO, which drops what nobody refers to.
#[test]
fn notes_survive_link_time_optimisation_and_strip() {
    let rework = Rework::new();
    let stripped = rework.directory().join("stripped.so");
    fs::copy(standalone(), &stripped).unwrap();
    let strip = Command::new("strip").arg(&stripped).status().unwrap();
    assert!(strip.success());
    let plugin = stripped.to_str().unwrap();
    let document = rework.json(&["check-plugin", plugin]);
    assert_eq!(document["profile"], "release");
    let whole = rework.json(&["check-plugin", standalone().to_str().unwrap()]);
    assert_eq!(document["operations"], whole["operations"]);
    rework.ok(&["register-operations", plugin]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let output = rework.ok(&[
        "schedule",
        "reverse",
        "--input",
        "{\"file\": \"abc\"}",
        "--wait",
    ]);
    assert!(output.contains("\"bytes\":3"), "{output}");
}

#[test]
fn notes_tell_where_an_operation_is() {
    let rework = Rework::new();
    let document = rework.json(&["check-plugin", standalone().to_str().unwrap()]);
    let operations = document["operations"].as_array().unwrap();
    let patience = operations
        .iter()
        .find(|one| one["name"] == "wait_twice")
        .unwrap();
    assert_eq!(patience["async"], true);
    assert_eq!(patience["module"], "standalone::patience");
    assert_eq!(patience["file"], "src/patience.rs");
    assert_eq!(document["version"], "1.2.3");
}

/// What a plugin of any minor of this major can do on this host.
fn runs_as_ever(rework: &Rework) {
    let twice = rework.schedule(&["twice", "--input", "{\"n\": 21}"]);
    let task = rework.ended(&twice);
    assert_eq!(task["output"], 42, "{task:#}");
    assert_eq!(task["progress"]["fraction"], 0.5);
    assert_eq!(rework.log(&twice), ["stdout:info:twice 21"]);
    let panics = rework.schedule(&["panics"]);
    let task = rework.wait(&panics, &["failed"]);
    assert_eq!(
        (&task["cause"], &task["error"]),
        (&"panic".into(), &"as ever".into())
    );
    let queue = rework.schedule(&["queue"]);
    let other = rework.wait(&queue, &["done"])["output"].to_string();
    assert_eq!(rework.wait(&other, &["done"])["output"], 8);
}

/// What reads the input is part of the plugin, so that only its author can mend it.
#[test]
fn a_plugin_whose_sdk_changes_doubles_is_named() {
    let rework = Rework::new();
    let ours = format!(r#""sdk":"{}""#, rework_plugin_version());
    let older = with_texts(&hello(), &[(&ours, r#""sdk":"0.1.0""#)]);
    let older = place(&older, &rework.directory().join("older.so"));
    let older = older.to_str().unwrap();
    let warning =
        "is built with rework-plugin 0.1.0, which changes the last bit of about one in ten numbers";
    for command in ["check-plugin", "register-operations"] {
        let output = rework.run(&[command, older]);
        assert_eq!(output.code, 0, "{output:?}");
        let warns = format!("warning: {older} {warning}");
        assert!(output.stderr.contains(&warns), "{output:?}");
        assert!(
            output.stderr.contains("build it again with rework-plugin "),
            "{output:?}"
        );
    }
    let _monitor = rework.monitor(&[]);
    let doctor = rework.run(&["doctor"]);
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(
        doctor
            .stdout
            .contains("problem plugin: on testhost: hello 0.1.0 (")
            && doctor.stdout.contains(warning),
        "{doctor:?}"
    );
    // As soon as what was built again is registered, all is well.
    let registered = rework.run(&["register-operations", hello().to_str().unwrap()]);
    assert!(!registered.stderr.contains("warning"), "{registered:?}");
    let doctor = rework.run(&["doctor"]);
    assert!(!doctor.stdout.contains(warning), "{doctor:?}");
}

/// The version of the SDK that the plugins of these tests are built with.
fn rework_plugin_version() -> String {
    let manifest = include_str!("../plugin-sdk/Cargo.toml");
    let line = manifest.lines().find(|line| line.starts_with("version = "));
    let version = line.and_then(|line| line.split('"').nth(1));
    version.expect("the manifest says it").to_owned()
}

#[test]
fn a_plugin_of_an_earlier_minor_runs_on_this_host() {
    let rework = Rework::new();
    let plugin = as_of_1_0();
    let plugin = plugin.to_str().unwrap();
    assert_eq!(rework.json(&["check-plugin", plugin])["abi"], "1.0");
    rework.ok(&["register-operations", plugin]);
    let _monitor = rework.monitor(&["--all-domains"]);
    runs_as_ever(&rework);
}

#[test]
fn a_plugin_of_a_later_minor_runs_and_is_told_what_this_host_lacks() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let (plugin, _) = as_of_1_2();
    let plugin = plugin.to_str().unwrap();
    assert_eq!(rework.json(&["check-plugin", plugin])["abi"], "1.2");
    rework.ok(&["register-operations", plugin]);
    let _monitor = rework.monitor(&["--all-domains"]);
    runs_as_ever(&rework);
    // What came with 1.1 is there, what came with 1.2 is not.
    let queue = rework.schedule(&["queue_raw", "--domain", "abi"]);
    let other = rework.wait(&queue, &["done"])["output"].to_string();
    assert_eq!(rework.wait(&other, &["done"])["output_encoding"], "raw");
    let whisper = rework.schedule(&["whisper"]);
    let task = rework.wait(&whisper, &["failed"]);
    assert_eq!(
        task["error"],
        "whisper needs rework ≥ 1.2: this worker speaks an older plugin ABI"
    );
}

#[test]
fn a_plugin_that_cannot_do_without_a_later_minor_says_so_and_nothing_else() {
    let rework = Rework::new();
    let (_, plugin) = as_of_1_2();
    let path = plugin.to_str().unwrap();
    for (command, end) in [
        ("check-plugin", ""),
        ("register-operations", " (nothing was registered)"),
    ] {
        let refusal = rework.fails(1, &[command, path]);
        assert_eq!(
            refusal.trim_end(),
            format!(
                "error: {path} needs rework ≥ 1.2 for its operation `must_whisper`; this one \
                 speaks plugin ABI 1.1{end}"
            )
        );
    }
}

/// On a host that lacks it, `raw_input` is an error of the operation, not of the plugin.
#[test]
fn an_sdk_without_a_function_of_the_host_says_which_rework_has_it() {
    let rework = Rework::with_plugins(&[as_of_1_0()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let queue = rework.schedule(&["queue_raw"]);
    let task = rework.wait(&queue, &["failed"]);
    assert_eq!(
        task["error"],
        "raw_input needs rework ≥ 1.1: this worker speaks an older plugin ABI"
    );
}
