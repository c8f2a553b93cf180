//! A verdict does not depend on how it is come by: with or without a listener, which has every route and every part of the
//! target looked at, and with or without headers kept from earlier tokens.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use core::fmt;
use proptest::prelude::*;
use proptest::sample::Index;
use std::sync::LazyLock;
use validator_core::pattern::{Limits, PathPattern};
use validator_core::{
    Algorithm, Bindings, Check, Condition, ContentJwt, Day, Fallback, Key, KeyRing, NoGeo, OnDeny, Operand,
    Policy, Prefilter, Request, Route, Scratch, Secret, SecureToken, Sessions, Slot, Statuses, TokenPlace,
    Trace, When, decide, secure_token_parameters, sign,
};

const NOW: u64 = 1_000_000_150;

struct Listener;

impl Trace for Listener {
    const ENABLED: bool = true;

    fn note(&mut self, _: &'static str, _: fmt::Arguments<'_>) {}
}

fn key(byte: u8) -> Key {
    Key::new(&[byte; 32], false).unwrap()
}

fn secret() -> Secret {
    Secret::new(Algorithm::HmacSha256, b"a secret").unwrap()
}

fn route(name: &str, conditions: &[(&str, &str, &str)], check: Check) -> Route {
    let condition = |(variable, operator, value): &(&str, &str, &str)| {
        vec![Condition::new(variable, operator, Operand::Text(value)).unwrap()]
    };
    Route {
        name: name.into(),
        when: When::new(conditions.iter().map(condition).collect()),
        check,
        on_deny: OnDeny::Status,
        statuses: Statuses::default(),
    }
}

/// One that refuses what no route matches, and one that lets it pass.
static POLICIES: LazyLock<[Policy; 2]> = LazyLock::new(|| [Fallback::Deny, Fallback::Allow].map(policy));

fn policy(fallback: Fallback) -> Policy {
    let mut keys = KeyRing::default();
    let slot = |slot, byte| Slot { slot, until: None, key: key(byte) };
    keys.insert("k1", vec![slot(0, 1), slot(1_000_000_120, 2)]).unwrap();
    keys.insert("k2", vec![slot(0, 3)]).unwrap();
    let mut sessions = Sessions::new(31);
    sessions.add(Day::of(NOW), "s1");
    let patterns =
        ["/live/(?<cid>.*?)/(?<stt>.*?)/.*[.](?:ts|m4s)", "/live/(?<cid>[^/]+)/(?<stt>[^/]+)/.*[.]m3u8"];
    let content = |places: Vec<TokenPlace>| {
        Check::ContentJwt(ContentJwt {
            places,
            patterns: patterns.map(|text| PathPattern::new(text, &Limits::default()).unwrap()).into(),
            monitored: Bindings::default(),
            max_lifetime: Some(100),
            unknown_place_passes: false,
        })
    };
    let secure = SecureToken::new(Algorithm::HmacSha256, vec![secret()]);
    Policy {
        fallback,
        leeway: 0,
        keys: keys.into(),
        sessions,
        prefilter: Prefilter {
            session_ports: validator_core::net::PortSet::new([80]),
            ..Prefilter::default()
        }
        .into(),
        routes: vec![
            route("elsewhere", &[("method", "is_equal", "PUT")], Check::Deny),
            route("open", &[("uri", "starts_with", "/live/open/")], Check::Allow),
            route(
                "live",
                &[("uri", "starts_with", "/live/")],
                content(vec![TokenPlace::Path, TokenPlace::Query("tok".into())]),
            ),
            route("classes", &[("uri", "starts_with", "/classes")], Check::SecureToken(secure)),
            route("ends", &[("uri", "ends_with", ".txt")], Check::Allow),
        ]
        .into(),
    }
}

/// Good requests, and some that are refused.
fn targets() -> Vec<String> {
    let token = |kid: &str, claims: &str, byte| sign::content_jwt(kid, claims, &key(byte));
    let good =
        token("k1", r#"{"iat":1000000130,"exp":1000000200,"cid":"c1","stt":"HLS","cip":"192.0.2.1"}"#, 2);
    let older = token("k1", r#"{"iat":1000000110,"exp":1000000200,"cid":"c1","stt":"hls"}"#, 1);
    let other = token(
        "k2",
        r#"{"iat":1000000100,"exp":1000000180,"cid":"c1","stt":"hls","sid":"s1","x":{"sid":"s2"}}"#,
        3,
    );
    let parameters = secure_token_parameters(&secret(), b"/classes/1", NOW + 60);
    vec![
        format!("/{good}/live/c1/hls/a/b.ts"),
        format!("/{good}/live/c1/hls/master.m3u8?a=1"),
        format!("/{older}/live/c1/hls/master.m3u8"),
        format!("/{other}/live/c1/hls/master.m3u8"),
        format!("/{good}/live/open/x"),
        format!("/{good}/elsewhere/x.txt"),
        format!("/live/c1/hls/master.m3u8?a=1&tok={good}"),
        format!("/{older}/classes/1?{parameters}"),
        format!("/classes/1?{parameters}"),
        format!("/{other}/nothing"),
    ]
}

/// What a change puts in: bytes that mean something somewhere.
const BYTES: &[u8] = b"./?%#\\=&-_A0{\x00\x7f\xc3 ";

/// A place in a target, what happens there (put in, put instead, leave out), and with which byte.
type Change = (Index, u8, Index);

fn changed(target: &str, changes: &[Change]) -> Vec<u8> {
    let mut target = target.as_bytes().to_vec();
    for (place, kind, byte) in changes {
        let (place, byte) = (place.index(target.len()), BYTES[byte.index(BYTES.len())]);
        match kind {
            0 => target.insert(place, byte),
            1 => target[place] = byte,
            _ => drop(target.remove(place)),
        }
        if target.is_empty() {
            target.push(b'/');
        }
    }
    target
}

fn told<T: Trace>(policy: &Policy, target: &[u8], scratch: &mut Scratch, trace: &mut T) -> String {
    let request = Request {
        method: "GET",
        target,
        scheme: "https",
        host: b"cdn.example",
        client: [192, 0, 2, 1].into(),
        destination: Some(([198, 51, 100, 1].into(), 80)),
        headers: &[],
    };
    let decision = decide(policy, &request, &NoGeo, NOW, scratch, trace);
    format!("{:?} {:?} {:?} {:?}", decision.verdict, decision.route, decision.session, decision.path)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn with_and_without_a_listener_and_kept_headers(
        which in any::<Index>(),
        changes in prop::collection::vec((any::<Index>(), 0..3_u8, any::<Index>()), 0..4),
        fallback in any::<bool>(),
    ) {
        let policy = &POLICIES[usize::from(fallback)];
        let targets = targets();
        let target = changed(&targets[which.index(targets.len())], &changes);

        let expected = told(policy, &target, &mut Scratch::new(), &mut Listener);
        prop_assert_eq!(&told(policy, &target, &mut Scratch::new(), &mut ()), &expected, "without a listener");
        let mut used = Scratch::new();
        for good in &targets {
            told(policy, good.as_bytes(), &mut used, &mut ());
        }
        prop_assert_eq!(&told(policy, &target, &mut used, &mut ()), &expected, "with headers kept");
    }
}

#[test]
fn what_is_changed_is_good_before() {
    let policy = &POLICIES[0];
    let verdicts: Vec<bool> = targets()
        .iter()
        .map(|target| told(policy, target.as_bytes(), &mut Scratch::new(), &mut ()).starts_with("Allow"))
        .collect();
    assert_eq!(verdicts, [true, true, true, false, true, true, true, true, true, false]);
}
