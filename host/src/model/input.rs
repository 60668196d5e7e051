//! What a task is given, checked against what its operation declares and completed by the
//! defaults, before anything is queued.

use super::moment::{self, Now};
use rework_plugin::spec::{Spec, SpecType, kind, parse_datetime, validate};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// What a caller gives.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Fields, or any JSON for an operation that declares none.
    pub fields: Option<Value>,
    /// Bytes as given, instead.
    pub raw: Option<Vec<u8>>,
    /// Contents of file fields.
    pub files: Vec<(String, Vec<u8>)>,
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Complete {
    /// The fields; a file in them is `{"bytes", "sha256"}`.
    pub fields: Option<Value>,
    /// Bytes as given, instead.
    pub raw: Option<Vec<u8>>,
    /// Contents of file fields.
    pub files: Vec<(String, Vec<u8>)>,
}

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
    if given.raw.is_some() && (given.fields.is_some() || !given.files.is_empty()) {
        return Err("a task has either fields or raw input, not both".to_owned());
    }
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

fn complete_version(
    operation: &str,
    specs: Option<&Value>,
    given: Given,
    now: &Now,
) -> Result<Complete, String> {
    let Some(specs) = specs else {
        return complete_unspecified(given);
    };
    if given.raw.is_some() {
        return Err(format!(
            "`{operation}` declares its inputs and takes no raw input"
        ));
    }
    let specs: Vec<Spec> = serde_json::from_value(specs.clone())
        .map_err(|error| format!("the inputs of `{operation}` are recorded badly: {error}"))?;
    let mut fields = match given.fields {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            return Err(format!(
                "the input of `{operation}` must be an object of fields, not {}",
                kind(&other)
            ));
        }
    };
    let mut files = given.files;
    for spec in specs.iter().filter(|spec| spec.r#type == SpecType::File) {
        match fields.get(&spec.name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let content = content_of(value)
                    .map_err(|fault| format!("input `{}` of `{operation}` {fault}", spec.name))?;
                files.push((spec.name.clone(), content));
            }
        }
    }
    for (name, content) in &files {
        fields.insert(name.clone(), placeholder(content));
    }
    let mut fields = validate(&specs, &fields).map_err(|fault| fault.of(operation))?;
    resolve_moments(operation, &specs, &mut fields, now)?;
    Ok(Complete {
        fields: Some(Value::Object(fields)),
        raw: None,
        files,
    })
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

/// Replaces moments that are written as expressions by what they mean now.
fn resolve_moments(
    operation: &str,
    specs: &[Spec],
    fields: &mut Map<String, Value>,
    now: &Now,
) -> Result<(), String> {
    for spec in specs.iter().filter(|spec| spec.r#type == SpecType::Moment) {
        let Some(Value::String(text)) = fields.get_mut(&spec.name) else {
            continue;
        };
        // The check has accepted it: a datetime by now, or else an expression.
        if parse_datetime(text).is_none() {
            let time = moment::resolve(text, now).map_err(|fault| {
                format!(
                    "input `{}` of `{operation}` is not a moment: `{text}`: {fault}",
                    spec.name
                )
            })?;
            *text = super::time::rfc3339(time);
        }
    }
    Ok(())
}

/// An operation without a spec takes anything.
fn complete_unspecified(given: Given) -> Result<Complete, String> {
    if given.files.is_empty() {
        return Ok(Complete {
            fields: given.fields,
            raw: given.raw,
            files: Vec::new(),
        });
    }
    let mut fields = match given.fields {
        None => Map::new(),
        Some(Value::Object(fields)) => fields,
        Some(other) => {
            return Err(format!(
                "files need an object of fields as input, not {}",
                kind(&other)
            ));
        }
    };
    for (name, content) in &given.files {
        fields.insert(name.clone(), placeholder(content));
    }
    Ok(Complete {
        fields: Some(Value::Object(fields)),
        raw: None,
        files: given.files,
    })
}

/// The content of a file given in JSON: a string's UTF-8 bytes, or `{"base64": "…"}`.
fn content_of(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::String(text) => Ok(text.clone().into_bytes()),
        Value::Object(fields) if fields.len() == 1 => {
            let text = fields.get("base64").and_then(Value::as_str);
            let text = text.ok_or("must be a string or {\"base64\": \"…\"}")?;
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text)
                .map_err(|_| "is not base64".to_owned())
        }
        Value::Object(_) => Err("must be a string or {\"base64\": \"…\"}".to_owned()),
        other => Err(format!(
            "must be a string or {{\"base64\": \"…\"}}, not {}",
            kind(other)
        )),
    }
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

/// Levels of a document: beyond that not every reader follows.
pub const DEEPEST: usize = 100;

/// Whether a document has no more levels than [`DEEPEST`].
pub fn is_flat(value: &Value) -> bool {
    fn within(value: &Value, levels: usize) -> bool {
        let mut inner: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Array(list) => Box::new(list.iter()),
            Value::Object(fields) => Box::new(fields.values()),
            _ => return true,
        };
        levels > 0 && inner.all(|value| within(value, levels - 1))
    }
    within(value, DEEPEST)
}

/// Whether a NUL hides anywhere in a value; jsonb stores none.
pub fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}
