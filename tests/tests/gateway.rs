//! The gateway as a reverse proxy: what goes upstream, what comes back, and what happens when one side fails.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use sha2::{Digest as _, Sha256};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use tests::binary::{Edgegate, Home, free_address};
use tests::conn::Conn;
use tests::contract::{BLACKLISTED, Config, SEGMENT, claims, get, now, secure_token, token, token_of};
use tests::origin::{Origin, Seen, Then, answer, hex};
use tests::wait_for;

const MIB: usize = 1024 * 1024;

/// Much more than the gate may hold of it.
const LARGE: usize = 64 * MIB;

fn gate(origin: &Origin, change: impl FnOnce(&mut Config)) -> Edgegate {
    let mut config = Config::new(&origin.url());
    change(&mut config);
    Edgegate::run(&config.text())
}

/// Bytes that differ from place to place, so that a lost or doubled piece shows.
fn piece(index: usize) -> Vec<u8> {
    (0..MIB).map(|i| u8::try_from((i * 31 + index * 7 + i / 251) % 256).unwrap()).collect()
}

/// An origin that answers as soon as it has a head, whatever is still to come. Gives what each of its connections has seen.
fn hasty_origin(answer: fn(target: &str) -> String) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, seen) = (stream.unwrap(), Arc::clone(&shared));
            let index = {
                let mut seen = seen.lock().unwrap();
                seen.push(String::new());
                seen.len() - 1
            };
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut piece) {
                    let text = String::from_utf8_lossy(&piece[..length]).into_owned();
                    let target = text.split(' ').nth(1).unwrap_or_default();
                    if text.contains("\r\n\r\n") && stream.write_all(answer(target).as_bytes()).is_err() {
                        return;
                    }
                    seen.lock().unwrap()[index].push_str(&text);
                }
            });
        }
    });
    (address, seen)
}

/// What is left of an upload whose answer came early is no place for another client's request, and what an origin says
/// unasked is nobody's answer.
#[test]
fn an_answer_before_the_end_of_an_upload() {
    let (origin, seen) = hasty_origin(|target| {
        let extra = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
        match target {
            "/open/early" => "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n".into(),
            "/open/twice" => format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntwice{extra}"),
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len()),
        }
    });
    let gate = Edgegate::run(&Config::new(&format!("http://{origin}")).text());
    for (target, status) in [("/open/early", 413), ("/open/twice", 200)] {
        let mut uploader = Conn::open(gate.gateway());
        uploader.send(format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n0123456789"));
        assert_eq!(uploader.reply().status, status);
        // Still the body, whatever it looks like. Whether it is taken is the gate's business.
        let _taken = uploader.try_send(b"GET /open/smuggled HTTP/1.1\r\nHost: h");
        for number in 0..8 {
            let asked = format!("/open/{number}");
            let reply = Conn::open(gate.gateway()).send(get(&asked)).reply();
            assert_eq!((reply.status, &reply.body[..]), (200, asked.as_bytes()), "{target}");
        }
    }
    let seen = seen.lock().unwrap();
    // On whatever connection an upload went, it was the last that went there.
    let uploads: Vec<_> = seen.iter().filter_map(|text| text.split_once("POST ")).collect();
    assert_eq!(uploads.len(), 2, "{seen:?}");
    for (_, text) in uploads {
        let asked = |number| text.contains(&format!("GET /open/{number}"));
        assert!(!(0..8).any(asked) && !text.contains("POST "), "{text}");
    }
}

fn digest_of_large() -> String {
    let mut digest = Sha256::new();
    (0..LARGE / MIB).for_each(|index| digest.update(piece(index)));
    hex(&digest.finalize())
}

/// Bodies that are larger than what the gate may use are passed on as they come, both ways, with and without a length.
#[test]
fn large_bodies_stream() {
    let origin = Origin::answering(|seen, to| {
        let chunked = seen.target().ends_with("chunked");
        if chunked {
            to.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        } else {
            to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").as_bytes())?;
        }
        for index in 0..LARGE / MIB {
            if chunked {
                to.write_all(format!("{MIB:x}\r\n").as_bytes())?;
            }
            to.write_all(&piece(index))?;
            if chunked {
                to.write_all(b"\r\n")?;
            }
        }
        if chunked {
            to.write_all(b"0\r\n\r\n")?;
        }
        Ok(Then::Keep)
    });
    let gate = gate(&origin, |_| {});
    let expected = digest_of_large();
    let mut conn = Conn::open(gate.gateway());
    for (target, framing) in [
        ("/open/length", format!("Content-Length: {LARGE}")),
        ("/open/chunked", "Transfer-Encoding: chunked".into()),
    ] {
        let chunked = framing.starts_with('T');
        conn.send(format!("POST {target} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
        for index in 0..LARGE / MIB {
            if chunked {
                conn.try_send(format!("{MIB:X};some=extension\r\n").as_bytes()).unwrap();
            }
            conn.try_send(&piece(index)).unwrap();
            if chunked {
                conn.try_send(b"\r\n").unwrap();
            }
        }
        if chunked {
            conn.try_send(b"0\r\n\r\n").unwrap();
        }
        let mut digest = Sha256::new();
        let reply = conn.stream_reply(false, &mut |piece| digest.update(piece)).unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(hex(&digest.finalize()), expected, "{target}: down");
        let seen = origin.last();
        assert_eq!((seen.length, seen.digest.as_str()), (LARGE as u64, expected.as_str()), "{target}: up");
    }
    let peak = gate.peak_memory();
    assert!(peak < LARGE as u64, "{peak} bytes in use for bodies of {LARGE}");
}

#[test]
fn methods_ranges_and_kept_connections() {
    let origin = Origin::answering(|seen, to| {
        if seen.values("range").is_empty() {
            return answer(to, seen.target().as_bytes());
        }
        to.write_all(
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-8/9\r\nContent-Length: 4\r\n\r\nhalf",
        )?;
        Ok(Then::Keep)
    });
    let gate = gate(&origin, |_| {});
    let target = format!("/{}{SEGMENT}", token());
    let mut conn = Conn::open(gate.gateway());

    let head = conn.send(format!("HEAD {target} HTTP/1.1\r\nHost: h\r\n\r\n")).reply_to_head();
    assert_eq!((head.status, head.header("content-length")), (200, Some(&*SEGMENT.len().to_string())));
    assert_eq!(origin.last().line, format!("HEAD {SEGMENT} HTTP/1.1"));

    let part = conn.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\nRange: bytes=5-8\r\n\r\n")).reply();
    assert_eq!((part.status, &*part.body), (206, &b"half"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 5-8/9"));
    assert_eq!(origin.last().values("range"), ["bytes=5-8"]);

    // A refusal of HEAD has the length of its body and no body.
    let refused = conn.send(format!("HEAD {SEGMENT} HTTP/1.1\r\nHost: h\r\n\r\n")).reply_to_head();
    assert_eq!((refused.status, refused.header("x-edgegate-reason")), (403, Some("token_missing")));

    // Two requests in one piece, the first refused: answers in order.
    let two = format!("{}{}", get(SEGMENT), get(&target));
    conn.send(two);
    assert_eq!(conn.reply().status, 403);
    assert_eq!(conn.reply().body, SEGMENT.as_bytes());
    assert_eq!(conn.send(get(&format!("{target}?a=1&a=2&%20"))).reply().status, 200);
    assert_eq!(origin.last().target(), format!("{SEGMENT}?a=1&a=2&%20"));

    // A connection is free again only shortly after its answer has been passed on, so now and then there is another.
    let mut asked = origin.seen().len();
    for _ in 0..20 {
        assert_eq!(conn.send(get(&target)).reply().status, 200);
        asked += 1;
    }
    assert!(origin.connections() < asked / 2, "{} connections for {asked} requests", origin.connections());

    // Absolute form is reduced to origin form; its host counts.
    let absolute =
        format!("GET http://other.example{target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(conn.send(absolute).reply().status, 200);
    assert_eq!(origin.last().line, format!("GET {SEGMENT} HTTP/1.1"));
    assert_eq!(origin.last().values("host"), ["other.example"]);
    assert!(conn.is_closed(), "Connection: close was not heeded");
}

#[test]
fn headers_upstream() {
    let origin = Origin::start();
    let gate = gate(&origin, |_| {});
    let target = format!("/{}{SEGMENT}", token());
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: cdn.example:8080\r\nConnection: keep-alive, X-Listed, Host\r\n\
         X-Listed: hop\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers\r\n\
         Upgrade: websocket\r\nX-Edgegate-Session: forged\r\nx_edgegate_session: forged\r\n\
         X_Edgegate-Reason: forged\r\nX-Forwarded-For: 203.0.113.200\r\nX_Forwarded_For: 203.0.113.200\r\n\
         X-Forwarded-Proto: https\r\nAccept: a\r\nAccept: b\r\nCookie: tok=x; other=1\r\nX-Kept: 1\r\n\r\n"
    );
    let reply = Conn::open(gate.gateway()).send(request).reply();
    assert_eq!(reply.status, 200);
    let seen = origin.last();
    for name in [
        "x-listed",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "x_edgegate_session",
        "x_edgegate-reason",
        "x_forwarded_for",
    ] {
        assert!(seen.values(name).is_empty(), "{name} went upstream: {:?}", seen.headers);
    }
    assert_eq!(seen.values("x-edgegate-session"), ["session1"]);
    assert_eq!(seen.values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.values("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.values("host"), ["cdn.example:8080"]);
    assert_eq!(seen.values("accept"), ["a", "b"]);
    assert_eq!(seen.values("x-kept"), ["1"]);
    assert_eq!(seen.values("cookie"), ["tok=x; other=1"], "no token is in a cookie here");
}

/// What the upstream says about its own connection stays there.
#[test]
fn headers_downstream() {
    let origin = Origin::answering(|_, to| {
        to.write_all(
            b"HTTP/1.1 200 OK\r\nConnection: X-Listed\r\nX-Listed: hop\r\nKeep-Alive: timeout=5\r\n\
              Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok",
        )?;
        Ok(Then::Keep)
    });
    let gate = gate(&origin, |_| {});
    let reply = Conn::open(gate.gateway()).send(get("/open/x")).reply();
    assert_eq!((reply.header("x-listed"), reply.header("keep-alive")), (None, None));
    let cookies = reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")).count();
    assert_eq!(cookies, 2);
}

#[test]
fn tokens_in_other_places_do_not_go_upstream() {
    let origin = Origin::start();
    let gate = gate(&origin, |config| {
        config.live = r#"token = ["path", "query:tok", "header:Authorization", "cookie:tok"]"#.into();
    });
    let token = token();
    for (what, target, headers) in [
        ("path", format!("/{token}{SEGMENT}?a=1"), String::new()),
        ("query", format!("{SEGMENT}?tok={token}&a=1"), String::new()),
        ("query, last", format!("{SEGMENT}?a=1&tok={token}"), String::new()),
        ("header", format!("{SEGMENT}?a=1"), format!("Authorization: Bearer {token}\r\n")),
        ("cookie", format!("{SEGMENT}?a=1"), format!("Cookie: a=1; tok={token}; b=2\r\n")),
        ("cookie alone", format!("{SEGMENT}?a=1"), format!("Cookie: tok={token}\r\n")),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let reply = Conn::open(gate.gateway()).send(request).reply();
        assert_eq!(reply.status, 200, "{what}: {reply:?}");
        let seen = origin.last();
        assert_eq!(seen.target(), format!("{SEGMENT}?a=1"), "{what}");
        assert!(!format!("{seen:?}").contains(&token[..40]), "{what}: {seen:?}");
        assert!(seen.values("authorization").is_empty(), "{what}: {seen:?}");
        let cookies: &[&str] = if what == "cookie" { &["a=1; b=2"] } else { &[] };
        assert_eq!(seen.values("cookie"), cookies, "{what}");
    }
}

/// Secure Tokens of both algorithms; `st` and `e` go, everything else keeps its bytes and order.
#[test]
fn secure_tokens() {
    let origin = Origin::start();
    let gate = gate(&origin, |_| {});
    let ask = |target: &str| Conn::open(gate.gateway()).send(get(target)).reply();
    let (good, past) = (now() + 3600, now() - 5);
    let path = "/plain/uri";
    let md5 = secure_token(path, good);
    let (st, e) = md5.split_once('&').unwrap();
    let strong = tests::contract::strong_token("/strong/uri", good);
    for (target, status, upstream) in [
        (format!("{path}?{md5}"), 200, path.to_owned()),
        (format!("{path}?a=%2F&{e}&b=+&{st}&c"), 200, format!("{path}?a=%2F&b=+&c")),
        (format!("{path}?{st}==&{e}"), 200, path.to_owned()),
        (format!("/strong/uri?{strong}"), 200, "/strong/uri".into()),
        (format!("{path}?{}", secure_token(path, past)), 410, String::new()),
        (format!("{path}x?{md5}"), 403, String::new()),
        (format!("{path}?{}x", &st[..st.len() - 1]), 403, String::new()),
        (format!("{path}?{st}&{st}&{e}"), 403, String::new()),
        (format!("{path}?ST={}&{e}", &st[3..]), 403, String::new()),
        (format!("{path}?{}", secure_token(path, now() + 40 * 86_400)), 403, String::new()),
        (format!("{path}?{st}&e={past}"), 403, String::new()),
    ] {
        let before = origin.seen().len();
        let reply = ask(&target);
        assert_eq!(reply.status, status, "{target}: {reply:?}");
        if status == 200 {
            assert_eq!(origin.last().target(), upstream, "{target}");
        } else {
            assert_eq!(origin.seen().len(), before, "{target} went upstream");
        }
    }
}

#[test]
fn an_upstream_that_is_down_or_hangs() {
    // Nobody listens at first; then somebody does.
    let address = free_address();
    let config =
        Config { gateway: "upstream_timeout = 1".into(), ..Config::new(&format!("http://{address}")) };
    let gate = Edgegate::run(&config.text());
    let mut conn = Conn::open(gate.gateway());
    let reply = conn.send(get("/open/x")).reply();
    assert_eq!((reply.status, reply.header("cache-control")), (502, Some("no-store")));
    assert_eq!(conn.send(get("/admin")).reply().status, 403, "the gate decides without an upstream");

    let listener = TcpListener::bind(address).unwrap();
    // It takes the connection and says nothing.
    let held = std::thread::spawn(move || listener.accept().unwrap());
    assert_eq!(conn.send(get("/open/x")).reply().status, 504);
    drop(held.join().unwrap());
    assert!(gate.metrics_page("/metrics").body.windows(16).any(|w| w == b"upstream_timeout"));
    assert_eq!(gate.metrics_page("/healthz").status, 200);
}

#[test]
fn an_upstream_that_breaks_off() {
    let origin = Origin::answering(|seen, to| {
        match seen.target() {
            "/open/length" => to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?,
            "/open/chunked" => {
                to.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")?
            }
            "/open/nothing" => {}
            "/open/garbage" => to.write_all(b"220 mail.example ESMTP\r\n\r\n")?,
            _ => return answer(to, b"whole"),
        }
        Ok(Then::Close)
    });
    let gate = gate(&origin, |_| {});
    for target in ["/open/length", "/open/chunked"] {
        let mut conn = Conn::open(gate.gateway());
        let broken = conn.send(get(target)).try_reply(false);
        assert!(broken.is_err(), "{target}: half an answer was passed off as a whole one: {broken:?}");
    }
    for target in ["/open/nothing", "/open/garbage"] {
        let mut conn = Conn::open(gate.gateway());
        assert_eq!(conn.send(get(target)).reply().status, 502, "{target}");
        assert_eq!(conn.send(get("/open/fine")).reply().body, b"whole", "{target}: afterwards");
    }
}

/// A kept connection that the upstream closed while it was idle costs no request.
#[test]
fn a_kept_connection_that_went_away() {
    let origin = Origin::answering(|seen, to| answer(to, seen.target().as_bytes()).map(|_| Then::Close));
    let gate = gate(&origin, |_| {});
    let mut conn = Conn::open(gate.gateway());
    for round in 0..20 {
        let status = conn.send(get("/open/x")).reply().status;
        assert_eq!(status, 200, "round {round}: {}", gate.log());
    }
}

/// The same where the close crosses the next request: that comes back as a reset instead of an end.
#[test]
fn a_kept_connection_that_is_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gate = Edgegate::run(&Config::new(&format!("http://{}", listener.local_addr().unwrap())).text());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 8192];
            let _the_whole_head = std::io::Read::read(&mut stream, &mut request).unwrap();
            answer(&mut stream, b"whole").unwrap();
            // Closed with the next request unread.
            let _arrived = stream.peek(&mut request);
        }
    });
    let mut conn = Conn::open(gate.gateway());
    for round in 0..10 {
        let reply = conn.send(get("/open/x")).reply();
        assert_eq!((reply.status, &*reply.body), (200, &b"whole"[..]), "round {round}: {}", gate.log());
    }
    // What is not safe to repeat is not repeated, but answered with an error of the gate's own.
    conn.send("POST /open/x HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(conn.reply().status, 502);
}

#[test]
fn unix_sockets_on_both_sides() {
    let home = Home::new();
    let origin = Origin::on_socket(&home.path("origin.sock"));
    let socket = home.path("gate.sock");
    let mut config = Config::new(&format!("unix:{}", home.path("origin.sock").display()));
    config.listen = format!("listen = [\"unix:{}\", \"127.0.0.1:0\"]", socket.display());
    let gate = home.run(&config.text());
    let target = format!("/{}{SEGMENT}", token());
    // Whoever may open the socket is believed about the client.
    let request =
        |client: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {client}\r\n\r\n");
    let mut conn = Conn::open_unix(&socket);
    assert_eq!(conn.send(request("127.0.0.1")).reply().body, SEGMENT.as_bytes());
    assert_eq!(origin.last().values("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(conn.send(request("192.0.2.1")).reply().body.trim_ascii(), b"ip_mismatch");
    assert_eq!(Conn::open(gate.gateway()).send(get(&target)).reply().status, 200);
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn what_routes_say_about_denials() {
    let second = Origin::start();
    let origin = Origin::start();
    let forward = second.url();
    let gate = gate(&origin, |config| {
        config.live = "status = { expired = 403, token_missing = 401 }\n\
                       deny_headers = { \"Access-Control-Allow-Origin\" = \"*\" }"
            .into();
        config.routes = format!(
            "[[route]]\nname = \"portal\"\nwhen = [ {{ variable = \"uri\", operator = \"starts_with\", value = \"/portal/\" }} ]\n\
             check = \"secure-token\"\nsecret = \"classes\"\non_deny = {{ forward = \"{forward}\" }}\n"
        );
    });
    let ask = |target: &str| Conn::open(gate.gateway()).send(get(target)).reply();

    let missing = ask(SEGMENT);
    assert_eq!((missing.status, missing.header("access-control-allow-origin")), (401, Some("*")));
    let mut claims = claims();
    claims.insert("exp".into(), (now() - 5).into());
    let expired = ask(&format!("/{}{SEGMENT}", token_of(&claims)));
    assert_eq!((expired.status, expired.header("x-edgegate-reason")), (403, Some("expired")));
    assert_eq!(expired.header("access-control-allow-origin"), Some("*"));

    let path = "/classes/lesson-1.html";
    let redirect = ask(&format!("{path}?a=1&{}&b=%20", secure_token(path, now() - 5)));
    let back = "http%3A%2F%2Fcdn.example%2Fclasses%2Flesson-1.html%3Fa%3D1%26b%3D%2520";
    assert_eq!(redirect.status, 302);
    assert_eq!(redirect.header("location"), Some(&*format!("https://login.example/?return={back}")));
    assert_eq!(redirect.header("cache-control"), Some("no-store"));

    let token = secure_token("/portal/x", now() - 5);
    let forwarded = ask(&format!("/portal/x?{token}&a=1"));
    assert_eq!((forwarded.status, &*forwarded.body), (200, &b"/portal/x?a=1"[..]));
    assert_eq!(second.last().values("host"), ["cdn.example"]);
    let allowed = ask(&format!("/portal/x?{}&a=1", secure_token("/portal/x", now() + 60)));
    assert_eq!((allowed.status, &*allowed.body), (200, &b"/portal/x?a=1"[..]));
    assert_eq!((origin.seen().len(), second.seen().len()), (1, 1));
}

/// A denial without a body says nothing about its reason either.
#[test]
fn denials_without_a_body() {
    let origin = Origin::start();
    let gate = gate(&origin, |config| config.gateway = "deny_body = false".into());
    let reply = Conn::open(gate.gateway()).send(get(SEGMENT)).reply();
    assert_eq!((reply.status, &*reply.body), (403, &b""[..]));
    assert_eq!((reply.header("x-edgegate-reason"), reply.header("cache-control")), (None, Some("no-store")));
}

/// An upload that the origin takes slowly is held back at the client instead of in the gate.
#[test]
fn backpressure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::new(&format!("http://{}", listener.local_addr().unwrap()));
    let gate = Edgegate::run(&config.text());
    let mut conn = Conn::open(gate.gateway());
    conn.send(format!("POST /open/x HTTP/1.1\r\nHost: h\r\nContent-Length: {LARGE}\r\n\r\n"));
    let (mut upstream, _) = listener.accept().unwrap();
    let sender = std::thread::spawn(move || {
        for index in 0..LARGE / MIB {
            conn.try_send(&piece(index)).unwrap();
        }
        conn.reply()
    });
    // The gate has had all it will take when it takes no more: the sender cannot have finished by itself.
    let mut grown = gate.peak_memory();
    let mut calm = 0;
    wait_for("the gate to stop reading", || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let peak = gate.peak_memory();
        calm = if peak == grown { calm + 1 } else { 0 };
        grown = peak;
        (calm > 10).then_some(())
    });
    assert!(!sender.is_finished(), "{LARGE} bytes were taken from the client and not passed on");
    assert!(grown < LARGE as u64, "{grown} bytes in use");
    let mut taken = 0;
    let mut piece = vec![0; MIB];
    while taken < LARGE {
        taken += std::io::Read::read(&mut upstream, &mut piece).unwrap();
    }
    upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    assert_eq!(sender.join().unwrap().status, 204);
}

/// What a test's own origin saw can be relied on.
#[test]
fn the_origin_counts_what_it_sees() {
    let origin = Origin::start();
    let reply = Conn::open(origin.address())
        .send("POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        .reply();
    assert_eq!(reply.body, b"/x");
    let Seen { length, digest, .. } = origin.last();
    assert_eq!((length, digest), (3, hex(&Sha256::digest(b"abc"))));
}

/// A blacklisted session's connection is not kept, unless it carries others too.
#[test]
fn connections_of_blacklisted_sessions() {
    let origin = Origin::start();
    let mut listed = claims();
    listed.insert("sid".into(), BLACKLISTED.into());
    let listed = get(&format!("/{}{SEGMENT}", token_of(&listed)));
    for trusted in [false, true] {
        let gate = gate(&origin, |config| {
            if trusted {
                config.gateway = "trusted_proxies = [\"127.0.0.1\"]".into();
            }
        });
        let mut conn = Conn::open(gate.gateway());
        assert_eq!(conn.send(get("/admin")).reply().header("connection"), None);
        let reply = conn.send(&listed).reply();
        assert_eq!((reply.status, reply.header("x-edgegate-reason")), (403, Some("session_blacklisted")));
        assert_eq!(reply.body, b"session_blacklisted\n");
        if trusted {
            assert_eq!(conn.send(&listed).reply().status, 403);
        } else {
            assert_eq!(reply.header("connection"), Some("close"));
            assert!(conn.is_closed());
        }
    }
}
