//! Operations: register, check, withdraw, list.

use super::{
    args::{CheckArgs, ListOperationsArgs, RegisterArgs, UnregisterArgs},
    database::confirmed,
    exit::{Failure, Result},
    format, output,
};
use crate::{
    client::{Client, RegistrationOptions},
    here, plugin,
};

pub(super) async fn register(args: RegisterArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let options = RegistrationOptions {
        domain: args.domain,
        as_domain: args.asdomain,
        host: args.host,
        dry_run: args.dry_run,
        publish: args.publish,
        key: args.require_signature,
    };
    let registration = client.register(&args.plugin, &options).await?;
    for warning in &registration.warnings {
        anstream::eprintln!("warning: {warning}");
    }
    let verb = if args.dry_run {
        "would register"
    } else {
        "registered"
    };
    output::line(&format!(
        "{verb} {} new operation ({} already known)",
        registration.new, registration.known
    ))?;
    for change in &registration.changes {
        output::line(&change.to_string())?;
    }
    if let Some(bytes) = registration.published {
        output::line(&format!("published its bytes ({bytes} compressed)"))?;
    }
    Ok(())
}

pub(super) fn check(args: &CheckArgs) -> Result<()> {
    let refused = |error: plugin::PluginError| Failure::new(error.to_string());
    let cache = plugin::Cache::at(here::plugin_cache_dir());
    let inspection = plugin::examine(&args.plugin, &args.plugin, &cache, None)
        .map_err(refused)?
        .inspection;
    if args.json {
        return output::json(&inspection);
    }
    let note = &inspection.note;
    output::line(&format!(
        "{} {} ({} bytes, sdk {}, abi {}, {}, {})",
        note.name, note.version, inspection.size, note.sdk, note.abi, note.rustc, note.target
    ))?;
    output::line(&format!("sha256 {}", inspection.hash))?;
    for operation in &inspection.operations {
        let description = operation.description.lines().next().unwrap_or_default();
        output::line(&format!(
            "`{}` {} {description}",
            operation.name, operation.domain
        ))?;
    }
    Ok(())
}

pub(super) async fn unregister(args: UnregisterArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let found = client
        .deployments(
            &args.name,
            args.domain.as_deref(),
            args.module.as_deref(),
            args.host.as_deref(),
        )
        .await?;
    if found.is_empty() {
        return output::line("Nothing to unregister");
    }
    let rows: Vec<String> = found
        .iter()
        .map(|row| format!("{} {} {} {}", row.name, row.domain, row.path, row.host))
        .collect();
    if !args.no_confirm {
        for row in &rows {
            anstream::eprintln!("{row}");
        }
        if !confirmed("really remove those [y/n]? ")? {
            return Err(Failure::new("nothing was removed"));
        }
    }
    client.unregister(&found).await?;
    for row in rows {
        output::line(&format!("delete {row}"))?;
    }
    Ok(())
}

pub(super) async fn list(args: ListOperationsArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.operations(args.domain.as_deref()).await?;
    if args.json {
        return output::json(&rows);
    }
    rows.iter()
        .try_for_each(|row| output::line(&format::operation(row)))
}
