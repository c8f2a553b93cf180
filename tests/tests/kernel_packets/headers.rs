//! From Ethernet's header to that of the transport.

use super::*;
use tests::frames::{SERVICE_VLAN, VLAN};
use tests::kernel::SHORTEST;

#[test]
fn up_to_two_vlan_tags_are_followed() {
    let Some(kernel) = denying() else { return };
    let ones = [vec![], vec![VLAN], vec![SERVICE_VLAN]];
    let twos = [VLAN, SERVICE_VLAN].map(|outer| [VLAN, SERVICE_VLAN].map(|inner| vec![outer, inner]));
    for tags in ones.into_iter().chain(twos.into_iter().flatten()) {
        for (protocol, bad, good) in [
            (IPV4, ipv4(BAD4, 0), ipv4(GOOD4, 0)),
            (IPV4, ipv4(BAD4, 40), ipv4(GOOD4, 40)),
            (IPV6, ipv6(address(BAD6)), ipv6(address(GOOD6))),
        ] {
            assert_outcome(&kernel, &ethernet(&tags, protocol, &bad), Outcome::DropIpDenied);
            assert_outcome(&kernel, &ethernet(&tags, protocol, &good), Outcome::Pass);
            // One tag too many makes three.
            if let [outer, inner] = tags[..] {
                for third in [VLAN, SERVICE_VLAN] {
                    let tags = [outer, inner, third];
                    assert_outcome(&kernel, &ethernet(&tags, protocol, &bad), Outcome::PassUnparsed);
                    assert_outcome(
                        &kernel,
                        &ethernet(&[outer, inner, third, VLAN], protocol, &bad),
                        Outcome::PassUnparsed,
                    );
                }
            }
        }
        assert_outcome(&kernel, &ethernet(&tags, ARP, &[0; 28]), Outcome::PassOther);
    }
}

#[test]
fn other_protocols_pass() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.prefix_bits(0, [0; 16], 0, LIST_DENY);
    kernel.configure(0, FLAG_PREFIX);
    // ARP, LLDP, MPLS, PPPoE, a length instead of a type, an older tag; a packet within is not looked for.
    for protocol in [ARP, 0x88cc, 0x8847, 0x8864, 46, 0, 0xffff, 0x9100, 0x0008, 0xdd86, IPV4 + 1, IPV6 - 1] {
        for payload in [&ipv4(BAD4, 0)[..], &ipv6(address(BAD6)), &[]] {
            for tags in [&[][..], &[VLAN], &[SERVICE_VLAN, VLAN]] {
                assert_outcome(&kernel, &ethernet(tags, protocol, payload), Outcome::PassOther);
            }
        }
    }
}

#[test]
fn the_family_is_that_of_the_ethernet_header() {
    let Some(kernel) = denying() else { return };
    assert_outcome(&kernel, &ethernet(&[], IPV6, &ipv4(BAD4, 40)), Outcome::PassUnparsed);
    assert_outcome(&kernel, &ethernet(&[], IPV4, &ipv6(address(BAD6))), Outcome::PassUnparsed);
    for version in (0..16).filter(|&version| version != 4) {
        let mut packet = ipv4(BAD4, 0);
        packet[0] = version << 4 | 5;
        assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), Outcome::PassUnparsed);
    }
    for version in (0..16).filter(|&version| version != 6) {
        let mut packet = ipv6(address(BAD6));
        packet[0] = version << 4;
        assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), Outcome::PassUnparsed);
    }
    // The traffic class is not part of the version.
    let mut packet = ipv6(address(BAD6));
    packet[0] = 0x6f;
    assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), Outcome::DropIpDenied);
}

#[test]
fn ipv4_options_and_header_lengths() {
    let Some(kernel) = denying() else { return };
    for options in (0..=40).step_by(4) {
        assert_outcome(&kernel, &ethernet(&[], IPV4, &ipv4(BAD4, options)), Outcome::DropIpDenied);
        assert_outcome(&kernel, &ethernet(&[], IPV4, &ipv4(GOOD4, options)), Outcome::Pass);
    }
    for words in 0..5 {
        let mut packet = ipv4(BAD4, 0);
        packet[0] = 0x40 | words;
        assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), Outcome::PassUnparsed);
    }
    // Longer than the packet, of which 20 bytes come after the header.
    for words in 5..16 {
        let mut packet = ipv4(BAD4, 0);
        packet[0] = 0x40 | words;
        let outcome = if words <= 10 { Outcome::DropIpDenied } else { Outcome::PassUnparsed };
        assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), outcome);
    }
}

#[test]
fn ipv4_total_length() {
    let Some(kernel) = denying() else { return };
    let packet = ipv4(BAD4, 8);
    for (total, outcome) in [
        // Merged segments of more than 64 KiB, as generic mode sees them.
        (0, Outcome::DropIpDenied),
        (1, Outcome::PassUnparsed),
        (27, Outcome::PassUnparsed),
        (28, Outcome::DropIpDenied),
        // Padding behind the packet.
        (47, Outcome::DropIpDenied),
        (48, Outcome::DropIpDenied),
        (49, Outcome::PassUnparsed),
        (0x3000, Outcome::PassUnparsed),
        (u16::MAX, Outcome::PassUnparsed),
    ] {
        let mut packet = packet.clone();
        packet[2..4].copy_from_slice(&u16::to_be_bytes(total));
        assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), outcome);
        assert_outcome(&kernel, &ethernet(&[SERVICE_VLAN, VLAN], IPV4, &packet), outcome);
    }
}

#[test]
fn ipv6_payload_length() {
    let Some(kernel) = denying() else { return };
    for (length, outcome) in [
        (0, Outcome::DropIpDenied),
        (1, Outcome::DropIpDenied),
        (20, Outcome::DropIpDenied),
        (21, Outcome::PassUnparsed),
        (0x1400, Outcome::PassUnparsed),
        (u16::MAX, Outcome::PassUnparsed),
    ] {
        let mut packet = ipv6(address(BAD6));
        packet[4..6].copy_from_slice(&u16::to_be_bytes(length));
        assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), outcome);
        assert_outcome(&kernel, &ethernet(&[VLAN], IPV6, &packet), outcome);
    }
}

/// The ports of a fragment may be elsewhere, its source is not.
#[test]
fn fragments() {
    let Some(kernel) = denying() else { return };
    for (source, outcome) in [(BAD4, Outcome::DropIpDenied), (GOOD4, Outcome::PassFragment)] {
        for offset in [0x2000_u16, 0x2001, 0x00b9, 0x1fff] {
            let mut packet = ipv4(source, 0);
            packet[6..8].copy_from_slice(&offset.to_be_bytes());
            assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), outcome);
        }
    }
    // May be fragmented, must not be, and a bit without a meaning.
    for flags in [0x00, 0x40, 0x80] {
        let mut packet = ipv4(GOOD4, 0);
        packet[6] = flags;
        assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), Outcome::Pass);
    }
    for (source, outcome) in [(BAD6, Outcome::DropIpDenied), (GOOD6, Outcome::PassFragment)] {
        for offset in [1_u16, 8, 9, 0xfff8] {
            let [high, low] = offset.to_be_bytes();
            let packet = extended(source, &[(44, &[0, 0, high, low, 1, 2, 3, 4])]);
            assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), outcome);
            let packet = extended(source, &[(60, &[0; 8]), (44, &[0, 0, high, low, 1, 2, 3, 4])]);
            assert_outcome(&kernel, &ethernet(&[VLAN], IPV6, &packet), outcome);
        }
    }
    // A fragment that is the whole.
    for reserved in [0, 2, 4, 6] {
        let packet = extended(GOOD6, &[(44, &[0, 0, 0, reserved, 1, 2, 3, 4])]);
        assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), Outcome::Pass);
    }
}

#[test]
fn protocols_without_ports() {
    let Some(kernel) = denying() else { return };
    for protocol in [1, 6, 17, 41, 47, 50, 58, 59, 132, 255] {
        for (source, outcome) in [(BAD4, Outcome::DropIpDenied), (GOOD4, Outcome::Pass)] {
            let mut packet = ipv4(source, 0);
            packet[9] = protocol;
            assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), outcome);
        }
        for (source, outcome) in [(BAD6, Outcome::DropIpDenied), (GOOD6, Outcome::Pass)] {
            let mut packet = ipv6(address(source));
            packet[6] = protocol;
            assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), outcome);
        }
    }
}

/// A packet with extension headers, each with its number and its bytes but the first one, before its SYN.
fn extended(source: &str, headers: &[(u8, &[u8])]) -> Vec<u8> {
    let mut packet = ipv6(address(source));
    let first_segment = packet.split_off(40);
    packet[6] = headers.first().map_or(6, |(number, _)| *number);
    for (index, (_, bytes)) in headers.iter().enumerate() {
        let mut bytes = bytes.to_vec();
        bytes[0] = headers.get(index + 1).map_or(6, |(number, _)| *number);
        packet.extend(bytes);
    }
    packet.extend(first_segment);
    let length = u16::try_from(packet.len() - 40).expect("a short packet");
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet
}

#[test]
fn extension_headers_are_followed() {
    let Some(kernel) = denying() else { return };
    let options = [0; 8];
    let longer: [u8; 24] = std::array::from_fn(|at| if at == 1 { 2 } else { 0 });
    // Its length is in words of four bytes, less two.
    let authentication: [u8; 24] = std::array::from_fn(|at| if at == 1 { 4 } else { 0 });
    for number in [0, 43, 60, 135] {
        for bytes in [&options[..], &longer] {
            let frame = |source| ethernet(&[], IPV6, &extended(source, &[(number, bytes)]));
            assert_outcome(&kernel, &frame(GOOD6), Outcome::Pass);
            assert_outcome(&kernel, &frame(BAD6), Outcome::DropIpDenied);
        }
    }
    let mixed = [
        (0, &options[..]),
        (60, &longer),
        (43, &options),
        (44, &[0; 8]),
        (51, &authentication),
        (60, &longer),
    ];
    for count in 0..=mixed.len() {
        let frame = |source| ethernet(&[], IPV6, &extended(source, &mixed[..count]));
        assert_outcome(&kernel, &frame(GOOD6), Outcome::Pass);
        assert_outcome(&kernel, &frame(BAD6), Outcome::DropIpDenied);
    }
    let seven = [(60, &options[..]); 7];
    for (source, outcome) in [(GOOD6, Outcome::PassUnparsed), (BAD6, Outcome::DropIpDenied)] {
        assert_outcome(&kernel, &ethernet(&[], IPV6, &extended(source, &seven)), outcome);
        // A header that is longer than the packet.
        let mut packet = extended(source, &[(60, &options)]);
        packet[41] = 3;
        assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), outcome);
    }
    // Cut short, with a length that does not say so: ports are eight bytes from where they start.
    let mut packet = extended(GOOD6, &mixed);
    packet[4..6].fill(0);
    let ports = packet.len() - 20;
    for length in 40..packet.len() {
        let outcome = if length < ports + 8 { Outcome::PassUnparsed } else { Outcome::Pass };
        assert_outcome(&kernel, &ethernet(&[], IPV6, &packet[..length]), outcome);
    }
}

/// As they are for sources that are not denied: what is too short for ports is not judged further.
#[test]
fn short_transports() {
    let Some(kernel) = denying() else { return };
    for protocol in [1, 6, 17] {
        for length in 20..=40 {
            let mut packet = ipv4(GOOD4, 0);
            packet[9] = protocol;
            packet.truncate(length);
            packet[2..4].copy_from_slice(&u16::try_from(length).expect("short").to_be_bytes());
            let enough = protocol == 1 || length >= 28;
            let outcome = if enough { Outcome::Pass } else { Outcome::PassUnparsed };
            assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), outcome);
        }
    }
}

#[test]
fn a_mapped_ipv6_source_is_its_ipv4_address() {
    let Some(mut kernel) = denying() else { return };
    kernel.prefix(0, "203.0.113.0/24", LIST_DENY);
    kernel.configure(0, LISTS);
    for bad in [BAD4, "203.0.113.77"] {
        assert_outcome(&kernel, &ethernet(&[], IPV6, &ipv6(address(bad))), Outcome::DropIpDenied);
    }
    assert_outcome(&kernel, &ethernet(&[], IPV6, &ipv6(address(GOOD4))), Outcome::Pass);
    // Other ways to write an IPv4 address into an IPv6 one are addresses of their own.
    for other in ["::192.0.2.66", "64:ff9b::192.0.2.66", "::fffe:c000:242", "2002:c000:242::"] {
        assert_outcome(&kernel, &from(other), Outcome::Pass);
    }
}

/// The destination is nobody's concern, and nor are the Ethernet addresses.
#[test]
fn only_the_source_counts() {
    let Some(kernel) = denying() else { return };
    let mut packet = ipv4(GOOD4, 0);
    packet[16..20].copy_from_slice(&[192, 0, 2, 66]);
    assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), Outcome::Pass);
    let mut packet = ipv6(address(GOOD6));
    packet[24..40].copy_from_slice(&address(BAD6));
    assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), Outcome::Pass);
    let mut frame = from(BAD4);
    frame[..12].fill(0xff);
    assert_outcome(&kernel, &frame, Outcome::DropIpDenied);
}

/// A packet that says how long it is and is not passes, at every length; so does a header that ends early.
#[test]
fn truncated_at_every_length() {
    let Some(kernel) = denying() else { return };
    let mut unsized4 = ipv4(BAD4, 40);
    unsized4[2..4].fill(0);
    let mut unsized6 = ipv6(address(BAD6));
    unsized6[4..6].fill(0);
    for tags in [&[][..], &[VLAN], &[SERVICE_VLAN, VLAN]] {
        // The packet, and the length from which it can be judged.
        for (protocol, packet, enough) in [
            (IPV4, ipv4(BAD4, 0), 40),
            (IPV4, ipv4(BAD4, 40), 80),
            (IPV4, unsized4.clone(), 60),
            (IPV6, ipv6(address(BAD6)), 60),
            (IPV6, unsized6.clone(), 40),
        ] {
            let frame = ethernet(tags, protocol, &packet);
            let header = frame.len() - packet.len();
            for length in SHORTEST..=frame.len() {
                let outcome =
                    if length < header + enough { Outcome::PassUnparsed } else { Outcome::DropIpDenied };
                assert_outcome(&kernel, &frame[..length], outcome);
            }
        }
        let frame = ethernet(tags, ARP, &[0; 28]);
        let header = frame.len() - 28;
        for length in SHORTEST..=frame.len() {
            let outcome = if length < header { Outcome::PassUnparsed } else { Outcome::PassOther };
            assert_outcome(&kernel, &frame[..length], outcome);
        }
    }
    let frame = ethernet(&[VLAN; 3], IPV4, &ipv4(BAD4, 0));
    for length in SHORTEST..=frame.len() {
        assert_outcome(&kernel, &frame[..length], Outcome::PassUnparsed);
    }
}

#[test]
fn frames_of_all_sizes() {
    let Some(kernel) = denying() else { return };
    for size in [60, 590, 1514, 3000] {
        for (source, outcome) in [(BAD4, Outcome::DropIpDenied), (GOOD4, Outcome::Pass)] {
            let mut frame = from(source);
            frame.resize(size, 0x5a);
            assert_outcome(&kernel, &frame, outcome);
            let total = u16::try_from(size - 14).expect("a frame");
            frame[16..18].copy_from_slice(&total.to_be_bytes());
            assert_outcome(&kernel, &frame, outcome);
            frame[16..18].copy_from_slice(&(total + 1).to_be_bytes());
            assert_outcome(&kernel, &frame, Outcome::PassUnparsed);
        }
    }
}
