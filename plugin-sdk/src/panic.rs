//! Panics: remembered where they happen, told to the host at once, and stopped before they reach
//! a frame that cannot unwind.

use crate::logging;
use serde_json::{Value, json};
use std::{
    any::Any,
    backtrace::Backtrace,
    cell::RefCell,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Once,
};

thread_local! {
    /// The last panic of this thread, as JSON for the host.
    static LAST: RefCell<Option<Value>> = const { RefCell::new(None) };
}

/// Runs something that may panic; what the host is to be told if it did.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Value> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            remember(info);
            // The usual lines on stderr, which belong to the task's log.
            previous(info);
        }));
    });
    LAST.take();
    // What the operation was working on is dropped with it; nothing of it is used again.
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = words(payload.as_ref());
        // `resume_unwind` calls no hook: what is remembered may be an earlier panic, which the
        // operation has caught.
        let told = LAST.take().filter(|told| told["payload"] == message);
        discard(payload);
        told.unwrap_or_else(|| json!({ "kind": "panic", "message": message, "location": null }))
    })
}

/// Drops a payload, which is the author's and may panic again; then it leaks.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
}

fn remember(info: &PanicHookInfo<'_>) {
    let message = words(info.payload());
    let location = info.location().map(ToString::to_string);
    if !logging::is_own() {
        // A thread that the operation started: its own affair, but worth a line.
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?");
        let place = location.unwrap_or_default();
        logging::forward(
            1,
            "panic",
            &format!("thread `{name}` panicked at {place}: {message}"),
        );
        return;
    }
    let failure = match LAST.take() {
        // What the runtime says when a second panic leaves it no way out: the panic that led here
        // tells more.
        Some(mut earlier) if message.starts_with("panic in a ") => {
            let told = earlier["message"].as_str().unwrap_or_default();
            earlier["message"] = format!("{told} ({message})").into();
            earlier["payload"] = message.into();
            earlier
        }
        _ => json!({
            "kind": "panic",
            "message": message,
            "payload": message,
            "location": location,
            "backtrace": own_frames(&Backtrace::force_capture().to_string()),
        }),
    };
    // The text survives even if the process does not (`panic = "abort"`, a panic in a destructor).
    if let Some((host, context)) = logging::current() {
        host.panicking()(context, failure.to_string().as_str().into());
    }
    LAST.set(Some(failure));
}

/// The frames of a backtrace from the panic to the operation, without those of the runtime above and
/// of ours below; all of them where they have no names.
fn own_frames(backtrace: &str) -> &str {
    let mut at = 0;
    // Where each frame begins, and what it is called.
    let frames: Vec<(usize, &str)> = backtrace
        .split_inclusive('\n')
        .filter_map(|line| {
            let start = at;
            at += line.len();
            let (number, name) = line.trim().split_once(": ")?;
            number.parse::<u32>().ok().map(|_| (start, name))
        })
        .collect();
    let is_runtime =
        |name: &str| name.contains("rust_begin_unwind") || name.starts_with("core::panicking::");
    let first = frames
        .iter()
        .skip_while(|(_, name)| !name.contains("__rust_end_short_backtrace"))
        .skip(1)
        .find(|(_, name)| !is_runtime(name));
    let last = frames
        .iter()
        .find(|(_, name)| name.starts_with("rework_plugin::export::run"));
    let from = first.map_or(0, |(start, _)| *start);
    let to = last.map_or(backtrace.len(), |(start, _)| *start);
    backtrace
        .get(from..to)
        .filter(|own| !own.is_empty())
        .unwrap_or(backtrace)
}

fn words(payload: &(dyn Any + Send)) -> String {
    match (
        payload.downcast_ref::<&str>(),
        payload.downcast_ref::<String>(),
    ) {
        (Some(text), _) => (*text).to_owned(),
        (None, Some(text)) => text.clone(),
        (None, None) => "a panic without a message".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_shows_what_the_operation_did() {
        let whole = "   0: remember
             at panic.rs:78:26
   1: std::sys::backtrace::__rust_end_short_backtrace::<x>
   2: __rustc::rust_begin_unwind
   3: core::panicking::panic_fmt
   4: core::option::expect_failed
   5: mine::inner
             at lib.rs:46:20
   6: mine::_::run::{{closure}}
   7: rework_plugin::export::run::{{closure}}
   8: main
";
        let own = own_frames(whole);
        assert!(own.starts_with("   4: core::option"), "{own}");
        assert!(own.ends_with("6: mine::_::run::{{closure}}\n"), "{own}");
        for nameless in [
            "",
            "   0: <unknown>\n   1: <unknown>\n",
            "disabled backtrace",
        ] {
            assert_eq!(own_frames(nameless), nameless);
        }
    }
}
