//! Between monitor and worker: frames over a socketpair, a page of shared memory, and markers in
//! the output pipes. Everything here is plain and blocking but the monitor's end of the socket.

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
pub use page::{Page, SlotState};
pub use socket::{
    AsyncReader, AsyncWriter, BlockingSender, BlockingSocket, async_socket, high, socket_pair,
    watched,
};

/// What can go wrong between monitor and worker.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The system could not do it.
    #[error("could not {doing}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A frame is longer than any honest one: at least so many bytes.
    #[error("a frame of {0} bytes or more is too long (payloads may be, metadata may not)")]
    TooLong(usize),
    /// A frame cannot be read.
    #[error("a frame cannot be read")]
    Malformed(#[source] bincode::Error),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
    /// Bytes were to come as a descriptor, and none did, or not a sealed one.
    #[error("the payload's descriptor is {0}")]
    Descriptor(&'static str),
}

impl WireError {
    /// Whether the other end is gone.
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
