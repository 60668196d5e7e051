//! A small worker: the monitor keeps many, and each maps the whole program, of which it needs
//! little once it has started, and nothing while it idles.

use nix::sys::mman::{MmapAdvise, madvise};
use std::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// Whether anything has run since pages were let go.
static USED: AtomicBool = AtomicBool::new(true);

/// Something has run.
pub(super) fn used() {
    USED.store(true, Relaxed);
}

/// The parts of this program that can be let go of at any time.
#[derive(Debug)]
pub(super) struct Program {
    ranges: Vec<(usize, usize)>,
}

impl Program {
    /// Finds them.
    pub(super) fn find() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
        let ranges = program
            .to_str()
            .map(|program| clean_ranges(&maps, program))
            .unwrap_or_default();
        Self { ranges }
    }

    /// Lets go of their pages, if anything has run since the last time. They are clean pages of a
    /// file: what is needed again comes back from the page cache at its first use.
    pub(super) fn let_go(&self) {
        if !USED.swap(false, Relaxed) {
            return;
        }
        for (start, end) in &self.ranges {
            let Some(address) = NonNull::new(std::ptr::with_exposed_provenance_mut(*start)) else {
                continue;
            };
            // SAFETY: the range is a private mapping of the program's file that nobody has written
            // to: code, or the constants at the beginning of the file, which are never relocated.
            // Reading it afterwards gives what is in the file, as before.
            let _ = unsafe { madvise(address, end - start, MmapAdvise::MADV_DONTNEED) };
        }
    }
}

/// Where code and constants of the program are; what has been relocated lies further on in the
/// file. See proc_pid_maps(5).
fn clean_ranges(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let clean = |line: &str| {
        let mut fields = line.split_whitespace();
        let (range, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let path = line.find('/').map(|at| &line[at..])?;
        let is_constant = permissions == "r--p" && offset.bytes().all(|digit| digit == b'0');
        if path != program || !(permissions == "r-xp" || is_constant) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        Some((number(start)?, number(end)?))
    };
    maps.lines().filter_map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_never_written() {
        let maps = "\
            1000-2000 r--p 00000000 fe:00 7 /usr/bin/re work\n\
            2000-5000 r-xp 00001000 fe:00 7 /usr/bin/re work\n\
            5000-6000 r--p 00004000 fe:00 7 /usr/bin/re work\n\
            6000-7000 rw-p 00005000 fe:00 7 /usr/bin/re work\n\
            8000-9000 r-xp 00001000 fe:00 8 /usr/lib/libc.so.6\n\
            9000-a000 rw-p 00000000 00:00 0 [heap]\n";
        let ranges = clean_ranges(maps, "/usr/bin/re work");
        assert_eq!(ranges, [(0x1000, 0x2000), (0x2000, 0x5000)]);
    }

    #[test]
    fn the_program_goes_on() {
        let program = Program::find();
        assert!(!program.ranges.is_empty());
        for _ in 0..2 {
            used();
            program.let_go();
        }
        assert_eq!(
            format!("{:?}", (1..4).map(|n| n * n).collect::<Vec<_>>()),
            "[1, 4, 9]"
        );
    }
}
