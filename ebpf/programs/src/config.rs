//! What the agent has put in force.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use core::{mem::offset_of, ptr::read_volatile};
use ebpf_abi::{ABI_VERSION, FLAG_EXACT, FLAG_MONITOR, FLAG_PREFIX, MAGIC};

/// See [`ebpf_abi::map::CONFIG`].
#[btf_map]
static CONFIG: Array<ebpf_abi::Config, 1> = Array::new();

/// The two words that say whether this program can read the configuration, as one.
const KNOWN: u64 = words(MAGIC, ABI_VERSION);

/// Two neighbouring words as they are read in one access.
const fn words(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

const _: () = {
    assert!(cfg!(target_endian = "little"));
    assert!(offset_of!(ebpf_abi::Config, magic) == 0 && offset_of!(ebpf_abi::Config, abi) == 4);
    assert!(offset_of!(ebpf_abi::Config, bank) == 8 && offset_of!(ebpf_abi::Config, flags) == 12);
};

/// The part of the configuration that decides, read once per packet.
pub struct Config {
    /// Index of the bank in force.
    pub bank: u32,
    flags: u32,
}

impl Config {
    #[inline(always)]
    const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether to count and pass what would be dropped.
    #[inline(always)]
    pub const fn monitor(&self) -> bool {
        self.has(FLAG_MONITOR)
    }

    /// Whether the bank in force has exact addresses.
    #[inline(always)]
    pub const fn exact(&self) -> bool {
        self.has(FLAG_EXACT)
    }

    /// Whether the bank in force has prefixes.
    #[inline(always)]
    pub const fn prefix(&self) -> bool {
        self.has(FLAG_PREFIX)
    }
}

/// The configuration, or `None` while there is none for this version of the program.
#[inline(always)]
pub fn in_force() -> Option<Config> {
    let config = CONFIG.get_ptr(0)?.cast::<u64>();
    // SAFETY: the value is a whole `ebpf_abi::Config`, aligned to 8 bytes and never freed; the agent writes it at any
    // time, hence volatile. One access per pair, so that no packet sees the bank of one configuration with the flags of
    // another.
    let (known, bank_and_flags) = unsafe { (read_volatile(config), read_volatile(config.add(1))) };
    if known != KNOWN {
        return None;
    }
    Some(Config { bank: bank_and_flags as u32, flags: (bank_and_flags >> 32) as u32 })
}
