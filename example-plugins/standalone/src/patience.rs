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

/// Waits until it is asked to end, which its timeout does, and then ends by itself.
#[operation(
    domain = "standalone",
    timeout = "300ms",
    max_attempts = 2,
    backoff = "10ms"
)]
fn until_cancelled(task: &mut Task) -> Result<()> {
    while !task.cancelled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("attempt {} was cancelled", task.attempt());
    Ok(())
}

/// Leaves something behind that keeps its process from ending.
#[operation(domain = "standalone")]
fn slow_goodbye() {
    struct Sleeper;
    impl Drop for Sleeper {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    std::thread_local!(static SLEEPER: Sleeper = const { Sleeper });
    SLEEPER.with(|_| {});
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
