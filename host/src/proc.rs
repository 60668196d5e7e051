//! What the kernel tells in `/proc` about processes and about the files that are mapped into this one:
//! the one place that knows the formats. `descendants`, the embedded cluster, workers and monitors ask it.

use nix::unistd::Pid;
use std::io;

/// A process as `/proc/PID/stat` describes it; see proc_pid_stat(5).
#[derive(Debug)]
pub struct Stat {
    /// State and numbers, without the name of the process before them.
    fields: String,
}

impl Stat {
    /// Reads the description of a process.
    pub fn of(pid: i32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(text: &str) -> Option<Self> {
        // The name, in parentheses, may contain anything; the fields from the third one on follow the last
        // parenthesis.
        let (_, fields) = text.rsplit_once(')')?;
        Some(Self {
            fields: fields.trim().to_owned(),
        })
    }

    /// A field by its number in the manual page, from 3 on.
    fn field(&self, number: usize) -> Option<&str> {
        self.fields.split_whitespace().nth(number - 3)
    }

    /// The value of a numeric field by its number in the manual page, from 4 on.
    pub fn number(&self, number: usize) -> Option<u64> {
        self.field(number)?.parse().ok()
    }

    /// Whether the process runs: a zombie does not, it waits to be reaped.
    pub fn is_alive(&self) -> bool {
        self.field(3)
            .is_some_and(|state| state != "Z" && state != "X")
    }

    /// The parent of the process.
    pub fn parent(&self) -> Option<Pid> {
        self.field(4)?.parse().ok().map(Pid::from_raw)
    }
}

/// The command line of a process, its arguments separated by NUL; empty if it cannot be read.
pub fn command_line(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A part of a file that is mapped into this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: usize,
    /// The address after the last one.
    pub end: usize,
    /// Such as `r-xp`: readable, not writable, executable, private.
    pub permissions: String,
    /// Where in the file the part begins, in bytes.
    pub offset: u64,
    /// The path of the file.
    pub path: String,
}

/// The files that are mapped into this process; nothing if `/proc` cannot be read.
pub fn mapped_files() -> Vec<Mapping> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    mappings(&maps)
}

/// Reads the format of proc_pid_maps(5): `start-end permissions offset device inode path`. Memory that is
/// not of a file has no slash, and is left out.
fn mappings(maps: &str) -> Vec<Mapping> {
    let read = |line: &str| {
        let path = &line[line.find('/')?..];
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (permissions, offset) = (fields.next()?, fields.next()?);
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some(Mapping {
            start: address(start)?,
            end: address(end)?,
            permissions: permissions.to_owned(),
            offset: u64::from_str_radix(offset, 16).ok()?,
            path: path.to_owned(),
        })
    };
    maps.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_contain_anything() {
        let stat = Stat::parse("7 (a) Z 9) S 5 7 7 0").unwrap();
        assert!(stat.is_alive());
        assert_eq!(stat.parent(), Some(Pid::from_raw(5)));
        assert_eq!(stat.number(5), Some(7));
        assert_eq!(stat.number(24), None);
        assert!(!Stat::parse("7 (sh) Z 5 7").unwrap().is_alive());
        assert!(Stat::parse("").is_none());
    }

    #[test]
    fn this_process_is_alive_and_has_mapped_its_program() {
        let stat = Stat::of(Pid::this().as_raw()).unwrap();
        assert!(stat.is_alive());
        assert_eq!(stat.parent(), Some(Pid::parent()));
        let program = std::env::current_exe().unwrap();
        let files = mapped_files();
        assert!(files.iter().any(|file| program == *file.path), "{files:?}");
    }

    #[test]
    fn only_files_count_as_mappings() {
        let found = mappings(
            "2000-5000 r-xp 00001000 fe:00 7 /usr/bin/re work\n\
             9000-a000 rw-p 00000000 00:00 0 [heap]\n",
        );
        let [file] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(
            (file.start, file.end, file.offset),
            (0x2000, 0x5000, 0x1000)
        );
        assert_eq!(file.path, "/usr/bin/re work");
    }
}
