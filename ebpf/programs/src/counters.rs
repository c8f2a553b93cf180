//! How often each outcome came about.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use ebpf_abi::Outcome;

/// See [`ebpf_abi::map::COUNTERS`].
#[btf_map]
static COUNTERS: PerCpuArray<u64, { Outcome::ALL.len() }> = PerCpuArray::new();

/// Counts a packet.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(counter) = COUNTERS.get_ptr_mut(outcome as u32) {
        // SAFETY: a whole `u64`, never freed; this processor's own, and the program is not interrupted by itself.
        unsafe { *counter += 1 };
    }
}
