//! The communication between monitor and worker: frames over a socketpair, a page of shared memory, and
//! markers in the output pipes. Everything here blocks, except the monitor's end of the socket.

mod crash;
pub mod frame;
mod line;
pub mod marker;
mod memfd;
mod message;
mod page;
mod socket;

pub use crash::Crash;
pub use message::{
    Bytes, Capture, Failure, Finished, FromWorker, Limits, Payload, PluginFile, Run, ToWorker,
    WIRE_VERSION,
};
pub use page::{Page, SelfEnd, SlotState, boottime};
pub use socket::{
    AsyncReader, AsyncWriter, BlockingSender, BlockingSocket, async_socket, high, socket_pair,
    watched,
};

use std::os::fd::RawFd;

/// The descriptor at which a worker finds its socket when it is started.
pub const SOCKET_FD: RawFd = 3;
/// The descriptor at which a worker finds its shared page when it is started.
pub const PAGE_FD: RawFd = 4;

/// An error of the communication between monitor and worker.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A system call failed.
    #[error("could not {doing}")]
    System {
        /// What was attempted.
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// A frame has at least this many bytes, which is more than the limit.
    #[error("a frame of {0} bytes or more is too long (payloads may be, metadata may not)")]
    TooLong(usize),
    /// A frame cannot be decoded.
    #[error("a frame cannot be read")]
    Malformed(#[source] bincode::Error),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
    /// A payload's descriptor is missing, or is not a sealed memfd.
    #[error("the payload's descriptor is {0}")]
    Descriptor(&'static str),
}

impl WireError {
    /// Whether the other end has closed the connection.
    pub fn is_hang_up(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            Self::System { source, .. } => matches!(
                source.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::NotConnected
            ),
            _ => false,
        }
    }

    pub(crate) fn system(doing: &'static str) -> impl Fn(nix::errno::Errno) -> Self {
        move |error| Self::System {
            doing,
            source: error.into(),
        }
    }
}
