//! Waiting for a condition, with a deadline that says what was last seen.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// Looks until what is seen is what is wanted; panics after twenty seconds.
pub(crate) fn until<T: Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = look();
        if wanted(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "waited for {what}, last seen: {seen:#?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
