//! The clock that goes on while a machine sleeps: leases of monitors are measured with it.

use std::time::Duration;

/// The time since the machine was started, its sleep included.
pub(super) fn now() -> Duration {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .expect("every Linux has CLOCK_BOOTTIME");
    Duration::from(now)
}

/// A time as a shared page holds it: nanoseconds.
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
