//! Path patterns: regexes whose named groups are compared to claims, and searches for rule conditions.
//!
//! A [`PathPattern`] has to match the whole path. Its groups are those the `regex` crate reports for
//! `\A(?:PATTERN)\z`: leftmost-first, lazy and greedy repetitions told apart, the last iteration of a
//! repeated group wins. A [`Search`] answers yes or no, anywhere in its haystack.
//!
//! # How a path is matched
//!
//! The request path needs groups in linear time, quickly, and without allocation.
//! A one-pass DFA has that speed but accepts no pattern that needs to look ahead, and `(?<id>.*?)/` is
//! one: on a slash it cannot know whether the group ends. A PikeVM accepts every pattern, but carries a set
//! of threads, each with its own groups, over every byte.
//!
//! A *bimachine* looks ahead first. Both of its halves are tables made from the pattern's Thompson NFA when
//! the pattern is loaded:
//!
//! 1. A DFA runs over the path from its end to its start and notes its state at every position. The state
//!    says which NFA states can still reach the match exactly at the end, so the state at the start already
//!    says whether the path matches.
//! 2. If it does, a walk from the start follows one single NFA state. Of all ways on, in order of priority,
//!    it takes the first that the noted state calls alive: the way that a backtracking matcher would find,
//!    without its detours. Which way that is, and which group bounds lie on it, depends on the NFA state
//!    and the noted state alone, and is read from a table.
//!
//! The walk ends as soon as no bound of a named group can follow; a pattern without named groups is decided
//! by the first step. Literal text at the start and at the end of a pattern is compared as text and takes
//! part in neither.
//!
//! Most patterns in use are simpler than that: their groups end at a slash. For these there is a shorter way that
//! often finds the same groups by comparing text; the module `segments` says when.
//!
//! # Assertions
//!
//! `^`, `$`, `\A`, `\z`, the line anchors of `(?m)` and the ASCII word boundaries (`(?-u:\b)` and its kin)
//! are supported. Unicode word boundaries are not: they would have to decode characters on both sides of a
//! position. They are refused at load with [`PatternError::Assertion`].
//!
//! # Bytes
//!
//! Paths are bytes. As in the `regex` crate's text patterns, everything a pattern can match is valid UTF-8;
//! a path with other bytes does not match, since even `.` stands for a whole character.
//!
//! # Limits
//!
//! Determinisation can blow up: `/.{20}/.*` needs a state for every set of the last twenty positions at which
//! a slash stood. [`Limits`] bound what a pattern may cost at load, and [`PatternError::TooLarge`] says
//! which limit was met. The time of a match is linear in the path whatever the pattern.

mod bimachine;
mod build;
mod segments;

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures};
use regex_automata::util::primitives::PatternID;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::{self, Hir, HirKind};

use bimachine::Bimachine;
use segments::Segments;

/// What a pattern may cost at load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the pattern's text, in bytes.
    pub pattern_bytes: usize,
    /// Size of the NFA made from the pattern, in bytes.
    pub nfa_bytes: usize,
    /// Number of states of a path pattern's reverse DFA.
    pub states: usize,
    /// Size of the tables, in bytes. For a path pattern this includes the working memory of their
    /// construction, which is released afterwards; for a search, the same limit applies to the DFA and,
    /// once more, to the working memory of its construction.
    pub table_bytes: usize,
}

impl Limits {
    /// Default of [`Limits::pattern_bytes`]: well above what a human writes.
    pub const PATTERN_BYTES: usize = 4096;
    /// Default of [`Limits::nfa_bytes`]: some forty Unicode classes like `\w`.
    pub const NFA_BYTES: usize = 1 << 20;
    /// Default of [`Limits::states`]: usual path patterns need less than a hundred.
    pub const STATES: usize = 10_000;
    /// Default of [`Limits::table_bytes`]: usual path patterns need some ten kilobytes, and about a megabyte
    /// if they use large Unicode classes like `\w`.
    pub const TABLE_BYTES: usize = 8 << 20;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            pattern_bytes: Limits::PATTERN_BYTES,
            nfa_bytes: Limits::NFA_BYTES,
            states: Limits::STATES,
            table_bytes: Limits::TABLE_BYTES,
        }
    }
}

/// A regex that has to match a whole path, and whose named groups can be read.
pub struct PathPattern {
    text: Box<str>,
    names: Box<[Box<str>]>,
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
    /// Matches what lies between prefix and suffix.
    machine: Bimachine,
    /// Likewise, where it can.
    segments: Option<Segments>,
}

impl PathPattern {
    /// Parses and compiles a pattern. It is anchored at both ends; `^` and `$` there are allowed.
    pub fn new(pattern: &str, limits: &Limits) -> Result<PathPattern, PatternError> {
        let hir = parse(pattern, limits)?;
        let (prefix, hir, suffix) = split_affixes(hir);
        let config = thompson::Config::new().which_captures(WhichCaptures::All);
        let nfa = compile(&hir, config, limits)?;

        // Unnamed groups stay in the NFA, where they are skipped. To drop them from the parsed pattern would
        // let the parser's simplifications see through them, and those may change what a named group holds.
        let mut names = Vec::new();
        let groups: Vec<Option<usize>> = (nfa.group_info().pattern_names(PatternID::ZERO))
            .map(|name| {
                let name = name?;
                names.push(Box::from(name));
                Some(names.len() - 1)
            })
            .collect();
        let machine = build::bimachine(&nfa, &groups, limits)?;
        let segments = Segments::new(&hir, names.len(), limits);
        Ok(PathPattern { text: Box::from(pattern), names: names.into(), prefix, suffix, machine, segments })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of the named groups, in the order in which they open.
    pub fn group_names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Matches the whole of `path`; the groups are lent from `scratch`.
    ///
    /// Does not allocate if the scratch was [reserved](PatternScratch::reserve) for this pattern and a path of
    /// this length; otherwise the scratch grows.
    pub fn captures<'s>(&self, path: &[u8], scratch: &'s mut PatternScratch) -> Option<Groups<'s>> {
        let is_plain = path.iter().all(|byte| segments::PLAIN.contains(byte));
        self.captures_of(path, is_plain, scratch)
    }

    /// Likewise for a path of which it is known whether all its bytes are plain, printable ASCII.
    #[inline(always)]
    pub(crate) fn captures_of<'s>(
        &self,
        path: &[u8],
        is_plain: bool,
        scratch: &'s mut PatternScratch,
    ) -> Option<Groups<'s>> {
        // The suffix is taken from what the prefix left, so that the two never overlap.
        let middle = path.strip_prefix(&*self.prefix)?.strip_suffix(&*self.suffix)?;
        if self.names.is_empty() {
            return self.machine.is_match(middle).then_some(Groups { offset: 0, bounds: &[] });
        }
        scratch.grow(self, middle.len());
        let notes = &mut scratch.notes[..=middle.len()];
        let bounds = &mut scratch.bounds[..2 * self.names.len()];
        if is_plain && self.segments.as_ref().is_some_and(|segments| segments.captures(middle, bounds)) {
            return Some(Groups { offset: self.prefix.len(), bounds });
        }
        bounds.fill(UNSET);
        self.machine.captures(middle, notes, bounds).then_some(())?;
        Some(Groups { offset: self.prefix.len(), bounds })
    }

    /// Heap memory held by the pattern, in bytes.
    pub fn memory(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.len() + size_of::<Box<str>>()).sum();
        let machines = self.machine.memory() + self.segments.as_ref().map_or(0, Segments::memory);
        self.text.len() + names + self.prefix.len() + self.suffix.len() + machines
    }
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PathPattern").field(&self.text).finish()
    }
}

/// A group bound that was not passed.
const UNSET: usize = usize::MAX;

/// The named groups of a match.
#[derive(Clone, Copy, Debug)]
pub struct Groups<'s> {
    /// Where in the path the bounds count from.
    offset: usize,
    /// Start and end of each group.
    bounds: &'s [usize],
}

impl Groups<'_> {
    /// Where in the path the group lies whose name has this index in [`PathPattern::group_names`].
    ///
    /// `None` if the group took no part in the match, or if there is no such group.
    pub fn get(&self, index: usize) -> Option<Range<usize>> {
        self.iter().nth(index)?
    }

    /// Likewise for all of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<Range<usize>>> + use<'_> {
        self.bounds.as_chunks().0.iter().map(|&[start, end]| {
            // A group's end is only ever passed after its start.
            (end != UNSET).then(|| self.offset + start..self.offset + end)
        })
    }
}

/// Memory for [`PathPattern::captures`], held by the caller; any pattern can use it.
#[derive(Debug, Default)]
pub struct PatternScratch {
    /// State of the reverse DFA at each position.
    notes: Vec<u32>,
    /// Start and end of each group.
    bounds: Vec<usize>,
}

impl PatternScratch {
    /// An empty scratch.
    pub fn new() -> PatternScratch {
        PatternScratch::default()
    }

    /// Grows the scratch so that `captures` of this pattern with a path of up to `max_path` bytes does not
    /// allocate.
    pub fn reserve(&mut self, pattern: &PathPattern, max_path: usize) {
        self.grow(pattern, max_path);
    }

    fn grow(&mut self, pattern: &PathPattern, path_len: usize) {
        if self.notes.len() <= path_len {
            self.notes.resize(path_len + 1, 0);
        }
        if self.bounds.len() < 2 * pattern.names.len() {
            self.bounds.resize(2 * pattern.names.len(), UNSET);
        }
    }
}

/// A regex that is looked for anywhere in its haystack, without groups.
pub struct Search {
    text: Box<str>,
    dfa: dense::DFA<Vec<u32>>,
}

impl Search {
    /// Parses and compiles a pattern.
    pub fn new(pattern: &str, limits: &Limits) -> Result<Search, PatternError> {
        let hir = parse(pattern, limits)?;
        let config = thompson::Config::new().which_captures(WhichCaptures::None);
        let nfa = compile(&hir, config, limits)?;
        let config = dense::Config::new()
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(limits.table_bytes))
            .determinize_size_limit(Some(limits.table_bytes));
        let dfa = dense::Builder::new().configure(config).build_from_nfa(&nfa).map_err(|error| {
            if error.is_size_limit_exceeded() {
                PatternError::TooLarge { what: "bytes of tables", limit: limits.table_bytes }
            } else {
                PatternError::Build(error.to_string().into())
            }
        })?;
        Ok(Search { text: Box::from(pattern), dfa })
    }

    /// Whether the pattern matches anywhere in the haystack. Does not allocate.
    pub fn is_match(&self, haystack: &[u8]) -> bool {
        let input = Input::new(haystack).anchored(Anchored::No).earliest(true);
        // A dense DFA gives up on quit bytes only, and there are none without Unicode word boundaries.
        matches!(self.dfa.try_search_fwd(&input), Ok(Some(_)))
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Search").field(&self.text).finish()
    }
}

/// Why a pattern was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum PatternError {
    /// The pattern is no regex.
    Syntax(Box<regex_syntax::Error>),
    /// The pattern is beyond one of the [`Limits`].
    TooLarge {
        /// What there was too much of, in the plural.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The pattern uses an assertion that is not supported.
    Assertion {
        /// The assertion as it is written in a pattern.
        assertion: &'static str,
        /// What to write instead.
        instead: &'static str,
    },
    /// The regex library refused the pattern, with this message.
    Build(Box<str>),
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::Syntax(error) => error.fmt(f),
            PatternError::TooLarge { what, limit } => write!(
                f,
                "the pattern needs more than {limit} {what}; shorten it, write smaller counted repetitions, or \
                 use narrower classes: `[^/]` instead of `.`, `[0-9]` instead of `\\d`, `[0-9A-Za-z_]` instead \
                 of `\\w`"
            ),
            PatternError::Assertion { assertion, instead } => write!(
                f,
                "the Unicode word boundary `{assertion}` is not supported; write `{instead}`, for which only \
                 ASCII letters, digits and `_` are word characters"
            ),
            PatternError::Build(message) => write!(f, "the pattern cannot be compiled: {message}"),
        }
    }
}

impl core::error::Error for PatternError {
    // No `source`: the text of a syntax error is part of this one's already.
}

fn parse(pattern: &str, limits: &Limits) -> Result<Hir, PatternError> {
    if pattern.len() > limits.pattern_bytes {
        return Err(PatternError::TooLarge { what: "bytes of text", limit: limits.pattern_bytes });
    }
    // The parser's defaults are those of the `regex` crate, a limit to the nesting depth included.
    let hir = regex_syntax::parse(pattern).map_err(|error| PatternError::Syntax(Box::new(error)))?;
    for look in hir.properties().look_set().iter() {
        let (assertion, instead) = match look {
            hir::Look::WordUnicode => (r"\b", r"(?-u:\b)"),
            hir::Look::WordUnicodeNegate => (r"\B", r"(?-u:\B)"),
            hir::Look::WordStartUnicode => (r"\b{start}", r"(?-u:\b{start})"),
            hir::Look::WordEndUnicode => (r"\b{end}", r"(?-u:\b{end})"),
            hir::Look::WordStartHalfUnicode => (r"\b{start-half}", r"(?-u:\b{start-half})"),
            hir::Look::WordEndHalfUnicode => (r"\b{end-half}", r"(?-u:\b{end-half})"),
            _ => continue,
        };
        return Err(PatternError::Assertion { assertion, instead });
    }
    Ok(hir)
}

fn compile(hir: &Hir, config: thompson::Config, limits: &Limits) -> Result<NFA, PatternError> {
    let config = config.nfa_size_limit(Some(limits.nfa_bytes));
    NFA::compiler().configure(config).build_from_hir(hir).map_err(|error| match error.size_limit() {
        Some(limit) => PatternError::TooLarge { what: "bytes of NFA", limit },
        None => PatternError::Build(error.to_string().into()),
    })
}

/// Splits literal text off the start and the end of a pattern that has to match a whole path.
fn split_affixes(hir: Hir) -> (Box<[u8]>, Hir, Box<[u8]>) {
    let mut parts = match hir.kind() {
        HirKind::Concat(parts) => parts.clone(),
        _ => vec![hir],
    };
    // These hold anyway, and `^/literal` is how many patterns start.
    while parts.last().is_some_and(|part| *part.kind() == HirKind::Look(hir::Look::End)) {
        parts.pop();
    }
    let anchors = parts.iter().take_while(|part| *part.kind() == HirKind::Look(hir::Look::Start)).count();
    parts.drain(..anchors);

    // An assertion looks at the bytes around it, and these may be the literal's.
    let splittable = parts.iter().all(|part| part.properties().look_set().is_empty());
    let prefix = match parts.first().map(Hir::kind) {
        Some(HirKind::Literal(literal)) if splittable => literal.0.clone(),
        _ => Box::default(),
    };
    if !prefix.is_empty() {
        parts.remove(0);
    }
    let suffix = match parts.last().map(Hir::kind) {
        Some(HirKind::Literal(literal)) if splittable => literal.0.clone(),
        _ => Box::default(),
    };
    if !suffix.is_empty() {
        parts.pop();
    }
    (prefix, Hir::concat(parts), suffix)
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::*;

    const SEED: &str = r"/Content/Channel/(?<cid>.*?)/(?<stt>.*?)/.*\.(m4a|m4v|m4i|ts)";

    fn pattern(pattern: &str) -> PathPattern {
        PathPattern::new(pattern, &Limits::default()).unwrap()
    }

    /// The groups' texts, with `-` for a group that took no part.
    fn groups(pattern: &PathPattern, path: &str) -> Option<Vec<String>> {
        let mut scratch = PatternScratch::new();
        let groups = pattern.captures(path.as_bytes(), &mut scratch)?;
        let text = |index| groups.get(index).map_or("-", |range| &path[range]).into();
        Some((0..pattern.group_names().len()).map(text).collect())
    }

    #[test]
    fn groups_are_found_between_literal_prefix_and_the_rest() {
        let seed = pattern(SEED);
        assert_eq!(seed.as_str(), SEED);
        assert_eq!(seed.group_names(), [Box::from("cid"), Box::from("stt")]);
        let path = "/Content/Channel/NationalGeographic/DASH/stream_01/Segment-4186442971413506.m4v";
        assert_eq!(groups(&seed, path).unwrap(), ["NationalGeographic", "DASH"]);
        assert_eq!(groups(&seed, &path.replace("m4v", "mp4")), None);
        assert_eq!(groups(&seed, &path.replace("Channel", "channel")), None);
        assert_eq!(groups(&seed, &path[1..]), None);
        assert_eq!(groups(&seed, ""), None);
    }

    #[test]
    fn groups_may_take_no_part() {
        let pattern = pattern("/(?<a>x)?(y)?(?<b>z)?");
        assert_eq!(groups(&pattern, "/yz").unwrap(), ["-", "z"]);
        assert_eq!(groups(&pattern, "/").unwrap(), ["-", "-"]);
        let mut scratch = PatternScratch::new();
        let groups = pattern.captures(b"/x", &mut scratch).unwrap();
        assert_eq!([0, 1, 2, usize::MAX].map(|index| groups.get(index)), [Some(1..2), None, None, None]);
    }

    #[test]
    fn prefix_and_suffix_do_not_overlap() {
        let pattern = pattern("^/aba(?<x>.*)bab$");
        assert_eq!(groups(&pattern, "/abab"), None);
        assert_eq!(groups(&pattern, "/ababa"), None);
        assert_eq!(groups(&pattern, "/ababab").unwrap(), [""]);
        assert_eq!(groups(&pattern, "/aba/bab").unwrap(), ["/"]);
    }

    #[test]
    fn literals_are_not_hidden_from_assertions() {
        assert_eq!(groups(&pattern(r"/a(?-u:\b)(?<x>.*)"), "/ab"), None);
        assert_eq!(groups(&pattern(r"/a(?-u:\b)(?<x>.*)"), "/a-").unwrap(), ["-"]);
        assert_eq!(groups(&pattern(r"/a(?:^|(?<x>b))"), "/a"), None);
        assert_eq!(groups(&pattern(r"(?m)/a\n^(?<x>b)$\n"), "/a\nb\n").unwrap(), ["b"]);
    }

    #[test]
    fn unnamed_groups_keep_alternatives_apart() {
        // The parser lifts the common start out of `a*?(?<x>b)|a*?(?<y>ab)`; with the unnamed groups it does
        // not, and the first alternative wins.
        assert_eq!(groups(&pattern("(a*?)(?<x>b)|(a*?)(?<y>ab)"), "aab").unwrap(), ["b", "-"]);
    }

    #[test]
    fn other_bytes_than_utf8_are_not_matched() {
        let any = pattern("(?s)/(?<a>.*)");
        let mut scratch = PatternScratch::new();
        for bytes in [&b"/\xff"[..], b"/\xc3", b"/\xed\xa0\x80", b"\xff/", b"/a\x80b"] {
            assert!(any.captures(bytes, &mut scratch).is_none(), "{bytes:?}");
        }
        assert!(any.captures("/é\0".as_bytes(), &mut scratch).is_some());
    }

    #[test]
    fn a_reserved_scratch_does_not_grow_and_any_other_does() {
        let long = format!("/{}/x", "a".repeat(16 << 10));
        let (one, other) = (pattern("/(?<a>.*)/(?<b>.*)"), pattern("/(?<a>.)(?<b>.)(?<c>.*)"));
        let mut scratch = PatternScratch::new();
        assert!(one.captures(long.as_bytes(), &mut scratch).is_some());
        let mut scratch = PatternScratch::new();
        scratch.reserve(&one, long.len());
        scratch.reserve(&other, 100);
        let capacities = (scratch.notes.capacity(), scratch.bounds.capacity());
        let groups = other.captures(long.as_bytes(), &mut scratch).unwrap();
        assert_eq!(groups.get(2), Some(3..long.len()));
        let groups = one.captures(long.as_bytes(), &mut scratch).unwrap();
        assert_eq!(groups.get(1), Some(long.len() - 1..long.len()));
        assert_eq!(capacities, (scratch.notes.capacity(), scratch.bounds.capacity()));
    }

    #[test]
    fn loops_in_loops_take_linear_time() {
        // Backtracking would need more than a lifetime.
        let path = "a".repeat(16 << 10);
        assert_eq!(groups(&pattern("(?<x>(?:(?:a*)*)*)"), &path).unwrap(), [&*path]);
        assert_eq!(groups(&pattern("(?<x>(?:a|a|aa)*)b"), &path), None);
        assert_eq!(groups(&pattern("(?:a?){40}(?<x>a{40})"), &path[..40]).unwrap(), [&path[..40]]);
    }

    #[test]
    fn the_limit_to_the_text_is_exact() {
        let limits = |pattern_bytes| Limits { pattern_bytes, ..Limits::default() };
        assert!(PathPattern::new("/abc", &limits(4)).is_ok());
        let error = PathPattern::new("/abc", &limits(3)).unwrap_err();
        assert!(error.to_string().starts_with("the pattern needs more than 3 bytes of text; "), "{error}");
        assert!(Search::new("/abc", &limits(4)).is_ok());
        assert!(Search::new("/abc", &limits(3)).is_err());
    }

    /// The smallest limit under which something succeeds, and why it does not under the next smaller one.
    fn boundary<T>(new: impl Fn(usize) -> Result<T, PatternError>) -> (usize, String) {
        let (mut too_small, mut enough) = (0, 1 << 24);
        assert!(new(enough).is_ok());
        while enough - too_small > 1 {
            let middle = too_small + (enough - too_small) / 2;
            if new(middle).is_ok() { enough = middle } else { too_small = middle }
        }
        match new(too_small) {
            Err(PatternError::TooLarge { what, limit }) if limit == too_small => (enough, what.into()),
            other => panic!("{:?}", other.err()),
        }
    }

    #[test]
    fn each_limit_is_met() {
        let new = |limits: Limits| PathPattern::new(SEED, &limits);
        let (states, what) = boundary(|states| new(Limits { states, ..Limits::default() }));
        assert_eq!(what, "states");
        assert!((10..100).contains(&states), "{states}");
        let (bytes, what) = boundary(|table_bytes| new(Limits { table_bytes, ..Limits::default() }));
        assert_eq!(what, "bytes of tables");
        // The tables, without the padding, are part of what is counted.
        assert!((pattern(SEED).memory() - 3000..100_000).contains(&bytes), "{bytes}");
        let (bytes, what) = boundary(|nfa_bytes| new(Limits { nfa_bytes, ..Limits::default() }));
        assert_eq!(what, "bytes of NFA");
        assert!((1000..10_000).contains(&bytes), "{bytes}");

        let new = |limits: Limits| Search::new(r"\.(m4a|ts)$", &limits);
        let (_, what) = boundary(|table_bytes| new(Limits { table_bytes, ..Limits::default() }));
        assert_eq!(what, "bytes of tables");
        let (_, what) = boundary(|nfa_bytes| new(Limits { nfa_bytes, ..Limits::default() }));
        assert_eq!(what, "bytes of NFA");
    }

    #[test]
    fn the_default_limits_stop_what_blows_up() {
        let refusal = |pattern: &str| match PathPattern::new(pattern, &Limits::default()) {
            Err(PatternError::TooLarge { what, .. }) => what,
            other => panic!("{pattern}: {other:?}"),
        };
        assert_eq!(refusal("/.{20}/.*"), "states");
        assert_eq!(refusal(r"(?<a>\w{1,200})"), "bytes of NFA");
        assert_eq!(refusal(r"(?<a>\w{1,20})/(?<b>\w{1,20})"), "bytes of tables");
        assert!(groups(&pattern("/[^/]{20}/.*"), "/12345678901234567890/").is_some());
    }

    #[test]
    fn unicode_word_boundaries_are_refused_with_a_way_out() {
        for (assertion, name) in [
            (r"\b", r"\b"),
            (r"\B", r"\B"),
            (r"\<", r"\b{start}"),
            (r"\>", r"\b{end}"),
            (r"\b{start-half}", r"\b{start-half}"),
            (r"\b{end-half}", r"\b{end-half}"),
        ] {
            let given = format!("a{assertion}");
            let errors = [
                PathPattern::new(&given, &Limits::default()).unwrap_err(),
                Search::new(&given, &Limits::default()).unwrap_err(),
            ];
            for error in errors {
                let PatternError::Assertion { instead, .. } = error else { panic!("{error}") };
                assert!(error.to_string().contains(&format!("`{name}` is not supported; write `{instead}`")));
                PathPattern::new(instead, &Limits::default()).unwrap();
                Search::new(instead, &Limits::default()).unwrap();
            }
        }
    }

    #[test]
    fn syntax_errors_show_the_place() {
        let error = PathPattern::new("/(?<a>x", &Limits::default()).unwrap_err();
        assert!(error.to_string().contains("unclosed group"), "{error}");
        // Would match a byte that is no UTF-8.
        assert!(matches!(PathPattern::new(r"(?-u)/.*", &Limits::default()), Err(PatternError::Syntax(_))));
        let deep = format!("{}a{}", "(".repeat(1000), ")".repeat(1000));
        assert!(matches!(PathPattern::new(&deep, &Limits::default()), Err(PatternError::Syntax(_))));
    }

    #[test]
    fn searches_are_not_anchored() {
        let search = Search::new(r"\.(?:m4a|ts)$|^/x", &Limits::default()).unwrap();
        assert_eq!(search.as_str(), r"\.(?:m4a|ts)$|^/x");
        let answers =
            ["/a/b.ts", "/x/\u{e9}", "/a.ts/", "a/x", ""].map(|text| search.is_match(text.as_bytes()));
        assert_eq!(answers, [true, true, false, false, false]);
        assert!(search.is_match(b"\xff\x80.ts"));
    }

    #[test]
    fn patterns_are_shared_between_threads() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<PathPattern>();
        shared::<Search>();
        shared::<PatternScratch>();
        shared::<PatternError>();
    }
}
