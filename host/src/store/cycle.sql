-- One cycle of a monitor: what ended, what began, what was printed, what is claimed next. All of it happens or
-- none. No CTE is joined with another one: what is found in one is carried along.
--
-- It is planned once, perhaps while all tables are empty, and has to be right when they hold millions. So each row
-- is looked up by its key in a subquery of its own (`lateral`, with an `offset 0` that keeps it one): a join might
-- read a whole table that was empty when it was planned.
--
-- $1 to $11 are those of claim.sql, $12 to $34 how attempts ended, $35 and $36 which of them were shown as
-- running, $37 those that somebody wanted to be aborted, $38 to $45 what is shown as running, $46 to $49 lines,
-- $50 the cycles whose claims it is all about.
with fence as materialized (
    -- What is said about a claimed task counts while the claim is there. Whoever buries this monitor deletes
    -- its claims first, and waits here; what somebody has locked already is left for the next cycle.
    -- (Looked up one by one, by its whole key: of cycles before there may be many dead rows.)
    select c.cycle
      from unnest($50::bigint[]) as s (cycle),
           lateral (select claim.cycle
                      from rework.claim
                     where claim.monitor = $1 and claim.cycle = s.cycle
                       for key share skip locked) c
), held as materialized (
    select array_agg(cycle) as cycles from fence
), ended_attempt as (
    insert into rework.outcome
           (task, attempt, operation, outcome, cause, error, token, worker, plugin_operation, started, finished,
            superseded, output_encoding, output, output_raw, progress, progress_message, location, backtrace,
            exit_code, signal, peak_memory, cpu_seconds)
    select e.task, e.attempt, e.operation,
           case when u.is_unwanted then 'aborted' else e.outcome end,
           case when u.is_unwanted then 'abort' else e.cause end,
           case when u.is_unwanted then (select a.message from rework.abort_request a where a.task = e.task)
                else e.error end,
           $1 << 36 | e.cycle, nullif(e.worker, 0), nullif(e.plugin_operation, 0), e.started, e.finished,
           case when not u.is_unwanted then clock_timestamp() + e.delay_ms * interval '1 ms' end,
           e.output_encoding, e.output::jsonb, e.output_raw, e.progress, e.progress_message, e.location,
           e.backtrace, e.exit_code, e.signal, e.peak_memory, e.cpu_seconds
      from unnest($12::bigint[], $13::int[], $14::bigint[], $15::int[], $16::text[], $17::text[], $18::text[],
                  $19::bigint[], $20::int[], $21::timestamptz[], $22::timestamptz[], $23::bigint[], $24::text[],
                  $25::text[], $26::bytea[], $27::real[], $28::text[], $29::text[], $30::text[], $31::int[],
                  $32::int[], $33::bigint[], $34::float8[])
             as e (task, attempt, cycle, operation, outcome, cause, error, worker, plugin_operation, started,
                   finished, delay_ms, output_encoding, output, output_raw, progress, progress_message, location,
                   backtrace, exit_code, signal, peak_memory, cpu_seconds),
           -- Somebody has been told that it is being aborted: no other attempt follows.
           lateral (select case when e.delay_ms is null then false
                                else exists (select from rework.abort_request a where a.task = e.task) end
                               as is_unwanted offset 0) u
     where e.cycle = any((select cycles from held)::bigint[])
    -- The same may be said again, after a connection lost during commit.
    on conflict (task, attempt) do nothing
    returning task, attempt, superseded
), retried_task as (
    insert into rework.delayed (run_at, id, lane, rank, attempt)
    select r.superseded, r.task, t.lane, -t.priority, r.attempt + 1
      from ended_attempt r,
           lateral (select lane, priority from rework.task where task.id = r.task offset 0) t
     where r.superseded is not null
    returning id
), dropped_file as (
    -- The next attempt makes its own.
    delete from rework.task_file f
     where f.direction = 'output' and f.task = any(array(select id from retried_task))
), no_longer_shown as (
    delete from rework.running r
     where r.task = any(array(
               select shown.task
                 from rework.running shown
                where shown.task = any(array(select s.task
                                               from unnest($35::bigint[], $36::bigint[]) as s (task, cycle)
                                              where s.cycle = any((select cycles from held)::bigint[])))
                  for update skip locked))
), answered_request as (
    delete from rework.abort_request a where a.task = any($37::bigint[])
), shown_before as materialized (
    select r.task, m.progress, m.progress_message
      from unnest($38::bigint[], $40::bigint[], $44::real[], $45::text[])
             as m (task, cycle, progress, progress_message),
           lateral (select running.task from rework.running where running.task = m.task
                       for no key update skip locked) r
     where m.cycle = any((select cycles from held)::bigint[])
), moved_on as (
    update rework.running r
       set progress = coalesce((select b.progress from shown_before b where b.task = r.task), r.progress),
           progress_message = coalesce((select b.progress_message from shown_before b where b.task = r.task),
                                       r.progress_message)
     where r.task = any(array(select task from shown_before))
), shown_task as (
    insert into rework.running (task, attempt, worker, plugin_operation, started, progress, progress_message)
    select m.task, m.attempt, m.worker, m.plugin_operation, m.started, m.progress, m.progress_message
      from unnest($38::bigint[], $39::int[], $40::bigint[], $41::bigint[], $42::int[], $43::timestamptz[],
                  $44::real[], $45::text[])
             as m (task, attempt, cycle, worker, plugin_operation, started, progress, progress_message)
     where m.cycle = any((select cycles from held)::bigint[])
    on conflict (task) do nothing
), kept_log as (
    insert into rework.log (task, attempt, first, lines)
    select l.*
      from unnest($46::bigint[], $47::int[], $48::bigint[], $49::jsonb[]) as l (task, attempt, first, lines)
     -- What a child of a deleted task still prints is nobody's.
     where exists (select from rework.task t where t.id = l.task offset 0)
    -- The same chunk again, after a connection lost during commit.
    on conflict do nothing
), finished_cycle as (
    delete from rework.claim
     where ctid = any(array(select c.place
                              from unnest($2::bigint[]) as s (cycle),
                                   lateral (select claim.ctid as place
                                              from rework.claim
                                             where claim.monitor = $1 and claim.cycle = s.cycle
                                            offset 0) c))
), found as materialized (
    -- Locked inside each lane: locking after the merge costs a factor of four.
    select s.pool, s.quota, s.turn, s.most, r.half, r.place, r.lane, r.rank, r.attempt, r.id
      from unnest($4::int[], $5::smallint[], $6::bigint[], $7::smallint[], $8::int[], $9::int[], $10::int[],
                  $11::int[])
             as s (lane, after_rank, after_id, last_rank, pool, quota, turn, most),
           lateral (select half, ctid as place, lane, rank, attempt, id
                      from rework.ready
                     where ready.lane = s.lane
                       and (ready.rank, ready.id) > (s.after_rank, s.after_id)
                       and ready.rank <= s.last_rank
                     order by ready.lane, ready.rank, ready.id
                     limit s.most
                       for update skip locked) r
), chosen as materialized (
    select half, place
      from (select *, row_number() over (partition by pool order by rank, turn, id) as place_in_pool
              from (select *, row_number() over (partition by pool, turn order by rank, id) as place_in_turn
                      from found) in_turn
             where place_in_turn <= most) ranked
     where place_in_pool <= quota
), taken_0 as materialized (
    -- They are locked, so each is where it was found.
    delete from rework.ready_0
     where ctid = any(array(select place from chosen where half = 0))
    returning lane, rank, attempt, id
), taken_1 as materialized (
    delete from rework.ready_1
     where ctid = any(array(select place from chosen where half = 1))
    returning lane, rank, attempt, id
), claimed_task as materialized (
    select k.lane, k.rank, k.attempt, t.id, t.operation, greatest(t.max_attempts, k.attempt) as max_attempts,
           t.input_encoding, t.input_raw, t.metadata, i.input
      from (select * from taken_0 union all select * from taken_1) k,
           lateral (select id, operation, max_attempts, input_encoding, input, input_raw, metadata
                      from rework.task where task.id = k.id offset 0) t,
           -- A large input is fetched when its turn comes, so that a claim of many stays small. What is stored
           -- may be compressed. (The offset keeps the text from being made twice.)
           lateral (select case when pg_column_size(t.input) <= 65536 then t.input::text end as input offset 0) i
     -- No attempt is in the queue twice. Should a row of the queue be wrong all the same, it runs nothing.
     where not exists (select from rework.outcome o where o.task = k.id and o.attempt = k.attempt offset 0)
), recorded_claim as (
    insert into rework.claim (monitor, cycle, tasks, attempts)
    select $1, $3, array_agg(id), array_agg(attempt) from claimed_task having count(*) > 0
)
select id, lane, rank, operation, attempt, max_attempts, input_encoding,
       case when octet_length(input) <= 262144 then input end as input, input_raw, metadata,
       case when attempt > 1
            then (select coalesce(max(l.first + jsonb_array_length(l.lines) - 1), 0)
                    from rework.log l where l.task = claimed_task.id)
            else 0 end as log_lines,
       case when input_encoding is null then false
            when input_encoding = 'fields' and coalesce(octet_length(input), 262145) > 262144 then true
            -- What stands for a file among the fields is its size and its hash.
            when input_encoding = 'fields' and position('"sha256"' in input) = 0 then false
            else input_raw is null and exists (select from rework.task_file f
                                                where f.task = claimed_task.id and f.direction = 'input'
                                               offset 0) end
           as has_more,
       null::bigint[] as fenced, null::bigint[] as gone
  from claimed_task
union all
select null, null, null, null, null, null, null, null, null, null, null, null,
       (select cycles from held),
       array(select s.cycle from unnest($50::bigint[]) as s (cycle)
              where (select c.cycle from rework.claim c where c.monitor = $1 and c.cycle = s.cycle) is null)
  -- Whoever waits for these tasks looks at them. (What nobody reads is not done.)
  from rework.task_tell($12::bigint[] || $38::bigint[])
