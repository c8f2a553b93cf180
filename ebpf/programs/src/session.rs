//! A session in a payload: decoded, looked up, and proven to be one.

use crate::config::generation_and_today;
use crate::memory::{fits, load8, load32, load64, opaque, store32, store64};
use crate::request::{SECOND, STARTS, THIRD};
use crate::segment::Frame;
use crate::socket::MMAPABLE;
use crate::work::{CANDIDATES, Work};
use aya_ebpf::{Global, btf_maps::Array, macros::btf_map, programs::XdpContext};
use core::ptr::addr_of_mut;
use ebpf_abi::{
    SESSION_BIT_WORDS, SESSION_CAPACITY, SID_CAPACITY, SessionBucket, SessionKey, session_block,
    session_buckets, session_end,
};

/// See [`ebpf_abi::map::SESSIONS`].
#[btf_map]
static SESSIONS: Array<SessionBucket, { session_buckets(SESSION_CAPACITY) as usize }, MMAPABLE> =
    Array::new();

/// How many buckets the map was made with. The agent sets it; to the verifier it is a constant.
#[unsafe(no_mangle)]
static SESSION_BUCKETS: Global<u32> = Global::new(session_buckets(SESSION_CAPACITY));

/// See [`ebpf_abi::map::SESSION_BITS`].
#[btf_map]
static SESSION_BITS: Array<u64, { SESSION_BIT_WORDS as usize }, MMAPABLE> = Array::new();

/// Groups of letters that an id of [`SID_CAPACITY`] bytes, and the quote behind it, may be spread over.
const SID_GROUPS: u32 = (SID_CAPACITY as u32 + 1).div_ceil(3) + 1;

/// Letters of a token's header that are looked at to prove it.
const HEADER_LETTERS: u32 = 321;

/// Groups of letters before a session that are looked at to prove it.
const PROOF_GROUPS: u32 = 344;

/// Bytes before the id in [`Work::sid`], where the start of its first group goes.
const LEAD: u32 = 8;

/// For each place in a group of four and each letter, its part of the three bytes (the first one lowest), or [`BAD`] above.
static LETTERS: [[u32; 256]; 4] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut table = [[0; 256]; 4];
    let mut place = 0;
    while place < 4 {
        table[place] = [BAD[place]; 256];
        let mut index = 0;
        while index < alphabet.len() {
            let bits = index as u32;
            table[place][alphabet[index] as usize] = match place {
                0 => bits << 2,
                1 => bits >> 4 | (bits & 0xf) << 12,
                2 => (bits >> 2) << 8 | (bits & 3) << 22,
                _ => bits << 16,
            };
            index += 1;
        }
        place += 1;
    }
    table
};

/// What a letter that is none adds to its group, by its place there.
const BAD: [u32; 4] = [1 << 24, 1 << 24, THIRD_BAD, FOURTH_BAD];
/// See [`BAD`].
const THIRD_BAD: u32 = 2 << 24;
/// See [`BAD`].
const FOURTH_BAD: u32 = 4 << 24;
/// Any of [`BAD`].
const ANY_BAD: u32 = BAD[0] | THIRD_BAD | FOURTH_BAD;
/// The bytes of a group.
const BYTES: u32 = 0x00ff_ffff;

/// Outside of strings.
const OUTSIDE: u32 = 0;
/// Within a string.
const STRING: u32 = 1;
/// Within a string, behind a backslash.
const ESCAPE: u32 = 2;
/// Added if a byte opens an object or array.
const OPENS: u8 = 4;
/// Added if a byte closes one.
const CLOSES: u8 = 8;

/// For each state and byte of JSON, the next state and whether it opens or closes something.
static STEPS: [u8; 1024] = {
    let mut table = [0; 1024];
    let mut byte = 0;
    while byte < 256 {
        table[OUTSIDE as usize * 256 + byte] = match byte as u8 {
            b'"' => STRING as u8,
            b'{' | b'[' => OUTSIDE as u8 | OPENS,
            b'}' | b']' => OUTSIDE as u8 | CLOSES,
            _ => OUTSIDE as u8,
        };
        table[STRING as usize * 256 + byte] = match byte as u8 {
            b'"' => OUTSIDE as u8,
            b'\\' => ESCAPE as u8,
            _ => STRING as u8,
        };
        table[ESCAPE as usize * 256 + byte] = STRING as u8;
        byte += 1;
    }
    table
};

/// `"sid":"` as the lower seven bytes of a word.
const MEMBER: u64 = u64::from_le_bytes(*b"\"sid\":\"\0");

/// What a search for a blacklisted session comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// None of the sessions found is blacklisted.
    Nothing,
    /// One is.
    Blacklisted,
    /// What was found is blacklisted, but is no session of this token.
    Unproven,
}

/// Looks every candidate up. If one is blacklisted and proven, its key is in [`Work::key`].
#[inline(always)]
pub fn look_up(context: &XdpContext, work: &mut Work) -> Finding {
    hits(context, work);
    if work.hit == 0 {
        return Finding::Nothing;
    }
    if !is_header(context, work) {
        return Finding::Unproven;
    }
    for hit in work.hits {
        work.value_at = hit;
        if is_outermost(context, work) && has_member(context, work) {
            // The id that is in memory may be another candidate's.
            return if decode(context, work) && is_blacklisted(work) {
                Finding::Blacklisted
            } else {
                Finding::Unproven
            };
        }
    }
    Finding::Unproven
}

/// Notes which candidates are blacklisted.
#[inline(never)]
fn hits(context: &XdpContext, work: &mut Work) {
    work.hit = 0;
    for index in 0..CANDIDATES {
        let Some(&group) = work.candidates.get(index) else { break };
        if index as u32 >= work.found {
            break;
        }
        if place(context, work, group).is_some() && decode(context, work) && is_blacklisted(work) {
            if work.hit == 0 {
                work.hits[0] = work.value_at;
            }
            work.hits[1] = work.value_at;
            work.hit = 1;
        }
    }
}

/// Notes how many bytes of the payload come before the id of a candidate, if the letters around it are as they must be.
#[inline(always)]
fn place(context: &XdpContext, work: &mut Work, group: u32) -> Option<()> {
    let frame = Frame::of(context);
    let at = frame.at(work.payload_at.wrapping_add((group & 0x3ff) * 4).wrapping_sub(4), 16)?;
    // SAFETY: `at` has checked that these bytes lie in the frame.
    let (before, this, after, last) =
        unsafe { (load32(at), load32(at + 4), load32(at + 8), load32(at + 12)) };
    // The second letter of a group that starts with a quote is one of 16, from `g` to `v`.
    let opens = last & 0xff == u32::from(b'I') && (last >> 8 & 0xff).wrapping_sub(u32::from(b'g')) < 16;
    let bytes = match this {
        STARTS if after == u32::from_le_bytes(*b"ZCI6") && opens => 7,
        SECOND if before >> 16 == 0x7a4a && after & 0xffff == 0x694f => 5,
        THIRD if before >> 24 == 0x69 && after == u32::from_le_bytes(*b"Ijoi") => 6,
        _ => return None,
    };
    work.value_at = group * 3 + bytes;
    Some(())
}

const _: () = {
    assert!(u16::from_le_bytes(*b"Jz") == 0x7a4a);
    assert!(u16::from_le_bytes(*b"Oi") == 0x694f);
    assert!(b'i' == 0x69);
};

/// Decodes a group: the sum of what [`LETTERS`] has for each of the four. No branch: the verifier would follow each of them.
#[inline(always)]
fn group(at: usize) -> u32 {
    // SAFETY: the caller has checked that four bytes are there.
    let letters = unsafe { load32(at) };
    let [a, b, c, d] = letters.to_le_bytes();
    part(0, a) | part(1, b) | part(2, c) | part(3, d)
}

#[inline(always)]
fn part(place: usize, letter: u8) -> u32 {
    // SAFETY: there are four places, and every letter is below the length.
    unsafe { *LETTERS.as_ptr().cast::<u32>().add(place * 256 + letter as usize) }
}

/// Decodes the id that starts at [`Work::value_at`] and notes its length; false if it does not end in time.
#[inline(never)]
fn decode(context: &XdpContext, work: &mut Work) -> bool {
    let frame = Frame::of(context);
    let sid = addr_of_mut!(work.sid).cast::<u8>() as usize;
    let (first, lead) = (work.value_at / 3, work.value_at % 3);
    // The verifier does not see that a remainder is small, and it wants to add.
    let shift = opaque(u64::from(3 - lead)) as u32 & 3;
    // What the first group has before the id may contain a quote.
    let before = (1u32 << (lead * 8)) - 1;
    let Some(start) = frame.at(work.payload_at + first * 4, 4) else { return false };
    // By two words, or the compiler would call a function to clear it.
    let walk = addr_of_mut!(work.walk) as usize;
    // SAFETY: as long as two words.
    unsafe {
        store64(walk, 0);
        store64(walk + 8, 0);
    }
    for index in 0..SID_GROUPS {
        let at = start + index as usize * 4;
        if !fits(at, 4, frame.end()) {
            break;
        }
        let bytes = group(at);
        // SAFETY: 4 bytes at no more than LEAD + 3 * SID_GROUPS are within `sid`; the fourth is written again or cleared.
        unsafe { store32(sid + (LEAD - 3 + index * 3 + shift) as usize, bytes) };
        let skipped = if index == 0 { before } else { 0 };
        let quotes = (bytes ^ 0x0022_2222) | skipped;
        let quotes = quotes.wrapping_sub(0x0001_0101) & !quotes & 0x0080_8080;
        let bad = bytes & ANY_BAD;
        if (quotes | bad) != 0 {
            work.walk = [index, quotes, bad, 0];
            break;
        }
    }
    let [index, quotes, bad, _] = work.walk;
    // At the end of a payload a group may have two or three letters, and one or two bytes.
    let kept = if bad & THIRD_BAD != 0 {
        0x80
    } else if bad & FOURTH_BAD != 0 {
        0x8080
    } else {
        0x0080_8080
    };
    let quotes = quotes & kept;
    if quotes == 0 || bad & BAD[0] != 0 {
        return false;
    }
    let lowest = quotes & quotes.wrapping_neg();
    work.length = (index * 3 + (lowest >> 15 & 1) + (lowest >> 22 & 2)).wrapping_sub(lead);
    let length = opaque(u64::from(work.length)) as usize;
    if length > SID_CAPACITY {
        return false;
    }
    // The quote, what follows in its group, and what another id has left up to the end of the last block.
    // SAFETY: within `sid`.
    unsafe {
        store64(sid + LEAD as usize + length, 0);
        store64(sid + LEAD as usize + length + 8, 0);
    }
    true
}

/// Looks up the id that was decoded.
#[inline(never)]
fn is_blacklisted(work: &mut Work) -> bool {
    let sid = addr_of_mut!(work.sid).cast::<u8>() as usize + LEAD as usize;
    let length = work.length;
    let mut key = [0; 2];
    for block in 0..SID_CAPACITY as u32 / 16 {
        if block * 16 >= length {
            break;
        }
        let at = sid + block as usize * 16;
        // SAFETY: within `sid`.
        let (first, second) = unsafe { (load64(at), load64(at + 8)) };
        key = session_block(key, first, second);
    }
    work.key = session_end(key, u64::from(length));
    let (word, bit) = SessionKey::bit(work.key.tag());
    let Some(bits) = SESSION_BITS.get_ptr(word) else { return false };
    // SAFETY: aligned and never freed; the agent writes it at any time.
    if unsafe { bits.read_volatile() } >> bit & 1 == 0 {
        return false;
    }
    let (generation, today) = generation_and_today();
    let key = work.key;
    for bucket in key.buckets(SESSION_BUCKETS.load()) {
        let Some(words) = SESSIONS.get_ptr(bucket) else { return false };
        // SAFETY: within a whole bucket, aligned and never freed; the agent writes it at any time.
        let word = |index| unsafe { words.cast::<u64>().add(index).read_volatile() };
        if key.counts_in(word, generation, today) {
            return true;
        }
    }
    false
}

/// Whether what precedes the payload is letters and nothing else. A slash would be the end of the path's segment.
#[inline(never)]
fn is_header(context: &XdpContext, work: &mut Work) -> bool {
    let frame = Frame::of(context);
    let Some(start) = frame.at(work.token_at, 1) else { return false };
    work.walk[0] = 0;
    for index in 0..HEADER_LETTERS {
        if index >= work.header {
            work.walk[0] = 1;
            break;
        }
        let at = start + index as usize;
        if !fits(at, 1, frame.end()) {
            break;
        }
        // SAFETY: checked against the end.
        if part(0, unsafe { load8(at) }) & ANY_BAD != 0 {
            break;
        }
    }
    work.walk[0] != 0
}

/// Whether the quote before the id's name stands where the outermost object has a member's name. The payload is followed
/// from its first byte: only so can a member be told from one of an inner object, or from the text of a string.
#[inline(never)]
fn is_outermost(context: &XdpContext, work: &mut Work) -> bool {
    let frame = Frame::of(context);
    let Some(start) = frame.at(work.payload_at, 4) else { return false };
    let (groups, rest) = quote(work);
    let (mut state, mut depth, mut last) = (OUTSIDE, 0u32, 0u32);
    work.walk = [u32::MAX, 0, 0, 0];
    for index in 0..PROOF_GROUPS {
        let at = start + index as usize * 4;
        if !fits(at, 4, frame.end()) {
            break;
        }
        if index >= groups {
            work.walk = [index, state, depth, last];
            break;
        }
        let bytes = group(at);
        if bytes & ANY_BAD != 0 || (index == 0 && bytes & 0xff != u32::from(b'{')) {
            break;
        }
        step(&mut state, &mut depth, &mut last, bytes & 0xff);
        step(&mut state, &mut depth, &mut last, bytes >> 8 & 0xff);
        step(&mut state, &mut depth, &mut last, bytes >> 16 & 0xff);
    }
    let [index, mut state, mut depth, mut last] = work.walk;
    if index > PROOF_GROUPS {
        return false;
    }
    // The group of the quote, and what comes before it there.
    let Some(at) = frame.at(work.payload_at + index * 4, 4) else { return false };
    let bytes = group(at);
    if index == 0 && bytes & 0xff != u32::from(b'{') {
        return false;
    }
    if rest > 0 {
        step(&mut state, &mut depth, &mut last, bytes & 0xff);
    }
    if rest > 1 {
        step(&mut state, &mut depth, &mut last, bytes >> 8 & 0xff);
    }
    let opens = last == u32::from(b'{') || last == u32::from(b',');
    state == OUTSIDE && depth == 1 && opens
}

/// The group of the quote before the id's name, and how many bytes come before the quote in it.
#[inline(always)]
const fn quote(work: &Work) -> (u32, u32) {
    let at = work.value_at.wrapping_sub(7);
    (at / 3, at % 3)
}

/// Takes a byte of JSON.
#[inline(always)]
fn step(state: &mut u32, depth: &mut u32, last: &mut u32, byte: u32) {
    let index = ((*state & 3) << 8 | byte & 0xff) as usize;
    // SAFETY: below the length.
    let next = u32::from(unsafe { *STEPS.as_ptr().add(index) });
    *state = next & 3;
    *depth = depth.wrapping_add(next >> 2 & 1).wrapping_sub(next >> 3 & 1);
    *last = byte;
}

/// Whether `"sid":"` is in front of the id, to the letter.
#[inline(always)]
fn has_member(context: &XdpContext, work: &Work) -> bool {
    let frame = Frame::of(context);
    let (groups, rest) = quote(work);
    let Some(at) = frame.at(work.payload_at + groups * 4, 12) else { return false };
    let (first, second, third) = (group(at), group(at + 4), group(at + 8));
    let whole = (first | second | third) & ANY_BAD == 0;
    let [first, second, third] = [first, second, third].map(|group| u64::from(group & BYTES));
    let bytes = first | second << 24 | third << 48;
    // Of nine bytes one does not fit, and of the seven that count none is beyond the ninth.
    let (low, high) = (bytes >> (rest * 8), (third >> 16) << 48);
    let bytes = if rest == 2 { low & !(0xff << 48) | high } else { low };
    whole & (bytes & 0x00ff_ffff_ffff_ffff == MEMBER)
}
