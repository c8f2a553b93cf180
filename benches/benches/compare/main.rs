//! The gateway and the auth listener beside what an operator would otherwise run: nginx and HAProxy, without checks and
//! with the same ones. Every subject has one core, and everything that puts load on it, the origin included, the other.
//!
//! `benches/compare` runs it, and `cargo bench` by itself does not. With `--test` everything runs once and shortly, and only
//! outcomes count. `--out DIR` says where the charts and the report go (`target/compare` otherwise, below the project), and
//! `--rounds N` how often subjects take turns.
//!
//! A peer that is missing is left out, unless `EDGEGATE_REQUIRE` names it: `nginx,haproxy,wrk`.
#![expect(clippy::expect_used, clippy::panic, reason = "a comparison whose parts fail must not look well")]

mod machine;
mod measure;
mod subjects;

use crate::machine::Cores;
use crate::measure::{Throughput, check, decisions, open_loop, throughput};
use crate::subjects::{Programs, Site, Subject};
use benches::chart::{Axis, Bar, Heading, Series, bars, lines};
use benches::machine::{description, today};
use benches::report::{Promise, Report, quartiles};
use benches::{policy, request, target};
use serde::Serialize;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use subjects::{
    AUTH, GATEWAY, GATEWAY_OPEN, GATEWAY_SECURE, HAPROXY, HAPROXY_OPEN, NGINX, NGINX_AUTH, NGINX_SECURE,
};
use tests::require::{capability, missing};
use validator_core::{NoGeo, Scratch, decide};

/// How much of everything.
struct Scale {
    /// Whether this is a measurement, and not a test of it.
    full: bool,
    /// How often subjects take turns.
    rounds: usize,
    /// How often they are asked as fast as it goes, within a round. What else a machine does comes and goes, so these turns are as
    /// short as `wrk` has them, and as many as there is time for.
    turns: usize,
    /// How long one turn of `wrk` is in scale charts, in seconds.
    seconds: u64,
    /// How long one turn at a fixed rate is.
    lasting: Duration,
    /// Connections of scale charts.
    connections: &'static [usize],
    /// Requests per second where connections and cores are what varies.
    modest: f64,
    /// Decisions that are timed in a round.
    decisions: u32,
}

const FULL: Scale = Scale {
    full: true,
    rounds: 7,
    turns: 3,
    seconds: 2,
    lasting: Duration::from_secs(3),
    connections: &[1, 10, 100, 1_000, 5_000],
    modest: 2_000.0,
    decisions: 200_000,
};

const QUICK: Scale = Scale {
    full: false,
    rounds: 1,
    turns: 1,
    seconds: 1,
    lasting: Duration::from_millis(200),
    connections: &[1, 200],
    modest: 500.0,
    decisions: 1_000,
};

/// Connections where nothing else is said.
const CONNECTIONS: usize = 64;

/// A subject is as busy as it can be from here on.
const BUSY: f64 = 0.95;

/// Rates of the latency, as parts of what the weakest subject can do.
const PARTS: [f64; 2] = [0.25, 0.6];

/// A subject, and its figure by the work.
type Curve = (String, Vec<(f64, f64)>);

/// Everything that is written.
#[derive(Serialize)]
struct Results {
    date: String,
    machine: String,
    report: Report,
    /// Requests per second of processor time, by connections.
    connections: Vec<Curve>,
    /// p99 in microseconds at a modest rate, by connections.
    connections_p99: Vec<Curve>,
    /// The same by cores.
    cores: Vec<Curve>,
    cores_p99: Vec<Curve>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--compare") {
        println!("compare: nothing by itself; benches/compare runs it");
        return ExitCode::SUCCESS;
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        Some(arguments.get(at + 1).unwrap_or_else(|| panic!("{name} needs a value")))
    };
    let test = arguments.iter().any(|argument| argument == "--test");
    let mut scale = if test { QUICK } else { FULL };
    if let Some(rounds) = value("--rounds") {
        scale.rounds = rounds.parse().ok().filter(|rounds| *rounds > 0).expect("a number of rounds");
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of the project");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder of what is built");
    let out = value("--out").map_or_else(|| target.join("compare"), |folder| project.join(folder));

    let mut report = Report::default();
    let Some((cores, programs)) = means(&mut report) else {
        print!("{}", report.table(scale.full));
        return ExitCode::SUCCESS;
    };
    // Built by all cores, before this process keeps to one.
    tests::binary::path();
    cores.stay_with_load();
    machine::open_many_files();
    let site = Site::new(cores, programs);
    let mut results = Results {
        date: today(),
        machine: description(),
        report,
        connections: Vec::new(),
        connections_p99: Vec::new(),
        cores: Vec::new(),
        cores_p99: Vec::new(),
    };
    run(&scale, &site, &mut results, &out);
    print!("{}", results.report.table(scale.full));
    println!("{}, {}", results.date, results.machine);
    if scale.full {
        let text = serde_json::to_string_pretty(&results).expect("numbers and names");
        write(&out, "compare.json", &text);
        println!("charts and report are in {}", out.display());
    }
    if scale.full && !results.report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What has to be there; says what is not.
fn means(report: &mut Report) -> Option<(Cores, Programs)> {
    let mut lack = |part: &str, tool: &str, reason: &str| {
        missing(tool, reason);
        report.skipped.push(format!("{part}: needs {tool}: {reason}"));
    };
    let runs = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok()
    };
    let nginx = capability("nginx");
    let haproxy = capability("haproxy");
    if haproxy.is_none() {
        lack("HAProxy", "haproxy", "not installed; Debian's package haproxy");
    }
    let mut all = true;
    if nginx.is_none() {
        lack("everything", "nginx", "not installed, and the origin is one; Debian's package nginx");
    }
    for (tool, argument, package) in [("wrk", "-v", "wrk"), ("setpriv", "--version", "util-linux")] {
        if !runs(tool, argument) {
            lack("everything", tool, &format!("not installed; Debian's package {package}"));
            all = false;
        }
    }
    let cores = Cores::find();
    if let Err(reason) = &cores {
        lack("everything", "cores", reason);
    }
    Some((cores.ok()?, Programs { nginx: nginx?, haproxy })).filter(|_| all)
}

fn run(scale: &Scale, site: &Site, results: &mut Results, out: &Path) {
    let subjects = site.subjects();
    subjects.iter().for_each(check);
    let rates = measure_throughput(scale, site, &subjects, results, out);
    measure_latency(scale, &subjects, rates, results, out);
    let pair: Vec<&Subject> = [GATEWAY, NGINX].iter().filter_map(|name| named(&subjects, name)).collect();
    measure_connections(scale, &pair, results, out);
    measure_cores(scale, site, &pair, results, out);
    subjects.iter().for_each(check);
}

fn named<'s>(subjects: &'s [Subject], name: &str) -> Option<&'s Subject> {
    subjects.iter().find(|subject| subject.name == name)
}

/// The subjects of a round. Whoever comes second finds what the first one left, so the order turns around.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// What each subject can do, and what is promised of that. Gives the requests per second that the weakest one can do.
fn measure_throughput(
    scale: &Scale,
    site: &Site,
    subjects: &[Subject],
    results: &mut Results,
    out: &Path,
) -> f64 {
    let mut all: Vec<Vec<Throughput>> = vec![Vec::new(); subjects.len()];
    let (mut in_place, mut alone) = (Vec::new(), Vec::new());
    for turn in 0..scale.rounds * scale.turns {
        for index in order(subjects.len(), turn) {
            let subject = &subjects[index];
            let before = (subject.name == GATEWAY).then(|| decisions(subject));
            let figures = throughput(subject, CONNECTIONS, 1);
            if let Some((count, seconds)) = before {
                let after = decisions(subject);
                let each = (after.1 - seconds) / (after.0 - count);
                in_place.push(each * figures.per_core * 100.0);
                alone.push(decision(site.cores, scale.decisions) * figures.per_core * 100.0);
            }
            all[index].push(figures);
        }
    }
    let picked = |name: &str, pick: fn(&Throughput) -> f64| -> Option<Vec<f64>> {
        let index = subjects.iter().position(|subject| subject.name == name)?;
        Some(all[index].iter().map(pick).collect())
    };
    let report = &mut results.report;
    for subject in subjects {
        let values = |pick| picked(subject.name, pick).unwrap_or_default();
        report.single(subject.name, "requests/s", &values(|figures| figures.rate), Promise::None);
        let name = "  per second of its processor time";
        report.single(name, "requests", &values(|figures| figures.per_core), Promise::None);
        report.single("  busy", "% of a core", &values(|figures| figures.busy * 100.0), Promise::None);
    }
    for (name, other, promise) in [
        (GATEWAY, HAPROXY, Promise::RatioAtLeast(1.2)),
        (GATEWAY, NGINX, Promise::None),
        (GATEWAY, GATEWAY_OPEN, Promise::None),
        (GATEWAY_OPEN, HAPROXY_OPEN, Promise::None),
        (GATEWAY_OPEN, NGINX, Promise::None),
        (HAPROXY, HAPROXY_OPEN, Promise::None),
        (NGINX_AUTH, NGINX, Promise::None),
        (NGINX_AUTH, HAPROXY, Promise::None),
        (AUTH, GATEWAY, Promise::None),
        (GATEWAY_SECURE, NGINX_SECURE, Promise::None),
    ] {
        let busy = |name| picked(name, |figures| figures.busy).map(|values| quartiles(&values)[1]);
        let (Some(mine), Some(others)) = (busy(name), busy(other)) else { continue };
        // Whoever had time left was not at its limit, and its rate would be that of the load.
        let (kind, pick): (_, fn(&Throughput) -> f64) = if mine.min(others) >= BUSY {
            ("requests/s", |figures| figures.rate)
        } else {
            ("requests per processor second", |figures| figures.per_core)
        };
        let (mine, others) = (picked(name, pick), picked(other, pick));
        report.pair(
            &format!("{name}: {kind}"),
            "",
            &mine.unwrap_or_default(),
            (other, &others.unwrap_or_default()),
            promise,
        );
    }
    report.single("validation, of the gateway's processor time", "%", &in_place, Promise::AtMost(3.0));
    report.single("  the same by decisions alone on that core", "%", &alone, Promise::None);

    let rows: Vec<Bar> = subjects
        .iter()
        .map(|subject| {
            let [low, value, high] =
                quartiles(&picked(subject.name, |figures| figures.per_core).unwrap_or_default());
            Bar { name: subject.name.to_owned(), value, spread: Some([low, high]), ours: subject.ours }
        })
        .collect();
    let title = "Requests per second of processor time";
    draw(scale, results, out, "compare.svg", &|subtitle| bars(Heading { title, subtitle }, &rows));
    let medians = all.iter().map(|figures| {
        let rates: Vec<f64> = figures.iter().map(|figures| figures.rate).collect();
        quartiles(&rates)[1]
    });
    medians.fold(f64::INFINITY, f64::min)
}

/// Seconds that one decision takes by itself, on the core of the subjects.
fn decision(cores: Cores, times: u32) -> f64 {
    cores.with_subject(|| {
        let (policy, target, mut scratch) = (policy(), target(), Scratch::new());
        scratch.reserve(&policy);
        let mut once = || {
            let decision =
                decide(&policy, &request(black_box(&target)), &NoGeo, benches::NOW, &mut scratch, &mut ());
            decision.verdict.reason()
        };
        assert_eq!(once(), None);
        let start = Instant::now();
        for _ in 0..times {
            black_box(once());
        }
        start.elapsed().as_secs_f64() / f64::from(times)
    })
}

/// How long answers take at rates that every subject can do.
fn measure_latency(scale: &Scale, subjects: &[Subject], weakest: f64, results: &mut Results, out: &Path) {
    let rates =
        PARTS.map(|part| if scale.full { (weakest * part / 500.0).floor().max(1.0) * 500.0 } else { 500.0 });
    for (index, rate) in rates.into_iter().enumerate() {
        let mut all = vec![[const { Vec::new() }; 3]; subjects.len()];
        for round in 0..scale.rounds {
            for index in order(subjects.len(), round) {
                let outcome = open_loop(&subjects[index], CONNECTIONS, rate, scale.lasting);
                assert!(scale.full || outcome.unanswered == 0, "{:?}", outcome.fault());
                for (values, percent) in all[index].iter_mut().zip([50.0, 99.0, 99.9]) {
                    values.push(outcome.percentile(percent));
                }
            }
        }
        let haproxy = subjects.iter().position(|subject| subject.name == HAPROXY);
        for (subject, values) in subjects.iter().zip(&all) {
            for (place, percent) in ["p50", "p99", "p99.9"].iter().enumerate() {
                let name = format!("{}: {percent} at {rate}/s", subject.name);
                let other = haproxy.filter(|other| subjects[*other].name != subject.name && subject.ours);
                match other {
                    Some(other) => {
                        let baseline = ("us, HAProxy with checks", all[other][place].as_slice());
                        results.report.pair(&name, "us", &values[place], baseline, Promise::None);
                    }
                    None => results.report.single(&name, "us", &values[place], Promise::None),
                }
            }
        }
        let rows: Vec<Bar> = subjects
            .iter()
            .zip(&all)
            .map(|(subject, values)| {
                let [low, value, high] = quartiles(&values[1]);
                Bar { name: subject.name.to_owned(), value, spread: Some([low, high]), ours: subject.ours }
            })
            .collect();
        let title = format!("p99 in µs at {rate} requests/s");
        let file = format!("latency-{}.svg", ["low", "high"][index]);
        draw(scale, results, out, &file, &|subtitle| bars(Heading { title: &title, subtitle }, &rows));
    }
}

/// Figures of one point of a scale chart.
fn point(scale: &Scale, subject: &Subject, connections: usize) -> (f64, f64) {
    let per_core = throughput(subject, connections, scale.seconds).per_core;
    let outcome = open_loop(subject, connections, scale.modest, scale.lasting);
    (per_core, outcome.percentile(99.0))
}

/// Curves of several subjects: requests per second of processor time, and p99.
type Curves = [Vec<Curve>; 2];

/// Medians over the rounds of what [`point`] gives, for each work and subject.
fn curves(
    scale: &Scale,
    names: &[&'static str],
    work: &[usize],
    measure: &dyn Fn(usize, usize) -> (f64, f64),
) -> Curves {
    let mut all = vec![vec![[const { Vec::new() }; 2]; work.len()]; names.len()];
    for round in 0..scale.rounds.div_ceil(2) {
        for (place, work) in work.iter().enumerate() {
            for index in order(names.len(), round) {
                let (per_core, p99) = measure(index, *work);
                let [costs, latencies] = &mut all[index][place];
                costs.push(per_core);
                latencies.push(p99);
            }
        }
    }
    [0, 1].map(|figure| {
        let curve = |points: &Vec<[Vec<f64>; 2]>| {
            let medians = points.iter().map(|values| quartiles(&values[figure])[1]);
            work.iter().map(|work| *work as f64).zip(medians).collect()
        };
        names.iter().zip(&all).map(|(name, points)| ((*name).to_owned(), curve(points))).collect()
    })
}

fn measure_connections(scale: &Scale, pair: &[&Subject], results: &mut Results, out: &Path) {
    let names: Vec<&str> = pair.iter().map(|subject| subject.name).collect();
    // A proxy has two files open for each, and some more.
    let most = machine::open_many_files().saturating_sub(500) / 2;
    let (work, too_many): (Vec<usize>, Vec<usize>) =
        scale.connections.iter().partition(|connections| **connections as u64 <= most);
    if !too_many.is_empty() {
        results.report.skipped.push(format!("{too_many:?} connections: too many open files (ulimit -Hn)"));
    }
    let [costs, latencies] = curves(scale, &names, &work, &|index, work| point(scale, pair[index], work));
    let axis = Axis { label: "connections", logarithmic: true };
    chart_curves(scale, results, out, ("connections", axis), [&costs, &latencies]);
    (results.connections, results.connections_p99) = (costs, latencies);
}

/// One core, and then both, which the load shares.
fn measure_cores(scale: &Scale, site: &Site, pair: &[&Subject], results: &mut Results, out: &Path) {
    let both = [site.gateway_on_both(), site.nginx_on_both()];
    let names: Vec<&str> = both.iter().map(|subject| subject.name).collect();
    let [costs, latencies] = curves(scale, &names, &[1, 2], &|index, work| {
        point(scale, if work == 1 { pair[index] } else { &both[index] }, CONNECTIONS)
    });
    let axis = Axis { label: "cores", logarithmic: false };
    chart_curves(scale, results, out, ("cores", axis), [&costs, &latencies]);
    (results.cores, results.cores_p99) = (costs, latencies);
}

fn chart_curves(
    scale: &Scale,
    results: &Results,
    out: &Path,
    (name, x): (&str, Axis<'_>),
    curves: [&[Curve]; 2],
) {
    let p99 = format!("p99 in µs at {} requests/s", scale.modest);
    let figures = [("throughput", "requests per second of processor time", false), ("p99", &p99, true)];
    for ((kind, label, logarithmic), curves) in figures.into_iter().zip(curves) {
        let series: Vec<Series> = curves
            .iter()
            .map(|(name, points)| Series { name: name.clone(), points: points.clone() })
            .collect();
        let title = format!("{}, by {name}", label);
        draw(scale, results, out, &format!("{name}-{kind}.svg"), &|subtitle| {
            lines(Heading { title: &title, subtitle }, x, Axis { label, logarithmic }, &series)
        });
    }
}

/// Writes a chart, which is made in any case: also a test has to see that it can be.
fn draw(scale: &Scale, results: &Results, out: &Path, file: &str, chart: &dyn Fn(&str) -> String) {
    let svg = chart(&format!("{}, {}", results.date, results.machine));
    if scale.full {
        write(out, file, &svg);
    }
}

fn write(out: &Path, file: &str, text: &str) -> PathBuf {
    fs::create_dir_all(out).expect("the folder of results");
    let path = out.join(file);
    fs::write(&path, text).expect("results written");
    path
}
