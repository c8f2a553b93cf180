//! A path pattern has the groups that the `regex` crate reports for `\A(?:PATTERN)\z`, and a search its
//! answer.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use regex::Regex;
use validator_core::pattern::{Limits, PathPattern, PatternError, PatternScratch, Search};

/// The pattern that this was made for.
const SEED: &str = r"/Content/Channel/(?<cid>.*?)/(?<stt>.*?)/.*\.(m4a|m4v|m4i|ts)";

const PATTERNS: &[&str] = &[
    SEED,
    // Lazy and greedy.
    r"/(?<a>.*)/(?<b>.*?)/(?<c>.*)",
    r"/(?<a>.+?)(?<b>/.*)?",
    r"/(?U)(?<a>.*)/(?<b>.*?)",
    // Alternatives of which one is a prefix of another.
    r"/(?<a>a|ab|abc)(?<b>.*)",
    r"(?<a>/Content|/Content/Channel)(?<b>/[^/]*)*",
    r"(?:(?<a>a)|(?<b>ab)|(?<c>/))*",
    // Unnamed groups tell alternatives apart that the parser would merge otherwise.
    r"(a*?)(?<x>b)|(a*?)(?<y>ab)",
    r"(a|ab)(c|bcd)(?<d>d*)",
    // Nested and optional groups.
    r"/(?<a>(?<b>[^/]+)/)?(?<c>[^/]*)",
    r"(?<all>/(?<dir>(?:[^/]*/)*)(?<file>[^/]*))",
    r"/(?<a>x)?(?<b>y)?(?<c>.*)",
    // Groups in repetitions.
    r"(?:/(?<seg>[^/]*))+",
    r"(?:(?<a>a)|(?<b>b)|/)*?(?<c>.*)",
    r"(?:(?<x>a)|b){2,4}.*",
    // Loops that may consume nothing.
    r"(?<a>(?:x*)*)y",
    r"(?<a>(?:x*)+?)(?<b>.*)",
    r"(?:(?<a>|x)(?<b>y|))*/?",
    r"(?<a>(?:(?<b>)|a)+)(?<c>.*)",
    r"(?:(?<a>a?)|(?<b>b?))*(?<c>/?)",
    // Classes and flags.
    r"/(?<a>\pL+)/(?<b>\w*).*",
    r"(?i)/content/(?<a>[a-m]+|ſ)(?<b>.*)",
    r"(?s)/(?<a>.)(?<b>.*)(?-s)(?<c>.)",
    r"/(?<a>[^/]+)/(?<b>[^/.]+)\.(?<c>ts|m4[av])",
    // Anchors and assertions.
    r"^/(?<a>.*)$",
    r"(?:^(?<a>/)|(?<b>/)|a|b|$)*",
    r"(?:^|/)(?<a>a*)(?:$|/)(?<b>.*)",
    r"(?m)(?:^(?<a>[^\n]*)$\n?)*",
    r"(?mR)(?:^(?<a>[^\r\n]*)$(?:\r\n|\r|\n)?)*",
    r"(?-u:\b)?(?<a>[ab]*)(?-u:\b)(?<b>.*?)(?-u:\B)(?<c>.*)",
    r".*?(?-u:\b{start})(?<w>[a-z]+)(?-u:\b{end})(?<t>.*)",
    r".*(?-u:\b{start-half})(?<w>[ab]*)(?-u:\b{end-half})(?<t>.*)",
    // No groups, literals only, nothing at all.
    r"/Content/.*\.ts",
    r"/Content/Channel",
    r"",
    r"[a&&b]",
];

/// Everything a path pattern says about a path: its groups by name, or that it does not match.
type Answer = Option<Vec<(String, Option<(usize, usize)>)>>;

struct Both {
    pattern: PathPattern,
    regex: Regex,
}

impl Both {
    fn new(pattern: &str) -> Both {
        Both {
            pattern: PathPattern::new(pattern, &Limits::default()).expect(pattern),
            regex: Regex::new(&format!(r"\A(?:{pattern})\z")).expect(pattern),
        }
    }

    fn answer(&self, path: &str, scratch: &mut PatternScratch) -> Answer {
        let groups = self.pattern.captures(path.as_bytes(), scratch)?;
        let names = self.pattern.group_names().iter();
        Some(names.enumerate().map(|(i, n)| (n.to_string(), groups.get(i).map(|r| (r.start, r.end)))).collect())
    }

    fn expected(&self, path: &str) -> Answer {
        let captures = self.regex.captures(path)?;
        let names = self.regex.capture_names().flatten();
        Some(names.map(|n| (n.to_string(), captures.name(n).map(|m| (m.start(), m.end())))).collect())
    }
}

/// Runs a property; `PROPTEST_CASES` overrides the number of cases.
fn check<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(strategy, test).unwrap_or_else(|error| panic!("{error}"));
}

/// Paths made of pieces that the patterns above care about.
fn path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => Just("/"),
        1 => Just("/Content"),
        1 => Just("/Content/Channel"),
        1 => Just("/Content/Channel/abc/x/seg"),
        1 => Just("/content/"),
        1 => prop::sample::select(vec![".ts", ".m4a", ".m4v", ".", ".mp4"]),
        3 => prop::sample::select(vec!["a", "b", "c", "d", "x", "y", "ab", "abc"]),
        1 => prop::sample::select(vec!["\n", "\r", "\r\n", "é", "ſ", "K", "日本", "%20", "𝒳", "-", "_1", " "]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn picked_patterns_have_the_groups_of_the_regex_crate() {
    let all: Vec<Both> = PATTERNS.iter().map(|pattern| Both::new(pattern)).collect();
    let scratch = std::cell::RefCell::new(PatternScratch::new());
    check(2000, &path(), |path| {
        for both in &all {
            let answer = both.answer(&path, &mut scratch.borrow_mut());
            prop_assert_eq!(answer, both.expected(&path), "{:?}", both.pattern.as_str());
        }
        Ok(())
    });
}

#[test]
fn the_seed_pattern_on_paths_of_its_own_kind() {
    let both = Both::new(SEED);
    let scratch = std::cell::RefCell::new(PatternScratch::new());
    let segment = r"[A-Za-z0-9_.\-]{0,12}";
    let path = format!("/Content/Channel/{segment}(/{segment}){{0,4}}(\\.(m4a|m4v|m4i|ts|mp4))?");
    let paths = prop::string::string_regex(&path).unwrap();
    check(2000, &paths, |path| {
        prop_assert_eq!(both.answer(&path, &mut scratch.borrow_mut()), both.expected(&path));
        Ok(())
    });
}

/// A pattern of a small grammar. Named groups are written `(?<>`, and named when the pattern is finished.
fn random_pattern() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "/", r"\.", "ab", "ba"]),
        3 => prop::sample::select(vec!["[ab]", "[^/]", ".", "[^a]", "[a/]", "(?s:.)"]),
        1 => prop::sample::select(vec!["", "^", "$", r"(?-u:\b)", r"(?-u:\B)", "é", r"\w", "(?m:^)", "(?m:$)"]),
    ]
    .prop_map(String::from);
    let tree = leaf.prop_recursive(5, 24, 3, |inner| {
        let repetition = prop::sample::select(vec![
            "*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,3}", "{2,}", "{0,2}?", "{1,3}?", "{2,}?", "{0}",
        ]);
        prop_oneof![
            4 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| parts.concat()),
            3 => prop::collection::vec(inner.clone(), 2..4)
                .prop_map(|parts| format!("(?:{})", parts.join("|"))),
            4 => (inner.clone(), repetition).prop_map(|(inner, times)| format!("(?:{inner}){times}")),
            4 => inner.clone().prop_map(|inner| format!("(?<>{inner})")),
            1 => inner.prop_map(|inner| format!("({inner})")),
        ]
    });
    tree.prop_map(|pattern| {
        let mut parts = pattern.split("(?<>");
        let mut named = parts.next().unwrap_or_default().to_string();
        for (index, part) in parts.enumerate() {
            // Up to four groups have names.
            named += &if index < 4 { format!("(?<g{index}>{part}") } else { format!("(?:{part}") };
        }
        named
    })
}

fn random_haystack() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        30 => prop::sample::select(vec!["a", "b", "/", "."]),
        1 => prop::sample::select(vec!["é", "\n", "-"]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn random_patterns_have_the_groups_of_the_regex_crate() {
    let haystacks = prop::collection::vec(random_haystack(), 1..8);
    let scratch = std::cell::RefCell::new(PatternScratch::new());
    let counts = std::cell::RefCell::new(HashMap::<&str, usize>::new());
    check(4000, &(random_pattern(), haystacks), |(pattern, haystacks)| {
        let count = |what| *counts.borrow_mut().entry(what).or_default() += 1;
        let made = PathPattern::new(&pattern, &Limits::default());
        if let Err(PatternError::TooLarge { .. }) = made {
            count("too large");
            return Ok(());
        }
        let regex = Regex::new(&format!(r"\A(?:{pattern})\z")).unwrap();
        let both = Both { pattern: made.unwrap(), regex };
        let names: Vec<&str> = both.pattern.group_names().iter().map(|name| &**name).collect();
        prop_assert_eq!(names, both.regex.capture_names().flatten().collect::<Vec<_>>());
        for haystack in haystacks {
            let answer = both.answer(&haystack, &mut scratch.borrow_mut());
            count(match &answer {
                None => "no match",
                Some(groups) if groups.is_empty() => "match without groups",
                Some(_) => "match with groups",
            });
            prop_assert_eq!(answer, both.expected(&haystack), "{:?} on {:?}", &pattern, &haystack);
        }
        Ok(())
    });
    // The property is worth something only if a good part of the haystacks match.
    println!("{counts:?}");
    let counts = counts.into_inner();
    let count = |what| counts.get(what).copied().unwrap_or_default();
    assert!(20 * count("match with groups") > count("no match"), "{counts:?}");
    assert!(count("too large") * 100 < count("match with groups"), "{counts:?}");
}

#[test]
fn random_searches_answer_as_the_regex_crate() {
    let haystacks = prop::collection::vec(random_haystack(), 1..4);
    check(500, &(random_pattern(), haystacks), |(pattern, haystacks)| {
        let search = match Search::new(&pattern, &Limits::default()) {
            Err(PatternError::TooLarge { .. }) => return Ok(()),
            search => search.unwrap(),
        };
        let regex = Regex::new(&pattern).unwrap();
        for haystack in haystacks {
            prop_assert_eq!(search.is_match(haystack.as_bytes()), regex.is_match(&haystack), "{:?}", &pattern);
        }
        Ok(())
    });
}

/// Bytes that are no UTF-8 are never matched, and do no harm.
#[test]
fn random_bytes() {
    let all: Vec<Both> = PATTERNS.iter().map(|pattern| Both::new(pattern)).collect();
    let piece = prop_oneof![path().prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..4)];
    let scratch = std::cell::RefCell::new(PatternScratch::new());
    let paths = prop::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat());
    check(1000, &paths, |path| {
        for both in &all {
            let matched = both.pattern.captures(&path, &mut scratch.borrow_mut()).is_some();
            let expected = std::str::from_utf8(&path).is_ok_and(|path| both.regex.is_match(path));
            prop_assert_eq!(matched, expected, "{:?}", both.pattern.as_str());
        }
        Ok(())
    });
}
