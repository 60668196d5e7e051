//! Looks for floats that JSON cannot express in anything that can be serialized.

use serde::ser::{self, Serialize};
use serde_json::Value;
use std::fmt::{self, Display};

/// The error for a float that JSON cannot express.
#[derive(Debug)]
pub(crate) struct NotFinite(String);

impl Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotFinite {}

impl ser::Error for NotFinite {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// A value as JSON, or an error message to be put after the value's name.
///
/// serde_json writes `null` for a float that JSON cannot express (NaN, infinity), and a reader would take
/// the result for a missing one; here it is an error.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Result<Value, String> {
    let json = serde_json::to_value(value)
        .map_err(|error| format!("cannot be written as JSON: {error}"))?;
    if has_null(&json) {
        check(value).map_err(|float| {
            format!("holds {float}, which JSON cannot express: use null, text or raw bytes instead")
        })?;
    }
    Ok(json)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

/// Checks that every float in `value` is finite; the error names the first that is not.
pub(crate) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), NotFinite> {
    value.serialize(Walk)
}

/// A serializer that only visits values, and writes nothing.
struct Walk;

type Ended = Result<(), NotFinite>;

/// Methods for values that contain no float.
macro_rules! pass {
    ($($method:ident($($type:ty),*);)+) => {$(
        fn $method(self, $(_: $type),*) -> Ended {
            Ok(())
        }
    )+};
}

/// Methods for values that contain others.
macro_rules! open {
    ($($method:ident($($type:ty),*);)+) => {$(
        fn $method(self, $(_: $type),*) -> Result<Self, NotFinite> {
            Ok(self)
        }
    )+};
}

/// One trait of `serde::ser` for values that contain others, each of which is visited.
macro_rules! compound {
    ($($trait:ident: $($method:ident($($type:ty),*)),+;)+) => {$(
        impl ser::$trait for Walk {
            type Ok = ();
            type Error = NotFinite;
            $(fn $method<T: Serialize + ?Sized>(&mut self, $(_: $type,)* value: &T) -> Ended {
                check(value)
            })+
            fn end(self) -> Ended {
                Ok(())
            }
        }
    )+};
}

compound! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key(), serialize_value();
    SerializeStruct: serialize_field(&'static str);
    SerializeStructVariant: serialize_field(&'static str);
}

impl ser::Serializer for Walk {
    type Ok = ();
    type Error = NotFinite;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn serialize_f32(self, value: f32) -> Ended {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Ended {
        if value.is_finite() {
            Ok(())
        } else {
            Err(NotFinite(value.to_string()))
        }
    }

    pass! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    open! {
        serialize_seq(Option<usize>);
        serialize_tuple(usize);
        serialize_tuple_struct(&'static str, usize);
        serialize_tuple_variant(&'static str, u32, &'static str, usize);
        serialize_map(Option<usize>);
        serialize_struct(&'static str, usize);
        serialize_struct_variant(&'static str, u32, &'static str, usize);
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Ended {
        check(value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Ended {
        check(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Ended {
        check(value)
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use std::collections::BTreeMap;

    #[test]
    fn floats_are_found_wherever_they_hide() {
        let nested = BTreeMap::from([("a", vec![Some((1, 2.5)), None, Some((3, f64::NAN))])]);
        assert_eq!(check(&nested).unwrap_err().to_string(), "NaN");
        assert_eq!(check(&f32::NEG_INFINITY).unwrap_err().to_string(), "-inf");
        assert!(check(&(1, "NaN", None::<f64>, [0.5])).is_ok());
    }
}
