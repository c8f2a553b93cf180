//! Frames of TCP, and what they are judged by.

use benches::networks::{COUNTRIES, Network, country};
use bytemuck::allocation::zeroed_box;
use ebpf_abi::{
    Address, BLOCK_BITS, BLOCKS, Service, SessionKey, Tables, V4_CHUNKS, V6_CHUNKS, country_number,
    listed_bit, session_key, set_bit, set_verdict, verdict,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tests::random::Random;

/// A port whose requests are searched for sessions.
pub(crate) const INSPECTED: u16 = 80;
/// A port with neither.
pub(crate) const PLAIN: u16 = 8080;
/// A port with a service that admits every country.
pub(crate) const SERVICE: u16 = 443;

/// Where the source's address is in a frame of IPv4, and of IPv6.
pub(crate) const SOURCE_AT: [usize; 2] = [14 + 12, 14 + 8];

pub(crate) const SYN: u8 = 2;
pub(crate) const PSH_ACK: u8 = 0x18;

/// What all frames are sent to.
pub(crate) const fn here(v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1))
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1))
    }
}

/// A frame from some address. Checksums are left out: nobody here looks at them.
pub(crate) fn tcp(source: IpAddr, port: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let length = u16::try_from(20 + data.len()).unwrap_or(u16::MAX);
    match (source, here(source.is_ipv4())) {
        (IpAddr::V4(source), IpAddr::V4(here)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend((length + 20).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
            frame.extend(source.octets());
            frame.extend(here.octets());
        }
        (source, here) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([6, 64]);
            frame.extend(address(source));
            frame.extend(address(here));
        }
    }
    frame.extend(40_000u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(data);
    frame
}

/// An address as the maps have it.
pub(crate) const fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// An address of the kind that random sources have: anywhere in IPv4, and in IPv6 where the table has ranges.
pub(crate) fn random_address(random: &mut Random, v4: bool) -> IpAddr {
    let number = random.number();
    if v4 {
        IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number >> 32).unwrap_or(0)))
    } else {
        let high = u128::from(number & 0x000f_ffff_ffff_ffff | 0x2a00_0000_0000_0000);
        IpAddr::V6(Ipv6Addr::from_bits(high << 64 | u128::from(random.number())))
    }
}

/// Whether the service does not admit a country: a twentieth of them, and of the addresses.
const fn is_refused(number: u32) -> bool {
    number % COUNTRIES % 20 == 7
}

/// Everything that is compiled for the kernel but lists: the networks, a service at [`SERVICE`] that refuses some countries,
/// and [`INSPECTED`] as a session port.
pub(crate) fn tables(networks: &[Network], full: bool) -> Box<Tables> {
    let mut tables: Box<Tables> = zeroed_box();
    let place = |index: usize| u32::try_from(index).unwrap_or(u32::MAX);
    for (index, network) in networks.iter().enumerate() {
        let (chunk, low) = (network.first >> 16, network.first & 0xffff);
        if low == 0 {
            tables.v4_chunks[chunk as usize] = place(index);
        }
        tables.v4_ranges[index] = low << 16 | u32::from(country_number(network.country));
    }
    tables.v4_chunks[V4_CHUNKS - 2] = place(networks.len());
    // Some parts of IPv6 with many ranges, as where providers have theirs, and all others with one.
    let (mut count, each) = (0, if full { 4096 } else { 64 });
    for chunk in 0..V6_CHUNKS - 2 {
        tables.v6_chunks[chunk] = place(count);
        let ranges = if chunk & 0xfff0 == 0x2a00 { each } else { 1 };
        for range in 0..ranges {
            let code = country_number(country(place(range * 7) % COUNTRIES));
            tables.v6_ranges[count] = (range as u64 * ((1 << 48) / ranges as u64)) << 16 | u64::from(code);
            count += 1;
        }
    }
    tables.v6_chunks[V6_CHUNKS - 2] = place(count);

    for (row, family) in [4, 6].into_iter().enumerate() {
        let v4 = family == 4;
        tables.services[row] = Service {
            network: address(here(v4)),
            mask: [0xff; 16],
            port: SERVICE,
            policy: 0,
            family,
            reserved: 0,
        };
    }
    tables.service_count = 2;
    let refused: Vec<[u8; 2]> = (0..COUNTRIES).filter(|&number| is_refused(number)).map(country).collect();
    tables.policies[0] = [u64::MAX; 16];
    for number in refused.iter().map(|&code| country_number(code)) {
        tables.policies[0][usize::from(number / 64)] &= !(1 << (number % 64));
    }
    // Per block which of both there are.
    let mut seen = vec![[false; 2]; BLOCKS];
    for network in networks {
        let last = network.first | u32::MAX.checked_shr(network.bits.into()).unwrap_or(0);
        for block in network.first >> (32 - BLOCK_BITS)..=last >> (32 - BLOCK_BITS) {
            seen[block as usize][usize::from(refused.contains(&network.country))] = true;
        }
    }
    for (block, seen) in (0..).zip(seen) {
        let verdict = match seen {
            [true, false] => verdict::PASSES,
            [false, true] => verdict::REFUSED,
            _ => verdict::OPEN,
        };
        set_verdict(&mut tables.verdicts_v4[0], block, verdict);
    }
    set_bit(&mut tables.session_ports, INSPECTED);
    tables
}

/// Says in the tables that lists have an entry for an address or a network that is no wider than a block.
pub(crate) fn list(tables: &mut Tables, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            let block = ip.to_bits() >> (32 - BLOCK_BITS);
            set_bit(&mut tables.listed_v4, block);
            for verdicts in &mut tables.verdicts_v4 {
                let (word, at) = (&mut verdicts[block as usize / 32], block % 32 * 2);
                let listed = if *word >> at & 1 == 0 { verdict::OPEN } else { verdict::LISTED };
                *word = *word & !(3 << at) | u64::from(listed) << at;
            }
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            set_bit(&mut tables.listed_v6, listed_bit(a, b, c));
        }
    }
}

/// A whole request, and where in it two groups of letters of the session are. Any other letters from `a` to `h` there
/// make another session of it.
pub(crate) fn request() -> (Vec<u8>, [usize; 2]) {
    let target = benches::target();
    let text =
        format!("GET {target} HTTP/1.1\r\nHost: cdn.example\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n");
    let payload = text.find('.').map_or(0, |dot| dot + 1);
    // The session is the letter `s` many times over, and three of them are always these four.
    let group = |at: usize| text.get(at..at + 12) == Some("c3Nzc3Nzc3Nz");
    let at = (payload..text.len()).step_by(4).find(|&at| group(at)).map_or(0, |at| at + 4);
    (text.into_bytes(), [at, at + 4])
}

/// The keys of all that the session of [`request`] may be: the letter `s`, some times over.
pub(crate) fn session_keys() -> Vec<SessionKey> {
    (8..64).filter_map(|length| session_key(&vec![b's'; length])).collect()
}
