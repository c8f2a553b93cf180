//! How many instructions decisions take, counted by callgrind and held against `benches/instructions.toml`: the gate that
//! tells a change that makes them slower, whatever else the machine is doing.
//!
//! `cargo bench -p benches --bench instructions`, with Debian's `valgrind`. A count that is off by more than three in a hundred,
//! in either direction, fails. `EDGEGATE_BLESS=1` writes the counts as they are. They hold for one compiler and processor family,
//! with the SHA-256 that does without special instructions, since valgrind knows none.
#![expect(clippy::expect_used, reason = "a bench whose input is wrong must not run")]

use benches::{NOW, PATH, policy, request, secure_policy, secure_target, target, token};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use tests::require::capability;
use validator_core::{Algorithm, NoGeo, Policy, Reason, Scratch, decide};

/// Said to the program itself when it is to be counted.
const COUNTED: &str = "--counted";

/// Decisions of each kind. The first ones make room and keep headers; they are not counted.
const DECISIONS: u64 = 100;

/// Parts of a count that it may be off by.
const TOLERANCE: f64 = 0.03;

/// A kind of decision.
struct Case {
    name: &'static str,
    policy: Policy,
    target: String,
    reason: Option<Reason>,
}

/// No hash is computed for those without a good key, so that a change of anything else shows in them.
fn cases() -> Vec<Case> {
    let (usual, good, token) = (policy(), target(), token());
    let case = |name, target: String, reason| Case { name, policy: usual.clone(), target, reason };
    // {"alg":"HS256","kid":"other"}
    let rest = token.split_once('.').expect("three segments").1;
    let unknown = format!("/eyJhbGciOiJIUzI1NiIsImtpZCI6Im90aGVyIn0.{rest}{PATH}");
    vec![
        case("allow", good.clone(), None),
        case("no-token", PATH.to_owned(), Some(Reason::TokenMissing)),
        case("foreign-byte", good.replacen('.', "!", 1), Some(Reason::TokenMalformed)),
        case("unknown-key", unknown, Some(Reason::KeyUnknown)),
        case("other-path", good.replace("/DASH/", "/HLS/"), Some(Reason::PathMismatch)),
        Case {
            name: "secure-token",
            policy: secure_policy(Algorithm::HmacSha256),
            target: secure_target(Algorithm::HmacSha256),
            reason: None,
        },
    ]
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == COUNTED) {
        cases().iter().for_each(run);
        return ExitCode::SUCCESS;
    }
    if cfg!(debug_assertions) {
        println!(
            "instructions: not counted without optimisation; cargo bench -p benches --bench instructions"
        );
        cases().iter().for_each(run);
        return ExitCode::SUCCESS;
    }
    let Some(valgrind) = capability("valgrind") else { return ExitCode::SUCCESS };
    let counts = counted(&valgrind);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
    if std::env::var_os("EDGEGATE_BLESS").is_some() {
        fs::write(&file, written(&counts)).expect("counts that can be written");
        println!("wrote {}", file.display());
        return ExitCode::SUCCESS;
    }
    let stored = read(&fs::read_to_string(&file).expect("the stored counts"));
    let mut off = stored.len() != counts.len();
    println!("{:<16} {:>12} {:>12}", "decision", "instructions", "stored");
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

fn run(case: &Case) {
    let mut scratch = Scratch::new();
    scratch.reserve(&case.policy);
    for _ in 0..3 {
        assert_eq!(verdict(case, &mut scratch), case.reason, "{}", case.name);
    }
    for _ in 0..DECISIONS {
        counted_decision(case, &mut scratch);
    }
    end_of_case();
}

/// What callgrind counts.
#[inline(never)]
fn counted_decision(case: &Case, scratch: &mut Scratch) {
    black_box(verdict(black_box(case), scratch));
}

/// Where callgrind writes down what it has counted.
#[inline(never)]
fn end_of_case() {
    black_box(());
}

fn verdict(case: &Case, scratch: &mut Scratch) -> Option<Reason> {
    decide(&case.policy, &request(&case.target), &NoGeo, NOW, scratch, &mut ()).verdict.reason()
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
    let cases = cases();
    let total = |number: usize| {
        let dump = PathBuf::from(format!("{}.{}", out.display(), number + 1));
        let text = fs::read_to_string(dump).expect("a dump for each kind of decision");
        let line =
            text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
        line.and_then(|total| total.trim().parse::<u64>().ok()).expect("a dump with a total")
    };
    cases.iter().enumerate().map(|(number, case)| (case.name.to_owned(), total(number) / DECISIONS)).collect()
}

fn written(counts: &BTreeMap<String, u64>) -> String {
    let mut text = String::from(
        "# Instructions of a decision, as `cargo bench -p benches --bench instructions` counts them.\n",
    );
    for (name, count) in counts {
        writeln!(text, "{name} = {count}").expect("memory");
    }
    text
}

fn read(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, count) = line.split_once(" = ")?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    lines.map(|line| pair(line).expect("a name and a count")).collect()
}
