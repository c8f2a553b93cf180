//! The answer that the kernel gives to a blacklisted session, in the gateway's words.

use super::lists::OverCapacity;
use crate::config::{Config, RouteSettings};
use crate::message::{body, closing, refusal};
use ebpf_abi::{REPLY_CAPACITY, Reply};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use validator_core::{Check, Reason, Route, TokenPlace};

/// The checksum of TCP is quickest over whole words of this many bytes.
const WORD: usize = 8;

const _: () = assert!(REPLY_CAPACITY.is_multiple_of(WORD));

/// The answers to a `GET` and to a `HEAD`. They close the connection, and have no `Date`: there is no clock to take one
/// from (RFC 9110, 6.6.1).
///
/// # Errors
/// When `deny_headers` make an answer too long.
pub(super) fn replies(config: &Config) -> Result<[Reply; 2], OverCapacity> {
    const REASON: Reason = Reason::SessionBlacklisted;
    let status = StatusCode::FORBIDDEN;
    // Where another server is protected there is no gateway to speak like.
    let told = config.gateway.as_ref().is_none_or(|gateway| gateway.deny_body);
    let body = body(if told { REASON.name() } else { "" });
    let mut response = refusal(status, REASON, told);
    let headers = response.headers_mut();
    for (name, value) in common_headers(&config.policy.routes, &config.routes) {
        headers.insert(name.clone(), value.clone());
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let response = closing(response);
    Ok([reply(status, response.headers(), &body)?, reply(status, response.headers(), b"")?])
}

/// The headers that a refusal has whatever route with a token in the path it comes from: the kernel does not tell routes
/// apart.
fn common_headers<'c>(
    routes: &[Route],
    settings: &'c [RouteSettings],
) -> impl Iterator<Item = &'c (HeaderName, HeaderValue)> {
    let in_path = |route: &Route| match &route.check {
        Check::ContentJwt(check) => check.places.contains(&TokenPlace::Path),
        _ => false,
    };
    let mut lists = routes
        .iter()
        .zip(settings)
        .filter(|(route, _)| in_path(route))
        .map(|(_, settings)| &settings.deny_headers);
    let first = lists.next();
    let others: Vec<_> = lists.collect();
    first.into_iter().flatten().filter(move |header| others.iter().all(|list| list.contains(header)))
}

/// Writes an answer. Its length is made up to whole words with white space behind the value of `Connection`, where it
/// means nothing (RFC 9112, 5.1).
fn reply(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<Reply, OverCapacity> {
    let mut head =
        format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default())
            .into_bytes();
    let mut field = |name: &HeaderName, value: &HeaderValue| {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    };
    headers.iter().filter(|(name, _)| *name != CONNECTION).for_each(|(name, value)| field(name, value));
    headers.iter().filter(|(name, _)| *name == CONNECTION).for_each(|(name, value)| field(name, value));
    // The line end of the last field moves behind the padding.
    head.truncate(head.trim_ascii_end().len());
    let end = b"\r\n\r\n";
    let length = (head.len() + end.len() + body.len()).next_multiple_of(WORD);
    head.resize(length - end.len() - body.len(), b' ');
    head.extend_from_slice(end);
    head.extend_from_slice(body);

    let mut reply = Reply { length: 0, sum: 0, bytes: [0; REPLY_CAPACITY] };
    let (Some(place), Ok(length_word)) = (reply.bytes.get_mut(..length), u32::try_from(length)) else {
        return Err(OverCapacity {
            key: "deny_headers of routes with a token in the path",
            what: "bytes of an answer to a blacklisted session",
            found: length,
            limit: REPLY_CAPACITY,
            way_out: "shorten them, set prefilter.session_action = \"reset\"",
        });
    };
    place.copy_from_slice(&head);
    reply.length = length_word;
    reply.sum = sum(place);
    Ok(reply)
}

/// The sum of 16-bit words in the processor's byte order. The longest answer does not carry it over.
fn sum(bytes: &[u8]) -> u32 {
    bytes.as_chunks().0.iter().map(|&pair| u32::from(u16::from_ne_bytes(pair))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::message::answer;
    use std::path::Path;

    fn config(gateway: &str, routes: &str) -> Config {
        let text = format!(
            "[gateway]\nlisten = [\"127.0.0.1:1\"]\nupstream = \"http://a\"\n{gateway}\n\
             [secrets.a]\nslots = [{{ slot = 0, key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\" }}]\n{routes}"
        );
        config::parse(&text, Path::new("edgegate.toml"), 0).unwrap()
    }

    /// A route that takes the token from `place`.
    fn route(place: &str, headers: &str) -> String {
        format!(
            "[[route]]\ncheck = \"content-jwt\"\ntoken = \"{place}\"\npath_validation = \"/.*\"\n\
             when = [{{ variable = \"uri\", operator = \"starts_with\", value = \"/x\" }}]\n\
             deny_headers = {{ {headers} }}\n"
        )
    }

    /// Status, header fields and body of an answer, which has to be whole.
    fn read(reply: &Reply) -> (u16, HeaderMap, String) {
        assert!(reply.length.is_multiple_of(8) && reply.length > 0);
        let (bytes, rest) = reply.bytes.split_at(reply.length as usize);
        assert!(rest.iter().all(|&byte| byte == 0));
        let words = bytes.chunks(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]])));
        assert_eq!(u64::from(reply.sum), words.sum::<u64>());
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let head = response.parse(bytes).unwrap().unwrap();
        assert_eq!((response.version, response.reason), (Some(1), Some("Forbidden")));
        let mut headers = HeaderMap::new();
        for field in response.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_bytes(field.value).unwrap());
        }
        (response.code.unwrap(), headers, String::from_utf8(bytes[head..].to_vec()).unwrap())
    }

    fn read_both(config: &Config) -> (HeaderMap, String) {
        let [get, head] = replies(config).unwrap();
        let ((get_status, get_headers, body), (head_status, head_headers, no_body)) =
            (read(&get), read(&head));
        assert_eq!((get_status, head_status, no_body.as_str()), (403, 403, ""));
        assert_eq!(get_headers, head_headers);
        (get_headers, body)
    }

    #[test]
    fn it_is_what_the_gateway_says() {
        for told in [true, false] {
            let config = config(&format!("deny_body = {told}"), &route("path", "x-shared = \"1\""));
            let (mut headers, body) = read_both(&config);
            assert_eq!(body, if told { "session_blacklisted\n" } else { "" });
            assert_eq!(headers.remove("content-length").unwrap(), body.len().to_string().as_str());
            // What the gateway makes; the length is hyper's to add.
            let own = closing(refusal(StatusCode::FORBIDDEN, Reason::SessionBlacklisted, told));
            assert_eq!(headers.remove("x-shared").unwrap(), "1");
            assert_eq!(&headers, own.headers());
            assert_eq!(headers["connection"], "close");
            assert_eq!(headers.contains_key("x-edgegate-reason"), told);
            assert_eq!(headers["cache-control"], answer(StatusCode::OK, "").headers()["cache-control"]);
            assert!(!headers.contains_key("date"));
        }
    }

    #[test]
    fn headers_on_which_all_routes_agree() {
        let names = |routes: &[String]| {
            let (headers, _) = read_both(&config("", &routes.concat()));
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.retain(|name| name.starts_with("x-") && name != "x-edgegate-reason");
            names.sort();
            names
        };
        let first = route("path", "x-a = \"1\", x-b = \"2\", x-c = \"3\"");
        let second = route("path", "x-c = \"3\", x-b = \"other\", x-a = \"1\"");
        assert_eq!(names(&[]), [""; 0]);
        assert_eq!(names(std::slice::from_ref(&first)), ["x-a", "x-b", "x-c"]);
        assert_eq!(names(&[first.clone(), second]), ["x-a", "x-c"]);
        // Whose token the kernel does not find does not count.
        assert_eq!(names(&[first.clone(), route("query:t", "x-b = \"other\"")]), ["x-a", "x-b", "x-c"]);
        assert_eq!(names(&[route("query:t", "x-b = \"other\"")]), [""; 0]);
        assert_eq!(names(&[first, route("path", "")]), [""; 0]);
    }

    #[test]
    fn a_routes_header_replaces_the_gateways() {
        let config = config("", &route("path", "cache-control = \"private\""));
        let (headers, _) = read_both(&config);
        assert_eq!(headers.get_all("cache-control").iter().collect::<Vec<_>>(), ["private"]);
    }

    #[test]
    fn every_length_is_made_up_to_words_until_it_is_too_long() {
        let with = |length| replies(&config("", &route("path", &format!("x = \"{}\"", "v".repeat(length)))));
        let base = with(1).unwrap()[1].length;
        for length in 1..=16 {
            let [get, head] = with(length).unwrap();
            let (_, headers, _) = read(&get);
            assert_eq!((headers["x"].len(), headers["connection"].as_bytes()), (length, &b"close"[..]));
            read(&head);
            assert!(head.length >= base && head.length <= base + 16);
        }
        let longest = (1..1024).take_while(|&length| with(length).is_ok()).last().unwrap();
        assert_eq!(with(longest).unwrap()[0].length as usize, REPLY_CAPACITY);
        let error = with(longest + 1).unwrap_err().to_string();
        assert!(error.contains("deny_headers") && error.contains("1032 bytes"), "{error}");
    }
}
