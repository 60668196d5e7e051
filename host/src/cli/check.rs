//! What a plugin offers, for the person who is about to register it.

use super::{
    args::CheckArgs,
    exit::{Failure, Result},
    output::{self, coloured},
};
use crate::{
    here,
    model::{duration::human, name::printable_path},
    plugin::{self, Cache, Confinement, Demands, Inspection, OperationNote},
};
use anstyle::AnsiColor;
use rework_plugin::abi::ABI_MAJOR;
use serde::Serialize;
use serde_json::Value;
use std::{path::Path, time::Duration};

pub(super) fn check(args: &CheckArgs) -> Result<()> {
    let cache = Cache::at(here::plugin_cache_dir());
    let demands = Demands {
        key: args.require_signature.as_ref(),
        hash: None,
    };
    let confinement = Confinement {
        environment: plugin::environment_of(&args.probe.env),
        ..Confinement::default()
    };
    let limit = args.probe.probe_timeout;
    let inspection =
        plugin::check(&args.plugin, &cache, demands, limit, &confinement).map_err(|error| {
            match &error.hint {
                Some(hint) => Failure::new(error.to_string()).hint(hint),
                None => Failure::new(error.to_string()),
            }
        })?;
    let warnings = inspection.warnings();
    if args.json {
        return output::json(&Document {
            path: &args.plugin.to_string_lossy(),
            inspection: &inspection,
            warnings: &warnings,
        });
    }
    for warning in warnings {
        output::note(&format!(
            "warning: {} {warning}",
            printable_path(&args.plugin)
        ));
    }
    show(&args.plugin, &inspection)
}

/// The output with `--json`.
#[derive(Serialize)]
struct Document<'a> {
    path: &'a str,
    #[serde(flatten)]
    inspection: &'a Inspection,
    warnings: &'a [String],
}

fn show(file: &Path, inspection: &Inspection) -> Result<()> {
    let note = &inspection.note;
    let name = coloured(&note.name, AnsiColor::Green);
    output::line(&format!("{name} {}", note.version))?;
    let glibc = match &inspection.glibc {
        Some(version) => format!(", glibc {version} or newer"),
        None => String::new(),
    };
    for (what, value) in [
        (
            "file",
            format!("{} ({} bytes)", printable_path(file), inspection.size),
        ),
        ("sha256", inspection.hash.clone()),
        (
            "built with",
            format!("rework-plugin {}, ABI {}", note.sdk, note.abi),
        ),
        (
            "compiler",
            format!("{}, profile {}", note.rustc, note.profile),
        ),
        ("target", format!("{}{glibc}", note.target)),
        ("panics", note.panic.clone()),
    ] {
        output::line(&format!("  {what:<11}{value}"))?;
    }
    if !inspection.libraries.is_empty() {
        let libraries = inspection.libraries.join(", ");
        output::line(&format!("  {:<11}{libraries}", "with"))?;
    }
    for operation in &inspection.operations {
        show_operation(operation)?;
    }
    Ok(())
}

fn show_operation(operation: &OperationNote) -> Result<()> {
    let name = coloured(&operation.name, AnsiColor::Green);
    let mut description = operation.description.lines();
    let head = description.next().unwrap_or_default();
    let head = format!("`{name}` {} {head}", operation.domain);
    output::line(head.trim_end())?;
    for line in description {
        output::line(format!("    {line}").trim_end())?;
    }
    let undeclared = ["any JSON or bytes", "not declared"];
    let specs = [("input", &operation.inputs), ("output", &operation.outputs)];
    for ((what, specs), undeclared) in specs.into_iter().zip(undeclared) {
        let fields = fields(specs.as_ref()).unwrap_or_else(|| undeclared.to_owned());
        output::line(&format!("  {what:<11}{fields}"))?;
    }
    output::line(&format!("  {:<11}{}", "limits", limits(operation)))?;
    if operation.capture != "all" || operation.level.is_some() {
        let level = operation.level.as_deref().unwrap_or("info");
        let capture = format!("{}, level {level}", operation.capture);
        output::line(&format!("  {:<11}{capture}", "capture"))?;
    }
    if operation.requires_minor > 0 {
        let requires = format!(
            "plugin ABI {ABI_MAJOR}.{} or later",
            operation.requires_minor
        );
        output::line(&format!("  {:<11}{requires}", "requires"))?;
    }
    if !operation.file.is_empty() {
        let place = format!(
            "{}:{} ({})",
            operation.file, operation.line, operation.module
        );
        output::line(&format!("  {:<11}{place}", "source"))?;
    }
    Ok(())
}

/// The fields of a declaration: `a: number, b: number (optional), c: string (one of "x", "y"; default
/// "x")`.
fn fields(specs: Option<&Value>) -> Option<String> {
    let specs = specs?.as_array()?;
    if specs.is_empty() {
        return Some("none".to_owned());
    }
    let fields: Vec<String> = specs.iter().map(field).collect();
    Some(fields.join(", "))
}

fn field(spec: &Value) -> String {
    let word = |key: &str| spec[key].as_str().unwrap_or("?");
    let mut more = Vec::new();
    if let Some(choices) = spec["choices"].as_array() {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        more.push(format!("one of {}", choices.join(", ")));
    }
    match &spec["default"] {
        Value::Null if spec["required"] == false => more.push("optional".to_owned()),
        Value::Null => {}
        default => more.push(format!("default {default}")),
    }
    let more = match more.as_slice() {
        [] => String::new(),
        more => format!(" ({})", more.join("; ")),
    };
    format!("{}: {}{more}", word("name"), word("type"))
}

/// The limits of an operation: `timeout 3m, 3 attempts, 1s between them, 512 MB`.
fn limits(operation: &OperationNote) -> String {
    let duration = |ms: u64| human(Duration::from_millis(ms));
    let mut parts = vec![match operation.timeout_ms {
        Some(ms) => format!("timeout {}", duration(ms)),
        None => "no timeout".to_owned(),
    }];
    parts.push(match operation.max_attempts {
        1 => "1 attempt".to_owned(),
        many => format!("{many} attempts"),
    });
    if let Some(ms) = operation.backoff_ms {
        parts.push(format!("first retry after {}", duration(ms)));
    }
    if let Some(bytes) = operation.memory_bytes {
        parts.push(format!("memory {} MB", bytes.div_ceil(1 << 20)));
    }
    if let Some(ms) = operation.cpu_ms {
        parts.push(format!("cpu {}", duration(ms)));
    }
    if let Some(files) = operation.open_files {
        parts.push(format!("{files} open files"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn specs_read_like_a_signature() {
        let specs = json!([
            {"name": "a", "type": "number", "required": true, "choices": null, "default": null},
            {"name": "b", "type": "file", "required": false, "choices": null, "default": null},
            {"name": "c", "type": "string", "required": false, "choices": ["x", "y"], "default": "x"}
        ]);
        assert_eq!(
            fields(Some(&specs)).unwrap(),
            "a: number, b: file (optional), c: string (one of \"x\", \"y\"; default \"x\")"
        );
        assert_eq!(fields(Some(&json!([]))).unwrap(), "none");
        assert_eq!(fields(None), None);
    }
}
