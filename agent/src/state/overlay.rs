//! What lies over the configuration file, apart from sessions: those are in the snapshot's own set.

use super::store::{Read, StoreError};
use super::{Flags, List, Origin};
use crate::config::{Config, Layer, SlotInfo};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use validator_core::net::{NetSet, parse_net};
use validator_core::{Day, Key, Sessions, Slot};
use zeroize::Zeroizing;

/// The texts that the configuration is made of, and everything that was pushed. A clone shares what is large.
#[derive(Clone)]
pub(crate) struct Overlay {
    /// The configuration file.
    pub(crate) file: PathBuf,
    /// Its text when it was read.
    pub(crate) base: Arc<Zeroizing<String>>,
    /// With which revision these texts came in force.
    pub(crate) config_revision: u64,
    /// The text that each origin laid over it.
    pub(crate) config: BTreeMap<Origin, Arc<Zeroizing<String>>>,
    /// Entries of lists.
    pub(crate) lists: Arc<BTreeMap<(List, IpNet), Flags>>,
    /// Slots of secrets.
    pub(crate) secrets: Arc<PushedSecrets>,
    /// How many sessions each day's list has.
    pub(crate) days: Arc<BTreeMap<Day, DayCounts>>,
}

/// Slots by name and number; of each, what the origins say.
pub(crate) type PushedSecrets = BTreeMap<(Box<str>, u64), BTreeMap<Origin, PushedSecret>>;

/// A slot that was pushed.
#[derive(Clone)]
pub(crate) struct PushedSecret {
    /// When it ends, in unix seconds.
    pub(crate) until: Option<u64>,
    /// The key and its length; none: the slot of the file does not count any more.
    pub(crate) key: Option<(Key, usize)>,
}

/// How many sessions of a day come from where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DayCounts {
    /// Listed, from wherever.
    pub(crate) listed: u64,
    /// By the file, removed ones too.
    pub(crate) file: u64,
    /// By the fleet.
    pub(crate) fleet: u64,
    /// By this agent's control socket.
    pub(crate) pushed: u64,
}

impl DayCounts {
    /// Replaces what an entry adds to the counts.
    pub(crate) fn change(&mut self, old: Flags, new: Flags, in_file: bool) {
        let count = |number: &mut u64, old: bool, new: bool| match (old, new) {
            (false, true) => *number += 1,
            (true, false) => *number = number.saturating_sub(1),
            _ => {}
        };
        count(&mut self.listed, old.is_listed(in_file), new.is_listed(in_file));
        count(&mut self.fleet, old.has(Origin::Fleet), new.has(Origin::Fleet));
        count(&mut self.pushed, old.has(Origin::Pushed), new.has(Origin::Pushed));
    }
}

impl Overlay {
    /// Nothing lies over the file.
    #[must_use]
    pub(crate) fn new(file: &Path, base: Zeroizing<String>) -> Self {
        Self {
            file: file.to_owned(),
            base: Arc::new(base),
            config_revision: 1,
            config: BTreeMap::new(),
            lists: Arc::default(),
            secrets: Arc::default(),
            days: Arc::default(),
        }
    }

    /// Reads everything but sessions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn read(file: &Path, base: Zeroizing<String>, read: &Read) -> Result<Self, StoreError> {
        let mut overlay = Self::new(file, base);
        overlay.config_revision = read.config_revision()?.max(1);
        for origin in Origin::STORED {
            if let Some(text) = read.config(origin)? {
                overlay.config.insert(origin, Arc::new(text));
            }
        }
        let lists = read.lists()?.into_iter();
        // Only what reads back was stored.
        overlay.lists = Arc::new(
            lists.filter_map(|(list, net, flags)| Some(((list, parse_net(&net)?), flags))).collect(),
        );
        let mut secrets = PushedSecrets::new();
        for (kid, slot, origin, stored) in read.secrets()? {
            let key = stored.key.and_then(|key| Some((Key::new(&key, true).ok()?, key.len())));
            secrets.entry((kid, slot)).or_default().insert(origin, PushedSecret { until: stored.until, key });
        }
        overlay.secrets = Arc::new(secrets);
        Ok(overlay)
    }

    /// The texts from the file up.
    #[must_use]
    pub(crate) fn layers(&self) -> Vec<(Origin, Layer<'_>)> {
        let base = (Origin::File, Layer { name: &self.file, text: self.base.as_str() });
        let over = self
            .config
            .iter()
            .map(|(&origin, text)| (origin, Layer { name: Path::new(origin.name()), text: text.as_str() }));
        std::iter::once(base).chain(over).collect()
    }

    /// Lays lists and secrets over those of the texts.
    pub(crate) fn lay_over(&self, config: &mut Config) {
        self.lay_lists(config);
        self.lay_secrets(config);
    }

    fn lay_lists(&self, config: &mut Config) {
        if self.lists.is_empty() {
            return;
        }
        let kernel = Arc::make_mut(&mut config.kernel);
        for (list, nets) in [(List::Deny, &mut kernel.deny), (List::Allow, &mut kernel.allow)] {
            let base: BTreeSet<IpNet> = nets.iter().map(IpNet::trunc).collect();
            nets.retain(|net| self.flags(list, net).is_listed(true));
            let pushed = self
                .lists
                .iter()
                .filter(|((of, net), flags)| *of == list && !base.contains(net) && flags.is_listed(false));
            nets.extend(pushed.map(|((_, net), _)| *net));
        }
        let prefilter = Arc::make_mut(&mut config.policy.prefilter);
        prefilter.deny = NetSet::new(kernel.deny.iter().copied());
        prefilter.allow = NetSet::new(kernel.allow.iter().copied());
    }

    /// Who says something about an entry of a list.
    #[must_use]
    pub(crate) fn flags(&self, list: List, net: &IpNet) -> Flags {
        self.lists.get(&(list, net.trunc())).copied().unwrap_or_default()
    }

    fn lay_secrets(&self, config: &mut Config) {
        if self.secrets.is_empty() {
            return;
        }
        let ring = Arc::make_mut(&mut config.policy.keys);
        let mut infos = config.slots.to_vec();
        let kids: BTreeSet<&str> = self.secrets.keys().map(|(kid, _)| &**kid).collect();
        for kid in kids {
            let mut slots: BTreeMap<u64, Slot> =
                ring.slots(kid).iter().map(|slot| (slot.slot, slot.clone())).collect();
            for ((of, number), origins) in self.secrets.iter() {
                // The last word counts.
                let Some(secret) = origins.values().next_back().filter(|_| **of == *kid) else { continue };
                infos.retain(|info| (&*info.kid, info.slot) != (kid, *number));
                slots.remove(number);
                if let Some((key, bytes)) = &secret.key {
                    let slot = Slot { slot: *number, until: secret.until, key: key.clone() };
                    slots.insert(*number, slot);
                    infos.push(SlotInfo {
                        kid: kid.into(),
                        slot: *number,
                        until: secret.until,
                        bytes: *bytes,
                    });
                }
            }
            ring.remove(kid);
            // Names and numbers were checked when they were pushed; without a slot there is no secret.
            let _without_slots = ring.insert(kid, slots.into_values().collect());
        }
        config.slots = infos.into();
    }

    /// Where a slot comes from.
    #[must_use]
    pub(crate) fn origin_of_slot(&self, kid: &str, slot: u64) -> Origin {
        let origins = self.secrets.get(&(Box::from(kid), slot));
        origins.and_then(|origins| origins.keys().next_back().copied()).unwrap_or(Origin::File)
    }

    /// Sessions of the file and of the store together; and how many each day has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn sessions(
        config: &Config,
        now: u64,
        stored: impl FnOnce(Day, &mut dyn FnMut(Day, &str, Flags)) -> Result<(), StoreError>,
    ) -> Result<(Sessions, BTreeMap<Day, DayCounts>), StoreError> {
        let retain_days = config.policy.sessions.retain_days();
        let mut sessions = Sessions::new(retain_days);
        let first = first_retained(retain_days, now);
        let mut days = BTreeMap::<Day, DayCounts>::new();
        let mut removed = BTreeSet::<(Day, Box<str>)>::new();
        stored(first, &mut |day, sid, flags| {
            let in_file = is_in_file(config, day, sid);
            let counts = days.entry(day).or_default();
            // The file's part is counted below.
            counts.change(Flags::NONE, flags, false);
            if in_file && !flags.is_listed(true) {
                removed.insert((day, sid.into()));
            } else if in_file && flags.is_listed(false) {
                counts.listed -= 1;
            }
            if flags.is_listed(in_file) {
                sessions.add(day, sid);
            }
        })?;
        for (&day, sids) in config.days.iter().filter(|(day, _)| **day >= first) {
            let counts = days.entry(day).or_default();
            for sid in sids {
                counts.file += 1;
                if removed.is_empty() || !removed.contains(&(day, sid.clone())) {
                    counts.listed += 1;
                    sessions.add(day, sid);
                }
            }
        }
        days.retain(|_, counts| *counts != DayCounts::default());
        Ok((sessions, days))
    }
}

/// Whether a day's list in the file has a session.
#[must_use]
pub(crate) fn is_in_file(config: &Config, day: Day, sid: &str) -> bool {
    config.days.get(&day).is_some_and(|sids| sids.binary_search_by(|other| (**other).cmp(sid)).is_ok())
}

/// The first day whose list counts.
#[must_use]
pub(crate) fn first_retained(retain_days: u32, now: u64) -> Day {
    Day::from_number(Day::of(now).number().saturating_sub(retain_days))
}
