//! Getting hold of plugins: the cached copies of what this host is to run, and what other hosts have
//! published for it.
//!
//! A plugin that the catalog names and the cache lacks is made from its file, if that still is what
//! was registered, and else (with `--fetch-plugins`) from the bytes in the database. Until it is
//! here, the version before goes on. Whatever its way, it is examined before it is run; where signatures
//! are demanded, so is a copy that somebody else has put into the cache. What is refused is said once and
//! looked at again after a while.

use super::{
    catalog::Availability,
    examiner::{PluginEvent, Purpose},
    supervisor::Supervisor,
};
use crate::{
    model::plugin::short_hash,
    periods::Periods,
    plugin::{Cache, Verdict, without_path},
    store::{CatalogRow, Offer, Store, StoreError},
    wire::PluginFile,
};
use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A copy that somebody touches is looked at no more often than this.
const LOOK_AT_TOUCHED: Duration = Duration::from_millis(500);
/// Stands for a path in deployments that were fetched.
const PUBLISHED: &str = "published:";

/// What is being got hold of, and what cannot be.
#[derive(Debug)]
pub(super) struct Supply {
    /// By hash, with the path that it was registered from.
    wanted: HashMap<String, PathBuf>,
    obtaining: HashSet<String>,
    /// Those of them that come from the database.
    fetched: HashSet<String>,
    refused: HashMap<String, (String, Instant)>,
    /// Refusals that the database knows, by path.
    noted: HashMap<String, Noted>,
    /// Files with fetched bytes, while they are examined; by hash.
    staged: HashMap<String, PathBuf>,
    /// What this monitor has examined itself; asked for only where signatures are demanded.
    examined: Option<HashSet<String>>,
    /// What is wrong with the files of those that are now looked for in the database.
    of_file: HashMap<String, String>,
    /// When a copy that somebody has touched may be looked at again.
    next_touched: Option<Instant>,
    /// `None`: this monitor does not fetch.
    next_offers: Option<Instant>,
    asking_offers: bool,
}

/// A refusal that was written down, to be taken back once it is about nothing that is wanted.
#[derive(Debug)]
struct Noted {
    hash: String,
    is_offer: bool,
}

impl Supply {
    /// Of a monitor that fetches what is published, or does not, and demands signatures, or does not.
    pub(super) fn new(fetches: bool, demands_signatures: bool, now: Instant) -> Self {
        Self {
            wanted: HashMap::new(),
            obtaining: HashSet::new(),
            fetched: HashSet::new(),
            refused: HashMap::new(),
            noted: HashMap::new(),
            staged: HashMap::new(),
            examined: demands_signatures.then(HashSet::new),
            of_file: HashMap::new(),
            next_touched: None,
            next_offers: fetches.then_some(now),
            asking_offers: false,
        }
    }

    /// Something about plugins has changed in the database.
    pub(super) fn touched(&mut self, now: Instant) {
        self.next_offers = self.next_offers.map(|planned| planned.min(now));
    }

    /// When it has to be looked at again.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next_offers.filter(|_| !self.asking_offers)
    }

    /// Whether a copy that somebody has touched has to be looked at: not while it is made again, and
    /// not all the time.
    pub(super) fn has_to_look(&mut self, hash: &str, now: Instant) -> bool {
        let is_due = self.next_touched.is_none_or(|next| now >= next);
        let has_to = is_due && !self.obtaining.contains(hash);
        if has_to {
            self.next_touched = Some(now + LOOK_AT_TOUCHED);
        }
        has_to
    }

    /// A content was found to be good.
    pub(super) fn examined(&mut self, hash: &str) {
        if let Some(examined) = &mut self.examined {
            examined.insert(hash.to_owned());
        }
    }

    /// The copy of a content, if it may be run.
    fn usable(&self, cache: &Cache, hash: &str) -> Option<PathBuf> {
        let known = self.examined.as_ref();
        cache
            .find(hash)
            .filter(|_| known.is_none_or(|known| known.contains(hash)))
    }

    /// Whether a plugin can be run.
    pub(super) fn availability(&self, cache: &Cache, row: &CatalogRow) -> Availability {
        let hash = &row.hash;
        if self.usable(cache, hash).is_some() {
            let (_, name) = row.path.rsplit_once('/').unwrap_or(("", &row.path));
            return Availability::Ready(PluginFile {
                hash: hash.clone(),
                name: name.to_owned(),
            });
        }
        match self.refused.get(hash) {
            Some((reason, _)) => Availability::Refused(reason.clone()),
            None => Availability::Awaited,
        }
    }
}

impl Supervisor {
    /// Begins to get hold of what the catalog names and the cache lacks.
    pub(super) fn obtain_missing(&mut self, rows: &[CatalogRow]) {
        let now = Instant::now();
        self.forget_notes(false, |path, hash| {
            rows.iter().any(|row| row.path == path && row.hash == hash)
        });
        for row in rows {
            let hash = &row.hash;
            let is_resting =
                |(_, at): &(String, Instant)| now < *at + Periods::current().supply_again;
            if self.supply.obtaining.contains(hash)
                || self.supply.refused.get(hash).is_some_and(is_resting)
                || self.supply.usable(&self.cache, hash).is_some()
            {
                continue;
            }
            let path = PathBuf::from(&row.path);
            self.supply.wanted.insert(hash.clone(), path.clone());
            if let Some(copy) = self.cache.find(hash) {
                // It came by another way than ours.
                if !self.examine(&copy, &path, Purpose::Supply(hash.clone())) {
                    continue;
                }
            } else if row.path.starts_with(PUBLISHED) {
                self.fetch_or_refuse(hash, None);
            } else if !self.examine(&path, &path, Purpose::Supply(hash.clone())) {
                continue;
            }
            self.supply.obtaining.insert(hash.clone());
        }
    }

    pub(super) fn unstage(&mut self, hash: &str) {
        if let Some(file) = self.supply.staged.remove(hash) {
            self.cache.unstage(&file);
        }
    }

    pub(super) fn supply_examined(&mut self, hash: &str, verdict: Verdict) {
        self.unstage(hash);
        let path = self.supply.wanted.get(hash).cloned().unwrap_or_default();
        let was_fetched = self.supply.fetched.remove(hash);
        let reason = match verdict {
            Verdict::Good(_) => return self.supplied(hash),
            Verdict::Refused { reason, .. } => reason,
            Verdict::Unfinished => format!("{} is being written", path.display()),
        };
        if was_fetched {
            return self.refuse_supply(hash, reason);
        }
        self.fetch_or_refuse(hash, Some(reason));
    }

    /// It is not to be had from its file, for this reason.
    fn fetch_or_refuse(&mut self, hash: &str, reason: Option<String>) {
        if self.options.fetch_plugins {
            self.supply.obtaining.insert(hash.to_owned());
            self.supply.fetched.insert(hash.to_owned());
            // What is wrong with the file is worth saying only if there is nothing else.
            if let Some(reason) = reason {
                self.supply.of_file.insert(hash.to_owned(), reason);
            }
            return self.unpack(hash, Purpose::Supply(hash.to_owned()));
        }
        self.refuse_supply(
            hash,
            reason.unwrap_or_else(|| {
                format!(
                    "plugin {} is not in the cache of this host any more",
                    short_hash(hash)
                )
            }),
        );
    }

    fn refuse_supply(&mut self, hash: &str, reason: String) {
        self.supply.obtaining.remove(hash);
        self.supply.fetched.remove(hash);
        let before = self.supply.refused.get(hash).map(|(reason, _)| reason);
        if before != Some(&reason)
            && let Some(path) = self.supply.wanted.get(hash)
            && !self.is_drop_in(path)
        {
            self.note(path.to_string_lossy().into_owned(), hash, false, &reason);
        }
        let at = Instant::now();
        self.supply.refused.insert(hash.to_owned(), (reason, at));
        // The catalog says it, once.
        self.refresh_catalog();
    }

    fn supplied(&mut self, hash: &str) {
        self.supply.obtaining.remove(hash);
        self.supply.of_file.remove(hash);
        self.supply.refused.remove(hash);
        self.supply.wanted.remove(hash);
        self.forget_notes(false, |_, noted| noted != hash);
        self.refresh_catalog();
    }

    /// Files of drop-in directories are looked after there.
    fn is_drop_in(&self, path: &Path) -> bool {
        let mut directories = self.options.plugin_dirs.iter();
        directories.any(|directory| path.starts_with(directory))
    }

    /// Writes down why a plugin is refused.
    fn note(&mut self, path: String, hash: &str, is_offer: bool, reason: &str) {
        let hash = hash.to_owned();
        self.supply
            .noted
            .insert(path.clone(), Noted { hash, is_offer });
        let (store, monitor, host) = (self.store.clone(), self.monitor, self.options.host.clone());
        let reason = reason.to_owned();
        self.ask_plugins(
            async move {
                store
                    .drop_in_save(monitor, &host, &path, None, Some(&reason))
                    .await
            },
            PluginEvent::Noted,
        );
    }

    /// Takes back what was written down of offers, or of registered plugins, that nobody wants any
    /// more.
    fn forget_notes(&mut self, is_offer: bool, is_wanted: impl Fn(&str, &str) -> bool) {
        let stale =
            |path: &str, noted: &Noted| noted.is_offer == is_offer && !is_wanted(path, &noted.hash);
        let gone = self
            .supply
            .noted
            .extract_if(|path, noted| stale(path, noted));
        let gone: Vec<String> = gone.map(|(path, _)| path).collect();
        for path in gone {
            let (store, host) = (self.store.clone(), self.options.host.clone());
            self.ask_plugins(
                async move { store.drop_in_forget(&host, &path).await },
                PluginEvent::Noted,
            );
        }
    }

    /// Looks for what other hosts have published.
    pub(super) fn tend_offers(&mut self, now: Instant) {
        if self.supply.next_offers.is_none_or(|at| now < at) || self.supply.asking_offers {
            return;
        }
        self.supply.next_offers = Some(now + Periods::current().supply_look);
        self.supply.asking_offers = true;
        let (store, host) = (self.store.clone(), self.options.host.clone());
        let domains = self.options.domains.clone();
        self.ask_plugins(
            async move { store.plugin_offers(&host, &domains).await },
            PluginEvent::Offers,
        );
    }

    pub(super) fn offers_arrived(&mut self, offers: Result<Vec<Offer>, StoreError>) {
        self.supply.asking_offers = false;
        let offers = match offers {
            Ok(offers) => offers,
            Err(error) => return self.upkeep.lost(&error),
        };
        let now = Instant::now();
        self.forget_notes(true, |_, hash| {
            offers.iter().any(|offer| offer.hash == hash)
        });
        for offer in offers {
            let is_resting =
                |(_, at): &(String, Instant)| now < *at + Periods::current().supply_again;
            if self.supply.obtaining.contains(&offer.hash)
                || self.supply.refused.get(&offer.hash).is_some_and(is_resting)
            {
                continue;
            }
            let ours = rework_plugin::abi::TARGET;
            if offer.target != ours {
                let title = offer.title();
                let reason = format!(
                    "{title} was built for {}, but this host is {ours}: it is not fetched",
                    offer.target
                );
                self.refuse_offer(&offer, reason);
                continue;
            }
            self.supply.obtaining.insert(offer.hash.clone());
            let hash = offer.hash.clone();
            self.unpack(&hash, Purpose::Offer(offer));
        }
    }

    /// Fetches and unpacks published bytes, away from the loop.
    fn unpack(&self, hash: &str, purpose: Purpose) {
        let (store, cache, hash) = (self.store.clone(), self.cache.clone(), hash.to_owned());
        self.ask_plugins(
            async move { unpack(&store, cache, &hash).await },
            move |file| PluginEvent::Unpacked(purpose, file),
        );
    }

    pub(super) fn published_unpacked(
        &mut self,
        purpose: Purpose,
        file: Result<Result<PathBuf, String>, StoreError>,
    ) {
        let hash = match &purpose {
            Purpose::Supply(hash) => hash.clone(),
            Purpose::Offer(offer) => offer.hash.clone(),
            Purpose::DropIn(_) => return,
        };
        let reason = match file {
            Ok(Ok(file)) => {
                self.supply.staged.insert(hash.clone(), file.clone());
                let named = match &purpose {
                    Purpose::Offer(offer) => offer.title(),
                    _ => format!("the published plugin {}", short_hash(&hash)),
                };
                if !self.examine(&file, Path::new(&named), purpose) {
                    // Too many at once; the next look begins again.
                    self.supply.obtaining.remove(&hash);
                    self.supply.fetched.remove(&hash);
                    self.unstage(&hash);
                }
                return;
            }
            Ok(Err(reason)) => reason,
            Err(error) => {
                self.supply.obtaining.remove(&hash);
                self.supply.fetched.remove(&hash);
                return self.upkeep.lost(&error);
            }
        };
        match purpose {
            Purpose::Offer(offer) => self.refuse_offer(&offer, reason),
            // Neither from its file nor from the database: the file is what its users know.
            _ => {
                let of_file = self.supply.of_file.remove(&hash);
                let reason = of_file.map_or(reason.clone(), |file| format!("{file}; {reason}"));
                self.refuse_supply(&hash, reason);
            }
        }
    }

    pub(super) fn offer_examined(&mut self, offer: Offer, verdict: Verdict) {
        self.unstage(&offer.hash);
        let reason = match verdict {
            Verdict::Good(_) => {
                let (store, host) = (self.store.clone(), self.options.host.clone());
                let domains = self.options.domains.clone();
                let adopting = offer.clone();
                return self.ask_plugins(
                    async move { store.plugin_adopt(&adopting, &host, &domains).await },
                    move |adopted| PluginEvent::Adopted(offer, adopted),
                );
            }
            Verdict::Refused { reason, .. } => reason,
            Verdict::Unfinished => format!("{} was changed while it was examined", offer.title()),
        };
        self.refuse_offer(&offer, reason);
    }

    fn refuse_offer(&mut self, offer: &Offer, reason: String) {
        self.supply.obtaining.remove(&offer.hash);
        let before = self.supply.refused.get(&offer.hash);
        if before.map(|(reason, _)| reason) != Some(&reason) {
            tracing::error!("not registered: {reason}");
            self.note(offer.path(), &offer.hash, true, &reason);
        }
        let refusal = (reason, Instant::now());
        self.supply.refused.insert(offer.hash.clone(), refusal);
    }

    pub(super) fn adopted(&mut self, offer: &Offer, adopted: Result<usize, StoreError>) {
        self.supply.obtaining.remove(&offer.hash);
        match adopted {
            Ok(operations) => {
                tracing::info!("fetched {}: {operations} operations", offer.title());
                self.supply.refused.remove(&offer.hash);
                self.forget_notes(true, |_, hash| hash != offer.hash);
                self.refresh_catalog();
            }
            Err(error) => self.upkeep.lost(&error),
        }
    }
}

async fn unpack(
    store: &Store,
    cache: Cache,
    hash: &str,
) -> Result<Result<PathBuf, String>, StoreError> {
    let Some(published) = store.plugin_published(hash).await? else {
        return Ok(Err(format!(
            "plugin {} is not published either",
            short_hash(hash)
        )));
    };
    let staged = tokio::task::spawn_blocking(move || {
        let signature = published.signature.clone();
        let title = published.title();
        let bytes = published.unpack()?;
        cache.stage(&bytes, signature.as_deref()).map_err(|error| {
            format!(
                "{title} could not be copied to the cache: {}",
                without_path(&error)
            )
        })
    });
    Ok(staged
        .await
        .unwrap_or_else(|_| Err("a fetched plugin could not be unpacked".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touched_copy_is_not_looked_at_all_the_time() {
        let now = Instant::now();
        let mut supply = Supply::new(false, false, now);
        assert!(supply.has_to_look("a", now));
        assert!(!supply.has_to_look("a", now));
        assert!(supply.has_to_look("a", now + LOOK_AT_TOUCHED));
        supply.obtaining.insert("a".to_owned());
        assert!(!supply.has_to_look("a", now + 9 * LOOK_AT_TOUCHED));
    }
}
