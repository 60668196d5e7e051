//! Every type that a field can have, in and out.

use rework_plugin::prelude::*;

#[derive(Inputs)]
struct Given {
    #[input(name = "a file.txt")]
    file: File,
    number: f64,
    flag: Option<bool>,
    text: Option<String>,
    #[input(choices = ["small", "large"], default = "small")]
    size: String,
    time: Option<DateTime>,
    moment: Option<Moment>,
}

#[derive(Outputs)]
struct Shown {
    #[output(name = "a file.txt")]
    file: File,
    number: f64,
    flag: Option<bool>,
    text: Option<String>,
    #[output(choices = ["small", "large"])]
    size: String,
    time: Option<DateTime>,
    moment: Option<Moment>,
    #[output(default = "nobody")]
    by: Option<String>,
}

/// Gives back what it was given. With a negative number, its size is none that it may have.
#[operation(domain = "standalone")]
fn mirror(given: Given) -> Shown {
    Shown {
        file: given.file,
        number: given.number,
        flag: given.flag,
        text: given.text,
        size: if given.number < 0.0 {
            "negative".to_owned()
        } else {
            given.size
        },
        time: given.time,
        moment: given.moment,
        by: None,
    }
}

#[cfg(test)]
mod tests {
    use rework_plugin::{prelude::json, testing};

    #[test]
    fn what_goes_in_comes_out() {
        let outcome = testing::task("mirror")
            .file("a file.txt", *b"x")
            .input(json!({"number": 2.5, "flag": false, "moment": "2026-05-01"}))
            .run();
        let output = outcome.output.unwrap();
        assert_eq!(outcome.files["a file.txt"], b"x");
        assert_eq!(
            (&output["number"], &output["size"], &output["by"]),
            (&json!(2.5), &json!("small"), &json!("nobody"))
        );
        assert_eq!(output["moment"], "2026-05-01T00:00:00Z");
        assert!(output.get("time").is_none());
    }

    #[test]
    fn an_output_has_its_choices_too() {
        let outcome = testing::task("mirror")
            .file("a file.txt", *b"x")
            .input(json!({"number": -1}))
            .run();
        let failure = outcome.failure.unwrap();
        assert_eq!(failure.kind, "bad output");
        assert_eq!(
            failure.message,
            r#"output `size` must be one of "small", "large", not "negative""#
        );
    }
}
