//! Any text: with white space, escapes and other characters than those of ASCII, and names of which two may be the same.

use super::text::{Quotes, Text, WORD, digits, next_quote, string_ends, word};
use super::{JsonError, Kind, NO_INTEGER, Node, PLACES, Span, key, key_of, place};
use crate::limits::{MAX_DEPTH, MAX_MEMBERS, MAX_NODES};

/// Whether names of an object's members have places of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Apart,
    Crowd,
}

/// What reads a text. The place that it is at is handed from step to step, so that it stays in a register.
pub(super) struct Reader<'r> {
    /// With zeros behind it.
    pub(super) text: &'r mut Text,
    pub(super) quotes: &'r Quotes,
    pub(super) len: usize,
    pub(super) is_plain: bool,
    pub(super) nodes: &'r mut [Node; MAX_NODES],
    /// Nodes so far.
    pub(super) count: usize,
}

impl Reader<'_> {
    /// The whole text.
    #[inline(never)]
    pub(super) fn read(
        &mut self,
        places: &mut [u16; PLACES],
        between: impl FnMut(),
    ) -> Result<Seen, JsonError> {
        let (seen, end) = self.outermost(places, between)?;
        if self.next(end).1 == self.len { Ok(seen) } else { Err(JsonError::Syntax) }
    }

    /// The root. Gives the place behind it.
    #[inline(always)]
    fn outermost(
        &mut self,
        places: &mut [u16; PLACES],
        between: impl FnMut(),
    ) -> Result<(Seen, usize), JsonError> {
        let (first, at) = self.next(0);
        if first != b'{' {
            return Ok((Seen::Crowd, self.value(at, Span::default(), 0, 1)?));
        }
        places.fill(0);
        self.count = 1;
        let (seen, end) = self.members(at, 1, |key, node| places[place(key)] = node as u16, between)?;
        self.nodes[0] = Node { end: self.count as u16, kind: Kind::Object, ..Node::default() };
        Ok((seen, end))
    }

    /// A value whose first byte is at a place. Gives the place behind it, as everything here does.
    #[inline(always)]
    fn value(&mut self, at: usize, name: Span, key: u64, depth: usize) -> Result<usize, JsonError> {
        let index = self.count;
        if index >= MAX_NODES {
            return Err(JsonError::Limit);
        }
        self.count = index + 1;
        let mut integer = NO_INTEGER;
        let (kind, text, end) = match self.byte(at) {
            b'"' => {
                let (text, _, end) = self.string(at)?;
                (Kind::String, text, end)
            }
            b'0'..=b'9' | b'-' => {
                let end = self.number(at, &mut integer)?;
                (Kind::Number, Span::new(at, end), end)
            }
            _ => self.uncommon(at, depth)?,
        };
        self.nodes[index] = Node { key, name, text, integer, end: self.count as u16, kind };
        Ok(end)
    }

    #[inline(never)]
    pub(super) fn uncommon(&mut self, at: usize, depth: usize) -> Result<(Kind, Span, usize), JsonError> {
        let (kind, end) = match self.byte(at) {
            b'{' => (Kind::Object, self.members(at, depth, |_, _| (), || ())?.1),
            b'[' => (Kind::Array, self.array(at, depth)?),
            b't' => (Kind::Bool, self.literal(at, b"true")?),
            b'f' => (Kind::Bool, self.literal(at, b"false")?),
            b'n' => (Kind::Null, self.literal(at, b"null")?),
            _ => return Err(JsonError::Syntax),
        };
        Ok((kind, Span::default(), end))
    }

    /// The members of an object whose bracket is at a place. `tell` is told each one's key and node.
    #[inline(always)]
    fn members(
        &mut self,
        at: usize,
        depth: usize,
        mut tell: impl FnMut(u64, usize),
        mut between: impl FnMut(),
    ) -> Result<(Seen, usize), JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::Limit);
        }
        let (mut byte, mut at) = self.next(at + 1);
        if byte == b'}' {
            return Ok((Seen::Apart, at + 1));
        }
        let first = self.count;
        let mut seen = 0_u64;
        let mut crowd = Seen::Apart;
        for _ in 0..MAX_MEMBERS {
            if byte != b'"' {
                return Err(JsonError::Syntax);
            }
            let (name, key, end) = self.string(at)?;
            // Most names are told to be new by one bit.
            let bit = 1 << place(key);
            if seen & bit != 0 {
                self.refuse_duplicate(first, name)?;
                crowd = Seen::Crowd;
            }
            seen |= bit;
            tell(key, self.count);
            let (colon, end) = self.next(end);
            if colon != b':' {
                return Err(JsonError::Syntax);
            }
            let (_, value) = self.next(end + 1);
            let end = self.value(value, name, key, depth + 1)?;
            let (goes_on, end) = self.goes_on(end, b'}')?;
            between();
            if !goes_on {
                return Ok((crowd, end));
            }
            (byte, at) = self.next(end);
        }
        Err(JsonError::Limit)
    }

    fn array(&mut self, at: usize, depth: usize) -> Result<usize, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::Limit);
        }
        let (byte, mut at) = self.next(at + 1);
        if byte == b']' {
            return Ok(at + 1);
        }
        loop {
            let end = self.value(at, Span::default(), 0, depth + 1)?;
            let (goes_on, end) = self.goes_on(end, b']')?;
            if !goes_on {
                return Ok(end);
            }
            (_, at) = self.next(end);
        }
    }

    /// Takes what follows a member or an element: a comma, or the closing bracket.
    #[inline(always)]
    fn goes_on(&self, at: usize, closing: u8) -> Result<(bool, usize), JsonError> {
        let (byte, at) = self.next(at);
        if byte != b',' && byte != closing {
            return Err(JsonError::Syntax);
        }
        Ok((byte == b',', at + 1))
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
            sibling = node.end.into();
        }
        Ok(())
    }

    /// A string whose opening quote is at a place, and its [`key`].
    #[inline(always)]
    fn string(&mut self, at: usize) -> Result<(Span, u64, usize), JsonError> {
        let start = at + 1;
        if !self.is_plain {
            return self.any_string(start);
        }
        let end = next_quote(self.quotes, self.len, start);
        if end >= self.len {
            return Err(JsonError::Syntax);
        }
        Ok((
            Span::new(start, end),
            key_of(word(self.text, start).ok_or(JsonError::Syntax)?, end - start),
            end + 1,
        ))
    }

    /// A string of a text that is not plain. Most hold no escape even there.
    #[inline(never)]
    fn any_string(&mut self, start: usize) -> Result<(Span, u64, usize), JsonError> {
        let first = word(self.text, start).ok_or(JsonError::Syntax)?;
        let mut at = start;
        let mut ends = string_ends(first);
        while ends == 0 {
            at += WORD;
            ends = string_ends(word(self.text, at).ok_or(JsonError::Syntax)?);
        }
        at += (ends.trailing_zeros() / 8) as usize;
        if self.byte(at) == b'"' {
            return Ok((Span::new(start, at), key_of(first, at - start), at + 1));
        }
        self.escaped_string(start, at)
    }

    /// The rest of a string whose first escape is at `at`: decodes in place.
    #[cold]
    #[inline(never)]
    fn escaped_string(&mut self, start: usize, at: usize) -> Result<(Span, u64, usize), JsonError> {
        let (mut read, mut write) = (at, at);
        loop {
            match self.text.get(read).copied() {
                Some(b'"') => {
                    // What is left over may be the half of a character.
                    self.text[write..read].fill(b' ');
                    let decoded = Span::new(start, write);
                    return Ok((decoded, key(decoded.of(&*self.text)), read + 1));
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

    /// A number that starts at a place, and its value as of [`Node::integer`].
    #[inline(always)]
    fn number(&self, start: usize, integer: &mut u64) -> Result<usize, JsonError> {
        let (value, end) = digits(self.text, start);
        if value != NO_INTEGER && !matches!(self.byte(end), b'.' | b'e' | b'E') {
            *integer = value;
            return Ok(end);
        }
        let end = self.any_number(start)?;
        if Span::new(start, end).of(self.text) == b"0" {
            *integer = 0;
        }
        Ok(end)
    }

    #[cold]
    #[inline(never)]
    fn any_number(&self, start: usize) -> Result<usize, JsonError> {
        let mut at = start + usize::from(self.byte(start) == b'-');
        at = if self.byte(at) == b'0' { at + 1 } else { self.some_digits(at)? };
        if self.byte(at) == b'.' {
            at = self.some_digits(at + 1)?;
        }
        if matches!(self.byte(at), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(at + 1), b'+' | b'-'));
            at = self.some_digits(at + 1 + sign)?;
        }
        Ok(at)
    }

    /// One digit or more.
    fn some_digits(&self, start: usize) -> Result<usize, JsonError> {
        let mut at = start;
        while self.byte(at).is_ascii_digit() {
            at += 1;
        }
        if at == start { Err(JsonError::Syntax) } else { Ok(at) }
    }

    fn literal(&self, at: usize, word: &[u8]) -> Result<usize, JsonError> {
        let end = at + word.len();
        if self.text.get(at..end) == Some(word) { Ok(end) } else { Err(JsonError::Syntax) }
    }

    /// The byte at a place; zero beyond the end.
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or_default()
    }

    /// The next byte that is no white space, of which there mostly is none, and its place.
    #[inline(always)]
    fn next(&self, at: usize) -> (u8, usize) {
        let byte = self.byte(at);
        if byte > b' ' { (byte, at) } else { self.next_behind_space(at) }
    }

    #[cold]
    #[inline(never)]
    fn next_behind_space(&self, mut at: usize) -> (u8, usize) {
        while matches!(self.byte(at), b' ' | b'\t' | b'\n' | b'\r') {
            at += 1;
        }
        (self.byte(at), at)
    }
}
