-- What operators ask for: schedules, pauses, the end of a worker, another attempt of a task, and the
-- removal of what nobody needs any more.

-- ------------------------------------------------------------------------------------ schedules

-- Queues a task whenever its rule says so. Inputs are kept as they were given, so that moments are
-- resolved when it fires.
create table rework.sched (
    id           bigint generated always as identity primary key,
    operation    int not null references rework.operation,
    host         text,
    rule         text not null,                    -- cron, five or six fields, seconds first
    timezone     text not null,
    input        jsonb,
    input_raw    bytea,
    metadata     jsonb,
    catch_up     text not null default 'skip',     -- what becomes of runs that nobody was there for
    every_second boolean not null default false,   -- its author knows what they are doing
    paused       boolean not null default false,
    created      timestamptz not null default clock_timestamp(),
    since        timestamptz not null default clock_timestamp(), -- runs before this are nobody's business
    last_run     timestamptz,                      -- the time it fired for last; it fires only for later ones
    error        text,                             -- why the last run queued no task
    constraint sched_catch_up_known check (catch_up in ('skip', 'one', 'all'))
);
-- What makes two schedules the same one.
create unique index sched_identity on rework.sched (
    operation, rule, timezone, coalesce(host, ''), md5(coalesce(input::text, '')), md5(coalesce(input_raw, '')));

-- --------------------------------------------------------------------------------------- pauses

-- Domains whose tasks wait; single operations carry the flag themselves.
create table rework.paused_domain (
    domain text primary key,
    paused timestamptz not null default clock_timestamp()
);

-- -------------------------------------------------------------------------------------- workers

-- What somebody wants of a living worker; its monitor sees to it.
alter table rework.worker add asked text;
alter table rework.worker add constraint worker_asked_known check (asked in ('shutdown', 'kill'));

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
    perform pg_notify('rework_worker', id::text);
end
$$;

-- ---------------------------------------------------------------------------------------- tasks

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
        raise exception 'task % has not ended: it is %', id, t.status
            using errcode = 'RW004', hint = 'only an ended task can be retried';
    end if;
    insert into rework.attempt (task, attempt, outcome, cause, error, worker, started, finished)
    values (t.id, t.attempt, t.outcome, t.cause, t.error, t.worker, t.started, t.finished)
        on conflict do nothing;
    delete from rework.task_file f where f.task = t.id and f.direction = 'output';
    update rework.task
       set status = 'queued', outcome = null, cause = null, error = null, location = null, backtrace = null,
           exit_code = null, signal = null, peak_memory = null, cpu_seconds = null, token = null, worker = null,
           plugin_operation = null, started = null, finished = null, progress = null, progress_message = null,
           output_encoding = null, output = null, output_raw = null,
           max_attempts = greatest(max_attempts, attempt + 1)
     where task.id = t.id;
    insert into rework.ready (lane, rank, id) values (t.lane, -t.priority, t.id);
    perform pg_notify('rework_ready', '');
    return t.attempt + 1;
end
$$;

-- Removes tasks with everything that belongs to them. The caller has locked them.
create function rework.task_purge(ids bigint[])
returns void
language sql volatile
as $$
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
        raise exception 'task % has not ended: it is %', id,
            case t.status when 'running' then 'running' else 'about to run' end
            using errcode = 'RW004', hint = format('`rework abort-task %s` ends it', id);
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
