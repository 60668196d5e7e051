-- The schema of rework. Read it top down: code (plugin, operation, deployment), work (task, ready,
-- delayed, claim, running, outcome, file, log), schedules, processes (monitor, worker). The functions and views,
-- among them those that any language may use, are in functions.sql: schedule(), task_abort(), task_view,
-- log_line.

-- What the schema says of itself, in one row.
create table rework.installed (
    is_only     boolean primary key default true,
    functions   text not null default '',          -- SHA-256 of the functions.sql that was applied last
    serves_from bigint not null default 1,         -- programs that know this version of the schema, or a
                                                   -- newer one, can work with it
    constraint installed_is_one_row check (is_only)
);
insert into rework.installed default values;

-- ---------------------------------------------------------------------------------------- code

create table rework.plugin (
    id          int generated always as identity primary key,
    hash        text not null unique,              -- SHA-256 of the file, hexadecimal
    name        text not null,
    version     text not null,
    sdk         text not null,
    abi         text not null,
    rustc       text not null,
    target      text not null,
    panic       text not null,
    size        bigint not null,
    first_seen  timestamptz not null default clock_timestamp(),
    constraint plugin_hash_is_sha256 check (hash ~ '^[0-9a-f]{64}$')
);

-- What a version of a plugin offers. Immutable, so that a rollback brings everything back.
create table rework.plugin_operation (
    id           int generated always as identity primary key,
    plugin       int not null references rework.plugin,
    name         text not null,
    domain       text not null,                    -- as its author declared it
    inputs       jsonb,                            -- null: no spec; []: no inputs
    outputs      jsonb,
    timeout_ms   bigint,
    max_attempts int not null default 1,
    backoff_ms   bigint,
    memory_bytes bigint,
    cpu_ms       bigint,
    open_files   int,
    capture      text not null default 'all',
    log_level    text,
    description  text not null default '',
    module       text not null default '',
    file         text not null default '',
    line         int not null default 0,
    unique (plugin, domain, name),
    constraint plugin_operation_max_attempts_positive check (max_attempts >= 1),
    constraint plugin_operation_capture_known check (capture in ('all', 'logs', 'manual', 'none'))
);

-- The identity of an operation, for ever: tasks and schedules point here.
create table rework.operation (
    id      int generated always as identity primary key,
    domain  text not null,
    name    text not null,
    paused  boolean not null default false,
    unique (domain, name)
);

-- Who can run an operation, from which version. Never rewritten: another version retires a row and a
-- new one follows, so that it is known since when each version was current, and where a rollback can
-- lead.
create table rework.deployment (
    id               int generated always as identity primary key,
    operation        int not null references rework.operation,
    host             text not null,
    plugin_operation int not null references rework.plugin_operation,
    path             text not null,
    registered       timestamptz not null default clock_timestamp(),
    retired          timestamptz,
    retired_by       text,
    by_rollback      boolean not null default false, -- it says nothing about the order of versions
    constraint deployment_retired_by_known
        check (retired_by in ('upgrade', 'unregistered', 'gone', 'rollback'))
);
create unique index deployment_live on rework.deployment (operation, host) where retired is null;
create index deployment_history on rework.deployment (host, operation, registered);

-- The files of drop-in directories, as the monitor of their host last saw them. A file is looked at
-- again when its content changes, not when a rollback has taken its version out of use.
create table rework.drop_in (
    host     text not null,
    path     text not null,
    hash     text,                                 -- of its content, if it could be read
    refused  text,                                 -- why; null: it is registered
    since    timestamptz not null default clock_timestamp(),
    monitor  bigint not null,                      -- who says so; a refusal is worth as much as its monitor
    primary key (host, path)
);

-- The bytes of published plugins, compressed (raw DEFLATE), for monitors of other hosts.
create table rework.plugin_content (
    plugin     int primary key references rework.plugin,
    compressed bigint not null,
    signature  text,                               -- of minisign, over the bytes as they were
    published  timestamptz not null default clock_timestamp()
);
create table rework.plugin_content_chunk (
    plugin  int not null references rework.plugin_content on delete cascade,
    chunk   int not null,
    content bytea not null,
    primary key (plugin, chunk)
);
alter table rework.plugin_content_chunk alter column content set storage external;

-- A lane is what can be claimed together: an operation, the host a task is pinned to, if any, and the
-- inputs that accept it. While versions of an operation with different inputs are deployed (a rolling
-- upgrade), a task may fit some of them only, and only hosts with them claim from its lane.
create table rework.lane (
    id        int generated always as identity primary key,
    operation int not null references rework.operation,
    host      text,
    accepts   text                                 -- MD5 of the inputs' specs; null: all do
);
create unique index lane_identity on rework.lane (operation, coalesce(host, ''), coalesce(accepts, ''));

-- Domains whose tasks wait; single operations carry the flag themselves.
create table rework.paused_domain (
    domain text primary key,
    paused timestamptz not null default clock_timestamp()
);

-- ---------------------------------------------------------------------------------------- work

-- What was asked for, a row per task. What is written once is never written again: on the path of a task,
-- from here to its outcome, rows are inserted and deleted and none is updated, so there is nothing for vacuum
-- to catch up with, and nothing that a forgotten transaction slows down. No foreign key is checked on this
-- path: operations are never deleted, workers and plugins are looked up with outer joins.
create table rework.task (
    id               bigint generated always as identity primary key,
    operation        int not null,
    lane             int not null,
    host             text,
    priority         smallint not null default 0,
    run_at           timestamptz not null,
    max_attempts     int not null default 1,
    key              text,
    schedule         bigint,
    metadata         jsonb,
    queued           timestamptz not null default clock_timestamp(),
    input_encoding   text,
    input            jsonb,
    input_raw        bytea,
    constraint task_max_attempts_positive check (max_attempts >= 1)
);
-- A key counts for its operation alone, as long as the task's row exists.
create unique index task_key on rework.task (operation, key) where key is not null;
-- For listings, which say that the operation is above 0, as every one is. Partial, so that nothing else may use
-- it: while the table was empty the planner took this index for a lookup by the id alone.
create index task_operation on rework.task (operation, id) where operation > 0;

-- The half of the ready table that follows the clock. Nobody has to agree on anything: claims read
-- both halves, and a monitor truncates the one that is not current once it is empty.
create function rework.ready_half() returns smallint
language sql volatile
as $$ select (extract(epoch from clock_timestamp())::bigint / 10 % 2)::smallint $$;

-- The queue proper: what may be claimed now, and the number of the attempt that the claim begins. `rank` is
-- the negated priority, so that one ascending index serves the order in which tasks run. That index is the
-- primary key, so that the table has a replica identity: without one Postgres refuses every delete while a
-- publication of all tables exists.
--
-- A task that has not ended is in one place: a row here, a row of `delayed`, or an element of a row of
-- `claim`. It is moved from one to the other by one statement.
create table rework.ready (
    half    smallint not null default rework.ready_half(),
    lane    int not null,
    rank    smallint not null,
    attempt int not null default 1,
    id      bigint not null,
    constraint ready_order primary key (lane, rank, id, half)
) partition by list (half);
create table rework.ready_0 partition of rework.ready for values in (0);
create table rework.ready_1 partition of rework.ready for values in (1);

-- Tasks for later, retries included, in the order in which they fall due.
create table rework.delayed (
    run_at  timestamptz not null,
    id      bigint not null,
    lane    int not null,
    rank    smallint not null,
    attempt int not null default 1,
    primary key (run_at, id)
);
create index delayed_id on rework.delayed (id);

-- What a cycle of a monitor claimed: tasks, and the attempt of each. Deleted when all of it has ended; a task
-- that is given back is taken out of it. It is the fence: what is said about a claimed task counts while the
-- row is there, and whoever buries a monitor deletes its rows first. It also tells a monitor that lost its
-- connection during commit what happened.
create table rework.claim (
    monitor  bigint not null,
    cycle    bigint not null,
    tasks    bigint[] not null,
    attempts int[] not null,
    primary key (monitor, cycle)
);

-- Tasks that are shown as running: those that have begun and not ended within a moment. Most tasks never have
-- a row here. A row without a claim means nothing, and is tidied away.
create table rework.running (
    task             bigint primary key,
    attempt          int not null,
    worker           bigint not null,
    plugin_operation int not null,                 -- the code that runs it
    started          timestamptz not null,
    progress         real,
    progress_message text
) with (fillfactor = 50);

-- How attempts ended, a row each. The last one of a task is the outcome of the task, unless another attempt
-- follows.
create table rework.outcome (
    task             bigint not null,
    attempt          int not null,                 -- negative: that one was aborted in the queue, and
                                                   -- its number was given again
    outcome          text not null,
    operation        int not null,
    cause            text,
    token            bigint,                       -- the claim it ended under; null: it was in the queue
    worker           bigint,
    plugin_operation int,                          -- the code that ran it
    started          timestamptz,                  -- null: it never began
    finished         timestamptz not null,
    superseded       timestamptz,                  -- another attempt follows, and may run from then on
    output_encoding  text,
    output           jsonb,
    output_raw       bytea,
    progress         real,
    progress_message text,
    error            text,
    location         text,
    backtrace        text,
    exit_code        int,
    signal           int,
    peak_memory      bigint,                       -- bytes
    cpu_seconds      double precision,
    primary key (task, attempt),
    constraint outcome_known check (outcome in ('done', 'failed', 'aborted')),
    constraint outcome_cause_iff_not_well check ((cause is null) = (outcome = 'done')),
    constraint outcome_attempt_known check (attempt >= 1 or attempt < 0 and superseded is not null)
);
-- What did not end well, the newest first within each operation.
create index outcome_unwell on rework.outcome (operation, outcome, task)
    where outcome <> 'done' and superseded is null;

-- Somebody wants a claimed task to end; its monitor kills it and the report removes the row.
create table rework.abort_request (
    task      bigint primary key,
    message   text,
    requested timestamptz not null default clock_timestamp()
);

-- Contents that are neither readable as JSON nor small: file fields, large raw payloads (name '').
create table rework.task_file (
    id        bigint generated always as identity primary key,
    task      bigint not null,
    direction text not null,
    name      text not null,
    size      bigint not null,
    sha256    text not null,
    unique (task, direction, name),
    constraint task_file_direction_known check (direction in ('input', 'output'))
);
create table rework.task_file_chunk (
    file    bigint not null references rework.task_file on delete cascade,
    chunk   int not null,
    content bytea not null,
    primary key (file, chunk)
);
alter table rework.task_file_chunk alter column content set storage external;

-- A row per flush of a task's lines; each line is [microseconds, stream, level, target, text].
create table rework.log (
    task    bigint not null,
    attempt int not null,
    first   bigint not null,                       -- running number of the first line
    lines   jsonb not null,
    primary key (task, first)
);

-- Clients that wait for tasks. While there are any, whoever changes the state of tasks says of which.
-- Without them nothing is said, for notifications serialise commits.
create table rework.waiter (
    id    bigint generated always as identity primary key,
    until timestamptz not null                     -- a client that has died is not told for long
) with (fillfactor = 50);

-- ----------------------------------------------------------------------------------- schedules

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
    last_run     timestamptz,                      -- the time it fired for last; after a wrong clock it may lie ahead
    error        text,                             -- why the last run queued no task
    constraint sched_catch_up_known check (catch_up in ('skip', 'one', 'all'))
);
-- The times that a schedule has fired for, of which each is fired for once, whatever clocks have said
-- meanwhile. The last thousand of each schedule are kept.
create table rework.sched_run (
    sched     bigint not null references rework.sched on delete cascade,
    fire_time timestamptz not null,
    primary key (sched, fire_time)
);
-- What makes two schedules the same one.
create unique index sched_identity on rework.sched (
    operation, rule, timezone, coalesce(host, ''), md5(coalesce(input::text, '')), md5(coalesce(input_raw, '')),
    md5(coalesce(metadata::text, '')));

-- ----------------------------------------------------------------------------------- processes

create table rework.monitor (
    id        bigint generated always as identity primary key,
    host      text not null,
    pid       int not null,
    domains   text[] not null,
    options   jsonb not null default '{}',
    pages     text not null,                       -- directory of its workers' shared pages, on its host
    started   timestamptz not null default clock_timestamp(),
    last_seen timestamptz not null default clock_timestamp(),
    lease     interval not null default interval '15 seconds',
    asleep    boolean not null default false,      -- whoever enqueues must wake it
    trouble   text                                 -- which of its writes the database refuses; null: none
) with (fillfactor = 50);

-- When each host last had a monitor, for those that have none now.
create table rework.host (
    name      text primary key,
    last_seen timestamptz not null default clock_timestamp()
);

create table rework.worker (
    id         bigint generated always as identity primary key,
    host       text not null,
    pid        int,
    domain     text not null,
    plugin     text,                               -- hash of the plugin that it loads
    monitor    bigint not null,
    state      text not null default 'unstarted',
    task       bigint,
    runs       bigint not null default 0,
    memory     bigint,                             -- bytes, of the whole process tree
    cpu        double precision,                   -- per cent of one processor
    created    timestamptz not null default clock_timestamp(),
    started    timestamptz,
    finished   timestamptz,
    cause      text,
    error      text,
    asked      text,                               -- what somebody wants of it; its monitor sees to it
    constraint worker_state_known check (state in ('unstarted', 'idle', 'running', 'dead')),
    constraint worker_asked_known check (asked in ('shutdown', 'kill')),
    constraint worker_finished_iff_dead check ((state = 'dead') = (finished is not null)),
    constraint worker_cause_iff_dead check ((state = 'dead') = (cause is not null)),
    constraint worker_task_iff_running check ((state = 'running') = (task is not null))
) with (fillfactor = 50);
create index worker_alive on rework.worker (monitor) where state <> 'dead';
