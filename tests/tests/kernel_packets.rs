//! The kernel program on single frames: every branch both ways, the verdict and the counters exact, and no frame changed
//! (the last two by [`Kernel::run`]).
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use aya::maps::{Map, MapInfo, MapType};
use ebpf_abi::{
    ABI_VERSION, Address, Config, EXACT_CAPACITY, FLAG_EXACT, FLAG_MONITOR, FLAG_PREFIX, LIST_ALLOW,
    LIST_DENY, MAGIC, Outcome, map,
};
use std::net::{IpAddr, Ipv4Addr};
use tests::kernel::{DROP, Kernel, PASS, Ran, SHORTEST, address};

/// What the verifier may have to look at. The limit of the kernel is a million; another kernel may count differently,
/// and there is more to come.
const INSTRUCTIONS: u32 = 20_000;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;

const LISTS: u32 = FLAG_EXACT | FLAG_PREFIX;
const DENIED_BY_ALLOWED: u32 = LIST_DENY | LIST_ALLOW;

/// On the deny list of [`denying`].
const BAD4: &str = "192.0.2.66";
const BAD6: &str = "2001:db8::66";
/// On no list.
const GOOD4: &str = "198.51.100.1";
const GOOD6: &str = "2001:db8:1::1";

/// The verdict that goes with an outcome.
fn ran(outcome: Outcome) -> Ran {
    Ran { verdict: if outcome == Outcome::DropIpDenied { DROP } else { PASS }, outcome }
}

/// An Ethernet header with tags, and what it carries.
fn ethernet(tags: &[u16], protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0x20, 0x2a]);
    }
    frame.extend(protocol.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet with a SYN, from a source and with so many bytes of options.
fn ipv4(source: &str, options: usize) -> Vec<u8> {
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
    packet.extend(SYN);
    packet
}

/// An IPv6 packet with a SYN.
fn ipv6(source: Address) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    packet.extend(source);
    packet.extend(address("2001:db8:ffff::1"));
    packet.extend(SYN);
    packet
}

const SYN: [u8; 20] = [0xc0, 0, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];

/// A frame from an address of either family, untagged.
fn from(source: &str) -> Vec<u8> {
    match source.parse().expect("an address") {
        IpAddr::V4(_) => ethernet(&[], IPV4, &ipv4(source, 0)),
        IpAddr::V6(ip) => ethernet(&[], IPV6, &ipv6(ip.octets())),
    }
}

/// A program with [`BAD4`] and [`BAD6`] on its deny list.
fn denying() -> Option<Kernel> {
    let mut kernel = Kernel::load()?;
    kernel.exact(0, address(BAD4), LIST_DENY);
    kernel.exact(0, address(BAD6), LIST_DENY);
    kernel.configure(0, FLAG_EXACT);
    Some(kernel)
}

#[track_caller]
fn assert_outcome(kernel: &Kernel, frame: &[u8], outcome: Outcome) {
    assert_eq!(kernel.run(frame), ran(outcome), "{frame:02x?}");
}

#[test]
fn the_verifier_has_little_to_do() {
    let Some(kernel) = Kernel::load() else { return };
    let info = kernel.program().info().expect("its description");
    let Some(count) = info.verified_instruction_count() else {
        println!("this kernel does not say");
        return;
    };
    println!("verified instructions: {count}");
    assert!(count <= INSTRUCTIONS, "{count} > {INSTRUCTIONS}");
}

#[test]
fn maps_are_as_the_abi_says() {
    const NO_PREALLOC: u32 = 1;
    let Some(kernel) = Kernel::load() else { return };
    let info = |name: &str| -> MapInfo {
        match kernel.map(name) {
            Map::HashMap(data) | Map::LpmTrie(data) | Map::Array(data) | Map::PerCpuArray(data) => {
                data.info().expect("its description")
            }
            other => panic!("{name} is {other:?}"),
        }
    };
    let assert_map = |name: &str, kind: MapType, key: u32, value: u32, entries: u32, flags: u32| {
        let info = info(name);
        assert_eq!(info.map_type().expect("a known type"), kind, "{name}");
        assert_eq!((info.key_size(), info.value_size()), (key, value), "{name}");
        assert_eq!((info.max_entries(), info.map_flags()), (entries, flags), "{name}");
    };
    for name in map::EXACT {
        assert_map(name, MapType::Hash, 16, 4, EXACT_CAPACITY, NO_PREALLOC);
    }
    for name in map::PREFIX {
        assert_map(name, MapType::LpmTrie, 20, 4, ebpf_abi::PREFIX_CAPACITY, NO_PREALLOC);
    }
    assert_map(map::CONFIG, MapType::Array, 4, 24, 1, 0);
    let outcomes = u32::try_from(Outcome::ALL.len()).expect("a few");
    assert_map(map::COUNTERS, MapType::PerCpuArray, 4, 8, outcomes, 0);
}

#[test]
fn a_full_list_is_an_error_and_not_a_forgotten_entry() {
    let Some(mut kernel) = Kernel::load() else { return };
    let nth = |n: u32| {
        let mut address = address("2001:db8::");
        address[12..].copy_from_slice(&n.to_be_bytes());
        address
    };
    for n in 0..EXACT_CAPACITY {
        kernel.exact(0, nth(n), LIST_DENY);
    }
    assert!(kernel.try_exact(0, nth(EXACT_CAPACITY), LIST_DENY).is_err());
    for n in 0..ebpf_abi::PREFIX_CAPACITY {
        kernel.prefix_bits(0, nth(n), 128, LIST_DENY);
    }
    assert!(kernel.try_prefix_bits(0, nth(ebpf_abi::PREFIX_CAPACITY), 128, LIST_DENY).is_err());
    kernel.configure(0, LISTS);
    for n in [0, 1, 4711, ebpf_abi::PREFIX_CAPACITY, EXACT_CAPACITY - 1] {
        assert_outcome(&kernel, &ethernet(&[], IPV6, &ipv6(nth(n))), Outcome::DropIpDenied);
    }
    assert_outcome(&kernel, &ethernet(&[], IPV6, &ipv6(nth(EXACT_CAPACITY))), Outcome::Pass);
}

#[test]
fn exact_addresses() {
    let Some(kernel) = denying() else { return };
    for bad in [BAD4, BAD6] {
        assert_outcome(&kernel, &from(bad), Outcome::DropIpDenied);
    }
    for good in [GOOD4, GOOD6, "192.0.2.65", "192.0.2.67", "193.0.2.66", "2001:db8::67", "::192.0.2.66"] {
        assert_outcome(&kernel, &from(good), Outcome::Pass);
    }
}

#[test]
fn prefixes_end_where_they_end() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.prefix(0, "192.0.2.64/26", LIST_DENY);
    kernel.prefix(0, "2001:db8:0:ff00::/56", LIST_DENY);
    kernel.prefix(0, "203.0.113.7/32", LIST_DENY);
    kernel.prefix(0, "2001:db8::7/128", LIST_DENY);
    kernel.configure(0, FLAG_PREFIX);
    let inside = ["192.0.2.64", "192.0.2.127", "2001:db8:0:ff00::", "2001:db8:0:ffff:ffff:ffff:ffff:ffff"];
    for bad in inside.into_iter().chain(["203.0.113.7", "2001:db8::7"]) {
        assert_outcome(&kernel, &from(bad), Outcome::DropIpDenied);
    }
    let outside = ["192.0.2.63", "192.0.2.128", "2001:db8:0:feff:ffff:ffff:ffff:ffff", "2001:db8:1::"];
    for good in outside.into_iter().chain(["203.0.113.6", "203.0.113.8", "2001:db8::6", "::c000:0240"]) {
        assert_outcome(&kernel, &from(good), Outcome::Pass);
    }
}

#[test]
fn a_prefix_of_everything() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.prefix(0, "0.0.0.0/0", LIST_DENY);
    kernel.configure(0, FLAG_PREFIX);
    for bad in ["0.0.0.0", "255.255.255.255", GOOD4] {
        assert_outcome(&kernel, &from(bad), Outcome::DropIpDenied);
    }
    assert_outcome(&kernel, &from(GOOD6), Outcome::Pass);
    // A key of no bits is every address of both families.
    kernel.prefix_bits(0, [0; 16], 0, LIST_ALLOW);
    assert_outcome(&kernel, &from(GOOD6), Outcome::PassAllowed);
    assert_outcome(&kernel, &from(GOOD4), Outcome::DropIpDenied);
}

#[test]
fn allowed_inside_denied() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.prefix(0, "192.0.2.0/24", LIST_DENY);
    kernel.prefix(0, "192.0.2.0/28", DENIED_BY_ALLOWED);
    kernel.exact(0, address("192.0.2.200"), DENIED_BY_ALLOWED);
    kernel.prefix(0, "2001:db8::/32", LIST_DENY);
    kernel.prefix(0, "2001:db8:a::/48", DENIED_BY_ALLOWED);
    kernel.configure(0, LISTS);
    for allowed in ["192.0.2.0", "192.0.2.15", "192.0.2.200", "2001:db8:a::1"] {
        assert_outcome(&kernel, &from(allowed), Outcome::PassAllowed);
    }
    for denied in ["192.0.2.16", "192.0.2.199", "2001:db8:b::1"] {
        assert_outcome(&kernel, &from(denied), Outcome::DropIpDenied);
    }
}

#[test]
fn denied_inside_allowed_stays_allowed() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.prefix(0, "192.0.2.0/24", LIST_ALLOW);
    kernel.prefix(0, "192.0.2.0/28", DENIED_BY_ALLOWED);
    kernel.exact(0, address("192.0.2.200"), DENIED_BY_ALLOWED);
    kernel.exact(0, address(GOOD6), LIST_ALLOW);
    kernel.configure(0, LISTS);
    for allowed in ["192.0.2.1", "192.0.2.100", "192.0.2.200", GOOD6] {
        assert_outcome(&kernel, &from(allowed), Outcome::PassAllowed);
    }
    assert_outcome(&kernel, &from("192.0.3.1"), Outcome::Pass);
}

/// The entry of an exact address has the flags of all that cover it; nobody asks the prefixes as well.
#[test]
fn the_longest_match_alone_decides() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.prefix(0, "192.0.2.0/24", LIST_DENY);
    kernel.prefix(0, "192.0.2.64/26", 0);
    kernel.exact(0, address("192.0.2.1"), 0);
    kernel.exact(0, address("192.0.2.2"), 4);
    kernel.configure(0, LISTS);
    for unlisted in ["192.0.2.1", "192.0.2.2", "192.0.2.65"] {
        assert_outcome(&kernel, &from(unlisted), Outcome::Pass);
    }
    assert_outcome(&kernel, &from("192.0.2.3"), Outcome::DropIpDenied);
}

#[test]
fn lists_are_asked_only_if_the_flags_say_so() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.exact(0, address(BAD4), LIST_DENY);
    kernel.prefix(0, "192.0.2.0/24", DENIED_BY_ALLOWED);
    let cases = [
        (0, Outcome::Pass),
        (FLAG_MONITOR, Outcome::Pass),
        (FLAG_EXACT, Outcome::DropIpDenied),
        (FLAG_PREFIX, Outcome::PassAllowed),
        (FLAG_EXACT | FLAG_PREFIX, Outcome::DropIpDenied),
        (FLAG_EXACT | FLAG_MONITOR, Outcome::MonitorIpDenied),
        (FLAG_PREFIX | FLAG_MONITOR, Outcome::PassAllowed),
        // Flags of a later version.
        (!(LISTS | FLAG_MONITOR), Outcome::Pass),
    ];
    for (flags, outcome) in cases {
        kernel.configure(0, flags);
        assert_outcome(&kernel, &from(BAD4), outcome);
    }
}

#[test]
fn monitor_mode_counts_and_passes() {
    let Some(mut kernel) = denying() else { return };
    kernel.prefix(0, "203.0.113.0/24", LIST_DENY);
    kernel.exact(0, address(GOOD4), LIST_ALLOW);
    for _ in 0..2 {
        kernel.configure(0, LISTS | FLAG_MONITOR);
        for bad in [BAD4, BAD6, "203.0.113.9"] {
            assert_outcome(&kernel, &from(bad), Outcome::MonitorIpDenied);
        }
        assert_outcome(&kernel, &from(GOOD4), Outcome::PassAllowed);
        assert_outcome(&kernel, &from(GOOD6), Outcome::Pass);
        kernel.configure(0, LISTS);
        for bad in [BAD4, BAD6, "203.0.113.9"] {
            assert_outcome(&kernel, &from(bad), Outcome::DropIpDenied);
        }
    }
}

#[test]
fn a_swap_of_banks_is_in_force_at_once() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.exact(0, address(BAD4), LIST_DENY);
    kernel.prefix(0, "2001:db8::/64", LIST_DENY);
    kernel.exact(1, address(BAD6), LIST_ALLOW);
    kernel.prefix(1, "198.51.100.0/24", LIST_DENY);
    for _ in 0..3 {
        kernel.configure(0, LISTS);
        assert_outcome(&kernel, &from(BAD4), Outcome::DropIpDenied);
        assert_outcome(&kernel, &from(BAD6), Outcome::DropIpDenied);
        assert_outcome(&kernel, &from(GOOD4), Outcome::Pass);
        kernel.configure(1, LISTS);
        assert_outcome(&kernel, &from(BAD4), Outcome::Pass);
        assert_outcome(&kernel, &from(BAD6), Outcome::PassAllowed);
        assert_outcome(&kernel, &from(GOOD4), Outcome::DropIpDenied);
    }
    // What is done to the other bank does not show, and what is done to this one does.
    kernel.remove_prefix_bits(0, address("2001:db8::"), 64);
    kernel.exact(0, address(GOOD6), LIST_DENY);
    assert_outcome(&kernel, &from(BAD6), Outcome::PassAllowed);
    assert_outcome(&kernel, &from(GOOD6), Outcome::Pass);
    kernel.configure(0, LISTS);
    assert_outcome(&kernel, &from(BAD6), Outcome::Pass);
    assert_outcome(&kernel, &from(GOOD6), Outcome::DropIpDenied);
    kernel.remove_exact(0, address(GOOD6));
    assert_outcome(&kernel, &from(GOOD6), Outcome::Pass);
}

#[test]
fn without_a_configuration_that_it_knows_everything_passes() {
    let Some(mut kernel) = Kernel::load() else { return };
    for bank in 0..2 {
        kernel.prefix_bits(bank, [0; 16], 0, LIST_DENY);
        kernel.exact(bank, address(BAD4), LIST_DENY);
    }
    let frames = [from(BAD4), from(BAD6), ethernet(&[], ARP, &[0; 28]), ethernet(&[], IPV4, &[])];
    let good =
        Config { magic: MAGIC, abi: ABI_VERSION, bank: 0, flags: LISTS, version: 1, ..Config::default() };
    let bad = [
        None,
        Some(Config::default()),
        Some(Config { magic: 0, ..good }),
        Some(Config { magic: MAGIC + 1, ..good }),
        Some(Config { magic: MAGIC.swap_bytes(), ..good }),
        Some(Config { abi: 0, ..good }),
        Some(Config { abi: ABI_VERSION + 1, ..good }),
        Some(Config { abi: MAGIC, magic: ABI_VERSION, ..good }),
    ];
    for config in bad {
        if let Some(config) = config {
            kernel.configure_with(config);
        }
        for frame in &frames {
            assert_outcome(&kernel, frame, Outcome::Pass);
        }
    }
    for bank in [2, 3, 256, u32::MAX] {
        kernel.configure(bank, LISTS);
        assert_outcome(&kernel, &frames[0], Outcome::Pass);
        assert_outcome(&kernel, &frames[1], Outcome::Pass);
    }
    for (bank, version) in [(0, 0), (1, u64::MAX)] {
        kernel.configure_with(Config { bank, version, ..good });
        assert_outcome(&kernel, &frames[0], Outcome::DropIpDenied);
        assert_outcome(&kernel, &frames[1], Outcome::DropIpDenied);
        assert_outcome(&kernel, &frames[2], Outcome::PassOther);
        assert_outcome(&kernel, &frames[3], Outcome::PassUnparsed);
    }
}

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

#[test]
fn fragments_are_judged_like_whole_packets() {
    let Some(kernel) = denying() else { return };
    for (source, outcome) in [(BAD4, Outcome::DropIpDenied), (GOOD4, Outcome::Pass)] {
        for offset in [0x2000_u16, 0x2001, 0x00b9, 0x1fff] {
            let mut packet = ipv4(source, 0);
            packet[6..8].copy_from_slice(&offset.to_be_bytes());
            assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), outcome);
        }
    }
    // Fragment, hop-by-hop, routing, authentication, none; UDP and ICMP for both.
    for next in [44, 0, 43, 51, 59, 17, 58] {
        for (source, outcome) in [(BAD6, Outcome::DropIpDenied), (GOOD6, Outcome::Pass)] {
            let mut packet = ipv6(address(source));
            packet[6] = next;
            assert_outcome(&kernel, &ethernet(&[], IPV6, &packet), outcome);
        }
    }
    for protocol in [1, 17, 41, 47, 255] {
        let mut packet = ipv4(BAD4, 0);
        packet[9] = protocol;
        assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), Outcome::DropIpDenied);
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

/// Random numbers that are the same in every run.
struct Random(u64);

impl Random {
    /// A number below a bound.
    fn below(&mut self, bound: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).expect("below a usize")
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn byte(&mut self) -> u8 {
        self.one_of(&[0_u8, 1, 0x45, 0x60, 0x7f, 0x80, 0xff])
            .wrapping_add(u8::try_from(self.below(3)).expect("small"))
    }

    /// An address of a small world, so that lists and packets meet; half of them IPv4.
    fn address(&mut self) -> Address {
        let mut address = if self.once_in(2) { address("10.0.0.0") } else { address("2001:db8::") };
        for at in [13, 14, 15] {
            address[at] = self.one_of(&[0, 1, 2, 0x7f, 0x80, 0xff]);
        }
        if address[10] == 0 {
            address[6] = self.one_of(&[0, 0x80]);
            address[13] = 0;
        }
        address
    }

    /// A frame, mostly sound.
    fn frame(&mut self) -> Vec<u8> {
        let tags: Vec<u16> =
            (0..self.one_of(&[0, 0, 0, 1, 2, 3])).map(|_| self.one_of(&[VLAN, SERVICE_VLAN])).collect();
        let source = self.address();
        let mapped = source.starts_with(&address("0.0.0.0")[..12]);
        let (protocol, packet) = if mapped && !self.once_in(4) {
            let [.., a, b, c, d] = source;
            (IPV4, ipv4(&Ipv4Addr::new(a, b, c, d).to_string(), self.below(11) * 4))
        } else {
            (IPV6, ipv6(source))
        };
        let protocol = if self.once_in(12) { self.one_of(&[IPV4, IPV6, ARP, VLAN, 0]) } else { protocol };
        let mut frame = ethernet(&tags, protocol, &packet);
        if self.once_in(3) {
            for _ in 0..=self.below(3) {
                let at = 12 + self.below(frame.len().min(40) - 12);
                frame[at] = self.byte();
            }
        }
        if self.once_in(5) {
            frame.truncate(SHORTEST + self.below(frame.len() - SHORTEST + 1));
        }
        if self.once_in(5) {
            frame.resize(frame.len() + self.below(64), 0);
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

/// The source of a frame, with slices and early ends instead of pointers.
fn source_of(frame: &[u8]) -> Result<Address, Outcome> {
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
            Ok(Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]).to_ipv6_mapped().octets())
        }
        IPV6 => {
            unless(packet.len() >= 40 && packet[0] >> 4 == 6)?;
            unless(packet.len() - 40 >= usize::from(word(packet, 4)?))?;
            Ok(packet[8..24].try_into().expect("16 bytes"))
        }
        _ => Err(Outcome::PassOther),
    }
}

/// What a frame should lead to: the lists gone through from end to end.
fn expected(frame: &[u8], entries: &[Entry], monitor: bool) -> Outcome {
    let source = match source_of(frame) {
        Ok(source) => source,
        Err(outcome) => return outcome,
    };
    let on = |list: u32| entries.iter().any(|entry| entry.list == list && entry.covers(&source));
    match (on(LIST_ALLOW), on(LIST_DENY)) {
        (true, _) => Outcome::PassAllowed,
        (false, false) => Outcome::Pass,
        (false, true) if monitor => Outcome::MonitorIpDenied,
        (false, true) => Outcome::DropIpDenied,
    }
}

#[test]
fn random_lists_and_frames_against_a_naive_reference() {
    const ROUNDS: usize = 300;
    const FRAMES: usize = 100;
    let Some(mut kernel) = Kernel::load() else { return };
    let mut random = Random(0x6564_6765);
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
        let entries: Vec<Entry> = (0..random.below(30))
            .map(|_| {
                let address = random.address();
                let bits = random.one_of(&[128, 128, 127, 126, 121, 120, 119, 112, 104, 96, 56, 49, 32, 0]);
                // Entries that cover everything would leave nothing to see.
                let bits = if bits == 0 && !random.once_in(4) { 128 } else { bits };
                let masked = u128::from_be_bytes(address) & u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                Entry {
                    address: masked.to_be_bytes(),
                    bits,
                    list: random.one_of(&[LIST_ALLOW, LIST_DENY, LIST_DENY]),
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
        let monitor = random.once_in(3);
        if monitor {
            flags |= FLAG_MONITOR;
        }
        kernel.configure(u32::try_from(bank).expect("0 or 1"), flags);
        for _ in 0..FRAMES {
            let frame = random.frame();
            let outcome = expected(&frame, &entries, monitor);
            seen[outcome as usize] += 1;
            assert_outcome(&kernel, &frame, outcome);
        }
    }
    println!("{ROUNDS} lists, {} frames: {:?}", ROUNDS * FRAMES, Outcome::ALL.map(|o| (o, seen[o as usize])));
    // A reference that always says the same proves nothing.
    assert!(seen.iter().all(|&count| count >= 100), "{seen:?}");
}
