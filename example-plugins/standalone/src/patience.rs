//! Waiting, without keeping a thread busy.

use rework_plugin::prelude::*;
use std::time::Duration;

/// Waits for two timers at once, on a runtime of the plugin's own.
#[operation(domain = "standalone")]
async fn wait_twice(milliseconds: u64) -> Result<String> {
    let pause = Duration::from_millis(milliseconds);
    let timer = async |name| {
        tokio::time::sleep(pause).await;
        name
    };
    let (first, second) = tokio::join!(timer("first"), timer("second"));
    Ok(format!("{first} and {second}"))
}

#[cfg(test)]
mod tests {
    use rework_plugin::{prelude::json, testing};

    #[test]
    fn an_async_operation_is_run_to_its_end() {
        let outcome = testing::task("wait_twice")
            .input(json!({"milliseconds": 1}))
            .run();
        assert_eq!(outcome.output, Some(json!("first and second")));
    }
}
