//! The two ends of a socketpair: the worker's, which blocks, and the monitor's, which does not.

use super::{
    FromWorker, ToWorker, WireError,
    frame::{self, Decoder},
    memfd,
};
use nix::{
    cmsg_space,
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    sys::socket::{
        AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
        sendmsg, socketpair,
    },
};
use std::{
    collections::VecDeque,
    io::{IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{Arc, Mutex},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The most descriptors that can travel with one frame (`SCM_MAX_FD` of Linux).
const MAX_DESCRIPTORS: usize = 253;

/// A connected pair of sockets, both close-on-exec.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd), WireError> {
    socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(WireError::system("make a socket pair"))
}

/// Received bytes and descriptors. The descriptors of a frame arrive with its first byte.
#[derive(Debug, Default)]
struct Inbox {
    decoder: Decoder,
    descriptors: VecDeque<OwnedFd>,
}

impl Inbox {
    /// Takes the next message, and the descriptors that belong to it.
    fn next<T>(
        &mut self,
        wants: impl Fn(&mut T) -> usize,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, WireError>
    where
        T: serde::de::DeserializeOwned,
    {
        let Some(mut message) = self.decoder.decode::<T>()? else {
            return Ok(None);
        };
        let count = wants(&mut message);
        if count > self.descriptors.len() {
            return Err(WireError::Descriptor("missing"));
        }
        Ok(Some((message, self.descriptors.drain(..count).collect())))
    }

    /// Receives once; `false` at the end of the stream.
    fn receive(&mut self, socket: RawFd) -> nix::Result<bool> {
        let mut buffer = [0_u8; 64 * 1024];
        let mut space = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<()>(
            socket,
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let mut arrived = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                arrived.extend(fds);
            }
        }
        let count = received.bytes;
        for fd in arrived {
            // SAFETY: the kernel has just created this descriptor for this process; nothing else owns it.
            self.descriptors
                .push_back(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        self.decoder.push(&buffer[..count]);
        Ok(count > 0)
    }
}

fn descriptors_to_worker(message: &mut ToWorker) -> usize {
    match message {
        // The descriptor of the plugin's file.
        ToWorker::Hello { .. } => 1,
        other => shared(other.payloads()),
    }
}

fn descriptors_from_worker(message: &mut FromWorker) -> usize {
    match message {
        FromWorker::Pipes { .. } => 2,
        other => shared(other.payloads()),
    }
}

fn shared(payloads: Vec<&mut super::Bytes>) -> usize {
    payloads
        .iter()
        .filter(|bytes| matches!(bytes, super::Bytes::Shared(_)))
        .count()
}

/// A frame that is being sent.
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

impl Outgoing {
    /// Sends as much as the socket takes now; `true` when all is sent.
    fn send(&mut self, socket: RawFd) -> nix::Result<bool> {
        let fds: Vec<RawFd> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
        let slices = [IoSlice::new(&self.bytes[self.sent..])];
        self.sent += sendmsg::<()>(socket, &slices, control, MsgFlags::MSG_NOSIGNAL, None)?;
        // The descriptors went with the first byte.
        self.descriptors.clear();
        Ok(self.sent == self.bytes.len())
    }
}

/// The lowest number for the worker's own descriptors. Few programs have so many open, so an operation that
/// closes descriptors which it did not open leaves these alone.
const HIGH: RawFd = 200;

/// A close-on-exec duplicate of a descriptor, with a number of at least [`HIGH`].
pub fn high(descriptor: impl AsFd) -> Result<OwnedFd, WireError> {
    let high = fcntl(descriptor, FcntlArg::F_DUPFD_CLOEXEC(HIGH))
        .map_err(WireError::system("duplicate a descriptor"))?;
    // SAFETY: the kernel has just created this descriptor for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(high) })
}

/// The worker's end of the socket. Any thread may send; one receives.
#[derive(Debug)]
pub struct BlockingSocket {
    fd: OwnedFd,
    inbox: Inbox,
    sender: BlockingSender,
}

/// Sends frames from any thread of the worker, one at a time.
#[derive(Debug, Clone)]
pub struct BlockingSender {
    fd: Arc<Mutex<OwnedFd>>,
}

impl BlockingSocket {
    /// Takes over a connected socket.
    pub fn new(fd: OwnedFd) -> Result<Self, WireError> {
        let sender = BlockingSender {
            fd: Arc::new(Mutex::new(high(&fd)?)),
        };
        Ok(Self {
            fd,
            inbox: Inbox::default(),
            sender,
        })
    }

    /// The sending half.
    pub fn sender(&self) -> BlockingSender {
        self.sender.clone()
    }

    /// The next message with its descriptors; `None` if the monitor has closed the socket.
    pub fn recv(&mut self) -> Result<Option<(ToWorker, Vec<OwnedFd>)>, WireError> {
        loop {
            if let Some(message) = self.inbox.next(descriptors_to_worker)? {
                return Ok(Some(message));
            }
            match self.inbox.receive(self.fd.as_raw_fd()) {
                Ok(true) | Err(Errno::EINTR) => {}
                Ok(false) | Err(Errno::ECONNRESET) => return Ok(None),
                Err(error) => return Err(WireError::system("receive from the monitor")(error)),
            }
        }
    }
}

impl BlockingSender {
    /// Sends a message. Its large payloads travel in descriptors, after those in `with`.
    pub fn send(&self, mut message: FromWorker, mut with: Vec<OwnedFd>) -> Result<(), WireError> {
        with.extend(memfd::share(message.payloads())?);
        let bytes = frame::encode(&message)?;
        let fd = self
            .fd
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut outgoing = Outgoing {
            bytes,
            sent: 0,
            descriptors: with,
        };
        loop {
            match outgoing.send(fd.as_raw_fd()) {
                Ok(true) => return Ok(()),
                Ok(false) | Err(Errno::EINTR) => {}
                Err(error) => return Err(WireError::system("send to the monitor")(error)),
            }
        }
    }
}

/// Registers a descriptor with the event loop.
pub fn watched(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, WireError> {
    // SAFETY: an `OwnedFd` keeps its descriptor, the same one, open until it is dropped, and
    // nothing here replaces the value inside the `AsyncFd`.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(|error| WireError::System {
        doing: "watch a descriptor",
        source: error.into(),
    })
}

/// The monitor's end of the socket, as a receiving and a sending half.
pub fn async_socket(fd: OwnedFd) -> Result<(AsyncReader, AsyncWriter), WireError> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(flags))
        .map_err(WireError::system("set up the socket"))?;
    let fd = Arc::new(watched(fd, Interest::READABLE | Interest::WRITABLE)?);
    Ok((
        AsyncReader {
            fd: Arc::clone(&fd),
            inbox: Inbox::default(),
        },
        AsyncWriter { fd },
    ))
}

/// The half that receives from the worker.
#[derive(Debug)]
pub struct AsyncReader {
    fd: Arc<AsyncFd<OwnedFd>>,
    inbox: Inbox,
}

impl AsyncReader {
    /// The next message with its descriptors; `None` if the worker has closed the socket. Cancel-safe.
    pub async fn recv(&mut self) -> Result<Option<(FromWorker, Vec<OwnedFd>)>, WireError> {
        loop {
            if let Some(message) = self.inbox.next(descriptors_from_worker)? {
                return Ok(Some(message));
            }
            let mut ready = self
                .fd
                .readable()
                .await
                .map_err(|source| WireError::System {
                    doing: "watch the socket",
                    source,
                })?;
            let inbox = &mut self.inbox;
            match ready.try_io(|fd| inbox.receive(fd.as_raw_fd()).map_err(Into::into)) {
                Ok(Ok(true)) | Err(_) => {}
                Ok(Ok(false)) if self.inbox.decoder.is_mid_frame() => return Err(WireError::Cut),
                Ok(Ok(false)) => return Ok(None),
                Ok(Err(error)) => match error.kind() {
                    std::io::ErrorKind::Interrupted => {}
                    std::io::ErrorKind::ConnectionReset => return Ok(None),
                    _ => {
                        return Err(WireError::System {
                            doing: "receive from a worker",
                            source: error,
                        });
                    }
                },
            }
        }
    }
}

/// The half that sends to the worker.
#[derive(Debug)]
pub struct AsyncWriter {
    fd: Arc<AsyncFd<OwnedFd>>,
}

impl AsyncWriter {
    /// Sends a message. Its large payloads travel in descriptors, after those in `with`.
    pub async fn send(
        &mut self,
        mut message: ToWorker,
        mut with: Vec<OwnedFd>,
    ) -> Result<(), WireError> {
        with.extend(memfd::share(message.payloads())?);
        let bytes = frame::encode(&message)?;
        let mut outgoing = Outgoing {
            bytes,
            sent: 0,
            descriptors: with,
        };
        loop {
            let mut ready = self
                .fd
                .writable()
                .await
                .map_err(|source| WireError::System {
                    doing: "watch the socket",
                    source,
                })?;
            match ready.try_io(|fd| outgoing.send(fd.as_raw_fd()).map_err(Into::into)) {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(Err(source)) => {
                    return Err(WireError::System {
                        doing: "send to a worker",
                        source,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Bytes, Capture, Limits, Payload, Run};

    fn run(content: Vec<u8>) -> ToWorker {
        ToWorker::Run(Box::new(Run {
            slot: 1,
            task: 2,
            attempt: 1,
            operation: "f".into(),
            declared_domain: "d".into(),
            domain: "d".into(),
            metadata: "{}".into(),
            input: Payload::Raw(Bytes::Inline(content)),
            files: vec![("small".into(), Bytes::Inline(vec![9]))],
            log_level: 3,
            capture: Capture::All,
            limits: Limits::default(),
        }))
    }

    #[tokio::test]
    async fn large_and_small_payloads_arrive_in_order_and_the_end_is_seen() {
        let (ours, theirs) = socket_pair().unwrap();
        let (mut reader, mut writer) = async_socket(ours).unwrap();
        let worker = std::thread::spawn(move || {
            let mut socket = BlockingSocket::new(theirs).unwrap();
            let mut lengths = Vec::new();
            while let Some((ToWorker::Run(run), mut descriptors)) = socket.recv().unwrap() {
                let Payload::Raw(bytes) = run.input else {
                    panic!("raw was sent")
                };
                lengths.push(bytes.into_vec(&mut descriptors).unwrap().len());
            }
            socket
                .sender()
                .send(FromWorker::Goodbye, Vec::new())
                .unwrap();
            lengths
        });
        for length in [10, 1 << 20, 70_000, 0] {
            writer.send(run(vec![7; length]), Vec::new()).await.unwrap();
        }
        writer.send(ToWorker::Goodbye, Vec::new()).await.unwrap();
        let (message, _) = reader.recv().await.unwrap().unwrap();
        assert_eq!(message, FromWorker::Goodbye);
        assert!(reader.recv().await.unwrap().is_none());
        assert_eq!(worker.join().unwrap(), [10, 1 << 20, 70_000, 0]);
    }
}
