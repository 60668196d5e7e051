//! What a task or a schedule waits for, in words: a time, a pause, a host without a monitor, a worker.

use super::{Client, error::Result};
use crate::{
    model::{TaskId, time},
    store::{LaneHost, Retired, StartHealth, TaskWait},
};

impl Client {
    /// What a queued task waits for, in words; `None`: it is not queued.
    pub async fn task_waits(&self, task: TaskId) -> Result<Option<String>> {
        let Some(wait) = self.store().health_task(task).await? else {
            return Ok(None);
        };
        let failing = self.store().health_starts().await?;
        Ok(Some(waits_for(&wait, &failing)))
    }

    /// The host without a living monitor that a task waits for, while another host has a monitor; `None`:
    /// it waits for no such host. If no monitor is alive at all, all tasks wait alike, and the answer is
    /// `None`.
    pub async fn waits_for_host(&self, task: TaskId) -> Result<Option<String>> {
        let Some(wait) = self.store().health_task(task).await? else {
            return Ok(None);
        };
        self.unless_all_are_gone(&wait.domain, &wait.hosts).await
    }

    /// The host that the tasks of a schedule would wait for; see [`Client::waits_for_host`].
    pub async fn schedule_waits_for_host(
        &self,
        schedule: crate::model::ScheduleId,
    ) -> Result<Option<String>> {
        let rows = self.store().sched_list(&[]).await?;
        let Some(row) = rows.into_iter().find(|row| row.id == schedule.0) else {
            return Ok(None);
        };
        // If the operation refuses the schedule's input by now, other messages report it.
        let Ok(hosts) = self.store().health_schedule(&row).await else {
            return Ok(None);
        };
        self.unless_all_are_gone(&row.domain, &hosts).await
    }

    async fn unless_all_are_gone(
        &self,
        domain: &str,
        hosts: &[LaneHost],
    ) -> Result<Option<String>> {
        let is_any_alive = self.monitors().await?.iter().any(|monitor| !monitor.stale);
        Ok(unserved(domain, hosts).filter(|_| is_any_alive))
    }

    /// The deployments of a host.
    pub async fn host_deployments(&self, host: &str) -> Result<Vec<Retired>> {
        Ok(self.store().host_deployments(host).await?)
    }

    /// Retires all deployments of a host; tasks, logs and schedules stay.
    pub async fn unregister_host(&self, host: &str, deployments: &[Retired]) -> Result<()> {
        self.unregister(deployments).await?;
        Ok(self.store().host_forget(host).await?)
    }
}

/// The hosts that could run tasks of a lane and the reason why none does, if no monitor on them serves the
/// domain; `None`: a monitor does, or there is no such host.
pub(super) fn unserved(domain: &str, hosts: &[LaneHost]) -> Option<String> {
    if hosts.iter().any(|host| host.is_served) {
        return None;
    }
    let words: Vec<String> = hosts
        .iter()
        .map(|host| {
            let LaneHost {
                host: name,
                is_alive,
                last_seen,
                ..
            } = host;
            match last_seen {
                _ if *is_alive => {
                    format!("host {name}, whose monitor does not serve domain {domain}")
                }
                Some(seen) => {
                    let seen = time::human(*seen);
                    format!("host {name}, which has had no monitor since {seen}")
                }
                None => format!("host {name}, which has never had a monitor"),
            }
        })
        .collect();
    (!words.is_empty()).then(|| words.join("; or for "))
}

/// What the reader can do about tasks that wait for hosts without a monitor.
pub(super) fn remedy(domain: &str, hosts: &[LaneHost]) -> String {
    let names: Vec<&str> = hosts.iter().map(|host| host.host.as_str()).collect();
    let gone: Vec<String> = hosts
        .iter()
        .filter(|host| !host.is_alive)
        .map(|host| format!("`rework unregister-host {}`", host.host))
        .collect();
    let start = format!(
        "start `rework monitor --domain {domain}` on {}",
        names.join(" or ")
    );
    if gone.is_empty() {
        return start;
    }
    format!("{start}; if it is gone for good: {}", gone.join(", "))
}

/// Why the workers that could run tasks of a lane do not start, if that holds on all of its hosts. Workers
/// of other plugins of the domain are not considered.
pub(super) fn no_starts<'f>(
    domain: &str,
    hosts: &[LaneHost],
    failing: &'f [StartHealth],
) -> Option<&'f StartHealth> {
    let of_host = |host: &LaneHost| {
        failing.iter().find(|failing| {
            (failing.domain == domain)
                && (failing.host == host.host)
                && (failing.plugin == host.plugin)
        })
    };
    let mut served = hosts.iter().filter(|host| host.is_served).peekable();
    let first = of_host(served.peek()?)?;
    served.all(|host| of_host(host).is_some()).then_some(first)
}

fn waits_for(wait: &TaskWait, failing: &[StartHealth]) -> String {
    let TaskWait {
        domain,
        operation,
        host,
        until,
        paused,
        claimed_on,
        hosts,
    } = wait;
    if let Some(until) = until {
        return format!("its time, {}", time::human(*until));
    }
    if *paused {
        return format!("`rework resume`: domain {domain} or operation `{operation}` is paused");
    }
    if hosts.is_empty() {
        let pinned = host
            .as_ref()
            .map_or_else(String::new, |host| format!(" for host {host}"));
        return format!("a plugin that offers `{operation}` {domain} to be registered{pinned}");
    }
    if let Some(unserved) = unserved(domain, hosts) {
        return unserved;
    }
    if let Some(failing) = no_starts(domain, hosts, failing) {
        return format!(
            "a worker on {}, where workers of domain {domain} for {} {}",
            failing.host,
            failing.name,
            failing.in_words()
        );
    }
    if let Some(host) = claimed_on {
        return format!("a worker on {host}");
    }
    let served: Vec<&str> = hosts
        .iter()
        .filter(|host| host.is_served)
        .map(|host| host.host.as_str())
        .collect();
    format!("a worker on {}", served.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, is_served: bool) -> LaneHost {
        LaneHost {
            host: name.to_owned(),
            plugin: "one".to_owned(),
            is_served,
            is_alive: is_served,
            last_seen: Some("2026-05-01T09:00:00Z".parse().unwrap()),
        }
    }

    #[test]
    fn a_host_without_a_monitor_is_named_if_no_other_can_do_it() {
        assert_eq!(
            unserved("maths", &[host("a", true), host("b", false)]),
            None
        );
        let words = unserved("maths", &[host("b", false)]).unwrap();
        assert!(
            words.starts_with("host b, which has had no monitor since 2026-05-01 09:00:00"),
            "{words}"
        );
        assert_eq!(
            remedy("maths", &[host("b", false)]),
            "start `rework monitor --domain maths` on b; if it is gone for good: `rework unregister-host b`"
        );
    }

    #[test]
    fn workers_that_do_not_start_count_where_all_hosts_have_such() {
        let failing = [StartHealth {
            domain: "maths".to_owned(),
            host: "a".to_owned(),
            plugin: "one".to_owned(),
            name: "libone.so".to_owned(),
            error: Some("no".to_owned()),
            loading: 0.0,
        }];
        let of_another = LaneHost {
            plugin: "another".to_owned(),
            ..host("a", true)
        };
        assert!(no_starts("maths", &[of_another], &failing).is_none());
        assert!(no_starts("maths", &[host("a", true), host("c", false)], &failing).is_some());
        assert!(no_starts("maths", &[host("a", true), host("b", true)], &failing).is_none());
        assert!(no_starts("other", &[host("a", true)], &failing).is_none());
    }
}
