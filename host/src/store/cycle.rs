//! One cycle of a monitor, in one statement: report what ended, mark what began, keep the logs,
//! claim what is next. All of it happens or none. Where there is nothing to report, it is a smaller one.

use super::{Store, document::from_jsonb_text, error::Result, session::Session};
use crate::model::{
    MonitorId, OperationId, TaskId, Token, WorkerId,
    log::LogLine,
    task::{Cause, Outcome},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

/// What a monitor has to say in one cycle, and what it wants.
#[derive(Debug, Clone)]
pub struct Cycle {
    /// Who speaks.
    pub monitor: MonitorId,
    /// Never used twice by one monitor; with it the claim's token.
    pub number: u64,
    /// Attempts that ended, each at most once and in no [`Mark`] of the same cycle: a mark would be written
    /// after the end has taken it away.
    pub ended: Vec<Ended>,
    /// Tasks that began, or moved on.
    pub marks: Vec<Mark>,
    /// What tasks printed.
    pub logs: Vec<LogChunk>,
    /// Cycles of which nothing is held any more.
    pub finished_cycles: Vec<i64>,
    /// Where to look for tasks.
    pub scans: Vec<Scan>,
}

/// How a claim ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ended {
    /// The task.
    pub task: TaskId,
    /// Which attempt, from 1.
    pub attempt: i32,
    /// The claim.
    pub token: Token,
    /// The operation of the task.
    pub operation: OperationId,
    /// Whether a [`Mark`] may have shown it as running.
    pub is_shown: bool,
    /// Whether somebody is known to have asked for its end; this is the answer.
    pub is_unwanted: bool,
    /// What becomes of the task.
    pub fate: Fate,
    /// Why it did not end well.
    pub cause: Option<Cause>,
    /// The cause in words, without NULs.
    pub error: Option<String>,
    /// Where it failed.
    pub location: Option<String>,
    /// Backtrace of a panic.
    pub backtrace: Option<String>,
    /// How its process ended.
    pub exit_code: Option<i32>,
    /// How its process ended.
    pub signal: Option<i32>,
    /// When the operation began; `None`: never.
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// Fields saved, as JSON text that jsonb accepts.
    pub output: Option<String>,
    /// Bytes saved.
    #[serde(with = "crate::model::base64_option")]
    pub output_raw: Option<Vec<u8>>,
    /// `fields` or `raw`; `raw` without bytes: they are in chunks.
    pub output_encoding: Option<String>,
    /// In bytes.
    pub peak_memory: Option<i64>,
    /// Processor time.
    pub cpu_seconds: Option<f64>,
    /// Who ran it.
    pub worker: Option<WorkerId>,
    /// The code that ran it.
    pub plugin_operation: i32,
    /// How far it had come, if that is news.
    pub progress: Option<f32>,
    /// A word about it.
    pub progress_message: Option<String>,
}

impl Ended {
    /// The end of an attempt of which nothing else is known.
    pub fn new(
        (task, attempt): (TaskId, i32),
        token: Token,
        fate: Fate,
        finished: DateTime<Utc>,
    ) -> Self {
        Self {
            task,
            attempt,
            token,
            operation: OperationId(0),
            is_shown: true,
            is_unwanted: false,
            fate,
            cause: None,
            error: None,
            location: None,
            backtrace: None,
            exit_code: None,
            signal: None,
            started: None,
            finished,
            output: None,
            output_raw: None,
            output_encoding: None,
            peak_memory: None,
            cpu_seconds: None,
            worker: None,
            plugin_operation: 0,
            progress: None,
            progress_message: None,
        }
    }

    /// How the attempt ended, in a word.
    fn outcome(&self) -> &'static str {
        let of_cause = self.cause.map_or(Outcome::Aborted, Cause::outcome);
        match self.fate {
            Fate::End(outcome) => outcome,
            Fate::Retry(_) | Fate::Release => of_cause,
        }
        .as_str()
    }
}

/// What becomes of a task whose claim ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    /// It has ended.
    End(Outcome),
    /// This attempt failed; the next one begins after so many milliseconds.
    Retry(i64),
    /// It never began; it goes back to the queue as if nobody had claimed it.
    Release,
}

/// News about a task that runs.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The task.
    pub task: TaskId,
    /// Which attempt, from 1.
    pub attempt: i32,
    /// The claim.
    pub token: Token,
    /// When it began.
    pub started: DateTime<Utc>,
    /// Who runs it.
    pub worker: WorkerId,
    /// The code that runs it.
    pub plugin_operation: i32,
    /// How far it is, 0 to 1.
    pub progress: Option<f32>,
    /// A word about it.
    pub progress_message: Option<String>,
}

/// Some lines of one task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogChunk {
    /// The task.
    pub task: TaskId,
    /// The attempt that wrote them.
    pub attempt: i32,
    /// Running number of the first of them, from 1.
    pub first: i64,
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// Where to look in one lane: after this position, at most so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// The lane.
    pub lane: i32,
    /// After this rank and id.
    pub after: (i16, i64),
    /// Not beyond this rank.
    pub last_rank: i16,
    /// The pool of workers that it feeds, by any number.
    pub pool: i32,
    /// How many the pool can take, over all of its lanes.
    pub quota: i32,
    /// The pool's plugin that the lane belongs to, by its turn: where tasks are equally urgent, those
    /// of lower turns are taken first.
    pub turn: i32,
    /// How many tasks the pool can take of that turn.
    pub most: i32,
}

/// What a cycle did.
#[derive(Debug, Clone, Default)]
pub struct CycleResult {
    /// Ends that are now written.
    pub reported: Vec<TaskId>,
    /// Marks that are now written; those whose claim somebody has locked are left out.
    pub marked: Vec<TaskId>,
    /// Ends that will never be: the claim has moved on.
    pub moved: Vec<TaskId>,
    /// What was claimed, in the order in which it is to run.
    pub claimed: Vec<Claimed>,
}

/// A claimed task.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The task.
    pub task: TaskId,
    /// Its operation.
    pub operation: OperationId,
    /// The lane it was found in.
    pub lane: i32,
    /// The negated priority.
    pub rank: i16,
    /// From 1.
    pub attempt: i32,
    /// How often it may be tried.
    pub max_attempts: i32,
    /// `fields` or `raw`; `None`: no input.
    pub input_encoding: Option<String>,
    /// The fields, as JSON text, unless they are large.
    pub input: Option<String>,
    /// The bytes, unless they are in chunks.
    pub input_raw: Option<Vec<u8>>,
    /// Whether contents wait beside the row, or large fields in it.
    pub has_more: bool,
    /// The caller's notes.
    pub metadata: Option<Value>,
    /// How many lines earlier attempts wrote.
    pub log_lines: i64,
}

#[cfg(test)]
impl Claimed {
    /// A task without an input, in its first attempt.
    pub(crate) fn example(task: i64, lane: i32, rank: i16) -> Self {
        Self {
            task: TaskId(task),
            operation: OperationId(1),
            lane,
            rank,
            attempt: 1,
            max_attempts: 1,
            input_encoding: None,
            input: None,
            input_raw: None,
            has_more: false,
            metadata: None,
            log_lines: 0,
        }
    }
}

/// The values of one column.
fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

impl Store {
    /// Runs a cycle. What is said twice changes nothing, so a cycle that has failed is said again; after a
    /// connection that was lost during the commit [`Store::claim_held`] tells what was claimed.
    pub async fn cycle(&self, cycle: &Cycle) -> Result<CycleResult> {
        let mut session = self.pool.acquire_for_cycle().await?;
        let mut result = CycleResult::default();
        let (released, ended): (Vec<&Ended>, Vec<&Ended>) =
            (cycle.ended.iter()).partition(|ended| ended.fate == Fate::Release);
        if !released.is_empty() {
            release(&mut session, cycle.monitor, &released, &mut result).await?;
        }
        if ended.is_empty() && cycle.marks.is_empty() && cycle.logs.is_empty() {
            if !cycle.scans.is_empty() || !cycle.finished_cycles.is_empty() {
                claim(&mut session, cycle, &mut result).await?;
            }
            return Ok(result);
        }
        report(&mut session, cycle, &ended, &mut result).await?;
        Ok(result)
    }

    /// Moves tasks that have fallen due to the queue; how many, and how long until the next one is
    /// due, by the database's clock.
    pub async fn cycle_promote(&self) -> Result<(i64, Option<Duration>)> {
        let row = sqlx::query!(
            r#"with due as (
                   delete from rework.delayed
                    where (run_at, id) in (select run_at, id from rework.delayed
                                            where run_at <= clock_timestamp()
                                            order by run_at, id
                                            limit 1000
                                              for update skip locked)
                   returning lane, rank, id, attempt
               ), promoted as (
                   insert into rework.ready (lane, rank, id, attempt) select lane, rank, id, attempt from due
                   returning id
               ), told as (
                   -- Other hosts may have room for them.
                   select rework.ready_tell() from promoted limit 1
               )
               select (select count(*) from promoted) as "count!",
                      (select count(*) from told) as "told!",
                      -- Those that are due and left over are next.
                      (select greatest(extract(epoch from d.run_at - clock_timestamp()), 0)::float8
                         from rework.delayed d
                        where d.id not in (select id from due)
                        order by d.run_at, d.id
                        limit 1) as next_seconds"#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok((row.count, row.next_seconds.map(Duration::from_secs_f64)))
    }

    /// Mere housekeeping. Truncates the half of the queue that is not current, if it has grown and is
    /// empty, and gives up at once when somebody is in the way. Sees to aborts that were asked for in the
    /// moment in which the task ended or was given back, and to what is shown as running by a report that
    /// came twice.
    pub async fn cycle_tidy(&self) -> Result<bool> {
        let truncated = sqlx::query_scalar!(r#"select rework.tidy() as "truncated!""#)
            .fetch_one(&self.pool)
            .await?;
        Ok(truncated)
    }
}

/// Claims, where there is nothing to report.
async fn claim(session: &mut Session<'_>, cycle: &Cycle, result: &mut CycleResult) -> Result<()> {
    let scans = &cycle.scans;
    let rows = sqlx::query_file_as!(
        Row,
        "src/store/claim.sql",
        cycle.monitor.0,
        &cycle.finished_cycles,
        cycle.number as i64,
        &column(scans, |s| s.lane),
        &column(scans, |s| s.after.0),
        &column(scans, |s| s.after.1),
        &column(scans, |s| s.last_rank),
        &column(scans, |s| s.pool),
        &column(scans, |s| s.quota),
        &column(scans, |s| s.turn),
        &column(scans, |s| s.most),
    )
    .fetch_all(session)
    .await?;
    result.claimed = in_order(rows.into_iter().filter_map(Row::claimed).collect());
    Ok(())
}

/// Reports, and claims.
async fn report(
    session: &mut Session<'_>,
    cycle: &Cycle,
    ended: &[&Ended],
    result: &mut CycleResult,
) -> Result<()> {
    let Cycle {
        marks, logs, scans, ..
    } = cycle;
    let lines: Vec<Value> = logs
        .iter()
        .map(|chunk| serde_json::to_value(&chunk.lines).expect("lines are plain JSON"))
        .collect();
    let shown: Vec<&Ended> = ended.iter().copied().filter(|e| e.is_shown).collect();
    let unwanted: Vec<&Ended> = ended.iter().copied().filter(|e| e.is_unwanted).collect();
    let cycles: BTreeSet<i64> = (ended.iter().map(|e| e.token.cycle()))
        .chain(marks.iter().map(|mark| mark.token.cycle()))
        .collect();
    let cycles: Vec<i64> = cycles.into_iter().collect();
    let rows = sqlx::query_file_as!(
        Row,
        "src/store/cycle.sql",
        cycle.monitor.0,
        &cycle.finished_cycles,
        cycle.number as i64,
        &column(scans, |s| s.lane),
        &column(scans, |s| s.after.0),
        &column(scans, |s| s.after.1),
        &column(scans, |s| s.last_rank),
        &column(scans, |s| s.pool),
        &column(scans, |s| s.quota),
        &column(scans, |s| s.turn),
        &column(scans, |s| s.most),
        &column(ended, |e| e.task.0),
        &column(ended, |e| e.attempt),
        &column(ended, |e| e.token.cycle()),
        &column(ended, |e| e.operation.0),
        &column(ended, |e| e.outcome()) as &[&str],
        &column(ended, |e| e.cause.map(Cause::as_str)) as &[Option<&str>],
        &column(ended, |e| e.error.as_deref()) as &[Option<&str>],
        &column(ended, |e| e.worker.map(|worker| worker.0)) as &[Option<i64>],
        &column(ended, |e| e.plugin_operation),
        &column(ended, |e| e.started) as &[Option<DateTime<Utc>>],
        &column(ended, |e| e.finished),
        &column(ended, |e| match e.fate {
            Fate::Retry(delay) => Some(delay),
            Fate::End(_) | Fate::Release => None,
        }) as &[Option<i64>],
        &column(ended, |e| e.output_encoding.as_deref()) as &[Option<&str>],
        &column(ended, |e| e.output.as_deref()) as &[Option<&str>],
        &column(ended, |e| e.output_raw.as_deref()) as &[Option<&[u8]>],
        &column(ended, |e| e.progress) as &[Option<f32>],
        &column(ended, |e| e.progress_message.as_deref()) as &[Option<&str>],
        &column(ended, |e| e.location.as_deref()) as &[Option<&str>],
        &column(ended, |e| e.backtrace.as_deref()) as &[Option<&str>],
        &column(ended, |e| e.exit_code) as &[Option<i32>],
        &column(ended, |e| e.signal) as &[Option<i32>],
        &column(ended, |e| e.peak_memory) as &[Option<i64>],
        &column(ended, |e| e.cpu_seconds) as &[Option<f64>],
        &column(&shown, |e| e.task.0),
        &column(&shown, |e| e.token.cycle()),
        &column(&unwanted, |e| e.task.0),
        &column(marks, |m| m.task.0),
        &column(marks, |m| m.attempt),
        &column(marks, |m| m.token.cycle()),
        &column(marks, |m| m.worker.0),
        &column(marks, |m| m.plugin_operation),
        &column(marks, |m| m.started),
        &column(marks, |m| m.progress) as &[Option<f32>],
        &column(marks, |m| m.progress_message.as_deref()) as &[Option<&str>],
        &column(logs, |l| l.task.0),
        &column(logs, |l| l.attempt),
        &column(logs, |l| l.first),
        &lines,
        &cycles,
    )
    .fetch_all(&mut *session)
    .await?;

    let (mut fenced, mut gone) = (Vec::new(), Vec::new());
    let mut claimed = Vec::new();
    for mut row in rows {
        fenced.extend(row.fenced.take().unwrap_or_default());
        gone.extend(row.gone.take().unwrap_or_default());
        claimed.extend(row.claimed());
    }
    result.claimed = in_order(claimed);
    let is_of = |cycles: &[i64], token: Token| cycles.contains(&token.cycle());
    let marked = marks.iter().filter(|mark| is_of(&fenced, mark.token));
    result.marked.extend(marked.map(|mark| mark.task));
    let written = ended.iter().filter(|e| is_of(&fenced, e.token));
    result.reported.extend(written.map(|ended| ended.task));
    let late: Vec<&Ended> = (ended.iter().copied())
        .filter(|e| is_of(&gone, e.token))
        .collect();
    if !late.is_empty() {
        report_late(session, &late, result).await?;
    }
    Ok(())
}

/// The ends of claims that others have taken over. Where the task was declared lost too early, because its
/// monitor was only away, the end counts.
async fn report_late(
    session: &mut Session<'_>,
    late: &[&Ended],
    result: &mut CycleResult,
) -> Result<()> {
    let (ends, moved): (Vec<&Ended>, Vec<&Ended>) =
        (late.iter().copied()).partition(|ended| matches!(ended.fate, Fate::End(_)));
    result.moved.extend(moved.iter().map(|ended| ended.task));
    let rows = sqlx::query!(
        r#"with said as (
            select *
              from unnest($1::bigint[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                          $8::int[], $9::timestamptz[], $10::timestamptz[], $11::text[], $12::text[],
                          $13::bytea[], $14::real[], $15::text[], $16::text[], $17::text[], $18::int[],
                          $19::int[], $20::bigint[], $21::float8[])
                     as e (task, attempt, token, outcome, cause, error, worker, plugin_operation, started,
                           finished, output_encoding, output, output_raw, progress, progress_message, location,
                           backtrace, exit_code, signal, peak_memory, cpu_seconds)
        ), lost as materialized (
            select s.*, o.worker as worker_seen, o.started as started_seen
              from said s,
                   lateral (select outcome.worker, outcome.started from rework.outcome
                             where outcome.task = s.task and outcome.attempt = s.attempt
                               and outcome.token = s.token and outcome.cause = 'monitor lost'
                               and outcome.superseded is null
                               for no key update skip locked) o
        ), ended_attempt as (
            update rework.outcome o
               set outcome = l.outcome, cause = l.cause, error = l.error,
                   worker = coalesce(l.worker, l.worker_seen),
                   plugin_operation = nullif(l.plugin_operation, 0),
                   started = coalesce(l.started_seen, l.started), finished = l.finished,
                   output_encoding = l.output_encoding, output = l.output::jsonb, output_raw = l.output_raw,
                   progress = coalesce(l.progress, o.progress),
                   progress_message = coalesce(l.progress_message, o.progress_message),
                   location = l.location, backtrace = l.backtrace, exit_code = l.exit_code,
                   signal = l.signal, peak_memory = l.peak_memory, cpu_seconds = l.cpu_seconds
              from lost l
             where o.task = any(array(select task from lost)) and o.task = l.task and o.attempt = l.attempt
            returning o.task
        ), told as (
            select rework.task_tell(array(select task from ended_attempt)) as nothing
        )
        select e.task as "task!", true as "is_written!" from ended_attempt e, told
        union all
        select s.task, false
          from said s
         where not exists (select from rework.outcome o
                            where o.task = s.task and o.attempt = s.attempt and o.token = s.token
                              and o.cause = 'monitor lost' and o.superseded is null offset 0)"#,
        &column(&ends, |e| e.task.0),
        &column(&ends, |e| e.attempt),
        &column(&ends, |e| e.token.0),
        &column(&ends, |e| e.outcome().to_owned()),
        &column(&ends, |e| e.cause.map(Cause::as_str)) as &[Option<&str>],
        &column(&ends, |e| e.error.as_deref()) as &[Option<&str>],
        &column(&ends, |e| e.worker.map(|worker| worker.0)) as &[Option<i64>],
        &column(&ends, |e| e.plugin_operation),
        &column(&ends, |e| e.started) as &[Option<DateTime<Utc>>],
        &column(&ends, |e| e.finished),
        &column(&ends, |e| e.output_encoding.as_deref()) as &[Option<&str>],
        &column(&ends, |e| e.output.as_deref()) as &[Option<&str>],
        &column(&ends, |e| e.output_raw.as_deref()) as &[Option<&[u8]>],
        &column(&ends, |e| e.progress) as &[Option<f32>],
        &column(&ends, |e| e.progress_message.as_deref()) as &[Option<&str>],
        &column(&ends, |e| e.location.as_deref()) as &[Option<&str>],
        &column(&ends, |e| e.backtrace.as_deref()) as &[Option<&str>],
        &column(&ends, |e| e.exit_code) as &[Option<i32>],
        &column(&ends, |e| e.signal) as &[Option<i32>],
        &column(&ends, |e| e.peak_memory) as &[Option<i64>],
        &column(&ends, |e| e.cpu_seconds) as &[Option<f64>],
    )
    .fetch_all(session)
    .await?;
    for row in rows {
        let settled = match row.is_written {
            true => &mut result.reported,
            false => &mut result.moved,
        };
        settled.push(TaskId(row.task));
    }
    Ok(())
}

/// Gives back what never began. In a statement of its own: this is rare.
async fn release(
    session: &mut Session<'_>,
    monitor: MonitorId,
    released: &[&Ended],
    result: &mut CycleResult,
) -> Result<()> {
    let given_back: HashSet<i64> = sqlx::query_scalar!(
        r#"select task as "task!" from rework.claim_release($1, $2, $3) as task"#,
        monitor.0,
        &column(released, |e| e.token.cycle()),
        &column(released, |e| e.task.0)
    )
    .fetch_all(session)
    .await?
    .into_iter()
    .collect();
    for task in released.iter().map(|ended| ended.task) {
        match given_back.contains(&task.0) {
            true => result.reported.push(task),
            false => result.moved.push(task),
        }
    }
    Ok(())
}

/// In the order in which they are to run.
fn in_order(mut claimed: Vec<Claimed>) -> Vec<Claimed> {
    claimed.sort_unstable_by_key(|claimed| (claimed.rank, claimed.task));
    // A task is in the queue once; should a row be there twice all the same, it runs once.
    claimed.dedup_by_key(|claimed| claimed.task);
    claimed
}

/// A row of the answer of either statement: a claimed task, or what became of the report.
struct Row {
    id: Option<i64>,
    lane: Option<i32>,
    rank: Option<i16>,
    operation: Option<i32>,
    attempt: Option<i32>,
    max_attempts: Option<i32>,
    input_encoding: Option<String>,
    input: Option<String>,
    input_raw: Option<Vec<u8>>,
    metadata: Option<Value>,
    log_lines: Option<i64>,
    has_more: Option<bool>,
    /// The cycles whose claims were there.
    fenced: Option<Vec<i64>>,
    /// Those whose claims are gone. (Of neither: somebody has locked the claim.)
    gone: Option<Vec<i64>>,
}

impl Row {
    fn claimed(self) -> Option<Claimed> {
        Some(Claimed {
            task: TaskId(self.id?),
            operation: OperationId(self.operation?),
            lane: self.lane?,
            rank: self.rank?,
            attempt: self.attempt?,
            max_attempts: self.max_attempts?,
            input_encoding: self.input_encoding,
            input: self.input.map(from_jsonb_text),
            input_raw: self.input_raw,
            has_more: self.has_more?,
            metadata: self.metadata,
            log_lines: self.log_lines?,
        })
    }
}

#[cfg(test)]
mod tests {
    /// What is claimed does not depend on whether there is something to report.
    #[test]
    fn both_statements_claim_alike() {
        let claim_of = |statement: &'static str| {
            let begin = statement.find("found as materialized").expect("it claims");
            let answer = statement.find("\nselect id, lane").expect("it answers");
            &statement[begin..answer]
        };
        assert_eq!(
            claim_of(include_str!("claim.sql")),
            claim_of(include_str!("cycle.sql"))
        );
    }
}
