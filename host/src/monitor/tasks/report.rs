//! What a task left, and the words about its end, so that the database can store them.

use crate::{
    model::{
        input::{has_nul, placeholder},
        task::{Cause, Outcome},
        text::without_nul,
    },
    store::{Ended, Fate, FileContent, RAW_IN_ROW, to_jsonb_text},
    wire::{Bytes, Payload},
};
use std::os::fd::OwnedFd;

pub(in crate::monitor) use crate::causes::chain;

/// What a task saved, as it is stored.
#[derive(Debug, Default)]
pub(in crate::monitor) struct Saved {
    /// JSON text that jsonb accepts.
    pub(in crate::monitor) fields: Option<String>,
    /// Bytes, unless they are among the files.
    pub(in crate::monitor) raw: Option<Vec<u8>>,
    /// `fields` or `raw`.
    pub(in crate::monitor) encoding: Option<&'static str>,
    /// What is stored beside the row.
    pub(in crate::monitor) files: Vec<FileContent>,
}

/// An end that the database could not store as it was, without what may be the reason: first its
/// output, then its words. `None`: there is nothing left to leave out.
pub(in crate::monitor) fn storable(ended: Ended, text: &str) -> Option<Ended> {
    if ended.output_encoding.is_some() {
        let mut without = Ended {
            output: None,
            output_raw: None,
            output_encoding: None,
            ..ended
        };
        if without.fate == Fate::End(Outcome::Done) {
            without.fate = Fate::End(Cause::BadOutput.outcome());
            without.cause = Some(Cause::BadOutput);
            without.error = Some(format!("the output cannot be stored: {text}"));
        }
        return Some(without);
    }
    let has_words = ended.location.is_some()
        || ended.backtrace.is_some()
        || ended.progress_message.is_some()
        || ended
            .error
            .as_deref()
            .is_some_and(|error| error != NO_WORDS);
    has_words.then(|| Ended {
        location: None,
        backtrace: None,
        progress_message: None,
        error: ended.cause.map(|_| NO_WORDS.to_owned()),
        ..ended
    })
}

/// Stands for words that the database could not store.
const NO_WORDS: &str = "(its words cannot be stored)";

/// Unpacks what a task saved, or says why it cannot be stored.
pub(in crate::monitor) fn saved(
    output: Payload,
    files: Vec<(String, Bytes)>,
    descriptors: &mut Vec<OwnedFd>,
) -> Result<Saved, String> {
    // The output's descriptor travels before those of the files.
    let (encoding, bytes) = match output {
        Payload::None => (None, Vec::new()),
        Payload::Fields(bytes) => (Some("fields"), unpacked(bytes, descriptors)?),
        Payload::Raw(bytes) => (Some("raw"), unpacked(bytes, descriptors)?),
    };
    let mut saved = Saved {
        encoding,
        ..Saved::default()
    };
    if let Some((name, _)) = files.iter().find(|(name, _)| name.contains('\0')) {
        let name = without_nul(name.clone());
        return Err(format!(
            "the name of the output file `{name}` holds a NUL character"
        ));
    }
    for (name, bytes) in files {
        let content = unpacked(bytes, descriptors)?;
        saved.files.push(FileContent { name, content });
    }
    match encoding {
        Some("fields") => saved.fields = Some(storable_fields(&bytes, &saved.files)?),
        Some(_) if bytes.len() > RAW_IN_ROW => {
            saved.files.push(FileContent {
                name: String::new(),
                content: bytes,
            });
        }
        Some(_) => saved.raw = Some(bytes),
        None => {}
    }
    Ok(saved)
}

fn unpacked(bytes: Bytes, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<u8>, String> {
    bytes.into_vec(descriptors).map_err(|error| chain(&error))
}

/// Fields as JSON text that jsonb accepts, each file shown by its size and hash, or why there is
/// none.
fn storable_fields(bytes: &[u8], files: &[FileContent]) -> Result<String, String> {
    let mut value: serde_json::Value = serde_json::from_slice(bytes)
        .map_err(|error| format!("the output is not JSON: {error}"))?;
    if has_nul(&value) {
        return Err(
            "the output holds a NUL character, which Postgres cannot store; \
                    save it raw instead"
                .to_owned(),
        );
    }
    if let serde_json::Value::Object(fields) = &mut value {
        for file in files {
            fields.insert(file.name.clone(), placeholder(&file.content));
        }
    }
    Ok(to_jsonb_text(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_found_wherever_it_hides() {
        assert!(
            storable_fields(br#"{"a": ["b\u0000"]}"#, &[])
                .unwrap_err()
                .contains("NUL")
        );
        assert!(storable_fields(br#"{"a\u0000": 1}"#, &[]).is_err());
        assert!(storable_fields(b"{", &[]).unwrap_err().contains("not JSON"));
        assert_eq!(
            storable_fields(br#" {"a" : 1} "#, &[]).unwrap(),
            r#"{"a":1}"#
        );
    }
}
