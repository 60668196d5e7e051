//! Examiners: child processes that look at plugin files for the monitor. The monitor must not load foreign
//! code, nor wait, nor have children that it does not know. So each examiner is started by `process`, is
//! known here until it has been reaped, and its verdict comes back as an event.

use super::event::Event;
use crate::{
    model::plugin::short_hash,
    monitor::{mailbox::Mailbox, workers::process},
    plugin::{Examination, Verdict},
};
use nix::unistd::Pid;
use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// How many examiners run at a time, besides the long ones. Each hashes and copies a file, so more would
/// compete with the workers for the disk and the processors.
const AT_ONCE: usize = 4;
/// An examiner that has run for longer is a long one: it waits for a plugin that hangs while it loads.
/// Good plugins load in much less than a second.
const LONG: Duration = Duration::from_secs(1);
/// How many long examiners run at a time. They use little but memory; the other examiners do not wait for
/// them.
const LONG_AT_ONCE: usize = 16;
/// An examiner that runs for longer is killed. Copying a large file from a slow disk takes a minute; the
/// probe ends by itself after ten seconds.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// How many bytes of an examiner's output are read. A verdict lists the operations of a plugin, and takes
/// a few kilobytes.
const LARGEST_VERDICT: u64 = 64 << 20;

/// What a file is examined for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The file at this path of a drop-in directory is to be registered.
    DropIn(PathBuf),
    /// The content with this hash is to be run by this host.
    Content(String),
}

/// How far an examiner is. Its process ends and its output is closed in either order.
#[derive(Debug)]
enum State {
    /// The process runs, and has not closed its output.
    Running(Purpose),
    /// The process has been reaped; its output has not been read to the end.
    Reaped(Purpose),
    /// The verdict has been read; the process has not been reaped.
    Answered,
}

#[derive(Debug)]
struct Examiner {
    since: Instant,
    state: State,
}

/// The examiners of this monitor, by the number of their process.
#[derive(Debug, Default)]
pub(super) struct Examiners {
    running: HashMap<Pid, Examiner>,
}

impl Examiners {
    /// Whether one more examiner may be started.
    pub(super) fn has_room(&self, now: Instant) -> bool {
        let is_long = |examiner: &&Examiner| now.duration_since(examiner.since) > LONG;
        let long = self.running.values().filter(is_long).count();
        self.running.len() - long < AT_ONCE && long < LONG_AT_ONCE
    }

    /// Whether a child of this process is an examiner.
    pub(super) fn knows(&self, pid: Pid) -> bool {
        self.running.contains_key(&pid)
    }

    /// Starts an examiner, whose verdict will be an event; false: none can be started now.
    pub(super) fn start(
        &mut self,
        examination: &Examination,
        environment: &[(String, String)],
        purpose: Purpose,
        now: Instant,
        mailbox: &Mailbox<Event>,
    ) -> bool {
        if !self.has_room(now) {
            return false;
        }
        let request = serde_json::to_string(examination).expect("a request is plain data");
        let (pid, output) = match process::spawn_examiner(&request, environment) {
            Ok(started) => started,
            Err(error) => {
                tracing::error!(
                    "could not start an examiner of {}: {error}",
                    examination.named.display()
                );
                return false;
            }
        };
        self.started(pid, purpose, now);
        mailbox.run(read(output), move |output| {
            Event::Examined(pid, output.unwrap_or_default())
        });
        true
    }

    fn started(&mut self, pid: Pid, purpose: Purpose, now: Instant) {
        let examiner = Examiner {
            since: now,
            state: State::Running(purpose),
        };
        self.running.insert(pid, examiner);
    }

    /// A child of this process, which may be an examiner, has been reaped.
    pub(super) fn reaped(&mut self, pid: Pid) {
        let Some(Examiner { since, state }) = self.running.remove(&pid) else {
            return;
        };
        if let State::Running(purpose) | State::Reaped(purpose) = state {
            let state = State::Reaped(purpose);
            self.running.insert(pid, Examiner { since, state });
        }
    }

    /// An examiner has closed its output. Answers what it was started for.
    pub(super) fn answered(&mut self, pid: Pid) -> Option<Purpose> {
        let Examiner { since, state } = self.running.remove(&pid)?;
        let (purpose, is_reaped) = match state {
            State::Running(purpose) => (Some(purpose), false),
            State::Reaped(purpose) => (Some(purpose), true),
            State::Answered => (None, false),
        };
        if !is_reaped {
            let state = State::Answered;
            self.running.insert(pid, Examiner { since, state });
        }
        purpose
    }

    /// Kills the examiners that take too long, or all of them. An examiner that is killed gives no verdict,
    /// which counts as a refusal.
    pub(super) fn end(&self, now: Instant, all: bool) {
        for pid in self.to_end(now, all) {
            process::kill_tree(pid);
        }
    }

    /// The examiners whose processes are to be killed.
    fn to_end(&self, now: Instant, all: bool) -> impl Iterator<Item = Pid> {
        let is_late = move |since: Instant| now.duration_since(since) > TIME_LIMIT;
        self.running
            .iter()
            // The number of a process that has been reaped may be another process's by now.
            .filter(|(_, examiner)| !matches!(examiner.state, State::Reaped(_)))
            .filter(move |(_, examiner)| all || is_late(examiner.since))
            .map(|(pid, _)| *pid)
    }
}

/// The verdict that an examiner has printed. An examiner that ended without one refuses.
pub(super) fn verdict(output: &[u8], purpose: &Purpose) -> Verdict {
    serde_json::from_slice(output).unwrap_or_else(|_| {
        let named = match purpose {
            Purpose::DropIn(path) => path.display().to_string(),
            Purpose::Content(hash) => short_hash(hash).to_owned(),
        };
        Verdict::Refused {
            reason: format!("{named} could not be examined: the examiner ended without a verdict"),
            unfinished: false,
        }
    })
}

async fn read(output: OwnedFd) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let receiver = pipe::Receiver::from_owned_fd(output)?;
    receiver
        .take(LARGEST_VERDICT)
        .read_to_end(&mut text)
        .await?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: usize) -> Pid {
        Pid::from_raw(i32::try_from(number).unwrap())
    }

    fn content() -> Purpose {
        Purpose::Content("0123456789abcdef".to_owned())
    }

    fn to_end(examiners: &Examiners, now: Instant, all: bool) -> Vec<i32> {
        let mut pids: Vec<i32> = examiners.to_end(now, all).map(Pid::as_raw).collect();
        pids.sort_unstable();
        pids
    }

    #[test]
    fn few_run_at_a_time_and_long_ones_hold_up_the_others_only_when_they_are_many() {
        let start = Instant::now();
        let mut examiners = Examiners::default();
        let mut now = start;
        let mut number = 1;
        for _ in 0..LONG_AT_ONCE / AT_ONCE {
            for _ in 0..AT_ONCE {
                assert!(examiners.has_room(now));
                examiners.started(pid(number), content(), now);
                number += 1;
            }
            assert!(!examiners.has_room(now), "{AT_ONCE} are under way");
            assert!(!examiners.has_room(now + LONG));
            now += LONG + Duration::from_millis(1);
        }
        assert!(!examiners.has_room(now), "{LONG_AT_ONCE} hang");
        examiners.answered(pid(1));
        assert!(!examiners.has_room(now), "its process is still there");
        examiners.reaped(pid(1));
        assert!(examiners.has_room(now));
    }

    #[test]
    fn an_examiner_is_known_until_it_has_answered_and_has_been_reaped() {
        let now = Instant::now();
        let mut examiners = Examiners::default();
        examiners.started(pid(1), content(), now);
        assert_eq!(examiners.answered(pid(1)), Some(content()));
        assert!(examiners.knows(pid(1)));
        assert_eq!(examiners.answered(pid(1)), None, "it answers once");
        assert!(examiners.knows(pid(1)));
        examiners.reaped(pid(1));
        assert!(!examiners.knows(pid(1)));

        examiners.started(pid(2), content(), now);
        examiners.reaped(pid(2));
        assert!(examiners.knows(pid(2)));
        assert_eq!(examiners.answered(pid(2)), Some(content()));
        assert!(!examiners.knows(pid(2)));

        examiners.reaped(pid(3));
        assert_eq!(examiners.answered(pid(3)), None);
        assert!(!examiners.knows(pid(3)), "another child of the monitor");
    }

    #[test]
    fn an_examiner_is_killed_after_its_time_and_never_once_it_has_been_reaped() {
        let now = Instant::now();
        let mut examiners = Examiners::default();
        examiners.started(pid(1), content(), now);
        examiners.started(pid(2), content(), now);
        examiners.started(pid(3), content(), now + TIME_LIMIT);
        examiners.reaped(pid(2));
        assert_eq!(to_end(&examiners, now + TIME_LIMIT, false), [0; 0]);
        let late = now + TIME_LIMIT + Duration::from_millis(1);
        assert_eq!(to_end(&examiners, late, false), [1]);
        examiners.answered(pid(1));
        assert_eq!(
            to_end(&examiners, late, false),
            [1],
            "its output is closed, and the process still runs"
        );
        assert_eq!(to_end(&examiners, now, true), [1, 3]);
    }

    #[test]
    fn no_verdict_is_a_refusal() {
        let said = verdict(b"", &content());
        let Verdict::Refused { reason, unfinished } = said else {
            panic!("{said:?}");
        };
        assert_eq!(
            reason,
            "0123456789ab could not be examined: the examiner ended without a verdict"
        );
        assert!(!unfinished);
        let said = verdict(br#""Unfinished""#, &content());
        assert!(matches!(said, Verdict::Unfinished), "{said:?}");
    }
}
