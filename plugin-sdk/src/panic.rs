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
    /// The last panic of this thread, as the JSON that the host gets.
    static LAST: RefCell<Option<Value>> = const { RefCell::new(None) };
}

/// Calls `work`; if it panics, returns the panic as the JSON that the host gets.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Value> {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            remember(info);
            // Prints the usual lines on stderr, which are part of the task's log.
            previous(info);
        }));
    });
    LAST.take();
    // Unwind safety does not matter: everything that the operation used is dropped, and not used again.
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = words(payload.as_ref());
        // `resume_unwind` calls no hook, so the stored panic may be an earlier one that the operation has
        // caught.
        let told = LAST.take().filter(|told| told["payload"] == message);
        discard(payload);
        told.unwrap_or_else(|| json!({ "kind": "panic", "message": message, "location": null }))
    })
}

/// Drops a panic's payload, whose destructor may panic too; then the payload leaks.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(another) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(another);
    }
}

fn remember(info: &PanicHookInfo<'_>) {
    let message = words(info.payload());
    let location = info.location().map(ToString::to_string);
    if !logging::is_own() {
        // A thread that the operation started does not fail the task, but is worth a line in the log.
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
        // The runtime's message when a second panic aborts the process; the first panic is the more useful
        // one.
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
    // Reported at once: the process may end now (`panic = "abort"`, a panic in a destructor).
    if let Some((host, context)) = logging::current() {
        host.panicking()(context, failure.to_string().as_str().into());
    }
    LAST.set(Some(failure));
}

/// The frames of a backtrace from the panic to the operation, without frames of the runtime above and of
/// the SDK below; all frames if they have no names.
fn own_frames(backtrace: &str) -> &str {
    let mut at = 0;
    // The start and the name of each frame.
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
