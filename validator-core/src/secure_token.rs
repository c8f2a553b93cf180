//! Secure Token: `?st=HASH&e=EXPIRY`, a hash of secret, URI and expiry.

use crate::keys::Key;
use crate::query::{self, Found};
use crate::reason::Reason;
use alloc::vec::Vec;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// The parameters that carry the token.
pub(crate) const PARAMETERS: [&str; 2] = ["st", "e"];

/// How `st` is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `md5(secret ∥ uri ∥ e)`, the format that existing signers use.
    Md5,
    /// HMAC-SHA256 of `uri ∥ "\n" ∥ e` under the secret.
    HmacSha256,
}

impl Algorithm {
    /// The name in a configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::HmacSha256 => "hmac-sha256",
        }
    }
}

/// A secret, prepared for one algorithm. Its bytes are not kept.
#[derive(Clone)]
pub struct Secret(Prepared);

#[derive(Clone)]
enum Prepared {
    /// The hash after the secret.
    Md5(Md5),
    Hmac(Key),
}

impl Secret {
    /// Prepares a secret; `None` when it is empty.
    #[must_use]
    pub fn new(algorithm: Algorithm, secret: &[u8]) -> Option<Self> {
        if secret.is_empty() {
            return None;
        }
        Some(Self(match algorithm {
            Algorithm::Md5 => Prepared::Md5(Md5::new_with_prefix(secret)),
            Algorithm::HmacSha256 => Prepared::Hmac(Key::prepare(secret)),
        }))
    }

    /// The value of `st` for a URI path and the ten digits of `e`.
    #[must_use]
    pub fn sign(&self, path: &[u8], e: &[u8]) -> alloc::string::String {
        match self.hash(path, e) {
            Hash::Md5(hash) => URL_SAFE_NO_PAD.encode(hash),
            Hash::Hmac(hash) => URL_SAFE_NO_PAD.encode(hash),
        }
    }

    fn hash(&self, path: &[u8], e: &[u8]) -> Hash {
        match &self.0 {
            Prepared::Md5(after_secret) => {
                let mut md5 = after_secret.clone();
                md5.update(path);
                md5.update(e);
                Hash::Md5(md5.finalize().into())
            }
            Prepared::Hmac(key) => Hash::Hmac(key.sign(&[path, b"\n", e])),
        }
    }
}

impl core::fmt::Debug for Secret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Secret(..)")
    }
}

enum Hash {
    Md5([u8; 16]),
    Hmac([u8; 32]),
}

impl Hash {
    fn equals(&self, given: &[u8]) -> bool {
        match self {
            Self::Md5(hash) => hash[..].ct_eq(given).into(),
            Self::Hmac(hash) => hash[..].ct_eq(given).into(),
        }
    }
}

/// A Secure Token whose hash nobody has checked.
#[derive(Debug)]
pub(crate) struct Unverified<'a> {
    /// The decoded hash.
    st: [u8; 32],
    st_len: usize,
    /// The ten digits as received: they are part of what was hashed.
    pub(crate) e: &'a [u8],
    expiry: u64,
}

impl<'a> Unverified<'a> {
    /// Reads `st` and `e`.
    ///
    /// # Errors
    /// [`Reason::TokenMissing`] without either; [`Reason::TokenMalformed`] when one is given twice or in another
    /// spelling, `e` is not exactly ten digits without a leading zero, or `st` is not strict base64url of one hash
    /// (padding is accepted).
    pub(crate) fn parse(query: Option<&'a [u8]>, algorithm: Algorithm) -> Result<Self, Reason> {
        let query = query.ok_or(Reason::TokenMissing)?;
        let (st, e) = match (query::find(query, "st"), query::find(query, "e")) {
            (Found::Once(st), Found::Once(e)) => (st, e),
            (Found::Ambiguous, _) | (_, Found::Ambiguous) => return Err(Reason::TokenMalformed),
            (Found::Absent, _) | (_, Found::Absent) => return Err(Reason::TokenMissing),
        };
        let ten_digits = e.len() == 10 && e[0] != b'0' && e.iter().all(u8::is_ascii_digit);
        if !ten_digits {
            return Err(Reason::TokenMalformed);
        }
        let expiry = e.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));

        let (size, chars, padding) = match algorithm {
            Algorithm::Md5 => (16, 22, &b"=="[..]),
            Algorithm::HmacSha256 => (32, 43, &b"="[..]),
        };
        let (digits, rest) = st.split_at_checked(chars).ok_or(Reason::TokenMalformed)?;
        if !rest.is_empty() && rest != padding {
            return Err(Reason::TokenMalformed);
        }
        // The decoder wants room for its estimate, which is rounded up to whole groups.
        let mut room = [0; 36];
        match URL_SAFE_NO_PAD.decode_slice(digits, &mut room) {
            Ok(len) if len == size => {}
            _ => return Err(Reason::TokenMalformed),
        }
        let mut st = [0; 32];
        st.copy_from_slice(&room[..32]);
        Ok(Self { st, st_len: size, e, expiry })
    }

    /// The decoded hash as given.
    pub(crate) fn given(&self) -> &[u8] {
        &self.st[..self.st_len]
    }

    /// Holds the hash against each secret, then the expiry against the clock: `e` itself is the last good second.
    ///
    /// # Errors
    /// [`Reason::SignatureInvalid`], [`Reason::Expired`] or [`Reason::LifetimeExceeded`], in this order.
    pub(crate) fn verify(
        &self,
        path: &[u8],
        secrets: &[Secret],
        max_ttl: u64,
        now: u64,
    ) -> Result<(), Reason> {
        // Every secret is tried, so the time taken does not tell which one matched.
        let good =
            secrets.iter().fold(false, |good, secret| good | secret.hash(path, self.e).equals(self.given()));
        if !good {
            Err(Reason::SignatureInvalid)
        } else if self.expiry < now {
            Err(Reason::Expired)
        } else if self.expiry - now > max_ttl {
            Err(Reason::LifetimeExceeded)
        } else {
            Ok(())
        }
    }
}

/// A Secure Token's parameters for a path: `st=…&e=…`.
#[must_use]
pub fn parameters(secret: &Secret, path: &[u8], expiry: u64) -> alloc::string::String {
    let e = alloc::format!("{expiry:010}");
    alloc::format!("st={}&e={e}", secret.sign(path, e.as_bytes()))
}

/// A hash as `st` carries it; for explanations.
#[must_use]
pub(crate) fn encode(hash: &[u8]) -> alloc::string::String {
    URL_SAFE_NO_PAD.encode(hash)
}

/// The bytes that are hashed, with a placeholder for the secret; for explanations.
#[must_use]
pub(crate) fn hashed_text(algorithm: Algorithm, path: &[u8], e: &[u8]) -> Vec<u8> {
    match algorithm {
        Algorithm::Md5 => [b"{secret}", path, e].concat(),
        Algorithm::HmacSha256 => [path, b"\\n", e].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector() {
        let secret = Secret::new(Algorithm::Md5, b"mysecret").unwrap();
        assert_eq!(secret.sign(b"/my/uri", b"1470055000"), "m6WCATfRgS_5lcyChCPgrw");
        assert_eq!(parameters(&secret, b"/my/uri", 1_470_055_000), "st=m6WCATfRgS_5lcyChCPgrw&e=1470055000");
        assert!(Secret::new(Algorithm::Md5, b"").is_none());
        assert_eq!(alloc::format!("{secret:?}"), "Secret(..)");
    }
}
