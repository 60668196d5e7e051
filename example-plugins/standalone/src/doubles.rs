//! Numbers, shown by their bits.

use rework_plugin::prelude::*;

/// Answers the doubles that it was given: their bits, as read in two ways, and themselves.
#[operation(domain = "standalone")]
fn doubles(task: &mut Task) -> Result<Value> {
    let typed: Vec<f64> = task.input()?;
    let values: Vec<Value> = task.input()?;
    let noted = task.metadata()["double"].as_f64();
    Ok(json!({
        "bits": typed.iter().map(|double| shown(*double)).collect::<Vec<_>>(),
        "value_bits": values.iter().filter_map(Value::as_f64).map(shown).collect::<Vec<_>>(),
        "noted": noted.map(shown),
        "doubles": typed,
    }))
}

fn shown(double: f64) -> String {
    format!("{:016x}", double.to_bits())
}

/// Whole numbers at the ends of their types, and one that fits in a byte.
#[operation(domain = "standalone")]
fn whole(large: u64, small: i64, byte: Option<u8>, exact: Option<f64>) -> Result<Value> {
    Ok(json!([large, small, byte, exact]))
}

#[cfg(test)]
mod tests {
    use rework_plugin::{prelude::json, testing};

    #[test]
    fn a_double_keeps_its_bits() {
        let double = 117.633_311_394_000_17;
        let text = format!("[{double}]");
        let input: rework_plugin::prelude::Value = text.parse().unwrap();
        let output = testing::task("doubles").input(input).run().output.unwrap();
        assert_eq!(output["bits"][0], format!("{:016x}", f64::to_bits(double)));
        assert_eq!(output["doubles"], json!([double]));
    }

    #[test]
    fn a_number_that_does_not_fit_is_told() {
        let whole = |input| testing::task("whole").input(input).run();
        let largest = json!({"large": u64::MAX, "small": i64::MIN});
        assert_eq!(
            whole(largest).output,
            Some(json!([u64::MAX, i64::MIN, null, null]))
        );
        let as_doubles = json!({"large": 1e19, "small": -1e18});
        assert!(whole(as_doubles).failure.is_none());
        for (field, value) in [
            ("large", json!(-1)),
            ("small", json!(u64::MAX)),
            ("byte", json!(256)),
            ("byte", json!(1.5)),
            ("exact", json!(9_007_199_254_740_993_u64)),
        ] {
            let mut input = json!({"large": 1, "small": 1});
            input[field] = value.clone();
            let failure = whole(input).failure.unwrap();
            assert!(
                failure
                    .message
                    .starts_with(&format!("input `{field}` must be "))
            );
            assert!(
                failure.message.ends_with(&format!("not {value}")),
                "{failure:?}"
            );
        }
    }
}
