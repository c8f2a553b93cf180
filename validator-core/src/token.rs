//! Content JWT: from bytes to an unverified token, and from there, only through its signature, to claims.

mod headers;

use crate::claims::{BadClaim, Claims, Payload};
use crate::json::{JsonError, Tape, Value};
use crate::keys::{Key, KeyRing, Slot};
use crate::limits::{MAX_JSON, MAX_TOKEN};
use crate::reason::Reason;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use base64_simd::{AsOut as _, URL_SAFE_NO_PAD};
use headers::Headers;

/// Memory for one token at a time: the decoded parts and the tapes of their JSON. What outlives a token are the headers
/// that good ones began with.
#[derive(Debug)]
pub(crate) struct TokenScratch {
    headers: Headers,
    header: Tape,
    payload: Tape,
    signature: Box<[u8]>,
}

impl TokenScratch {
    pub(crate) fn new() -> Self {
        Self {
            headers: Headers::new(),
            header: Tape::new(),
            payload: Tape::new(),
            signature: vec![0; MAX_JSON].into_boxed_slice(),
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
    /// What to tell an operator.
    pub(crate) const fn text(self) -> &'static str {
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
    signature: &'a [u8],
    header: Header<'a>,
    payload: Payload<'a>,
}

/// What a token's header says that counts.
#[derive(Debug)]
struct Header<'a> {
    is_hs256: bool,
    kid: Option<&'a str>,
    /// Where to keep a header that was read for the first time, and its length.
    new: Option<(&'a mut Headers, usize)>,
}

/// A token whose signature is good.
#[derive(Debug)]
pub(crate) struct Verified<'a> {
    payload: Payload<'a>,
}

impl<'a> Unverified<'a> {
    /// Takes a compact token apart.
    ///
    /// # Errors
    /// [`Malformed`] unless it is three strict base64url segments, the first two of which are strict JSON objects
    /// within the limits, without `crit`.
    pub(crate) fn parse(token: &'a [u8], scratch: &'a mut TokenScratch) -> Result<Self, Malformed> {
        if token.len() > MAX_TOKEN {
            return Err(Malformed::Length);
        }
        let TokenScratch { headers, header: header_tape, payload: payload_tape, signature } = scratch;
        let known = headers.find(token);
        let header_len = match known {
            Some(index) => headers.get(index).letters.len(),
            None => dot(token).ok_or(Malformed::Segments)?,
        };
        let behind = &token[header_len + 1..];
        let payload_len = dot(behind).ok_or(Malformed::Segments)?;
        let (payload, given) = (&behind[..payload_len], &behind[payload_len + 1..]);
        if known.is_none() && dot(given).is_some() {
            return Err(Malformed::Segments);
        }
        let header = match known {
            Some(index) => Header { is_hs256: true, kid: Some(&headers.get(index).kid), new: None },
            None => Header::read(&token[..header_len], header_tape, headers)?,
        };
        let payload = Payload::new(read_object(payload, payload_tape)?);
        let size = decode(given, signature)?;
        Ok(Self {
            token,
            signed: header_len + 1 + payload_len,
            signature: &signature[..size],
            header,
            payload,
        })
    }

    /// The slot that the token's `alg`, `kid` and `iat` point to.
    ///
    /// A token without a usable `iat` is held against the slot of the present instant: should its signature be good,
    /// the claim checks will name what is wrong with `iat`.
    ///
    /// # Errors
    /// [`Reason::AlgorithmNotAllowed`] or [`Reason::KeyUnknown`].
    pub(crate) fn slot<'k>(&self, keys: &'k KeyRing, now: u64) -> Result<&'k Slot, Reason> {
        if !self.header.is_hs256 {
            return Err(Reason::AlgorithmNotAllowed);
        }
        let kid = self.kid().ok_or(Reason::KeyUnknown)?;
        let iat = self.payload.issued.unwrap_or(now);
        keys.effective_at(kid, iat, now).ok_or(Reason::KeyUnknown)
    }

    pub(crate) fn kid(&self) -> Option<&'a str> {
        self.header.kid
    }

    /// The session that the token claims, where it is a string: for refusing it, never for letting it pass.
    pub(crate) fn claimed_session(&self) -> Option<&'a str> {
        self.payload.session()
    }

    /// The bytes under the signature: header, dot, payload.
    pub(crate) fn signed(&self) -> &'a [u8] {
        &self.token[..self.signed]
    }

    /// # Errors
    /// [`Reason::SignatureInvalid`].
    pub(crate) fn verify(self, key: &Key) -> Result<Verified<'a>, Reason> {
        if !key.verify(&[self.signed()], self.signature) {
            return Err(Reason::SignatureInvalid);
        }
        // Only a good token's: nobody else may drive out what others need.
        if let (Some((headers, len)), Some(kid)) = (self.header.new, self.header.kid) {
            headers.keep(&self.token[..len], kid);
        }
        Ok(Verified { payload: self.payload })
    }
}

impl<'a> Header<'a> {
    fn read(letters: &[u8], tape: &'a mut Tape, headers: &'a mut Headers) -> Result<Self, Malformed> {
        let object = read_object(letters, tape)?;
        if object.get("crit").is_some() {
            return Err(Malformed::Crit);
        }
        Ok(Self {
            is_hs256: object.get("alg").and_then(Value::as_str) == Some("HS256"),
            kid: object.get("kid").and_then(Value::as_str),
            new: Some((headers, letters.len())),
        })
    }
}

impl<'a> Verified<'a> {
    /// # Errors
    /// The first claim that is missing or not as it must be.
    pub(crate) fn claims(&self) -> Result<Claims<'a>, BadClaim> {
        Claims::read(self.payload)
    }

    /// The session, where it is a string; for diagnosis of tokens that fail later.
    pub(crate) fn session(&self) -> Option<&'a str> {
        self.payload.session()
    }
}

fn dot(text: &[u8]) -> Option<usize> {
    memchr::memchr(b'.', text)
}

/// Strict base64url: no padding, no foreign byte, no stray trailing bits. Gives the number of bytes.
fn decode(text: &[u8], buffer: &mut [u8]) -> Result<usize, Malformed> {
    match URL_SAFE_NO_PAD.decode(text, buffer.as_out()) {
        Ok(bytes) => Ok(bytes.len()),
        Err(_) => Err(Malformed::Base64),
    }
}

fn read_object<'a>(letters: &[u8], tape: &'a mut Tape) -> Result<Value<'a>, Malformed> {
    let len = decode(letters, tape.text())?;
    let value = tape.read(len).map_err(Malformed::Json)?;
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
