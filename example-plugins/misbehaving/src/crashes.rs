//! What ends a process at once. There is no memory safety here; the kernel steps in, and that is
//! the point.

use rework_plugin::prelude::*;
use std::os::fd::AsRawFd;

/// Writes where nothing is.
pub(crate) fn segfault() {
    write_to(8);
}

/// Writes to what no address can be.
pub(crate) fn wild_address() {
    write_to(0xdead_0000_0000_0000_u64 as usize);
}

fn write_to(address: usize) {
    let nowhere = std::ptr::without_provenance_mut::<u8>(address);
    // SAFETY: there is none; the address is never mapped, so the kernel ends the process here.
    unsafe { nowhere.write_volatile(1) };
}

/// Calls itself until the stack is used up.
#[expect(unconditional_recursion, reason = "that is what it is for")]
pub(crate) fn overflow(depth: u64) -> u64 {
    let page = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + page[7]
}

/// Reads a mapped file beyond its end.
pub(crate) fn bus_error() -> Result<()> {
    let file = std::fs::File::open("/proc/self/exe")?;
    let length = file.metadata()?.len() as usize + 2 * 65536;
    // SAFETY: a private mapping of a file at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err("mmap failed".into());
    }
    let last = start.cast::<u8>().wrapping_add(length - 1);
    // SAFETY: none; the page is beyond the end of the file, where the kernel sends SIGBUS.
    unsafe { last.read_volatile() };
    Ok(())
}

/// As the processor does it; Rust itself would panic.
pub(crate) fn division_by_zero() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the registers named are clobbered, nothing else; the processor refuses.
    unsafe {
        std::arch::asm!(
            "div {zero:e}",
            zero = in(reg) 0_u32,
            inout("eax") 1_u32 => _,
            inout("edx") 0_u32 => _,
        );
    };
    #[cfg(not(target_arch = "x86_64"))]
    raise(libc::SIGFPE);
}

/// An instruction that does not exist.
pub(crate) fn illegal_instruction() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: none; the processor refuses it.
    unsafe {
        std::arch::asm!("ud2");
    };
    #[cfg(not(target_arch = "x86_64"))]
    raise(libc::SIGILL);
}

/// Sends itself a signal.
pub(crate) fn raise(signal: libc::c_int) {
    // SAFETY: sending oneself a signal is always allowed.
    unsafe { libc::raise(signal) };
}

/// What `assert` of C does.
pub(crate) fn assertion_of_c() {
    unsafe extern "C" {
        fn __assert_fail(
            assertion: *const libc::c_char,
            file: *const libc::c_char,
            line: libc::c_uint,
            function: *const libc::c_char,
        ) -> !;
    }
    // SAFETY: three strings that end with a NUL and live for ever.
    unsafe { __assert_fail(c"1 == 2".as_ptr(), c"sums.c".as_ptr(), 7, c"add".as_ptr()) };
}

/// Ends the main thread alone, as the kernel does for a system call that strict seccomp forbids.
pub(crate) fn end_this_thread() -> ! {
    loop {
        // SAFETY: nothing of this thread is used any more.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}
