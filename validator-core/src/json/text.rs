//! A text, and what is found in it many bytes at a time.

use super::NO_INTEGER;
use crate::bytes::WINDOW;
use crate::limits::MAX_JSON;
use wide::u8x16;

/// Bytes of a word.
pub(super) const WORD: usize = 8;

/// Bytes of a text that a word of [`Quotes`] is about.
pub(super) const BLOCK: usize = 64;

/// Room for a text, and for zeros behind it. The length is known to the compiler, so that few places are checked.
pub(super) type Text = [u8; MAX_JSON + 2 * BLOCK];

/// Which bytes of a text are quotes: a bit for each, the first one lowest. A power of two, so that no place is checked.
pub(super) type Quotes = [u64; QUOTE_WORDS];

pub(super) const QUOTE_WORDS: usize = (MAX_JSON / BLOCK + 1).next_power_of_two();

/// Finds the quotes. Tells whether the text is plain: ASCII without backslashes and control characters, so that every
/// quote starts or ends a string, and every string stays as it is.
#[inline(always)]
pub(super) fn find_quotes(text: &Text, len: usize, quotes: &mut Quotes) -> bool {
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

/// The first quote at or behind a place; without one, a place behind the text.
#[inline(always)]
pub(super) fn next_quote(quotes: &Quotes, len: usize, at: usize) -> usize {
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
pub(super) fn word(text: &Text, at: usize) -> Option<u64> {
    text.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The value of the digits at a place, as far as [`Node::integer`] goes, and the place behind them.
#[inline(always)]
pub(super) fn digits(text: &Text, start: usize) -> (u64, usize) {
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

/// The bytes of a word that end a string or are more than they look like: quote, backslash, control characters. They have
/// their highest bit set in the answer. Above the lowest one that is set others may be set that are none of these.
pub(super) const fn string_ends(word: u64) -> u64 {
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
pub(super) const fn are_digits(word: u64) -> bool {
    const HIGH_HALVES: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    // Six above a digit is still among the threes, and above anything beyond the nine it is not.
    word & HIGH_HALVES == ZEROS && word.wrapping_add(0x0606_0606_0606_0606) & HIGH_HALVES == ZEROS
}

/// The value of eight digits, the first one lowest in the word: neighbours are joined, then pairs, then fours.
pub(super) const fn eight_digits(word: u64) -> u64 {
    let digits = word & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (digits.wrapping_mul(2561) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(6_553_601) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(42_949_672_960_001) >> 32
}
