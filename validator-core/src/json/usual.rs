//! The usual text: read in few steps, or not at all.

use super::careful::Reader;
use super::text::{Quotes, Text, digits, next_quote, word};
use super::{Kind, NO_INTEGER, Node, PLACES, Span, key_of, place};
use crate::limits::{MAX_MEMBERS, MAX_NODES};

/// Reads a plain text whose outermost value is of the usual kind: an object without white space around its names and values,
/// whose names have places of their own. False where it is another, or none; then nothing is said of it.
#[inline(never)]
pub(super) fn read(
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
