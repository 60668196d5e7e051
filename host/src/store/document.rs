//! JSON documents of tasks on their way into jsonb and back. jsonb keeps every digit of a number, but has
//! no negative zero: it is stored as a zero with more decimals than anybody writes, which the server and
//! other readers take for 0.

use crate::model::number::replace_numbers;
use serde::Serialize as _;
use serde_json::{
    Serializer, Value,
    ser::{CompactFormatter, Formatter},
};
use sqlx::{
    Decode, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef},
    types::Json,
};
use std::io;

/// A negative zero as it is written to jsonb, which would drop its sign: sixty decimals, more than any
/// other double is written with.
const NEGATIVE_ZERO: &str = "0.000000000000000000000000000000000000000000000000000000000000";

/// A JSON document whose numbers come back from jsonb bit for bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Document(pub Value);

/// The text of a document, to be stored as jsonb.
pub fn to_jsonb_text(document: &Value) -> String {
    let mut text = Vec::new();
    document
        .serialize(&mut Serializer::with_formatter(&mut text, ForJsonb))
        .expect("a document is JSON, and memory takes it");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// The text of a document as it was given, from the text that jsonb returns.
pub(super) fn from_jsonb_text(text: String) -> String {
    if !text.contains(NEGATIVE_ZERO) {
        return text;
    }
    replace_numbers(&text, |number| (number == NEGATIVE_ZERO).then_some("-0.0"))
}

/// Writes compact JSON with negative zeros as [`NEGATIVE_ZERO`].
struct ForJsonb;

impl Formatter for ForJsonb {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        if value == 0.0 && value.is_sign_negative() {
            return writer.write_all(NEGATIVE_ZERO.as_bytes());
        }
        CompactFormatter.write_f64(writer, value)
    }
}

impl Type<Postgres> for Document {
    fn type_info() -> PgTypeInfo {
        <Json<Value> as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Document {
    fn array_type_info() -> PgTypeInfo {
        <Json<Value> as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Document {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        // The version of jsonb's binary format.
        buffer.push(1);
        buffer.extend_from_slice(to_jsonb_text(&self.0).as_bytes());
        Ok(IsNull::No)
    }
}

impl<'r> Decode<'r, Postgres> for Document {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let format = value.format();
        let bytes = value.as_bytes()?;
        let text = match format {
            PgValueFormat::Binary => bytes.get(1..).unwrap_or_default(),
            PgValueFormat::Text => bytes,
        };
        let text = from_jsonb_text(std::str::from_utf8(text)?.to_owned());
        Ok(Self(serde_json::from_str(&text)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_negative_zero_is_a_zero_to_others_and_comes_back() {
        let document = json!({"a": [-0.0, 0.0, 1.5], "0.0": NEGATIVE_ZERO, "b": -1});
        let text = to_jsonb_text(&document);
        assert!(
            text.contains(&format!("[{NEGATIVE_ZERO},0.0,1.5]")),
            "{text}"
        );
        let back = from_jsonb_text(text);
        assert_eq!(back, document.to_string());
        let other = from_jsonb_text("[0.00]".to_owned());
        assert_eq!(other, "[0.00]");
    }
}
