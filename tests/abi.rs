//! The boundary: a plugin carries its notes through strip and link-time optimisation, and a host
//! reads them without running it.

use crate::harness::{Rework, hello, standalone};
use std::{fs, process::Command};

#[test]
fn notes_survive_strip() {
    let rework = Rework::new();
    let stripped = rework.directory().join("stripped.so");
    fs::copy(hello(), &stripped).unwrap();
    assert!(
        Command::new("strip")
            .arg(&stripped)
            .status()
            .unwrap()
            .success()
    );
    let said = rework.ok(&["register-operations", stripped.to_str().unwrap()]);
    assert_eq!(said, "registered 3 new operation (0 already known)");
    let _monitor = rework.monitor(&[]);
    assert_eq!(
        rework.ok(&["schedule", "my_first_task", "--input", "4", "--wait"]),
        "8"
    );
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
