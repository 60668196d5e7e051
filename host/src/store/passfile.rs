//! The password file of libpq (`~/.pgpass`), with lines `host:port:database:user:password`. It is read
//! here, because the driver logs lines that it cannot read, including their passwords.

use crate::here;
use std::{
    fs::File,
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A login whose password is looked up.
#[derive(Debug)]
pub(super) struct Login<'l> {
    /// The host name; the address if there is no name, or the directory of a Unix socket.
    pub(super) host: &'l str,
    pub(super) port: u16,
    pub(super) database: &'l str,
    pub(super) user: &'l str,
}

/// The result of a lookup in a password file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Password(String),
    /// No line fits this login, or there is no file.
    Nothing,
    /// The file must not or cannot be read, for this reason.
    Unusable(String),
}

/// The default path of the password file, `~/.pgpass`.
pub(super) fn default_path() -> Option<PathBuf> {
    here::home().map(|home| home.join(".pgpass"))
}

/// Looks up the password of a login.
pub(super) fn look_up(path: &Path, login: &Login<'_>) -> Found {
    let unusable =
        |why: &str| Found::Unusable(format!("the password file {} {why}", path.display()));
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return unusable(&format!("cannot be opened ({error})")),
    };
    match file.metadata() {
        Ok(metadata) if !metadata.is_file() => {
            return unusable("is not used: it is not a plain file");
        }
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            return unusable("is not used: others may read it (chmod 0600 helps)");
        }
        Ok(_) => {}
        Err(error) => return unusable(&format!("cannot be read ({error})")),
    }
    let mut content = Vec::new();
    if let Err(error) = file.read_to_end(&mut content) {
        return unusable(&format!("cannot be read ({error})"));
    }
    match password(&String::from_utf8_lossy(&content), login) {
        Some(password) => Found::Password(password),
        None => Found::Nothing,
    }
}

/// The password of the first line that fits the login. A line with fewer than five fields fits no login.
fn password(content: &str, login: &Login<'_>) -> Option<String> {
    let port = login.port.to_string();
    content
        .lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut rest = line;
            for wanted in [login.host, &port, login.database, login.user] {
                let (field, after) = field(rest)?;
                // Compared before unescaping: an escaped asterisk is no wildcard.
                let is_any = rest.starts_with("*:");
                if !is_any && field != wanted {
                    return None;
                }
                rest = after;
            }
            Some(field(rest).map_or_else(|| unescaped(rest), |(password, _)| password))
        })
}

/// Splits at the next unescaped colon: the field before it, and the rest. `None` if there is no such colon.
fn field(text: &str) -> Option<(String, &str)> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ':' => return Some((unescaped(&text[..at]), &text[at + 1..])),
            _ => {}
        }
    }
    None
}

/// Removes escapes: a backslash stands for the character that follows it.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        plain.extend(if c == '\\' {
            characters.next()
        } else {
            Some(c)
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let content = "# h:5432:d:u:comment\nmalformed:sekret\n\nh:5432:d:\nother:5432:d:u:no\n\
                       h:5433:d:u:port\n[x:y\nh:*:d:u:first\n*:*:*:*:any\\:th\\\\ing \n";
        let look = |host, port, database, user| {
            let login = Login {
                host,
                port,
                database,
                user,
            };
            password(content, &login)
        };
        assert_eq!(look("h", 5433, "d", "u").as_deref(), Some("port"));
        assert_eq!(look("h", 5432, "d", "u").as_deref(), Some("first"));
        assert_eq!(look("g", 5432, "d", "u").as_deref(), Some("any:th\\ing "));
        let login = Login {
            host: "::1",
            port: 1,
            database: "d",
            user: "a:b",
        };
        assert_eq!(
            password("\\:\\:1:1:d:a\\:b:ok", &login).as_deref(),
            Some("ok")
        );
        assert_eq!(password("\\*:1:d:a\\:b:no", &login), None);
        assert_eq!(password("*:1:d:a\\:b", &login), None);
    }

    #[test]
    fn a_file_that_others_may_read_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        let login = Login {
            host: "h",
            port: 1,
            database: "d",
            user: "u",
        };
        assert_eq!(look_up(&path, &login), Found::Nothing);
        fs::write(&path, "*:*:*:*:sekret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let Found::Unusable(why) = look_up(&path, &login) else {
            panic!("it was believed");
        };
        assert!(
            why.contains("others may read it") && !why.contains("sekret"),
            "{why}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_up(&path, &login), Found::Password("sekret".to_owned()));
    }
}
