//! Inputs that the benches share: one policy, one key, and requests of known size.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must not run")]

pub mod chart;
pub mod networks;
pub mod open_loop;
pub mod report;

use validator_core::pattern::{Limits, PathPattern};
use validator_core::{
    Bindings, Check, Condition, ContentJwt, Fallback, Key, KeyRing, OnDeny, Operand, Policy, Prefilter,
    Request, Route, Sessions, Slot, Statuses, TokenPlace, When, sign,
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
    let mut keys = KeyRing::default();
    let key = Key::new(&KEY, false).expect("a key of 32 bytes");
    keys.insert("orange-key-1", vec![Slot { slot: 0, until: None, key }]).expect("one slot");
    let condition =
        Condition::new("uri", "starts_with", Operand::Text("/Content/")).expect("a valid condition");
    Policy {
        fallback: Fallback::Deny,
        leeway: 0,
        keys: keys.into(),
        sessions: Sessions::new(31),
        prefilter: Prefilter::default().into(),
        routes: vec![Route {
            name: "live".into(),
            when: When::new(vec![vec![condition]]),
            check: Check::ContentJwt(ContentJwt {
                places: vec![TokenPlace::Path],
                patterns: vec![PathPattern::new(PATTERN, &Limits::default()).expect("a valid pattern")],
                monitored: Bindings::default(),
                max_lifetime: Some(86_400),
                unknown_place_passes: false,
            }),
            on_deny: OnDeny::Status,
            statuses: Statuses::default(),
        }]
        .into(),
    }
}

/// A token of [`TOKEN_SIZE`] bytes with every claim that needs no database.
#[must_use]
pub fn token() -> String {
    token_for(1_713_789_349, 1_713_794_749, "192.0.2.1", &KEY)
}

/// The same for other times, another client and another key.
#[must_use]
pub fn token_for(iat: u64, exp: u64, cip: &str, key: &[u8; 32]) -> String {
    let claims = |sid: &str| {
        format!(
            r#"{{"iat":{iat},"exp":{exp},"cid":"NationalGeographic","stt":"DASH","cip":"{cip}","geo":[],"sid":"{sid}"}}"#
        )
    };
    let key = Key::new(key, false).expect("a key of 32 bytes");
    let make = |sid: &str| sign::content_jwt("orange-key-1", &claims(sid), &key);
    // base64url grows by four for every three bytes, so lengths jump; the session takes up the slack.
    (8..64)
        .map(|len| make(&"s".repeat(len)))
        .find(|token| token.len() >= TOKEN_SIZE)
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
