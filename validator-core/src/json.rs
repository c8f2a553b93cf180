//! A strict JSON reader (RFC 8259) for tokens: one pass, in place, into a caller-held tape.
//!
//! Stricter than common readers where tokens were broken before: duplicate names are refused at every level, also when
//! one of them is escaped; lone surrogates, control characters, a byte order mark and bytes after the text are
//! refused; depth, members and values are bounded. Escapes are decoded in place (the decoded form is never longer), so
//! strings are slices of the text.

use crate::limits::{MAX_DEPTH, MAX_MEMBERS, MAX_NODES};
use alloc::vec::Vec;

/// The text is not JSON, or over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonError {
    Syntax,
    Duplicate,
    Limit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

/// One value. Offsets fit 16 bits: [`crate::limits::MAX_TOKEN`] is below that.
#[derive(Debug, Clone, Copy)]
struct Node {
    kind: Kind,
    /// Name of the member, empty for elements and the root.
    name: Span,
    /// Text of a scalar: without quotes and decoded for a string, literal for a number.
    text: Span,
    /// Index one past the last descendant.
    end: u16,
}

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u16,
    len: u16,
}

impl Span {
    fn of(self, text: &[u8]) -> &[u8] {
        let start = usize::from(self.start);
        text.get(start..start + usize::from(self.len)).unwrap_or_default()
    }
}

/// The values of one text in document order. Holds capacity for [`MAX_NODES`] from the start.
#[derive(Debug)]
pub(crate) struct Tape {
    nodes: Vec<Node>,
}

impl Tape {
    pub(crate) fn new() -> Self {
        Self { nodes: Vec::with_capacity(MAX_NODES) }
    }

    /// Reads a whole text, decoding its strings in place.
    pub(crate) fn read<'a>(&'a mut self, text: &'a mut [u8]) -> Result<Value<'a>, JsonError> {
        self.nodes.clear();
        if text.len() > usize::from(u16::MAX) {
            return Err(JsonError::Limit);
        }
        if core::str::from_utf8(text).is_err() {
            return Err(JsonError::Syntax);
        }
        let mut reader = Reader { text, at: 0, nodes: &mut self.nodes };
        reader.skip_space();
        reader.value(Span::default(), 1)?;
        reader.skip_space();
        if reader.at != reader.text.len() {
            return Err(JsonError::Syntax);
        }
        Ok(Value { text, nodes: &self.nodes, index: 0 })
    }
}

/// A value of a text that was read whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Value<'a> {
    text: &'a [u8],
    nodes: &'a [Node],
    index: usize,
}

impl<'a> Value<'a> {
    pub(crate) fn kind(self) -> Kind {
        self.nodes[self.index].kind
    }

    pub(crate) fn is_object(self) -> bool {
        self.kind() == Kind::Object
    }

    /// The member of an object with this name.
    pub(crate) fn get(self, name: &str) -> Option<Value<'a>> {
        if !self.is_object() {
            return None;
        }
        self.children().find(|child| child.name() == name.as_bytes())
    }

    /// Members or elements, in order.
    pub(crate) fn children(self) -> impl Iterator<Item = Value<'a>> + Clone {
        let end = usize::from(self.nodes[self.index].end);
        let mut next = self.index + 1;
        core::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let child = Value { index: next, ..self };
            next = usize::from(self.nodes[next].end);
            Some(child)
        })
    }

    pub(crate) fn name(self) -> &'a [u8] {
        self.nodes[self.index].name.of(self.text)
    }

    pub(crate) fn as_str(self) -> Option<&'a str> {
        if self.kind() != Kind::String {
            return None;
        }
        core::str::from_utf8(self.nodes[self.index].text.of(self.text)).ok()
    }

    /// The elements of an array.
    pub(crate) fn as_array(self) -> Option<impl Iterator<Item = Value<'a>> + Clone> {
        (self.kind() == Kind::Array).then(|| self.children())
    }

    /// A number written as a plain non-negative integer: no sign, fraction or exponent, and not above `max`.
    pub(crate) fn as_integer(self, max: u64) -> Option<u64> {
        let digits = self.number()?;
        let mut value: u64 = 0;
        for &digit in digits {
            if !digit.is_ascii_digit() {
                return None;
            }
            value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
        }
        (value <= max).then_some(value)
    }

    /// The literal text of a number.
    pub(crate) fn number(self) -> Option<&'a [u8]> {
        (self.kind() == Kind::Number).then(|| self.nodes[self.index].text.of(self.text))
    }
}

struct Reader<'r> {
    text: &'r mut [u8],
    at: usize,
    nodes: &'r mut Vec<Node>,
}

impl Reader<'_> {
    fn value(&mut self, name: Span, depth: usize) -> Result<(), JsonError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(JsonError::Limit);
        }
        let index = self.nodes.len();
        self.nodes.push(Node { kind: Kind::Null, name, text: Span::default(), end: 0 });
        let (kind, text) = match self.peek() {
            Some(b'{') => {
                self.object(index, depth)?;
                (Kind::Object, Span::default())
            }
            Some(b'[') => {
                self.array(depth)?;
                (Kind::Array, Span::default())
            }
            Some(b'"') => (Kind::String, self.string()?),
            Some(b't') => (Kind::Bool, self.literal(b"true")?),
            Some(b'f') => (Kind::Bool, self.literal(b"false")?),
            Some(b'n') => (Kind::Null, self.literal(b"null")?),
            _ => (Kind::Number, self.number()?),
        };
        let end = to_u16(self.nodes.len())?;
        self.nodes[index] = Node { kind, name, text, end };
        Ok(())
    }

    fn object(&mut self, index: usize, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.take_if(b'}') {
            return Ok(());
        }
        for _ in 0..MAX_MEMBERS {
            if self.peek() != Some(b'"') {
                return Err(JsonError::Syntax);
            }
            let name = self.string()?;
            self.refuse_duplicate(index, name)?;
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            self.value(name, depth + 1)?;
            self.skip_space();
            if self.take_if(b'}') {
                return Ok(());
            }
            self.expect(b',')?;
            self.skip_space();
        }
        Err(JsonError::Limit)
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        self.open(depth)?;
        if self.take_if(b']') {
            return Ok(());
        }
        loop {
            self.value(Span::default(), depth + 1)?;
            self.skip_space();
            if self.take_if(b']') {
                return Ok(());
            }
            self.expect(b',')?;
            self.skip_space();
        }
    }

    /// Takes the opening bracket.
    fn open(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::Limit);
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// Compares a new name with the earlier members of the object at `index`.
    fn refuse_duplicate(&self, index: usize, name: Span) -> Result<(), JsonError> {
        let name = name.of(self.text);
        let mut sibling = index + 1;
        while let Some(node) = self.nodes.get(sibling) {
            if node.name.of(self.text) == name {
                return Err(JsonError::Duplicate);
            }
            sibling = usize::from(node.end);
        }
        Ok(())
    }

    fn string(&mut self) -> Result<Span, JsonError> {
        let start = self.at + 1;
        let rest = self.text.get(start..).unwrap_or_default();
        let notable = |&byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
        let at = start + rest.iter().position(notable).ok_or(JsonError::Syntax)?;
        // Most strings hold no escape and stay as they are.
        match self.text[at] {
            b'"' => {
                self.at = at + 1;
                span(start, at)
            }
            b'\\' => self.escaped_string(start, at),
            _ => Err(JsonError::Syntax),
        }
    }

    /// The rest of a string whose first escape is at `at`: decodes in place.
    fn escaped_string(&mut self, start: usize, at: usize) -> Result<Span, JsonError> {
        let (mut read, mut write) = (at, at);
        loop {
            match self.text.get(read).copied() {
                Some(b'"') => {
                    self.at = read + 1;
                    return span(start, write);
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

    fn number(&mut self) -> Result<Span, JsonError> {
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
        span(start, self.at)
    }

    /// One digit or more.
    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(JsonError::Syntax) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<Span, JsonError> {
        let end = self.at + word.len();
        if self.text.get(self.at..end) != Some(word) {
            return Err(JsonError::Syntax);
        }
        let text = span(self.at, end);
        self.at = end;
        text
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take_if(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.take_if(byte) { Ok(()) } else { Err(JsonError::Syntax) }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }
}

fn span(start: usize, end: usize) -> Result<Span, JsonError> {
    Ok(Span { start: to_u16(start)?, len: to_u16(end - start)? })
}

fn to_u16(value: usize) -> Result<u16, JsonError> {
    u16::try_from(value).map_err(|_| JsonError::Limit)
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
