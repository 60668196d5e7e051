//! Registers a plugin: inspects it, copies it to the cache, lets a child load it, and only then writes. An
//! error before that leaves the database as it was.

use super::{
    Client,
    error::{ClientError, Result},
};
use crate::{
    here,
    model::{difference::Change, name::printable_path, plugin::title},
    plugin::{self, Examined, PluginError, TrustedKey},
    store::{PackedPlugin, Placement, StoreError},
};
use std::{path::Path, time::Duration};

/// How to register a plugin.
#[derive(Debug, Clone, Default)]
pub struct RegistrationOptions {
    /// Register only the operations that declare this domain.
    pub domain: Option<String>,
    /// Register the operations under this domain instead of the declared one.
    pub as_domain: Option<String>,
    /// Register for this host instead of the caller's.
    pub host: Option<String>,
    /// Take over operations that the host has from another plugin.
    pub replace: bool,
    /// Check everything and write nothing.
    pub dry_run: bool,
    /// How long loading the plugin may take; 10 seconds by default.
    pub probe_limit: Option<Duration>,
    /// The names of environment variables of this process that the plugin is loaded with.
    pub environment: Vec<String>,
    /// Also store the plugin's bytes in the database, for monitors of other hosts.
    pub publish: bool,
    /// Refuse the plugin unless it is signed with this key.
    pub key: Option<TrustedKey>,
}

/// What a registration did.
#[derive(Debug, Clone)]
pub struct Registration {
    /// How many operations the host could not run before.
    pub new: usize,
    /// How many operations the host could run already.
    pub known: usize,
    /// The registered version: `hello 0.2.0 (0123456789ab)`.
    pub version: String,
    /// The versions that the operations came from until now, in the same form.
    pub replaced: Vec<String>,
    /// The differences to the version before; empty if there was none.
    pub changes: Vec<Change>,
    /// Operations, as (domain, name), that were retired because the plugin no longer offers them.
    pub retired: Vec<(String, String)>,
    /// How many bytes the plugin takes in the database, if it was published.
    pub published: Option<i64>,
    /// Warnings for the plugin's author.
    pub warnings: Vec<String>,
}

impl Client {
    /// Registers the operations of a plugin for this host under each of these domains in addition; for the
    /// benchmark.
    pub(crate) async fn register_copies(
        &self,
        file: &Path,
        operation: &str,
        domains: &[String],
    ) -> Result<()> {
        let refused = |error: PluginError| ClientError::Plugin(error.to_string());
        let cache = plugin::Cache::at(here::plugin_cache_dir());
        let demands = plugin::Demands {
            key: None,
            hash: None,
        };
        let confinement = plugin::Confinement::default();
        let examined = plugin::examine(
            file,
            file,
            &cache,
            demands,
            plugin::PROBE_LIMIT,
            &confinement,
        );
        let examined = examined.map_err(refused)?;
        for domain in domains {
            let plugin = examined.inspection.offer(file, None, Some(domain));
            let placement = Placement {
                host: here::host_name(None)?,
                path: stored_path(file)?,
                whole: false,
                replace: false,
                dry_run: false,
            };
            let mut plugin = plugin.map_err(refused)?;
            plugin
                .operations
                .retain(|offered| offered.name == operation);
            let registered = self.store().plugin_register(&plugin, &placement, None);
            registered.await.map_err(nothing_registered)?;
        }
        Ok(())
    }

    /// Registers the operations of a plugin file for a host.
    pub async fn register(
        &self,
        file: &Path,
        options: &RegistrationOptions,
    ) -> Result<Registration> {
        let refused = |error: PluginError| match &error.hint {
            Some(hint) => ClientError::StateDirectory {
                message: error.to_string(),
                hint: hint.clone(),
            },
            None => ClientError::Plugin(error.to_string()),
        };
        let path = stored_path(file)?;
        let cache = plugin::Cache::at(here::plugin_cache_dir());
        let limit = options.probe_limit.unwrap_or(plugin::PROBE_LIMIT);
        let demands = plugin::Demands {
            key: options.key.as_ref(),
            hash: None,
        };
        let confinement = plugin::Confinement {
            environment: plugin::environment_of(&options.environment),
            ..plugin::Confinement::default()
        };
        let (inspection, examined) = if options.dry_run {
            let inspection = plugin::check(file, &cache, demands, limit, &confinement);
            let inspection = inspection.map_err(refused)?;
            (inspection, None)
        } else {
            let examined = plugin::examine(file, file, &cache, demands, limit, &confinement)
                .map_err(refused)?;
            (examined.inspection.clone(), Some(examined))
        };
        if let (true, [first, ..]) = (options.publish, inspection.libraries.as_slice()) {
            return Err(ClientError::Plugin(format!(
                "{} brings libraries along ({first}), and --publish stores the plugin alone: link them \
                 statically, or register it on each host",
                printable_path(file)
            )));
        }
        let (domain, as_domain) = (options.domain.as_deref(), options.as_domain.as_deref());
        let plugin = inspection.offer(file, domain, as_domain).map_err(refused)?;
        let placement = Placement {
            host: here::host_name(options.host.as_deref())?,
            path,
            // A registration of some operations says nothing about the others.
            whole: domain.is_none() && as_domain.is_none(),
            replace: options.replace,
            dry_run: options.dry_run,
        };
        let packed = match &examined {
            Some(examined) if options.publish => Some(packed(examined)?),
            _ => None,
        };
        let changes = self.store().plugin_difference(&plugin, &placement).await;
        let changes = changes.map_err(nothing_registered)?;
        let registered = self
            .store()
            .plugin_register(&plugin, &placement, packed.as_ref())
            .await
            .map_err(nothing_registered)?;
        Ok(Registration {
            new: registered.new,
            known: registered.known,
            version: title(&plugin.name, &plugin.version, &plugin.hash),
            replaced: registered.replaced,
            changes,
            retired: registered.retired,
            published: packed.as_ref().map(PackedPlugin::size),
            warnings: [
                registered.taken_over,
                plugin.warnings(&file.to_string_lossy()),
            ]
            .concat(),
        })
    }
}

/// The compressed bytes of the copy that was examined, for other hosts.
fn packed(examined: &Examined) -> Result<PackedPlugin> {
    let bytes = std::fs::read(&examined.cached).map_err(|error| {
        ClientError::Plugin(format!(
            "could not read {}: {error}",
            examined.cached.display()
        ))
    })?;
    Ok(PackedPlugin::pack(&bytes, examined.signature.clone()))
}

/// The path of the file as it is stored in the database.
fn stored_path(file: &Path) -> Result<String> {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let unusable = |path: &Path, why: &str| {
        ClientError::Plugin(format!("{}: its path {why}: rename it", path.display()))
    };
    let text = path.into_os_string().into_string().map_err(|path| {
        unusable(
            Path::new(&path),
            "is not valid UTF-8, which the database cannot hold",
        )
    })?;
    if text.contains(char::is_control) {
        return Err(unusable(Path::new(&text), "holds control characters"));
    }
    Ok(text)
}

fn nothing_registered(error: StoreError) -> ClientError {
    match error {
        StoreError::Refused { message, .. } => ClientError::Plugin(message),
        // The server has refused. After a lost connection it is unknown whether a commit succeeded.
        StoreError::Query(_) if !error.is_disconnect() => ClientError::Plugin(error.to_string()),
        other => other.into(),
    }
}
