//! Register: a plugin is inspected, loaded by a child, and written down, or refused as a whole.

use crate::harness::{Rework, hello, misbehaving, report, standalone};
use std::{fs, process::Command};

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
    let plan = rework.ok(&[
        "register-operations",
        plugin,
        "--host",
        "other",
        "--dry-run",
    ]);
    assert_eq!(plan, "would register 3 new operation (0 already known)");
    assert!(!rework.ok(&["list-operations"]).contains("host(other)"));
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

/// Compiles a shared library from C.
pub(crate) fn c_library(rework: &Rework, name: &str, source: &str) -> String {
    let c = rework.directory().join(format!("{name}.c"));
    let so = rework.directory().join(format!("{name}.so"));
    fs::write(&c, source).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&so, &c])
        .status();
    assert!(status.unwrap().success());
    so.to_str().unwrap().to_owned()
}

/// A C library that carries the notes of a plugin but is none.
pub(crate) fn with_notes(abi: &str, body: &str) -> String {
    let note = |kind: u32, text: &str| {
        let padded = text.len().next_multiple_of(4);
        let text: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
        format!(
            "__attribute__((section(\".note.rework\"), used, aligned(4))) static const struct {{ \
             unsigned namesz, descsz, type; char name[8]; unsigned char desc[{padded}]; }} note{kind} = \
             {{ 7, {}, {kind}, \"REWORK\", {{ {} }} }};\n",
            text.len(),
            text.join(",")
        )
    };
    let plugin = format!(
        r#"{{"sdk":"9.9.9","abi":"{abi}","crate":"fake","version":"1.0.0","rustc":"cc","target":"x","panic":"unwind"}}"#
    );
    let operation = r#"{"name":"f","domain":"default"}"#;
    format!("{}{}{body}", note(1, &plugin), note(2, operation))
}

#[test]
fn bad_plugins_are_refused_and_nothing_is_registered() {
    let rework = Rework::new();
    let path = |name: &str, content: &[u8]| {
        let file = rework.directory().join(name);
        fs::write(&file, content).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let hello = fs::read(hello()).unwrap();
    let program = fs::read(env!("CARGO_BIN_EXE_rework")).unwrap();
    let exports_none = with_notes("1.0", "int x;");
    let undefined = with_notes("1.0", "void missing(void); void call(void) { missing(); }");
    let crashes = with_notes(
        "1.0",
        "__attribute__((constructor)) void f(void) { *(volatile int *)8 = 1; }",
    );
    let exits = with_notes(
        "1.0",
        "#include <stdlib.h>\n__attribute__((constructor)) void f(void) { _Exit(0); }",
    );
    let cases = [
        (
            path("text.so", b"#!/bin/sh\necho\n"),
            "is a text file, not a plugin (expected an ELF shared library, .so)",
        ),
        (path("empty.so", b""), "is empty (0 bytes)"),
        (
            path("program.so", &program),
            "is a program, not a plugin: build it as a library, with crate-type",
        ),
        (path("cut.so", &hello[..hello.len() / 2]), "is cut short"),
        (
            c_library(&rework, "other", "int x;"),
            "is a shared library, but not a rework plugin: no .note.rework section",
        ),
        (
            c_library(&rework, "abi2", &with_notes("2.0", "")),
            "was built for plugin ABI 2.0 (rework-plugin 9.9.9); this rework speaks ABI 1",
        ),
        (
            c_library(&rework, "noroot", &exports_none),
            "exports no root module",
        ),
        (
            c_library(&rework, "undefined", &undefined),
            "undefined symbol: missing",
        ),
        (
            c_library(&rework, "crashes", &crashes),
            "crashed while loading (SIGSEGV)",
        ),
        (
            c_library(&rework, "exits", &exits),
            "ended the process while loading (exit 0)",
        ),
        (
            rework
                .directory()
                .join("none.so")
                .to_str()
                .unwrap()
                .to_owned(),
            "does not exist: no such file",
        ),
        (
            rework.directory().to_str().unwrap().to_owned(),
            "is a directory, not a plugin",
        ),
    ];
    for (file, reason) in cases {
        let refusal = rework.fails(1, &["register-operations", &file]);
        assert!(
            refusal.contains(&format!("{file} ")) && refusal.contains(reason),
            "{refusal}"
        );
        assert!(refusal.contains("nothing was registered"), "{refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
        let refusal = rework.fails(1, &["check-plugin", &file]);
        assert!(refusal.contains(reason), "{refusal}");
    }
    assert_eq!(rework.ok(&["list-operations"]), "");
    assert_eq!(
        rework.database.psql("select count(*) from rework.plugin"),
        "0"
    );
}

#[test]
fn check_plugin_needs_no_database() {
    let rework = Rework::without_schema();
    let shown = rework.ok(&["check-plugin", misbehaving().to_str().unwrap()]);
    assert!(
        shown.contains("`misbehave` misbehaving Does what no operation should."),
        "{shown}"
    );
    let document = rework.json(&["check-plugin", hello().to_str().unwrap()]);
    assert_eq!(document["crate"], "hello");
    assert_eq!(document["abi"], "1.0");
    assert_eq!(document["operations"].as_array().unwrap().len(), 3);
}
