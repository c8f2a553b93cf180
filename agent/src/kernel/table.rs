//! The table of blacklisted sessions, written while the program reads it. Its layout is [`ebpf_abi`]'s.
//!
//! One writer, any number of readers, and nobody waits for anybody: each change is one word, or is seen with its last word. A
//! reader sees the old or the new state of a session. Only while a session makes room for another one may a reader that has
//! looked at its new place too early, and at its old one too late, miss it once; userspace is asked then.

use ebpf_abi::{SESSION_SLOTS, Session, SessionBucket, SessionKey, other_bucket};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Words of a bucket.
const WORDS: usize = size_of::<SessionBucket>() / size_of::<u64>();

/// Buckets that are looked at for a place. At capacity more than half of all buckets have one, so a few are enough; a table
/// that is full beyond that is given up after so many.
const REACH: usize = 256;

/// There is no place for a session, or none that can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the table of sessions is full")]
pub struct TableFull;

/// The table, in words that others may read at any time.
pub struct SessionTable<W> {
    words: W,
    buckets: u32,
    /// What a search for a place has come to.
    steps: Vec<Step>,
}

/// A slot, by the index of its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(usize);

impl Place {
    const fn new(bucket: u32, slot: usize) -> Self {
        Self(bucket as usize * WORDS + slot)
    }

    /// The number of the slot among all.
    const fn number(self) -> usize {
        self.0 / WORDS * SESSION_SLOTS + self.0 % WORDS
    }
}

/// A full bucket, and whose other bucket it is: the index of the step and the slot.
struct Step {
    bucket: u32,
    from: Option<(usize, usize)>,
}

impl<W: Deref<Target = [AtomicU64]>> SessionTable<W> {
    /// What stands in these words.
    #[must_use]
    pub fn new(words: W) -> Self {
        let buckets = u32::try_from(words.len() / WORDS).unwrap_or(u32::MAX);
        Self { words, buckets, steps: Vec::new() }
    }

    /// How many buckets there are.
    #[must_use]
    pub fn buckets(&self) -> u32 {
        self.buckets
    }

    /// A session, if it stands in the table.
    #[must_use]
    pub fn get(&self, key: SessionKey) -> Option<Session> {
        self.find(key).map(|place| Session::of(self.state(place)))
    }

    /// Tag and state of every session.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.places().map(|place| (self.tag(place), self.state(place))).filter(|(_, state)| *state != 0)
    }

    /// Adds a session, or changes it.
    ///
    /// # Errors
    /// [`TableFull`]; nothing has changed then.
    pub fn set(&mut self, key: SessionKey, session: Session) -> Result<(), TableFull> {
        match self.find(key) {
            Some(place) => self.set_state(place, key.state(session)),
            None => {
                let place = self.place_for(key).ok_or(TableFull)?;
                self.fill(place, key.tag(), key.state(session));
            }
        }
        Ok(())
    }

    /// Removes a session, if it is there.
    pub fn remove(&mut self, key: SessionKey) {
        while let Some(place) = self.find(key) {
            self.set_state(place, 0);
        }
    }

    /// Makes the table hold just these sessions, each with its last day, as of a generation that is still to come. What is there
    /// and does not count before another generation is as good as not there. `wanted` is asked twice at most. Gives how many
    /// there are.
    ///
    /// # Errors
    /// [`TableFull`]. What was removed is gone then.
    pub fn sync<I>(&mut self, wanted: impl Fn() -> I, generation: u32) -> Result<usize, TableFull>
    where
        I: Iterator<Item = (SessionKey, u32)>,
    {
        let mut count = 0;
        let mut missing = true;
        if self.iter().next().is_some() {
            missing = false;
            let mut wanted_slots = vec![0_u64; (self.buckets as usize * SESSION_SLOTS).div_ceil(64)];
            for (key, last_day) in wanted() {
                let Some(place) = self.find(key) else {
                    missing = true;
                    continue;
                };
                if let Some(bits) = wanted_slots.get_mut(place.number() / 64) {
                    *bits |= 1 << (place.number() % 64);
                }
                let new = Session { last_day, generation };
                let old = self.state(place);
                if Session::of(old).last_day != Session::of(key.state(new)).last_day
                    || Session::of(old).generation >= generation
                {
                    self.set_state(place, key.state(new));
                }
                count += 1;
            }
            // First what makes room. A session that stands in two places, as a crash may leave it, is wanted in one.
            for place in self.places() {
                let bits = wanted_slots.get(place.number() / 64).copied().unwrap_or_default();
                if bits >> (place.number() % 64) & 1 == 0 && self.state(place) != 0 {
                    self.set_state(place, 0);
                }
            }
        }
        if missing {
            count = 0;
            for (key, last_day) in wanted() {
                if self.find(key).is_none() {
                    self.set(key, Session { last_day, generation })?;
                }
                count += 1;
            }
        }
        Ok(count)
    }

    fn find(&self, key: SessionKey) -> Option<Place> {
        let mut places = key.buckets(self.buckets).into_iter().flat_map(places_of);
        places.find(|&place| self.tag(place) == key.tag() && key.has_state(self.state(place)))
    }

    /// An empty slot for a key that is not there. If need be others move to their other bucket.
    fn place_for(&mut self, key: SessionKey) -> Option<Place> {
        let [first, second] = key.buckets(self.buckets);
        if let Some(place) = self.empty_in(first).or_else(|| self.empty_in(second)) {
            return Some(place);
        }
        self.steps.clear();
        self.steps.push(Step { bucket: first, from: None });
        if second != first {
            self.steps.push(Step { bucket: second, from: None });
        }
        let mut at = 0;
        while let Some(&Step { bucket, .. }) = self.steps.get(at) {
            for slot in 0..SESSION_SLOTS {
                let other = other_bucket(self.tag(Place::new(bucket, slot)), bucket, self.buckets);
                // No bucket twice: of the moves that follow, each relies on what was seen here.
                if self.steps.iter().any(|step| step.bucket == other) {
                    continue;
                }
                if let Some(empty) = self.empty_in(other) {
                    return Some(self.move_along(at, slot, empty));
                }
                if self.steps.len() < REACH {
                    self.steps.push(Step { bucket: other, from: Some((at, slot)) });
                }
            }
            at += 1;
        }
        None
    }

    /// Moves what stands in a step's slot to an empty place, what led to this step to the slot, and so on. Gives the slot that is
    /// empty at the end.
    fn move_along(&mut self, at: usize, slot: usize, empty: Place) -> Place {
        let (mut next, mut empty) = (Some((at, slot)), empty);
        while let Some((at, slot)) = next {
            let Some(step) = self.steps.get(at) else { break };
            let place = Place::new(step.bucket, slot);
            next = step.from;
            // It stands in both for a moment.
            self.fill(empty, self.tag(place), self.state(place));
            self.set_state(place, 0);
            empty = place;
        }
        empty
    }

    fn empty_in(&self, bucket: u32) -> Option<Place> {
        places_of(bucket).find(|&place| self.state(place) == 0)
    }

    fn places(&self) -> impl Iterator<Item = Place> + use<W> {
        (0..self.buckets).flat_map(places_of)
    }

    fn tag(&self, place: Place) -> u64 {
        self.words.get(place.0).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn state(&self, place: Place) -> u64 {
        // What is outside is not empty.
        self.words.get(place.0 + SESSION_SLOTS).map_or(u64::MAX, |word| word.load(Ordering::Relaxed))
    }

    /// Puts a session into an empty slot. It is there with the second word.
    fn fill(&self, place: Place, tag: u64, state: u64) {
        if let Some(word) = self.words.get(place.0) {
            // The slot has to be seen empty before it is seen with another tag.
            fence(Ordering::Release);
            word.store(tag, Ordering::Relaxed);
        }
        self.set_state(place, state);
    }

    fn set_state(&self, place: Place, state: u64) {
        if let Some(word) = self.words.get(place.0 + SESSION_SLOTS) {
            word.store(state, Ordering::Release);
        }
    }
}

fn places_of(bucket: u32) -> impl Iterator<Item = Place> {
    (0..SESSION_SLOTS).map(move |slot| Place::new(bucket, slot))
}

#[cfg(test)]
mod tests;
