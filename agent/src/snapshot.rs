//! One configuration in force: immutable, read without locks, replaced as a whole.

use crate::config::{self, Config, Problems};
use crate::geo::{Databases, GeoError};
use crate::kernel::{KernelTables, OverCapacity};
use crate::metrics::{Metrics, RouteCounters};
use arc_swap::ArcSwap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
}

/// Everything that a request is judged by.
pub struct Snapshot {
    /// Identifies the snapshot within the process; later ones have higher numbers.
    pub version: u64,
    /// The configuration, with the compiled policy.
    pub config: Config,
    /// The geo databases.
    pub geo: Databases,
    /// What the kernel judges by; `None` where it has no part in this.
    pub(crate) kernel: Option<KernelTables>,
    /// Counters of the routes.
    pub counters: RouteCounters,
}

impl Snapshot {
    /// Reads a configuration file and opens everything it names.
    ///
    /// # Errors
    /// Every problem of the file, or what [`Snapshot::new`] finds.
    pub fn load(path: &Path, now: u64, metrics: &Metrics) -> Result<Self, LoadError> {
        Self::new(config::load(path, now)?, metrics)
    }

    /// Opens everything that a configuration names.
    ///
    /// # Errors
    /// The geo database that cannot be used, or what the kernel cannot hold.
    pub fn new(config: Config, metrics: &Metrics) -> Result<Self, LoadError> {
        // Versions are unique in the process, so that per-thread scratch knows which snapshot it was made for.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let geo = Databases::open(&config.geo)?;
        let wanted = !config.kernel.interfaces.is_empty();
        let kernel = wanted.then(|| KernelTables::new(&config, &geo)).transpose()?;
        let counters = metrics.for_routes(config.policy.routes.iter().map(|route| route.name.to_string()));
        Ok(Self { version: NEXT.fetch_add(1, Ordering::Relaxed), config, geo, kernel, counters })
    }
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
