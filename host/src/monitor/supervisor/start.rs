//! Makes a monitor ready: its row, its directory, and the owner of each part.

use super::{SECOND, Supervisor};
use crate::{
    here,
    model::{MonitorId, duration::human},
    monitor::{
        claim::Claims,
        cron::Cron,
        database::Database,
        event::Event,
        housekeeping::Housekeeping,
        lease::Lease,
        mailbox::Mailbox,
        options::{MonitorError, Options},
        outage::Outage,
        plugins::{self, Plugins},
        poll::Poll,
        recover::Recovery,
        refusals::Refusals,
        shutdown::Shutdown,
        tasks::Tasks,
        unsaid::{Keeping, Unsaid},
        wakeup::Wakeup,
        workers::{
            self, Identity, Workers,
            pages::{Pages, pages_dir},
        },
    },
    plugin::{Cache, Confinement},
    store::Store,
};
use std::{sync::Arc, time::Instant};
use tokio::sync::{Semaphore, mpsc};

/// How many transfers of files are under way at a time: files must not take all connections.
const TRANSFERS: usize = 2;

impl Supervisor {
    /// Announces a monitor, and makes ready what it needs. `lease_store` is a connection of its own, for
    /// the lease alone.
    pub(in crate::monitor) async fn start(
        store: Store,
        lease_store: Store,
        options: Options,
        worker_user: Option<Identity>,
    ) -> Result<Self, MonitorError> {
        let pages = Pages::create(&pages_dir(), Unsaid::is_in).map_err(|source| {
            let doing = format!(
                "could not use its state directory {} (REWORK_STATE_DIR names another one)",
                here::state_dir().display()
            );
            MonitorError::System { doing, source }
        })?;
        let pool = &options.pool;
        let shown = serde_json::json!({
            "maxworkers": pool.max_workers,
            "minworkers": pool.min_workers,
            "maxruns": pool.max_runs,
            "maxmem": pool.max_mem,
            "plugin_dirs": &options.plugin_dirs,
            "fetch_plugins": options.fetch_plugins,
            "vacuum": options.vacuum.map_or_else(|| "never".to_owned(), human),
        });
        let monitor = store
            .monitor_start(
                &options.host,
                std::process::id().cast_signed(),
                &options.domains,
                &shown,
                &pages.directory().to_string_lossy(),
            )
            .await?;
        let now = Instant::now();
        let installation = store.schema_installation().await?;
        let recovery = Recovery {
            store: store.clone(),
            me: monitor,
            host: options.host.clone(),
            installation: installation.clone(),
        };
        let numbers = store.worker_reserve(Housekeeping::FIRST_NUMBERS).await?;
        let environment: Vec<_> = options
            .environment
            .iter()
            .filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)))
            .collect();
        let (events, arrivals) = mpsc::unbounded_channel();
        let (host, domains) = (options.host.clone(), options.domains.clone());
        let claims = Database::new(store.clone(), Mailbox::new(events.clone(), Event::Catalog));
        let cron = Database::new(store.clone(), Mailbox::new(events.clone(), Event::Cron));
        let housekeeping = Mailbox::new(events.clone(), Event::Housekeeping);
        let housekeeping = Database::new(store.clone(), housekeeping);
        let lease = Database::new(store.clone(), Mailbox::new(events.clone(), Event::Lease));
        let plugins = Plugins::new(
            plugin_settings(monitor, &options, worker_user.as_ref(), &environment),
            Cache::at(here::plugin_cache_dir()),
            Database::new(store.clone(), Mailbox::new(events.clone(), Event::Plugins)),
            now,
        );
        let settings = workers::Settings {
            monitor,
            host: host.clone(),
            pool: options.pool.clone(),
            kill_grace: options.kill_grace,
            pages: pages.directory().to_owned(),
            environment,
            user: worker_user,
            no_network: options.no_network,
        };
        let lease = Lease::new(monitor, lease, lease_store, recovery, now);
        let workers = Database::new(store.clone(), Mailbox::new(events.clone(), Event::Workers));
        Ok(Self {
            monitor,
            pages,
            events,
            arrivals,
            claims: Claims::new(claims, host.clone(), domains.clone(), now),
            workers: Workers::new(settings, workers, lease.until(), now),
            tasks: Tasks::default(),
            outage: Outage::default(),
            wakeup: Wakeup::new(now),
            housekeeping: Housekeeping::new(
                housekeeping,
                domains.clone(),
                options.vacuum,
                numbers,
                now,
            ),
            lease,
            refusals: Refusals::default(),
            abort_requests: Poll::every(SECOND, now),
            next_second: now,
            taken_at: None,
            cron: Cron::new(cron, host, domains, now),
            plugins,
            shutdown: Shutdown::default(),
            installation,
            keeping: Keeping::default(),
            store,
            transfers: Arc::new(Semaphore::new(TRANSFERS)),
            options,
        })
    }
}

fn plugin_settings(
    monitor: MonitorId,
    options: &Options,
    worker_user: Option<&Identity>,
    environment: &[(String, String)],
) -> plugins::Settings {
    plugins::Settings {
        monitor,
        host: options.host.clone(),
        domains: options.domains.clone(),
        directories: options.plugin_dirs.clone(),
        fetches: options.fetch_plugins,
        key: options.key.clone(),
        confinement: Confinement {
            user: worker_user.map(|user| (user.user.as_raw(), user.group.as_raw())),
            no_network: options.no_network,
            // An examiner's request is an argument of its process, which everybody can read; so the
            // environment goes another way.
            environment: Vec::new(),
        },
        environment: environment.to_owned(),
    }
}
