//! Checks of the whole installation: a line per check, with what to do about each problem.

use super::{
    args::DoctorArgs,
    exit::{Failure, Result},
    output,
};
use crate::client::{Client, Finding, Target};
use anstyle::AnsiColor;

pub(super) async fn doctor(args: DoctorArgs) -> Result<()> {
    let findings = match look(&args.db).await {
        Ok(findings) => findings,
        Err(error) => {
            let hint = error.hint();
            let message = Failure::from(error).message().to_owned();
            vec![Finding::problem("connection", message, hint)]
        }
    };
    let printed = if args.json {
        output::json(&findings)
    } else {
        findings.iter().try_for_each(print)
    };
    match findings.iter().filter(|finding| !finding.ok).count() {
        // What was found counts also where nobody reads all of it.
        0 => printed,
        1 => Err(Failure::new("1 problem was found")),
        count => Err(Failure::new(format!("{count} problems were found"))),
    }
}

async fn look(db: &str) -> crate::client::Result<Vec<Finding>> {
    let client = Client::connect_any(Target::resolve(db)?).await?;
    client.doctor().await
}

fn print(finding: &Finding) -> Result<()> {
    let word = if finding.ok {
        output::coloured("ok", AnsiColor::Green)
    } else {
        output::coloured("problem", AnsiColor::Red)
    };
    let hint = finding
        .hint
        .as_ref()
        .map_or_else(String::new, |hint| format!(" — {hint}"));
    output::line(&format!(
        "{word} {}: {}{hint}",
        finding.check, finding.message
    ))
}
