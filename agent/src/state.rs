//! What is in force besides the configuration file: what was pushed, by operators or by the fleet.
//!
//! ```text
//! file ──▶ base ─┐
//! store ─▶ fleet ├─ overlay ─▶ snapshot (userspace) + maps (kernel)
//!       ─▶ pushed┘      ▲
//!                       └── writer: one change after another, stored before it is in force
//! ```
//!
//! The file is the base. What comes from the fleet lies over it, and what is pushed to this agent over both; what is removed
//! there is remembered as removed. Sessions, networks and the slots of secrets each count by themselves.

mod change;
mod draft;
mod overlay;
mod store;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use change::{Change, ChangeError, Counts, Done, NewSecret, SessionEdit};
pub(crate) use draft::check_sid;
pub(crate) use overlay::Overlay;
pub(crate) use store::Store;
pub(crate) use store::StoreError;
pub(crate) use writer::{World, Writer};

use crate::config::{self, Layer};
use crate::metrics::Metrics;
use crate::snapshot::{LoadError, Shared, Snapshot};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Reads a configuration file, and what was pushed to an agent with this configuration.
///
/// # Errors
/// Every problem of the texts, or what cannot be opened.
pub(crate) fn load(path: &Path, now: u64, metrics: &Metrics) -> Result<(Snapshot, Option<Store>), LoadError> {
    let text = config::read_text(path)?;
    let file = config::parse(&text, path, now)?;
    // Without a control socket and a fleet nothing was pushed here, unless there was one before.
    if file.control.is_none() && file.fleet.is_none() && !Store::exists(&file.state_dir) {
        return Ok((Snapshot::load(path, now, metrics)?, None));
    }
    let store = Store::open(&file.state_dir)?;
    let snapshot = restore(path, text, &store, now, metrics)?;
    Ok((snapshot, Some(store)))
}

/// What a store has, over a configuration file.
///
/// # Errors
/// Every problem of the texts, or what cannot be opened.
fn restore(
    path: &Path,
    text: Zeroizing<String>,
    store: &Store,
    now: u64,
    metrics: &Metrics,
) -> Result<Snapshot, LoadError> {
    let read = store.read()?;
    let mut overlay = Overlay::read(path, text, &read)?;
    let layers: Vec<Layer<'_>> = overlay.layers().into_iter().map(|(_, layer)| layer).collect();
    let texts = config::parse_layers(&layers, now)?;
    let (sessions, days) = Overlay::sessions(&texts, now, |first, each| read.sessions(first, each))?;
    overlay.days = Arc::new(days);
    let revision = read.revision()?.max(1);
    Snapshot::build(texts, overlay, sessions, Shared::NOTHING, revision, metrics)
}

/// Where something comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The configuration file.
    File,
    /// The fleet's bucket.
    Fleet,
    /// This agent's control socket.
    Pushed,
}

impl Origin {
    /// Those that are stored, the one that lies over the other last.
    pub(crate) const STORED: [Self; 2] = [Self::Fleet, Self::Pushed];

    /// The word for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Fleet => "fleet",
            Self::Pushed => "pushed",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::File => 0,
            Self::Fleet => 1,
            Self::Pushed => 2,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Fleet),
            2 => Some(Self::Pushed),
            _ => None,
        }
    }

    const fn config_name(self) -> &'static str {
        match self {
            Self::File | Self::Pushed => "config.pushed",
            Self::Fleet => "config.fleet",
        }
    }

    const fn flag(self) -> u8 {
        match self {
            Self::File => 0,
            Self::Fleet => 1,
            Self::Pushed => 2,
        }
    }
}

/// A list of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum List {
    /// Refused.
    Deny,
    /// Exempt.
    Allow,
}

impl List {
    /// The word for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Deny => 0,
            Self::Allow => 1,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Deny),
            1 => Some(Self::Allow),
            _ => None,
        }
    }
}

/// Who put an entry of a list there, besides the file; and whether it was removed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags(u8);

impl Flags {
    /// Nobody.
    pub(crate) const NONE: Self = Self(0);
    const REMOVED: u8 = 1 << 7;

    /// Whether `origin` put it there.
    pub(crate) const fn has(self, origin: Origin) -> bool {
        self.0 & origin.flag() != 0
    }

    /// Whether it is listed, given whether the file lists it.
    pub(crate) const fn is_listed(self, in_file: bool) -> bool {
        let here = self.0 & (Origin::Fleet.flag() | Origin::Pushed.flag()) != 0;
        self.0 & Self::REMOVED == 0 && (here || in_file)
    }

    /// Where a listed entry comes from: the last word of several.
    pub(crate) const fn origin(self) -> Origin {
        if self.has(Origin::Pushed) {
            Origin::Pushed
        } else if self.has(Origin::Fleet) {
            Origin::Fleet
        } else {
            Origin::File
        }
    }

    /// After `origin` put it there. What the operator has removed comes back by the operator's word alone: the fleet repeats
    /// its lists.
    pub(crate) const fn added(self, origin: Origin) -> Self {
        match origin {
            Origin::Fleet => Self(self.0 | origin.flag()),
            Origin::Pushed | Origin::File => Self((self.0 | origin.flag()) & !Self::REMOVED),
        }
    }

    /// After `origin` took it away. The operator's word counts for what others have put there, too; the fleet's for what the
    /// fleet has put there.
    pub(crate) const fn removed(self, origin: Origin, in_file: bool) -> Self {
        let left = self.0 & !origin.flag() & !Self::REMOVED;
        match origin {
            // Nothing changes for what is not there.
            Origin::Pushed | Origin::File if !self.is_listed(in_file) => self,
            Origin::Fleet if !self.has(Origin::Fleet) => self,
            Origin::Pushed | Origin::File if left != 0 || in_file => Self(left | Self::REMOVED),
            Origin::Pushed | Origin::File => Self(left),
            Origin::Fleet if self.0 & Self::REMOVED != 0 && in_file => Self(left | Self::REMOVED),
            Origin::Fleet => Self(left),
        }
    }
}
