//! The memory of this process, for its reports and as the base of limits.

use crate::wire::high;
use nix::sys::resource::{UsageWho, getrusage};
use std::{fs::File, os::unix::fs::FileExt, sync::LazyLock};

/// The resident memory in bytes. If a task has made it impossible to read, the peak so far.
pub(super) fn resident_bytes() -> u64 {
    pages(1).map_or_else(peak_resident_bytes, |pages| pages * page_bytes())
}

/// The peak of resident memory in bytes.
pub(super) fn peak_resident_bytes() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0, |usage| usage.max_rss().cast_unsigned() * 1024)
}

/// The bytes that `RLIMIT_DATA` counts, and the stack.
pub(super) fn data_bytes() -> Option<u64> {
    pages(5).map(|pages| pages * page_bytes())
}

pub(super) fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().unwrap_or(4096).cast_unsigned()
}

/// A number of `/proc/self/statm`, in pages; see proc_pid_statm(5).
fn pages(field: usize) -> Option<u64> {
    // Opened once: a task may leave no free descriptor.
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
