//! Points in time.

use rework_plugin::prelude::*;

/// Answers the horizon as it was resolved when the task was queued.
#[operation(domain = "standalone")]
fn plan(horizon: Moment) -> DateTime {
    log::info!("planning until {}", *horizon);
    *horizon
}

#[cfg(test)]
mod tests {
    use rework_plugin::{prelude::json, testing};

    #[test]
    fn a_moment_may_be_a_datetime() {
        let input = json!({"horizon": "2026-05-01 09:00"});
        let outcome = testing::task("plan").input(input).run();
        assert_eq!(outcome.output, Some(json!("2026-05-01T09:00:00Z")));
    }
}
