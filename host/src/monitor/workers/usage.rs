//! What running tasks use, children included. The limits of a single process are the kernel's to hold
//! (`worker/limits.rs`); here is what all processes of a task use together.

use super::process::{self, Figures};
use crate::{
    descendants::Processes,
    model::{TaskId, duration::human, task::Cause},
    monitor::fault::{Exit, megabytes},
    wire::{Finished, Limits},
};
use nix::unistd::Pid;
use std::time::{Duration, Instant};

/// How often a task with limits is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The kernel's peak of a process is not exact, because its counters of pages lag behind; in bytes.
const PEAK_BLUR: u64 = 2 << 20;

/// What one worker uses, as far as the figures of its tasks need it.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// Resident memory after the last task, or after the start, in bytes.
    resident_before: u64,
    /// The highest memory at the start, or with a task that has finished, in bytes.
    peak_before: u64,
    /// Processor time of the tasks that have finished.
    cpu_of_finished: Duration,
    /// The running task, if it has limits.
    watched: Option<Watched>,
}

/// A running task with limits.
#[derive(Debug)]
struct Watched {
    task: TaskId,
    /// What its worker used before.
    before: Figures,
    /// Processes that earlier tasks have left behind.
    orphans: Vec<Pid>,
    next_look: Instant,
    /// What it used when it was found beyond its limits.
    excess: Option<Figures>,
}

impl Usage {
    /// The worker is ready, with this memory, in bytes.
    pub(super) fn ready(&mut self, resident: u64, peak: u64) {
        self.resident_before = resident;
        self.peak_before = peak;
    }

    /// The worker has finished a task.
    pub(super) fn finished(&mut self, finished: &Finished) {
        self.resident_before = finished.resident_bytes;
        self.peak_before = self.peak_before.max(finished.peak_resident_bytes);
        self.cpu_of_finished += Duration::from_micros(finished.cpu_us);
    }

    /// The peak memory of the task that the worker has died with, in bytes; if there was more before it, what
    /// was left of that. Children that did not end are not among the kernel's figures: then what the task was
    /// killed for counts.
    pub(super) fn peak_of_last(&self, exit: &Exit) -> u64 {
        let peak = if exit.peak_memory > self.peak_before + PEAK_BLUR {
            exit.peak_memory
        } else {
            self.resident_before
        };
        peak.max(self.excess().map_or(0, |excess| excess.resident_bytes))
    }

    /// The processor time of the task that the worker has died with, in the same way; in seconds.
    pub(super) fn cpu_of_last(&self, exit: &Exit) -> f64 {
        let own = exit.cpu.saturating_sub(self.cpu_of_finished).as_secs_f64();
        own.max(self.excess().map_or(0.0, |excess| excess.cpu_seconds))
    }

    fn excess(&self) -> Option<Figures> {
        self.watched.as_ref()?.excess
    }

    /// Whether this task is being watched.
    pub(super) fn is_watching(&self, task: TaskId) -> bool {
        self.watched
            .as_ref()
            .is_some_and(|watched| watched.task == task)
    }

    /// Begins to watch a task: what its worker had after the task before, and what it has used of the
    /// processor until now, does not count. `orphans`: processes that earlier tasks have left behind.
    pub(super) fn watch(&mut self, task: TaskId, worker: Pid, orphans: Vec<Pid>, now: Instant) {
        let figures = process::figures(worker, &[]);
        self.watched = Some(Watched {
            task,
            before: Figures {
                resident_bytes: self.resident_before,
                cpu_seconds: figures.map_or(0.0, |figures| figures.cpu_seconds),
            },
            orphans,
            next_look: now + LOOK_EVERY,
            excess: None,
        });
    }

    /// No task with limits runs; false: none was watched.
    pub(super) fn unwatch(&mut self) -> bool {
        self.watched.take().is_some()
    }

    /// Looks at the watched task. Answers what it uses beyond its limits, if it does, in words.
    pub(super) fn look(
        &mut self,
        worker: Pid,
        table: &Processes,
        limits: Limits,
        now: Instant,
    ) -> Option<(Cause, String)> {
        let watched = self.watched.as_mut()?;
        watched.next_look = now + LOOK_EVERY;
        let mut below = table.below(worker);
        below.retain(|pid| !watched.orphans.contains(pid));
        let mut used = process::figures(worker, &below)?.less(watched.before);
        let mut over = excess(used, limits)?;
        if over.0 == Cause::Memory {
            // A closer look: what forked children share with their parent counts once.
            let resident = process::proportional_bytes(worker, &below);
            used.resident_bytes = resident.saturating_sub(watched.before.resident_bytes);
            over = excess(used, limits)?;
        }
        watched.excess = Some(used);
        Some(over)
    }

    /// When the watched task is looked at next.
    pub(super) fn next_look(&self) -> Option<Instant> {
        Some(self.watched.as_ref()?.next_look)
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
    use crate::monitor::workers::fixtures::finished;

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

    #[test]
    fn what_tasks_before_used_is_not_the_last_tasks() {
        let mut usage = Usage::default();
        usage.ready(10 << 20, 12 << 20);
        usage.finished(&Finished {
            resident_bytes: 30 << 20,
            peak_resident_bytes: 90 << 20,
            cpu_us: 2_000_000,
            ..finished(0, 1)
        });
        let mut died = Exit::example(None, Some(9));
        (died.peak_memory, died.cpu) = (90 << 20, Duration::from_secs(5));
        assert_eq!(usage.peak_of_last(&died), 30 << 20);
        assert!((usage.cpu_of_last(&died) - 3.0).abs() < 1e-9);
        died.peak_memory = 200 << 20;
        assert_eq!(usage.peak_of_last(&died), 200 << 20);
    }
}
