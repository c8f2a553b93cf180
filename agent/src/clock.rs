//! The present, as unix seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where decisions take the time from.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A clock that stands where it is set.
    Fixed(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `unix` seconds.
    #[must_use]
    pub fn fixed(unix: u64) -> Self {
        Self::Fixed(Arc::new(AtomicU64::new(unix)))
    }

    /// Unix seconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        match self {
            // A machine whose clock stands before 1970 has no valid token yet: everything is in the future.
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            Self::Fixed(unix) => unix.load(Ordering::Relaxed),
        }
    }

    /// Moves a fixed clock; the system's is left alone.
    pub fn set(&self, unix: u64) {
        if let Self::Fixed(clock) = self {
            clock.store(unix, Ordering::Relaxed);
        }
    }
}
