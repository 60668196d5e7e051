//! One cycle of a monitor, in one statement: report what ended, mark what began, keep the logs,
//! claim what is next. All of it happens or none.

use super::{Store, document::from_jsonb_text, error::Result};
use crate::model::{
    MonitorId, OperationId, TaskId, Token, WorkerId,
    log::LogLine,
    task::{Cause, Outcome},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// What a monitor has to say in one cycle, and what it wants.
#[derive(Debug, Clone)]
pub struct Cycle {
    /// Who speaks.
    pub monitor: MonitorId,
    /// Never used twice by one monitor; with it the claim's token.
    pub number: u64,
    /// Tasks that ended, each at most once and in no [`Mark`] of the same cycle: one statement
    /// that writes a row twice silently loses the second write.
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
    /// The claim.
    pub token: Token,
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
    /// The end of a claim of which nothing else is known.
    pub fn new(task: TaskId, token: Token, fate: Fate, finished: DateTime<Utc>) -> Self {
        Self {
            task,
            token,
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

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self::End(_) => "end",
            Self::Retry(_) => "retry",
            Self::Release => "release",
        }
    }
}

/// News about a task that runs.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The task.
    pub task: TaskId,
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
    /// Marks that are now written; a row that somebody has locked is left out.
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

impl Store {
    /// Runs a cycle. On an error nothing of it happened, unless the connection was lost during the
    /// commit; then [`Store::claim_held`] tells.
    pub async fn cycle(&self, cycle: &Cycle) -> Result<CycleResult> {
        fn column<'r, R, T>(rows: &'r [R], of: impl Fn(&'r R) -> T) -> Vec<T> {
            rows.iter().map(of).collect()
        }
        let Cycle {
            ended,
            marks,
            logs,
            scans,
            ..
        } = cycle;
        let token = Token::new(cycle.monitor, cycle.number);
        let lines: Vec<Value> = logs
            .iter()
            .map(|chunk| serde_json::to_value(&chunk.lines).expect("lines are plain JSON"))
            .collect();
        let rows = sqlx::query!(
            r#"with said as (
                select *
                  from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
                              $7::text[], $8::text[], $9::int[], $10::int[], $11::timestamptz[],
                              $12::timestamptz[], $13::text[], $14::bytea[], $15::text[], $16::bigint[],
                              $17::float8[], $18::bigint[], $19::int[], $20::bigint[], $42::real[],
                              $43::text[])
                    as e (id, token, fate, outcome, cause, error, location, backtrace, exit_code, signal,
                          started, finished, output, output_raw, output_encoding, peak_memory,
                          cpu_seconds, worker, plugin_operation, delay_ms, progress, progress_message)
            ), unwanted as (
                -- Somebody has been told that it is being aborted: it does not go back to the queue.
                select a.task as id, a.message
                  from rework.abort_request a
                  join said s on s.id = a.task
                 where s.fate <> 'end'
            ), ended as (
                select s.id, s.token, s.location, s.backtrace, s.exit_code, s.signal, s.started, s.finished,
                       s.output, s.output_raw, s.output_encoding, s.peak_memory, s.cpu_seconds, s.worker,
                       s.plugin_operation, s.delay_ms, s.progress, s.progress_message,
                       case when u.id is null then s.fate else 'end' end as fate,
                       case when u.id is null then s.outcome else 'aborted' end as outcome,
                       case when u.id is null then s.cause else 'abort' end as cause,
                       case when u.id is null then s.error else u.message end as error
                  from said s
                  left join unwanted u using (id)
            ), marked as (
                select *
                  from unnest($21::bigint[], $22::bigint[], $23::timestamptz[], $24::bigint[], $25::int[],
                              $26::real[], $27::text[])
                    as m (id, token, started, worker, plugin_operation, progress, progress_message)
            ), locked_task as materialized (
                -- In id order, or two monitors could deadlock; a row that somebody else has locked
                -- is reported in a later cycle instead of holding up all the others.
                select t.id
                  from rework.task t
                  join (select id, token, fate from ended
                        union all
                        select id, token, 'mark' from marked) n
                    on n.id = t.id and n.token = t.token
                 where t.status <> 'done'
                       -- Declared lost too early: its monitor was only away.
                    or (t.outcome = 'aborted' and t.cause = 'monitor lost' and n.fate = 'end')
                 order by t.id
                   -- No key changes: files of a task may be written at the same time.
                   for no key update of t skip locked
            ), ended_task as (
                update rework.task t
                   set status = case e.fate when 'end' then 'done' else 'queued' end,
                       outcome = e.outcome,
                       cause = case e.fate when 'end' then e.cause end,
                       error = case e.fate when 'end' then e.error end,
                       location = case e.fate when 'end' then e.location end,
                       backtrace = case e.fate when 'end' then e.backtrace end,
                       exit_code = e.exit_code,
                       signal = e.signal,
                       -- As it was first shown.
                       started = case e.fate when 'end' then coalesce(t.started, e.started) end,
                       finished = case e.fate when 'end' then e.finished end,
                       output = case e.fate when 'end' then e.output::jsonb end,
                       output_raw = case e.fate when 'end' then e.output_raw end,
                       output_encoding = case e.fate when 'end' then e.output_encoding end,
                       peak_memory = e.peak_memory,
                       cpu_seconds = e.cpu_seconds,
                       worker = case e.fate when 'end' then coalesce(e.worker, t.worker) end,
                       plugin_operation = case e.fate when 'end' then nullif(e.plugin_operation, 0) end,
                       token = case e.fate when 'end' then t.token end,
                       attempt = t.attempt - (e.fate = 'release')::int,
                       run_at = case e.fate when 'retry'
                                then clock_timestamp() + e.delay_ms * interval '1 ms' else t.run_at end,
                       progress = case e.fate when 'end' then coalesce(e.progress, t.progress) end,
                       progress_message = case e.fate when 'end'
                                          then coalesce(e.progress_message, t.progress_message) end
                  from ended e
                  join locked_task using (id)
                 where t.id = e.id
                returning t.id, t.lane, -t.priority as rank, t.attempt, t.run_at, e.fate
            ), superseded_attempt as (
                insert into rework.attempt
                       (task, attempt, outcome, cause, error, worker, started, finished)
                select d.id, d.attempt, case when e.cause in ('error', 'panic', 'bad output')
                                             then 'failed' else 'aborted' end,
                       e.cause, e.error, e.worker, e.started, e.finished
                  from ended_task d join ended e using (id)
                 where d.fate = 'retry'
                on conflict do nothing
            ), retried_task as (
                insert into rework.delayed (run_at, id, lane, rank)
                select run_at, id, lane, rank from ended_task where fate = 'retry'
            ), dropped_file as (
                -- The next attempt makes its own.
                delete from rework.task_file
                 where direction = 'output'
                   and task in (select id from ended_task where fate = 'retry')
            ), released_task as (
                insert into rework.ready (lane, rank, id)
                select lane, rank, id from ended_task where fate = 'release'
                -- The row of an earlier life may still be there; it serves as well.
                on conflict do nothing
                returning id
            ), answered_request as (
                delete from rework.abort_request
                 where task in (select id from ended_task where fate = 'end')
            ), marked_task as (
                update rework.task t
                   set status = 'running',
                       started = coalesce(t.started, m.started),
                       worker = m.worker,
                       plugin_operation = m.plugin_operation,
                       progress = coalesce(m.progress, t.progress),
                       progress_message = coalesce(m.progress_message, t.progress_message)
                  from marked m
                  join locked_task using (id)
                 where t.id = m.id
                   and t.status <> 'done'
                returning t.id
            ), told as (
                select rework.task_tell(array(select id from ended_task where fate = 'end'
                                              union all select id from marked_task))
                union all
                -- Other hosts may have room for what was given back.
                (select rework.ready_tell() from released_task limit 1)
            ), kept_log as (
                insert into rework.log (task, attempt, first, lines)
                select l.*
                  from unnest($28::bigint[], $29::int[], $30::bigint[], $31::jsonb[])
                    as l (task, attempt, first, lines)
                 -- What a child of a deleted task still prints is nobody's.
                 where exists (select from rework.task t where t.id = l.task)
                -- The same chunk again, after a connection lost during commit.
                on conflict do nothing
            ), finished_cycle as (
                delete from rework.claim where monitor = $32 and cycle = any($33::bigint[])
            ), found as materialized (
                -- Locked inside each lane: locking after the merge costs a factor of four.
                select s.pool, s.quota, s.turn, s.most, r.*
                  from unnest($34::int[], $35::smallint[], $36::bigint[], $37::smallint[], $38::int[],
                              $39::int[], $44::int[], $45::int[])
                         as s (lane, after_rank, after_id, last_rank, pool, quota, turn, most),
                       lateral (select half, lane, rank, id
                                  from rework.ready
                                 where ready.lane = s.lane
                                   and (ready.rank, ready.id) > (s.after_rank, s.after_id)
                                   and ready.rank <= s.last_rank
                                 order by ready.lane, ready.rank, ready.id
                                 limit s.most
                                   for update skip locked) r
            ), chosen as materialized (
                select half, lane, rank, id
                  from (select *, row_number() over (partition by pool order by rank, turn, id) as place
                          from (select *, row_number() over (partition by pool, turn order by rank, id)
                                              as place_in_turn
                                  from found) in_turn
                         where place_in_turn <= most) ranked
                 where place <= quota
            ), taken as materialized (
                delete from rework.ready r
                 using chosen c
                 where r.half = c.half and r.lane = c.lane and r.rank = c.rank and r.id = c.id
                returning r.lane, r.rank, r.id
            ), claimed_task as (
                -- A row of the queue may be stale: its task was ended or deleted while it moved
                -- from one table to another. Then it is only taken away.
                update rework.task t
                   set token = $41, attempt = t.attempt + 1
                  from taken
                 where t.id = taken.id
                   and t.status = 'queued'
                   and t.token is null
                returning t.id, taken.lane, taken.rank, t.operation, t.attempt, t.max_attempts,
                          t.input_encoding, t.input_raw, t.metadata,
                          -- A large input is fetched when its turn comes, so that a claim of many
                          -- stays small.
                          case when not rework.is_large(t.input) then t.input::text end as input,
                          rework.is_large(t.input) as is_large
            ), recorded_claim as (
                insert into rework.claim (monitor, cycle, tasks)
                select $32, $40, array_agg(id) from claimed_task having count(*) > 0
            )
            select 'reported' as "kind!", id as "id!", null::int as lane, null::smallint as rank,
                   null::int as operation, null::int as attempt, null::int as max_attempts,
                   null::text as input_encoding, null::text as input, null::bytea as input_raw,
                   null::jsonb as metadata, null::bigint as log_lines, null::boolean as has_more
              from ended_task
            union all
            select 'marked', id, null, null, null, null, null, null, null, null, null, null, null
              from marked_task
            union all
            select 'moved', e.id, null, null, null, null, null, null, null, null, null, null, null
              from ended e
              left join rework.task t on t.id = e.id
             where t.token is distinct from e.token
                or (t.status = 'done'
                    and not (t.outcome = 'aborted' and t.cause = 'monitor lost' and e.fate = 'end'))
            union all
            -- What nobody reads is not done.
            select 'told', 0, null, null, null, null, null, null, null, null, null, null, null
              from told
            union all
            select 'claimed', c.id, c.lane, c.rank, c.operation, c.attempt, c.max_attempts,
                   c.input_encoding, c.input, c.input_raw, c.metadata,
                   case when c.attempt > 1
                        then (select coalesce(max(l.first + jsonb_array_length(l.lines) - 1), 0)
                                from rework.log l where l.task = c.id)
                        else 0 end,
                   coalesce(c.is_large, false)
                       or c.input_encoding is not null
                       and exists (select from rework.task_file f
                                    where f.task = c.id and f.direction = 'input')
              from claimed_task c
             order by 1, 4, 2"#,
            &column(ended, |e| e.task.0),
            &column(ended, |e| e.token.0),
            &column(ended, |e| e.fate.word().to_owned()),
            &column(ended, |e| match e.fate {
                Fate::End(outcome) => Some(outcome.as_str()),
                Fate::Retry(_) | Fate::Release => None,
            }) as &[Option<&str>],
            &column(ended, |e| e.cause.map(Cause::as_str)) as &[Option<&str>],
            &column(ended, |e| e.error.as_deref()) as &[Option<&str>],
            &column(ended, |e| e.location.as_deref()) as &[Option<&str>],
            &column(ended, |e| e.backtrace.as_deref()) as &[Option<&str>],
            &column(ended, |e| e.exit_code) as &[Option<i32>],
            &column(ended, |e| e.signal) as &[Option<i32>],
            &column(ended, |e| e.started) as &[Option<DateTime<Utc>>],
            &column(ended, |e| e.finished),
            &column(ended, |e| e.output.as_deref()) as &[Option<&str>],
            &column(ended, |e| e.output_raw.as_deref()) as &[Option<&[u8]>],
            &column(ended, |e| e.output_encoding.as_deref()) as &[Option<&str>],
            &column(ended, |e| e.peak_memory) as &[Option<i64>],
            &column(ended, |e| e.cpu_seconds) as &[Option<f64>],
            &column(ended, |e| e.worker.map(|worker| worker.0)) as &[Option<i64>],
            &column(ended, |e| e.plugin_operation),
            &column(ended, |e| match e.fate {
                Fate::Retry(delay) => delay,
                Fate::End(_) | Fate::Release => 0,
            }),
            &column(marks, |m| m.task.0),
            &column(marks, |m| m.token.0),
            &column(marks, |m| m.started),
            &column(marks, |m| m.worker.0),
            &column(marks, |m| m.plugin_operation),
            &column(marks, |m| m.progress) as &[Option<f32>],
            &column(marks, |m| m.progress_message.as_deref()) as &[Option<&str>],
            &column(logs, |l| l.task.0),
            &column(logs, |l| l.attempt),
            &column(logs, |l| l.first),
            &lines,
            cycle.monitor.0,
            &cycle.finished_cycles,
            &column(scans, |s| s.lane),
            &column(scans, |s| s.after.0),
            &column(scans, |s| s.after.1),
            &column(scans, |s| s.last_rank),
            &column(scans, |s| s.pool),
            &column(scans, |s| s.quota),
            cycle.number as i64,
            token.0,
            &column(ended, |e| e.progress) as &[Option<f32>],
            &column(ended, |e| e.progress_message.as_deref()) as &[Option<&str>],
            &column(scans, |s| s.turn),
            &column(scans, |s| s.most),
        )
        .fetch_all(&mut self.pool.acquire_for_cycle().await?)
        .await?;

        let mut result = CycleResult::default();
        for row in rows {
            match row.kind.as_str() {
                "reported" => result.reported.push(TaskId(row.id)),
                "marked" => result.marked.push(TaskId(row.id)),
                "moved" => result.moved.push(TaskId(row.id)),
                "told" => {}
                _ => {
                    let claimed = "a claimed row has all its columns";
                    result.claimed.push(Claimed {
                        task: TaskId(row.id),
                        operation: OperationId(row.operation.expect(claimed)),
                        lane: row.lane.expect(claimed),
                        rank: row.rank.expect(claimed),
                        attempt: row.attempt.expect(claimed),
                        max_attempts: row.max_attempts.expect(claimed),
                        input_encoding: row.input_encoding,
                        input: row.input.map(from_jsonb_text),
                        input_raw: row.input_raw,
                        has_more: row.has_more.expect(claimed),
                        metadata: row.metadata,
                        log_lines: row.log_lines.expect(claimed),
                    });
                }
            }
        }
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
                   returning lane, rank, id, run_at
               ), promoted as (
                   insert into rework.ready (lane, rank, id) select lane, rank, id from due
                   on conflict do nothing
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
    /// empty, and gives up at once when somebody is in the way. Forgets aborts that were asked for in
    /// the moment of the end: the report of that could not see them.
    pub async fn cycle_tidy(&self) -> Result<bool> {
        sqlx::query!(
            "delete from rework.abort_request
              where task in (select a.task
                               from rework.abort_request a
                               join rework.task t on t.id = a.task
                              where t.status = 'done'
                                for update of a skip locked)"
        )
        .execute(&self.pool)
        .await?;
        let truncated = sqlx::query_scalar!(r#"select rework.ready_truncate() as "truncated!""#)
            .fetch_one(&self.pool)
            .await?;
        Ok(truncated)
    }
}
