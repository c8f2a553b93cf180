//! Blacklisted sessions in the kernel.
//!
//! There is one map of them, for two would take twice the memory. Every entry says from which generation on it counts, so
//! entries of a configuration that is not in force yet may be written at any time.

use super::error::KernelError;
use super::object::pinned_data;
use super::sys::SharedWords;
use super::table::{SessionTable, TableFull};
use aya::maps::{MapData, MapError};
use ebpf_abi::{SESSION_BIT_WORDS, Session, SessionBucket, SessionKey, map, session_capacity, session_key};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use validator_core::{Day, Sessions};

/// The table of sessions, and their bits, both in this process's memory.
pub struct SessionMap {
    table: SessionTable<SharedWords>,
    bits: SharedWords,
}

impl SessionMap {
    /// Opens the pinned maps, whose shapes were checked.
    pub(super) fn open(folder: &Path) -> Result<Self, KernelError> {
        Self::new(&pinned_data(folder, map::SESSIONS)?, &pinned_data(folder, map::SESSION_BITS)?)
    }

    /// The table and the bits of an object.
    ///
    /// # Errors
    /// [`KernelError`]: they are not what they are called.
    pub fn new(table: &MapData, bits: &MapData) -> Result<Self, KernelError> {
        let words = |map: &MapData, name, words: usize| {
            SharedWords::map(map.fd().as_fd(), words)
                .map_err(|error| KernelError::map(name)(MapError::IoError(error)))
        };
        let buckets = table.info().map_err(KernelError::map(map::SESSIONS))?.max_entries() as usize;
        let table = words(table, map::SESSIONS, buckets * size_of::<SessionBucket>() / size_of::<u64>())?;
        let bits = words(bits, map::SESSION_BITS, SESSION_BIT_WORDS as usize)?;
        Ok(Self { table: SessionTable::new(table), bits })
    }

    /// Makes the map hold just these sessions, as of a generation that is still to come. What is no longer listed goes at
    /// once: userspace, which still lists it, is asked then. Gives how many there are.
    ///
    /// # Errors
    /// [`KernelError`]. What was removed is gone then; what was added does not count before another call has looked at it.
    pub(crate) fn sync(&mut self, sessions: &Sessions, generation: u32) -> Result<usize, KernelError> {
        let Self { table, bits } = self;
        let wanted = || {
            // What has no key is looked up by userspace alone.
            let key = |(sid, last_day): (&str, u32)| Some((session_key(sid.as_bytes())?, last_day));
            sessions.iter().filter_map(key).inspect(|(key, _)| mark(bits, key.tag()))
        };
        let count = table.sync(wanted, generation).map_err(|TableFull| full(table))?;
        // Without those of sessions that are gone.
        let mut fresh = vec![0; SESSION_BIT_WORDS as usize];
        for (word, bit) in table.iter().map(|(tag, _)| SessionKey::bit(tag)) {
            if let Some(word) = fresh.get_mut(word as usize) {
                *word |= 1 << bit;
            }
        }
        bits.iter().zip(fresh).for_each(|(word, new)| word.store(new, Ordering::Relaxed));
        Ok(count)
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
        let mut late = Vec::new();
        for (sid, last_day) in changes {
            // What has no key is looked up by userspace alone.
            let Some(key) = session_key(sid.as_bytes()) else { continue };
            match last_day {
                Some(last_day) => {
                    let session = Session { last_day, generation };
                    if self.set(key, session).is_err() {
                        // Others may make room.
                        late.push((key, session));
                    }
                }
                None => self.table.remove(key),
            }
        }
        late.into_iter().try_for_each(|(key, session)| self.set(key, session))
    }

    /// Adds a session, or changes it.
    ///
    /// # Errors
    /// [`KernelError::SessionsFull`].
    pub fn set(&mut self, key: SessionKey, session: Session) -> Result<(), KernelError> {
        // Before the entry: without its bit a session is not looked up. A bit too many only costs a look-up; the next whole
        // sync clears it.
        mark(&self.bits, key.tag());
        self.table.set(key, session).map_err(|TableFull| full(&self.table))
    }

    /// Removes a session, if it is there.
    pub fn remove(&mut self, key: SessionKey) {
        self.table.remove(key);
    }

    /// Every session by what the table has of it: [`SessionKey::tag`] and [`SessionKey::state`].
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.table.iter()
    }

    /// How many sessions there is room for.
    pub(crate) fn capacity(&self) -> u32 {
        session_capacity(self.table.buckets())
    }
}

fn full(table: &SessionTable<SharedWords>) -> KernelError {
    KernelError::SessionsFull(session_capacity(table.buckets()))
}

/// Sets the bit of a session. Nobody else writes them.
fn mark(bits: &SharedWords, tag: u64) {
    let (word, bit) = SessionKey::bit(tag);
    if let Some(word) = bits.get(word as usize) {
        let others = word.load(Ordering::Relaxed);
        if others >> bit & 1 == 0 {
            word.store(others | 1 << bit, Ordering::Release);
        }
    }
}

/// The day that counts for the kernel, in days since 1970. It is ahead of userspace's by so much that no list counts in
/// the kernel when it has ended in userspace.
pub(crate) fn today(now: u64) -> u32 {
    Day::of(now.saturating_add(super::AHEAD)).number()
}
