//! Replacing a plugin's file while it is in use: what is registered is a content, and a copy of it
//! runs whatever becomes of the file.

use crate::harness::{Rework, hello, hello_version, misbehaving, place, until};
use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// An installation with a copy of `misbehaving`, registered.
fn installation() -> (Rework, PathBuf) {
    let rework = Rework::new();
    let plugin = rework.directory().join("plugin.so");
    fs::copy(misbehaving(), &plugin).unwrap();
    rework.ok(&["register-operations", plugin.to_str().unwrap()]);
    (rework, plugin)
}

/// The copy in the cache.
fn cached(rework: &Rework) -> PathBuf {
    let entries = fs::read_dir(rework.directory().join("plugins")).unwrap();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    let [only] = paths.as_slice() else {
        panic!("one copy: {paths:?}");
    };
    only.clone()
}

/// Changes some bytes in the middle, as a bad disk would.
fn damage(copy: &Path) {
    fs::set_permissions(copy, Permissions::from_mode(0o700)).unwrap();
    let mut content = fs::read(copy).unwrap();
    let middle = content.len() / 2;
    for byte in &mut content[middle..middle + 64] {
        *byte ^= 0xff;
    }
    fs::write(copy, content).unwrap();
}

#[test]
fn whatever_happens_to_the_file_the_registered_version_runs_on() {
    let (rework, plugin) = installation();
    // Each task has a worker of its own, which loads the plugin anew.
    let monitor = rework.monitor(&["--all-domains", "--maxruns", "1", "--maxworkers", "2"]);
    let running = rework.misbehave("wait for cancel");
    rework.wait(&running, &["running"]);
    type Disturbance = fn(&Path);
    let disturbances: [(&str, Disturbance); 4] = [
        ("`cp` over it", |plugin| {
            fs::copy(hello(), plugin).unwrap();
        }),
        ("cut", |plugin| {
            let file = OpenOptions::new().write(true).open(plugin).unwrap();
            file.set_len(100).unwrap();
        }),
        ("deleted", |plugin| fs::remove_file(plugin).unwrap()),
        ("replaced", |plugin| {
            let new = plugin.with_extension("new");
            fs::copy(hello(), &new).unwrap();
            fs::rename(new, plugin).unwrap();
        }),
    ];
    for (what, disturb) in disturbances {
        disturb(&plugin);
        let later = rework.misbehave("ok");
        let ended = rework.ended(&later);
        assert_eq!(ended["state"], "done", "{what}: {ended:#}");
        assert_eq!(rework.task(&running)["state"], "running", "{what}");
    }
    // The task that has seen it all ends by itself.
    rework.ok(&["abort-task", &running]);
    let ended = rework.wait(&running, &["aborted"]);
    assert_eq!(ended["cause"], "abort", "{ended:#}");
    let log = monitor.log();
    assert!(!log.contains("ERROR"), "{log}");
}

/// Not even for a moment: what is looked at is what is loaded.
#[test]
fn nothing_that_is_put_in_the_place_of_a_copy_ever_runs() {
    let rework = Rework::new();
    let file = place(&hello_version(1), &rework.directory().join("plugin.so"));
    rework.ok(&["register-operations", file.to_str().unwrap()]);
    let copy = cached(&rework);
    let _monitor = rework.monitor(&["--maxruns", "1", "--maxworkers", "2"]);
    rework
        .database
        .psql("select count(rework.schedule('my_first_task', '1')) from generate_series(1, 60)");
    until(
        "all of them to be done, whatever is put there",
        || {
            place(&hello_version(2), &copy);
            rework
                .database
                .psql("select count(*) from rework.task_view where state = 'done'")
        },
        |count| count == "60",
    );
    let lines = "select count(*) from rework.log_line where line = ";
    let ran = |words: &str| rework.database.psql(&format!("{lines} '{words}'"));
    assert_eq!(
        (ran("I am runn-01"), ran("I am runn-02")),
        ("60".into(), "0".into())
    );
}

/// What its owner puts in the place of a copy is not what was registered.
#[test]
fn a_copy_that_was_replaced_under_a_monitor_is_not_loaded() {
    let rework = Rework::new();
    let file = place(&hello_version(1), &rework.directory().join("plugin.so"));
    rework.ok(&["register-operations", file.to_str().unwrap()]);
    let monitor = rework.monitor(&["--maxruns", "1", "--minworkers", "0"]);
    let copy = cached(&rework);
    for number in 2..6 {
        let done = rework.schedule(&["my_first_task", "--input", "1"]);
        rework.wait(&done, &["done"]);
        assert!(
            rework
                .log(&done)
                .iter()
                .any(|line| line.contains("I am runn-01")),
            "{:?}",
            rework.log(&done)
        );
        place(&hello_version(number), &copy);
    }
    assert!(monitor.log().contains("was damaged"), "{}", monitor.log());
}

#[test]
fn a_file_that_changed_does_not_run_under_its_old_registration() {
    let (rework, plugin) = installation();
    fs::remove_dir_all(rework.directory().join("plugins")).unwrap();
    fs::copy(hello(), &plugin).unwrap();
    let monitor = rework.monitor(&["--all-domains"]);
    let refusal = format!(
        "a registered plugin cannot be used: {} changed since it was registered; run rework \
         register-operations",
        plugin.display()
    );
    until(
        "the refusal",
        || monitor.log(),
        |log| log.contains(&refusal),
    );
    let task = rework.misbehave("ok");
    // What is said once is not said again, however often the monitor looks.
    assert_eq!(rework.task(&task)["state"], "queued");
    // The very file is as good as the copy.
    fs::copy(misbehaving(), &plugin).unwrap();
    rework.wait(&task, &["done"]);
    assert_eq!(monitor.log().matches(&refusal).count(), 1);
    assert_eq!(
        fs::read(cached(&rework)).unwrap(),
        fs::read(misbehaving()).unwrap()
    );
}

#[test]
fn a_damaged_copy_is_made_again_from_its_file() {
    let (rework, plugin) = installation();
    let copy = cached(&rework);
    damage(&copy);
    let monitor = rework.monitor(&["--all-domains", "--maxruns", "1"]);
    let task = rework.misbehave("ok");
    rework.wait(&task, &["done"]);
    assert!(monitor.log().contains("was damaged"), "{}", monitor.log());
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&plugin).unwrap());
    // Also under the eyes of a monitor that has seen it whole.
    damage(&copy);
    until(
        "the copy to be repaired",
        || fs::read(&copy).is_ok_and(|content| content == fs::read(&plugin).unwrap()),
        |repaired| *repaired,
    );
    // Without its file it is refused.
    fs::remove_file(&plugin).unwrap();
    damage(&copy);
    let refusal = format!(
        "a registered plugin cannot be used: {}: no such file",
        plugin.display()
    );
    until(
        "the refusal",
        || monitor.log(),
        |log| log.contains(&refusal),
    );
    let task = rework.misbehave("ok");
    fs::copy(misbehaving(), &plugin).unwrap();
    rework.wait(&task, &["done"]);
}
