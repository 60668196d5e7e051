//! Reads the headers of a file before anything of it runs: whether it is a shared library that this host
//! can load, which glibc it needs, and its notes. [`mod@super::inspect`] calls this, and interprets the
//! notes.

use object::{
    NativeEndian,
    elf::{self, FileHeader64, Machine},
    read::elf::{Dyn, FileHeader, NoteIterator, ProgramHeader, SectionHeader, Sym},
};
use thiserror::Error;

/// Why a file is not a shared library for this host. Messages follow the file's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ElfError {
    /// The file is not an ELF file.
    #[error("is {what}, not a plugin (expected an ELF shared library, .so)")]
    Other {
        /// What the file looks like.
        what: &'static str,
    },
    /// The file is an executable.
    #[error(
        "is a program, not a plugin: set crate-type = [\"cdylib\"] under [lib] in its Cargo.toml"
    )]
    Program,
    /// The end of the file is missing.
    #[error("is cut short: {size} bytes, its headers announce {announced} (an interrupted copy?)")]
    CutShort {
        /// The size of the file.
        size: u64,
        /// The size that its headers announce.
        announced: u64,
    },
    /// The library is for another processor.
    #[error("was built for {theirs}, but this host is {ours}")]
    Architecture {
        /// The processor of the library.
        theirs: String,
        /// The processor of this host.
        ours: &'static str,
    },
    /// The headers contradict each other.
    #[error("is damaged: {reason}")]
    Damaged {
        /// What is wrong with the headers.
        reason: String,
    },
}

/// A shared library for this host.
#[derive(Debug, Default)]
pub(super) struct Library<'data> {
    /// The type and content of each note with the owner that was asked for.
    pub(super) notes: Vec<Note<'data>>,
    /// The newest version of glibc whose symbols the library needs.
    pub(super) glibc: Option<(u32, u32)>,
    /// Whether the library exports the root module of a plugin; `None` without a section table.
    pub(super) exports_root: Option<bool>,
}

type Header = FileHeader64<NativeEndian>;

const ENDIAN: NativeEndian = NativeEndian;

/// Reads a file and its notes of this owner.
pub(super) fn read<'data>(data: &'data [u8], owner: &[u8]) -> Result<Library<'data>, ElfError> {
    is_elf(data)?;
    is_ours(data)?;
    is_whole(data)?;
    let header = Header::parse(data).map_err(damaged)?;
    is_library(header, data)?;
    Ok(Library {
        notes: notes(header, data, owner)?,
        glibc: glibc(header, data),
        exports_root: exports(header, data, super::load::ROOT_SYMBOL.as_bytes()),
    })
}

fn damaged(error: object::read::Error) -> ElfError {
    ElfError::Damaged {
        reason: error.to_string(),
    }
}

fn is_elf(data: &[u8]) -> Result<(), ElfError> {
    const KNOWN: [(&[u8], &str); 6] = [
        (b"!<arch>\n", "a static library (an archive, .a)"),
        (b"!<thin>\n", "a static library (an archive, .a)"),
        (b"\0asm", "a WebAssembly module"),
        (b"MZ", "a Windows program or library"),
        (b"\xcf\xfa\xed\xfe", "a macOS program or library"),
        (b"\x1f\x8b", "a compressed file (gzip)"),
    ];
    if data.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let known = KNOWN.iter().find(|(magic, _)| data.starts_with(magic));
    let what = match known {
        Some((_, what)) => what,
        None if is_text(data) => "a text file",
        None => "some other kind of file",
    };
    Err(ElfError::Other { what })
}

fn is_text(data: &[u8]) -> bool {
    let beginning = &data[..data.len().min(512)];
    let valid = match str::from_utf8(beginning) {
        Ok(_) => true,
        // The beginning of the file may end within a character.
        Err(error) => error.error_len().is_none(),
    };
    valid && !beginning.contains(&0)
}

const OURS: (Machine, &str) = if cfg!(target_arch = "x86_64") {
    (elf::EM_X86_64, "x86-64")
} else if cfg!(target_arch = "aarch64") {
    (elf::EM_AARCH64, "aarch64")
} else if cfg!(target_arch = "riscv64") {
    (elf::EM_RISCV, "riscv64")
} else if cfg!(target_arch = "powerpc64") {
    (elf::EM_PPC64, "powerpc64")
} else {
    (elf::EM_S390, "s390x")
};

/// Checks the processor, which is at the same position in every ELF file.
fn is_ours(data: &[u8]) -> Result<(), ElfError> {
    let Some(header) = data.first_chunk::<20>() else {
        return Err(ElfError::CutShort {
            size: data.len() as u64,
            announced: 64,
        });
    };
    let little = header[5] == elf::ELFDATA2LSB.0;
    let word = [header[18], header[19]];
    let machine = if little {
        u16::from_le_bytes(word)
    } else {
        u16::from_be_bytes(word)
    };
    let machine = Machine(machine);
    let wide = header[4] == elf::ELFCLASS64.0;
    let (ours, name) = OURS;
    if machine == ours && wide && little == cfg!(target_endian = "little") {
        return Ok(());
    }
    let theirs = match machine {
        elf::EM_X86_64 if wide => "x86-64".to_owned(),
        elf::EM_X86_64 => "x86-64 with 32-bit addresses".to_owned(),
        elf::EM_386 => "32-bit x86".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_ARM => "32-bit ARM".to_owned(),
        elf::EM_RISCV if wide => "riscv64".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        Machine(number) => format!("another kind of processor (ELF machine {number})"),
    };
    Err(ElfError::Architecture { theirs, ours: name })
}

/// Checks that the file is complete: the dynamic linker does not, and accessing a mapping beyond the end of
/// a file raises SIGBUS.
fn is_whole(data: &[u8]) -> Result<(), ElfError> {
    let size = data.len() as u64;
    let check = |announced: u64| {
        if announced > size {
            Err(ElfError::CutShort { size, announced })
        } else {
            Ok(())
        }
    };
    check(size_of::<Header>() as u64)?;
    let header = Header::parse(data).map_err(damaged)?;
    let table = |start: u64, count: u16, entry: u16| {
        start.saturating_add(u64::from(count) * u64::from(entry))
    };
    let segments = table(
        header.e_phoff(ENDIAN),
        header.e_phnum(ENDIAN),
        header.e_phentsize(ENDIAN),
    );
    let sections = table(
        header.e_shoff(ENDIAN),
        header.e_shnum(ENDIAN),
        header.e_shentsize(ENDIAN),
    );
    // The section table is at the end of most files.
    check(segments.max(sections))?;
    let headers = header.program_headers(ENDIAN, data).map_err(damaged)?;
    let end = headers
        .iter()
        .map(|segment| {
            let (start, length) = segment.file_range(ENDIAN);
            start.saturating_add(length)
        })
        .max();
    check(end.unwrap_or(0))
}

fn is_library(header: &Header, data: &[u8]) -> Result<(), ElfError> {
    match header.e_type(ENDIAN) {
        elf::ET_DYN => {}
        elf::ET_EXEC => return Err(ElfError::Program),
        elf::ET_REL => {
            return Err(ElfError::Other {
                what: "an object file",
            });
        }
        elf::ET_CORE => {
            return Err(ElfError::Other {
                what: "a core dump",
            });
        }
        _ => {
            return Err(ElfError::Other {
                what: "an unknown kind of ELF file",
            });
        }
    }
    // A position-independent executable is a shared library with the flag DF_1_PIE. (An interpreter proves
    // nothing: libc.so.6 has one.)
    for segment in header.program_headers(ENDIAN, data).map_err(damaged)? {
        let entries = segment.dynamic(ENDIAN, data).map_err(damaged)?;
        let program = entries.unwrap_or_default().iter().any(|entry| {
            let tag = entry.d_tag(ENDIAN);
            let value: u64 = entry.d_val(ENDIAN);
            tag == elf::DT_FLAGS_1 && value & elf::DF_1_PIE.0 != 0
        });
        if program {
            return Err(ElfError::Program);
        }
    }
    Ok(())
}

/// Reads the notes from the segments, which survive `strip` and stricter tools. If a section of notes
/// exists too, it must agree: half of the notes would mean half of the operations.
fn notes<'data>(
    header: &Header,
    data: &'data [u8],
    owner: &[u8],
) -> Result<Vec<Note<'data>>, ElfError> {
    let mut found = Vec::new();
    for segment in header.program_headers(ENDIAN, data).map_err(damaged)? {
        found.extend(ours(segment.notes(ENDIAN, data), owner));
    }
    let sections = header.sections(ENDIAN, data).ok();
    let section = sections.and_then(|sections| sections.section_by_name(ENDIAN, NOTE_SECTION));
    if let Some((_, section)) = section {
        let notes = section.notes(ENDIAN, data).map_err(damaged)?;
        let mut listed = Vec::new();
        for note in notes.into_iter().flatten() {
            let note = note.map_err(damaged)?;
            if note.name() != owner {
                return Err(ElfError::Damaged {
                    reason: "a note among its notes is none of them".to_owned(),
                });
            }
            listed.push((note.n_type(ENDIAN).0, note.desc()));
        }
        let in_order = |mut notes: Vec<Note<'data>>| {
            notes.sort_by_key(|(_, text)| text.as_ptr());
            notes
        };
        let listed = in_order(listed);
        if !found.is_empty() && in_order(found) != listed {
            return Err(ElfError::Damaged {
                reason: "its segments and its sections disagree about its notes".to_owned(),
            });
        }
        return Ok(listed);
    }
    Ok(found)
}

/// The type and the content of a note.
type Note<'data> = (u32, &'data [u8]);

const NOTE_SECTION: &[u8] = b".note.rework";

/// Reads the notes of one segment. Notes of others may be padded in another way; ours are then in another
/// segment.
fn ours<'data>(
    notes: object::read::Result<Option<NoteIterator<'data, Header>>>,
    owner: &[u8],
) -> Vec<Note<'data>> {
    let notes = notes.ok().flatten().into_iter().flatten();
    notes
        .map_while(Result::ok)
        .filter(|note| note.name() == owner)
        .map(|note| (note.n_type(ENDIAN).0, note.desc()))
        .collect()
}

/// The newest `GLIBC_x.y` among the symbol versions that the file needs. A file without symbol versions is
/// not refused here: the dynamic linker decides.
fn glibc(header: &Header, data: &[u8]) -> Option<(u32, u32)> {
    let sections = header.sections(ENDIAN, data).ok()?;
    let (mut needs, strings) = sections.gnu_verneed(ENDIAN, data).ok()??;
    let strings = sections.strings(ENDIAN, data, strings).ok()?;
    let mut newest = None;
    // A damaged table may lead in a circle; no library needs this many others.
    for _ in 0..MANY {
        let Ok(Some((_, mut versions))) = needs.next() else {
            break;
        };
        for _ in 0..MANY {
            let Ok(Some(version)) = versions.next() else {
                break;
            };
            let name = version.name(ENDIAN, strings).ok();
            newest = newest.max(name.and_then(glibc_version));
        }
    }
    newest
}

/// The most libraries, and versions of one library, that a plugin may need.
const MANY: usize = 500;

/// Whether a symbol can be found in the library once it is loaded.
fn exports(header: &Header, data: &[u8], wanted: &[u8]) -> Option<bool> {
    let sections = header.sections(ENDIAN, data).ok()?;
    let symbols = sections.symbols(ENDIAN, data, elf::SHT_DYNSYM).ok()?;
    if symbols.is_empty() {
        return None;
    }
    let is_wanted = |symbol: &elf::Sym64<NativeEndian>| {
        symbol.st_shndx(ENDIAN) != elf::SHN_UNDEF
            && symbol.name(ENDIAN, symbols.strings()).ok() == Some(wanted)
    };
    Some(symbols.iter().any(is_wanted))
}

/// What the dynamic loader reads of a library to find the libraries that it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Dynamic {
    pub(super) needed: Vec<String>,
    /// The search path (`DT_RUNPATH`).
    pub(super) run_path: Option<String>,
    /// The older kind of search path (`DT_RPATH`).
    pub(super) old_run_path: Option<String>,
}

/// Reads it from the segments, as the loader does; `None` if the file is not a library for this host.
pub(super) fn dynamic(data: &[u8]) -> Option<Dynamic> {
    is_ours(data).ok()?;
    let header = Header::parse(data).ok()?;
    let segments = header.program_headers(ENDIAN, data).ok()?;
    let mut entries = segments
        .iter()
        .filter_map(|segment| segment.dynamic(ENDIAN, data).ok().flatten());
    let entries: Vec<(i64, u64)> = entries
        .next()?
        .iter()
        .map(|entry| (entry.d_tag(ENDIAN).0, entry.d_val(ENDIAN)))
        .take_while(|(tag, _)| *tag != elf::DT_NULL.0)
        .take(MANY)
        .collect();
    let value = |wanted: i64| {
        entries
            .iter()
            .find(|(tag, _)| *tag == wanted)
            .map(|(_, value)| *value)
    };
    let address = value(elf::DT_STRTAB.0)?;
    let strings = segments.iter().find_map(|segment| {
        segment
            .data_range(ENDIAN, data, address, value(elf::DT_STRSZ.0)?)
            .ok()
            .flatten()
    })?;
    let text = |at: u64| {
        let text = strings.get(usize::try_from(at).ok()?..)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        Some(str::from_utf8(&text[..end]).ok()?.to_owned())
    };
    let needed = entries.iter().filter(|(tag, _)| *tag == elf::DT_NEEDED.0);
    Some(Dynamic {
        needed: needed.filter_map(|(_, at)| text(*at)).collect(),
        run_path: value(elf::DT_RUNPATH.0).and_then(text),
        old_run_path: value(elf::DT_RPATH.0).and_then(text),
    })
}

fn glibc_version(name: &[u8]) -> Option<(u32, u32)> {
    version(str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?)
}

/// The version of glibc that this process runs with.
#[cfg(target_env = "gnu")]
pub(super) fn host_glibc() -> Option<(u32, u32)> {
    // SAFETY: the function takes no arguments.
    let text = unsafe { libc::gnu_get_libc_version() };
    // SAFETY: the C library returns a static string.
    let text = unsafe { std::ffi::CStr::from_ptr(text) };
    version(text.to_str().ok()?)
}

/// This program does not run with glibc.
#[cfg(not(target_env = "gnu"))]
pub(super) fn host_glibc() -> Option<(u32, u32)> {
    None
}

/// Reads a version such as `2.36` or `2.2.5` as its first two numbers.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
