//! Content JWT: from bytes to an unverified token, and from there, only through its signature, to claims.

mod headers;

use crate::claims::{BadClaim, Claims, Payload};
use crate::json::{JsonError, Tape, Value};
use crate::keys::{Key, KeyRing, MAC, Mac, Slot, Start, effective_at};
use crate::limits::MAX_TOKEN;
use crate::reason::Reason;
use alloc::boxed::Box;
use alloc::vec::Vec;
use base64_simd::{AsOut as _, URL_SAFE_NO_PAD};
use headers::{Headers, Known};

/// Memory for one token at a time: the decoded parts and the tapes of their JSON. What outlives a token are the headers
/// that good ones began with.
#[derive(Debug)]
pub(crate) struct TokenScratch {
    headers: Headers,
    header: Tape,
    payload: Tape,
    letters: Box<Letters>,
    signature: [u8; MAC],
}

impl TokenScratch {
    pub(crate) fn new() -> Self {
        Self {
            headers: Headers::new(),
            header: Tape::new(),
            payload: Tape::new(),
            letters: Box::new([0; _]),
            signature: [0; MAC],
        }
    }
}

/// Why a token is [`Reason::TokenMalformed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    Length,
    Segments,
    Base64,
    Json(JsonError),
    NotObject,
    Crit,
}

impl Malformed {
    /// What to tell an operator of a token that was found so.
    pub(crate) fn text(self, token: &[u8]) -> &'static str {
        // Taken apart at its first and its last dot, one with more dots does not decode.
        if self == Self::Base64 && token.iter().filter(|&&b| b == b'.').count() != 2 {
            return Self::Segments.name();
        }
        self.name()
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Length => "the token is over 8 KiB",
            Self::Segments => "the token has not three segments",
            Self::Base64 => "a segment is not strict base64url",
            Self::Json(JsonError::Syntax) => "header or payload is not strict JSON",
            Self::Json(JsonError::Duplicate) => "header or payload has a name twice",
            Self::Json(JsonError::Limit) => "header or payload is too deep or has too many values",
            Self::NotObject => "header or payload is not a JSON object",
            Self::Crit => "the header has `crit`, and no extension is known",
        }
    }
}

/// A well-formed token whose signature nobody has checked. It gives out what is needed to find the key,
/// what it claims its session to be, and no more.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    token: &'a [u8],
    /// Length of what is under the signature: header, dot, payload.
    signed: usize,
    /// Empty if it has another length than every MAC.
    signature: &'a [u8],
    header: Header<'a>,
    /// Of the secret that the header names.
    slots: &'a [Slot],
    payload: Payload<'a>,
    /// The MAC by the key that the token will most likely want, begun already.
    begun: Option<Mac<'a>>,
}

/// What a token's header says that counts.
#[derive(Debug)]
struct Header<'a> {
    is_hs256: bool,
    kid: Option<&'a str>,
    kept: Kept<'a>,
}

/// Whether a header was kept of an earlier token.
#[derive(Debug)]
enum Kept<'a> {
    /// It was, and with it how such tokens start.
    Before(&'a mut Start),
    /// It was not; where to keep it, and its length.
    Not(&'a mut Headers, usize),
}

/// A token whose signature is good.
#[derive(Debug)]
pub(crate) struct Verified<'a> {
    payload: Payload<'a>,
    claims: Result<Claims<'a>, &'static BadClaim>,
}

impl<'a> Unverified<'a> {
    /// Takes a compact token apart. On the way the MAC is begun with the key that is in force at `now` for tokens of that
    /// instant, if the header is known; whether that is the right one is only seen later.
    ///
    /// # Errors
    /// [`Malformed`] unless it is three strict base64url segments, the first two of which are strict JSON objects
    /// within the limits, without `crit`.
    #[inline(always)]
    pub(crate) fn parse(
        token: &'a [u8],
        keys: &'a KeyRing,
        now: u64,
        scratch: &'a mut TokenScratch,
    ) -> Result<Self, Malformed> {
        if token.len() > MAX_TOKEN {
            return Err(Malformed::Length);
        }
        let TokenScratch { headers, header: header_tape, payload: payload_tape, letters, signature } =
            scratch;
        let known = headers.find(token);
        let header_len = match known {
            Some(index) => headers.get(index).0.letters.len(),
            None => dot(token).ok_or(Malformed::Segments)?,
        };
        let behind = &token[header_len + 1..];
        let payload_len = last_dot(behind).ok_or(Malformed::Segments)?;
        let signed = header_len + 1 + payload_len;
        let (payload, given) = (&behind[..payload_len], &behind[payload_len + 1..]);
        let header = match known {
            Some(index) => Header::known(headers.get(index)),
            None => Header::read(&token[..header_len], header_tape, headers)?,
        };
        let slots = header.kid.map_or(&[][..], |kid| keys.slots(kid));
        let mut begun = match &header.kept {
            Kept::Before(start) => {
                let slot = effective_at(slots, now, now);
                slot.map(|slot| Mac::behind(start, &slot.key, &token[..signed]))
            }
            Kept::Not(..) => None,
        };
        let mut hash = || begun.iter_mut().for_each(Mac::step);

        hash();
        let (len, signature) = decode_both(payload, given, letters, payload_tape.text(), signature)?;
        hash();
        let payload = Payload(read_object(len, payload_tape, hash)?);
        Ok(Self { token, signed, signature, header, slots, payload, begun })
    }

    /// The slot that the token's `alg`, `kid` and `iat` point to.
    ///
    /// A token without a usable `iat` is held against the slot of the present instant: should its signature be good,
    /// the claim checks will name what is wrong with `iat`.
    ///
    /// # Errors
    /// [`Reason::AlgorithmNotAllowed`] or [`Reason::KeyUnknown`].
    #[inline(always)]
    pub(crate) fn slot(&self, now: u64) -> Result<&'a Slot, Reason> {
        if !self.header.is_hs256 {
            return Err(Reason::AlgorithmNotAllowed);
        }
        let iat = self.payload.issued().unwrap_or(now);
        effective_at(self.slots, iat, now).ok_or(Reason::KeyUnknown)
    }

    #[inline(always)]
    pub(crate) fn kid(&self) -> Option<&'a str> {
        self.header.kid
    }

    /// The session that the token claims, where it is a string: for refusing it, never for letting it pass.
    pub(crate) fn claimed_session(&self) -> Option<&'a str> {
        self.payload.session()
    }

    /// The bytes under the signature: header, dot, payload.
    #[inline(always)]
    pub(crate) fn signed(&self) -> &'a [u8] {
        &self.token[..self.signed]
    }

    /// # Errors
    /// [`Reason::SignatureInvalid`].
    #[inline(always)]
    pub(crate) fn verify(self, key: &'a Key) -> Result<Verified<'a>, Reason> {
        let mut mac = match self.begun {
            Some(begun) if begun.is_by(key) => begun,
            _ => Mac::new(key, &self.token[..self.signed]),
        };
        mac.end();
        // Nobody learns of them before the signature is found to be good.
        let claims = Claims::read(self.payload);
        if !mac.is(self.signature) {
            return Err(Reason::SignatureInvalid);
        }
        // Only a good token's: nobody else may drive out what others need.
        match (self.header.kept, self.header.kid) {
            (Kept::Before(start), _) => start.keep(&mac),
            (Kept::Not(headers, len), Some(kid)) => headers.keep(&self.token[..len], kid),
            (Kept::Not(..), None) => {}
        }
        Ok(Verified { payload: self.payload, claims })
    }
}

impl<'a> Header<'a> {
    #[inline(always)]
    fn known((known, start): (&'a Known, &'a mut Start)) -> Self {
        Self { is_hs256: true, kid: Some(&known.kid), kept: Kept::Before(start) }
    }

    fn read(letters: &[u8], tape: &'a mut Tape, headers: &'a mut Headers) -> Result<Self, Malformed> {
        let len = decode(letters, tape.text())?;
        let object = read_object(len, tape, || ())?;
        if object.get("crit").is_some() {
            return Err(Malformed::Crit);
        }
        Ok(Self {
            is_hs256: object.get("alg").and_then(Value::as_str) == Some("HS256"),
            kid: object.get("kid").and_then(Value::as_str),
            kept: Kept::Not(headers, letters.len()),
        })
    }
}

impl<'a> Verified<'a> {
    /// # Errors
    /// The first claim that is missing or not as it must be.
    #[inline(always)]
    pub(crate) fn claims(&self) -> Result<&Claims<'a>, &'static BadClaim> {
        self.claims.as_ref().map_err(|bad| *bad)
    }

    /// The session, where it is a string; for diagnosis of tokens that fail later.
    #[inline(always)]
    pub(crate) fn session(&self) -> Option<&'a str> {
        match &self.claims {
            Ok(claims) => claims.sid,
            Err(_) => self.payload.session(),
        }
    }
}

fn dot(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'.', text)
}

/// The dot before the last segment. What has more of them than that does not decode.
fn last_dot(text: &[u8]) -> Option<usize> {
    match text.len().checked_sub(SIGNATURE_LETTERS + 1) {
        Some(usual) if text[usual] == b'.' => Some(usual),
        _ => memchr::memrchr(b'.', text),
    }
}

/// Letters of a signature of 32 bytes.
const SIGNATURE_LETTERS: usize = 43;

/// Strict base64url: no padding, no foreign byte, no stray trailing bits. Gives the number of bytes.
fn decode(text: &[u8], buffer: &mut [u8]) -> Result<usize, Malformed> {
    match URL_SAFE_NO_PAD.decode(text, buffer.as_out()) {
        Ok(bytes) => Ok(bytes.len()),
        Err(_) => Err(Malformed::Base64),
    }
}

/// The letter of six zeros.
const ZERO: u8 = b'A';

/// Letters that make a whole number of bytes.
const GROUP: usize = 4;

/// Letters that are decoded in one step.
const STEP: usize = 32;

/// Room for the letters of a payload and a signature, each filled up, in [`decode_both`].
type Letters = [u8; MAX_TOKEN + 2 * STEP + 4 * GROUP];

/// Decodes payload and signature as [`decode`] would. Gives the payload's number of bytes, and the signature, empty if it has
/// another length than every MAC.
///
/// A decoder takes many letters in one step, and those that are left over one by one. So both are decoded as one text that
/// is filled up to where nothing is left over. The filling is letters of zeros: stray bits show in the byte behind.
#[inline(always)]
fn decode_both<'a>(
    payload: &[u8],
    signature: &[u8],
    letters: &mut Letters,
    buffer: &mut [u8],
    mac: &'a mut [u8; MAC],
) -> Result<(usize, &'a [u8]), Malformed> {
    let Ok(signature) = <&[u8; SIGNATURE_LETTERS]>::try_from(signature) else {
        return decode_unusual(payload, signature, buffer);
    };
    let groups = payload.len().div_ceil(GROUP);
    let behind = GROUP * groups;
    // What the decoder leaves over at the end of a text, whatever that is.
    let all = (behind + SIGNATURE_LETTERS).next_multiple_of(STEP) + GROUP + 2;
    if payload.len() % GROUP == 1 || all > letters.len() {
        return Err(Malformed::Base64);
    }
    // Each over the end of the one before, as known lengths are copied in fewer steps.
    letters[..payload.len()].copy_from_slice(payload);
    letters[payload.len()..payload.len() + GROUP].fill(ZERO);
    letters[behind..behind + SIGNATURE_LETTERS].copy_from_slice(signature);
    letters[behind + SIGNATURE_LETTERS..behind + SIGNATURE_LETTERS + STEP + 2 * GROUP].fill(ZERO);
    decode(&letters[..all], buffer)?;
    let (len, start) = (payload.len() * 3 / GROUP, 3 * groups);
    let Some((decoded, [last, ..])) = buffer.get(start..).and_then(|buffer| buffer.split_first_chunk())
    else {
        return Err(Malformed::Base64);
    };
    let stray = if len < start { buffer[len] } else { 0 } | last;
    if stray != 0 {
        return Err(Malformed::Base64);
    }
    *mac = *decoded;
    Ok((len, mac))
}

/// Likewise where the signature can be none.
#[cold]
#[inline(never)]
fn decode_unusual(
    payload: &[u8],
    signature: &[u8],
    buffer: &mut [u8],
) -> Result<(usize, &'static [u8]), Malformed> {
    decode(signature, buffer)?;
    Ok((decode(payload, buffer)?, &[]))
}

#[inline(always)]
fn read_object<'a>(len: usize, tape: &'a mut Tape, between: impl FnMut()) -> Result<Value<'a>, Malformed> {
    let value = tape.read(len, between).map_err(Malformed::Json)?;
    if value.is_object() { Ok(value) } else { Err(Malformed::NotObject) }
}

/// Header and payload as they were written, for explanations; a part that is not base64url is left out.
pub(crate) fn texts(token: &[u8]) -> impl Iterator<Item = (&'static str, Vec<u8>)> + '_ {
    let parts = token.split(|&b| b == b'.');
    ["header", "payload"]
        .into_iter()
        .zip(parts)
        .filter_map(|(name, part)| Some((name, URL_SAFE_NO_PAD.decode_to_vec(part).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_JSON;
    use alloc::string::String;
    use proptest::prelude::*;

    /// Letters, among them those that leave stray bits, and a few that are none.
    fn segment(sizes: core::ops::Range<usize>) -> impl Strategy<Value = String> {
        let letters = proptest::string::string_regex("[A-D8-9_-]|[a-z]|[=+. ]{0,1}[A-Z]").expect("a regex");
        (sizes, prop::collection::vec(letters, 1..40))
            .prop_map(|(size, parts)| parts.iter().flat_map(|part| part.chars()).cycle().take(size).collect())
    }

    proptest! {
        #[test]
        fn both_decode_as_each_does(
            payload in segment(0..300),
            signature in prop_oneof![segment(43..44), segment(43..44), segment(0..60)],
            left in any::<u8>(),
        ) {
            let mut letters: Letters = [left; _];
            let (mut together, mut apart) = ([left; MAX_JSON + 128], [left; MAX_JSON]);
            let expected = decode(signature.as_bytes(), &mut apart).and_then(|len| {
                let mac = if len == MAC { apart[..MAC].to_vec() } else { Vec::new() };
                Ok((decode(payload.as_bytes(), &mut apart)?, mac))
            });
            let mut mac = [left; MAC];
            let found = decode_both(payload.as_bytes(), signature.as_bytes(), &mut letters, &mut together, &mut mac);
            let found = found.map(|(len, mac)| (len, mac.to_vec()));
            prop_assert_eq!(&found, &expected);
            if let Ok((len, _)) = found {
                prop_assert_eq!(&together[..len], &apart[..len]);
            }
        }
    }

    #[test]
    fn the_longest_token_fits() {
        let payload = "A".repeat(MAX_TOKEN - SIGNATURE_LETTERS - 2);
        let mut letters: Letters = [0; _];
        let mut tape = Tape::new();
        let (zeros, mut mac) = ([ZERO; SIGNATURE_LETTERS], [1; MAC]);
        let found = decode_both(payload.as_bytes(), &zeros, &mut letters, tape.text(), &mut mac);
        assert_eq!(found, Ok((payload.len() * 3 / GROUP, &[0; MAC][..])));
    }
}
