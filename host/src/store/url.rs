//! A URL may name several servers, of which one accepts writes, as libpq has it: hosts separated by
//! commas, each with a port of its own, or lists in the parameters `host`, `hostaddr` and `port`. The
//! driver knows one server a URL, so there is a URL for each.

use super::error::{Result, StoreError};

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
