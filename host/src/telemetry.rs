//! Tracing: messages on stderr that can be read alone, with fields for the values one would filter on.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Installs the tracing subscriber once; `RUST_LOG` overrides the level.
pub fn init(debug: bool) {
    let level = if debug { "rework=debug" } else { "rework=info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A second call in one process keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(coloured)
        .with_target(false)
        // If stderr cannot be written to, messages are dropped. By default the subscriber would report that
        // on the same stderr, and panic.
        .log_internal_errors(false)
        .try_init();
}
