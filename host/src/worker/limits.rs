//! The limits of an operation, set as limits of this process while it runs. Only the soft limits change, so
//! they can be restored afterwards. Processes that the operation starts inherit them; the monitor watches
//! their sum.
//!
//! Memory is limited by `RLIMIT_DATA`, not by `RLIMIT_AS`: it counts what can become private
//! memory, but neither mapped files nor the address space that allocators reserve for each thread
//! and never use.

use super::memory::data_bytes;
use crate::wire::Limits;
use nix::{
    sys::resource::{Resource, getrlimit, rlim_t, setrlimit},
    time::{ClockId, clock_gettime},
};

/// The limits of an operation, which are lifted when this is dropped.
#[derive(Debug)]
pub(super) struct Limited {
    before: Vec<(Resource, rlim_t)>,
}

impl Limited {
    /// Limits this process to what it uses now plus `limits`.
    pub(super) fn begin(limits: Limits) -> Self {
        let mut limited = Self { before: Vec::new() };
        if let Some(memory) = limits.memory_bytes
            && let Some(used) = data_bytes()
        {
            limited.lower(Resource::RLIMIT_DATA, used + memory);
        }
        if let Some(cpu) = limits.cpu_ms {
            // RLIMIT_CPU counts whole seconds; the monitor enforces the limit more exactly.
            limited.lower(Resource::RLIMIT_CPU, (processor_ms() + cpu).div_ceil(1000));
        }
        if let Some(files) = limits.open_files
            && let Some(forbidden) = first_forbidden(files)
        {
            limited.lower(Resource::RLIMIT_NOFILE, forbidden);
        }
        limited
    }

    fn lower(&mut self, resource: Resource, wanted: rlim_t) {
        let Ok((soft, hard)) = getrlimit(resource) else {
            return;
        };
        if wanted < soft && setrlimit(resource, wanted, hard).is_ok() {
            self.before.push((resource, soft));
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        for (resource, soft) in self.before.drain(..) {
            if let Ok((_, hard)) = getrlimit(resource) {
                // The process had these limits before, so it may set them.
                let _ = setrlimit(resource, soft, hard);
            }
        }
    }
}

/// The processor time of this process so far, in milliseconds; each child has a limit of its own.
fn processor_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(0, |time| {
        time.tv_sec().cast_unsigned() * 1000 + time.tv_nsec().cast_unsigned() / 1_000_000
    })
}

/// `RLIMIT_NOFILE` limits numbers, not counts: returns the number below which `files` numbers are free.
/// `None` if no descriptor is free to find out.
fn first_forbidden(files: u32) -> Option<u64> {
    let mut open: Vec<u64> = std::fs::read_dir("/proc/self/fd")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // Leaves out the descriptor with which the directory was read: it is closed by now.
    open.retain(|number| std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok());
    Some(above_free(&open, files))
}

fn above_free(open: &[u64], files: u32) -> u64 {
    (0..)
        .filter(|number| !open.contains(number))
        .nth(files.saturating_sub(1) as usize)
        .expect("numbers do not end")
        + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_descriptors_are_free_as_are_allowed() {
        assert_eq!(above_free(&[0, 1, 2], 1), 4);
        assert_eq!(above_free(&[0, 1, 2, 4, 200], 3), 7);
        assert_eq!(above_free(&[], 16), 16);
    }

    #[test]
    fn limits_come_and_go() {
        let soft = || getrlimit(Resource::RLIMIT_DATA).unwrap().0;
        let before = soft();
        {
            let _limited = Limited::begin(Limits {
                memory_bytes: Some(8 << 30),
                ..Limits::default()
            });
            assert!(soft() > 8 << 30 && soft() < before);
        }
        assert_eq!(soft(), before);
        drop(Limited::begin(Limits::default()));
        assert_eq!(soft(), before);
    }
}
