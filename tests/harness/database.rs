//! One embedded cluster for all tests, and a database of its own for each.

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
        for setting in ["fsync = off", "max_wal_size = '256MB'"] {
            run_psql(&cluster.url(), &format!("alter system set {setting}"))
                .expect("the cluster is ours");
        }
        let roles = format!(
            "do $$ begin create role {ROLES}; exception when duplicate_object then null; end $$"
        );
        run_psql(&cluster.url(), &roles).expect("the cluster is ours");
        let rules = cluster_directory().join("data/pg_hba.conf");
        let first = format!("local all +{ROLES} trust\n");
        let known = std::fs::read_to_string(&rules).expect("a cluster has rules");
        if !known.starts_with(&first) {
            std::fs::write(&rules, first + &known).expect("the cluster is ours");
        }
        run_psql(&cluster.url(), "select pg_reload_conf()").expect("the cluster is ours");
        (cluster, lease)
    });
    cluster
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
    let url = cluster().url();
    let names = run_psql(
        &url,
        r"select datname from pg_database where datname ~ '^(test|template)_[0-9]+_[0-9]+$'",
    );
    for name in names.expect("the cluster is ours").lines() {
        let pid = name.split('_').nth(1).expect("the pattern has three parts");
        if !std::path::Path::new("/proc").join(pid).exists() {
            let _ = run_psql(
                &url,
                &format!("drop database if exists {name} with (force)"),
            );
        }
    }
}

/// A database; dropped at the end of its test.
#[derive(Debug)]
pub(crate) struct Database {
    name: String,
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

    /// A new one, `<kind>_<pid of this process>_<number>`, as a copy of another.
    fn create(kind: &str, template: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{kind}_{}_{number}", std::process::id());
        let create = format!("create database {name} template {template}");
        run_psql(&cluster().url(), &create).expect("there is room");
        Self { name }
    }

    /// How clients find it.
    pub(crate) fn url(&self) -> String {
        let url = cluster().url();
        format!("{}/{}", url.trim_end_matches("/postgres"), self.name)
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

    /// What psql prints for a statement, unadorned; panics if it fails.
    pub(crate) fn psql(&self, statement: &str) -> String {
        run_psql(&self.url(), statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
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
        let _ = run_psql(&cluster().url(), &drop);
    }
}

/// Debian's `psql` is a script that looks for the program for a tenth of a second of processor time, and
/// tests look very often: the program itself, where it can be found.
fn psql() -> &'static Path {
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
