//! An installation of `rework` for the length of a scope.

use super::{
    children::{self, Monitor, Place},
    hook,
};
use crate::{
    client::{Client, ClientError, Target},
    store::{Store, StoreError},
};
use std::{
    io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// How long a monitor may take to announce itself.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no installation.
#[derive(Debug, thiserror::Error)]
pub enum TestingError {
    /// The test binary cannot be its own monitor.
    #[error("this test cannot start workers: put `rework::testing::enable!();` into its file")]
    NotEnabled,
    /// A crate has no shared library.
    #[error(
        "the crate in {} makes no plugin: set crate-type = [\"cdylib\", \"rlib\"] under [lib] in its Cargo.toml",
        .0.display()
    )]
    NoPlugin(PathBuf),
    /// A command failed.
    #[error("`{command}` failed: {words}")]
    Command {
        /// Its arguments.
        command: String,
        /// What it complained.
        words: String,
    },
    /// The monitor ended, or did not get ready.
    #[error("the monitor is not there; it said: {0}")]
    Monitor(String),
    /// The database could not do it.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The system could not do it.
    #[error("could not {doing}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl TestingError {
    pub(super) fn system(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { doing, source }
    }
}

impl From<StoreError> for TestingError {
    fn from(error: StoreError) -> Self {
        Self::Client(error.into())
    }
}

/// Describes an installation; [`Builder::start`] makes it.
#[derive(Debug, Clone)]
#[must_use = "nothing is there before start()"]
pub struct Builder {
    crates: Vec<PathBuf>,
    plugins: Vec<PathBuf>,
    workers: u16,
    monitor: bool,
    arguments: Vec<String>,
}

/// Begins to describe an installation: no plugin yet, two workers per domain.
pub fn installation() -> Builder {
    Builder {
        crates: Vec::new(),
        plugins: Vec::new(),
        workers: 2,
        monitor: true,
        arguments: Vec::new(),
    }
}

impl Builder {
    /// Builds the plugin of this crate with cargo, and registers it.
    pub fn plugin_crate(mut self, directory: impl AsRef<Path>) -> Self {
        self.crates.push(directory.as_ref().to_owned());
        self
    }

    /// Registers a plugin that has been built, a `.so` file.
    pub fn plugin(mut self, file: impl AsRef<Path>) -> Self {
        self.plugins.push(file.as_ref().to_owned());
        self
    }

    /// At most so many workers per domain; at least 1.
    pub fn workers(mut self, count: u16) -> Self {
        self.workers = count.max(1);
        self
    }

    /// Another argument of `rework monitor`, such as `--maxruns=1`.
    pub fn monitor_argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// No monitor: tasks stay queued.
    pub fn without_monitor(mut self) -> Self {
        self.monitor = false;
        self
    }

    /// Makes it: builds, starts the server if needed, creates a database, registers, starts the
    /// monitor.
    ///
    /// # Errors
    ///
    /// If a plugin does not build or is refused, PostgreSQL is not installed, or the test file
    /// lacks `rework::testing::enable!();`.
    pub async fn start(self) -> Result<Installation, TestingError> {
        if !hook::is_enabled() {
            return Err(TestingError::NotEnabled);
        }
        // Building and starting wait for processes.
        let prepared = tokio::task::spawn_blocking(move || self.prepare()).await;
        let (builder, plugins, server) =
            prepared.map_err(|error| TestingError::Monitor(error.to_string()))??;
        let database = Database::create(server).await?;
        let state = tempfile::tempdir().map_err(TestingError::system("make a directory"))?;
        let place = Place {
            database: database.url.clone(),
            host: "testing".to_owned(),
            state: state.path().to_owned(),
        };
        let log = state.path().join("monitor.log");
        let registered = {
            let place = place.clone();
            tokio::task::spawn_blocking(move || {
                place.run(&["init-db"])?;
                for plugin in plugins {
                    place.run(&["register-operations", &plugin.to_string_lossy()])?;
                }
                Ok::<_, TestingError>(())
            })
        };
        registered
            .await
            .map_err(|error| TestingError::Monitor(error.to_string()))??;
        let client = Client::connect(&database.url).await?;
        let mut installation = Installation {
            monitor: None,
            client,
            log,
            _database: database,
            _state: state,
        };
        if builder.monitor {
            let workers = builder.workers.to_string();
            let mut arguments = vec!["monitor", "--all-domains", "--maxworkers", &workers];
            arguments.extend(builder.arguments.iter().map(String::as_str));
            installation.monitor = Some(place.monitor(&arguments, &installation.log)?);
            installation.wait_for_monitor().await?;
        }
        Ok(installation)
    }

    /// The plugins' files, and the server.
    fn prepare(self) -> Result<(Self, Vec<PathBuf>, Target), TestingError> {
        let mut plugins = self.plugins.clone();
        for directory in &self.crates {
            plugins.push(children::build(directory)?);
        }
        let cluster = std::env::var("REWORK_TEST_CLUSTER")
            .unwrap_or_else(|_| format!("/tmp/rework-testing-{}", nix::unistd::geteuid()));
        // By a process that can be its keeper too.
        children::run_anywhere(&["embedded", "url", "--path", &cluster])?;
        let server = Target::resolve(&format!("embedded:{cluster}"))?;
        Ok((self, plugins, server))
    }
}

/// A running installation, which is also a [`Client`] of itself. At its end the monitor and all
/// workers are gone, and so is the database.
#[derive(Debug)]
pub struct Installation {
    // The first to go.
    monitor: Option<Monitor>,
    client: Client,
    log: PathBuf,
    _database: Database,
    _state: tempfile::TempDir,
}

impl Installation {
    /// What the monitor has logged so far.
    pub fn monitor_log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn wait_for_monitor(&mut self) -> Result<(), TestingError> {
        let deadline = Instant::now() + START_LIMIT;
        while self.client.monitors().await?.is_empty() {
            let is_alive = self.monitor.as_mut().is_some_and(Monitor::is_alive);
            if !is_alive || Instant::now() > deadline {
                return Err(TestingError::Monitor(self.monitor_log()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

impl Deref for Installation {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the monitor said:\n{}", self.monitor_log());
        }
    }
}

/// A database of its own on the server; dropped at the end.
#[derive(Debug)]
struct Database {
    server: Target,
    name: String,
    url: String,
}

impl Database {
    async fn create(server: Target) -> Result<Self, TestingError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let name = format!("testing_{}_{number}", std::process::id());
        let store = Store::connect(server.options().clone(), 1).await?;
        store.database_create(&name).await?;
        store.close().await;
        let url = server
            .embedded_url(&name)
            .expect("the server is an embedded one");
        Ok(Self { server, name, url })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (options, name) = (self.server.options().clone(), self.name.clone());
        // A runtime of its own: the test's may be gone, or be the one that we stand in.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let store = Store::connect(options, 1).await?;
                store.database_drop(&name).await?;
                store.close().await;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("database {} is left behind: {error}", self.name);
        }
    }
}
