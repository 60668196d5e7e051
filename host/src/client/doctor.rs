//! Checks of the whole installation: one finding per possible problem, with what to do about it.

use super::{
    Client, ScheduleReport,
    error::{ClientError, Result},
    waiting::{no_starts, remedy, unserved},
};
use crate::{
    causes::chain,
    model::{
        duration::human,
        plugin::{doubles_warning, title},
    },
    store::{GoneHost, Holder, MonitorRow, ScheduleRow, StartHealth, StoreError, WaitingLane},
};
use chrono::{TimeDelta, Utc};
use serde::Serialize;

/// The major versions of PostgreSQL that this program is tested with.
const SERVERS: std::ops::RangeInclusive<i32> = 14..=18;
/// Clocks of hosts and server may differ by this much without harm.
const CLOCKS: TimeDelta = TimeDelta::seconds(5);

/// The result of one check.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What was checked: `server`, `schema`, `clock`, `write`, `lock`, `monitor`, `host`, `waiting`,
    /// `worker`, `plugin`, `schedule`, `zones` or `pause`.
    pub check: &'static str,
    /// Whether the check found no problem.
    pub ok: bool,
    /// What was found, on one line.
    pub message: String,
    /// What the reader can do about it.
    pub hint: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self {
            check,
            ok: true,
            message: message.into(),
            hint: None,
        }
    }

    /// A problem, and what the reader can do about it.
    pub fn problem(
        check: &'static str,
        message: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) -> Self {
        Self {
            check,
            ok: false,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl Client {
    /// Checks the whole installation. If the schema is missing or of another version, the other checks are
    /// left out.
    pub async fn doctor(&self) -> Result<Vec<Finding>> {
        let mut findings = self.server_findings().await?;
        match self.store().schema_check().await {
            Ok(()) => findings.push(Finding::ok("schema", "the schema fits this version")),
            Err(error) => {
                let hint = error.hint();
                findings.push(Finding::problem("schema", error.to_string(), hint));
                return Ok(findings);
            }
        }
        findings.push(self.write_finding().await);
        findings.extend(self.lock_findings().await?);
        match self.table_findings().await {
            Ok(rest) => findings.extend(rest),
            Err(ClientError::Store(error @ StoreError::Locked { .. })) => {
                let words = format!("the other checks have to wait: {}", chain(&error));
                findings.push(Finding::problem("lock", words, error.hint()));
            }
            Err(error) => return Err(error),
        }
        Ok(findings)
    }

    /// The checks that read tables of the schema.
    async fn table_findings(&self) -> Result<Vec<Finding>> {
        let mut findings = self.monitor_findings().await?;
        findings.extend(self.host_findings().await?);
        findings.extend(self.waiting_findings().await?);
        findings.extend(self.start_findings().await?);
        findings.extend(self.plugin_findings().await?);
        findings.extend(self.schedule_findings().await?);
        // After the schedules, because their zones have been read by then.
        findings.push(zone_finding());
        findings.extend(self.pause_findings().await?);
        Ok(findings)
    }

    async fn server_findings(&self) -> Result<Vec<Finding>> {
        let before = Utc::now();
        let health = self.store().health().await?;
        let middle = before + (Utc::now() - before) / 2;
        let (major, minor) = (health.server / 10_000, health.server % 10_000);
        let server = format!("PostgreSQL {major}.{minor}, {}", self.place());
        let server = if SERVERS.contains(&major) {
            Finding::ok("server", server)
        } else {
            let (first, last) = (SERVERS.start(), SERVERS.end());
            Finding::problem(
                "server",
                server,
                format!("rework is tested with PostgreSQL {first} to {last}"),
            )
        };
        let difference = (health.now - middle).abs();
        let words = format!(
            "the clocks of this host and the server differ by {} ms",
            difference.num_milliseconds()
        );
        let clock = if difference < CLOCKS {
            Finding::ok("clock", words)
        } else {
            let hint = "times of tasks will look odd: let NTP set both clocks".to_owned();
            Finding::problem("clock", words, hint)
        };
        Ok(vec![server, clock])
    }

    async fn monitor_findings(&self) -> Result<Vec<Finding>> {
        let monitors = self.monitors().await?;
        if monitors.is_empty() {
            return Ok(vec![Finding::problem(
                "monitor",
                "no monitor runs anywhere",
                "start `rework monitor` on a host that has plugins".to_owned(),
            )]);
        }
        let mut findings = Vec::new();
        for monitor in &monitors {
            let locker = match monitor.stale {
                true => self.store().monitor_locker(monitor.id).await?,
                false => None,
            };
            findings.push(monitor_finding(monitor, locker.as_ref()));
        }
        Ok(findings)
    }

    /// Tries what monitors write, and rolls it back.
    async fn write_finding(&self) -> Finding {
        match self.store().health_write().await {
            Ok(()) => Finding::ok("write", "the database takes what is written about tasks"),
            // As where a lock of one table is held for long: monitors wait for it as well.
            Err(error @ StoreError::Locked { .. }) => Finding::problem(
                "write",
                format!(
                    "what is written about tasks has to wait for a lock: {}",
                    chain(&error)
                ),
                error.hint(),
            ),
            // Others write as well: nothing is known.
            Err(error) if error.is_contended() => Finding::ok(
                "write",
                format!(
                    "could not look whether the database takes what is written about tasks, somebody \
                     else is at it: {}",
                    chain(&error)
                ),
            ),
            Err(error) => Finding::problem(
                "write",
                format!(
                    "the database does not take what is written about tasks: {}",
                    chain(&error)
                ),
                "no task is claimed, and no end of one is reported, until it does: see to the rights \
                 of the role, to triggers, constraints and publications of schema rework, to the \
                 disk, and whether the server is a standby"
                    .to_owned(),
            ),
        }
    }

    /// Sessions that wait for a lock, and forgotten prepared transactions.
    async fn lock_findings(&self) -> Result<Vec<Finding>> {
        let waits = self.store().lock_waits().await?;
        let waits = waits.into_iter().map(|wait| {
            let holder = wait.holder.as_ref();
            let named = holder.map_or_else(|| "a lock".to_owned(), ToString::to_string);
            Finding::problem(
                "lock",
                format!(
                    "the server's process {} works on tables of rework and has waited for {} for {named}",
                    wait.pid,
                    human(wait.waited)
                ),
                holder.map(Holder::hint),
            )
        });
        let forgotten = self.store().lock_forgotten().await?;
        let forgotten = forgotten.into_iter().map(|(holder, lasted)| {
            Finding::problem(
                "lock",
                format!(
                    "{holder} holds locks on tables of rework and has not ended for {}",
                    human(lasted)
                ),
                holder.hint(),
            )
        });
        let mut findings: Vec<Finding> = waits.chain(forgotten).collect();
        if let Some((sessions, waited)) = self.store().lock_standby().await? {
            findings.push(Finding::problem(
                "lock",
                format!(
                    "{} for a synchronous standby to have what was committed, the first for {}",
                    match sessions {
                        1 => "1 session waits".to_owned(),
                        count => format!("{count} sessions wait"),
                    },
                    human(waited)
                ),
                "bring a standby of synchronous_standby_names back, or change that setting of the server"
                    .to_owned(),
            ));
        }
        if findings.is_empty() {
            findings.push(Finding::ok("lock", "nobody waits for a lock for long"));
        }
        Ok(findings)
    }

    async fn host_findings(&self) -> Result<Vec<Finding>> {
        let gone = self.store().health_gone_hosts().await?;
        let finding = |gone: GoneHost| {
            let GoneHost {
                host,
                operations,
                only_here,
                last_seen,
            } = gone;
            let since = last_seen.map_or_else(
                || format!("host {host} has never had a monitor"),
                |seen| {
                    let seen = crate::model::time::human(seen);
                    format!("host {host} has had no monitor since {seen}")
                },
            );
            let count = match operations {
                1 => "1 operation is".to_owned(),
                count => format!("{count} operations are"),
            };
            let words = format!("{since}; {count} registered for it");
            let hint = format!(
                "start `rework monitor` there, or, if it is gone for good, `rework unregister-host {host}`"
            );
            match only_here {
                Some(name) => Finding::problem(
                    "host",
                    format!("{words}, and no other host with a monitor has `{name}`"),
                    hint,
                ),
                // Other hosts run its operations.
                None => Finding::ok("host", format!("{words}, which others have too; {hint}")),
            }
        };
        Ok(gone.into_iter().map(finding).collect())
    }

    async fn waiting_findings(&self) -> Result<Vec<Finding>> {
        let waiting = self.store().health_waiting().await?;
        if waiting.is_empty() {
            return Ok(vec![Finding::ok("waiting", "no task waits")]);
        }
        let failing = self.store().health_starts().await?;
        let is_any_alive = self.monitors().await?.iter().any(|monitor| !monitor.stale);
        Ok(waiting
            .iter()
            .map(|waiting| waiting_finding(waiting, &failing, is_any_alive))
            .collect())
    }

    async fn start_findings(&self) -> Result<Vec<Finding>> {
        let failing = self.store().health_starts().await?;
        if failing.is_empty() {
            return Ok(vec![Finding::ok("worker", "workers start")]);
        }
        let finding = |failing: StartHealth| {
            let StartHealth {
                domain, host, name, ..
            } = &failing;
            let hint = if failing.error.is_some() {
                "what is registered for the domain loads in a probe but not in a worker: see the \
                 monitor's log, its --env and its --worker-user"
            } else {
                "what the plugin and its libraries do while they are loaded takes long or hangs; such \
                 a worker is killed after --start-timeout of the monitor"
            };
            Finding::problem(
                "worker",
                format!(
                    "workers of domain {domain} for {name} on {host} {}",
                    failing.in_words()
                ),
                hint.to_owned(),
            )
        };
        Ok(failing.into_iter().map(finding).collect())
    }

    async fn plugin_findings(&self) -> Result<Vec<Finding>> {
        let refused = self.refused_files().await?;
        let outdated = self.store().plugin_sdks().await?;
        let outdated = outdated.into_iter().filter_map(|plugin| {
            let warning = doubles_warning(&plugin.sdk)?;
            let title = title(&plugin.name, &plugin.version, &plugin.hash);
            Some(Finding::problem(
                "plugin",
                format!("on {}: {title} {warning}", plugin.host),
                "register what has been built again".to_owned(),
            ))
        });
        let none = || Finding::ok("plugin", "no plugin is refused");
        let first = refused.is_empty().then(none);
        let refused = refused
            .into_iter()
            .map(|file| {
                let hint = if file.reason.contains(" to the cache") {
                    "see to the directory of the cache; the monitor tries again"
                } else if file.reason.contains("the published plugin") {
                    "publish it again from the host that it comes from"
                } else {
                    "mend the file or remove it; the monitor looks again when it changes, and after a while"
                };
                Finding::problem(
                    "plugin",
                    format!("on {}: {}", file.host, file.reason),
                    hint.to_owned(),
                )
            });
        Ok(first.into_iter().chain(refused).chain(outdated).collect())
    }

    async fn schedule_findings(&self) -> Result<Vec<Finding>> {
        let refused: Vec<Finding> = self
            .schedules(None)
            .await?
            .into_iter()
            .filter_map(|row| {
                let ScheduleReport {
                    id,
                    operation,
                    domain,
                    ..
                } = row;
                let error = row.error?;
                Some(Finding::problem(
                    "schedule",
                    format!(
                        "schedule {id} of `{operation}` {domain} cannot queue its task: {error}"
                    ),
                    format!("prepare it anew with what fits, or `rework unprepare {id}`"),
                ))
            })
            .collect();
        let stuck = self.stuck_schedules().await?;
        if refused.is_empty() && stuck.is_empty() {
            return Ok(vec![Finding::ok("schedule", "no schedule is refused")]);
        }
        Ok(refused.into_iter().chain(stuck).collect())
    }

    /// Schedules whose tasks no host with a living monitor could run.
    async fn stuck_schedules(&self) -> Result<Vec<Finding>> {
        let mut stuck = Vec::new();
        for row in self.store().sched_list(&[]).await? {
            let ScheduleRow {
                id,
                operation,
                domain,
                ..
            } = &row;
            // An operation that refuses the task is reported by another check.
            let Ok(hosts) = self.store().health_schedule(&row).await else {
                continue;
            };
            if let Some(hosts_words) = unserved(domain, &hosts).filter(|_| !row.paused) {
                stuck.push(Finding::problem(
                    "schedule",
                    format!("the tasks of schedule {id} of `{operation}` {domain} wait for {hosts_words}"),
                    remedy(domain, &hosts),
                ));
            }
        }
        Ok(stuck)
    }

    async fn pause_findings(&self) -> Result<Vec<Finding>> {
        let paused = self.paused().await?;
        if paused.is_empty() {
            return Ok(vec![Finding::ok("pause", "nothing is paused")]);
        }
        Ok(paused
            .into_iter()
            .map(|paused| {
                let (what, option) = match &paused.operation {
                    Some(name) => (format!("operation `{name}` of "), " --operation …"),
                    None => (String::new(), " --domain …"),
                };
                let domain = &paused.domain;
                // Somebody has paused it on purpose: worth a line, but not a problem.
                Finding::ok(
                    "pause",
                    format!("{what}domain {domain} is paused; `rework resume{option}` ends that"),
                )
            })
            .collect())
    }
}

/// Whether a monitor is alive and heard. `locker`: who holds a lock on its row.
fn monitor_finding(monitor: &MonitorRow, locker: Option<&Holder>) -> Finding {
    let domains = match monitor.domains.as_slice() {
        [] => "every domain".to_owned(),
        some => some.join(", "),
    };
    let words = format!("monitor {} on {} ({domains})", monitor.id, monitor.host);
    if let Some(holder) = locker {
        let seen = crate::model::time::human(monitor.last_seen);
        Finding::problem(
            "monitor",
            format!(
                "{words} has not renewed its lease since {seen}: {holder} holds a lock on its row"
            ),
            holder.hint(),
        )
    } else if monitor.stale {
        Finding::problem(
            "monitor",
            format!(
                "{words} was last seen {}",
                crate::model::time::human(monitor.last_seen)
            ),
            "it died or has no connection; a monitor anywhere will clean up after it".to_owned(),
        )
    } else if let Some(trouble) = &monitor.trouble {
        Finding::problem(
            "monitor",
            format!("the database does not take what {words} writes, {trouble}"),
            "its running tasks go on, and their results are kept until they are taken; \
             the line `write` and the server's log tell more"
                .to_owned(),
        )
    } else {
        Finding::ok("monitor", format!("{words} is alive"))
    }
}

fn zone_finding() -> Finding {
    let version = format!("time zones: {}", crate::zones::version());
    match crate::zones::faults().first() {
        None => Finding::ok("zones", version),
        Some(fault) => Finding::problem(
            "zones",
            format!("{version}; {fault}"),
            "install the package of zone data (tzdata) anew".to_owned(),
        ),
    }
}

fn waiting_finding(waiting: &WaitingLane, failing: &[StartHealth], is_any_alive: bool) -> Finding {
    let WaitingLane {
        domain,
        operation,
        task,
        hosts,
        ..
    } = waiting;
    let (count, verb) = match waiting.waiting {
        1 => ("1 task".to_owned(), "waits"),
        1000.. => ("1000 tasks or more".to_owned(), "wait"),
        count => (format!("{count} tasks"), "wait"),
    };
    let pinned = waiting
        .host
        .as_ref()
        .map_or_else(String::new, |host| format!(" on host {host}"));
    let wait = format!("{count} of `{operation}` {domain} {verb}{pinned}");
    if waiting.paused {
        return Finding::ok("waiting", format!("{wait}: it is paused"));
    }
    if let Some(failing) = no_starts(domain, hosts, failing) {
        return Finding::problem(
            "waiting",
            format!(
                "{wait}: on {} workers of domain {domain} for {} {}",
                failing.host,
                failing.name,
                failing.in_words()
            ),
            format!("once they start, task {task} runs; see the line `worker`"),
        );
    }
    let served: Vec<&str> = hosts
        .iter()
        .filter(|host| host.is_served)
        .map(|host| host.host.as_str())
        .collect();
    if !served.is_empty() {
        return Finding::ok("waiting", format!("{wait}, for {}", served.join(", ")));
    }
    match unserved(domain, hosts) {
        // Before the first monitor is started, tasks may well wait.
        Some(_) if !is_any_alive => {
            let names: Vec<&str> = hosts.iter().map(|host| host.host.as_str()).collect();
            Finding::problem(
                "waiting",
                format!("no host can run task {task}: {wait}"),
                format!(
                    "start `rework monitor --domain {domain}` on {}",
                    names.join(" or ")
                ),
            )
        }
        Some(words) => Finding::problem(
            "waiting",
            format!("no host can run task {task}: {wait} for {words}"),
            remedy(domain, hosts),
        ),
        None => Finding::problem(
            "waiting",
            format!("no host can run task {task}: {wait}"),
            format!("register a plugin that offers `{operation}`{pinned}"),
        ),
    }
}
