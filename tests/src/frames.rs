//! Frames made byte by byte, with checksums of their own, so that no mistake of the program can hide in them.

use crate::kernel::address;
use ebpf_abi::{Address, Flow};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;
pub const VLAN: u16 = 0x8100;
pub const SERVICE_VLAN: u16 = 0x88a8;

/// TCP's flags.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 2;
/// See [`FIN`].
pub const RST: u8 = 4;
/// See [`FIN`].
pub const PSH: u8 = 8;
/// See [`FIN`].
pub const ACK: u8 = 16;
/// See [`FIN`].
pub const URG: u8 = 32;

/// Where the frames of a test come from, and where they go to.
const MACS: [[u8; 6]; 2] = [[0x02, 0x10, 0x20, 0x30, 0x40, 1], [0x02, 0x50, 0x60, 0x70, 0x80, 2]];

/// An Ethernet header with tags, and what it carries.
#[must_use]
pub fn ethernet(tags: &[u16], protocol: u16, payload: &[u8]) -> Vec<u8> {
    between(MACS, tags, protocol, payload)
}

fn between([to, from]: [[u8; 6]; 2], tags: &[u16], protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0x20, 0x2a]);
    }
    frame.extend(protocol.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet with a SYN, from a source and with so many bytes of options.
#[must_use]
pub fn ipv4(source: &str, options: usize) -> Vec<u8> {
    assert!(options.is_multiple_of(4) && options <= 40);
    let source: Ipv4Addr = source.parse().expect("an IPv4 address");
    let header = 20 + options;
    let total = u16::try_from(header + 20).expect("a short packet");
    let mut packet = vec![0x40 | u8::try_from(header / 4).expect("at most 15 words"), 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(source.octets());
    packet.extend([203, 0, 113, 1]);
    packet.extend(std::iter::repeat_n(1, options));
    packet.extend(FIRST);
    packet
}

/// An IPv6 packet with a SYN.
#[must_use]
pub fn ipv6(source: Address) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    packet.extend(source);
    packet.extend(address("2001:db8:ffff::1"));
    packet.extend(FIRST);
    packet
}

/// A SYN from port 49152 to port 443.
const FIRST: [u8; 20] = [0xc0, 0, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];

/// A frame from an address of either family, untagged.
#[must_use]
pub fn from(source: &str) -> Vec<u8> {
    match source.parse().expect("an address") {
        IpAddr::V4(_) => ethernet(&[], IPV4, &ipv4(source, 0)),
        IpAddr::V6(ip) => ethernet(&[], IPV6, &ipv6(ip.octets())),
    }
}

/// The sum of RFC 1071 over words of 16 bits.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for word in part.chunks(2) {
            sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !u16::try_from(sum).expect("folded")
}

/// A segment of TCP in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Ethernet addresses: to, from.
    pub macs: [[u8; 6]; 2],
    pub tags: Vec<u16>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub lifetime: u8,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    /// TCP's options; a multiple of four bytes.
    pub options: Vec<u8>,
    pub data: Vec<u8>,
}

impl Segment {
    /// A segment with data, as it follows a handshake.
    #[must_use]
    pub fn new(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Self {
        Self {
            macs: MACS,
            tags: vec![],
            source,
            destination,
            lifetime: 57,
            sequence: 0x1020_3040,
            acknowledged: 0x5060_7080,
            flags: PSH | ACK,
            window: 512,
            options: vec![],
            data: data.to_vec(),
        }
    }

    /// What its receiver would send back: everything that has two ends the other way round, and no data.
    #[must_use]
    pub fn back(&self) -> Self {
        let [to, from] = self.macs;
        Self {
            macs: [from, to],
            source: self.destination,
            destination: self.source,
            lifetime: 64,
            sequence: self.acknowledged,
            acknowledged: self.end(),
            window: 0xffff,
            data: vec![],
            ..self.clone()
        }
    }

    /// Sequence number of what follows its data.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.sequence.wrapping_add(u32::try_from(self.data.len()).expect("a short segment"))
    }

    /// The same segment with time stamps, where they usually are.
    #[must_use]
    pub fn stamped(mut self, theirs: u32, echoed: u32) -> Self {
        self.options = [&[1, 1, 8, 10][..], &theirs.to_be_bytes(), &echoed.to_be_bytes()].concat();
        self
    }

    /// Its connection.
    #[must_use]
    pub fn flow(&self) -> Flow {
        Flow {
            source: octets(self.source.ip()),
            destination: octets(self.destination.ip()),
            source_port: self.source.port(),
            destination_port: self.destination.port(),
            protocol: 6,
            reserved: [0; 3],
        }
    }

    /// TCP's part, with its checksum.
    #[must_use]
    pub fn tcp(&self) -> Vec<u8> {
        let mut tcp = [self.source.port(), self.destination.port()].map(u16::to_be_bytes).concat();
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        let words = u8::try_from(5 + self.options.len() / 4).expect("at most 15 words");
        tcp.extend([words << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.data);
        let length = u32::try_from(tcp.len()).expect("a short segment").to_be_bytes();
        // For IPv4 the pseudo header is shorter, and its sum the same.
        let sum = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                checksum(&[&a.octets(), &b.octets(), &length, &[0, 0, 0, 6], &tcp])
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                checksum(&[&a.octets(), &b.octets(), &length, &[0, 0, 0, 6], &tcp])
            }
            ends => panic!("two families: {ends:?}"),
        };
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    /// The packet.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let tcp = self.tcp();
        let length = |more: usize| u16::try_from(more + tcp.len()).expect("a short packet").to_be_bytes();
        let mut packet;
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [high, low] = length(20);
                packet = vec![0x45, 0x08, high, low, 0x12, 0x34, 0x40, 0, self.lifetime, 6, 0, 0];
                packet.extend([source.octets(), destination.octets()].concat());
                let sum = checksum(&[&packet]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let [high, low] = length(0);
                packet = vec![0x60, 0x21, 0x43, 0x65, high, low, 6, self.lifetime];
                packet.extend([source.octets(), destination.octets()].concat());
            }
            ends => panic!("two families: {ends:?}"),
        }
        packet.extend(tcp);
        packet
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let protocol = if self.source.is_ipv4() { IPV4 } else { IPV6 };
        between(self.macs, &self.tags, protocol, &self.packet())
    }
}

/// An address as the program has it.
#[must_use]
pub fn octets(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, and a header of IPv4 that is well known.
    #[test]
    fn checksums() {
        assert_eq!(checksum(&[&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&[&header]), 0xb861);
    }
}
