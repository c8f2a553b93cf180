//! Parameters of a query string: found without decoding, removed without touching the others.

use crate::uri::percent_decoded;
use alloc::vec::Vec;

/// What a search for one parameter found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// The parameter does not occur.
    Absent,
    /// It occurs once, under exactly this name; the value is as received.
    Once(&'a [u8]),
    /// It occurs twice, or under a spelling that another reader may take for it (letter case, percent-encoding).
    Ambiguous,
}

/// Looks for a parameter by its exact name.
pub(crate) fn find<'a>(query: &'a [u8], name: &str) -> Found<'a> {
    let mut found = Found::Absent;
    for part in query.split(|&b| b == b'&') {
        let (raw, value) = split_pair(part);
        if raw == name.as_bytes() {
            if found != Found::Absent {
                return Found::Ambiguous;
            }
            found = Found::Once(value);
        } else if spells(raw, name) {
            return Found::Ambiguous;
        }
    }
    found
}

/// The value of the first parameter with this name, ignoring ASCII case, as nginx's `$arg_NAME` has it.
pub(crate) fn first<'a>(query: &'a [u8], name: &str) -> Option<&'a [u8]> {
    query
        .split(|&b| b == b'&')
        .map(split_pair)
        .find(|(raw, _)| raw.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value)
}

/// Appends `query` to `out` without the parameters that spell one of `names`; the others keep their bytes and order.
/// Nothing is left behind, not even the `?`, when no parameter remains.
pub(crate) fn push_without<'n>(
    out: &mut Vec<u8>,
    query: &[u8],
    names: &(impl Iterator<Item = &'n str> + Clone),
) {
    let mut separator = b'?';
    for part in query.split(|&b| b == b'&') {
        let (raw, _) = split_pair(part);
        if names.clone().any(|name| spells(raw, name)) {
            continue;
        }
        out.push(separator);
        out.extend_from_slice(part);
        separator = b'&';
    }
}

/// Whether a parameter of this name would have to be removed.
pub(crate) fn mentions<'n>(query: &[u8], names: &(impl Iterator<Item = &'n str> + Clone)) -> bool {
    query.split(|&b| b == b'&').any(|part| names.clone().any(|name| spells(split_pair(part).0, name)))
}

fn split_pair(part: &[u8]) -> (&[u8], &[u8]) {
    match part.iter().position(|&b| b == b'=') {
        Some(at) => (&part[..at], &part[at + 1..]),
        None => (part, b""),
    }
}

/// Whether some reader may take the raw name for `name`: ASCII case and percent-encoding are ignored.
fn spells(raw: &[u8], name: &str) -> bool {
    percent_decoded(raw).map(|b| b.to_ascii_lowercase()).eq(name.bytes().map(|b| b.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding() {
        assert_eq!(find(b"a=1&st=x=y&e", "st"), Found::Once(b"x=y"));
        assert_eq!(find(b"a=1&st=x=y&e", "e"), Found::Once(b""));
        assert_eq!(find(b"sta=1", "st"), Found::Absent);
        assert_eq!(find(b"x=1;st=2", "st"), Found::Absent);
        for query in ["st=1&st=1", "ST=1", "st=1&%73t=1", "St=1&st=1", "s%54"] {
            assert_eq!(find(query.as_bytes(), "st"), Found::Ambiguous, "{query}");
        }
        assert_eq!(first(b"a=1&A=2", "A"), Some(&b"1"[..]));
    }

    #[test]
    fn removing() {
        let names = || ["st", "e"].into_iter();
        for (query, rest) in [
            ("st=1&e=2", ""),
            ("a=1&st=1&b=%20&e=2&c", "?a=1&b=%20&c"),
            ("%73t=1&a", "?a"),
            ("", "?"),
            ("a&&b", "?a&&b"),
        ] {
            let mut out = Vec::new();
            push_without(&mut out, query.as_bytes(), &names());
            assert_eq!(out, rest.as_bytes(), "{query}");
        }
        assert!(mentions(b"a&E=1", &names()) && !mentions(b"a&ee=1", &names()));
    }
}
