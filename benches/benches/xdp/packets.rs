//! What a packet costs.
//!
//! Programs are run by the kernel on frames that never were on a wire. Each measurement is one call for many packets, timed by
//! the kernel; the programs of a round take turns by such calls, so that what else the machine does meets all of them.
//!
//! "Random" is the figure that counts: the driver (see [`crate::raw`]) gives every packet a source of its own, so that
//! look-ups go where the packets of an attack or of many clients would send them, and the processor cannot learn the way.
//! What the driver itself takes is measured with a program that passes everything, and taken off; with it, the ratio
//! would be nearer to one whichever program is the quicker. "Hot" is one and the same packet over and over: the least
//! that a program can take. Neither has the caches of a machine whose other work uses them too; a single
//! run per call would, but is mostly the call.
#![expect(clippy::expect_used, reason = "what cannot be run cannot be measured")]

use crate::Scale;
use crate::filter::{CAPACITY, XdpFilter};
use crate::frames::{
    self, INSPECTED, PLAIN, PSH_ACK, SERVICE, SOURCE_AT, SYN, address, random_address, request, session_keys,
    tcp,
};
use crate::kernel::{Kernel, TODAY, risen};
use crate::raw::{DROP, Driver, PASS, Random, passing};
use benches::networks::networks;
use benches::report::{Promise, Report};
use ebpf_abi::{
    FLAG_EXACT, FLAG_PREFIX, FLAG_RESPOND, FLAG_SERVICES, FLAG_SESSIONS, MAPPED_BITS, Outcome, Session,
    SessionKey,
};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use tests::random;

const FLAGS: u32 = FLAG_EXACT | FLAG_PREFIX | FLAG_SERVICES | FLAG_SESSIONS | FLAG_RESPOND;

/// The part of random packets that may be denied by lists: as good as none.
const FEW: u64 = 1000;

/// The part of them that may be denied also by their countries: twice what the table has.
const SOME: u64 = 10;

/// Any word.
const fn any(at: usize) -> Random {
    Random { at, mask: u32::MAX, base: 0 }
}

/// Sources anywhere in IPv4.
fn sources_v4() -> Vec<Random> {
    vec![any(SOURCE_AT[0])]
}

/// Sources in those networks of IPv6 where the table has many ranges.
fn sources_v6() -> Vec<Random> {
    let at = SOURCE_AT[1];
    vec![Random { at, mask: 0xffff_0f00, base: 0x2a }, any(at + 4), any(at + 8), any(at + 12)]
}

/// A way to measure a packet: which program, through which driver, on which frame.
struct Way<'f> {
    driver: Driver,
    frame: &'f [u8],
}

impl Way<'_> {
    /// Nanoseconds for each of so many packets.
    fn time(&self, packets: u32) -> f64 {
        let (verdict, nanoseconds) = self.driver.run(self.frame, packets).expect("a run");
        assert!(verdict == PASS || verdict == DROP, "a packet that is judged: {verdict}");
        f64::from(nanoseconds)
    }
}

/// Nanoseconds for each packet and way, by round; the ways of a round take turns several times.
fn rounds(scale: &Scale, ways: &[&Way<'_>]) -> Vec<Vec<f64>> {
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..scale.rounds {
        let mut sums = vec![0.0; ways.len()];
        for _ in 0..scale.turns {
            for (sum, way) in sums.iter_mut().zip(ways) {
                *sum += way.time(scale.packets);
            }
        }
        for (times, sum) in times.iter_mut().zip(sums) {
            times.push(sum / f64::from(scale.turns));
        }
    }
    times
}

/// Takes the time of the driver alone off.
fn without(times: &[f64], driver: &[f64]) -> Vec<f64> {
    times.iter().zip(driver).map(|(time, driver)| (time - driver).max(0.1)).collect()
}

/// A kernel with lists, tables and sessions as promised, and the addresses on its list.
struct Filled {
    kernel: Kernel,
    denied: Vec<IpAddr>,
}

fn fill(scale: &Scale) -> Filled {
    let mut kernel = Kernel::load();
    let networks = networks(scale.full);
    assert!(!scale.full || networks.len() >= 500_000, "{} networks", networks.len());
    let mut tables = frames::tables(&networks, scale.full);
    let mut random = random::Random(2);
    // As many of each family as are promised of both, because that is how many the other filter holds.
    let denied: Vec<IpAddr> =
        (0..2 * scale.listed).map(|index| random_address(&mut random, index % 2 == 0)).collect();
    let mut prefixes = Vec::new();
    for index in 0..2 * scale.listed / 10 {
        let ip = random_address(&mut random, index % 2 == 0);
        let bits = if ip.is_ipv4() { MAPPED_BITS + 24 } else { 48 };
        let network = u128::from_be_bytes(address(ip)) >> (128 - bits) << (128 - bits);
        prefixes.push((network.to_be_bytes(), bits));
        frames::list(&mut tables, ip);
    }
    denied.iter().for_each(|&ip| frames::list(&mut tables, ip));
    kernel.tables(&tables);
    kernel.exact(&denied.iter().map(|&ip| address(ip)).collect::<Vec<_>>());
    kernel.prefixes(&prefixes);
    kernel.configure(FLAGS);
    Filled { kernel, denied }
}

/// Sessions that nobody has.
pub(crate) fn sessions(count: usize) -> Vec<(SessionKey, Session)> {
    let mut random = random::Random(3);
    let session = Session { last_day: TODAY, generation: 1 };
    (0..count).map(|_| (SessionKey([random.number(), random.number()]), session)).collect()
}

/// Runs a way on many packets and sees how many had an outcome that they were to have.
fn assert_outcome(kernel: &Kernel, way: &Way<'_>, outcome: Outcome, packets: u32, denied_part: u64) {
    let before = kernel.counters();
    let _any = way.driver.run(way.frame, packets).expect("a run");
    let after = kernel.counters();
    let risen = |outcome| risen(&before, &after, outcome);
    let (found, denied) = (risen(outcome), risen(Outcome::DropIpDenied) + risen(Outcome::DropCountryDenied));
    let packets = u64::from(packets);
    assert!(
        found + denied == packets && denied <= packets / denied_part,
        "{found} and {denied} of {packets}: {outcome:?}"
    );
}

/// What is measured of packets.
pub(crate) fn measure(scale: &Scale, xdp_filter: Option<&[u8]>, report: &mut Report) {
    let filled = fill(scale);
    let verified = filled.kernel.info().verified_instruction_count().unwrap_or(0);
    report.single("verified instructions", "", &[f64::from(verified)], Promise::Exactly(250_000.0));
    inspected(scale, &filled, report);
    if let Some(object) = xdp_filter {
        let filter = XdpFilter::load(object, &filled.denied);
        assert!(filled.denied.len() <= 2 * CAPACITY);
        plain(scale, &filled, &filter, report);
    }
}

/// What the parts of a configuration add to a packet that is not inspected: with fewer and fewer of them in force.
fn parts(scale: &Scale, kernel: &Kernel, frame: &[u8], random: &[Random], report: &mut Report) {
    let nothing = passing().expect("a program");
    let way = |target| Way { driver: Driver::new(target, random).expect("a driver"), frame };
    let (ours, driver) = (way(kernel.fd()), way(nothing.as_fd()));
    let parts = [
        ("all parts", FLAGS),
        ("without countries", FLAGS & !FLAG_SERVICES),
        ("without lists", FLAGS & !(FLAG_EXACT | FLAG_PREFIX)),
        ("without either", FLAG_SESSIONS | FLAG_RESPOND),
    ];
    let mut times = vec![Vec::new(); parts.len() + 1];
    for _ in 0..scale.rounds {
        for ((_, flags), times) in parts.iter().zip(&mut times) {
            kernel.configure(*flags);
            times.push(ours.time(scale.packets));
        }
        times[parts.len()].push(driver.time(scale.packets));
    }
    kernel.configure(FLAGS);
    let all = without(&times[0], &times[parts.len()]);
    for ((name, _), times_of) in parts.iter().zip(&times).skip(1) {
        let name = format!("  {name}");
        let rest = without(times_of, &times[parts.len()]);
        report.pair(&name, "ns", &rest, ("ns with all", &all), Promise::None);
    }
}

/// A packet that is not inspected, against xdp-filter.
fn plain(scale: &Scale, filled: &Filled, filter: &XdpFilter, report: &mut Report) {
    let nothing = passing().expect("a program");
    for v4 in [true, false] {
        let mut random = random::Random(4);
        // One that passes.
        let hot = Driver::new(filled.kernel.fd(), &[]).expect("a driver");
        let mut frame = tcp(random_address(&mut random, v4), SERVICE, SYN, &[]);
        while hot.run(&frame, 1).expect("a run").0 != PASS {
            frame = tcp(random_address(&mut random, v4), SERVICE, SYN, &[]);
        }
        let random = if v4 { sources_v4() } else { sources_v6() };
        for (name, random) in [("random sources", &random[..]), ("hot", &[])] {
            let way = |target| Way { driver: Driver::new(target, random).expect("a driver"), frame: &frame };
            let (ours, theirs) = (way(filled.kernel.fd()), way(filter.fd()));
            let driver = way(nothing.as_fd());
            let denied_part = if random.is_empty() { FEW } else { SOME };
            assert_outcome(&filled.kernel, &ours, Outcome::Pass, scale.packets, denied_part);
            // Both deny the same address.
            let denied = filled.denied.iter().find(|ip| ip.is_ipv4() == v4).expect("a denied address");
            let denied = tcp(*denied, SERVICE, SYN, &[]);
            for target in [filled.kernel.fd(), filter.fd()] {
                let driver = Driver::new(target, &[]).expect("a driver");
                assert_eq!(driver.run(&denied, 1).expect("a run").0, DROP);
            }
            let times = rounds(scale, &[&ours, &theirs, &driver]);
            let [ours, theirs, driver] = &times[..] else { unreachable!("three ways") };
            let family = if v4 { "IPv4" } else { "IPv6" };
            let promised = v4 && !random.is_empty();
            report.pair(
                &format!("packet not inspected, {family}, {name}"),
                "ns",
                &without(ours, driver),
                ("ns xdp-filter", &without(theirs, driver)),
                if promised { Promise::RatioAtMost(0.5) } else { Promise::None },
            );
            report.pair(
                &format!("  with the driver ({family}, {name})"),
                "ns",
                ours,
                ("ns xdp-filter", theirs),
                Promise::None,
            );
            parts(scale, &filled.kernel, &frame, random, report);
        }
    }
}

/// A request with a token that is inspected, against the same on a port that is not. Neither port has a service, so that
/// the difference is the inspection and nothing else.
fn inspected(scale: &Scale, filled: &Filled, report: &mut Report) {
    let (request, letters) = request();
    let mut random = random::Random(5);
    let source = random_address(&mut random, true);
    let on = |port| tcp(source, port, PSH_ACK, &request);
    let (inspected, plain) = (on(INSPECTED), on(PLAIN));

    // It is looked into: were its session blacklisted, it would not be as it is. The map has no room for it later.
    let keys = session_keys();
    let listed: Vec<_> = keys.iter().map(|&key| (key, Session { last_day: TODAY, generation: 1 })).collect();
    filled.kernel.list(&listed);
    let driver = Driver::new(filled.kernel.fd(), &[]).expect("a driver");
    // There is no connection, so it is not answered.
    assert_outcome(&filled.kernel, &Way { driver, frame: &inspected }, Outcome::PassBusy, 1, FEW);
    filled.kernel.forget(&keys);
    filled.kernel.list(&sessions(scale.sessions));

    let data_at = inspected.len() - request.len();
    let mut random = sources_v4();
    random.extend(letters.map(|at| Random { at: data_at + at, mask: 0x0707_0707, base: 0x6161_6161 }));
    let nothing = passing().expect("a program");
    for (name, random) in [("random sources and sessions", &random[..]), ("hot", &[])] {
        let way = |target, frame| Way { driver: Driver::new(target, random).expect("a driver"), frame };
        let kernel = &filled.kernel;
        let (deep, flat) = (way(kernel.fd(), &inspected), way(kernel.fd(), &plain));
        let driver = way(nothing.as_fd(), &plain);
        assert_outcome(kernel, &deep, Outcome::PassInspected, scale.packets, FEW);
        assert_outcome(kernel, &flat, Outcome::Pass, scale.packets, FEW);
        let times = rounds(scale, &[&deep, &flat, &driver]);
        let [deep, flat, driver] = &times[..] else { unreachable!("three ways") };
        let promised = !random.is_empty();
        let promise = |promise| if promised { promise } else { Promise::None };
        let (deep, flat) = (without(deep, driver), without(flat, driver));
        report.single(&format!("inspected GET, {name}"), "ns", &deep, promise(Promise::AtMost(500.0)));
        report.pair(
            "  against a pass",
            "ns",
            &deep,
            ("ns, the port not inspected", &flat),
            promise(Promise::RatioAtMost(4.0)),
        );
    }
}
