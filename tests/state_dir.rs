//! State directories that cannot be used: what is to blame is named, and what to do.

use crate::{
    harness::{Rework, hello, misbehaving, until},
    signals::started_by,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Runs `check-plugin` with the state directory on a file system that is mounted like this; `None`:
/// this machine lets nobody mount one.
fn mounted(options: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().display();
    let allowed = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!("mount -t tmpfs tmpfs '{place}'"))
        .output()
        .is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("skipped: no file system can be mounted here");
        return None;
    }
    let command = format!(
        "mount -t tmpfs -o {options} tmpfs '{place}' && exec '{}' check-plugin '{}'",
        env!("CARGO_BIN_EXE_rework"),
        hello().display()
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &command])
        .env("REWORK_STATE_DIR", directory.path())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains(&place.to_string()), "{complaint}");
    Some(complaint)
}

fn assert_hint(complaint: &str) {
    assert!(
        complaint.contains("\nhint: set REWORK_STATE_DIR to a directory that this user can write"),
        "{complaint}"
    );
}

#[test]
fn a_file_system_that_does_not_execute_is_to_blame() {
    if let Some(complaint) = mounted("noexec") {
        assert!(
            complaint.contains("/plugins is on a file system that is mounted noexec"),
            "{complaint}"
        );
        assert_hint(&complaint);
    }
}

#[test]
fn a_file_system_without_room_is_to_blame() {
    if let Some(complaint) = mounted("size=64k") {
        assert!(complaint.contains("No space left on device"), "{complaint}");
        assert_hint(&complaint);
    }
}

#[test]
fn a_file_system_that_is_read_only_is_to_blame() {
    if let Some(complaint) = mounted("ro") {
        assert!(complaint.contains("Read-only file system"), "{complaint}");
        assert_hint(&complaint);
    }
}

/// The binary and a plugin where a user without a name reaches them.
struct Stranger(tempfile::TempDir);

impl Stranger {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can become somebody else");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        crate::harness::copy_binary(&directory.path().join("rework"));
        let plugin = directory.path().join("plugin.so");
        fs::copy(hello(), &plugin).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        Some(Self(directory))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, home: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "12345", "--regid", "12345", "--clear-groups"])
            .arg(self.path("rework"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .current_dir("/");
        if let Some(home) = home {
            command.env("HOME", home);
        }
        command.output().unwrap()
    }

    fn fails(&self, home: Option<&str>, arguments: &[&str]) -> String {
        let output = self.run(home, arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn somebody_without_a_name_is_told_about_their_home_and_not_about_root() {
    let Some(stranger) = Stranger::new() else {
        return;
    };
    let plugin = stranger.path("plugin.so");
    let plugin = plugin.to_str().unwrap();
    for home in ["/", "/root"] {
        let complaint = stranger.fails(Some(home), &["check-plugin", plugin]);
        let place = Path::new(home).join(".local/state/rework/plugins");
        assert!(
            complaint.contains(&format!(
                "Permission denied (os error 13), in {}",
                place.display()
            )),
            "{complaint}"
        );
        assert_hint(&complaint);
    }
    // Nobody has said where, and the system knows no home: not in `/tmp`, where others may be first.
    let complaint = stranger.fails(None, &["check-plugin", plugin]);
    assert!(
        complaint.contains("Permission denied (os error 13), in /.local/state/rework/plugins"),
        "{complaint}"
    );
    assert_eq!(complaint.lines().count(), 2, "{complaint}");
    assert_hint(&complaint);
    let complaint = stranger.fails(None, &["list-tasks", "embedded"]);
    assert!(
        complaint
            .starts_with("error: there is no place for an embedded cluster: neither XDG_DATA_HOME")
            && complaint.contains("\nhint: name a directory: embedded:/some/dir"),
        "{complaint}"
    );
    let complaint = stranger.fails(None, &["list-tasks", "postgres:///jobs"]);
    assert!(
        complaint.contains("it names no user, and user id 12345 has no name on this host"),
        "{complaint}"
    );
    let complaint = stranger.fails(Some("/"), &["embedded", "url"]);
    assert!(
        complaint.starts_with("error: user id 12345 has no name on this host")
            && complaint.contains("\nhint: add a line for user id 12345 to /etc/passwd"),
        "{complaint}"
    );
    assert!(!complaint.contains("root"), "{complaint}");
}

#[test]
fn a_state_directory_may_be_called_anything() {
    let rework = Rework::new();
    let long = "long".repeat(50);
    for name in [
        "two words",
        "two\nlines",
        "ü'\"$(x)",
        &format!("{long}/{long}/{long}"),
    ] {
        let state = rework.directory().join(name);
        for command in ["check-plugin", "register-operations"] {
            let output = rework
                .command(&[command, hello().to_str().unwrap()])
                .env("REWORK_STATE_DIR", &state)
                .output()
                .unwrap();
            assert!(output.status.success(), "{name:?}: {output:?}");
        }
        let _monitor = rework.monitor_in(&state, &[]);
        assert_eq!(
            rework.ok(&["schedule", "my_first_task", "--input", "21", "--wait"]),
            "42"
        );
    }
}

#[test]
fn a_disk_that_becomes_full_keeps_new_workers_from_starting_and_ends_nothing() {
    if mounted("size=1m,noexec").is_none() {
        return;
    }
    let rework = Rework::with_plugins(&[hello(), misbehaving()]);
    let place = rework.directory().join("small");
    fs::create_dir(&place).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=64m tmpfs '{0}' && cp -a '{1}/plugins' '{0}' && exec \"$0\" \"$@\"",
        place.display(),
        rework.directory().display(),
    );
    let starter = ["unshare", "--mount", "sh", "-c", &mount];
    let arguments = ["monitor", "--all-domains", "--maxworkers", "2"];
    let mut command = started_by(&rework, &starter, &arguments);
    command.env("REWORK_STATE_DIR", &place);
    let monitor = rework.monitor_by(command);
    let running = rework.misbehave("hang");
    rework.wait(&running, &["running"]);
    // What the monitor sees as its disk is reached through its process.
    let fill = format!("/proc/{}/root{}/fill", monitor.pid(), place.display());
    let mut file = fs::File::create(&fill).unwrap();
    let megabyte = vec![0_u8; 1 << 20];
    while std::io::Write::write_all(&mut file, &megabyte).is_ok() {}
    while std::io::Write::write_all(&mut file, &[0]).is_ok() {}
    let waiting = rework.misbehave("ok");
    until(
        "the full disk to be named",
        || monitor.log(),
        |log| log.contains("No space left on device"),
    );
    assert_eq!(rework.task(&running)["state"], "running");
    assert_eq!(rework.task(&waiting)["state"], "queued");
    drop(file);
    fs::remove_file(&fill).unwrap();
    rework.wait(&waiting, &["done"]);
    rework.ok(&["abort-task", &running]);
    rework.wait(&running, &["aborted"]);
}
