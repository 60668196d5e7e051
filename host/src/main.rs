//! The `rework` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    rework::internals::program::main(std::env::args_os().collect())
}
