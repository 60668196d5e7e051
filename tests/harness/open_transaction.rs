//! A transaction of somebody else that does not end by itself.

use super::{Rework, until};
use std::process::{Child, Command, Stdio};

/// A session of psql that stays open in a transaction.
pub(crate) struct OpenTransaction(Child);

impl OpenTransaction {
    pub(crate) fn begin(rework: &Rework, statement: &str) -> Self {
        let statements = format!("begin; {statement}; select pg_sleep(600)");
        let child = Command::new("psql")
            .args(["-X", "-q", "-d", &rework.database.url(), "-c", &statements])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let open = Self(child);
        until(
            "the transaction to stay open",
            || open.process(rework),
            |pid| !pid.is_empty(),
        );
        open
    }

    /// Its process of the server.
    pub(crate) fn process(&self, rework: &Rework) -> String {
        rework.database.psql(
            "select pid from pg_stat_activity
              where datname = current_database() and wait_event = 'PgSleep'",
        )
    }

    pub(crate) fn end(&mut self, rework: &Rework) {
        let pid = self.process(rework);
        rework
            .database
            .psql(&format!("select pg_terminate_backend({pid})"));
        self.0.wait().unwrap();
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
