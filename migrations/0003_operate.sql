-- What becomes of tasks and workers once they are there: abort, retry, delete, vacuum, and the views
-- that show what happened.

-- --------------------------------------------------------------------------------------- tasks

-- Tells those who wait that these tasks have begun, ended or gone.
create function rework.task_tell(ids bigint[])
returns void
language plpgsql volatile
as $$
declare
    payload text;
begin
    if cardinality(ids) > 0 and exists (
        -- (Nobody waits longer than a minute ahead: of such a row only the clock has been set back.)
        select from rework.waiter
         where until between clock_timestamp() and clock_timestamp() + interval '1 minute') then
        payload := array_to_string(ids, ',');
        -- A payload has less than 8000 bytes; an empty one says: look at all that you wait for.
        perform rework.tell('rework_task', case when length(payload) < 8000 then payload else '' end);
    end if;
end
$$;

-- The state that people see.
create function rework.task_state(status text, outcome text, aborting boolean)
returns text
language sql immutable
as $$ select case when status = 'done' then outcome when aborting then 'aborting' else status end $$;

-- What a task that has not ended is about, for messages.
create function rework.task_doing(id bigint)
returns text
language sql stable
as $$
    select case when exists (select from rework.abort_request a where a.task = t.id) then 'aborting'
                when t.status = 'queued' and t.token is not null then 'about to run'
                else t.status end
      from rework.task t where t.id = task_doing.id
$$;

-- Ends a queued task at once (answers `aborted`), asks for the end of a claimed one (`aborting`).
create function rework.task_abort(id bigint, message text default null)
returns text
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    t record;
begin
    select lane, -priority as rank into t from rework.task where task.id = task_abort.id;
    if not found then
        raise exception 'no task %', id using errcode = 'RW001', hint = 'see `rework list-tasks`';
    end if;
    -- The queue's row first, as claims do: the other order would deadlock with them.
    delete from rework.ready r where r.lane = t.lane and r.rank = t.rank and r.id = task_abort.id;
    delete from rework.delayed d where d.id = task_abort.id;
    select status, outcome, token into t from rework.task where task.id = task_abort.id for update;
    if t.status = 'done' then
        raise exception 'task % has ended already: it is %', id, t.outcome using errcode = 'RW004';
    elsif t.token is null then
        update rework.task
           set status = 'done', outcome = 'aborted', cause = 'abort', error = task_abort.message,
               finished = clock_timestamp()
         where task.id = task_abort.id;
        -- Of a claim that was given back before anybody saw to it.
        delete from rework.abort_request a where a.task = task_abort.id;
        perform rework.task_tell(array[id]);
        return 'aborted';
    end if;
    insert into rework.abort_request (task, message) values (id, message) on conflict do nothing;
    perform rework.tell('rework_abort', id::text);
    return 'aborting';
end
$$;

-- Queues an ended task once more, under its id. What the last attempt left behind becomes a row of
-- rework.attempt; its log stays.
create function rework.task_retry(id bigint)
returns int
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    t record;
begin
    select * into t from rework.task where task.id = task_retry.id for update;
    if not found then
        raise exception 'no task %', id using errcode = 'RW001', hint = 'see `rework list-tasks`';
    elsif t.status <> 'done' then
        raise exception 'task % has not ended: it is %', id, rework.task_doing(id)
            using errcode = 'RW004', hint = 'only an ended task can be retried';
    end if;
    insert into rework.attempt (task, attempt, outcome, cause, error, worker, started, finished)
    values (t.id, t.attempt, t.outcome, t.cause, t.error, t.worker, t.started, t.finished)
        on conflict do nothing;
    delete from rework.task_file f where f.task = t.id and f.direction = 'output';
    delete from rework.abort_request a where a.task = t.id;
    update rework.task
       set status = 'queued', outcome = null, cause = null, error = null, location = null, backtrace = null,
           exit_code = null, signal = null, peak_memory = null, cpu_seconds = null, token = null, worker = null,
           plugin_operation = null, run_at = least(run_at, clock_timestamp()), started = null, finished = null,
           progress = null, progress_message = null,
           output_encoding = null, output = null, output_raw = null,
           max_attempts = greatest(max_attempts, attempt + 1)
     where task.id = t.id;
    -- The row of an earlier life may still be there; it serves as well.
    insert into rework.ready (lane, rank, id) values (t.lane, -t.priority, t.id) on conflict do nothing;
    perform rework.tell('rework_ready', '');
    return t.attempt + 1;
end
$$;

-- Removes tasks with everything that belongs to them. The caller has locked them.
create function rework.task_purge(ids bigint[])
returns void
language sql volatile
as $$
    select rework.task_tell(ids);
    delete from rework.log where task = any(ids);
    delete from rework.attempt where task = any(ids);
    delete from rework.task_file where task = any(ids);
    delete from rework.abort_request where task = any(ids);
    delete from rework.task where id = any(ids);
$$;

-- Removes a task that has ended, or that nobody has claimed yet.
create function rework.task_delete(id bigint)
returns void
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    t record;
begin
    select lane, -priority as rank into t from rework.task where task.id = task_delete.id;
    if not found then
        raise exception 'no task %', id using errcode = 'RW001', hint = 'see `rework list-tasks`';
    end if;
    -- The queue's row first, as claims do: the other order would deadlock with them.
    delete from rework.ready r where r.lane = t.lane and r.rank = t.rank and r.id = task_delete.id;
    delete from rework.delayed d where d.id = task_delete.id;
    select status, token into t from rework.task where task.id = task_delete.id for update;
    if t.status <> 'done' and t.token is not null then
        raise exception 'task % has not ended: it is %', id, rework.task_doing(id)
            using errcode = 'RW004', hint = case rework.task_doing(id)
                when 'aborting' then 'its worker is being killed: try again in a moment'
                else format('`rework abort-task %s` ends it', id) end;
    end if;
    perform rework.task_purge(array[id]);
end
$$;

-- Removes one batch of tasks after task `after`: ended before `before`, or (`queued`) claimed by nobody.
-- Answers how many, and the last one it looked at; null: there are no more.
create function rework.task_vacuum(
    domain text, before timestamptz, queued boolean, after bigint, batch int, out deleted int, out last bigint)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    candidates bigint[];
    victims bigint[];
begin
    select array_agg(c.id), max(c.id) into candidates, last
      from (select t.id
              from rework.task t
              join rework.operation o on o.id = t.operation
             where t.id > task_vacuum.after
               and (task_vacuum.domain is null or o.domain = task_vacuum.domain)
               and case when task_vacuum.queued then t.status = 'queued' and t.token is null
                        else t.status = 'done' and t.finished < task_vacuum.before end
             order by t.id
             limit task_vacuum.batch) c;
    deleted := 0;
    if last is null then
        return;
    end if;
    if task_vacuum.queued then
        -- The queue's rows first, as claims do.
        delete from rework.ready r using rework.task t
         where t.id = any(candidates) and r.lane = t.lane and r.rank = -t.priority and r.id = t.id;
        delete from rework.delayed d where d.id = any(candidates);
    end if;
    select array_agg(l.id) into victims
      from (select t.id from rework.task t
             where t.id = any(candidates)
               and case when task_vacuum.queued then t.status = 'queued' and t.token is null
                        else t.status = 'done' and t.finished < task_vacuum.before end
             order by t.id
               for update) l;
    perform rework.task_purge(victims);
    deleted := coalesce(cardinality(victims), 0);
end
$$;

-- ----------------------------------------------------------------------------------- the queue

-- Whether an input is fetched when its turn comes, instead of with the claim. What is stored may be
-- compressed.
create function rework.is_large(input jsonb)
returns boolean
language sql immutable
as $$ select pg_column_size(input) > 65536 or octet_length(input::text) > 262144 $$;

-- Truncates the half of the queue that is not current once it has grown and is empty, so that it
-- stays small even while a forgotten transaction keeps vacuum from removing dead rows.
create function rework.ready_truncate() returns boolean
language plpgsql volatile
set lock_timeout = '20ms'
as $$
declare
    half text := 'rework.ready_' || (1 - rework.ready_half());
    is_empty boolean;
begin
    if pg_relation_size(half::regclass) < 1000000 then
        return false;
    end if;
    execute format('select not exists (select from %s)', half) into is_empty;
    if not is_empty then
        return false;
    end if;
    -- Lock, look again, truncate: a transaction may have committed in between.
    execute format('lock table %s in access exclusive mode', half);
    execute format('select not exists (select from %s)', half) into is_empty;
    if is_empty then
        execute format('truncate %s', half);
    end if;
    return is_empty;
exception when lock_not_available then
    return false;
end
$$;

-- ------------------------------------------------------------------------- workers and plugins

-- Asks for the end of a worker, after its task (`shutdown`) or at once (`kill`).
create function rework.worker_ask(id bigint, asked text)
returns void
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    w record;
begin
    select state, cause into w from rework.worker where worker.id = worker_ask.id for update;
    if not found then
        raise exception 'no worker %', id using errcode = 'RW001', hint = 'see `rework list-workers`';
    elsif w.state = 'dead' then
        raise exception 'worker % is dead already: %', id, w.cause using errcode = 'RW004';
    end if;
    -- Once it is to be killed, nothing milder is left to ask for.
    update rework.worker
       set asked = case worker.asked when 'kill' then 'kill' else worker_ask.asked end
     where worker.id = worker_ask.id;
    perform rework.tell('rework_worker', id::text);
end
$$;

-- What other hosts run of these domains (none: all) from published plugins, for each operation in the
-- version that was deployed last, and whether this host lacks it. What it has from a file of its own
-- is left alone; what was rolled back or unregistered here is not pressed upon it again.
create function rework.plugin_offered(
    host text, domains text[],
    out operation int, out plugin_operation int, out plugin int, out is_missing boolean)
returns setof record
language sql stable
as $$
    with source as (
        select distinct on (d.operation) d.operation, d.plugin_operation, p.plugin, d.registered
          from rework.deployment d
          join rework.operation o on o.id = d.operation
          join rework.plugin_operation p on p.id = d.plugin_operation
         where d.host <> plugin_offered.host
           and d.retired is null
           and not starts_with(d.path, 'published:')
           and (cardinality(domains) = 0 or o.domain = any(domains))
         order by d.operation, d.registered desc
    )
    select s.operation, s.plugin_operation, s.plugin,
           (mine.id is null
            or starts_with(mine.path, 'published:') and mine.plugin_operation <> s.plugin_operation)
           and not exists (
               select from rework.deployment b
                where b.operation = s.operation and b.host = plugin_offered.host
                  and b.plugin_operation = s.plugin_operation
                  and b.retired_by in ('rollback', 'unregistered') and b.retired > s.registered)
      from source s
      join rework.plugin_content c on c.plugin = s.plugin
      left join rework.deployment mine
             on mine.operation = s.operation and mine.host = plugin_offered.host and mine.retired is null
$$;

-- --------------------------------------------------------------------------------------- views

-- Tasks with the columns of `rework list-tasks`, and readable input and output.
create view rework.task_view as
select t.id, o.name as operation, o.domain, t.host,
       rework.task_state(t.status, t.outcome, a.task is not null) as state,
       t.cause, t.error, t.priority::int as priority, t.attempt, t.max_attempts, t.metadata, t.key,
       t.schedule, t.worker, t.queued, t.run_at, t.started, t.finished,
       t.input, t.output, t.input_encoding, t.output_encoding
  from rework.task t
  join rework.operation o on o.id = t.operation
  left join rework.abort_request a on a.task = t.id;

-- Logs, a row per line. Its `id` runs from 1 within a task.
create view rework.log_line as
select l.first + n - 1 as id, l.task, l.attempt,
       to_timestamp(0) + (line->>0)::bigint * interval '1 microsecond' as time,
       line->>1 as stream, line->>2 as level, line->>3 as target, line->>4 as line
  from rework.log l,
       jsonb_array_elements(l.lines) with ordinality as unfolded (line, n);
