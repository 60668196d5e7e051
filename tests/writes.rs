//! Writes that the database refuses, for whatever reason: the monitor says so, keeps what it has to say,
//! ends when it is told to, and loses nothing.

use crate::harness::{
    Monitor, OpenTransaction, Rework, hello, misbehaving, report, side_by_side, until,
};
use nix::sys::{signal::Signal, stat::Mode};
use std::{
    fs,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

#[test]
fn every_table_has_a_replica_identity() {
    let rework = Rework::new();
    let without = rework.database.psql(
        "select string_agg(relname, ', ')
           from pg_class c
          where relnamespace = 'rework'::regnamespace
            and relkind in ('r', 'p')
            and not (relreplident = 'f'
                     or exists (select from pg_index i
                                 where i.indrelid = c.oid and i.indisvalid
                                   and case relreplident when 'd' then i.indisprimary
                                                         when 'i' then i.indisreplident end))",
    );
    assert_eq!(without, "");
}

#[test]
fn the_whole_life_of_a_task_goes_on_under_a_publication_of_all_tables() {
    let rework = Rework::new();
    rework
        .database
        .psql("create publication everything for all tables");
    for plugin in [hello(), misbehaving(), report()] {
        let plugin = plugin.to_str().unwrap().to_owned();
        rework.ok(&["register-operations", &plugin, "--publish"]);
    }
    let monitor = rework.monitor(&["--all-domains"]);
    let done = rework.schedule(&["my_first_task", "--input", "1", "--key", "k"]);
    assert_eq!(rework.wait(&done, &["done", "failed"])["output"], 2);
    let delayed = rework.schedule(&["my_first_task", "--input", "2", "--in", "300ms"]);
    rework.wait(&delayed, &["done"]);
    let retried = rework.schedule(&["third_time_lucky"]);
    assert_eq!(rework.wait(&retried, &["done", "failed"])["attempt"], 3);
    let large = rework.directory().join("large");
    fs::write(&large, "word ".repeat(500_000)).unwrap();
    let large = format!("text={}", large.display());
    let with_files = rework.schedule(&["word_frequencies", "--input-file", &large]);
    rework.wait(&with_files, &["done"]);
    let running = rework.misbehave("hang");
    rework.wait(&running, &["running"]);
    rework.ok(&["abort-task", &running]);
    rework.wait(&running, &["aborted"]);
    rework.ok(&["retry-task", &done]);
    rework.wait(&done, &["done"]);
    rework.ok(&["delete-task", &retried]);
    let rule = ["--rule", "* * * * * *", "--every-second"];
    let schedule = rework.ok(&[&["prepare", "my_first_task", "--input", "3"], &rule[..]].concat());
    until(
        "the schedule to fire",
        || rework.json(&["list-scheduled"])[0]["last_run"].clone(),
        |last| !last.is_null(),
    );
    rework.ok(&["unprepare", &schedule]);
    for word in ["pause", "resume"] {
        rework.ok(&[word, "--domain", "maths"]);
    }
    let worker = rework.task(&done)["worker"].to_string();
    rework.ok(&["kill-worker", &worker]);
    until(
        "its death",
        || {
            rework
                .database
                .psql("select count(*) from rework.worker where cause = 'killed'")
        },
        |count| count == "1",
    );
    rework.ok(&["vacuum", "--tasks"]);
    rework.ok(&["vacuum", "--workers"]);
    let doctor = rework.ok(&["doctor"]);
    assert!(
        doctor.lines().all(|line| line.starts_with("ok ")),
        "{doctor}"
    );
    rework.ok(&["unregister-host", "testhost", "--no-confirm"]);
    assert!(!monitor.log().contains("ERROR"), "{}", monitor.log());
    assert_eq!(monitor.interrupt(), Some(0));
}

/// A way to refuse what becomes of tasks, and the way back.
const REFUSALS: [(&str, &str, &str); 3] = [
    (
        "create function refuse() returns trigger language plpgsql as $$
         begin raise exception 'nothing is written today'; end $$;
         create trigger refuse before insert on rework.outcome for each row execute function refuse()",
        "drop trigger refuse on rework.outcome",
        "nothing is written today",
    ),
    (
        "create publication everything for all tables;
         alter table rework.claim replica identity nothing",
        "alter table rework.claim replica identity default",
        "does not have a replica identity",
    ),
    (
        "alter table rework.outcome add constraint never check (outcome <> 'done') not valid",
        "alter table rework.outcome drop constraint never",
        "violates check constraint \"never\"",
    ),
];

fn wait_for_refusal(rework: &Rework, monitor: &Monitor, words: &str) {
    until(
        "the refusal to be said",
        || monitor.log(),
        |log| {
            log.contains("the database does not take what this monitor writes")
                && log.contains(words)
        },
    );
    let doctor = until(
        "the doctor to see it",
        || rework.run(&["doctor"]),
        |doctor| {
            doctor
                .stdout
                .contains("problem monitor: the database does not take what")
        },
    );
    assert_eq!(doctor.code, 1);
    assert!(doctor.stdout.contains(words), "{doctor:?}");
}

#[test]
fn what_is_refused_is_said_kept_and_reported_when_it_is_taken_again() {
    side_by_side(REFUSALS, |(refuse, restore, words)| {
        let rework = Rework::with_plugins(&[hello()]).with_periods(IMPATIENT);
        let monitor = rework.monitor(&[]);
        let first = rework.schedule(&["my_first_task", "--input", "1"]);
        rework.wait(&first, &["done"]);
        rework.database.psql(refuse);
        let ids: Vec<String> = (1..=8)
            .map(|n| rework.schedule(&["my_first_task", "--input", &n.to_string()]))
            .collect();
        wait_for_refusal(&rework, &monitor, words);
        let doctor = rework.run(&["doctor"]);
        let line = "problem write: the database does not take what is written about tasks: ";
        assert!(doctor.stdout.contains(line), "{doctor:?}");
        rework.database.psql(restore);
        for (n, id) in (1..).zip(&ids) {
            assert_eq!(rework.wait(id, &["done", "failed"])["output"], 2 * n);
            assert!(!rework.log(id).is_empty(), "its log is kept");
        }
        until(
            "the end of it to be said",
            || monitor.log(),
            |log| log.contains("the database takes again what it did not take for "),
        );
        until(
            "the doctor to be content",
            || rework.run(&["doctor"]).code,
            |code| *code == 0,
        );
        assert_eq!(monitor.interrupt(), Some(0));
    });
}

/// A role of its own, so that rights can be taken from it.
#[test]
fn a_monitor_without_rights_says_so_and_reports_when_it_has_them() {
    let rework = Rework::with_plugins(&[hello()]).with_periods(IMPATIENT);
    let role = format!(
        "clerk_{}",
        rework.database.psql("select current_database()")
    );
    rework.database.psql(&format!(
        "create role {role};
         grant usage on schema rework to {role};
         grant all on all tables in schema rework to {role};
         grant all on all sequences in schema rework to {role}"
    ));
    let mut command = rework.command(&["monitor"]);
    // The server lets nobody else in by its socket, but a session may act as another role.
    let url = rework.database.url();
    command.env("REWORK_DB", format!("{url}?options=-c%20role%3D{role}"));
    let monitor = rework.monitor_by(command);
    until(
        "the monitor to start",
        || monitor.log(),
        |log| log.contains("claims tasks of"),
    );
    let first = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&first, &["done"]);
    for table in ["outcome", "worker", "log"] {
        rework.database.psql(&format!(
            "revoke insert, update on rework.{table} from {role}"
        ));
        let next = rework.schedule(&["my_first_task", "--input", "2"]);
        until(
            "the refusal to be said",
            || monitor.log(),
            |log| log.contains(&format!("permission denied for table {table}")),
        );
        if table == "worker" {
            // A row of a worker that cannot be written holds up no task.
            assert_eq!(rework.wait(&next, &["done", "failed"])["output"], 4);
        }
        rework
            .database
            .psql(&format!("grant insert, update on rework.{table} to {role}"));
        assert_eq!(rework.wait(&next, &["done", "failed"])["output"], 4);
    }
    assert_eq!(monitor.interrupt(), Some(0));
    rework
        .database
        .psql(&format!("drop owned by {role}; drop role {role}"));
}

/// What is refused is tried again soon, and a refusal is over soon.
const IMPATIENT: &str = "refused_again=200,refused_over=1200";

/// Refuses the output "badbad", and counts how often.
const REFUSE_ONE: &str = "create sequence public.tries;
     create function refuse() returns trigger language plpgsql as $$
     begin perform nextval('public.tries'); raise exception 'not this one'; end $$;
     create trigger refuse before insert on rework.outcome for each row
       when (new.output = '\"badbad\"') execute function refuse()";

fn until_tried(rework: &Rework, times: i32) {
    until(
        "it to be tried again and again",
        || rework.database.psql("select last_value from public.tries"),
        |tries| tries.parse::<i32>().unwrap() >= times,
    );
}

/// What a trigger refuses of one task holds up no other.
#[test]
fn one_result_that_is_refused_holds_up_no_other() {
    let rework = Rework::with_plugins(&[hello()]).with_periods(IMPATIENT);
    rework.database.psql(REFUSE_ONE);
    let monitor = rework.monitor(&[]);
    let bad = rework.schedule(&["my_first_task", "--input", "\"bad\""]);
    let good: Vec<String> = (1..=20)
        .map(|n| rework.schedule(&["my_first_task", "--input", &n.to_string()]))
        .collect();
    for id in &good {
        rework.wait(id, &["done"]);
    }
    wait_for_refusal(&rework, &monitor, "not this one");
    // Nothing else is reported meanwhile: many tries of one result are still one result.
    until_tried(&rework, 9);
    let later = rework.schedule(&["my_first_task", "--input", "21"]);
    rework.wait(&later, &["done"]);
    rework
        .database
        .psql("drop trigger refuse on rework.outcome");
    assert_eq!(rework.wait(&bad, &["done"])["output"], "badbad");
}

/// One result of a dead monitor that is refused keeps back none of the others, nor its burial.
#[test]
fn one_result_that_is_refused_does_not_keep_a_dead_monitor_alive() {
    let rework = Rework::with_plugins(&[hello(), misbehaving()]).with_periods(IMPATIENT);
    rework.database.psql(REFUSE_ONE);
    let monitor = rework.monitor(&["--all-domains"]);
    let bad = rework.schedule(&["my_first_task", "--input", "\"bad\""]);
    let running = rework.misbehave("hang");
    rework.wait(&running, &["running"]);
    wait_for_refusal(&rework, &monitor, "not this one");
    until("the result to be kept", || unsaid(&rework), Option::is_some);
    monitor.signal(Signal::SIGKILL);
    drop(monitor);
    let next = rework.monitor(&["--all-domains"]);
    let task = rework.wait(&running, &["aborted"]);
    assert_eq!(task["cause"], "monitor lost", "{}", next.log());
    rework
        .database
        .psql("drop trigger refuse on rework.outcome");
    assert_eq!(rework.wait(&bad, &["done"])["output"], "badbad");
}

/// Files that are refused are tried again, and others are fetched and stored meanwhile.
#[test]
fn files_that_are_refused_hold_up_no_others() {
    let rework = Rework::with_plugins(&[hello(), report()]).with_periods(IMPATIENT);
    rework.database.psql(REFUSE_FILES);
    let monitor = rework.monitor(&["--all-domains"]);
    let refused: Vec<String> = (0..3)
        .map(|_| rework.schedule(&["word_frequencies", "--input", r#"{"text": "a b a"}"#]))
        .collect();
    until(
        "the files to be refused",
        || monitor.log(),
        |log| log.contains("no files today"),
    );
    let id = rework
        .database
        .psql("select rework.schedule('my_first_task', to_jsonb(repeat('x', 100000)))");
    rework.wait(&id, &["done"]);
    rework
        .database
        .psql("drop trigger refuse on rework.task_file");
    for id in refused {
        rework.wait(&id, &["done"]);
    }
}

/// Where a monitor of this installation has left what it could not say.
fn unsaid(rework: &Rework) -> Option<PathBuf> {
    let directories = fs::read_dir(rework.directory().join("pages")).ok()?;
    directories
        .flatten()
        .map(|entry| entry.path().join("unsaid.json"))
        .find(|path| path.exists())
}

const REFUSE_FILES: &str = "create function refuse() returns trigger language plpgsql as $$
     begin raise exception 'no files today'; end $$;
     create trigger refuse before insert on rework.task_file for each row
       when (new.direction = 'output') execute function refuse()";

#[test]
fn a_monitor_that_is_told_to_end_leaves_what_is_refused_to_the_next_one() {
    let (refuse, restore, words) = REFUSALS[0];
    let rework = Rework::with_plugins(&[hello(), report()]).with_periods(IMPATIENT);
    let mut monitor = rework.monitor(&["--all-domains"]);
    let first = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&first, &["done"]);
    rework
        .database
        .psql(&refuse.replace("refuse", "refuse_ends"));
    rework.database.psql(REFUSE_FILES);
    let id = rework.schedule(&["my_first_task", "--input", "21"]);
    let files = rework.schedule(&["word_frequencies", "--input", r#"{"text": "a b a"}"#]);
    wait_for_refusal(&rework, &monitor, words);
    until(
        "the files to be refused",
        || monitor.log(),
        |log| log.contains("no files today"),
    );
    let told = Instant::now();
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait(), Some(1), "{}", monitor.log());
    assert!(
        told.elapsed() < Duration::from_secs(45),
        "{:?}",
        told.elapsed()
    );
    let log = monitor.log();
    assert!(
        log.contains("has not taken all that it had to say (results: 2)"),
        "{log}"
    );
    assert!(unsaid(&rework).is_some(), "{log}");
    rework
        .database
        .psql(&restore.replace("refuse", "refuse_ends"));
    rework
        .database
        .psql("drop trigger refuse on rework.task_file");
    let _next = rework.monitor(&["--all-domains"]);
    assert_eq!(rework.wait(&id, &["done", "aborted"])["output"], 42);
    assert!(!rework.log(&id).is_empty(), "its log is kept");
    let task = rework.wait(&files, &["done", "aborted"]);
    assert_eq!(task["state"], "done", "{task:#}");
    let table = rework.ok(&["get-output", &files, "--field", "frequencies.csv"]);
    assert!(table.contains("a,2"), "{table}");
    until("the file to be gone", || unsaid(&rework), Option::is_none);
}

/// A pipe in the place where the monitor writes what it keeps: who opens it for writing waits until somebody
/// reads it.
fn stuck_disk(rework: &Rework) -> PathBuf {
    let pages = fs::read_dir(rework.directory().join("pages")).unwrap();
    let mut pages = pages.flatten().map(|entry| entry.path());
    let pages = pages.find(|path| path.is_dir()).unwrap();
    let stuck = pages.join("unsaid.json.new");
    nix::unistd::mkfifo(&stuck, Mode::from_bits_truncate(0o600)).unwrap();
    stuck
}

#[test]
fn a_disk_that_does_not_answer_keeps_no_monitor_from_its_end() {
    let (refuse, restore, words) = REFUSALS[0];
    let rework = Rework::with_plugins(&[hello()]).with_periods(IMPATIENT);
    let mut monitor = rework.monitor(&[]);
    let first = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&first, &["done"]);
    stuck_disk(&rework);
    rework.database.psql(refuse);
    let id = rework.schedule(&["my_first_task", "--input", "21"]);
    wait_for_refusal(&rework, &monitor, words);
    monitor.signal(Signal::SIGTERM);
    assert_eq!(monitor.wait(), Some(1), "{}", monitor.log());
    rework.database.psql(restore);
    let _next = rework.monitor(&[]);
    assert_eq!(rework.wait(&id, &["done", "aborted"])["output"], 42);
}

/// Locks are waited for as long as it takes; what waits with them is told and kept.
#[test]
fn a_report_that_waits_for_a_lock_is_told_and_kept() {
    let rework =
        Rework::with_plugins(&[misbehaving()]).with_periods("report_unanswered=500,lease=3000");
    let mut monitor = rework.monitor(&["--all-domains"]);
    let id = rework.hang_until_released();
    rework.wait(&id, &["running"]);
    let open = OpenTransaction::begin(&rework, "lock table rework.outcome in exclusive mode");
    rework.release();
    let words = "a report has had no answer for a while";
    until(
        "it to be logged",
        || monitor.log(),
        |log| log.contains(words),
    );
    until("the result to be kept", || unsaid(&rework), Option::is_some);
    monitor.signal(Signal::SIGKILL);
    monitor.wait();
    open.end();
    let _next = rework.monitor(&["--all-domains"]);
    assert_eq!(rework.ended(&id)["state"], "done");
}

#[test]
fn a_disk_that_does_not_answer_holds_up_no_task() {
    let rework = Rework::with_plugins(&[hello(), report()]);
    let monitor = rework.monitor(&["--all-domains"]);
    let first = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&first, &["done"]);
    let stuck = stuck_disk(&rework);
    rework.database.psql(REFUSE_FILES);
    let files = rework.schedule(&["word_frequencies", "--input", r#"{"text": "a b a"}"#]);
    wait_for_refusal(&rework, &monitor, "no files today");
    let id = rework.schedule(&["my_first_task", "--input", "21"]);
    assert_eq!(rework.wait(&id, &["done", "failed"])["output"], 42);
    let mut reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&stuck)
        .unwrap();
    fs::remove_file(&stuck).unwrap();
    let mut written = Vec::new();
    until(
        "what waited to be written",
        || {
            // An error: there is nothing to be read yet.
            let _ = reader.read_to_end(&mut written);
            String::from_utf8_lossy(&written).into_owned()
        },
        |written| written.contains(&format!("\"task\":{files}")),
    );
    rework
        .database
        .psql("drop trigger refuse on rework.task_file");
    assert_eq!(rework.wait(&files, &["done", "aborted"])["state"], "done");
}

#[test]
fn a_monitor_that_is_killed_while_it_is_refused_has_kept_its_results() {
    let (refuse, restore, words) = REFUSALS[0];
    let rework = Rework::with_plugins(&[hello()]).with_periods(IMPATIENT);
    let mut monitor = rework.monitor(&[]);
    let first = rework.schedule(&["my_first_task", "--input", "1"]);
    rework.wait(&first, &["done"]);
    rework.database.psql(refuse);
    let id = rework.schedule(&["my_first_task", "--input", "21"]);
    wait_for_refusal(&rework, &monitor, words);
    until("the result to be kept", || unsaid(&rework), Option::is_some);
    monitor.signal(Signal::SIGKILL);
    monitor.wait();
    rework.database.psql(restore);
    // As if another host had buried it before.
    rework.database.psql(
        "insert into rework.outcome (task, attempt, operation, outcome, cause, token, finished)
         select t.id, 1, t.operation, 'aborted', 'monitor lost', c.monitor << 36 | c.cycle, now()
           from rework.claim c join rework.task t on t.id = any(c.tasks)
             on conflict do nothing;
         delete from rework.claim;
         delete from rework.monitor",
    );
    assert_eq!(rework.task(&id)["state"], "aborted");
    let _next = rework.monitor(&[]);
    assert_eq!(rework.wait(&id, &["done"])["output"], 42);
}
