//! Types shared between the kernel programs and the agent: everything that both sides read or write in a map.
//!
//! All layouts are `repr(C)` with fixed-width integers and explicit padding, and are asserted below. Any change raises
//! [`ABI_VERSION`]; the agent refuses an object or a pinned map of another version.
//!
//! With the feature `user` every type is plain data in the sense of `bytemuck`.
#![no_std]
#![cfg_attr(
    feature = "user",
    allow(
        unsafe_code,
        reason = "bytemuck's derives make unsafe impls and check at compile time that they hold"
    )
)]

mod flow;
mod outcome;
mod tables;

pub use flow::{Cell, Flow, FlowState, Idle, stage};
pub use outcome::{Event, Outcome};
pub use tables::{
    BLOCK_BITS, BLOCK_POLICIES, BLOCKS, Blocks, COUNTRY_UNDETERMINED, COUNTRY_UNKNOWN, POLICIES, Policy,
    REPLY_CAPACITY, Reply, SERVICES, Service, Tables, V4_CHUNKS, V4_RANGES, V6_CHUNKS, V6_RANGES, Verdicts,
    country_number, listed_bit, set_bit, set_verdict, verdict,
};

use core::mem::{align_of, offset_of, size_of};

/// First word of the configuration map: `edge` in ASCII, big-endian.
pub const MAGIC: u32 = 0x6564_6765;

/// Version of every layout in this crate.
pub const ABI_VERSION: u32 = 3;

/// Names of the maps in the object.
pub mod map {
    /// One [`crate::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// Per-CPU `u64` counters, indexed by [`crate::Outcome`].
    pub const COUNTERS: &str = "COUNTERS";
    /// Exact addresses of each bank: [`crate::Address`] to list flags. A full one is an error to whoever fills it.
    pub const EXACT: [&str; crate::BANKS] = ["EXACT_0", "EXACT_1"];
    /// Prefixes of each bank: an LPM trie over [`crate::Address`] to list flags.
    pub const PREFIX: [&str; crate::BANKS] = ["PREFIX_0", "PREFIX_1"];
    /// One [`crate::Tables`] for each bank.
    pub const TABLES: &str = "TABLES";
    /// Blacklisted sessions: [`crate::SessionKey`] to [`crate::Session`]. A full one is an error to whoever fills it.
    pub const SESSIONS: &str = "SESSIONS";
    /// A bit for each [`crate::SessionKey::bit`] that any of [`SESSIONS`] has; mapped into the agent's memory.
    pub const SESSION_BITS: &str = "SESSION_BITS";
    /// What is known of refused connections: [`crate::Flow`] to [`crate::FlowState`]. The least recently used one makes
    /// way.
    pub const FLOWS: &str = "FLOWS";
    /// One array of a [`crate::Cell`] for each [`crate::Flow::cell`]: up to when a flow of that cell may be in [`FLOWS`];
    /// mapped into the agent's memory.
    pub const CELLS: &str = "CELLS";
    /// For each [`crate::Flow::cell`] a [`crate::Idle`] word; mapped into the agent's memory.
    pub const IDLE: &str = "IDLE";
    /// A ring of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
}

/// Globals of the object that hold where a field of the kernel's sockets is, in bytes from its start, and the field: first
/// [`TCP_SOCK_FIELDS`] of a `tcp_sock`, then those of a `tcp_request_sock`.
pub const TCP_FIELDS: [(&str, &str); 7] = [
    ("TCP_RCV_NXT", "rcv_nxt"),
    ("TCP_SND_NXT", "snd_nxt"),
    ("TCP_SND_UNA", "snd_una"),
    ("TCP_BYTES_RECEIVED", "bytes_received"),
    ("TCP_BYTES_ACKED", "bytes_acked"),
    ("REQUEST_RCV_NXT", "rcv_nxt"),
    ("REQUEST_SNT_ISN", "snt_isn"),
];

/// See [`TCP_FIELDS`].
pub const TCP_SOCK_FIELDS: usize = 5;

/// Name of the XDP program in the object.
pub const PROGRAM: &str = "edgegate_xdp";

/// Two banks of lists and tables: one is in force, the other is filled. [`Config::bank`] says which; writing it is the
/// swap.
pub const BANKS: usize = 2;

/// Exact addresses that one bank holds.
pub const EXACT_CAPACITY: u32 = 65_536;

/// Prefixes that one bank holds. Look-up time grows with them, so exact addresses do not belong here.
pub const PREFIX_CAPACITY: u32 = 16_384;

/// Sessions that the map holds unless the loader says otherwise.
pub const SESSION_CAPACITY: u32 = 1_000_000;

/// Connections that are remembered.
pub const FLOW_CAPACITY: u32 = 65_536;

/// Cells that flows fall into; a power of two.
pub const CELLS: u32 = 65_536;

/// Bytes of the ring of events.
pub const EVENT_BYTES: u32 = 256 << 10;

/// An address in network byte order; IPv4 is mapped (`::ffff:a.b.c.d`), so that both families share one key.
pub type Address = [u8; 16];

/// Bits before the IPv4 part of a mapped [`Address`]: an IPv4 prefix of length n is one of length n + 96.
pub const MAPPED_BITS: u32 = 96;

/// List flag: the address is exempt from the deny list and from countries.
pub const LIST_ALLOW: u32 = 1;

/// List flag: the address is denied. A more specific entry carries the flags of all entries that cover it, so the
/// longest match alone decides.
pub const LIST_DENY: u32 = 2;

/// List flag: the address speaks for others, so nothing about it says anything about its clients. It passes.
pub const LIST_TRUSTED: u32 = 4;

/// Configuration flag: count and report what would be dropped, and pass it.
pub const FLAG_MONITOR: u32 = 1;

/// Configuration flag: the bank in force has exact addresses. Without it the hash is not asked.
pub const FLAG_EXACT: u32 = 2;

/// Configuration flag: the bank in force has prefixes.
pub const FLAG_PREFIX: u32 = 4;

/// Configuration flag: the bank in force has services, hence countries.
pub const FLAG_SERVICES: u32 = 8;

/// Configuration flag: requests are searched for sessions.
pub const FLAG_SESSIONS: u32 = 16;

/// Configuration flag, with [`FLAG_SESSIONS`]: a blacklisted session is answered with [`Reply`].
pub const FLAG_RESPOND: u32 = 32;

/// Configuration flag, with [`FLAG_SESSIONS`]: a blacklisted session's connection is reset. With neither this nor
/// [`FLAG_RESPOND`] its packets are dropped.
pub const FLAG_RESET: u32 = 64;

/// The configuration in force. Written as a whole by the agent. With `magic` zero (nothing written yet) every packet
/// passes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Config {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`ABI_VERSION`].
    pub abi: u32,
    /// Index of the bank in force.
    pub bank: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Version of the agent's configuration that the bank was filled from.
    pub version: u64,
    /// Sessions of a later generation do not count yet.
    pub generation: u32,
    /// Sessions whose last day, in days since 1970, is before this one do not count any more.
    pub today: u32,
    /// For each bank, a bit for each [`Policy`]: whether it applies now.
    pub active: [u64; BANKS],
}

const _: () = {
    assert!(size_of::<Config>() == 48 && align_of::<Config>() == 8);
    assert!(offset_of!(Config, bank) == 8 && offset_of!(Config, flags) == 12);
    assert!(offset_of!(Config, version) == 16);
    assert!(offset_of!(Config, generation) == 24 && offset_of!(Config, today) == 28);
    assert!(offset_of!(Config, active) == 32);
};

/// 128 bits that stand for a session id: [`session_key`].
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct SessionKey(pub [u64; 2]);

/// Words of the bits of sessions: a few in a hundred of them are set with a million sessions.
pub const SESSION_BIT_WORDS: u32 = 1 << 18;

impl SessionKey {
    /// The key's bit: the word and the bit in it. Most sessions are told to be on no list by this one word, where the hash
    /// would be read in several places.
    #[inline(always)]
    #[must_use]
    pub const fn bit(self) -> (u32, u32) {
        let [a, b, c, ..] = self.0[0].to_le_bytes();
        let number = u32::from_le_bytes([a, b, c, 0]);
        (number / 64, number % 64)
    }
}

/// What is known of a blacklisted session.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Session {
    /// The last day on which it counts, in days since 1970.
    pub last_day: u32,
    /// The first [`Config::generation`] in which it counts.
    pub generation: u32,
}

const _: () = {
    assert!(size_of::<SessionKey>() == 16 && align_of::<SessionKey>() == 8);
    assert!(size_of::<Session>() == 8 && align_of::<Session>() == 4);
    assert!(offset_of!(Session, last_day) == 0 && offset_of!(Session, generation) == 4);
};

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
}
