//! What a task is given, checked against the versions of its operation that are deployed, before anything
//! is queued. The rules of one version are the SDK's, which its `testing` follows too.

use super::moment::{self, Now};
pub use rework_plugin::input::{Complete, Given, check_document, has_nul};
use rework_plugin::{
    input::{self as rules, content_of},
    spec::{Spec, SpecType, validate},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// An input that at least one version of its operation accepts.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// What is stored.
    pub complete: Complete,
    /// The version that it was completed for, where others would not take it, or not like this;
    /// `None`: all of them do.
    pub only_by: Option<usize>,
}

/// Checks an input against the versions of an operation that are deployed (`None`: one without a
/// spec), and completes it by the first that accepts it; otherwise says why the latest does not.
/// Moments that are written as expressions are resolved.
pub fn complete(
    operation: &str,
    versions: &[Option<Value>],
    given: &Given,
    now: Now,
) -> Result<Accepted, String> {
    let checks: Vec<Result<Complete, String>> = versions
        .iter()
        .map(|specs| complete_version(operation, specs.as_ref(), given.clone(), &now))
        .collect();
    match checks
        .iter()
        .enumerate()
        .find_map(|(place, check)| Some((place, check.as_ref().ok()?)))
    {
        Some((place, complete)) => Ok(Accepted {
            complete: complete.clone(),
            only_by: checks
                .iter()
                .any(|check| check.as_ref() != Ok(complete))
                .then_some(place),
        }),
        None => Err(checks
            .into_iter()
            .find_map(Result::err)
            .unwrap_or_else(|| format!("`{operation}` is deployed nowhere"))),
    }
}

/// An input as one version of its operation takes it. What stands for a file tells its digest too.
fn complete_version(
    operation: &str,
    specs: Option<&Value>,
    given: Given,
    now: &Now,
) -> Result<Complete, String> {
    let specs: Option<Vec<Spec>> = specs
        .map(Vec::deserialize)
        .transpose()
        .map_err(|error| format!("the inputs of `{operation}` are recorded badly: {error}"))?;
    let resolve = |expression: &str| moment::resolve(expression, now);
    let mut complete = rules::complete(operation, specs.as_deref(), given, &resolve)?;
    if let Some(Value::Object(fields)) = &mut complete.fields {
        for (name, content) in &complete.files {
            fields.insert(name.clone(), placeholder(content));
        }
    }
    Ok(complete)
}

/// Whether another version of an operation, with these specs, would accept an input that is stored.
pub fn accepts_stored(specs: &[Spec], encoding: Option<&str>, fields: Option<&Value>) -> bool {
    let empty = Map::new();
    let fields = match fields {
        _ if encoding == Some("raw") => return false,
        None | Some(Value::Null) => &empty,
        Some(Value::Object(fields)) => fields,
        Some(_) => return false,
    };
    validate(specs, fields).is_ok()
}

/// Fields with the contents of files among them, as JSON gives them; for documents that have no
/// place beside the fields.
pub fn with_files(fields: Option<&Value>, files: &[(String, Vec<u8>)]) -> Option<Value> {
    if files.is_empty() {
        return fields.cloned();
    }
    let mut fields = match fields {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    for (name, content) in files {
        let text = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, content);
        fields.insert(name.clone(), json!({ "base64": text }));
    }
    Some(Value::Object(fields))
}

/// Fields with a placeholder for each content among them: the reverse of [`with_files`], for
/// listings.
pub fn without_contents(fields: Value) -> Value {
    let Value::Object(mut fields) = fields else {
        return fields;
    };
    for value in fields.values_mut() {
        let content = value
            .as_object()
            .filter(|object| object.len() == 1 && object.contains_key("base64"))
            .and_then(|_| content_of(value).ok());
        if let Some(content) = content {
            *value = placeholder(&content);
        }
    }
    Value::Object(fields)
}

/// The contents of file fields among the fields, taken out of them; what cannot be one stays.
pub fn take_files(specs: Option<&Value>, fields: &mut Value) -> Vec<(String, Vec<u8>)> {
    let specs = specs.and_then(|specs| Vec::<Spec>::deserialize(specs).ok());
    let Value::Object(fields) = fields else {
        return Vec::new();
    };
    specs
        .into_iter()
        .flatten()
        .filter(|spec| spec.r#type == SpecType::File)
        .filter_map(|spec| {
            let content = content_of(fields.get(&spec.name)?).ok()?;
            fields.remove(&spec.name);
            Some((spec.name, content))
        })
        .collect()
}

/// What stands for a content in the fields.
pub fn placeholder(content: &[u8]) -> Value {
    json!({ "bytes": content.len(), "sha256": sha256(content) })
}

/// SHA-256 in lower-case hexadecimal.
pub fn sha256(content: &[u8]) -> String {
    hexadecimal(&Sha256::digest(content))
}

/// Lower-case hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
