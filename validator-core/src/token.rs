//! Content JWT: from bytes to an unverified token, and from there, only through its signature, to claims.

use crate::claims::Claims;
use crate::json::{Tape, Value};
use crate::keys::{Key, KeyRing, Slot};
use crate::limits::{MAX_INTEGER, MAX_JSON, MAX_TOKEN};
use crate::reason::Reason;
use alloc::boxed::Box;
use alloc::vec;
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

/// A well-formed token whose signature nobody has checked. It gives out what is needed to find the key, and no more.
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
    /// [`Reason::TokenMalformed`] unless it is three strict base64url segments, the first two of which are strict JSON
    /// objects within the limits, without `crit`.
    pub(crate) fn parse(token: &'a [u8], scratch: &'a mut TokenScratch) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN {
            return Err(Reason::TokenMalformed);
        }
        let (header, payload, signature) = split(token).ok_or(Reason::TokenMalformed)?;
        let signed = &token[..header.len() + 1 + payload.len()];
        let TokenScratch { header: h, payload: p, signature: s, header_tape, payload_tape } = scratch;
        let header = decode(header, h)?;
        let payload = decode(payload, p)?;
        let signature = decode(signature, s)?;
        let header = read_object(header, header_tape)?;
        let payload = read_object(payload, payload_tape)?;
        if header.get("crit").is_some() {
            return Err(Reason::TokenMalformed);
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
    /// [`Reason::ClaimMissing`] or [`Reason::ClaimInvalid`].
    pub(crate) fn claims(&self) -> Result<Claims<'a>, Reason> {
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
fn decode<'b>(text: &[u8], buffer: &'b mut [u8]) -> Result<&'b mut [u8], Reason> {
    match URL_SAFE_NO_PAD.decode_slice(text, buffer) {
        Ok(len) => Ok(&mut buffer[..len]),
        Err(_) => Err(Reason::TokenMalformed),
    }
}

fn read_object<'a>(text: &'a mut [u8], tape: &'a mut Tape) -> Result<Value<'a>, Reason> {
    match tape.read(text) {
        Ok(value) if value.is_object() => Ok(value),
        _ => Err(Reason::TokenMalformed),
    }
}
