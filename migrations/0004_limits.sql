-- What an operation may use beside memory.

alter table rework.plugin_operation
    add column cpu_ms bigint,
    add column open_files int;
