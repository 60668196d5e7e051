//! The open spans of `tracing`, kept as the text that stands before the records inside them.

use crate::logging::Fields;
use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tracing_core::{
    Event, Metadata,
    span::{Attributes, Current, Id, Record},
};

struct Span {
    metadata: &'static Metadata<'static>,
    /// The fields of the span, as ` name=value` each.
    fields: String,
    parent: Option<u64>,
    /// How many handles and open children the span has; it is closed when none is left.
    holders: usize,
}

static SPANS: Mutex<Option<HashMap<u64, Span>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// The spans that this thread has entered, the innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn with_spans<T>(work: impl FnOnce(&mut HashMap<u64, Span>) -> T) -> T {
    let mut spans = SPANS.lock().unwrap_or_else(PoisonError::into_inner);
    work(spans.get_or_insert_with(HashMap::new))
}

fn innermost() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

/// Opens a span, as a child of the span that it names, or else of the current span of this thread.
pub(crate) fn open(attributes: &Attributes<'_>) -> Id {
    let parent = match attributes.parent() {
        Some(parent) => Some(parent.into_u64()),
        None if attributes.is_contextual() => innermost(),
        None => None,
    };
    let mut fields = Fields::default();
    attributes.record(&mut fields);
    let id = NEXT.fetch_add(1, Relaxed);
    with_spans(|spans| {
        if let Some(parent) = parent.and_then(|parent| spans.get_mut(&parent)) {
            parent.holders += 1;
        }
        let span = Span {
            metadata: attributes.metadata(),
            fields: fields.others,
            parent,
            holders: 1,
        };
        spans.insert(id, span);
    });
    Id::from_u64(id)
}

/// Adds fields to a span.
pub(crate) fn record(span: &Id, values: &Record<'_>) {
    let mut fields = Fields::default();
    values.record(&mut fields);
    with_spans(|spans| {
        if let Some(span) = spans.get_mut(&span.into_u64()) {
            span.fields.push_str(&fields.others);
        }
    });
}

pub(crate) fn enter(span: &Id) {
    ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
}

pub(crate) fn exit(span: &Id) {
    ENTERED.with_borrow_mut(|entered| {
        if let Some(at) = entered.iter().rposition(|id| *id == span.into_u64()) {
            entered.remove(at);
        }
    });
}

/// Counts another handle of a span.
pub(crate) fn hold(span: u64) {
    with_spans(|spans| {
        if let Some(span) = spans.get_mut(&span) {
            span.holders += 1;
        }
    });
}

/// Counts one handle less. Returns whether it was the last; then the span is closed, and releases its
/// parent.
pub(crate) fn release(span: u64) -> bool {
    with_spans(|spans| {
        let mut next = Some(span);
        let mut closed = false;
        while let Some(id) = next.take()
            && let Some(held) = spans.get_mut(&id)
        {
            held.holders = held.holders.saturating_sub(1);
            if held.holders == 0 {
                next = spans.remove(&id).and_then(|span| span.parent);
                closed |= id == span;
            }
        }
        closed
    })
}

/// The current span of this thread.
pub(crate) fn current() -> Current {
    innermost()
        .and_then(|id| with_spans(|spans| spans.get(&id).map(|span| (id, span.metadata))))
        .map_or_else(Current::none, |(id, metadata)| {
            Current::new(Id::from_u64(id), metadata)
        })
}

/// The names and fields of the spans around an event, the outermost first: `a{x=1}: b: `.
pub(crate) fn around(event: &Event<'_>) -> String {
    let mut next = match event.parent() {
        Some(parent) => Some(parent.into_u64()),
        None if event.is_contextual() => innermost(),
        None => None,
    };
    let mut names = Vec::new();
    with_spans(|spans| {
        while let Some(span) = next.and_then(|id| spans.get(&id)) {
            let name = span.metadata.name();
            names.push(match span.fields.trim_start() {
                "" => format!("{name}: "),
                fields => format!("{name}{{{fields}}}: "),
            });
            next = span.parent;
        }
    });
    names.reverse();
    names.concat()
}
