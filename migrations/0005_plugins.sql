-- Versions of plugins: what was current when, what files of drop-in directories are worth, and the
-- bytes of published plugins.

-- A deployment is never rewritten: another version retires it and a new row follows, so that it is
-- known since when each version was current, and where a rollback can lead.
alter table rework.deployment add retired_by text;
alter table rework.deployment add constraint deployment_retired_by_known
    check (retired_by in ('upgrade', 'unregistered', 'gone', 'rollback'));
-- Whether a rollback made it. Such a row says nothing about the order of versions.
alter table rework.deployment add by_rollback boolean not null default false;
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
