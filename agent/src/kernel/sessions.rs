//! Blacklisted sessions in the kernel.
//!
//! There is one map of them, for two would take twice the memory. Every entry says from which generation on it counts, so
//! entries of a configuration that is not in force yet may be written at any time.

use super::error::KernelError;
use super::object::pinned_data;
use super::sys::{self, SharedWords};
use aya::maps::{MapData, MapError};
use ebpf_abi::{SESSION_BIT_WORDS, Session, SessionKey, map, session_key};
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use validator_core::{Day, Sessions};

/// The map of sessions, and their bits.
pub(crate) struct SessionMap {
    map: MapData,
    bits: SharedWords,
}

impl SessionMap {
    /// Opens the pinned maps, whose shapes were checked.
    pub(super) fn open(folder: &Path) -> Result<Self, KernelError> {
        let bits = pinned_data(folder, map::SESSION_BITS)?;
        let bits = SharedWords::map(bits.fd().as_fd(), SESSION_BIT_WORDS as usize)
            .map_err(|error| KernelError::map(map::SESSION_BITS)(MapError::IoError(error)))?;
        Ok(Self { map: pinned_data(folder, map::SESSIONS)?, bits })
    }

    /// Makes the map hold just these sessions, as of a generation that is still to come. What is no longer listed goes at
    /// once: userspace, which still lists it, is asked then. Gives how many there are.
    ///
    /// # Errors
    /// [`KernelError`]. What was removed is gone then; what was added does not count before another call has looked at it.
    pub(crate) fn sync(&mut self, sessions: &Sessions, generation: u32) -> Result<usize, KernelError> {
        let problem = |error: io::Error| KernelError::map(map::SESSIONS)(MapError::IoError(error));
        // What has no key is looked up by userspace alone. Sorted, and not a table of hashes: there can be millions, and memory
        // for twice as many would be taken for the moment.
        let key = |(sid, last_day): (&str, u32)| Some((session_key(sid.as_bytes())?, last_day));
        let mut wanted: Vec<(SessionKey, u32)> = Vec::with_capacity(sessions.len());
        wanted.extend(sessions.iter().filter_map(key));
        wanted.sort_unstable_by_key(|(key, _)| key.0);
        wanted.dedup_by_key(|(key, _)| key.0);
        // Before the entries: without its bit a session is not looked up.
        let mut bits = vec![0; SESSION_BIT_WORDS as usize];
        for (word, bit) in wanted.iter().map(|(key, _)| key.bit()) {
            if let Some(word) = bits.get_mut(word as usize) {
                *word |= 1 << bit;
            }
        }
        self.bits.iter().zip(bits).for_each(|(word, new)| word.store(new, Ordering::Relaxed));
        let mut gone = Vec::new();
        let mut good = vec![false; wanted.len()];
        sys::each_entry(&self.map, |key: SessionKey, session: Session| match find(&wanted, key) {
            None => gone.push(key),
            Some((index, last_day)) => {
                if let Some(good) = good.get_mut(index) {
                    *good = last_day == session.last_day && session.generation < generation;
                }
            }
        })
        .map_err(problem)?;
        let changed = wanted.iter().zip(good).filter(|(_, good)| !good);
        let changed: Vec<(SessionKey, Session)> =
            changed.map(|((key, last_day), _)| (*key, Session { last_day: *last_day, generation })).collect();
        // First what makes room.
        sys::remove_entries(&self.map, &gone).map_err(problem)?;
        sys::write_entries(&self.map, &changed).map_err(problem)?;
        Ok(wanted.len())
    }

    /// Brings single sessions up to date, as of a generation that is still to come: each with the last day on which it
    /// counts, or `None` if it does not any more. The same session may come twice if it says the same.
    ///
    /// # Errors
    /// [`KernelError`], above all that there is no room; some of it may be done then.
    pub(crate) fn change<'s>(
        &mut self,
        changes: impl Iterator<Item = (&'s str, Option<u32>)>,
        generation: u32,
    ) -> Result<(), KernelError> {
        let problem = |error: io::Error| KernelError::map(map::SESSIONS)(MapError::IoError(error));
        let (mut gone, mut changed) = (Vec::new(), HashMap::new());
        for (sid, last_day) in changes {
            // What has no key is looked up by userspace alone.
            let Some(key) = session_key(sid.as_bytes()) else { continue };
            match last_day {
                Some(last_day) => drop(changed.insert(key, Session { last_day, generation })),
                None => gone.push(key),
            }
        }
        // A bit too many only costs a look-up; the next whole sync clears it.
        for (word, bit) in changed.keys().map(|key| key.bit()) {
            if let Some(word) = self.bits.get(word as usize) {
                word.fetch_or(1 << bit, Ordering::Relaxed);
            }
        }
        sys::remove_if_there(&self.map, &gone).map_err(problem)?;
        let changed: Vec<(SessionKey, Session)> = changed.into_iter().collect();
        sys::write_entries(&self.map, &changed).map_err(problem)
    }

    /// How many sessions there is room for.
    pub(crate) fn capacity(&self) -> Result<u32, KernelError> {
        self.map.info().map(|info| info.max_entries()).map_err(KernelError::map(map::SESSIONS))
    }

    /// How many sessions there are.
    pub(crate) fn count(&self) -> Result<usize, KernelError> {
        let entries = sys::read_entries::<SessionKey, Session>(&self.map);
        let problem = |error| KernelError::map(map::SESSIONS)(MapError::IoError(error));
        entries.map(|entries| entries.len()).map_err(problem)
    }
}

/// Where a key is among sorted ones, and its last day. Keys are hashes: one that is a third of the way up in numbers is about
/// a third of the way up in the list.
fn find(sorted: &[(SessionKey, u32)], key: SessionKey) -> Option<(usize, u32)> {
    let guess = (u128::from(key.0[0]) * sorted.len() as u128) >> 64;
    let mut low = usize::try_from(guess).unwrap_or(0);
    let mut high = low;
    let mut step = 64;
    while low > 0 && sorted.get(low).is_none_or(|(at, _)| at.0 > key.0) {
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 64;
    while sorted.get(high).is_some_and(|(at, _)| at.0 <= key.0) {
        high = high.saturating_add(step).min(sorted.len());
        step *= 2;
    }
    let within = sorted.get(low..high)?;
    let index = low + within.binary_search_by_key(&key.0, |(at, _)| at.0).ok()?;
    Some((index, sorted.get(index)?.1))
}

/// The day that counts for the kernel, in days since 1970. It is ahead of userspace's by so much that no list counts in
/// the kernel when it has ended in userspace.
pub(crate) fn today(now: u64) -> u32 {
    Day::of(now.saturating_add(super::AHEAD)).number()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_they_lie() {
        let key = |number: u64| SessionKey([number, number ^ 7]);
        let even = |count: u64, by: u64| -> Vec<(SessionKey, u32)> {
            (0..count).map(|n| (key(n * by), 1)).collect()
        };
        // Spread as hashes are, all at one end, none.
        for sorted in [even(1000, u64::MAX / 1000), even(1000, 3), even(1, 5), even(0, 1)] {
            for (index, (key, _)) in sorted.iter().enumerate() {
                assert_eq!(find(&sorted, *key), Some((index, 1)));
            }
            for missing in [1, 2, u64::MAX, u64::MAX / 3] {
                assert_eq!(find(&sorted, key(missing)), None, "{missing} of {}", sorted.len());
            }
        }
    }
}
