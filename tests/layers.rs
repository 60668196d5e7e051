//! The structure of the host: who may import whom, and the three things that happen in one place.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What is absent is forbidden. The modules of [`EVERYBODYS`] hold no state of tasks, and every module may
/// import them.
const MAY_IMPORT: [(&str, &[&str]); 10] = [
    ("model", &[]),
    ("store", &["model"]),
    ("wire", &["model"]),
    ("plugin", &["model"]),
    ("postgres", &[]),
    ("client", &["store", "model", "plugin", "postgres"]),
    ("worker", &["wire", "plugin", "model"]),
    ("monitor", &["store", "wire", "model", "plugin"]),
    ("testing", &["store", "client", "program"]),
    (
        "cli",
        &[
            "store",
            "model",
            "plugin",
            "postgres",
            "client",
            "monitor",
            "telemetry",
        ],
    ),
];
const EVERYBODYS: [&str; 7] = [
    "causes",
    "here",
    "descendants",
    "periods",
    "proc",
    "signals",
    "zones",
];

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

fn host() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules of this crate that a source names, outside its tests.
fn imported(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut found = Vec::new();
    for (at, _) in source.match_indices("crate::") {
        let rest = &source[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            // The first word after the brace, and after each comma that is not inside another.
            let mut depth = 0;
            let mut word = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut word)),
                    c if depth == 0 && !c.is_whitespace() => word.push(c),
                    _ => {}
                }
            }
            found.push(word);
        } else {
            found.push(
                rest.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':')
                    .collect(),
            );
        }
    }
    found
        .into_iter()
        .map(|path| path.split("::").next().unwrap_or_default().to_owned())
        .filter(|module| module.chars().next().is_some_and(char::is_lowercase))
        .collect()
}

#[test]
fn modules_import_only_what_is_below_them() {
    let mut looked_at = 0;
    for (module, allowed) in MAY_IMPORT {
        for file in sources(&host().join(module)) {
            for name in imported(&fs::read_to_string(&file).unwrap()) {
                looked_at += 1;
                let fine = name == module
                    || allowed.contains(&name.as_str())
                    || EVERYBODYS.contains(&name.as_str());
                assert!(
                    fine,
                    "{} imports {name}, which {module} may not",
                    file.display()
                );
            }
        }
    }
    assert!(looked_at > 100, "the imports were found");
}

#[test]
fn the_monitor_never_loads_foreign_code() {
    for file in sources(&host().join("monitor")) {
        let source = fs::read_to_string(&file).unwrap();
        for loader in ["plugin::load", "plugin::invoke", "plugin::Loaded"] {
            assert!(
                !source.contains(loader),
                "{} names {loader}",
                file.display()
            );
        }
    }
}

#[test]
fn dangerous_things_happen_in_their_places_only() {
    let places: [(&str, &[&str]); 4] = [
        ("sqlx::query", &["store/"]),
        ("Library::open", &["plugin/load.rs"]),
        (
            "Command::new",
            &[
                "monitor/workers/process.rs",
                "plugin/probe.rs",
                "plugin/probe_child.rs",
                "postgres/",
                "cli/bench.rs",
                "testing/children.rs",
            ],
        ),
        (
            "unsafe {",
            &[
                "plugin/",
                "descriptors.rs",
                "monitor/init.rs",
                "monitor/workers/process.rs",
                "signals.rs",
                "wire/page.rs",
                "wire/socket.rs",
                "worker/",
                "testing/hook.rs",
            ],
        ),
    ];
    for file in sources(&host()) {
        let name = file
            .strip_prefix(host())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let source = fs::read_to_string(&file).unwrap();
        for (what, allowed) in places {
            let fine =
                !source.contains(what) || allowed.iter().any(|place| name.starts_with(place));
            assert!(fine, "{name} has `{what}`, which belongs in {allowed:?}");
        }
    }
}

/// Where the server allows prepared transactions, a notification would make some of them fail; only
/// `rework.tell` knows whether it may.
#[test]
fn programs_notify_as_the_functions_of_the_schema_do() {
    for path in sources(&host()) {
        let source = fs::read_to_string(&path).unwrap();
        assert!(!source.contains("pg_notify("), "{}", path.display());
    }
}

/// The paths that a source imports from its own crate by `use`, outside its tests, with groups written out.
fn used_paths(source: &str) -> Vec<String> {
    fn expand(prefix: &str, tree: &str, found: &mut Vec<String>) {
        let mut depth = 0;
        let mut start = 0;
        let mut parts = Vec::new();
        for (at, c) in tree.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    parts.push(&tree[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
        }
        parts.push(&tree[start..]);
        for part in parts.into_iter().map(str::trim) {
            match part.split_once('{') {
                Some((path, group)) => {
                    let group = group.strip_suffix('}').expect("groups are closed");
                    expand(&format!("{prefix}{path}"), group, found);
                }
                None if part.is_empty() => {}
                None => found.push(format!("{prefix}{part}")),
            }
        }
    }
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut found = Vec::new();
    for statement in source.split("\nuse ").skip(1) {
        let tree = statement.split(';').next().unwrap();
        expand("", &tree.replace(char::is_whitespace, ""), &mut found);
    }
    found
}

/// Which of the files and directories beside each other in `room` (a path of modules) import which.
fn siblings(room: &Path, path: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let mut graph = BTreeMap::new();
    for entry in fs::read_dir(room).unwrap().flatten() {
        let name = entry
            .path()
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let files = match entry.path() {
            directory if directory.is_dir() => sources(&directory),
            file => vec![file],
        };
        if ["mod", "fixtures"].contains(&name.as_str()) {
            continue;
        }
        let imports: &mut BTreeSet<String> = graph.entry(name.clone()).or_default();
        for file in files {
            let inner = file.strip_prefix(room).unwrap();
            let mut module: Vec<String> = inner
                .with_extension("")
                .iter()
                .map(|part| part.to_str().unwrap().to_owned())
                .filter(|part| part != "mod")
                .collect();
            module.splice(0..0, path.iter().cloned());
            for used in used_paths(&fs::read_to_string(&file).unwrap()) {
                let mut absolute = match used.strip_prefix("crate::") {
                    Some(_) => Vec::new(),
                    None => module.clone(),
                };
                for part in used.split("::") {
                    match part {
                        "crate" | "self" => {}
                        "super" => drop(absolute.pop()),
                        part => absolute.push(part.to_owned()),
                    }
                }
                if let Some(rest) = absolute.strip_prefix(path)
                    && let Some(sibling) = rest.first().filter(|sibling| **sibling != name)
                {
                    imports.insert(sibling.clone());
                }
            }
        }
    }
    graph
}

#[test]
fn no_part_of_the_monitor_imports_what_imports_it() {
    let rooms = [
        "",
        "claim",
        "plugins",
        "supervisor",
        "tasks",
        "workers",
        "workers/pool",
    ];
    let mut looked_at = 0;
    for room in rooms {
        let directory = host().join("monitor").join(room);
        let path: Vec<String> = ["monitor"]
            .into_iter()
            .chain(room.split('/').filter(|part| !part.is_empty()))
            .map(str::to_owned)
            .collect();
        let mut graph = siblings(&directory, &path);
        looked_at += graph.values().map(BTreeSet::len).sum::<usize>();
        // What imports nothing that is left is in no circle.
        loop {
            let left: BTreeSet<String> = graph.keys().cloned().collect();
            let before = graph.len();
            graph.retain(|_, imports| imports.iter().any(|import| left.contains(import)));
            if graph.len() == before {
                break;
            }
        }
        assert!(graph.is_empty(), "a circle in monitor/{room}: {graph:#?}");
    }
    assert!(looked_at > 60, "the imports were found");
}
