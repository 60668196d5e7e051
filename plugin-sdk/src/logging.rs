//! The bridges from `log` and `tracing` to the host. Each plugin has its own copy of both crates'
//! statics, so they are installed inside the plugin, at its first task.

use crate::{
    abi::{Context, HostRef},
    spans,
};
use std::{
    cell::Cell,
    fmt::Write as _,
    sync::{
        Once, PoisonError, RwLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
};
use tracing_core::{
    Event, Interest, Metadata,
    field::{Field, Visit},
    span,
};

/// The lowest level that any task wants, 0 (off) to 5 (trace).
static LEVEL: AtomicU8 = AtomicU8::new(0);
/// The task that records of threads without a task of their own belong to: the running task, or the last
/// one.
static LAST: RwLock<Option<(HostRef, Context)>> = RwLock::new(None);

thread_local! {
    /// The task of this thread; tests run several at once.
    static OWN: Cell<Option<(HostRef, Context)>> = const { Cell::new(None) };
}

/// Notes that this thread begins to run a task.
pub(crate) fn begin(host: HostRef, context: Context, level: u8) {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        // Fails if the plugin has installed a logger of its own, which then stays.
        let _ = log::set_logger(&Bridge);
        let _ = tracing_core::dispatcher::set_global_default(tracing_core::Dispatch::new(Bridge));
    });
    OWN.set(Some((host, context)));
    *LAST.write().unwrap_or_else(PoisonError::into_inner) = Some((host, context));
    LEVEL.store(level, Relaxed);
    log::set_max_level(match level {
        0 => log::LevelFilter::Off,
        1 => log::LevelFilter::Error,
        2 => log::LevelFilter::Warn,
        3 => log::LevelFilter::Info,
        4 => log::LevelFilter::Debug,
        _ => log::LevelFilter::Trace,
    });
}

/// Notes that this thread's task has ended.
pub(crate) fn end() {
    OWN.set(None);
}

/// The task of this thread, or the last one.
pub(crate) fn current() -> Option<(HostRef, Context)> {
    OWN.get()
        .or_else(|| *LAST.read().unwrap_or_else(PoisonError::into_inner))
}

/// Whether this thread runs a task itself.
pub(crate) fn is_own() -> bool {
    OWN.get().is_some()
}

/// Passes a record to the host.
pub(crate) fn forward(level: u8, target: &str, message: &str) {
    if let Some((host, context)) = current() {
        host.log()(context, level, target.into(), message.into());
    }
}

struct Bridge;

impl log::Log for Bridge {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() as u8 <= LEVEL.load(Relaxed)
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            forward(
                record.level() as u8,
                record.target(),
                &record.args().to_string(),
            );
        }
    }

    fn flush(&self) {}
}

fn number(level: &tracing_core::Level) -> u8 {
    match *level {
        tracing_core::Level::ERROR => 1,
        tracing_core::Level::WARN => 2,
        tracing_core::Level::INFO => 3,
        tracing_core::Level::DEBUG => 4,
        tracing_core::Level::TRACE => 5,
    }
}

impl tracing_core::Subscriber for Bridge {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // Not cached, because the level differs from task to task.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(metadata.level()) <= LEVEL.load(Relaxed)
    }

    fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
        spans::open(attributes)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        spans::record(span, values);
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let text = format!(
            "{}{}{}",
            spans::around(event),
            fields.message,
            fields.others
        );
        forward(number(metadata.level()), metadata.target(), text.trim_end());
    }

    fn enter(&self, span: &span::Id) {
        spans::enter(span);
    }

    fn exit(&self, span: &span::Id) {
        spans::exit(span);
    }

    fn clone_span(&self, span: &span::Id) -> span::Id {
        spans::hold(span.into_u64());
        span.clone()
    }

    fn try_close(&self, span: span::Id) -> bool {
        spans::release(span.into_u64())
    }

    fn current_span(&self) -> span::Current {
        spans::current()
    }
}

/// The message of an event, and its other fields as ` name=value`.
#[derive(Default)]
pub(crate) struct Fields {
    pub(crate) message: String,
    pub(crate) others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.others, " {name}={value:?}"),
        };
        written.expect("writing to a string cannot fail");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let written = match field.name() {
            "message" => write!(self.message, "{value}"),
            name => write!(self.others, " {name}={value:?}"),
        };
        written.expect("writing to a string cannot fail");
    }
}
