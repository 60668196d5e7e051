//! Reads a database URL as libpq does: its parameters, under libpq's names. `parameter` decides which
//! values are accepted.

use super::{
    error::{Result, StoreError},
    parameter,
};
use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

/// Connection parameters by name.
pub(super) type Parameters = BTreeMap<String, String>;

/// The connection parameters of a URL. Errors do not repeat parts of the URL that may belong to a password.
pub(super) fn read(url: &str) -> Result<Parameters> {
    parameters(url).map_err(StoreError::Url)
}

fn parameters(url: &str) -> Result<Parameters, String> {
    if url.contains(char::is_control) {
        return Err("there is a line break or another control character in it".to_owned());
    }
    if url.contains('#') {
        return Err("a `#` in it has to be written as %23".to_owned());
    }
    let is_escape = |text: &str| {
        let digits = text.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if url.split('%').skip(1).any(|text| !is_escape(text)) {
        return Err("a `%` in it has to be written as %25".to_owned());
    }
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or("it does not start with postgres:// or postgresql://")?;
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = address.split_once('/').unwrap_or((address, ""));
    let (login, servers) = match authority.rsplit_once('@') {
        Some((login, servers)) => (login, servers),
        None => ("", authority),
    };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    // A database's name with an `@` must write it as %40: an unescaped `@` after the host is taken for a
    // part of a password.
    let (hosts, ports) = addresses(servers)
        .filter(|_| !database.contains('@'))
        .ok_or(
            "its port must be a number from 1 to 65535, and there must be no `@` after it; in a \
             password, `/` is written as %2F, `?` as %3F and `@` as %40",
        )?;
    let mut found = Parameters::new();
    for (name, value) in [
        ("user", decoded(user)?),
        ("password", decoded(password)?),
        ("host", hosts),
        ("port", ports),
        ("dbname", decoded(database)?),
    ] {
        if !value.is_empty() {
            found.insert(name.to_owned(), value);
        }
    }
    let mut seen: Vec<String> = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let (mut name, mut value) = (decoded(name)?, decoded(value)?);
        if (name.as_str(), value.as_str()) == ("ssl", "true") {
            // JDBC's spelling, which libpq accepts too.
            (name, value) = ("sslmode".to_owned(), "require".to_owned());
        }
        let fault = if seen.contains(&name) {
            Some(format!("it has its parameter `{name}` twice"))
        } else {
            parameter::fault_of_name(&name)
                .or_else(|| parameter::fault(&name, &value, parameter::Source::Url))
        };
        match fault {
            // The text before an `@` may be the end of a password that contains a `?`.
            Some(_) if query.contains('@') => {
                return Err("it has an unknown or unsuitable parameter".to_owned());
            }
            Some(fault) => return Err(fault),
            None => {}
        }
        seen.push(name.clone());
        if value.is_empty() {
            // As in libpq: an empty value counts as none.
            found.remove(&name);
        } else {
            found.insert(name, value);
        }
    }
    Ok(found)
}

/// The hosts and the ports of `host:port,[::1]:port,…`, each as a comma-separated list; `None` if a port is
/// not a number.
fn addresses(servers: &str) -> Option<(String, String)> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for server in servers.split(',') {
        let (host, port) = match server.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                (
                    host,
                    if port.is_empty() {
                        ""
                    } else {
                        port.strip_prefix(':')?
                    },
                )
            }
            None => server.split_once(':').unwrap_or((server, "")),
        };
        if !port.is_empty() && !parameter::is_port(port) {
            return None;
        }
        hosts.push(decoded(host).ok()?);
        ports.push(port);
    }
    let listed = |values: Vec<String>| {
        if values.iter().all(String::is_empty) && values.len() == 1 {
            String::new()
        } else {
            values.join(",")
        }
    };
    let ports = if ports.iter().all(|port| port.is_empty()) {
        String::new()
    } else {
        ports.join(",")
    };
    Some((listed(hosts), ports))
}

/// Decodes percent escapes. A `+` stays a `+`.
fn decoded(text: &str) -> Result<String, String> {
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err("it has to be UTF-8, without NUL characters".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_libpq_reads_it() {
        for (url, wanted) in [
            ("postgresql://", ""),
            ("postgres://h", "host=h"),
            ("postgres://h:5433", "host=h port=5433"),
            ("postgres://h/db", "dbname=db host=h"),
            ("postgres://u@h", "host=h user=u"),
            (
                "postgres://u:se%20cr%40t@h",
                "host=h password=se cr@t user=u",
            ),
            ("postgres://u:@h", "host=h user=u"),
            ("postgres://u%20x@h/d%20b", "dbname=d b host=h user=u x"),
            ("postgres://[::1]/db", "dbname=db host=::1"),
            ("postgres://[fe80::1%25eth0]:7", "host=fe80::1%eth0 port=7"),
            (
                "postgres://%2Fvar%2Frun:7/db",
                "dbname=db host=/var/run port=7",
            ),
            (
                "postgres:///db?host=/tmp&port=7",
                "dbname=db host=/tmp port=7",
            ),
            (
                "postgres:///?dbname=db&user=u&password=a+b%2B",
                "dbname=db password=a+b+ user=u",
            ),
            ("postgres://h?user=u", "host=h user=u"),
            ("postgres://h/x?host=g&dbname=y", "dbname=y host=g"),
            ("postgres://h/x?dbname=", "host=h"),
            (
                "postgres://a:1,b,[::1]:3/x",
                "dbname=x host=a,b,::1 port=1,,3",
            ),
            ("postgres://a,b?port=7", "host=a,b port=7"),
            ("postgres://h?ssl=true", "host=h sslmode=require"),
            (
                "postgres:///?hostaddr=::1,127.0.0.1",
                "hostaddr=::1,127.0.0.1",
            ),
            (
                "postgres://h?options=-c%20geqo%3Doff",
                "host=h options=-c geqo=off",
            ),
            ("postgres://h?%75ser=u", "host=h user=u"),
            (
                "postgres://u:p,w@h:1/x",
                "dbname=x host=h password=p,w port=1 user=u",
            ),
        ] {
            let shown: Vec<String> = parameters(url)
                .unwrap_or_else(|fault| panic!("{url}: {fault}"))
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            assert_eq!(shown.join(" "), wanted, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (url, wanted) in [
            ("http://h/x", "does not start with"),
            (
                "postgres://h/x?port=abc",
                "`port` must be a number from 1 to 65535",
            ),
            (
                "postgres://h/x?port=70000",
                "`port` must be a number from 1 to 65535",
            ),
            (
                "postgres://h/x?hostaddr=h",
                "`hostaddr` must be an IP address",
            ),
            (
                "postgres://h/x?sslmode=weird",
                "`sslmode` must be one of disable,",
            ),
            ("postgres://h/x?user=a&user=b", "`user` twice"),
            ("postgres://h/x?sekret=1", "unknown parameter `sekret`"),
            (
                "postgres://h/x?connect_timeout=soon",
                "`connect_timeout` must be a number",
            ),
            ("postgres://h/x?pooler=transaction", "pooler"),
            (
                "postgres://u:sekret/sekret@h/x",
                "in a password, `/` is written as %2F",
            ),
            (
                "postgres://u:12/sekret@h/x",
                "in a password, `/` is written as %2F",
            ),
            (
                "postgres://u:/sekret@h/x",
                "in a password, `/` is written as %2F",
            ),
            (
                "postgres://u:se?kret=1@h/x",
                "in a password, `/` is written as %2F",
            ),
            (
                "postgres://u@h?se=kret@h/x",
                "unknown or unsuitable parameter",
            ),
            ("postgres://h:port/x", "its port must be a number"),
            ("postgres://[::1/x", "its port must be a number"),
            ("postgres://[::1]x/x", "its port must be a number"),
            ("postgres://u:sekr#t@h/x", "%23"),
            ("postgres://u:sek%zzret@h/x", "%25"),
            ("postgres://u:sekret@h/x%2", "%25"),
            ("postgres://u:sekret%00@h/x", "NUL"),
            ("postgres://u:sekret%ff@h/x", "UTF-8"),
            ("postgres://h/x\n", "line break"),
        ] {
            let told = parameters(url).expect_err(url);
            assert!(told.contains(wanted), "{url}: {told}");
            assert!(
                !told.contains("kret") || url.contains("?sekret=1"),
                "{told}"
            );
        }
    }
}
