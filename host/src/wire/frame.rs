//! One message as bytes: its length, then bincode. No input or output happens here.

use super::WireError;
use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};

/// The longest frame in bytes. Payloads of more than 64 kB travel in descriptors, so an honest frame is far
/// shorter.
pub const MAX_FRAME: usize = 64 << 20;
const HEADER: usize = 4;

fn options() -> impl Options {
    bincode::DefaultOptions::new().with_limit(MAX_FRAME as u64)
}

/// Encodes a message as a frame: its length, then its bytes.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; HEADER];
    options()
        .serialize_into(&mut frame, message)
        .map_err(|error| match *error {
            bincode::ErrorKind::SizeLimit => WireError::TooLong(MAX_FRAME + 1),
            _ => WireError::Malformed(error),
        })?;
    let length = frame.len() - HEADER;
    let header = u32::try_from(length).map_err(|_| WireError::TooLong(length))?;
    frame[..HEADER].copy_from_slice(&header.to_le_bytes());
    Ok(frame)
}

/// Collects received bytes until they hold a whole frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    read: usize,
}

impl Decoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.read > 0 && self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
        } else if self.read > 1 << 20 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next message, if all of its frame has arrived.
    pub fn decode<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let waiting = &self.buffer[self.read..];
        let Some((header, rest)) = waiting.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(WireError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = options().deserialize(body).map_err(WireError::Malformed)?;
        self.read += HEADER + length;
        Ok(Some(message))
    }

    /// Whether the beginning of an unfinished frame has arrived.
    pub fn is_mid_frame(&self) -> bool {
        self.read < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ToWorker;

    #[test]
    fn frames_survive_any_cut() {
        let messages = [
            ToWorker::Goodbye,
            ToWorker::Scheduled(Ok(7)),
            ToWorker::Scheduled(Err("no".into())),
        ];
        let stream: Vec<u8> = messages.iter().flat_map(|m| encode(m).unwrap()).collect();
        for cut in 0..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part);
                while let Some(message) = decoder.decode::<ToWorker>().unwrap() {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages);
            assert!(!decoder.is_mid_frame());
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_anything_is_allocated() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(
            decoder.decode::<ToWorker>(),
            Err(WireError::TooLong(_))
        ));
    }

    #[test]
    fn garbage_is_an_error() {
        let mut decoder = Decoder::default();
        decoder.push(&3_u32.to_le_bytes());
        decoder.push(&[250, 1, 2]);
        assert!(matches!(
            decoder.decode::<ToWorker>(),
            Err(WireError::Malformed(_))
        ));
    }
}
