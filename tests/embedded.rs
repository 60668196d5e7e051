//! The embedded cluster: made on first use, started on demand, by many at once, after any crash.

use crate::harness::{beside_cluster, hello, until};
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

/// A directory of its own, short enough for a socket, stopped and removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = Self(beside_cluster(&format!(
            "rwe-{}-{name}",
            std::process::id()
        )));
        fs::create_dir_all(&place.0).unwrap();
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&place.0, fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn rework(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_rework"))
            .args(arguments)
            .env("REWORK_EMBEDDED_LINGER", "1")
            .env("REWORK_TEST_PERIODS", "keeper_look=200")
            .env_remove("REWORK_DB")
            .output()
            .unwrap()
    }

    fn embedded(&self, word: &str) -> String {
        let output = self.rework(&["embedded", word, "--path", self.0.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn init(&self) {
        let output = self.rework(&["init-db", &format!("embedded:{}", self.0.display())]);
        assert!(output.status.success(), "{output:?}");
    }

    fn server(&self) -> Option<i32> {
        let text = fs::read_to_string(self.0.join("data/postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }
}

/// One URL for two servers, of which one accepts writes at a time.
#[test]
fn of_several_servers_the_one_that_accepts_writes_is_used() {
    let places = [Place::new("first"), Place::new("second")];
    let urls = places.each_ref().map(|place| {
        place.init();
        place.embedded("url")
    });
    let mut leases = places.each_ref().map(|place| {
        let cluster = rework::internals::postgres::Cluster::at(place.0.clone());
        Some(cluster.ensure_running().unwrap())
    });
    let plugin = hello();
    let host = |place: &Place| place.0.display().to_string().replace('/', "%2F");
    let both = format!(
        "postgresql:///postgres?host={},{}&port=5432&user=postgres",
        host(&places[0]),
        host(&places[1])
    );
    let psql = |url: &str, statement: &str| {
        let output = Command::new(crate::harness::psql())
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", statement])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let write_to = |place: usize| {
        for (at, url) in urls.iter().enumerate() {
            let read_only = if at == place { "off" } else { "on" };
            // What changes it back is written all the same.
            psql(
                &format!("{url}?options=-c%20default_transaction_read_only%3Doff"),
                &format!("alter system set default_transaction_read_only = {read_only}"),
            );
            psql(url, "select pg_reload_conf()");
            until(
                "it to be so",
                || psql(url, "show transaction_read_only"),
                |shown| shown == read_only,
            );
        }
    };
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_rework"))
            .args(arguments)
            .env("REWORK_DB", &both)
            .env("REWORK_STATE_DIR", places[0].0.join("state"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for place in [1, 0] {
        write_to(place);
        run(&["register-operations", plugin.to_str().unwrap()]);
        run(&["schedule", "noop"]);
        assert_eq!(psql(&urls[place], "select count(*) from rework.task"), "1");
    }
    leases[0].take();
    let down = places[0].embedded("stop");
    assert_eq!(down, "stopped");
    let output = Command::new(env!("CARGO_BIN_EXE_rework"))
        .args(["schedule", &both, "noop"])
        .output()
        .unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(
        complaint.contains("it does not accept writes") && !output.status.success(),
        "{complaint}"
    );
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rework(&["embedded", "stop", "--path", self.0.to_str().unwrap()]);
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn it_is_made_used_by_many_at_once_and_stopped() {
    let place = Place::new("many");
    assert!(
        place
            .embedded("status")
            .starts_with("there is no cluster in ")
    );
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| place.init());
        }
    });
    assert!(place.embedded("status").starts_with("running: PostgreSQL "));
    let url = place.embedded("url");
    let psql = Command::new(crate::harness::psql())
        .args([&url, "-Atc", "select 1"])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&psql.stdout).trim(),
        "1",
        "other clients get in: {psql:?}"
    );
    let keeper = fs::read_to_string(place.0.join("keeper.lock")).unwrap();
    assert_eq!(place.embedded("stop"), "stopped");
    until(
        "the keeper to go too",
        || fs::exists(format!("/proc/{keeper}")).unwrap(),
        |exists| !exists,
    );
    assert_eq!(place.embedded("stop"), "it was not running");
    assert!(place.embedded("status").starts_with("stopped: PostgreSQL "));
    place.init();
}

#[test]
fn it_stops_a_little_after_its_last_user_has_gone() {
    let place = Place::new("linger");
    place.init();
    let server = place.server().expect("it runs");
    until(
        "the server to stop",
        || fs::exists(format!("/proc/{server}")).unwrap(),
        |exists| !exists,
    );
    place.init();
}

#[test]
fn it_survives_a_kill_of_its_server_and_an_unfinished_beginning() {
    let place = Place::new("kill");
    // What a crash in the middle of initdb leaves.
    fs::create_dir_all(place.0.join("data.new/base")).unwrap();
    place.init();
    let server = place.server().expect("it runs");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(server),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    // At once, while its remains are still in the way.
    until(
        "it to be dead",
        || crate::harness::is_running(server),
        |running| !running,
    );
    place.init();
}

#[test]
fn the_server_is_nobodys_child() {
    let place = Place::new("orphan");
    place.init();
    let server = place.server().expect("it runs");
    let stat = fs::read_to_string(format!("/proc/{server}/stat")).unwrap();
    let parent: i32 = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert_ne!(parent, std::process::id().cast_signed());
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let place = Place::new("missing");
    let output = Command::new(env!("CARGO_BIN_EXE_rework"))
        .args(["init-db", &format!("embedded:{}", place.0.display())])
        .env("REWORK_PG_BIN", "/nowhere")
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        complaint
            .starts_with("error: PostgreSQL is not installed: no initdb in REWORK_PG_BIN=/nowhere"),
        "{complaint}"
    );
    assert!(
        complaint.contains("hint: apt-get install postgresql"),
        "{complaint}"
    );
    let deep = format!("embedded:/tmp/{}", "x".repeat(100));
    let output = place.rework(&["init-db", &deep]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        complaint.contains("is too long for a socket"),
        "{complaint}"
    );
}

#[test]
fn a_place_that_is_no_directory_is_named_with_what_to_do() {
    let place = Place::new("places");
    let file = place.0.join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let below = format!("{file}/below");
    for (path, reason) in [
        ("/proc", "/proc is not empty and holds no embedded cluster"),
        ("/dev", "/dev is not empty and holds no embedded cluster"),
        ("/proc/none", "could not make the directory /proc/none: "),
        ("/sys/none", "could not make the directory /sys/none: "),
        ("/dev/null", "/dev/null is not a directory"),
        (
            file,
            "is not a directory, and an embedded cluster needs one",
        ),
        (
            &below,
            "file is not a directory, and an embedded cluster needs one",
        ),
    ] {
        for arguments in [
            &["embedded", "url", "--path", path][..],
            &["embedded", "start", "--path", path],
            &["init-db", &format!("embedded:{path}")],
        ] {
            let output = place.rework(arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(
                said.starts_with("error: ")
                    && said.contains(reason)
                    && said.contains("\nhint: name a directory"),
                "{arguments:?}: {said}"
            );
        }
    }
}

/// A server whose process cannot be seen (another container) is used, and never taken for a dead one.
#[test]
fn a_server_of_another_process_namespace_is_used() {
    let place = Place::new("namespace");
    let path = place.0.to_str().unwrap();
    let database = format!("embedded:{path}");
    place.init();
    place.embedded("start");
    let server = place.server().unwrap();
    // Its own shared memory as well, as in a container: Postgres would not notice the other server.
    let inside = |arguments: &[&str]| {
        Command::new("unshare")
            .args(["--pid", "--ipc", "--fork", "--mount-proc"])
            .arg(env!("CARGO_BIN_EXE_rework"))
            .args(arguments)
            .env("REWORK_EMBEDDED_LINGER", "1")
            .env("REWORK_STATE_DIR", place.0.join("state"))
            .env_remove("REWORK_DB")
            .output()
            .unwrap()
    };
    if !inside(&["--version"]).status.success() {
        eprintln!("skipped: no namespace can be made here");
        return;
    }
    let plugin = hello();
    for arguments in [
        &["list-tasks", &database][..],
        &["register-operations", &database, plugin.to_str().unwrap()],
        &["schedule", &database, "noop"],
        &["embedded", "url", "--path", path],
    ] {
        let output = inside(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    let status = inside(&["embedded", "status", "--path", path]);
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(
        status.starts_with("running: ")
            && status.contains(", its process cannot be seen from here, "),
        "{status}"
    );
    let stop = inside(&["embedded", "stop", "--path", path]);
    let said = String::from_utf8(stop.stderr).unwrap();
    assert!(
        said.contains("cannot be seen from here (it runs in another container, or /proc hides it)")
            && said.contains("\nhint: stop it where it was started"),
        "{said}"
    );
    assert_eq!(place.server(), Some(server), "it is the same server");
    assert!(crate::harness::is_running(server));
    // A monitor that is the first process of its namespace.
    let mut monitor = Command::new("unshare")
        .args(["--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"])
        .arg(env!("CARGO_BIN_EXE_rework"))
        .args(["monitor", &database])
        .env("REWORK_STATE_DIR", place.0.join("state"))
        .spawn()
        .unwrap();
    let task = place.rework(&["schedule", &database, "noop", "--wait", "--timeout", "60s"]);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    assert!(task.status.success(), "{task:?}");
    assert_eq!(place.embedded("stop"), "stopped");
    // The server has gone for everybody, and whoever comes next starts it.
    let again = inside(&["list-tasks", &database]);
    assert!(again.status.success(), "{again:?}");
}

#[test]
fn the_callers_environment_is_none_of_the_servers() {
    let place = Place::new("environment");
    let database = format!("embedded:{}", place.0.display());
    let output = Command::new(env!("CARGO_BIN_EXE_rework"))
        .args(["init-db", &database])
        .env("REWORK_EMBEDDED_LINGER", "1")
        .env("REWORK_DB", "postgres://babar:rosebud@elephant/jobs")
        .env("PGPORT", "5433")
        .env("PGDATA", "/nowhere")
        .env("PGOPTIONS", "-c statement_timeout=60000")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let server = place.server().expect("it runs");
    let environment = fs::read(format!("/proc/{server}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    for foreign in ["REWORK_DB", "rosebud", "PGPORT", "PGOPTIONS"] {
        assert!(!environment.contains(foreign), "{environment}");
    }
    let psql = Command::new(crate::harness::psql())
        .args([&place.embedded("url"), "-Atc", "select 1"])
        .env("PGPORT", "5433")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&psql.stdout).trim(),
        "1",
        "{psql:?}"
    );
}

#[test]
fn links_in_the_servers_directory_lead_nowhere() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let place = Place::new("links");
    let shadow = place.0.with_extension("shadow");
    fs::write(&shadow, "secret").unwrap();
    fs::set_permissions(&shadow, fs::Permissions::from_mode(0o600)).unwrap();
    symlink(&shadow, place.0.join("users.lock")).unwrap();
    let database = format!("embedded:{}", place.0.display());
    let output = place.rework(&["init-db", &database]);
    let mode = fs::metadata(&shadow).unwrap().permissions().mode() & 0o777;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::remove_file(&shadow).unwrap();
    assert_eq!(mode, 0o600, "{complaint}");
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(
        complaint.starts_with("error: could not lock "),
        "{complaint}"
    );
    fs::remove_file(place.0.join("users.lock")).unwrap();
    place.init();
    let mode = fs::metadata(place.0.join("users.lock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o666, "every user can lock it");
}

#[test]
fn a_stranger_with_the_servers_old_number_is_left_alone() {
    let place = Place::new("stranger");
    place.init();
    let pid_file = place.0.join("data/postmaster.pid");
    let written = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(place.embedded("stop"), "stopped");
    // What a crash of the machine leaves, and, after it, somebody else under that number.
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let (_, rest) = written.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", stranger.id())).unwrap();
    let status = place.embedded("status");
    let stopped = place.embedded("stop");
    let is_alive = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(is_alive, "it was killed");
    assert!(status.starts_with("stopped: PostgreSQL "), "{status}");
    assert_eq!(stopped, "it was not running");
    place.init();
}

#[test]
fn the_keeper_is_the_program_that_runs_even_if_its_file_has_been_replaced() {
    let place = Place::new("replaced");
    // A copy that is gone before it starts the keeper.
    let copy = place.0.join("rework");
    crate::harness::copy_binary(&copy);
    let child = Command::new(&copy)
        .args(["init-db", &format!("embedded:{}", place.0.display())])
        .env("REWORK_EMBEDDED_LINGER", "1")
        .spawn()
        .unwrap();
    fs::remove_file(&copy).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let server = place.server().expect("it runs");
    until(
        "its keeper to stop the server",
        || crate::harness::is_running(server),
        |running| !running,
    );
}

#[test]
fn a_url_that_somebody_keeps_works_when_its_server_has_stopped() {
    let place = Place::new("alias");
    let path = place.0.to_str().unwrap();
    place.init();
    let output = place.rework(&["embedded", "url", "--path", path]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        said,
        format!(
            "note: its server stops 1s after its last user has gone; `rework embedded start --path {path}` \
             keeps it up until `rework embedded stop --path {path}`\n"
        )
    );
    let url = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    until("the server to stop", || place.server(), Option::is_none);
    // What REWORK_DB leads to is meant where no path is given.
    for named in [url.clone(), format!("embedded:{path}")] {
        let output = Command::new(env!("CARGO_BIN_EXE_rework"))
            .args(["embedded", "status"])
            .env("REWORK_DB", named)
            .output()
            .unwrap();
        let status = String::from_utf8(output.stdout).unwrap();
        assert!(status.contains(&format!(" in {path}")), "{status}");
    }
    // By the URL, and by an alias for it.
    let output = place.rework(&["list-operations", &url]);
    assert!(output.status.success(), "{output:?}");
    until(
        "the server to stop again",
        || place.server(),
        Option::is_none,
    );
    fs::write(
        place.0.join("rework.cfg"),
        format!("[dburi]\ndev = {url}\n"),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rework"))
        .args(["list-operations", "dev"])
        .env("REWORK_EMBEDDED_LINGER", "1")
        .env("REWORKCFGPATH", place.0.join("rework.cfg"))
        .env_remove("REWORK_DB")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_server_that_was_started_stays_up_without_users() {
    let place = Place::new("kept");
    let started = place.embedded("start");
    assert!(
        started.ends_with(", kept up until it is stopped"),
        "{started}"
    );
    let path = place.0.to_str().unwrap();
    let output = place.rework(&["embedded", "url", "--path", path]);
    assert!(output.stderr.is_empty(), "{output:?}");
    let server = place.server().unwrap();
    // The keeper has looked, more than once: it has been asleep before each look, and after it.
    let keeper = fs::read_to_string(place.0.join("keeper.lock")).unwrap();
    let slept = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", keeper.trim())).unwrap();
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse().unwrap()
    };
    let before = slept();
    until("the keeper to look", slept, |now| *now >= before + 5);
    assert_eq!(place.server(), Some(server));
    assert_eq!(place.embedded("stop"), "stopped");
    assert_eq!(place.server(), None);
    place.init();
    until(
        "the server to stop by itself",
        || place.server(),
        Option::is_none,
    );
}

#[test]
fn a_directory_with_other_things_in_it_is_left_alone() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new("occupied");
    fs::write(place.0.join("mine"), "hi").unwrap();
    let owner = || fs::metadata(&place.0).unwrap().uid();
    let before = owner();
    let path = place.0.to_str().unwrap();
    let database = format!("embedded:{path}");
    for arguments in [
        &["embedded", "url", "--path", path][..],
        &["embedded", "start", "--path", path],
        &["init-db", &database],
    ] {
        let output = place.rework(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let reason = "is not empty and holds no embedded cluster";
        assert!(said.contains(reason), "{said}");
    }
    place.rework(&["embedded", "stop", "--path", path]);
    assert_eq!(owner(), before);
    assert_eq!(
        fs::read_dir(&place.0).unwrap().count(),
        1,
        "nothing was made"
    );
}

/// The server outlives the command that starts it, and with it everything that the server has open.
#[test]
fn a_server_does_not_keep_what_its_starter_had_open() {
    let place = Place::new("descriptors");
    place.init();
    place.embedded("stop");
    let lock = place.0.join("lock");
    let started = Command::new("flock")
        .arg(&lock)
        .args([env!("CARGO_BIN_EXE_rework"), "embedded", "start", "--path"])
        .arg(&place.0)
        .output()
        .unwrap();
    assert!(started.status.success(), "{started:?}");
    assert!(place.server().is_some(), "the server runs");
    let free = Command::new("flock")
        .arg("--nonblock")
        .arg(&lock)
        .arg("true")
        .status()
        .unwrap();
    assert!(free.success(), "the server holds the lock");
    place.embedded("stop");
}
