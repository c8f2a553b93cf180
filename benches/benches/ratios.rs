//! What a decision costs, beside the bare HMAC over the same bytes and beside the libraries that one would otherwise use.
//!
//! `cargo bench -p benches --bench ratios`. All take turns in each round, so that each ratio compares neighbours in time.
//! With `--test` everything runs once, and only outcomes count.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must not run")]

use benches::report::{Promise, Report};
use benches::{
    KEY, NOW, Others, PATH, policy, request, secure_policy, secure_target, target, token, token_by, token_for,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;
use validator_core::{Algorithm, Key, KeyRing, NoGeo, Policy, Reason, Scratch, Slot, decide};

/// How much is measured.
struct Scale {
    rounds: usize,
    /// Decisions between two looks at the clock.
    calls: u32,
}

/// Keys in use at a time: more than a scratch keeps headers of.
const KEYS: usize = 8;

/// Different tokens in turn: far more than a processor remembers the ways through.
const TOKENS: u64 = 1_000;

/// Everything that takes turns. The first one is the baseline.
struct Subject<'a> {
    name: &'a str,
    run: Box<dyn FnMut() + 'a>,
    times: Vec<f64>,
}

fn main() -> ExitCode {
    let full = !std::env::args().any(|argument| argument == "--test");
    let scale = if full { Scale { rounds: 41, calls: 2_000 } } else { Scale { rounds: 1, calls: 10 } };

    let good = target();
    let token = token();
    let signed = token.rfind('.').map(|dot| token.as_bytes()[..dot].to_vec()).expect("three segments");
    let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&KEY).expect("any size");
    let key = Key::new(&KEY, false).expect("a key of 32 bytes");
    let others = Others::new();
    let content = policy();
    let many = of_many_keys();
    let targets: Vec<String> = (0..KEYS).map(|n| format!("/{}{PATH}", token_by(&kid(n)))).collect();
    let [md5, strong] = [Algorithm::Md5, Algorithm::HmacSha256].map(secure_policy);
    let [md5_target, strong_target] = [Algorithm::Md5, Algorithm::HmacSha256].map(secure_target);
    let mut forged = good.clone().into_bytes();
    forged[token.len() - 5] ^= 1;
    let forged = String::from_utf8(forged).expect("ASCII");
    let foreign = good.replacen('.', "!", 1);
    let half = format!("/{}{PATH}", &token[..token.len() / 2]);
    let different: Vec<String> = (0..TOKENS)
        .map(|n| format!("/{}{PATH}", token_for(NOW - 1 - 7 * n % 997, NOW + 1 + 31 * n, "192.0.2.1", &KEY)))
        .collect();

    let (mut turn, mut next) = (0, 0);
    let mut scratch = Scratch::new();
    scratch.reserve(&content);
    let mut many_scratch = Scratch::new();
    many_scratch.reserve(&many);
    let mut subjects = vec![
        subject("bare HMAC-SHA256", || {
            black_box(mac.clone().chain_update(black_box(&signed)).finalize().into_bytes());
        }),
        subject("HMAC-SHA256 by the validator's own code", || {
            black_box(key.sign(&[black_box(&signed)]));
        }),
        subject(SOFTWARE, || {
            black_box(hmac_sha256::HMAC::mac(black_box(&signed), KEY));
        }),
        subject("jsonwebtoken and regex", || assert!(black_box(others.accept(&token)))),
        decision("decision: allow", &content, &good, None),
        subject("decision: allow, another token each time", || {
            next = (next + 1) % different.len();
            assert_eq!(verdict(&content, &different[next], &mut scratch), None);
        }),
        subject("decision: allow, header not kept", || {
            turn = (turn + 1) % KEYS;
            assert_eq!(verdict(&many, &targets[turn], &mut many_scratch), None);
        }),
        decision("decision: no token", &content, PATH, Some(Reason::TokenMissing)),
        decision("decision: foreign byte in the token", &content, &foreign, Some(Reason::TokenMalformed)),
        decision("decision: half a token", &content, &half, Some(Reason::TokenMalformed)),
        decision("decision: changed signature", &content, &forged, Some(Reason::SignatureInvalid)),
        decision("decision: Secure Token, md5", &md5, &md5_target, None),
        decision("decision: Secure Token, hmac-sha256", &strong, &strong_target, None),
    ];
    for _ in 0..scale.rounds {
        for subject in &mut subjects {
            let started = Instant::now();
            for _ in 0..scale.calls {
                (subject.run)();
            }
            subject.times.push(started.elapsed().as_secs_f64() * 1e9 / f64::from(scale.calls));
        }
    }

    let mut report = Report::default();
    let times = |name: &str| {
        subjects
            .iter()
            .find(|subject| subject.name == name)
            .map(|subject| &subject.times[..])
            .expect("a subject")
    };
    let bare = ("ns bare HMAC-SHA256", times("bare HMAC-SHA256"));
    for subject in subjects.iter().skip(1) {
        let promise = match subject.name {
            "decision: allow" => Promise::RatioAtMost(1.6),
            "decision: no token" | "decision: foreign byte in the token" | "decision: half a token" => {
                Promise::RatioAtMost(0.4)
            }
            // The hash itself takes a third or less.
            SOFTWARE if has_sha_instructions() => Promise::RatioAtLeast(2.0),
            _ => Promise::None,
        };
        report.pair(subject.name, "ns", &subject.times, bare, promise);
    }
    report.pair(
        "jsonwebtoken and regex",
        "ns",
        times("jsonwebtoken and regex"),
        ("ns decision: allow", times("decision: allow")),
        Promise::RatioAtLeast(6.0),
    );
    print!("{}", report.table(full));
    if full && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// A hash that does not know of special instructions. Where a processor has them, ours must be far faster, or they are not in
/// use.
const SOFTWARE: &str = "HMAC-SHA256 in software";

#[cfg(target_arch = "x86_64")]
fn has_sha_instructions() -> bool {
    std::arch::is_x86_feature_detected!("sha")
}

#[cfg(target_arch = "aarch64")]
fn has_sha_instructions() -> bool {
    std::arch::is_aarch64_feature_detected!("sha2")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_sha_instructions() -> bool {
    false
}

fn subject<'a>(name: &'a str, run: impl FnMut() + 'a) -> Subject<'a> {
    Subject { name, run: Box::new(run), times: Vec::new() }
}

fn decision<'a>(name: &'a str, policy: &'a Policy, target: &'a str, reason: Option<Reason>) -> Subject<'a> {
    let mut scratch = Scratch::new();
    scratch.reserve(policy);
    subject(name, move || assert_eq!(verdict(policy, black_box(target), &mut scratch), reason))
}

fn verdict(policy: &Policy, target: &str, scratch: &mut Scratch) -> Option<Reason> {
    decide(policy, &request(target), &NoGeo, NOW, scratch, &mut ()).verdict.reason()
}

fn kid(number: usize) -> String {
    format!("orange-key-{number}")
}

/// The usual policy with more keys than a scratch keeps headers of.
fn of_many_keys() -> Policy {
    let mut keys = KeyRing::default();
    for number in 0..KEYS {
        let key = Key::new(&KEY, false).expect("a key of 32 bytes");
        keys.insert(&kid(number), vec![Slot { slot: 0, until: None, key }]).expect("one slot");
    }
    Policy { keys: keys.into(), ..policy() }
}
