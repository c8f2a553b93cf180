//! How long it takes to bring things into the kernel. Absolute times depend on the machine and on who else is on it, so
//! each stands beside what the obvious way would take: one system call for each entry.
#![expect(clippy::expect_used, reason = "what cannot be loaded cannot be measured")]

use crate::Scale;
use crate::frames::tables;
use crate::kernel::Kernel;
use crate::packets::sessions;
use agent::config;
use agent::metrics::Metrics;
use agent::snapshot::Snapshot;
use aya::maps::{HashMap, LpmTrie, MapData, lpm_trie::Key};
use benches::networks::{Network, city, networks};
use benches::report::{Promise, Report};
use ebpf_abi::{Tables, map};
use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;

/// Milliseconds that something takes of this thread's time, and what it gives. On an idle machine that is the time on the
/// wall; where others compute, too, it leaves out theirs.
fn timed<T>(run: impl FnOnce() -> T) -> (f64, T) {
    let now = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
    };
    let start = now();
    let outcome = run();
    (now() - start, outcome)
}

/// What is measured of loading.
pub(crate) fn measure(scale: &Scale, report: &mut Report) {
    let networks = networks(scale.full);
    compiling(scale, &networks, report);
    let tables = tables(&networks, scale.full);
    let sessions = sessions(scale.sessions);
    let (mut times, mut walls) = ([const { Vec::new() }; 4], [const { Vec::new() }; 2]);
    let since = |start: Instant| start.elapsed().as_secs_f64() * 1e3;
    for _ in 0..scale.rounds {
        // As new, so that every round finds the same: empty maps.
        let kernel = Kernel::maps();
        let write = || agent::kernel::sys::write_element(kernel.map(map::TABLES), 0, &*tables);
        let start = Instant::now();
        let (whole, written) = timed(write);
        walls[0].push(since(start));
        written.expect("the tables written");
        let start = Instant::now();
        let (table, ()) = timed(|| kernel.list(&sessions));
        walls[1].push(since(start));
        let row = [whole, trie(scale, &networks), table, hash(scale, sessions.len())];
        times.iter_mut().zip(row).for_each(|(times, time)| times.push(time));
        assert_written(&kernel, &tables, sessions.len());
    }
    let [whole, trie, table, hash] = &times;
    report.pair(
        "countries into the kernel",
        "ms",
        whole,
        ("ms one by one into a trie", trie),
        Promise::AtMost(100.0),
    );
    report.single("  on the wall", "ms", &walls[0], Promise::None);
    report.pair(
        "sessions into the kernel",
        "ms",
        table,
        ("ms one by one into a hash", hash),
        Promise::AtMost(1500.0),
    );
    report.single("  on the wall", "ms", &walls[1], Promise::None);
}

/// What was written is there.
fn assert_written(kernel: &Kernel, tables: &Tables, sessions: usize) {
    assert_eq!(kernel.sessions().iter().count(), sessions);
    assert!(tables.service_count > 0);
}

/// Milliseconds that all networks would take one by one, as a trie for BPF has them.
fn trie(scale: &Scale, networks: &[Network]) -> f64 {
    let some = networks.len().min(scale.singles);
    let mut trie = LpmTrie::<MapData, [u8; 4], u32>::create(1 << 20, NO_PREALLOC).expect("a trie");
    // Every so many of them, so that the trie is as deep as it would be.
    let some: Vec<&Network> = networks.iter().step_by(networks.len() / some).take(some).collect();
    let (time, ()) = timed(|| {
        for network in &some {
            let key = Key::new(network.bits.into(), network.first.to_be_bytes());
            trie.insert(&key, 1, 0).expect("a network written");
        }
    });
    time * networks.len() as f64 / some.len() as f64
}

/// Milliseconds that all sessions would take one by one.
fn hash(scale: &Scale, all: usize) -> f64 {
    let mut hash = HashMap::<MapData, [u64; 2], [u32; 2]>::create(1_000_000, NO_PREALLOC).expect("a hash");
    let some = sessions(scale.singles);
    let (time, ()) = timed(|| {
        for (key, session) in &some {
            hash.insert(key.0, [session.last_day, session.generation], 0).expect("a session written");
        }
    });
    time * all as f64 / some.len() as f64
}

/// What the agent takes to make its tables of a geo database: a snapshot with a kernel part, less one without.
fn compiling(scale: &Scale, networks: &[Network], report: &mut Report) {
    let folder = tempfile::tempdir().expect("a folder");
    let database = folder.path().join("city.mmdb");
    fs::write(&database, city(networks)).expect("a database");

    let metrics = Metrics::new().expect("metrics");
    let snapshot = |interfaces: &str| {
        let text = format!(
            "gateway = {{ listen = [\"127.0.0.1:1\"], upstream = \"http://a\" }}\n\
             geo = {{ city = {database:?} }}\n\
             [prefilter]\ninterfaces = [{interfaces}]\n\
             [[prefilter.service]]\naddress = \"0.0.0.0/0\"\nports = [443]\ndeny_countries = [\"ZZ\"]\n"
        );
        let config = config::parse(&text, Path::new("edgegate.toml"), 0).expect("a configuration");
        timed(|| Snapshot::new(config, &metrics).map(drop).map_err(|error| error.to_string()))
    };
    let mut times = Vec::new();
    for _ in 0..scale.rounds.min(7) {
        let (without, outcome) = snapshot("");
        outcome.expect("a snapshot");
        let (with, outcome) = snapshot("\"eth0\"");
        outcome.expect("a snapshot with a kernel part");
        times.push((with - without).max(0.0));
    }
    report.single("countries compiled by the agent", "ms", &times, Promise::None);
}
