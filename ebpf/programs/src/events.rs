//! Some of many packets, told to whoever listens.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    macros::btf_map,
};
use ebpf_abi::{EVENT_BYTES, Event, Flow, Outcome, SessionKey};

/// See [`ebpf_abi::map::EVENTS`].
#[btf_map]
static EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();

/// When the last event of each outcome was told, and how many packets met it since.
#[btf_map]
static TOLD: PerCpuArray<Told, { Outcome::ALL.len() }> = PerCpuArray::new();

#[repr(C)]
struct Told {
    at: u64,
    packets: u64,
}

/// For [`tell`] where the reason is another one.
pub static NO_SESSION: SessionKey = SessionKey([0; 2]);

/// Between two events of the same outcome on the same processor.
const PAUSE: u64 = 10_000_000;

/// Tells of a packet, unless one like it was told of just now.
#[inline(never)]
pub fn tell(outcome: Outcome, flow: &Flow, country: u16, session: &SessionKey) {
    if is_due(outcome) {
        write(outcome, flow, country, session);
    }
}

/// Counts a packet, and says whether it is to be told of by [`write()`].
#[inline(never)]
pub fn is_due(outcome: Outcome) -> bool {
    let Some(told) = TOLD.get_ptr_mut(outcome as u32) else { return false };
    // SAFETY: this processor's own, and the program is not interrupted by itself.
    let told = unsafe { &mut *told };
    told.packets += 1;
    // SAFETY: a call without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    now.wrapping_sub(told.at) >= PAUSE
}

/// Tells of a packet.
#[inline(never)]
pub fn write(outcome: Outcome, flow: &Flow, country: u16, session: &SessionKey) {
    let Some(told) = TOLD.get_ptr_mut(outcome as u32) else { return };
    // SAFETY: as above.
    let told = unsafe { &mut *told };
    let Some(mut entry) = EVENTS.reserve(0) else { return };
    entry.write(Event {
        source: flow.source,
        destination: flow.destination,
        session: *session,
        packets: told.packets,
        outcome: outcome as u32,
        country,
        source_port: flow.source_port,
        destination_port: flow.destination_port,
        protocol: flow.protocol,
        reserved: [0; 5],
    });
    entry.submit(0);
    // SAFETY: a call without arguments.
    told.at = unsafe { bpf_ktime_get_ns() };
    told.packets = 0;
}
