//! The one who changes what is in force.
//!
//! A change is checked, written to the store, prepared in the kernel, committed, and only then in force; whoever asked for it
//! gets the answer after that. What is asked for meanwhile waits and is committed together, since a commit waits for the disk.

use super::change::{Change, ChangeError, Done};
use super::draft::{Draft, Next};
use super::restore;
use super::store::{Store, StoreError};
use crate::clock::Clock;
use crate::events::{Bus, Event};
use crate::flows::Flows;
use crate::kernel::Part;
use crate::memory;
use crate::metrics::Metrics;
use crate::snapshot::{Live, Snapshot};
use std::collections::HashSet;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use tokio::runtime::Handle;
use validator_core::net::NetSet;

/// Most changes that are committed together.
const GROUP: usize = 512;

/// Most sessions that are looked for among the open connections, instead of the other way round.
const FEW: usize = 64;

/// Sessions that are so many that memory is given back afterwards.
const MANY: usize = 10_000;

/// A change that is stored and in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Applied {
    /// The version since.
    pub(crate) version: u64,
    /// What it has done.
    pub(crate) done: Done,
}

/// Gets the outcome.
pub(crate) type Reply = Box<dyn FnOnce(Result<Applied, ChangeError>) + Send>;

/// Where changes are handed in. Dropping it lets those that were handed in finish.
pub(crate) struct Writer {
    changes: Option<Sender<(Change, Reply)>>,
    thread: Option<JoinHandle<()>>,
    store: Option<Arc<RwLock<Store>>>,
}

/// What a writer works on.
pub(crate) struct World {
    pub(crate) live: Live,
    pub(crate) kernel: Arc<Part>,
    pub(crate) flows: Arc<Flows>,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) events: Bus,
}

impl Writer {
    /// Starts it. Within a runtime, since the kernel part has tasks there.
    ///
    /// # Errors
    /// When the system has no more threads.
    pub(crate) fn start(world: World, store: Option<Store>) -> std::io::Result<Self> {
        let (changes, queue) = mpsc::channel();
        let store = store.map(|store| Arc::new(RwLock::new(store)));
        let mut work = Work { world, store: store.clone(), runtime: Handle::current(), many: true };
        let thread = thread::Builder::new().name("writer".to_owned()).spawn(move || work.run(&queue))?;
        Ok(Self { changes: Some(changes), thread: Some(thread), store })
    }

    /// Hands in a change; `reply` gets the outcome on the writer's thread.
    pub(crate) fn send(&self, change: Change, reply: Reply) {
        let refused = match &self.changes {
            Some(changes) => changes.send((change, reply)).err().map(|error| error.0.1),
            None => Some(reply),
        };
        if let Some(reply) = refused {
            reply(Err(ChangeError::Stopping));
        }
    }

    /// Hands in a change and waits for the outcome.
    pub(crate) async fn change(&self, change: Change) -> Result<Applied, ChangeError> {
        let (tell, outcome) = tokio::sync::oneshot::channel();
        self.send(change, Box::new(|outcome| drop(tell.send(outcome))));
        outcome.await.unwrap_or(Err(ChangeError::Stopping))
    }

    /// Hands in a change and blocks until the outcome is there.
    pub(crate) fn change_blocking(&self, change: Change) -> Result<Applied, ChangeError> {
        let (tell, outcome) = mpsc::channel();
        self.send(change, Box::new(move |outcome| drop(tell.send(outcome))));
        outcome.recv().unwrap_or(Err(ChangeError::Stopping))
    }

    /// Looks at the store; `None` without one.
    pub(crate) fn store<T>(&self, look: impl FnOnce(&Store) -> T) -> Option<T> {
        let store = self.store.as_ref()?;
        Some(look(&store.read().unwrap_or_else(std::sync::PoisonError::into_inner)))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            // It ends with its queue; a panic there has been reported.
            let _reported = thread.join();
        }
    }
}

struct Work {
    /// Much has passed since memory was last given back.
    many: bool,
    world: World,
    store: Option<Arc<RwLock<Store>>>,
    runtime: Handle,
}

impl Work {
    fn run(&mut self, queue: &Receiver<(Change, Reply)>) {
        let runtime = self.runtime.clone();
        let _within = runtime.enter();
        while let Ok(first) = queue.recv() {
            let (mut changes, mut replies) = (vec![first.0], vec![first.1]);
            while changes.len() < GROUP
                && let Ok((change, reply)) = queue.try_recv()
            {
                changes.push(change);
                replies.push(reply);
            }
            let outcomes = self.apply(&changes);
            for ((change, reply), outcome) in changes.iter().zip(replies).zip(outcomes) {
                if matches!(change, Change::Reload) && outcome.is_err() {
                    self.world.metrics.reload_failures.inc();
                }
                reply(outcome);
            }
            if self.many {
                drop(changes);
                memory::give_back();
                self.many = false;
            }
        }
    }

    /// Does all of a group, or finds out which of it cannot be done.
    fn apply(&mut self, changes: &[Change]) -> Vec<Result<Applied, ChangeError>> {
        match self.try_apply(changes) {
            Ok(outcomes) => outcomes,
            Err(error) if changes.len() == 1 => vec![Err(error)],
            Err(_) => changes.iter().flat_map(|change| self.apply(std::slice::from_ref(change))).collect(),
        }
    }

    fn try_apply(&mut self, changes: &[Change]) -> Result<Vec<Result<Applied, ChangeError>>, ChangeError> {
        let now = self.world.clock.now();
        self.mend(now)?;
        let old = self.world.live.current();
        let store = self.store.clone();
        let store =
            store.as_ref().map(|store| store.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        // Without room or on a read-only disk a configuration file can still be read again.
        let pushes = changes.iter().any(|change| !matches!(change, Change::Reload | Change::Forget));
        let mut read = None;
        let write = match store.as_ref().map(|store| store.begin()) {
            Some(Ok(write)) => Some(write),
            Some(Err(StoreError::ReadOnly(_))) if !pushes => {
                read = store.as_ref().map(|store| store.read()).transpose()?;
                None
            }
            Some(Err(error)) => {
                drop(store);
                return Err(self.broken(error));
            }
            None => None,
        };
        let mut draft = Draft::new(&old, write, read, &self.world.metrics, now);
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            match draft.apply(change) {
                Err(ChangeError::Store(error)) => {
                    drop(draft);
                    drop(store);
                    return Err(self.broken(error));
                }
                Err(error) if draft.is_spoilt() => return Err(error),
                outcome => outcomes.push(outcome),
            }
        }
        if !draft.is_dirty() {
            return Ok(with_version(outcomes, old.revision));
        }
        let Next { mut snapshot, write, touched } = match draft.finish() {
            Ok(next) => next,
            Err(ChangeError::Store(error)) => {
                drop(store);
                return Err(self.broken(error));
            }
            Err(error) => return Err(error),
        };
        self.many |= touched.as_ref().is_none_or(|sids| sids.len() >= MANY);
        // Of many it is cheaper to ask the snapshots about each open connection.
        let newly = touched.as_ref().filter(|sids| sids.len() <= FEW).cloned();
        let staged = match touched {
            Some(touched) => self.world.kernel.prepare_sessions(&snapshot, &old, touched),
            None => self.world.kernel.prepare(&snapshot, Some(&old), now),
        }
        .map_err(ChangeError::Kernel)?;
        if let Some(write) = write
            && let Err(error) = write.commit()
        {
            self.world.kernel.abandon(staged, &old);
            drop(store);
            return Err(self.broken(error));
        }
        drop(store);
        let behind = self.world.kernel.commit(staged, &mut snapshot);
        let version = snapshot.revision;
        self.put_in_force(snapshot, &old, newly.as_deref(), now);
        if let Err(error) = behind {
            tracing::error!("kernel: it did not take version {version}: {error}");
            return Err(ChangeError::Behind(error));
        }
        Ok(with_version(outcomes, version))
    }

    fn put_in_force(&self, snapshot: Snapshot, old: &Snapshot, touched: Option<&[Box<str>]>, now: u64) {
        let World { live, kernel, flows, metrics, events, .. } = &self.world;
        live.replace(snapshot);
        let new = live.current();
        kernel.leave(&new);
        metrics.snapshot_version.set(i64::try_from(new.revision).unwrap_or(i64::MAX));

        let none = NetSet::default();
        let trusted = new.config.gateway.as_ref().map_or(&none, |gateway| &gateway.trusted_proxies);
        let listed = |snapshot: &Snapshot, sid: &str| snapshot.config.policy.sessions.contains(sid, now);
        let newly_listed = |sid: &str| listed(&new, sid) && !listed(old, sid);
        let rejected = match touched {
            Some(sids) => {
                let sids: HashSet<&str> =
                    sids.iter().map(|sid| &**sid).filter(|sid| newly_listed(sid)).collect();
                if sids.is_empty() {
                    0
                } else {
                    flows.blacklisted(|sid| sids.contains(sid), trusted, Instant::now())
                }
            }
            None => flows.blacklisted(newly_listed, trusted, Instant::now()),
        };
        if rejected > 0 {
            tracing::info!(rejected, "connections of newly blacklisted sessions are refused");
        }
        events.tell(|| Event::Change { version: new.revision, sessions: new.config.policy.sessions.len() });
    }

    /// Gives up the store's handle after an error, since it is of no use any more.
    fn broken(&self, error: StoreError) -> ChangeError {
        if let Some(store) = &self.store
            && !matches!(error, StoreError::ReadOnly(_))
        {
            store.write().unwrap_or_else(std::sync::PoisonError::into_inner).break_off();
        }
        ChangeError::Store(error)
    }

    /// Opens the store again after an error. What it has is put in force: of the last change it is not known whether it was
    /// stored.
    fn mend(&mut self, now: u64) -> Result<(), ChangeError> {
        let Some(store) = &self.store else { return Ok(()) };
        let mut store = store.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !store.is_broken() {
            return Ok(());
        }
        store.reopen()?;
        let outcome = self.catch_up(&store, now);
        match outcome {
            Ok(()) => tracing::info!(path = %store.path().display(), "the store is open again"),
            // What it has is not in force: the next one has to try again before anything is built on it.
            Err(_) => store.break_off(),
        }
        outcome
    }

    /// Puts in force what a store has, unless it is.
    fn catch_up(&self, store: &Store, now: u64) -> Result<(), ChangeError> {
        let old = self.world.live.current();
        if store.read()?.revision()? == old.revision {
            return Ok(());
        }
        let (file, base) = (&old.overlay.file, (*old.overlay.base).clone());
        let mut snapshot = restore(file, base, store, now, &self.world.metrics)?;
        let staged = self.world.kernel.prepare(&snapshot, Some(&old), now).map_err(ChangeError::Kernel)?;
        self.world.kernel.commit(staged, &mut snapshot).map_err(ChangeError::Behind)?;
        self.put_in_force(snapshot, &old, None, now);
        Ok(())
    }
}

fn with_version(outcomes: Vec<Result<Done, ChangeError>>, version: u64) -> Vec<Result<Applied, ChangeError>> {
    outcomes.into_iter().map(|outcome| outcome.map(|done| Applied { version, done })).collect()
}
