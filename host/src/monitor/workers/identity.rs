//! The user that workers run as, where that is not the monitor's own.

use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use std::ffi::CString;

/// A user with all of its groups, looked up before anything is forked, because that is not possible after it.
#[derive(Debug, Clone)]
pub(in crate::monitor) struct Identity {
    pub(in crate::monitor) user: Uid,
    pub(in crate::monitor) group: Gid,
    pub(in crate::monitor) groups: Vec<Gid>,
}

/// Why workers cannot run as somebody else.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Only root may become another user.
    #[error(
        "--worker-user {0}: only a monitor that runs as root can run its workers as another user"
    )]
    NotRoot(String),
    /// The host does not know the name.
    #[error("--worker-user {0}: there is no such user on this host")]
    Unknown(String),
    /// Running workers as root would isolate nothing.
    #[error("--worker-user {0}: this is root")]
    Root(String),
    /// The host's user database failed.
    #[error("--worker-user {name}: the user could not be looked up")]
    Lookup {
        /// Who.
        name: String,
        /// Why.
        #[source]
        source: nix::errno::Errno,
    },
}

impl Identity {
    /// Looks a user up.
    pub(in crate::monitor) fn of(name: &str) -> Result<Self, IdentityError> {
        if !geteuid().is_root() {
            return Err(IdentityError::NotRoot(name.to_owned()));
        }
        let failed = |source| IdentityError::Lookup {
            name: name.to_owned(),
            source,
        };
        let unknown = || IdentityError::Unknown(name.to_owned());
        let c_name = CString::new(name).map_err(|_| unknown())?;
        let user = User::from_name(name).map_err(failed)?.ok_or_else(unknown)?;
        if user.uid.is_root() {
            return Err(IdentityError::Root(name.to_owned()));
        }
        Ok(Self {
            user: user.uid,
            group: user.gid,
            groups: getgrouplist(&c_name, user.gid).map_err(failed)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_user() {
        for name in ["no such user", "a\0b", "root"] {
            let refusal = Identity::of(name).unwrap_err().to_string();
            assert!(refusal.contains(name), "{refusal}");
        }
    }
}
