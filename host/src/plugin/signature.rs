//! Signatures in minisign's format: `X.so.minisig` beside `X.so`, made with the secret half of a key that
//! this installation trusts.

use super::PluginError;
use minisign_verify::{PublicKey, Signature};
use std::{
    fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// A minisign public key that plugins have to be signed with.
#[derive(Clone)]
pub struct TrustedKey {
    /// The key as in the last line of its file.
    base64: String,
    key: PublicKey,
}

impl std::fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base64)
    }
}

impl TrustedKey {
    /// Reads a key: the path of a minisign public key file, or the key itself.
    pub fn read(text: &str) -> Result<Self, String> {
        let base64 = match read_small(Path::new(text)) {
            Ok(content) => content.lines().last().unwrap_or_default().trim().to_owned(),
            Err(_) => text.trim().to_owned(),
        };
        let key = PublicKey::from_base64(&base64).map_err(|_| {
            format!(
                "`{text}` is neither a public key of minisign nor a file that holds one \
                 (it looks like RWQ…, in the second line of minisign.pub)"
            )
        })?;
        Ok(Self { base64, key })
    }

    /// The key as text, which may appear in a child's arguments because it is public.
    pub fn as_str(&self) -> &str {
        &self.base64
    }

    /// Checks the signature of a content, which messages call `named`.
    pub fn check(
        &self,
        content: &[u8],
        signature: Option<&str>,
        named: &Path,
    ) -> Result<(), PluginError> {
        let Some(signature) = signature else {
            return Err(PluginError::unfinished(
                named,
                format!("is not signed: it has no .minisig beside it; {REMEDY}"),
            ));
        };
        let signature = Signature::decode(signature).map_err(|_| {
            PluginError::unfinished(
                named,
                format!(
                    "has a signature that cannot be read: it is not in the format of minisign; \
                     {REMEDY}"
                ),
            )
        })?;
        self.key
            .verify(content, &signature, true)
            .map_err(|error| match error {
                minisign_verify::Error::UnexpectedKeyId => PluginError::new(
                    named,
                    format!("is signed by another key than the one that is trusted here; {REMEDY}"),
                ),
                // The signature may be that of the version before, and the new one not written yet.
                _ => PluginError::unfinished(
                    named,
                    format!("was changed after it was signed, or its signature was; {REMEDY}"),
                ),
            })
    }
}

/// The hint about a missing or wrong signature.
const REMEDY: &str = "`minisign -Sm` signs it";

/// The largest signature or key file in bytes: they have some hundred bytes, and a trusted comment adds a
/// few.
const LARGEST: u64 = 64 * 1024;

/// The path of a file's signature.
pub fn signature_path(file: &Path) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(".minisig");
    path.into()
}

/// The signature beside a file, if there is one.
pub fn signature_beside(file: &Path) -> io::Result<Option<String>> {
    match read_small(&signature_path(file)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The text of a small file.
fn read_small(path: &Path) -> io::Result<String> {
    // Opening a FIFO would block.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_signature_may_be_followed_by_the_right_one() {
        let ours = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let theirs = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let trusted = TrustedKey::read(&ours.pk.to_base64()).unwrap();
        let check = |key: &minisign::KeyPair, content: &[u8]| {
            let signature = minisign::sign(None, &key.sk, content, None, None).unwrap();
            let signature = signature.into_string();
            trusted.check(b"second", Some(&signature), Path::new("x.so"))
        };
        assert_eq!(check(&ours, b"second"), Ok(()));
        let stale = check(&ours, b"first").unwrap_err();
        assert!(
            stale.unfinished && stale.reason.starts_with("was changed after"),
            "{stale}"
        );
        let foreign = check(&theirs, b"second").unwrap_err();
        assert!(
            !foreign.unfinished && foreign.reason.contains("another key"),
            "{foreign}"
        );
        let none = trusted
            .check(b"second", None, Path::new("x.so"))
            .unwrap_err();
        assert!(
            none.unfinished && none.reason.starts_with("is not signed"),
            "{none}"
        );
    }

    #[test]
    fn a_key_is_a_short_text() {
        for text in ["", "RWQ", "/dev/zero", "/dev/null", "/"] {
            let refusal = TrustedKey::read(text).unwrap_err();
            assert!(
                refusal.contains("neither a public key of minisign"),
                "{refusal}"
            );
        }
    }
}
