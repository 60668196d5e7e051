//! What this host may run: operations by id, and per domain the lanes to claim from and the
//! plugins to load.

use crate::{model::OperationId, store::CatalogRow, wire::PluginFile};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// The plugins that the workers of a domain load, by hash.
pub(super) type PluginSet = Arc<Vec<PluginFile>>;

/// Whether a plugin can be run.
#[derive(Debug, Clone)]
pub(super) enum Availability {
    /// It is in the cache.
    Ready(PluginFile),
    /// It is being got hold of; until then the version before goes on.
    Awaited,
    /// It cannot be used.
    Refused(String),
}

/// What this host may run, as the database last said.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    operations: HashMap<OperationId, Arc<CatalogRow>>,
    /// Of each version that is in use.
    files: HashMap<String, PluginFile>,
    domains: BTreeMap<String, Domain>,
    /// Plugins that cannot be used, with the reason, so that each is said once.
    refused: BTreeMap<String, String>,
}

/// One domain.
#[derive(Debug, Clone, Default)]
pub(super) struct Domain {
    /// Where its tasks wait.
    pub(super) lanes: Vec<i32>,
    /// What its workers load.
    pub(super) plugins: PluginSet,
}

impl Catalog {
    /// Takes over what the database says. A plugin that is refused is left out, with all of its
    /// operations, and named in the answer the first time; for one that is awaited the version
    /// before goes on, if there is one.
    pub(super) fn update(
        &mut self,
        rows: Vec<CatalogRow>,
        availability: impl Fn(&CatalogRow) -> Availability,
    ) -> Vec<String> {
        let mut news = Vec::new();
        let mut files: BTreeMap<String, Availability> = BTreeMap::new();
        let mut refused = BTreeMap::new();
        let mut sets: BTreeMap<String, BTreeSet<PluginFileByHash>> = BTreeMap::new();
        let mut domains: BTreeMap<String, Domain> = BTreeMap::new();
        let before = std::mem::take(&mut self.operations);
        let files_before = std::mem::take(&mut self.files);
        for row in rows {
            let found = files
                .entry(row.hash.clone())
                .or_insert_with(|| availability(&row));
            let (row, found) = match found {
                Availability::Awaited => {
                    let Some(before) = before.get(&row.operation) else {
                        continue;
                    };
                    let Some(file) = files_before.get(&before.hash) else {
                        continue;
                    };
                    let row = CatalogRow {
                        paused: row.paused,
                        ..(**before).clone()
                    };
                    (row, Ok(file.clone()))
                }
                Availability::Ready(file) => (row, Ok(file.clone())),
                Availability::Refused(reason) => (row, Err(reason.clone())),
            };
            match found {
                Ok(file) => {
                    self.files.insert(file.hash.clone(), file.clone());
                    sets.entry(row.domain.clone())
                        .or_default()
                        .insert(PluginFileByHash(file));
                    let domain = domains.entry(row.domain.clone()).or_default();
                    if !row.paused {
                        domain.lanes.extend(&row.lanes);
                    }
                    self.operations.insert(row.operation, Arc::new(row));
                }
                Err(reason) => {
                    if self.refused.get(&row.hash) != Some(&reason)
                        && !refused.contains_key(&row.hash)
                    {
                        news.push(reason.clone());
                    }
                    refused.insert(row.hash.clone(), reason);
                }
            }
        }
        for (name, set) in sets {
            let domain = domains.entry(name.clone()).or_default();
            let plugins: Vec<PluginFile> = set.into_iter().map(|file| file.0).collect();
            // The same set stays the same allocation: workers compare by pointer.
            domain.plugins = match self.domains.get(&name) {
                Some(before) if *before.plugins == plugins => Arc::clone(&before.plugins),
                _ => Arc::new(plugins),
            };
        }
        self.domains = domains;
        self.refused = refused;
        news
    }

    /// An operation that this host may run.
    pub(super) fn operation(&self, id: OperationId) -> Option<&Arc<CatalogRow>> {
        self.operations.get(&id)
    }

    /// Whether an operation is no longer run as this row, which was taken from here, says.
    pub(super) fn is_outdated(&self, row: &CatalogRow) -> bool {
        self.operation(row.operation)
            .is_none_or(|now| now.plugin_operation != row.plugin_operation)
    }

    /// Every domain with something to run.
    pub(super) fn domains(&self) -> &BTreeMap<String, Domain> {
        &self.domains
    }
}

#[derive(Debug, PartialEq, Eq)]
struct PluginFileByHash(PluginFile);

impl Ord for PluginFileByHash {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.hash.cmp(&other.0.hash)
    }
}

impl PartialOrd for PluginFileByHash {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
