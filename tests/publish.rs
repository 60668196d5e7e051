//! Plugins through Postgres: published by one host, fetched by hash, verified and run by another.
//! And signatures, on every way that a plugin can come.

use crate::{
    drop_in::current,
    harness::{OpenTransaction, Rework, hello, hello_version, place, report, until},
};
use minisign::KeyPair;
use serde_json::Value;
use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

/// Two installations that share a database: each has a state directory and a host name of its own.
fn other_host(rework: &Rework) -> PathBuf {
    let state = rework.directory().join("other");
    fs::create_dir_all(&state).unwrap();
    state
}

fn arguments<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["--host", "otherhost", "--fetch-plugins"], more].concat()
}

fn current_on(rework: &Rework, host: &str) -> Vec<String> {
    let rows = rework.json(&["list-plugins"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter(|row| row["current"] == true && row["host"] == host && row["domain"] == "default")
        .map(|row| row["hash"].as_str().unwrap().to_owned())
        .collect()
}

fn publish(rework: &Rework, bytes: &[u8], name: &str, more: &[&str]) -> String {
    let file = place(bytes, &rework.directory().join(name));
    let register = ["register-operations", file.to_str().unwrap(), "--publish"];
    rework.ok(&[&register, more].concat())
}

#[test]
fn another_host_fetches_what_is_published_and_follows_its_upgrades() {
    let rework = Rework::new();
    let state = other_host(&rework);
    let said = publish(&rework, &hello_version(1), "hello.so", &[]);
    assert!(
        said.starts_with("registered 3 new operation (0 already known)\npublished its bytes (")
    );
    let is_small = rework.database.psql(
        "select sum(length(content)) * 2 < (select size from rework.plugin)
           from rework.plugin_content_chunk",
    );
    assert_eq!(is_small, "t", "the bytes are compressed");
    let first = current(&rework, "default");
    let monitor = rework.monitor_in(&state, &arguments(&[]));
    let ran = || {
        let id = rework.schedule(&["my_first_task", "--input", "1"]);
        rework.wait(&id, &["done"])
    };
    let task = ran();
    assert_eq!(task["plugin_hash"], first[0]);
    assert!(rework.log(&task["id"].to_string())[0].ends_with("I am runn-01"));
    assert_eq!(current_on(&rework, "otherhost"), first);
    let cached = state.join("plugins").join(format!("{}.so", first[0]));
    assert_eq!(fs::read(cached).unwrap(), hello_version(1));
    // Only of its domains.
    let maths = rework.json(&["list-operations", "--domain", "maths"]);
    assert!(
        maths
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["host"] == "testhost")
    );

    publish(&rework, &hello_version(2), "hello.so", &[]);
    let second = current_on(&rework, "testhost");
    until(
        "the upgrade to be followed",
        || current_on(&rework, "otherhost"),
        |now| *now == second,
    );
    until("it to run", ran, |task| task["plugin_hash"] == second[0]);
    // A rollback of that host alone is not undone by what the first one still runs.
    rework.ok(&["rollback-plugin", "default", "--host", "otherhost"]);
    until("the version before to run", ran, |task| {
        task["plugin_hash"] == first[0]
    });
    publish(&rework, &hello_version(3), "hello.so", &[]);
    let third = current_on(&rework, "testhost");
    until(
        "the next upgrade to be followed",
        || current_on(&rework, "otherhost"),
        |now| *now == third,
    );
    let log = monitor.log();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_plugin_registered_for_another_host_is_fetched_there() {
    let rework = Rework::new();
    let state = other_host(&rework);
    publish(
        &rework,
        &hello_version(1),
        "hello.so",
        &["--host", "otherhost"],
    );
    fs::remove_file(rework.directory().join("hello.so")).unwrap();
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    let _monitor = rework.monitor_in(&state, &arguments(&[]));
    assert_eq!(rework.wait(&id, &["done"])["cause"], Value::Null);
}

#[test]
fn what_cannot_be_published_is_not_registered_either() {
    let rework = Rework::new();
    rework.database.psql(
        "create function no_room() returns trigger language plpgsql
             as $$ begin raise exception 'no room'; end $$;
         create trigger t before insert on rework.plugin_content_chunk
             for each row execute function no_room()",
    );
    let plugin = hello();
    let plugin = plugin.to_str().unwrap();
    let refusal = rework.fails(1, &["register-operations", plugin, "--publish"]);
    assert!(
        refusal.contains("no room (nothing was registered)"),
        "{refusal}"
    );
    assert_eq!(rework.ok(&["list-operations"]), "");
    assert_eq!(rework.ok(&["list-plugins"]), "");
}

/// However long an upload takes, it holds up nobody with another plugin.
#[test]
fn a_slow_upload_waits_alone() {
    let rework = Rework::new().with_periods("lock_wait=600000");
    rework.database.psql(
        "create function is_slow() returns trigger language plpgsql
             as $$ begin perform pg_advisory_xact_lock(7); return new; end $$;
         create trigger t before insert on rework.plugin_content_chunk
             for each row execute function is_slow()",
    );
    let holder = OpenTransaction::begin(&rework, "select pg_advisory_xact_lock(7)");
    let mut slow = rework
        .command(&["register-operations", "--publish"])
        .arg(hello())
        .spawn()
        .unwrap();
    until(
        "the upload",
        || {
            rework.database.psql(
                "select count(*) from pg_stat_activity
                  where datname = current_database() and wait_event = 'advisory'",
            )
        },
        |count| count == "1",
    );
    rework.ok(&["register-operations", report().to_str().unwrap()]);
    assert!(slow.try_wait().unwrap().is_none(), "it was not waited for");
    holder.end();
    assert!(slow.wait().unwrap().success());
    assert_eq!(rework.ok(&["list-operations"]).lines().count(), 4);
}

fn refused(rework: &Rework) -> Vec<String> {
    let rows = rework.json(&["list-plugins"]);
    let rows = rows.as_array().unwrap().iter();
    rows.filter_map(|row| row["refused"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn bytes_that_were_tampered_with_and_other_targets_are_not_run() {
    let rework = Rework::new();
    let state = other_host(&rework);
    publish(&rework, &hello_version(1), "hello.so", &[]);
    // The bytes of another version, well compressed: only the hash can tell.
    publish(
        &rework,
        &hello_version(2),
        "other.so",
        &["--asdomain", "elsewhere"],
    );
    rework.database.psql(
        "update rework.plugin_content_chunk c set content = o.content
           from rework.plugin_content_chunk o
           join rework.plugin og on og.id = o.plugin and og.version = '0.2.0', rework.plugin g
          where g.id = c.plugin and g.version = '0.1.0' and o.chunk = c.chunk",
    );
    publish(
        &rework,
        &hello_version(3),
        "third.so",
        &["--asdomain", "third"],
    );
    rework.database.psql(
        "update rework.plugin set target = 'riscv64gc-unknown-linux-gnu' where version = '0.3.0'",
    );
    let monitor = rework.monitor_in(&state, &arguments(&["--all-domains"]));
    let reasons = until("refusals", || refused(&rework), |found| !found.is_empty());
    until(
        "both refusals to be said",
        || monitor.log(),
        |log| {
            log.contains("was changed in the database: the SHA-256 of its bytes is")
                && log.contains("riscv64gc")
        },
    );
    assert!(
        reasons[0].starts_with("the published plugin hello 0."),
        "{reasons:?}"
    );
    // Version 2, in its own domain, is well and runs.
    until(
        "the other to be fetched",
        || rework.ok(&["list-operations", "--domain", "elsewhere"]),
        |listing| listing.contains("host(otherhost)"),
    );
    assert_eq!(current_on(&rework, "otherhost"), Vec::<String>::new());
    assert_eq!(
        monitor.log().matches("was changed in the database").count(),
        1
    );
    assert_eq!(monitor.log().matches("it is not fetched").count(), 1);
}

fn sign(key: &KeyPair, bytes: &[u8], file: &Path) {
    let signature = minisign::sign(None, &key.sk, Cursor::new(bytes), None, None).unwrap();
    let beside = format!("{}.minisig", file.display());
    fs::write(beside, signature.into_string()).unwrap();
}

#[test]
fn unsigned_and_wrongly_signed_plugins_are_refused_wherever_they_come_from() {
    let rework = Rework::new();
    let (ours, theirs) = (
        KeyPair::generate_unencrypted_keypair().unwrap(),
        KeyPair::generate_unencrypted_keypair().unwrap(),
    );
    let key = ours.pk.to_base64();
    let key_file = rework.directory().join("minisign.pub");
    fs::write(&key_file, ours.pk.to_box().unwrap().to_string()).unwrap();
    let key_file = key_file.to_str().unwrap();
    let bytes = hello_version(1);
    let file = place(&bytes, &rework.directory().join("hello.so"));
    let plugin = file.to_str().unwrap();
    let register = |key: &str| {
        rework.run(&[
            "register-operations",
            plugin,
            "--publish",
            "--require-signature",
            key,
        ])
    };
    let refusal = register(&key);
    assert_eq!(refusal.code, 1);
    assert!(
        refusal.stderr.contains(&format!(
            "{plugin} is not signed: it has no .minisig beside it; `minisign -Sm` signs it \
             (nothing was registered)"
        )),
        "{refusal:?}"
    );
    sign(&theirs, &bytes, &file);
    let refusal = register(&key);
    assert!(
        refusal.stderr.contains(
            "is signed by another key than the one that is trusted here; `minisign -Sm` signs it"
        ),
        "{refusal:?}"
    );
    sign(&ours, &hello_version(2), &file);
    let refusal = register(key_file);
    assert!(
        refusal.stderr.contains(
            "was changed after it was signed, or its signature was; `minisign -Sm` signs it"
        ),
        "{refusal:?}"
    );
    assert_eq!(
        rework.database.psql("select count(*) from rework.plugin"),
        "0"
    );
    let wrong = rework.run(&[
        "register-operations",
        plugin,
        "--require-signature",
        "nonsense",
    ]);
    assert_eq!(wrong.code, 2);
    assert!(
        wrong.stderr.contains("is neither a public key of minisign"),
        "{wrong:?}"
    );

    // Drop-in: refused until the right signature lies beside it.
    let dir = rework.directory().join("plugins.d");
    fs::create_dir(&dir).unwrap();
    let dropped = place(&bytes, &dir.join("hello.so"));
    let drop_in = [
        "--plugin-dir",
        dir.to_str().unwrap(),
        "--require-signature",
        &key,
    ];
    let monitor = rework.monitor(&drop_in);
    let reason = until(
        "the refusal",
        || refused(&rework),
        |found| !found.is_empty(),
    );
    assert!(
        reason[0].contains("is not signed: it has no .minisig beside it"),
        "{reason:?}"
    );
    sign(&theirs, &bytes, &dropped);
    until(
        "the other refusal",
        || refused(&rework),
        |found| found.len() == 1 && found[0].contains("is signed by another key than"),
    );
    assert_eq!(rework.ok(&["list-operations"]), "");
    sign(&ours, &bytes, &dropped);
    until(
        "it to be registered",
        || rework.ok(&["list-operations"]),
        |listing| listing.lines().count() == 3,
    );
    assert_eq!(refused(&rework), Vec::<String>::new());
    monitor.interrupt();

    // Fetched: published without a signature, and then with one.
    let state = other_host(&rework);
    rework.ok(&["register-operations", plugin, "--publish"]);
    rework
        .database
        .psql("update rework.plugin_content set signature = null");
    let monitor = rework.monitor_in(&state, &arguments(&["--require-signature", key_file]));
    until(
        "the refusal of what is fetched",
        || monitor.log(),
        |log| log.contains("the published plugin hello 0.1.0") && log.contains("is not signed"),
    );
    assert_eq!(current_on(&rework, "otherhost"), Vec::<String>::new());
    sign(&ours, &bytes, &file);
    rework.ok(&[
        "register-operations",
        plugin,
        "--publish",
        "--require-signature",
        &key,
    ]);
    until(
        "it to be fetched",
        || current_on(&rework, "otherhost"),
        |now| now.len() == 1,
    );
    assert_eq!(
        monitor.log().matches("not registered: ").count(),
        1,
        "{}",
        monitor.log()
    );
}

#[test]
fn versions_of_several_hosts_are_followed_side_by_side() {
    let rework = Rework::new();
    let state = other_host(&rework);
    // One plugin in two versions: the second one stands beside the first, in a domain of its own.
    publish(&rework, &hello_version(1), "hello.so", &[]);
    let staged = ["--host", "third", "--asdomain", "staging"];
    publish(&rework, &hello_version(2), "hello-2.so", &staged);
    let operations = || {
        let rows = rework.json(&["list-operations"]);
        let rows = rows.as_array().unwrap().iter();
        rows.filter(|row| row["host"] == "otherhost").count()
    };
    let deployments = || {
        let count = "select count(*) from rework.deployment where host = 'otherhost'";
        rework.database.psql(count)
    };
    // Two monitors of one host share its cache, and get hold of everything once.
    let all = rework.monitor_in(&state, &arguments(&["--all-domains"]));
    let maths = rework.monitor_in(&state, &arguments(&["--domain", "maths"]));
    until("both versions to be there", operations, |found| *found == 6);
    let before = deployments();
    assert_eq!(before, "6");
    // Two more looks at what is offered change nothing.
    publish(
        &rework,
        &hello_version(3),
        "unrelated.so",
        &["--host", "fourth", "--asdomain", "four"],
    );
    until("the third version", operations, |found| *found == 9);
    let id = rework.schedule(&["my_first_task", "--domain", "four", "--host", "otherhost"]);
    rework.wait(&id, &["failed"]);
    assert_eq!(deployments(), "9");
    for monitor in [all, maths] {
        let log = monitor.log();
        assert!(!log.contains("ERROR"), "{log}");
    }
}

#[test]
fn where_signatures_are_demanded_a_copy_in_the_cache_needs_one() {
    let rework = Rework::new();
    let ours = KeyPair::generate_unencrypted_keypair().unwrap();
    let key = ours.pk.to_base64();
    let bytes = hello_version(1);
    let file = place(&bytes, &rework.directory().join("hello.so"));
    let register = ["register-operations", file.to_str().unwrap()];
    rework.ok(&register);
    let monitor = rework.monitor(&["--require-signature", &key]);
    until(
        "the refusal",
        || monitor.log(),
        |log| log.contains("is not signed: it has no .minisig beside it"),
    );
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    assert_eq!(rework.task(&id)["state"], "queued");
    assert_eq!(refused(&rework).len(), 1);
    // Signed, and registered anew: the copy is the same, and now believed.
    sign(&ours, &bytes, &file);
    rework.ok(&register);
    rework.wait(&id, &["done"]);
    until(
        "nothing to be refused",
        || refused(&rework),
        |found| found.is_empty(),
    );
}

#[test]
fn a_fetched_plugin_that_was_missing_is_looked_for_again_where_nothing_is_fetched() {
    let rework = Rework::new();
    let state = other_host(&rework);
    let ours = KeyPair::generate_unencrypted_keypair().unwrap();
    let key = ours.pk.to_base64();
    let bytes = hello_version(1);
    sign(&ours, &bytes, &rework.directory().join("hello.so"));
    publish(&rework, &bytes, "hello.so", &["--require-signature", &key]);
    let hash = current(&rework, "default")[0].clone();
    let monitor = rework.monitor_in(&state, &arguments(&["--require-signature", &key]));
    until(
        "the plugin to be fetched",
        || current_on(&rework, "otherhost"),
        |now| *now == [hash.clone()],
    );
    monitor.interrupt();

    // Its copy is gone when a monitor starts that does not fetch, and comes back later.
    let aside = rework.directory().join("aside");
    fs::create_dir(&aside).unwrap();
    let names = [format!("{hash}.so"), format!("{hash}.so.minisig")];
    for name in &names {
        fs::rename(state.join("plugins").join(name), aside.join(name)).unwrap();
    }
    let monitor = rework.monitor_in(
        &state,
        &["--host", "otherhost", "--require-signature", &key],
    );
    until(
        "the refusal",
        || monitor.log(),
        |log| log.contains("is not in the cache of this host any more"),
    );
    let id = rework.schedule(&["my_first_task", "--input", "1"]);
    for name in names.iter().rev() {
        fs::rename(aside.join(name), state.join("plugins").join(name)).unwrap();
    }
    assert_eq!(rework.wait(&id, &["done"])["cause"], Value::Null);
    until(
        "nothing to be refused",
        || refused(&rework),
        |found| found.is_empty(),
    );
}
