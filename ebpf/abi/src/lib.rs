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
mod sessions;
mod tables;

pub use flow::{Cell, Flow, FlowState, Idle, stage};
pub use outcome::{Event, Outcome};
pub use sessions::{
    SESSION_BIT_WORDS, SESSION_CAPACITY, SESSION_SLOTS, SID_CAPACITY, SID_WORDS, Session, SessionBucket,
    SessionKey, other_bucket, session_block, session_buckets, session_capacity, session_end, session_key,
};
pub use tables::{
    BLOCK_BITS, BLOCK_POLICIES, BLOCKS, Blocks, COUNTRY_UNDETERMINED, COUNTRY_UNKNOWN, POLICIES, Policy,
    REPLY_CAPACITY, Reply, SERVICES, Service, Tables, V4_CHUNKS, V4_RANGES, V6_CHUNKS, V6_RANGES, Verdicts,
    country_number, listed_bit, set_bit, set_verdict, verdict,
};

use core::mem::{align_of, offset_of, size_of};

/// First word of the configuration map: `edge` in ASCII, big-endian.
pub const MAGIC: u32 = 0x6564_6765;

/// Version of every layout in this crate.
pub const ABI_VERSION: u32 = 4;

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
    /// Blacklisted sessions: an array of [`crate::SessionBucket`], [`crate::session_buckets`] of them; mapped into the agent's
    /// memory.
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

/// The global of the object that holds how many buckets [`map::SESSIONS`] has.
pub const BUCKETS_GLOBAL: &str = "SESSION_BUCKETS";

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
