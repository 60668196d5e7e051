//! What a plugin says of itself in an ELF note, put together at compile time, so that a host can
//! read it without running a byte of the plugin.

/// One note of the section `.note.rework`; see elf(5), "Notes". `N` is the length of its text in bytes,
/// rounded up to a multiple of four.
#[repr(C, align(4))]
#[derive(Debug)]
pub struct Note<const N: usize> {
    name_size: u32,
    text_size: u32,
    kind: u32,
    name: [u8; 8],
    text: [u8; N],
}

impl<const N: usize> Note<N> {
    /// A note of this kind (1: the plugin, 2: an operation); its text is JSON that consists of these parts.
    pub const fn new(kind: u32, parts: &[&str]) -> Self {
        Self {
            name_size: 7,
            text_size: length(parts) as u32,
            kind,
            name: *b"REWORK\0\0",
            text: concat(parts),
        }
    }
}

/// The length of all parts together, in bytes.
pub const fn length(parts: &[&str]) -> usize {
    let (mut total, mut part) = (0, 0);
    while part < parts.len() {
        total += parts[part].len();
        part += 1;
    }
    total
}

/// [`length`], rounded up to a multiple of four.
pub const fn padded(parts: &[&str]) -> usize {
    length(parts).next_multiple_of(4)
}

/// The parts, one after the other, followed by zeros.
pub const fn concat<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut bytes = [0; N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let from = parts[part].as_bytes();
        let mut byte = 0;
        while byte < from.len() {
            bytes[at] = from[byte];
            at += 1;
            byte += 1;
        }
        part += 1;
    }
    bytes
}

/// The text that [`concat`] has composed.
pub const fn text(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("whole strings, one after the other, are a string"),
    }
}

/// `true` or `false`, as JSON.
pub const fn boolean(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

/// Fails to compile if a literal of this JSON type cannot be a default or a choice of a field of this type.
pub const fn check_literal(literal: &str, field: &str) {
    let fits = match literal.as_bytes() {
        b"string" => matches!(field.as_bytes(), b"string" | b"datetime" | b"moment"),
        literal => is_same(literal, field.as_bytes()),
    };
    assert!(
        fits,
        "a value of this type cannot be the default or a choice of this field"
    );
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}
