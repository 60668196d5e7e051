//! The plugins that the tests use.

/// `make test` runs this first, so that no test waits for a compiler, nor shares the machine with one.
#[test]
fn all_are_built_once_before_the_tests() {
    crate::harness::build_all();
}
