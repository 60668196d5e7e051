//! Registering a plugin: inspect it, copy it to the cache, let a child load it, and only then
//! write. Any refusal on the way leaves the database as it was.

use super::{
    Client,
    error::{ClientError, Result},
};
use crate::{
    here,
    model::difference::{Change, ChangeKind},
    plugin::{self, Examined, PluginError, TrustedKey},
};
use std::path::Path;

/// How to register a plugin.
#[derive(Debug, Clone, Default)]
pub struct RegistrationOptions {
    /// Only operations that declare this domain.
    pub domain: Option<String>,
    /// Register under this domain instead.
    pub as_domain: Option<String>,
    /// For this host instead of this one.
    pub host: Option<String>,
    /// Check everything, write nothing.
    pub dry_run: bool,
    /// Also store its bytes, for monitors of other hosts.
    pub publish: bool,
    /// Refuse it unless it is signed with this key.
    pub key: Option<TrustedKey>,
}

/// What was registered.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Operations that the host could not run before.
    pub new: usize,
    /// Operations that it could.
    pub known: usize,
    /// How it differs from the version before; nothing if there was none.
    pub changes: Vec<Change>,
    /// Operations (domain, name) that the plugin no longer offers.
    pub retired: Vec<(String, String)>,
    /// How many bytes of the database its own bytes take, if they were published.
    pub published: Option<i64>,
    /// What the author should know.
    pub warnings: Vec<String>,
}

impl Client {
    /// Registers the operations of a plugin file for a host.
    pub async fn register(
        &self,
        file: &Path,
        options: &RegistrationOptions,
    ) -> Result<Registration> {
        let refused = |error: PluginError| ClientError::Plugin(error.to_string());
        let cache = plugin::Cache::at(here::plugin_cache_dir());
        let examined =
            plugin::examine(file, file, &cache, options.key.as_ref()).map_err(refused)?;
        let (domain, as_domain) = (options.domain.as_deref(), options.as_domain.as_deref());
        let plugin = examined
            .inspection
            .offer(file, domain, as_domain)
            .map_err(refused)?;
        let host = here::host_name(options.host.as_deref());
        let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let path = path.to_string_lossy();
        // A partial registration says nothing about the rest of the plugin.
        let whole = domain.is_none() && as_domain.is_none();
        let changes = self
            .store()
            .plugin_difference(&plugin, &host, &path, whole)
            .await?;
        let mut registration = Registration {
            new: 0,
            known: 0,
            retired: Vec::new(),
            published: None,
            warnings: plugin.warnings(&file.to_string_lossy()),
            changes,
        };
        if options.dry_run {
            let live = self.store().operation_list(None).await?;
            let is_known = |name: &str, domain: &str| {
                live.iter()
                    .any(|row| row.name == name && row.domain == domain && row.host == host)
            };
            let known = plugin
                .operations
                .iter()
                .filter(|operation| is_known(&operation.name, &operation.domain));
            registration.known = known.count();
            registration.new = plugin.operations.len() - registration.known;
            registration.retired = removed(&registration.changes);
            return Ok(registration);
        }
        let registered = self
            .store()
            .plugin_register(&plugin, &host, &path, whole)
            .await?;
        registration.new = registered.new;
        registration.known = registered.known;
        registration.retired = registered.retired;
        if options.publish {
            registration.published = Some(self.publish(&examined).await?);
        }
        Ok(registration)
    }

    /// Stores the bytes of a registered plugin: those of the copy that was examined.
    async fn publish(&self, examined: &Examined) -> Result<i64> {
        let bytes = std::fs::read(&examined.cached).map_err(|error| {
            ClientError::Plugin(format!(
                "{} cannot be read: {error}",
                examined.cached.display()
            ))
        })?;
        let hash = &examined.inspection.hash;
        let signature = examined.signature.as_deref();
        Ok(self.store().plugin_publish(hash, &bytes, signature).await?)
    }
}

fn removed(changes: &[Change]) -> Vec<(String, String)> {
    changes
        .iter()
        .filter(|change| matches!(change.kind, ChangeKind::Removed { .. }))
        .map(|change| (change.domain.clone(), change.operation.clone()))
        .collect()
}
