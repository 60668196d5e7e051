//! Operations that leave their process changed, and one that looks whether it is.

use rework_plugin::prelude::*;

extern "C" fn leave_quietly(_: libc::c_int) {
    // SAFETY: ends the process at once, as if all were well.
    unsafe { libc::_exit(0) };
}

/// Changes something of its process and returns.
#[operation(domain = "misbehaving")]
fn leave(what: String) -> Result<()> {
    println!("leaving {what}");
    match what.as_str() {
        "nothing" => {}
        "alarm" => {
            // SAFETY: a plain system call.
            unsafe { libc::alarm(1) };
        }
        "interval timer" => {
            let time = libc::timeval {
                tv_sec: 0,
                tv_usec: 300_000,
            };
            let timer = libc::itimerval {
                it_interval: time,
                it_value: time,
            };
            // SAFETY: the pointer is to a local of the right type.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
        }
        "a waiting alarm" => {
            set_blocked(libc::SIGALRM);
            // SAFETY: sending oneself a signal is always allowed.
            unsafe { libc::raise(libc::SIGALRM) };
        }
        "mask" => set_blocked(libc::SIGUSR2),
        "directory" => {
            let path = std::env::temp_dir().join(format!("gone-{}", std::process::id()));
            std::fs::create_dir(&path)?;
            std::env::set_current_dir(&path)?;
            std::fs::remove_dir(&path)?;
        }
        "umask" => {
            // SAFETY: a plain system call.
            unsafe { libc::umask(0o777) };
        }
        "environment" => {
            // SAFETY: no other thread of this process reads the environment.
            unsafe { libc::setenv(c"LEFT".as_ptr(), c"behind".as_ptr(), 1) };
        }
        "rounding" => round_to_zero(),
        "non-blocking output" => {
            // SAFETY: a plain system call on a descriptor that is open.
            unsafe { libc::fcntl(1, libc::F_SETFL, libc::O_NONBLOCK) };
        }
        "closed input" => {
            // SAFETY: closing a descriptor is always allowed; nobody in this task reads it.
            unsafe { libc::close(0) };
        }
        "limit" => {
            let mut limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the pointer is to a local of the right type.
            unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
            limit.rlim_cur = 1 << 20;
            // SAFETY: as above.
            unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raw const limit) };
        }
        "nice" => {
            // SAFETY: a plain system call.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) };
        }
        "processors" => {
            // SAFETY: all-zero is a valid set: the empty one.
            let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            // SAFETY: a plain system call.
            let here = unsafe { libc::sched_getcpu() };
            // SAFETY: the kernel numbers its processors from zero.
            unsafe { libc::CPU_SET(here.cast_unsigned() as usize, &mut set) };
            // SAFETY: the pointer is to a local of this size.
            unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
        }
        "locale" => {
            // SAFETY: the name ends with a NUL; every glibc since 2.35 has this locale built in.
            let name = unsafe { libc::setlocale(libc::LC_ALL, c"C.UTF-8".as_ptr()) };
            if name.is_null() {
                return Err("there is no C.UTF-8".into());
            }
        }
        "undumpable" => {
            // SAFETY: a plain system call.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
        }
        "first to die" => std::fs::write("/proc/self/oom_score_adj", "900")?,
        "broken pipes" => set(libc::SIGPIPE, libc::SIG_DFL),
        "ignored children" => set(libc::SIGCHLD, libc::SIG_IGN),
        "ended by SIGTERM" => set(libc::SIGTERM, libc::SIG_DFL),
        "handler of faults" => set(libc::SIGSEGV, leave_quietly as *const () as usize),
        "handler" => set(libc::SIGUSR1, leave_quietly as *const () as usize),
        "ignored signal" => set(libc::SIGUSR1, libc::SIG_IGN),
        "real-time handler" => set(40, leave_quietly as *const () as usize),
        "timer" => {
            let mut timer = std::ptr::null_mut();
            let clock = libc::CLOCK_MONOTONIC;
            // SAFETY: without an event the signal is SIGALRM; the number goes to a local.
            unsafe { libc::timer_create(clock, std::ptr::null_mut(), &raw mut timer) };
        }
        "session" => {
            // SAFETY: a plain system call.
            unsafe { libc::setsid() };
        }
        "death of the parent" => {
            // SAFETY: a plain system call.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGUSR1) };
        }
        "zombie" => {
            // SAFETY: the child ends at once.
            if unsafe { libc::fork() } == 0 {
                // SAFETY: as above.
                unsafe { libc::_exit(0) };
            }
        }
        "thread" => {
            std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(3600)));
        }
        "socket" => std::mem::forget(std::net::TcpListener::bind("127.0.0.1:0")?),
        "locked memory" => {
            // SAFETY: a plain system call.
            unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) };
        }
        "network" => {
            // SAFETY: a plain system call.
            unsafe { libc::unshare(libc::CLONE_NEWNET) };
        }
        "no descriptors" => {
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: the pointer is to a local of the right type.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) };
        }
        "root" => {
            // SAFETY: a plain system call, with a string that ends with a NUL.
            unsafe { libc::chroot(c"/usr".as_ptr()) };
        }
        "user" => {
            // SAFETY: a plain system call.
            unsafe { libc::setresuid(65534, 65534, 65534) };
        }
        other => Err(format!("nothing is called {other}"))?,
    }
    Ok(())
}

/// What a task finds that others may have left.
#[operation(domain = "misbehaving")]
fn look_at_process() -> Result<Value> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kept = [
        "Umask:",
        "SigBlk:",
        "SigIgn:",
        "SigCgt:",
        "SigPnd:",
        "Uid:",
        "Cpus_allowed:",
    ];
    let lines: Vec<&str> = status
        .lines()
        .filter(|line| kept.iter().any(|name| line.starts_with(name)))
        .collect();
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    // SAFETY: a plain system call on a descriptor that is open.
    let flags = unsafe { libc::fcntl(1, libc::F_GETFL) };
    let third = std::hint::black_box(1.0_f64) / std::hint::black_box(3.0);
    let tiny = std::hint::black_box(f64::MIN_POSITIVE) / std::hint::black_box(2.0);
    // SAFETY: a null pointer only asks.
    let locale = unsafe { libc::setlocale(libc::LC_ALL, std::ptr::null()) };
    // SAFETY: C answers a string that ends with a NUL and stays until the next call.
    let locale = unsafe { std::ffi::CStr::from_ptr(locale) };
    Ok(json!({
        "locale": locale.to_string_lossy(),
        // SAFETY: a plain system call.
        "nice": unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) },
        // SAFETY: a plain system call.
        "dumpable": unsafe { libc::prctl(libc::PR_GET_DUMPABLE) },
        "children": std::fs::read_to_string(format!("/proc/self/task/{0}/children", std::process::id()))?,
        "death_of_parent": death_of_parent(),
        "oom_score": std::fs::read_to_string("/proc/self/oom_score_adj")?,
        "process": std::process::id(),
        "status": lines,
        "limits": limits,
        "directory": std::env::current_dir()?,
        "environment": std::env::var("LEFT").ok(),
        "input": std::fs::read_link("/proc/self/fd/0").ok(),
        "output": flags,
        "minus_a_third": (-third).to_bits().to_string(),
        "two_thirds": (2.0 * std::hint::black_box(1.0_f64) / std::hint::black_box(3.0)).to_bits().to_string(),
        "subnormal": tiny > 0.0,
    }))
}

/// The signal that this process gets when its parent ends; 0: none.
fn death_of_parent() -> libc::c_int {
    let mut signal = 0;
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::prctl(libc::PR_GET_PDEATHSIG, &raw mut signal) };
    signal
}

fn set(signal: libc::c_int, action: usize) {
    // SAFETY: the handler of this file is async-signal-safe.
    unsafe { libc::signal(signal, action) };
}

pub(crate) fn set_blocked(signal: libc::c_int) {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a local of the right type.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: as above, and it has been initialised.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: as above; the former mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
}

/// Towards zero, and what is subnormal is zero.
fn round_to_zero() {
    #[cfg(target_arch = "x86_64")]
    {
        let modes: u32 = 0x1f80 | 0xe040;
        // SAFETY: valid bits; what this operation still calculates is not looked at.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const modes, options(nostack)) };
    }
}

/// What a shell that C starts makes of a pipe that nobody reads any more, and what a write does here.
#[operation(domain = "misbehaving")]
fn break_pipes() -> Result<String> {
    // SAFETY: reads a string that ends with a NUL; no other thread of this task uses signals.
    let status = unsafe { libc::system(c"while echo y; do :; done | head -n 1".as_ptr()) };
    println!("the shell ended with {status}");
    let (reader, mut writer) = std::io::pipe()?;
    drop(reader);
    let written = std::io::Write::write_all(&mut writer, b"x");
    Ok(written.map_or_else(
        |error| format!("{:?}", error.kind()),
        |()| "written".to_owned(),
    ))
}
