//! The agent and its program in a real kernel: lists, reloads, restarts, and what happens where there is no kernel part.
//!
//! Needs root, network namespaces and BPF; see `tests::netns`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use rustix::process::Signal;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Output;
use tests::binary::{Edgegate, Home, finish};
use tests::conn::Conn;
use tests::contract::get;
use tests::netns::{Met, Net, wait_until_unloaded};
use tests::origin::Origin;

const PORT: u16 = 8080;

/// A configuration for a network.
struct Setup<'n> {
    net: &'n Net,
    origin: &'n Origin,
    mode: &'static str,
    deny: Vec<String>,
    allow: Vec<String>,
    more: &'static str,
}

impl<'n> Setup<'n> {
    /// Denies the bad addresses.
    fn new(net: &'n Net, origin: &'n Origin) -> Self {
        let deny = [4, 6].map(|family| net.bad(family).to_string()).to_vec();
        Self { net, origin, mode: "auto", deny, allow: Vec::new(), more: "" }
    }

    fn text(&self) -> String {
        let Self { net, origin, mode, deny, allow, more } = self;
        format!(
            r#"
[gateway]
listen = ["{}", "{}"]
upstream = "{}"

[metrics]
listen = "127.0.0.1:0"

[prefilter]
interfaces = ["{}"]
mode = "{mode}"
pin_dir = "{}"
deny = {deny:?}
allow = {allow:?}
{more}

[[route]]
name = "open"
when = [ {{ variable = "uri", operator = "exists" }} ]
check = "allow"
"#,
            at(net, 4),
            at(net, 6),
            origin.url(),
            net.interface(),
            net.pin_dir().display(),
        )
    }

    fn run(&self) -> Edgegate {
        Edgegate::run(&self.text())
    }
}

fn at(net: &Net, family: u8) -> SocketAddr {
    SocketAddr::new(net.here(family), PORT)
}

fn metric(gate: &Edgegate, name: &str) -> u64 {
    let page = String::from_utf8(gate.metrics_page("/metrics").body).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or(0)
}

fn dropped(gate: &Edgegate) -> u64 {
    metric(gate, r#"edgegate_kernel_packets_total{reason="ip_denied",verdict="drop"}"#)
}

/// Decisions of userspace, whatever they were.
fn decided(gate: &Edgegate) -> u64 {
    metric(gate, "edgegate_decision_seconds_count")
}

/// The status of a request from an address of the other side.
fn status(net: &Net, from: IpAddr, to: SocketAddr) -> u16 {
    let stream = net.connect(from, to).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
    Conn::over(stream).send(get("/x")).reply().status
}

fn prefilter(command: &str, pin_dir: &Path) -> Output {
    Home::new().output(&["ctl", "prefilter", command, "--pin-dir", pin_dir.to_str().unwrap()])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Mode, program and link by `edgegate ctl prefilter status`.
fn attachment(net: &Net) -> (String, u32, u32) {
    let output = prefilter("status", net.pin_dir());
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = shown.lines().find_map(|line| line.strip_prefix(net.interface())?.strip_prefix(": "));
    let mut words = line.unwrap_or_else(|| panic!("{shown}")).split(", ");
    let mode = words.next().unwrap().to_owned();
    let mut number = |name| words.next().unwrap().strip_prefix(name).unwrap().parse().unwrap();
    let (program, link) = (number("program "), number("link "));
    assert_eq!(net.programs(), [program], "the kernel agrees");
    (mode, program, link)
}

#[test]
fn denied_is_dropped_before_userspace() {
    for (mode, shown) in [("native", "native"), ("generic", "generic"), ("auto", "native")] {
        let Some(net) = Net::new() else { return };
        let origin = Origin::start();
        let gate = Setup { mode, ..Setup::new(&net, &origin) }.run();
        assert_eq!(attachment(&net).0, shown);
        assert_eq!(metric(&gate, "edgegate_kernel_up"), 1);
        assert_eq!(metric(&gate, r#"edgegate_map_entries{map="exact"}"#), 2);
        assert_eq!(metric(&gate, r#"edgegate_map_entries{map="prefix"}"#), 0);
        for family in [4, 6] {
            let (drops, decisions) = (dropped(&gate), decided(&gate));
            // Datagrams are not sent again on their own.
            net.send(net.bad(family), at(&net, family), 3);
            net.send(net.good(family), at(&net, family), 3);
            tests::wait_for("the drops", || (dropped(&gate) >= drops + 3).then_some(()));
            assert_eq!(dropped(&gate), drops + 3, "{mode}, IPv{family}");
            assert_eq!(net.meet(net.bad(family), at(&net, family)), Met::Silence, "{mode}, IPv{family}");
            assert_eq!(status(&net, net.good(family), at(&net, family)), 200);
            assert_eq!(decided(&gate), decisions + 1, "{mode}, IPv{family}");
        }
    }
}

#[test]
fn allow_exempts_from_deny() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let deny = vec!["198.18.0.0/15".to_owned(), "fd00::/8".to_owned()];
    let allow = [4, 6].map(|family| net.good(family).to_string()).to_vec();
    let gate = Setup { deny, allow, ..Setup::new(&net, &origin) }.run();
    for family in [4, 6] {
        assert_eq!(net.meet(net.bad(family), at(&net, family)), Met::Silence);
        assert_eq!(status(&net, net.good(family), at(&net, family)), 200);
    }
    let drops = dropped(&gate);
    assert!(drops >= 2);
    assert!(metric(&gate, r#"edgegate_kernel_packets_total{reason="allowed",verdict="pass"}"#) >= 8);
    // A denied network within an allowed one is allowed, as in userspace.
    let deny = [4, 6].map(|family| net.bad(family).to_string()).to_vec();
    let allow = vec!["198.18.0.0/15".to_owned(), "fd00::/8".to_owned()];
    let log = gate.reload(&Setup { deny, allow, ..Setup::new(&net, &origin) }.text());
    assert!(log.contains("configuration reloaded"), "{log}");
    for family in [4, 6] {
        assert_eq!(status(&net, net.bad(family), at(&net, family)), 200);
    }
    assert_eq!(dropped(&gate), drops);
}

#[test]
fn reload_reaches_the_kernel() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let gate = Setup { deny: vec![], ..Setup::new(&net, &origin) }.run();
    let before = attachment(&net);
    for round in 0..4 {
        for family in [4, 6] {
            assert_eq!(status(&net, net.bad(family), at(&net, family)), 200, "round {round}");
        }
        let log = gate.reload(&Setup::new(&net, &origin).text());
        assert!(log.contains("configuration reloaded"), "{log}");
        for family in [4, 6] {
            assert_eq!(net.meet(net.bad(family), at(&net, family)), Met::Silence, "round {round}");
        }
        let log = gate.reload(&Setup { deny: vec![], ..Setup::new(&net, &origin) }.text());
        assert!(log.contains("configuration reloaded"), "{log}");
    }
    assert!(dropped(&gate) >= 8);
    assert_eq!(attachment(&net), before, "a reload swaps lists, not programs");
}

/// Too much for the kernel, and what only a restart can change: refused as a whole, and the old lists stay.
#[test]
fn refused_reloads_change_nothing() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let gate = Setup::new(&net, &origin).run();
    let many = (0..=ebpf_abi::EXACT_CAPACITY).map(|i| std::net::Ipv4Addr::from_bits(i << 8).to_string());
    let log = gate.reload(&Setup { deny: many.collect(), ..Setup::new(&net, &origin) }.text());
    assert!(log.contains("reload refused") && log.contains("65537") && log.contains("65536"), "{log}");
    let log = gate.reload(&Setup { mode: "generic", ..Setup::new(&net, &origin) }.text());
    assert!(log.contains("reload refused") && log.contains("prefilter.mode"), "{log}");
    let missing = Setup { deny: vec![], ..Setup::new(&net, &origin) }.text();
    let missing = missing.replace(net.interface(), &format!("{}\", \"edgegate-none", net.interface()));
    let log = gate.reload(&missing);
    assert!(log.contains("reload refused") && log.contains("edgegate-none"), "{log}");
    assert_eq!(metric(&gate, "edgegate_reload_failures_total"), 3);
    for family in [4, 6] {
        assert_eq!(net.meet(net.bad(family), at(&net, family)), Met::Silence);
        assert_eq!(status(&net, net.good(family), at(&net, family)), 200);
    }
}

/// As full as it gets, twice, so that both banks are filled, emptied and filled again.
#[test]
fn full_lists() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let full = |first: u8| {
        let exact = (0..ebpf_abi::EXACT_CAPACITY - 2)
            .map(|i| std::net::Ipv4Addr::from_bits(u32::from(first) << 24 | i << 4).to_string());
        let prefix = (0..ebpf_abi::PREFIX_CAPACITY).map(|i| format!("2001:{first}:{i:x}::/48"));
        let bad = [4, 6].map(|family| net.bad(family).to_string());
        Setup { deny: exact.chain(prefix).chain(bad).collect(), ..Setup::new(&net, &origin) }.text()
    };
    let gate = Edgegate::run(&full(11));
    for first in [12, 13, 14] {
        assert_eq!(metric(&gate, r#"edgegate_map_entries{map="exact"}"#), 65_536);
        assert_eq!(metric(&gate, r#"edgegate_map_entries{map="prefix"}"#), 16_384);
        assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence);
        let log = gate.reload(&full(first));
        assert!(log.contains("configuration reloaded"), "{log}");
    }
    let shown = text(&prefilter("status", net.pin_dir()).stdout);
    assert!(shown.contains("exact: 65536 of 65536") && shown.contains("prefix: 16384 of 16384"), "{shown}");
}

#[test]
fn a_crash_leaves_the_filter_and_a_restart_takes_it_over() {
    for mode in ["native", "generic"] {
        let Some(net) = Net::new() else { return };
        let origin = Origin::start();
        let setup = Setup { mode, ..Setup::new(&net, &origin) };
        let mut running = Some(setup.run());
        net.under_fire(|| {
            for signal in [Signal::KILL, Signal::TERM] {
                let (_, program, link) = attachment(&net);
                let gate = running.take().unwrap();
                let drops = dropped(&gate);
                gate.signal(signal);
                let _ended = gate.wait();
                for family in [4, 6] {
                    assert_eq!(net.meet(net.bad(family), at(&net, family)), Met::Silence, "no agent runs");
                    assert_eq!(net.meet(net.good(family), at(&net, family)), Met::Refused, "no agent runs");
                }
                let gate = setup.run();
                let log = gate.log();
                assert!(log.contains("taken over without a gap"), "{log}");
                let after = attachment(&net);
                assert_eq!(after.2, link, "the link stays");
                assert_ne!(after.1, program, "the program is the new agent's");
                wait_until_unloaded(program);
                assert!(dropped(&gate) > drops, "the counters go on");
                assert_eq!(status(&net, net.good(4), at(&net, 4)), 200);
                running = Some(gate);
            }
        });
    }
}

/// What another version, or half a start, left behind gives way without a gap.
#[test]
fn leftovers_of_other_versions_are_replaced() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let setup = Setup::new(&net, &origin);
    let dir = net.pin_dir();
    let version = format!("v{}", ebpf_abi::ABI_VERSION);
    let restart = |gate: Edgegate, between: &dyn Fn()| {
        let (_, _, link) = attachment(&net);
        gate.signal(Signal::KILL);
        let _ended = gate.wait();
        between();
        let gate = setup.run();
        let log = gate.log();
        assert!(log.contains("taken over without a gap"), "{log}");
        assert_eq!(attachment(&net).2, link);
        gate
    };
    let gate = setup.run();
    net.under_fire(|| {
        let gate = restart(gate, &|| fs::rename(dir.join(&version), dir.join("v0")).unwrap());
        let found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(found, [version.as_str()], "the old version's folder is gone");
        let gate = restart(gate, &|| fs::remove_file(dir.join(&version).join("maps/EXACT_1")).unwrap());
        let maps = dir.join(&version).join("maps");
        let swapped = |a: &str, b: &str| {
            fs::rename(maps.join(a), maps.join("X")).unwrap();
            fs::rename(maps.join(b), maps.join(a)).unwrap();
            fs::rename(maps.join("X"), maps.join(b)).unwrap();
        };
        let gate = restart(gate, &|| swapped("CONFIG", "PREFIX_0"));
        assert_eq!(status(&net, net.good(4), at(&net, 4)), 200);
        drop(gate);
    });
}

/// The interface went and came back under its name while no agent ran: the old link is worth nothing.
#[test]
fn a_link_to_an_interface_that_is_gone() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let setup = Setup::new(&net, &origin);
    let gate = setup.run();
    let (_, program, _) = attachment(&net);
    gate.signal(Signal::KILL);
    let _ended = gate.wait();
    net.remake();
    assert!(net.programs().is_empty());
    assert_eq!(prefilter("status", net.pin_dir()).status.code(), Some(1));
    let gate = setup.run();
    assert_ne!(attachment(&net).1, program);
    assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence);
    assert_eq!(status(&net, net.good(4), at(&net, 4)), 200);

    // While an agent runs, its next reload sees to it.
    net.remake();
    assert!(net.programs().is_empty());
    let log = gate.reload(&setup.text());
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence);
    assert_eq!(status(&net, net.good(4), at(&net, 4)), 200);
}

/// A link has one mode for life: another mode needs another link, and the log says that there is a gap.
#[test]
fn another_mode_needs_another_link() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let setup = |mode| Setup { mode, ..Setup::new(&net, &origin) };
    let mut last = None;
    for (mode, shown) in
        [("native", "native"), ("generic", "generic"), ("auto", "generic"), ("native", "native")]
    {
        let gate = setup(mode).run();
        let (found, _, link) = attachment(&net);
        assert_eq!(found, shown, "{mode}");
        let log = gate.log();
        assert_eq!(log.contains("for a moment it is off"), last.is_some() && mode != "auto", "{log}");
        assert_eq!(last == Some(link), mode == "auto", "{mode}");
        last = Some(link);
        assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence);
        gate.signal(Signal::TERM);
        let _ended = gate.wait();
    }
}

#[test]
fn monitor_counts_and_passes() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let gate = Setup { more: "monitor = true", ..Setup::new(&net, &origin) }.run();
    for family in [4, 6] {
        assert_eq!(status(&net, net.bad(family), at(&net, family)), 200);
    }
    assert_eq!(dropped(&gate), 0);
    let name = r#"edgegate_kernel_packets_total{reason="ip_denied",verdict="monitor"}"#;
    assert!(metric(&gate, name) >= 8);
    assert_eq!(metric(&gate, r#"edgegate_monitored_total{claim="ip_denied"}"#), 2);
    let _said = gate.wait_for_log(0, "listed, let through by monitor mode");
    let log = gate.reload(&Setup::new(&net, &origin).text());
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence);
}

#[test]
fn a_foreign_program_is_left_alone() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let foreign = net.foreign_program(true);
    let setup = Setup::new(&net, &origin);
    let gate = setup.run();
    let log = gate.log();
    for part in ["kernel: off", net.interface(), ebpf_abi::PROGRAM, &foreign.id.to_string()] {
        assert!(log.contains(part), "{part:?} in {log}");
    }
    assert_eq!(metric(&gate, "edgegate_kernel_up"), 0);
    assert_eq!(status(&net, net.bad(4), at(&net, 4)), 403, "userspace enforces the lists");
    assert_eq!(status(&net, net.good(4), at(&net, 4)), 200);
    assert_eq!(net.programs(), [foreign.id]);
    assert!(!net.pin_dir().exists(), "nothing is left");
    drop(gate);

    let home = Home::new();
    home.write("edgegate.toml", Setup { more: "required = true", ..Setup::new(&net, &origin) }.text());
    let output = home.output(&["run", "--config", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = text(&output.stderr);
    assert!(said.contains("prefilter.required") && said.contains(net.interface()), "{said}");
    assert_eq!(net.programs(), [foreign.id]);

    // Once it is gone, a reload is enough.
    let gate = setup.run();
    drop(foreign);
    tests::wait_for("the program to go", || net.programs().is_empty().then_some(()));
    let log = gate.reload(&setup.text());
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(metric(&gate, "edgegate_kernel_up"), 1);
    assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence);
}

#[test]
fn a_foreign_program_without_a_link_is_left_alone() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let foreign = net.foreign_program(false);
    let gate = Setup::new(&net, &origin).run();
    let log = gate.log();
    assert!(log.contains("kernel: off") && log.contains(&foreign.id.to_string()), "{log}");
    assert_eq!(net.programs(), [foreign.id]);
    assert_eq!(status(&net, net.bad(4), at(&net, 4)), 403);
}

#[test]
fn detach_removes_everything() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let setup = Setup::new(&net, &origin);
    let gate = setup.run();
    let (_, program, _) = attachment(&net);
    let output = prefilter("detach", net.pin_dir());
    assert_eq!(output.status.code(), Some(2), "an agent runs: {output:?}");
    assert!(text(&output.stderr).contains("in use"), "{output:?}");
    gate.signal(Signal::TERM);
    let (ended, log) = gate.wait();
    assert_eq!(ended.code(), Some(0), "{log}");
    assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence, "SIGTERM leaves the filter");
    let output = prefilter("detach", net.pin_dir());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains(net.interface()), "{output:?}");
    assert!(net.programs().is_empty() && !net.pin_dir().exists());
    wait_until_unloaded(program);
    assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Refused);
    assert_eq!(prefilter("status", net.pin_dir()).status.code(), Some(1));
    assert_eq!(prefilter("detach", net.pin_dir()).status.code(), Some(0), "again is no error");
}

/// An interface that is no longer configured is let go, by a reload and by a restart.
#[test]
fn interfaces_that_are_no_longer_configured() {
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let setup = Setup::new(&net, &origin);
    let without = setup.text().replace(&format!("\"{}\"", net.interface()), "");
    let gate = setup.run();
    let log = gate.reload(&without);
    assert!(log.contains("configuration reloaded"), "{log}");
    tests::wait_for("the program to go", || net.programs().is_empty().then_some(()));
    assert!(!net.pin_dir().exists());
    assert_eq!(metric(&gate, "edgegate_kernel_up"), 0);
    assert_eq!(status(&net, net.bad(4), at(&net, 4)), 403);
    let log = gate.reload(&setup.text());
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(net.meet(net.bad(4), at(&net, 4)), Met::Silence);
    gate.signal(Signal::KILL);
    let _ended = gate.wait();
    let gate = Edgegate::run(&without);
    tests::wait_for("the program to go", || net.programs().is_empty().then_some(()));
    assert!(!net.pin_dir().exists());
    drop(gate);
}

/// Needs no kernel part: there is none on an interface that does not exist.
#[test]
fn without_an_interface_userspace_enforces() {
    let config = |more: &str| {
        format!(
            "default = \"allow\"\n[gateway]\nlisten = [\"127.0.0.1:0\"]\nupstream = \"http://127.0.0.1:1\"\n[metrics]\n\
             listen = \"127.0.0.1:0\"\n[prefilter]\ninterfaces = [\"edgegate-none\"]\n\
             pin_dir = \"/sys/fs/bpf/edgegate-test-nowhere\"\ndeny = [\"127.0.0.1\"]\n{more}\n"
        )
    };
    let gate = Edgegate::run(&config(""));
    let log = gate.log();
    assert!(
        log.contains("kernel: off") && log.contains("edgegate-none") && log.contains("userspace"),
        "{log}"
    );
    assert_eq!(Conn::open(gate.gateway()).send(get("/x")).reply().status, 403);
    assert_eq!(metric(&gate, "edgegate_kernel_up"), 0);
    let log = gate.reload(&config("required = true"));
    assert!(log.contains("reload refused") && log.contains("prefilter.required"), "{log}");
    let home = Home::new();
    home.write("edgegate.toml", config("required = true"));
    let output = home.output(&["run", "--config", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("edgegate-none"), "{output:?}");
}

#[test]
fn without_privileges_userspace_enforces() {
    const NOBODY: u32 = 65_534;
    let Some(net) = Net::new() else { return };
    let origin = Origin::start();
    let run = |more: &'static str| {
        let home = Home::new();
        home.write("edgegate.toml", Setup { more, ..Setup::new(&net, &origin) }.text());
        fs::set_permissions(home.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = home.command(&["run", "--config", "edgegate.toml"]);
        command.uid(NOBODY).gid(NOBODY);
        (home, command)
    };
    let (home, command) = run("required = true");
    let output = finish(command);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("needs root"), "{output:?}");
    drop(home);
    let (home, command) = run("");
    let gate = home.start(command);
    let log = gate.log();
    assert!(log.contains("kernel: off") && log.contains("needs root"), "{log}");
    assert_eq!(status(&net, net.bad(6), at(&net, 6)), 403);
    assert_eq!(status(&net, net.good(6), at(&net, 6)), 200);
    assert!(net.programs().is_empty());
}
