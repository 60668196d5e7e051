//! A record of the signal that ends a worker: which signal, at which instruction, and how far the stack had
//! grown. It lies in the page that is shared with the monitor, which reads it once the worker is dead and
//! adds it to the task's error.
//!
//! The handler runs on a stack of its own and does only what a signal handler may do: it allocates nothing,
//! takes no lock, and writes into memory. If the plugin has installed a handler while it was loaded (as
//! runtimes of other languages and crash reporters do), that handler is called next, with the same
//! arguments. It may repair the fault; then the record is void. Otherwise the signal's default action ends
//! the process, so that the wait status is the true one.
//!
//! Only the main thread has a stack for the handler. A thread that a plugin starts has none, because the
//! plugin's own copy of Rust's std was never initialised by a `main`. When such a thread exhausts its stack
//! there is no record, and the monitor reports the probable reason.

use crate::{
    plugin::is_companion,
    proc::mapped_files,
    signals::{FAULTS, action, pass_on},
    wire::{Page, PluginFile, WireError},
};
use nix::{errno::Errno, unistd::Pid};
use std::{collections::BTreeMap, sync::OnceLock};

/// The size of the alternate signal stack in bytes: enough for this handler, a handler of the plugin, and
/// the largest register set (AVX-512, AMX).
const STACK: usize = 256 << 10;

/// The action of each signal in [`FAULTS`].
type Actions = [libc::sigaction; FAULTS.len()];

/// What the handler needs, prepared before it can run.
struct Prepared {
    page: &'static Page,
    modules: Vec<Module>,
    /// The actions that the plugin installed while it was loaded.
    of_plugin: [Option<libc::sigaction>; FAULTS.len()],
    /// The process whose crashes are recorded. A child that an operation forks has the handler too, but is
    /// not the worker.
    worker: libc::pid_t,
    /// The lowest address of the main thread's stack.
    stack_end: u64,
}

/// A mapped library.
struct Module {
    start: u64,
    end: u64,
    name: String,
}

static PREPARED: OnceLock<Prepared> = OnceLock::new();

/// The actions before a plugin was loaded: Rust's own handlers, which this handler replaces.
static BEFORE_LOADING: OnceLock<Actions> = OnceLock::new();

/// Notes the current actions, before a plugin is loaded.
pub(super) fn note_actions() {
    let _ = BEFORE_LOADING.set(FAULTS.map(|signal| action(signal as i32)));
}

/// Installs the handler. Called on the main thread, after the plugin has been loaded.
pub(super) fn install(page: &'static Page, plugin: &PluginFile) -> Result<(), WireError> {
    let mut of_plugin = FAULTS.map(|signal| Some(action(signal as i32)));
    if let Some(before) = BEFORE_LOADING.get() {
        for (now, before) in of_plugin.iter_mut().zip(before) {
            now.take_if(|now| now.sa_sigaction == before.sa_sigaction);
        }
    }
    for now in &mut of_plugin {
        now.take_if(|now| now.sa_sigaction == libc::SIG_DFL);
    }
    let prepared = Prepared {
        page,
        modules: modules(plugin),
        of_plugin,
        worker: Pid::this().as_raw(),
        stack_end: stack_end(),
    };
    let Ok(()) = PREPARED.set(prepared) else {
        return Ok(());
    };
    let failed = WireError::system("prepare for crashes");
    give_stack().map_err(&failed)?;
    for (signal, of_plugin) in FAULTS.iter().zip(&of_plugin) {
        let handler: extern "C" fn(_, _, _) = handler;
        let mut ours = empty_action();
        ours.sa_sigaction = handler as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if let Some(theirs) = of_plugin {
            // While the plugin's handler runs, what it has asked for is blocked, and nothing else.
            ours.sa_mask = theirs.sa_mask;
            ours.sa_flags |= theirs.sa_flags & (libc::SA_NODEFER | libc::SA_RESTART);
        }
        // SAFETY: the handler is async-signal-safe, as its own comments show.
        let set = unsafe { libc::sigaction(*signal as i32, &raw const ours, std::ptr::null_mut()) };
        Errno::result(set).map_err(&failed)?;
    }
    Ok(())
}

/// Whether the handler is installed for every fault: no task has replaced it.
pub(super) fn is_installed() -> bool {
    let handler: extern "C" fn(_, _, _) = handler;
    let ours = handler as *const () as usize;
    FAULTS
        .iter()
        .all(|signal| action(*signal as i32).sa_sigaction == ours)
}

fn empty_action() -> libc::sigaction {
    // SAFETY: all-zero is a valid `sigaction`: the default action.
    unsafe { std::mem::zeroed() }
}

/// Provides an alternate stack, without which a handler cannot run once the stack is exhausted. A stack
/// that the plugin has provided stays if it is at least as large.
fn give_stack() -> Result<(), Errno> {
    let mut now = libc::stack_t {
        ss_sp: std::ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::sigaltstack(std::ptr::null(), &raw mut now) };
    if now.ss_flags & libc::SS_DISABLE == 0 && now.ss_size >= STACK {
        return Ok(());
    }
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

/// The lowest address that this thread's stack may reach; 0 if it is unknown.
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

/// The files that are mapped into this process, by their names.
fn modules(plugin: &PluginFile) -> Vec<Module> {
    let mut found: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for file in mapped_files() {
        let (start, end) = (file.start as u64, file.end as u64);
        let bounds = found.entry(file.path).or_insert((start, end));
        *bounds = (bounds.0.min(start), bounds.1.max(end));
    }
    let named = |path: &str| {
        let name = if path.contains(&plugin.hash) && !is_companion(path) {
            plugin.name.as_str()
        } else {
            path.rsplit('/').next().unwrap_or(path)
        };
        // Kept on one line, and short enough for one record.
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
            name: named(&path),
        })
        .collect()
}

extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(prepared) = PREPARED.get() else {
        // Cannot happen: the handler is installed after the value has been set.
        return;
    };
    // SAFETY: the kernel passes a valid siginfo.
    let code = unsafe { (*info).si_code };
    // SAFETY: getpid(2) is async-signal-safe and cannot fail.
    let page = (prepared.worker == unsafe { libc::getpid() }).then_some(prepared.page);
    let place = FAULTS.iter().position(|known| *known as i32 == signal);
    let of_plugin = place.and_then(|place| prepared.of_plugin[place]);
    // A fault cannot be ignored, but a signal that a process sent can.
    if of_plugin.is_some_and(|action| action.sa_sigaction == libc::SIG_IGN && code <= 0) {
        return;
    }
    if let Some(page) = page {
        // SAFETY: as above.
        let info = unsafe { &*info };
        // SAFETY: the kernel passes a valid context.
        let (pc, sp) = registers(unsafe { &*context.cast::<libc::ucontext_t>() });
        page.say_crash(record(prepared, signal, info, pc, sp).text());
    }
    match of_plugin.filter(|action| action.sa_sigaction != libc::SIG_IGN) {
        Some(theirs) => {
            pass_on(&theirs, signal, info, context);
            // The plugin's handler has returned and is still installed, so this was no crash, and the next
            // signal comes here again.
            let ours: extern "C" fn(_, _, _) = handler;
            if let Some(page) = page
                && action(signal).sa_sigaction == ours as *const () as usize
            {
                page.forget_crash();
            }
        }
        None => {
            let default = empty_action();
            // SAFETY: the default action runs no code of this program.
            unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
            // A fault repeats when this handler returns; a signal that a process sent does not.
            if code <= 0 {
                // SAFETY: raise(3) is async-signal-safe.
                unsafe { libc::raise(signal) };
            }
        }
    }
}

/// Writes the record that `wire::Crash` reads.
fn record(
    prepared: &Prepared,
    signal: libc::c_int,
    info: &libc::siginfo_t,
    pc: u64,
    sp: u64,
) -> Line {
    let address = if info.si_code > 0 {
        // SAFETY: for a fault, si_addr is set.
        unsafe { info.si_addr() }.addr() as u64
    } else {
        // SAFETY: for a signal that a process sent, si_pid is set.
        u64::from(unsafe { info.si_pid() }.cast_unsigned())
    };
    let mut line = Line::default();
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
    line
}

/// The instruction pointer and the stack pointer.
#[cfg(target_arch = "x86_64")]
fn registers(context: &libc::ucontext_t) -> (u64, u64) {
    let registers = &context.uc_mcontext.gregs;
    (
        registers[libc::REG_RIP as usize].cast_unsigned(),
        registers[libc::REG_RSP as usize].cast_unsigned(),
    )
}

/// The instruction pointer and the stack pointer.
#[cfg(target_arch = "aarch64")]
fn registers(context: &libc::ucontext_t) -> (u64, u64) {
    (context.uc_mcontext.pc, context.uc_mcontext.sp)
}

/// On other architectures both are unknown.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn registers(_: &libc::ucontext_t) -> (u64, u64) {
    (0, 0)
}

/// A line that is composed without allocating memory.
struct Line {
    bytes: [u8; Page::CRASH],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; Page::CRASH],
            length: 0,
        }
    }
}

impl Line {
    fn text(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

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
