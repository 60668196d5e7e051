//! Tracing: messages that read alone, on stderr, with the values one would filter on as fields.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Sets tracing up once; `RUST_LOG` overrides the level.
pub fn init(debug: bool) {
    let level = if debug { "rework=debug" } else { "rework=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A second call in one process finds the first one's set-up, which is fine.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(coloured)
        .with_target(false)
        // Where nobody can read what we say, we go on without saying it; by default it would be
        // complained about on the same stderr, and that panics.
        .log_internal_errors(false)
        .try_init();
}
