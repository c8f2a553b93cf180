//! A shorter way for the usual pattern: groups that each end at a text, and behind them a rest without groups.
//!
//! `(?<cid>.*?)/(?<stt>[^/]+)/.*\.ts` is one. A backtracking matcher, whose answer counts, first ends a lazy group at the first
//! place where the text behind it stands, and goes on only if what follows cannot match from there. A group that cannot
//! hold a slash, with a slash behind it, can end at the first one only. So whenever the rest matches behind the first of
//! all those places, these are the groups, and nothing else needs to be tried. Where it does not, this way has no answer, and the
//! bimachine has.

use alloc::boxed::Box;
use alloc::vec::Vec;

use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_syntax::hir::{Class, Hir, HirKind};

use super::bimachine::Bimachine;
use super::{Limits, build, compile};
use crate::bytes::find;

/// The bytes that every group and most states of a rest treat alike: what a path usually consists of.
pub(super) const PLAIN: core::ops::RangeInclusive<u8> = b' '..=b'~';

pub(super) struct Segments {
    list: Box<[Segment]>,
    /// Matches what is behind the last group and its text.
    rest: Bimachine,
}

struct Segment {
    /// Bytes that the group has at least.
    min: usize,
    /// Whether the group may hold a slash.
    crosses: bool,
    /// The text behind the group.
    end: Box<[u8]>,
}

impl Segments {
    /// The shorter way for a pattern with this number of named groups, if there is one.
    pub(super) fn new(hir: &Hir, named: usize, limits: &Limits) -> Option<Segments> {
        let HirKind::Concat(parts) = hir.kind() else { return None };
        if !hir.properties().look_set().is_empty() {
            return None;
        }
        let pairs = parts.chunks_exact(2).map_while(|pair| Segment::new(&pair[0], &pair[1]));
        let list: Box<[Segment]> = pairs.collect();
        // Further ones would be groups of the rest.
        if list.is_empty() || list.len() != named {
            return None;
        }
        let rest: Vec<Hir> = parts[2 * list.len()..].to_vec();
        let config = thompson::Config::new().which_captures(WhichCaptures::None);
        let nfa = compile(&Hir::concat(rest), config, limits).ok()?;
        let rest = build::bimachine(&nfa, &[], limits).ok()?;
        Some(Segments { list, rest })
    }

    /// Whether this way leads to a match of plain bytes; then `bounds` has the groups' starts and ends.
    pub(super) fn captures(&self, haystack: &[u8], bounds: &mut [usize]) -> bool {
        let mut at = 0;
        for (segment, [start, end]) in self.list.iter().zip(bounds.as_chunks_mut().0) {
            let Some(len) = haystack.get(at..).and_then(|haystack| segment.find(haystack)) else {
                return false;
            };
            (*start, *end) = (at, at + len);
            at += len + segment.end.len();
        }
        haystack.get(at..).is_some_and(|rest| self.rest.is_plain_match(rest))
    }

    /// Heap memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        let ends: usize = self.list.iter().map(|segment| segment.end.len()).sum();
        size_of_val(&*self.list) + ends + self.rest.memory()
    }
}

/// Apart, as it needs much of the stack and is seldom asked.
#[inline(never)]
fn find_text(bytes: &[u8], text: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, text)
}

impl Segment {
    fn new(group: &Hir, end: &Hir) -> Option<Segment> {
        let HirKind::Capture(capture) = group.kind() else { return None };
        let HirKind::Repetition(repetition) = capture.sub.kind() else { return None };
        let HirKind::Class(Class::Unicode(class)) = repetition.sub.kind() else { return None };
        let HirKind::Literal(literal) = end.kind() else { return None };
        let has = |byte: u8| {
            let character = char::from(byte);
            class.iter().any(|range| (range.start()..=range.end()).contains(&character))
        };
        let crosses = has(b'/');
        let only_place = if crosses { !repetition.greedy } else { literal.0.first() == Some(&b'/') };
        let fits = capture.name.is_some()
            && repetition.max.is_none()
            && PLAIN.into_iter().all(|byte| byte == b'/' || has(byte))
            && !literal.0.is_empty()
            && only_place;
        fits.then(|| Segment { min: repetition.min as usize, crosses, end: literal.0.clone() })
    }

    /// The length of the group at the start of `haystack`.
    fn find(&self, haystack: &[u8]) -> Option<usize> {
        if self.crosses {
            let behind = haystack.get(self.min..)?;
            let found = match &*self.end {
                [byte] => find(*byte, behind),
                text => find_text(behind, text),
            };
            return found.map(|len| self.min + len);
        }
        let len = find(b'/', haystack)?;
        (len >= self.min && haystack[len..].starts_with(&self.end)).then_some(len)
    }
}
