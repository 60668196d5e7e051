//! Which refusals of contents the database knows, so that they are taken back when they concern nothing
//! that this host could run any more.

use std::collections::HashMap;

/// Which contents a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What the catalog names for this host.
    Registered,
    /// What other hosts have published.
    Offered,
}

#[derive(Debug)]
struct Note {
    hash: String,
    kind: Kind,
}

/// The refusals that were written to the database, by their path there.
#[derive(Debug, Default)]
pub(super) struct Notes {
    by_path: HashMap<String, Note>,
}

impl Notes {
    /// The refusal of this content is written down under this path.
    pub(super) fn add(&mut self, path: String, hash: &str, kind: Kind) {
        let hash = hash.to_owned();
        self.by_path.insert(path, Note { hash, kind });
    }

    /// Forgets the refusals of a kind that are not kept; answers their paths. `is_kept` is given the path and
    /// the hash.
    pub(super) fn forget(
        &mut self,
        kind: Kind,
        is_kept: impl Fn(&str, &str) -> bool,
    ) -> Vec<String> {
        self.by_path
            .extract_if(|path, note| note.kind == kind && !is_kept(path, &note.hash))
            .map(|(path, _)| path)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_kind_are_forgotten_once() {
        let mut notes = Notes::default();
        notes.add("/one.so".to_owned(), "1", Kind::Registered);
        notes.add("/two.so".to_owned(), "2", Kind::Registered);
        notes.add("published:two".to_owned(), "2", Kind::Offered);
        let kept = |path: &str, hash: &str| path == "/one.so" && hash == "1";
        assert_eq!(notes.forget(Kind::Registered, kept), ["/two.so"]);
        assert_eq!(notes.forget(Kind::Registered, kept), [""; 0]);
        assert_eq!(notes.forget(Kind::Offered, kept), ["published:two"]);
    }
}
