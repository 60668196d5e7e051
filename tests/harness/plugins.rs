//! The example plugins as real `.so` files, each built once per run of the tests.

use super::built;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The workspace.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the host is a member of the workspace")
}

/// Where this test binary was built: `target/debug` or `target/release`.
pub(super) fn target() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_rework"));
    binary
        .parent()
        .expect("a binary is in a directory")
        .to_owned()
}

/// Runs cargo in a directory.
pub(super) fn cargo(arguments: &[&str], directory: &Path) {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Copies the binary. Another process does: while this one has the copy open for writing, a thread that
/// starts a program hands the descriptor on, and a file that somebody may write cannot be run (`ETXTBSY`).
pub(crate) fn copy_binary(to: &Path) {
    let status = Command::new("cp")
        .args([env!("CARGO_BIN_EXE_rework").as_ref(), to])
        .status();
    assert!(status.expect("cp runs").success());
}

fn workspace_plugin(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let all = ["hello", "report", "misbehaving"];
        let outputs = all.map(|name| target().join(format!("lib{name}.so")));
        built::once("examples", &outputs, || {
            let mut arguments = vec!["build", "-p", "hello", "-p", "report", "-p", "misbehaving"];
            if target().ends_with("release") {
                arguments.push("--release");
            }
            cargo(&arguments, root());
        });
    });
    target().join(format!("lib{name}.so"))
}

/// The quick start.
pub(crate) fn hello() -> PathBuf {
    workspace_plugin("hello")
}

/// A real job on a real file.
pub(crate) fn report() -> PathBuf {
    workspace_plugin("report")
}

/// Everything that can go wrong.
pub(crate) fn misbehaving() -> PathBuf {
    workspace_plugin("misbehaving")
}

/// The same, by an author who has panics end the process.
pub(crate) fn misbehaving_aborts() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let target = target().parent().expect("target").join("abort");
        let target_dir = target.to_str().expect("a path in UTF-8");
        let panic = r#"profile.dev.panic="abort""#;
        let output = target.join("debug/libmisbehaving.so");
        built::once("misbehaving_aborts", std::slice::from_ref(&output), || {
            let package = ["build", "-p", "misbehaving", "--config", panic];
            cargo(
                &[&package[..], &["--target-dir", target_dir]].concat(),
                root(),
            );
        });
        output
    });
    built.clone()
}

/// A stranger's: outside the workspace, with a lockfile and a release profile of its own (fat LTO).
pub(crate) fn standalone() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let target = target().parent().expect("target").join("standalone");
        let directory = root().join("example-plugins/standalone");
        let target_dir = target.to_str().expect("a path in UTF-8");
        let output = target.join("release/libstandalone.so");
        built::once("standalone", std::slice::from_ref(&output), || {
            cargo(
                &["build", "--release", "--locked", "--target-dir", target_dir],
                &directory,
            );
        });
        output
    });
    built.clone()
}

/// The quick start, to be linked with other things.
pub(super) fn hello_archive() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let output = target().join("libhello.a");
        built::once("hello_archive", std::slice::from_ref(&output), || {
            let mut arguments = vec!["rustc", "-p", "hello", "--lib", "--crate-type", "staticlib"];
            if target().ends_with("release") {
                arguments.push("--release");
            }
            cargo(&arguments, root());
        });
        output
    });
    built.clone()
}

/// The quick start as a plugin that is linked with what a test brings: C code, and arguments of the
/// linker.
pub(crate) fn hello_with(so: &Path, source: &str, arguments: &[String]) {
    let archive = hello_archive();
    let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let c = so.with_extension("c");
    std::fs::write(&c, source).expect("a file");
    let (so, c, archive) = (text(so), text(&c), text(&archive));
    let own = [
        "-shared",
        "-fPIC",
        "-o",
        &so,
        &c,
        "-Wl,--whole-archive",
        &archive,
    ];
    let system = [
        "-Wl,--no-whole-archive",
        "-lgcc_s",
        "-lutil",
        "-lrt",
        "-lpthread",
        "-lm",
        "-ldl",
    ];
    let more: Vec<String> = system
        .map(str::to_owned)
        .into_iter()
        .chain(arguments.to_vec())
        .collect();
    super::fake::compile(&own, &more);
}
