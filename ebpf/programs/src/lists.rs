//! Lists of addresses: two banks, of which one is in force while the agent fills the other.

use crate::config::Config;
use crate::packet::Packet;
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use core::ptr::addr_of;
use ebpf_abi::{Address, BLOCK_BITS, EXACT_CAPACITY, PREFIX_CAPACITY, Tables, listed_bit};

/// Not preallocated: a bank takes the memory of what it holds. The program never inserts, so nothing is allocated in
/// the path of a packet.
type Exact = HashMap<Address, u32, { EXACT_CAPACITY as usize }, { BPF_F_NO_PREALLOC as usize }>;
type Prefix = LpmTrie<Address, u32, { PREFIX_CAPACITY as usize }>;

/// Length of the prefix that is one address.
const ADDRESS_BITS: u32 = size_of::<Address>() as u32 * 8;

/// See [`ebpf_abi::map::EXACT`].
#[btf_map]
static EXACT_0: Exact = Exact::new();
/// See [`ebpf_abi::map::EXACT`].
#[btf_map]
static EXACT_1: Exact = Exact::new();
/// See [`ebpf_abi::map::PREFIX`].
#[btf_map]
static PREFIX_0: Prefix = Prefix::new();
/// See [`ebpf_abi::map::PREFIX`].
#[btf_map]
static PREFIX_1: Prefix = Prefix::new();

/// The list flags of a packet's source, zero if it is on no list. A bank that there is not has no lists.
///
/// Few addresses of the world are near a list. The others are told by one bit, for a fraction of what two look-ups cost.
#[inline(always)]
pub fn look_up(config: &Config, tables: *const Tables, packet: &Packet) -> u32 {
    if !is_near(tables, packet) {
        return 0;
    }
    let key = Key::new(ADDRESS_BITS, packet.flow.source);
    match config.bank {
        0 => look_up_in(&EXACT_0, &PREFIX_0, config, &key),
        1 => look_up_in(&EXACT_1, &PREFIX_1, config, &key),
        _ => 0,
    }
}

/// Whether any list may have the source.
#[inline(always)]
fn is_near(tables: *const Tables, packet: &Packet) -> bool {
    if packet.v4 != 0 {
        // SAFETY: a place within the tables.
        bit(unsafe { addr_of!((*tables).listed_v4) }, block_v4(packet))
    } else {
        let [a, b, c, d, e, f, ..] = packet.flow.source;
        let word = |high, low| u16::from_be_bytes([high, low]);
        // SAFETY: as above.
        bit(unsafe { addr_of!((*tables).listed_v6) }, listed_bit(word(a, b), word(c, d), word(e, f)))
    }
}

/// The block of a source of IPv4.
#[inline(always)]
pub const fn block_v4(packet: &Packet) -> u32 {
    let [.., a, b, c, d] = packet.flow.source;
    u32::from_be_bytes([a, b, c, d]) >> (32 - BLOCK_BITS)
}

/// One of many bits; a power of two of them.
#[inline(always)]
pub fn bit<const WORDS: usize>(bits: *const [u64; WORDS], number: u32) -> bool {
    const { assert!(WORDS.is_power_of_two()) };
    let word = (number >> 6) as usize & (WORDS - 1);
    // SAFETY: the index is below the length; the tables are never freed.
    let word = unsafe { bits.cast::<u64>().add(word).read_volatile() };
    word >> (number & 63) & 1 != 0
}

/// The exact address is the longest match there is, and its entry has the flags of the prefixes that cover it.
#[inline(always)]
fn look_up_in(exact: &Exact, prefix: &Prefix, config: &Config, key: &Key<Address>) -> u32 {
    if config.exact() {
        let address: &Address = &key.data;
        // SAFETY: the value is copied at once. Should the agent delete the entry meanwhile, its memory stays readable,
        // and what takes its place is an entry of the same bank, which is filled only while it is not in force.
        if let Some(flags) = unsafe { exact.get(address) } {
            return *flags;
        }
    }
    if config.prefix()
        && let Some(flags) = prefix.get(key)
    {
        return *flags;
    }
    0
}
