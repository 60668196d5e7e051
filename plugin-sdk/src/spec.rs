//! What an operation declares of its inputs and outputs, and the check against it. The host uses the
//! same check before it queues a task; `crate::io` holds the types that an author uses.

use crate::io::DateTime;
use chrono::{Datelike, FixedOffset, NaiveDate, NaiveDateTime};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

/// The type of a field, in a declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecType {
    /// A JSON number: an integer of 64 bits, with or without a sign, or else what a double holds.
    Number,
    /// A JSON boolean.
    Boolean,
    /// A JSON string.
    String,
    /// The content of a file, which is stored beside the fields.
    File,
    /// A date and time in RFC 3339; without an offset it is in UTC.
    Datetime,
    /// A datetime, or an expression that is resolved to one when the task is queued.
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

/// The declaration of one input or output field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The name of the field.
    pub name: String,
    /// The type of the field.
    pub r#type: SpecType,
    /// Whether the field must be given.
    pub required: bool,
    /// The only allowed values; `None`: every value of the type is allowed.
    pub choices: Option<Vec<Value>>,
    /// The value of the field if it is not given.
    pub default: Option<Value>,
}

/// The error for a field that does not fit its declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecError {
    /// The name of the field.
    pub field: String,
    subject: String,
    fault: String,
}

impl SpecError {
    /// The message with the name of the operation: ``input `a` of `add` must be …``.
    pub fn of(&self, operation: &str) -> String {
        format!("{} of `{operation}`{}", self.subject, self.fault)
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.subject, self.fault)
    }
}

impl std::error::Error for SpecError {}

/// Checks declarations by themselves: the names of fields must differ, and every default and choice must be
/// a value that its field can have.
///
/// # Errors
///
/// The first field that does not fit; the message names it.
pub fn check_specs(specs: &[Spec]) -> Result<(), SpecError> {
    for (place, spec) in specs.iter().enumerate() {
        let fault = |subject: String| SpecError {
            field: spec.name.clone(),
            subject,
            fault: String::new(),
        };
        if specs[..place]
            .iter()
            .any(|earlier| earlier.name == spec.name)
        {
            return Err(fault(format!("two fields are called `{}`", spec.name)));
        }
        let unlimited = Spec {
            choices: None,
            ..spec.clone()
        };
        let choices = spec
            .choices
            .iter()
            .flatten()
            .map(|one| (&unlimited, "a choice", one));
        let default = spec.default.iter().map(|one| (spec, "the default", one));
        for (spec, what, value) in choices.chain(default) {
            checked(spec, value)
                .map_err(|why| fault(format!("{what} of field `{}` {why}", spec.name)))?;
        }
    }
    Ok(())
}

/// Checks inputs against declarations, and adds defaults. A moment stays an expression, and a file stays
/// its placeholder.
///
/// # Errors
///
/// The first field that is unknown, missing, of another type or not among its choices; the message
/// names it.
pub fn validate(
    specs: &[Spec],
    fields: &Map<String, Value>,
) -> Result<Map<String, Value>, SpecError> {
    check_fields("input", specs, fields, &mut as_it_is)
}

/// Takes what stands for a file among the fields.
pub(crate) fn as_it_is(_: &str, value: &Value) -> Result<Value, String> {
    match value {
        Value::String(_) | Value::Object(_) => Ok(value.clone()),
        other => Err(format!("must be a file, not {}", kind(other))),
    }
}

/// As [`validate`], for fields that messages call `word` (`input`, `output`); `take_file` turns the value
/// of a file field of this name into what is stored of it.
pub(crate) fn check_fields(
    word: &str,
    specs: &[Spec],
    fields: &Map<String, Value>,
    take_file: &mut dyn FnMut(&str, &Value) -> Result<Value, String>,
) -> Result<Map<String, Value>, SpecError> {
    let fault = |field: &str, what: &str, fault: String| SpecError {
        field: field.to_owned(),
        subject: format!("{what} `{field}`"),
        fault,
    };
    // The first by its bytes, in whatever order the map keeps them.
    if let Some(unknown) = fields
        .keys()
        .filter(|name| specs.iter().all(|spec| spec.name != **name))
        .min()
    {
        let known: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let known = if known.is_empty() {
            "there are none".to_owned()
        } else {
            format!("known: {}", known.join(", "))
        };
        return Err(fault(
            unknown,
            &format!("unknown {word}"),
            format!(" ({known})"),
        ));
    }
    let mut complete = Map::new();
    for spec in specs {
        let name = &spec.name;
        let given = fields.get(name).filter(|value| !value.is_null());
        match given.or(spec.default.as_ref()) {
            Some(value) => {
                let value = match spec.r#type {
                    SpecType::File => take_file(name, value),
                    _ => checked(spec, value),
                };
                let value = value.map_err(|why| fault(name, word, format!(" {why}")))?;
                complete.insert(name.clone(), value);
            }
            None if spec.required => {
                let what = format!("missing required {word}");
                return Err(fault(name, &what, String::new()));
            }
            None => {}
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
        Some(choices) if !choices.iter().any(|choice| is_same(choice, value)) => {
            let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
            Err(format!(
                "must be one of {}, not {value}",
                choices.join(", ")
            ))
        }
        _ => Ok(stored),
    }
}

/// Whether two values are the same: `1` and `1.0` are one number, while two whole numbers that differ are
/// never the same, however close they are.
fn is_same(a: &Value, b: &Value) -> bool {
    let is_whole = |value: &Value| value.is_i64() || value.is_u64();
    let is_one_number = |whole: &Value, other: &Value| {
        let number = whole.as_i64().map(i128::from);
        let number = number.or_else(|| whole.as_u64().map(i128::from));
        let other = other.as_f64().filter(|other| other.fract() == 0.0);
        other.is_some_and(|other| number == Some(other as i128))
    };
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (is_whole(a), is_whole(b)) {
            (true, true) => a == b,
            (true, false) => is_one_number(a, b),
            (false, true) => is_one_number(b, a),
            (false, false) => x.as_f64() == y.as_f64(),
        },
        _ => a == b,
    }
}

/// A date, or a date and a time of day, of the years 1 to 9999; without an offset it is in UTC.
pub fn parse_datetime(text: &str) -> Option<DateTime> {
    let (clock, offset) = read_datetime(text)?;
    let time = match offset {
        Some(offset) => clock.and_local_timezone(offset).single()?.to_utc(),
        None => clock.and_utc(),
    };
    (1..=9999).contains(&time.year()).then_some(time)
}

/// What clocks show in a text such as `2026-5-1`, `2026-05-01 09:00` or
/// `2026-05-01T09:00:00.5+02:00`, and the offset from UTC of those clocks, if it is told. `rework`'s
/// own function `datetime` in SQL reads the same.
pub fn read_datetime(text: &str) -> Option<(NaiveDateTime, Option<FixedOffset>)> {
    let mut rest = Rest(text.trim());
    let year = rest.number(4, 4)?;
    rest.one_of("-")?;
    let month = rest.number(1, 2)?;
    rest.one_of("-")?;
    let date = NaiveDate::from_ymd_opt(year.cast_signed(), month, rest.number(1, 2)?)?;
    let date = (1..=9999).contains(&date.year()).then_some(date)?;
    if rest.0.is_empty() {
        return Some((date.and_hms_opt(0, 0, 0)?, None));
    }
    rest.one_of(" Tt")?;
    let hour = rest.number(1, 2)?;
    rest.one_of(":")?;
    let minute = rest.number(1, 2)?;
    let (mut second, mut micros) = (0, 0);
    if rest.one_of(":").is_some() {
        second = rest.number(1, 2)?;
        if rest.one_of(".").is_some() {
            micros = rest.micros()?;
        }
    }
    let clock = date.and_hms_micro_opt(hour, minute, second, micros)?;
    rest.0 = rest.0.trim_start();
    let offset = match rest.one_of("Zz+-") {
        None => None,
        Some('+') => Some(rest.offset(1)?),
        Some('-') => Some(rest.offset(-1)?),
        Some(_) => FixedOffset::east_opt(0),
    };
    rest.0.is_empty().then_some((clock, offset))
}

/// The rest of a text that is being read.
struct Rest<'t>(&'t str);

impl<'t> Rest<'t> {
    /// Reads the next character, if it is one of these.
    fn one_of(&mut self, characters: &str) -> Option<char> {
        let next = self
            .0
            .chars()
            .next()
            .filter(|next| characters.contains(*next))?;
        self.0 = &self.0[next.len_utf8()..];
        Some(next)
    }

    /// Reads a natural number of `fewest` to `most` digits.
    fn number(&mut self, fewest: usize, most: usize) -> Option<u32> {
        let digits = self.digits();
        let length = digits.len().min(most);
        let number = (length >= fewest).then(|| digits[..length].parse().ok())??;
        self.0 = &self.0[length..];
        Some(number)
    }

    /// Reads the decimals of a second as microseconds; digits after the sixth are ignored.
    fn micros(&mut self) -> Option<u32> {
        let digits = self.digits();
        self.0 = &self.0[digits.len()..];
        let six: String = digits.chars().chain("000000".chars()).take(6).collect();
        (!digits.is_empty()).then(|| six.parse().ok())?
    }

    /// Reads `02:00` or `0200` after its sign; at most the largest offset that Postgres accepts.
    fn offset(&mut self, sign: i32) -> Option<FixedOffset> {
        let hours = self.number(2, 2).filter(|hours| *hours < 16)?;
        let _ = self.one_of(":");
        let minutes = self.number(2, 2).filter(|minutes| *minutes < 60)?;
        FixedOffset::east_opt(sign * (hours * 60 + minutes).cast_signed() * 60)
    }

    fn digits(&self) -> &'t str {
        let end = self.0.find(|c: char| !c.is_ascii_digit());
        &self.0[..end.unwrap_or(self.0.len())]
    }
}

/// RFC 3339 in UTC, with no more decimals than needed, up to six.
pub fn rfc3339(time: DateTime) -> String {
    let text = time.format("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    format!("{}Z", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The JSON type of a value with its article, for messages.
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
    fn a_number_is_one_number() {
        let spec = |choices: Value| -> Vec<Spec> {
            serde_json::from_value(json!([
                {"name": "n", "type": "number", "required": true, "choices": choices, "default": null},
            ]))
            .unwrap()
        };
        let given = |value: Value| Map::from_iter([("n".to_owned(), value)]);
        assert!(validate(&spec(json!([1, 2])), &given(json!(1.0))).is_ok());
        assert!(validate(&spec(json!([1, 2])), &given(json!(1.5))).is_err());
        assert!(validate(&spec(json!([1.0, 2.5])), &given(json!(1))).is_ok());
        let large = spec(json!([u64::MAX]));
        assert!(validate(&large, &given(json!(u64::MAX))).is_ok());
        assert!(validate(&large, &given(json!(u64::MAX - 1))).is_err());
        assert!(validate(&large, &given(json!(u64::MAX as f64))).is_err());
    }

    #[test]
    fn specs_that_contradict_themselves_are_told() {
        for (spec, fault) in [
            (
                json!({"name": "t", "type": "datetime", "required": false, "choices": null, "default": "soon"}),
                "the default of field `t` is not a datetime: `soon`",
            ),
            (
                json!({"name": "o", "type": "string", "required": false, "choices": ["a"], "default": "b"}),
                "the default of field `o` must be one of \"a\", not \"b\"",
            ),
            (
                json!({"name": "n", "type": "number", "required": false, "choices": [1, "2"], "default": null}),
                "a choice of field `n` must be a number, not a string",
            ),
        ] {
            let spec: Spec = serde_json::from_value(spec).unwrap();
            assert_eq!(check_specs(&[spec]).unwrap_err().to_string(), fault);
        }
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
