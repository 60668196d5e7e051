//! Plugins built with an SDK of another plugin ABI: copies of ours, changed as they were or will be.
//! Each is a workspace of its own below `target/`, which shares what it depends on with ours.

use super::{
    built,
    plugins::{cargo, root, target},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Text of a file of the SDK, and what stands there instead; it must be there once.
type Patch = (&'static str, &'static str, &'static str);

/// The last field of `Host` today.
const LAST_FIELD: &str = "    pub schedule_raw:
        extern \"C\" fn(Context, request: RStr<'_>, input: RSlice<'_, u8>) -> RResult<i64, RString>,
}
";

/// A minor before `Host::schedule_raw`.
const AS_OF_1_0: &[Patch] = &[
    (
        "src/abi.rs",
        "pub const ABI_MINOR: u32 = 1;",
        "pub const ABI_MINOR: u32 = 0;",
    ),
    (
        "src/abi.rs",
        "ABI_VERSION: &str = \"1.1\"",
        "ABI_VERSION: &str = \"1.0\"",
    ),
    ("src/abi.rs", LAST_FIELD, "}\n"),
    (
        "src/abi.rs",
        "    /// Like [`Host::schedule`], with a raw input.\n",
        "",
    ),
    (
        "src/task.rs",
        "self.host.schedule_raw()",
        "None::<extern \"C\" fn(Context, abi_stable::std_types::RStr<'_>, \
         abi_stable::std_types::RSlice<'_, u8>) -> \
         abi_stable::std_types::RResult<i64, abi_stable::std_types::RString>>",
    ),
    (
        "src/testing.rs",
        "        fail,\n        schedule_raw,\n",
        "        fail,\n",
    ),
];

/// A minor that does not exist yet: each of the three types has grown.
const AS_OF_1_2: &[Patch] = &[
    (
        "src/abi.rs",
        "pub const ABI_MINOR: u32 = 1;",
        "pub const ABI_MINOR: u32 = 2;",
    ),
    (
        "src/abi.rs",
        "ABI_VERSION: &str = \"1.1\"",
        "ABI_VERSION: &str = \"1.2\"",
    ),
    (
        "src/abi.rs",
        LAST_FIELD,
        "    pub schedule_raw:
        extern \"C\" fn(Context, request: RStr<'_>, input: RSlice<'_, u8>) -> RResult<i64, RString>,
    /// Later.
    pub whisper: extern \"C\" fn(Context) -> u32,
}
",
    ),
    (
        "src/abi.rs",
        "    pub operations: extern \"C\" fn() -> RVec<OperationRef>,\n",
        "    pub operations: extern \"C\" fn() -> RVec<OperationRef>,\n    /// Later.\n    pub \
         licence: RStr<'static>,\n",
    ),
    (
        "src/abi.rs",
        "    pub run: extern \"C\" fn(host: HostRef, context: Context) -> i32,\n",
        "    pub run: extern \"C\" fn(host: HostRef, context: Context) -> i32,\n    /// Later.\n    \
         pub colour: u64,\n",
    ),
    (
        "src/export.rs",
        "        operations,\n    });",
        "        operations,\n        licence: RStr::from_str(\"MIT\"),\n    });",
    ),
    (
        "src/export.rs",
        "    std_types::RVec,\n",
        "    std_types::{RStr, RVec},\n",
    ),
    (
        "src/export.rs",
        "                run: operation.run,\n",
        "                run: operation.run,\n                colour: 7,\n",
    ),
    (
        "src/task.rs",
        "    pub(crate) fn log_level(&self)",
        "    /// Later.\n    pub fn whisper(&self) -> Result<u32> {\n        let whisper = \
         self.host.whisper();\n        let whisper = whisper.ok_or_else(|| lacking(\"whisper\", \
         \"1.2\"))?;\n        Ok(whisper(self.context))\n    }\n\n    pub(crate) fn log_level(&self)",
    ),
    (
        "src/testing.rs",
        "        fail,\n        schedule_raw,\n",
        "        fail,\n        schedule_raw,\n        whisper,\n",
    ),
    (
        "src/testing.rs",
        "extern \"C\" fn capture(_: Context,",
        "extern \"C\" fn whisper(_: Context) -> u32 {\n    1\n}\n\nextern \"C\" fn capture(_: Context,",
    ),
];

/// What every version can do.
const PLAIN: &str = r#"//! Built by the tests.
use rework_plugin::prelude::*;

/// Twice as much.
#[operation(domain = "abi")]
fn twice(task: &mut Task, n: i64) -> Result<i64> {
    println!("twice {n}");
    task.progress(0.5, "half");
    Ok(2 * n)
}

/// Panics.
#[operation(domain = "abi")]
fn panics() {
    panic!("as ever");
}

/// Queues another task.
#[operation(domain = "abi")]
fn queue(task: &mut Task) -> Result<i64> {
    task.schedule("twice").input(json!({"n": 4})).send()
}

/// Queues another task with a raw input.
#[operation(domain = "abi")]
fn queue_raw(task: &mut Task) -> Result<i64> {
    task.schedule("reverse_bytes").raw_input(*b"abc").send()
}

rework_plugin::export!();
"#;

/// Uses what is new, if it is there.
const CURIOUS: &str = r#"
/// Asks for what a host may not have.
#[operation(domain = "abi")]
fn whisper(task: &mut Task) -> Result<u32> {
    task.whisper()
}
"#;

/// Cannot do without it.
const DEMANDING: &str = r#"
/// Cannot do without.
#[operation(domain = "abi", requires = "1.2")]
fn must_whisper(task: &mut Task) -> Result<u32> {
    task.whisper()
}
"#;

/// A plugin as of plugin ABI 1.0.
pub(crate) fn as_of_1_0() -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let plugin = target().join("libearlier.so");
    BUILT.get_or_init(|| {
        built::once("as_of_1_0", std::slice::from_ref(&plugin), || {
            build("as_of_1_0", AS_OF_1_0, &[("earlier", PLAIN.to_owned())]);
        });
    });
    plugin
}

/// Plugins as of plugin ABI 1.2: one that runs on every host, and one that says that it does not.
pub(crate) fn as_of_1_2() -> (PathBuf, PathBuf) {
    static BUILT: OnceLock<()> = OnceLock::new();
    let outputs = ["liblater.so", "libdemanding.so"].map(|name| target().join(name));
    BUILT.get_or_init(|| {
        built::once("as_of_1_2", &outputs, || {
            let curious = format!("{PLAIN}{CURIOUS}");
            let demanding = format!("{curious}{DEMANDING}");
            let plugins = [("later", curious), ("demanding", demanding)];
            build("as_of_1_2", AS_OF_1_2, &plugins);
        });
    });
    outputs.into()
}

fn build(name: &str, patches: &[Patch], plugins: &[(&str, String)]) {
    let target = target();
    let target = target.parent().expect("target");
    let workspace = target.join("abi").join(name);
    // By a name of its own: cargo tells packages apart by their place in their workspace.
    let sdk = format!("sdk_{name}");
    copy_sdk(&workspace.join(&sdk), patches);
    let ours = fs::read_to_string(root().join("Cargo.toml")).expect("our manifest");
    let (_, shared) = ours
        .split_once("exclude = [\"example-plugins/standalone\"]")
        .expect("the members end there");
    let members: Vec<String> = plugins
        .iter()
        .map(|(name, _)| format!("{name:?}"))
        .collect();
    let members = members.join(", ");
    let manifest = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{sdk:?}, \"{sdk}/macros\", {members}]\n{}",
        shared.replace("path = \"plugin-sdk", &format!("path = \"{sdk}"))
    );
    write(&workspace.join("Cargo.toml"), &manifest);
    if !workspace.join("Cargo.lock").exists() {
        fs::copy(root().join("Cargo.lock"), workspace.join("Cargo.lock")).expect("our lockfile");
    }
    let mut arguments = vec!["build", "--offline", "--target-dir"];
    arguments.push(target.to_str().expect("a path in UTF-8"));
    for (name, source) in plugins {
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\n\
             crate-type = [\"cdylib\"]\n\n[dependencies]\nrework-plugin.workspace = true\n"
        );
        write(&workspace.join(name).join("Cargo.toml"), &manifest);
        write(&workspace.join(name).join("src/lib.rs"), source);
        arguments.extend(["-p", name]);
    }
    if super::plugins::target().ends_with("release") {
        arguments.push("--release");
    }
    cargo(&arguments, &workspace);
}

fn copy_sdk(to: &Path, patches: &[Patch]) {
    let sdk = root().join("plugin-sdk");
    let mut left = patches.to_vec();
    for file in files_below(&sdk) {
        let name = file.strip_prefix(&sdk).expect("it is below");
        if name.starts_with("tests") {
            continue;
        }
        let mut text = fs::read_to_string(&file).expect("a source");
        left.retain(|(place, from, instead)| {
            if Path::new(place) != name {
                return true;
            }
            let found = text.matches(from).count();
            assert_eq!(
                found, 1,
                "{place} has changed: adapt `{from}` in tests/harness/sdk.rs"
            );
            text = text.replace(from, instead);
            false
        });
        write(&to.join(name), &text);
    }
    assert!(left.is_empty(), "no such files: {left:?}");
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

/// Only what differs, so that cargo builds only what has changed.
fn write(file: &Path, text: &str) {
    if fs::read_to_string(file).is_ok_and(|found| found == text) {
        return;
    }
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    fs::write(file, text).expect("a file");
}
