//! What the agent has put in force.

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use core::{mem::offset_of, ptr::read_volatile};
use ebpf_abi::{
    ABI_VERSION, BANKS, FLAG_EXACT, FLAG_MONITOR, FLAG_PREFIX, FLAG_RESET, FLAG_RESPOND, FLAG_SERVICES,
    FLAG_SESSIONS, MAGIC, Tables,
};

/// See [`ebpf_abi::map::CONFIG`].
#[btf_map]
static CONFIG: Array<ebpf_abi::Config, 1> = Array::new();

/// See [`ebpf_abi::map::TABLES`].
#[btf_map]
static TABLES: Array<Tables, BANKS> = Array::new();

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
    assert!(offset_of!(ebpf_abi::Config, generation) == 24 && offset_of!(ebpf_abi::Config, today) == 28);
    assert!(offset_of!(ebpf_abi::Config, active) == 32);
};

/// The part of the configuration that decides, read once per packet.
#[derive(Clone, Copy)]
pub struct Config {
    /// Index of the bank in force.
    pub bank: u32,
    /// `FLAG_*`.
    pub flags: u32,
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

    /// Whether the bank in force has services.
    #[inline(always)]
    pub const fn services(&self) -> bool {
        self.has(FLAG_SERVICES)
    }

    /// Whether requests are searched for sessions.
    #[inline(always)]
    pub const fn sessions(&self) -> bool {
        self.has(FLAG_SESSIONS)
    }

    /// Whether a blacklisted session is answered.
    #[inline(always)]
    pub const fn respond(&self) -> bool {
        self.has(FLAG_RESPOND)
    }

    /// Whether a blacklisted session's connection is reset.
    #[inline(always)]
    pub const fn reset(&self) -> bool {
        self.has(FLAG_RESET)
    }

    /// The tables of the bank in force.
    #[inline(always)]
    pub fn tables(&self) -> Option<*const Tables> {
        TABLES.get_ptr(self.bank)
    }

    /// Whether a service's policy applies now. Each bank has its own word, so that the windows of one configuration are
    /// never applied to the services of another.
    #[inline(always)]
    pub fn is_active(&self, policy: u16) -> bool {
        let word = if self.bank == 0 { 4 } else { 5 };
        word_of(word).is_some_and(|active| active >> (policy & 63) & 1 != 0)
    }
}

/// The generation of sessions that counts, and today. They change on their own.
#[inline(always)]
pub fn generation_and_today() -> (u32, u32) {
    let both = word_of(3).unwrap_or(0);
    (both as u32, (both >> 32) as u32)
}

/// A word of the configuration, which the agent writes at any time.
#[inline(always)]
fn word_of(index: usize) -> Option<u64> {
    let raw = CONFIG.get_ptr(0)?.cast::<u64>();
    // SAFETY: within a whole `ebpf_abi::Config`, aligned to 8 bytes and never freed.
    Some(unsafe { read_volatile(raw.add(index)) })
}

/// The configuration, or `None` while there is none for this version of the program.
#[inline(always)]
pub fn in_force() -> Option<Config> {
    let raw = CONFIG.get_ptr(0)?.cast::<u64>();
    // SAFETY: the value is a whole `ebpf_abi::Config`, aligned to 8 bytes and never freed; the agent writes it at any
    // time, hence volatile. One access per pair, so that no packet sees the bank of one configuration with the flags of
    // another.
    let (known, bank_and_flags) = unsafe { (read_volatile(raw), read_volatile(raw.add(1))) };
    if known != KNOWN {
        return None;
    }
    Some(Config { bank: bank_and_flags as u32, flags: (bank_and_flags >> 32) as u32 })
}
