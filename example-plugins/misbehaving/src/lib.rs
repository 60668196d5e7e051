//! Everything that can go wrong in a task, one mode each. The tests of the host run it to see that
//! each ends as it should, and that nobody else is harmed.

mod children;
mod crashes;
mod descriptors;
mod faults;
mod forks;
mod leftovers;
mod loading;
mod native;
mod output;
mod panics;
mod resources;

use rework_plugin::prelude::*;
use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How to misbehave.
#[derive(Inputs)]
struct Order {
    #[input(choices = [
        "ok", "error", "panic", "panic in a thread", "double panic", "hang", "busy loop",
        "segfault", "abort", "stack overflow", "leak", "exit", "flood", "child outlives",
        "caught panic and segfault", "close everything", "close everything and print",
        "native output", "close output", "nul output", "wait for cancel", "assertion",
        "segfault in a thread", "stack overflow in a thread", "bus error", "division by zero",
        "illegal instruction", "wild address", "raise", "kill itself", "terminate itself",
        "allocation refused", "exit with 3", "use memory", "child crashes",
        "child crashes first", "daemon", "daemon and print", "many children",
        "close low descriptors", "garbage for the monitor", "daemon and no descriptors",
        "crowd and segfault", "child works", "stop itself", "shut down sockets", "end the main thread",
    ])]
    mode: String,
    #[input(default = 3600)]
    seconds: f64,
    /// Who hangs does so until somebody makes this file.
    #[input(default = "")]
    until: String,
}

/// Does what no operation should.
#[operation(domain = "misbehaving")]
fn misbehave(task: &mut Task, order: Order) -> Result<Value> {
    println!("about to: {}", order.mode);
    let patience = Duration::from_secs_f64(order.seconds);
    match order.mode.as_str() {
        "ok" => {}
        "error" => Err("as you wish")?,
        "panic" => panic!("as you wish"),
        "panic in a thread" => panic_in_a_thread(),
        "double panic" => double_panic(),
        "hang" if order.until.is_empty() => thread::sleep(patience),
        "hang" => hang_until(Path::new(&order.until), patience),
        "busy loop" => busy_loop(patience),
        "segfault" => crashes::segfault(),
        "segfault in a thread" => in_a_thread(crashes::segfault),
        "wild address" => crashes::wild_address(),
        "abort" => std::process::abort(),
        "assertion" => crashes::assertion_of_c(),
        "stack overflow" => drop(crashes::overflow(1)),
        "stack overflow in a thread" => in_a_thread(|| {
            crashes::overflow(1);
        }),
        "bus error" => crashes::bus_error()?,
        "division by zero" => crashes::division_by_zero(),
        "illegal instruction" => crashes::illegal_instruction(),
        "raise" => crashes::raise(libc::SIGSEGV),
        "kill itself" => crashes::raise(libc::SIGKILL),
        "stop itself" => crashes::raise(libc::SIGSTOP),
        "terminate itself" => crashes::raise(libc::SIGTERM),
        "use memory" => resources::use_memory(),
        "allocation refused" => resources::allocation_refused(),
        "leak" => leak(patience),
        "exit" => std::process::exit(0),
        "exit with 3" => std::process::exit(3),
        "end the main thread" => crashes::end_this_thread(),
        "shut down sockets" => descriptors::shut_down_sockets(patience),
        "flood" => flood(),
        "child outlives" => children::one_that_outlives(patience)?,
        "child works" => children::one_that_works(patience)?,
        "child crashes" => children::one_that_crashes()?,
        "child crashes first" => {
            children::one_that_crashes()?;
            in_a_thread(|| {
                crashes::overflow(1);
            });
        }
        "daemon" => children::daemon(patience)?,
        "daemon and print" => children::daemon_and_print(patience)?,
        "many children" => children::many(patience)?,
        "crowd and segfault" => {
            children::crowd();
            crashes::segfault();
        }
        "native output" => native::print_in_every_way()?,
        "close output" => native::close_output(),
        "daemon and no descriptors" => {
            descriptors::lower_the_limit();
            children::leave_daemon(patience)?;
            descriptors::use_up();
            thread::sleep(patience);
        }
        "close low descriptors" => descriptors::close_low_ones(),
        "garbage for the monitor" => {
            descriptors::send_garbage();
            thread::sleep(patience);
        }
        "close everything" => descriptors::close_everything(0, patience),
        "close everything and print" => descriptors::close_everything(3, patience),
        "caught panic and segfault" => panics::caught_and_then(crashes::segfault),
        "nul output" => return Ok(json!("a\0b")),
        "wait for cancel" => return Ok(json!(wait_for_cancel(task, patience))),
        other => Err(format!("no such mode: {other}"))?,
    }
    Ok(json!(order.mode))
}

fn hang_until(file: &Path, patience: Duration) {
    let begin = Instant::now();
    while !file.exists() && begin.elapsed() < patience {
        thread::sleep(Duration::from_millis(5));
    }
}

/// The same, but dead after a second.
#[operation(domain = "misbehaving", timeout = "1s")]
fn hang_with_timeout() {
    thread::sleep(Duration::from_secs(3600));
}

/// Is told to end, after four seconds at the latest, and takes five more for it.
#[operation(domain = "misbehaving", timeout = "4s")]
fn end_late(task: &mut Task) {
    wait_for_cancel(task, Duration::from_secs(3600));
    thread::sleep(Duration::from_secs(5));
}

/// Is told to end, and does not.
#[operation(domain = "misbehaving")]
fn end_late_after_all(task: &mut Task) {
    println!("as long as it takes");
    let patience = Duration::from_secs(3600);
    wait_for_cancel(task, patience);
    thread::sleep(patience);
}

/// Ends its process when it is told to end, which is after a second.
#[operation(domain = "misbehaving", timeout = "1s")]
fn die_when_told(task: &mut Task, how: String) {
    wait_for_cancel(task, Duration::from_secs(3600));
    match how.as_str() {
        "exit" => std::process::exit(3),
        _ => crashes::segfault(),
    }
}

/// Leaves a daemon behind, and is dead after a second.
#[operation(domain = "misbehaving", timeout = "1s")]
fn daemon_with_timeout() -> Result<()> {
    children::daemon(Duration::from_secs(3600))
}

/// Fails until its third attempt.
#[operation(domain = "misbehaving", max_attempts = 3, backoff = "10ms")]
fn third_time_lucky(task: &mut Task) -> Result<()> {
    println!("attempt {}", task.attempt());
    if task.attempt() < 3 {
        return Err(format!("attempt {} fails", task.attempt()).into());
    }
    task.save_output(&task.attempt())
}

/// Hangs in its first attempt.
#[operation(domain = "misbehaving", max_attempts = 2, backoff = "10ms")]
fn hang_once(task: &mut Task) {
    if task.attempt() == 1 {
        thread::sleep(Duration::from_secs(3600));
    }
}

/// Logs in every way that Rust code logs.
#[operation(domain = "misbehaving", level = "debug")]
fn log_in_every_way() {
    println!("one");
    log::warn!("two");
    let span = tracing::info_span!("span", number = 3);
    span.in_scope(|| tracing::info!(answer = 42, "three"));
    eprintln!("four");
    tracing::trace!("not kept: below the operation's level");
    thread::spawn(|| log::error!("five"))
        .join()
        .expect("logging does not panic");
}

/// Queues another task and says which.
#[operation(domain = "misbehaving")]
fn queue_another(task: &mut Task) -> Result<i64> {
    task.schedule("misbehave")
        .domain("misbehaving")
        .input(json!({"mode": "ok"}))
        .send()
}

/// Queues a task with raw bytes for its input, so many of them, and says which.
#[operation(domain = "misbehaving", requires = "1.1")]
fn queue_raw(task: &mut Task, bytes: i64) -> Result<i64> {
    let input: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
    task.schedule("reverse_bytes").raw_input(input).send()
}

/// Queues a task with both kinds of input, which is one too many.
#[operation(domain = "misbehaving")]
fn queue_both(task: &mut Task) -> Result<i64> {
    task.schedule("reverse_bytes")
        .input(json!(1))
        .raw_input(*b"\0\xff")
        .send()
}

/// The bytes of its input, the last one first.
#[operation(domain = "misbehaving")]
fn reverse_bytes(task: &mut Task) -> Result<()> {
    let reversed: Vec<u8> = task.raw_input().iter().rev().copied().collect();
    task.save_raw_output(&reversed)
}

fn panic_in_a_thread() {
    let thread = thread::spawn(|| panic!("in a thread of its own"));
    assert!(thread.join().is_err(), "it has panicked");
}

fn in_a_thread(what: fn()) {
    let thread = thread::spawn(what);
    assert!(thread.join().is_ok(), "it has panicked");
}

/// A panic while one is under way cannot be caught: the process aborts. Its message has a NUL,
/// which no text of Postgres can hold.
fn double_panic() {
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("and\0 again");
        }
    }
    let _guard = PanicsWhenDropped;
    panic!("as you wish");
}

fn busy_loop(patience: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        std::hint::spin_loop();
    }
}

/// A megabyte every millisecond.
fn leak(patience: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        std::mem::forget(vec![1_u8; 1 << 20]);
        thread::sleep(Duration::from_millis(1));
    }
}

fn flood() {
    for number in 0..200_000 {
        println!("line {number} of a flood");
    }
}

/// Ends by itself when it is asked to.
fn wait_for_cancel(task: &Task, patience: Duration) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < patience {
        if task.cancelled() {
            println!("cancelled, cleaning up");
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    false
}

rework_plugin::export!();

#[cfg(test)]
mod tests {
    use rework_plugin::{prelude::json, testing};

    #[test]
    fn a_panic_is_caught_with_its_place() {
        let outcome = testing::task("misbehave")
            .input(json!({"mode": "panic"}))
            .run();
        let failure = outcome.failure.expect("it panicked");
        assert_eq!(
            (failure.kind.as_str(), failure.message.as_str()),
            ("panic", "as you wish")
        );
        assert!(
            failure
                .location
                .unwrap()
                .contains("misbehaving/src/lib.rs:")
        );
        assert!(failure.backtrace.unwrap().contains("misbehave"));
    }

    #[test]
    fn an_error_knows_where_it_was_made() {
        let outcome = testing::task("misbehave")
            .input(json!({"mode": "error"}))
            .run();
        let failure = outcome.failure.expect("it failed");
        assert_eq!(
            (failure.kind.as_str(), failure.message.as_str()),
            ("error", "as you wish")
        );
        assert!(
            failure
                .location
                .unwrap()
                .contains("misbehaving/src/lib.rs:")
        );
    }

    #[test]
    fn a_panic_in_a_thread_fails_nothing() {
        let outcome = testing::task("misbehave")
            .input(json!({"mode": "panic in a thread"}))
            .run();
        assert!(outcome.failure.is_none());
        assert_eq!(outcome.output, Some(json!("panic in a thread")));
    }

    #[test]
    fn records_keep_level_span_and_fields() {
        let outcome = testing::task("log_in_every_way")
            .level(rework_plugin::Level::Debug)
            .run();
        let logs: Vec<(u8, &str)> = outcome
            .logs
            .iter()
            .take(2)
            .map(|log| (log.level, log.message.as_str()))
            .collect();
        assert_eq!(logs, [(2, "two"), (3, "span{number=3}: three answer=42")]);
    }

    #[test]
    fn only_the_modes_that_exist() {
        let failure = testing::task("misbehave")
            .input(json!({"mode": "dance"}))
            .run()
            .failure;
        let message = failure.unwrap().message;
        assert!(
            message.starts_with("input `mode` of `misbehave` must be one of \"ok\", \"error\""),
            "{message}"
        );
    }

    #[test]
    fn other_tasks_are_queued_as_described() {
        let outcome = testing::task("queue_another").run();
        assert_eq!(outcome.output, Some(json!(1)));
        assert_eq!(outcome.scheduled[0]["operation"], "misbehave");
        assert_eq!(outcome.scheduled[0]["input"], json!({"mode": "ok"}));
    }
}
