//! A record of the signal that ends a worker: which, where, and how far the stack had grown. The
//! monitor reads it from the pipe of stderr and says so in the task's error.
//!
//! The handler runs on a stack of its own and does nothing that a signal handler may not do: it
//! allocates nothing, locks nothing, and makes one `write`. Then the signal's default action ends
//! the process as it would have without us, so that the wait status is true.
//!
//! Only the main thread has a stack for the handler: a thread that a plugin starts gets none, for
//! the plugin's own copy of Rust's std was never initialised by a `main`. When such a thread uses
//! up its stack there is no record, and the monitor says what that probably means.

use super::capture::Capture;
use crate::{
    plugin::is_companion,
    wire::{PluginFile, WireError, marker::Marker},
};
use nix::{
    errno::Errno,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    os::fd::RawFd,
    sync::{
        OnceLock,
        atomic::{AtomicI32, Ordering::Relaxed},
    },
};

/// Enough for the handler and the largest register set (AVX-512, AMX).
const STACK: usize = 64 << 10;

const SIGNALS: [Signal; 4] = [
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGILL,
    Signal::SIGFPE,
];

/// What the handler needs, made before it can run.
struct Prepared {
    /// The beginning of a marker.
    intro: Vec<u8>,
    modules: Vec<Module>,
    /// The process that writes records. A child that an operation forks has the handler too, but
    /// is not the worker.
    worker: libc::pid_t,
    /// The lowest address of the main thread's stack.
    stack_end: u64,
}

/// A library and where it is mapped.
struct Module {
    start: u64,
    end: u64,
    name: String,
}

static PREPARED: OnceLock<Prepared> = OnceLock::new();

/// Where the record goes: a private duplicate of the pipe of stderr.
static DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);

/// Installs the handler. Called on the main thread, after the plugin has been loaded.
pub(super) fn install(
    marker: &Marker,
    capture: &Capture,
    plugin: &PluginFile,
) -> Result<(), WireError> {
    let prepared = Prepared {
        intro: marker.crash_intro(),
        modules: modules(plugin),
        worker: Pid::this().as_raw(),
        stack_end: stack_end(),
    };
    if PREPARED.set(prepared).is_err() {
        return Ok(());
    }
    write_to(capture.crash_descriptor());
    let failed = WireError::system("prepare for crashes");
    give_stack().map_err(&failed)?;
    for signal in SIGNALS {
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK | SaFlags::SA_RESETHAND;
        let action = SigAction::new(SigHandler::SigAction(handler), flags, SigSet::empty());
        // SAFETY: the handler is async-signal-safe; see there.
        unsafe { sigaction(signal, &action) }.map_err(&failed)?;
    }
    Ok(())
}

/// From now on records go there. The descriptor stays open until the next call.
pub(super) fn write_to(descriptor: RawFd) {
    DESCRIPTOR.store(descriptor, Relaxed);
}

/// Without a stack of its own a handler cannot run once the stack is used up.
fn give_stack() -> Result<(), Errno> {
    let memory = Box::leak(vec![0_u8; STACK].into_boxed_slice());
    let stack = libc::stack_t {
        ss_sp: memory.as_mut_ptr().cast(),
        ss_flags: 0,
        ss_size: STACK,
    };
    // SAFETY: the memory is leaked, so it outlives the thread, and nobody else uses it.
    let result = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    Errno::result(result).map(drop)
}

/// The lowest address that the stack of this thread may reach; 0 if it cannot be known.
fn stack_end() -> u64 {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: the call always succeeds or leaves the attributes alone.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: the pointer is to a local of the right type, which this call initialises.
    if unsafe { libc::pthread_getattr_np(this, attributes.as_mut_ptr()) } != 0 {
        return 0;
    }
    let (mut low, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the attributes were initialised by the call above.
    let found =
        unsafe { libc::pthread_attr_getstack(attributes.as_ptr(), &raw mut low, &raw mut size) };
    // SAFETY: as above; they are not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    if found == 0 { low.addr() as u64 } else { 0 }
}

/// The files that are mapped here, by the names that people know them by; see proc_pid_maps(5).
fn modules(plugin: &PluginFile) -> Vec<Module> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for line in maps.lines() {
        // `start-end perms offset device inode path`; only files have a slash.
        let Some(path) = line.find('/').map(|at| &line[at..]) else {
            continue;
        };
        let Some((start, end)) = range(line) else {
            continue;
        };
        let bounds = found.entry(path).or_insert((start, end));
        *bounds = (bounds.0.min(start), bounds.1.max(end));
    }
    let named = |path: &str| {
        let name = if path.contains(&plugin.hash) && !is_companion(path) {
            plugin.name.as_str()
        } else {
            path.rsplit('/').next().unwrap_or(path)
        };
        // One line, and short enough to be written at once.
        name.chars()
            .filter(|c| !c.is_control())
            .take(100)
            .collect::<String>()
    };
    found
        .into_iter()
        .map(|(path, (start, end))| Module {
            start,
            end,
            name: named(path),
        })
        .collect()
}

fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: getpid(2) is async-signal-safe and cannot fail.
    let this = unsafe { libc::getpid() };
    if let Some(prepared) = PREPARED.get()
        && prepared.worker == this
    {
        // SAFETY: the kernel passes a valid context.
        let (pc, sp) = registers(unsafe { &*context.cast::<libc::ucontext_t>() });
        let line = record(prepared, signal, info, pc, sp);
        // SAFETY: write(2) is async-signal-safe, and the bytes lie on this stack. If it fails
        // there is no record.
        unsafe {
            libc::write(
                DESCRIPTOR.load(Relaxed),
                line.bytes.as_ptr().cast(),
                line.length,
            )
        };
    }
    // SA_RESETHAND has restored the default action. A fault repeats when we return; a signal that
    // somebody sent does not.
    if info.si_code <= 0 {
        // SAFETY: raise(3) is async-signal-safe.
        unsafe { libc::raise(signal) };
    }
}

/// Puts the marker together.
fn record(
    prepared: &Prepared,
    signal: libc::c_int,
    info: &libc::siginfo_t,
    pc: u64,
    sp: u64,
) -> Line {
    let address = if info.si_code > 0 {
        // SAFETY: of a fault the address is set.
        unsafe { info.si_addr() }.addr() as u64
    } else {
        // SAFETY: of a signal that a process sent, the process is set.
        u64::from(unsafe { info.si_pid() }.cast_unsigned())
    };
    let mut line = Line::default();
    line.put(&prepared.intro);
    line.decimal(signal);
    line.put(b" ");
    line.decimal(info.si_code);
    for number in [address, pc, sp, prepared.stack_end] {
        line.put(b" ");
        line.hexadecimal(number);
    }
    line.put(b" ");
    let module = prepared
        .modules
        .iter()
        .find(|module| (module.start..module.end).contains(&pc));
    match module {
        Some(module) => {
            line.put(module.name.as_bytes());
            line.put(b"+0x");
            line.hexadecimal(pc - module.start);
        }
        None => line.put(b"-"),
    }
    line.put(b"\n");
    line
}

/// Instruction and stack pointer.
#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (u64, u64) {
    let registers = &context.uc_mcontext.gregs;
    (
        registers[libc::REG_RIP as usize].cast_unsigned(),
        registers[libc::REG_RSP as usize].cast_unsigned(),
    )
}

/// Instruction and stack pointer.
#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (u64, u64) {
    (context.uc_mcontext.pc, context.uc_mcontext.sp)
}

/// Elsewhere they stay unknown.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn registers(_: &libc::ucontext_t) -> (u64, u64) {
    (0, 0)
}

/// A line that is put together without allocating.
struct Line {
    bytes: [u8; 768],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 768],
            length: 0,
        }
    }
}

impl Line {
    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn decimal(&mut self, number: i32) {
        if number < 0 {
            self.put(b"-");
        }
        self.digits(u64::from(number.unsigned_abs()), 10);
    }

    fn hexadecimal(&mut self, number: u64) {
        self.digits(number, 16);
    }

    fn digits(&mut self, number: u64, base: u64) {
        let mut power = 1;
        while number / power >= base {
            power *= base;
        }
        while power > 0 {
            self.put(&[b"0123456789abcdef"[(number / power % base) as usize]]);
            power /= base;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_written_without_help() {
        let mut line = Line::default();
        for number in [0, 7, -42, i32::MIN] {
            line.decimal(number);
            line.put(b" ");
        }
        for number in [0, 0xdead_beef, u64::MAX] {
            line.hexadecimal(number);
            line.put(b" ");
        }
        let text = std::str::from_utf8(&line.bytes[..line.length]).unwrap();
        assert_eq!(text, "0 7 -42 -2147483648 0 deadbeef ffffffffffffffff ");
        line.put(&[b'x'; 1000]);
        assert_eq!(line.length, line.bytes.len(), "what does not fit is cut");
    }

    #[test]
    fn this_program_is_among_the_mapped_files() {
        let here = this_program_is_among_the_mapped_files as *const () as u64;
        let exe = std::env::current_exe().unwrap();
        let exe = exe.file_name().unwrap().to_str().unwrap();
        let modules = modules(&PluginFile {
            hash: "of no file that is mapped here".to_owned(),
            name: String::new(),
        });
        let module = modules
            .iter()
            .find(|module| (module.start..module.end).contains(&here));
        assert_eq!(module.expect("we are mapped").name, exe);
    }
}
