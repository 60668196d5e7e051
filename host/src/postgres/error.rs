//! Why there is no embedded server, and what to do.

use std::{io, path::PathBuf};

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable PostgreSQL on this machine.
    #[error("PostgreSQL is not installed: no initdb in {}", looked.join(", "))]
    NotInstalled {
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// The socket's path would be longer than the system allows.
    #[error("{} is too long for a socket: {length} bytes, the limit is {limit}", path.display())]
    PathTooLong {
        /// The socket.
        path: PathBuf,
        /// Of the path.
        length: usize,
        /// Of the system.
        limit: usize,
    },
    /// Somebody keeps other things there: making a cluster would give the directory to the server's user.
    #[error("{} is not empty and holds no embedded cluster", .0.display())]
    Occupied(PathBuf),
    /// A file is where a directory has to be.
    #[error("{} is not a directory, and an embedded cluster needs one", .0.display())]
    NoDirectory(PathBuf),
    /// Nobody has said where, and the user has no home.
    #[error(
        "there is no place for an embedded cluster: neither XDG_DATA_HOME nor HOME is set, and the \
         system knows no home of this user"
    )]
    Homeless,
    /// The server belongs to another process namespace.
    #[error(
        "the server in {} runs in another process namespace, and its process cannot be seen from here",
        .0.display()
    )]
    Elsewhere(PathBuf),
    /// The server's user cannot reach its directory.
    #[error("user `{user}`, who runs the server, cannot enter {}", path.display())]
    Unreachable {
        /// Who runs the server.
        user: String,
        /// The directory that is closed to them.
        path: PathBuf,
    },
    /// There is no unprivileged user.
    #[error("the server cannot run as root, and there is neither a user `postgres` nor `nobody`")]
    NoUser,
    /// The caller has no name, and PostgreSQL runs for nobody without one.
    #[error(
        "user id {0} has no name on this host, and PostgreSQL does not run without one: \
         no embedded server"
    )]
    Nameless(u32),
    /// The directory cannot be made; whatever the system says of it (`/proc`: "No such file or directory"),
    /// another one would do.
    #[error("could not make the directory {}: {source}", path.display())]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The system could not do it.
    #[error("could not {doing}: {source}")]
    System {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// One of the server's programs failed.
    #[error("{program} failed: {words}")]
    Program {
        /// Which one.
        program: &'static str,
        /// Its last meaningful line.
        words: String,
    },
}

impl Error {
    /// What the reader can do about it.
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

/// Whether another directory would do.
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
