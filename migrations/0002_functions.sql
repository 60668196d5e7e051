-- What any language may call: schedule() and task_abort(), and the views that show what happened.
-- A refusal has an error code of class RW, a message that names the thing, and often a hint.

-- The operation of a name, or a refusal that says what there is.
create function rework.operation_resolve(name text, domain text, host text)
returns int
language plpgsql stable
as $$
#variable_conflict use_column
declare
    candidates record;
begin
    select array_agg(distinct o.id) as ids, array_agg(distinct o.domain order by o.domain) as domains
      into candidates
      from rework.operation o
      join rework.deployment d on d.operation = o.id and d.retired is null
     where o.name = operation_resolve.name
       and (operation_resolve.domain is null or o.domain = operation_resolve.domain)
       and (operation_resolve.host is null or d.host = operation_resolve.host);
    if cardinality(candidates.ids) = 1 then
        return candidates.ids[1];
    elsif cardinality(candidates.ids) > 1 then
        raise exception 'operation `%` exists in several domains: %', name, array_to_string(candidates.domains, ', ')
            using errcode = 'RW002', hint = 'name one with --domain (in SQL: domain => ''…'')';
    end if;
    select array_agg(distinct o.domain order by o.domain) as domains, array_agg(distinct d.host order by d.host) as hosts
      into candidates
      from rework.operation o
      join rework.deployment d on d.operation = o.id and d.retired is null
     where o.name = operation_resolve.name;
    if candidates.domains is null then
        raise exception 'no operation `%` is registered', name
            using errcode = 'RW001', hint = 'see `rework list-operations`; `rework register-operations` adds those of a plugin';
    elsif domain is not null and not domain = any(candidates.domains) then
        raise exception 'no operation `%` is registered in domain `%`', name, domain
            using errcode = 'RW001', hint = format('it exists in: %s', array_to_string(candidates.domains, ', '));
    else
        raise exception 'operation `%` is not registered on host `%`', name, host
            using errcode = 'RW001', hint = format('it is registered on: %s', array_to_string(candidates.hosts, ', '));
    end if;
end
$$;

-- Whether a value fits a type of a spec; null if it does, else why not. Mirrors the SDK's rules for
-- what SQL can express.
create function rework.input_fault(spec jsonb, value jsonb)
returns text
language plpgsql stable
as $$
declare
    wanted text := spec->>'type';
    given text := jsonb_typeof(value);
begin
    case wanted
        when 'number' then
            if given <> 'number' then return format('must be a number, not %s', given); end if;
        when 'boolean' then
            if given <> 'boolean' then return format('must be a boolean, not %s', given); end if;
        when 'string' then
            if given <> 'string' then return format('must be a string, not %s', given); end if;
        when 'file' then
            return 'is a file, and the content of files cannot be given in SQL: use `rework schedule --input-file` or the Rust client';
        when 'datetime' then
            if given <> 'string' then return format('must be a datetime, not %s', given); end if;
            begin
                perform (value #>> '{}')::timestamptz;
            exception when others then
                return format('is not a datetime: `%s`', value #>> '{}');
            end;
        when 'moment' then
            if given <> 'string' then return format('must be a datetime, not %s', given); end if;
            begin
                perform (value #>> '{}')::timestamptz;
            exception when others then
                return format('must be a datetime in SQL, not the expression `%s`: use `rework schedule` or the Rust client for moment expressions', value #>> '{}');
            end;
        else
            return format('has the unknown type `%s`', wanted);
    end case;
    if jsonb_typeof(spec->'choices') = 'array' and not spec->'choices' @> jsonb_build_array(value) then
        return format('must be one of %s', spec->>'choices');
    end if;
    return null;
end
$$;

-- The input, completed by the defaults, or a refusal that names the field.
create function rework.input_complete(operation_name text, specs jsonb, input jsonb)
returns jsonb
language plpgsql stable
as $$
declare
    spec jsonb;
    field text;
    fault text;
    complete jsonb;
begin
    if specs is null or jsonb_typeof(specs) = 'null' then
        return input;
    end if;
    if jsonb_typeof(coalesce(input, '{}')) <> 'object' then
        raise exception 'the input of `%` must be an object of fields, not %', operation_name, jsonb_typeof(input)
            using errcode = 'RW003';
    end if;
    complete := coalesce(input, '{}');
    for field in select key from jsonb_object_keys(complete) key loop
        if not exists (select from jsonb_array_elements(specs) s where s->>'name' = field) then
            raise exception 'unknown input `%` of `%`', field, operation_name
                using errcode = 'RW003', hint = format('its inputs are: %s',
                    coalesce((select string_agg(s->>'name', ', ') from jsonb_array_elements(specs) s), 'none'));
        end if;
    end loop;
    for spec in select * from jsonb_array_elements(specs) loop
        field := spec->>'name';
        if complete->field is null or jsonb_typeof(complete->field) = 'null' then
            if jsonb_typeof(coalesce(spec->'default', 'null')) <> 'null' then
                complete := jsonb_set(complete, array[field], spec->'default');
            elsif (spec->>'required')::boolean then
                raise exception 'missing required input `%` of `%`', field, operation_name
                    using errcode = 'RW003';
            else
                complete := complete - field;
            end if;
        else
            fault := rework.input_fault(spec, complete->field);
            if fault is not null then
                raise exception 'input `%` of `%` %', field, operation_name, fault
                    using errcode = 'RW003';
            end if;
            if spec->>'type' in ('datetime', 'moment') then
                -- Stored as the client stores it: RFC 3339 in UTC; without an offset it is UTC.
                complete := jsonb_set(complete, array[field], to_jsonb(
                    rework.rfc3339(case when complete->>field ~ '([zZ]|[+-]\d\d(:?\d\d)?)\s*$'
                        then (complete->>field)::timestamptz
                        else (complete->>field)::timestamp at time zone 'UTC' end)));
            end if;
        end if;
    end loop;
    return complete;
end
$$;

-- A time as JSON shows it: UTC, up to six decimals, Z.
create function rework.rfc3339(t timestamptz)
returns text
language sql immutable
as $$ select regexp_replace(to_char(t at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '\.?0+$', '') || 'Z' $$;

-- Queues a task of a known operation, its input already checked. The one way in for every client.
create function rework.task_enqueue(
    operation int, host text, input_encoding text, input jsonb, input_raw bytea, metadata jsonb,
    priority int, run_at timestamptz, key text, max_attempts int, schedule bigint default null)
returns bigint
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    lane_id int;
    task_id bigint;
    due timestamptz := coalesce(run_at, clock_timestamp());
begin
    if priority not between -32767 and 32767 then
        raise exception 'priority % is out of range', priority
            using errcode = 'RW003', hint = 'use a number from -32767 to 32767';
    end if;
    if max_attempts < 1 then
        raise exception 'max_attempts must be at least 1, not %', max_attempts using errcode = 'RW003';
    end if;
    if metadata is not null and jsonb_typeof(metadata) <> 'object' then
        raise exception 'metadata must be an object, not %', jsonb_typeof(metadata) using errcode = 'RW003';
    end if;

    select l.id into lane_id from rework.lane l
     where l.operation = task_enqueue.operation and coalesce(l.host, '') = coalesce(task_enqueue.host, '');
    if lane_id is null then
        insert into rework.lane (operation, host) values (task_enqueue.operation, task_enqueue.host)
            on conflict do nothing;
        select l.id into lane_id from rework.lane l
         where l.operation = task_enqueue.operation and coalesce(l.host, '') = coalesce(task_enqueue.host, '');
        perform pg_notify('rework_catalog', '');
    end if;

    insert into rework.task as t (operation, lane, host, priority, run_at, max_attempts, key, schedule,
                                  metadata, input_encoding, input, input_raw)
    values (task_enqueue.operation, lane_id, task_enqueue.host, coalesce(task_enqueue.priority, 0), due,
            coalesce(task_enqueue.max_attempts, 1), task_enqueue.key, task_enqueue.schedule,
            task_enqueue.metadata, task_enqueue.input_encoding, task_enqueue.input, task_enqueue.input_raw)
    on conflict (key) where t.key is not null do nothing
    returning t.id into task_id;
    if task_id is null then
        select t.id into task_id from rework.task t where t.key = task_enqueue.key;
        return task_id;
    end if;

    if due > clock_timestamp() then
        insert into rework.delayed (run_at, id, lane, rank)
        values (due, task_id, lane_id, -coalesce(task_enqueue.priority, 0));
    else
        insert into rework.ready (lane, rank, id)
        values (lane_id, -coalesce(task_enqueue.priority, 0), task_id);
    end if;
    -- A notification in every transaction would serialise commits; a monitor that is awake looks anyway.
    if exists (select from rework.monitor where asleep) then
        perform pg_notify('rework_ready', '');
    end if;
    return task_id;
end
$$;

-- Queues a task; the same rules and messages as `rework schedule`.
create function rework.schedule(
    operation text, input jsonb default null, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null)
returns bigint
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    operation_id int := rework.operation_resolve(operation, domain, host);
    version record;
    complete jsonb;
begin
    select p.inputs, p.max_attempts into version
      from rework.deployment d
      join rework.plugin_operation p on p.id = d.plugin_operation
     where d.operation = operation_id and d.retired is null
       and (schedule.host is null or d.host = schedule.host)
     order by d.registered desc
     limit 1;
    complete := rework.input_complete(schedule.operation, version.inputs, input);
    return rework.task_enqueue(
        operation_id, host, case when complete is not null then 'fields' end, complete, null, metadata,
        coalesce(priority, 0), run_at, key, coalesce(schedule.max_attempts, version.max_attempts));
end
$$;

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

-- The state that people see.
create function rework.task_state(status text, outcome text, aborting boolean)
returns text
language sql immutable
as $$ select case when status = 'done' then outcome when aborting then 'aborting' else status end $$;

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
        return 'aborted';
    end if;
    insert into rework.abort_request (task, message) values (id, message) on conflict do nothing;
    perform pg_notify('rework_abort', id::text);
    return 'aborting';
end
$$;

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
