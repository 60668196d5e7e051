//! Waiting for a condition, with a deadline that says what was last seen.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a condition may take to come true, on a machine that has a lot else to do.
const LIMIT: Duration = Duration::from_secs(60);
/// The pauses between two looks: the shortest and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(200)];
/// A look may take this part of the time: some start a process, others ask one question.
const PART: u32 = 4;

/// Looks until what is seen is what is wanted; panics after a minute.
pub(crate) fn until<T: Debug>(
    what: &str,
    look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    until_within(LIMIT, what, look, wanted)
}

/// Checks all cases of a test at the same time: each waits most of its time.
pub(crate) fn side_by_side<T: Send>(cases: impl IntoIterator<Item = T>, check: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for case in cases {
            let check = &check;
            scope.spawn(move || check(case));
        }
    });
}

/// As [`until`], for what takes long.
pub(crate) fn until_within<T: Debug>(
    limit: Duration,
    what: &str,
    mut look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let begin = Instant::now();
    loop {
        let looked = Instant::now();
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(
            begin.elapsed() < limit,
            "waited for {what}, last seen: {seen:#?}"
        );
        // The longer it takes, the less often.
        let pause = (looked.elapsed() * PART).max(begin.elapsed() / 20);
        std::thread::sleep(pause.clamp(PAUSES[0], PAUSES[1]));
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_running(pid: i32) -> bool {
    rework::internals::proc::Stat::of(pid).is_ok_and(|stat| stat.is_alive())
}
