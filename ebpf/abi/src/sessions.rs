//! Blacklisted sessions: what stands for an id, and the table that it is looked up in.
//!
//! A bucket of the table has four slots and fills a cache line. A key may stand in two of them, so that a table is nearly full
//! before a key finds no place (a cuckoo hash table). The agent writes single words of it while packets are judged. So a slot
//! has what it takes to see that its two words belong together, and is empty while the second one is zero.

#[cfg(doc)]
use crate::Config;
use core::mem::{align_of, size_of};

/// 128 bits that stand for a session id: [`session_key`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SessionKey(pub [u64; 2]);

/// What is known of a blacklisted session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Session {
    /// The last day on which it counts, in days since 1970. The table has 16 bits for it: what is later than 2149 ends there.
    pub last_day: u32,
    /// The first [`Config::generation`] in which it counts.
    pub generation: u32,
}

/// Sessions that the table holds unless the loader says otherwise.
pub const SESSION_CAPACITY: u32 = 1_000_000;

/// Slots of a bucket.
pub const SESSION_SLOTS: usize = 4;

/// A bucket: the tag of each slot, then the state of each.
pub type SessionBucket = [u64; 2 * SESSION_SLOTS];

/// Buckets that a table has beyond what its capacity takes, so that small ones have no bad luck either.
const SPARE_BUCKETS: u32 = 64;

const _: () = {
    assert!(size_of::<SessionKey>() == 16 && align_of::<SessionKey>() == 8);
    assert!(size_of::<SessionBucket>() == 64);
};

/// Words of the bits of sessions: a few in a hundred of them are set with a million sessions.
pub const SESSION_BIT_WORDS: u32 = 1 << 18;

/// Buckets of a table for so many sessions, which take four fifths of its slots.
#[expect(clippy::cast_possible_truncation, reason = "five sixteenths of a number of 32 bits have no more")]
#[must_use]
pub const fn session_buckets(capacity: u32) -> u32 {
    let buckets = (capacity as u64 * 5).div_ceil(16) + SPARE_BUCKETS as u64;
    buckets as u32
}

/// How many sessions a table of so many buckets is for.
#[expect(clippy::cast_possible_truncation, reason = "compared before")]
#[must_use]
pub const fn session_capacity(buckets: u32) -> u32 {
    let capacity = buckets.saturating_sub(SPARE_BUCKETS) as u64 * 16 / 5;
    if capacity > u32::MAX as u64 { u32::MAX } else { capacity as u32 }
}

/// The other bucket of a slot's key, given its tag: either is found from the other, whichever of them it stands in.
#[inline(always)]
#[must_use]
pub const fn other_bucket(tag: u64, bucket: u32, buckets: u32) -> u32 {
    let sum = scaled(tag >> 32, buckets);
    if sum >= bucket { sum - bucket } else { sum.wrapping_add(buckets).wrapping_sub(bucket) }
}

/// 32 bits as a number below `buckets`.
#[inline(always)]
const fn scaled(bits: u64, buckets: u32) -> u32 {
    (((bits & 0xffff_ffff) * buckets as u64) >> 32) as u32
}

impl SessionKey {
    /// The bit of a key with this tag: the word and the bit in it. Most sessions are told to be on no list by this one word,
    /// where the table would be read in two places.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are what is wanted")]
    #[must_use]
    pub const fn bit(tag: u64) -> (u32, u32) {
        let number = tag as u32 & 0x00ff_ffff;
        (number / 64, number % 64)
    }

    /// The buckets in which the key may stand, of so many. They may be the same one.
    #[inline(always)]
    #[must_use]
    pub const fn buckets(self, buckets: u32) -> [u32; 2] {
        let first = scaled(self.0[0] >> 32, buckets);
        [first, other_bucket(self.tag(), first, buckets)]
    }

    /// The key's tag: 64 bits of it, which the first bucket does not depend on.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u64 {
        self.0[1]
    }

    /// The state of a slot with this key: 16 more bits of it, the last day and the generation. It is never zero. Before its time
    /// the last day may be any, since 1970 has none.
    #[must_use]
    pub const fn state(self, session: Session) -> u64 {
        let last_day = match session.last_day {
            0 => 1,
            day if day > u16::MAX as u32 => u16::MAX as u32,
            day => day,
        };
        (self.0[0] & 0xffff) << 48 | (last_day as u64) << 32 | session.generation as u64
    }

    /// Whether a slot with this state has the key, given that its tag is the key's.
    #[inline(always)]
    #[must_use]
    pub const fn has_state(self, state: u64) -> bool {
        // One that is empty has no last day.
        state >> 48 == self.0[0] & 0xffff && state != 0
    }

    /// Whether a bucket says that the key is blacklisted. Its words are read one by one, and each at most once.
    #[inline(always)]
    pub fn counts_in(self, word: impl Fn(usize) -> u64, generation: u32, today: u32) -> bool {
        let mut slot = 0;
        while slot < SESSION_SLOTS {
            if word(slot) == self.tag() {
                let state = word(SESSION_SLOTS + slot);
                let session = Session::of(state);
                // A day that is over is not told from a key that is another.
                if self.has_state(state) & (session.last_day >= today) & (session.generation <= generation) {
                    return true;
                }
            }
            slot += 1;
        }
        false
    }
}

impl Session {
    /// What a slot's state says.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "two halves, each by itself")]
    #[must_use]
    pub const fn of(state: u64) -> Self {
        Self { last_day: (state >> 32) as u32 & 0xffff, generation: state as u32 }
    }
}

/// Longest session id that the kernel looks for, in bytes. Longer ones are userspace's alone.
pub const SID_CAPACITY: usize = 128;

/// Words of 64 bits in a session id, which is padded with zeros.
pub const SID_WORDS: usize = SID_CAPACITY / 8;

const K1: u64 = 0x87c3_7b91_1142_53d5;
const K2: u64 = 0x4cf5_ad43_2745_937f;

/// Takes two words of a session id into its key: a block of MurmurHash3 (x64, 128 bits), a public domain hash by Austin
/// Appleby. The ids come from the issuer of tokens and from the operator, and a client who makes one up only refuses
/// itself; what counts is that two ids never meet by chance.
#[inline(always)]
#[must_use]
pub const fn session_block(key: [u64; 2], first: u64, second: u64) -> [u64; 2] {
    let [mut h1, mut h2] = key;
    h1 ^= first.wrapping_mul(K1).rotate_left(31).wrapping_mul(K2);
    h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
    h2 ^= second.wrapping_mul(K2).rotate_left(33).wrapping_mul(K1);
    h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
    [h1, h2]
}

/// Ends a key with the length of the id in bytes.
#[inline(always)]
#[must_use]
pub const fn session_end(key: [u64; 2], len: u64) -> SessionKey {
    const fn mix(mut k: u64) -> u64 {
        k ^= k >> 33;
        k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
        k ^= k >> 33;
        k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        k ^ (k >> 33)
    }
    let (h1, h2) = (key[0] ^ len, key[1] ^ len);
    let h1 = h1.wrapping_add(h2);
    let h2 = h2.wrapping_add(h1);
    let (h1, h2) = (mix(h1), mix(h2));
    let h1 = h1.wrapping_add(h2);
    SessionKey([h1, h2.wrapping_add(h1)])
}

/// The key of a session id; `None` if it is empty or longer than [`SID_CAPACITY`], or has a byte that compact JSON
/// writes as an escape: the kernel does not look for those.
#[must_use]
pub fn session_key(sid: &[u8]) -> Option<SessionKey> {
    let plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0..=0x1f);
    if sid.is_empty() || sid.len() > SID_CAPACITY || !sid.iter().all(plain) {
        return None;
    }
    let mut words = [0; SID_WORDS];
    for (word, bytes) in words.iter_mut().zip(sid.chunks(8)) {
        let mut padded = [0; 8];
        padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        *word = u64::from_le_bytes(padded);
    }
    let mut key = [0; 2];
    for pair in words.chunks_exact(2).take(sid.len().div_ceil(16)) {
        if let [first, second] = pair {
            key = session_block(key, *first, *second);
        }
    }
    Some(session_end(key, sid.len() as u64))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    /// For ids whose length is a multiple of 16 the key is that of the published algorithm with seed 0.
    #[test]
    fn session_keys_are_murmur3() {
        let vector = session_key(b"0123456789abcdef").unwrap();
        assert_eq!(vector.0, MURMUR3_OF_0123456789ABCDEF);
        assert_ne!(session_key(b"a"), session_key(b"a\x7f"));
        assert_ne!(session_key(b"session1"), session_key(b"session2"));
    }

    const MURMUR3_OF_0123456789ABCDEF: [u64; 2] = [0x4be0_6d94_cf4a_d1a7, 0x87c3_5b5c_63a7_08da];

    #[test]
    fn what_has_no_key() {
        assert_eq!(session_key(b""), None);
        assert_eq!(session_key(b"a\"b"), None);
        assert_eq!(session_key(b"a\\b"), None);
        assert_eq!(session_key(b"a\nb"), None);
        assert!(session_key(&[b'x'; SID_CAPACITY]).is_some());
        assert_eq!(session_key(&[b'x'; SID_CAPACITY + 1]), None);
    }

    #[test]
    fn keys_do_not_meet() {
        let mut seen = std::collections::HashSet::new();
        for length in 1..=SID_CAPACITY {
            for byte in [b'a', b'b'] {
                assert!(seen.insert(session_key(&std::vec![byte; length])));
            }
        }
        for number in 0..100_000u32 {
            assert!(seen.insert(session_key(std::format!("session{number}").as_bytes())));
        }
    }

    #[test]
    fn buckets_are_for_their_capacity() {
        for capacity in [0, 1, 5, 16, 1000, SESSION_CAPACITY, 10_000_000, u32::MAX] {
            let buckets = session_buckets(capacity);
            assert!(session_capacity(buckets) >= capacity, "{capacity}");
            assert!(u64::from(buckets) * SESSION_SLOTS as u64 * 4 / 5 >= u64::from(capacity), "{capacity}");
        }
        assert_eq!(session_capacity(session_buckets(SESSION_CAPACITY)), SESSION_CAPACITY);
        assert_eq!((session_capacity(0), session_capacity(u32::MAX)), (0, u32::MAX));
    }

    /// Either bucket of a key leads to the other one by what the slot has, and all buckets are used alike.
    #[test]
    fn buckets_come_in_pairs() {
        for buckets in [1, 2, 64, 77, 312_564, u32::MAX] {
            let mut used = std::collections::BTreeMap::new();
            for number in 0..1000 * u64::from(buckets.min(100)) {
                let key = session_key(&number.to_be_bytes().map(|byte| byte | 0x80)).unwrap();
                let [first, second] = key.buckets(buckets);
                assert!(first < buckets && second < buckets);
                assert_eq!(other_bucket(key.tag(), first, buckets), second);
                assert_eq!(other_bucket(key.tag(), second, buckets), first);
                *used.entry(first % 64).or_insert(0) += 1;
                *used.entry(second % 64).or_insert(0) += 1;
            }
            if buckets == 64 {
                assert!(used.values().all(|count| (1700..2300).contains(count)), "{used:?}");
            }
        }
        let ends = SessionKey([u64::MAX, u64::MAX]);
        assert_eq!(ends.buckets(10), [9, 0]);
        assert_eq!(SessionKey([u64::MAX, 0]).buckets(10), [9, 1]);
    }

    #[test]
    fn states_say_what_they_were_made_of() {
        let key = session_key(b"session1").unwrap();
        let session = |last_day, generation| Session { last_day, generation };
        for (given, kept) in [
            (session(20_000, 7), session(20_000, 7)),
            (session(0, 0), session(1, 0)),
            (session(65_535, u32::MAX), session(65_535, u32::MAX)),
            (session(65_536, 1), session(65_535, 1)),
            (session(u32::MAX, 1), session(65_535, 1)),
        ] {
            let state = key.state(given);
            assert!(key.has_state(state) && state != 0);
            assert_eq!(Session::of(state), kept);
        }
        let zero = SessionKey([0, 0]);
        assert!(zero.has_state(zero.state(session(0, 0))) && !zero.has_state(0));
        let near = SessionKey([key.0[0] ^ 1, key.0[1]]);
        assert!(!near.has_state(key.state(session(20_000, 7))));
    }

    #[test]
    fn a_bucket_tells_of_its_keys() {
        let [one, other] = [&b"one"[..], b"other"].map(|sid| session_key(sid).unwrap());
        let mut bucket: SessionBucket = [0; 8];
        bucket[2] = one.tag();
        bucket[6] = one.state(Session { last_day: 20_000, generation: 5 });
        // What was there before, and is empty now.
        (bucket[0], bucket[4]) = (one.tag(), 0);
        // Another one with the same tag.
        (bucket[1], bucket[5]) =
            (one.tag(), one.state(Session { last_day: 65_000, generation: 0 }) ^ 1 << 48);
        let counts =
            |key: SessionKey, generation, today| key.counts_in(|word| bucket[word], generation, today);
        assert!(counts(one, 5, 20_000) && counts(one, 6, 19_999));
        assert!(!counts(one, 4, 20_000), "not in force yet");
        assert!(!counts(one, 5, 20_001), "over");
        assert!(!counts(other, 5, 20_000));
        let zero = SessionKey([0, 0]);
        assert!(!zero.counts_in(|_| 0, u32::MAX, 1), "an empty slot has no key");
    }
}
