//! The servers that the parameters of a connection name, and the ways to connect to each.

use super::{
    error::{Result, StoreError, words},
    parameter::{self, PARAMETERS, Source},
    passfile::{self, Found, Login},
    service,
    url::{self, Parameters},
};
use crate::here;
use nix::unistd::{User, geteuid};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::{
    ConnectOptions as _,
    postgres::{PgConnectOptions, PgSslMode},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a server may take to accept a connection, unless `connect_timeout` says otherwise.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The directories in which Debian's Postgres and an unmodified Postgres put their Unix socket. A libpq
/// knows only one of them.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// One server that the parameters name.
#[derive(Clone)]
pub(super) struct Server {
    /// Host and port, or the socket's directory, without credentials: for messages.
    pub(super) place: String,
    /// The ways to connect, in the order in which they are tried: for `allow` and `prefer`, like libpq,
    /// with and without TLS.
    pub(super) ways: Vec<PgConnectOptions>,
    /// A remark for the error if the server refuses the login, such as a password file that was not used.
    pub(super) remark: Option<String>,
}

/// The servers that a URL, a service file and the environment name together.
#[derive(Clone)]
pub(super) struct Servers {
    pub(super) all: Vec<Server>,
    /// Whether only a server that accepts writes will do.
    pub(super) must_write: bool,
    pub(super) connect_timeout: Duration,
}

/// A non-empty environment variable. `HOME`, if it is not set, is taken from the user database, as in
/// libpq.
fn environment(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    let own = || here::home()?.into_os_string().into_string().ok();
    value.or_else(|| (name == "HOME").then(own).flatten())
}

impl Servers {
    /// The servers of a URL; the service file and the environment complete what the URL leaves open.
    pub(super) fn of(url: &str) -> Result<Self> {
        Self::with_environment(url, &environment)
    }

    /// The server of a URL that this program has composed itself: the environment does not apply to it.
    pub(super) fn of_own(url: &str) -> Result<Self> {
        Self::with_environment(url, &|name| environment(name).filter(|_| name == "HOME"))
    }

    fn with_environment(url: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let mut given = url::read(url)?;
        let gives_options = given.contains_key("options");
        complete(&mut given, variable).map_err(StoreError::Url)?;
        // The driver reads PGOPTIONS itself, and appends our options to it.
        let options = given
            .get("options")
            .filter(|_| gives_options || variable("PGOPTIONS").is_none());
        let base = base(options)?;
        servers(&given, &base, variable("HOME").as_deref()).map_err(StoreError::Url)
    }
}

/// Completes the given parameters: first from the service file, then from the environment.
fn complete(
    given: &mut Parameters,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let said = |given: &Parameters, name: &str, of: &str| {
        given.get(name).cloned().or_else(|| variable(of))
    };
    if let Some(service) = said(given, "service", "PGSERVICE") {
        let file = said(given, "servicefile", "PGSERVICEFILE");
        for (name, value) in service::read(&service, file.as_deref(), variable)? {
            given.entry(name).or_insert(value);
        }
    }
    for parameter in &PARAMETERS {
        let Some((of, value)) = parameter
            .variable
            .and_then(|of| Some((of, variable(of)?)))
            .filter(|_| !given.contains_key(parameter.name))
        else {
            continue;
        };
        if let Some(fault) = parameter::fault(parameter.name, &value, Source::Variable(of)) {
            return Err(fault);
        }
        given.insert(parameter.name.to_owned(), value);
    }
    Ok(())
}

/// The options that all servers have in common. An empty password is set, so that the driver does not
/// search for one.
fn base(options: Option<&String>) -> Result<PgConnectOptions> {
    let mut url = "postgres:///?password=".to_owned();
    if let Some(options) = options {
        url += "&options=";
        url += &utf8_percent_encode(options, NON_ALPHANUMERIC).to_string();
    }
    let base: PgConnectOptions = url
        .parse()
        .map_err(|error| StoreError::Url(words(&error)))?;
    Ok(base
        // Set with the connection, since a role may have a limit that the statement which sets these would
        // exceed.
        .options([
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            // Or that end the session before that statement arrives, on a machine that is busy.
            ("idle_session_timeout", "0"),
            // Our transactions are never prepared, so they may notify: see `rework.tell` in the migrations.
            ("rework.notifies", "on"),
        ])
        .log_statements(tracing::log::LevelFilter::Off))
}

fn servers(
    given: &Parameters,
    base: &PgConnectOptions,
    home: Option<&str>,
) -> Result<Servers, String> {
    let value = |name: &str| given.get(name).map(String::as_str);
    let list =
        |name: &str| -> Vec<&str> { value(name).map_or(Vec::new(), |v| v.split(',').collect()) };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len()).max(1);
    for (other, may_be_one) in [
        (hosts.len(), false),
        (addresses.len(), false),
        (ports.len(), true),
    ] {
        if other != 0 && other != count && !(may_be_one && other == 1) {
            return Err(format!(
                "it names {count} servers in one place and {other} in another"
            ));
        }
    }
    // As in libpq: the name of the effective user id, whatever `USER` says.
    let id = geteuid();
    let system = User::from_uid(id).ok().flatten().map(|user| user.name);
    let user = value("user").or(system.as_deref()).ok_or_else(|| {
        format!("it names no user, and user id {id} has no name on this host: postgres://user@…")
    })?;
    let database = value("dbname").unwrap_or(user);
    let application = value("application_name")
        .or(value("fallback_application_name"))
        .unwrap_or("rework");
    let common = base
        .clone()
        .username(user)
        .database(database)
        .application_name(application);
    let passfile = value("passfile")
        .map(PathBuf::from)
        .or_else(passfile::default_path);
    let mut all = Vec::new();
    for place in 0..count {
        let at = |list: &[&str]| {
            list.get(place)
                .or(list.first())
                .map_or("", |v| v.trim())
                .to_owned()
        };
        let (host, address, port) = (at(&hosts), at(&addresses), at(&ports));
        let port = if port.is_empty() {
            5432
        } else {
            port.parse().map_err(|_| "it has no port")?
        };
        let mut way = common.clone().port(port);
        let socket = match (host.as_str(), address.as_str()) {
            (_, address) if !address.is_empty() => None,
            ("", _) => Some(default_socket(port)),
            (host, _) if host.starts_with('/') => Some(host.to_owned()),
            (host, _) if host.starts_with('@') => {
                return Err(
                    "it names an abstract Unix socket, which this rework cannot use".to_owned(),
                );
            }
            _ => None,
        };
        let target = match (&socket, address.as_str(), host.as_str()) {
            (Some(_), ..) => "localhost",
            (None, "", host) => host,
            (None, address, _) => address,
        };
        way = match &socket {
            Some(directory) => way.socket(directory),
            None => way.host(target),
        };
        let mut remark = None;
        match (value("password"), &passfile) {
            (Some(password), _) => way = way.password(password),
            (None, Some(path)) => {
                let is_default = |host: &str| host.is_empty() || host == SOCKET_DIRECTORIES[0];
                let named = match (host.as_str(), address.as_str()) {
                    ("", address) if !address.is_empty() => address,
                    (host, _) if is_default(host) => "localhost",
                    (host, _) => host,
                };
                let login = Login {
                    host: named,
                    port,
                    database,
                    user,
                };
                match passfile::look_up(path, &login) {
                    Found::Password(password) => way = way.password(&password),
                    Found::Nothing => {}
                    Found::Unusable(why) => remark = Some(why),
                }
            }
            (None, None) => {}
        }
        let ways = match socket {
            // As in libpq: Unix sockets never use TLS, whatever `sslmode` says.
            Some(_) => vec![way.ssl_mode(PgSslMode::Disable)],
            None => ways_with_tls(way, given, &host, &address, home)?,
        };
        let place = match ways.first().and_then(PgConnectOptions::get_socket) {
            Some(socket) => format!("database `{database}` in {}", socket.display()),
            None if target.contains(':') => format!("database `{database}` at [{target}]:{port}"),
            None => format!("database `{database}` at {target}:{port}"),
        };
        all.push(Server {
            place,
            ways,
            remark,
        });
    }
    let must_write = all.len() > 1
        || value("target_session_attrs").is_some_and(|attributes| attributes != "any");
    let connect_timeout = value("connect_timeout")
        .and_then(|seconds| seconds.trim().parse::<u64>().ok())
        .filter(|seconds| *seconds > 0)
        .map_or(CONNECT_TIMEOUT, Duration::from_secs);
    Ok(Servers {
        all,
        must_write,
        connect_timeout,
    })
}

/// The default socket's directory: the first in which the server's socket exists, else the first directory
/// that exists. As in libpq, a server that is not named is never reached over TCP.
fn default_socket(port: u16) -> String {
    let socket = format!(".s.PGSQL.{port}");
    let has = |name: &str| {
        SOCKET_DIRECTORIES
            .into_iter()
            .find(|directory| Path::new(directory).join(name).exists())
    };
    let directory = has(&socket).or_else(|| has("."));
    directory.unwrap_or(SOCKET_DIRECTORIES[0]).to_owned()
}

/// The ways to connect to a server over TCP, according to `sslmode`.
fn ways_with_tls(
    mut way: PgConnectOptions,
    given: &Parameters,
    host: &str,
    address: &str,
    home: Option<&str>,
) -> Result<Vec<PgConnectOptions>, String> {
    let value = |name: &str| given.get(name).map(String::as_str);
    let mode = value("sslmode").unwrap_or("prefer");
    if mode == "disable" {
        return Ok(vec![way.ssl_mode(PgSslMode::Disable)]);
    }
    if let Some(fault) = given
        .iter()
        .filter(|(name, _)| parameter::is_of_tls(name))
        .find_map(|(name, value)| parameter::fault_of_tls(name, value))
    {
        return Err(fault);
    }
    if mode == "verify-full" && !address.is_empty() && address != host {
        return Err(
            "its parameter `hostaddr` cannot be used with sslmode=verify-full: the driver compares the \
             certificate with the address; take it out, or let sslmode be verify-ca"
                .to_owned(),
        );
    }
    // A file in the directory in which libpq looks for it by default.
    let file = |name: &str, default: &str| {
        value(name).map(PathBuf::from).or_else(|| {
            let path = Path::new(home?).join(".postgresql").join(default);
            path.exists().then_some(path)
        })
    };
    let root = file("sslrootcert", "root.crt");
    let has_root = root.as_deref().is_some_and(Path::exists);
    if let Some(root) = root {
        way = way.ssl_root_cert(root);
    }
    if let (Some(certificate), Some(key)) = (
        file("sslcert", "postgresql.crt"),
        file("sslkey", "postgresql.key"),
    ) {
        way = way.ssl_client_cert(certificate).ssl_client_key(key);
    }
    let mode_of = |mode| way.clone().ssl_mode(mode);
    Ok(match mode {
        "allow" => vec![mode_of(PgSslMode::Disable), mode_of(PgSslMode::Require)],
        "require" if has_root => vec![mode_of(PgSslMode::VerifyCa)],
        "require" => vec![mode_of(PgSslMode::Require)],
        "verify-ca" => vec![mode_of(PgSslMode::VerifyCa)],
        "verify-full" => vec![mode_of(PgSslMode::VerifyFull)],
        _ => vec![mode_of(PgSslMode::Prefer), mode_of(PgSslMode::Disable)],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str, variables: &[(&str, &str)]) -> Result<Servers> {
        Servers::with_environment(url, &|name| {
            let variable = variables.iter().find(|(known, _)| *known == name);
            variable.map(|(_, value)| (*value).to_owned())
        })
    }

    fn places(url: &str, variables: &[(&str, &str)]) -> String {
        let servers = of(url, variables).unwrap_or_else(|error| panic!("{url}: {error}"));
        let places: Vec<String> = servers.all.into_iter().map(|server| server.place).collect();
        places.join(" or ").replace("database `d` ", "")
    }

    #[test]
    fn every_form_names_its_servers() {
        for (url, variables, wanted) in [
            ("postgres://u@h/d", &[][..], "at h:5432"),
            ("postgres://u@[::1]:7/d", &[], "at [::1]:7"),
            (
                "postgres:///d?hostaddr=127.0.0.1&port=7",
                &[],
                "at 127.0.0.1:7",
            ),
            ("postgres://h/d?hostaddr=::1", &[], "at [::1]:5432"),
            (
                "postgres:///d?host=/tmp/x&port=7&sslmode=require",
                &[],
                "in /tmp/x",
            ),
            (
                "postgres://%2Ftmp%2Fx/d",
                &[("PGSSLMODE", "verify-full"), ("PGSSLCRL", "/x")],
                "in /tmp/x",
            ),
            (
                "postgres://a:1,b,[::1]:3/d",
                &[],
                "at a:1 or at b:5432 or at [::1]:3",
            ),
            ("postgres://a,b/d?port=7", &[], "at a:7 or at b:7"),
            (
                "postgres:///d?host=a,/tmp&port=1,2",
                &[],
                "at a:1 or in /tmp",
            ),
            (
                "postgres:///d?hostaddr=::1,127.0.0.1&host=a,b",
                &[],
                "at [::1]:5432 or at 127.0.0.1:5432",
            ),
            (
                "postgres://h/d",
                &[("PGPORT", "7"), ("PGHOST", "other")],
                "at h:7",
            ),
            (
                "postgres:///d",
                &[("PGHOST", "other"), ("PGPORT", "8")],
                "at other:8",
            ),
            (
                "postgresql://",
                &[("PGHOST", "h"), ("PGDATABASE", "d")],
                "at h:5432",
            ),
            ("postgresql://d@h", &[], "at h:5432"),
        ] {
            assert_eq!(places(url, variables), wanted, "{url}");
        }
        for (url, variables, wanted) in [
            (
                "postgres://a,b,c/x?port=1,2",
                &[][..],
                "3 servers in one place and 2",
            ),
            (
                "postgres://a/x?hostaddr=::1,::2",
                &[],
                "2 servers in one place and 1",
            ),
            ("postgres:///x?host=@socket", &[], "abstract"),
            (
                "postgres://h/x",
                &[("PGSSLMODE", "nonsense")],
                "PGSSLMODE must be one of",
            ),
            (
                "postgres://h/x",
                &[("PGCHANNELBINDING", "require")],
                "unset it",
            ),
            ("postgres://h/x?sslcrl=/x", &[], "`sslcrl`"),
            (
                "postgres://h/x?sslmode=verify-full&hostaddr=::1",
                &[],
                "`hostaddr`",
            ),
            ("postgres://h/x?service=none", &[], "`none`"),
        ] {
            let told = of(url, variables).map(|_| ()).expect_err(url).to_string();
            assert!(told.contains(wanted), "{url}: {told}");
        }
    }

    #[test]
    fn without_a_host_it_is_the_socket_of_this_machine() {
        // Nobody listens at this port, here as with libpq no reason to go elsewhere.
        let place = places("postgres:///d?port=9", &[]);
        assert!(
            SOCKET_DIRECTORIES.contains(&place.trim_start_matches("in ")),
            "{place}"
        );
        for server in ["postgres://:9/d", "postgres://u@/d?port=9"] {
            assert_eq!(places(server, &[]), place, "{server}");
        }
    }

    #[test]
    fn the_user_is_that_of_the_process_whatever_its_environment_says() {
        let own = User::from_uid(geteuid()).unwrap().unwrap().name;
        for variables in [&[][..], &[("USER", "babar"), ("LOGNAME", "babar")]] {
            let servers = of("postgres://h", variables).unwrap();
            let way = &servers.all[0].ways[0];
            assert_eq!(way.get_username(), own);
            assert_eq!(way.get_database(), Some(own.as_str()));
        }
    }

    #[test]
    fn what_is_said_is_what_is_done() {
        let one = |url: &str, variables: &[(&str, &str)]| {
            let servers = of(url, variables).unwrap();
            (
                servers.all[0].ways.clone(),
                servers.connect_timeout,
                servers.must_write,
            )
        };
        let (ways, timeout, must_write) = one("postgres://u@h/d", &[]);
        assert_eq!(ways[0].get_application_name(), Some("rework"));
        assert_eq!((timeout, must_write), (CONNECT_TIMEOUT, false));
        let (ways, timeout, must_write) = one(
            "postgres://h?application_name=a&connect_timeout=3&target_session_attrs=primary",
            &[("PGUSER", "v"), ("PGAPPNAME", "b")],
        );
        assert_eq!(ways[0].get_application_name(), Some("a"));
        assert_eq!(
            (ways[0].get_username(), ways[0].get_database()),
            ("v", Some("v"))
        );
        assert_eq!((timeout, must_write), (Duration::from_secs(3), true));
        let modes = |mode: &str| -> Vec<String> {
            let (ways, ..) = one(&format!("postgres://h?sslmode={mode}"), &[]);
            ways.iter()
                .map(|way| format!("{:?}", way.get_ssl_mode()))
                .collect()
        };
        assert_eq!(modes("prefer"), ["Prefer", "Disable"]);
        assert_eq!(modes("allow"), ["Disable", "Require"]);
        assert_eq!(modes("disable"), ["Disable"]);
        assert_eq!(modes("verify-full"), ["VerifyFull"]);
        let (ways, ..) = one(
            "postgres://h?options=-c%20geqo%3Doff%20-c%20work_mem%3D4MB",
            &[],
        );
        let options = ways[0].get_options().unwrap_or_default();
        assert!(options.contains("-c geqo=off -c work_mem=4MB"), "{options}");
    }
}
