//! What a database URL says besides what the driver makes of it.
//!
//! It may name several servers, of which one accepts writes, as libpq has it: hosts separated by
//! commas, each with a port of its own, or lists in the parameters `host`, `hostaddr` and `port`. The
//! driver knows one server a URL, so there is a URL for each. And what the driver would ignore is
//! refused.

use super::error::{Result, StoreError};
use std::net::IpAddr;

/// What the query of a URL may say; see the driver's `PgConnectOptions`.
const PARAMETERS: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

const SSL_MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

/// What libpq knows besides, with what may be said there because it changes nothing here; nothing
/// given: any number.
const HARMLESS: [(&str, &[&str]); 9] = [
    ("channel_binding", &["disable", "prefer"]),
    ("connect_timeout", &[]),
    ("gssencmode", &["disable", "prefer"]),
    ("keepalives", &[]),
    ("keepalives_count", &[]),
    ("keepalives_idle", &[]),
    ("keepalives_interval", &[]),
    ("target_session_attrs", &["any", "read-write", "primary"]),
    ("tcp_user_timeout", &[]),
];

/// The URLs of the servers that a URL names, in its order; a URL of one server as it is.
pub(super) fn each_server(url: &str) -> Result<Vec<String>> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Ok(vec![url.to_owned()]);
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (format!("{login}@"), hosts),
        None => (String::new(), authority),
    };
    let hosts: Vec<&str> = hosts.split(',').collect();
    let parameters: Vec<(&str, Vec<&str>)> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let is_list = ["host", "hostaddr", "port"].contains(&name);
            let values = if is_list {
                value.split(',').collect()
            } else {
                vec![value]
            };
            (name, values)
        })
        .collect();
    let lists = parameters.iter().map(|(_, values)| values.len());
    let count = lists.chain([hosts.len()]).max().unwrap_or(1);
    if count == 1 {
        return Ok(vec![url.to_owned()]);
    }
    let one_of = |values: &[&str], place: usize| match values {
        // What is said once holds for all.
        [one] => Ok((*one).to_owned()),
        many => many
            .get(place)
            .map(|value| (*value).to_owned())
            .ok_or_else(|| {
                StoreError::Url(format!(
                    "it names {count} servers in one place and {} in another",
                    many.len()
                ))
            }),
    };
    (0..count)
        .map(|place| {
            let host = one_of(&hosts, place)?;
            let query = parameters
                .iter()
                .map(|(name, values)| Ok(format!("{name}={}", one_of(values, place)?)))
                .collect::<Result<Vec<_>>>()?
                .join("&");
            let mark = if query.is_empty() { "" } else { "?" };
            Ok(format!("{scheme}://{login}{host}{path}{mark}{query}"))
        })
        .collect()
}

/// Refuses what the driver would ignore or take for something else: who asks for something gets it,
/// or hears that not. The URL is one of [`each_server`]'s.
pub(super) fn check(url: &str) -> Result<()> {
    match fault(url) {
        Some(fault) => Err(StoreError::Url(fault)),
        None => Ok(()),
    }
}

/// What is wrong with a URL; without its words, wherever they may be a part of a password.
fn fault(url: &str) -> Option<String> {
    if url.contains(char::is_control) {
        return Some("there is a line break or another control character in it".to_owned());
    }
    if url.contains('#') {
        return Some("a `#` in it has to be written as %23".to_owned());
    }
    let is_escape = |text: &str| {
        let digits = text.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if url.split('%').skip(1).any(|text| !is_escape(text)) {
        return Some("a `%` in it has to be written as %25".to_owned());
    }
    let (_, rest) = url.split_once("://")?;
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = address.split('/').next().unwrap_or_default();
    let server = authority.rsplit('@').next().unwrap_or_default();
    let port = server.rsplit(']').next().unwrap_or_default();
    let misread = port
        .split_once(':')
        .is_some_and(|(_, port)| !(port.is_empty() || is_port(port)));
    // Of a database there is hardly an `@` in the name; it is written as %40.
    if misread || address[authority.len()..].contains('@') {
        return Some(
            "its port must be a number from 1 to 65535, and there must be no `@` after it; in a \
             password, `/` is written as %2F, `?` as %3F and `@` as %40"
                .to_owned(),
        );
    }
    let mut seen = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if seen.contains(&name) && name != "options" {
            return Some(format!("it has its parameter `{name}` twice"));
        }
        seen.push(name);
        match parameter_fault(name, value) {
            // What stands before an `@` may be the end of a password with a `?` in it.
            Some(_) if query.contains('@') => {
                return Some("it has an unknown or unsuitable parameter".to_owned());
            }
            None => {}
            fault => return fault,
        }
    }
    None
}

/// What is wrong with a parameter.
fn parameter_fault(name: &str, value: &str) -> Option<String> {
    if name == "pooler" {
        return Some(
            "this rework cannot work through a pooler; give the server's own address".to_owned(),
        );
    }
    let must_be = |what: &str| Some(format!("its parameter `{name}` must be {what}"));
    match name {
        "port" if !is_port(value) => must_be("a number from 1 to 65535"),
        "hostaddr" if value.parse::<IpAddr>().is_err() => must_be("an IP address"),
        "sslmode" | "ssl-mode" if !SSL_MODES.contains(&value) => {
            must_be(&format!("one of {}", SSL_MODES.join(", ")))
        }
        "statement-cache-capacity" if value.parse::<usize>().is_err() => must_be("a number"),
        _ if PARAMETERS.contains(&name) || name.starts_with("options[") => None,
        _ => match HARMLESS.iter().find(|(known, _)| *known == name) {
            None => Some(format!("it has an unknown parameter `{name}`")),
            Some((_, [])) if value.parse::<u32>().is_ok() => None,
            Some((_, [])) => must_be("a number"),
            Some((_, values)) if values.contains(&value) => None,
            Some(_) => Some(format!(
                "its parameter `{name}` asks for what this rework cannot do"
            )),
        },
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_url() {
        for (url, servers) in [
            ("postgres://h/x", &["postgres://h/x"][..]),
            (
                "postgres://u:p,w@h:1/x?a=b,c",
                &["postgres://u:p,w@h:1/x?a=b,c"],
            ),
            (
                "postgres://u@a:1,b,[::1]:3/x?sslmode=require",
                &[
                    "postgres://u@a:1/x?sslmode=require",
                    "postgres://u@b/x?sslmode=require",
                    "postgres://u@[::1]:3/x?sslmode=require",
                ],
            ),
            (
                "postgresql:///x?host=%2Ftmp,b&port=1,2&user=u",
                &[
                    "postgresql:///x?host=%2Ftmp&port=1&user=u",
                    "postgresql:///x?host=b&port=2&user=u",
                ],
            ),
            (
                "postgres://a,b?port=7",
                &["postgres://a?port=7", "postgres://b?port=7"],
            ),
        ] {
            assert_eq!(each_server(url).unwrap(), servers);
        }
        assert!(each_server("postgres://a,b,c/x?port=1,2").is_err());
    }

    #[test]
    fn what_the_driver_would_ignore_or_misread_is_named() {
        for (url, wanted) in [
            (
                "postgres://u:p%2Fw@h:5432/x?sslmode=require&options=-c&options=-d",
                None,
            ),
            ("postgres://[::1]:5432/x?host=/tmp&connect_timeout=3", None),
            (
                "postgres://h/x?port=abc",
                Some("`port` must be a number from 1 to 65535"),
            ),
            (
                "postgres://h/x?port=70000",
                Some("`port` must be a number from 1 to 65535"),
            ),
            (
                "postgres://h/x?hostaddr=h",
                Some("`hostaddr` must be an IP address"),
            ),
            (
                "postgres://h/x?sslmode=weird",
                Some("`sslmode` must be one of disable,"),
            ),
            ("postgres://h/x?user=a&user=b", Some("`user` twice")),
            (
                "postgres://h/x?sekret=1",
                Some("unknown parameter `sekret`"),
            ),
            (
                "postgres://h/x?connect_timeout=soon",
                Some("`connect_timeout` must be a number"),
            ),
            ("postgres://h/x?channel_binding=require", Some("cannot do")),
            ("postgres://h/x?pooler=transaction", Some("pooler")),
            (
                "postgres://u:sekret/sekret@h/x",
                Some("in a password, `/` is written as %2F"),
            ),
            (
                "postgres://u:12/sekret@h/x",
                Some("in a password, `/` is written as %2F"),
            ),
            (
                "postgres://u:/sekret@h/x",
                Some("in a password, `/` is written as %2F"),
            ),
            (
                "postgres://u:se?kret=1@h/x",
                Some("in a password, `/` is written as %2F"),
            ),
            (
                "postgres://u@h?se=kret@h/x",
                Some("unknown or unsuitable parameter"),
            ),
            ("postgres://h:port/x", Some("its port must be a number")),
            ("postgres://u:sekr#t@h/x", Some("%23")),
            ("postgres://u:sek%zzret@h/x", Some("%25")),
            ("postgres://u:sekret@h/x%2", Some("%25")),
            ("postgres://h/x\n", Some("line break")),
        ] {
            let told = fault(url);
            match wanted {
                None => assert_eq!(told, None, "{url}"),
                Some(wanted) => {
                    let told = told.unwrap_or_default();
                    assert!(told.contains(wanted), "{url}: {told}");
                    assert!(
                        !told.contains("kret") || url.contains("?sekret=1"),
                        "{told}"
                    );
                }
            }
        }
    }
}
