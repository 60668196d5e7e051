//! A cgroup for each worker, where systemd (`Delegate=yes`) or a container gives the monitor a
//! cgroup v2 of its own with the memory controller. Then the kernel itself holds the memory limit
//! of a task and all that it starts, and says when it has killed for it. Elsewhere the limits of
//! processes and the monitor's own look at what they use have to do.

use crate::model::WorkerId;
use nix::unistd::Pid;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Where the monitor itself goes: a cgroup with controllers for its children holds no process.
const MONITOR: &str = "monitor";

/// Where workers go, each to its own.
const WORKER: &str = "worker-";

/// The delegated cgroup, if there is one.
#[derive(Debug)]
pub(super) struct Delegated {
    directory: PathBuf,
}

impl Delegated {
    /// Takes over the cgroup that this process is alone in, or says why it cannot be used.
    pub(super) fn find() -> Result<Self, String> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let directory = own_directory(&read("/proc/self/cgroup"), &read("/proc/self/mounts"))
            .ok_or("there is no cgroup v2 here")?;
        Self::take(directory, Pid::this())
    }

    fn take(directory: PathBuf, this: Pid) -> Result<Self, String> {
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let has_memory = read("cgroup.controllers")
            .split_whitespace()
            .any(|controller| controller == "memory");
        if !has_memory {
            return Err("the memory controller is not delegated".to_owned());
        }
        if read("cgroup.procs").trim() != this.to_string() {
            return Err("other processes are in this cgroup".to_owned());
        }
        let failed = |error: io::Error| format!("it cannot be written: {error}");
        let leaf = directory.join(MONITOR);
        if !leaf.is_dir() {
            fs::create_dir(&leaf).map_err(failed)?;
        }
        fs::write(leaf.join("cgroup.procs"), this.to_string()).map_err(failed)?;
        if let Err(error) = fs::write(directory.join("cgroup.subtree_control"), "+memory") {
            // Back to how it was.
            let _ = fs::write(directory.join("cgroup.procs"), this.to_string());
            let _ = fs::remove_dir(&leaf);
            return Err(failed(error));
        }
        // What monitors before this one could not remove.
        for left in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if left.file_name().to_string_lossy().starts_with(WORKER) {
                let _ = fs::remove_dir(left.path());
            }
        }
        Ok(Self { directory })
    }

    /// Makes a cgroup for a worker that has just been started and has run no foreign code yet.
    pub(super) fn add(&self, id: WorkerId, worker: Pid) -> io::Result<WorkerCgroup> {
        let directory = self.directory.join(format!("{WORKER}{id}"));
        fs::create_dir(&directory)?;
        let cgroup = WorkerCgroup { directory };
        fs::write(cgroup.directory.join("cgroup.procs"), worker.to_string())?;
        // All of it or nothing: half a task is of no use.
        let _ = fs::write(cgroup.directory.join("memory.oom.group"), "1");
        Ok(cgroup)
    }
}

/// Where workers get cgroups of their own, if anywhere.
pub(super) fn delegated() -> Option<Delegated> {
    match Delegated::find() {
        Ok(delegated) => {
            tracing::debug!("each worker gets a cgroup of its own");
            Some(delegated)
        }
        Err(reason) => {
            tracing::debug!(
                "no cgroups for workers ({reason}): rlimits and samples hold the limits"
            );
            None
        }
    }
}

/// The cgroup of a worker and all that it starts; removed when it is dropped.
#[derive(Debug)]
pub(super) struct WorkerCgroup {
    directory: PathBuf,
}

impl WorkerCgroup {
    /// Allows so much more than is used now; `None`: whatever there is.
    pub(super) fn set_memory_limit(&self, more: Option<u64>) {
        let limit = match (more, self.number("memory.current")) {
            (Some(more), Some(current)) => (current + more).to_string(),
            _ => "max".to_owned(),
        };
        // Without it the monitor's own look remains.
        let _ = fs::write(self.directory.join("memory.max"), limit);
    }

    /// Whether the kernel has killed here for want of memory.
    pub(super) fn was_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.directory.join("memory.events"));
        oom_kills(&events.unwrap_or_default()) > 0
    }

    /// Kills everything in it at once, however fast it forks; Linux 5.14.
    pub(super) fn kill(&self) {
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
    }

    fn number(&self, file: &str) -> Option<u64> {
        let text = fs::read_to_string(self.directory.join(file)).ok()?;
        text.trim().parse().ok()
    }
}

impl Drop for WorkerCgroup {
    fn drop(&mut self) {
        // What a dead worker has left dies with it.
        self.kill();
        let _ = fs::remove_dir(&self.directory);
    }
}

/// The directory of this process's cgroup, from proc_pid_cgroup(5) and proc_pid_mounts(5).
fn own_directory(cgroup: &str, mounts: &str) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then_some(point)
    })?;
    Some(Path::new(mount).join(path.trim_start_matches('/')))
}

fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_below_its_mount() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(
            own_directory("0::/system.slice/rework.service\n", mounts),
            Some(PathBuf::from("/sys/fs/cgroup/system.slice/rework.service"))
        );
        let mixed = "9:name=systemd:/\n4:memory:/a\n0::/\n";
        assert_eq!(
            own_directory(mixed, mounts),
            Some(PathBuf::from("/sys/fs/cgroup"))
        );
        assert_eq!(own_directory("4:memory:/a\n", mounts), None);
        assert_eq!(own_directory(mixed, "proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn kills_are_counted() {
        let events = "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 1\n";
        assert_eq!(oom_kills(events), 1);
        assert_eq!(oom_kills("oom 3\n"), 0);
        assert_eq!(oom_kills(""), 0);
    }

    #[test]
    fn a_cgroup_that_is_not_ours_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let take = || Delegated::take(directory.path().to_owned(), Pid::from_raw(7));
        fs::write(at("cgroup.controllers"), "cpu pids\n").unwrap();
        assert!(take().unwrap_err().contains("memory controller"));
        fs::write(at("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(at("cgroup.procs"), "7\n8\n").unwrap();
        assert!(take().unwrap_err().contains("other processes"));
        assert!(!at(MONITOR).exists());
    }
}
