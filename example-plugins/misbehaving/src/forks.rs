//! Operations that fork and return twice.

use rework_plugin::prelude::*;
use std::{thread, time::Duration};

/// Forks in this way; both processes return, the worker 42 and the other one its own number.
#[operation(domain = "misbehaving")]
fn fork_and_return(task: &mut Task, how: String) -> Result<i64> {
    let child = match how.as_str() {
        "clone" => clone(),
        _ => fork(),
    };
    if child == 0 {
        return in_the_child(task, &how);
    }
    if how == "late" {
        return Ok(42);
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    println!("the child ended with {}", libc::WEXITSTATUS(status));
    Ok(42)
}

/// Starts what is not there, in the ways in which a process is started; the answer is how each ended.
#[operation(domain = "misbehaving")]
fn start_what_is_not_there() -> Result<Vec<i64>> {
    let program = c"/no/such/program";
    let arguments = [program.as_ptr().cast_mut(), std::ptr::null_mut()];
    let mut child = 0;
    // SAFETY: the strings end with a NUL, the array with a null pointer; null stands for defaults.
    let spawned = unsafe {
        libc::posix_spawn(
            &raw mut child,
            program.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            std::ptr::null(),
        )
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "a child of a task is what this is about"
    )]
    let of_rust = std::process::Command::new("/no/such/program").spawn();
    let of_rust = of_rust.err().and_then(|error| error.raw_os_error());
    // SAFETY: reads a string that ends with a NUL.
    let of_shell = unsafe { libc::system(program.as_ptr()) };
    Ok(vec![
        spawned.into(),
        of_rust.unwrap_or_default().into(),
        libc::WEXITSTATUS(of_shell).into(),
    ])
}

/// Forks inside of a future, which both processes run to its end: the worker answers 42.
#[operation(domain = "misbehaving")]
async fn fork_in_a_future() -> i64 {
    let child = fork();
    std::future::ready(()).await;
    if child == 0 {
        return 0;
    }
    let mut status = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    println!("the child ended with {}", libc::WEXITSTATUS(status));
    42
}

fn in_the_child(task: &mut Task, how: &str) -> Result<i64> {
    match how {
        "late" => thread::sleep(Duration::from_millis(700)),
        "grandchild" if fork() != 0 => {
            // SAFETY: a null pointer says that the status is not wanted.
            unsafe { libc::wait(std::ptr::null_mut()) };
        }
        "panic" => panic!("in the child"),
        "error" => return Err("in the child".into()),
        "speak" => {
            task.progress(0.5, "from the child");
            task.save_output(&"from the child")?;
            if let Err(error) = task.schedule("misbehave").send() {
                println!("the child may not schedule: {error}");
            }
            println!("the child is cancelled: {}", task.cancelled());
        }
        "thread" => {
            let thread = thread::spawn(|| log::warn!("from a thread of the child"));
            assert!(thread.join().is_ok(), "logging does not panic");
        }
        _ => {}
    }
    Ok(i64::from(std::process::id()))
}

fn fork() -> libc::pid_t {
    // SAFETY: none that a task with threads could rely on; here there is one.
    unsafe { libc::fork() }
}

/// As `fork`, without what C does around it.
fn clone() -> libc::pid_t {
    // SAFETY: as above; with these arguments it is what fork(2) is.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    child as libc::pid_t
}
