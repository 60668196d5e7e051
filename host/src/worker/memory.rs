//! How much memory this process has: what it reports, and what limits are counted from.

use crate::wire::high;
use nix::sys::resource::{UsageWho, getrusage};
use std::{fs::File, os::unix::fs::FileExt, sync::LazyLock};

/// Resident memory now, in bytes. If a task has taken away the means to know, as much as there ever
/// was.
pub(super) fn resident_bytes() -> u64 {
    pages(1).map_or_else(peak_resident_bytes, |pages| pages * page_bytes())
}

/// The most resident memory so far, in bytes.
pub(super) fn peak_resident_bytes() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().cast_unsigned() * 1024)
}

/// What `RLIMIT_DATA` counts, and the stack, in bytes.
pub(super) fn data_bytes() -> Option<u64> {
    pages(5).map(|pages| pages * page_bytes())
}

/// The size of a page of memory.
pub(super) fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().unwrap_or(4096).cast_unsigned()
}

/// A number of `/proc/self/statm`; see proc_pid_statm(5).
fn pages(field: usize) -> Option<u64> {
    // Kept open: a task may leave no descriptor to open it with.
    static STATM: LazyLock<Option<File>> =
        LazyLock::new(|| Some(high(File::open("/proc/self/statm").ok()?).ok()?.into()));
    let mut text = [0; 128];
    let length = STATM.as_ref()?.read_at(&mut text, 0).ok()?;
    let text = str::from_utf8(&text[..length]).ok()?;
    text.split_whitespace().nth(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_seen() {
        // Tests of the same process free memory at the same time: once it has to be seen.
        let is_seen = || {
            let before = resident_bytes();
            let used = std::hint::black_box(vec![1_u8; 32 << 20]);
            let is_seen = resident_bytes() > before + (24 << 20)
                && peak_resident_bytes() > before + (24 << 20)
                && data_bytes().unwrap() > 32 << 20;
            drop(used);
            is_seen
        };
        assert!((0..50).any(|_| is_seen()));
    }
}
