//! Types shared between the kernel programs and the agent: everything that both sides read or write in a map.
//!
//! All layouts are `repr(C)` with fixed-width integers and explicit padding, and are asserted below. Any change raises
//! [`ABI_VERSION`]; the agent refuses an object or a pinned map of another version.
#![no_std]

use core::mem::{align_of, offset_of, size_of};

/// First word of the configuration map: `edge` in ASCII, big-endian.
pub const MAGIC: u32 = 0x6564_6765;

/// Version of every layout in this crate.
pub const ABI_VERSION: u32 = 1;

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
}

/// Name of the XDP program in the object.
pub const PROGRAM: &str = "edgegate_xdp";

/// Two banks of lists: one is in force, the other is filled. [`Config::bank`] says which; writing it is the swap.
pub const BANKS: usize = 2;

/// Exact addresses that one bank holds.
pub const EXACT_CAPACITY: u32 = 65_536;

/// Prefixes that one bank holds. Look-up time grows with them, so exact addresses do not belong here.
pub const PREFIX_CAPACITY: u32 = 16_384;

/// An address in network byte order; IPv4 is mapped (`::ffff:a.b.c.d`), so that both families share one key.
pub type Address = [u8; 16];

/// Bits before the IPv4 part of a mapped [`Address`]: an IPv4 prefix of length n is one of length n + 96.
pub const MAPPED_BITS: u32 = 96;

/// List flag: the address is exempt from the deny list.
pub const LIST_ALLOW: u32 = 1;

/// List flag: the address is denied. A more specific entry carries the flags of all entries that cover it, so the
/// longest match alone decides.
pub const LIST_DENY: u32 = 2;

/// Configuration flag: count and report what would be dropped, and pass it.
pub const FLAG_MONITOR: u32 = 1;

/// Configuration flag: the bank in force has exact addresses. Without it the hash is not asked.
pub const FLAG_EXACT: u32 = 2;

/// Configuration flag: the bank in force has prefixes.
pub const FLAG_PREFIX: u32 = 4;

/// The configuration in force. Written as a whole by the agent; the program reads `bank` and `flags` once per packet.
/// With `magic` zero (nothing written yet) every packet passes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
}

const _: () = {
    assert!(size_of::<Config>() == 24 && align_of::<Config>() == 8);
    assert!(
        offset_of!(Config, bank) == 8 && offset_of!(Config, flags) == 12 && offset_of!(Config, version) == 16
    );
};

/// What became of a packet, and why. Each has a counter. Verdict and reason are named here and nowhere else.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Passed: on no list.
    Pass = 0,
    /// Passed: neither IPv4 nor IPv6.
    PassOther = 1,
    /// Passed: cut short, more VLAN tags or extension headers than are followed, or malformed. The stack decides.
    PassUnparsed = 2,
    /// Passed: on the allow list.
    PassAllowed = 3,
    /// Dropped: on the deny list.
    DropIpDenied = 4,
    /// Passed in monitor mode: would have been dropped as [`Outcome::DropIpDenied`].
    MonitorIpDenied = 5,
}

impl Outcome {
    /// Every outcome, in the order of their counters.
    pub const ALL: [Self; 6] = [
        Self::Pass,
        Self::PassOther,
        Self::PassUnparsed,
        Self::PassAllowed,
        Self::DropIpDenied,
        Self::MonitorIpDenied,
    ];

    /// Verdict and reason as in metrics.
    #[must_use]
    pub const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Pass => ("pass", "default"),
            Self::PassOther => ("pass", "other_protocol"),
            Self::PassUnparsed => ("pass", "unparsed"),
            Self::PassAllowed => ("pass", "allowed"),
            Self::DropIpDenied => ("drop", "ip_denied"),
            Self::MonitorIpDenied => ("monitor", "ip_denied"),
        }
    }
}

const _: () = {
    let mut index = 0;
    while index < Outcome::ALL.len() {
        assert!(Outcome::ALL[index] as usize == index);
        index += 1;
    }
};
