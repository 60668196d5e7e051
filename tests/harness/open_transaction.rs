//! A transaction of somebody else that does not end by itself.

use super::{Rework, sessions::Held};

/// A session with an open transaction: what it has written and locked stays so until it is dropped.
pub(crate) struct OpenTransaction {
    session: Held,
    process: String,
}

impl OpenTransaction {
    pub(crate) fn begin(rework: &Rework, statement: &str) -> Self {
        let mut session = rework.database.session();
        let process = session.psql("begin; select pg_backend_pid()");
        session.psql(statement);
        Self { session, process }
    }

    /// Its process of the server.
    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    /// Runs one more statement in it.
    pub(crate) fn psql(&mut self, statement: &str) -> String {
        self.session.psql(statement)
    }

    /// Rolls back; what it has locked is free afterwards.
    pub(crate) fn end(mut self) {
        self.session.psql("rollback");
    }
}
