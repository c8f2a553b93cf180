//! Countries by service.

use super::*;
use ebpf_abi::{
    BLOCK_POLICIES, COUNTRY_UNDETERMINED, COUNTRY_UNKNOWN, Event, FLAG_SERVICES, POLICIES, SERVICES,
    country_number, set_verdict, verdict,
};
use std::net::SocketAddr;
use tests::frames::{SYN, Segment};
use tests::kernel::DROP;
use tests::tables::{admit, countries_v4, countries_v6, serve};

const FR: u16 = country_number(*b"FR");
const DE: u16 = country_number(*b"DE");
const ZZ: u16 = country_number(*b"ZZ");

/// Sources by country.
const FRENCH: [&str; 2] = ["192.0.2.1", "2001:db8:1::1"];
const GERMAN: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
const UNKNOWN: [&str; 2] = ["203.0.113.1", "2001:db8:3::1"];
const UNDETERMINED: [&str; 2] = ["203.0.114.1", "2001:db8:4::1"];

/// Destinations.
const HERE: [&str; 2] = ["10.0.0.1", "fd00::1"];

/// Everything but services: the countries of both banks.
fn countries() -> Option<Kernel> {
    let mut kernel = Kernel::load()?;
    for bank in 0..2 {
        let tables = kernel.tables(bank);
        countries_v4(
            tables,
            &[
                ("192.0.2.0", FR),
                ("192.0.3.0", 0),
                ("198.51.100.0", DE),
                ("198.51.101.0", 0),
                ("203.0.114.0", COUNTRY_UNDETERMINED),
                ("203.0.115.0", 0),
            ],
        );
        countries_v6(
            tables,
            &[
                ("2001:db8:1::", FR),
                ("2001:db8:2::", DE),
                ("2001:db8:3::", 0),
                ("2001:db8:4::", COUNTRY_UNDETERMINED),
                ("2001:db8:5::", 0),
            ],
        );
    }
    Some(kernel)
}

/// A policy that admits one country, as the agent writes it.
fn only(kernel: &mut Kernel, bank: usize, policy: usize, country: u16) {
    admit(kernel.tables(bank), policy, country, true);
    admit(kernel.tables(bank), policy, COUNTRY_UNDETERMINED, true);
}

/// A frame with a SYN.
fn syn(source: &str, destination: &str, port: u16) -> Vec<u8> {
    segment(source, destination, port).frame()
}

fn segment(source: &str, destination: &str, port: u16) -> Segment {
    let end = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address"), port);
    Segment { flags: SYN, ..Segment::new(end(source, 40_000), end(destination, port), b"") }
}

/// The same frame with another protocol than TCP.
fn of_protocol(mut frame: Vec<u8>, protocol: u8) -> Vec<u8> {
    let at = if frame[12..14] == IPV4.to_be_bytes() { 14 + 9 } else { 14 + 6 };
    frame[at] = protocol;
    frame
}

/// Where all addresses of a block are judged alike, no country is looked up; by policy, up to the last one that has blocks.
#[test]
fn a_block_of_one_verdict_needs_no_country() {
    let Some(mut kernel) = countries() else { return };
    let block = |source: &str| u32::from(source.parse::<std::net::Ipv4Addr>().expect("an address")) >> 12;
    let of = [0, 1, BLOCK_POLICIES - 1, BLOCK_POLICIES, POLICIES - 1];
    for (port, policy) in (1..).zip(of) {
        serve(kernel.tables(0), "10.0.0.0/8", port, u16::try_from(policy).expect("a few"));
        admit(kernel.tables(0), policy, FR, true);
    }
    let assert_passes = |kernel: &Kernel, source: &str, passing: &[usize]| {
        for (port, policy) in (1..).zip(of) {
            let outcome = if passing.contains(&policy) { Outcome::Pass } else { Outcome::DropCountryDenied };
            assert_outcome(kernel, &syn(source, HERE[0], port), outcome);
        }
    };
    kernel.configure(0, FLAG_SERVICES);
    assert_passes(&kernel, FRENCH[0], &of);
    assert_passes(&kernel, GERMAN[0], &[]);
    for policy in [0, 1, BLOCK_POLICIES - 1] {
        for verdict in [verdict::PASSES, verdict::LISTED] {
            set_verdict(&mut kernel.tables(0).verdicts_v4[policy], block(GERMAN[0]), verdict);
            kernel.configure(0, FLAG_SERVICES);
            assert_passes(&kernel, GERMAN[0], &[policy]);
            // To the bounds of the block, and no further.
            for (source, passing) in [
                ("198.51.96.0", &[policy][..]),
                ("198.51.111.255", &[policy]),
                ("198.51.95.255", &[]),
                ("198.51.112.0", &[]),
            ] {
                assert_passes(&kernel, source, passing);
            }
            assert_passes(&kernel, FRENCH[0], &of);
            kernel.tables(0).verdicts_v4[policy].fill(0);
        }
        set_verdict(&mut kernel.tables(0).verdicts_v4[policy], block(FRENCH[0]), verdict::REFUSED);
        kernel.configure(0, FLAG_SERVICES);
        let others: Vec<usize> = of.into_iter().filter(|&other| other != policy).collect();
        assert_passes(&kernel, FRENCH[0], &others);
        assert_passes(&kernel, "192.0.2.255", &others);
        assert_passes(&kernel, "192.0.16.0", &[]);
        // It counts while the policy applies, and of IPv4 only.
        kernel.configure_with(Config { flags: FLAG_SERVICES, active: [0; 2], ..Kernel::config() });
        assert_passes(&kernel, FRENCH[0], &of);
        kernel.configure(0, FLAG_SERVICES | FLAG_MONITOR);
        let port =
            u16::try_from(of.iter().position(|&other| other == policy).expect("its place")).expect("few");
        assert_outcome(&kernel, &syn(FRENCH[0], HERE[0], port + 1), Outcome::MonitorCountryDenied);
        kernel.tables(0).verdicts_v4[policy].fill(0);
    }
}

/// Lists are asked where the verdict about a block leaves room for them, and nowhere else.
#[test]
fn lists_and_blocks() {
    let Some(mut kernel) = countries() else { return };
    serve(kernel.tables(0), "0.0.0.0/0", 443, 0);
    only(&mut kernel, 0, 0, FR);
    kernel.exact(0, address(FRENCH[0]), LIST_DENY);
    kernel.exact(0, address(GERMAN[0]), LIST_ALLOW);
    let block = |source: &str| u32::from(source.parse::<std::net::Ipv4Addr>().expect("an address")) >> 12;
    for (verdict, french, german) in [
        (verdict::OPEN, Outcome::DropIpDenied, Outcome::PassAllowed),
        (verdict::LISTED, Outcome::DropIpDenied, Outcome::PassAllowed),
        (verdict::PASSES, Outcome::Pass, Outcome::Pass),
        (verdict::REFUSED, Outcome::DropCountryDenied, Outcome::DropCountryDenied),
    ] {
        kernel.tables(0).verdicts_v4[0].fill(0);
        for (source, outcome) in [(FRENCH[0], french), (GERMAN[0], german)] {
            set_verdict(&mut kernel.tables(0).verdicts_v4[0], block(source), verdict);
            kernel.configure(0, FLAG_SERVICES | FLAG_EXACT);
            assert_outcome(&kernel, &syn(source, HERE[0], 443), outcome);
            // Where no service is, there is no verdict.
            let by_list = if source == FRENCH[0] { Outcome::DropIpDenied } else { Outcome::PassAllowed };
            assert_outcome(&kernel, &syn(source, HERE[0], 80), by_list);
        }
    }
}

#[test]
fn countries_pass_where_they_are_admitted() {
    let Some(mut kernel) = countries() else { return };
    for (network, here, other) in
        [("10.0.0.0/8", "10.255.255.255", "11.0.0.0"), ("fd00::/64", "fd00::ffff", "fd00:0:0:1::")]
    {
        let family = usize::from(network.contains(':'));
        for bank in 0..2 {
            kernel.tables(bank).service_count = 0;
            serve(kernel.tables(bank), network, 0, 3);
            only(&mut kernel, bank, 3, FR);
        }
        for bank in 0..2 {
            kernel.configure(bank, FLAG_SERVICES);
            for port in [0, 80, 443, 65_535] {
                assert_outcome(&kernel, &syn(FRENCH[family], here, port), Outcome::Pass);
                assert_outcome(&kernel, &syn(UNDETERMINED[family], here, port), Outcome::Pass);
                for refused in [GERMAN[family], UNKNOWN[family]] {
                    assert_outcome(&kernel, &syn(refused, here, port), Outcome::DropCountryDenied);
                    assert_outcome(&kernel, &syn(refused, other, port), Outcome::Pass);
                }
            }
            // What has no ports, and what may have them elsewhere.
            for protocol in [1, 17, 58, 132] {
                let frame = |source| of_protocol(syn(source, here, 80), protocol);
                assert_outcome(&kernel, &frame(FRENCH[family]), Outcome::Pass);
                assert_outcome(&kernel, &frame(GERMAN[family]), Outcome::DropCountryDenied);
            }
            kernel.configure(bank, FLAG_SERVICES | FLAG_MONITOR);
            assert_outcome(&kernel, &syn(FRENCH[family], here, 80), Outcome::Pass);
            assert_outcome(&kernel, &syn(GERMAN[family], here, 80), Outcome::MonitorCountryDenied);
            kernel.configure(bank, FLAG_MONITOR);
            assert_outcome(&kernel, &syn(GERMAN[family], here, 80), Outcome::Pass);
        }
    }
}

/// A list of countries that do not pass lets the others, the unknown and the undetermined pass.
#[test]
fn all_but_some() {
    let Some(mut kernel) = countries() else { return };
    serve(kernel.tables(0), "0.0.0.0/0", 0, 63);
    serve(kernel.tables(0), "::/0", 0, 63);
    kernel.tables(0).policies[63] = [u64::MAX; 16];
    admit(kernel.tables(0), 63, DE, false);
    kernel.configure(0, FLAG_SERVICES);
    for family in 0..2 {
        for source in [FRENCH[family], UNKNOWN[family], UNDETERMINED[family]] {
            assert_outcome(&kernel, &syn(source, HERE[family], 80), Outcome::Pass);
        }
        assert_outcome(&kernel, &syn(GERMAN[family], HERE[family], 80), Outcome::DropCountryDenied);
    }
    // The unknown country has a bit like any other.
    admit(kernel.tables(0), 63, COUNTRY_UNKNOWN, false);
    kernel.configure(0, FLAG_SERVICES);
    assert_outcome(&kernel, &syn(UNKNOWN[0], HERE[0], 80), Outcome::DropCountryDenied);
    assert_outcome(&kernel, &syn(FRENCH[0], HERE[0], 80), Outcome::Pass);
}

/// The destination counts, in its family: a network of IPv6 does not hold mapped addresses of IPv4.
#[test]
fn services_are_of_one_family() {
    let Some(mut kernel) = countries() else { return };
    serve(kernel.tables(0), "::/0", 0, 0);
    serve(kernel.tables(1), "0.0.0.0/0", 0, 0);
    kernel.configure(0, FLAG_SERVICES);
    assert_outcome(&kernel, &syn(FRENCH[0], HERE[0], 80), Outcome::Pass);
    assert_outcome(&kernel, &syn(FRENCH[1], HERE[1], 80), Outcome::DropCountryDenied);
    assert_outcome(&kernel, &syn(FRENCH[1], "::ffff:10.0.0.1", 80), Outcome::DropCountryDenied);
    kernel.configure(1, FLAG_SERVICES);
    assert_outcome(&kernel, &syn(FRENCH[0], HERE[0], 80), Outcome::DropCountryDenied);
    assert_outcome(&kernel, &syn(FRENCH[1], HERE[1], 80), Outcome::Pass);
    assert_outcome(&kernel, &syn(FRENCH[1], "::ffff:10.0.0.1", 80), Outcome::Pass);
}

#[test]
fn the_first_service_that_fits_decides() {
    let Some(mut kernel) = countries() else { return };
    let tables = kernel.tables(0);
    serve(tables, "10.0.0.1/32", 80, 0);
    serve(tables, "10.0.0.1/32", 443, 1);
    serve(tables, "10.0.0.0/31", 80, 2);
    serve(tables, "10.0.0.0/24", 0, 3);
    for (policy, country) in [(0, FR), (1, DE), (2, DE), (3, ZZ)] {
        only(&mut kernel, 0, policy, country);
    }
    kernel.configure(0, FLAG_SERVICES);
    let passes = |destination: &str, port, admitted: &[&str]| {
        for source in [FRENCH[0], GERMAN[0], UNKNOWN[0]] {
            let outcome = if admitted.contains(&source) { Outcome::Pass } else { Outcome::DropCountryDenied };
            for protocol in [6, 17] {
                assert_outcome(&kernel, &of_protocol(syn(source, destination, port), protocol), outcome);
            }
        }
    };
    passes("10.0.0.1", 80, &[FRENCH[0]]);
    passes("10.0.0.1", 443, &[GERMAN[0]]);
    passes("10.0.0.0", 80, &[GERMAN[0]]);
    passes("10.0.0.0", 443, &[]);
    passes("10.0.0.1", 81, &[]);
    passes("10.0.0.1", 0, &[]);
    passes("10.0.0.2", 80, &[]);
    passes("10.0.1.0", 80, &[FRENCH[0], GERMAN[0], UNKNOWN[0]]);
}

/// Whether a policy applies is a bit of its own, by bank.
#[test]
fn policies_apply_while_they_are_active() {
    let Some(mut kernel) = countries() else { return };
    for bank in 0..2 {
        serve(kernel.tables(bank), "10.0.0.1/32", 0, 5);
        serve(kernel.tables(bank), "10.0.0.0/24", 0, 6);
    }
    for (bank, active, outcome) in [
        (0, [1 << 5, 0], Outcome::DropCountryDenied),
        // The first that fits decides, even that nothing applies now.
        (0, [!(1 << 5), u64::MAX], Outcome::Pass),
        (1, [0, 1 << 5], Outcome::DropCountryDenied),
        (1, [u64::MAX, !(1 << 5)], Outcome::Pass),
    ] {
        kernel.configure_with(Config { bank, flags: FLAG_SERVICES, active, ..Kernel::config() });
        assert_outcome(&kernel, &syn(FRENCH[0], "10.0.0.1", 80), outcome);
    }
}

/// A fragment may go to any port, so it passes where ports matter, and a later service does not decide about it.
#[test]
fn services_by_port_and_what_has_no_port() {
    let Some(mut kernel) = countries() else { return };
    for (family, all) in ["0.0.0.0/0", "::/0"].into_iter().enumerate() {
        serve(kernel.tables(0), all, 443, 0);
        // In the other bank the order is the other way round.
        serve(kernel.tables(1), all, 0, 0);
        serve(kernel.tables(1), all, 443, 0);
        serve(kernel.tables(0), all, 0, 0);
        kernel.configure(0, FLAG_SERVICES);
        for port in [443, 80] {
            assert_outcome(&kernel, &syn(FRENCH[family], HERE[family], port), Outcome::DropCountryDenied);
        }
        let icmp = of_protocol(syn(FRENCH[family], HERE[family], 443), 1);
        assert_outcome(&kernel, &icmp, Outcome::DropCountryDenied);
        let fragment = fragment(&syn(FRENCH[family], HERE[family], 443));
        assert_outcome(&kernel, &fragment, Outcome::PassFragment);
        let short = short(&segment(FRENCH[family], HERE[family], 443));
        assert_outcome(&kernel, &short, Outcome::PassUnparsed);
        kernel.configure(1, FLAG_SERVICES);
        for frame in [icmp, fragment, short] {
            assert_outcome(&kernel, &frame, Outcome::DropCountryDenied);
        }
    }
    // Without a service for all ports, ICMP is nobody's.
    let Some(mut kernel) = countries() else { return };
    serve(kernel.tables(0), "0.0.0.0/0", 443, 0);
    kernel.configure(0, FLAG_SERVICES);
    assert_outcome(&kernel, &of_protocol(syn(FRENCH[0], HERE[0], 443), 1), Outcome::Pass);
    assert_outcome(&kernel, &of_protocol(syn(FRENCH[0], HERE[0], 443), 17), Outcome::DropCountryDenied);
    assert_outcome(&kernel, &fragment(&syn(FRENCH[0], HERE[0], 443)), Outcome::PassFragment);
}

/// The first fragment of the frame's packet, all of it.
fn fragment(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == IPV4.to_be_bytes() {
        frame[14 + 6] = 0x20;
    } else {
        let header = [frame[14 + 6], 0, 0, 1, 0, 0, 0, 1];
        frame[14 + 6] = 44;
        frame[14 + 5] += 8;
        frame.splice(54..54, header);
    }
    frame
}

/// The packet ends within TCP's ports.
fn short(segment: &Segment) -> Vec<u8> {
    let mut frame = segment.frame();
    let header = if segment.source.is_ipv4() { 34 } else { 54 };
    frame.truncate(header + 7);
    let (length, at) = if header == 34 { (27, 16) } else { (7, 18) };
    frame[at..at + 2].copy_from_slice(&u16::to_be_bytes(length));
    frame
}

/// Nobody is asked about a country who is exempt, and denied addresses are denied as such.
#[test]
fn lists_come_before_countries() {
    let Some(mut kernel) = countries() else { return };
    serve(kernel.tables(0), "0.0.0.0/0", 0, 0);
    only(&mut kernel, 0, 0, FR);
    kernel.exact(0, address("198.51.100.1"), LIST_ALLOW);
    kernel.exact(0, address("198.51.100.2"), LIST_TRUSTED);
    kernel.exact(0, address("198.51.100.3"), LIST_DENY);
    kernel.exact(0, address("192.0.2.3"), LIST_DENY);
    for monitor in [0, FLAG_MONITOR] {
        kernel.configure(0, FLAG_SERVICES | FLAG_EXACT | monitor);
        let of = |drop, watch| if monitor == 0 { drop } else { watch };
        let denied = of(Outcome::DropIpDenied, Outcome::MonitorIpDenied);
        let refused = of(Outcome::DropCountryDenied, Outcome::MonitorCountryDenied);
        for (source, outcome) in [
            ("198.51.100.1", Outcome::PassAllowed),
            ("198.51.100.2", Outcome::PassTrusted),
            ("198.51.100.3", denied),
            ("192.0.2.3", denied),
            ("198.51.100.4", refused),
            ("192.0.2.4", Outcome::Pass),
        ] {
            assert_outcome(&kernel, &syn(source, HERE[0], 80), outcome);
        }
        // Of a fragment, too, the source is known.
        assert_outcome(&kernel, &fragment(&syn("198.51.100.1", HERE[0], 80)), Outcome::PassFragment);
        assert_outcome(&kernel, &fragment(&syn("198.51.100.4", HERE[0], 80)), refused);
    }
}

#[test]
fn as_many_services_as_there_may_be() {
    let Some(mut kernel) = countries() else { return };
    let last = u16::try_from(SERVICES).expect("few") - 1;
    for number in 0..=last {
        let port = 1000 + number;
        serve(kernel.tables(0), "10.0.0.1/32", port, number);
        let country = if number % 2 == 0 { FR } else { DE };
        only(&mut kernel, 0, usize::from(number), country);
    }
    kernel.configure(0, FLAG_SERVICES);
    for number in 0..=last {
        let (passes, fails) = if number % 2 == 0 { (FRENCH, GERMAN) } else { (GERMAN, FRENCH) };
        assert_outcome(&kernel, &syn(passes[0], HERE[0], 1000 + number), Outcome::Pass);
        assert_outcome(&kernel, &syn(fails[0], HERE[0], 1000 + number), Outcome::DropCountryDenied);
    }
    assert_outcome(&kernel, &syn(GERMAN[0], HERE[0], 1001 + last), Outcome::Pass);
    // A count beyond them is no more than that.
    kernel.tables(0).service_count = u64::MAX;
    kernel.configure(0, FLAG_SERVICES);
    assert_outcome(&kernel, &syn(GERMAN[0], HERE[0], 1000), Outcome::DropCountryDenied);
    assert_outcome(&kernel, &syn(GERMAN[0], HERE[0], 1001 + last), Outcome::Pass);
}

/// First and last addresses of ranges, and their neighbours, within a chunk and where one ends.
#[test]
fn ranges_end_where_they_end() {
    let Some(mut kernel) = Kernel::load() else { return };
    serve(kernel.tables(0), "0.0.0.0/0", 0, 0);
    serve(kernel.tables(0), "::/0", 0, 0);
    only(&mut kernel, 0, 0, FR);
    // The last number that the agent gives is one more than 25 * 26 + 25.
    assert_eq!(ZZ, 676);
    countries_v4(
        kernel.tables(0),
        &[
            ("0.0.0.1", FR),
            ("0.0.0.2", DE),
            ("10.1.0.0", FR),
            ("10.2.0.0", DE),
            ("10.3.0.255", FR),
            ("10.3.1.1", ZZ),
            ("10.3.255.255", FR),
            ("10.5.0.1", DE),
            ("255.255.255.255", FR),
        ],
    );
    countries_v6(
        kernel.tables(0),
        &[
            ("0:0:0:1::", FR),
            ("0:0:0:2::", DE),
            ("2001::", FR),
            ("2002::", DE),
            ("2003:0:0:ff::", FR),
            ("2003:0:1:1::", ZZ),
            ("2003:ffff:ffff:ffff::", FR),
            ("2005:0:0:1::", DE),
            ("ffff:ffff:ffff:ffff::", FR),
        ],
    );
    kernel.configure(0, FLAG_SERVICES);
    let french = [
        ("0.0.0.1", "0.0.0.1"),
        ("10.1.0.0", "10.1.255.255"),
        ("10.3.0.255", "10.3.1.0"),
        ("10.3.255.255", "10.5.0.0"),
        ("255.255.255.255", "255.255.255.255"),
        ("0:0:0:1::", "::1:ffff:ffff:ffff:ffff"),
        ("2001::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2003:0:0:ff::", "2003:0:1:0:ffff:ffff:ffff:ffff"),
        ("2003:ffff:ffff:ffff::", "2005::ffff:ffff:ffff:ffff"),
        ("ffff:ffff:ffff:ffff::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ];
    for (first, last) in french {
        let family = usize::from(first.contains(':'));
        for (end, step) in [(first, -1), (last, 1)] {
            assert_outcome(&kernel, &syn(end, HERE[family], 80), Outcome::Pass);
            let Some(neighbour) = beside(end, step) else { continue };
            assert_outcome(&kernel, &syn(&neighbour, HERE[family], 80), Outcome::DropCountryDenied);
        }
    }
}

/// The address before or after another one.
fn beside(ip: &str, step: i64) -> Option<String> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    match ip.parse().expect("an address") {
        IpAddr::V4(ip) => {
            let bits = u32::try_from(i64::from(ip.to_bits()) + step).ok()?;
            Some(Ipv4Addr::from_bits(bits).to_string())
        }
        IpAddr::V6(ip) => {
            let bits = ip.to_bits().checked_add_signed(step.into())?;
            Some(Ipv6Addr::from_bits(bits).to_string())
        }
    }
}

/// As many ranges in one chunk as there are addresses in it, of which no two neighbours are of one country.
#[test]
fn a_chunk_of_single_addresses() {
    let Some(mut kernel) = Kernel::load() else { return };
    serve(kernel.tables(0), "0.0.0.0/0", 0, 0);
    serve(kernel.tables(0), "::/0", 0, 0);
    only(&mut kernel, 0, 0, FR);
    let nth_v4 = |n: u32| format!("10.9.{}.{}", n >> 8, n & 255);
    let nth_v6 = |n: u32| format!("2001:db8:0:{n:x}::");
    let country = |n: u32| if n.is_multiple_of(3) { FR } else { DE };
    let v4: Vec<(String, u16)> = (0..65_536).map(|n| (nth_v4(n), country(n))).collect();
    let v6: Vec<(String, u16)> = (0..65_536).map(|n| (nth_v6(n), country(n))).collect();
    countries_v4(kernel.tables(0), &v4.iter().map(|(ip, c)| (ip.as_str(), *c)).collect::<Vec<_>>());
    countries_v6(kernel.tables(0), &v6.iter().map(|(ip, c)| (ip.as_str(), *c)).collect::<Vec<_>>());
    kernel.configure(0, FLAG_SERVICES);
    for n in (0..65_536).step_by(97).chain([1, 2, 3, 4, 32_767, 32_768, 65_533, 65_534, 65_535]) {
        let outcome = if country(n) == FR { Outcome::Pass } else { Outcome::DropCountryDenied };
        assert_outcome(&kernel, &syn(&nth_v4(n), HERE[0], 80), outcome);
        assert_outcome(&kernel, &syn(&(nth_v6(n) + "7"), HERE[1], 80), outcome);
    }
}

/// Whoever listens is told of the first packet, with its country, whether or not that was looked up to judge it.
#[test]
fn events_name_the_country() {
    for known in [verdict::OPEN, verdict::REFUSED] {
        let Some(mut kernel) = countries() else { return };
        serve(kernel.tables(0), "0.0.0.0/0", 0, 0);
        kernel.tables(0).verdicts_v4[0].fill(u64::from(known) * 0x5555_5555_5555_5555);
        kernel.configure(0, FLAG_SERVICES);
        assert_eq!(kernel.events(), []);
        assert_eq!(kernel.run(&syn(GERMAN[0], HERE[0], 443)).verdict, DROP);
        let told = kernel.events();
        let expected = Event {
            source: address(GERMAN[0]),
            destination: address(HERE[0]),
            packets: 1,
            outcome: Outcome::DropCountryDenied as u32,
            country: DE,
            source_port: 40_000,
            destination_port: 443,
            protocol: 6,
            ..bytemuck::Zeroable::zeroed()
        };
        assert_eq!(told, [expected]);
        assert_eq!(kernel.events(), []);
    }
}
