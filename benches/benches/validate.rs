//! One decision of the validator, beside what an operator would otherwise have: the bare HMAC over the same bytes, and
//! `jsonwebtoken` with `regex` doing the same checks. Every bench asserts its result before it is timed.
#![expect(clippy::expect_used, reason = "a bench; criterion generates its main")]

use benches::{KEY, NOW, PATH, PATTERN, policy, request, target, token};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use regex::Regex;
use serde::Deserialize;
use sha2::Sha256;
use std::hint::black_box;
use std::net::IpAddr;
use validator_core::{NoGeo, Policy, Reason, Scratch, decide};

#[derive(Deserialize)]
struct Claims {
    iat: u64,
    exp: u64,
    cid: String,
    stt: String,
    cip: Option<IpAddr>,
    sid: Option<String>,
}

fn validate(c: &mut Criterion) {
    let policy = policy();
    let mut scratch = Scratch::new();
    scratch.reserve(&policy);
    let good = target();
    let token = token();

    let mut group = c.benchmark_group("validate");
    let signed = &token.as_bytes()[..token.rfind('.').expect("three segments")];
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&KEY).expect("any size");
    group.bench_function("baseline: bare HMAC-SHA256", |b| {
        b.iter(|| mac.clone().chain_update(black_box(signed)).finalize().into_bytes());
    });

    let key = DecodingKey::from_secret(&KEY);
    let pattern = Regex::new(&format!(r"\A(?:{PATTERN})\z")).expect("a valid pattern");
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    let others = || other_libraries(&token, PATH, &key, &validation, &pattern);
    assert!(others(), "the other libraries accept the token");
    group.bench_function("baseline: jsonwebtoken and regex", |b| b.iter(others));

    assert_eq!(verdict(&policy, &good, &mut scratch), None);
    group.bench_function("allow", |b| b.iter(|| verdict(&policy, black_box(&good), &mut scratch)));

    let mut forged = good.clone().into_bytes();
    let last = token.len();
    forged[last - 5] ^= 1;
    let forged = String::from_utf8(forged).expect("ASCII");
    let malformed = good.replacen('.', "!", 1);
    let half = format!("/{}{PATH}", &token[..token.len() / 2]);
    for (name, target, reason) in [
        ("deny: no token", PATH.to_owned(), Reason::TokenMissing),
        ("deny: foreign byte", malformed, Reason::TokenMalformed),
        ("deny: half a token", half, Reason::TokenMalformed),
        ("deny: no route", format!("/{token}/other"), Reason::NoRoute),
        ("deny: changed signature", forged, Reason::SignatureInvalid),
        ("deny: other path", good.replace("/DASH/", "/HLS/"), Reason::PathMismatch),
    ] {
        assert_eq!(verdict(&policy, &target, &mut scratch), Some(reason), "{name}");
        group.bench_function(name, |b| b.iter(|| verdict(&policy, black_box(&target), &mut scratch)));
    }
    group.bench_function("allow, scratch made anew", |b| {
        let fresh = || {
            let mut scratch = Scratch::new();
            scratch.reserve(&policy);
            scratch
        };
        b.iter_batched_ref(fresh, |s| verdict(&policy, &good, s), BatchSize::SmallInput);
    });
    group.finish();
}

fn verdict(policy: &Policy, target: &str, scratch: &mut Scratch) -> Option<Reason> {
    decide(policy, &request(target), &NoGeo, NOW, scratch, &mut ()).verdict.reason()
}

/// The checks of [`policy`] as one would write them with common libraries.
fn other_libraries(
    token: &str,
    path: &str,
    key: &DecodingKey,
    validation: &Validation,
    pattern: &Regex,
) -> bool {
    let client: IpAddr = [192, 0, 2, 1].into();
    let Ok(data) = jsonwebtoken::decode::<Claims>(token, key, validation) else { return false };
    let claims = data.claims;
    let Some(groups) = pattern.captures(path) else { return false };
    data.header.kid.as_deref() == Some("orange-key-1")
        && claims.iat <= NOW
        && claims.exp > NOW
        && claims.exp - claims.iat <= 86_400
        && claims.sid.as_deref() != Some("session123")
        && claims.cip.is_none_or(|cip| cip == client)
        && groups["cid"] == claims.cid
        && groups["stt"].eq_ignore_ascii_case(&claims.stt)
}

criterion_group!(benches, validate);
criterion_main!(benches);
