//! The notes of a plugin: JSON that its build has put into the file, so that a host can read what it
//! offers without running a byte of it. The SDK writes them (`plugin-sdk/src/note.rs`).

use crate::model::{
    input::has_nul,
    word::{NotAWord, too_long, word},
};
use rework_plugin::{
    abi::ABI_MAJOR,
    spec::{Spec, check_specs},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Whose notes count.
pub(super) const OWNER: &[u8] = b"REWORK";
const PLUGIN: u32 = 1;
const OPERATION: u32 = 2;

/// How a plugin was built.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginNote {
    /// Version of the SDK.
    pub sdk: String,
    /// `MAJOR.MINOR`.
    pub abi: String,
    /// The author's crate.
    #[serde(rename = "crate")]
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// The compiler.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// `debug` or `release`.
    #[serde(default)]
    pub profile: String,
    /// `unwind` or `abort`.
    pub panic: String,
}

/// What a plugin says of one operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationNote {
    /// Its name.
    pub name: String,
    /// The domain its author declared.
    pub domain: String,
    /// How long it may run.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// How often it may be tried.
    #[serde(default = "once")]
    pub max_attempts: u32,
    /// The pause before the second attempt.
    #[serde(default)]
    pub backoff_ms: Option<u64>,
    /// How much memory it may use.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// How much processor time it may use.
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    /// How many files it may have open.
    #[serde(default)]
    pub open_files: Option<u32>,
    /// `all`, `logs`, `manual` or `none`.
    #[serde(default = "all")]
    pub capture: String,
    /// Lowest level of log records to keep.
    #[serde(default)]
    pub level: Option<String>,
    /// Specs; null: none.
    #[serde(default)]
    pub inputs: Option<Value>,
    /// Specs; null: none.
    #[serde(default)]
    pub outputs: Option<Value>,
    /// Its doc comment.
    #[serde(default)]
    pub description: String,
    /// Whether it is an `async fn`.
    #[serde(default, rename = "async")]
    pub is_async: bool,
    /// Its module.
    #[serde(default)]
    pub module: String,
    /// Its source file.
    #[serde(default)]
    pub file: String,
    /// Its line there.
    #[serde(default)]
    pub line: u32,
    /// The ABI minor that a host needs for it.
    #[serde(default)]
    pub requires_minor: u32,
}

fn once() -> u32 {
    1
}

fn all() -> String {
    "all".to_owned()
}

/// The note of the plugin, if it has one, and those of its operations, by domain and name. What
/// does not fit is told in a fragment to be put behind the plugin's name.
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
    // Another major may say everything else in other words.
    check_major(&plugin)?;
    let plugin: PluginNote = typed(plugin)?;
    // Kinds of a newer SDK are passed over: what they mean is not needed to run the rest.
    let mut operations = of(OPERATION)
        .map(|text| typed::<OperationNote>(parse(text)?))
        .collect::<Result<Vec<_>, _>>()?;
    // The linker's order means nothing.
    operations.sort_by(|a, b| (&a.domain, &a.name).cmp(&(&b.domain, &b.name)));
    Ok(Some((plugin, operations)))
}

/// A plugin's note and those of its operations.
pub(super) type Notes = (PluginNote, Vec<OperationNote>);

fn damaged(why: impl std::fmt::Display) -> String {
    format!("has a damaged .note.rework section: {why}")
}

fn parse(text: &[u8]) -> Result<Value, String> {
    // Padding is not part of a note's length, yet other linkers may count it.
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
    let word = |key: &str| plugin[key].as_str().unwrap_or("?");
    let (abi, sdk) = (word("abi"), word("sdk"));
    let major = abi.split('.').next().and_then(|major| major.parse().ok());
    if major == Some(ABI_MAJOR) {
        return Ok(());
    }
    Err(format!(
        "was built for plugin ABI {abi} (rework-plugin {sdk}); this rework speaks ABI {ABI_MAJOR}: \
         rebuild it with a rework-plugin of that ABI"
    ))
}

/// Whether what the operations say of themselves makes sense.
pub(super) fn check(operations: &[OperationNote]) -> Result<(), String> {
    // They are sorted.
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
        match word(name) {
            Ok(_) => {}
            Err(NotAWord::Long(length)) => return Err(format!("its {what} {}", too_long(length))),
            Err(NotAWord::Words) => {
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
