//! Faults that a handler of the plugin repairs, as runtimes with a garbage collector do.

use rework_plugin::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A page that the handler makes writable when it is written to; 0: there is none.
static GUARDED: AtomicUsize = AtomicUsize::new(0);
const PAGE: usize = 4096;

/// Installs the handler: while the plugin is loaded.
pub(crate) fn install() {
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = repair;
    // SAFETY: all-zero is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler is async-signal-safe.
    unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()) };
}

extern "C" fn repair(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo.
    let info = unsafe { &*info };
    // SAFETY: of a fault the address is set.
    let address = unsafe { info.si_addr() }.addr();
    let guarded = GUARDED.load(Relaxed);
    if guarded != 0 && (guarded..guarded + PAGE).contains(&address) {
        let page = std::ptr::with_exposed_provenance_mut(guarded);
        // SAFETY: the page is a mapping of this plugin.
        unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
        return;
    }
    // SAFETY: the default action runs no code; the fault repeats, and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Writes to a page that it has protected, so many times; how often that was repaired.
#[operation(domain = "misbehaving")]
fn survive_faults(times: i64) -> Result<i64> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGE,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err("mmap failed".into());
    }
    GUARDED.store(page.expose_provenance(), Relaxed);
    for time in 0..times {
        // SAFETY: the mapping is this function's own.
        unsafe { libc::mprotect(page, PAGE, libc::PROT_NONE) };
        // SAFETY: the handler makes the page writable, or else the process ends here.
        unsafe { page.cast::<i64>().write_volatile(time) };
    }
    Ok(times)
}
