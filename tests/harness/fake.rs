//! Files that are nearly plugins: shared libraries compiled from C, with notes as the SDK writes
//! them and one thing wrong.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A shared library about to be compiled.
#[derive(Debug)]
pub(crate) struct Fake {
    source: String,
    notes: usize,
    arguments: Vec<String>,
}

impl Fake {
    /// Of this C code, with nothing of a plugin.
    pub(crate) fn library(source: &str) -> Self {
        Self {
            source: format!("{source}\n"),
            notes: 0,
            arguments: Vec::new(),
        }
    }

    /// Of this C code, with a root module (that is none), the note of a plugin and that of an
    /// operation.
    pub(crate) fn plugin(source: &str) -> Self {
        Self::without_root(source).root()
    }

    /// The same, without the root module.
    pub(crate) fn without_root(source: &str) -> Self {
        Self::library(source)
            .note(1, &about("1.0"))
            .note(2, r#"{"name":"f","domain":"default"}"#)
    }

    /// Exports a symbol of the root module's name.
    pub(crate) fn root(mut self) -> Self {
        self.source += "int _1as_0lib_1header_0root_bmodule_bloader[64];\n";
        self
    }

    /// Adds a note of this kind.
    pub(crate) fn note(mut self, kind: u32, text: &str) -> Self {
        let padded = text.len().next_multiple_of(4);
        let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
        self.source += &format!(
            "__attribute__((section(\".note.rework\"), used, aligned(4))) static const struct {{ \
             unsigned namesz, descsz, type; char name[8]; unsigned char desc[{padded}]; }} note{} = \
             {{ 7, {}, {kind}, \"REWORK\", {{ {} }} }};\n",
            self.notes,
            text.len(),
            bytes.join(",")
        );
        self.notes += 1;
        self
    }

    /// An argument of the compiler.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Compiles it to `NAME.so` in a directory.
    pub(crate) fn build(&self, directory: &Path, name: &str) -> PathBuf {
        let c = directory.join(format!("{name}.c"));
        let so = directory.join(format!("{name}.so"));
        fs::write(&c, &self.source).expect("a file");
        compile(
            &[&["-shared", "-fPIC", "-o"], &[text(&so), text(&c)][..]].concat(),
            &self.arguments,
        );
        so
    }
}

/// The note of a plugin with this ABI.
pub(crate) fn about(abi: &str) -> String {
    format!(
        r#"{{"sdk":"9.9.9","abi":"{abi}","crate":"fake","version":"1.0.0","rustc":"cc","target":"x","panic":"unwind"}}"#
    )
}

/// Runs the C compiler.
pub(crate) fn compile(arguments: &[&str], more: &[String]) {
    let output = Command::new("cc")
        .args(arguments)
        .args(more)
        .output()
        .expect("a C compiler is installed: see `make setup`");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A copy of a file with one thing in it replaced, which must be there and stay as long as it was.
pub(crate) fn patched(original: &Path, copy: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut content = fs::read(original).expect("the original");
    let found = super::versions::replace_all(&mut content, from, to);
    assert!(found > 0, "there is something to replace");
    fs::write(copy, content).expect("a copy");
}
