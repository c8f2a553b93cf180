//! The auth listener, asked by raw requests in the forms of nginx, Traefik and Caddy, and Envoy.

use tests::binary::Edgegate;
use tests::conn::Conn;
use tests::contract::{BLACKLISTED, Config, SEGMENT, claims, now, secure_token, token, token_of};
use tests::raw::Reply;

/// The gateway's upstream is never asked here.
const NOBODY: &str = "http://127.0.0.1:1";

fn gate(change: impl FnOnce(&mut Config)) -> Edgegate {
    let mut config = Config::new(NOBODY);
    change(&mut config);
    Edgegate::run(&config.text())
}

fn ask(gate: &Edgegate, line: &str, fields: &str) -> Reply {
    Conn::open(gate.auth()).send(format!("{line} HTTP/1.1\r\nHost: auth.internal\r\n{fields}\r\n")).reply()
}

fn expired() -> String {
    let mut claims = claims();
    claims.insert("exp".into(), (now() - 5).into());
    token_of(&claims)
}

fn blacklisted() -> String {
    let mut claims = claims();
    claims.insert("sid".into(), BLACKLISTED.into());
    token_of(&claims)
}

/// Targets, their real status, and their reason.
fn questions() -> Vec<(String, u16, Option<&'static str>)> {
    vec![
        (format!("/{}{SEGMENT}?a=%20", token()), 200, None),
        (format!("/{}{SEGMENT}", expired()), 410, Some("expired")),
        (format!("/{}{SEGMENT}", blacklisted()), 403, Some("session_blacklisted")),
        (SEGMENT.into(), 403, Some("token_missing")),
        ("/admin".into(), 403, Some("no_route")),
        ("/open/../admin".into(), 400, Some("uri_ambiguous")),
        ("/open/x#y".into(), 400, Some("uri_ambiguous")),
        ("/classes/x".into(), 302, Some("token_missing")),
        (format!("/classes/x?{}", secure_token("/classes/x", now() - 5)), 302, Some("expired")),
        (format!("/plain/x?{}", secure_token("/plain/x", now() - 5)), 410, Some("expired")),
    ]
}

fn check(form: &str, target: &str, reply: &Reply, visible: u16, real: u16, reason: Option<&str>) {
    assert_eq!(reply.status, visible, "{form} {target}: {reply:?}");
    assert_eq!(reply.header("x-edgegate-status"), Some(&*real.to_string()), "{form} {target}");
    assert_eq!(reply.header("x-edgegate-reason"), reason, "{form} {target}");
    assert_eq!(reply.header("location").is_some(), real == 302, "{form} {target}: {reply:?}");
    if real == 200 {
        let upstream = target.split_once("/Content").map(|(_, rest)| format!("/Content{rest}"));
        assert_eq!(reply.header("x-edgegate-uri"), upstream.as_deref(), "{form}");
        assert_eq!(reply.header("x-edgegate-cache-key"), upstream.as_deref(), "{form}");
        assert_eq!(reply.header("x-edgegate-session"), Some("session1"), "{form}");
    } else {
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{form} {target}");
        for name in ["x-edgegate-uri", "x-edgegate-cache-key", "x-edgegate-session"] {
            assert_eq!(reply.header(name), None, "{form} {target}: {name} of a refused request");
        }
    }
}

/// nginx knows 2xx and 403; everything else would become a 500 of its own.
#[test]
fn nginx() {
    let gate = gate(|_| {});
    for (target, real, reason) in questions() {
        let fields =
            format!("X-Original-URI: {target}\r\nX-Original-Method: GET\r\nX-Real-IP: 127.0.0.1\r\n");
        let visible = if real == 200 { 200 } else { 403 };
        for line in ["GET /", "GET /auth", "HEAD /anything/else?x", "POST /"] {
            let mut conn = Conn::open(gate.auth());
            conn.send(format!("{line} HTTP/1.1\r\nHost: auth\r\n{fields}\r\n"));
            let reply = if line.starts_with("HEAD") { conn.reply_to_head() } else { conn.reply() };
            check("nginx", &target, &reply, visible, real, reason);
        }
    }
}

#[test]
fn traefik_and_caddy() {
    let gate = gate(|_| {});
    for (target, real, reason) in questions() {
        let fields = format!(
            "X-Forwarded-Method: GET\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: cdn.example\r\n\
             X-Forwarded-Uri: {target}\r\nX-Forwarded-For: 127.0.0.1\r\n"
        );
        let reply = ask(&gate, "GET /forward", &fields);
        check("forward", &target, &reply, real, real, reason);
        if real == 302 {
            let start = "https://login.example/?return=https%3A%2F%2Fcdn.example%2Fclasses%2Fx";
            assert_eq!(reply.header("location"), Some(start), "the way back has no token");
        }
        if real != 200 {
            assert_eq!(String::from_utf8_lossy(&reply.body).trim_end(), reason.unwrap());
        }
    }
}

/// Envoy sends the request itself, behind the prefix.
#[test]
fn envoy() {
    let gate = gate(|_| {});
    for (target, real, reason) in questions() {
        for method in ["GET", "DELETE"] {
            let reply = ask(&gate, &format!("{method} /envoy{target}"), "X-Forwarded-For: 127.0.0.1\r\n");
            check("envoy", &target, &reply, real, real, reason);
        }
    }
}

/// Of two copies one may be the client's own; nobody can tell which.
#[test]
fn two_copies_of_an_input() {
    let gate = gate(|_| {});
    let target = format!("/{}{SEGMENT}", token());
    let nginx = format!(
        "X-Original-URI: {target}\r\nX-Original-Method: GET\r\nX-Real-IP: 127.0.0.1\r\nX-Real-Port: 4000\r\n\
         X-Server-Addr: 127.0.0.1\r\nX-Server-Port: 80\r\n"
    );
    let forward = format!(
        "X-Forwarded-Method: GET\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: h\r\nX-Forwarded-Uri: {target}\r\n\
         X-Forwarded-For: 127.0.0.1\r\n"
    );
    for (line, fields) in [("GET /", nginx), ("GET /forward", forward)] {
        assert_eq!(ask(&gate, line, &fields).status, 200);
        for field in fields.lines() {
            for copy in [field.to_owned(), field.to_lowercase()] {
                let reply = ask(&gate, line, &format!("{fields}{copy}\r\n"));
                assert_eq!(reply.status, 400, "{copy}: {reply:?}");
                let reply = ask(&gate, line, &format!("{copy}\r\n{fields}"));
                assert_eq!(reply.status, 400, "{copy}: {reply:?}");
            }
        }
    }
}

/// A question that leaves out what is asked about is refused, not answered about something else.
#[test]
fn incomplete_and_wrong_inputs() {
    let gate = gate(|_| {});
    let target = format!("/{}{SEGMENT}", token());
    for (line, fields, status) in [
        ("GET /", String::new(), 403),
        ("GET /", "X-Real-IP: 127.0.0.1\r\n".to_owned(), 403),
        ("GET /", format!("X-Forwarded-Uri: {target}\r\n"), 403),
        ("GET /forward", String::new(), 400),
        ("GET /forward", format!("X-Original-URI: {target}\r\n"), 400),
        ("GET /forward", format!("X-Forwarded-Uri: {target}\r\nX-Forwarded-For: me\r\n"), 400),
    ] {
        let reply = ask(&gate, line, &fields);
        assert_eq!(reply.status, status, "{line} {fields:?}: {reply:?}");
    }
    for fields in [
        format!("X-Original-URI: {target}\r\nX-Real-IP: localhost\r\n"),
        format!("X-Original-URI: {target}\r\nX-Real-IP: \r\n"),
    ] {
        let reply = ask(&gate, "GET /", &fields);
        assert_ne!(reply.status, 200, "{fields:?}: {reply:?}");
    }
    // A connection that is named is named in full digits, or not at all.
    let named = "X-Server-Addr: 192.0.2.9\r\nX-Real-IP: 127.0.0.1";
    for (fields, status) in [
        ("X-Server-Port: 80\r\nX-Real-Port: 4000", 200),
        ("X-Server-Port: 80", 200),
        ("X-Real-Port: 4000", 200),
        ("X-Server-Port: 80\r\nX-Real-Port: +4000", 400),
        ("X-Server-Port: 80\r\nX-Real-Port: 65536", 400),
        ("X-Server-Port: 80\r\nX-Real-Port: ", 400),
        ("X-Server-Port: 80\r\nX-Real-Port: 4000, 4001", 400),
        ("X-Server-Port: +80\r\nX-Real-Port: 4000", 400),
    ] {
        let reply = ask(&gate, "GET /", &format!("X-Original-URI: {target}\r\n{named}\r\n{fields}\r\n"));
        assert_eq!(reply.status, status, "{fields}: {reply:?}");
    }
    // A client that is named is the one that is judged.
    let fields = format!("X-Original-URI: {target}\r\nX-Real-IP: 192.0.2.1\r\n");
    assert_eq!(ask(&gate, "GET /", &fields).header("x-edgegate-reason"), Some("ip_mismatch"));
    // Of forwarded addresses the one next to the asking proxy counts.
    let fields = format!("X-Forwarded-Uri: {target}\r\nX-Forwarded-For: 127.0.0.1, 192.0.2.1\r\n");
    assert_eq!(ask(&gate, "GET /forward", &fields).header("x-edgegate-reason"), Some("ip_mismatch"));
}

/// Who may ask may say who the client is, so not everybody may ask.
#[test]
fn untrusted_peers() {
    let config = Config::new(NOBODY).text().replace("[auth]\n", "[auth]\ntrusted_peers = [\"192.0.2.1\"]\n");
    let gate = Edgegate::run(&config);
    let target = format!("/{}{SEGMENT}", token());
    for (line, fields) in [
        ("GET /", format!("X-Original-URI: {target}\r\nX-Real-IP: 127.0.0.1\r\n")),
        ("GET /forward", format!("X-Forwarded-Uri: {target}\r\n")),
        (&*format!("GET /envoy{target}"), String::new()),
    ] {
        let reply = ask(&gate, line, &fields);
        assert_eq!(reply.status, 403, "{line}: {reply:?}");
        assert_eq!(reply.header("x-edgegate-uri"), None);
    }
}

#[test]
fn denial_headers_and_statuses_of_a_route() {
    let gate = gate(|config| {
        config.live =
            "status = { expired = 403 }\ndeny_headers = { \"Access-Control-Allow-Origin\" = \"*\" }".into();
    });
    let reply = ask(&gate, &format!("GET /envoy/{}{SEGMENT}", expired()), "");
    assert_eq!((reply.status, reply.header("x-edgegate-status")), (403, Some("403")));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    let reply = ask(&gate, &format!("GET /envoy/{}{SEGMENT}", token()), "");
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None));
}
