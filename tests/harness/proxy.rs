//! A proxy between a client and the server of the tests: it can fall silent without closing anything,
//! cut its connections, and turn new ones away. It also gives TCP to a server that has a socket only.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Runs until the end of the process; connections end with the test's server or client.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    socket: PathBuf,
    /// Connections below this number forward nothing any more.
    silent_below: AtomicUsize,
    accepted: AtomicUsize,
    turns_away: AtomicBool,
    turned_away: AtomicUsize,
    open: Mutex<Vec<(TcpStream, UnixStream)>>,
}

impl Proxy {
    /// To this Unix socket, from a port of the loopback interface.
    pub(crate) fn to(socket: &Path) -> Self {
        Self::listening(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), socket)
            .expect("there is a port")
    }

    /// As [`Proxy::to`], with an address of IPv6; `None` where this machine has none.
    pub(crate) fn to_by_ipv6(socket: &Path) -> Option<Self> {
        Self::listening(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), socket)
    }

    fn listening(address: SocketAddr, socket: &Path) -> Option<Self> {
        let listener = TcpListener::bind(address).ok()?;
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            socket: socket.to_owned(),
            silent_below: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            turns_away: AtomicBool::new(false),
            turned_away: AtomicUsize::new(0),
            open: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.serve(client);
            }
        });
        Some(Self { port, state })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// From now on what is connected hears nothing and is not heard, as when a cable is pulled. New
    /// connections are served.
    pub(crate) fn fall_silent(&self) {
        let accepted = self.state.accepted.load(Ordering::SeqCst);
        self.state.silent_below.store(accepted, Ordering::SeqCst);
    }

    /// Closes what is connected, and turns new connections away until [`Proxy::resume`].
    pub(crate) fn cut(&self) {
        self.state.turns_away.store(true, Ordering::SeqCst);
        for (client, server) in self.state.open.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Serves new connections again.
    pub(crate) fn resume(&self) {
        self.state.turns_away.store(false, Ordering::SeqCst);
    }

    /// How many connections have been turned away.
    pub(crate) fn turned_away(&self) -> usize {
        self.state.turned_away.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }
}

impl State {
    fn serve(self: &Arc<Self>, client: TcpStream) {
        if self.turns_away.load(Ordering::SeqCst) {
            self.turned_away.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let Ok(server) = UnixStream::connect(&self.socket) else {
            return;
        };
        let number = self.accepted.fetch_add(1, Ordering::SeqCst);
        let copies = (
            client.try_clone().expect("a descriptor"),
            server.try_clone().expect("a descriptor"),
        );
        let (from_client, to_server) = (
            client.try_clone().expect("a descriptor"),
            server.try_clone().expect("a descriptor"),
        );
        self.open.lock().unwrap().push(copies);
        let state = Arc::clone(self);
        thread::spawn(move || {
            state.forward(number, from_client, &to_server);
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let state = Arc::clone(self);
        thread::spawn(move || {
            state.forward(number, server, &client);
            let _ = client.shutdown(Shutdown::Both);
        });
    }

    fn forward<W>(&self, number: usize, mut from: impl Read, mut to: &W)
    where
        for<'w> &'w W: Write,
    {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) | Err(_) => 0,
                Ok(length) => length,
            };
            // What arrives is dropped, and an end is not passed on.
            while number < self.silent_below.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(100));
            }
            if length == 0 || to.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    }
}
