//! Versions of plugins: listing them, and returning to an earlier one.

use super::{
    Client,
    error::{ClientError, Result},
};
use crate::{
    here,
    model::plugin::short_hash,
    plugin::Cache,
    store::{DropInRow, PluginRow, RollbackRow, VersionRow},
};

/// How many digits of a hash identify a version at least.
const SHORTEST_PREFIX: usize = 6;

/// Which version to return to, and on which hosts.
#[derive(Debug, Clone, Default)]
pub struct RollbackOptions {
    /// The version, by its hash or the beginning of the hash; `None`: the version before the current one.
    pub to: Option<String>,
    /// The host; `None`: every host that has an earlier version.
    pub host: Option<String>,
}

impl Client {
    /// Every version in every domain of every host, and the files that hosts refuse.
    pub async fn plugins(&self) -> Result<Vec<PluginRow>> {
        let mut rows = self.store().plugin_list().await?;
        rows.extend(
            self.refused_files()
                .await?
                .into_iter()
                .map(|file| PluginRow {
                    hash: None,
                    name: None,
                    version: None,
                    domain: None,
                    host: file.host,
                    path: file.path,
                    since: file.since,
                    until: None,
                    current: false,
                    operations: 0,
                    tasks: 0,
                    published: false,
                    refused: Some(file.reason),
                }),
        );
        Ok(rows)
    }

    /// Plugin files that a living monitor refuses, with the reason.
    pub async fn refused_files(&self) -> Result<Vec<DropInRow>> {
        Ok(self.store().drop_in_refused().await?)
    }

    /// Returns a domain at once to an earlier version of its plugins: new tasks run on that version,
    /// running ones end on the version that they began with. The plugin's file is not needed, only its copy
    /// in the host's cache. A drop-in directory does not undo the rollback until its file changes.
    pub async fn rollback(
        &self,
        domain: &str,
        options: &RollbackOptions,
    ) -> Result<Vec<RollbackRow>> {
        let host = options.host.as_deref();
        let versions = self.store().version_list(domain, host).await?;
        if versions.is_empty() {
            let place = host.map_or_else(String::new, |host| format!(" on host `{host}`"));
            return Err(ClientError::Rollback(format!(
                "no plugin was ever registered in domain `{domain}`{place}"
            )));
        }
        let flips = match &options.to {
            Some(prefix) => towards(&versions, domain, prefix)?,
            None => backwards(&versions, domain)?,
        };
        let cache = Cache::at(here::plugin_cache_dir());
        let here = here::host_name(None)?;
        for (_, to) in &flips {
            // The cache of another host cannot be checked from here; its monitor reports a missing copy.
            if to.host == here && cache.find(&to.hash).is_none() {
                return Err(ClientError::Rollback(format!(
                    "version {} ({}) of {} is not in {}, the cache of this user on this host: run it as \
                     the user of the monitor, or with its REWORK_STATE_DIR",
                    to.version,
                    short_hash(&to.hash),
                    to.name,
                    cache.directory().display()
                )));
            }
        }
        let targets: Vec<(String, i32)> = flips
            .iter()
            .map(|(_, to)| (to.host.clone(), to.plugin))
            .collect();
        let counts = self.store().version_return(domain, &targets).await?;
        Ok(flips
            .into_iter()
            .zip(counts)
            .map(|((from, to), operations)| RollbackRow {
                host: to.host.clone(),
                name: to.name.clone(),
                from: from.map(|from| from.version.clone()),
                from_hash: from.map(|from| from.hash.clone()),
                to: to.version.clone(),
                to_hash: to.hash.clone(),
                operations,
            })
            .collect())
    }
}

/// The current version of a plugin, if there is one, and the version to return to.
type Flip<'v> = (Option<&'v VersionRow>, &'v VersionRow);

/// The current version of a plugin on a host. If there are several, because only part of a version was
/// registered, the latest.
fn current<'v>(versions: &'v [VersionRow], host: &str, name: &str) -> Option<&'v VersionRow> {
    versions
        .iter()
        .filter(|version| version.host == host && version.name == name && version.current)
        .max_by_key(|version| version.registered)
}

/// For each plugin on each host, the step to the version before.
fn backwards<'v>(versions: &'v [VersionRow], domain: &str) -> Result<Vec<Flip<'v>>> {
    let mut flips: Vec<Flip<'v>> = Vec::new();
    for now in versions.iter().filter(|version| {
        let current = current(versions, &version.host, &version.name);
        current.is_some_and(|current| current.plugin == version.plugin)
    }) {
        let before = versions
            .iter()
            .filter(|version| version.host == now.host && version.name == now.name)
            .filter(|version| version.registered < now.registered)
            .max_by_key(|version| version.registered);
        if let Some(before) = before {
            flips.push((Some(now), before));
        }
    }
    if flips.is_empty() {
        let hint = if versions.iter().any(|version| version.current) {
            "there is no earlier version"
        } else {
            "nothing is current there; name a version with --to"
        };
        return Err(ClientError::Rollback(format!(
            "domain `{domain}` cannot be rolled back: {hint}"
        )));
    }
    Ok(flips)
}

/// For every host that has had this version, the step to it.
fn towards<'v>(versions: &'v [VersionRow], domain: &str, prefix: &str) -> Result<Vec<Flip<'v>>> {
    let failed = |message: String| Err(ClientError::Rollback(message));
    if prefix.len() < SHORTEST_PREFIX {
        return failed(format!(
            "`{prefix}` is too short for a hash: give at least {SHORTEST_PREFIX} characters"
        ));
    }
    let prefix = prefix.to_ascii_lowercase();
    let found: Vec<&VersionRow> = versions
        .iter()
        .filter(|version| version.hash.starts_with(&prefix))
        .collect();
    let Some(first) = found.first().copied() else {
        return failed(format!(
            "domain `{domain}` has had no version with hash {prefix}"
        ));
    };
    if let Some(other) = found.iter().find(|version| version.hash != first.hash) {
        return failed(format!(
            "several versions of domain `{domain}` have a hash that begins with {prefix}: {}, {}",
            short_hash(&first.hash),
            short_hash(&other.hash)
        ));
    }
    let flips: Vec<Flip<'v>> = found
        .into_iter()
        .filter(|version| !version.current)
        .map(|version| (current(versions, &version.host, &version.name), version))
        .collect();
    if flips.is_empty() {
        return failed(format!(
            "version {} ({}) of domain `{domain}` is current already",
            first.version,
            short_hash(&first.hash)
        ));
    }
    Ok(flips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};

    fn version(host: &str, plugin: i32, current: bool, registered: i64) -> VersionRow {
        VersionRow {
            host: host.to_owned(),
            plugin,
            name: "hello".to_owned(),
            version: format!("0.{plugin}.0"),
            hash: format!("{plugin}").repeat(64),
            current,
            registered: Some(DateTime::<Utc>::from_timestamp(registered, 0).unwrap()),
        }
    }

    fn flips(found: &[Flip<'_>]) -> Vec<(String, i32)> {
        found
            .iter()
            .map(|(_, to)| (to.host.clone(), to.plugin))
            .collect()
    }

    #[test]
    fn the_version_before_is_the_one_registered_before() {
        // 1, 2, 3, then back to 2: the next step back leads to 1, not to 3.
        let versions = [
            version("a", 1, false, 10),
            version("a", 2, true, 20),
            version("a", 3, false, 30),
            version("b", 1, true, 15),
        ];
        let found = backwards(&versions, "default").unwrap();
        assert_eq!(flips(&found), [("a".to_owned(), 1)]);
        // 1, 2, then 1 once more: the version before is 2.
        let again = [version("a", 1, true, 30), version("a", 2, false, 20)];
        assert_eq!(
            flips(&backwards(&again, "default").unwrap()),
            [("a".to_owned(), 2)]
        );
        let refusal = backwards(&versions[3..], "default").unwrap_err();
        assert!(refusal.to_string().contains("there is no earlier version"));
    }

    #[test]
    fn a_hash_is_known_by_its_beginning() {
        let versions = [version("a", 1, false, 10), version("a", 2, true, 20)];
        let to = |prefix| towards(&versions, "default", prefix).map(|found| flips(&found));
        assert_eq!(to("111111").unwrap(), [("a".to_owned(), 1)]);
        for (prefix, refusal) in [
            ("11111", "too short"),
            ("999999", "no version with hash 999999"),
            ("222222", "is current already"),
        ] {
            let said = to(prefix).unwrap_err().to_string();
            assert!(said.contains(refusal), "{said}");
        }
    }
}
