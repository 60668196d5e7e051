//! All that happens before a plugin is believed: it is copied to the cache, its signature is
//! checked, it is inspected, and a child of this process loads it.
//!
//! A command does this itself. A monitor cannot wait, and must not have children that it does not
//! know, so it starts an examiner ([`child`]): this binary again, which holds no credentials, does
//! the same, and prints its verdict.

use super::{
    Cache, Confinement, Incoming, Inspection, PROBE_LIMIT, PluginError, TrustedKey,
    inspect::inspect_copy,
    probe,
    signature::{signature_beside, signature_path},
    stamp::FileStamp,
    whole,
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
    /// What it says of itself.
    pub inspection: Inspection,
    /// Where the cache holds it.
    pub cached: PathBuf,
    /// The signature that came with it.
    pub signature: Option<String>,
}

/// What a file has to be, besides good.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demands<'a> {
    /// Signed with this key.
    pub key: Option<&'a TrustedKey>,
    /// The content with this hash.
    pub hash: Option<&'a str>,
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
    /// The hash that it was registered with.
    pub hash: Option<String>,
    /// What the probe has to do without.
    pub confinement: Confinement,
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

/// Examines a file that the user knows as `named`, and keeps a copy of it in the cache; a refusal
/// says why, and leaves neither a copy nor a process behind. Loading it may take until `limit`, and
/// is confined.
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
        // Beside the copy as it was beside the file: a monitor with a key asks for it.
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

/// Examines a file, and keeps nothing of it.
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

/// A copy of the file, what it says of itself, and the signature that lies beside it.
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
        // Of the copy: that is what will be loaded.
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

/// In the environment of an examiner; its value is the environment that plugins are loaded in.
pub const LOAD_ENVIRONMENT: &str = "REWORK_LOAD_ENVIRONMENT";

/// The value of [`LOAD_ENVIRONMENT`].
pub fn load_environment(environment: &[(String, String)]) -> String {
    let environment: Vec<(&str, &OsStr)> = environment
        .iter()
        .map(|(name, value)| (name.as_str(), OsStr::new(value)))
        .collect();
    serde_json::to_string(&environment).expect("it is plain data")
}

/// The examiner's side: prints a [`Verdict`].
pub fn child(request: &str) -> ExitCode {
    // Nobody waits for a verdict whose monitor has died, and nobody would end us.
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
    // If nobody listens any more, nobody needs it.
    match std::io::stdout().write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn verdict(request: &Examination) -> Verdict {
    whole::ignore_lease_breaks();
    let stamp = || {
        let metadata = fs::metadata(&request.file).ok()?;
        Some(FileStamp::from(&metadata))
    };
    let before = stamp();
    if whole::is_being_written(&request.file) {
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
    // Whatever was found, it was not of one file.
    if stamp() != before {
        return Verdict::Unfinished;
    }
    match examined {
        Ok(examined) => Verdict::Good(Box::new(examined)),
        Err(error) => refused(error),
    }
}
