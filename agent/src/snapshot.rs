//! One configuration in force: immutable, read without locks, replaced as a whole.

use crate::config::{self, Config, Problems};
use crate::geo::{Databases, GeoError};
use crate::kernel::{KernelTables, OverCapacity};
use crate::metrics::{Metrics, RouteCounters};
use crate::state::{Overlay, StoreError};
use arc_swap::ArcSwap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use validator_core::Sessions;
use zeroize::Zeroizing;

/// Why a configuration cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file has problems.
    #[error(transparent)]
    Config(#[from] Problems),
    /// A geo database cannot be used.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// Something does not fit into the kernel.
    #[error(transparent)]
    Kernel(#[from] OverCapacity),
    /// What was pushed cannot be read.
    #[error(transparent)]
    Store(StoreError),
}

/// Everything that a request is judged by.
pub struct Snapshot {
    /// Identifies the snapshot within the process; later ones have higher numbers.
    pub version: u64,
    /// How many groups of changes have led here, over all runs of the agent.
    pub revision: u64,
    /// The configuration, with the compiled policy.
    pub config: Config,
    /// The configuration as its texts say, without what was pushed piece by piece.
    pub(crate) texts: Config,
    /// The texts, and what was pushed.
    pub(crate) overlay: Overlay,
    /// The geo databases.
    pub geo: Arc<Databases>,
    /// What the kernel judges by; `None` where it has no part in this.
    pub(crate) kernel: Option<Arc<KernelTables>>,
    /// Counters of the routes.
    pub counters: RouteCounters,
}

impl Snapshot {
    /// Reads a configuration file and opens everything it names.
    ///
    /// # Errors
    /// Every problem of the file, or what [`Snapshot::new`] finds.
    pub fn load(path: &Path, now: u64, metrics: &Metrics) -> Result<Self, LoadError> {
        let text = config::read_text(path)?;
        let texts = config::parse(&text, path, now)?;
        Self::of_file(texts, Overlay::new(path, text), metrics)
    }

    /// Opens everything that a configuration names.
    ///
    /// # Errors
    /// The geo database that cannot be used, or what the kernel cannot hold.
    pub fn new(config: Config, metrics: &Metrics) -> Result<Self, LoadError> {
        Self::of_file(config, Overlay::new(Path::new(""), Zeroizing::default()), metrics)
    }

    fn of_file(texts: Config, overlay: Overlay, metrics: &Metrics) -> Result<Self, LoadError> {
        let sessions = texts.policy.sessions.clone();
        Self::build(texts, overlay, sessions, Shared::NOTHING, 1, metrics)
    }

    /// Lays what was pushed over the texts, and opens everything that they name and that is not shared.
    pub(crate) fn build(
        texts: Config,
        overlay: Overlay,
        sessions: Sessions,
        shared: Shared,
        revision: u64,
        metrics: &Metrics,
    ) -> Result<Self, LoadError> {
        let mut config = texts.clone();
        overlay.lay_over(&mut config);
        config.policy.sessions = sessions;
        let geo = match shared.geo {
            Some(geo) => geo,
            None => Arc::new(Databases::open(&config.geo)?),
        };
        let kernel = match shared.kernel {
            Some(kernel) => Some(kernel),
            None if config.kernel.interfaces.is_empty() => None,
            None => Some(Arc::new(KernelTables::new(&config, &geo)?)),
        };
        let names = || config.policy.routes.iter().map(|route| route.name.to_string());
        let counters = shared.counters.unwrap_or_else(|| metrics.for_routes(names()));
        Ok(Self { version: next_version(), revision, config, texts, overlay, geo, kernel, counters })
    }

    /// The same, but for the sessions.
    #[must_use]
    pub(crate) fn with_sessions(&self, sessions: Sessions, overlay: Overlay, revision: u64) -> Self {
        let mut config = self.config.clone();
        config.policy.sessions = sessions;
        let texts = self.texts.clone();
        let Shared { geo, counters, kernel } = self.shared(true);
        Self {
            version: next_version(),
            revision,
            config,
            texts,
            overlay,
            geo: geo.unwrap_or_else(|| Arc::clone(&self.geo)),
            kernel,
            counters: counters.unwrap_or_else(|| self.counters.clone()),
        }
    }

    /// What a snapshot of the same texts may share with this one.
    pub(crate) fn shared(&self, kernel: bool) -> Shared {
        Shared {
            geo: Some(Arc::clone(&self.geo)),
            counters: Some(self.counters.clone()),
            kernel: self.kernel.as_ref().filter(|_| kernel).map(Arc::clone),
        }
    }
}

/// Parts of a snapshot that another one has already.
pub(crate) struct Shared {
    geo: Option<Arc<Databases>>,
    counters: Option<RouteCounters>,
    kernel: Option<Arc<KernelTables>>,
}

impl Shared {
    /// All of it is made anew.
    pub(crate) const NOTHING: Self = Self { geo: None, counters: None, kernel: None };
}

/// Versions are unique in the process, so that per-thread scratch knows which snapshot it was made for.
fn next_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The snapshot in force.
#[derive(Clone)]
pub struct Live(Arc<ArcSwap<Snapshot>>);

impl Live {
    /// Puts the first snapshot in force.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(snapshot)))
    }

    /// The snapshot in force. A request takes it once and is judged by it throughout.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.load_full()
    }

    /// Puts a snapshot in force. Requests under way finish by the one that they took.
    pub fn replace(&self, snapshot: Snapshot) {
        self.0.store(Arc::new(snapshot));
    }
}
