//! The parameters of a connection, given in a URL, a service file or the environment. Each parameter that
//! libpq documents either takes effect or is refused by name; none is accepted and ignored.

use super::session::SETTINGS;
use std::net::IpAddr;

/// The source of a connection parameter, for messages.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'p> {
    /// The query part of the URL.
    Url,
    /// The environment variable of this name.
    Variable(&'p str),
    /// The section of this name in the service file.
    Service(&'p str),
}

/// Which values of a parameter are accepted.
#[derive(Debug, Clone, Copy)]
enum Accepts {
    /// Any value; it takes effect.
    Anything,
    /// A number of seconds.
    Number,
    /// A port, or a comma-separated list of ports.
    Ports,
    /// An IP address, or a comma-separated list of addresses.
    Addresses,
    /// One of these values; it takes effect.
    OneOf(&'static [&'static str]),
    /// Only these values, which change nothing here; any other value asks for something that is not
    /// supported.
    OnlyOneOf(&'static [&'static str]),
}

/// A connection parameter of libpq.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The environment variable that sets the parameter.
    pub(super) variable: Option<&'static str>,
    may: Accepts,
}

const fn parameter(name: &'static str, variable: &'static str, may: Accepts) -> Parameter {
    let variable = if variable.is_empty() {
        None
    } else {
        Some(variable)
    };
    Parameter {
        name,
        variable,
        may,
    }
}

use Accepts::{Addresses, Anything, Number, OneOf, OnlyOneOf, Ports};

/// All connection parameters that libpq's manual lists ("Parameter Key Words", "Environment Variables"),
/// except variables that only affect how other programs display results.
pub(super) const PARAMETERS: [Parameter; 46] = [
    parameter("application_name", "PGAPPNAME", Anything),
    parameter(
        "channel_binding",
        "PGCHANNELBINDING",
        OnlyOneOf(&["disable", "prefer"]),
    ),
    parameter(
        "client_encoding",
        "",
        OnlyOneOf(&["auto", "UTF8", "utf8", "UTF-8", "utf-8"]),
    ),
    parameter("connect_timeout", "PGCONNECT_TIMEOUT", Number),
    parameter("dbname", "PGDATABASE", Anything),
    parameter("fallback_application_name", "", Anything),
    parameter("gssdelegation", "", OnlyOneOf(&["0"])),
    parameter(
        "gssencmode",
        "PGGSSENCMODE",
        OnlyOneOf(&["disable", "prefer"]),
    ),
    parameter("gsslib", "", OnlyOneOf(&[])),
    parameter("host", "PGHOST", Anything),
    parameter("hostaddr", "PGHOSTADDR", Addresses),
    // Keepalives are not configurable: a silent peer is noticed within seconds, because every statement has
    // a time limit.
    parameter("keepalives", "", OnlyOneOf(&["1"])),
    parameter("keepalives_count", "", OnlyOneOf(&["0"])),
    parameter("keepalives_idle", "", OnlyOneOf(&["0"])),
    parameter("keepalives_interval", "", OnlyOneOf(&["0"])),
    parameter("krbsrvname", "", OnlyOneOf(&["postgres"])),
    parameter(
        "load_balance_hosts",
        "PGLOADBALANCEHOSTS",
        OneOf(&["disable", "random"]),
    ),
    parameter(
        "max_protocol_version",
        "PGMAXPROTOCOLVERSION",
        OnlyOneOf(&["3.0", "3.2", "latest"]),
    ),
    parameter(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        OnlyOneOf(&["3.0"]),
    ),
    parameter("options", "PGOPTIONS", Anything),
    parameter("passfile", "PGPASSFILE", Anything),
    parameter("password", "PGPASSWORD", Anything),
    parameter("port", "PGPORT", Ports),
    parameter("replication", "", OnlyOneOf(&["0", "false", "off", "no"])),
    parameter("require_auth", "PGREQUIREAUTH", OnlyOneOf(&[])),
    parameter("requirepeer", "PGREQUIREPEER", OnlyOneOf(&[])),
    parameter("scram_client_key", "", OnlyOneOf(&[])),
    parameter("scram_server_key", "", OnlyOneOf(&[])),
    parameter("service", "PGSERVICE", Anything),
    parameter("servicefile", "PGSERVICEFILE", Anything),
    parameter(
        "ssl_max_protocol_version",
        "PGSSLMAXPROTOCOLVERSION",
        OnlyOneOf(&["TLSv1.3"]),
    ),
    parameter(
        "ssl_min_protocol_version",
        "PGSSLMINPROTOCOLVERSION",
        OnlyOneOf(&["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ),
    parameter("sslcert", "PGSSLCERT", Anything),
    parameter("sslcertmode", "PGSSLCERTMODE", OnlyOneOf(&["allow"])),
    parameter("sslcompression", "PGSSLCOMPRESSION", OnlyOneOf(&["0"])),
    parameter("sslcrl", "PGSSLCRL", OnlyOneOf(&[])),
    parameter("sslcrldir", "PGSSLCRLDIR", OnlyOneOf(&[])),
    parameter("sslkey", "PGSSLKEY", Anything),
    parameter(
        "sslmode",
        "PGSSLMODE",
        OneOf(&[
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
        ]),
    ),
    parameter(
        "sslnegotiation",
        "PGSSLNEGOTIATION",
        OnlyOneOf(&["postgres"]),
    ),
    parameter("sslpassword", "", OnlyOneOf(&[])),
    parameter("sslrootcert", "PGSSLROOTCERT", Anything),
    parameter("sslsni", "PGSSLSNI", OnlyOneOf(&["1"])),
    // Monitors and nearly all commands write, so a standby is of no use.
    parameter(
        "target_session_attrs",
        "PGTARGETSESSIONATTRS",
        OnlyOneOf(&["any", "read-write", "primary"]),
    ),
    parameter("tcp_user_timeout", "", OnlyOneOf(&["0"])),
    parameter("user", "PGUSER", Anything),
];

/// Whether a parameter is about TLS. Unix sockets do not use TLS, so libpq ignores these parameters there,
/// and so do we.
pub(super) fn is_of_tls(name: &str) -> bool {
    name.starts_with("ssl")
}

/// The error for a parameter name in the query of a URL; `None` if the name is known.
pub(super) fn fault_of_name(name: &str) -> Option<String> {
    if name == "pooler" {
        return Some(
            "this rework cannot work through a pooler; give the server's own address".to_owned(),
        );
    }
    find(name)
        .is_none()
        .then(|| format!("it has an unknown parameter `{name}`"))
}

fn find(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.iter().find(|parameter| parameter.name == name)
}

/// The error for the value of a parameter; `None` if the value is accepted. Parameters about TLS are
/// checked again by [`fault_of_tls`] once it is known that TLS is used.
pub(super) fn fault(name: &str, value: &str, place: Source<'_>) -> Option<String> {
    let said = match place {
        Source::Url => format!("its parameter `{name}`"),
        Source::Variable(variable) => format!("the variable {variable}"),
        Source::Service(service) => format!("the parameter `{name}` of the service `{service}`"),
    };
    let take_out = match place {
        Source::Url | Source::Service(_) => "take it out",
        Source::Variable(_) => "unset it",
    };
    let must_be = |what: &str| Some(format!("{said} must be {what}"));
    let each = |is_one: fn(&str) -> bool| value.split(',').all(|one| one.is_empty() || is_one(one));
    if value.is_empty() {
        return None;
    }
    match find(name)?.may {
        Ports if !each(is_port) => must_be("a number from 1 to 65535"),
        Addresses if !each(is_address) => must_be("an IP address"),
        Number if value.trim().parse::<i32>().is_err() => must_be("a number"),
        OneOf(words) if !words.contains(&value) => must_be(&format!("one of {}", words.join(", "))),
        OnlyOneOf(words) if !words.contains(&value) && !is_of_tls(name) => {
            Some(cannot(&said, words, take_out))
        }
        Anything if name == "options" && matches!(place, Source::Url) => {
            own_setting(value).map(|setting| {
                format!(
                    "{said} sets `{setting}`, which rework sets for its own sessions; {take_out}"
                )
            })
        }
        _ => None,
    }
}

/// The error for a parameter about TLS where TLS is used; `None` if its value is accepted.
pub(super) fn fault_of_tls(name: &str, value: &str) -> Option<String> {
    let said = match find(name)?.variable {
        Some(variable) => format!("the parameter `{name}` (or the variable {variable})"),
        None => format!("the parameter `{name}`"),
    };
    match find(name)?.may {
        OnlyOneOf(words) if !words.contains(&value) => Some(cannot(&said, words, "take it out")),
        Anything if name == "sslrootcert" && value == "system" => Some(format!(
            "{said} asks for the certificates of the system; name a file, as \
             /etc/ssl/certs/ca-certificates.crt"
        )),
        _ => None,
    }
}

fn cannot(said: &str, words: &[&str], take_out: &str) -> String {
    if words.is_empty() {
        return format!("{said} asks for what this rework cannot do; {take_out}");
    }
    format!(
        "{said} asks for what this rework cannot do; {take_out}, or let it be {}",
        words.join(" or ")
    )
}

/// The first server setting in `options` that our sessions set to a value of their own.
fn own_setting(options: &str) -> Option<&'static str> {
    let mut words = options.split_whitespace();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(setting) => setting,
            None if word == "-c" => words.next().unwrap_or_default(),
            None => word.strip_prefix("-c").unwrap_or_default(),
        };
        let name = setting.split('=').next().unwrap_or_default();
        let name = name.replace('-', "_");
        // `search_path` may be given: every statement names the schema.
        let own = SETTINGS
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(&name) && *own != "search_path");
        if let Some((own, _)) = own {
            return Some(own);
        }
    }
    None
}

pub(super) fn is_port(text: &str) -> bool {
    text.trim().parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_address(text: &str) -> bool {
    // The address may carry an interface name, as in fe80::1%eth0.
    let address = text.split('%').next().unwrap_or_default();
    address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_is_honoured_or_refused_by_its_name() {
        for (name, value, wanted) in [
            ("channel_binding", "prefer", None),
            (
                "channel_binding",
                "require",
                Some("`channel_binding` asks for what"),
            ),
            ("gssencmode", "require", Some("`gssencmode`")),
            ("keepalives", "1", None),
            ("keepalives", "0", Some("`keepalives`")),
            ("keepalives_idle", "10", Some("`keepalives_idle`")),
            ("tcp_user_timeout", "1000", Some("take it out")),
            ("target_session_attrs", "read-write", None),
            (
                "target_session_attrs",
                "standby",
                Some("`target_session_attrs`"),
            ),
            (
                "target_session_attrs",
                "nonsense",
                Some("`target_session_attrs`"),
            ),
            ("require_auth", "scram-sha-256", Some("`require_auth`")),
            ("connect_timeout", "3", None),
            ("connect_timeout", "-1", None),
            ("options", "-c geqo=off --work_mem=4MB", None),
            ("options", "-c search_path=app", None),
            (
                "options",
                "-c statement_timeout=5s",
                Some("sets `statement_timeout`"),
            ),
            (
                "options",
                "--default-transaction-isolation=serializable",
                Some("isolation`"),
            ),
            ("options", "-cjit=on", Some("`jit`")),
            // TLS may not be used at all.
            ("sslcrl", "/x", None),
        ] {
            let told = fault(name, value, Source::Url);
            match wanted {
                None => assert_eq!(told, None, "{name}={value}"),
                Some(wanted) => assert!(
                    told.as_ref().is_some_and(|told| told.contains(wanted)),
                    "{name}={value}: {told:?}"
                ),
            }
        }
        assert!(fault_of_tls("sslcrl", "/x").is_some_and(|told| told.contains("`sslcrl`")));
        assert!(fault_of_tls("sslrootcert", "system").is_some());
        assert_eq!(fault_of_tls("sslrootcert", "/x"), None);
        assert_eq!(fault_of_tls("sslsni", "1"), None);
        let told = fault(
            "channel_binding",
            "require",
            Source::Variable("PGCHANNELBINDING"),
        );
        assert!(
            told.is_some_and(|told| told.contains("PGCHANNELBINDING") && told.contains("unset"))
        );
    }
}
