//! What a plugin cannot reach: the monitor's environment, descriptors and memory, privileges, and,
//! where it is asked for, other users' files and the network.

use crate::harness::{Fake, Rework, hello, misbehaving, place, until};
use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpListener,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

fn look_around(rework: &Rework) -> Value {
    let id = rework.schedule(&["look_around"]);
    rework.wait(&id, &["done"])["output"].clone()
}

/// A field of /proc/PID/status.
fn status<'a>(seen: &'a Value, name: &str) -> Vec<&'a str> {
    let status = seen["status"].as_str().unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().skip(1).collect()
}

/// As with nohup(1): what was ignored when it started goes on being ignored.
#[test]
fn a_monitor_survives_its_terminal_if_it_was_started_so() {
    let rework = Rework::with_plugins(&[hello()]);
    for (start, survives) in [
        ("exec env --default-signal=HUP", false),
        ("trap '' HUP; exec", true),
    ] {
        let direct = rework.command(&["monitor"]);
        let script = format!("{start} {} monitor", direct.get_program().display());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).current_dir(rework.directory());
        shell.envs(
            direct
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let mut monitor = rework.monitor_by(shell);
        let id = rework.schedule(&["my_first_task", "--input", "1"]);
        rework.wait(&id, &["done"]);
        monitor.signal(Signal::SIGHUP);
        if survives {
            let id = rework.schedule(&["my_first_task", "--input", "1"]);
            rework.wait(&id, &["done"]);
            assert!(!monitor.log().contains("interrupted"), "{}", monitor.log());
        } else {
            assert_eq!(monitor.wait(), Some(0));
        }
    }
}

#[test]
fn the_environment_is_what_was_allowed() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let mut command = rework.command(&[
        "monitor",
        "--domain",
        "misbehaving",
        "--env",
        "GREETING",
        "--env",
        "NOT_SET",
    ]);
    command.env("GREETING", "hello").env("SECRET", "swordfish");
    let _monitor = rework.monitor_by(command);
    let seen = look_around(&rework);
    assert_eq!(seen["environment"], json!(["GREETING=hello"]));
}

#[test]
fn nothing_that_the_monitor_has_open_is_inherited() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    // As from a careless parent: open, and not to be closed on exec.
    let secret = rework.directory().join("secret");
    std::fs::write(&secret, "swordfish").unwrap();
    let monitor = rework.command(&["monitor", "--domain", "misbehaving"]);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "exec 7<\"$SECRET\" 8<\"$SECRET\"; exec \"$0\" \"$@\""])
        .arg(monitor.get_program())
        .args(monitor.get_args())
        .env("SECRET", &secret)
        .stdin(Stdio::null())
        .current_dir(rework.directory());
    for (name, value) in monitor.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let monitor = rework.monitor_by(command);
    let seen = look_around(&rework);
    let has_it = |pid: &str| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        descriptors
            .flatten()
            .any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == secret))
    };
    assert!(has_it(&monitor.pid().to_string()), "the monitor has it");
    for descriptor in seen["descriptors"].as_array().unwrap() {
        let target = descriptor.as_str().unwrap();
        let known = target == "/dev/null"
            || ["pipe:", "socket:", "/proc/"]
                .iter()
                .any(|begin| target.starts_with(begin))
            || target.ends_with(".page")
            // The working directory, which each task finds as the first one did.
            || Path::new(target) == rework.directory()
            // Its own code, which it can read anyway.
            || target.contains("/plugins/") && target.ends_with(".so");
        assert!(known, "{target} is open: {:#}", seen["descriptors"]);
    }
}

#[test]
fn there_are_no_new_privileges_and_no_cores() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving"]);
    let seen = look_around(&rework);
    assert_eq!(status(&seen, "NoNewPrivs:"), ["1"]);
    let limits = seen["limits"].as_str().unwrap();
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    // Not 0: that would not stop cores that are piped to a handler.
    assert_eq!(
        cores.split_whitespace().skip(4).collect::<Vec<_>>(),
        ["1", "1", "bytes"]
    );
}

/// The binary where every user can run it.
fn for_everybody(directory: &Path) -> std::path::PathBuf {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.join("rework");
    crate::harness::copy_binary(&copy);
    copy
}

/// As somebody who is not root.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command
}

/// Of the monitor, and of a registration, whose children run foreign constructors.
#[test]
fn the_memory_of_who_knows_the_database_is_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let program = for_everybody(directory.path());
    // A server that never answers keeps them where they are.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://nobody@{}/none", silent.local_addr().unwrap());
    let spawn = |mut command: Command| {
        command.env("REWORK_STATE_DIR", directory.path());
        command.spawn().unwrap()
    };
    let ours = |arguments: &[&str]| {
        let mut command = unprivileged(&program);
        command.args(arguments);
        spawn(command)
    };
    let mut knowing = [
        ours(&["monitor", &url]),
        ours(&["register-operations", &url, "x.so"]),
    ];
    let mut other = unprivileged(Path::new("/bin/sleep"));
    other.arg("60");
    let mut other = spawn(other);
    // What is not dumpable belongs to root in /proc, and others of the same user cannot read it.
    let owner = |pid: u32| {
        let environment = fs::metadata(format!("/proc/{pid}/environ"));
        environment.unwrap().uid()
    };
    silent.set_nonblocking(true).unwrap();
    let _calls = [(); 2].map(|()| {
        until(
            "both to call their server",
            || silent.accept().map(|(stream, _)| stream),
            Result::is_ok,
        )
    });
    for child in &knowing {
        assert_eq!(owner(child.id()), 0, "it is not readable");
    }
    // A process that has just become another user is not, either, until it has executed something.
    until(
        "another process of that user to be readable",
        || owner(other.id()),
        |owner| *owner != 0,
    );
    for child in &mut knowing {
        assert_eq!(child.try_wait().unwrap(), None, "it still lives");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_file_of_somebody_else_is_not_believed() {
    if !geteuid().is_root() {
        // Only root can give a file away.
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let program = for_everybody(directory.path());
    let [plugin, state] = ["x.so", "state"].map(|name| directory.path().join(name));
    fs::copy(misbehaving(), &plugin).unwrap();
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65534), None).unwrap();
    let check = || {
        let output = unprivileged(&program)
            .arg("check-plugin")
            .arg(&plugin)
            .env("REWORK_STATE_DIR", &state)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    // Root's is as good as one's own.
    assert_eq!(check(), (Some(0), String::new()));
    std::os::unix::fs::chown(&plugin, Some(12345), None).unwrap();
    let (code, complaint) = check();
    assert_eq!(code, Some(1), "{complaint}");
    assert!(
        complaint.contains("refused: this file belongs to user 12345"),
        "{complaint}"
    );
}

/// What a monitor takes from its workers it takes from the probes of its drop-in files too.
#[test]
fn constructors_are_confined_like_tasks() {
    let rework = Rework::new();
    let seen = rework.directory().join("seen");
    fs::set_permissions(rework.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&seen, "").unwrap();
    fs::set_permissions(&seen, fs::Permissions::from_mode(0o666)).unwrap();
    let look = Fake::plugin(&format!(
        r#"
        #include <arpa/inet.h>
        #include <errno.h>
        #include <stdio.h>
        #include <sys/socket.h>
        #include <unistd.h>
        __attribute__((constructor)) static void look(void) {{
            struct sockaddr_in there = {{ .sin_family = AF_INET, .sin_port = htons(1) }};
            there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            errno = 0;
            connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&there, sizeof there);
            FILE *file = fopen("{}", "a");
            fprintf(file, "%d %d %s\n", getuid(), getgid(), errno == EACCES ? "denied" : "free");
            fclose(file);
            _exit(0);
        }}
        "#,
        seen.display()
    ));
    let dir = rework.directory().join("plugins.d");
    fs::create_dir(&dir).unwrap();
    let look = look.build(rework.directory(), "look");
    place(&fs::read(look).unwrap(), &dir.join("look.so"));
    place(&fs::read(hello()).unwrap(), &dir.join("hello.so"));
    let mut arguments = vec!["--all-domains", "--plugin-dir", dir.to_str().unwrap()];
    if geteuid().is_root() {
        arguments.extend(["--worker-user", "nobody"]);
    }
    let mut monitor = rework.monitor(&[&arguments[..], &["--no-network"]].concat());
    let log = until(
        "the monitor to start or to refuse",
        || monitor.log(),
        |log| log.contains("claims tasks") || log.contains("error: "),
    );
    let can_deny = !log.contains("error: ");
    if !can_deny {
        assert_eq!(monitor.wait(), Some(1), "{log}");
        monitor = rework.monitor(&arguments);
    }
    let line = until(
        "the constructor to have run",
        || fs::read_to_string(&seen).unwrap(),
        |text| text.ends_with('\n'),
    );
    let words: Vec<&str> = line.lines().next().unwrap().split(' ').collect();
    assert!(words[0] != "0" && words[1] != "0", "{line}");
    assert_eq!(words[2], if can_deny { "denied" } else { "free" }, "{line}");
    // One that behaves is not hindered.
    let id = until(
        "the other one to be registered",
        || rework.run(&["schedule", "my_first_task", "--input", "1"]),
        |output| output.code == 0,
    );
    rework.wait(id.stdout.trim(), &["done"]);
    assert_eq!(monitor.interrupt(), Some(0));
}

#[test]
fn workers_run_as_another_user() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    if !geteuid().is_root() {
        let refusal = rework.fails(1, &["monitor", "--worker-user", "nobody"]);
        assert!(refusal.contains("runs as root"), "{refusal}");
        return;
    }
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--worker-user", "nobody"]);
    let seen = look_around(&rework);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (user, group) = (nobody.uid.to_string(), nobody.gid.to_string());
    // Real, effective, saved, of the file system.
    assert_eq!(status(&seen, "Uid:"), [user.as_str(); 4]);
    assert_eq!(status(&seen, "Gid:"), [group.as_str(); 4]);
    assert_eq!(status(&seen, "Groups:"), [group.as_str()]);
    assert_eq!(status(&seen, "CapEff:"), ["0000000000000000"]);
    let of_monitor = seen["environment_of_monitor"].as_str().unwrap();
    assert!(of_monitor.contains("Permission denied"), "{of_monitor}");
    // The cache is closed to that user: the plugin came as a descriptor, and is known by its name.
    let cache = rework.directory().join("plugins");
    assert_eq!(std::fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
    let id = rework.misbehave("segfault");
    let task = rework.wait(&id, &["aborted"]);
    let error = task["error"].as_str().unwrap();
    assert!(error.contains("in libmisbehaving.so+0x"), "{error}");
    let id = rework.misbehave("panic");
    let backtrace = rework.wait(&id, &["failed"])["backtrace"].clone();
    assert!(
        backtrace.as_str().unwrap().contains("misbehave"),
        "{backtrace}"
    );
    let id = rework.misbehave("busy loop");
    rework.wait(&id, &["running"]);
    rework.ok(&["abort-task", &id]);
    rework.wait(&id, &["aborted"]);
}

#[test]
fn a_user_that_workers_cannot_be() {
    let rework = Rework::new();
    let directory = tempfile::tempdir().unwrap();
    let program = for_everybody(directory.path());
    let refused = unprivileged(&program)
        .args(["monitor", &rework.database.url(), "--worker-user", "nobody"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let refusal = String::from_utf8(refused.stderr).unwrap();
    let expected = "error: --worker-user nobody: only a monitor that runs as root can run its \
                    workers as another user\nhint: ";
    assert!(refusal.starts_with(expected), "{refusal}");
    if geteuid().is_root() {
        let refusal = rework.fails(1, &["monitor", "--worker-user", "no-such-user"]);
        assert_eq!(
            refusal.trim(),
            "error: --worker-user no-such-user: there is no such user on this host"
        );
        let refusal = rework.fails(1, &["monitor", "--worker-user", "root"]);
        assert!(refusal.contains("this is root"), "{refusal}");
    }
}

#[test]
fn the_network_is_denied_where_the_kernel_can() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let input = json!({ "address": server.local_addr().unwrap().to_string() }).to_string();
    let answer = |_: &_| {
        let id = rework.schedule(&["connect", "--input", &input]);
        rework.wait(&id, &["done"])["output"].to_string()
    };
    {
        let free = rework.monitor(&["--domain", "misbehaving"]);
        assert_eq!(answer(&free), "\"connected\"");
    }
    let mut denied = rework.monitor(&["--domain", "misbehaving", "--no-network"]);
    let log = until(
        "the monitor to start or to refuse",
        || denied.log(),
        |log| log.contains("claims tasks") || log.contains("error: "),
    );
    if log.contains("error: ") {
        assert!(
            log.contains("Landlock") && log.contains("this kernel"),
            "{log}"
        );
        assert_eq!(denied.wait(), Some(1));
        return;
    }
    let answer = answer(&denied);
    assert!(answer.contains("Permission denied"), "{answer}");
}
