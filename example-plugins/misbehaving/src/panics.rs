//! Panics that are dealt with, and what comes after them.

/// Panics, catches it, and dies of something else.
pub(crate) fn caught_and_then(die: fn()) {
    let caught = std::panic::catch_unwind(|| panic!("caught, and no longer of interest"));
    assert!(caught.is_err(), "it has panicked");
    die();
}
