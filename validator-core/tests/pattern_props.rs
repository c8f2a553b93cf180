//! A path pattern has the groups that the `regex` crate reports for `\A(?:PATTERN)\z`, and a search its
//! answer.
#![allow(clippy::expect_used, clippy::panic, reason = "the helpers of tests fail as tests do")]

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use regex::Regex;
use validator_core::pattern::{Limits, PathPattern, PatternError, PatternScratch, Search};

/// The pattern that this was made for.
const SEED: &str = r"/Content/Channel/(?<cid>.*?)/(?<stt>.*?)/.*\.(m4a|m4v|m4i|ts)";

const PATTERNS: &[&str] = &[
    SEED,
    // Groups that end at a text: the shorter way, and what must not take it.
    r"/Content/Channel/(?<cid>[^/]+)/(?<stt>[^/]+)/.*\.(mpd|m3u8)",
    r"/(?<a>.*?)/(?<b>[^/]*)/ab?",
    r"/(?<a>.+?)/(?<b>.*?)/[a-b]*",
    r"/(?<a>.{2,}?)ab(?<b>[^/]+)/(a|/)*",
    r"/(?<a>[^/]*?)//(?<b>(?s:.)*?)/.?",
    r"/(?<a>.*?)/(?<b>.*)/a*",
    r"/(?<a>[^/]+)a(?<b>[^/]*)/.*",
    r"/(?<a>[^a]*?)/(?<b>.*?)/.*",
    r"/(?<a>.*?)/(?<b>.*?)/(?<c>.*)",
    r"/(?<a>.*?)/.*/",
    r"(?<a>.*?)a",
    r"/(?<a>.*?)a/\n?.*b?",
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
        Some(
            names
                .enumerate()
                .map(|(i, n)| (n.to_string(), groups.get(i).map(|r| (r.start, r.end))))
                .collect(),
        )
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

/// A pattern of a small grammar.
#[derive(Clone, Debug)]
enum Node {
    /// A pattern, and some texts that it matches, at least in places.
    Leaf(&'static str, &'static [&'static str]),
    Concat(Vec<Node>),
    Alternation(Vec<Node>),
    /// The operator, and the numbers of repetitions to try.
    Repetition(Box<Node>, &'static str, &'static [usize]),
    Named(Box<Node>),
    Unnamed(Box<Node>),
}

impl Node {
    /// Writes the pattern. Four groups have names; a further one becomes unnamed.
    fn pattern(&self, names: &mut std::slice::Iter<&str>, out: &mut String) {
        match self {
            Node::Leaf(pattern, _) => *out += pattern,
            Node::Concat(parts) => parts.iter().for_each(|part| part.pattern(names, out)),
            Node::Alternation(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    *out += if index == 0 { "(?:" } else { "|" };
                    part.pattern(names, out);
                }
                *out += ")";
            }
            Node::Repetition(inner, operator, _) => {
                *out += "(?:";
                inner.pattern(names, out);
                *out += ")";
                *out += operator;
            }
            Node::Named(inner) => {
                *out += &names.next().map_or("(".to_string(), |name| format!("(?<{name}>"));
                inner.pattern(names, out);
                *out += ")";
            }
            Node::Unnamed(inner) => {
                *out += "(";
                inner.pattern(names, out);
                *out += ")";
            }
        }
    }

    /// Writes a text that the pattern matches, if its assertions hold there.
    fn text(&self, choose: &mut impl FnMut(usize) -> usize, out: &mut String) {
        match self {
            Node::Leaf(_, texts) => *out += texts[choose(texts.len())],
            Node::Concat(parts) => parts.iter().for_each(|part| part.text(choose, out)),
            Node::Alternation(parts) => parts[choose(parts.len())].text(choose, out),
            Node::Repetition(inner, _, times) => {
                for _ in 0..times[choose(times.len())] {
                    inner.text(choose, out);
                }
            }
            Node::Named(inner) | Node::Unnamed(inner) => inner.text(choose, out),
        }
    }
}

const LEAVES: &[(&str, &[&str])] = &[
    ("a", &["a"]),
    ("b", &["b"]),
    ("/", &["/"]),
    (r"\.", &["."]),
    ("ab", &["ab"]),
    ("ba", &["ba"]),
    ("[ab]", &["a", "b"]),
    ("[^/]", &["a", "b", ".", "é"]),
    (".", &["a", "b", "/", "."]),
    ("[^a]", &["b", "/", "."]),
    ("[a/]", &["a", "/"]),
    ("(?s:.)", &["a", "b", "\n"]),
    (r"\w", &["a", "b", "é"]),
    ("é", &["é"]),
    ("", &[""]),
    ("^", &[""]),
    ("$", &[""]),
    (r"(?-u:\b)", &[""]),
    (r"(?-u:\B)", &[""]),
    ("(?m:^)", &["", "\n"]),
    ("(?m:$)", &["", "\n"]),
];

const REPETITIONS: &[(&str, &[usize])] = &[
    ("*", &[0, 1, 2, 3]),
    ("+", &[1, 2, 3]),
    ("?", &[0, 1]),
    ("*?", &[0, 1, 2, 3]),
    ("+?", &[1, 2, 3]),
    ("??", &[0, 1]),
    ("{0}", &[0]),
    ("{2}", &[2]),
    ("{0,2}", &[0, 1, 2]),
    ("{1,3}", &[1, 2, 3]),
    ("{2,}", &[2, 3]),
    ("{0,2}?", &[0, 1, 2]),
    ("{1,3}?", &[1, 2, 3]),
    ("{2,}?", &[2, 3]),
];

fn random_node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        10 => prop::sample::select(&LEAVES[..12]),
        1 => prop::sample::select(&LEAVES[12..]),
    ]
    .prop_map(|(pattern, texts)| Node::Leaf(pattern, texts));
    leaf.prop_recursive(5, 24, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            4 => several.clone().prop_map(Node::Concat),
            3 => several.prop_map(Node::Alternation),
            4 => (inner.clone(), prop::sample::select(REPETITIONS))
                .prop_map(|(inner, (operator, times))| Node::Repetition(Box::new(inner), operator, times)),
            4 => inner.clone().prop_map(|inner| Node::Named(Box::new(inner))),
            1 => inner.prop_map(|inner| Node::Unnamed(Box::new(inner))),
        ]
    })
}

/// A pattern and haystacks for it: texts that are likely to match, and some that are not.
fn random_pattern() -> impl Strategy<Value = (String, Vec<String>)> {
    let choices = prop::collection::vec(prop::collection::vec(any::<usize>(), 1..16), 1..8);
    (random_node(), choices, random_haystack(), 0..12_usize).prop_map(|(node, choices, other, at)| {
        let mut pattern = String::new();
        node.pattern(&mut ["g1", "g2", "g3", "g4"].iter(), &mut pattern);
        let mut haystacks = Vec::new();
        for choices in choices {
            let mut choices = choices.into_iter().cycle();
            let mut text = String::new();
            node.text(&mut |count| choices.next().unwrap_or(0) % count, &mut text);
            // The regex crate takes its time for more.
            if text.len() < 200 {
                haystacks.push(text);
            }
        }
        if let Some(text) = haystacks.first() {
            let mut text = text.clone();
            if text.is_char_boundary(at) {
                text.insert_str(at, &other[..other.chars().next().map_or(0, char::len_utf8)]);
            }
            haystacks.push(text);
        }
        haystacks.push(other);
        (pattern, haystacks)
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
    let scratch = std::cell::RefCell::new(PatternScratch::new());
    let counts = std::cell::RefCell::new(HashMap::<&str, usize>::new());
    check(3000, &random_pattern(), |(pattern, haystacks)| {
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
    println!("{counts:?}");
    // The property is worth something only if most of the patterns are tried, and many haystacks match.
    let count = |what| counts.borrow().get(what).copied().unwrap_or_default();
    assert!(count("match with groups") > count("no match") / 3, "{counts:?}");
    assert!(count("match with groups") > count("too large") * 100, "{counts:?}");
}

#[test]
fn random_searches_answer_as_the_regex_crate() {
    check(500, &random_pattern(), |(pattern, haystacks)| {
        let search = match Search::new(&pattern, &Limits::default()) {
            Err(PatternError::TooLarge { .. }) => return Ok(()),
            search => search.unwrap(),
        };
        let regex = Regex::new(&pattern).unwrap();
        for haystack in haystacks {
            prop_assert_eq!(
                search.is_match(haystack.as_bytes()),
                regex.is_match(&haystack),
                "{:?}",
                &pattern
            );
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
