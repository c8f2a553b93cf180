//! Nothing of a token, a hash or a key comes out of the gate: not in its log at any level, not in its metrics, and not
//! in what it says about a bad configuration.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use std::collections::BTreeSet;
use tests::binary::{Edgegate, Home};
use tests::conn::Conn;
use tests::contract::{
    BLACKLISTED, CLASSES_SECRET, Config, KEY, OLD_KEY, SEGMENT, claims, now, secure_token, strong_token,
    token_of,
};
use tests::origin::{Origin, Then};
use tests::wait_for;

/// A stretch of a token that is long enough to be of use, and to be nothing else.
const STRETCH: usize = 16;

/// What was sent and must not be seen again.
#[derive(Default)]
struct Secrets(BTreeSet<String>);

impl Secrets {
    /// Every stretch of a text.
    fn add(&mut self, text: &str) {
        self.0.extend(text.as_bytes().windows(STRETCH).map(|w| String::from_utf8_lossy(w).into_owned()));
    }

    /// Payload and signature; the header says nothing that is not in the configuration.
    fn add_token(&mut self, token: &str) {
        token.split('.').skip(1).for_each(|part| self.add(part));
    }

    fn assert_absent(&self, what: &str, text: &str) {
        let lines = text.lines().filter(|line| {
            line.as_bytes().windows(STRETCH).any(|w| std::str::from_utf8(w).is_ok_and(|w| self.0.contains(w)))
        });
        let lines: Vec<&str> = lines.collect();
        assert!(lines.is_empty(), "{what} tells:\n{}", lines.join("\n"));
    }
}

/// Every way to send something, good and bad, with headers.
fn requests(secrets: &mut Secrets) -> Vec<String> {
    let now = now();
    let token = |changes: serde_json::Value| {
        let mut claims = claims();
        claims.extend(changes.as_object().unwrap().clone());
        token_of(&claims)
    };
    let good = token(json!({}));
    let tokens = [
        good.clone(),
        token(json!({ "exp": now - 5 })),
        token(json!({ "sid": BLACKLISTED })),
        token(json!({ "cip": "192.0.2.1" })),
        token(json!({ "cid": "Channel8" })),
        token(json!({ "exp": "never" })),
    ];
    tokens.iter().for_each(|token| secrets.add_token(token));
    let (half, rest) = good.split_at(good.len() / 2);
    let malformed = [
        half.to_owned(),
        rest.to_owned(),
        format!("{good}="),
        format!("{good}x"),
        good.replace('.', "%2E"),
        good.replacen('.', "", 1),
        format!("{half}/{rest}"),
        format!("x{good}"),
        format!("{good}{good}"),
        good.rsplit_once('.').unwrap().0.to_owned(),
        good.rsplit_once('.').unwrap().1.to_owned(),
        good[good.len() - 60..].to_owned(),
    ];
    let mut requests = Vec::new();
    let mut add = |target: String, fields: &str| {
        requests
            .push(format!("GET {target} HTTP/1.1\r\nHost: cdn.example\r\n{fields}Connection: close\r\n\r\n"));
    };
    for token in tokens.iter().chain(&malformed) {
        add(format!("/{token}{SEGMENT}"), "");
        add(format!("/{token}/elsewhere"), "");
        add(format!("/{token}/../{SEGMENT}"), "");
        add(format!("/{token}"), "");
        add(format!("{SEGMENT}?tok={token}"), "");
        add(format!("{SEGMENT}/{token}"), "");
        add(format!("/open/down?tok={token}"), "");
        add(format!("http://cdn.example/{token}{SEGMENT}"), "");
        add(SEGMENT.into(), &format!("Authorization: Bearer {token}\r\n"));
        add(SEGMENT.into(), &format!("Cookie: a=b; tok={token}\r\n"));
        add(SEGMENT.into(), &format!("Referer: http://cdn.example/{token}{SEGMENT}\r\n"));
        // Not HTTP any more.
        add(
            format!("/{token}{SEGMENT}"),
            &format!("Content-Length: 1\r\nContent-Length: 2\r\nX: {token}\r\n"),
        );
        add(format!("/{token}{SEGMENT}#fragment"), "");
        add(format!("/{token} {token}"), "");
    }
    for path in ["/plain/uri", "/strong/uri", "/classes/uri"] {
        for parameters in [
            secure_token(path, now + 60),
            secure_token(path, now - 60),
            strong_token(path, now + 60),
            secure_token("/else", now + 60),
            secure_token(path, now + 60) + "x",
            secure_token(path, now + 60).replace("st=", "ST="),
            secure_token(path, now + 60).replace("st=", "st%3D"),
        ] {
            let hash = parameters.split('&').next().unwrap();
            secrets.add(&hash[3..]);
            add(format!("{path}?{parameters}"), "");
            add(format!("{path}?a=b&{parameters}#fragment"), "");
        }
    }
    requests
}

fn nothing_is_told(format: &str) {
    let origin = Origin::answering(|seen, to| {
        let close = seen.target().starts_with("/open/down");
        to.write_all(if close { b"nonsense\r\n\r\n" } else { b"HTTP/1.1 204 No Content\r\n\r\n" })?;
        Ok(if close { Then::Close } else { Then::Keep })
    });
    let mut config = Config::new(&origin.url());
    config.live = "token = [\"path\", \"query:tok\", \"header:Authorization\", \"cookie:tok\"]\n\
                   monitor_mode = \"allow\"\n"
        .into();
    config.more = format!("[log]\nlevel = \"trace\"\nformat = \"{format}\"\n");
    let gate: Edgegate = Home::new().run_with(&config.text(), &[("EDGEGATE_LOG", "trace")]);
    let mut secrets = Secrets::default();
    for key in [KEY, OLD_KEY] {
        secrets.add(&URL_SAFE_NO_PAD.encode(key));
        secrets.add(std::str::from_utf8(key).unwrap());
    }
    let mut statuses = BTreeSet::new();
    for (index, request) in requests(&mut secrets).into_iter().enumerate() {
        if index % 40 == 0 {
            // Only so many refusals are logged in a second, and every one has to be.
            let second = now();
            wait_for("the next second", || (now() > second).then_some(()));
        }
        let mut conn = Conn::open(gate.gateway());
        statuses.extend(conn.send(request.as_bytes()).try_reply(false).map(|reply| reply.status));
        let target = request.split(' ').nth(1).unwrap();
        let question = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Original-URI: {target}\r\nX-Real-IP: 127.0.0.1\r\nConnection: close\r\n\r\n"
        );
        let _status = Conn::open(gate.auth()).send(question).try_reply(false);
    }
    for status in [204, 302, 400, 403, 410, 502] {
        assert!(statuses.contains(&status), "no request led to {status}: {statuses:?}");
    }
    let metrics = String::from_utf8(gate.metrics_page("/metrics").body).unwrap();
    gate.signal(rustix::process::Signal::TERM);
    let (_, log) = gate.wait();
    assert!(log.contains("refused") && log.contains("monitor"), "the log is not at its level: {log}");
    assert!(log.lines().count() > 300, "{log}");
    let logged = log.matches("suppressed").count();
    let all = log.matches("suppressed=0").count() + log.matches("\"suppressed\":0").count();
    assert_eq!(logged, all, "not everything was logged");
    secrets.assert_absent("the log", &log);
    assert!(!log.contains(CLASSES_SECRET) && !metrics.contains(CLASSES_SECRET));
    secrets.assert_absent("the metrics", &metrics);
    // Metrics would grow with every client otherwise.
    for chosen in ["session1", "Channel7", "127.0.0.1", "/Content"] {
        assert!(!metrics.contains(chosen), "{chosen}: {metrics}");
    }
}

#[test]
fn text_log_and_metrics() {
    nothing_is_told("text");
}

#[test]
fn json_log_and_metrics() {
    nothing_is_told("json");
}

/// Problems of a key are told without the key.
#[test]
fn problems_of_keys() {
    let home = Home::new();
    let good = Config::new("http://127.0.0.1:1").text();
    let key = URL_SAFE_NO_PAD.encode(KEY);
    for bad in
        [key[..40].to_owned(), format!("{key}!!"), format!("{key}{key}"), format!(" {key}"), "A".repeat(20)]
    {
        let text = good.replace(&key, &bad);
        assert_ne!(text, good);
        home.write("edgegate.toml", text);
        for command in [&["config", "check", "edgegate.toml"][..], &["run", "--config", "edgegate.toml"]] {
            let output = home.output(command);
            assert_eq!(output.status.code(), Some(2), "{bad}");
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(said.contains("orange-key-1"), "{said}");
            assert!(!said.contains(&bad[..STRETCH]), "{said}");
        }
    }
    // Even where the file is no TOML at that place.
    home.write("edgegate.toml", good.replace(&format!("\"{key}\""), &format!("\"{key}")));
    let output = home.output(&["config", "check", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains(&key[..STRETCH]), "{said}");
}
