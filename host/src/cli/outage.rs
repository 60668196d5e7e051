//! Commands that wait go on through an outage of the database, and say so.

use crate::client::{Client, ClientError, Result};
use std::{pin::pin, time::Duration};

/// Between two tries while the database is away.
const PAUSE: Duration = Duration::from_millis(500);

/// Says on stderr that the database is away, or that it is back.
fn tell(outage: Option<&str>) {
    use std::io::Write;
    // Nobody is left to tell that stderr is closed.
    let _ = match outage {
        Some(reason) => writeln!(
            anstream::stderr(),
            "note: the database is away, waiting for it: {}",
            reason.split_whitespace().collect::<Vec<_>>().join(" ")
        ),
        None => writeln!(anstream::stderr(), "note: the database is back"),
    };
}

/// Asks until the database answers.
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

/// As [`patiently`] if `is_patient`, otherwise once.
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

/// Waits for tasks, and says when the database is away meanwhile.
pub(super) async fn told<T>(
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
