//! Every question to the database has a limit, one that suits long answers too: who waits for long
//! asks, on another connection, whether the server is at work on the question at all. A connection
//! whose other end is gone without a word is found out within seconds, and a statement that takes an
//! hour goes on.

use super::{
    lock::{self, Wait},
    pool::Shared,
    session::Backend,
};
use crate::periods::Periods;
use sqlx::{Connection, PgConnection};
use std::{
    pin::pin,
    time::{Duration, Instant},
};

/// And the longest pause, while the server is at work.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// So long the asking itself may take.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// The server has to be found idle so often: an answer, or the rest of the question, may be on its way.
const IDLE_LOOKS: u32 = 3;
/// A question with much in it is read for long, and meanwhile the server looks idle: what even a slow
/// line takes, in bytes a second.
const SLOW_LINE: u64 = 50_000;
/// And if the server does not say what it is at, or sends a row for so long.
const UNTOLD_LIMIT: Duration = Duration::from_secs(120);

/// What the server says of a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is at work on a statement.
    AtWork,
    /// It waits for us, or is gone: there will be no answer.
    Idle,
    /// The server answers, but does not say.
    Untold,
    /// The server does not answer.
    Unreachable,
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Ask again after this.
    Wait(Duration),
    /// There will be no answer.
    GiveUp,
}

/// The looks at one question so far.
#[derive(Debug, Default)]
struct Looks {
    idle: u32,
    at_work: u32,
    /// The question itself may take so long to be read.
    question: Duration,
}

impl Looks {
    /// Takes a look into account; the question was asked so long ago.
    fn judge(&mut self, look: Look, waited: Duration) -> Verdict {
        let periods = Periods::current();
        let again = Verdict::Wait(periods.answer_again);
        match look {
            Look::AtWork => {
                self.idle = 0;
                self.at_work += 1;
                Verdict::Wait((periods.answer_again * self.at_work).min(LONGEST_PAUSE))
            }
            Look::Idle => {
                self.idle += 1;
                if self.idle >= IDLE_LOOKS && waited >= self.question {
                    return Verdict::GiveUp;
                }
                again
            }
            Look::Untold if waited >= UNTOLD_LIMIT => Verdict::GiveUp,
            Look::Unreachable if waited >= periods.answer_unreachable => Verdict::GiveUp,
            Look::Untold | Look::Unreachable => again,
        }
    }
}

/// Waits for an answer as long as there may be one. The question has so many bytes in it, besides what
/// any has. The lock that the answer waits for is noted in `wait`, as of the last look.
pub(super) async fn answered<T>(
    answer: impl Future<Output = T>,
    backend: Backend,
    bytes: u64,
    shared: &Shared,
    wait: &mut Option<Wait>,
) -> Result<T, sqlx::Error> {
    let mut answer = pin!(answer);
    let begin = Instant::now();
    let mut looks = Looks {
        question: Duration::from_secs(bytes / SLOW_LINE),
        ..Looks::default()
    };
    let mut pause = Periods::current().answer_patience;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            () = tokio::time::sleep(pause) => {}
        }
        let (look, seen) = tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer),
            seen = look_at(backend, shared) => seen,
        };
        match look {
            // The last that was known is worth more than nothing.
            Look::Untold | Look::Unreachable => {}
            Look::AtWork | Look::Idle => *wait = seen,
        }
        match looks.judge(look, begin.elapsed()) {
            Verdict::Wait(next) => pause = next,
            Verdict::GiveUp => {
                let waited = begin.elapsed().as_secs();
                let text = format!("the server has not answered for {waited} s");
                return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text).into());
            }
        }
    }
}

/// Asks the server what a process of its own is at, and which lock it waits for.
async fn look_at(backend: Backend, shared: &Shared) -> (Look, Option<Wait>) {
    let Some(server) = shared.last_server() else {
        return (Look::Unreachable, None);
    };
    let look = async {
        let mut connection = PgConnection::connect_with(&server).await?;
        let row = sqlx::query!(
            r#"select case when state = 'disabled' then null
                           -- It waits until we read: a long row may be on a slow line.
                           when state = 'active' and wait_event = 'ClientWrite' then null
                           else state = 'active' and wait_event is distinct from 'ClientRead'
                           end as is_at_work,
                      wait_event_type is not distinct from 'Lock' as "is_locked!"
                 from pg_stat_activity
                where pid = $1 and backend_start is not distinct from $2"#,
            backend.pid,
            backend.started
        )
        .fetch_optional(&mut connection)
        .await?;
        let wait = match &row {
            Some(row) if row.is_locked => lock::wait_of(&mut connection, backend.pid).await?,
            _ => None,
        };
        let _ = connection.close().await;
        let look = match row.map(|row| row.is_at_work) {
            Some(Some(true)) => Look::AtWork,
            Some(Some(false)) | None => Look::Idle,
            Some(None) => Look::Untold,
        };
        Ok::<_, sqlx::Error>((look, wait))
    };
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(Ok(seen)) => seen,
        // As when it has no connection to spare.
        Ok(Err(sqlx::Error::Database(_))) => (Look::Untold, None),
        Ok(Err(_)) | Err(_) => (Look::Unreachable, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const AGAIN: Duration = SECOND;
    const PATIENCE: Duration = Duration::from_secs(2);

    #[test]
    fn who_is_at_work_is_waited_for() {
        let mut looks = Looks::default();
        for waited in 2..600 {
            let verdict = looks.judge(Look::AtWork, SECOND * waited);
            assert!(matches!(verdict, Verdict::Wait(pause) if pause <= LONGEST_PAUSE));
        }
        let day = SECOND * 24 * 60 * 60;
        assert_eq!(looks.judge(Look::AtWork, day), Verdict::Wait(LONGEST_PAUSE));
    }

    #[test]
    fn who_is_idle_is_given_up_at_the_third_look() {
        let mut looks = Looks::default();
        assert_eq!(looks.judge(Look::Idle, PATIENCE), Verdict::Wait(AGAIN));
        assert_eq!(looks.judge(Look::AtWork, SECOND * 3), Verdict::Wait(AGAIN));
        assert_eq!(looks.judge(Look::Idle, SECOND * 4), Verdict::Wait(AGAIN));
        assert_eq!(looks.judge(Look::Idle, SECOND * 5), Verdict::Wait(AGAIN));
        assert_eq!(looks.judge(Look::Idle, SECOND * 6), Verdict::GiveUp);
        let mut looks = Looks {
            question: SECOND * 20,
            ..Looks::default()
        };
        for waited in 2..20 {
            assert_eq!(
                looks.judge(Look::Idle, SECOND * waited),
                Verdict::Wait(AGAIN)
            );
        }
        assert_eq!(looks.judge(Look::Idle, SECOND * 20), Verdict::GiveUp);
    }

    #[test]
    fn who_cannot_be_asked_is_waited_for_a_while() {
        let mut looks = Looks::default();
        assert_eq!(
            looks.judge(Look::Unreachable, SECOND * 5),
            Verdict::Wait(AGAIN)
        );
        assert_eq!(looks.judge(Look::Unreachable, SECOND * 8), Verdict::GiveUp);
        assert_eq!(looks.judge(Look::Untold, SECOND * 8), Verdict::Wait(AGAIN));
        assert_eq!(looks.judge(Look::Untold, SECOND * 120), Verdict::GiveUp);
    }
}
