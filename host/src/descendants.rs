//! Everything below a process. Monitor and worker are child subreapers, so whatever a task started
//! is found by walking the process table from its worker.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::collections::HashMap;

/// A living process and its parent; see proc_pid_stat(5).
fn living() -> HashMap<Pid, Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name, in parentheses, may hold anything; state and parent follow the last one.
            let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
            let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
            // A zombie runs nothing; its parent, or the next one up, collects it.
            (state != "Z" && state != "X").then(|| (Pid::from_raw(pid), Pid::from_raw(parent)))
        })
        .collect()
}

/// The living children of a process.
pub fn children_of(pid: Pid) -> Vec<Pid> {
    living()
        .into_iter()
        .filter(|(_, parent)| *parent == pid)
        .map(|(child, _)| child)
        .collect()
}

/// Every living process below one, children before grandchildren.
pub fn of(pid: Pid) -> Vec<Pid> {
    let parents = living();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| **of == parent)
                .map(|(child, _)| *child),
        );
        next += 1;
    }
    found.remove(0);
    found
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
