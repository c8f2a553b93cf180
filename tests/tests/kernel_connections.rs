//! Connections of blacklisted sessions in a real kernel: what clients get to see, and what is left of the connections.
//!
//! Needs root, network namespaces and BPF; see `tests::netns`.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use ebpf_abi::Outcome::{
    AnswerFin, DropSession, MonitorSession, PassBusy, PassInspected, PassTrusted, ResetFlow, ResetServer,
    ResetSession, RespondAgain, RespondSession,
};
use rustix::net::sockopt::set_tcp_cork;
use std::io::{self, ErrorKind, Read as _, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Mutex, mpsc};
use std::time::Duration;
use tests::binary::finish;
use tests::contract::get;
use tests::deferred::defer;
use tests::edge::{
    Client, ENDED, Edge, Idle, OTHER_PORT, SILENCE, Since, at, counter, in_both_modes, request, target,
    wait_until_over, ways,
};
use tests::origin::{Origin, Then, answer};
use tests::require::capability;
use tests::wait_for;

/// Also by what the kernel counts: it has reset one connection, and nobody was suspicious of the reset.
#[test]
fn the_first_request_is_answered_by_the_kernel() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let counters = || ["EstabResets", "TCPChallengeACK"].map(counter);
            let [resets, challenges] = counters();
            let mut client = Client::new(net, family);
            client.conn.send(request(ENDED));
            client.expect_refusal();
            client.wait_until_released();
            assert_eq!(counters(), [resets + 1, challenges], "{mode}, {way}");
            client.close(net);
            assert!(since.is_quiet(), "{mode}, {way}");
            for outcome in [RespondSession, ResetServer, AnswerFin] {
                assert_eq!(since.count(outcome), 1, "{outcome:?}, {mode}, {way}");
            }
            Client::new(net, family).expect_allowed("good");
        }
        assert_eq!(origin.seen().len(), 4);
    });
}

/// A server that waits for the first data before it takes a connection: as if the last packet of the handshake were lost.
#[test]
fn a_request_amid_the_handshake_is_answered_by_the_kernel() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let here = SocketAddr::new(net.here(family), OTHER_PORT);
            let listener = TcpListener::bind(here).unwrap();
            defer(&listener);
            listener.set_nonblocking(true).unwrap();
            let since = Since::now(&gate);
            let counters = || ["EmbryonicRsts", "EstabResets", "TCPChallengeACK"].map(counter);
            let [embryonic, established, challenges] = counters();
            let mut client = Client::open(net, SocketAddr::new(net.good(family), 0), here);
            client.conn.send(request(ENDED));
            client.expect_refusal();
            client.wait_until_released();
            assert_eq!(counters(), [embryonic + 1, established, challenges], "{mode}, {way}");
            client.close(net);
            for outcome in [RespondSession, ResetServer, AnswerFin] {
                assert_eq!(since.count(outcome), 1, "{outcome:?}, {mode}, {way}");
            }
            let accepted = listener.accept().map(drop).map_err(|error| error.kind());
            assert_eq!(accepted, Err(ErrorKind::WouldBlock), "{mode}, {way}");
            // The next one is let through.
            let mut client = Client::open(net, SocketAddr::new(net.good(family), 0), here);
            client.conn.send(request("good"));
            wait_for("a connection", || listener.accept().ok());
        }
    });
}

#[test]
fn curl_is_content_with_the_answer() {
    let Some(curl) = capability("curl") else { return };
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            for (session, expected) in [(ENDED, "session_blacklisted\n403"), ("good", "200")] {
                let mut command = Command::new(&curl);
                command.args(["--silent", "--show-error", "--noproxy", "*", "--write-out", "%{http_code}"]);
                command.arg(format!("http://{}{}", at(net, family), target(session)));
                let output = net.inside(|| finish(command));
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && said.ends_with(expected), "{mode}, {way}: {output:?}");
            }
            assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");
        }
    });
}

#[test]
fn a_head_request_is_answered_without_a_body() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut client = Client::new(net, family);
            client.conn.send(request(ENDED).replacen("GET", "HEAD", 1));
            let reply = client.conn.reply_to_head();
            assert_eq!((reply.status, reply.header("content-length")), (403, Some("20")), "{mode}, {way}");
            assert!(client.conn.has_ended(), "{mode}, {way}");
            assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");
            client.wait_until_released();
            client.close(net);
            assert!(since.is_quiet(), "{mode}, {way}");
        }
    });
}

#[test]
fn the_answer_is_as_configured() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let edge = Edge {
            gateway: "deny_body = false".into(),
            route: "deny_headers = { \"Access-Control-Allow-Origin\" = \"*\" }".into(),
            ..Edge::new(net, &origin.url(), mode)
        };
        let gate = edge.run();
        for (family, way) in ways(net) {
            for method in ["GET", "HEAD"] {
                let since = Since::now(&gate);
                let mut client = Client::new(net, family);
                client.conn.send(request(ENDED).replacen("GET", method, 1));
                let reply = client.conn.try_reply(method == "HEAD").unwrap();
                assert_eq!((reply.status, &reply.body[..]), (403, &b""[..]), "{mode}, {way}");
                assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{reply:?}");
                assert_eq!(reply.header("cache-control"), Some("no-store"), "{reply:?}");
                assert_eq!(reply.header("x-edgegate-reason"), None, "{reply:?}");
                assert!(client.conn.has_ended(), "{mode}, {way}");
                client.wait_until_released();
                assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");
            }
        }
    });
}

#[test]
fn later_requests_are_answered_by_the_kernel() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        let idle = Idle::open(net);
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            for round in 1..=10 {
                let mut client = Client::new(net, family);
                let mut last = 0;
                for _ in 0..round % 4 + 1 {
                    client.expect_allowed("good");
                    client.wait_until_received();
                    last = idle.wait(&client, last);
                }
                client.conn.send(request(ENDED));
                client.expect_refusal();
                assert_eq!(since.count(RespondSession), round, "{mode}, {way}");
                client.wait_until_released();
                client.close(net);
            }
            assert_eq!(since.count(PassBusy), 0, "{mode}, {way}");
            assert_eq!(gate.rejected("denied"), 0, "{mode}, {way}");
        }
    });
}

/// Whoever answers a request that follows an answer at once, the client cannot tell.
#[test]
fn later_requests_without_a_pause() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        let since = Since::now(&gate);
        for (family, _) in ways(net) {
            for round in 0..50 {
                let mut client = Client::new(net, family);
                for _ in 0..round % 3 + 1 {
                    client.expect_allowed("good");
                }
                client.conn.send(request(ENDED));
                client.expect_refusal();
            }
        }
        let [kernel, userspace] = [RespondSession, PassBusy].map(|outcome| since.count(outcome));
        println!("{mode}: {kernel} answered by the kernel, {userspace} by userspace");
        assert_eq!((kernel + userspace, gate.rejected("denied")), (200, userspace));
    });
}

#[test]
fn a_request_in_two_segments_is_answered_by_userspace() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let text = request(ENDED);
            for at in [1, 10, 100, text.len() - 4, text.len() - 1] {
                let (since, rejected) = (Since::now(&gate), gate.rejected("denied"));
                let mut client = Client::new(net, family);
                client.conn.send(&text[..at]);
                client.wait_until_sent(net);
                client.conn.send(&text[at..]);
                client.expect_refusal();
                assert_eq!(gate.rejected("denied"), rejected + 1, "{mode}, {way}, {at}");
                assert_eq!(since.count(RespondSession), 0, "{mode}, {way}, {at}");
                assert!(!since.is_quiet(), "{mode}, {way}, {at}");
                // It is over: one more request is met with a reset.
                client.conn.send(request("good"));
                wait_until_over(net, client.port);
                assert_eq!(since.count(ResetFlow), 1, "{mode}, {way}, {at}");
            }
        }
        assert!(origin.seen().is_empty());
    });
}

/// The client does not hear the first answer, and asks again.
#[test]
fn a_lost_answer_is_given_again() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut client = Client::new(net, family);
            net.deaf(net.good(family), || {
                client.conn.send(request(ENDED));
                since.wait_for(RespondSession, 1);
            });
            client.expect_refusal();
            assert!(since.count(RespondAgain) >= 1, "{mode}, {way}");
            assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");
            client.wait_until_released();
            client.close(net);
            assert!(since.is_quiet(), "{mode}, {way}");
        }
    });
}

/// The end of what the client sends comes behind its request, or with it.
#[test]
fn a_client_that_has_no_more_to_say() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut client = Client::new(net, family);
            client.conn.send(request(ENDED));
            client.conn.finish();
            client.expect_refusal();
            client.wait_until_released();
            client.close(net);
            assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");
            assert!(since.is_quiet(), "{mode}, {way}");

            let mut client = Client::new(net, family);
            set_tcp_cork(&client.stream, true).unwrap();
            client.conn.send(request(ENDED));
            client.conn.finish();
            client.expect_refusal();
            assert_eq!(since.count(RespondSession), 1, "{mode}, {way}");
            assert!(!since.is_quiet(), "{mode}, {way}");
        }
    });
}

#[test]
fn a_port_is_used_again_at_once() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut client = Client::new(net, family);
            let from = SocketAddr::new(net.good(family), client.port);
            for round in 1..=10 {
                client.conn.send(request(ENDED));
                client.expect_refusal();
                client.close(net);
                client = Client::open(net, from, at(net, family));
                // The server closes first, so that the client's side can go on with the port.
                client.conn.send(request("good").replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1));
                assert_eq!(client.conn.reply().status, 200, "{mode}, {way}, {round}");
                assert!(client.conn.has_ended(), "{mode}, {way}, {round}");
                client.close(net);
                client = Client::open(net, from, at(net, family));
                assert_eq!(since.count(RespondSession), round, "{mode}, {way}");
            }
        }
    });
}

/// Pieces of a body, a moment apart: in between nothing is under way.
const PIECES: usize = 40;
const PIECE: usize = 1000;

/// A body that comes at once.
const MUCH: usize = 8 << 20;

fn byte(at: usize) -> u8 {
    u8::try_from(at * 31 % 251).unwrap()
}

fn stream(slowly: bool, to: &mut dyn Write) -> io::Result<Then> {
    if !slowly {
        answer(to, &(0..MUCH).map(byte).collect::<Vec<_>>())?;
        return Ok(Then::Keep);
    }
    to.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for piece in 0..PIECES {
        let bytes: Vec<u8> = (piece * PIECE..(piece + 1) * PIECE).map(byte).collect();
        to.write_all(&[format!("{PIECE:x}\r\n").as_bytes(), &bytes, b"\r\n"].concat())?;
        std::thread::sleep(Duration::from_millis(25));
    }
    to.write_all(b"0\r\n\r\n")?;
    Ok(Then::Keep)
}

#[test]
fn a_request_amid_an_answer_leaves_the_answer_whole() {
    in_both_modes(|net, mode| {
        let origin = Origin::answering(|seen, to| stream(seen.target() == "/slow", to));
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            for (path, length, moment) in
                [("/slow", PIECES * PIECE, 10 * PIECE), ("/fast", MUCH, 1), ("/fast", MUCH, MUCH / 2)]
            {
                let since = Since::now(&gate);
                let mut client = Client::new(net, family);
                client.conn.send(get(path));
                let (mut read, mut good, mut sent) = (0, true, false);
                let (stream, port) = (client.stream.try_clone().unwrap(), client.port);
                let reply = client.conn.stream_reply(false, &mut |piece| {
                    good &= piece.iter().enumerate().all(|(at, &found)| found == byte(read + at));
                    read += piece.len();
                    if !sent && read >= moment {
                        sent = true;
                        if path == "/slow" {
                            // What TCP knows of the connection is now what it knows of one that is idle.
                            tests::edge::wait_until_received(port);
                        }
                        (&stream).write_all(request(ENDED).as_bytes()).unwrap();
                    }
                });
                assert_eq!((reply.unwrap().status, read, good), (200, length, true), "{mode}, {way}, {path}");
                client.expect_refusal();
                assert_eq!(since.count(RespondSession), 0, "{mode}, {way}, {path}");
                assert_eq!(since.count(PassBusy), 1, "{mode}, {way}, {path}");
            }
        }
    });
}

#[test]
fn a_body_that_looks_like_a_request() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let gate = Edge::new(net, &origin.url(), mode).run();
        let idle = Idle::open(net);
        let body = request(ENDED);
        for (family, way) in ways(net) {
            for used in [false, true] {
                let since = Since::now(&gate);
                let mut client = Client::new(net, family);
                if used {
                    client.expect_allowed("good");
                    client.wait_until_received();
                    let _word = idle.wait(&client, 0);
                }
                let head = format!(
                    "POST /x HTTP/1.1\r\nHost: cdn.example\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                client.conn.send(head);
                client.wait_until_sent(net);
                client.conn.send(&body);
                assert_eq!(client.conn.reply().status, 200, "{mode}, {way}");
                let seen = origin.last();
                assert_eq!((seen.target(), seen.length), ("/x", body.len() as u64), "{mode}, {way}");
                assert_eq!(since.count(RespondSession), 0, "{mode}, {way}");
                assert_eq!(since.count(PassBusy), 1, "{mode}, {way}");
                client.expect_allowed("good");
            }
        }
    });
}

#[test]
fn a_request_whose_answer_is_late_is_answered_first() {
    in_both_modes(|net, mode| {
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let origin = Origin::answering(move |_, to| {
            released.lock().unwrap().recv().map_err(io::Error::other)?;
            answer(to, b"late")
        });
        let gate = Edge::new(net, &origin.url(), mode).run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut client = Client::new(net, family);
            client.conn.send(request("good"));
            client.wait_until_sent(net);
            client.conn.send(request(ENDED));
            since.wait_for(PassBusy, 1);
            release.send(()).unwrap();
            let reply = client.conn.reply();
            assert_eq!((reply.status, &reply.body[..]), (200, &b"late"[..]), "{mode}, {way}");
            client.expect_refusal();
            assert_eq!(since.count(RespondSession), 0, "{mode}, {way}");
        }
    });
}

#[test]
fn trusted_proxies_are_never_answered_by_the_kernel() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let trusted = [4, 6].map(|family| net.bad(family).to_string());
        let edge =
            Edge { gateway: format!("trusted_proxies = {trusted:?}"), ..Edge::new(net, &origin.url(), mode) };
        let gate = edge.run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut proxy = Client::open(net, SocketAddr::new(net.bad(family), 0), at(net, family));
            let of_client = |session| {
                request(session).replacen("\r\n\r\n", "\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n", 1)
            };
            for _ in 0..3 {
                let reply = proxy.conn.send(of_client(ENDED)).reply();
                assert_eq!((reply.status, reply.header("connection")), (403, None), "{mode}, {way}");
                assert_eq!(proxy.conn.send(of_client("good")).reply().status, 200, "{mode}, {way}");
            }
            assert!(since.count(PassTrusted) >= 6, "{mode}, {way}");
            assert_eq!(since.count(RespondSession) + since.count(PassBusy), 0, "{mode}, {way}");
            assert_eq!(gate.rejected("denied"), 0, "{mode}, {way}");
        }
    });
}

#[test]
fn a_connection_is_reset() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let edge =
            Edge { prefilter: "session_action = \"reset\"".into(), ..Edge::new(net, &origin.url(), mode) };
        let gate = edge.run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut client = Client::new(net, family);
            client.conn.send(request(ENDED));
            client.wait_until_released();
            // The server comes first. The client is told when it asks again.
            client.stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let error = client.stream.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{mode}, {way}");
            assert!(since.count(ResetSession) >= 1, "{mode}, {way}");
            assert!(since.is_quiet(), "{mode}, {way}");
            Client::new(net, family).expect_allowed("good");
        }
    });
}

#[test]
fn a_connection_is_dropped() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        let edge =
            Edge { prefilter: "session_action = \"drop\"".into(), ..Edge::new(net, &origin.url(), mode) };
        let gate = edge.run();
        for (family, way) in ways(net) {
            let since = Since::now(&gate);
            let mut client = Client::new(net, family);
            client.conn.send(request(ENDED));
            client.wait_until_released();
            client.stream.set_read_timeout(Some(SILENCE)).unwrap();
            let error = client.stream.read(&mut [0; 8]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{mode}, {way}");
            assert_eq!(since.count(DropSession), 1, "{mode}, {way}");
            assert!(since.is_quiet(), "{mode}, {way}");
            Client::new(net, family).expect_allowed("good");
        }
    });
}

#[test]
fn monitor_and_off_leave_it_to_userspace() {
    in_both_modes(|net, mode| {
        let origin = Origin::start();
        for (prefilter, counted) in [("monitor = true", true), ("session_action = \"off\"", false)] {
            let edge = Edge { prefilter: prefilter.into(), ..Edge::new(net, &origin.url(), mode) };
            let gate = edge.run();
            for (family, way) in ways(net) {
                let since = Since::now(&gate);
                // The route that checks the token refuses the session, the other one takes no interest in it.
                let reply = Client::new(net, family).conn.send(request(ENDED)).reply();
                assert_eq!(reply.status, 403, "{mode}, {way}, {prefilter}");
                let open = target(ENDED).replace("/Content/", "/open/");
                let reply = Client::new(net, family).conn.send(get(&open)).reply();
                assert_eq!(reply.status, 200, "{mode}, {way}, {prefilter}");
                let found = if counted { 2 } else { 0 };
                assert_eq!(since.count(MonitorSession), found, "{mode}, {way}, {prefilter}");
                for outcome in [RespondSession, PassBusy, PassInspected, ResetServer] {
                    assert_eq!(since.count(outcome), 0, "{outcome:?}, {mode}, {way}, {prefilter}");
                }
            }
        }
    });
}
