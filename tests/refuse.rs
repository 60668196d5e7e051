//! Bad plugins: each is refused by `check-plugin`, by `register-operations` and in drop-in directories
//! alike, with a line that says what is wrong, and leaves nothing behind, no row, no copy and no
//! process.

use crate::harness::{Fake, Rework, about, compile, hello, patched, until, until_within};
use nix::{sys::stat::Mode, unistd::mkfifo};
use std::{
    fs::{self, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Checks that a file is refused for a reason, which follows its path.
fn refused(rework: &Rework, file: &Path, reason: &str) {
    refused_with(rework, file, reason, &[]);
}

fn refused_with(rework: &Rework, file: &Path, reason: &str, options: &[&str]) {
    let path = file.to_str().unwrap();
    let expected = match reason.strip_prefix(':') {
        Some(_) => format!("error: {path}{reason}"),
        None => format!("error: {path} {reason}"),
    };
    let refusal = rework.fails(1, &[&["check-plugin", path], options].concat());
    assert_eq!(refusal.trim_end(), expected);
    let refusal = rework.fails(1, &[&["register-operations", path], options].concat());
    assert_eq!(
        refusal.trim_end(),
        format!("{expected} (nothing was registered)")
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.plugin"),
        "0"
    );
    let cached = fs::read_dir(rework.directory().join("plugins"));
    assert_eq!(cached.map_or(0, Iterator::count), 0, "{path}");
}

/// Bad files and what is said of each.
#[derive(Default)]
struct Refusals(Vec<(PathBuf, String)>);

impl Refusals {
    /// Checks that the commands refuse a file, and keeps it for a drop-in directory.
    fn add(&mut self, rework: &Rework, file: &Path, reason: &str) {
        refused(rework, file, reason);
        self.0.push((file.to_owned(), reason.to_owned()));
    }

    /// Puts all of them into one drop-in directory, where each is refused for its own reason, said
    /// once, and does not disturb the others.
    fn dropped_in(self, rework: &Rework) {
        let directory = rework.directory().canonicalize().unwrap().join("plugins.d");
        fs::create_dir(&directory).unwrap();
        let mut expected = Vec::new();
        for (place, (file, reason)) in self.0.into_iter().enumerate() {
            let copy = directory.join(format!("{place:02}.so"));
            let kind = fs::metadata(&file).unwrap().file_type();
            if kind.is_dir() {
                fs::create_dir(&copy).unwrap();
            } else if kind.is_fifo() {
                mkfifo(&copy, Mode::S_IRUSR).unwrap();
            } else {
                fs::copy(&file, &copy).unwrap();
            }
            let separator = if reason.starts_with(':') { "" } else { " " };
            expected.push(format!("{}{separator}{reason}", copy.display()));
        }
        fs::copy(hello(), directory.join("good.so")).unwrap();
        let monitor =
            rework.monitor(&["--all-domains", "--plugin-dir", directory.to_str().unwrap()]);
        until_within(
            Duration::from_secs(90),
            "all of them to be refused",
            || {
                let rows = rework.json(&["list-plugins"]);
                let rows = rows.as_array().unwrap().iter();
                let refused = rows.filter_map(|row| row["refused"].as_str());
                let mut refused: Vec<String> = refused.map(str::to_owned).collect();
                refused.sort();
                refused
            },
            |refused| *refused == expected,
        );
        let id = until(
            "the good one to be registered",
            || rework.run(&["schedule", "my_first_task", "--input", "1"]),
            |output| output.code == 0,
        );
        rework.wait(id.stdout.trim(), &["done"]);
        let doctor = rework.run(&["doctor"]).stdout;
        for line in expected {
            assert_eq!(monitor.log().matches(&line).count(), 1, "{}", monitor.log());
            assert!(doctor.contains(&line), "{line}: {doctor}");
        }
    }
}

fn file(rework: &Rework, name: &str, content: &[u8]) -> PathBuf {
    let file = rework.directory().join(name);
    fs::write(&file, content).unwrap();
    file
}

#[test]
fn what_is_no_library_at_all() {
    let rework = Rework::new();
    let directory = rework.directory();
    refused(&rework, &directory.join("none.so"), ": no such file");
    let mut bad = Refusals::default();
    bad.add(&rework, directory, "is a directory, not a plugin");
    let fifo = directory.join("fifo.so");
    mkfifo(&fifo, Mode::S_IRUSR).unwrap();
    bad.add(&rework, &fifo, "is not a regular file");
    let expected = "not a plugin (expected an ELF shared library, .so)";
    let archive = directory.join("library.a");
    let object = directory.join("object.o");
    let source = file(&rework, "object.c", b"int x;");
    compile(
        &[
            "-c",
            "-o",
            object.to_str().unwrap(),
            source.to_str().unwrap(),
        ],
        &[],
    );
    let made = Command::new("ar")
        .arg("rcs")
        .args([&archive, &object])
        .status();
    assert!(made.unwrap().success());
    for (file, what) in [
        (
            file(&rework, "text.so", b"#!/bin/sh\necho\n"),
            "a text file",
        ),
        (archive, "a static library (an archive, .a)"),
        (object, "an object file"),
        (
            file(&rework, "x.wasm", b"\0asm\x01\0\0\0"),
            "a WebAssembly module",
        ),
        (
            file(&rework, "x.dll", b"MZ\x90\0\x03\0\0\0"),
            "a Windows program or library",
        ),
    ] {
        bad.add(&rework, &file, &format!("is {what}, {expected}"));
    }
    let huge = directory.join("huge.so");
    let sparse = fs::File::create(&huge).unwrap();
    sparse.set_len((1 << 30) + 1).unwrap();
    let reason = "has 1073741825 bytes, more than a plugin may have (1073741824)";
    refused(&rework, &huge, reason);
    let empty = file(&rework, "empty.so", b"");
    bad.add(&rework, &empty, "is empty (0 bytes)");
    bad.dropped_in(&rework);
}

#[test]
fn programs_and_libraries_for_others() {
    let rework = Rework::new();
    let directory = rework.directory();
    let program = "is a program, not a plugin: set crate-type = [\"cdylib\"] under [lib] in its \
                   Cargo.toml";
    let mut bad = Refusals::default();
    bad.add(&rework, Path::new(env!("CARGO_BIN_EXE_rework")), program);
    let fixed = directory.join("fixed");
    let source = file(&rework, "main.c", b"int main(void) { return 0; }");
    compile(
        &[
            "-no-pie",
            "-o",
            fixed.to_str().unwrap(),
            source.to_str().unwrap(),
        ],
        &[],
    );
    bad.add(&rework, &fixed, program);

    let mut content = fs::read(hello()).unwrap();
    let size = content.len();
    let cut = file(&rework, "cut.so", &content[..200_000]);
    let announced =
        format!("is cut short: 200000 bytes, its headers announce {size} (an interrupted copy?)");
    bad.add(&rework, &cut, &announced);
    // See elf(5): e_machine.
    let theirs: u16 = if cfg!(target_arch = "x86_64") {
        183
    } else {
        62
    };
    content[18..20].copy_from_slice(&theirs.to_le_bytes());
    let foreign = file(&rework, "foreign.so", &content);
    let (theirs, ours) = if cfg!(target_arch = "x86_64") {
        ("aarch64", "x86-64")
    } else {
        ("x86-64", "aarch64")
    };
    let reason = format!("was built for {theirs}, but this host is {ours}");
    bad.add(&rework, &foreign, &reason);
    bad.dropped_in(&rework);
}

#[test]
fn libraries_that_are_no_plugins() {
    let rework = Rework::new();
    let directory = rework.directory();
    let no_plugin = "is a shared library, but not a rework plugin: no .note.rework section (does \
                     it call rework_plugin::export!() at its crate root?)";
    let found = Command::new("cc")
        .arg("-print-file-name=libm.so.6")
        .output()
        .unwrap();
    let libm = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim_end());
    let mut bad = Refusals::default();
    bad.add(&rework, &libm, no_plugin);
    let operations_only = Fake::library("").note(2, r#"{"name":"f","domain":"default"}"#);
    let operations_only = operations_only.build(directory, "operations_only");
    bad.add(&rework, &operations_only, no_plugin);
    for (name, fake, reason) in [
        (
            "empty",
            Fake::library("").root().note(1, &about("1.0")),
            "is a rework plugin with no operation: add #[operation] to a function",
        ),
        (
            "no_root",
            Fake::without_root(""),
            "exports no root module: call rework_plugin::export!() at its crate root",
        ),
        (
            "twice",
            Fake::plugin("").note(1, &about("1.0")),
            "calls rework_plugin::export!() twice: it stands once, at the crate root",
        ),
        // Another major may have changed all the rest.
        (
            "abi2",
            Fake::library("")
                .note(1, r#"{"sdk":"2.0.0","abi":"2.0"}"#)
                .note(2, "[]"),
            "was built for plugin ABI 2.0 (rework-plugin 2.0.0); this rework speaks ABI 1: rebuild \
             it with a rework-plugin of that ABI",
        ),
        (
            "later",
            Fake::library("").note(1, &about("1.77")).note(
                2,
                r#"{"name":"f","domain":"default","requires_minor":77}"#,
            ),
            &format!(
                "needs rework ≥ 1.77 for its operation `f`; this one speaks plugin ABI {}",
                rework_plugin_abi()
            ),
        ),
        (
            "later_words",
            Fake::library("")
                .root()
                .note(1, &about("1.77"))
                .note(2, r#"{"name":"f","domain":"default","capture":"some"}"#),
            "needs rework ≥ 1.77: operation `f`: unknown capture `some`",
        ),
        (
            "unknown_word",
            Fake::plugin("").note(2, r#"{"name":"g","domain":"default","capture":"some"}"#),
            "operation `g`: unknown capture `some`",
        ),
        (
            "long_name",
            Fake::plugin("").note(2, &format!(r#"{{"name":"{}","domain":"default"}}"#, "g".repeat(501))),
            &format!(
                "operation `{}`: its name has 501 bytes, more than 500",
                "g".repeat(501)
            ),
        ),
        (
            "no_json",
            Fake::plugin("").note(2, "{"),
            "has a damaged .note.rework section: EOF while parsing an object at line 1 column 1",
        ),
        (
            "nul",
            Fake::plugin("").note(2, r#"{"name":"a\u0000","domain":"default"}"#),
            "has a damaged .note.rework section: it holds a NUL character, which Postgres cannot \
             store",
        ),
        (
            "two_words",
            Fake::plugin("").note(2, r#"{"name":"two words","domain":"default"}"#),
            "operation `two words`: its name must be one word, not \"two words\"",
        ),
        (
            "same_name",
            Fake::plugin("").note(2, r#"{"name":"f","domain":"default"}"#),
            "offers operation `f` of domain `default` twice",
        ),
        (
            "contradicts",
            Fake::plugin("").note(
                2,
                r#"{"name":"g","domain":"default","inputs":[{"name":"n","type":"number","required":false,"choices":null,"default":"x"}]}"#,
            ),
            "operation `g`: the default of field `n` must be a number, not a string",
        ),
    ] {
        bad.add(&rework, &fake.build(directory, name), reason);
    }
    bad.dropped_in(&rework);
}

fn rework_plugin_abi() -> String {
    use rework_plugin::abi::{ABI_MAJOR, ABI_MINOR};
    format!("{ABI_MAJOR}.{ABI_MINOR}")
}

#[test]
fn what_the_dynamic_loader_refuses() {
    let rework = Rework::new();
    let directory = rework.directory();
    let fake = Fake::plugin("#include <stdio.h>\nvoid f(void) { puts(\"\"); }");
    let so = fake.build(directory, "glibc");
    let newer = directory.join("newer.so");
    patched(&so, &newer, b"GLIBC_2.2.5\0", b"GLIBC_2.99\0\0");
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let here = String::from_utf8(output.unwrap().stdout).unwrap();
    let reason = format!(
        "needs glibc 2.99, this host has {}: build it on the oldest system you run workers on",
        here.trim().strip_prefix("glibc ").unwrap()
    );
    let mut bad = Refusals::default();
    bad.add(&rework, &newer, &reason);

    let undefined = Fake::plugin("void foo(void); void f(void) { foo(); }");
    let undefined = undefined.build(directory, "undefined");
    let reason = "cannot be loaded: undefined symbol foo";
    bad.add(&rework, &undefined, reason);

    Fake::library("int gone(void) { return 1; }").build(directory, "libgone");
    let needy = Fake::plugin("int gone(void); int f(void) { return gone(); }")
        .argument(&format!("-L{}", directory.display()))
        .argument("-lgone")
        .build(directory, "needy");
    fs::remove_file(directory.join("libgone.so")).unwrap();
    let reason = "cannot be loaded: needs libgone.so, which is not in the directories of ldconfig; \
                  put it beside the plugin and link that with -Wl,-rpath,'$ORIGIN', or pass on where \
                  it is with --env LD_LIBRARY_PATH, or run ldconfig";
    bad.add(&rework, &needy, reason);
    bad.dropped_in(&rework);
}

/// Leaves a process that has nothing to do with its parents, and writes down its number.
const LEAVE: &str = r#"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void leave(void) {
    pid_t middle = fork();
    if (middle == 0) {
        setsid();
        pid_t left = fork();
        if (left == 0) for (;;) pause();
        FILE *file = fopen(PIDS, "a");
        fprintf(file, "%d\n", left);
        fclose(file);
        _exit(0);
    }
    waitpid(middle, 0, 0);
}
__attribute__((constructor)) static void constructor(void) {
"#;

#[test]
fn constructors_that_misbehave_do_it_elsewhere_and_leave_no_process() {
    let rework = Rework::new();
    let directory = rework.directory();
    let pids = directory.join("pids");
    let misbehaving = |name: &str, body: &str| {
        let pids = pids.display();
        Fake::plugin(&format!("#define PIDS \"{pids}\"\n{LEAVE}{body}\n}}")).build(directory, name)
    };
    for (name, body, reason) in [
        (
            "crash",
            "leave(); *(volatile int *)8 = 1;",
            "crashed while loading (SIGSEGV)",
        ),
        (
            "abort",
            "leave(); puts(\"first\"); fputs(\"the reason\\n\", stderr); abort();",
            "crashed while loading (SIGABRT): the reason",
        ),
        (
            "exit",
            "leave(); _exit(0);",
            "ended the process (exit 0) while loading",
        ),
        (
            "exit3",
            "leave(); exit(3);",
            "ended the process (exit 3) while loading",
        ),
        (
            "hang",
            "leave(); for (;;) pause();",
            "did not finish loading in 0.5 s",
        ),
        (
            "stop",
            "leave(); kill(getppid(), SIGSTOP); for (;;) pause();",
            "did not finish loading in 0.5 s",
        ),
        (
            "flood",
            "leave(); for (int i = 0; i < 100000; i++) puts(\"loaded\"); fflush(stdout); _exit(0);",
            "ended the process (exit 0) while loading: loaded",
        ),
    ] {
        let plugin = misbehaving(name, body);
        // A hang is told from a slow machine by its limit alone.
        let hangs = ["hang", "stop"].contains(&name);
        let limit = if hangs { "500ms" } else { "60s" };
        refused_with(&rework, &plugin, reason, &["--probe-timeout", limit]);
        let left = fs::read_to_string(&pids).unwrap();
        assert_eq!(left.lines().count(), 2, "one for each command");
        for pid in left.lines() {
            until(
                &format!("what {name} left to be gone"),
                || fs::read_to_string(format!("/proc/{pid}/stat")).ok(),
                // Whose parent was stopped is init's to collect.
                |stat| stat.as_ref().is_none_or(|stat| stat.contains(") Z 1 ")),
            );
        }
        fs::remove_file(&pids).unwrap();
    }
    // One that behaves, but for the process that it leaves, is not a plugin of ours: it gets as far
    // as its root module.
    let harmless = misbehaving("harmless", "leave();");
    let path = harmless.to_str().unwrap();
    let refusal = rework.fails(1, &["check-plugin", path]);
    assert!(refusal.contains("does not fit this rework"), "{refusal}");
    let pid = fs::read_to_string(&pids).unwrap();
    assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists());
}

#[test]
fn a_constructor_that_never_stops_forking_holds_nobody_up_and_is_ended() {
    let rework = Rework::new();
    // Each child is gone before anybody could look for it; and it keeps what it prints to open.
    let body = "if (fork() == 0) for (;;) if (fork() != 0) _exit(0); _exit(5);";
    let source = format!(
        "#include <unistd.h>\n__attribute__((constructor)) static void f(void) {{ {body} }}"
    );
    let plugin = Fake::plugin(&source).build(rework.directory(), "forks");
    refused_with(
        &rework,
        &plugin,
        "ended the process (exit 5) while loading",
        &["--probe-timeout", "60s"],
    );
    let copies = rework.directory().join("plugins");
    let of_it = || {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let commands = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        commands
            .filter(|command| String::from_utf8_lossy(command).contains(copies.to_str().unwrap()))
            .count()
    };
    until("it to be gone", of_it, |count| *count == 0);
}

#[test]
fn a_probe_ends_when_nobody_waits_for_it_any_more() {
    let rework = Rework::without_schema();
    let pids = rework.directory().join("pids");
    let body = "leave(); for (;;) pause();";
    let source = format!("#define PIDS \"{}\"\n{LEAVE}{body}\n}}", pids.display());
    let plugin = Fake::plugin(&source).build(rework.directory(), "hang");
    let mut asker = rework
        .command(&["check-plugin", "--probe-timeout", "1h"])
        .arg(&plugin)
        .spawn()
        .unwrap();
    let left = until(
        "the plugin to leave a process",
        || fs::read_to_string(&pids).unwrap_or_default(),
        |left| left.ends_with('\n'),
    );
    asker.kill().unwrap();
    asker.wait().unwrap();
    let process = Path::new("/proc").join(left.trim());
    until("it to be gone", || process.exists(), |exists| !exists);
}

#[test]
fn what_others_can_change_is_not_believed() {
    let rework = Rework::new();
    let directory = rework.directory().join("shared");
    fs::create_dir(&directory).unwrap();
    let plugin = directory.join("plugin.so");
    fs::copy(hello(), &plugin).unwrap();
    let path = plugin.display();
    fs::set_permissions(&plugin, Permissions::from_mode(0o666)).unwrap();
    let reason =
        format!(": refused: other users can write this file (mode 666); run: chmod go-w {path}");
    refused(&rework, &plugin, &reason);
    // What is linked to counts, not the link.
    let link = rework.directory().join("link.so");
    symlink(&plugin, &link).unwrap();
    refused(&rework, &link, &reason);
    fs::set_permissions(&plugin, Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    let reason = format!(
        ": refused: other users can write the directory {0} (mode 777); run: chmod go-w {0}",
        directory.display()
    );
    refused(&rework, &plugin, &reason);
    refused(&rework, &link, &reason);
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let signature = rework.directory().join("link.so.minisig");
    mkfifo(&signature, Mode::S_IRUSR).unwrap();
    let reason = "has a signature that cannot be read: it is not a regular file";
    refused(&rework, &link, reason);
    fs::remove_file(&signature).unwrap();
    rework.ok(&["register-operations", link.to_str().unwrap()]);
}

#[test]
fn a_path_that_the_database_cannot_hold_is_refused() {
    let rework = Rework::new();
    let name = std::ffi::OsStr::from_bytes(b"torn\xff.so");
    let plugin = rework.directory().join(name);
    fs::copy(hello(), &plugin).unwrap();
    let output = rework
        .command(&["register-operations"])
        .arg(&plugin)
        .output()
        .unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.contains("its path is not valid UTF-8")
            && complaint.contains("nothing was registered"),
        "{complaint}"
    );
    let broken = rework.directory().join("two\nlines.so");
    fs::copy(hello(), &broken).unwrap();
    let complaint = rework.fails(1, &["register-operations", broken.to_str().unwrap()]);
    assert!(
        complaint.contains("its path holds control characters"),
        "{complaint}"
    );
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    // Whoever only looks needs no database.
    let output = rework.command(&["check-plugin"]).arg(&plugin).output();
    assert!(output.unwrap().status.success());
    let directory = rework.directory().join("plugins.d");
    fs::create_dir(&directory).unwrap();
    fs::copy(hello(), directory.join(name)).unwrap();
    let arguments = ["--all-domains", "--plugin-dir", directory.to_str().unwrap()];
    let refused = || rework.json(&["list-plugins"])[0]["refused"].to_string();
    // Also by the next monitor, which knows of it already.
    for _ in 0..2 {
        let monitor = rework.monitor(&arguments);
        until(
            "it to be refused",
            || (monitor.log(), refused()),
            |(log, refused)| {
                [log, refused]
                    .iter()
                    .all(|said| said.contains("its name is not plain text in UTF-8"))
            },
        );
        assert_eq!(monitor.interrupt(), Some(0));
    }
}
