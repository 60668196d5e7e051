//! What running tasks use, children included. The limits of a single process are the kernel's to
//! hold (`worker/limits.rs`); here is what all processes of a task use together.

use super::{
    fault::megabytes,
    limits::end_task,
    process::{self, Figures},
    supervisor::Supervisor,
    worker::Worker,
};
use crate::{
    descendants::Processes,
    model::{TaskId, duration::human, task::Cause, worker::WorkerCause},
    wire::Limits,
};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// How often a task with limits is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A running task with limits.
#[derive(Debug)]
pub(super) struct Watched {
    task: TaskId,
    /// What its worker used before.
    before: Figures,
    /// Processes that an earlier task left behind.
    strangers: Vec<Pid>,
    next: Instant,
    /// What it was killed for.
    pub(super) excess: Option<Figures>,
}

impl Watched {
    /// Before the first look: what its worker had after the task before, and what it has used of
    /// the processor until now.
    fn begin(worker: &Worker, task: TaskId, now: Instant) -> Self {
        let strangers = if worker.has_strangers() {
            Processes::look().below(worker.pid)
        } else {
            Vec::new()
        };
        let cpu_seconds =
            process::figures(worker.pid, &[]).map_or(0.0, |figures| figures.cpu_seconds);
        Self {
            task,
            before: Figures {
                resident_bytes: worker.resident_before,
                cpu_seconds,
            },
            strangers,
            next: now + LOOK_EVERY,
            excess: None,
        }
    }

    /// What the task uses beyond its limits, if it does.
    fn look(&mut self, worker: Pid, table: &Processes, limits: Limits) -> Option<(Cause, String)> {
        let mut below = table.below(worker);
        below.retain(|pid| !self.strangers.contains(pid));
        let mut all = process::figures(worker, &below)?;
        let mut over = excess(self.less_before(all), limits)?;
        if over.0 == Cause::Memory {
            // A closer look: what forked children share with their parent counts once.
            all.resident_bytes = process::proportional_bytes(worker, &below);
            over = excess(self.less_before(all), limits)?;
        }
        self.excess = Some(self.less_before(all));
        Some(over)
    }

    fn less_before(&self, all: Figures) -> Figures {
        let before = self.before;
        Figures {
            resident_bytes: all.resident_bytes.saturating_sub(before.resident_bytes),
            cpu_seconds: (all.cpu_seconds - before.cpu_seconds).max(0.0),
        }
    }
}

impl Supervisor {
    /// Ends tasks that use more than they may.
    pub(super) fn enforce_usage(&mut self, now: Instant) {
        // One look at the processes of this machine serves all.
        let table = self
            .next_usage()
            .filter(|next| now >= *next)
            .map(|_| Processes::look());
        for worker in self.workers.values_mut() {
            let running = worker.running().and_then(|(slot, handed)| {
                let limits = self.tasks.get(handed.task)?.limits();
                (limits.memory_bytes.is_some() || limits.cpu_ms.is_some()).then_some((
                    slot,
                    handed.task,
                    limits,
                ))
            });
            let Some((slot, task, limits)) = running else {
                if worker.watched.take().is_some() {
                    worker.set_memory_limit(None);
                }
                continue;
            };
            match &mut worker.watched {
                Some(watched) if watched.task == task => {
                    let Some(table) = &table else { continue };
                    watched.next = now + LOOK_EVERY;
                    let Some((cause, words)) = watched.look(worker.pid, table, limits) else {
                        continue;
                    };
                    self.tasks.ask_to_end(task, Some(words));
                    if worker.kill_at.is_none() {
                        let cause = WorkerCause::Task(cause);
                        end_task(worker, slot, self.options.kill_grace, cause, now);
                    }
                }
                _ => {
                    worker.watched = Some(Watched::begin(worker, task, now));
                    worker.set_memory_limit(limits.memory_bytes);
                }
            }
        }
    }

    /// When the next task with limits is looked at.
    pub(super) fn next_usage(&self) -> Option<Instant> {
        self.workers
            .values()
            .filter(|worker| worker.exit.is_none())
            .filter_map(|worker| worker.watched.as_ref())
            .map(|watched| watched.next)
            .min()
    }
}

/// What is used beyond its limit, in words.
fn excess(used: Figures, limits: Limits) -> Option<(Cause, String)> {
    if let Some(limit) = limits.memory_bytes
        && used.resident_bytes > limit
    {
        let (used, limit) = (megabytes(used.resident_bytes), megabytes(limit));
        return Some((Cause::Memory, format!("used {used}, its limit is {limit}")));
    }
    let limit = Duration::from_millis(limits.cpu_ms?);
    if used.cpu_seconds > limit.as_secs_f64() {
        let words = format!(
            "used {:.1}s of processor time, its limit is {}",
            used.cpu_seconds,
            human(limit)
        );
        return Some((Cause::Cpu, words));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_name_what_is_used_and_the_limit() {
        let used = Figures {
            resident_bytes: 530 << 20,
            cpu_seconds: 10.04,
        };
        let limits = |memory: Option<u64>, cpu_ms| Limits {
            memory_bytes: memory.map(|megabytes| megabytes << 20),
            cpu_ms,
            open_files: None,
        };
        assert_eq!(
            excess(used, limits(Some(512), None)),
            Some((Cause::Memory, "used 530 MB, its limit is 512 MB".into()))
        );
        assert_eq!(
            excess(used, limits(Some(530), Some(10_000))),
            Some((
                Cause::Cpu,
                "used 10.0s of processor time, its limit is 10s".into()
            ))
        );
        assert_eq!(excess(used, limits(Some(530), Some(11_000))), None);
        assert_eq!(excess(used, Limits::default()), None);
    }
}
