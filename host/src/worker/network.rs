//! Denies TCP to plugins, by Landlock: a process gives up access for ever, for itself and for all threads
//! and processes that it starts. See landlock(7).

use crate::wire::WireError;
use landlock::{
    AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated, RulesetError,
};

/// Denies this thread, and everything that it starts, to bind and to connect TCP sockets. Fails on a kernel
/// that cannot deny both. `PR_SET_NO_NEW_PRIVS` must be set already.
pub fn give_up() -> Result<(), WireError> {
    // No rule is added, so nothing of what the ruleset handles stays allowed.
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)
        .and_then(Ruleset::create)
        .and_then(RulesetCreated::restrict_self)
        .map(drop)
        .map_err(|error: RulesetError| WireError::System {
            doing: "deny the network by Landlock (Linux 6.7)",
            source: std::io::Error::other(error),
        })
}
