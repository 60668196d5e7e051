//! The types that an operation can take and return, and what each of them becomes in a payload.

use crate::{Error, Result, Task, finite};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Map;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    hash::Hash,
    ops::Deref,
};

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

/// A type that one field of an input can have: what an argument beside others is, and a field of a
/// struct with `#[derive(Inputs)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a field of an input",
    label = "not the type of an input field",
    note = "fields are numbers, bool, String, File, DateTime, Moment, or an Option of these; a struct with #[derive(Inputs)] is the only argument beside the task; any other JSON is read with `task.input()`"
)]
pub trait InputField: Sized {
    /// The word of [`SpecType`](crate::spec::SpecType).
    const KIND: &'static str;
    /// Whether it must be given.
    const REQUIRED: bool = true;

    /// Takes the field of this name from an input.
    ///
    /// # Errors
    ///
    /// If the field is missing or of another type.
    fn take(name: &str, fields: &mut Map<String, Value>, task: &Task) -> Result<Self>;
}

/// A type that an operation's only argument can have: that of one field, or a struct with
/// `#[derive(Inputs)]` that stands for all of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an input of an operation",
    label = "not an input type",
    note = "inputs are numbers, bool, String, File, DateTime, Moment, an Option of these, or one struct with #[derive(Inputs)]; any other JSON is read with `task.input()`"
)]
pub trait Input: Sized {
    /// The specs of a struct's fields, as JSON; none: it is one field.
    const SPEC: Option<&'static str>;
    /// Of one field: [`InputField::KIND`].
    const KIND: &'static str = "";
    /// Of one field: [`InputField::REQUIRED`].
    const REQUIRED: bool = true;

    /// Takes the field of this name (a struct: all of its fields) from an input.
    ///
    /// # Errors
    ///
    /// If a field is missing or of another type.
    fn take(name: &str, fields: &mut Map<String, Value>, task: &Task) -> Result<Self>;
}

impl<T: InputField> Input for T {
    const SPEC: Option<&'static str> = None;
    const KIND: &'static str = <T as InputField>::KIND;
    const REQUIRED: bool = <T as InputField>::REQUIRED;

    fn take(name: &str, fields: &mut Map<String, Value>, task: &Task) -> Result<Self> {
        <T as InputField>::take(name, fields, task)
    }
}

/// A type that an operation can return: anything that is written as JSON, `()`, a [`File`] (whose
/// bytes are the raw output), or a struct with `#[derive(Outputs)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an output of an operation",
    label = "not an output type",
    note = "outputs are numbers, bool, String, Value, Vec, Option, maps, File, (), a struct with #[derive(Outputs)], or a Result of these"
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
    /// The word of [`SpecType`](crate::spec::SpecType).
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

/// `3.0` is an integer to everybody but JSON; a double without a fraction is that integer exactly.
fn integral(value: Value) -> Value {
    match value.as_f64() {
        Some(float) if value.is_f64() && float.fract() == 0.0 => match float {
            // The bounds are powers of two: below them, a cast changes nothing.
            0.0..18_446_744_073_709_551_616.0 => Value::from(float as u64),
            -9_223_372_036_854_775_808.0..0.0 => Value::from(float as i64),
            _ => value,
        },
        _ => value,
    }
}

/// Takes a number that may have a fraction; a whole number must be one that the type holds exactly.
fn take_float(name: &str, fields: &mut Map<String, Value>) -> Result<f64> {
    let value = fields
        .remove(name)
        .ok_or_else(|| Error::bad_input(format!("missing required input `{name}`")))?;
    let float = value
        .as_f64()
        .ok_or_else(|| Error::bad_input(format!("input `{name}` must be a number, not {value}")))?;
    match value.is_f64() || exact(&value) == Some(float as i128) {
        true => Ok(float),
        false => Err(Error::bad_input(format!(
            "input `{name}` must be a number that a double holds, not {value}"
        ))),
    }
}

/// A whole number as it is.
fn exact(value: &Value) -> Option<i128> {
    let unsigned = value.as_u64().map(i128::from);
    unsigned.or_else(|| value.as_i64().map(i128::from))
}

macro_rules! json_type {
    ($kind:literal, $wanted:literal: $($type:ty),+) => {$(
        impl InputField for $type {
            const KIND: &'static str = $kind;
            fn take(name: &str, fields: &mut Map<String, Value>, _: &Task) -> Result<Self> {
                take_json(name, fields, $wanted)
            }
        }
        json_output!($kind: $type);
    )+};
}

macro_rules! json_output {
    ($kind:literal: $($type:ty),+) => {$(
        impl OutputField for $type {
            const KIND: &'static str = $kind;
            fn put(self, name: &str, fields: &mut Map<String, Value>, _: &mut Task) -> Result<()> {
                let value = json_of(&format!("output `{name}`"), &self)?;
                fields.insert(name.to_owned(), value);
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
json_output!("number": f32, f64);
json_type!("boolean", "a boolean": bool);
json_type!("string", "a string": String);
json_type!("datetime", "a datetime": DateTime);
json_type!("moment", "a datetime": Moment);

impl InputField for f64 {
    const KIND: &'static str = "number";
    fn take(name: &str, fields: &mut Map<String, Value>, _: &Task) -> Result<Self> {
        take_float(name, fields)
    }
}

impl InputField for f32 {
    const KIND: &'static str = "number";
    fn take(name: &str, fields: &mut Map<String, Value>, _: &Task) -> Result<Self> {
        let double = take_float(name, fields)?;
        let single = double as f32;
        // Decimals are rounded, as a literal of the language is; whole numbers are not.
        let is_changed = double.fract() == 0.0 && f64::from(single) != double;
        match single.is_infinite() || is_changed {
            true => Err(Error::bad_input(format!(
                "input `{name}` must be a number that fits in single precision, not {double}"
            ))),
            false => Ok(single),
        }
    }
}

impl InputField for File {
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

impl Output for File {
    fn save(self, task: &mut Task) -> Result<()> {
        task.save_raw_output(&self.0)
    }
}

impl<T: InputField> InputField for Option<T> {
    const KIND: &'static str = <T as InputField>::KIND;
    const REQUIRED: bool = false;
    fn take(name: &str, fields: &mut Map<String, Value>, task: &Task) -> Result<Self> {
        match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => <T as InputField>::take(name, fields, task).map(Some),
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
    [K: Serialize + Ord, V: Serialize] BTreeMap<K, V>,
    [K: Serialize + Eq + Hash, V: Serialize] HashMap<K, V>,
);

/// `what` (the output, or a field of it) as JSON.
pub(crate) fn json_of(what: &str, value: &(impl Serialize + ?Sized)) -> Result<Value> {
    finite::to_json(value).map_err(|fault| Error::bad_output(format!("{what} {fault}")))
}
