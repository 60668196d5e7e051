//! Processes that a task starts and does not look after.
#![expect(
    clippy::disallowed_methods,
    reason = "children of a task are what this is about"
)]

use super::crashes;
use rework_plugin::prelude::*;
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

fn shell(script: &str) -> Result<()> {
    let status = Command::new("/bin/sh").args(["-c", script]).status()?;
    if !status.success() {
        return Err("the shell failed".into());
    }
    Ok(())
}

/// Leaves a grandchild behind, in a session of its own, that goes on printing.
pub(crate) fn one_that_outlives(patience: Duration) -> Result<()> {
    let seconds = patience.as_secs_f64();
    shell(&format!(
        "setsid sh -c 'echo child lives; sleep 0.2; echo child speaks; sleep {seconds}' &"
    ))?;
    println!("the parent is done");
    Ok(())
}

/// Has a child with 100 MB and another that keeps a processor busy, and waits for them.
pub(crate) fn one_that_works(patience: Duration) -> Result<()> {
    let seconds = patience.as_secs_f64();
    shell(&format!(
        "(head -c 104857600 /dev/zero; timeout {seconds} sh -c 'while :; do :; done') |
         tail -c 104857600 >/dev/null"
    ))
}

/// Forks twice, with a session of its own each time, as daemons do, and then waits.
pub(crate) fn daemon(patience: Duration) -> Result<()> {
    leave_daemon(patience)?;
    thread::sleep(patience);
    Ok(())
}

/// The same, talking meanwhile: it panics as soon as nobody listens any more.
pub(crate) fn daemon_and_print(patience: Duration) -> Result<()> {
    leave_daemon(patience)?;
    let end = Instant::now() + patience;
    while Instant::now() < end {
        println!("still here");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The same without waiting.
pub(crate) fn leave_daemon(patience: Duration) -> Result<()> {
    let seconds = patience.as_secs_f64();
    shell(&format!(
        "setsid sh -c '(setsid sleep {seconds} >/dev/null 2>&1 </dev/null &)' &"
    ))?;
    println!("the daemon is there");
    Ok(())
}

/// A family of 31, each in the background of the other, and then waits.
pub(crate) fn many(patience: Duration) -> Result<()> {
    let seconds = patience.as_secs_f64();
    let script = format!(
        "f() {{ if [ $1 -gt 0 ]; then f $(($1 - 1)) & f $(($1 - 1)) & fi; sleep {seconds}; }}; f 4 &"
    );
    shell(&script)?;
    println!("the family is there");
    thread::sleep(patience);
    Ok(())
}

/// Four hundred children that do nothing.
pub(crate) fn crowd() {
    for _ in 0..400 {
        // SAFETY: the child only waits.
        if unsafe { libc::fork() } == 0 {
            // SAFETY: may be called after a fork.
            unsafe { libc::pause() };
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
    }
}

/// A forked child, which has the worker's signal handler too, dies of a fault of its own.
pub(crate) fn one_that_crashes() -> Result<()> {
    // SAFETY: the child does nothing but crash.
    let child = unsafe { libc::fork() };
    if child == 0 {
        crashes::segfault();
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    println!("the child died of signal {}", libc::WTERMSIG(status));
    Ok(())
}

/// Two forked children, each with all the memory of their parent, for half a second.
pub(crate) fn that_share(memory: &[u8]) {
    let children = [0; 2].map(|_| {
        // SAFETY: the child only waits and exits.
        let child = unsafe { libc::fork() };
        if child == 0 {
            thread::sleep(Duration::from_millis(500));
            // SAFETY: ends this process at once, which is what is wanted.
            unsafe { libc::_exit(0) };
        }
        child
    });
    for child in children {
        // SAFETY: a null pointer says that the status is not wanted.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    }
    println!("three of us had {} bytes", memory.len());
}
