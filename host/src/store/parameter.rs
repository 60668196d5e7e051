//! What may be said of a connection, in a URL, a service file or the environment: each parameter that
//! libpq documents is honoured, or refused by its name. Nothing is accepted and ignored.

use super::session::SETTINGS;
use std::net::IpAddr;

/// Where a parameter was given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'p> {
    /// In the query of the URL.
    Url,
    /// As this variable of the environment.
    Variable(&'p str),
    /// In the section of this service.
    Service(&'p str),
}

/// What a parameter may say.
#[derive(Debug, Clone, Copy)]
enum May {
    /// Anything; it is honoured.
    Anything,
    /// A number of seconds.
    Number,
    /// A port, or a list of them.
    Ports,
    /// An IP address, or a list of them.
    Addresses,
    /// One of these; it is honoured.
    Be(&'static [&'static str]),
    /// Only what changes nothing here; anything else asks for what cannot be done.
    OnlyBe(&'static [&'static str]),
}

/// A parameter of libpq.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The variable of the environment that stands for it.
    pub(super) variable: Option<&'static str>,
    may: May,
}

const fn parameter(name: &'static str, variable: &'static str, may: May) -> Parameter {
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

use May::{Addresses, Anything, Be, Number, OnlyBe, Ports};

/// All that the manual of libpq lists ("Parameter Key Words", "Environment Variables"). Variables that
/// only say how other programs show their results are left out.
pub(super) const PARAMETERS: [Parameter; 46] = [
    parameter("application_name", "PGAPPNAME", Anything),
    parameter(
        "channel_binding",
        "PGCHANNELBINDING",
        OnlyBe(&["disable", "prefer"]),
    ),
    parameter(
        "client_encoding",
        "",
        OnlyBe(&["auto", "UTF8", "utf8", "UTF-8", "utf-8"]),
    ),
    parameter("connect_timeout", "PGCONNECT_TIMEOUT", Number),
    parameter("dbname", "PGDATABASE", Anything),
    parameter("fallback_application_name", "", Anything),
    parameter("gssdelegation", "", OnlyBe(&["0"])),
    parameter("gssencmode", "PGGSSENCMODE", OnlyBe(&["disable", "prefer"])),
    parameter("gsslib", "", OnlyBe(&[])),
    parameter("host", "PGHOST", Anything),
    parameter("hostaddr", "PGHOSTADDR", Addresses),
    // A peer that is silent is noticed by questions that are not answered, within seconds.
    parameter("keepalives", "", OnlyBe(&["1"])),
    parameter("keepalives_count", "", OnlyBe(&["0"])),
    parameter("keepalives_idle", "", OnlyBe(&["0"])),
    parameter("keepalives_interval", "", OnlyBe(&["0"])),
    parameter("krbsrvname", "", OnlyBe(&["postgres"])),
    parameter(
        "load_balance_hosts",
        "PGLOADBALANCEHOSTS",
        Be(&["disable", "random"]),
    ),
    parameter(
        "max_protocol_version",
        "PGMAXPROTOCOLVERSION",
        OnlyBe(&["3.0", "3.2", "latest"]),
    ),
    parameter(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        OnlyBe(&["3.0"]),
    ),
    parameter("options", "PGOPTIONS", Anything),
    parameter("passfile", "PGPASSFILE", Anything),
    parameter("password", "PGPASSWORD", Anything),
    parameter("port", "PGPORT", Ports),
    parameter("replication", "", OnlyBe(&["0", "false", "off", "no"])),
    parameter("require_auth", "PGREQUIREAUTH", OnlyBe(&[])),
    parameter("requirepeer", "PGREQUIREPEER", OnlyBe(&[])),
    parameter("scram_client_key", "", OnlyBe(&[])),
    parameter("scram_server_key", "", OnlyBe(&[])),
    parameter("service", "PGSERVICE", Anything),
    parameter("servicefile", "PGSERVICEFILE", Anything),
    parameter(
        "ssl_max_protocol_version",
        "PGSSLMAXPROTOCOLVERSION",
        OnlyBe(&["TLSv1.3"]),
    ),
    parameter(
        "ssl_min_protocol_version",
        "PGSSLMINPROTOCOLVERSION",
        OnlyBe(&["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ),
    parameter("sslcert", "PGSSLCERT", Anything),
    parameter("sslcertmode", "PGSSLCERTMODE", OnlyBe(&["allow"])),
    parameter("sslcompression", "PGSSLCOMPRESSION", OnlyBe(&["0"])),
    parameter("sslcrl", "PGSSLCRL", OnlyBe(&[])),
    parameter("sslcrldir", "PGSSLCRLDIR", OnlyBe(&[])),
    parameter("sslkey", "PGSSLKEY", Anything),
    parameter(
        "sslmode",
        "PGSSLMODE",
        Be(&[
            "disable",
            "allow",
            "prefer",
            "require",
            "verify-ca",
            "verify-full",
        ]),
    ),
    parameter("sslnegotiation", "PGSSLNEGOTIATION", OnlyBe(&["postgres"])),
    parameter("sslpassword", "", OnlyBe(&[])),
    parameter("sslrootcert", "PGSSLROOTCERT", Anything),
    parameter("sslsni", "PGSSLSNI", OnlyBe(&["1"])),
    // A monitor writes, and so does nearly every command: a standby is of no use.
    parameter(
        "target_session_attrs",
        "PGTARGETSESSIONATTRS",
        OnlyBe(&["any", "read-write", "primary"]),
    ),
    parameter("tcp_user_timeout", "", OnlyBe(&["0"])),
    parameter("user", "PGUSER", Anything),
];

/// Whether a parameter is of TLS, which Unix sockets do not use: there it means nothing, as for libpq.
pub(super) fn is_of_tls(name: &str) -> bool {
    name.starts_with("ssl")
}

/// What is wrong with a name in the query of a URL.
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

/// What is wrong with the value of a parameter that was given there. A parameter of TLS is asked about
/// again by [`fault_of_tls`], once it is known that TLS is used.
pub(super) fn fault(name: &str, value: &str, place: Place<'_>) -> Option<String> {
    let said = match place {
        Place::Url => format!("its parameter `{name}`"),
        Place::Variable(variable) => format!("the variable {variable}"),
        Place::Service(service) => format!("the parameter `{name}` of the service `{service}`"),
    };
    let take_out = match place {
        Place::Url | Place::Service(_) => "take it out",
        Place::Variable(_) => "unset it",
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
        Be(words) if !words.contains(&value) => must_be(&format!("one of {}", words.join(", "))),
        OnlyBe(words) if !words.contains(&value) && !is_of_tls(name) => {
            Some(cannot(&said, words, take_out))
        }
        Anything if name == "options" && matches!(place, Place::Url) => {
            own_setting(value).map(|setting| {
                format!(
                    "{said} sets `{setting}`, which rework sets for its own sessions; {take_out}"
                )
            })
        }
        _ => None,
    }
}

/// What is wrong with a parameter of TLS where TLS is used.
pub(super) fn fault_of_tls(name: &str, value: &str) -> Option<String> {
    let said = match find(name)?.variable {
        Some(variable) => format!("the parameter `{name}` (or the variable {variable})"),
        None => format!("the parameter `{name}`"),
    };
    match find(name)?.may {
        OnlyBe(words) if !words.contains(&value) => Some(cannot(&said, words, "take it out")),
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

/// A setting of the server in `options` that sessions of ours need to be otherwise.
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
        // No statement of ours names anything without its schema.
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
    // With the name of an interface, as in fe80::1%eth0.
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
            let told = fault(name, value, Place::Url);
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
            Place::Variable("PGCHANNELBINDING"),
        );
        assert!(
            told.is_some_and(|told| told.contains("PGCHANNELBINDING") && told.contains("unset"))
        );
    }
}
