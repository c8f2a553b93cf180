//! Allow and deny lists: two banks, of which one is in force while the agent fills the other.

use crate::config::Config;
use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{HashMap, LpmTrie, lpm_trie::Key},
    macros::btf_map,
};
use ebpf_abi::{Address, EXACT_CAPACITY, PREFIX_CAPACITY};

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

/// The list flags of an address, zero if it is on no list. A bank that there is not has no lists.
#[inline(always)]
pub fn look_up(config: &Config, address: Address) -> u32 {
    let key = Key::new(ADDRESS_BITS, address);
    match config.bank {
        0 => look_up_in(&EXACT_0, &PREFIX_0, config, &key),
        1 => look_up_in(&EXACT_1, &PREFIX_1, config, &key),
        _ => 0,
    }
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
