//! Every token case, judged by the library, by a live gateway and by a live auth listener.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use agent::clock::Clock;
use agent::demo::geodb;
use agent::metrics::Metrics;
use agent::run::{self, Running};
use agent::snapshot::Snapshot;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use tests::cases::{Case, File, load_all};
use tests::places::Places;
use tests::raw::{Echo, Reply, exchange};
use validator_core::net::PortSet;
use validator_core::{Reason, Scratch, Verdict, decide};

/// The least that the files must hold; fewer means that some are not found.
const ENOUGH: usize = 1400;

/// Listeners for a file whose configuration has none.
const NO_LISTENER: &str = "[auth]\nlisten = [\"127.0.0.1:0\"]\n";

#[test]
fn the_library_judges_as_specified() {
    let mut failures = Vec::new();
    let mut reasons = BTreeSet::new();
    let mut total = 0;
    for (file, cases) in load_all() {
        let config = file.configuration(NO_LISTENER);
        let mut scratch = Scratch::new();
        scratch.reserve(&config.policy);
        for case in &cases {
            total += 1;
            reasons.extend(case.expect.reason());
            let headers = case.header_lines();
            let decision =
                decide(&config.policy, &case.request(&headers), &Places, case.now, &mut scratch, &mut ());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (upstream, location, forward, status) = match decision.verdict {
                Verdict::Allow { upstream_uri, cache_key, session } => {
                    assert_eq!(upstream_uri, cache_key, "{}", case.id);
                    assert_eq!(session, decision.session, "{}", case.id);
                    (Some(text(upstream_uri)), None, None, 200)
                }
                Verdict::Deny { status, .. } => (None, None, None, status),
                Verdict::Redirect { location, .. } => (None, Some(text(location)), None, 302),
                Verdict::Forward { upstream, upstream_uri, .. } => {
                    (Some(text(upstream_uri)), None, Some(upstream.to_owned()), 200)
                }
            };
            let monitored: Vec<String> = decision.let_through().map(str::to_owned).collect();
            let expect = &case.expect;
            let same = decision.verdict.name() == expect.verdict()
                && decision.verdict.reason() == expect.reason()
                && status == expect.status()
                && (expect.upstream.is_none() || upstream == expect.upstream)
                && location == expect.location
                && forward == expect.forward
                && (expect.session.is_none() || decision.session == expect.session.as_deref())
                && monitored == expect.monitored.clone().unwrap_or_default();
            if !same {
                failures.push(format!(
                    "{}: {:?} {status} {:?} upstream {upstream:?} location {location:?} session {:?} monitored {monitored:?}",
                    case.id,
                    decision.verdict.name(),
                    decision.verdict.reason().map(Reason::name),
                    decision.session
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {total} cases:\n{}", failures.len(), failures.join("\n"));
    assert!(total >= ENOUGH, "only {total} cases");
    let missing: Vec<&str> = Reason::ALL.iter().filter(|r| !reasons.contains(*r)).map(|r| r.name()).collect();
    assert!(missing.is_empty(), "no case for {missing:?}");
}

#[test]
fn a_live_gateway_judges_the_same() {
    over_http("gateway", |gate, echo, case| {
        let reply = exchange(gate.gateway()[0], gateway_request(case).as_bytes());
        check_gateway(case, &reply, echo)
    });
}

#[test]
fn a_live_auth_listener_judges_the_same() {
    over_http("auth", |gate, _, case| {
        // nginx's form and the form with the real status.
        let nginx = exchange(gate.auth()[0], auth_request(case, "/", "Original", "X-Real-IP").as_bytes());
        let forward = exchange(
            gate.auth()[0],
            auth_request(case, "/forward", "Forwarded", "X-Forwarded-For").as_bytes(),
        );
        check_auth(case, &nginx, true).and_then(|()| check_auth(case, &forward, false))
    });
}

/// Sends every case that can be sent to a gate of its file's configuration.
fn over_http(listener: &str, check: impl Fn(&Running, &Echo, &Case) -> Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let echo = Echo::start();
    let folder = tempfile::tempdir().unwrap();
    let database = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let city = database("city.mmdb", geodb::city_database(geodb::PLACES, 1));
    let asn = database("asn.mmdb", geodb::asn_database(geodb::PLACES, 1));
    let mut failures = Vec::new();
    let (mut sent, mut left_out) = (0, 0);
    for (file, cases) in load_all() {
        let clock = Clock::fixed(0);
        let gate = runtime.block_on(async { start(&file, listener, &echo, &city, &asn, clock.clone()) });
        for case in &cases {
            if let Some(why) = &case.expect.library_only {
                println!("{}: not sent over HTTP: {why}", case.id);
                left_out += 1;
                continue;
            }
            clock.set(case.now);
            sent += 1;
            if let Err(failure) = check(&gate, &echo, case) {
                failures.push(format!("{}: {failure}", case.id));
            }
        }
        runtime.block_on(gate.stop());
    }
    assert!(failures.is_empty(), "{listener}: {} of {sent}:\n{}", failures.len(), failures.join("\n"));
    assert!(sent >= ENOUGH, "only {sent} cases were sent, {left_out} left out");
}

fn start(file: &File, listener: &str, echo: &Echo, city: &Path, asn: &Path, clock: Clock) -> Running {
    let listeners = format!(
        "[gateway]\nlisten = [\"127.0.0.1:0\"]\nupstream = \"http://{}\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [auth]\nlisten = [\"127.0.0.1:0\"]\n",
        echo.address
    );
    let mut config = file.configuration(&listeners);
    config.geo.city = Some(city.to_owned());
    config.geo.asn = Some(asn.to_owned());
    // The system chooses the gateway's port, so the gateway watches every port for a file that watches any.
    let session_ports = &mut Arc::make_mut(&mut config.policy.prefilter).session_ports;
    if listener == "gateway" && !session_ports.is_empty() {
        *session_ports = PortSet::new(1..=u16::MAX);
    }
    let metrics = Metrics::new().unwrap();
    let snapshot = Snapshot::new(config, &metrics).unwrap_or_else(|e| panic!("{}: {e}", file.path.display()));
    run::start(snapshot, clock, metrics).unwrap()
}

fn gateway_request(case: &Case) -> String {
    let Case { method, target, host, client, scheme, .. } = case;
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: {client}\r\nX-Forwarded-Proto: {scheme}\r\n{}\
         Connection: close\r\n\r\n",
        own_headers(case)
    )
}

fn auth_request(case: &Case, path: &str, form: &str, client_header: &str) -> String {
    let Case { method, target, host, client, scheme, .. } = case;
    let form_uri = if form == "Original" { "X-Original-URI" } else { "X-Forwarded-Uri" };
    let destination = case.destination.map_or_else(String::new, |d| {
        format!("X-Server-Addr: {}\r\nX-Server-Port: {}\r\n", d.ip(), d.port())
    });
    // nginx asks with the client's host as its own; the others name it.
    let hosts = match form {
        "Original" => format!("Host: {host}\r\nX-Forwarded-Host: evil.example\r\n"),
        _ => format!("Host: auth\r\nX-Forwarded-Host: {host}\r\n"),
    };
    format!(
        "GET {path} HTTP/1.1\r\n{hosts}{form_uri}: {target}\r\nX-{form}-Method: {method}\r\n\
         X-Forwarded-Proto: {scheme}\r\n{client_header}: {client}\r\n{destination}{}\
         Connection: close\r\n\r\n",
        own_headers(case)
    )
}

fn own_headers(case: &Case) -> String {
    case.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

fn check_gateway(case: &Case, reply: &Reply, echo: &Echo) -> Result<(), String> {
    let expect = &case.expect;
    let fail =
        |what: &str| Err(format!("{what}: {} {:?} {}", reply.status, reply.headers, text(&reply.body)));
    // A forward goes to the echo origin only where the case names an address that is up, so its status is not known.
    if expect.verdict() == "forward" {
        return if reply.status == 502 || reply.status == 504 {
            Ok(())
        } else {
            fail("no attempt to forward")
        };
    }
    if reply.status != expect.status() {
        return fail("status");
    }
    match expect.reason() {
        None => {
            let seen = text(&reply.body);
            let uri = seen.split(' ').nth(1).unwrap_or_default();
            if case.method != "HEAD" && expect.upstream.as_deref().is_some_and(|upstream| upstream != uri) {
                return fail(&format!("upstream {uri} of {}", echo.address));
            }
        }
        Some(reason) => {
            // What hyper itself refuses has the same status and no reason.
            let refused_by_parser = reason == Reason::UriAmbiguous && reply.body.is_empty();
            if !refused_by_parser {
                if reply.header("x-edgegate-reason") != Some(reason.name()) {
                    return fail("reason");
                }
                if reply.header("cache-control") != Some("no-store") {
                    return fail("cache-control");
                }
                if case.method != "HEAD" && text(&reply.body).trim_end() != reason.name() {
                    return fail("body");
                }
            }
            if reply.header("location") != expect.location.as_deref() {
                return fail("location");
            }
        }
    }
    Ok(())
}

fn check_auth(case: &Case, reply: &Reply, nginx: bool) -> Result<(), String> {
    let expect = &case.expect;
    let form = if nginx { "nginx" } else { "forward" };
    let fail = |what: &str| Err(format!("{form} {what}: {} {:?}", reply.status, reply.headers));
    let real = match (expect.verdict(), expect.reason()) {
        ("forward", Some(reason)) => reason.status(),
        _ => expect.status(),
    };
    let visible = if nginx && real != 200 { 403 } else { real };
    if reply.status != visible || reply.header("x-edgegate-status") != Some(&real.to_string()) {
        return fail("status");
    }
    if reply.header("x-edgegate-reason") != expect.reason().map(Reason::name) {
        return fail("reason");
    }
    if reply.header("location") != expect.location.as_deref() {
        return fail("location");
    }
    if let (None, Some(upstream)) = (expect.reason(), &expect.upstream) {
        if reply.header("x-edgegate-uri") != Some(upstream) {
            return fail("uri");
        }
        if reply.header("x-edgegate-cache-key") != Some(upstream) {
            return fail("cache key");
        }
    }
    let session = expect.session.as_deref().filter(|_| expect.reason().is_none());
    if session.is_some() && reply.header("x-edgegate-session") != session {
        return fail("session");
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
