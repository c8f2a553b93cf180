//! A request in one segment, the payload of its token, and where a session may be in it.
//!
//! The token is the first segment of the path: `GET /header.payload.signature/path HTTP/1.1`. Nothing of it is decoded
//! here. Base64 writes three bytes as four letters, and the payload's first byte starts a group of four, so the six letters
//! `"sid":` can be written in three ways only, each of which has one group that is the same whatever surrounds it. The
//! search compares whole groups, 8 letters at a step.

use crate::memory::{fits, load32, load64};
use crate::segment::{ACK, FAR, Frame, PSH};
use crate::work::{CANDIDATES, Work};
use aya_ebpf::programs::XdpContext;

/// Words of 8 letters in which a token's header may end.
const HEADER_WORDS: u32 = 40;

/// Words of 8 letters of a payload that are searched: as many as a segment of 1,460 bytes can hold.
const PAYLOAD_WORDS: u32 = 172;

/// Fewer bytes are no request with a token.
const SHORTEST: u32 = 40;

/// How a request with a token starts: an encoded `{"` opens the token's header.
const GET: u64 = u64::from_le_bytes(*b"GET /eyJ");
/// See [`GET`]; one letter is left over.
const HEAD: u64 = u64::from_le_bytes(*b"HEAD /ey");

/// The end of a request's head.
const HEAD_END: u32 = u32::from_le_bytes(*b"\r\n\r\n");

/// Eight times the same byte.
const fn eight(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// A bit for each byte of a word that is `byte`: the highest bit of that byte. Above the first one there may be bits that
/// mean nothing.
#[inline(always)]
pub const fn bytes_equal(word: u64, byte: u8) -> u64 {
    let zero = word ^ eight(byte);
    zero.wrapping_sub(eight(1)) & !zero & eight(0x80)
}

/// How many bytes come before the first one that [`bytes_equal`] has marked.
#[inline(always)]
pub const fn first_byte(marks: u64) -> u32 {
    let lowest = marks & marks.wrapping_neg();
    // One bit for each of them, and one for the byte itself.
    (((lowest.wrapping_sub(1) & eight(1)).wrapping_mul(eight(1)) >> 56) as u32).wrapping_sub(1) & 7
}

/// Whether a segment is the whole head of a request with a token, and nothing else. Notes where the token starts.
#[inline(never)]
pub fn has_token(context: &XdpContext, work: &mut Work) -> bool {
    let frame = Frame::of(context);
    let segment = &work.segment;
    // Data that is in order and does not end the connection, in a frame that is no more than one segment.
    if segment.end_at > FAR || segment.flags & !PSH != ACK || segment.length() < SHORTEST {
        return false;
    }
    let data_at = segment.data_at;
    let Some(start) = frame.at(data_at, 9) else { return false };
    let Some(end) = frame.at(segment.end_at.wrapping_sub(4), 4) else { return false };
    // SAFETY: `at` has checked that these bytes lie in the frame.
    let (eight, last, end) = unsafe { (load64(start), load32(start + 5), load32(end)) };
    work.head = u32::from(eight == HEAD);
    work.token_at = data_at + if eight == HEAD { 6 } else { 5 };
    let known = eight == GET || (eight == HEAD && last == u32::from_le_bytes(*b"/eyJ"));
    known && end == HEAD_END
}

/// Finds where the payload starts, and notes it.
#[inline(never)]
pub fn find_payload(context: &XdpContext, work: &mut Work) -> bool {
    // Once for each loop: what the verifier has learned of a frame in one is not to be carried into the next.
    let frame = Frame::of(context);
    work.header = 0;
    let Some(token) = frame.at(work.token_at, 8) else { return false };
    for index in 0..HEADER_WORDS {
        let at = token + index as usize * 8;
        if !fits(at, 8, frame.end()) {
            break;
        }
        // SAFETY: checked against the end.
        let dots = bytes_equal(unsafe { load64(at) }, b'.');
        if dots != 0 {
            work.header = index * 8 + first_byte(dots);
            break;
        }
    }
    work.payload_at = work.token_at + work.header + 1;
    work.header != 0
}

/// The group of letters that is always the same, for each of the three ways to write `"sid":"`.
pub const STARTS: u32 = u32::from_le_bytes(*b"InNp");
/// The quote is the second byte of the group before.
pub const SECOND: u32 = u32::from_le_bytes(*b"aWQi");
/// The quote is the third byte of the group before.
pub const THIRD: u32 = u32::from_le_bytes(*b"c2lk");

#[inline(always)]
const fn is_candidate(group: u32) -> bool {
    group == STARTS || group == SECOND || group == THIRD
}

/// Notes where in the payload a session may be.
#[inline(never)]
pub fn search(context: &XdpContext, work: &mut Work) {
    let frame = Frame::of(context);
    work.found = 0;
    let Some(payload) = frame.at(work.payload_at, 8) else { return };
    for index in 0..PAYLOAD_WORDS {
        let at = payload + index as usize * 8;
        if !fits(at, 8, frame.end()) {
            return;
        }
        // SAFETY: checked against the end.
        let word = unsafe { load64(at) };
        if is_candidate(word as u32) {
            note(work, index * 2);
        }
        if is_candidate((word >> 32) as u32) {
            note(work, index * 2 + 1);
        }
        if bytes_equal(word, b'.') != 0 {
            return;
        }
    }
}

/// Counted in memory and not in a register, or the verifier would follow every number of candidates on its own.
#[inline(always)]
fn note(work: &mut Work, group: u32) {
    let count = &raw mut work.found;
    // SAFETY: a place of its own.
    let found = unsafe { count.read_volatile() };
    if let Some(place) = work.candidates.get_mut(found as usize & (CANDIDATES - 1)) {
        *place = group;
    }
    // SAFETY: as above.
    unsafe { count.write_volatile(found.wrapping_add(1)) };
}
