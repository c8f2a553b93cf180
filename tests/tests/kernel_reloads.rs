//! Blacklisted sessions and countries in a real kernel while lists change, and while agents come and go.
//!
//! Needs root, network namespaces and BPF; see `tests::netns`.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use agent::kernel::SessionMap;
use aya::maps::MapData;
use ebpf_abi::Outcome::{PassBusy, RespondSession};
use ebpf_abi::{Session, map, session_key};
use rustix::process::Signal;
use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use tests::binary::Home;
use tests::contract::now;
use tests::edge::{
    Client, ENDED, Edge, Gate, Idle, OTHER_PORT, Since, in_both_modes, place, places, request, ways,
};
use tests::kernel::pinned_sessions;
use tests::netns::{Met, Net};
use tests::origin::{Origin, Then};
use validator_core::Day;

#[test]
fn a_reload_adds_and_removes_sessions() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let with = |blacklist| Edge { blacklist, ..Edge::new(net, &origin.url(), mode) };
        let gate = with(ENDED).run();
        let idle = Idle::open(net);
        for (family, way) in ways(net) {
            gate.put(&with("viewer,other"));
            let since = Since::now(&gate);
            Client::new(net, family).expect_allowed(ENDED);
            let mut client = Client::new(net, family);
            client.conn.send(request("viewer"));
            client.expect_refusal();
            assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");

            gate.put(&with(ENDED));
            let mut client = Client::new(net, family);
            client.expect_allowed("viewer");
            // An open connection is no exception.
            client.wait_until_received();
            let _word = idle.wait(&client, 0);
            client.conn.send(request(ENDED));
            client.expect_refusal();
            assert_eq!(since.count(RespondSession), 2, "{mode}, {way}");
            client.wait_until_released();
        }
        assert_eq!(gate.rejected("denied") + gate.rejected("blacklisted"), 0);
    });
}

#[test]
fn a_download_of_a_session_that_is_blacklisted_is_cut() {
    in_both_modes(|net, mode| {
        // Without an end.
        let origin = Origin::answering(|_, to| {
            to.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let piece = [&b"4000\r\n"[..], &[b'x'; 0x4000], b"\r\n"].concat();
            while to.write_all(&piece).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(Then::Close)
        });
        let with = |blacklist| Edge { blacklist, ..Edge::new(net, &origin.url(), mode) };
        let gate = with(ENDED).run();
        for (count, (family, way)) in (1..).zip(ways(net)) {
            gate.put(&with(ENDED));
            let mut client = Client::new(net, family);
            let mut other = Client::new(net, family);
            for (client, session) in [(&mut client, "viewer"), (&mut other, "other")] {
                client.conn.send(request(session));
                let mut head = [0; 4096];
                client.stream.read_exact(&mut head).unwrap();
                assert!(head.starts_with(b"HTTP/1.1 200 "), "{mode}, {way}");
            }
            gate.put(&with("session896,viewer"));
            let mut piece = [0; 0x10000];
            while client.stream.read(&mut piece).is_ok_and(|read| read > 0) {}
            assert_eq!(gate.rejected("blacklisted"), count, "{mode}, {way}");
            client.wait_until_released();
            // Whoever is not listed goes on.
            for _ in 0..100 {
                other.stream.read_exact(&mut piece[..0x4000]).unwrap();
            }
        }
    });
}

/// A connection that waits for its next request is cut when that comes.
#[test]
fn an_idle_connection_of_a_session_that_is_blacklisted_is_cut() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let with = |blacklist| Edge { blacklist, ..Edge::new(net, &origin.url(), mode) };
        let gate = with(ENDED).run();
        for (family, way) in ways(net) {
            gate.put(&with(ENDED));
            let mut client = Client::new(net, family);
            client.expect_allowed("viewer");
            let rejected = gate.rejected("blacklisted");
            gate.put(&with("session896,viewer"));
            assert!(gate.rejected("blacklisted") > rejected, "{mode}, {way}");
            let since = Since::now(&gate);
            client.conn.send(request("good"));
            let error = client.stream.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{mode}, {way}");
            assert!(since.is_quiet(), "{mode}, {way}");
        }
    });
}

/// A server that is not the gate's. It ends with the test process.
fn plain_server(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut read, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    read.extend_from_slice(&piece[..length]);
                    if read.ends_with(b"\r\n\r\n") {
                        read.clear();
                        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").unwrap();
                    }
                }
            });
        }
    });
}

/// The status of a request to the plain server.
fn status(net: &Net, family: u8, session: &str) -> u16 {
    let to = SocketAddr::new(net.here(family), OTHER_PORT);
    let mut client = Client::open(net, SocketAddr::new(net.good(family), 0), to);
    let status = client.conn.send(request(session)).reply().status;
    if status == 403 {
        assert!(client.conn.has_ended());
        client.wait_until_released();
    }
    status
}

fn other(net: &Net, family: u8) -> SocketAddr {
    SocketAddr::new(net.here(family), OTHER_PORT)
}

#[test]
fn the_kernel_goes_on_without_an_agent() {
    in_both_modes(|net, mode| {
        for family in [4, 6] {
            plain_server(other(net, family));
        }
        let origin = Origin::start();
        let here = [4, 6].map(|family| net.here(family).to_string());
        let services = |countries: &str| {
            format!("[[prefilter.service]]\naddress = {here:?}\nports = [{OTHER_PORT}]\n{countries}\n")
        };
        let bad = [4, 6].map(|family| net.bad(family).to_string());
        let edge = Edge {
            prefilter: format!("deny = {bad:?}"),
            services: services("countries = [\"FR\"]"),
            ..Edge::new(net, &origin.url(), mode)
        };
        let places: Vec<_> = [4, 6]
            .iter()
            .flat_map(|&family| [place(net.good(family), "FR"), place(net.other(family), "US")])
            .collect();
        let holds = |what: &str| {
            for (family, way) in ways(net) {
                assert_eq!(status(net, family, ENDED), 403, "{mode}, {way}, {what}");
                assert_eq!(status(net, family, "viewer"), 200, "{mode}, {way}, {what}");
                for from in [net.bad(family), net.other(family)] {
                    assert_eq!(net.meet(from, other(net, family)), Met::Silence, "{mode}, {way}, {what}");
                }
            }
        };
        let gate = edge.run_among(&places);
        net.under_fire(|| {
            holds("an agent runs");
            let answered = gate.count(RespondSession);
            gate.signal(Signal::KILL);
            let Gate(process) = gate;
            let _ended = process.wait();
            holds("no agent runs");
            // Without anybody who says that it waits for a request, a connection has only one that is the first.
            let mut client = Client::open(net, SocketAddr::new(net.good(4), 0), other(net, 4));
            for session in ["viewer", ENDED] {
                assert_eq!(client.conn.send(request(session)).reply().status, 200, "{mode}");
            }

            let next =
                Edge { services: services("deny_countries = [\"FR\"]"), blacklist: "viewer", ..edge.clone() };
            let gate = next.run_among(&places);
            let log = gate.log();
            assert!(log.contains("taken over without a gap"), "{log}");
            assert_eq!(gate.count(RespondSession), answered + 4, "the counters go on");
            assert!(gate.count(PassBusy) >= 1);
            for (family, way) in ways(net) {
                assert_eq!(net.meet(net.good(family), other(net, family)), Met::Silence, "{mode}, {way}");
                assert_eq!(net.meet(net.bad(family), other(net, family)), Met::Silence, "{mode}, {way}");
                let since = Since::now(&gate);
                let from = SocketAddr::new(net.other(family), 0);
                for (session, expected) in [("viewer", 403), (ENDED, 200)] {
                    let mut client = Client::open(net, from, other(net, family));
                    assert_eq!(client.conn.send(request(session)).reply().status, expected, "{mode}, {way}");
                }
                assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");
                Client::new(net, family).expect_allowed(ENDED);
            }
        });
    });
}

/// The pinned table is taken over with all that is right in it, whatever else a crash has left there; one for another number
/// of sessions is not.
#[test]
fn a_table_is_taken_over_and_made_right() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let edge = |blacklist, capacity: u32| {
            let edge = Edge { blacklist, ..Edge::new(net, &origin.url(), mode) };
            let text = edge.text().replace("[blacklist]\n", &format!("[blacklist]\ncapacity = {capacity}\n"));
            let home = Home::new();
            home.write("city.mmdb", agent::demo::geodb::city_database(&places(net), 1));
            Gate(home.run(&text))
        };
        let pinned = |name| MapData::from_pin(maps_of(net).join(name)).unwrap();
        let id = || pinned(map::SESSIONS).info().unwrap().id();
        let last_day = Day::of(now()).number() + 31;
        let listed = |sids: &[&str]| -> HashSet<(u64, u64)> {
            sids.iter()
                .map(|sid| tests::kernel::listed(session_key(sid.as_bytes()).unwrap(), last_day))
                .collect()
        };
        let mut gate = edge("session896,viewer", 1000);
        let first = id();
        assert_eq!(pinned_sessions(net.pin_dir()), listed(&[ENDED, "viewer"]));
        for (blacklist, capacity, stays) in [
            ("session896,viewer", 1000, true),
            ("session896,next", 1000, true),
            ("session896,next", 1100, false),
        ] {
            gate.signal(Signal::KILL);
            let Gate(process) = gate;
            let _ended = process.wait();
            // Not listed; not in force yet; another day.
            let mut table = SessionMap::new(&pinned(map::SESSIONS), &pinned(map::SESSION_BITS)).unwrap();
            for (sid, last_day, generation) in
                [("stray", last_day, 1), ("later", last_day, u32::MAX), ("viewer", last_day - 40, 1)]
            {
                let key = session_key(sid.as_bytes()).unwrap();
                table.set(key, Session { last_day, generation }).unwrap();
            }
            gate = edge(blacklist, capacity);
            let sids: Vec<&str> = blacklist.split(',').collect();
            assert_eq!(pinned_sessions(net.pin_dir()), listed(&sids), "{mode}, {blacklist}");
            assert_eq!(id() == first, stays, "{mode}, {blacklist}");
            let shown = gate.home().output(&[
                "ctl",
                "prefilter",
                "status",
                "--pin-dir",
                net.pin_dir().to_str().unwrap(),
            ]);
            let shown = String::from_utf8(shown.stdout).unwrap();
            // As many as the table has room for.
            let room = ebpf_abi::session_capacity(ebpf_abi::session_buckets(capacity));
            assert!(room >= capacity && shown.contains(&format!("sessions: 2 of {room} entries")), "{shown}");
            for family in [4, 6] {
                let since = Since::now(&gate);
                for sid in &sids {
                    let mut client = Client::new(net, family);
                    client.conn.send(request(sid));
                    client.expect_refusal();
                }
                assert_eq!(since.count(RespondSession), 2, "{mode}, {blacklist}");
                Client::new(net, family).expect_allowed("stray");
            }
        }
    });
}

fn maps_of(net: &Net) -> PathBuf {
    net.pin_dir().join(format!("v{}/maps", ebpf_abi::ABI_VERSION))
}
