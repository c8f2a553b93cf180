//! Content JWT: from bytes to an unverified token, and from there, only through its signature, to claims.

use crate::claims::{BadClaim, Claims};
use crate::json::{JsonError, Tape, Value};
use crate::keys::{Key, KeyRing, Slot};
use crate::limits::{MAX_INTEGER, MAX_JSON, MAX_TOKEN};
use crate::reason::Reason;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Memory for one token at a time: the decoded parts and the tapes of their JSON.
#[derive(Debug)]
pub(crate) struct TokenScratch {
    header: Box<[u8]>,
    payload: Box<[u8]>,
    signature: Box<[u8]>,
    header_tape: Tape,
    payload_tape: Tape,
}

impl TokenScratch {
    pub(crate) fn new() -> Self {
        let part = || vec![0; MAX_JSON].into_boxed_slice();
        Self {
            header: part(),
            payload: part(),
            signature: part(),
            header_tape: Tape::new(),
            payload_tape: Tape::new(),
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
    signed: &'a [u8],
    signature: &'a [u8],
    header: Value<'a>,
    payload: Value<'a>,
}

/// A token whose signature is good.
#[derive(Debug)]
pub(crate) struct Verified<'a> {
    payload: Value<'a>,
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
        let (header, payload, signature) = split(token).ok_or(Malformed::Segments)?;
        let signed = &token[..header.len() + 1 + payload.len()];
        let TokenScratch { header: h, payload: p, signature: s, header_tape, payload_tape } = scratch;
        let header = decode(header, h)?;
        let payload = decode(payload, p)?;
        let signature = decode(signature, s)?;
        let header = read_object(header, header_tape)?;
        let payload = read_object(payload, payload_tape)?;
        if header.get("crit").is_some() {
            return Err(Malformed::Crit);
        }
        Ok(Self { signed, signature, header, payload })
    }

    /// The slot that the token's `alg`, `kid` and `iat` point to.
    ///
    /// A token without a usable `iat` is held against the slot of the present instant: should its signature be good,
    /// the claim checks will name what is wrong with `iat`.
    ///
    /// # Errors
    /// [`Reason::AlgorithmNotAllowed`] or [`Reason::KeyUnknown`].
    pub(crate) fn slot<'k>(&self, keys: &'k KeyRing, now: u64) -> Result<&'k Slot, Reason> {
        if self.header.get("alg").and_then(Value::as_str) != Some("HS256") {
            return Err(Reason::AlgorithmNotAllowed);
        }
        let kid = self.kid().ok_or(Reason::KeyUnknown)?;
        let iat = self.payload.get("iat").and_then(|iat| iat.as_integer(MAX_INTEGER)).unwrap_or(now);
        keys.effective_at(kid, iat, now).ok_or(Reason::KeyUnknown)
    }

    pub(crate) fn kid(&self) -> Option<&'a str> {
        self.header.get("kid").and_then(Value::as_str)
    }

    /// The session that the token claims, where it is a string: for refusing it, never for letting it pass.
    pub(crate) fn claimed_session(&self) -> Option<&'a str> {
        self.payload.get("sid").and_then(Value::as_str)
    }

    /// The bytes under the signature: header, dot, payload.
    pub(crate) fn signed(&self) -> &'a [u8] {
        self.signed
    }

    /// # Errors
    /// [`Reason::SignatureInvalid`].
    pub(crate) fn verify(self, key: &Key) -> Result<Verified<'a>, Reason> {
        if key.verify(&[self.signed], self.signature) {
            Ok(Verified { payload: self.payload })
        } else {
            Err(Reason::SignatureInvalid)
        }
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
        self.payload.get("sid").and_then(Value::as_str)
    }
}

fn split(token: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut parts = token.splitn(4, |&b| b == b'.');
    let three = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(three)
}

/// Strict base64url: no padding, no foreign byte, no stray trailing bits.
fn decode<'b>(text: &[u8], buffer: &'b mut [u8]) -> Result<&'b mut [u8], Malformed> {
    match URL_SAFE_NO_PAD.decode_slice(text, buffer) {
        Ok(len) => Ok(&mut buffer[..len]),
        Err(_) => Err(Malformed::Base64),
    }
}

fn read_object<'a>(text: &'a mut [u8], tape: &'a mut Tape) -> Result<Value<'a>, Malformed> {
    let value = tape.read(text).map_err(Malformed::Json)?;
    if value.is_object() { Ok(value) } else { Err(Malformed::NotObject) }
}

/// Header and payload as they were written, for explanations; a part that is not base64url is left out.
pub(crate) fn texts(token: &[u8]) -> impl Iterator<Item = (&'static str, Vec<u8>)> + '_ {
    let parts = token.split(|&b| b == b'.');
    ["header", "payload"]
        .into_iter()
        .zip(parts)
        .filter_map(|(name, part)| Some((name, URL_SAFE_NO_PAD.decode(part).ok()?)))
}
