//! Countries by service: which country an address is in, and whether the destination admits it.

use crate::config::Config;
use crate::lists::block_v4;
use crate::memory::above;
use crate::packet::{Packet, Transport};
use core::ptr::addr_of;
use ebpf_abi::{Address, BLOCK_POLICIES, SERVICES, Service, Tables, V4_RANGES, V6_RANGES, Verdicts, verdict};

/// Steps of a search through the ranges of one chunk: 65,536 of them for IPv4, any number for IPv6.
const V4_STEPS: usize = 17;
/// See [`V4_STEPS`].
const V6_STEPS: usize = 21;

/// The policy that applies to a packet.
#[inline(always)]
pub fn policy_in_force(config: &Config, tables: *const Tables, packet: &Packet) -> Option<u16> {
    let policy = policy(tables, packet)?;
    if config.is_active(policy) { Some(policy) } else { None }
}

/// The country of the source, if a policy does not admit it.
#[inline(always)]
pub fn refused_country(tables: *const Tables, policy: u16, packet: &Packet) -> Option<u16> {
    let country = country(tables, packet);
    // SAFETY: both indices are below the lengths; the tables are never freed.
    let admitted = unsafe {
        let bits = addr_of!((*tables).policies).cast::<u64>().add((policy as usize & 63) * 16);
        bits.add((country >> 6) as usize & 15).read_volatile()
    };
    if admitted >> (country & 63) & 1 != 0 { None } else { Some(country) }
}

/// What is known of the addresses around the source under a policy: one of [`verdict`]. Of most of them lists say nothing,
/// and all pass or none does; two bits say so, of a table that the processor keeps near, where the countries of the world
/// do not stay.
#[inline(always)]
pub fn verdict_of_block(tables: *const Tables, policy: u16, packet: &Packet) -> u32 {
    let policy = policy as usize;
    if packet.v4 == 0 || policy >= BLOCK_POLICIES {
        return verdict::OPEN;
    }
    let block = block_v4(packet);
    // SAFETY: both indices are below the lengths; the tables are never freed.
    let word = unsafe {
        let verdicts = addr_of!((*tables).verdicts_v4).cast::<Verdicts>().add(policy & (BLOCK_POLICIES - 1));
        verdicts.cast::<u64>().add((block >> 5) as usize).read_volatile()
    };
    (word >> ((block & 31) * 2)) as u32 & 3
}

/// The country of the source.
#[inline(never)]
pub fn country(tables: *const Tables, packet: &Packet) -> u16 {
    if packet.v4 != 0 { country_v4(tables, packet) } else { country_v6(tables, packet) }
}

/// The policy of the first service that the packet goes to.
#[inline(always)]
fn policy(tables: *const Tables, packet: &Packet) -> Option<u16> {
    // SAFETY: a place within the tables.
    let count = unsafe { addr_of!((*tables).service_count).read_volatile() } as usize;
    let family = if packet.v4 != 0 { 4 } else { 6 };
    for index in 0..SERVICES {
        if index >= count {
            break;
        }
        // SAFETY: the index is below the length.
        let service = unsafe { addr_of!((*tables).services).cast::<Service>().add(index) };
        // SAFETY: places within the service.
        let (port, policy, of) = unsafe { ((*service).port, (*service).policy, (*service).family) };
        if of != family || !covers(service, &packet.flow.destination) {
            continue;
        }
        if port == 0 {
            return Some(policy);
        }
        match packet.transport {
            Transport::Tcp | Transport::Udp if port == packet.flow.destination_port => return Some(policy),
            Transport::Tcp | Transport::Udp | Transport::Portless => {}
            // It may be this service's, and a later one does not decide about it.
            Transport::Fragment | Transport::Unknown => return None,
        }
    }
    None
}

#[inline(always)]
fn covers(service: *const Service, destination: &Address) -> bool {
    let destination: *const u64 = destination.as_ptr().cast();
    // SAFETY: 16 bytes each; a processor that minds their alignment is not among those that this is for, and the
    // compiler puts both at 8.
    unsafe {
        let network: *const u64 = addr_of!((*service).network).cast();
        let mask: *const u64 = addr_of!((*service).mask).cast();
        *destination & *mask == *network && *destination.add(1) & *mask.add(1) == *network.add(1)
    }
}

#[inline(always)]
fn country_v4(tables: *const Tables, packet: &Packet) -> u16 {
    let [.., a, b, c, d] = packet.flow.source;
    let chunk = u16::from_be_bytes([a, b]) as usize;
    // SAFETY: there are 65,536 chunks and the end of the last one.
    let (first, end) = unsafe {
        let chunks = addr_of!((*tables).v4_chunks).cast::<u32>().add(chunk);
        (chunks.read_volatile(), chunks.add(1).read_volatile())
    };
    // The last range that starts at or before the address, whatever its country.
    let wanted = u64::from(u32::from_be_bytes([c, d, 0xff, 0xff]));
    let ranges = unsafe { addr_of!((*tables).v4_ranges).cast::<u32>() };
    let (mut at, mut count) = (first as usize, end.wrapping_sub(first) as usize);
    for _ in 0..V4_STEPS {
        if count <= 1 {
            break;
        }
        let half = count / 2;
        // SAFETY: the index is below the length.
        let middle = unsafe { ranges.add((at + half) & (V4_RANGES - 1)).read_volatile() };
        at += half * (above(u64::from(middle), wanted) ^ 1) as usize;
        count -= half;
    }
    // SAFETY: as above.
    unsafe { ranges.add(at & (V4_RANGES - 1)).read_volatile() as u16 }
}

#[inline(always)]
fn country_v6(tables: *const Tables, packet: &Packet) -> u16 {
    let [a, b, c, d, e, f, g, h, ..] = packet.flow.source;
    let chunk = u16::from_be_bytes([a, b]) as usize;
    // SAFETY: there are 65,536 chunks and the end of the last one.
    let (first, end) = unsafe {
        let chunks = addr_of!((*tables).v6_chunks).cast::<u32>().add(chunk);
        (chunks.read_volatile(), chunks.add(1).read_volatile())
    };
    let wanted = u64::from_be_bytes([c, d, e, f, g, h, 0xff, 0xff]);
    let ranges = unsafe { addr_of!((*tables).v6_ranges).cast::<u64>() };
    let (mut at, mut count) = (first as usize, end.wrapping_sub(first) as usize);
    for _ in 0..V6_STEPS {
        if count <= 1 {
            break;
        }
        let half = count / 2;
        // SAFETY: the index is below the length.
        let middle = unsafe { ranges.add((at + half) & (V6_RANGES - 1)).read_volatile() };
        at += half * (above(middle, wanted) ^ 1) as usize;
        count -= half;
    }
    // SAFETY: as above.
    unsafe { ranges.add(at & (V6_RANGES - 1)).read_volatile() as u16 }
}
