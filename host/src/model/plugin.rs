//! A version of a plugin as it is registered: who built it how, and what it offers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A version of a plugin, as its note describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewPlugin {
    /// SHA-256 of the file.
    pub hash: String,
    /// The author's crate.
    pub name: String,
    /// The crate's version.
    pub version: String,
    /// Version of the SDK it was built with.
    pub sdk: String,
    /// ABI version, `MAJOR.MINOR`.
    pub abi: String,
    /// The compiler.
    pub rustc: String,
    /// The target triple.
    pub target: String,
    /// `unwind` or `abort`.
    pub panic: String,
    /// In bytes.
    pub size: i64,
    /// What it offers.
    pub operations: Vec<NewOperation>,
}

/// An operation that a version of a plugin offers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewOperation {
    /// Its name.
    pub name: String,
    /// The domain its author declared.
    pub declared_domain: String,
    /// The domain to register it under.
    pub domain: String,
    /// Specs of its inputs, if it has any.
    pub inputs: Option<Value>,
    /// Specs of its outputs, if it has any.
    pub outputs: Option<Value>,
    /// How long it may run.
    pub timeout_ms: Option<i64>,
    /// How often it may be tried.
    pub max_attempts: i32,
    /// The pause before the second attempt.
    pub backoff_ms: Option<i64>,
    /// How much memory it may use.
    pub memory_bytes: Option<i64>,
    /// How much processor time it may use.
    pub cpu_ms: Option<i64>,
    /// How many files it may have open.
    pub open_files: Option<i32>,
    /// What of its output is kept.
    pub capture: String,
    /// Lowest level of log records to keep.
    pub log_level: Option<String>,
    /// Its doc comment.
    pub description: String,
    /// The module it is defined in.
    pub module: String,
    /// Its source file.
    pub file: String,
    /// Its line there.
    pub line: i32,
}

impl NewPlugin {
    /// What its author should know.
    pub fn warnings(&self, named: &str) -> Vec<String> {
        build_warnings(&self.panic, &self.sdk)
            .into_iter()
            .map(|warning| format!("{named} {warning}"))
            .collect()
    }

    /// The start of its hash, enough to tell versions apart.
    pub fn short_hash(&self) -> &str {
        short_hash(&self.hash)
    }
}

/// What users of a plugin that was built like this should know, to be put behind its name.
pub fn build_warnings(panic: &str, sdk: &str) -> Vec<String> {
    let aborts = panic == "abort";
    let aborts =
        aborts.then(|| "is built with panic = \"abort\": panics end the worker process".to_owned());
    aborts.into_iter().chain(doubles_warning(sdk)).collect()
}

/// The first SDK that reads every double as it is written.
const EXACT_DOUBLES_SINCE: [u64; 3] = [0, 1, 1];

/// What is wrong with the numbers of a plugin that was built with this version of the SDK, to be put
/// behind its name; it is part of the plugin, so the host can do nothing about it.
pub fn doubles_warning(sdk: &str) -> Option<String> {
    // Of a pre-release the version that it comes before.
    let (release, _) = sdk.split_once(['-', '+']).unwrap_or((sdk, ""));
    let numbers: Vec<u64> = release
        .split('.')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [major, minor, patch] = EXACT_DOUBLES_SINCE;
    (numbers[..] < EXACT_DOUBLES_SINCE[..]).then(|| {
        format!(
            "is built with rework-plugin {sdk}, which changes the last bit of about one in ten numbers \
             with a fraction that it reads: build it again with rework-plugin {major}.{minor}.{patch} or later"
        )
    })
}

/// A version of a plugin, for people: `hello 0.1.0 (0123456789ab)`.
pub fn title(name: &str, version: &str, hash: &str) -> String {
    format!("{name} {version} ({})", short_hash(hash))
}

/// The start of a hash, enough for people to tell versions apart.
pub fn short_hash(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sdk_that_changes_doubles_is_named() {
        for (sdk, warns) in [
            ("0.0.9", true),
            ("0.1.0", true),
            ("0.1.1", false),
            ("0.1.1-rc.1", false),
            ("0.1.10", false),
            ("0.2.0", false),
            ("1.0.0", false),
            ("unknown", false),
        ] {
            assert_eq!(doubles_warning(sdk).is_some(), warns, "{sdk}");
        }
        let warnings = build_warnings("abort", "0.1.0");
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[1].contains("build it again with rework-plugin 0.1.1 or later"),
            "{warnings:?}"
        );
        assert_eq!(build_warnings("unwind", "0.1.1"), [""; 0]);
    }
}
