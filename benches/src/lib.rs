//! Inputs that the benches share: one policy, one key, and requests of known size.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must not run")]

pub mod chart;
pub mod machine;
pub mod networks;
pub mod open_loop;
mod others;
pub mod report;

pub use others::Others;
use validator_core::pattern::{Limits, PathPattern};
use validator_core::{
    Algorithm, Bindings, Check, Condition, ContentJwt, Fallback, Key, KeyRing, OnDeny, Operand, Policy,
    Prefilter, Request, Route, Secret, SecureToken, Sessions, Slot, Statuses, TokenPlace, When,
    secure_token_parameters, sign,
};

/// The instant of every bench.
pub const NOW: u64 = 1_713_790_000;

/// The key that signs and verifies; letters, as some peers take nothing else.
pub const KEY: [u8; 32] = *b"edgegate-benches-key-of-32-bytes";

/// A path of the kind that the pattern was written for.
pub const PATH: &str = "/Content/Channel/NationalGeographic/DASH/stream_01/Segment-4186442971413506.m4v";

/// Its pattern.
pub const PATTERN: &str = r"/Content/Channel/(?<cid>.*?)/(?<stt>.*?)/.*\.(m4a|m4v|m4i|ts)";

/// Size of the token in [`target`], in bytes.
pub const TOKEN_SIZE: usize = 305;

/// A policy with one route for [`PATH`].
#[must_use]
pub fn policy() -> Policy {
    policy_of(vec![route("live", "/Content/", &[PATTERN])])
}

/// A policy with these routes, and the key of [`token`].
#[must_use]
pub fn policy_of(routes: Vec<Route>) -> Policy {
    let mut keys = KeyRing::default();
    let key = Key::new(&KEY, false).expect("a key of 32 bytes");
    keys.insert(KID, vec![Slot { slot: 0, until: None, key }]).expect("one slot");
    Policy {
        fallback: Fallback::Deny,
        leeway: 0,
        keys: keys.into(),
        sessions: Sessions::new(31),
        prefilter: Prefilter::default().into(),
        routes: routes.into(),
    }
}

/// A route for paths with this start, with a token in the path and these patterns.
#[must_use]
pub fn route(name: &str, start: &str, patterns: &[&str]) -> Route {
    let pattern = |text: &&str| PathPattern::new(text, &Limits::default()).expect("a valid pattern");
    checking(
        name,
        start,
        Check::ContentJwt(ContentJwt {
            places: vec![TokenPlace::Path],
            patterns: patterns.iter().map(pattern).collect(),
            monitored: Bindings::default(),
            max_lifetime: Some(86_400),
            unknown_place_passes: false,
        }),
    )
}

fn checking(name: &str, start: &str, check: Check) -> Route {
    let condition = Condition::new("uri", "starts_with", Operand::Text(start)).expect("a valid condition");
    Route {
        name: name.into(),
        when: When::new(vec![vec![condition]]),
        check,
        on_deny: OnDeny::Status,
        statuses: Statuses::default(),
    }
}

fn secret(algorithm: Algorithm) -> Secret {
    Secret::new(algorithm, b"mysecretkey").expect("a secret")
}

/// A policy with one route for [`PATH`] that wants a Secure Token.
#[must_use]
pub fn secure_policy(algorithm: Algorithm) -> Policy {
    let check = SecureToken::new(algorithm, vec![secret(algorithm)]);
    policy_of(vec![checking("classes", "/Content/", Check::SecureToken(check))])
}

/// [`PATH`] with its Secure Token.
#[must_use]
pub fn secure_target(algorithm: Algorithm) -> String {
    format!("{PATH}?{}", secure_token_parameters(&secret(algorithm), PATH.as_bytes(), NOW + 3_600))
}

/// A token of [`TOKEN_SIZE`] bytes with every claim that needs no database.
#[must_use]
pub fn token() -> String {
    token_by(KID)
}

/// The same by a key of another name.
#[must_use]
pub fn token_by(kid: &str) -> String {
    made(kid, TOKEN_SIZE, TIMES, CLIENT, &KEY)
}

/// The same, of at least another size.
#[must_use]
pub fn token_of(size: usize) -> String {
    made(KID, size, TIMES, CLIENT, &KEY)
}

/// The same for other times, another client and another key.
#[must_use]
pub fn token_for(iat: u64, exp: u64, cip: &str, key: &[u8; 32]) -> String {
    made(KID, TOKEN_SIZE, [iat, exp], cip, key)
}

/// A token with these claims.
#[must_use]
pub fn token_with(claims: &str) -> String {
    sign::content_jwt(KID, claims, &Key::new(&KEY, false).expect("a key of 32 bytes"))
}

const KID: &str = "orange-key-1";
const TIMES: [u64; 2] = [1_713_789_349, 1_713_794_749];
const CLIENT: &str = "192.0.2.1";

fn made(kid: &str, size: usize, [iat, exp]: [u64; 2], cip: &str, key: &[u8; 32]) -> String {
    let claims = |sid: &str| {
        format!(
            r#"{{"iat":{iat},"exp":{exp},"cid":"NationalGeographic","stt":"DASH","cip":"{cip}","geo":[],"sid":"{sid}"}}"#
        )
    };
    let key = Key::new(key, false).expect("a key of 32 bytes");
    let make = |sid: &str| sign::content_jwt(kid, &claims(sid), &key);
    // base64url grows by four for every three bytes, so lengths jump; the session takes up the slack.
    (8..size.max(64))
        .map(|len| make(&"s".repeat(len)))
        .find(|token| token.len() >= size)
        .expect("some session makes the size")
}

/// [`PATH`] behind [`token`].
#[must_use]
pub fn target() -> String {
    format!("/{}{PATH}", token())
}

/// A GET of a target.
#[must_use]
pub fn request(target: &str) -> Request<'_> {
    Request {
        method: "GET",
        target: target.as_bytes(),
        scheme: "https",
        host: b"cdn.example",
        client: [192, 0, 2, 1].into(),
        destination: None,
        headers: &[],
    }
}
