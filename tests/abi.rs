//! The boundary: a plugin carries its notes through strip and link-time optimisation, and a host
//! reads them without running it.

use crate::harness::{Rework, standalone};
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
