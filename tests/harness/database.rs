//! One embedded cluster for all tests, and a database of its own for each.

use super::sessions::{Held, Sessions};
use rework::internals::postgres::{Cluster, Lease};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// Where the cluster is: short, for sockets, and where an unprivileged server can get to.
/// `REWORK_TEST_CLUSTER` says otherwise: `make test` gives each checkout its own.
pub(crate) fn cluster_directory() -> PathBuf {
    std::env::var_os("REWORK_TEST_CLUSTER").map_or_else(
        || PathBuf::from(format!("/tmp/rework-tests-{}", nix::unistd::geteuid())),
        PathBuf::from,
    )
}

/// A path for another cluster: as short, and in memory where the cluster of the tests is.
pub(crate) fn beside_cluster(name: &str) -> PathBuf {
    cluster_directory().with_file_name(name)
}

/// Whoever is a member of this role may log in without further ado.
pub(crate) const ROLES: &str = "rework_tests";

fn cluster() -> &'static Cluster {
    static RUNNING: OnceLock<(Cluster, Lease)> = OnceLock::new();
    let (cluster, _) = RUNNING.get_or_init(|| {
        let cluster = Cluster::at(cluster_directory());
        // Started by the real binary, which can be its keeper too.
        let started = Command::new(env!("CARGO_BIN_EXE_rework"))
            .args(["embedded", "url", "--path"])
            .arg(cluster_directory())
            .output()
            .expect("the binary runs");
        assert!(started.status.success(), "{started:?}");
        let lease = cluster
            .ensure_running()
            .expect("PostgreSQL is installed: see `make setup`");
        // Its databases live for seconds: they need not survive a crash of the machine, nor keep
        // gigabytes of log.
        for setting in [
            "fsync = off",
            "full_page_writes = off",
            "max_wal_size = '256MB'",
        ] {
            ask_server(&cluster, &format!("alter system set {setting}"));
        }
        let roles = format!(
            "do $$ begin create role {ROLES}; exception when duplicate_object then null; end $$"
        );
        ask_server(&cluster, &roles);
        let rules = cluster_directory().join("data/pg_hba.conf");
        let first = format!("local all +{ROLES} trust\n");
        let known = std::fs::read_to_string(&rules).expect("a cluster has rules");
        if !known.starts_with(&first) {
            std::fs::write(&rules, first + &known).expect("the cluster is ours");
        }
        ask_server(&cluster, "select pg_reload_conf()");
        (cluster, lease)
    });
    cluster
}

/// Asks the server about itself and its databases, in the database `postgres`.
fn ask_server(cluster: &Cluster, statement: &str) -> String {
    let answer = try_server(cluster, statement);
    answer.unwrap_or_else(|error| panic!("{statement}: {error}"))
}

fn try_server(cluster: &Cluster, statement: &str) -> Result<String, String> {
    static SESSIONS: OnceLock<Sessions> = OnceLock::new();
    SESSIONS
        .get_or_init(|| Sessions::to(cluster.url()))
        .ask(statement)
}

/// The database that every test with the schema copies: copying takes a few milliseconds, running the
/// migrations for each test took hundreds. Made by the first test that needs it, with `init-db`.
fn template() -> &'static str {
    static TEMPLATE: OnceLock<String> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        drop_abandoned();
        let template = Database::create("template", "template1");
        let made = Command::new(env!("CARGO_BIN_EXE_rework"))
            .args(["init-db", &template.url()])
            .output()
            .expect("the binary runs");
        assert!(made.status.success(), "{made:?}");
        // It stays until the next run drops it: a static is never dropped.
        std::mem::ManuallyDrop::new(template).name.clone()
    })
}

/// Drops the databases of test processes that have ended without doing so.
fn drop_abandoned() {
    let names = ask_server(
        cluster(),
        r"select datname from pg_database where datname ~ '^(test|template)_[0-9]+_[0-9]+$'",
    );
    for name in names.lines() {
        let pid = name.split('_').nth(1).expect("the pattern has three parts");
        if !Path::new("/proc").join(pid).exists() {
            // Another run of the tests may be doing the same.
            let drop = format!("drop database if exists {name} with (force)");
            let _ = try_server(cluster(), &drop);
        }
    }
}

/// A database; dropped at the end of its test.
#[derive(Debug)]
pub(crate) struct Database {
    name: String,
    sessions: Sessions,
}

impl Database {
    /// A new one, without any schema.
    pub(crate) fn empty() -> Self {
        Self::create("test", "template1")
    }

    /// A new one with the schema, as `init-db` makes it.
    pub(crate) fn with_schema() -> Self {
        Self::create("test", template())
    }

    /// A new one with the schema, which others are to be copies of.
    pub(super) fn to_copy() -> Self {
        Self::create("template", template())
    }

    /// A new one, as this one is now; nobody may be connected to this one.
    pub(super) fn copy(&self) -> Self {
        Self::create("test", &self.name)
    }

    /// A new one, `<kind>_<pid of this process>_<number>`, as a copy of another.
    fn create(kind: &str, template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}_{}_{number}", std::process::id());
        let create = format!("create database {name} template {template} {}", as_files());
        ask_server(cluster(), &create);
        let sessions = Sessions::to(url_of(&name));
        Self { name, sessions }
    }

    /// How clients find it.
    pub(crate) fn url(&self) -> String {
        url_of(&self.name)
    }

    /// The Unix socket of its server.
    pub(crate) fn socket(&self) -> PathBuf {
        let url = cluster().url();
        let port = url
            .rsplit_once("/postgres")
            .and_then(|(server, _)| server.rsplit_once(':'))
            .map(|(_, port)| port)
            .expect("the URL of a cluster has a port");
        cluster_directory().join(format!(".s.PGSQL.{port}"))
    }

    /// How clients find it through a proxy of its server.
    pub(crate) fn url_by_tcp(&self, port: u16) -> String {
        format!("postgres://postgres@127.0.0.1:{port}/{}", self.name)
    }

    /// What psql prints for a statement, unadorned, though it is run without a psql; panics if it fails.
    pub(crate) fn psql(&self, statement: &str) -> String {
        let answer = self.sessions.ask(statement);
        answer.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// A session that goes on until it is dropped.
    pub(super) fn session(&self) -> Held {
        self.sessions.hold()
    }

    /// What psql says of a statement that has to fail.
    pub(crate) fn psql_error(&self, statement: &str) -> String {
        run_psql(&self.url(), statement).expect_err("the statement succeeded")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A test that failed may have left somebody connected.
        let drop = format!("drop database {} with (force)", self.name);
        let _ = try_server(cluster(), &drop);
    }
}

/// Has a database copied as files: that takes half the time of writing each page to the log first.
/// PostgreSQL 14 knows no other way, and no word for it.
fn as_files() -> &'static str {
    static STRATEGY: OnceLock<&str> = OnceLock::new();
    STRATEGY.get_or_init(|| {
        let version = ask_server(cluster(), "show server_version_num");
        let version: u32 = version.parse().expect("a number");
        if version >= 150_000 {
            "strategy file_copy"
        } else {
            ""
        }
    })
}

fn url_of(database: &str) -> String {
    let url = cluster().url();
    format!("{}/{database}", url.trim_end_matches("/postgres"))
}

/// Debian's `psql` is a script that looks for the program for a tenth of a second of processor time, and
/// tests look very often: the program itself, where it can be found.
pub(crate) fn psql() -> &'static Path {
    static PSQL: OnceLock<PathBuf> = OnceLock::new();
    PSQL.get_or_init(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql");
        let programs = versions.into_iter().flatten().flatten();
        programs
            .map(|version| version.path().join("bin/psql"))
            .find(|program| program.exists())
            .unwrap_or_else(|| PathBuf::from("psql"))
    })
}

fn run_psql(url: &str, statement: &str) -> Result<String, String> {
    let output = Command::new(psql())
        .args([
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "-v",
            "ON_ERROR_STOP=1",
        ])
        .args(["--dbname", url, "--command", statement])
        .output()
        .expect("psql runs");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
