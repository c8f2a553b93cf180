//! HMAC keys with their schedule prepared, and which of them is in force.

use crate::limits::{KEY_SIZE, MAX_KID, MIN_KEY};
use alloc::boxed::Box;
use alloc::vec::Vec;
use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// An HMAC-SHA256 key. The key bytes themselves are not kept: only the two hash states that they lead to, which are
/// overwritten on drop.
///
/// This is RFC 2104 over the block function of `sha2`. The `hmac` crate, which the tests hold it against, copies states and
/// buffers for each message, which shows where messages are as short as tokens.
#[derive(Clone)]
pub struct Key {
    inner: State,
    outer: State,
}

/// A hash state between two blocks.
type State = [u32; 8];

/// Bytes of a block.
const BLOCK: usize = 64;

/// Bytes of a MAC.
pub(crate) const MAC: usize = 32;

impl Drop for Key {
    fn drop(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

/// Why a key or a set of slots was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// Under 16 bytes, whatever is allowed.
    TooShort {
        /// Bytes given.
        size: usize,
    },
    /// Not 32 bytes, and no other size is allowed.
    Size {
        /// Bytes given.
        size: usize,
    },
    /// The name is empty or longer than 128 bytes.
    Name,
    /// A secret without a slot.
    NoSlots,
    /// Two slots with the same number.
    DuplicateSlot {
        /// The number.
        slot: u64,
    },
}

impl core::fmt::Display for KeyError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooShort { size } => {
                write!(f, "the key has {size} bytes; under {MIN_KEY} is never accepted")
            }
            Self::Size { size } => {
                write!(
                    f,
                    "the key has {size} bytes instead of {KEY_SIZE}; `allow_key_size = true` accepts it"
                )
            }
            Self::Name => write!(f, "a secret's name has 1 to {MAX_KID} bytes"),
            Self::NoSlots => f.write_str("the secret has no slot"),
            Self::DuplicateSlot { slot } => write!(f, "slot {slot} is given twice"),
        }
    }
}

impl core::error::Error for KeyError {}

impl Key {
    /// Prepares a key for HS256.
    ///
    /// # Errors
    /// [`KeyError::TooShort`] under 16 bytes; [`KeyError::Size`] when it is not 32 bytes and `any_size` is false.
    pub fn new(bytes: &[u8], any_size: bool) -> Result<Self, KeyError> {
        let size = bytes.len();
        if size < MIN_KEY {
            return Err(KeyError::TooShort { size });
        }
        if size != KEY_SIZE && !any_size {
            return Err(KeyError::Size { size });
        }
        Ok(Self::prepare(bytes))
    }

    /// Prepares key bytes of any length, for schemes that set no length.
    pub(crate) fn prepare(bytes: &[u8]) -> Self {
        let mut block = [0; BLOCK];
        match block.get_mut(..bytes.len()) {
            Some(start) => start.copy_from_slice(bytes),
            None => block[..MAC].copy_from_slice(&Sha256::digest(bytes)),
        }
        let state = |pad: u8, block: &mut [u8; BLOCK]| {
            block.iter_mut().for_each(|byte| *byte ^= pad);
            let mut state = INITIAL;
            compress256(&mut state, core::slice::from_ref(block));
            state
        };
        let inner = state(0x36, &mut block);
        let outer = state(0x36 ^ 0x5c, &mut block);
        block.zeroize();
        Self { inner, outer }
    }

    /// The MAC of the parts in sequence.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; MAC] {
        let mut state = self.inner;
        let mut last = [0; BLOCK];
        let mut filled = 0;
        let mut total = BLOCK;
        for part in parts {
            total += part.len();
            let mut part = *part;
            if filled > 0 {
                let (head, tail) = part.split_at(part.len().min(BLOCK - filled));
                last[filled..filled + head.len()].copy_from_slice(head);
                filled += head.len();
                part = tail;
                if filled < BLOCK {
                    continue;
                }
                compress256(&mut state, &[last]);
            }
            let (blocks, rest) = part.as_chunks();
            compress256(&mut state, blocks);
            last[..rest.len()].copy_from_slice(rest);
            filled = rest.len();
        }
        end_inner(&mut state, &last[..filled], total);
        self.end_outer(state)
    }

    /// Whether `mac` is the whole MAC of the parts in sequence, compared in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], mac: &[u8]) -> bool {
        same(&self.sign(parts), mac)
    }

    fn end_outer(&self, inner: State) -> [u8; MAC] {
        let mut state = self.outer;
        end_inner(&mut state, &bytes(inner), BLOCK + MAC);
        bytes(state)
    }
}

/// A MAC that is made block by block, between other work.
///
/// Each round of the hash waits for the one before it, so a processor that has nothing else at hand is idle for most of
/// its time. With a block here and there the hash costs little more than its instructions.
#[derive(Debug)]
pub(crate) struct Mac<'a> {
    key: &'a Key,
    state: State,
    message: &'a [u8],
    done: usize,
    /// The state behind the first block, if that was hashed.
    first: Option<State>,
}

impl<'a> Mac<'a> {
    /// Takes the first block in.
    #[inline(always)]
    pub(crate) fn new(key: &'a Key, message: &'a [u8]) -> Self {
        let (mut state, mut done, mut first) = (key.inner, 0, None);
        if let Some(block) = message.first_chunk() {
            compress256(&mut state, core::slice::from_ref(block));
            (done, first) = (BLOCK, Some(state));
        }
        Self { key, state, message, done, first }
    }

    /// Likewise. If the message begins as another one by this key did, it need not be hashed up to there.
    #[inline(always)]
    pub(crate) fn behind(start: &Start, key: &'a Key, message: &'a [u8]) -> Self {
        if start.key == key.inner && message.first_chunk() == Some(&start.block) {
            return Self { key, state: start.state, message, done: BLOCK, first: None };
        }
        Self::new(key, message)
    }

    /// Whether this is the MAC by that very key.
    pub(crate) fn is_by(&self, key: &Key) -> bool {
        core::ptr::eq(self.key, key)
    }

    /// Takes one block in, if a whole one is left.
    #[inline(always)]
    pub(crate) fn step(&mut self) {
        if let Some(block) = self.message.get(self.done..).and_then(<[u8]>::first_chunk) {
            compress256(&mut self.state, core::slice::from_ref(block));
            self.done += BLOCK;
        }
    }

    /// Takes in what is left.
    #[inline(always)]
    pub(crate) fn end(&mut self) {
        let (blocks, rest) = self.message.get(self.done..).unwrap_or_default().as_chunks();
        compress256(&mut self.state, blocks);
        end_inner(&mut self.state, rest, BLOCK + self.message.len());
    }

    /// Whether `mac` is the whole MAC of the message, which was taken in, compared in constant time.
    #[inline(always)]
    pub(crate) fn is(&self, mac: &[u8]) -> bool {
        same(&self.key.end_outer(self.state), mac)
    }
}

/// The first block of a message by a key, and the state that both lead to. It is worth keeping where messages begin alike, as an
/// issuer's tokens do.
#[derive(Clone)]
pub(crate) struct Start {
    /// The state that the key leads to. A start with no key's is that of no message.
    key: State,
    block: [u8; BLOCK],
    state: State,
}

impl Start {
    pub(crate) const fn none() -> Self {
        Self { key: [0; 8], block: [0; BLOCK], state: [0; 8] }
    }

    /// That of another message from now on, unless it was of use for that one.
    #[inline(always)]
    pub(crate) fn keep(&mut self, of: &Mac<'_>) {
        if let (Some(state), Some(block)) = (of.first, of.message.first_chunk()) {
            (self.key, self.block, self.state) = (of.key.inner, *block, state);
        }
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        self.key.zeroize();
        self.state.zeroize();
    }
}

impl core::fmt::Debug for Start {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Start(..)")
    }
}

/// Takes in the last bytes of a message of `total` bytes, less than a block, and its end.
#[inline(always)]
fn end_inner(state: &mut State, rest: &[u8], total: usize) {
    let mut last = [[0; BLOCK]; 2];
    last[0][..rest.len()].copy_from_slice(rest);
    last[0][rest.len()] = 0x80;
    let blocks = if rest.len() < BLOCK - LENGTH { 1 } else { 2 };
    last[blocks - 1][BLOCK - LENGTH..].copy_from_slice(&(total as u64 * 8).to_be_bytes());
    compress256(state, &last[..blocks]);
}

/// Whether two MACs are the same, compared in constant time.
fn same(own: &[u8; MAC], given: &[u8]) -> bool {
    let Ok(given) = <&[u8; MAC]>::try_from(given) else { return false };
    let differences = words(own).zip(words(given)).fold(0, |all, (own, given)| all | (own ^ given));
    differences.ct_eq(&0).into()
}

/// Bytes of the length at the end of a message.
const LENGTH: usize = 8;

/// The state that every hash starts with (FIPS 180-4, 5.3.3).
const INITIAL: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

fn words(mac: &[u8; MAC]) -> impl Iterator<Item = u64> {
    mac.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
}

/// The hash that a state is.
fn bytes(state: State) -> [u8; MAC] {
    let mut bytes = [0; MAC];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(state) {
        *to = word.to_be_bytes();
    }
    bytes
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// One generation of a secret.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The slot verifies tokens whose `iat` is at or after this number (unix seconds) and before the next slot's.
    pub slot: u64,
    /// From this instant on (unix seconds) the slot verifies nothing, whatever `iat` a token claims.
    pub until: Option<u64>,
    /// The key.
    pub key: Key,
}

/// All secrets by `kid`.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    /// Sorted by name. There are few, so this finds one sooner than a hash would be computed.
    secrets: Vec<(Box<str>, Vec<Slot>)>,
}

impl KeyRing {
    /// No secrets.
    #[must_use]
    pub const fn new() -> Self {
        Self { secrets: Vec::new() }
    }

    /// Adds or replaces a secret.
    ///
    /// # Errors
    /// [`KeyError::Name`], [`KeyError::NoSlots`] or [`KeyError::DuplicateSlot`].
    pub fn insert(&mut self, kid: &str, mut slots: Vec<Slot>) -> Result<(), KeyError> {
        if kid.is_empty() || kid.len() > MAX_KID {
            return Err(KeyError::Name);
        }
        if slots.is_empty() {
            return Err(KeyError::NoSlots);
        }
        slots.sort_by_key(|slot| slot.slot);
        if let Some(pair) = slots.windows(2).find(|pair| pair[0].slot == pair[1].slot) {
            return Err(KeyError::DuplicateSlot { slot: pair[0].slot });
        }
        match self.place(kid) {
            Ok(place) => self.secrets[place].1 = slots,
            Err(place) => self.secrets.insert(place, (kid.into(), slots)),
        }
        Ok(())
    }

    /// The slots of a secret, by their numbers; none if there is no such secret.
    #[must_use]
    pub fn slots(&self, kid: &str) -> &[Slot] {
        self.place(kid).map_or(&[], |place| self.secrets[place].1.as_slice())
    }

    fn place(&self, kid: &str) -> Result<usize, usize> {
        self.secrets.binary_search_by(|(name, _)| (**name).cmp(kid))
    }

    /// Removes a secret.
    pub fn remove(&mut self, kid: &str) {
        if let Ok(place) = self.place(kid) {
            self.secrets.remove(place);
        }
    }

    /// The slot that verifies a token of this `kid` and `iat`: the one with the greatest number that is not above
    /// `iat`, unless it has ended. An older slot never steps in for one that has ended.
    #[must_use]
    pub fn effective_at(&self, kid: &str, iat: u64, now: u64) -> Option<&Slot> {
        effective_at(self.slots(kid), iat, now)
    }
}

/// Likewise of the slots of one secret.
#[inline(always)]
pub(crate) fn effective_at(slots: &[Slot], iat: u64, now: u64) -> Option<&Slot> {
    let after = slots.partition_point(|slot| slot.slot <= iat);
    let slot = slots.get(after.checked_sub(1)?)?;
    slot.until.is_none_or(|until| now < until).then_some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::vec;
    use hmac::{Hmac, KeyInit as _, Mac as _};

    fn slot(slot: u64, until: Option<u64>) -> Slot {
        Slot { slot, until, key: Key::new(&[7; 32], false).unwrap() }
    }

    #[test]
    fn key_sizes() {
        assert_eq!(Key::new(&[1; 15], true).err(), Some(KeyError::TooShort { size: 15 }));
        assert_eq!(Key::new(&[], true).err(), Some(KeyError::TooShort { size: 0 }));
        assert!(Key::new(&[1; 16], true).is_ok());
        assert_eq!(Key::new(&[1; 31], false).err(), Some(KeyError::Size { size: 31 }));
        assert!(Key::new(&[1; 32], false).is_ok());
        assert_eq!(Key::new(&[1; 33], false).err(), Some(KeyError::Size { size: 33 }));
        assert!(Key::new(&[1; 200], true).is_ok());
    }

    #[test]
    fn rfc_4231_case_2() {
        let key = Key::prepare(b"Jefe");
        let mac = key.sign(&[b"what do ya want ", b"for nothing?"]);
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let shown: alloc::string::String = mac.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(shown, expected);
        assert!(key.verify(&[b"what do ya want for nothing?"], &mac));
        assert!(!key.verify(&[b"what do ya want for nothing?"], &mac[..31]));
        assert!(!key.verify(&[b"what do ya want for nothing?"], b""));
    }

    /// Every length of key and message around a block's, and every way to split a message.
    #[test]
    fn is_what_the_hmac_crate_says() {
        let bytes: Vec<u8> = (0..=255).collect();
        for key in [0, 1, 31, 32, 63, 64, 65, 200] {
            let key = &bytes[..key];
            for length in 0..=200 {
                let message = &bytes[..length];
                let expected: [u8; 32] = Hmac::<Sha256>::new_from_slice(key)
                    .unwrap()
                    .chain_update(message)
                    .finalize()
                    .into_bytes()
                    .into();
                let key = Key::prepare(key);
                assert_eq!(key.sign(&[message]), expected, "{length}");
                assert!(key.verify(&[message], &expected));
                for at in [0, 1, 55, 56, 63, 64, 65, 128, 130] {
                    let (first, rest) = message.split_at(at.min(length));
                    let (second, third) = rest.split_at(rest.len() / 3);
                    assert_eq!(key.sign(&[first, second, b"", third]), expected, "{length} at {at}");
                }
                for steps in 0..5 {
                    let mut mac = Mac::new(&key, message);
                    (0..steps).for_each(|_| mac.step());
                    mac.end();
                    assert!(mac.is(&expected), "{length} in {steps}");
                }
                let mut other = expected;
                other[length % 32] ^= 1;
                let mut mac = Mac::new(&key, message);
                mac.end();
                assert!(!mac.is(&other));
            }
        }
    }

    #[test]
    fn a_kept_start_changes_no_mac() {
        let keys = [Key::prepare(&[1; 32]), Key::prepare(&[2; 32])];
        let messages: Vec<Vec<u8>> = [0, 63, 64, 65, 200]
            .into_iter()
            .flat_map(|length| {
                let message = vec![b'a'; length];
                let mut other = message.clone();
                other.get_mut(length / 3).into_iter().for_each(|byte| *byte = b'b');
                [message, other]
            })
            .collect();
        let mut start = Start::none();
        let mut of_use = 0;
        for (first, second) in messages.iter().flat_map(|a| messages.iter().map(move |b| (a, b))) {
            for (key, message) in keys.iter().flat_map(|key| [(key, first), (key, second), (key, second)]) {
                let mut mac = Mac::behind(&start, key, message);
                of_use += usize::from(mac.done > 0 && mac.first.is_none());
                mac.end();
                assert!(mac.is(&key.sign(&[message])), "{message:?}");
                start.keep(&mac);
            }
        }
        assert!(of_use > 100, "{of_use}");
        assert_eq!(format!("{start:?}"), "Start(..)");
    }

    #[test]
    fn no_key_bytes_in_debug() {
        let key = Key::new(b"0123456789abcdef0123456789abcdef", false).unwrap();
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    #[test]
    fn slot_in_force() {
        let mut ring = KeyRing::default();
        ring.insert("k", vec![slot(200, None), slot(100, Some(5_000))]).unwrap();
        let at = |iat, now| ring.effective_at("k", iat, now).map(|s| s.slot);
        assert_eq!(at(99, 300), None);
        assert_eq!(at(100, 300), Some(100));
        assert_eq!(at(199, 4_999), Some(100));
        assert_eq!(at(199, 5_000), None);
        assert_eq!(at(200, 9_000), Some(200));
        assert!(ring.effective_at("K", 200, 300).is_none());
    }

    #[test]
    fn refused_rings() {
        let mut ring = KeyRing::default();
        assert_eq!(ring.insert("", vec![slot(0, None)]), Err(KeyError::Name));
        assert_eq!(ring.insert(&"k".repeat(MAX_KID + 1), vec![slot(0, None)]), Err(KeyError::Name));
        assert_eq!(ring.insert(&"k".repeat(MAX_KID), vec![slot(0, None)]), Ok(()));
        assert_eq!(ring.insert("k", vec![]), Err(KeyError::NoSlots));
        let twice = vec![slot(1, None), slot(0, None), slot(1, None)];
        assert_eq!(ring.insert("k", twice), Err(KeyError::DuplicateSlot { slot: 1 }));
    }
}
