//! The gateway against clients that are ambiguous, too large, too slow, or not whom they claim to be.

use tests::binary::Edgegate;
use tests::conn::Conn;
use tests::contract::{Config, SEGMENT, claims, get, token, token_of};
use tests::origin::Origin;

fn gate(origin: &Origin, gateway: &str) -> Edgegate {
    Edgegate::run(&Config { gateway: gateway.into(), ..Config::new(&origin.url()) }.text())
}

/// Each has a second request behind it, which must not be seen by anybody: that is what such requests are for.
#[test]
fn ambiguous_framing_is_refused_and_closes() {
    let origin = Origin::start();
    let gate = gate(&origin, "");
    let behind = "GET /open/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for (what, fields, body) in [
        ("length, then chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("chunked, then length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        ("two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        ("a list of lengths", "Content-Length: 5, 5\r\n", "hello"),
        ("a signed length", "Content-Length: +5\r\n", "hello"),
        ("no number", "Content-Length: 0x5\r\n", "hello"),
        ("an empty length", "Content-Length: \r\n", "hello"),
        ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("another coding", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("an unknown coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("an unended coding", "Transfer-Encoding: gzip\r\n", "hello"),
        ("space before the colon", "Content-Length : 5\r\n", "hello"),
        ("a folded field", "X-Folded: a\r\n b\r\n", ""),
    ] {
        let mut conn = Conn::open(gate.gateway());
        let reply =
            conn.send(format!("POST /open/x HTTP/1.1\r\nHost: h\r\n{fields}\r\n{body}{behind}")).reply();
        assert_eq!(reply.status, 400, "{what}: {reply:?}");
        assert!(conn.is_closed(), "{what}: the connection stayed open");
    }
    let smuggled: Vec<_> = origin.seen().into_iter().filter(|seen| seen.line.contains("smuggled")).collect();
    assert!(smuggled.is_empty(), "{smuggled:?}");
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

/// The head was good, so the origin may hear of the request; it must not hear a body that seems complete.
#[test]
fn bad_chunks_are_refused_and_close() {
    let origin = Origin::start();
    let gate = gate(&origin, "");
    for body in [
        "5\r\nhelloX\r\n0\r\n\r\n",
        "x\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFFF\r\nhello",
    ] {
        let mut conn = Conn::open(gate.gateway());
        let head = "POST /open/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let reply = conn.send(format!("{head}{body}")).reply();
        assert_eq!(reply.status, 400, "{body:?}: {reply:?}");
        assert!(conn.is_closed(), "{body:?}: the connection stayed open");
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

#[test]
fn limits_of_a_head() {
    let origin = Origin::start();
    let gate = gate(&origin, "");
    let line = |length: usize| {
        let around = "GET /open/?q= HTTP/1.1".len();
        format!("GET /open/?q={} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(length - around))
    };
    let block = |length: usize| {
        let around = "Host: h\r\n\r\n".len() + 2 * "X-Long: \r\n".len();
        let fill = length - around;
        let (first, second) = ("a".repeat(fill / 2), "a".repeat(fill - fill / 2));
        format!("GET /open/x HTTP/1.1\r\nHost: h\r\nX-Long: {first}\r\nX-Long: {second}\r\n\r\n")
    };
    let fields = |count: usize| {
        let fields: String = (0..count - 1).map(|i| format!("X-{i}: {i}\r\n")).collect();
        format!("GET /open/x HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
    };
    for (what, request, status) in [
        ("a line of 8 KiB", line(8 * 1024), 200),
        ("a line over 16 KiB", line(16 * 1024 + 1), 414),
        ("a line of 64 KiB", line(64 * 1024), 414),
        ("a header block of 60 KiB", block(60 * 1024), 200),
        ("a header block over 64 KiB", block(64 * 1024 + 100), 431),
        ("a header block of 1 MiB", block(1024 * 1024), 431),
        ("100 fields", fields(100), 200),
        ("101 fields", fields(101), 431),
    ] {
        let mut conn = Conn::open(gate.gateway());
        let reply = conn.send(&request).reply();
        assert_eq!(reply.status, status, "{what}: {:?}", reply.headers);
        if status != 200 {
            assert!(conn.is_closed(), "{what}: the connection stayed open");
        }
    }
    // A line that does not even fit the buffer of a head is refused without looking for what is too long about it.
    let mut conn = Conn::open(gate.gateway());
    let status = conn.send(line(1024 * 1024)).reply().status;
    assert!(status == 414 || status == 431, "{status}");
    assert!(conn.is_closed());
    assert_eq!(origin.seen().len(), 3);
}

#[test]
fn hosts_fragments_and_strange_targets() {
    let origin = Origin::start();
    let gate = gate(&origin, "");
    let target = format!("/{}{SEGMENT}", token());
    for (what, request, status, reason) in [
        ("two hosts", "GET /open/x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400, None),
        ("no host", "GET /open/x HTTP/1.1\r\n\r\n".into(), 400, None),
        ("no host in 1.0", "GET /open/x HTTP/1.0\r\n\r\n".into(), 200, None),
        ("a fragment", get("/open/x#y"), 400, Some("uri_ambiguous")),
        ("a fragment in the token", get(&format!("{target}#y")), 400, Some("uri_ambiguous")),
        ("a dot segment", get("/open/../Content/x"), 400, Some("uri_ambiguous")),
        ("a hidden dot segment", get("/open/%2E%2e/x"), 400, Some("uri_ambiguous")),
        ("a hidden slash", get("/open/a%2Fb"), 400, Some("uri_ambiguous")),
        ("a hidden backslash", get("/open/a%5cb"), 400, Some("uri_ambiguous")),
        ("a hidden NUL", get("/open/a%00"), 400, Some("uri_ambiguous")),
        ("a bad escape", get("/open/a%zz"), 400, Some("uri_ambiguous")),
        ("an empty segment", get("//open/x"), 400, Some("uri_ambiguous")),
        ("no path", get("open/x"), 400, None),
        (
            "authority form",
            "CONNECT cdn.example:443 HTTP/1.1\r\nHost: cdn.example:443\r\n\r\n".into(),
            400,
            None,
        ),
        ("asterisk form", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n".into(), 400, None),
        ("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".into(), 400, None),
        ("another version", "GET /open/x HTTP/2.0\r\nHost: h\r\n\r\n".into(), 400, None),
    ] {
        let mut conn = Conn::open(gate.gateway());
        let reply = conn.send(&request).reply();
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        if reason.is_some() {
            assert_eq!(reply.header("x-edgegate-reason"), reason, "{what}");
        }
    }
    assert_eq!(origin.seen().len(), 1);
}

/// A client may not hold a connection by sending little: the head as a whole is bounded, and each silence in a body.
#[test]
fn slow_clients() {
    let origin = Origin::start();
    let gate = gate(&origin, "header_timeout = 1\nbody_timeout = 1\nkeepalive_timeout = 1");
    let slow = |first: &str, drip: &str| {
        let mut conn = Conn::open(gate.gateway());
        conn.send(first);
        let deadline = tests::binary::deadline();
        while conn.try_send(drip.as_bytes()).is_ok() {
            assert!(std::time::Instant::now() < deadline, "{first:?} and then {drip:?} goes on for ever");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    };
    // Byte by byte, never silent for long.
    slow("GET /open/x HTTP/1.1\r\nHost: h\r\n", "X: y\r\n");
    for (what, sent) in [
        ("nothing at all", ""),
        ("half a head", "GET /open/x HTTP/1.1\r\nHost: h\r\n"),
        ("half a body", "POST /open/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhalf"),
        ("half a chunk", "POST /open/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nhalf"),
    ] {
        let mut conn = Conn::open(gate.gateway());
        conn.send(sent);
        // An answer of some kind is allowed, content is not.
        if let Ok(reply) = conn.try_reply(false) {
            assert!(reply.status >= 400, "{what}: {reply:?}");
            assert!(conn.is_closed(), "{what}: the connection stayed open");
        }
    }
    // An idle connection is closed too, without a word.
    let mut conn = Conn::open(gate.gateway());
    assert_eq!(conn.send(get("/open/x")).reply().status, 200);
    assert!(conn.is_closed());
    assert_eq!(origin.seen().len(), 1, "{:?}", origin.seen());
}

fn proxy_v2(command: u8, source: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12]);
    header.extend(source);
    header.extend([127, 0, 0, 1, 0x0f, 0xa0, 0x1f, 0x90]);
    header
}

#[test]
fn proxy_protocol() {
    let origin = Origin::start();
    let trusted =
        gate(&origin, "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\nheader_timeout = 5");
    let mut claims = claims();
    claims.insert("cip".into(), "192.0.2.7".into());
    let target = format!("/{}{SEGMENT}", token_of(&claims));
    let ask = |gate: &Edgegate, header: &[u8]| {
        let mut conn = Conn::open(gate.gateway());
        conn.send([header, get(&target).as_bytes()].concat()).try_reply(false)
    };
    for header in [b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 8080\r\n".to_vec(), proxy_v2(1, [192, 0, 2, 7])] {
        assert_eq!(ask(&trusted, &header).unwrap().status, 200, "{header:?}");
        assert_eq!(origin.last().values("x-forwarded-for"), ["192.0.2.7"]);
    }
    // Cut in two at any place, as the network may do.
    for header in [b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 8080\r\n".to_vec(), proxy_v2(1, [192, 0, 2, 7])] {
        for at in 1..header.len() {
            let mut conn = Conn::open(trusted.gateway());
            conn.send(&header[..at]);
            // Long enough for the gate to see the pieces apart; if it does not, the test is only weaker.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let reply = conn.send([&header[at..], get(&target).as_bytes()].concat()).reply();
            assert_eq!(reply.status, 200, "{header:?} cut at {at}: {reply:?}");
        }
    }
    // Another client; the proxy speaking for itself; and an address that is on the deny list.
    let reason = |header: &[u8]| {
        let reply = ask(&trusted, header).unwrap();
        (reply.status, reply.header("x-edgegate-reason").unwrap_or_default().to_owned())
    };
    assert_eq!(reason(b"PROXY TCP4 192.0.2.8 127.0.0.1 4000 8080\r\n"), (403, "ip_mismatch".into()));
    assert_eq!(reason(b"PROXY UNKNOWN\r\n"), (403, "ip_mismatch".into()));
    assert_eq!(reason(&proxy_v2(0, [192, 0, 2, 7])), (403, "ip_mismatch".into()));
    assert_eq!(reason(&proxy_v2(1, [203, 0, 113, 9])), (403, "ip_denied".into()));
    assert_eq!(reason(&proxy_v2(1, [203, 0, 113, 200])), (403, "country_denied".into()));
    // A header must be there, and whole.
    for header in [&b""[..], b"PROXY TCP4 192.0.2.7\r\n"] {
        assert!(ask(&trusted, header).is_err(), "{header:?} was served");
    }

    // A peer that is not trusted speaks HTTP from its first byte, and PROXY is no HTTP.
    let wary = gate(&origin, "proxy_protocol = true\ntrusted_proxies = [\"192.0.2.0/24\"]");
    assert_eq!(ask(&wary, b"").unwrap().header("x-edgegate-reason"), Some("ip_mismatch"));
    let before = origin.seen().len();
    assert_eq!(ask(&wary, b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 8080\r\n").unwrap().status, 400);
    assert_eq!(origin.seen().len(), before);
}

#[test]
fn forwarded_for_by_trusted_proxies() {
    let origin = Origin::start();
    let gate = gate(&origin, "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]");
    let mut claims = claims();
    claims.insert("cip".into(), "192.0.2.7".into());
    let target = format!("/{}{SEGMENT}", token_of(&claims));
    for (fields, status, upstream) in [
        ("X-Forwarded-For: 192.0.2.7\r\n", 200, "192.0.2.7, 127.0.0.1"),
        ("X-Forwarded-For: 192.0.2.7, 10.1.2.3\r\n", 200, "192.0.2.7, 10.1.2.3, 127.0.0.1"),
        ("X-Forwarded-For: 198.51.100.1, 192.0.2.7\r\n", 200, "198.51.100.1, 192.0.2.7, 127.0.0.1"),
        (
            "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.7\r\n",
            200,
            "198.51.100.1, 192.0.2.7, 127.0.0.1",
        ),
        ("X-Forwarded-For: ::ffff:192.0.2.7\r\n", 200, "::ffff:192.0.2.7, 127.0.0.1"),
        // Only the right-most that no trusted proxy vouches beyond counts.
        ("X-Forwarded-For: 192.0.2.7, 198.51.100.1\r\n", 403, ""),
        ("", 403, ""),
        ("X-Forwarded-For: unknown\r\n", 400, ""),
        ("X-Forwarded-For: 192.0.2.7,\r\n", 400, ""),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let reply = Conn::open(gate.gateway()).send(request).reply();
        assert_eq!(reply.status, status, "{fields}: {reply:?}");
        if status == 200 {
            assert_eq!(origin.last().values("x-forwarded-for"), [upstream]);
        }
    }
}
