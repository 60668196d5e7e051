//! What a database URL says besides what the driver makes of it.
//!
//! It may name several servers, of which one accepts writes, as libpq has it: hosts separated by
//! commas, each with a port of its own, or lists in the parameters `host`, `hostaddr` and `port`. The
//! driver knows one server a URL, so there is a URL for each. And what the driver would ignore is
//! refused.

use super::error::{Result, StoreError};

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

/// Refuses what the driver would ignore: who asks for something gets it, or hears that not.
pub(super) fn check_parameters(url: &str) -> Result<()> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name == "pooler" {
            return Err(StoreError::Url(
                "this rework cannot work through a pooler; give the server's own address"
                    .to_owned(),
            ));
        }
        if let Some((_, values)) = HARMLESS.iter().find(|(known, _)| *known == name) {
            let is_number = values.is_empty() && value.parse::<u32>().is_ok();
            if is_number || values.contains(&value) {
                continue;
            }
            return Err(StoreError::Url(format!(
                "its parameter `{name}` asks for what this rework cannot do"
            )));
        }
        let is_known = PARAMETERS.contains(&name);
        if !is_known && !name.starts_with("options[") {
            // What stands before an `@` may be the end of a password with a `?` in it.
            return Err(StoreError::Url(match query.contains('@') {
                true => "it has an unknown parameter".to_owned(),
                false => format!("it has an unknown parameter `{name}`"),
            }));
        }
    }
    Ok(())
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
}
