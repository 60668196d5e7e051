//! Bytes in a JSON document that may be absent (null), as base64: for `#[serde(with)]`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Bytes(#[serde(with = "super::base64_bytes")] Vec<u8>);

/// Writes bytes as base64 text, `None` as null.
pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, writer: S) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => super::base64_bytes::serialize(bytes, writer),
        None => writer.serialize_none(),
    }
}

/// Reads base64 text, null as `None`.
pub fn deserialize<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Vec<u8>>, D::Error> {
    Ok(Option::<Bytes>::deserialize(reader)?.map(|bytes| bytes.0))
}
