//! What gateway and auth listener have in common about HTTP messages.

use crate::upstream::Passed;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full};
use std::io;
use std::net::{IpAddr, SocketAddr};
use validator_core::Reason;
use validator_core::net::{NetSet, canonical};

/// Names the reason of a refusal.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-edgegate-reason");

/// A body of our own, one that is passed through, or one of our own that is made as it is read.
pub(crate) type Body = Either<Full<Bytes>, Either<Passed, UnsyncBoxBody<Bytes, io::Error>>>;

/// A request that is refused for its HTTP, before anything is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What the body, logs and metrics call it.
    pub reason: &'static str,
    /// More for the log alone, where there is more to say.
    pub detail: &'static str,
}

impl Refusal {
    /// A request that two readers may understand differently.
    pub(crate) const BAD_REQUEST: Self = Self::new(StatusCode::BAD_REQUEST, "bad_request");
    /// A request line over its limit.
    pub(crate) const URI_TOO_LONG: Self = Self::new(StatusCode::URI_TOO_LONG, "uri_too_long");
    /// A header block over its limit.
    pub(crate) const HEADERS_TOO_LARGE: Self =
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large");
    /// A peer that may not ask.
    pub(crate) const PEER_UNTRUSTED: Self = Self::new(StatusCode::FORBIDDEN, "peer_untrusted");
    /// A listener whose section is not in the configuration.
    pub(crate) const NOT_CONFIGURED: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_configured");

    const fn new(status: StatusCode, reason: &'static str) -> Self {
        Self { status, reason, detail: "" }
    }
}

/// A short answer of our own, never stored by anybody. `text` is the whole body, without a line end when empty.
#[must_use]
pub(crate) fn answer(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body(text))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The body of an answer.
pub(crate) fn body(text: &str) -> Bytes {
    if text.is_empty() { Bytes::new() } else { Bytes::from(format!("{text}\n")) }
}

/// The gateway's refusal of a request, but for what its route adds. `told` says whether the client learns the reason.
#[must_use]
pub(crate) fn refusal(status: StatusCode, reason: Reason, told: bool) -> Response<Body> {
    let mut response = answer(status, if told { reason.name() } else { "" });
    if told {
        response.headers_mut().insert(REASON, HeaderValue::from_static(reason.name()));
    }
    response
}

/// An answer after which the connection closes.
#[must_use]
pub(crate) fn closing(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The value of a header that must not occur twice.
///
/// # Errors
/// [`Refusal::BAD_REQUEST`] when it does.
pub(crate) fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(Refusal::BAD_REQUEST),
    }
}

/// The client's address by `X-Forwarded-For`, as told by trusted peers: the right-most entry that is none of them.
/// Without the header it is the peer.
///
/// # Errors
/// [`Refusal::BAD_REQUEST`] for an entry that is no address: whoever is behind it cannot be judged.
pub(crate) fn forwarded_client(
    headers: &HeaderMap,
    peer: IpAddr,
    trusted: &NetSet,
) -> Result<IpAddr, Refusal> {
    let mut client = peer;
    let lines: Vec<&HeaderValue> = headers.get_all("x-forwarded-for").iter().collect();
    for line in lines.into_iter().rev() {
        let text = line.to_str().map_err(|_| Refusal::BAD_REQUEST)?;
        for entry in text.rsplit(',') {
            client = parse_address(entry.trim()).ok_or(Refusal::BAD_REQUEST)?;
            if !trusted.contains(&client) {
                return Ok(client);
            }
        }
    }
    Ok(client)
}

/// An address, with or without a port and, for IPv6, brackets.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).map(canonical)
}

/// Fields that concern one connection only, by definition (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    // Trailers go no further: their names are not those that were checked.
    "trailer",
    "upgrade",
    "http2-settings",
];

/// Removes the fields that concern one connection only, by definition or because `Connection` lists them, and those whose
/// name is `unwanted`. Most messages have none of them, so they are looked for in one pass over those that there are.
pub(crate) fn keep_end_to_end(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let mut removed: Vec<HeaderName> = Vec::new();
    for name in headers.keys() {
        let text = name.as_str();
        if name == CONNECTION {
            removed.extend(listed(headers));
        }
        if HOP_BY_HOP.contains(&text) || unwanted(text) {
            removed.push(name.clone());
        }
    }
    for name in removed {
        headers.remove(name);
    }
}

/// The names that `Connection` lists, as far as they are the sender's to remove.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    // Framing and routing are not; a listed `Host` would change what the origin serves. The usual options
    // name no field, or one that goes anyway.
    names
        .map(str::trim_ascii)
        .filter(|name| !["keep-alive", "close"].iter().any(|usual| name.eq_ignore_ascii_case(usual)))
        .filter_map(|name| HeaderName::try_from(name).ok())
        .filter(|name| !matches!(name.as_str(), "host" | "content-length" | "transfer-encoding"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_client_is_the_last_that_no_trusted_peer_vouches_beyond() {
        let trusted = NetSet::new(["10.0.0.0/8".parse().unwrap()]);
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        for (value, client) in [
            ("192.0.2.1", Ok("192.0.2.1")),
            ("203.0.113.9, 192.0.2.1, 10.0.0.2", Ok("192.0.2.1")),
            ("10.0.0.3, 10.0.0.2", Ok("10.0.0.3")),
            ("[2001:db8::1]:443", Ok("2001:db8::1")),
            ("2001:db8::1", Ok("2001:db8::1")),
            ("::ffff:192.0.2.1", Ok("192.0.2.1")),
            ("192.0.2.1:1234", Ok("192.0.2.1")),
            ("unknown", Err(Refusal::BAD_REQUEST)),
            ("192.0.2.1,", Err(Refusal::BAD_REQUEST)),
            ("junk, 192.0.2.1", Ok("192.0.2.1")),
        ] {
            let found = forwarded_client(&headers(&[("x-forwarded-for", value)]), peer, &trusted);
            assert_eq!(found, client.map(|c| c.parse().unwrap()), "{value}");
        }
        let two_lines =
            headers(&[("x-forwarded-for", "192.0.2.9"), ("x-forwarded-for", "192.0.2.1, 10.0.0.9")]);
        assert_eq!(forwarded_client(&two_lines, peer, &trusted), Ok("192.0.2.1".parse().unwrap()));
        assert_eq!(forwarded_client(&HeaderMap::new(), peer, &trusted), Ok(peer));
    }

    #[test]
    fn hop_by_hop_fields_go_and_framing_stays() {
        let mut map = headers(&[
            ("connection", "close, X-Secret, Host, Content-Length"),
            ("x-secret", "1"),
            ("host", "h"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("trailer", "X-Edgegate-Session"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ]);
        keep_end_to_end(&mut map, |_| false);
        let mut left: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-length", "host"]);
    }
}
