//! The record of the signal that ends a worker: written by the worker's signal handler, and read by the
//! monitor in the shared page.

/// A crash as the worker's signal handler recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    /// The number of the signal.
    pub signal: i32,
    /// `si_code` of the signal: why the kernel sent it; 0 or less: a process sent it. See sigaction(2).
    pub code: i32,
    /// The address of the faulting access; for a signal that a process sent, the id of that process.
    pub address: u64,
    /// The address of the instruction.
    pub pc: u64,
    /// The stack pointer.
    pub sp: u64,
    /// The lowest address that the stack of the main thread may reach.
    pub stack_end: u64,
    /// The instruction as `library.so+0x1234`, if it lies in a library that was loaded when the worker
    /// started.
    pub place: Option<String>,
}

/// How far below the stack pointer a function may access its frame at once, in bytes.
const FRAME: u64 = 256 * 1024;
/// The gap that the kernel keeps free below a stack, in bytes; see `stack_guard_gap`.
const GAP: u64 = 1024 * 1024;

impl Crash {
    /// Reads a record: signal and `si_code` in decimal, the other numbers in hexadecimal, then the place or
    /// `-`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(7, ' ');
        let signal = words.next()?.parse().ok()?;
        let code = words.next()?.parse().ok()?;
        let mut number = || u64::from_str_radix(words.next()?, 16).ok();
        let (address, pc, sp, stack_end) = (number()?, number()?, number()?, number()?);
        let place = words.next()?;
        Some(Self {
            signal,
            code,
            address,
            pc,
            sp,
            stack_end,
            place: (place != "-").then(|| place.to_owned()),
        })
    }

    /// Whether the kernel sent the signal because of a fault of the code. Otherwise a process sent it.
    pub fn is_fault(&self) -> bool {
        self.code > 0
    }

    /// Whether the stack was exhausted: the access went just below the stack pointer, or into the gap below
    /// the stack.
    pub fn is_stack_overflow(&self) -> bool {
        let invalid_access = self.is_fault() && matches!(self.signal, libc::SIGSEGV | libc::SIGBUS);
        let near_pointer =
            (self.sp.saturating_sub(FRAME)..self.sp.saturating_add(4096)).contains(&self.address);
        let in_gap = self.stack_end > 0
            && (self.stack_end.saturating_sub(GAP)..self.stack_end + 4096).contains(&self.address);
        invalid_access && (near_pointer || in_gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crash(address: u64, sp: u64) -> Crash {
        let text = format!("11 1 {address:x} 401000 {sp:x} 7000000000 lib a.so+0x10");
        Crash::parse(&text).unwrap()
    }

    #[test]
    fn a_record_is_read() {
        let crash = crash(8, 0x70_0010_0000);
        assert_eq!((crash.signal, crash.code, crash.address), (11, 1, 8));
        assert_eq!(crash.place.as_deref(), Some("lib a.so+0x10"));
        assert!(crash.is_fault() && !crash.is_stack_overflow());
        assert_eq!(Crash::parse("11 -6 1f 0 0 0 -").unwrap().place, None);
        for broken in ["", "11 1", "11 1 x 0 0 0 -", "11 1 0 0 0 0"] {
            assert_eq!(Crash::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn near_the_stack_pointer_or_in_the_gap_is_an_overflow() {
        let sp = 0x70_0010_0000;
        assert!(crash(sp - 8, sp).is_stack_overflow());
        assert!(crash(sp - FRAME, sp).is_stack_overflow());
        assert!(!crash(sp - FRAME - 1, sp).is_stack_overflow());
        assert!(!crash(sp + 8192, sp).is_stack_overflow());
        // A large frame whose far end is touched first.
        assert!(crash(0x6f_ffff_f000, 0x6f_0000_0000).is_stack_overflow());
    }
}
