//! The time limit of statements, which allows for long ones: when an answer takes long, the server is asked
//! over another connection whether it works on the statement at all. So a connection whose peer vanished
//! without closing is noticed within seconds, while a statement may take an hour.

use super::{
    error::StoreError,
    lock::{self, Wait},
    pool::Shared,
    session::{Backend, carried},
};
use crate::periods::Periods;
use sqlx::{Connection, PgConnection};
use std::{
    pin::pin,
    time::{Duration, Instant},
};

/// And the longest pause, while the server is at work.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long such a question may take.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// How often in a row the server process must be found idle before the statement is given up: its answer,
/// or the rest of the statement, may still be on its way.
const IDLE_LOOKS: u32 = 3;
/// The bytes per second that even a slow line transfers. While a large statement is on its way, the server
/// process looks idle.
const SLOW_LINE: u64 = 50_000;
/// And if the server does not say what it is at, or sends a row for so long.
const UNTOLD_LIMIT: Duration = Duration::from_secs(120);

/// What the server says about one of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// The process executes a statement.
    AtWork,
    /// The process has committed, and waits for a synchronous standby to have it.
    AtStandby,
    /// The process waits for the client, or does not exist: no answer will come.
    Idle,
    /// The server answers, but does not say what the process does.
    Untold,
    /// The server does not answer.
    Unreachable,
}

/// What to do after asking the server.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Ask again after this pause.
    Wait(Duration),
    /// Stop waiting: no answer will come.
    GiveUp,
    /// Stop waiting: what was asked is done, and the answer may take as long as the standby is away.
    Unconfirmed,
}

/// What has been learned so far about one statement.
#[derive(Debug, Default)]
struct Looks {
    idle: u32,
    at_work: u32,
    /// How long the statement itself may take to reach the server, by its size.
    question: Duration,
}

impl Looks {
    /// What to do, after the server has been asked `waited` after the statement was sent. `limit`: how long
    /// somebody else may keep the answer back; `None`: as long as it takes.
    fn judge(&mut self, look: Look, waited: Duration, limit: Option<Duration>) -> Verdict {
        let periods = Periods::current();
        let again = Verdict::Wait(periods.answer_again);
        match look {
            Look::AtStandby if limit.is_some_and(|limit| waited >= limit) => Verdict::Unconfirmed,
            Look::AtWork | Look::AtStandby => {
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
            // The last known holder is better than none.
            Look::Untold | Look::Unreachable => {}
            Look::AtWork | Look::AtStandby | Look::Idle => *wait = seen,
        }
        match looks.judge(look, begin.elapsed(), shared.lock_limit()) {
            Verdict::Wait(next) => pause = next,
            Verdict::Unconfirmed => {
                return Err(carried(StoreError::Unconfirmed));
            }
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
                      wait_event_type is not distinct from 'Lock' as "is_locked!",
                      wait_event is not distinct from 'SyncRep' as "is_at_standby!"
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
        let look = match row.map(|row| (row.is_at_work, row.is_at_standby)) {
            Some((_, true)) => Look::AtStandby,
            Some((Some(true), _)) => Look::AtWork,
            Some((Some(false), _)) | None => Look::Idle,
            Some((None, _)) => Look::Untold,
        };
        Ok::<_, sqlx::Error>((look, wait))
    };
    match tokio::time::timeout(LOOK_LIMIT, look).await {
        Ok(Ok(seen)) => seen,
        // The server refuses the connection, as when all connections are in use.
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
            let verdict = looks.judge(Look::AtWork, SECOND * waited, None);
            assert!(matches!(verdict, Verdict::Wait(pause) if pause <= LONGEST_PAUSE));
        }
        let day = SECOND * 24 * 60 * 60;
        assert_eq!(
            looks.judge(Look::AtWork, day, None),
            Verdict::Wait(LONGEST_PAUSE)
        );
    }

    #[test]
    fn who_is_idle_is_given_up_at_the_third_look() {
        let mut looks = Looks::default();
        assert_eq!(
            looks.judge(Look::Idle, PATIENCE, None),
            Verdict::Wait(AGAIN)
        );
        assert_eq!(
            looks.judge(Look::AtWork, SECOND * 3, None),
            Verdict::Wait(AGAIN)
        );
        assert_eq!(
            looks.judge(Look::Idle, SECOND * 4, None),
            Verdict::Wait(AGAIN)
        );
        assert_eq!(
            looks.judge(Look::Idle, SECOND * 5, None),
            Verdict::Wait(AGAIN)
        );
        assert_eq!(looks.judge(Look::Idle, SECOND * 6, None), Verdict::GiveUp);
        let mut looks = Looks {
            question: SECOND * 20,
            ..Looks::default()
        };
        for waited in 2..20 {
            assert_eq!(
                looks.judge(Look::Idle, SECOND * waited, None),
                Verdict::Wait(AGAIN)
            );
        }
        assert_eq!(looks.judge(Look::Idle, SECOND * 20, None), Verdict::GiveUp);
    }

    #[test]
    fn who_cannot_be_asked_is_waited_for_a_while() {
        let mut looks = Looks::default();
        assert_eq!(
            looks.judge(Look::Unreachable, SECOND * 5, None),
            Verdict::Wait(AGAIN)
        );
        assert_eq!(
            looks.judge(Look::Unreachable, SECOND * 8, None),
            Verdict::GiveUp
        );
        assert_eq!(
            looks.judge(Look::Untold, SECOND * 8, None),
            Verdict::Wait(AGAIN)
        );
        assert_eq!(
            looks.judge(Look::Untold, SECOND * 120, None),
            Verdict::GiveUp
        );
    }

    #[test]
    fn a_standby_is_waited_for_as_long_as_a_lock() {
        let mut looks = Looks::default();
        let limit = Some(SECOND * 10);
        let before = looks.judge(Look::AtStandby, SECOND * 9, limit);
        assert!(matches!(before, Verdict::Wait(_)));
        assert_eq!(
            looks.judge(Look::AtStandby, SECOND * 10, limit),
            Verdict::Unconfirmed
        );
        assert!(matches!(
            looks.judge(Look::AtStandby, SECOND * 600, None),
            Verdict::Wait(_)
        ));
    }
}
