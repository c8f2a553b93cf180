//! Follows the bucket: connects, catches up from the revision in the store, applies what comes, reports.
//!
//! Whenever the connection was lost, all of this starts again, and the bucket is looked at before anything of it is applied:
//! it may be another one by now, or have lost values.

use super::bucket::{Bucket, BucketError, Entry, Hosts, Watch, connect};
use super::keys::{HostReport, Key};
use super::{Fleet, Link, World};
use crate::state::{Change, ChangeError, Counts, Done, List, Origin, StoreError};
use async_nats::{Client, Event};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// Most values that are applied together, and their bytes.
const GROUP: (usize, usize) = (256, 8 * 1024 * 1024);

/// Between two attempts at what has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at the bucket.
const LOOK: Duration = Duration::from_secs(5);

/// Between two reports, when something was applied and when nothing was.
const REPORT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Stands for the bucket when something of it could not be applied: the next start reads all of it.
const INCOMPLETE: &str = "incomplete";

/// The connection: whether there is one, and how often that has changed.
#[derive(Debug, Clone, Default)]
struct Line {
    up: bool,
    changes: u64,
}

/// Why a session ends.
enum End {
    /// The bucket is not what it was; it has to be looked at again.
    Anew,
    /// The agent stops.
    Stopping,
    Failed(BucketError),
}

impl From<BucketError> for End {
    fn from(error: BucketError) -> Self {
        Self::Failed(error)
    }
}

pub(super) async fn follow(fleet: Arc<Fleet>, world: World) {
    let mut down = world.down.clone();
    let applied = world.writer.store(|store| store.read()?.fleet_revision());
    fleet.note_applied(applied.and_then(Result::ok).unwrap_or(0));
    let follower = Follower { fleet, world };
    tokio::select! {
        _ = down.wait_for(|&down| down) => {}
        () = follower.run() => {}
    }
    // Whoever keeps it would keep the connection.
    follower.fleet.state().client = None;
}

impl Fleet {
    fn note_applied(&self, revision: u64) {
        let mut state = self.state();
        state.applied = revision;
        state.last = state.last.max(revision);
        self.metrics.fleet_applied_revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    fn note_last(&self, revision: u64) {
        self.state().last = revision;
    }

    /// Remembers how it stands, and logs it if that is new.
    fn note(&self, link: Link, why: Option<String>) {
        let mut state = self.state();
        if state.link == link && state.why == why {
            return;
        }
        match &why {
            Some(why) => tracing::warn!(bucket = self.settings.bucket, "fleet: {why}"),
            None if link != state.link => {
                tracing::info!(bucket = self.settings.bucket, applied = state.applied, "fleet: connected");
            }
            None => {}
        }
        self.metrics.fleet_connected.set(i64::from(link == Link::Connected));
        (state.link, state.why) = (link, why);
    }

    /// Remembers that the connection is gone. Before the first one it is still to come.
    fn note_away(&self, why: impl Into<String>) {
        let link = if self.state().link == Link::Starting { Link::Starting } else { Link::Away };
        self.note(link, Some(why.into()));
    }
}

struct Follower {
    fleet: Arc<Fleet>,
    world: World,
}

impl Follower {
    async fn run(&self) {
        let (line, mut lines) = watch::channel(Line::default());
        let client = self.client(line).await;
        self.fleet.state().client = Some(client.clone());
        loop {
            // The sender lives as long as the client.
            let Ok(changes) = lines.wait_for(|line| line.up).await.map(|line| line.changes) else { return };
            let end = tokio::select! {
                biased;
                _ = lines.wait_for(|line| line.changes != changes) => {
                    self.fleet.note_away("the server is away; what is in the store stays in force");
                    continue;
                }
                end = self.session(&client) => end,
            };
            match end {
                End::Anew => tracing::info!("fleet: the bucket is not what it was; looking again"),
                End::Stopping => return,
                End::Failed(error) => {
                    let link = match error {
                        BucketError::NoBucket(_) => Link::Connected,
                        _ => Link::Away,
                    };
                    self.fleet.note(link, Some(error.to_string()));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// A client that connects whenever it can.
    async fn client(&self, line: watch::Sender<Line>) -> Client {
        let line = Arc::new(line);
        loop {
            let (line, fleet) = (Arc::clone(&line), Arc::clone(&self.fleet));
            let tell = move |event: Event| match event {
                Event::Connected => line.send_modify(|line| {
                    (line.up, line.changes) = (true, line.changes + 1);
                }),
                Event::Disconnected | Event::Closed => line.send_modify(|line| {
                    (line.up, line.changes) = (false, line.changes + 1);
                }),
                Event::ServerError(error) if !line.borrow().up => fleet.note_away(error.to_string()),
                Event::ClientError(error) if !line.borrow().up => fleet.note_away(error.to_string()),
                _ => {}
            };
            match connect(&self.fleet.settings, &self.fleet.host, Some(tell)).await {
                Ok(client) => return client,
                Err(error) => {
                    self.fleet.note_away(error.to_string());
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// From a new connection to its end, or to whatever else comes in between.
    async fn session(&self, client: &Client) -> End {
        match self.try_session(client).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_session(&self, client: &Client) -> Result<std::convert::Infallible, End> {
        let settings = &*self.fleet.settings;
        let bucket = Bucket::open(client, settings, false).await?;
        let hosts = match Hosts::open(client, settings, true).await {
            Ok(hosts) => Some(Arc::new(hosts)),
            Err(error) => {
                tracing::warn!("fleet: this host does not report: {error}");
                None
            }
        };
        let facts = bucket.facts().await?;
        let identity = self.identity(&facts.identity);
        let (applied, known) = self.stored().await?;
        let mut watch = if known.as_deref() == Some(&*identity) && facts.last >= applied {
            self.remove_lost(&bucket, applied).await?;
            bucket.watch(Some(applied + 1)).await?
        } else {
            self.take_all(&bucket, identity.clone(), facts.last).await?
        };
        self.fleet.note_last(facts.last);
        let mut values = facts.values;
        let mut base = Arc::clone(&self.world.live.current().overlay.base);
        self.fleet.note(Link::Connected, None);

        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report = Instant::now();
        loop {
            tokio::select! {
                entry = watch.next() => {
                    let entry = entry?.ok_or(End::Anew)?;
                    let applied = self.fleet.state().applied;
                    if entry.revision <= applied {
                        return Err(End::Anew);
                    }
                    self.take(entry, &mut watch).await?;
                    report = report.min(Instant::now() + REPORT.0);
                }
                _ = looks.tick() => {
                    let facts = bucket.facts().await?;
                    let applied = self.fleet.state().applied;
                    if self.identity(&facts.identity) != identity || facts.last < applied {
                        return Err(End::Anew);
                    }
                    // What could not be applied over the old file may go with the new one.
                    let file = Arc::clone(&self.world.live.current().overlay.base);
                    if !Arc::ptr_eq(&file, &base) && self.fleet.state().refused().is_some() {
                        return Err(End::Anew);
                    }
                    base = file;
                    // With one value for each key, there are fewer only where some were removed without a trace.
                    if facts.values < values {
                        self.remove_lost(&bucket, applied).await?;
                    }
                    values = facts.values;
                    let last = if facts.last > applied { bucket.last_revision().await? } else { facts.last };
                    self.fleet.note_last(last);
                }
                () = tokio::time::sleep_until(report) => {
                    report = Instant::now() + REPORT.1;
                    self.report(hosts.as_ref());
                }
            }
        }
    }

    /// What tells a bucket from another one; and what decides how much of it is taken.
    fn identity(&self, of_bucket: &str) -> String {
        let config = &self.world.live.current().config;
        let (retain_days, capacity) = (config.policy.sessions.retain_days(), config.blacklist_capacity);
        let secrets = self.fleet.settings.secrets;
        format!("{of_bucket} secrets={secrets} retain_days={retain_days} capacity={capacity}")
    }

    /// The revision in the store, and of which bucket it is.
    async fn stored(&self) -> Result<(u64, Option<String>), End> {
        loop {
            let read = self.world.writer.store(|store| {
                let read = store.read()?;
                Ok::<_, StoreError>((read.fleet_revision()?, read.fleet_bucket()?))
            });
            match read {
                Some(Ok(read)) => return Ok(read),
                Some(Err(error)) => self.pause(error.to_string()).await,
                None => return Err(End::Stopping),
            }
        }
    }

    async fn pause(&self, why: String) {
        self.fleet.note(Link::Connected, Some(why));
        tokio::time::sleep(PAUSE).await;
    }

    /// What came from the fleet and is in force.
    fn known(&self) -> Result<BTreeSet<Key>, End> {
        let parts = self.world.writer.store(|store| store.read()?.fleet_parts());
        let parts = parts.ok_or(End::Stopping)?.map_err(|error| BucketError::Server(error.to_string()))?;
        let mut known: BTreeSet<Key> = parts.into_iter().map(|(day, part)| Key::Part { day, part }).collect();
        let overlay = &self.world.live.current().overlay;
        if overlay.config.contains_key(&Origin::Fleet) {
            known.insert(Key::Config);
        }
        for list in [List::Deny, List::Allow] {
            if overlay.lists.iter().any(|((of, _), flags)| *of == list && flags.has(Origin::Fleet)) {
                known.insert(Key::List(list));
            }
        }
        let secrets = overlay.secrets.iter().filter(|(_, origins)| origins.contains_key(&Origin::Fleet));
        known.extend(secrets.map(|((kid, slot), _)| Key::Secret { kid: kid.clone(), slot: *slot }));
        Ok(known)
    }

    /// Whether a key counts here.
    fn counts(&self, key: &Key) -> bool {
        self.fleet.settings.secrets || !matches!(key, Key::Secret { .. })
    }

    /// Removes what has gone from the bucket without a trace.
    async fn remove_lost(&self, bucket: &Bucket, applied: u64) -> Result<(), End> {
        let there = bucket.keys().await?;
        let lost: Vec<(Key, Option<Bytes>)> =
            self.known()?.difference(&there).map(|key| (key.clone(), None)).collect();
        if lost.is_empty() {
            return Ok(());
        }
        tracing::info!("fleet: {} values have gone from the bucket", lost.len());
        self.apply(applied, None, lost).await
    }

    /// Replaces all that came from a bucket by all of this one. Gives what comes after that.
    async fn take_all(&self, bucket: &Bucket, identity: String, last: u64) -> Result<Watch, End> {
        let mut watch = bucket.watch(None).await?;
        let (mut left, mut revision) = (watch.pending, last);
        let mut entries = Vec::new();
        while left > 0 {
            let Entry { key, value, revision: this, pending } = watch.next().await?.ok_or(End::Anew)?;
            entries.extend(key.filter(|key| self.counts(key)).map(|key| (key, value)));
            (left, revision) = (pending, revision.max(this));
        }
        let there: BTreeSet<Key> = entries.iter().map(|(key, _)| key.clone()).collect();
        let known = self.known()?;
        let gone = known.difference(&there).map(|key| (key.clone(), None));
        let all: Vec<_> = gone.chain(entries).collect();
        tracing::info!(revision, "fleet: all of the bucket is taken, {} values", all.len());
        self.apply(revision, Some(identity), all).await?;
        Ok(watch)
    }

    /// Applies an entry, together with those that are there already.
    async fn take(&self, first: Entry, watch: &mut Watch) -> Result<(), End> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let mut next = Some(first);
        let mut revision = 0;
        let mut last = 0;
        while let Some(Entry { key, value, revision: this, pending }) = next.take() {
            if this <= revision {
                return Err(End::Anew);
            }
            (revision, last) = (this, this + pending);
            bytes += value.as_ref().map_or(0, Bytes::len);
            entries.extend(key.filter(|key| self.counts(key)).map(|key| (key, value)));
            if entries.len() >= GROUP.0 || bytes >= GROUP.1 {
                break;
            }
            next = tokio::select! {
                biased;
                entry = watch.next() => Some(entry?.ok_or(End::Anew)?),
                () = std::future::ready(()) => None,
            };
        }
        self.fleet.note_last(last);
        self.apply(revision, None, entries).await
    }

    /// Puts values in force. What this host cannot use is told and left out, so that later revisions can follow.
    async fn apply(
        &self,
        revision: u64,
        identity: Option<String>,
        mut entries: Vec<(Key, Option<Bytes>)>,
    ) -> Result<(), End> {
        let all = identity.is_some();
        let touched: Vec<String> = entries.iter().map(|(key, _)| key.to_string()).collect();
        // By key.
        let mut refused: BTreeMap<String, String> = BTreeMap::new();
        loop {
            let (mut changes, mut names) = (Vec::with_capacity(entries.len()), Vec::new());
            for (key, value) in &entries {
                let (change, wrong) = key.change(value.as_deref());
                let name = key.to_string();
                refused.extend(wrong.map(|why| (name.clone(), why)));
                names.extend(change.as_ref().map(|_| name));
                changes.extend(change);
            }
            let bucket = if refused.is_empty() { identity.as_deref() } else { Some(INCOMPLETE) };
            let bucket = bucket.map(Box::from);
            match self.world.writer.change(Change::Fleet { revision, bucket, changes }).await {
                Ok(applied) => {
                    if let Done::Counts(Counts { refused: more, .. }) = applied.done {
                        let named = |(index, why): (usize, String)| {
                            let name = names.get(index).cloned().unwrap_or_default();
                            (name.clone(), format!("{name}: {why}"))
                        };
                        refused.extend(more.into_iter().map(named));
                    }
                    break;
                }
                // It is stored, and in force in userspace.
                Err(error @ ChangeError::Behind(_)) => {
                    refused.insert("kernel".to_owned(), error.to_string());
                    break;
                }
                Err(ChangeError::Stopping | ChangeError::NoStore) => return Err(End::Stopping),
                Err(error @ ChangeError::Store(_)) => self.pause(error.to_string()).await,
                Err(error) => {
                    // A configuration may name what this host does not have.
                    let before = entries.len();
                    entries.retain(|(key, value)| *key != Key::Config || value.is_none());
                    if entries.len() < before {
                        refused.insert("config".to_owned(), format!("config: {error}"));
                    } else if matches!(error, ChangeError::Kernel(_)) {
                        self.pause(error.to_string()).await;
                    } else {
                        refused.extend(touched.iter().map(|key| (key.clone(), format!("{key}: {error}"))));
                        entries.clear();
                    }
                }
            }
        }
        for why in refused.values() {
            tracing::error!(revision, "fleet: this host cannot apply {why}");
        }
        let mut state = self.fleet.state();
        // What was refused is told until the same thing comes in a better form.
        state.refused.retain(|key, _| !all && key != "kernel" && !touched.contains(key));
        state.refused.extend(refused);
        let paused = state.why.is_some();
        drop(state);
        if paused {
            self.fleet.note(Link::Connected, None);
        }
        self.fleet.note_applied(revision);
        Ok(())
    }

    /// Tells the other side what is in force here.
    fn report(&self, hosts: Option<&Arc<Hosts>>) {
        let Some(hosts) = hosts.cloned() else { return };
        let (applied_revision, refused) = {
            let state = self.fleet.state();
            (state.applied, state.refused())
        };
        let report = HostReport {
            applied_revision,
            version: self.world.live.current().revision,
            seen: self.world.clock.now(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            refused,
        };
        let host = self.fleet.host.clone();
        tokio::spawn(async move {
            if let Err(error) = hosts.report(&host, &report).await {
                tracing::debug!("fleet: this host's report is lost: {error}");
            }
        });
    }
}
