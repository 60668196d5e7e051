//! Drop-in directories: what lies in them is what a host offers, however it got there.

use crate::harness::{
    Fake, Rework, hello, hello_version, misbehaving, patched, place, report, until, with_texts,
};
use serde_json::Value;
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
    time::{Duration, Instant},
};

fn plugin_dir(rework: &Rework) -> PathBuf {
    let directory = rework.directory().join("plugins.d");
    fs::create_dir_all(&directory).unwrap();
    directory.canonicalize().unwrap()
}

fn operations(rework: &Rework) -> Vec<(String, String)> {
    let rows = rework.json(&["list-operations"]);
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| (text(row, "domain"), text(row, "name")))
        .collect()
}

fn refused(rework: &Rework) -> Vec<String> {
    let rows = rework.json(&["list-plugins"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter_map(|row| row["refused"].as_str().map(str::to_owned))
        .collect()
}

/// Hashes of the current versions of a domain.
pub(crate) fn current(rework: &Rework, domain: &str) -> Vec<String> {
    let rows = rework.json(&["list-plugins"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["current"] == true && row["domain"] == domain)
        .map(|row| row["hash"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn files_are_registered_upgraded_and_retired_as_they_come_and_go() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    assert_eq!(operations(&rework), []);

    let file = place(&hello_version(1), &dir.join("hello.so"));
    let task = until(
        "the plugin to be registered",
        || rework.run(&["schedule", "my_first_task", "--input", "1"]),
        |output| output.code == 0,
    );
    let task = rework.wait(task.stdout.trim(), &["done"]);
    let first = task["plugin_hash"].as_str().unwrap().to_owned();
    assert_eq!(current(&rework, "default"), std::slice::from_ref(&first));
    assert!(rework.log(&task["id"].to_string())[0].ends_with("I am runn-01"));

    // A directory of a domain's name moves its plugins there.
    fs::create_dir(dir.join("words")).unwrap();
    place(&fs::read(report()).unwrap(), &dir.join("words/report.so"));
    let moved = ("words".to_owned(), "word_frequencies".to_owned());
    until(
        "the plugin to be registered under the domain of its directory",
        || operations(&rework),
        |found| found.contains(&moved),
    );

    // `cp` over the file: a new version, for new workers.
    fs::write(&file, hello_version(2)).unwrap();
    let second = until(
        "the upgrade",
        || current(&rework, "default"),
        |now| now.len() == 1 && now[0] != first,
    );
    let task = until(
        "the new version to run",
        || {
            let id = rework.schedule(&["my_first_task", "--input", "1"]);
            rework.wait(&id, &["done"])
        },
        |task| task["plugin_hash"] == second[0],
    );
    assert!(rework.log(&task["id"].to_string())[0].ends_with("I am runn-02"));

    // Gone: retired; what waits, waits on.
    fs::remove_file(&file).unwrap();
    until(
        "the operations to be retired",
        || operations(&rework),
        |found| *found == [moved.clone()],
    );
    let refusal = rework.fails(1, &["schedule", "my_first_task"]);
    assert!(
        refusal.contains("no operation `my_first_task`"),
        "{refusal}"
    );
    assert_eq!(rework.task(&task["id"].to_string())["state"], "done");
    let log = monitor.log();
    assert!(log.contains("is gone: retired 3 operations"), "{log}");
    assert!(!log.contains("not registered"), "{log}");
}

#[test]
fn what_changed_while_no_monitor_ran_is_noticed() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let arguments = ["--all-domains", "--plugin-dir", dir.to_str().unwrap()];
    let file = place(&hello_version(1), &dir.join("hello.so"));
    let other = place(&fs::read(report()).unwrap(), &dir.join("report.so"));
    let monitor = rework.monitor(&arguments);
    until(
        "both to be registered",
        || operations(&rework),
        |found| found.len() == 4,
    );
    let first = current(&rework, "maths");
    monitor.interrupt();
    fs::remove_file(other).unwrap();
    place(&hello_version(2), &file);
    let _monitor = rework.monitor(&arguments);
    until(
        "what vanished to be retired, and the new version to be current",
        || (operations(&rework), current(&rework, "maths")),
        |(found, now)| found.len() == 3 && now.len() == 1 && *now != first,
    );
}

#[test]
fn a_slow_copy_is_not_touched_until_it_is_whole() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    let content = hello_version(3);
    let mut file = File::create(dir.join("hello.so")).unwrap();
    // Four pieces with pauses that are longer than the time after which a file counts as stable.
    for piece in content.chunks(content.len().div_ceil(4)) {
        file.write_all(piece).unwrap();
        file.flush().unwrap();
        let began = Instant::now();
        until(
            "a second to pass",
            || began.elapsed(),
            |time| *time > Duration::from_secs(1),
        );
        assert_eq!(operations(&rework), []);
        assert_eq!(refused(&rework), Vec::<String>::new());
    }
    drop(file);
    until(
        "the whole file to be registered",
        || operations(&rework),
        |found| found.len() == 3,
    );
    let log = monitor.log();
    assert!(!log.contains("not registered"), "{log}");
}

#[test]
fn a_bad_file_is_reported_once_and_disturbs_nobody() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let cut = fs::read(hello()).unwrap();
    fs::write(dir.join("cut.so"), &cut[..cut.len() / 2]).unwrap();
    fs::write(dir.join("text.so"), "no plugin").unwrap();
    place(&hello_version(1), &dir.join("good.so"));
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    until(
        "the good one to be registered",
        || operations(&rework),
        |found| found.len() == 3,
    );
    let reasons = until(
        "both refusals",
        || refused(&rework),
        |found| found.len() == 2,
    );
    let text = dir.join("text.so").to_str().unwrap().to_owned();
    let reason =
        format!("{text} is a text file, not a plugin (expected an ELF shared library, .so)");
    assert!(reasons.contains(&reason), "{reasons:?}");
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("cut.so is cut short"))
    );
    let listing = rework.ok(&["list-plugins"]);
    assert!(
        listing.contains(&format!("refused {reason} host(testhost)")),
        "{listing}"
    );
    let doctor = rework.run(&["doctor"]);
    assert_eq!(doctor.code, 1);
    assert!(
        doctor
            .stdout
            .contains(&format!("problem plugin: on testhost: {reason}"))
    );
    // Touched, but as bad as before: not said again.
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&id, &["done"]);
    File::options()
        .append(true)
        .open(&text)
        .unwrap()
        .write_all(b"!")
        .unwrap();
    place(&hello_version(2), &dir.join("good.so"));
    let before = current(&rework, "maths");
    until(
        "the upgrade",
        || current(&rework, "maths"),
        |now| *now != before,
    );
    let log = monitor.log();
    assert_eq!(log.matches(&reason).count(), 1, "{log}");
    // Mended, and removed.
    fs::remove_file(dir.join("cut.so")).unwrap();
    place(&fs::read(misbehaving()).unwrap(), &dir.join("text.so"));
    until(
        "no refusal to be left",
        || refused(&rework),
        |found| found.is_empty(),
    );
    assert!(operations(&rework).contains(&("misbehaving".to_owned(), "misbehave".to_owned())));
    // A refusal is worth as much as its monitor.
    fs::write(dir.join("new.so"), "no plugin").unwrap();
    until(
        "another refusal",
        || refused(&rework),
        |found| found.len() == 1,
    );
    monitor.interrupt();
    assert_eq!(refused(&rework), Vec::<String>::new());
}

#[test]
fn a_file_that_took_over_gives_back_what_it_took() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    place(&hello_version(1), &dir.join("hello-1.so"));
    let _monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    let first = until(
        "version 1",
        || current(&rework, "maths"),
        |now| now.len() == 1,
    );
    let newer = place(&hello_version(2), &dir.join("hello-2.so"));
    until(
        "version 2",
        || current(&rework, "maths"),
        |now| now.len() == 1 && *now != first,
    );
    fs::remove_file(newer).unwrap();
    until(
        "version 1 again",
        || current(&rework, "maths"),
        |now| *now == first,
    );
}

#[test]
fn plugins_that_crash_or_hang_while_they_load_hold_nobody_up() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let bad = |name: &str, body: &str| {
        let source = format!(
            "#include <unistd.h>\n__attribute__((constructor)) static void f(void) {{ {body} }}"
        );
        let library = Fake::plugin(&source).build(rework.directory(), name);
        place(&fs::read(library).unwrap(), &dir.join(format!("{name}.so")));
    };
    bad("crashes", "*(volatile int *)8 = 1;");
    for name in ["hangs", "hangs2", "hangs3", "hangs4", "hangs5"] {
        bad(name, "sleep(1000);");
    }
    // What it leaves behind is nobody's child, and comes to the monitor.
    bad(
        "forks",
        "if (fork() == 0) { setsid(); if (fork() == 0) sleep(1000); _exit(0); } _exit(7);",
    );
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    until(
        "the quick refusals",
        || refused(&rework).join(" "),
        |said| {
            said.contains("crashed while loading (SIGSEGV)")
                && said.contains("ended the process (exit 7) while loading")
        },
    );
    // The others still hang, and do not matter.
    place(&hello_version(1), &dir.join("good.so"));
    until(
        "the good one",
        || operations(&rework),
        |found| found.len() == 3,
    );
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&id, &["done"]);
    assert!(!monitor.log().contains("hangs"), "{}", monitor.log());
    until(
        "those that hang to be refused",
        || refused(&rework).join(" "),
        |said| said.matches(".so did not finish loading in 10 s").count() == 5,
    );
    until(
        "nothing of them to be left",
        || {
            let children = std::process::Command::new("pgrep")
                .args(["-a", "-P", &monitor.pid().to_string()])
                .output()
                .unwrap();
            String::from_utf8(children.stdout).unwrap()
        },
        |children| !children.contains("probe") && !children.contains("examine"),
    );
}

#[test]
fn a_running_task_ends_on_the_version_that_it_began_with() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let version = |number: u32| {
        let to = format!(r#""version":"0.1.{number}""#);
        with_texts(&misbehaving(), &[(r#""version":"0.1.0""#, &to)])
    };
    let file = place(&version(1), &dir.join("misbehaving.so"));
    let _monitor = rework.monitor(&[
        "--domain",
        "misbehaving",
        "--maxworkers",
        "1",
        "--plugin-dir",
        dir.to_str().unwrap(),
    ]);
    let first = until(
        "version 1",
        || current(&rework, "misbehaving"),
        |now| now.len() == 1,
    );
    let long = rework.hang_until_released();
    rework.wait(&long, &["running"]);
    place(&version(2), &file);
    let second = until(
        "version 2",
        || current(&rework, "misbehaving"),
        |now| *now != first,
    );
    // Its worker was the only one allowed, and keeps no place that a new one needs.
    let short = rework.wait(&rework.misbehave("ok"), &["done"]);
    assert_eq!(short["plugin_hash"], second[0]);
    assert_eq!(rework.task(&long)["state"], "running");
    rework.release();
    let long = rework.ended(&long);
    assert_eq!(long["state"], "done");
    assert_eq!(long["plugin_hash"], first[0]);
    let workers = rework.json(&["list-workers"]);
    let worker = |id: &Value| {
        let rows = workers.as_array().unwrap();
        rows.iter().find(|row| row["id"] == *id).unwrap().clone()
    };
    assert_ne!(long["worker"], short["worker"]);
    assert_eq!(worker(&short["worker"])["state"], "idle");
    until(
        "the old worker to retire",
        || rework.json(&["list-workers"]),
        |rows| {
            let mut rows = rows.as_array().unwrap().iter();
            rows.any(|row| row["id"] == long["worker"] && row["cause"] == "upgrade")
        },
    );
}

#[test]
fn what_was_refused_for_its_permissions_is_looked_at_when_they_change() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let file = place(&hello_version(1), &dir.join("hello.so"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    // A FIFO would keep whoever opens it waiting.
    nix::unistd::mkfifo(&dir.join("fifo.so"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let open = rework.directory().join("open");
    fs::create_dir(&open).unwrap();
    place(&hello_version(2), &open.join("hello.so"));
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let _monitor = rework.monitor(&[
        "--all-domains",
        "--plugin-dir",
        dir.to_str().unwrap(),
        "--plugin-dir",
        open.to_str().unwrap(),
    ]);
    until(
        "the refusals",
        || refused(&rework).join(" "),
        |said| {
            said.contains("can write this file (mode 666); run: chmod go-w")
                && said.contains("is not a regular file")
                && said.contains("other users can write the directory")
        },
    );
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    until(
        "the operations",
        || operations(&rework),
        |found| found.len() == 3,
    );
    assert_eq!(refused(&rework).len(), 2);
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    until(
        "the other file to be believed",
        || rework.ok(&["list-plugins"]),
        |listing| {
            let mut lines = listing.lines();
            lines.any(|line| line.contains("hello 0.2.0") && line.ends_with("current"))
        },
    );
}

/// So that it is told of a change at once; the scan alone would make it right a second later.
#[test]
fn directories_are_watched_also_those_that_come_later() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    let later = dir.join("later");
    let is_watched = |directory: &PathBuf| {
        let number = format!("ino:{:x} ", fs::metadata(directory).unwrap().ino());
        let open = fs::read_dir(format!("/proc/{}/fdinfo", monitor.pid())).unwrap();
        open.flatten()
            .filter_map(|entry| fs::read_to_string(entry.path()).ok())
            .any(|about| {
                about
                    .lines()
                    .any(|line| line.starts_with("inotify ") && line.contains(&number))
            })
    };
    until(
        "the directory to be watched",
        || is_watched(&dir),
        |yes| *yes,
    );
    fs::create_dir(&later).unwrap();
    until(
        "the later one to be watched",
        || is_watched(&later),
        |yes| *yes,
    );
}

/// A folder's name is a domain, and follows its rules; a line break in a path breaks no listing.
#[test]
fn a_folder_that_can_be_no_domain_is_refused() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    for name in ["two words", "line\nbreak"] {
        fs::create_dir(dir.join(name)).unwrap();
        place(&hello_version(1), &dir.join(name).join("hello.so"));
    }
    place(&hello_version(1), &dir.join("line\nbreak.so"));
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    let said = until("the refusals", || refused(&rework), |said| said.len() == 3);
    for (path, reason) in [
        ("two words", "its name is a domain, so it must be one word"),
        (
            "line\\nbreak",
            "its name is a domain, so it must be one word",
        ),
        ("line\\nbreak.so", "or has control characters: rename it"),
    ] {
        let told = said
            .iter()
            .find(|said| said.contains(&format!("/{path}")) && said.contains(reason));
        assert!(told.is_some(), "{path}: {said:?}");
    }
    assert_eq!(rework.ok(&["list-operations"]), "");
    assert_eq!(rework.ok(&["list-plugins"]).lines().count(), 3);
    assert_eq!(
        monitor.log().matches("ERROR").count(),
        3,
        "{}",
        monitor.log()
    );
}

#[test]
fn what_a_scan_does_not_look_at_is_not_gone() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let deep = dir.join("target/release");
    fs::create_dir_all(&deep).unwrap();
    let by_hand = place(&hello_version(1), &deep.join("hello.so"));
    rework.ok(&["register-operations", by_hand.to_str().unwrap()]);
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    // By then it has looked, and dealt with what is gone.
    place(
        &with_texts(&misbehaving(), &[]),
        &dir.join("misbehaving.so"),
    );
    until(
        "the other one",
        || operations(&rework),
        |found| found.len() > 3,
    );
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&id, &["done"]);
    assert!(!monitor.log().contains("is gone"), "{}", monitor.log());
}

#[test]
fn what_was_rolled_back_goes_with_the_file_that_had_replaced_it() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    // The version before came from a file elsewhere, which is no more.
    let before = place(&hello_version(1), &rework.directory().join("hello.so"));
    rework.ok(&["register-operations", before.to_str().unwrap()]);
    fs::remove_file(&before).unwrap();
    let first = current(&rework, "default");
    let file = place(&hello_version(2), &dir.join("hello.so"));
    let _monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    until(
        "the upgrade",
        || current(&rework, "default"),
        |now| *now != first,
    );
    rework.ok(&["rollback-plugin", "default"]);
    assert_eq!(current(&rework, "default"), first);
    fs::remove_file(&file).unwrap();
    until("nothing to be left", || operations(&rework), Vec::is_empty);
    // Nothing stands in its place any more: when it comes back, somebody means it.
    place(&hello_version(2), &file);
    until(
        "it again",
        || operations(&rework).len(),
        |count| *count == 3,
    );
}

#[test]
fn a_link_may_come_to_point_elsewhere() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    for number in [1, 2] {
        let release = dir.join(format!("release{number}"));
        fs::create_dir(&release).unwrap();
        place(&hello_version(number), &release.join("hello.so"));
    }
    let link = dir.join("current");
    symlink("release1", &link).unwrap();
    let _monitor = rework.monitor(&["--all-domains", "--plugin-dir", link.to_str().unwrap()]);
    let first = until(
        "the first release",
        || current(&rework, "default"),
        |now| now.len() == 1,
    );
    symlink("release2", dir.join("next")).unwrap();
    fs::rename(dir.join("next"), &link).unwrap();
    until(
        "the second release",
        || current(&rework, "default"),
        |now| now.len() == 1 && *now != first,
    );
    // To nowhere: said where refused files are, and taken back.
    let second = current(&rework, "default");
    fs::rename(&link, dir.join("previous")).unwrap();
    until(
        "the word",
        || refused(&rework).join(" "),
        |said| said.contains("cannot be read, what it offered stays"),
    );
    assert_eq!(current(&rework, "default"), second);
    fs::rename(dir.join("previous"), &link).unwrap();
    until("it to be well", || refused(&rework), Vec::is_empty);
}

/// However the directory is written, and wherever from.
#[test]
fn what_vanishes_while_no_monitor_runs_is_retired() {
    let rework = Rework::new();
    let dir = plugin_dir(&rework);
    let file = place(&hello_version(1), &dir.join("hello.so"));
    let ways = [
        format!("{}/", dir.display()),
        format!("{}/../plugins.d", dir.display()),
        "plugins.d/./".to_owned(),
    ];
    for way in &ways {
        let monitor = rework.monitor(&["--all-domains", "--plugin-dir", way]);
        until(
            "the plugin",
            || operations(&rework).len(),
            |count| *count == 3,
        );
        assert_eq!(monitor.interrupt(), Some(0));
        let away = rework.directory().join("away.so");
        fs::rename(&file, &away).unwrap();
        let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
        until(
            &format!("{way} to be empty"),
            || operations(&rework),
            Vec::is_empty,
        );
        fs::rename(&away, &file).unwrap();
        until(
            "the plugin",
            || operations(&rework).len(),
            |count| *count == 3,
        );
        assert_eq!(monitor.interrupt(), Some(0));
        let monitor = rework.monitor(&["--all-domains", "--plugin-dir", way]);
        fs::rename(&file, &away).unwrap();
        until(
            &format!("{way} to be empty"),
            || operations(&rework),
            Vec::is_empty,
        );
        assert_eq!(monitor.interrupt(), Some(0));
        fs::rename(&away, &file).unwrap();
    }
}

#[test]
fn what_another_plugin_offered_is_taken_over_aloud() {
    let rework = Rework::with_plugins(&[hello()]);
    let dir = plugin_dir(&rework);
    patched(
        &hello(),
        &dir.join("other.so"),
        b"\"crate\":\"hello\"",
        b"\"crate\":\"other\"",
    );
    let monitor = rework.monitor(&["--all-domains", "--plugin-dir", dir.to_str().unwrap()]);
    let expected = format!(
        "operation maths/add came from {} (plugin `hello`) until now",
        hello().display()
    );
    until("the word", || monitor.log(), |log| log.contains(&expected));
}
