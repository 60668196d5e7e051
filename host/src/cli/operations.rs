//! Operations: register, withdraw, list.

use super::{
    args::{ListOperationsArgs, RegisterArgs, UnregisterArgs, UnregisterHostArgs},
    database::confirmed,
    exit::{Failure, Result},
    format, output,
};
use crate::{
    client::{Client, RegistrationOptions},
    store::Retired,
};

pub(super) async fn register(args: RegisterArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let options = RegistrationOptions {
        domain: args.domain,
        as_domain: args.asdomain,
        host: args.host,
        replace: args.replace,
        dry_run: args.dry_run,
        probe_limit: Some(args.probe.probe_timeout),
        environment: args.probe.env,
        publish: args.publish,
        key: args.require_signature,
    };
    let registration = client.register(&args.plugin, &options).await?;
    for warning in &registration.warnings {
        output::note(&format!("warning: {warning}"));
    }
    let verb = if args.dry_run {
        "would register"
    } else {
        "registered"
    };
    let mut lines = vec![format!(
        "{verb} {} new operation ({} already known)",
        registration.new, registration.known
    )];
    if !registration.replaced.is_empty() {
        let before = registration.replaced.join(", ");
        lines.push(format!("{before} → {}", registration.version));
    }
    lines.extend(registration.changes.iter().map(ToString::to_string));
    if let Some(bytes) = registration.published {
        lines.push(format!("published its bytes ({bytes} compressed)"));
    }
    output::line(&lines.join("\n")).map_err(|failure| failure.after(&lines[0]))
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
    retire(&found, args.no_confirm, async || {
        Ok(client.unregister(&found).await?)
    })
    .await
}

pub(super) async fn unregister_host(args: UnregisterHostArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let host = &args.host;
    let found = client.host_deployments(host).await?;
    if found.is_empty() {
        return Err(
            Failure::new(format!("nothing is registered for host `{host}`"))
                .hint("see `rework list-operations`"),
        );
    }
    let monitors = client.monitors().await?;
    for monitor in monitors
        .iter()
        .filter(|monitor| monitor.host == *host && !monitor.stale)
    {
        output::note(&format!(
            "warning: monitor {} runs on {host} and will have nothing to do; what lies in its drop-in \
             directories is registered again when it changes",
            monitor.id
        ));
    }
    retire(&found, args.no_confirm, async || {
        Ok(client.unregister_host(host, &found).await?)
    })
    .await
}

/// Asks for confirmation, retires the deployments, and prints them.
async fn retire(
    found: &[Retired],
    no_confirm: bool,
    retire: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let rows: Vec<String> = found
        .iter()
        .map(|row| format!("{} {} {} {}", row.name, row.domain, row.path, row.host))
        .collect();
    if !no_confirm {
        for row in &rows {
            output::note(row);
        }
        if !confirmed("really remove those [y/n]? ")? {
            return Err(Failure::new("nothing was removed"));
        }
    }
    retire().await?;
    let deleted: Vec<String> = rows.iter().map(|row| format!("delete {row}")).collect();
    output::done(&deleted.join("\n"))
}

/// Prints a note if no operation or domain has this name, because it may be mistyped; for commands that
/// have found nothing.
pub(super) async fn note_unknown(
    client: &Client,
    domain: Option<&str>,
    operation: Option<&str>,
) -> Result<()> {
    if let Some(what) = unknown(client, domain, operation).await? {
        output::note(&format!("{what}: see `rework list-operations`"));
    }
    Ok(())
}

/// Returns an error if no operation is in this domain; for commands that would do nothing there.
pub(super) async fn refuse_unknown(client: &Client, domain: Option<&str>) -> Result<()> {
    match unknown(client, domain, None).await? {
        Some(what) => Err(Failure::new(what).hint("see `rework list-operations`")),
        None => Ok(()),
    }
}

/// Which name does not exist, in words; `None`: both exist, or no name was given.
async fn unknown(
    client: &Client,
    domain: Option<&str>,
    operation: Option<&str>,
) -> Result<Option<String>> {
    let what = match (domain, operation) {
        (None, None) => return Ok(None),
        (Some(domain), None) => format!("no operation is in domain `{domain}`"),
        (None, Some(operation)) => format!("no operation is called `{operation}`"),
        (Some(domain), Some(operation)) => {
            format!("no operation of domain `{domain}` is called `{operation}`")
        }
    };
    let is_known = client.knows_operation(domain, operation).await?;
    Ok((!is_known).then_some(what))
}

pub(super) async fn list(args: ListOperationsArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.operations(args.domain.as_deref()).await?;
    if rows.is_empty() {
        note_unknown(&client, args.domain.as_deref(), None).await?;
    }
    if args.json {
        return output::json(&rows);
    }
    rows.iter()
        .try_for_each(|row| output::line(&format::operation(row)))
}
