//! Path patterns: regexes whose named groups are compared to claims, and searches for rule conditions.
//!
//! A [`PathPattern`] has to match the whole path. Its groups are those the `regex` crate reports for
//! `\A(?:PATTERN)\z`: leftmost-first, lazy and greedy repetitions told apart, the last iteration of a
//! repeated group wins. A [`Search`] answers yes or no, anywhere in its haystack.
//!
//! # How a path is matched
//!
//! The request path needs groups in linear time, without allocation, in the order of a nanosecond per byte.
//! A one-pass DFA has that speed but accepts no pattern that needs to look ahead, and `(?<id>.*?)/` is
//! one: on a slash it cannot know whether the group ends. A PikeVM accepts every pattern, but carries a set
//! of threads, each with its own groups, over every byte; this costs some twenty times as much.
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
    /// Default of [`Limits::table_bytes`]: usual path patterns need some ten kilobytes.
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
#[derive(Debug)]
pub struct PathPattern {
    text: Box<str>,
    names: Box<[Box<str>]>,
    prefix: Box<[u8]>,
    suffix: Box<[u8]>,
    /// Matches what lies between prefix and suffix.
    machine: Bimachine,
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
        Ok(PathPattern { text: Box::from(pattern), names: names.into(), prefix, suffix, machine })
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
        // The suffix is taken from what the prefix left, so that the two never overlap.
        let middle = path.strip_prefix(&*self.prefix)?.strip_suffix(&*self.suffix)?;
        if self.names.is_empty() {
            return self.machine.is_match(middle).then_some(Groups { offset: 0, bounds: &[] });
        }
        scratch.grow(self, middle.len());
        let notes = &mut scratch.notes[..=middle.len()];
        let bounds = &mut scratch.bounds[..2 * self.names.len()];
        bounds.fill(UNSET);
        self.machine.captures(middle, notes, bounds).then_some(())?;
        Some(Groups { offset: self.prefix.len(), bounds })
    }

    /// Heap memory held by the pattern, in bytes.
    pub fn memory(&self) -> usize {
        let names: usize = self.names.iter().map(|name| name.len() + size_of::<Box<str>>()).sum();
        self.text.len() + names + self.prefix.len() + self.suffix.len() + self.machine.memory()
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
        let bounds = self.bounds.get(2 * index..2 * index + 2)?;
        // A group's end is only ever passed after its start.
        (bounds[1] != UNSET).then(|| self.offset + bounds[0]..self.offset + bounds[1])
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
#[derive(Debug)]
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
