//! The kernel part as the rest of the agent sees it: there or not, and in step with the snapshot.

use super::{Filter, KernelError, KernelTables, Prepared, leftovers};
use crate::events::Bus;
use crate::flows::Flows;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// Why the kernel does not follow a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// There is no kernel part, and it is required.
    #[error("prefilter.required, but the kernel part is off: {0}")]
    Off(#[source] KernelError),
    /// It did not take the snapshot.
    #[error("kernel: {0}")]
    Refused(#[source] KernelError),
}

/// The kernel part of a process.
pub(crate) struct Part {
    running: Mutex<Option<Running>>,
    why_off: Mutex<String>,
    metrics: Metrics,
    flows: Arc<Flows>,
    bus: Bus,
}

/// What is prepared in the kernel and not in force yet.
#[must_use]
pub(crate) enum Staged {
    /// Nothing.
    Nothing,
    /// The other bank.
    Whole(Prepared),
    /// The kernel part was not there; it is, and in force.
    Started,
    /// Some sessions.
    Sessions {
        /// Puts them in force.
        config: ebpf_abi::Config,
        /// Which.
        sids: Vec<Box<str>>,
    },
}

/// How it stands with the kernel part.
pub(crate) enum Report {
    /// In force.
    On,
    /// Not wanted.
    NotConfigured,
    /// It cannot be had, because of this.
    Off(String),
}

struct Running {
    filter: Filter,
    /// Logs the program's events.
    events: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.events.abort();
    }
}

impl Part {
    /// None, until [`Part::prepare`].
    #[must_use]
    pub(crate) fn new(metrics: Metrics, flows: Arc<Flows>, bus: Bus) -> Self {
        Self { running: Mutex::new(None), why_off: Mutex::default(), metrics, flows, bus }
    }

    /// Brings into the kernel what a snapshot needs, without putting it in force; `old` is the one in force so far. Where there
    /// is no kernel part yet and none can be had, userspace alone enforces the lists, unless the kernel part is required.
    ///
    /// # Errors
    /// [`FollowError`]; the kernel goes on with the old snapshot then. Whoever gets it has to refuse the new one.
    pub(crate) fn prepare(
        &self,
        snapshot: &Snapshot,
        old: Option<&Snapshot>,
        now: u64,
    ) -> Result<Staged, FollowError> {
        let mut running = self.lock();
        match (running.as_mut(), &snapshot.kernel) {
            (Some(Running { filter, .. }), Some(tables)) => {
                let prepared = filter.prepare(snapshot, tables, now);
                if let (Err(_), Some(old)) = (&prepared, old)
                    && let Err(error) = filter.restore(old)
                {
                    tracing::error!("kernel: sessions of the old configuration may be missing: {error}");
                }
                prepared.map(Staged::Whole).map_err(FollowError::Refused)
            }
            (None, Some(tables)) => match self.start(snapshot, tables, now) {
                Ok(started) => {
                    *running = Some(started);
                    Ok(Staged::Started)
                }
                Err(error) if snapshot.config.kernel.required => Err(FollowError::Off(error)),
                Err(error) => {
                    self.without(snapshot, &error);
                    Ok(Staged::Nothing)
                }
            },
            (_, None) => Ok(Staged::Nothing),
        }
    }

    /// Likewise for a snapshot that differs from `old` in these sessions alone.
    ///
    /// # Errors
    /// [`FollowError::Refused`]; the kernel goes on with the old snapshot then.
    pub(crate) fn prepare_sessions(
        &self,
        snapshot: &Snapshot,
        old: &Snapshot,
        sids: Vec<Box<str>>,
    ) -> Result<Staged, FollowError> {
        let mut running = self.lock();
        let (Some(Running { filter, .. }), Some(_)) = (running.as_mut(), &snapshot.kernel) else {
            return Ok(Staged::Nothing);
        };
        match filter.prepare_sessions(snapshot, sids.iter().map(|sid| &**sid)) {
            Ok(config) => Ok(Staged::Sessions { config, sids }),
            Err(error) => {
                restore(filter, old, &sids);
                Err(FollowError::Refused(error))
            }
        }
    }

    /// Puts in force what was prepared for a snapshot, whose tables are used up.
    ///
    /// # Errors
    /// [`FollowError::Refused`]; the kernel goes on with the old snapshot then, but for added sessions.
    pub(crate) fn commit(&self, staged: Staged, snapshot: &mut Snapshot) -> Result<(), FollowError> {
        let mut running = self.lock();
        let done = match (staged, running.as_mut()) {
            (Staged::Whole(prepared), Some(Running { filter, .. })) => filter.commit(prepared),
            (Staged::Sessions { config, .. }, Some(Running { filter, .. })) => filter.commit_sessions(config),
            (Staged::Nothing | Staged::Started, _) | (_, None) => Ok(()),
        };
        if let Some(tables) = &mut snapshot.kernel {
            // Tables that are shared with another snapshot were used up for that one.
            if let Some(tables) = Arc::get_mut(tables) {
                tables.compiled.tables = None;
            }
            if running.is_some() {
                let sessions = snapshot.config.policy.sessions.len();
                self.metrics.kernel.entries(&tables.lists, &tables.compiled, sessions);
            }
        }
        done.map_err(FollowError::Refused)
    }

    /// Takes back what was prepared; `old` is in force.
    pub(crate) fn abandon(&self, staged: Staged, old: &Snapshot) {
        let mut running = self.lock();
        let Some(Running { filter, .. }) = running.as_mut() else { return };
        match staged {
            Staged::Nothing => {}
            Staged::Sessions { sids, .. } => restore(filter, old, &sids),
            Staged::Whole(prepared) => {
                filter.give_up(&prepared);
                if let Err(error) = filter.restore(old) {
                    tracing::error!("kernel: sessions of the old configuration may be missing: {error}");
                }
            }
            Staged::Started => {
                self.flows.set_kernel(None);
                self.metrics.kernel.down();
                if let Some(mut started) = running.take()
                    && let Err(error) = started.filter.remove()
                {
                    tracing::warn!("kernel: the filter could not be removed: {error}");
                }
            }
        }
    }

    /// Whether the kernel part is in force, and why not.
    pub(crate) fn report(&self, snapshot: &Snapshot) -> Report {
        let running = self.lock();
        if running.is_some() {
            Report::On
        } else if snapshot.config.kernel.interfaces.is_empty() {
            Report::NotConfigured
        } else {
            let why = self.why_off.lock().unwrap_or_else(PoisonError::into_inner);
            Report::Off(why.clone())
        }
    }

    /// Takes the kernel part away if the snapshot in force has none. Until then it judged by the old one.
    pub(crate) fn leave(&self, snapshot: &Snapshot) {
        if snapshot.kernel.is_some() {
            return;
        }
        self.metrics.kernel.down();
        let Some(mut running) = self.lock().take() else { return };
        self.flows.set_kernel(None);
        if let Err(error) = running.filter.remove() {
            tracing::warn!("kernel: the filter could not be removed: {error}");
        }
    }

    /// Tells the kernel the time.
    pub(crate) fn tick(&self, snapshot: &Snapshot, now: u64) {
        if let Some(running) = self.lock().as_mut()
            && let Err(error) = running.filter.tick(snapshot, now)
        {
            tracing::warn!("kernel: it could not be told the time: {error}");
        }
    }

    fn start(&self, snapshot: &Snapshot, tables: &KernelTables, now: u64) -> Result<Running, KernelError> {
        let filter = Filter::start(snapshot, tables, now)?;
        let (counters, connections, events) = (filter.counters()?, filter.connections()?, filter.events()?);
        self.flows.set_kernel(Some(Box::new(connections)));
        self.metrics.kernel.up(counters);
        Ok(Running { filter, events: tokio::spawn(events.tell(self.bus.clone())) })
    }

    fn without(&self, snapshot: &Snapshot, error: &KernelError) {
        self.metrics.kernel.down();
        *self.why_off.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
        tracing::warn!("kernel: off, the prefilter lists are enforced in userspace: {error}");
        for interface in leftovers(&snapshot.config.kernel) {
            tracing::warn!(
                interface,
                "kernel: the filter of an earlier run may still apply its old lists; \
                 `edgegate ctl prefilter detach` removes it"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has these sessions again as they are in force.
fn restore(filter: &mut Filter, old: &Snapshot, sids: &[Box<str>]) {
    if let Err(error) = filter.restore_sessions(old, sids.iter().map(|sid| &**sid)) {
        tracing::error!(
            "kernel: sessions may be missing until the next change of the configuration: {error}"
        );
    }
}
