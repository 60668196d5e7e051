//! Obtaining plugins: the cached copies of what this host is to run, and what other hosts have published
//! for it.
//!
//! A plugin that the catalog names and the cache lacks is copied from the file that it was registered from,
//! if the file still has that content, and else (with `--fetch-plugins`) from the bytes in the database.
//! Until it is there, the version before goes on. Whatever its way, it is examined before it is run; where
//! signatures are demanded, so is a copy that somebody else has put into the cache. A refusal is said once,
//! and the content tried again after a while.

use super::{
    News,
    content::{Content, Origin, Stage},
    notes::{Kind, Notes},
    step::Step,
};
use crate::{
    model::plugin::short_hash,
    monitor::claim::Availability,
    periods::Periods,
    plugin::Verdict,
    store::{Offer, StoreError},
    wire::PluginFile,
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The pause between two looks at copies that somebody has touched, so that a program that touches a copy all
/// the time does not keep the monitor busy with hashing it.
const LOOK_AT_TOUCHED_EVERY: Duration = Duration::from_millis(500);
/// What deployments that were fetched have in the place of a path begins with this.
const PUBLISHED: &str = "published:";

/// What this monitor obtains, and what it has been refused.
#[derive(Debug)]
pub(super) struct Provision {
    /// By SHA-256.
    contents: HashMap<String, Content>,
    notes: Notes,
    /// Files below these directories are looked after by `drop_in`.
    drop_in_directories: Vec<PathBuf>,
    /// Whether published plugins are fetched (`--fetch-plugins`).
    fetches: bool,
    /// Whether a copy in the cache may be run only after this monitor has examined it, because signatures
    /// are demanded (`--require-signature`).
    demands_examination: bool,
    /// A copy that somebody has touched is not looked at before this time.
    next_touched: Option<Instant>,
    /// When to ask for published plugins; `None`: they are not fetched.
    next_offers: Option<Instant>,
    is_asking_offers: bool,
}

impl Provision {
    /// For a monitor that begins.
    pub(super) fn new(
        drop_in_directories: Vec<PathBuf>,
        fetches: bool,
        demands_examination: bool,
        now: Instant,
    ) -> Self {
        Self {
            contents: HashMap::new(),
            notes: Notes::default(),
            drop_in_directories,
            fetches,
            demands_examination,
            next_touched: None,
            next_offers: fetches.then_some(now),
            is_asking_offers: false,
        }
    }

    /// Something about plugins has changed in the database.
    pub(super) fn database_changed(&mut self, now: Instant) {
        self.next_offers = self.next_offers.map(|planned| planned.min(now));
    }

    /// When [`Provision::tick`] has something to do next.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.next_offers.filter(|_| !self.is_asking_offers)
    }

    /// Begins what is due.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Step> {
        if self.next_wake().is_none_or(|at| now < at) {
            return Vec::new();
        }
        self.next_offers = Some(now + Periods::current().supply_look);
        self.is_asking_offers = true;
        vec![Step::AskOffers]
    }

    /// Whether a copy that somebody has touched is to be looked at: not while the content is being obtained,
    /// and not all the time.
    pub(super) fn has_to_look(&mut self, hash: &str, now: Instant) -> bool {
        let is_due = self.next_touched.is_none_or(|next| now >= next);
        let is_being_obtained = self.content(hash).is_some_and(Content::is_being_obtained);
        let has_to = is_due && !is_being_obtained;
        if has_to {
            self.next_touched = Some(now + LOOK_AT_TOUCHED_EVERY);
        }
        has_to
    }

    /// Whether a plugin can be run. `is_cached`: whether the cache has its content.
    pub(super) fn availability(&self, hash: &str, path: &str, is_cached: bool) -> Availability {
        if is_cached && self.may_be_run(hash) {
            let (_, name) = path.rsplit_once('/').unwrap_or(("", path));
            return Availability::Ready(PluginFile {
                hash: hash.to_owned(),
                name: name.to_owned(),
            });
        }
        match self.content(hash).and_then(Content::refused) {
            Some(reason) => Availability::Refused(reason.to_owned()),
            None => Availability::Awaited,
        }
    }

    /// Whether a copy in the cache may be run.
    fn may_be_run(&self, hash: &str) -> bool {
        !self.demands_examination || self.content(hash).is_some_and(Content::is_examined)
    }

    fn content(&self, hash: &str) -> Option<&Content> {
        self.contents.get(hash)
    }

    fn content_mut(&mut self, hash: &str) -> &mut Content {
        self.contents.entry(hash.to_owned()).or_default()
    }

    fn may_be_tried(&self, hash: &str, now: Instant) -> bool {
        self.content(hash)
            .is_none_or(|content| content.may_be_tried(now))
    }

    /// The catalog names these contents and no others. `is_named` is given a path and a hash.
    pub(super) fn catalog_changed(&mut self, is_named: impl Fn(&str, &str) -> bool) -> Vec<Step> {
        self.forget_refusals(Kind::Registered, is_named)
    }

    /// The catalog names a content that was registered from this path. Begins to obtain it, if it lacks and
    /// may be tried. `find` answers where the cache has it.
    pub(super) fn want(
        &mut self,
        hash: &str,
        path: &str,
        find: impl Fn(&str) -> Option<PathBuf>,
        now: Instant,
    ) -> Vec<Step> {
        if !self.may_be_tried(hash, now) {
            return Vec::new();
        }
        let copy = find(hash);
        if copy.is_some() && self.may_be_run(hash) {
            return Vec::new();
        }
        if copy.is_none() && path.starts_with(PUBLISHED) {
            return self.fetch_or_refuse(hash, path.into(), None, now);
        }
        let named = PathBuf::from(path);
        let stage = Stage::ExaminingFile {
            path: named.clone(),
        };
        self.content_mut(hash).begin(stage);
        vec![Step::Examine {
            hash: hash.to_owned(),
            // A copy that this monitor has not examined was put there by somebody else.
            file: copy.unwrap_or_else(|| named.clone()),
            named,
        }]
    }

    /// Fetches a registered content from the database, where that is allowed. `file_refused`: what is wrong
    /// with the file that it was registered from.
    fn fetch_or_refuse(
        &mut self,
        hash: &str,
        path: PathBuf,
        file_refused: Option<String>,
        now: Instant,
    ) -> Vec<Step> {
        let origin = Origin::Registered(path);
        if self.fetches {
            let stage = Stage::Fetching {
                origin,
                file_refused,
            };
            self.content_mut(hash).begin(stage);
            return vec![Step::Fetch(hash.to_owned())];
        }
        let reason = file_refused.unwrap_or_else(|| {
            format!(
                "plugin {} is not in the cache of this host any more",
                short_hash(hash)
            )
        });
        self.refuse(hash, &origin, &reason, now)
    }

    /// The database has said what other hosts have published that this host could run and does not.
    pub(super) fn offered(
        &mut self,
        offers: Result<Vec<Offer>, StoreError>,
        now: Instant,
    ) -> Vec<Step> {
        self.is_asking_offers = false;
        let offers = match offers {
            Ok(offers) => offers,
            Err(error) => return vec![Step::Tell(News::DatabaseFailed(error))],
        };
        let is_offered = |_: &str, hash: &str| offers.iter().any(|offer| offer.hash == hash);
        let mut steps = self.forget_refusals(Kind::Offered, is_offered);
        for offer in offers {
            if self.may_be_tried(&offer.hash, now) {
                steps.extend(self.take_offer(offer, now));
            }
        }
        steps
    }

    fn take_offer(&mut self, offer: Offer, now: Instant) -> Vec<Step> {
        let hash = offer.hash.clone();
        let ours = rework_plugin::abi::TARGET;
        if offer.target != ours {
            let reason = format!(
                "{} was built for {}, but this host is {ours}: it is not fetched",
                offer.title(),
                offer.target
            );
            return self.refuse(&hash, &Origin::Offered(offer), &reason, now);
        }
        self.content_mut(&hash).begin(Stage::Fetching {
            origin: Origin::Offered(offer),
            file_refused: None,
        });
        vec![Step::Fetch(hash)]
    }

    /// The bytes of a content are in this file, or cannot be used, or the database has not answered.
    pub(super) fn fetched(
        &mut self,
        hash: &str,
        fetched: Result<Result<PathBuf, String>, StoreError>,
        now: Instant,
    ) -> Vec<Step> {
        let stage = self.content(hash).and_then(Content::stage);
        let Some(Stage::Fetching {
            origin,
            file_refused,
        }) = stage
        else {
            let file = fetched.ok().and_then(Result::ok);
            return file.map(Step::RemoveFetched).into_iter().collect();
        };
        let origin = origin.clone();
        match fetched {
            Ok(Ok(fetched)) => {
                let named = match &origin {
                    Origin::Offered(offer) => offer.title(),
                    Origin::Registered(_) => format!("the published plugin {}", short_hash(hash)),
                };
                let file = fetched.clone();
                let stage = Stage::ExaminingFetched { origin, fetched };
                self.content_mut(hash).begin(stage);
                vec![Step::Examine {
                    hash: hash.to_owned(),
                    file,
                    named: named.into(),
                }]
            }
            Ok(Err(reason)) => {
                // The file comes first: it is what the users of a registered plugin know.
                let reason = match file_refused {
                    Some(file_refused) => format!("{file_refused}; {reason}"),
                    None => reason,
                };
                self.refuse(hash, &origin, &reason, now)
            }
            Err(error) => {
                self.content_mut(hash).postpone();
                vec![Step::Tell(News::DatabaseFailed(error))]
            }
        }
    }

    /// Some file with this content has been examined, and is good.
    pub(super) fn found_good(&mut self, hash: &str) {
        if self.demands_examination {
            self.content_mut(hash).found_good();
        }
    }

    /// The file that [`Step::Examine`] named has been examined.
    pub(super) fn examined(&mut self, hash: &str, verdict: Verdict, now: Instant) -> Vec<Step> {
        match self.content(hash).and_then(Content::stage) {
            Some(Stage::ExaminingFile { path }) => {
                let path = path.clone();
                match refusal_of(verdict, || format!("{} is being written", path.display())) {
                    None => self.obtained(hash),
                    Some(reason) => self.fetch_or_refuse(hash, path, Some(reason), now),
                }
            }
            Some(Stage::ExaminingFetched { origin, fetched }) => {
                let origin = origin.clone();
                let mut steps = vec![Step::RemoveFetched(fetched.clone())];
                steps.extend(self.fetched_examined(hash, origin, verdict, now));
                steps
            }
            Some(Stage::Fetching { .. } | Stage::Adopting(_)) | None => Vec::new(),
        }
    }

    fn fetched_examined(
        &mut self,
        hash: &str,
        origin: Origin,
        verdict: Verdict,
        now: Instant,
    ) -> Vec<Step> {
        let refusal = refusal_of(verdict, || match &origin {
            Origin::Registered(path) => format!("{} is being written", path.display()),
            Origin::Offered(offer) => {
                format!("{} was changed while it was examined", offer.title())
            }
        });
        match (refusal, origin) {
            (Some(reason), origin) => self.refuse(hash, &origin, &reason, now),
            (None, Origin::Registered(_)) => self.obtained(hash),
            (None, Origin::Offered(offer)) => {
                self.content_mut(hash).begin(Stage::Adopting(offer.clone()));
                vec![Step::Adopt(offer)]
            }
        }
    }

    /// The database has deployed a content on this host, so many operations, or has not answered.
    pub(super) fn adopted(&mut self, hash: &str, adopted: Result<usize, StoreError>) -> Vec<Step> {
        let Some(Stage::Adopting(offer)) = self.content(hash).and_then(Content::stage) else {
            return Vec::new();
        };
        let operations = match adopted {
            Ok(operations) => operations,
            Err(error) => {
                self.content_mut(hash).postpone();
                return vec![Step::Tell(News::DatabaseFailed(error))];
            }
        };
        tracing::info!("fetched {}: {operations} operations", offer.title());
        self.content_mut(hash).obtained();
        let mut steps = self.forget_refusals(Kind::Offered, |_, noted| noted != hash);
        steps.push(Step::Tell(News::CatalogChanged));
        steps
    }

    /// Gives up an attempt to obtain a content; it may begin anew at once. Answers the file with the fetched
    /// bytes, which is to be removed.
    pub(super) fn postpone(&mut self, hash: &str) -> Option<PathBuf> {
        match self.content_mut(hash).postpone() {
            Some(Stage::ExaminingFetched { fetched, .. }) => Some(fetched),
            _ => None,
        }
    }

    fn obtained(&mut self, hash: &str) -> Vec<Step> {
        self.content_mut(hash).obtained();
        let mut steps = self.forget_refusals(Kind::Registered, |_, noted| noted != hash);
        steps.push(Step::Tell(News::CatalogChanged));
        steps
    }

    /// Refuses a content. A refusal of what the catalog names is said by the catalog, once, and so is only
    /// written down here.
    fn refuse(&mut self, hash: &str, origin: &Origin, reason: &str, now: Instant) -> Vec<Step> {
        let is_news = self.content_mut(hash).refuse(reason, now);
        let (path, kind) = match origin {
            Origin::Registered(path) => (path.to_string_lossy().into_owned(), Kind::Registered),
            Origin::Offered(offer) => (offer.path(), Kind::Offered),
        };
        let mut steps = Vec::new();
        if is_news && !self.is_drop_in(Path::new(&path)) {
            self.notes.add(path.clone(), hash, kind);
            steps.push(Step::SaveRefusal {
                path,
                hash: None,
                reason: Some(reason.to_owned()),
            });
        }
        match kind {
            Kind::Registered => steps.push(Step::Tell(News::CatalogChanged)),
            Kind::Offered if is_news => tracing::error!("not registered: {reason}"),
            Kind::Offered => {}
        }
        steps
    }

    fn is_drop_in(&self, path: &Path) -> bool {
        let mut directories = self.drop_in_directories.iter();
        directories.any(|directory| path.starts_with(directory))
    }

    /// Takes back what was written down about contents that are not kept.
    fn forget_refusals(&mut self, kind: Kind, is_kept: impl Fn(&str, &str) -> bool) -> Vec<Step> {
        let paths = self.notes.forget(kind, is_kept).into_iter();
        paths.map(Step::ForgetRefusal).collect()
    }
}

/// Why a verdict is a refusal; `None`: it is not.
fn refusal_of(verdict: Verdict, unfinished: impl Fn() -> String) -> Option<String> {
    match verdict {
        Verdict::Good(_) => None,
        Verdict::Refused { reason, .. } => Some(reason),
        Verdict::Unfinished => Some(unfinished()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MOMENT: Duration = Duration::from_millis(1);
    const HASH: &str = "0123456789abcdef";
    const FILE: &str = "/plugins/hello.so";

    struct World {
        provision: Provision,
        /// Whether the cache has the content.
        is_cached: bool,
        now: Instant,
    }

    impl World {
        fn new(fetches: bool, demands_examination: bool) -> Self {
            let now = Instant::now();
            let drop_in = vec![PathBuf::from("/drop-in")];
            Self {
                provision: Provision::new(drop_in, fetches, demands_examination, now),
                is_cached: false,
                now,
            }
        }

        /// The catalog names the content, registered from this path.
        fn want(&mut self, path: &str) -> Vec<Step> {
            let find = |_: &str| self.is_cached.then(|| PathBuf::from("/cache/copy.so"));
            self.provision.want(HASH, path, find, self.now)
        }

        fn examined(&mut self, verdict: Verdict) -> Vec<Step> {
            if let Verdict::Good(_) = &verdict {
                self.provision.found_good(HASH);
                self.is_cached = true;
            }
            self.provision.examined(HASH, verdict, self.now)
        }

        fn fetched(&mut self, fetched: Result<&str, &str>) -> Vec<Step> {
            let fetched = fetched.map(PathBuf::from).map_err(str::to_owned);
            self.provision.fetched(HASH, Ok(fetched), self.now)
        }

        fn offer(&mut self, offers: &[Offer]) -> Vec<Step> {
            self.provision.offered(Ok(offers.to_vec()), self.now)
        }

        /// In a word, or why it is refused.
        fn availability(&self) -> String {
            match self.provision.availability(HASH, FILE, self.is_cached) {
                Availability::Ready(file) => format!("ready: {}", file.name),
                Availability::Awaited => "awaited".to_owned(),
                Availability::Refused(reason) => reason,
            }
        }
    }

    fn good() -> Verdict {
        serde_json::from_value(json!({"Good": {
            "inspection": {
                "hash": HASH, "size": 1, "sdk": "", "abi": "", "crate": "hello", "version": "1.0.0",
                "rustc": "", "target": "", "panic": "unwind", "operations": [],
            },
            "cached": "/cache/copy.so",
        }}))
        .unwrap()
    }

    fn refused(reason: &str) -> Verdict {
        Verdict::Refused {
            reason: reason.to_owned(),
            unfinished: false,
        }
    }

    fn offer(target: &str) -> Offer {
        Offer {
            hash: HASH.to_owned(),
            name: "hello".to_owned(),
            version: "1.0.0".to_owned(),
            target: target.to_owned(),
        }
    }

    /// Each step in a few words.
    fn words(steps: &[Step]) -> Vec<String> {
        let word = |step: &Step| match step {
            Step::Examine { file, named, .. } => {
                format!("examine {} as {}", file.display(), named.display())
            }
            Step::Fetch(_) => "fetch".to_owned(),
            Step::RemoveFetched(file) => format!("remove {}", file.display()),
            Step::Adopt(_) => "adopt".to_owned(),
            Step::SaveRefusal { path, reason, .. } => {
                format!("save {path}: {}", reason.as_deref().unwrap_or("-"))
            }
            Step::ForgetRefusal(path) => format!("forget {path}"),
            Step::Tell(News::CatalogChanged) => "catalog changed".to_owned(),
            Step::Tell(News::DatabaseFailed(_)) => "database failed".to_owned(),
            other => format!("{other:?}"),
        };
        steps.iter().map(word).collect()
    }

    const NOTHING: [&str; 0] = [];

    #[test]
    fn a_copy_in_the_cache_is_run_as_it_is() {
        let mut world = World::new(true, false);
        world.is_cached = true;
        assert_eq!(words(&world.want(FILE)), NOTHING);
        assert_eq!(world.availability(), "ready: hello.so");
    }

    #[test]
    fn where_signatures_are_demanded_a_copy_is_examined_first() {
        let mut world = World::new(false, true);
        world.is_cached = true;
        assert_eq!(world.availability(), "awaited");
        assert_eq!(
            words(&world.want(FILE)),
            ["examine /cache/copy.so as /plugins/hello.so"]
        );
        assert_eq!(words(&world.want(FILE)), NOTHING, "it is under way");
        assert_eq!(words(&world.examined(good())), ["catalog changed"]);
        assert_eq!(world.availability(), "ready: hello.so");
        assert_eq!(words(&world.want(FILE)), NOTHING);
    }

    #[test]
    fn a_missing_copy_is_made_from_the_file_that_was_registered() {
        let mut world = World::new(false, false);
        let examine = "examine /plugins/hello.so as /plugins/hello.so";
        assert_eq!(words(&world.want(FILE)), [examine]);
        assert_eq!(world.availability(), "awaited");
        // All examiners are busy: it begins anew.
        assert_eq!(world.provision.postpone(HASH), None);
        assert_eq!(words(&world.want(FILE)), [examine]);
        assert_eq!(words(&world.examined(good())), ["catalog changed"]);
        assert_eq!(world.availability(), "ready: hello.so");
    }

    #[test]
    fn a_refusal_is_written_down_once_and_tried_again_after_a_pause() {
        let mut world = World::new(false, false);
        world.want(FILE);
        let verdict = || refused("/plugins/hello.so was changed");
        assert_eq!(
            words(&world.examined(verdict())),
            [
                "save /plugins/hello.so: /plugins/hello.so was changed",
                "catalog changed"
            ]
        );
        assert_eq!(world.availability(), "/plugins/hello.so was changed");
        world.now += Periods::current().supply_again - MOMENT;
        assert_eq!(words(&world.want(FILE)), NOTHING);
        world.now += MOMENT;
        assert_eq!(world.want(FILE).len(), 1);
        assert_eq!(
            world.availability(),
            "/plugins/hello.so was changed",
            "while it is tried again"
        );
        assert_eq!(words(&world.examined(verdict())), ["catalog changed"]);
        world.now += Periods::current().supply_again;
        world.want(FILE);
        assert_eq!(
            words(&world.examined(good())),
            ["forget /plugins/hello.so", "catalog changed"]
        );
        assert_eq!(world.availability(), "ready: hello.so");
    }

    #[test]
    fn a_refusal_of_a_drop_in_file_is_written_down_where_it_is_looked_after() {
        let mut world = World::new(false, false);
        world.want("/drop-in/hello.so");
        assert_eq!(words(&world.examined(refused("no"))), ["catalog changed"]);
    }

    #[test]
    fn refusals_of_what_the_catalog_no_longer_names_are_taken_back() {
        let mut world = World::new(false, false);
        world.want(FILE);
        world.examined(refused("no"));
        let named = |path: &str, hash: &str| path == FILE && hash == HASH;
        assert_eq!(words(&world.provision.catalog_changed(named)), NOTHING);
        let steps = world.provision.catalog_changed(|_, _| false);
        assert_eq!(words(&steps), ["forget /plugins/hello.so"]);
    }

    #[test]
    fn a_fetched_plugin_without_a_copy_is_refused_where_nothing_is_fetched_and_tried_again() {
        let mut world = World::new(false, true);
        let path = "published:hello";
        let reason = "plugin 0123456789ab is not in the cache of this host any more";
        let save = format!("save published:hello: {reason}");
        assert_eq!(words(&world.want(path)), [save.as_str(), "catalog changed"]);
        assert_eq!(world.availability(), reason);
        assert!(
            world.provision.has_to_look(HASH, world.now),
            "it is not being obtained"
        );
        world.is_cached = true;
        world.now += Periods::current().supply_again - MOMENT;
        assert_eq!(words(&world.want(path)), NOTHING);
        world.now += MOMENT;
        assert_eq!(
            words(&world.want(path)),
            ["examine /cache/copy.so as published:hello"]
        );
        assert_eq!(
            words(&world.examined(good())),
            ["forget published:hello", "catalog changed"]
        );
        assert_eq!(world.availability(), "ready: hello.so");
    }

    #[test]
    fn bytes_are_fetched_when_the_file_is_not_good() {
        let mut world = World::new(true, false);
        world.want(FILE);
        assert_eq!(words(&world.examined(refused("it is gone"))), ["fetch"]);
        assert_eq!(world.availability(), "awaited");
        assert_eq!(
            words(&world.fetched(Ok("/cache/fetched"))),
            ["examine /cache/fetched as the published plugin 0123456789ab"]
        );
        assert_eq!(
            words(&world.examined(good())),
            ["remove /cache/fetched", "catalog changed"]
        );
        assert_eq!(world.availability(), "ready: hello.so");
    }

    #[test]
    fn a_refusal_names_what_is_wrong_with_the_file_and_with_the_bytes() {
        let mut world = World::new(true, false);
        world.want(FILE);
        world.examined(refused("it is gone"));
        world.fetched(Err("it is not published either"));
        assert_eq!(
            world.availability(),
            "it is gone; it is not published either"
        );
    }

    #[test]
    fn fetched_bytes_that_are_refused_are_removed() {
        let mut world = World::new(true, false);
        world.want("published:hello");
        world.fetched(Ok("/cache/fetched"));
        assert_eq!(
            words(&world.examined(refused("no"))),
            [
                "remove /cache/fetched",
                "save published:hello: no",
                "catalog changed"
            ]
        );
    }

    #[test]
    fn fetched_bytes_that_cannot_be_examined_now_are_removed_and_fetched_again() {
        let mut world = World::new(true, false);
        assert_eq!(words(&world.want("published:hello")), ["fetch"]);
        world.fetched(Ok("/cache/fetched"));
        let fetched = world.provision.postpone(HASH);
        assert_eq!(fetched, Some("/cache/fetched".into()));
        assert_eq!(words(&world.want("published:hello")), ["fetch"]);
        let failed = Err(StoreError::SchemaMissing);
        let steps = world.provision.fetched(HASH, failed, world.now);
        assert_eq!(words(&steps), ["database failed"]);
        assert_eq!(words(&world.want("published:hello")), ["fetch"]);
    }

    #[test]
    fn what_others_publish_is_fetched_examined_and_adopted() {
        let mut world = World::new(true, false);
        let offers = [offer(rework_plugin::abi::TARGET)];
        assert_eq!(words(&world.offer(&offers)), ["fetch"]);
        assert_eq!(words(&world.offer(&offers)), NOTHING, "it is under way");
        let title = offers[0].title();
        assert_eq!(
            words(&world.fetched(Ok("/cache/fetched"))),
            [format!("examine /cache/fetched as {title}")]
        );
        assert_eq!(
            words(&world.examined(good())),
            ["remove /cache/fetched", "adopt"]
        );
        let failed = Err(StoreError::SchemaMissing);
        let steps = world.provision.adopted(HASH, failed);
        assert_eq!(words(&steps), ["database failed"]);
        // From the beginning.
        world.offer(&offers);
        world.fetched(Ok("/cache/fetched"));
        world.examined(good());
        let steps = world.provision.adopted(HASH, Ok(3));
        assert_eq!(words(&steps), ["catalog changed"]);
    }

    #[test]
    fn an_offer_that_cannot_be_run_is_refused_once_and_forgotten_with_the_offer() {
        let mut world = World::new(true, false);
        let offers = [offer("riscv64gc-unknown-linux-gnu")];
        let steps = words(&world.offer(&offers));
        assert_eq!(steps.len(), 1);
        assert!(steps[0].starts_with("save published:hello: the published plugin hello 1.0.0"));
        assert!(steps[0].contains("was built for riscv64gc-unknown-linux-gnu, but this host is"));
        world.now += Periods::current().supply_again;
        assert_eq!(words(&world.offer(&offers)), NOTHING, "the reason is known");
        assert_eq!(words(&world.offer(&[])), ["forget published:hello"]);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_changes_nothing() {
        let mut world = World::new(true, false);
        assert_eq!(words(&world.examined(refused("no"))), NOTHING);
        assert_eq!(words(&world.provision.adopted(HASH, Ok(3))), NOTHING);
        assert_eq!(
            words(&world.fetched(Ok("/cache/fetched"))),
            ["remove /cache/fetched"]
        );
        assert_eq!(world.availability(), "awaited");
    }

    #[test]
    fn offers_are_asked_for_one_question_at_a_time() {
        let mut world = World::new(true, false);
        let now = world.now;
        assert_eq!(words(&world.provision.tick(now)), ["AskOffers"]);
        assert_eq!(
            world.provision.next_wake(),
            None,
            "the answer wakes the loop"
        );
        world.provision.database_changed(now + MOMENT);
        assert_eq!(words(&world.provision.tick(now + MOMENT)), NOTHING);
        let failed = Err(StoreError::SchemaMissing);
        let steps = world.provision.offered(failed, now + MOMENT);
        assert_eq!(words(&steps), ["database failed"]);
        assert_eq!(words(&world.provision.tick(now + MOMENT)), ["AskOffers"]);
        world.offer(&[]);
        let later = now + MOMENT + Periods::current().supply_look;
        assert_eq!(world.provision.next_wake(), Some(later));

        let mut without = World::new(false, false);
        without.provision.database_changed(now);
        assert_eq!(without.provision.next_wake(), None);
        assert_eq!(words(&without.provision.tick(now)), NOTHING);
    }

    #[test]
    fn a_touched_copy_is_not_looked_at_all_the_time() {
        let mut world = World::new(false, false);
        let now = world.now;
        assert!(world.provision.has_to_look(HASH, now));
        assert!(!world.provision.has_to_look(HASH, now));
        assert!(
            world
                .provision
                .has_to_look(HASH, now + LOOK_AT_TOUCHED_EVERY)
        );
        world.want(FILE);
        let later = now + 9 * LOOK_AT_TOUCHED_EVERY;
        assert!(
            !world.provision.has_to_look(HASH, later),
            "it is being obtained"
        );
    }
}
