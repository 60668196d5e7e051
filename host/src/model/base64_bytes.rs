//! Bytes in a JSON document, as base64: for `#[serde(with)]`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Writes bytes as base64 text.
pub fn serialize<S: Serializer>(bytes: &[u8], writer: S) -> Result<S::Ok, S::Error> {
    writer.serialize_str(&STANDARD.encode(bytes))
}

/// Reads base64 text.
pub fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(reader)?;
    STANDARD.decode(text).map_err(D::Error::custom)
}
