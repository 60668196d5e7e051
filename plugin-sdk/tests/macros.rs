//! What the macros accept and refuse; each refusal is a fixture in `ui/fail`, one mistake each, its
//! `.stderr` read as prose.

#[test]
fn mistakes_are_pointed_at() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
    // With the feature it is no mistake.
    if !cfg!(feature = "tokio") {
        cases.compile_fail("tests/ui/async_without_feature.rs");
    }
}
