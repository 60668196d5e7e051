//! The checks before a plugin is trusted: it is copied to the cache, its signature is checked, it is
//! inspected, and a child of this process loads it.
//!
//! A command does this itself. A monitor cannot wait, and must not have children that it does not know, so
//! it starts an examiner ([`child`]): this program again, without credentials, which does the same and
//! prints its verdict.

use super::{
    Cache, Confinement, Incoming, Inspection, PROBE_LIMIT, PluginError, TrustedKey, being_written,
    inspect::inspect_copy,
    probe,
    signature::{signature_beside, signature_path},
    stamp::FileStamp,
};
use nix::sys::{prctl, signal::Signal};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsStr,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// A plugin that can be used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Examined {
    /// What the notes of the plugin say.
    pub inspection: Inspection,
    /// The path of the copy in the cache.
    pub cached: PathBuf,
    /// The signature beside the file.
    pub signature: Option<String>,
}

/// What a plugin has to fulfil beside being usable.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demands<'a> {
    /// The key that the plugin has to be signed with.
    pub key: Option<&'a TrustedKey>,
    /// The hash that the plugin has to have.
    pub hash: Option<&'a str>,
}

/// The request to an examiner (a child process of the monitor).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Examination {
    /// The path of the file.
    pub file: PathBuf,
    /// The path by which messages name the file.
    pub named: PathBuf,
    /// The directory of the cache.
    pub cache: PathBuf,
    /// The key that the plugin has to be signed with.
    pub key: Option<String>,
    /// The hash that the plugin was registered with.
    pub hash: Option<String>,
    /// How the probe is confined.
    pub confinement: Confinement,
}

/// The answer of an examiner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Verdict {
    /// The plugin can be used.
    Good(Box<Examined>),
    /// A process has the file open for writing.
    Unfinished,
    /// The plugin cannot be used.
    Refused {
        /// The path and the reason.
        reason: String,
        /// Whether the file may still be in the middle of being written.
        unfinished: bool,
    },
}

/// Examines a file, which messages call `named`, and keeps a copy of it in the cache. If the file is
/// refused, neither a copy nor a process is left. A confined child loads the file, within `limit`.
pub fn examine(
    file: &Path,
    named: &Path,
    cache: &Cache,
    demands: Demands<'_>,
    limit: Duration,
    confinement: &Confinement,
) -> Result<Examined, PluginError> {
    let (copy, inspection, signature) = look(file, named, cache, demands, limit, confinement)?;
    let cached = copy.keep().map_err(|error| error.called(named))?.path;
    if let Some(signature) = &signature {
        // Stored beside the copy as it is beside the file, because a monitor with a key checks the copy.
        fs::write(signature_path(&cached), signature).map_err(|error| {
            PluginError::new(named, format!("could not be copied to the cache: {error}"))
        })?;
    }
    Ok(Examined {
        inspection,
        cached,
        signature,
    })
}

/// Examines a file and keeps nothing of it.
pub fn check(
    file: &Path,
    cache: &Cache,
    demands: Demands<'_>,
    limit: Duration,
    confinement: &Confinement,
) -> Result<Inspection, PluginError> {
    let (_copy, inspection, _) = look(file, file, cache, demands, limit, confinement)?;
    Ok(inspection)
}

/// Makes a copy of the file and reads its notes, and the signature beside the file.
fn look(
    file: &Path,
    named: &Path,
    cache: &Cache,
    demands: Demands<'_>,
    limit: Duration,
    confinement: &Confinement,
) -> Result<(Incoming, Inspection, Option<String>), PluginError> {
    let copy = cache.receive(file).map_err(|error| error.called(named))?;
    if demands.hash.is_some_and(|hash| hash != copy.hash()) {
        return Err(PluginError::new(
            named,
            "changed since it was registered; run rework register-operations",
        ));
    }
    let signature = signature_beside(file).map_err(|error| {
        PluginError::new(
            named,
            format!("has a signature that cannot be read: {error}"),
        )
    })?;
    if let Some(key) = demands.key {
        // The copy is read, because the copy will be loaded.
        let content = fs::read(copy.path())
            .map_err(|error| PluginError::new(named, format!("cannot be read: {error}")))?;
        key.check(&content, signature.as_deref(), named)?;
    }
    if let (Some(_), [first, ..]) = (demands.key, copy.libraries()) {
        return Err(PluginError::new(
            named,
            format!(
                "brings libraries along ({first}), which its signature does not cover: link them \
                 statically, or give it an absolute run path"
            ),
        ));
    }
    let mut inspection = inspect_copy(copy.path(), copy.hash(), named)?;
    inspection.libraries = copy.libraries().to_vec();
    probe(&copy.loadable(), named, limit, confinement)?;
    Ok((copy, inspection, signature))
}

/// The environment variable of an examiner that holds the environment to load plugins with.
pub const LOAD_ENVIRONMENT: &str = "REWORK_LOAD_ENVIRONMENT";

/// The value of [`LOAD_ENVIRONMENT`].
pub fn load_environment(environment: &[(String, String)]) -> String {
    let environment: Vec<(&str, &OsStr)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), OsStr::new(value)))
        .collect();
    serde_json::to_string(&environment).expect("it is plain data")
}

/// The examiner: handles one request and prints a [`Verdict`].
pub fn child(request: &str) -> ExitCode {
    // If the monitor dies, nothing waits for the verdict, and nothing else would end this process.
    let _ = prctl::set_pdeathsig(Some(Signal::SIGKILL));
    let Ok(mut request) = serde_json::from_str::<Examination>(request) else {
        return ExitCode::FAILURE;
    };
    if let Ok(environment) = std::env::var(LOAD_ENVIRONMENT) {
        let Ok(environment) = serde_json::from_str(&environment) else {
            return ExitCode::FAILURE;
        };
        request.confinement.environment = environment;
    }
    let verdict = verdict(&request);
    let text = serde_json::to_vec(&verdict).expect("a verdict is plain data");
    // A closed stdout means that the monitor is gone.
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn verdict(request: &Examination) -> Verdict {
    being_written::ignore_lease_breaks();
    let stamp = || {
        let metadata = fs::metadata(&request.file).ok()?;
        Some(FileStamp::from(&metadata))
    };
    let before = stamp();
    if being_written::is_being_written(&request.file) {
        return Verdict::Unfinished;
    }
    let refused = |error: PluginError| Verdict::Refused {
        unfinished: error.unfinished,
        reason: match &error.hint {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        },
    };
    let key = match request.key.as_deref().map(TrustedKey::read).transpose() {
        Ok(key) => key,
        Err(reason) => return refused(PluginError::new(&request.named, reason)),
    };
    let cache = Cache::at(request.cache.clone());
    let examined = examine(
        &request.file,
        &request.named,
        &cache,
        Demands {
            key: key.as_ref(),
            hash: request.hash.as_deref(),
        },
        PROBE_LIMIT,
        &request.confinement,
    );
    // The file has changed while it was examined, so the result is of no single version.
    if stamp() != before {
        return Verdict::Unfinished;
    }
    match examined {
        Ok(examined) => Verdict::Good(Box::new(examined)),
        Err(error) => refused(error),
    }
}
