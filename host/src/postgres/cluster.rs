//! One cluster in one directory: created on first use, started when it is not running, and kept running
//! while a [`Lease`] of it exists.
//!
//! ```text
//! DIR/            0755, of the server's user; the socket is here
//!   data/         the cluster itself; made as data.new, then renamed
//!   start.lock    held while somebody makes, starts or stops it
//!   users.lock    shared by its users; the keeper stops the server when nobody holds it
//!   server.log    what the server says
//!   kept          is there: the server stays up without users
//! ```

use super::{
    Error, Status,
    binaries::Binaries,
    keeper,
    program::{has_failed, logged_reason, run},
    user::ServerUser,
};
use crate::{here, proc::Stat};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::signal::kill,
    unistd::{Pid, chown},
};
use std::{
    env,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The port, which only names the socket. It is always given, because clients and server would otherwise
/// take it from `PGPORT`.
const PORT: &str = "5432";
/// The longest path of a Unix socket in bytes (Linux).
const SOCKET_LIMIT: usize = 107;
/// A server that after this time has no process and has logged no reason does not start.
const NO_PROCESS_LIMIT: Duration = Duration::from_secs(10);
/// The file that marks a server that stays up without users.
const KEPT: &str = "kept";
/// The directory in which a cluster is created before it gets its name.
const UNFINISHED: &str = "data.new";
/// The file that every user of the server holds a shared lock on.
pub(super) const USERS_LOCK: &str = "users.lock";
/// How long a server may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the remains of a killed server may prevent a new start.
const PATIENCE: Duration = Duration::from_secs(15);
const SETTINGS: &str = "
# Written by rework when it made this cluster; yours to change.
listen_addresses = ''
port = 5432
unix_socket_permissions = 0777
max_connections = 200
shared_buffers = 128MB
max_wal_size = 2GB
log_min_messages = warning
log_line_prefix = '%m [%p] '
";

/// An embedded cluster, running or not.
#[derive(Debug, Clone)]
pub struct Cluster {
    directory: PathBuf,
}

/// Keeps the server running while it exists.
#[derive(Debug)]
pub struct Lease {
    _users: Flock<File>,
}

impl Cluster {
    /// The cluster in this directory, which must be absolute.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The user's own cluster: in `/var/lib/rework/postgres` as root, else below the user's data directory.
    pub fn default_location() -> Result<Self, Error> {
        if nix::unistd::geteuid().is_root() {
            return Ok(Self::at("/var/lib/rework/postgres".into()));
        }
        let of = |name| {
            env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let data = of("XDG_DATA_HOME").or_else(|| Some(here::home()?.join(".local/share")));
        let data = data.ok_or(Error::Homeless)?;
        Ok(Self::at(data.join("rework/postgres")))
    }

    /// The directory of the cluster.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the cluster has been created.
    pub fn exists(&self) -> bool {
        self.data().join("PG_VERSION").exists()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{PORT}"))
    }

    /// The URL of the cluster, which psql and every driver understand.
    pub fn url(&self) -> String {
        let mut host = String::new();
        for byte in self.directory.to_string_lossy().bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    host.push(char::from(byte));
                }
                _ => host += &format!("%{byte:02X}"),
            }
        }
        format!("postgresql://postgres@{host}:{PORT}/postgres")
    }

    /// The cluster that a URL leads to, if it is an embedded one: an alias of the configuration may contain
    /// the result of [`Cluster::url`].
    pub fn of_url(url: &str) -> Option<Self> {
        let directory = socket_directory(url)?;
        let cluster = Self::at(std::path::absolute(directory).ok()?);
        // Other servers have no such files beside their socket.
        let is_ours = cluster.exists() && cluster.directory.join(USERS_LOCK).is_file();
        is_ours.then_some(cluster)
    }

    /// Keeps the server running without users until [`Cluster::stop`].
    pub fn keep(&self) -> Result<(), Error> {
        let path = self.directory.join(KEPT);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        match made {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Error::system(format!("make {}", path.display()))(error)),
        }
    }

    /// Whether the server stays up without users.
    pub fn is_kept(&self) -> bool {
        self.directory.join(KEPT).symlink_metadata().is_ok()
    }

    /// How long the server stays up without users otherwise.
    pub fn linger(&self) -> Duration {
        keeper::linger()
    }

    fn do_not_keep(&self) -> Result<(), Error> {
        let path = self.directory.join(KEPT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::system(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Creates the cluster if there is none, starts the server if it is not running, and keeps it running.
    /// Safe if many processes do it at once, and after a crash at any moment.
    pub fn ensure_running(&self) -> Result<Lease, Error> {
        let socket = self.socket();
        let length = socket.as_os_str().len();
        if length > SOCKET_LIMIT {
            return Err(Error::PathTooLong {
                path: socket,
                length,
                limit: SOCKET_LIMIT,
            });
        }
        let user = ServerUser::find()?;
        self.make_directory(&user)?;
        // The shared lock comes first: a keeper that is about to stop the server then releases the start
        // lock, and this process starts the server again; a keeper that comes later sees the lock.
        let users = self.lock(USERS_LOCK, FlockArg::LockShared)?;
        if !self.answers() {
            let _start = self.lock("start.lock", FlockArg::LockExclusive)?;
            if !self.answers() {
                let binaries = Binaries::find()?;
                if !self.data().join("PG_VERSION").exists() {
                    self.make(&binaries, &user)?;
                }
                self.start(&binaries, &user)?;
            }
        }
        Ok(Lease { _users: users })
    }

    fn make_directory(&self, user: &ServerUser) -> Result<(), Error> {
        let failed = |source: io::Error| Error::MakeDirectory {
            path: self.directory.clone(),
            source,
        };
        if let Some(file) = self.file_in_the_way() {
            return Err(Error::NoDirectory(file));
        }
        if !self.directory.is_dir() {
            fs::create_dir_all(&self.directory).map_err(failed)?;
            let open = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&self.directory, open).map_err(failed)?;
        } else if self.is_occupied().map_err(failed)? {
            return Err(Error::Occupied(self.directory.clone()));
        }
        if user.is_other {
            user.check_reach(&self.directory)?;
            chown(&self.directory, Some(user.user.uid), Some(user.user.gid))
                .map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }

    /// A file at the path of the directory, or at one of its parents.
    fn file_in_the_way(&self) -> Option<PathBuf> {
        let existing = self.directory.ancestors().find(|path| path.exists())?;
        (!existing.is_dir()).then(|| existing.to_owned())
    }

    /// Whether the directory contains files that belong to no cluster. The first file of a cluster is a
    /// lock, which is created under another name beside it.
    fn is_occupied(&self) -> std::io::Result<bool> {
        // A directory in which the creation of a cluster was interrupted counts as a cluster.
        if self.directory.join(USERS_LOCK).exists() || self.directory.join(UNFINISHED).exists() {
            return Ok(false);
        }
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            if name != USERS_LOCK && !name.to_string_lossy().starts_with(".tmp") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn lock(&self, name: &str, how: FlockArg) -> Result<Flock<File>, Error> {
        let path = self.directory.join(name);
        let doing = || format!("lock {}", path.display());
        let file = self.lock_file(&path).map_err(Error::system(doing()))?;
        Flock::lock(file, how).map_err(|(_, error)| Error::System {
            doing: doing(),
            source: error.into(),
        })
    }

    /// Creates or opens a file that every user of the cluster can lock. The directory belongs to the
    /// server's user, who could put a symbolic link there: links are not followed, and permissions are set
    /// only on a file that has no name yet.
    fn lock_file(&self, path: &Path) -> io::Result<File> {
        loop {
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path);
            match opened {
                Ok(file) if file.metadata()?.is_file() => return Ok(file),
                Ok(_) => return Err(io::Error::other("it is not a regular file")),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let fresh = tempfile::NamedTempFile::new_in(&self.directory)?;
            // The keeper locks it too, as the server's user.
            let everybody = fs::Permissions::from_mode(0o666);
            fresh.as_file().set_permissions(everybody)?;
            match fresh.persist_noclobber(path) {
                Ok(file) => return Ok(file),
                // Another process has created it meanwhile.
                Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.error),
            }
        }
    }

    /// Whether the server accepts connections: its pid file says so, and its process runs. If the process
    /// cannot be seen, as in another process namespace, the server is asked for a connection, which costs it
    /// some milliseconds.
    pub(super) fn answers(&self) -> bool {
        self.pid_file().is_some_and(|(_, ready)| ready) && (self.pid().is_some() || self.listens())
    }

    /// Whether a process listens on the socket: a server that starts, serves or stops. The socket of a dead
    /// server refuses connections.
    fn listens(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.socket()).is_ok()
    }

    /// Whether a server of another process namespace runs. PostgreSQL's programs would search for its
    /// process id in this namespace, take the server for dead, and start a second one on the same files.
    fn is_elsewhere(&self) -> bool {
        self.listens() && self.pid().is_none()
    }

    /// The process id, and whether the server is ready, according to `postmaster.pid`.
    fn pid_file(&self) -> Option<(i32, bool)> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        Some((
            pid,
            text.lines()
                .nth(7)
                .is_some_and(|line| line.trim() == "ready"),
        ))
    }

    /// The process id of the server, if it runs. After a crash of the machine, the id in the file may
    /// belong to another process.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pid_file()
            .map(|(pid, _)| pid)
            .filter(|pid| is_alive(*pid) && self.is_server(*pid))
    }

    /// Whether a process is the server: its working directory is the data directory, which no other process
    /// has a reason to be in.
    fn is_server(&self, pid: i32) -> bool {
        let identity = |path: &Path| fs::metadata(path).map(|of| (of.dev(), of.ino()));
        let place = identity(Path::new(&format!("/proc/{pid}/cwd")));
        match (place, identity(&self.data())) {
            (Ok(place), Ok(data)) => place == data,
            // The process of another user cannot be inspected further, so its name has to do; signals to it
            // would fail anyway.
            (Err(error), _) if error.kind() == io::ErrorKind::PermissionDenied => {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name.trim() == "postgres")
            }
            _ => false,
        }
    }

    /// Runs `initdb` in a temporary directory, which is then renamed: a crash leaves no half-made cluster.
    #[expect(
        clippy::disallowed_methods,
        reason = "this module runs the server's programs"
    )]
    fn make(&self, binaries: &Binaries, user: &ServerUser) -> Result<(), Error> {
        let fresh = self.directory.join(UNFINISHED);
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(Error::system(format!(
                "remove the unfinished {}",
                fresh.display()
            )))?;
        }
        let mut initdb = Command::new(binaries.program("initdb"));
        initdb
            .args([
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=peer",
                "-D",
            ])
            .arg(&fresh);
        run("initdb", user, &mut initdb)?;
        let write = |name: &str, text: &str, how: How| {
            let path = fresh.join(name);
            write_owned(&path, text, how, user)
                .map_err(Error::system(format!("write {}", path.display())))
        };
        let caller = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .ok()
            .flatten();
        let caller = caller.map_or_else(|| user.user.name.clone(), |caller| caller.name);
        write("pg_hba.conf", "local all all peer map=rework\n", How::Anew)?;
        // Whoever created the cluster, and the user that runs it, may log in as its superuser; nobody else
        // may.
        let map = format!(
            "rework {caller} postgres\nrework {} postgres\n",
            user.user.name
        );
        write("pg_ident.conf", &map, How::Anew)?;
        write("postgresql.conf", SETTINGS, How::Behind)?;
        fs::rename(&fresh, self.data()).map_err(Error::system("put the new cluster in its place"))
    }

    /// Starts the server and the keeper through a process that ends at once, so that neither is a child of
    /// this process.
    #[expect(
        clippy::disallowed_methods,
        reason = "this module runs the server's programs"
    )]
    fn start(&self, binaries: &Binaries, user: &ServerUser) -> Result<(), Error> {
        let log = self.directory.join("server.log");
        let mut pg_ctl = Command::new(binaries.program("pg_ctl"));
        pg_ctl
            .arg("start")
            .args(["--no-wait", "--silent", "-D"])
            .arg(self.data())
            .arg("-l")
            .arg(&log)
            .args(["-o", &server_options(&self.directory)]);
        let began = Instant::now();
        if self.wait_for_elsewhere(began + PATIENCE)? {
            return Ok(());
        }
        loop {
            let said = fs::metadata(&log).map_or(0, |metadata| metadata.len());
            run("pg_ctl", user, &mut pg_ctl)?;
            let Err(words) = self.wait_until_ready(began + START_LIMIT, &log, said) else {
                if let Err(error) = keeper::start(&self.directory, user) {
                    // The server runs, which is what was asked for; without a keeper it only stays up.
                    let place = self.directory.display();
                    tracing::warn!(
                        "nobody will stop the server in {place} when it is idle: {error}"
                    );
                }
                return Ok(());
            };
            // A killed server prevents a new start until its parent has reaped it and its backends have
            // noticed.
            let in_the_way = words.contains("postmaster.pid") || words.contains("shared memory");
            if !in_the_way || began.elapsed() > PATIENCE {
                return Err(Error::Program {
                    program: "postgres",
                    words,
                });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits for a server of another process namespace that starts or stops. Returns whether it accepts
    /// connections; `false`: it is gone. While this process holds the start lock, only the keeper of that
    /// namespace stops the server.
    fn wait_for_elsewhere(&self, deadline: Instant) -> Result<bool, Error> {
        while self.is_elsewhere() {
            if self.answers() {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Err(Error::Elsewhere(self.directory.clone()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(false)
    }

    /// Waits until the server accepts connections. Otherwise returns what it has logged after the first
    /// `said` bytes of its log.
    fn wait_until_ready(&self, deadline: Instant, log: &Path, said: u64) -> Result<(), String> {
        let began = Instant::now();
        let mut pause = Duration::from_millis(2);
        while !self.answers() {
            // On a busy machine it takes a while until the process exists; a server that has ended has
            // logged the reason before.
            let has_ended = self.pid().is_none()
                && (began.elapsed() > NO_PROCESS_LIMIT
                    || pause > Duration::from_millis(40) && has_failed(log, said));
            if has_ended || Instant::now() > deadline {
                return Err(logged_reason(log, said));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Stops the server; `false` if it was not running.
    pub fn stop(&self) -> Result<bool, Error> {
        // No files are created in a directory that has no cluster.
        if !self.directory.join(USERS_LOCK).exists() {
            return Ok(false);
        }
        let _start = self.lock("start.lock", FlockArg::LockExclusive)?;
        if self.is_elsewhere() {
            return Err(Error::Elsewhere(self.directory.clone()));
        }
        self.do_not_keep()?;
        let stopped = self.stop_locked()?;
        keeper::dismiss(&self.directory);
        Ok(stopped)
    }

    /// Like [`Cluster::stop`], for a caller that holds the start lock.
    pub(super) fn stop_locked(&self) -> Result<bool, Error> {
        use nix::sys::signal::Signal::{SIGINT, SIGQUIT};
        let Some(pid) = self.pid() else {
            return Ok(false);
        };
        // A fast shutdown and, if that takes too long, an immediate one; see "Shutting Down the Server" in
        // PostgreSQL's manual.
        for (signal, limit) in [(SIGINT, 20), (SIGQUIT, 10)] {
            match kill(Pid::from_raw(pid), signal) {
                // ESRCH: the server has ended meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => {
                    return Err(Error::System {
                        doing: format!("stop the server (process {pid})"),
                        source: error.into(),
                    });
                }
            }
            let deadline = Instant::now() + Duration::from_secs(limit);
            while Instant::now() < deadline {
                if !is_alive(pid) {
                    return Ok(true);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Err(Error::Program {
            program: "postgres",
            words: "it does not stop".to_owned(),
        })
    }

    /// The state of the cluster, without changing anything.
    pub fn status(&self) -> Result<Status, Error> {
        Ok(Status {
            directory: self.directory.clone(),
            pid: self.pid(),
            version: fs::read_to_string(self.data().join("PG_VERSION"))
                .ok()
                .map(|version| version.trim().to_owned()),
            url: self.url(),
            answers: self.answers(),
            kept: self.is_kept(),
        })
    }
}

/// The directory that a URL names as its only host.
fn socket_directory(url: &str) -> Option<PathBuf> {
    let (_, rest) = url.split_once("://")?;
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = authority.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let named = query
        .split('&')
        .find_map(|parameter| parameter.strip_prefix("host="));
    let host = decoded(named.unwrap_or(host))?;
    host.starts_with('/').then(|| PathBuf::from(host))
}

/// A part of a URL with its escapes decoded.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = str::from_utf8(digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// How to write a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Replace its content.
    Anew,
    /// Append to its content.
    Behind,
}

/// Writes a file that initdb has created. The server's user could have put a symbolic link there by now:
/// the file is written only if it belongs to that user, as if that user wrote it.
fn write_owned(path: &Path, text: &str, how: How, owner: &ServerUser) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.uid() != owner.user.uid.as_raw() {
        return Err(io::Error::other("it is not a file of the server's user"));
    }
    if how == How::Anew {
        file.set_len(0)?;
    }
    io::Write::write_all(&mut file, text.as_bytes())
}

/// The settings on the command line, quoted for the shell that `pg_ctl` starts.
fn server_options(directory: &Path) -> String {
    let quoted = directory.to_string_lossy().replace('\'', r"'\''");
    format!("-p {PORT} -k '{quoted}'")
}

/// Whether a process runs; a zombie does not.
fn is_alive(pid: i32) -> bool {
    Stat::of(pid).is_ok_and(|stat| stat.is_alive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_back_to_its_directory() {
        let cluster = Cluster::at("/some where/é".into());
        let found = |url: &str| socket_directory(url);
        let url = cluster.url();
        assert_eq!(found(&url).as_deref(), Some(cluster.directory()));
        for (url, directory) in [
            ("postgres:///db?host=/a/b&user=x", Some("/a/b")),
            ("postgres:///db?user=x&host=%2Fa", Some("/a")),
            ("postgres://u:p@host:5432/db", None),
            ("postgres:///db", None),
            ("postgres://%2Fa,%2Fb/db", Some("/a,/b")),
            ("postgres://%zz/db", None),
        ] {
            assert_eq!(found(url), directory.map(PathBuf::from), "{url}");
        }
    }
}
