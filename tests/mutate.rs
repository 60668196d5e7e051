//! Thousands of damaged plugins: whatever the bytes are, inspection answers soon and does not crash,
//! and what it accepts is survived by the probe. Seeded, so that a failure can be repeated.

use crate::harness::standalone;
use rework::internals::plugin::{Inspection, inspect_content};
use std::{
    fs,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const DAMAGES: u64 = 4000;
/// So many of the accepted ones are loaded by a child.
const PROBED: usize = 48;
/// Far more than any takes, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(60);

/// SplitMix64: a sequence that is the same every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Where the things are that a host relies on before it loads a library; see elf(5).
struct Places {
    /// Tables of segments and sections, the notes, the dynamic section.
    sensitive: Vec<(usize, usize)>,
}

fn number(content: &[u8], at: usize, width: usize) -> usize {
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(&content[at..at + width]);
    usize::try_from(u64::from_le_bytes(bytes)).unwrap()
}

impl Places {
    fn of(content: &[u8]) -> Self {
        let (segments, count) = (number(content, 32, 8), number(content, 56, 2));
        let (sections, sections_count) = (number(content, 40, 8), number(content, 60, 2));
        let mut sensitive = vec![
            (0, 64),
            (segments, count * 56),
            (sections, sections_count * 64),
        ];
        for segment in 0..count {
            let at = segments + segment * 56;
            // PT_DYNAMIC, PT_NOTE
            if [2, 4].contains(&number(content, at, 4)) {
                sensitive.push((number(content, at + 8, 8), number(content, at + 32, 8)));
            }
        }
        for section in 0..sections_count {
            let at = sections + section * 64;
            // SHT_DYNSYM, SHT_GNU_verneed
            if [11, 0x6fff_fffe].contains(&number(content, at + 4, 4)) {
                sensitive.push((number(content, at + 24, 8), number(content, at + 32, 8)));
            }
        }
        sensitive.retain(|(_, length)| *length > 0);
        Self { sensitive }
    }

    /// A byte: mostly one that matters.
    fn pick(&self, random: &mut Random, size: usize) -> usize {
        if random.below(4) == 0 {
            return random.below(size);
        }
        let (start, length) = self.sensitive[random.below(self.sensitive.len())];
        start + random.below(length)
    }
}

/// Damages a plugin in one of the ways that happen, and some that do not.
fn damaged(original: &[u8], places: &Places, random: &mut Random) -> (String, Vec<u8>) {
    let size = original.len();
    let mut content = original.to_vec();
    let what = match random.below(6) {
        0 => {
            let at = places.pick(random, size);
            content[at] ^= 1 << random.below(8);
            format!("a bit of byte {at}")
        }
        1 => {
            let count = 1 + random.below(16);
            for _ in 0..count {
                let at = places.pick(random, size);
                content[at] = random.next() as u8;
            }
            format!("{count} bytes")
        }
        2 => {
            let length = random.below(size);
            content.truncate(length);
            format!("cut to {length}")
        }
        3 => {
            let length = 1 + random.below(4096);
            let (a, b) = (random.below(size - length), random.below(size - length));
            for at in 0..length {
                content.swap(a + at, b + at);
            }
            format!("blocks of {length} at {a} and {b}")
        }
        4 => {
            // The identification stays, or nothing else would be looked at.
            let end = 6 + random.below(58);
            for byte in &mut content[6..end] {
                *byte = random.next() as u8;
            }
            format!("a random header up to {end}")
        }
        _ => {
            let (start, length) = places.sensitive[random.below(places.sensitive.len())];
            let at = start + random.below(length) / 8 * 8;
            let value = match random.below(4) {
                0 => 0,
                1 => u64::MAX,
                2 => size as u64,
                _ => 1 << random.below(64),
            };
            let end = (at + 8).min(size);
            content[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            format!("the word at {at} is {value:#x}")
        }
    };
    (what, content)
}

/// Inspects on another thread, so that one that hangs is told.
fn inspected_all(original: &[u8]) -> Vec<(String, Vec<u8>, Inspection)> {
    let places = Places::of(original);
    let (sender, receiver) = mpsc::channel();
    let source = original.to_vec();
    let thread = thread::spawn(move || {
        for seed in 0..DAMAGES {
            let mut random = Random(seed);
            let (what, content) = damaged(&source, &places, &mut random);
            let what = format!("seed {seed}: {what}");
            sender.send(Err(what.clone())).unwrap();
            let result = inspect_content(&content, Path::new("x.so"));
            sender.send(Ok((what, content, result))).unwrap();
        }
    });
    let mut accepted = Vec::new();
    let mut current = String::new();
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(Err(what)) => current = what,
            Ok(Ok((what, content, Ok(inspection)))) => accepted.push((what, content, inspection)),
            Ok(Ok((what, _, Err(refusal)))) => {
                let text = refusal.to_string();
                assert!(
                    text.starts_with("x.so ") && !text.contains(['\0', '\n']),
                    "{what}: {text:?}"
                );
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("{current} hangs"),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    assert!(thread.join().is_ok(), "{current} crashes");
    accepted
}

#[test]
fn no_damage_crashes_the_inspection_or_passes_it_unseen() {
    // A plugin as people ship it.
    let file = standalone();
    let original = fs::read(&file).unwrap();
    let sound = inspect_content(&original, &file).unwrap();
    let begun = Instant::now();
    let accepted = inspected_all(&original);
    let refused = DAMAGES - accepted.len() as u64;
    eprintln!("{refused} of {DAMAGES} refused, in {:?}", begun.elapsed());
    assert!(refused > DAMAGES / 3, "{refused} of {DAMAGES} refused");
    let notes = note_places(&original);
    for (what, content, inspection) in &accepted {
        // Class, order and version; library; machine.
        let intact = |range: std::ops::Range<usize>| content[range.clone()] == original[range];
        assert!(
            intact(0..7) && intact(16..20),
            "{what}: its kind has changed"
        );
        assert_eq!(content.len(), original.len(), "{what}: its end is missing");
        // Who damages the text of a note so that it is still a note has written another one.
        let is_another = notes
            .iter()
            .any(|(start, length)| !intact(*start..start + length));
        let is_same = inspection.note == sound.note && inspection.operations == sound.operations;
        assert!(is_same || is_another, "{what}: accepted as {inspection:#?}");
    }
    assert!(accepted.len() > PROBED, "some are worth a probe");
    survived_by_the_probe(&accepted);
}

/// The segments with notes.
fn note_places(content: &[u8]) -> Vec<(usize, usize)> {
    let (segments, count) = (number(content, 32, 8), number(content, 56, 2));
    (0..count)
        .map(|segment| segments + segment * 56)
        .filter(|at| number(content, *at, 4) == 4)
        .map(|at| (number(content, at + 8, 8), number(content, at + 32, 8)))
        .collect()
}

fn survived_by_the_probe(accepted: &[(String, Vec<u8>, Inspection)]) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("x.so");
    let (mut loaded, mut refused) = (0, 0);
    for (what, content, _) in accepted.iter().step_by(accepted.len() / PROBED) {
        fs::write(&file, content).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_rework"))
            .args(["check-plugin", "--probe-timeout", "10s"])
            .arg(&file)
            .env("REWORK_STATE_DIR", directory.path())
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => loaded += 1,
            Some(1) => {
                refused += 1;
                assert!(complaint.starts_with("error: "), "{what}: {complaint}");
                assert!(!complaint.contains("panicked"), "{what}: {complaint}");
            }
            _ => panic!("{what}: {} {complaint}", output.status),
        }
    }
    eprintln!("{loaded} of those probed were loaded, {refused} refused");
    assert!(loaded > 0, "not every damage matters");
}
