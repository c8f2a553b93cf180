//! The sessions that a token segment claims, whether or not it is a good token.
//!
//! The kernel refuses requests on session ports by what a token says of its session, and it can neither check a signature
//! nor read a whole token. Nothing that it refuses may pass here, so this reading is as lenient as the kernel's: the
//! payload as far as it is base64url, and in it every `"sid":"…"` that stands where a member of the outermost object
//! would. In a well-formed token that is the member `sid` and nothing else. What only the strict reader sees, such as an
//! escaped name or white space around the colon, is claimed as well.

use crate::keys::KeyRing;
use crate::limits::MAX_TARGET;
use crate::token::{TokenScratch, Unverified};
use alloc::vec::Vec;

/// Memory for one segment at a time. It is apart from that of the checks, because what they found may still be borrowed.
#[derive(Debug)]
pub(crate) struct ClaimedScratch {
    payload: Vec<u8>,
    token: TokenScratch,
}

impl ClaimedScratch {
    pub(crate) fn new() -> Self {
        // A segment is not bounded like a token, only like a target.
        Self { payload: Vec::with_capacity(MAX_TARGET / 4 * 3), token: TokenScratch::new() }
    }
}

/// Nobody is asked for a signature here.
const NO_KEYS: &KeyRing = &KeyRing::new();

/// The first session that the segment claims and `wanted` accepts.
pub(crate) fn find<'a>(
    segment: &'a [u8],
    scratch: &'a mut ClaimedScratch,
    wanted: impl Fn(&str) -> bool,
) -> Option<&'a str> {
    let ClaimedScratch { payload, token } = scratch;
    decode_leniently(segment, payload);
    // Lists hold text, so a value that is none is on no list.
    sessions(payload).filter_map(|value| core::str::from_utf8(value).ok()).find(|sid| wanted(sid)).or_else(
        || {
            let strict = Unverified::parse(segment, NO_KEYS, 0, token).ok()?;
            strict.claimed_session().filter(|sid| wanted(sid))
        },
    )
}

/// The bytes of the segment's second part, up to the first character that is not base64url.
fn decode_leniently(segment: &[u8], out: &mut Vec<u8>) {
    out.clear();
    let payload = segment.splitn(2, |&byte| byte == b'.').nth(1).unwrap_or_default();
    let (mut bits, mut pending) = (0_u32, 0);
    for sextet in payload.iter().map_while(|&byte| sextet(byte)) {
        bits = bits << 6 | u32::from(sextet);
        pending += 6;
        if pending >= 8 {
            pending -= 8;
            out.push((bits >> pending).to_le_bytes()[0]);
        }
    }
}

const fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

/// The values of all `"sid":"…"` that stand outside of strings at depth 1 behind `{` or `,`.
///
/// Nothing else is checked: the text may be no JSON at all. It has to start with `{`.
fn sessions(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = if text.first() == Some(&b'{') { 0 } else { text.len() };
    let mut depth = 0_i64;
    let mut in_string = false;
    core::iter::from_fn(move || {
        while let Some(&byte) = text.get(at) {
            let here = at;
            at += 1;
            match byte {
                b'\\' if in_string => at += 1,
                b'"' => {
                    in_string = !in_string;
                    if in_string
                        && depth == 1
                        && let Some(value) = session_at(text, here)
                    {
                        return Some(value);
                    }
                }
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
        }
        None
    })
}

/// The value of the member `sid` whose name opens at `at`. One with an escape or a control character is none.
fn session_at(text: &[u8], at: usize) -> Option<&[u8]> {
    let (before, member) = text.split_at_checked(at)?;
    if !matches!(before.last(), Some(b'{' | b',')) {
        return None;
    }
    let value = member.strip_prefix(br#""sid":""#)?;
    let value = &value[..value.iter().position(|&byte| byte == b'"')?];
    value.iter().all(|&byte| byte >= b' ' && byte != b'\\').then_some(value)
}

#[cfg(test)]
#[path = "claimed_tests.rs"]
mod tests;
