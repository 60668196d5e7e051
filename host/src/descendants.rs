//! Everything below a process. Monitor and worker are child subreapers, so whatever a task started
//! is found by walking the process table from its worker.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::collections::HashMap;

/// The living processes of this machine with their parents, at one moment.
#[derive(Debug)]
pub struct Table(HashMap<Pid, Pid>);

impl Table {
    /// Looks at every process; see proc_pid_stat(5).
    pub fn read() -> Self {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let living = entries.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything; state and parent follow the last one.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
            // A zombie runs nothing; its parent, or the next one up, collects it.
            (state != "Z" && state != "X").then(|| (Pid::from_raw(pid), Pid::from_raw(parent)))
        });
        Self(living.collect())
    }

    /// Every process below one, children before grandchildren.
    pub fn below(&self, pid: Pid) -> Vec<Pid> {
        let mut found = vec![pid];
        let mut next = 0;
        while next < found.len() {
            found.extend(self.children(found[next]));
            next += 1;
        }
        found.remove(0);
        found
    }

    fn children(&self, pid: Pid) -> impl Iterator<Item = Pid> {
        self.0
            .iter()
            .filter(move |(_, parent)| **parent == pid)
            .map(|(child, _)| *child)
    }
}

/// The living children of a process.
pub fn children_of(pid: Pid) -> Vec<Pid> {
    Table::read().children(pid).collect()
}

/// Every living process below one, children before grandchildren.
pub fn of(pid: Pid) -> Vec<Pid> {
    Table::read().below(pid)
}

/// Kills everything below a process until nothing is left. The process itself must not fork
/// meanwhile (it is stopped, or it is the caller). A child that forks while it is being killed
/// leaves its child to the process, where the next round finds it.
pub fn kill_all(pid: Pid) {
    // A fork bomb could win each round; the worker's own death ends it then, through the reaper.
    for _ in 0..1000 {
        let below = of(pid);
        if below.is_empty() {
            return;
        }
        for process in below {
            // ESRCH: it has died by itself.
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}
