//! Countries in a real kernel: who gets an answer from which service, and when.
//!
//! Needs root, network namespaces and BPF; see `tests::netns`.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use ebpf_abi::Outcome::{DropCountryDenied, MonitorCountryDenied, PassAllowed};
use std::net::{IpAddr, SocketAddr, TcpListener};
use tests::conn::Conn;
use tests::contract::{get, now};
use tests::edge::{Edge, Since, at, in_both_modes, place};
use tests::netns::{Met, Net};
use tests::origin::Origin;

/// Services with lines of their own at the gate's port, for both families.
fn service(net: &Net, lines: &str) -> String {
    let here = [4, 6].map(|family| net.here(family).to_string());
    format!("[[prefilter.service]]\naddress = {here:?}\nports = [8080]\n{lines}\n")
}

fn status(net: &Net, from: IpAddr, family: u8) -> u16 {
    Conn::over(net.connect(from, at(net, family)).unwrap()).send(get("/x")).reply().status
}

#[test]
fn a_service_admits_its_countries() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let admitting =
            |lines: &str| Edge { services: service(net, lines), ..Edge::new(net, &origin.url(), mode) };
        let gate = admitting("countries = [\"FR\", \"DE\"]").run();
        let listener = [4, 6].map(|family| TcpListener::bind((net.here(family), 8085)).unwrap());
        for policy in ["countries = [\"FR\", \"DE\"]", "deny_countries = [\"US\"]"] {
            gate.put(&admitting(policy));
            for family in [4, 6] {
                let (good, bad) = (net.good(family), net.bad(family));
                assert_eq!(net.meet(bad, at(net, family)), Met::Silence, "{mode}, IPv{family}, {policy}");
                let since = Since::now(&gate);
                // Datagrams are not sent again on their own.
                net.send(bad, at(net, family), 3);
                since.wait_for(DropCountryDenied, 3);
                // The service is its ports.
                let here = net.here(family);
                assert_eq!(net.meet(bad, SocketAddr::new(here, 8085)), Met::Accepted, "{mode}, IPv{family}");
                assert_eq!(net.meet(bad, SocketAddr::new(here, 8086)), Met::Refused, "{mode}, IPv{family}");
                assert_eq!(since.count(DropCountryDenied), 3, "{mode}, IPv{family}, {policy}");
                assert!(since.is_quiet(), "{mode}, IPv{family}, {policy}");
                assert_eq!(status(net, good, family), 200, "{mode}, IPv{family}, {policy}");
            }
        }
        let log = gate.wait_for_log(0, "country_denied");
        assert!(log.contains("country=\"US\""), "{log}");
        drop(listener);
        // The other way round, by a reload alone.
        gate.put(&admitting("countries = [\"US\"]"));
        for family in [4, 6] {
            assert_eq!(status(net, net.bad(family), family), 200, "{mode}, IPv{family}");
            assert_eq!(net.meet(net.good(family), at(net, family)), Met::Silence, "{mode}, IPv{family}");
        }
    });
}

/// What no database knows is in none of the countries.
#[test]
fn addresses_without_a_country() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let admitting =
            |lines: &str| Edge { services: service(net, lines), ..Edge::new(net, &origin.url(), mode) };
        let gate = admitting("countries = [\"FR\", \"US\"]").run();
        for family in [4, 6] {
            let since = Since::now(&gate);
            assert_eq!(net.meet(net.other(family), at(net, family)), Met::Silence, "{mode}, IPv{family}");
            assert!(since.count(DropCountryDenied) >= 1, "{mode}, IPv{family}");
            assert!(since.is_quiet(), "{mode}, IPv{family}");
            assert_eq!(status(net, net.bad(family), family), 200, "{mode}, IPv{family}");
        }
        gate.put(&admitting("deny_countries = [\"FR\"]"));
        for family in [4, 6] {
            assert_eq!(status(net, net.other(family), family), 200, "{mode}, IPv{family}");
            assert_eq!(net.meet(net.good(family), at(net, family)), Met::Silence, "{mode}, IPv{family}");
        }
    });
}

/// The database may say something else after a reload.
#[test]
fn a_reload_reads_the_database_again() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let edge =
            Edge { services: service(net, "countries = [\"FR\"]"), ..Edge::new(net, &origin.url(), mode) };
        let gate = edge.run();
        for family in [4, 6] {
            assert_eq!(net.meet(net.bad(family), at(net, family)), Met::Silence, "{mode}, IPv{family}");
        }
        let moved: Vec<_> = [4, 6].iter().map(|&family| place(net.bad(family), "FR")).collect();
        gate.home().write("city.mmdb", agent::demo::geodb::city_database(&moved, 2));
        gate.put(&edge);
        for family in [4, 6] {
            assert_eq!(status(net, net.bad(family), family), 200, "{mode}, IPv{family}");
            assert_eq!(net.meet(net.good(family), at(net, family)), Met::Silence, "{mode}, IPv{family}");
        }
    });
}

#[test]
fn the_allow_list_exempts_from_countries() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let bad = [4, 6].map(|family| net.bad(family).to_string());
        let edge = Edge {
            prefilter: format!("allow = {bad:?}"),
            services: service(net, "countries = [\"FR\"]"),
            ..Edge::new(net, &origin.url(), mode)
        };
        let gate = edge.run();
        for family in [4, 6] {
            let since = Since::now(&gate);
            assert_eq!(status(net, net.bad(family), family), 200, "{mode}, IPv{family}");
            assert!(since.count(PassAllowed) >= 4, "{mode}, IPv{family}");
            assert_eq!(net.meet(net.other(family), at(net, family)), Met::Silence, "{mode}, IPv{family}");
        }
    });
}

#[test]
fn monitor_counts_and_passes() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let edge = Edge {
            prefilter: "monitor = true".into(),
            services: service(net, "countries = [\"FR\"]"),
            ..Edge::new(net, &origin.url(), mode)
        };
        let gate = edge.run();
        for family in [4, 6] {
            let since = Since::now(&gate);
            assert_eq!(status(net, net.bad(family), family), 200, "{mode}, IPv{family}");
            assert!(since.count(MonitorCountryDenied) >= 4, "{mode}, IPv{family}");
            assert_eq!(since.count(DropCountryDenied), 0, "{mode}, IPv{family}");
        }
        assert_eq!(gate.metric("edgegate_monitored_total{claim=\"country_denied\"}"), 2, "{mode}");
    });
}

/// A window opens and closes by the clock, without a reload. In the kernel it may be late and it may end early, so that
/// it refuses nothing that userspace would not.
#[test]
fn windows_open_and_close() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let without = Edge::new(net, &origin.url(), mode);
        let gate = without.run();
        let start = now() + 3;
        let end = start + 8;
        let lines = format!("countries = [\"FR\"]\nwindows = [ {{ start = {start}, end = {end} }} ]");
        gate.put(&Edge { services: service(net, &lines), ..without });
        for family in [4, 6] {
            let met = net.meet(net.bad(family), at(net, family));
            assert!(met == Met::Accepted || now() >= start, "{mode}, IPv{family}: {met:?}");
        }
        let silent = |family| net.meet(net.bad(family), at(net, family)) == Met::Silence;
        for family in [4, 6] {
            tests::wait_for("the window to open", || silent(family).then_some(()));
            assert!((start..end).contains(&now()), "{mode}, IPv{family}");
            assert_eq!(status(net, net.good(family), family), 200, "{mode}, IPv{family}");
        }
        for family in [4, 6] {
            tests::wait_for("the window to close", || {
                (!silent(family) && status(net, net.bad(family), family) == 200).then_some(())
            });
            assert!(now() >= end, "{mode}, IPv{family}");
        }
        assert!(gate.count(DropCountryDenied) >= 2, "{mode}");
    });
}
