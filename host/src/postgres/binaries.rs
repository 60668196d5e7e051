//! Finding the machine's PostgreSQL: the newest version of those that are installed.

use super::Error;
use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// Directories in which packages install PostgreSQL by version.
const VERSIONED: [&str; 3] = ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"];
/// Directories of installations without a version.
const PLAIN: [&str; 2] = ["/usr/local/pgsql/bin", "/usr/lib64/pgsql/bin"];

/// A directory with the server's programs.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// The directory `REWORK_PG_BIN`, or the one of the newest version found.
    pub(super) fn find() -> Result<Self, Error> {
        if let Some(named) = env::var_os("REWORK_PG_BIN").filter(|named| !named.is_empty()) {
            let directory = PathBuf::from(named);
            return match is_complete(&directory) {
                true => Ok(Self { directory }),
                false => Err(Error::NotInstalled {
                    looked: vec![format!("REWORK_PG_BIN={}", directory.display())],
                }),
            };
        }
        let mut found: Vec<(u32, PathBuf)> = versioned()
            .chain(pgdg())
            .filter(|(_, bin)| is_complete(bin))
            .collect();
        found.sort();
        if let Some((_, directory)) = found.pop() {
            return Ok(Self { directory });
        }
        let path = env::var_os("PATH").unwrap_or_default();
        PLAIN
            .iter()
            .map(PathBuf::from)
            .chain(env::split_paths(&path))
            .find_map(|directory| real(&directory))
            .map(|directory| Self { directory })
            .ok_or_else(|| Error::NotInstalled {
                looked: vec!["/usr/lib/postgresql/*/bin".to_owned(), "PATH".to_owned()],
            })
    }

    /// The path of one of the programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn versioned() -> impl Iterator<Item = (u32, PathBuf)> {
    VERSIONED
        .iter()
        .flat_map(|parent| fs::read_dir(parent).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.trim_start_matches("postgresql@").parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
}

/// The directories of the RPM packages: `/usr/pgsql-16/bin`.
fn pgdg() -> impl Iterator<Item = (u32, PathBuf)> {
    fs::read_dir("/usr")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("pgsql-")?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
}

fn is_complete(directory: &Path) -> bool {
    ["initdb", "postgres", "pg_ctl"]
        .iter()
        .all(|name| directory.join(name).is_file())
}

/// The real directory of `initdb`, with links resolved.
fn real(directory: &Path) -> Option<PathBuf> {
    let initdb = fs::canonicalize(directory.join("initdb")).ok()?;
    let directory = initdb.parent()?.to_owned();
    is_complete(&directory).then_some(directory)
}
