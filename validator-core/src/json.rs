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

use crate::bytes::WINDOW;
use crate::limits::{MAX_DEPTH, MAX_JSON, MAX_MEMBERS, MAX_NODES};
use alloc::boxed::Box;
use wide::u8x16;

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

/// Bytes of a word.
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

/// Bytes of a text that a word of [`Quotes`] is about.
const BLOCK: usize = 64;

/// Room for a text, and for zeros behind it. The length is known to the compiler, so that few places are checked.
type Text = [u8; MAX_JSON + 2 * BLOCK];

/// Which bytes of a text are quotes: a bit for each, the first one lowest. A power of two, so that no place is checked.
type Quotes = [u64; QUOTE_WORDS];

const QUOTE_WORDS: usize = (MAX_JSON / BLOCK + 1).next_power_of_two();

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
        let read = is_plain && read_usual(text, len, quotes, nodes, places, &mut between);
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

/// Finds the quotes. Tells whether the text is plain: ASCII without backslashes and control characters, so that every
/// quote starts or ends a string, and every string stays as it is.
#[inline(always)]
fn find_quotes(text: &Text, len: usize, quotes: &mut Quotes) -> bool {
    let (mut before, mut others) = (0, 0);
    for (block, quotes) in text.as_chunks::<BLOCK>().0[..=len / BLOCK].iter().zip(quotes) {
        before |= others;
        (*quotes, others) = (0, 0);
        // From the last one on, so that every step shifts by the same.
        for window in block.as_chunks().0.iter().rev() {
            let window = u8x16::new(*window);
            let control = window.min(u8x16::splat(0x1f)).simd_eq(window);
            let other = control | window.simd_eq(u8x16::splat(b'\\')) | window;
            let quote = window.simd_eq(u8x16::splat(b'"'));
            *quotes = *quotes << WINDOW | u64::from(quote.to_bitmask());
            others = others << WINDOW | u64::from(other.to_bitmask());
        }
    }
    // Behind the text there are zeros.
    before | others & !(u64::MAX << (len % BLOCK)) == 0
}

/// Reads a plain text whose outermost value is of the usual kind: an object without white space around its names and values,
/// whose names have places of their own. False where it is another, or none; then nothing is said of it.
#[inline(never)]
fn read_usual(
    text: &mut Text,
    len: usize,
    quotes: &Quotes,
    nodes: &mut [Node; MAX_NODES],
    places: &mut [u16; PLACES],
    between: &mut impl FnMut(),
) -> bool {
    const PAIR: u64 = 0xffff;
    const OPEN: u64 = u16::from_le_bytes(*b"{\"") as u64;
    const COLON: u64 = u16::from_le_bytes(*b"\":") as u64;
    const COMMA: u64 = u16::from_le_bytes(*b",\"") as u64;
    let word_at = |text: &Text, at| word(text, at).unwrap_or_default();
    if word_at(text, 0) & PAIR != OPEN {
        return false;
    }
    *places = [0; PLACES];
    let mut seen = 0_u64;
    let mut start = 2;
    let mut count = 1;
    for _ in 0..MAX_MEMBERS {
        let index = count;
        count += 1;
        let end = next_quote(quotes, len, start);
        let key = key_of(word_at(text, start), end - start);
        let place = place(key);
        if seen >> place & 1 != 0 {
            return false;
        }
        seen |= 1 << place;
        places[place] = index as u16;
        let name = Span::new(start, end);
        let after = word_at(text, end);
        if after & PAIR != COLON {
            return false;
        }
        let value = end + 2;
        let mut integer = NO_INTEGER;
        let (kind, span, behind) = match (after >> 16) as u8 {
            b'"' => {
                let end = next_quote(quotes, len, value + 1);
                (Kind::String, Span::new(value + 1, end), end + 1)
            }
            b'1'..=b'9' => {
                let end;
                (integer, end) = digits(text, value);
                (Kind::Number, Span::new(value, end), end)
            }
            b'[' if (after >> 24) as u8 == b']' => (Kind::Array, Span::default(), value + 2),
            _ => {
                let mut reader = Reader { text, quotes, len, is_plain: true, nodes, count };
                let Ok(found) = reader.uncommon(value, 2) else { return false };
                count = reader.count;
                found
            }
        };
        let Some(node) = nodes.get_mut(index) else { return false };
        *node = Node { key, name, text: span, integer, end: count as u16, kind };
        between();
        let after = word_at(text, behind);
        if after & PAIR != COMMA {
            nodes[0] = Node { end: count as u16, kind: Kind::Object, ..Node::default() };
            return after as u8 == b'}' && behind + 1 == len;
        }
        start = behind + 2;
    }
    false
}

/// The first quote at or behind a place; without one, a place behind the text.
#[inline(always)]
fn next_quote(quotes: &Quotes, len: usize, at: usize) -> usize {
    let here = quotes[at / BLOCK % QUOTE_WORDS] >> (at % BLOCK);
    if here == 0 { first_quote(quotes, len, at / BLOCK + 1) } else { at + here.trailing_zeros() as usize }
}

/// The first quote in or behind a block; without one, a place behind the text.
#[inline(never)]
fn first_quote(quotes: &Quotes, len: usize, block: usize) -> usize {
    let mut block = block;
    loop {
        let here = if block > len / BLOCK { u64::MAX } else { quotes[block % QUOTE_WORDS] };
        if here != 0 {
            return block * BLOCK + here.trailing_zeros() as usize;
        }
        block += 1;
    }
}

/// The next [`WORD`] bytes from a place in the text, the first one lowest.
#[inline(always)]
fn word(text: &Text, at: usize) -> Option<u64> {
    text.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The value of the digits at a place, as far as [`Node::integer`] goes, and the place behind them.
#[inline(always)]
fn digits(text: &Text, start: usize) -> (u64, usize) {
    let mut at = start;
    let mut value = 0;
    // Times have ten digits.
    if let Some(word) = word(text, start).filter(|word| are_digits(*word)) {
        value = eight_digits(word);
        at += WORD;
    }
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit <= 9) {
        value = u64::wrapping_add(u64::wrapping_mul(value, 10), u64::from(digit));
        at += 1;
    }
    // Nineteen digits are below what stands for none.
    let is_plain = (start + 1..start + 20).contains(&at) && text.get(start) != Some(&b'0');
    (if is_plain { value } else { NO_INTEGER }, at)
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

/// Whether names of an object's members have places of their own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Apart,
    Crowd,
}

/// What reads a text. The place that it is at is handed from step to step, so that it stays in a register.
struct Reader<'r> {
    /// With zeros behind it.
    text: &'r mut Text,
    quotes: &'r Quotes,
    len: usize,
    is_plain: bool,
    nodes: &'r mut [Node; MAX_NODES],
    count: usize,
}

impl Reader<'_> {
    /// The whole text.
    #[inline(never)]
    fn read(&mut self, places: &mut [u16; PLACES], between: impl FnMut()) -> Result<Seen, JsonError> {
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
    fn uncommon(&mut self, at: usize, depth: usize) -> Result<(Kind, Span, usize), JsonError> {
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
