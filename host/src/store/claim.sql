-- A cycle that has nothing to report. From `found` on it is word for word as cycle.sql; a test compares them.
--
-- $1 the monitor, $2 its cycles of whose claims nothing is left, $3 the number of this cycle, $4 to $11 where to
-- look for tasks.
with finished_cycle as (
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
