//! What a bank holds besides lists: compiled by the agent, written as a whole, read by the program.

use crate::Address;
use core::mem::{align_of, offset_of, size_of};

/// Pairs of destination network and port, over all services.
pub const SERVICES: usize = 64;

/// Sets of countries, one for each service.
pub const POLICIES: usize = 64;

/// Policies, the first ones, that have [`Tables::verdicts_v4`].
pub const BLOCK_POLICIES: usize = 16;

/// Two bits for each block of IPv4 addresses: one of [`verdict`].
pub type Verdicts = [u64; BLOCKS / 32];

/// What is known of all addresses of a block under one policy.
pub mod verdict {
    /// Nothing: lists and countries are looked up.
    pub const OPEN: u32 = 0;
    /// All pass, and no list has an entry there.
    pub const PASSES: u32 = 1;
    /// None passes, and no list has an entry there.
    pub const REFUSED: u32 = 2;
    /// All pass, unless a list says otherwise.
    pub const LISTED: u32 = 3;
}

/// A bit for each block of addresses: those of IPv4 with the same first 20 bits, or those of IPv6 with the same
/// [`listed_bit`].
pub type Blocks = [u64; BLOCKS / 64];

/// How many blocks there are.
pub const BLOCKS: usize = 1 << 20;

/// Bits of a block's number.
pub const BLOCK_BITS: u32 = BLOCKS.trailing_zeros();

/// Ranges of IPv4 addresses with one country each.
pub const V4_RANGES: usize = 1 << 21;

/// Ranges of IPv6 networks (/64) with one country each.
pub const V6_RANGES: usize = 1 << 21;

/// IPv4 addresses are divided by their first 16 bits; where each part starts, and where the last one ends. Padded.
pub const V4_CHUNKS: usize = 65_536 + 2;

/// IPv6 addresses likewise.
pub const V6_CHUNKS: usize = 65_536 + 2;

/// Longest answer, in bytes; a multiple of 8.
pub const REPLY_CAPACITY: usize = 1024;

/// The number of addresses without a country.
pub const COUNTRY_UNKNOWN: u16 = 0;

/// The number of networks that have more than one country within what the table tells apart. The kernel passes them.
pub const COUNTRY_UNDETERMINED: u16 = 1023;

/// The number of a country by its two letters; [`COUNTRY_UNKNOWN`] if they are none.
#[must_use]
pub const fn country_number(code: [u8; 2]) -> u16 {
    let [first, second] = [code[0].to_ascii_uppercase(), code[1].to_ascii_uppercase()];
    if !first.is_ascii_uppercase() || !second.is_ascii_uppercase() {
        return COUNTRY_UNKNOWN;
    }
    (first - b'A') as u16 * 26 + (second - b'A') as u16 + 1
}

/// A destination and what applies there.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Service {
    /// Network address; host bits are zero.
    pub network: Address,
    /// Ones where the network address counts.
    pub mask: Address,
    /// Port; zero for all.
    pub port: u16,
    /// Index into [`Tables::policies`].
    pub policy: u16,
    /// 4 or 6. A network of IPv6 does not hold mapped IPv4 addresses.
    pub family: u16,
    /// Zero.
    pub reserved: u16,
}

/// Which countries pass: a bit for each [`country_number`].
pub type Policy = [u64; 16];

/// A whole answer to a request, without TCP's header.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Reply {
    /// Length in bytes; a multiple of 8, at most [`REPLY_CAPACITY`]. Zero: there is none.
    pub length: u32,
    /// Sum of its 16-bit words in the processor's byte order, not folded.
    pub sum: u32,
    /// The answer.
    pub bytes: [u8; REPLY_CAPACITY],
}

/// Everything that is compiled for one configuration.
///
/// Ranges of a chunk `c` (the first 16 bits of an address) are those from `chunks[c]` up to `chunks[c + 1]`, at least one.
/// A range starts at the bits that follow (16 for IPv4, 48 for IPv6), which stand above its country's 16 bits, and ends
/// before the next one; the first of a chunk starts at zero.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Tables {
    /// Blocks of IPv4 addresses that any list has an entry for.
    pub listed_v4: Blocks,
    /// Likewise of IPv6.
    pub listed_v6: Blocks,
    /// For each of the first policies what is known of each block: lists and countries in one read.
    pub verdicts_v4: [Verdicts; BLOCK_POLICIES],
    /// A bit for each TCP port whose requests are searched for sessions.
    pub session_ports: [u64; 1024],
    /// Pairs of destination network and port; the first that fits decides.
    pub services: [Service; SERVICES],
    /// How many of [`Tables::services`] there are.
    pub service_count: u64,
    /// Which countries pass, by service.
    pub policies: [Policy; POLICIES],
    /// The answer to a `GET`, then to a `HEAD`.
    pub replies: [Reply; 2],
    /// Where the ranges of each chunk start.
    pub v4_chunks: [u32; V4_CHUNKS],
    /// Ranges of IPv4.
    pub v4_ranges: [u32; V4_RANGES],
    /// Where the ranges of each chunk start.
    pub v6_chunks: [u32; V6_CHUNKS],
    /// Ranges of IPv6.
    pub v6_ranges: [u64; V6_RANGES],
}

const _: () = {
    assert!(size_of::<Service>() == 40 && align_of::<Service>() == 2);
    assert!(offset_of!(Service, mask) == 16 && offset_of!(Service, port) == 32);
    assert!(offset_of!(Service, policy) == 34 && offset_of!(Service, family) == 36);
    assert!(size_of::<Reply>() == 8 + REPLY_CAPACITY && REPLY_CAPACITY.is_multiple_of(8));
    assert!(align_of::<Tables>() == 8);
    assert!(size_of::<Blocks>() == 131_072 && offset_of!(Tables, verdicts_v4) == 2 * 131_072);
    assert!(offset_of!(Tables, session_ports) == (2 + 2 * BLOCK_POLICIES) * 131_072);
    assert!(offset_of!(Tables, services) == offset_of!(Tables, session_ports) + 8192);
    assert!(offset_of!(Tables, service_count) == offset_of!(Tables, services) + SERVICES * 40);
    assert!(offset_of!(Tables, policies) == offset_of!(Tables, service_count) + 8);
    assert!(offset_of!(Tables, replies) == offset_of!(Tables, policies) + POLICIES * 128);
    assert!(offset_of!(Tables, v4_chunks) == offset_of!(Tables, replies) + 2 * size_of::<Reply>());
    assert!(offset_of!(Tables, v4_ranges) == offset_of!(Tables, v4_chunks) + V4_CHUNKS * 4);
    assert!(offset_of!(Tables, v6_chunks) == offset_of!(Tables, v4_ranges) + V4_RANGES * 4);
    assert!(offset_of!(Tables, v6_ranges) == offset_of!(Tables, v6_chunks) + V6_CHUNKS * 4);
    assert!(size_of::<Tables>() == offset_of!(Tables, v6_ranges) + V6_RANGES * 8);
};

/// The block of an IPv6 address, by its first three times 16 bits: of the first two the difference, so that neighbours in
/// either are told apart, then four bits of the third.
#[inline(always)]
#[must_use]
pub const fn listed_bit(first: u16, second: u16, third: u16) -> u32 {
    ((first ^ second) as u32) << 4 | (third >> 12) as u32
}

/// Sets a bit of a table of bits that has it.
pub fn set_bit<const WORDS: usize>(bits: &mut [u64; WORDS], bit: impl Into<u32>) {
    let bit = bit.into();
    if let Some(word) = bits.get_mut(bit as usize / 64) {
        *word |= 1 << (bit % 64);
    }
}

/// Sets what is known of a block of which nothing was known.
pub fn set_verdict(verdicts: &mut Verdicts, block: u32, verdict: u32) {
    if let Some(word) = verdicts.get_mut(block as usize / 32) {
        *word |= u64::from(verdict & 3) << (block % 32 * 2);
    }
}
