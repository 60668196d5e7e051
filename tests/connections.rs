//! Between us and the database: URLs and the environment as libpq reads them, servers and roles that
//! others have set up, connections that fall silent.

use crate::harness::{
    Database, Monitor, OpenTransaction, OwnServer, Proxy, ROLES, Rework, hello, side_by_side, until,
};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A role of this test's own; dropped, with its rights, at the end.
struct Role<'d> {
    database: &'d Database,
    name: String,
}

impl<'d> Role<'d> {
    fn new(database: &'d Database, kind: &str) -> Self {
        let name = format!("role_{kind}_{}", database.psql("select current_database()"));
        database.psql(&format!("create role {name} login in role {ROLES}"));
        Self { database, name }
    }

    fn url(&self) -> String {
        let url = self.database.url();
        url.replacen("postgres@", &format!("{}@", self.name), 1)
    }

    fn set(&self, settings: &[(&str, &str)]) {
        for (name, value) in settings {
            let set = format!("alter role {} set {name} = {value}", self.name);
            self.database.psql(&set);
        }
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        let drop = format!("drop owned by {0} cascade; drop role {0}", self.name);
        if std::thread::panicking() {
            return;
        }
        self.database.psql(&drop);
    }
}

/// What psql prints for a statement of somebody else, or its complaint.
fn psql(url: &str, environment: &[(&str, &str)], statement: &str) -> Result<String, String> {
    let output = Command::new(crate::harness::psql())
        .args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            url,
            "-c",
            statement,
        ])
        .envs(environment.iter().copied())
        .output()
        .expect("psql runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

#[test]
fn every_form_of_a_url_leads_where_libpq_goes() {
    let rework = Rework::new();
    let (socket, name) = (
        rework.database.socket(),
        rework.database.psql("select current_database()"),
    );
    let directory = socket.parent().unwrap().to_str().unwrap().to_owned();
    let encoded = directory.replace('/', "%2F");
    let server_port = socket.extension().unwrap().to_str().unwrap().to_owned();
    let proxy = Proxy::to(&socket);
    let port = proxy.port();
    let services = rework.directory().join("services");
    fs::write(
        &services,
        format!("[jobs]\nhost={directory}\nport={server_port}\ndbname={name}\nuser=postgres\n"),
    )
    .unwrap();
    let services = services.to_str().unwrap();
    let mut forms = vec![
        (
            format!("postgres://postgres@127.0.0.1:{port}/{name}"),
            vec![],
        ),
        (
            format!("postgresql://postgres@localhost:{port}/{name}?sslmode=prefer"),
            vec![],
        ),
        (
            format!("postgres://p%6Fstgres@127.0.0.1:{port}/{name}?sslmode=allow"),
            vec![],
        ),
        (
            format!("postgres:///{name}?host=127.0.0.1&port={port}&user=postgres"),
            vec![],
        ),
        (
            format!("postgres:///?hostaddr=127.0.0.1&port={port}&user=postgres&dbname={name}"),
            vec![],
        ),
        (
            format!("postgres://postgres@nowhere.invalid:{port}/{name}?hostaddr=127.0.0.1"),
            vec![],
        ),
        (
            format!("postgres://postgres@127.0.0.1:1,127.0.0.1:{port}/{name}"),
            vec![],
        ),
        (
            format!("postgres://postgres@{encoded}:{server_port}/{name}"),
            vec![],
        ),
        (
            format!("postgres://postgres@/{name}?host={directory}&port={server_port}"),
            vec![],
        ),
        (
            format!("postgres://postgres@{encoded}:{server_port}/{name}?sslmode=require"),
            vec![],
        ),
        (
            format!(
                "postgres:///{name}?host=127.0.0.1,{directory}&port=1,{server_port}&user=postgres"
            ),
            vec![],
        ),
        (
            format!("postgres://postgres@127.0.0.1:{port}/{name}?sslmode=require"),
            vec![],
        ),
        (
            format!(
                "postgres://postgres@127.0.0.1:{port}/{name}?connect_timeout=5&application_name=a%20b"
            ),
            vec![],
        ),
        (
            format!("postgres://postgres@127.0.0.1:{port}/{name}?target_session_attrs=read-write"),
            vec![],
        ),
        (
            format!("postgres://postgres@127.0.0.1:{port}/{name}?options=-c%20work_mem%3D4MB"),
            vec![],
        ),
        (
            format!("postgres://postgres@127.0.0.1:{port}/{name}?options=-c%20nonsense%3D4MB"),
            vec![],
        ),
        (format!("postgres://nobody@127.0.0.1:{port}/{name}"), vec![]),
        (
            "postgres://?service=jobs".to_owned(),
            vec![("PGSERVICEFILE", services)],
        ),
        (
            "postgres://".to_owned(),
            vec![("PGSERVICEFILE", services), ("PGSERVICE", "jobs")],
        ),
        (
            "postgres://?service=none".to_owned(),
            vec![("PGSERVICEFILE", services)],
        ),
        (
            format!("postgres://postgres@{encoded}:{server_port}/{name}"),
            vec![
                ("PGSSLMODE", "verify-full"),
                ("PGOPTIONS", "-c work_mem=4MB"),
            ],
        ),
    ];
    let variables = port.to_string();
    forms.push((
        "postgresql://".to_owned(),
        vec![
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &variables),
            ("PGUSER", "postgres"),
            ("PGDATABASE", &name),
            ("PGSSLMODE", "disable"),
        ],
    ));
    let by_ipv6 = Proxy::to_by_ipv6(&socket);
    if let Some(proxy) = &by_ipv6 {
        let port = proxy.port();
        forms.push((format!("postgres://postgres@[::1]:{port}/{name}"), vec![]));
        forms.push((
            format!("postgres:///{name}?host=::1&port={port}&user=postgres"),
            vec![],
        ));
        forms.push((
            format!("postgres://postgres@/{name}?hostaddr=::1&port={port}"),
            vec![],
        ));
    }
    let mut connected = 0;
    for (url, environment) in &forms {
        let ours = rework
            .command(&["list-tasks", url])
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let libpq = psql(url, environment, "select from rework.task");
        assert_eq!(
            ours.status.success(),
            libpq.is_ok(),
            "{url} {environment:?}: {ours:?} {libpq:?}"
        );
        connected += u32::from(libpq.is_ok());
    }
    assert!(
        connected >= 18,
        "{connected} of {} forms connected",
        forms.len()
    );
}

/// The environment may hold no `USER`, or that of somebody else: the user id counts.
#[test]
fn who_is_not_named_is_who_libpq_takes() {
    let rework = Rework::new();
    let socket = rework.database.socket();
    let directory = socket.parent().unwrap().display().to_string();
    let port = socket.extension().unwrap().to_str().unwrap().to_owned();
    let own = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let own = own.unwrap().unwrap().name;
    for user in [None, Some("babar")] {
        for url in [
            format!("postgres:///nothing?host={directory}&port={port}"),
            // Nobody listens there.
            "postgres:///nothing?port=9".to_owned(),
        ] {
            let with_user = |mut command: Command| {
                command.env_remove("USER").env_remove("LOGNAME");
                command.envs(user.map(|user| ("USER", user)));
                let output = command.output().unwrap();
                assert!(!output.status.success(), "{url}: {output:?}");
                String::from_utf8(output.stderr).unwrap()
            };
            let ours = with_user(rework.command(&["list-tasks", &url]));
            let mut psql = Command::new(crate::harness::psql());
            psql.args(["-X", "-d", &url, "-c", "select 1"]);
            let theirs = with_user(psql);
            let named = match url.contains("host=") {
                true => format!("user \"{own}\""),
                false => "/var/run/postgresql".to_owned(),
            };
            assert!(theirs.contains(&named), "{url}: {theirs}");
            assert!(ours.contains(&named), "{url}: {ours}");
        }
    }
}

#[test]
fn what_a_url_asks_for_is_done_or_refused_by_its_name() {
    let rework = Rework::new();
    let url = rework.database.url();
    for (parameter, name) in [
        ("keepalives_idle=10", "`keepalives_idle`"),
        ("tcp_user_timeout=1000", "`tcp_user_timeout`"),
        ("channel_binding=require", "`channel_binding`"),
        ("require_auth=scram-sha-256", "`require_auth`"),
        ("gssencmode=require", "`gssencmode`"),
        ("target_session_attrs=standby", "`target_session_attrs`"),
        ("options=-c%20statement_timeout%3D5s", "`statement_timeout`"),
        ("nonsense=1", "`nonsense`"),
    ] {
        let told = rework.fails(1, &["list-tasks", &format!("{url}?{parameter}")]);
        assert!(told.contains(name), "{parameter}: {told}");
    }
    let told = rework
        .command(&["list-tasks"])
        .env("PGCHANNELBINDING", "require")
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&told.stderr).contains("PGCHANNELBINDING"),
        "{told:?}"
    );
    // A server that takes connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let begin = Instant::now();
    let url = format!("postgres://postgres@127.0.0.1:{port}/x?connect_timeout=2");
    let told = rework.fails(1, &["list-tasks", &url]);
    assert!(told.contains("no answer within 2 s"), "{told}");
    assert!(
        begin.elapsed() < Duration::from_secs(25),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_password_file_is_never_repeated() {
    let rework = Rework::with_plugins(&[hello()]);
    let file = rework.directory().join("pgpass");
    fs::write(&file, "localhost:5432:sekret-line\n*:*:*:*:sekret\\\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = rework.command(&["monitor"]);
    command.env("PGPASSFILE", &file).env("RUST_LOG", "trace");
    let monitor = rework.monitor_by(command);
    let id = rework.schedule(&["noop"]);
    rework.wait(&id, &["done"]);
    let log = monitor.log();
    assert!(
        log.contains("claims tasks") && !log.contains("sekret"),
        "{log}"
    );
}

/// What a role can have by default that would break something.
const HOSTILE: [(&str, &str); 22] = [
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("default_transaction_deferrable", "on"),
    ("\"DateStyle\"", "'German, DMY'"),
    ("\"IntervalStyle\"", "'iso_8601'"),
    ("\"TimeZone\"", "'Asia/Kolkata'"),
    ("bytea_output", "'escape'"),
    ("extra_float_digits", "-15"),
    ("search_path", "''"),
    ("client_encoding", "'LATIN1'"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("row_security", "off"),
    ("check_function_bodies", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit_above_cost", "0"),
    ("exit_on_error", "off"),
    ("enable_indexscan", "off"),
    ("synchronous_commit", "off"),
    ("lc_numeric", "'C'"),
    ("plpgsql.extra_errors", "'all'"),
    ("default_text_search_config", "'pg_catalog.german'"),
];

/// Limits of a role that people may want for themselves.
const LIMITS: [(&str, &str); 5] = [
    ("statement_timeout", "'1ms'"),
    ("lock_timeout", "'1ms'"),
    ("idle_in_transaction_session_timeout", "'1ms'"),
    ("idle_session_timeout", "'500ms'"),
    ("default_transaction_read_only", "on"),
];

#[test]
fn what_a_role_has_by_default_changes_nothing() {
    side_by_side(["'repeatable read'", "serializable"], |isolation| {
        let rework = Rework::without_schema();
        let role = Role::new(&rework.database, "hostile");
        let name = rework.database.psql("select current_database()");
        rework
            .database
            .psql(&format!("grant create on database {name} to {}", role.name));
        role.set(&HOSTILE);
        role.set(&LIMITS);
        role.set(&[("default_transaction_isolation", isolation)]);
        let url = role.url();
        let ours = |arguments: &[&str]| {
            let output = rework
                .command(arguments)
                .env("REWORK_DB", &url)
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        ours(&["init-db"]);
        ours(&["register-operations", hello().to_str().unwrap()]);
        let mut command = rework.command(&["monitor", "--all-domains"]);
        command.env("REWORK_DB", &url);
        let monitor = rework.monitor_by(command);
        // The caller's own session, with all but its limits.
        let caller = Role::new(&rework.database, "caller");
        rework
            .database
            .psql(&format!("grant {} to {}", role.name, caller.name));
        caller.set(&HOSTILE);
        caller.set(&[("default_transaction_isolation", isolation)]);
        let mut ids: Vec<String> = (0..8)
            .map(|_| ours(&["schedule", "add", "--input", r#"{"a": 1}"#]))
            .collect();
        for n in 0..8 {
            let schedule = format!(r#"select rework.schedule('add', '{{"a": {n}}}')"#);
            ids.push(psql(&caller.url(), &[], &schedule).unwrap());
        }
        for said in [
            "2024-02-29",
            "2024-2-29 1:02:03.1234567Z",
            "2024-02-29T01:02+05:30",
        ] {
            let read = psql(
                &caller.url(),
                &[],
                &format!("select rework.rfc3339(rework.datetime('{said}'))"),
            );
            let wanted = match said.len() {
                10 => "2024-02-29T00:00:00Z",
                26 => "2024-02-29T01:02:03.123456Z",
                _ => "2024-02-28T19:32:00Z",
            };
            assert_eq!(read.as_deref(), Ok(wanted), "{said}");
        }
        let is_done = |rows: &Value, id: &String| {
            let mut rows = rows.as_array().unwrap().iter();
            rows.any(|row| row["id"].as_i64() == id.parse().ok() && row["state"] == "done")
        };
        until(
            "all tasks",
            || serde_json::from_str(&ours(&["list-tasks", "--json"])).unwrap(),
            |rows: &Value| ids.iter().all(|id| is_done(rows, id)),
        );
        ours(&["log-task", &ids[0]]);
        let log = monitor.log();
        assert!(
            !log.contains("ERROR") && !log.contains("could not serialize"),
            "{log}"
        );
        assert_eq!(monitor.interrupt(), Some(0));
        drop(caller);
    });
}

#[test]
fn a_task_is_queued_in_a_serializable_transaction() {
    let rework = Rework::with_plugins(&[hello()]);
    let _monitor = rework.monitor(&["--all-domains"]);
    let id = rework
        .database
        .psql("begin isolation level serializable; select rework.schedule('noop'); commit");
    rework.wait(&id, &["done"]);
}

#[test]
fn init_db_has_nothing_to_do_for_a_role_without_rights() {
    let rework = Rework::new();
    let version = rework.ok(&["init-db"]);
    let role = Role::new(&rework.database, "reader");
    let told = rework.fails(1, &["init-db", &role.url()]);
    assert!(
        told.contains("may not use schema rework") && told.contains("grant usage"),
        "{told}"
    );
    rework.database.psql(&format!(
        "grant usage on schema rework to {0}; grant select on all tables in schema rework to {0}",
        role.name
    ));
    assert_eq!(rework.ok(&["init-db", &role.url()]), version);
}

#[test]
fn what_init_db_lacks_is_told_before_anything_is_written() {
    let rework = Rework::without_schema();
    let role = Role::new(&rework.database, "maker");
    let relations = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                      where n.nspname = 'rework'";
    let told = rework.fails(1, &["init-db", &role.url()]);
    assert!(
        told.contains("may not create schema rework") && told.contains("hint: "),
        "{told}"
    );
    assert_eq!(rework.database.psql(relations), "0");
    // A schema that somebody has made for the role is enough.
    rework
        .database
        .psql(&format!("create schema rework authorization {}", role.name));
    rework.ok(&["init-db", &role.url()]);
    // And what is half there is not made by others.
    rework
        .database
        .psql("update rework.installed set functions = ''");
    let other = Role::new(&rework.database, "other");
    rework.database.psql(&format!(
        "grant usage, create on schema rework to {0}; grant select on all tables in schema rework to {0}",
        other.name
    ));
    let told = rework.fails(1, &["init-db", &other.url()]);
    assert!(
        told.contains("does not own all that is in schema rework"),
        "{told}"
    );
}

#[test]
fn an_encoding_that_cannot_hold_every_text_is_refused() {
    let rework = Rework::without_schema();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!(
            "{}_{}",
            rework.database.psql("select current_database()"),
            encoding.to_lowercase()
        );
        rework.database.psql(&format!(
            "create database {name} encoding '{encoding}' locale 'C' template template0"
        ));
        let old = rework.database.psql("select current_database()");
        let url = rework.database.url().replace(&old, &name);
        let told = rework.fails(1, &["init-db", &url]);
        let schemas = psql(
            &url,
            &[],
            "select count(*) from pg_namespace where nspname = 'rework'",
        );
        rework
            .database
            .psql(&format!("drop database {name} with (force)"));
        assert!(
            told.contains(&format!("encoding {encoding}")) && told.contains("hint: "),
            "{told}"
        );
        assert_eq!(schemas.as_deref(), Ok("0"));
    }
}

/// Silence is found out soon.
const SUSPICIOUS: &str = "answer_patience=300,answer_again=100,answer_unreachable=1000,\
                          listen_proof=500,listen_proof_limit=1000";

/// A monitor that is connected through a proxy, and has claimed a task.
fn monitor_behind(rework: &Rework, proxy: &Proxy) -> Monitor {
    let mut command = rework.command(&["monitor"]);
    command.env("REWORK_DB", rework.database.url_by_tcp(proxy.port()));
    let monitor = rework.monitor_by(command);
    let id = rework.schedule(&["noop"]);
    rework.wait(&id, &["done"]);
    monitor
}

/// How long a task waited until it began, in milliseconds, as the server has it.
fn waited(rework: &Rework) -> i64 {
    let id = rework.schedule(&["noop"]);
    rework.wait(&id, &["done"]);
    let sql = format!(
        "select (extract(epoch from started - queued) * 1000)::bigint from rework.task_view where id = {id}"
    );
    rework.database.psql(&sql).parse().unwrap()
}

#[test]
fn a_silent_connection_is_found_out_and_the_listener_hears_again() {
    let rework = Rework::with_plugins(&[hello()]).with_periods(SUSPICIOUS);
    let proxy = Proxy::to(&rework.database.socket());
    let monitor = monitor_behind(&rework, &proxy);
    proxy.fall_silent();
    let begin = Instant::now();
    let id = rework.schedule(&["noop"]);
    rework.wait(&id, &["done"]);
    let took = begin.elapsed();
    assert!(
        took < Duration::from_secs(30),
        "{took:?}: {}",
        monitor.log()
    );
    // Looks come once a second; who hears is quicker, five times in a row.
    until(
        "five tasks that begin at once",
        || (0..5).map(|_| waited(&rework)).max().unwrap(),
        |longest| *longest < 300,
    );
    assert_eq!(monitor.interrupt(), Some(0));
}

/// Writes a line into the log of a task, as a monitor does.
fn write_line(rework: &Rework, id: &str, number: u32) {
    rework.database.psql(&format!(
        "insert into rework.log (task, attempt, first, lines)
         values ({id}, 0, {number}, '[[1700000000000000, \"stdout\", \"info\", null, \"line {number}\"]]')"
    ));
}

#[test]
fn a_watched_log_goes_on_through_silence_and_outage() {
    let rework = Rework::with_plugins(&[hello()])
        .with_periods("connection_wait=300,answer_patience=300,answer_again=100,listen_proof=500");
    let proxy = Proxy::to(&rework.database.socket());
    let id = rework.schedule(&["noop"]);
    write_line(&rework, &id, 1);
    let output = rework.directory().join("watched");
    let mut watch = rework
        .command(&["log-task", &id, "--watch"])
        .env("REWORK_DB", rework.database.url_by_tcp(proxy.port()))
        .stdout(fs::File::create(&output).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let shows = |number: u32| {
        until(
            &format!("line {number}"),
            || fs::read_to_string(&output).unwrap(),
            |text| text.contains(&format!("line {number}\n")),
        );
    };
    shows(1);
    proxy.fall_silent();
    write_line(&rework, &id, 2);
    shows(2);
    proxy.cut();
    write_line(&rework, &id, 3);
    // It tries, each time until no connection is waited for any longer, and tries again.
    let before = proxy.turned_away();
    until(
        "three tries",
        || proxy.turned_away(),
        |now| *now >= before + 3,
    );
    assert!(watch.try_wait().unwrap().is_none(), "it gave up");
    proxy.resume();
    shows(3);
    rework.ok(&["abort-task", &id]);
    let status = until(
        "the watch to end",
        || watch.try_wait().unwrap(),
        Option::is_some,
    );
    assert!(status.unwrap().success());
    let text = fs::read_to_string(&output).unwrap();
    for number in 1..=3 {
        assert_eq!(
            text.matches(&format!("line {number}\n")).count(),
            1,
            "{text}"
        );
    }
    let mut told = String::new();
    watch
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert!(
        told.contains("the database is away") && told.contains("the database is back"),
        "{told}"
    );
}

#[test]
fn a_wait_goes_on_through_silence_and_outage() {
    let rework = Rework::with_plugins(&[hello()]);
    let proxy = Proxy::to(&rework.database.socket());
    let mut wait = rework
        .command(&["schedule", "my_first_task", "--input", "1", "--wait"])
        .env("REWORK_DB", rework.database.url_by_tcp(proxy.port()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until(
        "somebody to wait",
        || rework.database.psql("select count(*) from rework.waiter"),
        |n| n == "1",
    );
    proxy.fall_silent();
    let before = proxy.accepted();
    until(
        "another connection",
        || proxy.accepted(),
        |now| *now > before,
    );
    proxy.cut();
    let _monitor = rework.monitor(&[]);
    rework.wait("1", &["done"]);
    assert!(wait.try_wait().unwrap().is_none(), "it gave up");
    proxy.resume();
    until(
        "the wait to end",
        || wait.try_wait().unwrap(),
        Option::is_some,
    );
    let ended = wait.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "2\n");
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(told.contains("the database is away"), "{told}");
}

#[test]
fn a_statement_that_takes_long_is_waited_for() {
    let rework = Rework::with_plugins(&[hello()])
        .with_periods("lock_wait=600000,answer_patience=200,answer_again=100");
    let proxy = Proxy::to(&rework.database.socket());
    let holder = OpenTransaction::begin(
        &rework,
        "lock table rework.deployment in access exclusive mode",
    );
    let mut schedule = rework
        .command(&["schedule", "noop"])
        .env("REWORK_DB", rework.database.url_by_tcp(proxy.port()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    until(
        "the statement to wait",
        || rework.database.psql(waiting),
        |count| count == "1",
    );
    // Each time that the server is asked what it is at takes a connection: three times idle would be
    // enough to give up.
    let before = proxy.accepted();
    until(
        "the server to be asked",
        || proxy.accepted(),
        |now| *now >= before + 5,
    );
    assert!(schedule.try_wait().unwrap().is_none(), "it gave up");
    holder.end();
    assert!(schedule.wait().unwrap().success());
}

#[test]
fn a_server_that_has_become_read_only_is_left_and_looked_for_anew() {
    let server = OwnServer::new("ro");
    server.ok(&["register-operations", hello().to_str().unwrap()]);
    let monitor = server.monitor(&[]);
    let backends = || {
        server.psql(
            "select string_agg(pid::text, ',' order by pid) from pg_stat_activity where application_name = 'rework'",
        )
    };
    let is_done = |id: &str| until("the task", || server.state(id), |state| state == "done");
    is_done(&server.ok(&["schedule", "noop"]));
    let before = backends();
    server.alter("set default_transaction_read_only = on");
    until(
        "the monitor to notice",
        || monitor.log(),
        |log| log.contains("the database is away"),
    );
    until("every connection to be another one", backends, |after| {
        let mut kept = before
            .split(',')
            .filter(|pid| after.split(',').any(|now| now == *pid));
        kept.next().is_none()
    });
    let told = server.run(&["schedule", "noop"]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("read-only") && told.contains("hint: "),
        "{told}"
    );
    let writes = [("PGOPTIONS", "-c default_transaction_read_only=off")];
    psql(
        &server.embedded("url"),
        &writes,
        "alter system reset default_transaction_read_only",
    )
    .unwrap();
    server.psql("select pg_reload_conf()");
    let id = until(
        "a task to be queued",
        || server.run(&["schedule", "noop"]),
        |output| output.status.success(),
    );
    is_done(String::from_utf8_lossy(&id.stdout).trim());
    assert_eq!(monitor.interrupt(), Some(0));
}

#[test]
fn a_standby_that_is_away_keeps_no_command_for_ever() {
    let server =
        OwnServer::new("sync").with_periods("lock_wait=1000,answer_patience=200,answer_again=200");
    server.ok(&["register-operations", hello().to_str().unwrap()]);
    let waiting =
        || server.psql("select count(*) from pg_stat_activity where wait_event = 'SyncRep'");
    server.alter("set synchronous_standby_names = 'nobody'");
    // The setting is there when a commit waits for it.
    let output = until(
        "a command to be given up",
        || server.run(&["schedule", "noop"]),
        |output| !output.status.success(),
    );
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.starts_with(
            "error: the server has done it, and waits for a synchronous standby to have it\nhint: do not repeat it"
        ),
        "{told}"
    );
    until("the server to wait", waiting, |count| count != "0");
    until(
        "doctor to say so",
        || String::from_utf8_lossy(&server.run(&["doctor"]).stdout).into_owned(),
        |told| told.contains("problem lock: ") && told.contains("for a synchronous standby"),
    );
    server.alter("reset synchronous_standby_names");
    until("nobody to wait", waiting, |count| count == "0");
}

/// A monitor that is kept from seeing tasks must not take them out of the queue.
#[test]
fn row_level_security_loses_no_task() {
    let rework = Rework::with_plugins(&[hello()]);
    let role = Role::new(&rework.database, "few");
    rework.database.psql(&format!(
        "grant usage on schema rework to {0}; grant all on all tables in schema rework to {0};
         grant all on all sequences in schema rework to {0}",
        role.name
    ));
    let id = rework.schedule(&["noop"]);
    rework
        .database
        .psql("alter table rework.task enable row level security");
    let refusal = rework.fails(1, &["list-tasks", &role.url()]);
    assert!(
        refusal.contains("row-level security") && refusal.contains("bypassrls"),
        "{refusal}"
    );
    let mut command = rework.command(&["monitor"]);
    command.env("REWORK_DB", role.url());
    let monitor = rework.monitor_by(command);
    until(
        "the monitor to say so",
        || monitor.log(),
        |log| log.contains("row-level security"),
    );
    assert_eq!(
        rework.database.psql(&format!(
            "select count(*) from rework.ready where id = {id}"
        )),
        "1"
    );
    rework
        .database
        .psql("alter table rework.task disable row level security");
    rework.wait(&id, &["done"]);
}
