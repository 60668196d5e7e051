//! The `DB` argument: a URL, an alias of the configuration file, or an embedded cluster.

use super::error::{ClientError, Result};
use crate::{
    here,
    postgres::{Cluster, Lease},
    store::{ConnectOptions, StoreError},
};
use std::{env, path::PathBuf};

/// A database that a `DB` argument leads to. If it is an embedded one, this keeps its server running.
#[derive(Debug)]
pub struct Target {
    options: ConnectOptions,
    embedded: Option<(Cluster, Lease)>,
}

impl Target {
    /// Resolves a `DB` argument, and starts the server if it is an embedded one that has been created.
    pub fn resolve(database: &str) -> Result<Self> {
        Self::find(database, false)
    }

    /// Like [`Target::resolve`], but creates an embedded cluster if there is none.
    pub fn make(database: &str) -> Result<Self> {
        Self::find(database, true)
    }

    fn find(database: &str, makes: bool) -> Result<Self> {
        let url = url_of(database)?;
        match embedded_cluster(&url)? {
            Some(cluster) if !makes && !cluster.exists() => Err(ClientError::Database {
                message: format!("there is no cluster in {}", cluster.directory().display()),
                hint: Some(format!("`rework init-db {database}` makes one")),
            }),
            Some(cluster) => {
                let lease = cluster.ensure_running()?;
                Ok(Self {
                    options: ConnectOptions::of_own_server(&cluster.url())?,
                    embedded: Some((cluster, lease)),
                })
            }
            None => Ok(Self {
                embedded: running_again(&url),
                options: url.parse().map_err(|error| match error {
                    StoreError::Url(fault) if url != database => {
                        StoreError::Url(format!("alias `{database}`: {fault}"))
                    }
                    error => error,
                })?,
            }),
        }
    }

    /// How to connect to the database.
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// The URL of another database of the embedded cluster; `None` for other servers.
    pub(crate) fn embedded_url(&self, database: &str) -> Option<String> {
        let (cluster, _) = self.embedded.as_ref()?;
        let url = cluster.url();
        let server = url.strip_suffix("/postgres")?;
        Some(format!("{server}/{database}"))
    }
}

/// The embedded cluster that a `DB` argument leads to, by its name, by an alias or by its URL, whether it has
/// been created or not; `None`: the argument names another server.
pub(crate) fn cluster_of(database: &str) -> Result<Option<Cluster>> {
    let url = url_of(database)?;
    Ok(embedded_cluster(&url)?.or_else(|| Cluster::of_url(&url)))
}

/// What a `DB` argument stands for: itself, or what the configuration file says of an alias.
fn url_of(database: &str) -> Result<String> {
    if database.contains("://") || embedded_cluster(database)?.is_some() {
        return Ok(database.to_owned());
    }
    alias(database)
}

/// The cluster that `embedded` or `embedded:/some/dir` names; `None` for other arguments.
fn embedded_cluster(database: &str) -> Result<Option<Cluster>> {
    if database == "embedded" {
        return Ok(Some(Cluster::default_location()?));
    }
    let Some(path) = database.strip_prefix("embedded:") else {
        return Ok(None);
    };
    if path.is_empty() {
        return Err(ClientError::Database {
            message: "`embedded:` names no directory".to_owned(),
            hint: Some("write embedded:/some/dir, or just embedded".to_owned()),
        });
    }
    let path = std::path::absolute(path).map_err(|error| ClientError::Database {
        message: format!("`{path}` cannot be made an absolute path: {error}"),
        hint: None,
    })?;
    Ok(Some(Cluster::at(path)))
}

/// The embedded cluster that a URL leads to, with its server running: the server may have stopped since
/// `rework embedded url` printed the URL.
fn running_again(url: &str) -> Option<(Cluster, Lease)> {
    let cluster = Cluster::of_url(url)?;
    match cluster.ensure_running() {
        Ok(lease) => Some((cluster, lease)),
        // The server may accept connections nevertheless; if not, connecting reports it.
        Err(error) => {
            tracing::debug!(
                "the server in {} is not held up: {error}",
                cluster.directory().display()
            );
            None
        }
    }
}

/// The configuration file: the first that exists of `$REWORKCFGPATH`, `./rework.cfg` and `~/rework.cfg`.
fn configuration_file() -> Option<PathBuf> {
    let named = env::var_os("REWORKCFGPATH").map(PathBuf::from);
    let home = here::home().map(|home| home.join("rework.cfg"));
    [named, Some(PathBuf::from("rework.cfg")), home]
        .into_iter()
        .flatten()
        .find(|path| path.is_file())
}

/// The URL that an alias stands for.
fn alias(name: &str) -> Result<String> {
    let hint = "DB is a postgres:// URL, an alias of section [dburi] in rework.cfg, \
                `embedded` or `embedded:/some/dir`";
    let unknown = |message| ClientError::Database {
        message,
        hint: Some(hint.to_owned()),
    };
    // An argument with these characters may be a mistyped URL or connection string that holds a password.
    let may_tell = !name.contains(['@', '=', ':']);
    let shown = if may_tell { name } else { "…" };
    if name.trim().is_empty() {
        return Err(unknown("DB is empty".to_owned()));
    }
    let Some(path) = configuration_file() else {
        return Err(unknown(format!(
            "`{shown}` is neither a database URL nor an alias: there is no rework.cfg"
        )));
    };
    let text = std::fs::read_to_string(&path).map_err(|error| ClientError::Database {
        message: format!("could not read {}: {error}", path.display()),
        hint: None,
    })?;
    let found = dburi_entries(&text).find(|(key, _)| *key == name);
    if found.is_some_and(|(_, url)| url.is_empty()) {
        return Err(unknown(format!(
            "alias `{shown}` in section [dburi] of {} stands for nothing: there is no URL after its `=`",
            path.display()
        )));
    }
    found.map(|(_, url)| url.to_owned()).ok_or_else(|| {
        let aliases: Vec<&str> = dburi_entries(&text).map(|(key, _)| key).collect();
        unknown(format!(
            "no alias `{shown}` in section [dburi] of {} (it has: {})",
            path.display(),
            if aliases.is_empty() {
                "none".to_owned()
            } else {
                aliases.join(", ")
            }
        ))
    })
}

/// The lines `name = url` of the section `[dburi]`.
fn dburi_entries(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut inside = false;
    text.lines().map(str::trim).filter_map(move |line| {
        if line.starts_with('[') {
            inside = line == "[dburi]";
            return None;
        }
        if !inside || line.starts_with(['#', ';']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        Some((key.trim(), value.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dburi_section_counts() {
        let text = "[other]\na = x\n[dburi]\n# no\nb = postgres://h/b?x=y\n[more]\nc = z\n";
        let entries: Vec<_> = dburi_entries(text).collect();
        assert_eq!(entries, [("b", "postgres://h/b?x=y")]);
    }
}
