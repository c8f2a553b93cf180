//! A strict JSON reader (RFC 8259) for tokens: one pass, in place, into a caller-held tape.
//!
//! Stricter than common readers where tokens were broken before: duplicate names are refused at every level, also when
//! one of them is escaped; lone surrogates, control characters, a byte order mark and bytes after the text are
//! refused; depth, members and values are bounded. Escapes are decoded in place (the decoded form is never longer), so
//! strings are slices of the text.
//!
//! Every request is read by it, so bytes are looked at eight at a time where there are more than a few of them. Behind the
//! text there are always zeros, which no JSON text contains: they end every search, and no place needs a look at the length.
#![expect(
    clippy::cast_possible_truncation,
    reason = "a text, and what it holds, is counted in far less than 16 bits"
)]

mod careful;
mod text;
mod usual;

use crate::limits::{MAX_JSON, MAX_NODES};
use alloc::boxed::Box;
use careful::{Reader, Seen};
use text::{BLOCK, Quotes, Text, WORD, find_quotes};

/// The text is not JSON, or over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonError {
    Syntax,
    Duplicate,
    Limit,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// One value.
#[derive(Debug, Clone, Copy, Default)]
struct Node {
    /// [`key`] of the member's name; that of the empty one for elements and the root.
    key: u64,
    /// Name of the member, empty for elements and the root.
    name: Span,
    /// Text of a scalar: without quotes and decoded for a string, literal for a number.
    text: Span,
    /// Value of a number without sign, fraction and exponent, as far as that goes; otherwise [`NO_INTEGER`].
    integer: u64,
    /// Index one past the last descendant.
    end: u16,
    kind: Kind,
}

/// Stands for everything that is no plain integer. No claim may have a value as high as this.
const NO_INTEGER: u64 = u64::MAX;

/// Where in a text something starts, and above that, where what follows does. In one number, as it is written and read in one
/// piece: a processor waits where it reads together what was just written apart.
#[derive(Debug, Clone, Copy, Default)]
struct Span(u32);

/// A text is not long enough for others.
const _: () = assert!(MAX_JSON + 2 * BLOCK <= u16::MAX as usize);

impl Span {
    #[inline(always)]
    fn new(start: usize, end: usize) -> Self {
        Self(start as u32 | (end as u32) << 16)
    }

    #[inline(always)]
    fn range(self) -> core::ops::Range<usize> {
        usize::from(self.0 as u16)..(self.0 >> 16) as usize
    }

    fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.range()).unwrap_or_default()
    }
}

/// A name as a number: up to seven of its bytes, and its length above them. Names of up to seven bytes are equal if and only
/// if their keys are.
pub(crate) const fn key(name: &[u8]) -> u64 {
    let mut word = 0;
    let mut at = 0;
    while at < name.len() && at < WORD {
        word |= (name[at] as u64) << (8 * at);
        at += 1;
    }
    key_of(word, name.len())
}

#[inline(always)]
const fn key_of(word: u64, len: usize) -> u64 {
    // Of a longer name seven bytes are kept, and it only has to differ from the short ones.
    const KEPT: [u64; WORD + 1] = {
        let mut kept = [u64::MAX >> 8; WORD + 1];
        let mut len = 0;
        while len < WORD - 1 {
            kept[len] = (1 << (8 * len)) - 1;
            len += 1;
        }
        kept
    };
    let len = if len < WORD { len } else { WORD };
    word & KEPT[len] | (len as u64) << 56
}

/// A text and its values in document order. Holds room for both from the start.
#[derive(Debug)]
pub(crate) struct Tape {
    text: Box<Text>,
    quotes: Box<Quotes>,
    nodes: Box<[Node; MAX_NODES]>,
    /// For each [`place`] the outermost object's last member there: the index of its node, or zero, the root's, for none.
    places: Box<[u16; PLACES]>,
    /// Whether two of those members have the same place.
    crowded: bool,
}

const PLACES: usize = 64;

/// The place of a [`key`]. No two of the usual names of a token have the same.
const fn place(key: u64) -> usize {
    const SPREAD: u64 = 0xfa0b_8518_8296_f5eb;
    (key.wrapping_mul(SPREAD) >> 58) as usize
}

impl Tape {
    pub(crate) fn new() -> Self {
        Self {
            text: Box::new([0; _]),
            quotes: Box::new([0; _]),
            nodes: Box::new([Node::default(); MAX_NODES]),
            places: Box::new([0; PLACES]),
            crowded: false,
        }
    }

    /// Where to put the text. There is room for more than that, which does not count.
    pub(crate) fn text(&mut self) -> &mut [u8] {
        &mut *self.text
    }

    /// Reads the first `len` bytes of the text as a whole, decoding its strings in place. `between` is called after each
    /// member of the outermost object.
    #[inline(always)]
    pub(crate) fn read(&mut self, len: usize, between: impl FnMut()) -> Result<Value<'_>, JsonError> {
        let Self { text, quotes, nodes, places, crowded } = self;
        if len > MAX_JSON {
            return Err(JsonError::Limit);
        }
        text[len..len + BLOCK + WORD].fill(0);
        let is_plain = find_quotes(text, len, quotes);
        let mut between = between;
        let read = is_plain && usual::read(text, len, quotes, nodes, places, &mut between);
        *crowded = false;
        if !read {
            let mut reader = Reader { text, quotes, len, is_plain, nodes, count: 0 };
            *crowded = reader.read(places, &mut between)? == Seen::Crowd;
        }
        // At the end, once and for all strings: escapes were decoded to whole characters, so nothing that was not UTF-8
        // has become so.
        if !is_plain && core::str::from_utf8(&self.text[..len]).is_err() {
            return Err(JsonError::Syntax);
        }
        Ok(Value { tape: self, index: 0 })
    }
}

/// A value of a text that was read whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a> {
    /// The nodes up to the end of the root's are its text's.
    tape: &'a Tape,
    index: usize,
}

impl<'a> Value<'a> {
    #[inline(always)]
    fn node(self) -> &'a Node {
        // An index is always below; the remainder is cheaper than the check.
        &self.tape.nodes[self.index % MAX_NODES]
    }

    pub(crate) fn kind(self) -> Kind {
        self.node().kind
    }

    pub(crate) fn is_object(self) -> bool {
        self.kind() == Kind::Object
    }

    /// The member of an object with this name.
    pub(crate) fn get(self, name: &str) -> Option<Value<'a>> {
        if !self.is_object() {
            return None;
        }
        let key = key(name.as_bytes());
        self.children().find(|child| child.key() == key && child.name() == name.as_bytes())
    }

    /// The outermost object's member with a name of up to seven bytes, by its [`key`].
    #[inline(always)]
    pub(crate) fn outermost(self, key: u64) -> Option<Value<'a>> {
        if self.tape.crowded {
            return self.outermost_in_a_crowd(key);
        }
        let member = Value { index: usize::from(self.tape.places[place(key)]), ..self };
        (member.index != 0 && member.key() == key).then_some(member)
    }

    #[cold]
    #[inline(never)]
    fn outermost_in_a_crowd(self, key: u64) -> Option<Value<'a>> {
        let root = Value { index: 0, ..self };
        root.children().find(|member| root.is_object() && member.key() == key)
    }

    /// Members or elements, in order.
    pub(crate) fn children(self) -> impl Iterator<Item = Value<'a>> + Clone {
        let end = usize::from(self.node().end);
        let mut next = self.index + 1;
        core::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let child = Value { index: next, ..self };
            next = child.node().end.into();
            Some(child)
        })
    }

    pub(crate) fn name(self) -> &'a [u8] {
        self.node().name.of(&*self.tape.text)
    }

    /// [`key`] of the name.
    pub(crate) fn key(self) -> u64 {
        self.node().key
    }

    /// The bytes of a string.
    #[inline(always)]
    pub(crate) fn as_bytes(self) -> Option<&'a [u8]> {
        let node = self.node();
        (node.kind == Kind::String).then(|| node.text.of(&*self.tape.text))
    }

    pub(crate) fn as_str(self) -> Option<&'a str> {
        // Of a text that is UTF-8 as a whole, so this never fails.
        core::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The elements of an array.
    pub(crate) fn as_array(self) -> Option<impl Iterator<Item = Value<'a>> + Clone> {
        (self.kind() == Kind::Array).then(|| self.children())
    }

    /// A number written as a plain non-negative integer: no sign, fraction or exponent, and not above `max`.
    pub(crate) fn as_integer(self, max: u64) -> Option<u64> {
        let node = self.node();
        (node.kind == Kind::Number && node.integer != NO_INTEGER && node.integer <= max)
            .then_some(node.integer)
    }

    /// The literal text of a number.
    pub(crate) fn number(self) -> Option<&'a [u8]> {
        let node = self.node();
        (node.kind == Kind::Number).then(|| node.text.of(&*self.tape.text))
    }
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
