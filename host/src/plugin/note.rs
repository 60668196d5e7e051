//! The notes of a plugin: JSON that its build has put into the file, so that a host can read what the
//! plugin offers without running any of it. The SDK writes them (`plugin-sdk/src/note.rs`).

use crate::model::{
    input::has_nul,
    name::{InvalidName, parse_name, too_long},
};
use rework_plugin::{
    abi::ABI_MAJOR,
    spec::{Spec, check_specs},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The owner of rework's ELF notes.
pub(super) const OWNER: &[u8] = b"REWORK";
const PLUGIN: u32 = 1;
const OPERATION: u32 = 2;

/// The note of a plugin: how it was built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginNote {
    /// The version of the SDK.
    pub sdk: String,
    /// The version of the ABI, as `MAJOR.MINOR`.
    pub abi: String,
    /// The name of the plugin's crate.
    #[serde(rename = "crate")]
    pub name: String,
    /// The version of the plugin's crate.
    pub version: String,
    /// The version of the compiler.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// The cargo profile: `debug` or `release`.
    #[serde(default)]
    pub profile: String,
    /// The panic strategy: `unwind` or `abort`.
    pub panic: String,
}

/// The note of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationNote {
    pub name: String,
    /// The domain that the plugin declares.
    pub domain: String,
    /// The timeout of an attempt.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// How many attempts a task may take.
    #[serde(default = "once")]
    pub max_attempts: u32,
    /// The pause before the second attempt.
    #[serde(default)]
    pub backoff_ms: Option<u64>,
    /// The memory limit of an attempt.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// The limit on processor time of an attempt.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    /// The limit on open files of a worker that runs it.
    #[serde(default)]
    pub open_files: Option<u32>,
    /// Which output of a task is stored: `all`, `logs`, `manual` or `none`.
    #[serde(default = "all")]
    pub capture: String,
    /// The lowest level of log records that is stored.
    #[serde(default)]
    pub level: Option<String>,
    /// The declared inputs.
    #[serde(default)]
    pub inputs: Option<Value>,
    /// The declared outputs.
    #[serde(default)]
    pub outputs: Option<Value>,
    /// The doc comment of the Rust function.
    #[serde(default)]
    pub description: String,
    /// Whether the operation is an `async fn`.
    #[serde(default, rename = "async")]
    pub is_async: bool,
    /// The Rust module of the function.
    #[serde(default)]
    pub module: String,
    /// The source file of the function.
    #[serde(default)]
    pub file: String,
    /// The line of the function in its source file.
    #[serde(default)]
    pub line: u32,
    /// The minor version of the ABI that a host needs to run the operation.
    #[serde(default)]
    pub requires_minor: u32,
}

fn once() -> u32 {
    1
}

fn all() -> String {
    "all".to_owned()
}

/// The note of the plugin, if it has one, and the notes of its operations, by domain and name. Errors are
/// to be put after the plugin's name.
pub(super) fn read(notes: &[(u32, &[u8])]) -> Result<Option<Notes>, String> {
    let of = |wanted: u32| {
        notes
            .iter()
            .filter(move |(kind, _)| *kind == wanted)
            .map(|(_, text)| *text)
    };
    let mut plugins = of(PLUGIN);
    let Some(plugin) = plugins.next() else {
        return Ok(None);
    };
    if plugins.next().is_some() {
        return Err(
            "calls rework_plugin::export!() twice: it stands once, at the crate root".to_owned(),
        );
    }
    let plugin = parse(plugin)?;
    // Another major version may use another format.
    check_major(&plugin)?;
    let plugin: PluginNote = typed(plugin)?;
    // Unknown kinds of notes, of a newer SDK, are ignored: the operations can be run without them.
    let mut operations = of(OPERATION)
        .map(|text| typed::<OperationNote>(parse(text)?))
        .collect::<Result<Vec<_>, _>>()?;
    // Sorted, because the order of notes is the linker's.
    operations.sort_by(|a, b| (&a.domain, &a.name).cmp(&(&b.domain, &b.name)));
    Ok(Some((plugin, operations)))
}

/// The note of a plugin and the notes of its operations.
pub(super) type Notes = (PluginNote, Vec<OperationNote>);

fn damaged(why: impl std::fmt::Display) -> String {
    format!("has a damaged .note.rework section: {why}")
}

fn parse(text: &[u8]) -> Result<Value, String> {
    // Padding is not part of a note's length, but some linkers count it.
    let end = text.iter().rposition(|byte| *byte != 0);
    let text = &text[..end.map_or(0, |last| last + 1)];
    let note: Value = serde_json::from_slice(text).map_err(damaged)?;
    if has_nul(&note) {
        return Err(damaged(
            "it holds a NUL character, which Postgres cannot store",
        ));
    }
    Ok(note)
}

fn typed<T: DeserializeOwned>(note: Value) -> Result<T, String> {
    serde_json::from_value(note).map_err(damaged)
}

fn check_major(plugin: &Value) -> Result<(), String> {
    let text = |key: &str| plugin[key].as_str().unwrap_or("?");
    let (abi, sdk) = (text("abi"), text("sdk"));
    let major = abi.split('.').next().and_then(|major| major.parse().ok());
    if major == Some(ABI_MAJOR) {
        return Ok(());
    }
    Err(format!(
        "was built for plugin ABI {abi} (rework-plugin {sdk}); this rework speaks ABI {ABI_MAJOR}: \
         rebuild it with a rework-plugin of that ABI"
    ))
}

/// Checks the operations' notes for contradictions.
pub(super) fn check(operations: &[OperationNote]) -> Result<(), String> {
    // They are sorted, so duplicates are neighbours.
    let twice = operations
        .windows(2)
        .find(|pair| (&pair[0].domain, &pair[0].name) == (&pair[1].domain, &pair[1].name));
    if let Some([one, _]) = twice {
        return Err(format!(
            "offers operation `{}` of domain `{}` twice",
            one.name, one.domain
        ));
    }
    for operation in operations {
        check_one(operation).map_err(|why| format!("operation `{}`: {why}", operation.name))?;
    }
    Ok(())
}

fn check_one(operation: &OperationNote) -> Result<(), String> {
    for (what, name) in [("name", &operation.name), ("domain", &operation.domain)] {
        match parse_name(name) {
            Ok(_) => {}
            Err(InvalidName::TooLong(length)) => {
                return Err(format!("its {what} {}", too_long(length)));
            }
            Err(InvalidName::NotOneWord) => {
                return Err(format!("its {what} must be one word, not {name:?}"));
            }
        }
    }
    if operation.max_attempts == 0 {
        return Err("it may be attempted 0 times".to_owned());
    }
    if !["all", "logs", "manual", "none"].contains(&operation.capture.as_str()) {
        return Err(format!("unknown capture `{}`", operation.capture));
    }
    let levels = ["error", "warn", "info", "debug", "trace"];
    if let Some(level) = &operation.level
        && !levels.contains(&level.as_str())
    {
        return Err(format!("unknown level `{level}`"));
    }
    let numbers = [
        operation.timeout_ms,
        operation.backoff_ms,
        operation.memory_bytes,
        operation.cpu_ms,
        operation.open_files.map(u64::from),
    ];
    if numbers
        .into_iter()
        .flatten()
        .any(|n| i64::try_from(n).is_err())
    {
        return Err("one of its limits is too large".to_owned());
    }
    for specs in [&operation.inputs, &operation.outputs]
        .into_iter()
        .flatten()
    {
        let specs: Vec<Spec> = serde_json::from_value(specs.clone())
            .map_err(|error| format!("its specs cannot be read: {error}"))?;
        check_specs(&specs).map_err(|fault| fault.to_string())?;
    }
    Ok(())
}
