//! The job as its users meet it: queued with a file, run by a worker, read back. This is how the
//! tests of any plugin can look.

use rework::{TaskState, testing};
use serde_json::json;
use std::time::{Duration, Instant};

rework::testing::enable!();

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::test]
async fn counts_the_words_of_a_file() -> Outcome {
    let rework = testing::installation()
        .plugin_crate(env!("CARGO_MANIFEST_DIR"))
        .workers(1)
        .start()
        .await?;
    let task = rework
        .schedule("word_frequencies")
        .input_file("text", "to be or not to be")
        .input(json!({"top": 2}))
        .await?;
    let state = task.join_timeout(Duration::from_secs(20)).await?;
    assert_eq!(state, TaskState::Done, "{}", rework.monitor_log());

    let report = task.output::<serde_json::Value>().await?.expect("a report");
    assert_eq!(report["words"], 6);
    assert_eq!(report["most_frequent"], "be 2, to 2");
    let table = task.output_file("frequencies.csv").await?;
    assert!(table.starts_with(b"word,count\nbe,2\n"));
    let lines = task.logs(0).await?;
    assert!(
        lines
            .iter()
            .any(|line| line.line == "6 words, 4 of them distinct")
    );
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_no_text_fails_its_task() -> Outcome {
    let rework = testing::installation()
        .plugin_crate(env!("CARGO_MANIFEST_DIR"))
        .start()
        .await?;
    let task = rework
        .schedule("word_frequencies")
        .input_file("text", [0xff, 0xfe])
        .await?;
    let state = task.join_timeout(Duration::from_secs(20)).await?;
    assert_eq!(state, TaskState::Failed);
    let error = task.error().await?.expect("an error");
    assert!(error.starts_with("error: invalid utf-8"), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_new_version_is_dropped_into_a_directory() -> Outcome {
    let directory = tempfile::tempdir()?;
    let rework = testing::installation()
        .plugin_crate(env!("CARGO_MANIFEST_DIR"))
        .monitor_argument(format!("--plugin-dir={}", directory.path().display()))
        .start()
        .await?;
    let operations = rework.operations(None).await?;
    let dropped = directory.path().canonicalize()?.join("report.so");
    std::fs::copy(&operations[0].path, &dropped)?;
    let registered = format!("registered {}", dropped.display());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !rework.monitor_log().contains(&registered) {
        assert!(Instant::now() < deadline, "{}", rework.monitor_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test]
async fn without_a_monitor_tasks_wait() -> Outcome {
    let rework = testing::installation()
        .plugin_crate(env!("CARGO_MANIFEST_DIR"))
        .without_monitor()
        .start()
        .await?;
    let task = rework
        .schedule("word_frequencies")
        .input_file("text", "a")
        .await?;
    assert_eq!(task.state().await?, TaskState::Queued);
    let pause = Duration::from_millis(200);
    let refusal = task.join_timeout(pause).await.unwrap_err().to_string();
    assert_eq!(
        refusal,
        format!("task {} is still queued after 0.2s", task.id())
    );
    Ok(())
}
