//! Why an embedded cluster cannot be used, and what to do about it.

use std::{io, path::PathBuf};

/// Why an embedded cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable PostgreSQL is installed on this machine.
    #[error("PostgreSQL is not installed: no initdb in {}", looked.join(", "))]
    NotInstalled {
        /// The directories that were searched.
        looked: Vec<String>,
    },
    /// The path of the socket would be longer than the system allows.
    #[error("{} is too long for a socket: {length} bytes, the limit is {limit}", path.display())]
    PathTooLong {
        /// The path of the socket.
        path: PathBuf,
        /// The length of the path in bytes.
        length: usize,
        /// The longest allowed path in bytes.
        limit: usize,
    },
    /// The directory contains other files; creating a cluster would give the directory to the server's
    /// user.
    #[error("{} is not empty and holds no embedded cluster", .0.display())]
    Occupied(PathBuf),
    /// There is a file where a directory is needed.
    #[error("{} is not a directory, and an embedded cluster needs one", .0.display())]
    NoDirectory(PathBuf),
    /// No directory is configured, and the user has no home.
    #[error(
        "there is no place for an embedded cluster: neither XDG_DATA_HOME nor HOME is set, and the \
         system knows no home of this user"
    )]
    Homeless,
    /// The server runs in another process namespace, or `/proc` hides its process.
    #[error(
        "the process of the server in {} cannot be seen from here (it runs in another container, or /proc \
         hides it)",
        .0.display()
    )]
    Elsewhere(PathBuf),
    /// The server's user cannot enter a directory on the path of the cluster.
    #[error("user `{user}`, who runs the server, cannot enter {}", path.display())]
    Unreachable {
        /// The server's user.
        user: String,
        /// The directory that this user cannot enter.
        path: PathBuf,
    },
    /// No unprivileged user exists that could run the server.
    #[error("the server cannot run as root, and there is neither a user `postgres` nor `nobody`")]
    NoUser,
    /// The user id has no name, and PostgreSQL does not run without one.
    #[error(
        "user id {0} has no name on this host, and PostgreSQL does not run without one: \
         no embedded server"
    )]
    Nameless(u32),
    /// The directory cannot be created. Whatever the reason (below `/proc` it is "No such file or
    /// directory"), another directory may work.
    #[error("could not make the directory {}: {source}", path.display())]
    MakeDirectory { path: PathBuf, source: io::Error },
    /// A system call failed.
    #[error("could not {doing}: {source}")]
    System {
        /// What was attempted.
        doing: String,
        source: io::Error,
    },
    /// One of PostgreSQL's programs failed.
    #[error("{program} failed: {words}")]
    Program {
        /// The name of the program.
        program: &'static str,
        /// The last meaningful line of its output.
        words: String,
    },
}

impl Error {
    /// What the reader can do about the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotInstalled { .. } => Some(
                "apt-get install postgresql (Debian, Ubuntu), or name its bin directory in \
                 REWORK_PG_BIN"
                    .to_owned(),
            ),
            Self::PathTooLong { .. } => {
                Some("choose a shorter directory: embedded:/dir".to_owned())
            }
            Self::Occupied(_) | Self::NoDirectory(_) => Some(
                "name a directory of its own, which may be one that does not exist yet".to_owned(),
            ),
            Self::Homeless => Some("name a directory: embedded:/some/dir".to_owned()),
            Self::Elsewhere(_) => Some(
                "stop it where it was started: outside of this container, or in another one"
                    .to_owned(),
            ),
            Self::Unreachable { path, .. } => Some(format!(
                "chmod o+x {}, or choose another directory",
                path.display()
            )),
            Self::Nameless(id) => Some(format!(
                "add a line for user id {id} to /etc/passwd, run as a user who has one, or name a \
                 server: postgres://…"
            )),
            Self::MakeDirectory { .. } => Some(writable()),
            Self::System { source, .. } if cannot_write(source) => Some(writable()),
            Self::NoUser => {
                Some("make a user `postgres`, or name a server: postgres://…".to_owned())
            }
            Self::System { .. } | Self::Program { .. } => None,
        }
    }

    pub(super) fn system(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }
}

fn writable() -> String {
    "name a directory that can be written: embedded:/some/dir, or XDG_DATA_HOME".to_owned()
}

/// Whether another directory may work.
fn cannot_write(error: &io::Error) -> bool {
    use io::ErrorKind::{
        InvalidFilename, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem,
        StorageFull,
    };
    matches!(
        error.kind(),
        PermissionDenied
            | ReadOnlyFilesystem
            | StorageFull
            | QuotaExceeded
            | NotADirectory
            | InvalidFilename
    )
}
