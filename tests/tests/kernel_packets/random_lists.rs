//! Lists and frames by chance.

use super::*;
use ebpf_abi::Address;
use std::net::Ipv4Addr;
use tests::frames::{SERVICE_VLAN, VLAN};
use tests::kernel::SHORTEST;
use tests::random::Random;

/// A small world of addresses, so that lists and packets meet.
struct World(Random);

impl World {
    fn byte(&mut self) -> u8 {
        self.0
            .one_of(&[0_u8, 1, 0x45, 0x60, 0x7f, 0x80, 0xff])
            .wrapping_add(u8::try_from(self.0.below(3)).expect("small"))
    }

    /// An address of a small world, so that lists and packets meet; half of them IPv4.
    fn address(&mut self) -> Address {
        let mut address = if self.0.once_in(2) { address("10.0.0.0") } else { address("2001:db8::") };
        for at in [13, 14, 15] {
            address[at] = self.0.one_of(&[0, 1, 2, 0x7f, 0x80, 0xff]);
        }
        if address[10] == 0 {
            address[6] = self.0.one_of(&[0, 0x80]);
            address[13] = 0;
        }
        address
    }

    /// A frame, mostly sound.
    fn frame(&mut self) -> Vec<u8> {
        let tags: Vec<u16> =
            (0..self.0.one_of(&[0, 0, 0, 1, 2, 3])).map(|_| self.0.one_of(&[VLAN, SERVICE_VLAN])).collect();
        let source = self.address();
        let mapped = source.starts_with(&address("0.0.0.0")[..12]);
        let (protocol, mut packet) = if mapped && !self.0.once_in(4) {
            let [.., a, b, c, d] = source;
            (IPV4, ipv4(&Ipv4Addr::new(a, b, c, d).to_string(), self.0.below(11) * 4))
        } else {
            (IPV6, ipv6(source))
        };
        if self.0.once_in(6) {
            // A fragment, or an extension header.
            packet[6] = self.0.one_of(&[0, 43, 44, 51, 60, 135, 0x20]);
        }
        let protocol = if self.0.once_in(12) { self.0.one_of(&[IPV4, IPV6, ARP, VLAN, 0]) } else { protocol };
        let mut frame = ethernet(&tags, protocol, &packet);
        if self.0.once_in(3) {
            for _ in 0..=self.0.below(3) {
                let at = 12 + self.0.below(frame.len().min(40) - 12);
                frame[at] = self.byte();
            }
        }
        if self.0.once_in(5) {
            frame.truncate(SHORTEST + self.0.below(frame.len() - SHORTEST + 1));
        }
        if self.0.once_in(5) {
            frame.resize(frame.len() + self.0.below(64), 0);
        }
        frame
    }
}

/// An entry of a list: an address, the bits of it that count, and the list.
struct Entry {
    address: Address,
    bits: u32,
    list: u32,
}

impl Entry {
    fn covers(&self, other: &Address) -> bool {
        let different = u128::from_be_bytes(self.address) ^ u128::from_be_bytes(*other);
        different.leading_zeros() >= self.bits
    }
}

/// The source of a frame, and the outcome if it is on no list: with slices and early ends instead of pointers.
fn source_of(frame: &[u8]) -> Result<(Address, Outcome), Outcome> {
    fn word(bytes: &[u8], at: usize) -> Result<u16, Outcome> {
        let two = bytes.get(at..at + 2).ok_or(Outcome::PassUnparsed)?;
        Ok(u16::from_be_bytes([two[0], two[1]]))
    }
    let mut at = 12;
    let mut tags = 0;
    let protocol = loop {
        match word(frame, at)? {
            VLAN | SERVICE_VLAN if tags == 2 => return Err(Outcome::PassUnparsed),
            VLAN | SERVICE_VLAN => (tags, at) = (tags + 1, at + 4),
            protocol => break protocol,
        }
    };
    let packet = &frame[at + 2..];
    let unless = |sound: bool| if sound { Ok(()) } else { Err(Outcome::PassUnparsed) };
    match protocol {
        IPV4 => {
            unless(packet.len() >= 20 && packet[0] >> 4 == 4)?;
            let header = usize::from(packet[0] & 15) * 4;
            unless(header >= 20 && header <= packet.len())?;
            let total = usize::from(word(packet, 2)?);
            unless(total == 0 || (header..=packet.len()).contains(&total))?;
            let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
            let whole = word(packet, 6)? & 0x3fff == 0;
            let outcome = if whole { ports(packet[9], &packet[header..]) } else { Outcome::PassFragment };
            Ok((source.to_ipv6_mapped().octets(), outcome))
        }
        IPV6 => {
            unless(packet.len() >= 40 && packet[0] >> 4 == 6)?;
            unless(packet.len() - 40 >= usize::from(word(packet, 4)?))?;
            let source = packet[8..24].try_into().expect("16 bytes");
            Ok((source, extensions(packet[6], &packet[40..], 6)))
        }
        _ => Err(Outcome::PassOther),
    }
}

/// What follows extension headers, of which no more than so many are followed.
fn extensions(number: u8, rest: &[u8], more: usize) -> Outcome {
    if ![0, 43, 44, 51, 60, 135].contains(&number) {
        return ports(number, rest);
    }
    let [next, length, high, low, ..] = *rest else { return Outcome::PassUnparsed };
    if rest.len() < 8 || more == 0 {
        return Outcome::PassUnparsed;
    }
    let length = match number {
        44 if u16::from_be_bytes([high, low]) & 0xfff9 != 0 => return Outcome::PassFragment,
        44 => 8,
        51 => usize::from(length) * 4 + 8,
        _ => usize::from(length) * 8 + 8,
    };
    match rest.get(length..) {
        Some(rest) => extensions(next, rest, more - 1),
        None => Outcome::PassUnparsed,
    }
}

fn ports(protocol: u8, transport: &[u8]) -> Outcome {
    let short = matches!(protocol, 6 | 17) && transport.len() < 8;
    if short { Outcome::PassUnparsed } else { Outcome::Pass }
}

/// What a frame should lead to: the lists gone through from end to end.
fn expected(frame: &[u8], entries: &[Entry], monitor: bool) -> Outcome {
    let (source, unlisted) = match source_of(frame) {
        Ok(read) => read,
        Err(outcome) => return outcome,
    };
    let on = |list: u32| entries.iter().any(|entry| entry.list == list && entry.covers(&source));
    match (on(LIST_TRUSTED), on(LIST_ALLOW), on(LIST_DENY)) {
        (true, _, _) => Outcome::PassTrusted,
        (_, true, _) if unlisted == Outcome::Pass => Outcome::PassAllowed,
        (_, true, _) | (_, false, false) => unlisted,
        (_, false, true) if monitor => Outcome::MonitorIpDenied,
        (_, false, true) => Outcome::DropIpDenied,
    }
}

#[test]
fn random_lists_and_frames_against_a_naive_reference() {
    const ROUNDS: usize = 300;
    const FRAMES: usize = 100;
    let Some(mut kernel) = Kernel::load() else { return };
    let mut world = World(Random(0x6564_6765));
    let mut seen = [0_usize; Outcome::ALL.len()];
    let mut filled: [Vec<(Address, u32)>; 2] = [vec![], vec![]];
    for round in 0..ROUNDS {
        let bank = round % 2;
        for (address, bits) in filled[bank].drain(..) {
            if bits == 128 {
                kernel.remove_exact(bank, address);
            } else {
                kernel.remove_prefix_bits(bank, address, bits);
            }
        }
        let entries: Vec<Entry> = (0..world.0.below(30))
            .map(|_| {
                let address = world.address();
                let bits = world.0.one_of(&[128, 128, 127, 126, 121, 120, 119, 112, 104, 96, 56, 49, 32, 0]);
                // Entries that cover everything would leave nothing to see.
                let bits = if bits == 0 && !world.0.once_in(4) { 128 } else { bits };
                let masked = u128::from_be_bytes(address) & u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                Entry {
                    address: masked.to_be_bytes(),
                    bits,
                    list: world.0.one_of(&[
                        LIST_ALLOW,
                        LIST_ALLOW,
                        LIST_DENY,
                        LIST_DENY,
                        LIST_DENY,
                        LIST_TRUSTED,
                    ]),
                }
            })
            .collect();
        let mut flags = 0;
        for entry in &entries {
            let covering = |other: &&Entry| other.bits <= entry.bits && other.covers(&entry.address);
            let lists = entries.iter().filter(covering).fold(0, |lists, other| lists | other.list);
            if entry.bits == 128 {
                kernel.exact(bank, entry.address, lists);
                flags |= FLAG_EXACT;
            } else {
                kernel.prefix_bits(bank, entry.address, entry.bits, lists);
                flags |= FLAG_PREFIX;
            }
            if !filled[bank].contains(&(entry.address, entry.bits)) {
                filled[bank].push((entry.address, entry.bits));
            }
        }
        let monitor = world.0.once_in(3);
        if monitor {
            flags |= FLAG_MONITOR;
        }
        kernel.configure(u32::try_from(bank).expect("0 or 1"), flags);
        for _ in 0..FRAMES {
            let frame = world.frame();
            let outcome = expected(&frame, &entries, monitor);
            seen[outcome as usize] += 1;
            assert_outcome(&kernel, &frame, outcome);
        }
    }
    println!("{ROUNDS} lists, {} frames: {:?}", ROUNDS * FRAMES, Outcome::ALL.map(|o| (o, seen[o as usize])));
    // A reference that always says the same proves nothing.
    let wanted = [
        Outcome::Pass,
        Outcome::PassOther,
        Outcome::PassUnparsed,
        Outcome::PassFragment,
        Outcome::PassAllowed,
        Outcome::PassTrusted,
        Outcome::DropIpDenied,
        Outcome::MonitorIpDenied,
    ];
    assert!(wanted.iter().all(|&outcome| seen[outcome as usize] >= 100), "{seen:?}");
}
