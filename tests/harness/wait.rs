//! Waiting for a condition, with a deadline that says what was last seen.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long a condition may take to come true.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks, at first and at last.
const OFTEN: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(200);

/// Looks until what is seen is what is wanted; panics after twenty seconds.
pub(crate) fn until<T: Debug>(
    what: &str,
    look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    until_within(LIMIT, what, look, wanted)
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
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(
            begin.elapsed() < limit,
            "waited for {what}, last seen: {seen:#?}"
        );
        // Most looks start a process: the longer it takes, the less often.
        std::thread::sleep((begin.elapsed() / 5).clamp(OFTEN, SELDOM));
    }
}
