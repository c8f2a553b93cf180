//! One decision of the validator in every kind: allowed, each reason to refuse, both schemes, sizes of tokens, numbers of rules
//! and of patterns. Every bench asserts its result before it is timed. `--bench ratios` holds the main ones against their
//! promises.
#![expect(clippy::expect_used, reason = "a bench; criterion generates its main")]

use benches::{
    KEY, NOW, Others, PATH, PATTERN, policy, policy_of, request, route, secure_policy, secure_target, target,
    token, token_of, token_with,
};
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use validator_core::net::NetSet;
use validator_core::{
    Algorithm, Check, Countries, Day, NoGeo, Policy, Prefilter, Reason, Route, Scratch, Service, decide,
};

fn baselines(c: &mut Criterion) {
    let mut group = c.benchmark_group("baseline");
    let token = token();
    let signed = &token.as_bytes()[..token.rfind('.').expect("three segments")];
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&KEY).expect("any size");
    group.bench_function("bare HMAC-SHA256", |b| {
        b.iter(|| mac.clone().chain_update(black_box(signed)).finalize().into_bytes());
    });
    let others = Others::new();
    assert!(others.accept(&token), "the other libraries accept the token");
    group.bench_function("jsonwebtoken and regex", |b| b.iter(|| others.accept(black_box(&token))));
}

fn allowed(c: &mut Criterion) {
    let mut group = c.benchmark_group("allow");
    bench(&mut group, "usual token", &policy(), &target(), None);
    let policy = policy();
    group.bench_function("scratch made anew", |b| {
        let fresh = || {
            let mut scratch = Scratch::new();
            scratch.reserve(&policy);
            scratch
        };
        let target = target();
        b.iter_batched_ref(fresh, |scratch| verdict(&policy, &target, scratch), BatchSize::SmallInput);
    });
    for (name, algorithm) in [("md5", Algorithm::Md5), ("hmac-sha256", Algorithm::HmacSha256)] {
        let (policy, target) = (secure_policy(algorithm), secure_target(algorithm));
        bench(&mut group, &format!("Secure Token, {name}"), &policy, &target, None);
    }
}

/// Each reason that a request can be refused for.
fn refused(c: &mut Criterion) {
    let mut group = c.benchmark_group("deny");
    let usual = policy();
    let (good, token) = (target(), token());
    let with = |claims: &str| format!("/{}{PATH}", token_with(claims));
    let claims = |iat: u64, exp: u64, rest: &str| {
        with(&format!(r#"{{"iat":{iat},"exp":{exp},"cid":"NationalGeographic","stt":"DASH"{rest}}}"#))
    };
    let mut forged = good.clone().into_bytes();
    forged[token.len() - 5] ^= 1;
    let forged = String::from_utf8(forged).expect("ASCII");
    // The header of an unsigned token, and of one by another key.
    let header =
        |letters: &str| format!("/{letters}.{}{PATH}", token.split_once('.').expect("three segments").1);
    let client = NetSet::new(["192.0.2.0/24".parse().expect("a network")]);
    let listed =
        Policy { prefilter: Arc::new(Prefilter { deny: client, ..Prefilter::default() }), ..usual.clone() };
    let mut blacklist = usual.clone();
    blacklist.sessions.add(Day::of(NOW), "s1");
    // Without a database every country is unknown, and an unknown one is not on the list.
    let service = Service {
        addresses: NetSet::new(["0.0.0.0/0".parse().expect("a network")]),
        ports: Vec::new(),
        countries: Countries::Only(Vec::new()),
        windows: Vec::new(),
    };
    let countries = Policy {
        prefilter: Arc::new(Prefilter { services: vec![service], ..Prefilter::default() }),
        ..usual.clone()
    };
    let closed = policy_of(vec![Route { check: Check::Deny, ..route("closed", "/Content/", &[]) }]);
    let mut benched = BTreeSet::new();

    for (name, policy, target, reason) in [
        ("address", &listed, good.clone(), Reason::IpDenied),
        ("country", &countries, good.clone(), Reason::CountryDenied),
        ("rule", &closed, good.clone(), Reason::RuleDenied),
        ("ambiguous target", &usual, format!("/{token}/Content/../x"), Reason::UriAmbiguous),
        ("no route", &usual, format!("/{token}/other"), Reason::NoRoute),
        ("no token", &usual, PATH.to_owned(), Reason::TokenMissing),
        ("foreign byte", &usual, good.replacen('.', "!", 1), Reason::TokenMalformed),
        ("half a token", &usual, format!("/{}{PATH}", &token[..token.len() / 2]), Reason::TokenMalformed),
        // {"alg":"none"} and {"alg":"HS256","kid":"other"}
        ("algorithm", &usual, header("eyJhbGciOiJub25lIn0"), Reason::AlgorithmNotAllowed),
        ("unknown key", &usual, header("eyJhbGciOiJIUzI1NiIsImtpZCI6Im90aGVyIn0"), Reason::KeyUnknown),
        ("changed signature", &usual, forged, Reason::SignatureInvalid),
        ("claim missing", &usual, with(r#"{"iat":1713789349,"exp":1713794749}"#), Reason::ClaimMissing),
        ("claim invalid", &usual, claims(NOW, NOW + 60, r#","cip":7"#), Reason::ClaimInvalid),
        ("not yet valid", &usual, claims(NOW + 60, NOW + 120, ""), Reason::NotYetValid),
        ("expired", &usual, claims(NOW - 120, NOW - 60, ""), Reason::Expired),
        ("lifetime", &usual, claims(NOW, NOW + 86_401, ""), Reason::LifetimeExceeded),
        ("blacklisted", &blacklist, claims(NOW, NOW + 60, r#","sid":"s1""#), Reason::SessionBlacklisted),
        ("other path", &usual, good.replace("/DASH/", "/HLS/"), Reason::PathMismatch),
        ("other address", &usual, claims(NOW, NOW + 60, r#","cip":"192.0.2.2""#), Reason::IpMismatch),
        ("unknown country", &usual, claims(NOW, NOW + 60, r#","geo":["FR"]"#), Reason::GeoBlocked),
        ("unknown city", &usual, claims(NOW, NOW + 60, r#","local":"Paris""#), Reason::LocalityMismatch),
        ("unknown network", &usual, claims(NOW, NOW + 60, r#","asn":3215"#), Reason::AsnMismatch),
    ] {
        bench(&mut group, name, policy, &target, Some(reason));
        benched.insert(reason.name());
    }
    assert_eq!(
        benched,
        Reason::ALL.iter().map(|reason| reason.name()).collect(),
        "each reason has its bench"
    );
}

fn sizes(c: &mut Criterion) {
    let mut group = c.benchmark_group("token size");
    for size in [305, 512, 1024, 2048, 4096] {
        let token = token_of(size);
        group.throughput(Throughput::Bytes(token.len() as u64));
        let target = format!("/{token}{PATH}");
        bench_with(&mut group, BenchmarkId::from_parameter(token.len()), &policy(), &target, None);
    }
}

/// The route that decides is the last one, and so is the pattern that fits.
fn rules(c: &mut Criterion) {
    let mut group = c.benchmark_group("rules");
    for count in [1, 10, 50] {
        let mut routes: Vec<_> =
            (1..count).map(|n| route("other", &format!("/Content/Other/{n}/"), &[PATTERN])).collect();
        routes.push(route("live", "/Content/Channel/", &[PATTERN]));
        bench_with(&mut group, BenchmarkId::from_parameter(count), &policy_of(routes), &target(), None);
    }
    group.finish();
    let mut group = c.benchmark_group("patterns");
    for count in [1, 5, 20] {
        let texts: Vec<String> = (1..count).map(|n| format!("/Content/Other{n}/(?<cid>[^/]+)/.*")).collect();
        let patterns: Vec<&str> = texts.iter().map(String::as_str).chain([PATTERN]).collect();
        let policy = policy_of(vec![route("live", "/Content/", &patterns)]);
        bench_with(&mut group, BenchmarkId::from_parameter(count), &policy, &target(), None);
    }
}

fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    policy: &Policy,
    target: &str,
    reason: Option<Reason>,
) {
    bench_with(group, BenchmarkId::from_parameter(name), policy, target, reason);
}

fn bench_with(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    policy: &Policy,
    target: &str,
    reason: Option<Reason>,
) {
    let mut scratch = Scratch::new();
    scratch.reserve(policy);
    assert_eq!(verdict(policy, target, &mut scratch), reason, "{target}");
    group.bench_function(id, |b| b.iter(|| verdict(policy, black_box(target), &mut scratch)));
}

fn verdict(policy: &Policy, target: &str, scratch: &mut Scratch) -> Option<Reason> {
    decide(policy, &request(target), &NoGeo, NOW, scratch, &mut ()).verdict.reason()
}

criterion_group!(benches, baselines, allowed, refused, sizes, rules);
criterion_main!(benches);
