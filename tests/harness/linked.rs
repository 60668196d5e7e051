//! Two plugins of one domain, `linked`, that harm each other in one process: each brings a library of
//! its own under the same SONAME, and the first one's turns off subnormal numbers when it is loaded. Besides,
//! each uses more than half of the static TLS that a process has for libraries loaded later.

use super::{
    built,
    fake::compile,
    plugins::{cargo, root, target},
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// Both; the operation `number_one` (or `number_two`) asks the plugin's own library which number it
/// has, `room_one` (or
/// `room_two`) how much static TLS that has, `quarter_one` (or `quarter_two`) answers a quarter of the smallest normal number.
pub(crate) fn linked() -> [PathBuf; 2] {
    static BUILT: OnceLock<()> = OnceLock::new();
    let outputs = ["liblinked_one.so", "liblinked_two.so"].map(|name| target().join(name));
    let build = || {
        let workspace = target().parent().expect("target").join("linked");
        for (word, number) in [("one", 1), ("two", 2)] {
            write_package(&workspace, word, number);
        }
        write(
            &workspace.join("Cargo.toml"),
            "[workspace]\nresolver = \"3\"\nmembers = [\"one\", \"two\"]\n",
        );
        if !workspace.join("Cargo.lock").exists() {
            fs::copy(root().join("Cargo.lock"), workspace.join("Cargo.lock"))
                .expect("our lockfile");
        }
        let target_dir = target().parent().expect("target").to_owned();
        let target_dir = target_dir.to_str().expect("a path in UTF-8");
        let mut arguments = vec!["build", "--offline", "--target-dir", target_dir];
        if target().ends_with("release") {
            arguments.push("--release");
        }
        cargo(&arguments, &workspace);
    };
    BUILT.get_or_init(|| built::once("linked", &outputs, build));
    outputs
}

fn write_package(workspace: &Path, word: &str, number: u32) {
    let package = workspace.join(word);
    let library = package.join("library");
    fs::create_dir_all(&library).expect("a directory");
    let constructor = if number == 1 {
        "#ifdef __SSE__\n#include <xmmintrin.h>\n__attribute__((constructor)) static void flush(void) \
         { _mm_setcsr(_mm_getcsr() | 0x8040); }\n#endif\n"
    } else {
        ""
    };
    let source = format!("{constructor}int common_number(void) {{ return {number}; }}\n");
    let file = library.join("common.c");
    write(&file, &source);
    let [file, output] =
        [file, library.join("libcommon.so.1")].map(|path| path.display().to_string());
    let arguments = ["-shared", "-fPIC", "-Wl,-soname,libcommon.so.1", "-o"];
    compile(&arguments, &[output, file]);
    let link = library.join("libcommon.so");
    if !link.exists() {
        std::os::unix::fs::symlink("libcommon.so.1", link).expect("a link");
    }
    // glibc keeps 1664 bytes for all libraries that are loaded later and want their place in static TLS.
    let file = library.join(format!("room_{word}.c"));
    write(
        &file,
        &format!(
            "static __attribute__((tls_model(\"initial-exec\"))) __thread volatile char room[1000];\n\
             int room_of_{word}(void) {{ room[999] = 1; return sizeof room; }}\n"
        ),
    );
    let output = library.join(format!("libroom_{word}.so"));
    compile(
        &["-shared", "-fPIC", "-o"],
        &[output, file].map(|path| path.display().to_string()),
    );
    let sdk = root().join("plugin-sdk");
    write(
        &package.join("Cargo.toml"),
        &format!(
            "[package]\nname = \"linked_{word}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[lib]\n\
             crate-type = [\"cdylib\"]\n\n[dependencies]\nrework-plugin = {{ path = {sdk:?} }}\n"
        ),
    );
    write(
        &package.join("build.rs"),
        &format!(
            "fn main() {{\n    println!(\"cargo:rustc-link-search=native={0}\");\n    \
             println!(\"cargo:rustc-link-arg=-Wl,-rpath,{0}\");\n}}\n",
            library.display()
        ),
    );
    write(
        &package.join("src/lib.rs"),
        &format!(
            "//! Built by the tests.\nuse rework_plugin::prelude::*;\n\n#[link(name = \"common\")]\n\
             unsafe extern \"C\" {{\n    safe fn common_number() -> i32;\n}}\n\n\
             #[link(name = \"room_{word}\")]\n\
             unsafe extern \"C\" {{\n    safe fn room_of_{word}() -> i32;\n}}\n\n\
             /// How much static TLS its library has.\n#[operation(domain = \"linked\")]\n\
             fn room_{word}() -> i32 {{\n    room_of_{word}()\n}}\n\n\
             /// Which library it has.\n#[operation(domain = \"linked\")]\nfn number_{word}() -> i32 {{\n    \
             common_number()\n}}\n\n\
             /// A subnormal number.\n#[operation(domain = \"linked\")]\nfn quarter_{word}() -> String {{\n    \
             let smallest = std::hint::black_box(f64::MIN_POSITIVE);\n    \
             format!(\"{{:e}}\", smallest / std::hint::black_box(4.0))\n}}\n\nrework_plugin::export!();\n"
        ),
    );
}

/// Only what differs, so that cargo builds only what has changed.
fn write(file: &Path, text: &str) {
    if fs::read_to_string(file).is_ok_and(|found| found == text) {
        return;
    }
    fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
    fs::write(file, text).expect("a file");
}
