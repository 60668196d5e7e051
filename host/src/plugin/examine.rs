//! All that happens before a plugin is believed: it is copied to the cache, its signature is
//! checked, it is inspected, and a child of this process loads it.
//!
//! A command does this itself. A monitor cannot wait, and must not have children that it does not
//! know, so it starts an examiner ([`child`]): this binary again, which holds no credentials, does
//! the same, and prints its verdict.

use super::{
    Cache, Inspection, PluginError, TrustedKey, inspect, probe, signature::signature_beside, whole,
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A plugin that can be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Examined {
    /// What it says of itself.
    pub inspection: Inspection,
    /// Where the cache holds it.
    pub cached: PathBuf,
    /// The signature that came with it.
    pub signature: Option<String>,
}

/// What an examiner is to look at.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Examination {
    /// The file.
    pub file: PathBuf,
    /// How its users call it.
    pub named: PathBuf,
    /// Where the cache is.
    pub cache: PathBuf,
    /// The key that it has to be signed with.
    pub key: Option<String>,
}

/// What an examiner found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Verdict {
    /// It can be used.
    Good(Box<Examined>),
    /// Somebody is writing it.
    Unfinished,
    /// It cannot be used.
    Refused {
        /// Its path, and why.
        reason: String,
        /// Whether it may still be arriving.
        unfinished: bool,
    },
}

/// Examines a file that the user knows as `named`; a refusal says why.
pub fn examine(
    file: &Path,
    named: &Path,
    cache: &Cache,
    key: Option<&TrustedKey>,
) -> Result<Examined, PluginError> {
    let call_it = |error: PluginError| PluginError {
        path: named.to_owned(),
        ..error
    };
    let cached = cache.admit(file).map_err(call_it)?;
    let signature = signature_beside(file).map_err(|error| {
        PluginError::new(
            named,
            format!("has a signature that cannot be read: {error}"),
        )
    })?;
    if let Some(key) = key {
        // Of the copy: that is what will be loaded.
        let content = fs::read(&cached.path)
            .map_err(|error| PluginError::new(named, format!("cannot be read: {error}")))?;
        key.check(&content, signature.as_deref(), named)?;
    }
    let inspection = inspect(&cached.path, named)?;
    probe(&cached.path, named)?;
    Ok(Examined {
        inspection,
        cached: cached.path,
        signature,
    })
}

/// The examiner's side: prints a [`Verdict`].
pub fn child(request: &str) -> ExitCode {
    let Ok(request) = serde_json::from_str::<Examination>(request) else {
        return ExitCode::FAILURE;
    };
    let verdict = verdict(&request);
    let text = serde_json::to_vec(&verdict).expect("a verdict is plain data");
    // If nobody listens any more, nobody needs it.
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn verdict(request: &Examination) -> Verdict {
    whole::ignore_lease_breaks();
    let before = whole::Stamp::of(&request.file);
    if whole::is_being_written(&request.file) {
        return Verdict::Unfinished;
    }
    let refused = |error: PluginError| Verdict::Refused {
        unfinished: error.unfinished,
        reason: error.to_string(),
    };
    let key = match request.key.as_deref().map(TrustedKey::read).transpose() {
        Ok(key) => key,
        Err(reason) => return refused(PluginError::new(&request.named, reason)),
    };
    let cache = Cache::at(request.cache.clone());
    let examined = examine(&request.file, &request.named, &cache, key.as_ref());
    // Whatever was found, it was not of one file.
    if whole::Stamp::of(&request.file) != before {
        return Verdict::Unfinished;
    }
    match examined {
        Ok(examined) => Verdict::Good(Box::new(examined)),
        Err(error) => refused(error),
    }
}
