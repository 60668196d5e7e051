//! Large payloads travel as descriptors of sealed memory, so that neither side copies them through the
//! socket and neither can change them while the other reads.

use super::{Bytes, WireError};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::OwnedFd,
};

/// Payloads of more bytes travel in a memfd.
const INLINE: usize = 64 * 1024;

fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// Moves the large payloads of a message into memfds, which are returned in the order of the payloads.
pub(super) fn share(payloads: Vec<&mut Bytes>) -> Result<Vec<OwnedFd>, WireError> {
    let mut descriptors = Vec::new();
    for payload in payloads {
        if let Bytes::Inline(content) = payload
            && content.len() > INLINE
        {
            descriptors.push(sealed(content)?);
            *payload = Bytes::Shared(content.len() as u64);
        }
    }
    Ok(descriptors)
}

fn sealed(content: &[u8]) -> Result<OwnedFd, WireError> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create("rework-payload", flags)
        .map_err(WireError::system("make memory for a payload"))?;
    let mut file = File::from(fd);
    file.write_all(content)
        .map_err(|source| WireError::System {
            doing: "fill the memory of a payload",
            source,
        })?;
    let fd = OwnedFd::from(file);
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals())).map_err(WireError::system("seal a payload"))?;
    Ok(fd)
}

impl Bytes {
    /// The bytes. Shared bytes are read from the first of `descriptors`, which came with the message.
    pub fn into_vec(self, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<u8>, WireError> {
        match self {
            Self::Inline(content) => Ok(content),
            Self::Shared(length) => {
                if descriptors.is_empty() {
                    return Err(WireError::Descriptor("missing"));
                }
                read_sealed(descriptors.remove(0), length)
            }
        }
    }
}

fn read_sealed(fd: OwnedFd, length: u64) -> Result<Vec<u8>, WireError> {
    let found = fcntl(&fd, FcntlArg::F_GET_SEALS)
        .map_err(|_| WireError::Descriptor("no memory that can be sealed"))?;
    if !SealFlag::from_bits_retain(found).contains(seals()) {
        return Err(WireError::Descriptor("not sealed"));
    }
    let read = |source| WireError::System {
        doing: "read a payload",
        source,
    };
    let mut file = File::from(fd);
    file.rewind().map_err(read)?;
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(length).read_to_end(&mut content).map_err(read)?;
    if content.len() as u64 != length {
        return Err(WireError::Descriptor("shorter than announced"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_is_shared_and_comes_back() {
        let content: Vec<u8> = (0..INLINE + 7).map(|n| n as u8).collect();
        let mut large = Bytes::Inline(content.clone());
        let mut small = Bytes::Inline(vec![1, 2]);
        let mut descriptors = share(vec![&mut small, &mut large]).unwrap();
        assert_eq!(descriptors.len(), 1);
        assert_eq!(large, Bytes::Shared(content.len() as u64));
        assert_eq!(small.into_vec(&mut descriptors).unwrap(), [1, 2]);
        assert_eq!(large.clone().into_vec(&mut descriptors).unwrap(), content);
        assert!(large.into_vec(&mut descriptors).is_err());
    }

    #[test]
    fn unsealed_memory_is_refused() {
        let fd = memfd_create("open", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let refused = Bytes::Shared(1).into_vec(&mut vec![fd]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the payload's descriptor is not sealed"
        );
    }
}
