//! What this host may run: operations by id, and per domain the plugins that offer them, with the
//! lanes to claim from.

use crate::{model::OperationId, store::CatalogRow, wire::PluginFile};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Whether a plugin can be run.
#[derive(Debug, Clone)]
pub(in crate::monitor) enum Availability {
    /// It is in the cache.
    Ready(PluginFile),
    /// It is being got hold of; until then the version before goes on.
    Awaited,
    /// It cannot be used.
    Refused(String),
}

/// What this host may run, as the database last said.
#[derive(Debug, Default)]
pub(in crate::monitor) struct Catalog {
    operations: HashMap<OperationId, Arc<CatalogRow>>,
    /// Of each version that is in use, by hash.
    files: HashMap<String, Arc<PluginFile>>,
    domains: BTreeMap<String, Domain>,
    /// Plugins that cannot be used, with the reason, so that each is said once.
    refused: BTreeMap<String, String>,
}

/// The plugins that a domain has on this host, by hash.
pub(in crate::monitor) type Domain = BTreeMap<String, Offer>;

/// What a plugin offers in one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::monitor) struct Offer {
    /// What a worker for it loads.
    pub(in crate::monitor) file: Arc<PluginFile>,
    /// Where tasks of its operations wait; none of those that are paused.
    pub(in crate::monitor) lanes: Vec<i32>,
}

impl Catalog {
    /// Takes over what the database says. A plugin that is refused is left out, with all of its
    /// operations, and named in the answer the first time; for one that is awaited the version
    /// before goes on, if there is one.
    pub(in crate::monitor) fn update(
        &mut self,
        rows: Vec<CatalogRow>,
        availability: impl Fn(&CatalogRow) -> Availability,
    ) -> Vec<String> {
        let mut news = Vec::new();
        let mut found: BTreeMap<String, Availability> = BTreeMap::new();
        let mut refused = BTreeMap::new();
        let before = std::mem::take(&mut self.operations);
        let files_before = std::mem::take(&mut self.files);
        self.domains.clear();
        for row in rows {
            let found = found
                .entry(row.hash.clone())
                .or_insert_with(|| availability(&row));
            match found {
                Availability::Ready(file) => self.add(row, file.clone()),
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
                    self.add(row, (**file).clone());
                }
                Availability::Refused(reason) => {
                    if self.refused.get(&row.hash) != Some(reason)
                        && !refused.contains_key(&row.hash)
                    {
                        news.push(reason.clone());
                    }
                    refused.insert(row.hash, reason.clone());
                }
            }
        }
        self.refused = refused;
        news
    }

    fn add(&mut self, row: CatalogRow, file: PluginFile) {
        let file = self
            .files
            .entry(file.hash.clone())
            .or_insert_with(|| Arc::new(file));
        let domain = self.domains.entry(row.domain.clone()).or_default();
        let offer = domain.entry(file.hash.clone()).or_insert_with(|| Offer {
            file: Arc::clone(file),
            lanes: Vec::new(),
        });
        if !row.paused {
            offer.lanes.extend(&row.lanes);
        }
        self.operations.insert(row.operation, Arc::new(row));
    }

    /// An operation that this host may run.
    pub(in crate::monitor) fn operation(&self, id: OperationId) -> Option<&Arc<CatalogRow>> {
        self.operations.get(&id)
    }

    /// Whether an operation is no longer run as this row, which was taken from here, says.
    pub(in crate::monitor) fn is_outdated(&self, row: &CatalogRow) -> bool {
        self.operation(row.operation)
            .is_none_or(|now| now.plugin_operation != row.plugin_operation)
    }

    /// The lanes to claim from, domain after domain.
    pub(in crate::monitor) fn lanes(&self) -> Vec<i32> {
        let plugins = self.domains.values().flat_map(BTreeMap::values);
        plugins
            .flat_map(|offer| offer.lanes.iter().copied())
            .collect()
    }

    /// Every domain with something to run.
    pub(in crate::monitor) fn domains(&self) -> &BTreeMap<String, Domain> {
        &self.domains
    }

    /// Whether a domain still has this plugin.
    pub(in crate::monitor) fn offers(&self, domain: &str, plugin: &str) -> bool {
        self.domains
            .get(domain)
            .is_some_and(|domain| domain.contains_key(plugin))
    }
}
