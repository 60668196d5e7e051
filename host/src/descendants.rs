//! Everything below a process. Monitor and worker are child subreapers, so whatever a task started
//! is found by walking the process table from its worker.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// How long the killed may take to be gone before it is looked again.
const PAUSE: Duration = Duration::from_millis(1);

/// Who is whose child, at one moment. A look reads every entry of `/proc`: whoever asks about
/// several processes takes one look for all of them.
#[derive(Debug)]
pub struct Processes {
    children: HashMap<Pid, Vec<Pid>>,
    /// Whether nothing was in the way, as a lack of descriptors is.
    is_complete: bool,
}

impl Processes {
    /// The living, now; see proc_pid_stat(5).
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
            match std::fs::read_to_string(entry.path().join("stat")) {
                Ok(stat) => {
                    if let Some(parent) = living_parent(&stat) {
                        children.entry(parent).or_default().push(Pid::from_raw(pid));
                    }
                }
                // It has gone, or is none of our business; or else we cannot know.
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

    /// Every process below one, children before grandchildren.
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

/// The parent of a process that lives, from its `stat`. A zombie runs nothing; its parent, or the
/// next one up, collects it.
fn living_parent(stat: &str) -> Option<Pid> {
    // The name, in parentheses, may hold anything; state and parent follow the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
    (state != "Z" && state != "X").then(|| Pid::from_raw(parent))
}

/// Every living process below one, children before grandchildren.
pub fn of(pid: Pid) -> Vec<Pid> {
    Processes::look().below(pid)
}

/// Kills everything below a process until nothing is left, or until this has taken so long. The
/// process itself must not fork meanwhile (it is stopped, or it is the caller). A child that forks
/// while it is being killed leaves its child to the process, where the next round finds it. A look
/// lists all processes first and reads their states afterwards: who forks and ends in between hides
/// its child from that look, but hardly from the next one as well. So nothing is taken to be left when
/// two in a row have found nothing.
///
/// What is left then is dying (it gives back many gigabytes, or waits for a disk), or a fork bomb
/// is ahead of us: the process's own death ends that, through whoever reaps it.
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
            // ESRCH: it has died by itself.
            let _ = kill(process, Signal::SIGKILL);
        }
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}
