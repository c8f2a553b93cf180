//! What a decision costs as there is more of everything: rules, patterns, blacklisted sessions, denied networks. Connections and cores are
//! `benches/compare`'s.
//!
//! `cargo bench -p benches --bench scale` writes a chart for each to `target/scale/`. With `--test` little is done, once, and only
//! outcomes count.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must not run")]

use benches::chart::{Axis, Heading, Series, lines};
use benches::machine::{description, today};
use benches::report::{Promise, Report, quartiles};
use benches::{NOW, PATTERN, policy, policy_of, request, route, target};
use ipnet::IpNet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use validator_core::net::NetSet;
use validator_core::{Day, NoGeo, Policy, Prefilter, Scratch, decide};

/// What there is more and more of.
struct Growth {
    name: &'static str,
    /// A policy with so many of it, under which the usual request passes.
    policy: fn(usize) -> Policy,
    counts: &'static [usize],
    /// Bound on the cost with the most of it, as a multiple of that with the least.
    promise: Promise,
}

const ALL: [Growth; 4] = [
    Growth {
        name: "rules that share a start",
        policy: of_rules,
        counts: &[1, 2, 5, 10, 20, 50, 100, 200],
        promise: Promise::RatioAtMost(1.25),
    },
    // Each has to be tried, as any may fit; what keeps this low is that most are told apart by their first bytes.
    Growth {
        name: "patterns of a rule",
        policy: of_patterns,
        counts: &[1, 2, 5, 10, 20, 50, 100],
        promise: Promise::None,
    },
    Growth {
        name: "blacklisted sessions",
        policy: of_sessions,
        counts: &[1, 10, 100, 1_000, 10_000, 100_000, 1_000_000],
        promise: Promise::RatioAtMost(1.5),
    },
    Growth {
        name: "denied networks",
        policy: of_networks,
        counts: &[1, 10, 100, 1_000, 10_000, 100_000],
        promise: Promise::RatioAtMost(1.5),
    },
];

fn main() -> ExitCode {
    let full = !std::env::args().any(|argument| argument == "--test");
    let (rounds, calls) = if full { (21, 2_000) } else { (1, 5) };
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder of what is built");
    let folder = target.join("scale");
    std::fs::create_dir_all(&folder).expect("a folder for charts");

    let subtitle = format!("{}, {}", today(), description());
    let mut report = Report::default();
    for growth in ALL {
        let most = if full { growth.counts.len() } else { 3 };
        let counts = &growth.counts[..most];
        let policies: Vec<Policy> = counts.iter().map(|count| (growth.policy)(*count)).collect();
        let times = interleaved(&policies, rounds, calls);
        let (least, many) = (&times[0], &times[most - 1]);
        let name = format!("{} {}, beside {}", counts[most - 1], growth.name, counts[0]);
        report.pair(&name, "ns", many, ("ns", least), growth.promise);
        let points: Vec<(f64, f64)> =
            counts.iter().map(|count| *count as f64).zip(times.iter().map(|t| median(t))).collect();
        let chart = lines(
            Heading { title: &format!("A decision with more {}", growth.name), subtitle: &subtitle },
            Axis { label: growth.name, logarithmic: true },
            Axis { label: "ns", logarithmic: false },
            &[Series { name: "decision: allow".to_owned(), points }],
        );
        let file = folder.join(format!("{}.svg", growth.name.replace(' ', "-")));
        std::fs::write(&file, chart).expect("a chart that can be written");
    }
    print!("{}", report.table(full));
    println!("charts: {}", folder.display());
    if full && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nanoseconds of a decision under each policy, in rounds in which all take turns.
fn interleaved(policies: &[Policy], rounds: usize, calls: u32) -> Vec<Vec<f64>> {
    let target = target();
    let mut times = vec![Vec::new(); policies.len()];
    let mut scratch = Scratch::new();
    for _ in 0..rounds {
        for (policy, times) in policies.iter().zip(&mut times) {
            scratch.reserve(policy);
            let started = Instant::now();
            for _ in 0..calls {
                let request = request(black_box(&target));
                let decision = decide(policy, &request, &NoGeo, NOW, &mut scratch, &mut ());
                assert_eq!(decision.verdict.reason(), None);
            }
            times.push(started.elapsed().as_secs_f64() * 1e9 / f64::from(calls));
        }
    }
    times
}

/// The one that decides comes last.
fn of_rules(count: usize) -> Policy {
    let mut routes: Vec<_> =
        (1..count).map(|n| route("other", &format!("/Content/Channel/Other{n}/"), &[PATTERN])).collect();
    routes.push(route("live", "/Content/Channel/National", &[PATTERN]));
    policy_of(routes)
}

/// The one that fits comes last.
fn of_patterns(count: usize) -> Policy {
    let texts: Vec<String> = (1..count).map(|n| format!("/Content/Other{n}/(?<cid>[^/]+)/.*")).collect();
    let patterns: Vec<&str> = texts.iter().map(String::as_str).chain([PATTERN]).collect();
    policy_of(vec![route("live", "/Content/", &patterns)])
}

fn of_sessions(count: usize) -> Policy {
    let mut policy = policy();
    for number in 0..count {
        policy
            .sessions
            .add(Day::of(NOW), &format!("session{number:07}-{:016x}", number.wrapping_mul(0x9e37_79b9)));
    }
    policy
}

/// Networks of one address each, none of which can be joined with another, around that of the client.
fn of_networks(count: usize) -> Policy {
    let network = |number: usize| {
        let distance = u32::try_from(number).unwrap_or(u32::MAX / 4) * 2 + 2;
        let client = u32::from(Ipv4Addr::new(192, 0, 2, 1));
        let address = if number.is_multiple_of(2) { client - distance } else { client + distance };
        IpNet::from(IpAddr::from(Ipv4Addr::from(address)))
    };
    let deny = NetSet::new((0..count).map(network));
    Policy { prefilter: Arc::new(Prefilter { deny, ..Prefilter::default() }), ..policy() }
}

fn median(values: &[f64]) -> f64 {
    quartiles(values)[1]
}
