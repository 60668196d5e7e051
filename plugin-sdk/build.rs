//! Hands on what only the build knows: the compiler, the target and the profile of the plugin.

use std::{env, process::Command};

#[expect(
    clippy::disallowed_methods,
    reason = "a build script asks the compiler who it is"
)]
fn main() {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(
            || "unknown".to_owned(),
            |version| version.trim().replace('"', "'"),
        );
    let of = |name| env::var(name).unwrap_or_default();
    println!("cargo::rustc-env=REWORK_RUSTC={version}");
    println!("cargo::rustc-env=REWORK_TARGET={}", of("TARGET"));
    println!("cargo::rustc-env=REWORK_PROFILE={}", of("PROFILE"));
    println!("cargo::rerun-if-changed=build.rs");
}
