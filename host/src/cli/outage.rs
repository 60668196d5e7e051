//! Commands that wait go on during an outage of the database, and report it.

use crate::client::{Client, ClientError, Result};
use std::{pin::pin, time::Duration};

/// The pause between two tries while the database does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Prints on stderr that the database does not answer, or that it answers again.
fn tell(outage: Option<&str>) {
    use std::io::Write;
    // Ignored if stderr is closed.
    let _ = match outage {
        Some(reason) => writeln!(
            anstream::stderr(),
            "note: the database is away, waiting for it: {}",
            reason.split_whitespace().collect::<Vec<_>>().join(" ")
        ),
        None => writeln!(anstream::stderr(), "note: the database is back"),
    };
}

/// Repeats a request until the database answers.
pub(super) async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let mut is_away = false;
    loop {
        match ask().await {
            Err(error) if error.is_outage() => {
                if !is_away {
                    is_away = true;
                    tell(Some(&error.to_string()));
                }
                tokio::time::sleep(PAUSE).await;
            }
            answer => {
                if is_away {
                    tell(None);
                }
                return answer;
            }
        }
    }
}

/// Like [`patiently`] if `is_patient`; otherwise one try.
pub(super) async fn perhaps_patiently<T>(
    is_patient: bool,
    mut ask: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    if is_patient {
        patiently(ask).await
    } else {
        ask().await
    }
}

/// Waits for tasks, and reports when the database does not answer meanwhile.
pub(super) async fn reporting<T>(
    client: &Client,
    wait: impl Future<Output = Result<T, ClientError>>,
) -> Result<T> {
    let mut outages = client.outages();
    let mut wait = pin!(wait);
    loop {
        tokio::select! {
            biased;
            ended = &mut wait => return ended,
            Ok(()) = outages.changed() => tell(outages.borrow_and_update().as_deref()),
        }
    }
}
