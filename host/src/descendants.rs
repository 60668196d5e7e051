//! Everything below a process. Monitor and worker are child subreapers, so whatever a task started
//! is found by walking the process table from its worker.

use crate::proc::Stat;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The pause after killing, before the process table is read again.
const PAUSE: Duration = Duration::from_millis(1);

/// The process table at one moment, as parents and children. Reading it opens a file in `/proc` for every
/// process, so a caller who asks about several processes reads it once for all of them.
#[derive(Debug)]
pub struct Processes {
    children: HashMap<Pid, Vec<Pid>>,
    /// Whether every process could be read; a lack of descriptors prevents it.
    is_complete: bool,
}

impl Processes {
    /// Reads all living processes.
    pub fn look() -> Self {
        let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
        let entries = std::fs::read_dir("/proc");
        let mut is_complete = entries.is_ok();
        for entry in entries.into_iter().flatten() {
            let Ok(entry) = entry else {
                is_complete = false;
                continue;
            };
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match Stat::of(pid) {
                // Zombies run nothing, and an ancestor reaps them.
                Ok(stat) if !stat.is_alive() => {}
                Ok(stat) => {
                    if let Some(parent) = stat.parent() {
                        children.entry(parent).or_default().push(Pid::from_raw(pid));
                    }
                }
                // The process has ended, or belongs to another user. Any other error leaves the table
                // incomplete.
                Err(error) => {
                    let want = [libc::EMFILE, libc::ENFILE, libc::ENOMEM];
                    is_complete &= !error
                        .raw_os_error()
                        .is_some_and(|code| want.contains(&code));
                }
            }
        }
        Self {
            children,
            is_complete,
        }
    }

    /// The children of a process.
    pub fn children_of(&self, pid: Pid) -> &[Pid] {
        self.children.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// Every process below `pid`, parents before their children.
    pub fn below(&self, pid: Pid) -> Vec<Pid> {
        let mut found = self.children_of(pid).to_vec();
        let mut next = 0;
        while next < found.len() {
            found.extend(self.children_of(found[next]));
            next += 1;
        }
        found
    }
}

/// Every living process below `pid`, parents before their children.
pub fn of(pid: Pid) -> Vec<Pid> {
    Processes::look().below(pid)
}

/// Kills everything below `pid` until nothing is left, or until `patience` is over. The process itself must
/// not fork meanwhile: it is stopped, or it is the caller. If a child forks while it is being killed, its
/// child becomes a child of `pid` (a subreaper), and the next round finds it. Each round first lists all
/// processes and then reads their states, so a process that forks and ends in between hides its child from
/// that round, but hardly from the next. Therefore nothing counts as left only when two rounds in a row
/// have found nothing. What is left when `patience` is over is dying (it frees many gigabytes, or waits for
/// a disk), or a fork bomb is faster than these rounds: the death of `pid` itself ends it, since the
/// subreaper above goes on killing.
pub fn kill_all(pid: Pid, patience: Duration) {
    let deadline = Instant::now() + patience;
    let mut found_nothing = false;
    loop {
        let processes = Processes::look();
        let below = processes.below(pid);
        let is_nothing = below.is_empty() && processes.is_complete;
        if found_nothing && is_nothing {
            return;
        }
        found_nothing = is_nothing;
        for process in below {
            // ESRCH: the process has ended by itself.
            let _ = kill(process, Signal::SIGKILL);
        }
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
