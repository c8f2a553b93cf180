//! What a decision is about: one request, borrowed from whoever received it.

use crate::geo::{Country, Geo};
use crate::limits::{MAX_TARGET, MAX_TEXT};
use crate::net::canonical;
use crate::uri::{Spelling, Target};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::IpAddr;

/// One request. Nothing is copied from it but what must be rewritten.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The method, as received.
    pub method: &'a str,
    /// The request target, as received: origin-form or absolute-form.
    pub target: &'a [u8],
    /// `http` or `https`, as the client sees it.
    pub scheme: &'a str,
    /// The `Host` header, empty where there is none.
    pub host: &'a [u8],
    /// The client's address.
    pub client: IpAddr,
    /// The address and port that the client connected to, where known.
    pub destination: Option<(IpAddr, u16)>,
    /// The header fields.
    pub headers: &'a dyn Headers,
}

/// Header fields by name.
pub trait Headers {
    /// Calls `each` with every value of the field, in order. `name` is in lower case.
    fn each_value<'h>(&'h self, name: &str, each: &mut dyn FnMut(&'h [u8]));
}

impl Headers for [(&str, &[u8])] {
    fn each_value<'h>(&'h self, name: &str, each: &mut dyn FnMut(&'h [u8])) {
        self.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).for_each(|(_, value)| each(value));
    }
}

impl<const N: usize> Headers for [(&str, &[u8]); N] {
    fn each_value<'h>(&'h self, name: &str, each: &mut dyn FnMut(&'h [u8])) {
        self.as_slice().each_value(name, each);
    }
}

/// How often a value occurs that should occur once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occurs<'a> {
    Never,
    Once(&'a [u8]),
    Repeatedly(&'a [u8]),
}

impl<'a> Occurs<'a> {
    fn and(self, value: &'a [u8]) -> Self {
        match self {
            Self::Never => Self::Once(value),
            Self::Once(first) | Self::Repeatedly(first) => Self::Repeatedly(first),
        }
    }

    pub(crate) fn first(self) -> Option<&'a [u8]> {
        match self {
            Self::Never => None,
            Self::Once(value) | Self::Repeatedly(value) => Some(value),
        }
    }
}

pub(crate) fn header<'a>(headers: &'a dyn Headers, name: &str) -> Occurs<'a> {
    let mut occurs = Occurs::Never;
    headers.each_value(name, &mut |value| occurs = occurs.and(value));
    occurs
}

pub(crate) fn cookie<'a>(headers: &'a dyn Headers, name: &str) -> Occurs<'a> {
    let mut occurs = Occurs::Never;
    headers.each_value("cookie", &mut |line| {
        for pair in line.split(|&b| b == b';') {
            let pair = pair.trim_ascii();
            if let Some((key, value)) = split_cookie(pair)
                && key == name.as_bytes()
            {
                occurs = occurs.and(value);
            }
        }
    });
    occurs
}

/// `name=value` of one cookie, white space around both removed.
#[must_use]
pub fn split_cookie(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|&b| b == b'=')?;
    Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
}

/// A request together with what was derived from it once: the parsed target, the path without a token segment, that
/// path decoded for rules, and the country, looked up when first asked for.
pub(crate) struct Facts<'r, 'a> {
    pub(crate) request: &'r Request<'a>,
    pub(crate) target: Target<'a>,
    /// The path's leading segment, where it has the shape of a token.
    pub(crate) token: Option<&'a [u8]>,
    pub(crate) path: &'a [u8],
    /// How `path` is spelled.
    pub(crate) spelling: Spelling,
    /// The path with percent escapes decoded. Origins decode it, so rules must, or `/%61dmin` would slip past `/admin`.
    pub(crate) decoded_path: &'a [u8],
    pub(crate) geo: &'a dyn Geo,
    pub(crate) country: &'r Cell<Option<Option<Country>>>,
    pub(crate) text: &'a RefCell<Vec<u8>>,
}

/// Memory that rules work in.
#[derive(Debug)]
pub(crate) struct RuleScratch {
    /// The path with percent escapes decoded.
    pub(crate) decoded_path: Vec<u8>,
    /// A value that is not UTF-8, made so; see [`Facts::as_text`].
    pub(crate) text: RefCell<Vec<u8>>,
}

impl RuleScratch {
    pub(crate) fn new() -> Self {
        Self {
            decoded_path: Vec::with_capacity(MAX_TARGET),
            text: RefCell::new(Vec::with_capacity(3 * MAX_TEXT)),
        }
    }
}

impl Facts<'_, '_> {
    /// The client's address in its one spelling.
    pub(crate) fn client(&self) -> IpAddr {
        canonical(self.request.client)
    }

    /// The name of the host that was asked for.
    pub(crate) fn host(&self) -> &[u8] {
        host_name(self.target.authority.unwrap_or(self.request.host))
    }

    /// Hands a value to a pattern. Patterns match text only, so a single byte that is not UTF-8 would take a value out
    /// of their reach; as in other lossy readings U+FFFD stands for it.
    pub(crate) fn as_text<R>(&self, value: &[u8], look: impl FnOnce(&[u8]) -> R) -> R {
        if core::str::from_utf8(value).is_ok() {
            return look(value);
        }
        let mut text = self.text.borrow_mut();
        text.clear();
        for chunk in value.utf8_chunks() {
            text.extend_from_slice(chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                text.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
        look(&text)
    }

    pub(crate) fn country(&self) -> Option<Country> {
        match self.country.get() {
            Some(known) => known,
            None => {
                let country = self.geo.country(self.client());
                self.country.set(Some(country));
                country
            }
        }
    }
}

/// The name of a `Host` header: without port and without the dot of a fully qualified name.
fn host_name(host: &[u8]) -> &[u8] {
    let name = match host {
        [b'[', ..] => {
            let end = host.iter().position(|&b| b == b']').map_or(host.len(), |at| at + 1);
            &host[..end]
        }
        _ => &host[..host.iter().position(|&b| b == b':').unwrap_or(host.len())],
    };
    name.strip_suffix(b".").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies() {
        let headers: [(&str, &[u8]); 2] = [("Cookie", b"a=1; tok=x=y ;b"), ("cookie", b"a=2")];
        assert_eq!(cookie(&headers, "tok"), Occurs::Once(b"x=y"));
        assert_eq!(cookie(&headers, "a"), Occurs::Repeatedly(b"1"));
        assert_eq!(cookie(&headers, "b"), Occurs::Never);
    }

    #[test]
    fn host_names() {
        for (host, name) in [
            ("a.example", "a.example"),
            ("a.example.:80", "a.example"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("", ""),
        ] {
            assert_eq!(host_name(host.as_bytes()), name.as_bytes(), "{host}");
        }
    }
}
