//! The kernel part as the rest of the agent sees it: there or not, and in step with the snapshot.

use super::{Filter, KernelError, KernelTables, leftovers};
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
    metrics: Metrics,
    flows: Arc<Flows>,
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
    /// None, until [`Part::follow`].
    #[must_use]
    pub(crate) fn new(metrics: Metrics, flows: Arc<Flows>) -> Self {
        Self { running: Mutex::new(None), metrics, flows }
    }

    /// Puts a snapshot in force in the kernel, if the kernel is to have a part in it; `old` is the one in force so far.
    /// Where there is no part yet and none can be had, userspace alone enforces the lists, unless the kernel part is
    /// required. The tables of the snapshot are used up.
    ///
    /// # Errors
    /// [`FollowError`]; the kernel goes on with the old snapshot then. Whoever gets it has to refuse the new one.
    pub(crate) fn follow(
        &self,
        snapshot: &mut Snapshot,
        old: Option<&Snapshot>,
        now: u64,
    ) -> Result<(), FollowError> {
        let mut running = self.lock();
        let outcome = match (running.as_mut(), &snapshot.kernel) {
            (Some(Running { filter, .. }), Some(tables)) => {
                let outcome =
                    filter.prepare(snapshot, tables, now).and_then(|prepared| filter.commit(prepared));
                if let (Err(_), Some(old)) = (&outcome, old)
                    && let Err(error) = filter.restore(old)
                {
                    tracing::error!("kernel: sessions of the old configuration may be missing: {error}");
                }
                outcome.map_err(FollowError::Refused)
            }
            (None, Some(tables)) => match self.start(snapshot, tables, now) {
                Ok(started) => {
                    *running = Some(started);
                    Ok(())
                }
                Err(error) if snapshot.config.kernel.required => Err(FollowError::Off(error)),
                Err(error) => {
                    self.without(snapshot, &error);
                    Ok(())
                }
            },
            (_, None) => Ok(()),
        };
        if outcome.is_ok()
            && let Some(KernelTables { lists, compiled }) = &mut snapshot.kernel
        {
            compiled.tables = None;
            if running.is_some() {
                let sessions = snapshot.config.policy.sessions.len();
                self.metrics.kernel.entries(lists, compiled, sessions);
            }
        }
        outcome
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
        Ok(Running { filter, events: tokio::spawn(events.log()) })
    }

    fn without(&self, snapshot: &Snapshot, error: &KernelError) {
        self.metrics.kernel.down();
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
