//! What operations do when they are run: each through `rework_plugin::testing`, which takes the way
//! that a host takes.

use rework_plugin::{prelude::*, testing};
use std::panic::{catch_unwind, panic_any, resume_unwind};

#[operation]
fn not_a_number() -> Vec<f64> {
    vec![1.0, f64::NAN]
}

#[operation]
fn queue_raw(task: &mut Task) -> Result<i64> {
    task.schedule("other")
        .priority(1)
        .raw_input(*b"\0\xff")
        .send()
}

#[test]
fn a_raw_input_of_another_task_is_shown() {
    let outcome = testing::task("queue_raw").run();
    assert_eq!(outcome.output, Some(json!(1)));
    assert_eq!(
        outcome.scheduled,
        [json!({"operation": "other", "priority": 1})]
    );
    assert_eq!(outcome.scheduled_raw[&1], b"\0\xff");
}

#[derive(Outputs)]
struct Measured {
    speed: f64,
    gust: Option<f64>,
}

#[operation]
fn measure(speed: f64, gust: Option<f64>) -> Measured {
    let speed = if speed < 0.0 { f64::INFINITY } else { speed };
    Measured { speed, gust }
}

#[test]
fn a_float_that_json_cannot_express_is_no_null() {
    let failure = testing::task("not_a_number").run().failure.unwrap();
    assert_eq!(failure.kind, "bad output");
    assert!(
        failure.message.starts_with("the output holds NaN"),
        "{}",
        failure.message
    );

    let failure = testing::task("measure")
        .input(json!({"speed": -1}))
        .run()
        .failure
        .unwrap();
    assert!(
        failure.message.starts_with("output `speed` holds inf"),
        "{}",
        failure.message
    );

    let outcome = testing::task("measure").input(json!({"speed": 2})).run();
    assert_eq!(outcome.output, Some(json!({"speed": 2.0})));
}

/// Panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[operation]
fn bomb() {
    panic_any(Bomb);
}

#[operation]
fn resumed(same: bool) {
    let caught = catch_unwind(|| panic!("the first")).unwrap_err();
    resume_unwind(if same { caught } else { Box::new("the second") });
}

#[test]
fn a_payload_that_panics_when_dropped_fails_only_its_task() {
    let failure = testing::task("bomb").run().failure.unwrap();
    assert_eq!(failure.kind, "panic");
    assert_eq!(failure.message, "a panic without a message");
    assert!(failure.location.unwrap().contains("operations.rs"));
}

#[test]
fn a_resumed_panic_is_not_taken_for_an_earlier_one() {
    let run = |same: bool| {
        testing::task("resumed")
            .input(json!({"same": same}))
            .run()
            .failure
            .unwrap()
    };
    let other = run(false);
    assert_eq!(
        (other.message.as_str(), other.location),
        ("the second", None)
    );
    let same = run(true);
    assert_eq!(same.message, "the first");
    assert!(same.location.unwrap().contains("operations.rs"));
}

#[operation]
fn spans() {
    let outer = tracing::info_span!("outer", step = tracing::field::Empty);
    drop(outer.clone());
    outer.record("step", 3);
    outer.in_scope(|| {
        tracing::info!("inside");
        tracing::info!(parent: None, "outside");
    });
    let child = tracing::info_span!(parent: &outer, "child");
    // The child keeps its parent open.
    drop(outer);
    tracing::info!(parent: &child, "explicit");
    let entered = child.enter();
    assert_eq!(tracing::Span::current().id(), child.id());
    drop(entered);
    tracing::info!("after");
}

#[test]
fn spans_stand_before_the_records_inside() {
    let outcome = testing::task("spans").run();
    assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
    let messages: Vec<&str> = outcome
        .logs
        .iter()
        .map(|one| one.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "outer{step=3}: inside",
            "outside",
            "outer{step=3}: child: explicit",
            "after"
        ]
    );
}

#[operation]
fn length(file: File, other: Option<File>) -> usize {
    file.len() + other.map_or(0, |other| other.len())
}

#[operation]
fn fetch() -> Result<File> {
    Ok(File::new(b"\xff\0"))
}

#[test]
fn files_come_as_text_or_beside_the_fields() {
    let outcome = testing::task("length")
        .input(json!({"file": "äb"}))
        .file("other", "c")
        .run();
    assert_eq!(outcome.output, Some(json!(4)));
    let refused = testing::task("length")
        .file("fiel", "x")
        .run()
        .failure
        .unwrap();
    assert_eq!(
        refused.message,
        "unknown input `fiel` of `length` (known: file, other)"
    );
    assert_eq!(
        testing::task("fetch").run().raw_output.as_deref(),
        Some(&b"\xff\0"[..])
    );
}
