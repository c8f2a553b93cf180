//! What may be changed, and what came of it.

use super::store::StoreError;
use super::{List, Origin};
use crate::config::{Problem, Problems};
use crate::kernel::FollowError;
use crate::snapshot::LoadError;
use ipnet::IpNet;
use std::sync::Arc;
use validator_core::{Day, Key};
use zeroize::Zeroizing;

/// Something to change. Each is done as a whole or not at all, but for the sessions of a list, each of which may be refused.
pub(crate) enum Change {
    /// The configuration file is read again.
    Reload,
    /// Another text lies over the file; `None`: none does.
    Config {
        /// Whose.
        origin: Origin,
        /// TOML.
        text: Option<Zeroizing<String>>,
        /// The version that it is meant for.
        expected: Option<u64>,
        /// It is only checked.
        dry_run: bool,
    },
    /// Sessions come to day lists, or leave them.
    Sessions {
        /// Whose.
        origin: Origin,
        /// Which. Whoever hands them in may want to know them afterwards.
        edits: Arc<[SessionEdit]>,
        /// They leave.
        remove: bool,
    },
    /// A day's list is replaced.
    Day {
        /// Whose.
        origin: Origin,
        /// Which.
        day: Day,
        /// All that it holds from now on.
        sids: Vec<Box<str>>,
    },
    /// The lists of all days are emptied.
    AllDays {
        /// Whose.
        origin: Origin,
    },
    /// Sessions leave the lists of all days.
    Everywhere {
        /// Whose.
        origin: Origin,
        /// Which.
        sids: Vec<Box<str>>,
    },
    /// A slot of a secret is set; `None`: removed.
    Secret {
        /// Whose.
        origin: Origin,
        /// The secret's name.
        kid: Box<str>,
        /// The slot's number.
        slot: u64,
        /// What it is from now on.
        secret: Option<NewSecret>,
    },
    /// A network comes to a list, or leaves it.
    Net {
        /// Whose.
        origin: Origin,
        /// Which list.
        list: List,
        /// Which network.
        net: IpNet,
        /// It leaves.
        remove: bool,
    },
    /// All of the fleet's networks of a list are replaced.
    Nets {
        /// Which list.
        list: List,
        /// All that it holds from now on.
        nets: Vec<IpNet>,
    },
    /// All of the fleet's sessions of a part of a day's list are replaced.
    Part {
        /// Which day.
        day: Day,
        /// Which part of its list.
        part: u8,
        /// All that it holds from now on.
        sids: Vec<Box<str>>,
    },
    /// Some changes of the fleet that stand for a revision of its bucket.
    Fleet {
        /// The revision.
        revision: u64,
        /// The bucket that it is a revision of, if all of it was read.
        bucket: Option<Box<str>>,
        /// The changes. What is wrong with one is reported and left out; the next revision has to be able to follow.
        changes: Vec<Change>,
    },
    /// Days have ended.
    Forget,
}

/// A session of a day's list.
#[derive(Debug, Clone)]
pub(crate) struct SessionEdit {
    /// The day.
    pub(crate) day: Day,
    /// The session.
    pub(crate) sid: Box<str>,
}

/// A slot's new key.
pub(crate) struct NewSecret {
    /// Ready for use.
    pub(crate) key: Key,
    /// To be stored.
    pub(crate) bytes: Zeroizing<Vec<u8>>,
    /// When the slot ends, in unix seconds.
    pub(crate) until: Option<u64>,
    /// Whether another size than the usual one was asked for.
    pub(crate) any_size: bool,
}

/// What a change has done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Done {
    /// A configuration, or its file.
    Config {
        /// Whether it is another one.
        changed: bool,
        /// What is legal and probably not meant.
        warnings: Vec<String>,
    },
    /// Sessions.
    Sessions(Counts),
    /// A slot was set; whether there was one already.
    SecretSet {
        /// There was.
        replaced: bool,
    },
    /// Things were added or removed, or were so already.
    Counts(Counts),
}

/// How many things a change concerned.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Counts {
    /// They are there now, and were not.
    pub(crate) added: u64,
    /// They are there, and were.
    pub(crate) present: u64,
    /// They were there.
    pub(crate) removed: u64,
    /// They were not there.
    pub(crate) absent: u64,
    /// They were refused: which of them, and why.
    pub(crate) refused: Vec<(usize, String)>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// Something else came before.
    #[error(
        "the version is {present}, not {expected}: somebody else changed something; look again and repeat"
    )]
    Version {
        /// The one that was expected.
        expected: u64,
        /// The one there is.
        present: u64,
    },
    /// The configuration has problems.
    #[error("{0}")]
    Config(Problems),
    /// What it names cannot be used.
    #[error(transparent)]
    Load(LoadError),
    /// It changes what only a restart can change.
    #[error("`{0}` cannot change while the agent runs: restart it, or set the old value again")]
    NeedsRestart(&'static str),
    /// The kernel did not take it, or is required now and not in force.
    #[error(transparent)]
    Kernel(FollowError),
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no store.
    #[error("this agent keeps no state: its configuration has neither [control] nor [fleet]")]
    NoStore,
    /// There is no room.
    #[error("{0}")]
    Full(String),
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// It is in force in userspace, and stored, but not in the kernel.
    #[error("stored and in force in userspace, but not in the kernel: {0}")]
    Behind(FollowError),
    /// The same went wrong with another change of the group.
    #[error("the agent is stopping")]
    Stopping,
}

impl From<LoadError> for ChangeError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Config(problems) => Self::Config(problems),
            LoadError::Store(error) => Self::Store(error),
            other => Self::Load(other),
        }
    }
}

/// Problems on a line each.
pub(crate) fn warnings(warnings: &[Problem]) -> Vec<String> {
    warnings.iter().map(ToString::to_string).collect()
}
