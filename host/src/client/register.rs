//! Registering a plugin: inspect it, copy it to the cache, let a child load it, and only then
//! write. Any refusal on the way leaves the database as it was.

use super::{
    Client,
    error::{ClientError, Result},
};
use crate::{
    here,
    plugin::{self, OperationNote},
    store::{NewOperation, NewPlugin, Placement, StoreError},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How to register a plugin.
#[derive(Debug, Clone, Default)]
pub struct RegistrationOptions {
    /// Only operations that declare this domain.
    pub domain: Option<String>,
    /// Register under this domain instead.
    pub as_domain: Option<String>,
    /// For this host instead of this one.
    pub host: Option<String>,
    /// Take over operations that this host has from another plugin.
    pub replace: bool,
    /// Check everything, write nothing.
    pub dry_run: bool,
    /// How long loading may take; [`plugin::PROBE_LIMIT`] if nothing is said.
    pub probe_limit: Option<Duration>,
}

/// What was registered.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Operations that the host could not run before.
    pub new: usize,
    /// Operations that it could.
    pub known: usize,
    /// Operations (domain, name) that the plugin no longer offers.
    pub retired: Vec<(String, String)>,
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
        let path = stored_path(file)?;
        let (plugin, warnings) = checked_plugin(file, options)?;
        let placement = Placement {
            host: here::host_name(options.host.as_deref()),
            path,
            // A partial registration says nothing about the rest of the plugin.
            whole: options.domain.is_none() && options.as_domain.is_none(),
            replace: options.replace,
            dry_run: options.dry_run,
        };
        let registered = self
            .store()
            .plugin_register(&plugin, &placement)
            .await
            .map_err(nothing_registered)?;
        Ok(Registration {
            new: registered.new,
            known: registered.known,
            retired: registered.retired,
            warnings,
        })
    }
}

/// Where the database says that the file is.
fn stored_path(file: &Path) -> Result<String> {
    let path = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    path.into_os_string().into_string().map_err(|path| {
        let path = PathBuf::from(path);
        ClientError::Plugin(format!(
            "{}: its path is not valid UTF-8, which the database cannot hold: rename it",
            path.display()
        ))
    })
}

fn nothing_registered(error: StoreError) -> ClientError {
    match error {
        StoreError::Refused { message, .. } => ClientError::Plugin(message),
        other => other.into(),
    }
}

/// Inspects, caches and probes a plugin; what to write about it, and what to warn of.
fn checked_plugin(file: &Path, options: &RegistrationOptions) -> Result<(NewPlugin, Vec<String>)> {
    let refused = |error: plugin::PluginError| ClientError::Plugin(error.to_string());
    let cache = plugin::Cache::at(here::plugin_cache_dir());
    let limit = options.probe_limit.unwrap_or(plugin::PROBE_LIMIT);
    let inspection = plugin::check(&cache, file, limit).map_err(refused)?;
    let wanted = |operation: &&OperationNote| {
        options
            .domain
            .as_ref()
            .is_none_or(|domain| operation.domain == *domain)
    };
    let operations: Vec<NewOperation> = inspection
        .operations
        .iter()
        .filter(wanted)
        .map(|operation| new_operation(operation, options.as_domain.as_deref()))
        .collect();
    if operations.is_empty() {
        let domain = options.domain.as_deref().unwrap_or_default();
        let mut domains: Vec<&str> = inspection
            .operations
            .iter()
            .map(|operation| operation.domain.as_str())
            .collect();
        domains.sort_unstable();
        domains.dedup();
        return Err(ClientError::Plugin(format!(
            "{} has no operation in domain `{domain}`, only in: {}",
            file.display(),
            domains.join(", ")
        )));
    }
    let warnings = inspection.warnings();
    let warnings = warnings
        .iter()
        .map(|warning| format!("{} {warning}", file.display()))
        .collect();
    let note = inspection.note;
    let plugin = NewPlugin {
        hash: inspection.hash,
        name: note.name,
        version: note.version,
        sdk: note.sdk,
        abi: note.abi,
        rustc: note.rustc,
        target: note.target,
        panic: note.panic,
        size: inspection.size as i64,
        operations,
    };
    Ok((plugin, warnings))
}

fn new_operation(note: &OperationNote, as_domain: Option<&str>) -> NewOperation {
    NewOperation {
        name: note.name.clone(),
        declared_domain: note.domain.clone(),
        domain: as_domain.unwrap_or(&note.domain).to_owned(),
        inputs: note.inputs.clone(),
        outputs: note.outputs.clone(),
        timeout_ms: note.timeout_ms.map(|ms| ms as i64),
        max_attempts: i32::try_from(note.max_attempts).unwrap_or(i32::MAX),
        backoff_ms: note.backoff_ms.map(|ms| ms as i64),
        memory_bytes: note.memory_bytes.map(|bytes| bytes as i64),
        cpu_ms: note.cpu_ms.map(|ms| ms as i64),
        open_files: note
            .open_files
            .map(|files| i32::try_from(files).unwrap_or(i32::MAX)),
        capture: note.capture.clone(),
        log_level: note.level.clone(),
        description: note.description.clone(),
        module: note.module.clone(),
        file: note.file.clone(),
        line: note.line as i32,
    }
}
