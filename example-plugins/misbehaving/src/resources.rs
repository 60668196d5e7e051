//! Operations that use more than they may, and one that looks at what it has.
#![expect(
    clippy::disallowed_methods,
    reason = "children count against the limits of their task"
)]

use super::children;
use rework_plugin::prelude::*;
use std::{fs::File as OpenFile, net::TcpStream, process::Command, thread};

const MEGABYTE: usize = 1 << 20;

/// Asks for more memory than there is.
pub(crate) fn allocation_refused() {
    let all: Vec<u8> = Vec::with_capacity(1 << 46);
    std::hint::black_box(&all);
}

/// Uses 200 MB, for a moment.
pub(crate) fn use_memory() {
    std::hint::black_box(vec![1_u8; 200 * MEGABYTE]);
}

/// Uses 256 MB where 64 are allowed.
#[operation(domain = "misbehaving", memory = "64MB")]
fn eat_memory(how: String) -> Result<()> {
    println!("eating {how}");
    let size = 256 * MEGABYTE;
    match how.as_str() {
        "at once" => drop(std::hint::black_box(vec![1_u8; size])),
        "slowly" => (0..256).for_each(|_| std::mem::forget(vec![1_u8; MEGABYTE])),
        "politely" => Vec::<u8>::new().try_reserve_exact(size)?,
        "shared" => shared_memory(size)?,
        "forked" => children::that_share(&vec![1; 40 * MEGABYTE]),
        // `tail` keeps a line until it is complete.
        _ => {
            let script = "(head -c 40000000 /dev/zero; sleep 60) | tail -n 1 & \
                          (head -c 40000000 /dev/zero; sleep 60) | tail -n 1";
            Command::new("/bin/sh").args(["-c", script]).status()?;
        }
    }
    Ok(())
}

/// Memory that no limit of a single process counts, held for a while.
fn shared_memory(size: usize) -> Result<()> {
    // SAFETY: an anonymous mapping at an address of the kernel's choice.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err("mmap failed".into());
    }
    // SAFETY: the mapping is as long, writable, and ours alone.
    unsafe { std::ptr::write_bytes(start.cast::<u8>(), 1, size) };
    thread::sleep(std::time::Duration::from_secs(60));
    Ok(())
}

/// Uses processor time without end where one second is allowed.
#[operation(domain = "misbehaving", cpu = "1s")]
fn burn(how: String) -> Result<()> {
    println!("burning {how}");
    match how.as_str() {
        "alone" => loop {
            std::hint::spin_loop();
        },
        _ => {
            let script = "while :; do :; done";
            Command::new("/bin/sh").args(["-c", script]).status()?;
        }
    }
    Ok(())
}

/// Opens so many files where 16 are allowed.
#[operation(domain = "misbehaving", files = 16)]
fn open_files(count: i64) -> Result<i64> {
    let mut files = Vec::new();
    for _ in 0..count {
        files.push(OpenFile::open("/dev/null")?);
    }
    Ok(count)
}

/// Opens so many files, with no limit of its own.
#[operation(domain = "misbehaving")]
fn open_more_files(count: i64) -> Result<i64> {
    let files: std::io::Result<Vec<OpenFile>> =
        (0..count).map(|_| OpenFile::open("/dev/null")).collect();
    files?;
    Ok(count)
}

/// Says why a connection fails, or `connected`.
#[operation(domain = "misbehaving")]
fn connect(address: String) -> String {
    TcpStream::connect(address).map_or_else(|error| error.to_string(), |_| "connected".to_owned())
}

/// What a task can see of the world, and of itself.
#[operation(domain = "misbehaving")]
fn look_around() -> Result<Value> {
    let environment: Vec<String> = std::env::vars()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let arguments: Vec<String> = std::env::args().collect();
    let descriptors: Vec<String> = std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    // SAFETY: asks for the parent's number, which cannot fail.
    let monitor = unsafe { libc::getppid() };
    let of_monitor = std::fs::read(format!("/proc/{monitor}/environ"))
        .map_or_else(|error| error.to_string(), |_| "readable".to_owned());
    Ok(json!({
        "environment": environment,
        "arguments": arguments,
        "descriptors": descriptors,
        "status": std::fs::read_to_string("/proc/self/status")?,
        "limits": std::fs::read_to_string("/proc/self/limits")?,
        "environment_of_monitor": of_monitor,
    }))
}
