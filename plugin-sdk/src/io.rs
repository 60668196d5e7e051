//! Inputs and outputs: what an operation declares of them, the check against it, and the types
//! that an author can use. The host uses the same check before it queues a task.

use crate::{Error, Result, Task};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Map;
use std::{fmt, ops::Deref};

/// Any JSON.
pub use serde_json::Value;

/// A point in time, in UTC.
pub type DateTime = chrono::DateTime<chrono::Utc>;

/// A point in time that may be given as an expression, `(shifted (today) #:days 7)`, which is
/// resolved once, when the task is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub DateTime);

impl Deref for Moment {
    type Target = DateTime;
    fn deref(&self) -> &DateTime {
        &self.0
    }
}

/// The content of a file, neither encoded nor read from any path on its way.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct File(Vec<u8>);

impl File {
    /// A file with this content.
    pub fn new(content: impl Into<Vec<u8>>) -> Self {
        Self(content.into())
    }

    /// The content.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({} bytes)", self.0.len())
    }
}

impl Deref for File {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for File {
    fn from(content: Vec<u8>) -> Self {
        Self(content)
    }
}

/// The type of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecType {
    /// A JSON number.
    Number,
    /// A JSON boolean.
    Boolean,
    /// A JSON string.
    String,
    /// Bytes, kept beside the fields.
    File,
    /// RFC 3339; without an offset it is UTC.
    Datetime,
    /// A datetime, or an expression.
    Moment,
}

impl SpecType {
    fn article(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::String => "a string",
            Self::File => "a file",
            Self::Datetime => "a datetime",
            Self::Moment => "a moment",
        }
    }
}

/// What an operation declares of one input or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The field.
    pub name: String,
    /// Its type.
    pub r#type: SpecType,
    /// Whether it must be given.
    pub required: bool,
    /// The only values that are allowed; none: all.
    pub choices: Option<Vec<Value>>,
    /// What it is when it is not given.
    pub default: Option<Value>,
}

/// A field that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The field.
    pub field: String,
    fault: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fault)
    }
}

impl std::error::Error for SpecError {}

/// Checks fields against specs and completes them by the defaults. A moment stays an expression,
/// and a file stays whatever stands for it.
///
/// # Errors
///
/// The first field that is unknown, missing, of another type or not among its choices; the message
/// names it.
pub fn validate(
    specs: &[Spec],
    fields: &Map<String, Value>,
) -> Result<Map<String, Value>, SpecError> {
    let fault = |field: &str, fault: String| SpecError {
        field: field.to_owned(),
        fault,
    };
    if let Some(unknown) = fields
        .keys()
        .find(|name| specs.iter().all(|spec| spec.name != **name))
    {
        let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let known = if known.is_empty() {
            "there are none".to_owned()
        } else {
            format!("known: {}", known.join(", "))
        };
        return Err(fault(
            unknown,
            format!("unknown input `{unknown}` ({known})"),
        ));
    }
    let mut complete = Map::new();
    for spec in specs {
        let name = &spec.name;
        match (fields.get(name), &spec.default) {
            (None | Some(Value::Null), Some(default)) => {
                complete.insert(name.clone(), default.clone());
            }
            (None | Some(Value::Null), None) if spec.required => {
                return Err(fault(name, format!("missing required input `{name}`")));
            }
            (None | Some(Value::Null), None) => {}
            (Some(value), _) => {
                let value = checked(spec, value)
                    .map_err(|why| fault(name, format!("input `{name}` {why}")))?;
                complete.insert(name.clone(), value);
            }
        }
    }
    Ok(complete)
}

/// The value as it is stored, or why it does not fit.
fn checked(spec: &Spec, value: &Value) -> Result<Value, String> {
    let wanted = spec.r#type;
    let fits = match wanted {
        SpecType::Number => value.is_number(),
        SpecType::Boolean => value.is_boolean(),
        SpecType::String | SpecType::Datetime | SpecType::Moment => value.is_string(),
        SpecType::File => value.is_string() || value.is_object(),
    };
    if !fits {
        return Err(format!("must be {}, not {}", wanted.article(), kind(value)));
    }
    let stored = match (wanted, value) {
        (SpecType::Datetime, Value::String(text)) => {
            let time =
                parse_datetime(text).ok_or_else(|| format!("is not a datetime: `{text}`"))?;
            Value::String(rfc3339(time))
        }
        (SpecType::Moment, Value::String(text)) => {
            parse_datetime(text).map_or_else(|| value.clone(), |time| Value::String(rfc3339(time)))
        }
        _ => value.clone(),
    };
    match &spec.choices {
        Some(choices) if !choices.contains(value) => {
            let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
            Err(format!(
                "must be one of {}, not {value}",
                choices.join(", ")
            ))
        }
        _ => Ok(stored),
    }
}

/// RFC 3339, or the same without an offset (UTC), seconds or time.
fn parse_datetime(text: &str) -> Option<DateTime> {
    let text = text.trim().replacen(' ', "T", 1);
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(&text) {
        return Some(time.to_utc());
    }
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| chrono::NaiveDateTime::parse_from_str(&text, format).ok());
    naive
        .or_else(|| {
            chrono::NaiveDate::parse_from_str(&text, "%Y-%m-%d")
                .ok()?
                .and_hms_opt(0, 0, 0)
        })
        .map(|time| time.and_utc())
}

fn rfc3339(time: DateTime) -> String {
    let text = time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The word for a JSON value's type, with its article, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A type that an operation can take: one of the field types, an `Option` of one, or a struct with
/// `#[derive(Inputs)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an input of an operation",
    label = "not an input type",
    note = "inputs are numbers, bool, String, File, DateTime, Moment, an Option of these, or one struct with #[derive(Inputs)]"
)]
pub trait Input: Sized {
    /// The word of [`SpecType`]; empty for a struct of fields.
    const KIND: &'static str;
    /// Whether it must be given.
    const REQUIRED: bool = true;
    /// The specs of a struct's fields, as JSON.
    const SPEC: &'static str = "[]";

    /// Takes the field of this name (a struct: all of its fields) from an input.
    ///
    /// # Errors
    ///
    /// If the field is missing or of another type.
    fn take(name: &str, fields: &mut Map<String, Value>, task: &Task) -> Result<Self>;
}

/// A type that an operation can return: anything that is written as JSON, `()`, a [`File`], or a
/// struct with `#[derive(Outputs)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an output of an operation",
    label = "not an output type",
    note = "outputs are numbers, bool, String, Value, Vec, Option, maps, (), or a struct with #[derive(Outputs)]"
)]
pub trait Output {
    /// The specs of a struct's fields, as JSON; `null` for anything else.
    const SPEC: &'static str = "null";

    /// Saves it as the task's output.
    ///
    /// # Errors
    ///
    /// If it cannot be written as JSON.
    fn save(self, task: &mut Task) -> Result<()>;
}

/// A type that a field of a `#[derive(Outputs)]` struct can have.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of an output",
    label = "not an output field type",
    note = "output fields are numbers, bool, String, File, DateTime, Moment, or an Option of these"
)]
pub trait OutputField {
    /// The word of [`SpecType`].
    const KIND: &'static str;
    /// Whether it is always there.
    const REQUIRED: bool = true;

    /// Adds it to the fields; what is no JSON goes beside them.
    ///
    /// # Errors
    ///
    /// If it cannot be written as JSON.
    fn put(self, name: &str, fields: &mut Map<String, Value>, task: &mut Task) -> Result<()>;
}

/// Takes a field that JSON can express.
fn take_json<T: DeserializeOwned>(
    name: &str,
    fields: &mut Map<String, Value>,
    wanted: &str,
) -> Result<T> {
    let value = fields
        .remove(name)
        .ok_or_else(|| Error::bad_input(format!("missing required input `{name}`")))?;
    let shown = value.to_string();
    serde_json::from_value(integral(value))
        .map_err(|_| Error::bad_input(format!("input `{name}` must be {wanted}, not {shown}")))
}

/// `3.0` is an integer to everybody but JSON.
fn integral(value: Value) -> Value {
    match value.as_f64() {
        Some(float) if value.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => {
            Value::from(float as i64)
        }
        _ => value,
    }
}

macro_rules! json_type {
    ($kind:literal, $wanted:literal: $($type:ty),+) => {$(
        impl Input for $type {
            const KIND: &'static str = $kind;
            fn take(name: &str, fields: &mut Map<String, Value>, _: &Task) -> Result<Self> {
                take_json(name, fields, $wanted)
            }
        }
        impl OutputField for $type {
            const KIND: &'static str = $kind;
            fn put(self, name: &str, fields: &mut Map<String, Value>, _: &mut Task) -> Result<()> {
                fields.insert(name.to_owned(), json_of(&self)?);
                Ok(())
            }
        }
        impl Output for $type {
            fn save(self, task: &mut Task) -> Result<()> {
                task.save_output(&self)
            }
        }
    )+};
}

json_type!("number", "an integer that fits": i8, i16, i32, i64, u8, u16, u32, u64, isize, usize);
json_type!("number", "a number": f32, f64);
json_type!("boolean", "a boolean": bool);
json_type!("string", "a string": String);
json_type!("datetime", "a datetime": DateTime);
json_type!("moment", "a datetime": Moment);

impl Input for File {
    const KIND: &'static str = "file";
    fn take(name: &str, fields: &mut Map<String, Value>, task: &Task) -> Result<Self> {
        fields.remove(name);
        task.input_file(name)
            .map(|content| Self(content.to_vec()))
            .ok_or_else(|| Error::bad_input(format!("missing required input `{name}`")))
    }
}

impl OutputField for File {
    const KIND: &'static str = "file";
    fn put(self, name: &str, fields: &mut Map<String, Value>, task: &mut Task) -> Result<()> {
        fields.insert(
            name.to_owned(),
            serde_json::json!({ "bytes": self.0.len() }),
        );
        task.save_output_file(name, &self.0);
        Ok(())
    }
}

impl<T: Input> Input for Option<T> {
    const KIND: &'static str = T::KIND;
    const REQUIRED: bool = false;
    fn take(name: &str, fields: &mut Map<String, Value>, task: &Task) -> Result<Self> {
        match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => T::take(name, fields, task).map(Some),
        }
    }
}

impl<T: OutputField> OutputField for Option<T> {
    const KIND: &'static str = T::KIND;
    const REQUIRED: bool = false;
    fn put(self, name: &str, fields: &mut Map<String, Value>, task: &mut Task) -> Result<()> {
        self.map_or(Ok(()), |value| value.put(name, fields, task))
    }
}

impl Output for () {
    fn save(self, _: &mut Task) -> Result<()> {
        Ok(())
    }
}

macro_rules! plain_output {
    ($([$($generic:tt)*] $type:ty),+ $(,)?) => {$(
        impl<$($generic)*> Output for $type {
            fn save(self, task: &mut Task) -> Result<()> {
                task.save_output(&self)
            }
        }
    )+};
}

plain_output!(
    [] Value,
    [] &'static str,
    [T: Serialize] Vec<T>,
    [T: Serialize] Option<T>,
    [K: Serialize + Ord, V: Serialize] std::collections::BTreeMap<K, V>,
    [K: Serialize + Eq + std::hash::Hash, V: Serialize] std::collections::HashMap<K, V>,
);

pub(crate) fn json_of(value: &(impl Serialize + ?Sized)) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| {
        Error::bad_output(format!("the output cannot be written as JSON: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn specs() -> Vec<Spec> {
        serde_json::from_value(json!([
            {"name": "n", "type": "number", "required": true, "choices": null, "default": null},
            {"name": "o", "type": "string", "required": false, "choices": ["a", "b"], "default": null},
            {"name": "d", "type": "number", "required": false, "choices": null, "default": 42},
            {"name": "t", "type": "datetime", "required": false, "choices": null, "default": null},
            {"name": "f", "type": "file", "required": false, "choices": null, "default": null}
        ]))
        .unwrap()
    }

    fn check(fields: Value) -> Result<Value, String> {
        let Value::Object(fields) = fields else {
            panic!("an object")
        };
        validate(&specs(), &fields)
            .map(Value::Object)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_complete_what_is_given() {
        assert_eq!(
            check(json!({"n": 1, "o": null})),
            Ok(json!({"n": 1, "d": 42}))
        );
        assert_eq!(
            check(json!({"n": 1, "t": "2026-05-01 09:00"})).unwrap()["t"],
            json!("2026-05-01T09:00:00Z")
        );
    }

    #[test]
    fn refusals_name_the_field() {
        for (fields, refusal) in [
            (json!({}), "missing required input `n`"),
            (
                json!({"n": "1"}),
                "input `n` must be a number, not a string",
            ),
            (
                json!({"n": 1, "x": 1}),
                "unknown input `x` (known: n, o, d, t, f)",
            ),
            (
                json!({"n": 1, "o": "c"}),
                "input `o` must be one of \"a\", \"b\", not \"c\"",
            ),
            (
                json!({"n": 1, "t": "tomorrow"}),
                "input `t` is not a datetime: `tomorrow`",
            ),
            (
                json!({"n": 1, "f": 7}),
                "input `f` must be a file, not a number",
            ),
        ] {
            assert_eq!(check(fields), Err(refusal.to_owned()));
        }
    }

    #[test]
    fn specs_are_read_back_as_they_are_written() {
        let written = serde_json::to_value(specs()).unwrap();
        assert_eq!(
            serde_json::from_value::<Vec<Spec>>(written).unwrap(),
            specs()
        );
    }
}
