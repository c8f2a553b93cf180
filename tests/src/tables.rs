//! The tables of a bank, filled by hand: what the agent's compiler would write, without its code.

use crate::kernel::address;
use ebpf_abi::{REPLY_CAPACITY, Reply, Service, Tables, listed_bit};
use std::net::IpAddr;

/// Adds a service: a destination network, a port or zero, and the policy that applies there.
pub fn serve(tables: &mut Tables, network: &str, port: u16, policy: u16) {
    let (ip, length) = network.split_once('/').expect("a network");
    let (family, bits) = if ip.contains(':') { (6, 0) } else { (4, 96) };
    let length: u32 = length.parse().expect("its length");
    let mask = u128::MAX.checked_shl(128 - bits - length).unwrap_or(0).to_be_bytes();
    let at = usize::try_from(tables.service_count).expect("a few");
    tables.services[at] = Service { network: address(ip), mask, port, policy, family, reserved: 0 };
    tables.service_count += 1;
}

/// Lets a country pass, or not.
pub fn admit(tables: &mut Tables, policy: usize, country: u16, passes: bool) {
    let word = &mut tables.policies[policy][usize::from(country / 64)];
    let bit = 1 << (country % 64);
    *word = if passes { *word | bit } else { *word & !bit };
}

/// Lays countries out over all addresses of IPv4: each holds from its address up to the next. What comes before the first
/// one has number 0.
pub fn countries_v4(tables: &mut Tables, starts: &[(&str, u16)]) {
    let starts: Vec<(u64, u16)> = starts
        .iter()
        .map(|(ip, country)| match ip.parse().expect("an address") {
            IpAddr::V4(ip) => (u64::from(ip.to_bits()), *country),
            IpAddr::V6(ip) => panic!("{ip} is of IPv6"),
        })
        .collect();
    let mut at = 0;
    lay_out(&starts, 16, |chunk, start, country| {
        if start.is_none() {
            tables.v4_chunks[chunk] = at;
        }
        let start = u32::try_from(start.unwrap_or(0)).expect("16 bits");
        tables.v4_ranges[at as usize] = start << 16 | u32::from(country);
        at += 1;
    });
    tables.v4_chunks[65_536] = at;
}

/// Likewise for networks (/64) of IPv6.
pub fn countries_v6(tables: &mut Tables, starts: &[(&str, u16)]) {
    let starts: Vec<(u64, u16)> = starts
        .iter()
        .map(|(ip, country)| {
            let [a, b, c, d, e, f, g, h, ..] = address(ip);
            (u64::from_be_bytes([a, b, c, d, e, f, g, h]), *country)
        })
        .collect();
    let mut at = 0;
    lay_out(&starts, 48, |chunk, start, country| {
        if start.is_none() {
            tables.v6_chunks[chunk] = at;
        }
        tables.v6_ranges[at as usize] = start.unwrap_or(0) << 16 | u64::from(country);
        at += 1;
    });
    tables.v6_chunks[65_536] = at;
}

/// Goes through all chunks: first the range that a chunk starts with, without a start, then those that start within it.
fn lay_out(starts: &[(u64, u16)], low_bits: u32, mut range: impl FnMut(usize, Option<u64>, u16)) {
    let mut next = starts.iter().peekable();
    let mut country = 0;
    for chunk in 0..65_536_u64 {
        let first = chunk << low_bits;
        if let Some((_, starting)) = next.next_if(|(start, _)| *start == first) {
            country = *starting;
        }
        let index = usize::try_from(chunk).expect("16 bits");
        range(index, None, country);
        while let Some((start, starting)) = next.next_if(|(start, _)| start >> low_bits == chunk) {
            country = *starting;
            range(index, Some(start - first), country);
        }
    }
}

/// Says whether any list has an entry near an address.
pub fn set_near(tables: &mut Tables, ip: &str, near: bool) {
    let bytes = address(ip);
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let (bits, bit) = if ip.contains(':') {
        (&mut tables.listed_v6, listed_bit(word(0), word(2), word(4)))
    } else {
        (&mut tables.listed_v4, u32::from(word(12)) << 4 | u32::from(bytes[14] >> 4))
    };
    let word = &mut bits[bit as usize / 64];
    *word = if near { *word | 1 << (bit % 64) } else { *word & !(1 << (bit % 64)) };
}

/// An answer, with its sum. Its length is a multiple of 8.
#[must_use]
pub fn reply(text: &[u8]) -> Reply {
    assert!(text.len().is_multiple_of(8) && text.len() <= REPLY_CAPACITY);
    let mut bytes = [0; REPLY_CAPACITY];
    bytes[..text.len()].copy_from_slice(text);
    let sum = text.chunks(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]]))).sum();
    Reply { length: u32::try_from(text.len()).expect("short"), sum, bytes }
}
