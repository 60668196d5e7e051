//! A version of a plugin as it is registered: how it was built, and what it offers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A version of a plugin, as the note in its file describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewPlugin {
    /// SHA-256 of the file, in hexadecimal.
    pub hash: String,
    /// The name of the plugin's crate.
    pub name: String,
    pub version: String,
    /// The version of the SDK that the plugin was built with.
    pub sdk: String,
    /// The version of the ABI, as `MAJOR.MINOR`.
    pub abi: String,
    /// The version of the compiler, as `rustc --version` prints it.
    pub rustc: String,
    /// The target triple that the plugin was built for.
    pub target: String,
    /// The panic strategy that the plugin was built with: `unwind` or `abort`.
    pub panic: String,
    /// The size of the file in bytes.
    pub size: i64,
    pub operations: Vec<NewOperation>,
}

/// An operation that a version of a plugin offers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewOperation {
    pub name: String,
    /// The domain that the plugin declares.
    pub declared_domain: String,
    /// The domain to register the operation under.
    pub domain: String,
    /// The declared inputs.
    pub inputs: Option<Value>,
    /// The declared outputs.
    pub outputs: Option<Value>,
    /// The timeout of an attempt.
    pub timeout_ms: Option<i64>,
    /// How many attempts a task may take.
    pub max_attempts: i32,
    /// The pause before the second attempt.
    pub backoff_ms: Option<i64>,
    /// The memory limit of an attempt.
    pub memory_bytes: Option<i64>,
    /// The limit on processor time of an attempt.
    pub cpu_ms: Option<i64>,
    /// The limit on open files of a worker that runs it.
    pub open_files: Option<i32>,
    /// Which output of a task is stored: `all`, `logs`, `manual` or `none`.
    pub capture: String,
    /// The lowest level of log records that is stored.
    pub log_level: Option<String>,
    /// The doc comment of the Rust function.
    pub description: String,
    /// The Rust module of the function.
    pub module: String,
    /// The source file of the function.
    pub file: String,
    /// The line of the function in its source file.
    pub line: i32,
}

impl NewPlugin {
    /// Warnings for the plugin's author. `named` is the plugin as messages call it.
    pub fn warnings(&self, named: &str) -> Vec<String> {
        build_warnings(&self.panic, &self.sdk)
            .into_iter()
            .map(|warning| format!("{named} {warning}"))
            .collect()
    }

    /// The first digits of the hash, enough to tell versions apart.
    pub fn short_hash(&self) -> &str {
        short_hash(&self.hash)
    }
}

/// Warnings for users of a plugin that was built with this panic strategy and SDK, to be put after the
/// plugin's name.
pub fn build_warnings(panic: &str, sdk: &str) -> Vec<String> {
    let aborts = panic == "abort";
    let aborts =
        aborts.then(|| "is built with panic = \"abort\": panics end the worker process".to_owned());
    aborts.into_iter().chain(doubles_warning(sdk)).collect()
}

/// The first version of the SDK that reads every double exactly as it is written.
const EXACT_DOUBLES_SINCE: [u64; 3] = [0, 1, 1];

/// The warning about inexact numbers of a plugin that was built with this version of the SDK, to be put
/// after the plugin's name. The SDK is part of the plugin, so only a new build helps.
pub fn doubles_warning(sdk: &str) -> Option<String> {
    // A pre-release counts as the version that it precedes.
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

/// A version of a plugin as messages name it: `hello 0.1.0 (0123456789ab)`.
pub fn title(name: &str, version: &str, hash: &str) -> String {
    format!("{name} {version} ({})", short_hash(hash))
}

/// The first digits of a hash, enough for people to tell versions apart.
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
