-- How a task gets into the queue; any language may call schedule(). A refusal has an error code of
-- class RW, a message that names the thing, and often a hint.

-- ---------------------------------------------------------------------------------- operations

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
    select array_agg(distinct o.domain order by o.domain) as domains,
           array_agg(distinct d.host order by d.host) as hosts
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

-- -------------------------------------------------------------------------------------- inputs

-- A time as JSON shows it: UTC, up to six decimals, Z.
create function rework.rfc3339(t timestamptz)
returns text
language sql immutable
as $$ select regexp_replace(to_char(t at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), '[.]?0+$', '') || 'Z' $$;

-- A datetime as the client reads it: a date, or a date and a time, of the years 1 to 9999; without an
-- offset it is UTC. Null: it is none. (A cast alone takes `now`, `infinity`, `24:00` and `(today)` as
-- well, and the session's zone.) No pattern has a backslash: what that means in a literal depends on the
-- caller's standard_conforming_strings.
create function rework.datetime(said text)
returns timestamptz
language plpgsql immutable
as $$
declare
    -- More digits are cut, where a cast would round.
    clock text := regexp_replace(said, '([.][0-9]{6})[0-9]+', E'\\1');
    time_of_day constant text := '([01]?[0-9]|2[0-3]):[0-5]?[0-9](:[0-5]?[0-9]([.][0-9]+)?)?';
    read timestamptz;
begin
    if clock ~* ('^[[:space:]]*[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([t ]' || time_of_day || ')?[[:space:]]*$') then
        read := clock::timestamp at time zone 'UTC';
    elsif clock ~* ('^[[:space:]]*[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?[t ]' || time_of_day
                     || '[[:space:]]*(z|[+-](0[0-9]|1[0-5]):?[0-5][0-9])[[:space:]]*$') then
        read := clock::timestamptz;
    end if;
    return case when read between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00' then read end;
exception when others then
    -- The thirtieth of February.
    return null;
end
$$;

-- The kind of a document, with its article, as the programs call it.
create function rework.json_kind(document jsonb)
returns text
language sql immutable
as $$
    select case kind when 'null' then kind when 'array' then 'an array' when 'object' then 'an object'
                     else 'a ' || kind end
      from jsonb_typeof(document) kind
$$;

-- Why a number cannot be kept as it is written in JSON; null: it can. The same rules and words as those of
-- the programs (model/number.rs): a number is a whole number of 64 bits, or else a double; more digits than
-- a double always holds, which are 17, are fine if they are digits of that double.
create function rework.number_fault(written text)
returns text
language plpgsql immutable
as $$
declare
    digits constant text := trim('0' from regexp_replace(regexp_replace(written, '[eE].*', ''), '[-.]', '', 'g'));
    exponent constant text := substring(written from '[eE][+]?(-?[0-9]+)$');
    -- Half of the least double, and the least one that has all of its bits.
    least constant numeric := 2.470328229206232720882843964341e-324;
    least_normal constant numeric := 2.2250738585072014e-308;
    size numeric;
    bits bigint;
    -- The double is this whole number times a power of two, exactly.
    mantissa bigint;
    power int;
    double numeric;
    -- The place of the last digit that is written, as a number: 0.01 of 3.14.
    unit numeric;
begin
    if digits = '' then
        return null;
    elsif length(ltrim(exponent, '-0')) > 4 then
        -- Beyond what a numeric holds.
        return case when exponent like '-%' then 'is closer to 0 than a double holds'
                    else 'is larger than a double holds' end;
    end if;
    size := abs(written::numeric);
    if written ~ '^-?[0-9]+$' and written::numeric between -9223372036854775808 and 18446744073709551615 then
        return null;
    elsif size >= power(2::numeric, 1024) - power(2::numeric, 970) then
        return 'is larger than a double holds';
    elsif size <= least then
        return 'is closer to 0 than a double holds';
    elsif length(digits) <= 17 and size >= least_normal then
        return null;
    end if;
    bits := ('x' || encode(float8send(size::float8), 'hex'))::bit(64)::bigint;
    mantissa := bits & ((1::bigint << 52) - 1);
    power := (bits >> 52)::int;
    if power = 0 then
        power := 1;
    else
        mantissa := mantissa | (1::bigint << 52);
    end if;
    power := power - 1075;
    -- A negative power of two is one of five, and of ten.
    double := case when power >= 0 then mantissa * power(2::numeric, power)
                   else mantissa * power(5::numeric, -power) * ('1e' || power)::numeric end;
    unit := case when size = trunc(size)
                 then ('1e' || length(substring(trunc(size)::text from '0*$')))::numeric
                 else ('1e-' || scale(trim_scale(size)))::numeric end;
    return case when abs(double - size) * 2 > unit
                then 'has more digits than a double or a whole number of 64 bits holds' end;
end
$$;

-- Refuses a number that is not kept as it is written.
create function rework.number_check(written text)
returns void
language plpgsql immutable
as $$
declare
    fault constant text := rework.number_fault(written);
begin
    if fault is not null then
        raise exception 'the number % %; give it as a string, or round it',
            case when length(written) > 50 then left(written, 50) || '…' else written end, fault
            using errcode = 'RW003';
    end if;
end
$$;

-- Refuses a document that the programs could not read as it is: they follow no more than a hundred levels,
-- and keep numbers as whole numbers of 64 bits or else as doubles.
create function rework.json_check(what text, document jsonb)
returns void
language plpgsql immutable
as $$
declare
    number text;
begin
    if jsonb_path_exists(document, 'strict $.**{100} ? (@.type() == "array" || @.type() == "object")') then
        raise exception 'the % is nested more than 100 levels deep', what using errcode = 'RW003';
    end if;
    -- Most documents have no long number, and are not looked into.
    if document::text ~ '[0-9][0-9.]{17}' then
        for number in select n::text
                        from jsonb_path_query(document, 'strict $.** ? (@.type() == "number" && @ != 0)') n
                       where length(n::text) > 17
        loop
            perform rework.number_check(number);
        end loop;
    end if;
end
$$;

-- A document that is given as text, as the programs store it: numbers are looked at as they are written, and
-- a negative zero, which jsonb does not have, is a zero with sixty decimals (store/document.rs).
create function rework.json_read(document text)
returns jsonb
language plpgsql immutable
as $$
declare
    -- A string, a number, or what is between them.
    part constant text := E'("(?:[^"\\\\]|\\\\.)*"|-?[0-9][-+.0-9eE]*|[^-"0-9]+|[-"])';
    -- Whatever has fewer digits and a smaller exponent is kept.
    long constant text := '[0-9.]{19}|[0-9][eE][-+]?[0-9]{3}';
    negative_zero constant text := '^-0([.]0+)?([eE][-+]?[0-9]+)?$';
    number text;
begin
    if document ~ long then
        for number in select words[1]
                        from regexp_matches(document, part, 'g') words
                       where words[1] ~ '^-?[0-9]' and words[1] ~ long
        loop
            -- What is no number at all is said below.
            if number ~ '^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$' then
                perform rework.number_check(number);
            end if;
        end loop;
    end if;
    if document ~ '-0([.]0+)?([eE][-+]?[0-9]+)?([],}[:space:]]|$)' then
        select string_agg(case when words[1] ~ negative_zero then '0.' || repeat('0', 60) else words[1] end, ''
                          order by place)
          into document
          from regexp_matches(document, part, 'g') with ordinality as parts (words, place);
    end if;
    return document::jsonb;
end
$$;

-- The content of a file given in JSON: a string's UTF-8 bytes, or {"base64": "…"}. Null: it is none.
create function rework.file_content(value jsonb)
returns bytea
language plpgsql stable
as $$
begin
    if jsonb_typeof(value) = 'string' then
        return convert_to(value #>> '{}', 'UTF8');
    elsif jsonb_typeof(value) = 'object' and jsonb_typeof(value->'base64') = 'string' then
        -- (The server alone would take line breaks, more after the end, and bits that mean nothing.)
        if value - 'base64' = '{}' and value->>'base64' ~
           '^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$' then
            return decode(value->>'base64', 'base64');
        end if;
    end if;
    return null;
exception when invalid_parameter_value then
    return null;
end
$$;

-- What stands for a content in the fields.
create function rework.file_placeholder(content bytea)
returns jsonb
language sql immutable
as $$ select jsonb_build_object('bytes', length(content), 'sha256', encode(sha256(content), 'hex')) $$;

-- Whether a value fits a type of a spec; null if it does, else why not. Mirrors the SDK's rules for
-- what SQL can express.
create function rework.input_fault(spec jsonb, value jsonb)
returns text
language plpgsql stable
as $$
declare
    wanted text := spec->>'type';
    given text := jsonb_typeof(value);
    given_kind text := rework.json_kind(value);
    said text := value #>> '{}';
begin
    case wanted
        when 'number', 'boolean', 'string' then
            if given <> wanted then return format('must be a %s, not %s', wanted, given_kind); end if;
        when 'file' then
            if rework.file_content(value) is not null then return null; end if;
            if given = 'object' and jsonb_typeof(value->'base64') = 'string' then
                if value - 'base64' = '{}' then return 'is not base64'; end if;
            end if;
            return case given when 'object' then 'must be a string or {"base64": "…"}'
                              else format('must be a string or {"base64": "…"}, not %s', given_kind) end;
        when 'datetime' then
            if given <> 'string' then return format('must be a datetime, not %s', given_kind); end if;
            if rework.datetime(said) is null then return format('is not a datetime: `%s`', said); end if;
        when 'moment' then
            if given <> 'string' then return format('must be a datetime, not %s', given_kind); end if;
            if rework.datetime(said) is null then
                return format('must be a datetime in SQL, not the expression `%s`: use `rework schedule` or '
                              'the Rust client for moment expressions', said);
            end if;
        else
            return format('has the unknown type `%s`', wanted);
    end case;
    if jsonb_typeof(spec->'choices') = 'array' and not spec->'choices' @> jsonb_build_array(value) then
        return format('must be one of %s, not %s',
            (select string_agg(choice::text, ', ') from jsonb_array_elements(spec->'choices') choice), value);
    end if;
    return null;
end
$$;

-- The input, completed by the defaults, or a refusal that names the field. For the contents of files
-- there are placeholders; if `stored`, there are already.
create function rework.input_complete(operation_name text, specs jsonb, input jsonb, stored boolean default false)
returns jsonb
language plpgsql stable
as $$
declare
    spec jsonb;
    field text;
    value jsonb;
    fault text;
    complete jsonb;
begin
    if specs is null or jsonb_typeof(specs) = 'null' then
        return input;
    end if;
    if jsonb_typeof(coalesce(input, '{}')) not in ('object', 'null') then
        raise exception 'the input of `%` must be an object of fields, not %', operation_name, rework.json_kind(input)
            using errcode = 'RW003';
    end if;
    complete := coalesce(nullif(input, 'null'), '{}');
    for field in select key from jsonb_object_keys(complete) key loop
        if not exists (select from jsonb_array_elements(specs) s where s->>'name' = field) then
            raise exception 'unknown input `%` of `%` (known: %)', field, operation_name,
                    coalesce((select string_agg(s->>'name', ', ') from jsonb_array_elements(specs) s), 'none')
                using errcode = 'RW003';
        end if;
    end loop;
    for spec in select * from jsonb_array_elements(specs) loop
        field := spec->>'name';
        value := coalesce(nullif(complete->field, 'null'), nullif(spec->'default', 'null'));
        if value is null and (spec->>'required')::boolean then
            raise exception 'missing required input `%` of `%`', field, operation_name
                using errcode = 'RW003';
        elsif value is null then
            complete := complete - field;
            continue;
        elsif stored and spec->>'type' = 'file' and value ?& '{bytes, sha256}' then
            continue;
        end if;
        fault := case when stored and spec->>'type' = 'file' then 'is not stored as a file'
                      else rework.input_fault(spec, value) end;
        if fault is not null then
            raise exception 'input `%` of `%` %', field, operation_name, fault
                using errcode = 'RW003';
        end if;
        complete := jsonb_set(complete, array[field], case
            when spec->>'type' in ('datetime', 'moment')
                then to_jsonb(rework.rfc3339(rework.datetime(value #>> '{}')))
            when spec->>'type' = 'file' then rework.file_placeholder(rework.file_content(value))
            else value end);
    end loop;
    return complete;
end
$$;

-- Stores the contents of the files among the fields of a task's input, in chunks.
create function rework.input_files_save(task bigint, specs jsonb, input jsonb)
returns void
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    chunk_size constant int := 1 << 20;
    field text;
    bytes bytea;
    file_id bigint;
begin
    for field in select s->>'name' from jsonb_array_elements(specs) s where s->>'type' = 'file' loop
        bytes := rework.file_content(input->field);
        continue when bytes is null;
        insert into rework.task_file (task, direction, name, size, sha256)
        values (input_files_save.task, 'input', field, length(bytes), encode(sha256(bytes), 'hex'))
        returning id into file_id;
        insert into rework.task_file_chunk (file, chunk, content)
        select file_id, n, substring(bytes from n * chunk_size + 1 for chunk_size)
          from generate_series(0, (length(bytes) - 1) / chunk_size) n
         where length(bytes) > 0;
    end loop;
end
$$;

-- ----------------------------------------------------------------------------------- the queue

-- What `lane.accepts` names.
create function rework.inputs_digest(inputs jsonb)
returns text
language sql immutable
as $$ select md5(coalesce(inputs::text, '')) $$;

-- Notifies those who listen, unless the caller's transaction may be one that will be prepared: Postgres
-- refuses to prepare a transaction that has notified. Where the server allows prepared transactions at
-- all, only sessions that commit by themselves notify (the programs' own; they set `rework.notifies`), and
-- monitors and clients look more often.
create function rework.tell(channel text, payload text)
returns void
language plpgsql volatile
as $$
begin
    if current_setting('max_prepared_transactions') = '0'
       or current_setting('rework.notifies', true) = 'on' then
        perform pg_notify(channel, payload);
    end if;
end
$$;

-- The lane of an operation, a pinned host and inputs; made if there is none.
create function rework.lane_make(operation int, host text, accepts text)
returns int
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    lane_id int;
begin
    for attempt in 1..2 loop
        select l.id into lane_id from rework.lane l
         where l.operation = lane_make.operation
           and coalesce(l.host, '') = coalesce(lane_make.host, '')
           and coalesce(l.accepts, '') = coalesce(lane_make.accepts, '');
        exit when lane_id is not null;
        insert into rework.lane (operation, host, accepts)
        values (lane_make.operation, lane_make.host, lane_make.accepts) on conflict do nothing;
        perform rework.tell('rework_catalog', '');
    end loop;
    return lane_id;
end
$$;

-- The hosts that may take a task of a lane: those that have the operation, are the one it is pinned to, and
-- accept its inputs (as `operation_catalog` of the programs decides). Whether a monitor that lives there
-- serves the domain, whether any monitor lives there, and when there last was one (null: never).
create function rework.lane_hosts(
    operation int, pinned text, accepts text,
    out host text, out plugin text, out is_served boolean, out is_alive boolean, out last_seen timestamptz)
returns setof record
language sql volatile
as $$
    select d.host, g.hash,
           exists (select from rework.monitor m
                    where m.host = d.host and rework.is_alive(m.last_seen, m.lease)
                      and (cardinality(m.domains) = 0 or o.domain = any(m.domains))),
           exists (select from rework.monitor m
                    where m.host = d.host and rework.is_alive(m.last_seen, m.lease)),
           (select max(seen.last_seen)
              from (select h.last_seen from rework.host h where h.name = d.host
                    union all
                    select m.last_seen from rework.monitor m where m.host = d.host) seen)
      from rework.deployment d
      join rework.operation o on o.id = d.operation
      join rework.plugin_operation p on p.id = d.plugin_operation
      join rework.plugin g on g.id = p.plugin
     where d.operation = lane_hosts.operation
       and d.retired is null
       and (lane_hosts.pinned is null or d.host = lane_hosts.pinned)
       and (lane_hosts.accepts is null
            or rework.inputs_digest(p.inputs) = lane_hosts.accepts
            or not exists (select from rework.deployment other
                             join rework.plugin_operation q on q.id = other.plugin_operation
                            where other.operation = d.operation and other.retired is null
                              and rework.inputs_digest(q.inputs) = lane_hosts.accepts))
     order by d.host
$$;

-- Refuses what no task can have.
create function rework.task_check(priority int, max_attempts int, metadata jsonb)
returns void
language plpgsql immutable
as $$
begin
    if priority not between -32767 and 32767 then
        raise exception 'priority % is out of range', priority
            using errcode = 'RW003', hint = 'use a number from -32767 to 32767';
    elsif max_attempts < 1 then
        raise exception 'max_attempts must be at least 1, not %', max_attempts using errcode = 'RW003';
    elsif jsonb_typeof(metadata) <> 'object' then
        raise exception 'metadata must be an object, not %', rework.json_kind(metadata) using errcode = 'RW003';
    end if;
    if metadata is not null then
        perform rework.json_check('metadata', metadata);
    end if;
end
$$;

-- Wakes monitors that sleep. A notification in every transaction would serialise commits; a monitor
-- that is awake looks anyway.
create function rework.ready_tell()
returns void
language plpgsql volatile
as $$
begin
    if exists (select from rework.monitor where asleep) then
        perform rework.tell('rework_ready', '');
    end if;
end
$$;

-- Queues a task of a known operation, its input already checked; answers the task, and whether it is a
-- new one, not one that was known by the key. What is known by a key has the same input: the fields but
-- for those that mean something else at each call (`relative`: moments given as expressions); of raw
-- bytes and files, what is in the row (the caller compares what is beside it).
create function rework.task_enqueue(
    operation int, host text, input_encoding text, input jsonb, input_raw bytea, metadata jsonb,
    priority int, run_at timestamptz, key text, max_attempts int, schedule bigint default null,
    accepts text default null, relative text[] default '{}', out task_id bigint, out is_new boolean)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    lane_id int;
    due timestamptz := coalesce(run_at, clock_timestamp());
    known record;
begin
    perform rework.task_check(priority, max_attempts, metadata);
    select l.id into lane_id from rework.lane l
     where l.operation = task_enqueue.operation
       and coalesce(l.host, '') = coalesce(task_enqueue.host, '')
       and coalesce(l.accepts, '') = coalesce(task_enqueue.accepts, '');
    if lane_id is null then
        lane_id := rework.lane_make(operation, host, accepts);
    end if;
    loop
        insert into rework.task as t (operation, lane, host, priority, run_at, max_attempts, key, schedule,
                                      metadata, input_encoding, input, input_raw)
        values (task_enqueue.operation, lane_id, task_enqueue.host, coalesce(task_enqueue.priority, 0), due,
                coalesce(task_enqueue.max_attempts, 1), task_enqueue.key, task_enqueue.schedule,
                task_enqueue.metadata, task_enqueue.input_encoding, task_enqueue.input,
                task_enqueue.input_raw)
        on conflict (operation, key) where t.key is not null do nothing
        returning t.id into task_id;
        is_new := task_id is not null;
        exit when is_new;
        select t.id, t.input_encoding, t.input, t.input_raw into known
          from rework.task t
         where t.operation = task_enqueue.operation and t.key = task_enqueue.key;
        -- It may have been deleted in between; then this one is new.
        continue when not found;
        if known.input_encoding is distinct from task_enqueue.input_encoding
           or known.input_raw is distinct from task_enqueue.input_raw
           or (case when jsonb_typeof(known.input) = 'object' and jsonb_typeof(task_enqueue.input) = 'object'
                    then known.input - relative <> task_enqueue.input - relative
                    else known.input is distinct from task_enqueue.input end) then
            raise exception 'task % has the key `%` already, with another input', known.id, key
                using errcode = 'RW003',
                      hint = format('`rework get-input %s` shows it; another task needs another key', known.id);
        end if;
        task_id := known.id;
        return;
    end loop;
    if due > clock_timestamp() then
        insert into rework.delayed (run_at, id, lane, rank)
        values (due, task_id, lane_id, -coalesce(task_enqueue.priority, 0));
    else
        insert into rework.ready (lane, rank, id)
        values (lane_id, -coalesce(task_enqueue.priority, 0), task_id);
    end if;
    perform rework.ready_tell();
end
$$;

-- Queues tasks of known operations, their inputs already checked, in this order; answers their ids.
create function rework.task_enqueue_many(
    operations int[], hosts text[], accepts text[], input_encodings text[], inputs jsonb[], inputs_raw bytea[],
    metadatas jsonb[], priorities int[], run_ats timestamptz[], max_attempts int[])
returns setof bigint
language plpgsql volatile
as $$
#variable_conflict use_column
begin
    perform rework.task_check(g.priority, g.attempts, g.metadata)
       from unnest(priorities, max_attempts, metadatas) as g (priority, attempts, metadata);
    return query
    with lane as materialized (
        select l.operation, l.host, l.accepts, rework.lane_make(l.operation, l.host, l.accepts) as id
          from (select distinct g.operation, g.host, g.accepts
                  from unnest(operations, hosts, accepts) as g (operation, host, accepts)) l
    ), queued_task as (
        insert into rework.task as t (operation, lane, host, priority, run_at, max_attempts, metadata,
                                      input_encoding, input, input_raw)
        select g.operation, lane.id, g.host, coalesce(g.priority, 0), coalesce(g.run_at, clock_timestamp()),
               coalesce(g.attempts, 1), g.metadata, g.input_encoding, g.input, g.input_raw
          from unnest(operations, hosts, accepts, input_encodings, inputs, inputs_raw, metadatas, priorities,
                      run_ats, max_attempts)
               with ordinality
               as g (operation, host, accepts, input_encoding, input, input_raw, metadata, priority, run_at,
                     attempts, place)
          join lane on lane.operation = g.operation
                   and lane.host is not distinct from g.host
                   and lane.accepts is not distinct from g.accepts
         order by g.place
        returning t.id, t.lane, t.priority, t.run_at
    ), delayed_task as (
        insert into rework.delayed (run_at, id, lane, rank)
        select run_at, id, lane, -priority from queued_task where run_at > clock_timestamp()
        returning id
    ), ready_task as (
        insert into rework.ready (lane, rank, id)
        select lane, -priority, id from queued_task where id not in (select id from delayed_task)
    )
    -- Ids are given in the order of the insertion.
    select id from queued_task order by id;
    perform rework.ready_tell();
end
$$;

-- Queues a task; the same rules and messages as `rework schedule`. Where versions with different inputs
-- are deployed, for one that accepts it. Answers the task, and whether it is a new one: while a task of
-- the operation with the same key exists, it is that one.
create function rework.schedule_task(
    operation text, input jsonb default null, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null, out id bigint, out is_new boolean)
language plpgsql volatile
as $$
#variable_conflict use_column
declare
    operation_id int := rework.operation_resolve(operation, domain, host);
    version record;
    attempts int;
    complete jsonb;
    queued record;
    accepted_by jsonb;
    is_accepted boolean := false;
    accepts text;
    refusal text;
begin
    if run_at not between '0001-01-01 00:00+00' and '9999-12-31 23:59:59.999999+00' then
        raise exception 'run_at must be in the years 1 to 9999, not %', run_at using errcode = 'RW003';
    end if;
    if key = '' then
        raise exception 'the key is empty: all tasks that have it would be one' using errcode = 'RW003';
    elsif octet_length(key) > 1000 then
        raise exception 'the key has % bytes, more than 1000', octet_length(key) using errcode = 'RW003';
    end if;
    if input is not null then
        perform rework.json_check('input', input);
    end if;
    for version in
        select p.inputs, (array_agg(p.max_attempts order by d.registered desc))[1] as max_attempts
          from rework.deployment d
          join rework.plugin_operation p on p.id = d.plugin_operation
         where d.operation = operation_id and d.retired is null
           and (schedule_task.host is null or d.host = schedule_task.host)
         group by p.inputs
         order by max(d.registered) desc
    loop
        begin
            if not is_accepted then
                complete := rework.input_complete(schedule_task.operation, version.inputs, input);
                is_accepted := true;
                accepted_by := version.inputs;
                attempts := version.max_attempts;
                -- A newer version has refused it.
                accepts := case when refusal is not null then rework.inputs_digest(accepted_by) end;
            elsif complete is distinct from
                  rework.input_complete(schedule_task.operation, version.inputs, complete, true) then
                accepts := rework.inputs_digest(accepted_by);
            end if;
        exception when sqlstate 'RW003' then
            if is_accepted then
                accepts := rework.inputs_digest(accepted_by);
            elsif refusal is null then
                get stacked diagnostics refusal = message_text;
            end if;
        end;
    end loop;
    if not is_accepted then
        raise exception '%', refusal using errcode = 'RW003';
    end if;
    queued := rework.task_enqueue(
        operation_id, host, case when complete is not null then 'fields' end, complete, null, metadata,
        coalesce(priority, 0), run_at, key, coalesce(schedule_task.max_attempts, attempts), null, accepts);
    if queued.is_new and accepted_by @> '[{"type": "file"}]' then
        perform rework.input_files_save(queued.task_id, accepted_by, input);
    end if;
    id := queued.task_id;
    is_new := queued.is_new;
end
$$;

-- As schedule_task(); answers the task alone.
create function rework.schedule(
    operation text, input jsonb default null, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null)
returns bigint
language plpgsql volatile
as $$
begin
    return (rework.schedule_task(operation, input, domain, host, metadata, priority, run_at, key,
                                 max_attempts)).id;
end
$$;

-- The two with the input as text, which is what a literal without a type is: a number in it is kept as it is
-- written, where jsonb has no negative zero.
create function rework.schedule_task(
    operation text, input text, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null, out id bigint, out is_new boolean)
language sql volatile
as $$
    select queued.id, queued.is_new
      from rework.schedule_task(operation, rework.json_read(input), domain, host, metadata, priority, run_at, key,
                                max_attempts) queued
$$;

create function rework.schedule(
    operation text, input text, domain text default null, host text default null,
    metadata jsonb default null, priority int default null, run_at timestamptz default null,
    key text default null, max_attempts int default null)
returns bigint
language sql volatile
as $$
    select rework.schedule(operation, rework.json_read(input), domain, host, metadata, priority, run_at, key,
                           max_attempts)
$$;
