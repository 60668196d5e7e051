//! A Rust application that queues two tasks and waits for them; the demo runs it.

use serde_json::json;
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = std::env::var("REWORK_DB")?;
    let rework = rework::Client::connect(&database).await?;

    let t1 = rework.schedule("my_first_task").input("hello").await?;
    let t2 = rework
        .schedule("my_first_task")
        .input(100)
        .metadata(json!({"user": "Babar"}))
        .await?;
    t1.join().await?;
    t2.join_timeout(Duration::from_secs(5)).await?;
    assert_eq!(t1.output::<String>().await?.as_deref(), Some("hellohello"));
    assert_eq!(t2.output::<i64>().await?, Some(200));
    println!(
        "{:?} and {:?}",
        t1.output::<String>().await?,
        t2.output::<i64>().await?
    );
    Ok(())
}
