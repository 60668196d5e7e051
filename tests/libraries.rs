//! Plugins that need libraries which are not where every program finds them.

use crate::harness::{Fake, Rework, hello_with, until};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Ends the process unless the library is there and is the right one.
const CALLS_OUTER: &str = "
#include <stdlib.h>
int outer(void);
__attribute__((constructor)) static void check(void) { if (outer() < 40) abort(); }
";

/// `libouter.so`, which needs `libinner.so` beside it, in a directory.
fn libraries(directory: &Path, answer: u32) {
    fs::create_dir_all(directory).unwrap();
    let soname = |name: &str| format!("-Wl,-soname,{name}");
    Fake::library(&format!("int inner(void) {{ return {answer}; }}"))
        .argument(&soname("libinner.so"))
        .build(directory, "libinner");
    // Without a soname: its users know it by its file's name.
    Fake::library("int inner(void); int outer(void) { return inner(); }")
        .argument(&format!("-L{}", directory.display()))
        .argument("-linner")
        .argument("-Wl,-rpath,$ORIGIN")
        .build(directory, "libouter");
}

/// A plugin in `lib/` whose libraries are in `deps/`, found by this run path.
fn plugin(root: &Path, run_path: Option<&str>) -> PathBuf {
    let (lib, deps) = (root.join("lib"), root.join("deps"));
    fs::create_dir_all(&lib).unwrap();
    libraries(&deps, 42);
    let so = lib.join("plugin.so");
    let mut arguments = vec![
        format!("-L{}", deps.display()),
        format!("-Wl,-rpath-link,{}", deps.display()),
        "-louter".to_owned(),
    ];
    arguments.extend(run_path.map(|path| format!("-Wl,--enable-new-dtags,-rpath,{path}")));
    hello_with(&so, CALLS_OUTER, &arguments);
    so
}

fn runs(rework: &Rework) {
    assert_eq!(
        rework.ok(&["schedule", "my_first_task", "--input", "21", "--wait"]),
        "42"
    );
}

#[test]
fn what_lies_beside_a_plugin_comes_along() {
    let rework = Rework::new();
    let root = rework.directory().canonicalize().unwrap().join("built");
    let so = plugin(&root, Some("$ORIGIN/../deps"));
    let so = so.to_str().unwrap();
    let checked = rework.ok(&["check-plugin", so]);
    assert!(
        checked.contains("\n  with       deps/libinner.so, deps/libouter.so\n"),
        "{checked}"
    );
    let refusal = rework.fails(1, &["register-operations", so, "--publish"]);
    assert!(
        refusal.contains(
            "brings libraries along (deps/libinner.so), and --publish stores the plugin alone"
        ),
        "{refusal}"
    );
    rework.ok(&["register-operations", so]);
    // What runs is the copy.
    fs::rename(root.join("deps"), root.join("gone")).unwrap();
    {
        let _monitor = rework.monitor(&[]);
        runs(&rework);
    }
    if nix::unistd::geteuid().is_root() {
        let _monitor = rework.monitor(&["--worker-user", "nobody"]);
        runs(&rework);
    }
    fs::rename(root.join("gone"), root.join("deps")).unwrap();
    assert!(
        rework.ok(&["register-operations", so]).lines().count() == 1,
        "it is the same version"
    );
    // Another version of a library is another version of the plugin.
    let hash = rework.json(&["list-plugins"])[0]["hash"].clone();
    libraries(&root.join("deps"), 43);
    let registered = rework.ok(&["register-operations", so]);
    assert!(registered.contains(" → "), "{registered}");
    let rows = rework.json(&["list-plugins"]);
    let current = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["current"] == true);
    assert_ne!(current.unwrap()["hash"], hash);
    let _monitor = rework.monitor(&[]);
    runs(&rework);
    rework.ok(&["rollback-plugin", "default"]);
    runs(&rework);
}

#[test]
fn a_signature_does_not_cover_what_comes_along() {
    let rework = Rework::new();
    let root = rework.directory().canonicalize().unwrap().join("built");
    let so = plugin(&root, Some("$ORIGIN/../deps"));
    let key = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let content = fs::read(&so).unwrap();
    let signature = minisign::sign(None, &key.sk, content.as_slice(), None, None).unwrap();
    fs::write(format!("{}.minisig", so.display()), signature.into_string()).unwrap();
    let (so, key) = (so.to_str().unwrap(), key.pk.to_base64());
    for command in ["check-plugin", "register-operations"] {
        let refusal = rework.fails(1, &[command, so, "--require-signature", &key]);
        assert!(
            refusal.contains(
                "brings libraries along (deps/libinner.so), which its signature does not cover: link them \
                 statically, or give it an absolute run path"
            ),
            "{refusal}"
        );
    }
    assert_eq!(rework.ok(&["list-operations"]), "");
    // Without its libraries the same signature is enough to get further.
    fs::rename(root.join("deps"), root.join("gone")).unwrap();
    let refusal = rework.fails(1, &["check-plugin", so, "--require-signature", &key]);
    assert!(
        refusal.contains("libouter.so") && !refusal.contains("signature"),
        "{refusal}"
    );
}

#[test]
fn a_library_that_others_can_write_does_not_come_along() {
    use std::os::unix::fs::PermissionsExt;
    let rework = Rework::new();
    let root = rework.directory().canonicalize().unwrap().join("built");
    let so = plugin(&root, Some("$ORIGIN/../deps"));
    let library = root.join("deps/libinner.so");
    fs::set_permissions(&library, fs::Permissions::from_mode(0o777)).unwrap();
    let refusal = rework.fails(1, &["check-plugin", so.to_str().unwrap()]);
    let expected = format!("brings {}", root.join("lib/../deps/libinner.so").display());
    assert!(
        refusal.contains(&expected) || refusal.contains("deps/libinner.so along, which"),
        "{refusal}"
    );
    assert!(
        refusal.contains("other users can write this file"),
        "{refusal}"
    );
}

#[test]
fn a_library_on_the_search_path_of_the_caller_is_passed_on() {
    let rework = Rework::new();
    let root = rework.directory().canonicalize().unwrap().join("built");
    let so = plugin(&root, None);
    let so = so.to_str().unwrap();
    let with_path = |arguments: &[&str]| {
        let mut command = rework.command(arguments);
        command.env("LD_LIBRARY_PATH", root.join("deps"));
        command
    };
    // The environment alone is nobody's business.
    for command in ["check-plugin", "register-operations"] {
        let output = with_path(&[command, so]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            complaint.contains(
                "cannot be loaded: needs libouter.so, which is not in the directories of ldconfig; "
            ) && complaint.contains("--env LD_LIBRARY_PATH"),
            "{complaint}"
        );
        let output = with_path(&[command, so, "--env", "LD_LIBRARY_PATH"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    {
        // A worker finds no more than a probe, and says the same.
        let monitor = rework.monitor(&[]);
        rework.schedule(&["my_first_task", "--input", "21"]);
        until(
            "the worker to be refused",
            || monitor.log(),
            |log| log.contains("needs libouter.so, which is not in the directories of ldconfig"),
        );
    }
    let _monitor = rework.monitor_by(with_path(&["monitor", "--env", "LD_LIBRARY_PATH"]));
    runs(&rework);
}

#[test]
fn a_monitor_examines_with_the_environment_of_its_workers() {
    let rework = Rework::new();
    let root = rework.directory().canonicalize().unwrap().join("built");
    let so = plugin(&root, None);
    let directory = root.join("plugins.d");
    fs::create_dir(&directory).unwrap();
    fs::copy(so, directory.join("plugin.so")).unwrap();
    let mut command = rework.command(&[
        "monitor",
        "--env",
        "LD_LIBRARY_PATH",
        "--plugin-dir",
        directory.to_str().unwrap(),
    ]);
    command.env("LD_LIBRARY_PATH", root.join("deps"));
    let _monitor = rework.monitor_by(command);
    until(
        "the plugin to be registered",
        || rework.run(&["schedule", "my_first_task", "--input", "1"]),
        |output| output.code == 0,
    );
    runs(&rework);
}

#[test]
fn a_missing_library_is_told_with_where_it_was_looked_for() {
    let rework = Rework::new();
    let root = rework.directory().canonicalize().unwrap().join("built");
    let so = plugin(&root, Some("/opt/nowhere:$ORIGIN/../deps"));
    fs::remove_file(root.join("deps/libinner.so")).unwrap();
    let refusal = rework.fails(1, &["check-plugin", so.to_str().unwrap()]);
    assert!(
        refusal.contains(
            "needs libinner.so (by another library that it needs), which is neither in its run path \
             /opt/nowhere:$ORIGIN/../deps nor in the directories of ldconfig; "
        ),
        "{refusal}"
    );
}
