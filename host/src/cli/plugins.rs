//! Versions of plugins: list, roll back.

use super::{
    args::{ListPluginsArgs, RollbackArgs},
    exit::Result,
    format, output,
};
use crate::{
    client::{Client, ClientError, RollbackOptions},
    here,
    model::plugin::short_hash,
    store::RollbackRow,
};

pub(super) async fn list(args: ListPluginsArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let rows = client.plugins().await?;
    if args.json {
        return output::json(&rows);
    }
    rows.iter()
        .try_for_each(|row| output::line(&format::plugin(row)))
}

pub(super) async fn rollback(args: RollbackArgs) -> Result<()> {
    let client = Client::connect(&args.db).await?;
    let options = RollbackOptions {
        to: args.to,
        host: args.host,
    };
    let rows = client.rollback(&args.domain, &options).await?;
    let lines: Vec<String> = rows.iter().map(|row| line(row, &args.domain)).collect();
    if args.json {
        return output::json(&rows).map_err(|failure| failure.after(&lines.join(", ")));
    }
    output::done(&lines.join("\n"))?;
    let here = here::host_name(None).map_err(ClientError::from)?;
    for row in &rows {
        if row.host != here {
            output::note(&format!(
                "note: whether {} still has version {} in its cache is known there only; \
                 `rework doctor` shows it if not",
                row.host,
                short_hash(&row.to_hash)
            ));
        }
    }
    Ok(())
}

fn line(row: &RollbackRow, domain: &str) -> String {
    let version = |version: &str, hash: &str| format!("{version} ({})", short_hash(hash));
    let from = match (&row.from, &row.from_hash) {
        (Some(from), Some(hash)) => version(from, hash),
        _ => "nothing".to_owned(),
    };
    let to = version(&row.to, &row.to_hash);
    format!(
        "{domain} on {}: {} now points to {to}, was {from}; {} operations",
        row.host, row.name, row.operations
    )
}
