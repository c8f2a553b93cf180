//! A strict JSON reader (RFC 8259) for tokens: one pass, in place, into a caller-held tape.
//!
//! Stricter than common readers where tokens were broken before: duplicate names are refused at every level, also when
//! one of them is escaped; lone surrogates, control characters, a byte order mark and bytes after the text are
//! refused; depth, members and values are bounded. Escapes are decoded in place (the decoded form is never longer), so
//! strings are slices of the text.
//!
//! Every request is read by it, so bytes are looked at eight at a time where there are more than a few of them. Behind the
//! text there are always zeros, which no JSON text contains: they end every search, and no place needs a look at the length.

use crate::limits::{MAX_DEPTH, MAX_JSON, MAX_MEMBERS, MAX_NODES};
use alloc::boxed::Box;

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
    end: usize,
    kind: Kind,
}

/// Stands for everything that is no plain integer. No claim may have a value as high as this.
const NO_INTEGER: u64 = u64::MAX;

/// Where in a text something starts, and where what follows does.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }

    fn of_text(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// Bytes that are looked at together.
const WORD: usize = 8;

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

const fn key_of(word: u64, len: usize) -> u64 {
    // A longer name only has to differ from the short ones.
    let bytes = if len < WORD { len } else { WORD - 1 };
    let kept = word & ((1 << (8 * bytes)) - 1);
    let len = if len < 255 { len } else { 255 };
    kept | (len as u64) << 56
}

/// Room for a text, and for zeros behind it. The length is known to the compiler, so that few places are checked.
type Text = [u8; MAX_JSON + WORD];

/// A text and its values in document order. Holds room for both from the start.
#[derive(Debug)]
pub(crate) struct Tape {
    text: Box<Text>,
    nodes: Box<[Node; MAX_NODES]>,
    /// For each [`place`] the outermost object's last member there: the index of its node, or zero, the root's, for none.
    places: Box<[usize; PLACES]>,
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
            text: Box::new([0; MAX_JSON + WORD]),
            nodes: Box::new([Node::default(); MAX_NODES]),
            places: Box::new([0; PLACES]),
            crowded: false,
        }
    }

    /// Where to put the text.
    pub(crate) fn text(&mut self) -> &mut [u8] {
        &mut self.text[..MAX_JSON]
    }

    /// Reads the first `len` bytes of the text as a whole, decoding its strings in place. `between` is called after each
    /// member of the outermost object.
    pub(crate) fn read(&mut self, len: usize, between: impl FnMut()) -> Result<Value<'_>, JsonError> {
        let Self { text, nodes, places, crowded } = self;
        text.get_mut(len..len + WORD).ok_or(JsonError::Limit)?.fill(0);
        let mut reader = Reader { text, at: 0, nodes, count: 0 };
        *crowded = reader.outermost(places, between)?;
        reader.next();
        if reader.at != len {
            return Err(JsonError::Syntax);
        }
        // At the end, once and for all strings: escapes were decoded to whole characters, so nothing that was not UTF-8
        // has become so.
        let text = core::str::from_utf8(&self.text[..len]).map_err(|_| JsonError::Syntax)?;
        Ok(Value { text, tape: self, index: 0 })
    }
}

/// A value of a text that was read whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a> {
    text: &'a str,
    /// The nodes up to the end of the root's are this text's.
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
        let member = Value { index: self.tape.places[place(key)], ..self };
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
        let end = self.node().end;
        let mut next = self.index + 1;
        core::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let child = Value { index: next, ..self };
            next = child.node().end;
            Some(child)
        })
    }

    pub(crate) fn name(self) -> &'a [u8] {
        self.node().name.of(self.text.as_bytes())
    }

    /// [`key`] of the name.
    pub(crate) fn key(self) -> u64 {
        self.node().key
    }

    pub(crate) fn as_str(self) -> Option<&'a str> {
        let node = self.node();
        (node.kind == Kind::String).then(|| node.text.of_text(self.text))
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
        (node.kind == Kind::Number).then(|| node.text.of(self.text.as_bytes()))
    }
}

/// Whether names of an object's members have places of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Apart,
    Crowd,
}

struct Reader<'r> {
    /// With zeros behind it.
    text: &'r mut Text,
    at: usize,
    nodes: &'r mut [Node; MAX_NODES],
    count: usize,
}

impl Reader<'_> {
    /// The root. Tells whether two members of it have the same place.
    #[inline(always)]
    fn outermost(&mut self, places: &mut [usize; PLACES], between: impl FnMut()) -> Result<bool, JsonError> {
        if self.next() != b'{' {
            self.value(Span::default(), 0, 1)?;
            return Ok(true);
        }
        places.fill(0);
        self.count = 1;
        let seen = self.members(1, |key, node| places[place(key)] = node, between)?;
        self.nodes[0] = Node { end: self.count, kind: Kind::Object, ..Node::default() };
        Ok(seen == Seen::Crowd)
    }

    #[inline(always)]
    fn value(&mut self, name: Span, key: u64, depth: usize) -> Result<(), JsonError> {
        let index = self.count;
        if index >= MAX_NODES {
            return Err(JsonError::Limit);
        }
        self.count = index + 1;
        let mut integer = NO_INTEGER;
        let (kind, text) = match self.next() {
            b'"' => (Kind::String, self.string()?.0),
            b'0'..=b'9' | b'-' => (Kind::Number, self.number(&mut integer)?),
            other => self.uncommon(other, depth)?,
        };
        self.nodes[index] = Node { key, name, text, integer, end: self.count, kind };
        Ok(())
    }

    #[inline(never)]
    fn uncommon(&mut self, first: u8, depth: usize) -> Result<(Kind, Span), JsonError> {
        Ok(match first {
            b'{' => {
                self.object(depth)?;
                (Kind::Object, Span::default())
            }
            b'[' => {
                self.array(depth)?;
                (Kind::Array, Span::default())
            }
            b't' => (Kind::Bool, self.literal(b"true")?),
            b'f' => (Kind::Bool, self.literal(b"false")?),
            b'n' => (Kind::Null, self.literal(b"null")?),
            _ => return Err(JsonError::Syntax),
        })
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        self.members(depth, |_, _| (), || ()).map(drop)
    }

    /// An object. `tell` is told each member's key and node.
    #[inline(always)]
    fn members(
        &mut self,
        depth: usize,
        mut tell: impl FnMut(u64, usize),
        mut between: impl FnMut(),
    ) -> Result<Seen, JsonError> {
        self.open(depth)?;
        if self.next() == b'}' {
            self.at += 1;
            return Ok(Seen::Apart);
        }
        let first = self.count;
        let mut seen = 0_u64;
        let mut crowd = Seen::Apart;
        for _ in 0..MAX_MEMBERS {
            if self.next() != b'"' {
                return Err(JsonError::Syntax);
            }
            let (name, key) = self.string()?;
            // Most names are told to be new by one bit.
            let bit = 1 << place(key);
            if seen & bit != 0 {
                self.refuse_duplicate(first, name)?;
                crowd = Seen::Crowd;
            }
            seen |= bit;
            tell(key, self.count);
            if self.next() != b':' {
                return Err(JsonError::Syntax);
            }
            self.at += 1;
            self.value(name, key, depth + 1)?;
            let goes_on = self.goes_on(b'}')?;
            between();
            if !goes_on {
                return Ok(crowd);
            }
        }
        Err(JsonError::Limit)
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.next() == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(Span::default(), 0, depth + 1)?;
            if !self.goes_on(b']')? {
                return Ok(());
            }
        }
    }

    /// Takes the opening bracket.
    fn open(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::Limit);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes what follows a member or an element: a comma, or the closing bracket.
    #[inline(always)]
    fn goes_on(&mut self, closing: u8) -> Result<bool, JsonError> {
        let byte = self.next();
        self.at += 1;
        if byte != b',' && byte != closing {
            return Err(JsonError::Syntax);
        }
        Ok(byte == b',')
    }

    /// Compares a new name with the earlier members of the object whose first one is at `first`.
    #[inline(never)]
    fn refuse_duplicate(&self, first: usize, name: Span) -> Result<(), JsonError> {
        let name = name.of(&*self.text);
        let mut sibling = first;
        while sibling < self.count {
            let node = self.nodes[sibling];
            if node.name.of(&*self.text) == name {
                return Err(JsonError::Duplicate);
            }
            sibling = node.end;
        }
        Ok(())
    }

    /// A string, and its [`key`].
    #[inline(always)]
    fn string(&mut self) -> Result<(Span, u64), JsonError> {
        let start = self.at + 1;
        let first = self.word(start)?;
        let mut at = start;
        let mut ends = string_ends(first);
        while ends == 0 {
            at += WORD;
            ends = string_ends(self.word(at)?);
        }
        at += (ends.trailing_zeros() / 8) as usize;
        // Most strings hold no escape and stay as they are.
        if self.text.get(at) == Some(&b'"') {
            self.at = at + 1;
            return Ok((Span { start, end: at }, key_of(first, at - start)));
        }
        self.escaped_string(start, at)
    }

    /// The rest of a string whose first escape is at `at`: decodes in place.
    #[cold]
    #[inline(never)]
    fn escaped_string(&mut self, start: usize, at: usize) -> Result<(Span, u64), JsonError> {
        let (mut read, mut write) = (at, at);
        loop {
            match self.text.get(read).copied() {
                Some(b'"') => {
                    self.at = read + 1;
                    // What is left over may be the half of a character.
                    self.text[write..read].fill(b' ');
                    let decoded = Span { start, end: write };
                    return Ok((decoded, key(decoded.of(&*self.text))));
                }
                Some(b'\\') => {
                    let (decoded, next) = self.escape(read + 1)?;
                    let mut utf8 = [0; 4];
                    for &byte in decoded.encode_utf8(&mut utf8).as_bytes() {
                        self.text[write] = byte;
                        write += 1;
                    }
                    read = next;
                }
                Some(0..=0x1f) | None => return Err(JsonError::Syntax),
                Some(byte) => {
                    self.text[write] = byte;
                    write += 1;
                    read += 1;
                }
            }
        }
    }

    /// The character of the escape whose letter is at `at`, and the position after it.
    fn escape(&self, at: usize) -> Result<(char, usize), JsonError> {
        let simple = match self.text.get(at) {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(at + 1),
            _ => return Err(JsonError::Syntax),
        };
        Ok((simple, at + 1))
    }

    fn unicode_escape(&self, at: usize) -> Result<(char, usize), JsonError> {
        let first = self.hex4(at)?;
        if !(0xd800..0xe000).contains(&first) {
            return Ok((char::from_u32(first).ok_or(JsonError::Syntax)?, at + 4));
        }
        if first >= 0xdc00 || self.text.get(at + 4..at + 6) != Some(b"\\u") {
            return Err(JsonError::Syntax);
        }
        let second = self.hex4(at + 6)?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(JsonError::Syntax);
        }
        let joined = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        Ok((char::from_u32(joined).ok_or(JsonError::Syntax)?, at + 10))
    }

    fn hex4(&self, at: usize) -> Result<u32, JsonError> {
        let digits = self.text.get(at..at + 4).ok_or(JsonError::Syntax)?;
        digits.iter().try_fold(0, |value, &digit| {
            char::from(digit).to_digit(16).map(|digit| value << 4 | digit).ok_or(JsonError::Syntax)
        })
    }

    #[inline(always)]
    fn number(&mut self, integer: &mut u64) -> Result<Span, JsonError> {
        let start = self.at;
        let mut at = start;
        let mut value = 0;
        // Times have ten digits.
        let word = self.word(start)?;
        if are_digits(word) {
            value = eight_digits(word);
            at += WORD;
        }
        while let Some(digit) =
            self.text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9)
        {
            value = u64::wrapping_add(u64::wrapping_mul(value, 10), u64::from(digit));
            at += 1;
        }
        // Nineteen digits are below what stands for none.
        let plain = (start + 1..start + 20).contains(&at) && self.text.get(start) != Some(&b'0');
        if plain && !matches!(self.text.get(at), Some(b'.' | b'e' | b'E')) {
            *integer = value;
            self.at = at;
            return Ok(Span { start, end: at });
        }
        let text = self.any_number()?;
        if text.of(&*self.text) == b"0" {
            *integer = 0;
        }
        Ok(text)
    }

    #[cold]
    #[inline(never)]
    fn any_number(&mut self) -> Result<Span, JsonError> {
        let start = self.at;
        self.take_if(b'-');
        if !self.take_if(b'0') {
            self.digits()?;
        }
        if self.take_if(b'.') {
            self.digits()?;
        }
        if self.take_if(b'e') || self.take_if(b'E') {
            let _signed = self.take_if(b'+') || self.take_if(b'-');
            self.digits()?;
        }
        Ok(Span { start, end: self.at })
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start { Err(JsonError::Syntax) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<Span, JsonError> {
        let end = self.at + word.len();
        if self.text.get(self.at..end) != Some(word) {
            return Err(JsonError::Syntax);
        }
        let text = Span { start: self.at, end };
        self.at = end;
        Ok(text)
    }

    /// The byte at hand; zero at the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or_default()
    }

    /// The next byte that is no white space, of which there mostly is none.
    #[inline(always)]
    fn next(&mut self) -> u8 {
        let byte = self.peek();
        if byte > b' ' { byte } else { self.next_behind_space() }
    }

    #[cold]
    #[inline(never)]
    fn next_behind_space(&mut self) -> u8 {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        self.peek()
    }

    /// The next [`WORD`] bytes from a place in the text, the first one lowest.
    fn word(&self, at: usize) -> Result<u64, JsonError> {
        let bytes = self.text.get(at..).and_then(<[u8]>::first_chunk).ok_or(JsonError::Syntax)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn take_if(&mut self, byte: u8) -> bool {
        let there = self.peek() == byte;
        self.at += usize::from(there);
        there
    }
}

/// The bytes of a word that end a string or are more than they look like: quote, backslash, control characters. They have
/// their highest bit set in the answer. Above the lowest one that is set others may be set that are none of these.
const fn string_ends(word: u64) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (LOW * b'"' as u64);
    let backslash = word ^ (LOW * b'\\' as u64);
    let quote = quote.wrapping_sub(LOW) & !quote;
    let backslash = backslash.wrapping_sub(LOW) & !backslash;
    let control = word.wrapping_sub(LOW * 0x20) & !word;
    (quote | backslash | control) & HIGH
}

/// Whether all bytes of a word are digits.
const fn are_digits(word: u64) -> bool {
    const HIGH_HALVES: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    // Six above a digit is still among the threes, and above anything beyond the nine it is not.
    word & HIGH_HALVES == ZEROS && word.wrapping_add(0x0606_0606_0606_0606) & HIGH_HALVES == ZEROS
}

/// The value of eight digits, the first one lowest in the word: neighbours are joined, then pairs, then fours.
const fn eight_digits(word: u64) -> u64 {
    let digits = word & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (digits.wrapping_mul(2561) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(6_553_601) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(42_949_672_960_001) >> 32
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
