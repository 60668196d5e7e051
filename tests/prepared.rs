//! Two-phase commits: what SQL offers works in a transaction that is prepared, always.

use crate::harness::{beside_cluster, hello, until};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command, Output},
};

/// An embedded cluster of its own that allows prepared transactions.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let place = Self(beside_cluster(&format!(
            "rwp-{name}-{}",
            std::process::id()
        )));
        fs::create_dir_all(&place.0).unwrap();
        fs::set_permissions(&place.0, fs::Permissions::from_mode(0o755)).unwrap();
        place.ok(&["init-db"]);
        place
    }

    fn allow_prepared(&self) {
        self.psql("alter system set max_prepared_transactions = 10");
        self.embedded("stop");
    }

    fn monitor(&self) -> Monitor {
        let log = fs::File::create(self.0.join("monitor.log")).unwrap();
        let monitor = self.command(&["monitor"]).stderr(log).spawn().unwrap();
        Monitor(monitor)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rework"));
        command
            .args(arguments)
            .env("REWORK_DB", format!("embedded:{}", self.0.display()))
            .env("REWORK_HOST", "testhost")
            .env("REWORK_STATE_DIR", self.0.join("state"))
            .env_remove("RUST_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn embedded(&self, word: &str) -> String {
        self.ok(&["embedded", word, "--path", self.0.to_str().unwrap()])
    }

    /// Each of these statements by itself, in one session.
    fn psql(&self, statements: &str) -> String {
        let url = self.embedded("url");
        let output = Command::new(crate::harness::psql())
            .args([
                "--no-psqlrc",
                "-qtA",
                "-v",
                "ON_ERROR_STOP=1",
                "--dbname",
                &url,
            ])
            .args(statements.split(';').flat_map(|one| ["--command", one]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{statements}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn state(&self, id: &str) -> String {
        self.psql(&format!(
            "select state from rework.task_view where id = {id}"
        ))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.run(&["embedded", "stop", "--path", self.0.to_str().unwrap()]);
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Monitor(Child);

impl Drop for Monitor {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn what_is_prepared_and_committed_later_happens() {
    let place = Place::new("later");
    place.allow_prepared();
    place.ok(&["register-operations", hello().to_str().unwrap()]);
    let _monitor = place.monitor();
    let first = place.ok(&["schedule", "my_first_task", "--input", "1"]);
    until(
        "the first to end",
        || place.state(&first),
        |state| state == "done",
    );
    until(
        "the monitor to sleep",
        || place.psql("select asleep from rework.monitor"),
        |asleep| asleep == "t",
    );
    let prepared = |call: &str| {
        place.psql(&format!(
            "begin; {call}; prepare transaction 'x'; commit prepared 'x'"
        ))
    };
    let id = prepared("select rework.schedule('my_first_task', '21')");
    until("it to run", || place.state(&id), |state| state == "done");
    assert_eq!(
        place.psql(&format!(
            "select output from rework.task_view where id = {id}"
        )),
        "42"
    );
    prepared(&format!("select rework.task_retry({id})"));
    until(
        "it to run again",
        || place.state(&id),
        |state| state == "done",
    );
    let later = prepared("select rework.schedule('my_first_task', '1', run_at => '2100-01-01')");
    assert_eq!(
        prepared(&format!("select rework.task_abort({later})")),
        "aborted"
    );
    prepared(&format!("select rework.task_delete({later})"));
    assert_eq!(place.state(&later), "");
}

#[test]
fn a_server_that_is_restarted_may_allow_what_it_did_not() {
    let place = Place::new("restarted");
    place.ok(&["register-operations", hello().to_str().unwrap()]);
    let _monitor = place.monitor();
    let first = place.ok(&["schedule", "noop"]);
    until(
        "the first to end",
        || place.state(&first),
        |state| state == "done",
    );
    place.allow_prepared();
    place.embedded("start");
    let log = || fs::read_to_string(place.0.join("monitor.log")).unwrap();
    until("the monitor to find it out", log, |log| {
        log.contains("the server allows prepared transactions")
    });
    let id = place.psql(
        "begin; select rework.schedule('noop'); prepare transaction 'x'; commit prepared 'x'",
    );
    until("it to run", || place.state(&id), |state| state == "done");
}

/// Nobody may be there any more who would end it.
#[test]
fn a_key_in_a_prepared_transaction_is_refused_with_its_name() {
    let place = Place::new("key");
    place.allow_prepared();
    place.ok(&["register-operations", hello().to_str().unwrap()]);
    // Whoever queues the first task of an operation holds more than its key.
    place.ok(&["schedule", "noop"]);
    // Another one holds locks of the same tables, none that is in the way.
    place.psql(
        "begin; select count(*) from rework.task; select rework.schedule('noop');
         prepare transaction 'innocent'",
    );
    place.psql("begin; select rework.schedule('noop', key => 'k'); prepare transaction 'left'");
    let refused = place.run(&["schedule", "noop", "--key", "k"]);
    let refusal = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refusal}");
    assert!(
        refusal.contains("the prepared transaction `left`"),
        "{refusal}"
    );
    assert!(refusal.contains("`rollback prepared 'left'`"), "{refusal}");
    let doctor = || String::from_utf8(place.run(&["doctor"]).stdout).unwrap();
    until("doctor to name it", doctor, |told| {
        told.contains("the prepared transaction `left` holds locks")
    });
    place.psql("rollback prepared 'left'");
    place.ok(&["schedule", "noop", "--key", "k"]);
    place.psql("begin; lock table rework.operation in exclusive mode; prepare transaction 'left'");
    let refused = place.run(&["pause", "--operation", "noop"]);
    let refusal = String::from_utf8(refused.stderr).unwrap();
    assert!(refusal.contains("`rollback prepared 'left'`"), "{refusal}");
}
