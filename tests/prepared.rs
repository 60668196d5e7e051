//! Two-phase commits: what SQL offers works in a transaction that is prepared, always.

use crate::harness::{OwnServer, hello, until};

fn allow_prepared(server: &OwnServer) {
    server.psql("alter system set max_prepared_transactions = 10");
    server.embedded("stop");
}

#[test]
fn what_is_prepared_and_committed_later_happens() {
    let server = OwnServer::new("later");
    allow_prepared(&server);
    server.ok(&["register-operations", hello().to_str().unwrap()]);
    let _monitor = server.monitor(&[]);
    let first = server.ok(&["schedule", "my_first_task", "--input", "1"]);
    until(
        "the first to end",
        || server.state(&first),
        |state| state == "done",
    );
    until(
        "the monitor to sleep",
        || server.psql("select asleep from rework.monitor"),
        |asleep| asleep == "t",
    );
    let prepared = |call: &str| {
        server.psql(&format!(
            "begin; {call}; prepare transaction 'x'; commit prepared 'x'"
        ))
    };
    let id = prepared("select rework.schedule('my_first_task', '21')");
    until("it to run", || server.state(&id), |state| state == "done");
    assert_eq!(
        server.psql(&format!(
            "select output from rework.task_view where id = {id}"
        )),
        "42"
    );
    prepared(&format!("select rework.task_retry({id})"));
    until(
        "it to run again",
        || server.state(&id),
        |state| state == "done",
    );
    let later = prepared("select rework.schedule('my_first_task', '1', run_at => '2100-01-01')");
    assert_eq!(
        prepared(&format!("select rework.task_abort({later})")),
        "aborted"
    );
    prepared(&format!("select rework.task_delete({later})"));
    assert_eq!(server.state(&later), "");
}

#[test]
fn a_server_that_is_restarted_may_allow_what_it_did_not() {
    let server = OwnServer::new("restarted");
    server.ok(&["register-operations", hello().to_str().unwrap()]);
    let monitor = server.monitor(&[]);
    let first = server.ok(&["schedule", "noop"]);
    until(
        "the first to end",
        || server.state(&first),
        |state| state == "done",
    );
    allow_prepared(&server);
    server.embedded("start");
    until(
        "the monitor to find it out",
        || monitor.log(),
        |log| log.contains("the server allows prepared transactions"),
    );
    let id = server.psql(
        "begin; select rework.schedule('noop'); prepare transaction 'x'; commit prepared 'x'",
    );
    until("it to run", || server.state(&id), |state| state == "done");
}

/// Nobody may be there any more who would end it.
#[test]
fn a_key_in_a_prepared_transaction_is_refused_with_its_name() {
    let server = OwnServer::new("key");
    allow_prepared(&server);
    server.ok(&["register-operations", hello().to_str().unwrap()]);
    // Whoever queues the first task of an operation holds more than its key.
    server.ok(&["schedule", "noop"]);
    // Another one holds locks of the same tables, none that is in the way.
    server.psql(
        "begin; select count(*) from rework.task; select rework.schedule('noop');
         prepare transaction 'innocent'",
    );
    server.psql("begin; select rework.schedule('noop', key => 'k'); prepare transaction 'left'");
    let refused = server.run(&["schedule", "noop", "--key", "k"]);
    let refusal = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refusal}");
    assert!(
        refusal.contains("the prepared transaction `left`"),
        "{refusal}"
    );
    assert!(refusal.contains("`rollback prepared 'left'`"), "{refusal}");
    let doctor = || String::from_utf8(server.run(&["doctor"]).stdout).unwrap();
    until("doctor to name it", doctor, |told| {
        told.contains("the prepared transaction `left` holds locks")
    });
    server.psql("rollback prepared 'left'");
    server.ok(&["schedule", "noop", "--key", "k"]);
    server.psql("begin; lock table rework.operation in exclusive mode; prepare transaction 'left'");
    let refused = server.run(&["pause", "--operation", "noop"]);
    let refusal = String::from_utf8(refused.stderr).unwrap();
    assert!(refusal.contains("`rollback prepared 'left'`"), "{refusal}");
}
