//! The quick start of the README: an operation that reads its input itself, and one with typed
//! arguments.

use rework_plugin::prelude::*;

/// Doubles what it is given.
#[operation]
fn my_first_task(task: &mut Task) -> Result<()> {
    println!("I am running");
    let doubled = match task.input::<Value>()? {
        Value::String(text) => json!(text.repeat(2)),
        Value::Number(n) => json!(2 * n.as_i64().ok_or("not an integer")?),
        other => return Err(format!("cannot double {other}").into()),
    };
    task.save_output(&doubled)?;
    println!("I am done");
    Ok(())
}

/// Typed: arguments are named inputs, the return value is the output.
#[operation(domain = "maths", timeout = "3m", max_attempts = 3)]
fn add(a: i64, b: Option<i64>) -> Result<i64> {
    Ok(a + b.unwrap_or(0))
}

/// Does nothing, as fast as it can; `rework bench` runs it.
#[operation]
fn noop() {}

rework_plugin::export!();

#[cfg(test)]
mod tests {
    use rework_plugin::{prelude::json, testing};

    #[test]
    fn doubles_numbers_and_text() {
        let double = |input| testing::task("my_first_task").input(input).run();
        assert_eq!(double(json!(100)).output, Some(json!(200)));
        assert_eq!(double(json!("hello")).output, Some(json!("hellohello")));
        let failure = double(json!([1]))
            .failure
            .expect("a list cannot be doubled");
        assert_eq!(failure.message, "cannot double [1]");
        assert!(
            failure
                .location
                .expect("where `into` was")
                .contains("lib.rs")
        );
    }

    #[test]
    fn adds_what_is_given() {
        let add = |input| testing::task("add").input(input).run();
        assert_eq!(add(json!({"a": 1, "b": 2})).output, Some(json!(3)));
        assert_eq!(add(json!({"a": 1})).output, Some(json!(1)));
        let failure = add(json!({"a": "one"}))
            .failure
            .expect("a text is no number");
        assert_eq!(
            failure.message,
            "input `a` of `add` must be a number, not a string"
        );
    }
}
