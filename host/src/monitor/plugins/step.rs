//! What the owners of this room decide, and how it is done. An owner only decides: it neither asks the
//! database nor starts a process, so its decisions can be tested with a time of one's own.

use super::{
    News, Plugins, event::Event, examiner::Purpose, fetch::fetch, scan::scan, watch::Watch,
};
use crate::{
    model::plugin::NewPlugin,
    store::{Offer, Store},
};
use std::{path::PathBuf, rc::Rc, time::Instant};

/// Something that is to be done.
#[derive(Debug)]
pub(super) enum Step {
    /// Ask the database which drop-in files earlier monitors of this host knew.
    AskKnown,
    /// Let inotify tell of changes in drop-in directories.
    Watch,
    /// Read the drop-in directories.
    Scan,
    /// Register what a drop-in file offers.
    Register {
        /// The file.
        path: PathBuf,
        /// What it offers.
        plugin: Box<NewPlugin>,
        /// Whether no earlier monitor knew a content of this file.
        is_new: bool,
    },
    /// Retire what a drop-in file offered that is gone.
    Retire(PathBuf),
    /// Have an examiner look at the content with this hash.
    Examine {
        /// The hash that the content must have.
        hash: String,
        /// Where the content is.
        file: PathBuf,
        /// What messages call it.
        named: PathBuf,
    },
    /// Copy the published bytes with this hash from the database into a file.
    Fetch(String),
    /// Remove a file that was made by [`Step::Fetch`].
    RemoveFetched(PathBuf),
    /// Deploy a fetched plugin on this host.
    Adopt(Offer),
    /// Ask the database for published plugins that this host could run.
    AskOffers,
    /// Write to the database why a path is refused, or (`None`) that it no longer is.
    SaveRefusal {
        /// The path, or what stands for one.
        path: String,
        /// The content that was registered from the path last, if any was.
        hash: Option<String>,
        /// Why it is refused.
        reason: Option<String>,
    },
    /// Remove from the database what was written about the refusal of this path.
    ForgetRefusal(String),
    /// Tell the supervisor.
    Tell(News),
}

impl Plugins {
    /// Does what was decided. Answers what the supervisor has to know.
    pub(super) fn carry_out(&mut self, steps: Vec<Step>, now: Instant) -> Option<News> {
        let mut news = None;
        for step in steps {
            match step {
                Step::AskKnown => self.ask_known(),
                Step::Watch => self.watch(),
                Step::Scan => self.scan(),
                Step::Register {
                    path,
                    plugin,
                    is_new,
                } => self.register(path, plugin, is_new),
                Step::Retire(path) => self.retire(path),
                Step::Examine { hash, file, named } => {
                    let demanded = Some(hash.clone());
                    let purpose = Purpose::Content(hash.clone());
                    if !self.examine(&file, &named, demanded, purpose, now) {
                        self.postpone(&hash);
                    }
                }
                Step::Fetch(hash) => self.fetch(hash),
                Step::RemoveFetched(file) => self.cache.unstage(&file),
                Step::Adopt(offer) => self.adopt(offer),
                Step::AskOffers => self.ask_offers(),
                Step::SaveRefusal { path, hash, reason } => self.save_refusal(path, hash, reason),
                Step::ForgetRefusal(path) => self.forget_refusal(path),
                Step::Tell(what) => news = Some(what),
            }
        }
        news
    }

    fn ask_known(&self) {
        let host = self.settings.host.clone();
        let directories = self.settings.directories.iter();
        let directories: Vec<String> = directories
            .map(|directory| directory.to_string_lossy().into_owned())
            .collect();
        self.database.ask(
            async move |store: Store| store.drop_in_known(&host, &directories).await,
            Event::Known,
        );
    }

    fn watch(&mut self) {
        match Watch::start(self.database.mailbox().clone()) {
            Ok(watch) => self.watch = Some(watch),
            Err(error) => {
                tracing::warn!("drop-in directories are only looked at every second: {error}");
            }
        }
    }

    fn scan(&self) {
        let directories = self.settings.directories.clone();
        self.database.mailbox().run(
            async move {
                let scanned = tokio::task::spawn_blocking(move || scan(&directories)).await;
                scanned.expect("a scan does not panic")
            },
            Event::Scanned,
        );
    }

    fn register(&self, path: PathBuf, plugin: Box<NewPlugin>, is_new: bool) {
        let (monitor, host) = (self.settings.monitor, self.settings.host.clone());
        let name = path.to_string_lossy().into_owned();
        let turn = Rc::clone(&self.registering);
        self.database.ask(
            async move |store: Store| {
                let _turn = turn.acquire().await;
                store
                    .drop_in_register(monitor, &plugin, &host, &name, is_new)
                    .await
            },
            move |outcome| Event::Registered(path, outcome),
        );
    }

    fn retire(&self, path: PathBuf) {
        let host = self.settings.host.clone();
        let name = path.to_string_lossy().into_owned();
        let turn = Rc::clone(&self.registering);
        self.database.ask(
            async move |store: Store| {
                let _turn = turn.acquire().await;
                store.drop_in_gone(&host, &name).await
            },
            move |retired| Event::Retired(path, retired),
        );
    }

    fn fetch(&self, hash: String) {
        let (cache, wanted) = (self.cache.clone(), hash.clone());
        self.database.ask(
            async move |store: Store| fetch(&store, cache, &wanted).await,
            move |fetched| Event::Fetched(hash, fetched),
        );
    }

    fn adopt(&self, offer: Offer) {
        let (host, domains) = (self.settings.host.clone(), self.settings.domains.clone());
        let hash = offer.hash.clone();
        self.database.ask(
            async move |store: Store| store.plugin_adopt(&offer, &host, &domains).await,
            move |adopted| Event::Adopted(hash, adopted),
        );
    }

    fn ask_offers(&self) {
        let (host, domains) = (self.settings.host.clone(), self.settings.domains.clone());
        self.database.ask(
            async move |store: Store| store.plugin_offers(&host, &domains).await,
            Event::Offers,
        );
    }

    fn save_refusal(&self, path: String, hash: Option<String>, reason: Option<String>) {
        let (monitor, host) = (self.settings.monitor, self.settings.host.clone());
        self.database.ask(
            async move |store: Store| {
                let (hash, reason) = (hash.as_deref(), reason.as_deref());
                store
                    .drop_in_save(monitor, &host, &path, hash, reason)
                    .await
            },
            Event::RefusalSaved,
        );
    }

    fn forget_refusal(&self, path: String) {
        let host = self.settings.host.clone();
        self.database.ask(
            async move |store: Store| store.drop_in_forget(&host, &path).await,
            Event::RefusalSaved,
        );
    }

    /// Nothing can examine a content now: it is tried again later, from the beginning.
    pub(super) fn postpone(&mut self, hash: &str) {
        if let Some(fetched) = self.provision.postpone(hash) {
            self.cache.unstage(&fetched);
        }
    }
}
