//! Service files of libpq: sections `[name]` with lines `parameter=value`. A connection refers to a section
//! by its name.

use super::{
    parameter::{self, Source},
    url::Parameters,
};
use std::path::{Path, PathBuf};

/// The parameters of a service, from the given file, or from the first of the usual files that has the
/// service.
pub(super) fn read(
    service: &str,
    named: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Parameters, String> {
    let own = match (named, variable("HOME")) {
        (Some(named), _) => Some(PathBuf::from(named)),
        (None, Some(home)) => Some(Path::new(&home).join(".pg_service.conf")),
        (None, None) => None,
    };
    let system = [
        variable("PGSYSCONFDIR"),
        Some("/etc/postgresql-common".to_owned()),
        Some("/etc".to_owned()),
    ];
    let system = system
        .into_iter()
        .flatten()
        .map(|directory| Path::new(&directory).join("pg_service.conf"));
    for path in own.into_iter().chain(system) {
        match std::fs::read_to_string(&path) {
            Ok(content) => {
                if let Some(found) = section(&content, service)? {
                    return Ok(found);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if named.is_some_and(|named| Path::new(named) == path) {
                    return Err(format!("the service file {} is not there", path.display()));
                }
            }
            Err(error) => {
                return Err(format!(
                    "the service file {} cannot be read: {error}",
                    path.display()
                ));
            }
        }
    }
    Err(format!("no service file defines the service `{service}`"))
}

/// The parameters in a section of a service file; `None` if the file has no section of that name.
fn section(content: &str, service: &str) -> Result<Option<Parameters>, String> {
    let mut found: Option<Parameters> = None;
    for line in content.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.starts_with('[') {
            if found.is_some() {
                break;
            }
            if line
                .strip_prefix('[')
                .and_then(|line| line.strip_suffix(']'))
                == Some(service)
            {
                found = Some(Parameters::new());
            }
            continue;
        }
        let Some(found) = &mut found else { continue };
        // The message does not repeat a line that cannot be read: it may hold a password.
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| format!("a line of the service `{service}` is not `parameter=value`"))?;
        let (name, value) = (name.trim(), value.trim());
        if ["service", "servicefile"].contains(&name) {
            return Err(format!("the service `{service}` names another one"));
        }
        if let Some(fault) = parameter::fault_of_name(name) {
            return Err(format!("of the service `{service}`: {fault}"));
        }
        if let Some(fault) = parameter::fault(name, value, Source::Service(service)) {
            return Err(fault);
        }
        // As in libpq: the first setting of a parameter counts.
        if !value.is_empty() {
            found
                .entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_has_the_parameters_of_its_service() {
        let content =
            "# all\n[other]\nhost=o\n[jobs]\nhost = h\nport=7\nhost=second\n[more]\nuser=m\n";
        let jobs = section(content, "jobs").unwrap().unwrap();
        assert_eq!(jobs["host"], "h");
        assert_eq!(jobs["port"], "7");
        assert_eq!(jobs.len(), 2);
        assert_eq!(section(content, "none").unwrap(), None);
        for (line, wanted) in [
            ("sekret", "is not `parameter=value`"),
            ("port=sekret", "the service `jobs` must be a number"),
            ("nonsense=sekret", "unknown parameter `nonsense`"),
            ("require_auth=sekret", "take it out"),
        ] {
            let told = section(&format!("[jobs]\n{line}\n"), "jobs").unwrap_err();
            assert!(told.contains(wanted) && !told.contains("sekret"), "{told}");
        }
    }
}
