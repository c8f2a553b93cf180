//! Requests made to get past the gate, sent to a live gateway byte by byte.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use agent::clock::Clock;
use agent::config;
use agent::metrics::Metrics;
use agent::run::{self, Running};
use agent::snapshot::Snapshot;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use tests::raw::{Echo, exchange};
use tokio::runtime::Runtime;

/// A gateway whose origin is at `upstream`.
fn gate(upstream: SocketAddr, settings: &str) -> (Runtime, Running) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let text = format!(
        "[gateway]\nlisten = [\"127.0.0.1:0\"]\nupstream = \"http://{upstream}\"\n{settings}\n\
         [[route]]\nname = \"private\"\ncheck = \"deny\"\n\
         when = [ {{ variable = \"http_host\", operator = \"is_equal\", value = \"private\" }} ]\n\
         [[route]]\nname = \"open\"\ncheck = \"allow\"\n"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edgegate.toml");
    std::fs::write(&path, text).unwrap();
    let metrics = Metrics::new().unwrap();
    let snapshot = Snapshot::new(config::load(&path, 0).unwrap(), &metrics).unwrap();
    let running = runtime.block_on(async { run::start(snapshot, Clock::fixed(0), metrics).unwrap() });
    (runtime, running)
}

/// An origin that answers every connection with the same bytes.
fn origin(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _read = stream.read(&mut [0; 8192]);
            let _written = stream.write_all(answer);
        }
    });
    address
}

#[test]
fn connect_opens_nothing() {
    let echo = Echo::start();
    let (_runtime, gate) = gate(echo.address, "");
    for target in ["/x", "http://h/x"] {
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(exchange(gate.gateway()[0], request.as_bytes()).status, 400, "{target}");
    }
}

#[test]
fn rules_see_the_host_that_the_origin_sees() {
    let echo = Echo::start();
    let (_runtime, gate) = gate(echo.address, "");
    let reply = exchange(gate.gateway()[0], b"GET http://private/x HTTP/1.1\r\nHost: public\r\n\r\n");
    assert_eq!(reply.header("x-edgegate-reason"), Some("rule_denied"));
}

#[test]
fn a_head_too_large_for_the_scanner_is_refused() {
    let echo = Echo::start();
    let (_runtime, gate) = gate(echo.address, "");
    let mut stream = TcpStream::connect(gate.gateway()[0]).unwrap();
    stream.set_nodelay(true).unwrap();
    // Over what the scanner keeps when the third piece arrives, within what hyper reads when the last one does.
    let head = b"POST /x#y HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nX: ";
    for piece in [&head[..], &[b'a'; 80_000], &[b'a'; 2_000], &[b'a'; 300], b"\r\n\r\n0\r\n\r\n"] {
        let _closed_early = stream.write_all(piece);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 400");
}

#[test]
fn answers_with_two_framings_or_another_protocol() {
    let answer =
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (_runtime, gate_1) = gate(origin(answer), "");
    let reply = exchange(gate_1.gateway()[0], b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((reply.status, reply.header("content-length")), (200, None));
    let (_runtime, gate_2) = gate(origin(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "");
    let reply = exchange(gate_2.gateway()[0], b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(reply.status, 502);
}

#[test]
fn a_full_house_does_not_keep_the_agent_from_stopping() {
    let echo = Echo::start();
    let (runtime, gate) = gate(echo.address, "max_connections = 1\ndrain_timeout = 1");
    let mut held = TcpStream::connect(gate.gateway()[0]).unwrap();
    held.write_all(b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    held.read_exact(&mut [0; 12]).unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), gate.stop()).await }).unwrap();
}

#[test]
fn a_host_has_one_reading() {
    let echo = Echo::start();
    let (_runtime, gate) = gate(echo.address, "");
    for (host, status) in [
        ("a.example:80", 200),
        ("[2001:db8::1]:80", 200),
        ("", 200),
        ("a.example:80@b.example", 400),
        ("a.example:80.b.example", 400),
        ("a.example/x", 400),
        ("[::1]b.example", 400),
        ("a.example b", 400),
        ("\u{e9}.example", 400),
    ] {
        let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(exchange(gate.gateway()[0], request.as_bytes()).status, status, "{host}");
    }
}

/// Whose word goes upstream: a path that was not judged and a client that nobody vouches for do not.
#[test]
fn fields_that_a_client_has_no_say_in() {
    let echo = Echo::start();
    let seen = |settings: &str, before: &str| {
        let (_runtime, gate) = gate(echo.address, settings);
        let request = format!(
            "{before}GET /x HTTP/1.1\r\nHost: h\r\nX-Original-URL: /admin\r\nX_Rewrite_URL: /admin\r\nForwarded: for=192.0.2.9\r\n\
             X-Real-IP: 192.0.2.9\r\nX-Forwarded-For: 192.0.2.9\r\nTransfer_Encoding: chunked\r\nX-Other: kept\r\n\r\n"
        );
        let reply = exchange(gate.gateway()[0], request.as_bytes());
        assert_eq!(reply.status, 200);
        let mut fields: Vec<String> = String::from_utf8(reply.body)
            .unwrap()
            .lines()
            .skip(1)
            .map(|line| line.trim_end().to_ascii_lowercase())
            .filter(|line| !line.is_empty())
            .collect();
        fields.sort();
        fields
    };
    let untrusted = ["host: h", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "x-other: kept"];
    assert_eq!(seen("", ""), untrusted);
    let trusted = [
        "forwarded: for=192.0.2.9",
        "host: h",
        "x-forwarded-for: 192.0.2.9, 127.0.0.1",
        "x-forwarded-proto: http",
        "x-other: kept",
        "x-real-ip: 192.0.2.9",
    ];
    assert_eq!(seen("trusted_proxies = [\"127.0.0.1\"]", ""), trusted);
    // A balancer that passes bytes through and does not say for whom: the client's own word stays its own.
    let behind = "trusted_proxies = [\"127.0.0.1\"]\nproxy_protocol = true";
    assert_eq!(seen(behind, "PROXY UNKNOWN\r\n"), untrusted);
}

#[test]
fn an_origin_does_not_speak_for_the_gate() {
    let answer = b"HTTP/1.1 200 OK\r\nX-Edgegate-Reason: expired\r\nContent-Length: 0\r\n\r\n";
    let (_runtime, gate) = gate(origin(answer), "");
    let reply = exchange(gate.gateway()[0], b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((reply.status, reply.header("x-edgegate-reason")), (200, None));
}
