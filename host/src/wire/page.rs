//! The page of memory that a monitor shares with one worker: which of the tasks that were handed over have
//! begun, until when the lease lasts, and which tasks should end. It is a file in the host's state
//! directory, so that the host's next monitor can read it.
//!
//! A slot goes `handed → begun` (by the worker) or `handed → revoked` (by the monitor), each by one
//! compare-and-swap of a word that also holds the task. So it is always known whether a task has begun, and
//! a message that arrives too late begins nothing.

use super::{Crash, WireError};
use memmap2::{MmapOptions, MmapRaw};
use nix::time::{ClockId, clock_gettime};
use std::{
    fs::{File, OpenOptions},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    sync::atomic::{
        AtomicI64, AtomicU8, AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

const MAGIC: u64 = u64::from_le_bytes(*b"rework\0\x02");

/// Why a worker ends itself while it runs a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfEnd {
    /// The operation has closed the worker's socket.
    Disconnected = 1,
    /// The operation has ended the main thread, which runs it and hears the monitor.
    MainThreadEnded = 2,
    /// The monitor has not renewed its lease in time, so others may repeat the task.
    LeaseExpired = 3,
}

impl SelfEnd {
    const ALL: [Self; 3] = [
        Self::Disconnected,
        Self::MainThreadEnded,
        Self::LeaseExpired,
    ];
}

/// The layout of the shared file. All zeros is valid: all slots are free.
#[repr(C)]
#[derive(Debug)]
struct Layout {
    magic: AtomicU64,
    /// When the monitor's lease ends, in nanoseconds of `CLOCK_BOOTTIME`; 0: no lease is set.
    lease_until: AtomicU64,
    /// Why the worker has ended itself: a number of [`SelfEnd`]; 0: it has not.
    self_end: AtomicU64,
    slots: [Slot; Page::SLOTS as usize],
    /// When the last crash was recorded, in nanoseconds of `CLOCK_BOOTTIME`.
    crash_at: AtomicU64,
    /// The length of the crash record in bytes; 0: there is none.
    crash_length: AtomicU64,
    crash: [AtomicU8; Page::CRASH],
}

#[repr(C)]
#[derive(Debug)]
struct Slot {
    /// The id of the task, shifted left by two bits, and the state in the lowest two.
    word: AtomicU64,
    /// 1 if the task should end by itself.
    cancel: AtomicU32,
    /// 1 if the task has ever asked whether it should end.
    asked: AtomicU32,
    /// When the task began, in microseconds since the epoch; valid once it has begun.
    started_us: AtomicI64,
}

/// The state of the task in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// The slot holds no task.
    Free,
    /// The task was handed to the worker, and may begin.
    Handed,
    /// The task has begun.
    Begun,
    /// The monitor has taken the task back, and it will not begin.
    Revoked,
}

impl SlotState {
    fn of(word: u64) -> Self {
        match word & 3 {
            0 => Self::Free,
            1 => Self::Handed,
            2 => Self::Begun,
            _ => Self::Revoked,
        }
    }

    fn with(self, task: i64) -> u64 {
        let state = match self {
            Self::Free => 0,
            Self::Handed => 1,
            Self::Begun => 2,
            Self::Revoked => 3,
        };
        task.cast_unsigned() << 2 | state
    }
}

/// A mapping of the page. Monitor and worker each map the same file.
#[derive(Debug)]
pub struct Page {
    file: File,
    map: MmapRaw,
}

impl Page {
    /// How many tasks a worker can hold at once.
    pub const SLOTS: u32 = 128;
    /// The longest crash record in bytes: seven numbers and the name of a library.
    pub const CRASH: usize = 384;

    /// Creates the page of a worker, in a file that only its owner can read.
    pub fn create(path: &Path) -> Result<Self, WireError> {
        let fault = |source| WireError::System {
            doing: "make a shared page",
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(fault)?;
        file.set_len(size_of::<Layout>() as u64).map_err(fault)?;
        let page = Self::of_file(file)?;
        page.layout().magic.store(MAGIC, Release);
        Ok(page)
    }

    /// Opens the page of a monitor that is gone.
    pub fn open(path: &Path) -> Result<Self, WireError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| WireError::System {
                doing: "open a shared page",
                source,
            })?;
        Self::of_file(file)?.checked()
    }

    /// Maps the page in the worker.
    pub fn map(fd: OwnedFd) -> Result<Self, WireError> {
        Self::of_file(File::from(fd))?.checked()
    }

    fn of_file(file: File) -> Result<Self, WireError> {
        let fault = |source| WireError::System {
            doing: "map the shared page",
            source,
        };
        let length = file.metadata().map_err(fault)?.len();
        if length < size_of::<Layout>() as u64 {
            return Err(fault(std::io::Error::other("it is too short")));
        }
        let map = MmapOptions::new()
            .len(size_of::<Layout>())
            .map_raw(&file)
            .map_err(fault)?;
        Ok(Self { file, map })
    }

    fn checked(self) -> Result<Self, WireError> {
        if self.layout().magic.load(Acquire) == MAGIC {
            return Ok(self);
        }
        let source = std::io::Error::other("it is of another version");
        Err(WireError::System {
            doing: "read the shared page",
            source,
        })
    }

    /// A descriptor of the file, for the worker.
    pub fn descriptor(&self) -> Result<OwnedFd, WireError> {
        let cloned = self.file.try_clone();
        cloned
            .map(OwnedFd::from)
            .map_err(|source| WireError::System {
                doing: "duplicate the shared page",
                source,
            })
    }

    fn layout(&self) -> &Layout {
        // SAFETY: the mapping is as long as `Layout` (checked above), page-aligned, lives as long
        // as `self`, and every field is an atomic integer, for which any bits are valid and any
        // concurrent access by another process is a plain atomic operation.
        unsafe { &*self.map.as_ptr().cast::<Layout>() }
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.layout().slots[(slot % Self::SLOTS) as usize]
    }

    /// The state of the task in a slot.
    pub fn state(&self, slot: u32) -> SlotState {
        SlotState::of(self.slot(slot).word.load(Acquire))
    }

    /// The id of the task in a slot.
    pub fn task(&self, slot: u32) -> i64 {
        (self.slot(slot).word.load(Acquire) >> 2).cast_signed()
    }

    /// For the monitor: hands a task to the worker, which may begin it from now on.
    pub fn hand(&self, slot: u32, task: i64) {
        let slot = self.slot(slot);
        slot.cancel.store(0, Relaxed);
        slot.asked.store(0, Relaxed);
        slot.word.store(SlotState::Handed.with(task), Release);
    }

    /// For the monitor: takes a task back. Returns `false` if it has begun, or the slot holds none.
    pub fn revoke(&self, slot: u32) -> bool {
        let task = self.task(slot);
        self.swap(
            slot,
            SlotState::Handed.with(task),
            SlotState::Revoked.with(task),
        )
    }

    /// For the monitor: frees a slot.
    pub fn release(&self, slot: u32) {
        self.slot(slot).word.store(0, Release);
    }

    /// For the worker: begins a task at this time, in microseconds since the epoch. Returns `false` if the
    /// monitor has taken the task back; then it must not run. The monitor reads the time from here.
    pub fn begin(&self, slot: u32, task: i64, started_us: i64) -> bool {
        // An earlier task has survived its crash.
        self.forget_crash();
        // Stored before the swap, so that a reader who sees `Begun` sees the time too.
        self.slot(slot).started_us.store(started_us, Relaxed);
        self.swap(
            slot,
            SlotState::Handed.with(task),
            SlotState::Begun.with(task),
        )
    }

    /// For the monitor: when the task in a slot began, in microseconds since the epoch; `None` if it has
    /// not.
    pub fn started_us(&self, slot: u32) -> Option<i64> {
        let is_begun = self.state(slot) == SlotState::Begun;
        is_begun.then(|| self.slot(slot).started_us.load(Relaxed))
    }

    fn swap(&self, slot: u32, from: u64, to: u64) -> bool {
        self.slot(slot)
            .word
            .compare_exchange(from, to, AcqRel, Acquire)
            .is_ok()
    }

    /// For the monitor: asks a running task to end by itself.
    pub fn request_cancel(&self, slot: u32) {
        self.slot(slot).cancel.store(1, Release);
    }

    /// For the monitor: whether the task has ever asked whether it should end. If so, it gets time to do
    /// so.
    pub fn asked_cancel(&self, slot: u32) -> bool {
        self.slot(slot).asked.load(Acquire) != 0
    }

    /// For the worker: whether the task should end by itself.
    pub fn cancelled(&self, slot: u32) -> bool {
        let slot = self.slot(slot);
        slot.asked.store(1, Release);
        slot.cancel.load(Acquire) != 0
    }

    /// For a process that a task has forked: whether the task should end, or has ended. Unlike the worker,
    /// such a process gets no extra time.
    pub fn is_over(&self, slot: u32, task: i64) -> bool {
        let is_running = self.slot(slot).word.load(Acquire) == SlotState::Begun.with(task);
        !is_running || self.slot(slot).cancel.load(Acquire) != 0
    }

    /// For the worker's signal handler: records a crash that may end the worker. [`Crash`] reads the text.
    pub fn say_crash(&self, text: &[u8]) {
        let layout = self.layout();
        layout.crash_length.store(0, Release);
        let mut length = 0;
        for (place, byte) in layout.crash.iter().zip(text) {
            place.store(*byte, Relaxed);
            length += 1;
        }
        layout.crash_at.store(boottime(), Relaxed);
        layout.crash_length.store(length, Release);
    }

    /// For the worker, also in its signal handler: deletes the record, since the crash did not end the
    /// worker.
    pub fn forget_crash(&self) {
        self.layout().crash_length.store(0, Release);
    }

    /// For the monitor, once the worker is dead: the crash that was recorded at most `within` ago.
    pub fn crash(&self, within: Duration) -> Option<Crash> {
        let layout = self.layout();
        let length = usize::try_from(layout.crash_length.load(Acquire)).ok()?;
        let age = boottime().saturating_sub(layout.crash_at.load(Relaxed));
        if length == 0 || age > u64::try_from(within.as_nanos()).ok()? {
            return None;
        }
        let bytes = layout.crash.iter().take(length);
        let text: Vec<u8> = bytes.map(|byte| byte.load(Relaxed)).collect();
        Crash::parse(&String::from_utf8_lossy(&text))
    }

    /// For the monitor: until when the worker may run tasks, in nanoseconds of `CLOCK_BOOTTIME`; after
    /// that, other monitors may repeat them. `u64::MAX`: without end.
    pub fn set_lease(&self, until: u64) {
        self.layout().lease_until.store(until, Release);
    }

    /// For the worker: records why it ends itself, since no message can say so.
    pub fn record_self_end(&self, why: SelfEnd) {
        self.layout().self_end.store(why as u64, Release);
    }

    /// For the monitor: why the worker has ended itself; `None`: it has not.
    pub fn self_end(&self) -> Option<SelfEnd> {
        let number = self.layout().self_end.load(Acquire);
        SelfEnd::ALL.into_iter().find(|why| *why as u64 == number)
    }

    /// For the worker: until when it may run tasks; see [`Page::set_lease`].
    pub fn lease_until(&self) -> u64 {
        match self.layout().lease_until.load(Acquire) {
            0 => u64::MAX,
            until => until,
        }
    }
}

/// `CLOCK_BOOTTIME`, which goes on while the machine sleeps, in nanoseconds. Async-signal-safe.
pub fn boottime() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has CLOCK_BOOTTIME");
    now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_begins_or_is_revoked_never_both() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("1.page");
        let monitor = Page::create(&path).unwrap();
        let worker = Page::map(monitor.descriptor().unwrap()).unwrap();
        monitor.hand(3, 42);
        assert_eq!(worker.state(3), SlotState::Handed);
        assert!(worker.begin(3, 42, 5));
        assert!(!monitor.revoke(3));
        assert_eq!(monitor.started_us(3), Some(5));
        monitor.hand(4, 43);
        assert!(monitor.revoke(4));
        assert!(!worker.begin(4, 43, 5));
        // The next monitor reads what this one knew.
        let next = Page::open(&path).unwrap();
        assert_eq!((next.state(3), next.task(3)), (SlotState::Begun, 42));
        assert_eq!(next.state(5), SlotState::Free);
    }

    #[test]
    fn a_message_that_was_overtaken_begins_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let page = Page::create(&directory.path().join("1.page")).unwrap();
        page.hand(0, 1);
        assert!(page.revoke(0));
        page.hand(0, 2);
        assert!(!page.begin(0, 1, 5), "the slot belongs to another task now");
        assert!(page.begin(0, 2, 5));
    }

    #[test]
    fn racing_sides_agree() {
        let directory = tempfile::tempdir().unwrap();
        let page = Page::create(&directory.path().join("1.page")).unwrap();
        for round in 1..2000 {
            page.hand(7, round);
            let (begun, revoked) = std::thread::scope(|scope| {
                let worker = scope.spawn(|| page.begin(7, round, 5));
                let revoked = page.revoke(7);
                (worker.join().unwrap(), revoked)
            });
            assert!(begun != revoked, "round {round}");
        }
    }

    #[test]
    fn asking_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let page = Page::create(&directory.path().join("1.page")).unwrap();
        page.hand(0, 1);
        assert!(!page.asked_cancel(0));
        assert!(!page.cancelled(0));
        page.request_cancel(0);
        assert!(page.asked_cancel(0) && page.cancelled(0));
        page.hand(0, 2);
        assert!(!page.asked_cancel(0) && !page.cancelled(0));
    }
    #[test]
    fn a_crash_that_was_survived_explains_no_later_one() {
        const LONG: Duration = Duration::from_secs(60);
        let directory = tempfile::tempdir().unwrap();
        let page = Page::create(&directory.path().join("1.page")).unwrap();
        let text = b"11 1 8 401000 7000 6000 lib.so+0x1000";
        assert_eq!(page.crash(LONG), None);
        page.say_crash(text);
        let crash = page.crash(LONG).expect("it was recorded");
        assert_eq!((crash.signal, crash.address), (11, 8));
        assert_eq!(crash.place.as_deref(), Some("lib.so+0x1000"));
        assert_eq!(page.crash(Duration::ZERO), None, "it was long ago");
        page.forget_crash();
        assert_eq!(page.crash(LONG), None);
        page.say_crash(text);
        page.hand(0, 1);
        assert!(page.begin(0, 1, 5));
        assert_eq!(page.crash(LONG), None, "the next task has begun");
        page.say_crash(&[b'x'; 2 * Page::CRASH]);
        assert_eq!(page.crash(LONG), None, "that is no record");
    }
}
