//! What a task is given, checked against what its operation declares and completed by the defaults. The
//! host calls it before it queues a task, `crate::testing` before it runs an operation in a test. The
//! functions of the database repeat these rules; `tests/inputs.json` holds what all of them must say.

use crate::{
    io::DateTime,
    spec::{Spec, SpecType, check_fields, kind, parse_datetime, rfc3339},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// What a caller gives.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Fields, or any JSON for an operation that declares none.
    pub fields: Option<Value>,
    /// Bytes instead of fields.
    pub raw: Option<Vec<u8>>,
    /// Contents of file fields, by the name of the field.
    pub files: Vec<(String, Vec<u8>)>,
}

/// What a task is queued with.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Complete {
    /// The fields; a file among them is `{"bytes": n}`.
    pub fields: Option<Value>,
    /// Bytes instead of fields.
    pub raw: Option<Vec<u8>>,
    /// Contents of file fields, by the name of the field.
    pub files: Vec<(String, Vec<u8>)>,
}

/// How deep a document may be nested: some readers of JSON follow no more levels.
pub const DEEPEST: usize = 100;

/// Checks an input against what an operation declares (`None`: nothing, so that it takes any input), and
/// completes it by the defaults. `resolve` says what a moment that is written as an expression means.
///
/// # Errors
///
/// The first thing that does not fit: the whole message, which names the operation and the field.
pub fn complete(
    operation: &str,
    specs: Option<&[Spec]>,
    given: Given,
    resolve: &dyn Fn(&str) -> Result<DateTime, String>,
) -> Result<Complete, String> {
    if given.raw.is_some() && (given.fields.is_some() || !given.files.is_empty()) {
        return Err("a task has either fields or raw input, not both".to_owned());
    }
    let Some(specs) = specs else {
        return undeclared(given);
    };
    if given.raw.is_some() {
        return Err(format!(
            "`{operation}` declares its inputs and takes no raw input"
        ));
    }
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
    let mut files = Vec::new();
    for (name, content) in given.files {
        let other = fields.insert(name.clone(), size_of(&content));
        if other.is_some_and(|other| !other.is_null()) {
            return Err(format!("input `{name}` of `{operation}` is given twice"));
        }
        files.push((name, content));
    }
    let beside = files.len();
    let mut take_file = |name: &str, value: &Value| -> Result<Value, String> {
        if files[..beside].iter().any(|(file, _)| file == name) {
            return Ok(value.clone());
        }
        let content = content_of(value)?;
        let size = size_of(&content);
        files.push((name.to_owned(), content));
        Ok(size)
    };
    let mut fields = check_fields("input", specs, &fields, &mut take_file)
        .map_err(|fault| fault.of(operation))?;
    for spec in specs.iter().filter(|spec| spec.r#type == SpecType::Moment) {
        let Some(Value::String(text)) = fields.get_mut(&spec.name) else {
            continue;
        };
        // The check has left it as it is: a datetime, or else an expression.
        if parse_datetime(text).is_none() {
            let time = resolve(text).map_err(|fault| {
                format!(
                    "input `{}` of `{operation}` is not a moment: `{text}`: {fault}",
                    spec.name
                )
            })?;
            *text = rfc3339(time);
        }
    }
    Ok(Complete {
        fields: Some(Value::Object(fields)),
        raw: None,
        files,
    })
}

/// An operation that declares no inputs takes anything.
fn undeclared(given: Given) -> Result<Complete, String> {
    let fields = match (given.fields, given.files.is_empty()) {
        (fields, true) => fields,
        (None, false) => Some(files_in(Map::new(), &given.files)),
        (Some(Value::Object(fields)), false) => Some(files_in(fields, &given.files)),
        (Some(other), false) => {
            return Err(format!(
                "files need an object of fields as input, not {}",
                kind(&other)
            ));
        }
    };
    Ok(Complete {
        fields,
        raw: given.raw,
        files: given.files,
    })
}

fn files_in(mut fields: Map<String, Value>, files: &[(String, Vec<u8>)]) -> Value {
    for (name, content) in files {
        fields.insert(name.clone(), size_of(content));
    }
    Value::Object(fields)
}

/// What stands for a file among the fields.
fn size_of(content: &[u8]) -> Value {
    json!({ "bytes": content.len() })
}

/// The content of a file given in JSON: a string's UTF-8 bytes, or `{"base64": "…"}`.
///
/// # Errors
///
/// What is wrong with it, as the end of a message about its field.
pub fn content_of(value: &Value) -> Result<Vec<u8>, String> {
    match value {
        Value::String(text) => Ok(text.clone().into_bytes()),
        Value::Object(fields) if fields.len() == 1 => {
            let text = fields.get("base64").and_then(Value::as_str);
            let text = text.ok_or("must be a string or {\"base64\": \"…\"}")?;
            STANDARD
                .decode(text)
                .map_err(|_| "is not base64".to_owned())
        }
        Value::Object(_) => Err("must be a string or {\"base64\": \"…\"}".to_owned()),
        other => Err(format!(
            "must be a string or {{\"base64\": \"…\"}}, not {}",
            kind(other)
        )),
    }
}

/// Whether a document can be stored: without a NUL character, and not nested more than [`DEEPEST`] levels
/// deep.
///
/// # Errors
///
/// What is wrong; the message calls the document `what`.
pub fn check_document(what: &str, document: &Value) -> Result<(), String> {
    if !is_flat(document, DEEPEST) {
        return Err(format!(
            "the {what} is nested more than {DEEPEST} levels deep"
        ));
    }
    if has_nul(document) {
        return Err(format!(
            "the {what} holds a NUL character, which Postgres cannot store"
        ));
    }
    Ok(())
}

fn is_flat(value: &Value, levels: usize) -> bool {
    let mut inner: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(list) => Box::new(list.iter()),
        Value::Object(fields) => Box::new(fields.values()),
        _ => return true,
    };
    levels > 0 && inner.all(|value| is_flat(value, levels - 1))
}

/// Whether a NUL hides anywhere in a value; Postgres stores none in JSON.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(specs: &Value, given: Given) -> Result<Complete, String> {
        let specs: Vec<Spec> = serde_json::from_value(specs.clone()).unwrap();
        complete("op", Some(&specs), given, &|_| Err("no clock".to_owned()))
    }

    #[test]
    fn a_file_comes_beside_the_fields_or_among_them() {
        let specs = json!([
            {"name": "f", "type": "file", "required": true, "choices": null, "default": null}
        ]);
        let abc = vec![("f".to_owned(), b"abc".to_vec())];
        let among = |value: Value| Given {
            fields: Some(json!({ "f": value })),
            ..Given::default()
        };
        let beside = Given {
            files: abc.clone(),
            ..Given::default()
        };
        for given in [
            beside.clone(),
            among(json!("abc")),
            among(json!({"base64": "YWJj"})),
        ] {
            let complete = completed(&specs, given).unwrap();
            assert_eq!(complete.fields, Some(json!({"f": {"bytes": 3}})));
            assert_eq!(complete.files, abc);
        }
        let twice = Given {
            files: abc,
            ..among(json!("abc"))
        };
        assert_eq!(
            completed(&specs, twice).unwrap_err(),
            "input `f` of `op` is given twice"
        );
        // What stands for a file is no file.
        let placeholder = completed(&specs, among(json!({"bytes": 3})));
        assert_eq!(
            placeholder.unwrap_err(),
            "input `f` of `op` must be a string or {\"base64\": \"…\"}"
        );
    }
}
