//! Clocks: what is shown of a time stays as it was, and nobody is judged by comparing two clocks.

use crate::harness::{Rework, misbehaving, side_by_side, until_within};
use std::time::Duration;

/// The server's clock is set back by an hour, as far as one monitor is concerned; another one watches.
#[test]
fn a_monitor_whose_times_are_odd_is_not_buried_while_it_lives() {
    let jumps = ["- interval '1 hour'", "+ interval '1 hour'"];
    let by = |jump| {
        // Six seconds of silence are more than a busy machine makes of two.
        let rework = Rework::with_plugins(&[misbehaving()]).with_periods("lease=6000");
        let monitor = rework.monitor(&["--domain", "misbehaving"]);
        let id = rework.misbehave("hang");
        rework.wait(&id, &["running"]);
        let mine = rework.database.psql("select id from rework.monitor");
        rework.database.psql(&format!(
            "create table public.renewal (id int);
             create function jump() returns trigger language plpgsql as $$
             begin
                 insert into public.renewal values (1);
                 new.last_seen := clock_timestamp() {jump};
                 return new;
             end $$;
             create trigger jump before update on rework.monitor for each row
               when (new.id = {mine}) execute function jump();
             update rework.monitor set last_seen = last_seen {jump}"
        ));
        let elsewhere = tempfile::tempdir().unwrap();
        let other = rework.monitor_in(
            elsewhere.path(),
            &["--domain", "misbehaving", "--host", "elsewhere"],
        );
        until_within(
            Duration::from_secs(60),
            "more renewals than a lease has",
            || rework.database.psql("select count(*) from public.renewal"),
            |count| count.parse::<i32>().unwrap() >= 6,
        );
        assert_eq!(rework.task(&id)["state"], "running", "{}", other.log());
        assert!(!other.log().contains("was lost"), "{}", other.log());
        rework.ok(&["abort-task", &id]);
        rework.wait(&id, &["aborted"]);
        drop((monitor, other));
    };
    side_by_side(jumps, by);
}

#[test]
fn a_task_has_begun_when_it_was_first_seen_to_have_begun() {
    let rework = Rework::with_plugins(&[misbehaving()]);
    let _monitor = rework.monitor(&["--domain", "misbehaving", "--maxworkers", "2"]);
    for (mode, seconds, state) in [
        ("hang", 2, "done"),
        ("wait for cancel", 2, "done"),
        // However long this machine takes to abort it.
        ("busy loop", 600, "aborted"),
    ] {
        let input = format!(r#"{{"mode": "{mode}", "seconds": {seconds}}}"#);
        let id = rework.schedule(&["misbehave", "--input", &input]);
        let first = rework.wait(&id, &["running"]);
        if state == "aborted" {
            rework.ok(&["abort-task", &id]);
        }
        let last = rework.wait(&id, &[state]);
        for time in ["queued", "run_at", "started"] {
            assert_eq!(first[time], last[time], "{mode}: {time}");
        }
        assert!(!first["started"].is_null());
    }
}
