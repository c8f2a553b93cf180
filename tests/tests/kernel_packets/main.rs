//! The kernel program on single frames: every branch both ways, the verdict and the counters exact, and no frame changed
//! that is not to be (the last two by [`Kernel::run`]).
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod answers;
mod flows;
mod headers;
mod random_lists;
mod requests;
mod services;

use aya::maps::{MapInfo, MapType};
use ebpf_abi::{
    ABI_VERSION, CELLS, Config, EVENT_BYTES, EXACT_CAPACITY, FLAG_EXACT, FLAG_MONITOR, FLAG_PREFIX,
    FLOW_CAPACITY, Flow, FlowState, LIST_ALLOW, LIST_DENY, LIST_TRUSTED, MAGIC, Outcome, SESSION_CAPACITY,
    SessionBucket, Tables, map,
};
use tests::frames::{ARP, IPV4, IPV6, ethernet, from, ipv4, ipv6};
use tests::kernel::{Kernel, address, verdict};
use tests::tables::set_near;

/// What the verifier may have to look at. The limit of the kernel is a million; another kernel may count differently.
const INSTRUCTIONS: u32 = 250_000;

const LISTS: u32 = FLAG_EXACT | FLAG_PREFIX;
const DENIED_BY_ALLOWED: u32 = LIST_DENY | LIST_ALLOW;

/// On the deny list of [`denying`].
const BAD4: &str = "192.0.2.66";
const BAD6: &str = "2001:db8::66";
/// On no list.
const GOOD4: &str = "198.51.100.1";
const GOOD6: &str = "2001:db8:1::1";

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
    let ran = kernel.run(frame);
    assert_eq!((ran.outcome, ran.verdict), (outcome, verdict(outcome)), "{frame:02x?}");
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
    const MMAPABLE: u32 = 1 << 10;
    let Some(kernel) = Kernel::load() else { return };
    let info = |name: &str| -> MapInfo { kernel.data(name).info().expect("its description") };
    let assert_map = |name: &str, kind: MapType, key: usize, value: usize, entries: u32, flags: u32| {
        let info = info(name);
        assert_eq!(info.map_type().expect("a known type"), kind, "{name}");
        assert_eq!((info.key_size() as usize, info.value_size() as usize), (key, value), "{name}");
        assert_eq!((info.max_entries(), info.map_flags()), (entries, flags), "{name}");
    };
    for name in map::EXACT {
        assert_map(name, MapType::Hash, 16, 4, EXACT_CAPACITY, NO_PREALLOC);
    }
    for name in map::PREFIX {
        assert_map(name, MapType::LpmTrie, 20, 4, ebpf_abi::PREFIX_CAPACITY, NO_PREALLOC);
    }
    let outcomes = u32::try_from(Outcome::ALL.len()).expect("a few");
    assert_map(map::CONFIG, MapType::Array, 4, size_of::<Config>(), 1, 0);
    assert_map(map::COUNTERS, MapType::PerCpuArray, 4, 8, outcomes, 0);
    assert_map(map::TABLES, MapType::Array, 4, size_of::<Tables>(), 2, 0);
    let buckets = ebpf_abi::session_buckets(SESSION_CAPACITY);
    assert_map(map::SESSIONS, MapType::Array, 4, size_of::<SessionBucket>(), buckets, MMAPABLE);
    assert_map(map::SESSION_BITS, MapType::Array, 4, 8, ebpf_abi::SESSION_BIT_WORDS, MMAPABLE);
    assert_map(map::FLOWS, MapType::LruHash, size_of::<Flow>(), size_of::<FlowState>(), FLOW_CAPACITY, 0);
    assert_map(map::CELLS, MapType::Array, 4, 2 * CELLS as usize, 1, MMAPABLE);
    assert_map(map::IDLE, MapType::Array, 4, 8, CELLS, MMAPABLE);
    assert_map(map::EVENTS, MapType::RingBuf, 0, 0, EVENT_BYTES, 0);
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
    kernel.exact(0, address("192.0.2.2"), 8);
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

/// Those who speak for others pass before everything else, and denied is not asked.
#[test]
fn trusted_sources() {
    let Some(mut kernel) = Kernel::load() else { return };
    kernel.prefix(0, "192.0.2.0/24", LIST_DENY);
    kernel.exact(0, address("192.0.2.1"), LIST_DENY | LIST_TRUSTED);
    kernel.exact(0, address("192.0.2.2"), LIST_DENY | LIST_ALLOW | LIST_TRUSTED);
    kernel.prefix(0, "2001:db8::/32", LIST_TRUSTED);
    for monitor in [0, FLAG_MONITOR] {
        kernel.configure(0, LISTS | monitor);
        for trusted in ["192.0.2.1", "192.0.2.2", "2001:db8::1"] {
            assert_outcome(&kernel, &from(trusted), Outcome::PassTrusted);
        }
        let denied = if monitor == 0 { Outcome::DropIpDenied } else { Outcome::MonitorIpDenied };
        assert_outcome(&kernel, &from("192.0.2.3"), denied);
    }
    // Fragments, too, and what cannot be read further.
    let mut packet = ipv4("192.0.2.1", 0);
    packet[6] = 0x20;
    assert_outcome(&kernel, &ethernet(&[], IPV4, &packet), Outcome::PassTrusted);
}

/// One bit of the tables says whether lists are asked at all.
#[test]
fn a_source_near_no_list_is_not_looked_up() {
    let Some(mut kernel) = Kernel::load() else { return };
    for bank in 0..2 {
        kernel.prefix(bank, "0.0.0.0/0", LIST_DENY);
        kernel.exact(bank, address(BAD4), LIST_DENY);
        kernel.exact(bank, address(BAD6), LIST_DENY);
        kernel.prefix(bank, "2001:db8::/32", LIST_DENY);
        let tables = kernel.tables(bank);
        tables.listed_v4.fill(0);
        tables.listed_v6.fill(0);
    }
    kernel.configure(0, LISTS);
    let mapped = ethernet(&[], IPV6, &ipv6(address(BAD4)));
    for frame in [from(BAD4), from(BAD6), mapped.clone()] {
        assert_outcome(&kernel, &frame, Outcome::Pass);
    }
    for (near, denied, others) in [
        // All bits of the first 20 count.
        (BAD4, from(BAD4), [from(BAD6), from("192.0.18.66"), mapped.clone()]),
        // And of IPv6 those of the first 36.
        (BAD6, from(BAD6), [from(BAD4), from("2001:db8:1000::66"), from("2001:db9::66")]),
        // A mapped source in a packet of IPv6 is asked for as one of IPv6.
        ("::", mapped, [from(BAD4), from(BAD6), from("2001:db8:1::1")]),
    ] {
        set_near(kernel.tables(0), near, true);
        kernel.configure(0, LISTS);
        assert_outcome(&kernel, &denied, Outcome::DropIpDenied);
        for other in &others {
            assert_outcome(&kernel, other, Outcome::Pass);
        }
        // Each bank has its own bits.
        kernel.configure(1, LISTS);
        assert_outcome(&kernel, &denied, Outcome::Pass);
        set_near(kernel.tables(0), near, false);
    }
}
