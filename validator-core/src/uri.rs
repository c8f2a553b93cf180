//! The request target: reduced to origin-form, refused where an origin might read it differently, and split.

use crate::bytes::{WINDOW, find};
use crate::limits::MAX_TARGET;
use wide::u8x16;

/// A request target whose path has one reading only. All parts borrow from the request.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Path and query as they go upstream, without scheme and authority.
    pub origin_form: &'a [u8],
    /// The path, percent-encoding left in place.
    pub path: &'a [u8],
    /// The query without its `?`, if there is one.
    pub query: Option<&'a [u8]>,
    /// The authority of an absolute-form target. It replaces the `Host` header (RFC 9112, 3.2.2).
    pub authority: Option<&'a [u8]>,
}

/// What makes a target ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguity {
    /// Neither origin-form nor absolute-form, or an absolute-form with an unusual authority.
    Form,
    /// Longer than [`MAX_TARGET`].
    Length,
    /// `//`, or no path at all after the token.
    EmptySegment,
    /// `.` or `..`, also percent-encoded or followed by `;`.
    DotSegment,
    /// `%2f`, `%5c` or a plain backslash.
    EncodedSeparator,
    /// A control character or space, also percent-encoded in the path.
    Control,
    /// `#`.
    Fragment,
    /// A `%` without two hexadecimal digits in the path.
    Escape,
}

impl Ambiguity {
    /// What to tell an operator.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Form => "not a path and not an http URL with a plain authority",
            Self::Length => "target over 16 KiB",
            Self::EmptySegment => "empty path segment",
            Self::DotSegment => "dot segment",
            Self::EncodedSeparator => "backslash or encoded separator",
            Self::Control => "control character or space",
            Self::Fragment => "fragment",
            Self::Escape => "malformed percent escape",
        }
    }
}

/// Reads a request target.
///
/// # Errors
/// An [`Ambiguity`] of the target.
pub fn parse(target: &[u8]) -> Result<Target<'_>, Ambiguity> {
    let split = split(target)?;
    split.token.map_or(Ok(()), check_token)?;
    Ok(split.target)
}

/// A target and where its token ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split<'a> {
    /// The target as a whole.
    pub(crate) target: Target<'a>,
    /// The path's leading segment, where it has the shape of a token. It is the one part that has not
    /// been looked at yet: [`check_token`] does, and whoever decodes it need not.
    pub(crate) token: Option<&'a [u8]>,
    /// The path behind the token.
    pub(crate) path: &'a [u8],
    /// How `path` is spelled.
    pub(crate) spelling: Spelling,
}

/// How a path is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Printable ASCII without percent escapes.
    Plain,
    /// There may be others, but no percent escapes.
    Unescaped,
    /// There are percent escapes.
    Escaped,
}

/// Reads a request target but for its token, which is most of it.
///
/// # Errors
/// An [`Ambiguity`] of the rest.
#[inline(always)]
pub(crate) fn split(target: &[u8]) -> Result<Split<'_>, Ambiguity> {
    if target.len() > MAX_TARGET {
        return Err(Ambiguity::Length);
    }
    let (authority, origin_form) = if target.first() == Some(&b'/') {
        (None, target)
    } else {
        let (authority, rest) = split_absolute(target).ok_or(Ambiguity::Form)?;
        (Some(authority), rest)
    };
    // Where the first segment ends, so that a token, which is most of a target, is looked at once. A fragment before the
    // query is refused with the path, one in it with the query.
    let body = origin_form.get(1..).unwrap_or_default();
    let segment_end = memchr::memchr2(b'/', b'?', body).map_or(origin_form.len(), |at| at + 1);
    let rest = &origin_form[segment_end..];
    let path_len = segment_end + find(b'?', rest).unwrap_or(rest.len());
    let (path, query) = origin_form.split_at(path_len);
    let query = query.get(1..);
    let segment = path.get(1..segment_end).unwrap_or_default();
    let token = Some(segment).filter(|segment| is_token(segment));
    let behind = if token.is_some() { &path[segment_end..] } else { path };
    let spelling = check_path(behind)?;
    if let Some(query) = query {
        check_query(query)?;
    }
    let target = Target { origin_form, path, query, authority };
    Ok(Split { target, token, path: behind, spelling })
}

/// Checks the token segment of a target. Neither a dot segment nor a slash can be in it.
///
/// # Errors
/// An [`Ambiguity`] of the segment.
pub(crate) fn check_token(segment: &[u8]) -> Result<(), Ambiguity> {
    if is_plain_segment(segment) { Ok(()) } else { check_closely(segment).map(drop) }
}

/// Whether a path's leading segment has the shape of a JWT.
///
/// The shape is that of an encoded JSON object (`{` and then a quote, white space or `}`) with a dot behind it. It is
/// deliberately wider than a good token, so that a damaged one is still taken out of the path and refused as such, and
/// narrow enough that no ordinary file or folder has it.
fn is_token(segment: &[u8]) -> bool {
    matches!(segment.get(..3), Some(b"eyJ" | b"eyA" | b"ewo" | b"ew0" | b"ewk" | b"e30"))
        && memchr::memchr(b'.', segment).is_some()
}

/// A name or address and perhaps a port, or nothing. Of anything else, such as `a:80@b`, two readers may take different
/// parts for the host.
#[must_use]
pub fn is_plain_authority(host: &[u8]) -> bool {
    let (name, port) = match host.iter().position(|&b| b == b']') {
        Some(end) if host.starts_with(b"[") => host.split_at(end + 1),
        _ => host.split_at(host.iter().position(|&b| b == b':').unwrap_or(host.len())),
    };
    let plain = match name {
        [b'[', address @ .., b']'] => {
            address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        }
        _ => name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
    };
    plain && (port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit)))
}

/// The first segment without its slash, and the rest with its slash.
#[must_use]
pub(crate) fn first_segment(path: &[u8]) -> (&[u8], &[u8]) {
    let body = path.get(1..).unwrap_or_default();
    body.split_at(find(b'/', body).unwrap_or(body.len()))
}

/// The bytes of `text` with percent escapes decoded; an escape that is not one stays as it is.
pub(crate) fn percent_decoded(text: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut rest = text;
    core::iter::from_fn(move || {
        if let [b'%', high, low, tail @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = tail;
            return Some(high << 4 | low);
        }
        let (&first, tail) = rest.split_first()?;
        rest = tail;
        Some(first)
    })
}

/// `http://authority/…` into the authority and the origin-form. A missing path is `/`, but only without a query:
/// `http://host?query` has no bytes that could be passed on as they are.
fn split_absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let after_scheme = ["http://", "https://"].iter().find_map(|scheme| {
        target
            .get(..scheme.len())
            .filter(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
            .map(|_| &target[scheme.len()..])
    })?;
    let end = after_scheme.iter().position(|b| matches!(b, b'/' | b'?' | b'#')).unwrap_or(after_scheme.len());
    let (authority, rest) = after_scheme.split_at(end);
    if authority.is_empty() || !is_plain_authority(authority) {
        return None;
    }
    match rest.first() {
        None => Some((authority, b"/")),
        Some(b'/') => Some((authority, rest)),
        Some(_) => None,
    }
}

/// Bytes of a path that call for a closer look; all others mean only themselves.
const NOTABLE: [bool; 256] = {
    let mut notable = [false; 256];
    let mut byte = 0;
    while byte <= b' ' as usize {
        notable[byte] = true;
        byte += 1;
    }
    let mut rest: &[u8] = b"/%\\#\x7f";
    while let [byte, tail @ ..] = rest {
        notable[*byte as usize] = true;
        rest = tail;
    }
    notable
};

/// Checks a path, or a part of one that ends with a segment, and tells how it is spelled.
fn check_path(path: &[u8]) -> Result<Spelling, Ambiguity> {
    if is_plain(path) { Ok(Spelling::Plain) } else { check_closely(path) }
}

fn check_closely(path: &[u8]) -> Result<Spelling, Ambiguity> {
    let mut spelling = Spelling::Unescaped;
    let mut at = 0;
    loop {
        let rest = &path[at..];
        let Some(plain) = rest.iter().position(|&byte| NOTABLE[usize::from(byte)]) else {
            return Ok(spelling);
        };
        at += plain;
        let (byte, after) = (rest[plain], &rest[plain + 1..]);
        if byte == b'%' {
            spelling = Spelling::Escaped;
        }
        at += match byte {
            b'/' => match after.first() {
                Some(b'/') => return Err(Ambiguity::EmptySegment),
                Some(b'.' | b'%') if is_dot_segment(after) => return Err(Ambiguity::DotSegment),
                _ => 1,
            },
            b'%' => match after {
                [high, low, ..] => match (hex(*high), hex(*low)) {
                    (Some(high), Some(low)) => match high << 4 | low {
                        b'/' | b'\\' => return Err(Ambiguity::EncodedSeparator),
                        0..=0x1f | 0x7f => return Err(Ambiguity::Control),
                        _ => 3,
                    },
                    _ => return Err(Ambiguity::Escape),
                },
                _ => return Err(Ambiguity::Escape),
            },
            b'\\' => return Err(Ambiguity::EncodedSeparator),
            b'#' => return Err(Ambiguity::Fragment),
            _ => return Err(Ambiguity::Control),
        };
    }
}

/// Whether most paths' answer holds: slashes stand alone and before no dot, and all other bytes are printable and mean only
/// themselves. Short paths are none of its business.
#[inline(always)]
fn is_plain(path: &[u8]) -> bool {
    let Some((last, body)) = path.split_last() else { return false };
    // Each window is looked at together with that of the bytes behind its own. The last one lies over those before.
    let (windows, nexts) = (body.as_chunks().0, path[1..].as_chunks().0);
    let (Some(window), Some(next)) = (body.last_chunk(), path.last_chunk()) else { return false };
    let mut odd = oddities(window) | slash_before_slash_or_dot(window, next);
    for (window, next) in windows.iter().zip(nexts) {
        odd |= oddities(window) | slash_before_slash_or_dot(window, next);
    }
    is_zero(odd) && (*last == b'/' || (*last < 0x7f && !NOTABLE[usize::from(*last)]))
}

/// Likewise for a segment, in which there is no slash.
#[inline(always)]
fn is_plain_segment(segment: &[u8]) -> bool {
    let Some(window) = segment.last_chunk() else { return false };
    is_zero(segment.as_chunks().0.iter().fold(oddities(window), |odd, window| odd | oddities(window)))
}

#[inline(always)]
fn is_zero(bytes: u8x16) -> bool {
    bytes.simd_eq(u8x16::splat(0)).all()
}

/// Something other than zero for the bytes that are not printable or may mean more than themselves.
#[inline(always)]
fn oddities(window: &[u8; WINDOW]) -> u8x16 {
    let bytes = u8x16::new(*window);
    let is = |byte| bytes.simd_eq(u8x16::splat(byte));
    let unprintable = (bytes - u8x16::splat(b'!')).saturating_sub(u8x16::splat(b'~' - b'!'));
    unprintable | is(b'#') | is(b'%') | is(b'\\')
}

/// The slashes before a slash or a dot.
#[inline(always)]
fn slash_before_slash_or_dot(window: &[u8; WINDOW], next: &[u8; WINDOW]) -> u8x16 {
    let is_slash = |bytes: u8x16| bytes.simd_eq(u8x16::splat(b'/'));
    is_slash(u8x16::new(*window)) & is_slash(u8x16::new(*next) | u8x16::splat(b'/' ^ b'.'))
}

fn check_query(query: &[u8]) -> Result<(), Ambiguity> {
    for &byte in query {
        match byte {
            b'#' => return Err(Ambiguity::Fragment),
            0..=b' ' | 0x7f => return Err(Ambiguity::Control),
            _ => {}
        }
    }
    Ok(())
}

/// Whether the segment at the start of `rest` is `.` or `..` to anyone: also percent-encoded, and also with a path
/// parameter (`..;x`), which some origins cut off before they resolve the dots.
fn is_dot_segment(rest: &[u8]) -> bool {
    let mut rest = rest;
    for _ in 0..2 {
        rest = match rest {
            [b'.', tail @ ..] | [b'%', b'2', b'e' | b'E', tail @ ..] => tail,
            _ => return false,
        };
        match rest {
            [] | [b'/' | b'?' | b'#' | b';', ..] | [b'%', b'3', b'b' | b'B', ..] => return true,
            _ => {}
        }
    }
    false
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn ambiguous_targets() {
        let cases: &[(&str, Ambiguity)] = &[
            ("", Ambiguity::Form),
            ("*", Ambiguity::Form),
            ("host:443", Ambiguity::Form),
            ("ftp://h/x", Ambiguity::Form),
            ("http://user@h/x", Ambiguity::Form),
            ("http:///x", Ambiguity::Form),
            ("http://h:80.b.example/x", Ambiguity::Form),
            ("http://[::1]h/x", Ambiguity::Form),
            ("http://h?x", Ambiguity::Form),
            ("//", Ambiguity::EmptySegment),
            ("//h/x", Ambiguity::EmptySegment),
            ("/a//b", Ambiguity::EmptySegment),
            ("/.", Ambiguity::DotSegment),
            ("/./a", Ambiguity::DotSegment),
            ("/a/..", Ambiguity::DotSegment),
            ("/a/../b", Ambiguity::DotSegment),
            ("/a/%2e%2E/b", Ambiguity::DotSegment),
            ("/a/.%2e", Ambiguity::DotSegment),
            ("/a/%2e?x", Ambiguity::DotSegment),
            ("/a/..;x/b", Ambiguity::DotSegment),
            ("/a/..%3bx/b", Ambiguity::DotSegment),
            ("/a%2fb", Ambiguity::EncodedSeparator),
            ("/a%5Cb", Ambiguity::EncodedSeparator),
            ("/a\\b", Ambiguity::EncodedSeparator),
            ("/a%00", Ambiguity::Control),
            ("/a%0a", Ambiguity::Control),
            ("/a%7f", Ambiguity::Control),
            ("/a\tb", Ambiguity::Control),
            ("/a b", Ambiguity::Control),
            ("/a?x y", Ambiguity::Control),
            ("/a#b", Ambiguity::Fragment),
            ("/a?b#c", Ambiguity::Fragment),
            ("/a%", Ambiguity::Escape),
            ("/a%2", Ambiguity::Escape),
            ("/a%zz", Ambiguity::Escape),
            ("/a%2?x", Ambiguity::Escape),
        ];
        for (target, expected) in cases {
            assert_eq!(parse(target.as_bytes()).err(), Some(*expected), "{target}");
        }
    }

    #[test]
    fn plain_targets_keep_their_bytes() {
        for target in ["/", "/a/", "/a.b/..c/...", "/a%20b/%2ehidden", "/a;p=1/b", "/a?%zz&//..\\"] {
            let parsed = parse(target.as_bytes()).unwrap_or_else(|e| panic!("{target}: {e:?}"));
            assert_eq!(parsed.origin_form, target.as_bytes());
            assert_eq!(parsed.authority, None);
        }
        let absolute = parse(b"HTTPS://h.example:8443/a?b").unwrap();
        assert_eq!(absolute.authority, Some(&b"h.example:8443"[..]));
        assert_eq!((absolute.path, absolute.query), (&b"/a"[..], Some(&b"b"[..])));
        assert_eq!(parse(b"http://h").unwrap().path, b"/");
        assert_eq!(parse(b"/a?").unwrap().query, Some(&b""[..]));
    }

    #[test]
    fn target_length_is_bounded() {
        let mut target = vec![b'a'; MAX_TARGET];
        target[0] = b'/';
        assert!(parse(&target).is_ok());
        target.push(b'a');
        assert_eq!(parse(&target).err(), Some(Ambiguity::Length));
    }

    #[test]
    fn token_segment_shape() {
        let split = |target: &'static str| {
            let split = split(target.as_bytes()).unwrap();
            split.token.map(|token| (token.to_vec(), split.path.to_vec()))
        };
        assert_eq!(split("/eyJ.a.b/x/y"), Some((b"eyJ.a.b".to_vec(), b"/x/y".to_vec())));
        assert_eq!(split("/eyJ.a.b"), Some((b"eyJ.a.b".to_vec(), b"".to_vec())));
        assert_eq!(split("/eyJ.a.b?/x/y"), Some((b"eyJ.a.b".to_vec(), b"".to_vec())));
        assert_eq!(split("/eyJ.a.b/x?/y"), Some((b"eyJ.a.b".to_vec(), b"/x".to_vec())));
        assert_eq!(split("/eyJ?.a.b/x"), None);
        assert_eq!(split("/eyes.png"), None);
        assert_eq!(split("/eyJabc/x"), None);
        assert_eq!(split("/jquery.min.js"), None);
        assert_eq!(split("/"), None);
    }

    #[test]
    fn percent_decoding() {
        let decoded: Vec<u8> = percent_decoded(b"a%41%zz%4%").collect();
        assert_eq!(decoded, b"aA%zz%4%");
    }

    proptest! {
        /// Looked at many bytes at a time, a path is what it is byte by byte.
        #[test]
        fn vectors_miss_nothing(plain in "[a-z/.]{0,70}", odd in ".{0,3}|[/.%#\\\\ -~\u{7f}]{0,3}", rest in "[a-z]{0,40}") {
            let path = [plain, odd, rest].concat().into_bytes();
            let closely = check_closely(&path);
            match check_path(&path) {
                Ok(Spelling::Plain) => {
                    prop_assert_eq!(closely, Ok(Spelling::Unescaped));
                    prop_assert!(path.iter().all(u8::is_ascii_graphic));
                }
                other => prop_assert_eq!(other, closely),
            }
            let segment: Vec<u8> = path.iter().copied().filter(|byte| *byte != b'/').collect();
            prop_assert_eq!(check_token(&segment), check_closely(&segment).map(drop));
        }
    }
}
