//! How many instructions decisions take, counted by callgrind and held against `benches/instructions.toml`: the gate that
//! tells a change that makes them slower, whatever else the machine is doing.
//!
//! `cargo bench -p benches --bench instructions`, with Debian's `valgrind`. A count that is off by more than three in a hundred,
//! in either direction, fails. `EDGEGATE_BLESS=1` writes the counts as they are. They hold for one compiler and processor family,
//! with the SHA-256 that does without special instructions, since valgrind knows none.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must not run")]

use benches::{KEY, NOW, PATH, policy, request, secure_policy, secure_target, target, token};
use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use tests::require::capability;
use validator_core::{Algorithm, Key, NoGeo, Policy, Reason, Scratch, decide};

/// Said to the program itself when it is to be counted.
const COUNTED: &str = "--counted";

/// Decisions of each kind. The first ones make room and keep headers; they are not counted.
const DECISIONS: u64 = 100;

/// Parts of a count that it may be off by.
const TOLERANCE: f64 = 0.03;

/// Bytes that are hashed together.
const BLOCK: usize = 64;

/// What is counted, by its name.
type Case = (&'static str, Box<dyn FnMut()>);

/// No hash is computed for those without a good key, so that a change of anything else shows in them.
fn cases() -> Vec<Case> {
    let (good, token) = (target(), token());
    let (signed, _) = token.rsplit_once('.').expect("three segments");
    let (_, rest) = token.split_once('.').expect("three segments");
    // {"alg":"HS256","kid":"other"}
    let unknown = format!("/eyJhbGciOiJIUzI1NiIsImtpZCI6Im90aGVyIn0.{rest}{PATH}");
    let usual = |name, target, reason| (name, decision(policy(), target, reason));
    vec![
        usual("allow", good.clone(), None),
        // Its first block is the header, which is the same in each, so it is hashed once.
        ("hash-of-allow", hash(signed[BLOCK..].to_owned())),
        usual("no-token", PATH.to_owned(), Some(Reason::TokenMissing)),
        usual("foreign-byte", good.replacen('.', "!", 1), Some(Reason::TokenMalformed)),
        usual("unknown-key", unknown, Some(Reason::KeyUnknown)),
        usual("other-path", good.replace("/DASH/", "/HLS/"), Some(Reason::PathMismatch)),
        (
            "secure-token",
            decision(secure_policy(Algorithm::HmacSha256), secure_target(Algorithm::HmacSha256), None),
        ),
    ]
}

/// A decision, and what is to come of it.
fn decision(policy: Policy, target: String, reason: Option<Reason>) -> Box<dyn FnMut()> {
    let mut scratch = Scratch::new();
    scratch.reserve(&policy);
    Box::new(move || {
        let request = request(black_box(&target));
        let decision = decide(&policy, &request, &NoGeo, NOW, &mut scratch, &mut ());
        assert_eq!(decision.verdict.reason(), reason, "{target}");
    })
}

/// The MAC that a decision makes.
fn hash(signed: String) -> Box<dyn FnMut()> {
    let key = Key::new(&KEY, false).expect("a key of 32 bytes");
    Box::new(move || {
        black_box(key.sign(&[black_box(signed.as_bytes())]));
    })
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == COUNTED) {
        cases().into_iter().for_each(run);
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) {
        println!(
            "instructions: not counted without optimisation; cargo bench -p benches --bench instructions"
        );
        cases().into_iter().for_each(run);
        return ExitCode::SUCCESS;
    }
    let Some(valgrind) = capability("valgrind") else { return ExitCode::SUCCESS };
    let counts = counted(&valgrind);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
    if std::env::var_os("EDGEGATE_BLESS").is_some() {
        let text = toml::to_string(&counts).expect("names and numbers");
        fs::write(
            &file,
            format!("# Instructions, as `cargo bench -p benches --bench instructions` counts them.\n{text}"),
        )
        .expect("counts that can be written");
        println!("wrote {}", file.display());
        return ExitCode::SUCCESS;
    }
    let stored = fs::read_to_string(&file).expect("the stored counts");
    let stored: BTreeMap<String, u64> = toml::from_str(&stored).expect("names and counts");
    let mut off = stored.len() != counts.len();
    println!("{:<16} {:>12} {:>12}", "what", "instructions", "stored");
    for (name, count) in &counts {
        let expected = stored.get(name).copied().unwrap_or_default();
        let ratio = *count as f64 / expected as f64;
        let is_off = (ratio - 1.0).abs() > TOLERANCE;
        off |= is_off;
        let told = if is_off { "  OFF by more than 3 %" } else { "" };
        println!("{name:<16} {count:>12} {expected:>12} {ratio:>7.3}{told}");
    }
    if off {
        println!("where that is right: EDGEGATE_BLESS=1 cargo bench -p benches --bench instructions");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run((_, case): Case) {
    let mut case = case;
    (0..3).for_each(|_| case());
    (0..DECISIONS).for_each(|_| counted_decision(&mut *case));
    end_of_case();
}

/// What callgrind counts.
#[inline(never)]
fn counted_decision(case: &mut dyn FnMut()) {
    case();
}

/// Where callgrind writes down what it has counted.
#[inline(never)]
fn end_of_case() {
    black_box(());
}

/// Instructions of a decision of each kind.
fn counted(valgrind: &Path) -> BTreeMap<String, u64> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("out");
    let status = Command::new(valgrind)
        .args(["--tool=callgrind", "--toggle-collect=*counted_decision*", "--dump-after=*end_of_case*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("the path of the bench"))
        .arg(COUNTED)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("valgrind was there");
    assert!(status.success(), "the decisions are not what they should be");
    let total = |number: usize| {
        let dump = PathBuf::from(format!("{}.{}", out.display(), number + 1));
        let text = fs::read_to_string(dump).expect("a dump for each kind of decision");
        let line =
            text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        line.and_then(|total| total.trim().parse::<u64>().ok()).expect("a dump with a total")
    };
    cases()
        .iter()
        .enumerate()
        .map(|(number, (name, _))| ((*name).to_owned(), total(number) / DECISIONS))
        .collect()
}
