//! The gateway: a reverse proxy that lets good requests through, without their token.

use crate::config::{self, Upstream};
use crate::judge::{Answer, Asked, DecidedBy, Judge, Judged};
use crate::message::{Body, Refusal, answer, closing, forwarded_client, keep_end_to_end, refusal, single};
use crate::server::{Connection, Direct, Handler, Limits};
use crate::snapshot::Snapshot;
use crate::upstream::{Failure, UpstreamTimeouts, Upstreams};
use crate::wire::{ClientTimeouts, HeadFacts};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderName, LOCATION, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Either;
use hyper::body::Incoming;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use validator_core::{Check, Reason, TokenPlace, split_cookie};

/// Fields that the gateway sets upstream. What a client sends under these names, or under a spelling that an origin may
/// take for them, goes no further.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const SESSION: HeaderName = HeaderName::from_static("x-edgegate-session");
const OWN_PREFIX: &str = "x-edgegate-";

/// Fields by which some origins let a client replace the path that was judged.
const OTHER_PATHS: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// Fields that say who the client is. Only a trusted proxy may.
const OTHER_CLIENTS: [&str; 2] = ["forwarded", "x-real-ip"];

/// The gateway of a process.
pub(crate) struct Gateway {
    judge: Judge,
    upstreams: Upstreams,
}

/// What a request says about who sent it, after trust was applied.
struct Origin {
    client: IpAddr,
    scheme: &'static str,
    /// Whether the peer is a proxy that is believed about its clients.
    trusted: bool,
    /// The `X-Forwarded-For` to extend; `None` where the client's own is not believed.
    forwarded_for: Option<String>,
}

impl Gateway {
    /// A gateway that decides by `judge`.
    #[must_use]
    pub(crate) fn new(judge: Judge, upstreams: Upstreams) -> Self {
        Self { judge, upstreams }
    }

    async fn proxy(
        &self,
        settings: &config::Gateway,
        upstream: &Upstream,
        path: Bytes,
        request: Request<Incoming>,
    ) -> Response<Body> {
        // The path went through the same parser when it came in, so this holds.
        let Ok(path) = PathAndQuery::from_maybe_shared(path) else {
            return self.failed(Failure::Broken);
        };
        let pool = self.upstreams.pool(upstream, upstream_timeouts(settings));
        match pool.send(request, path).await {
            // Nobody asked to switch protocols.
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                self.failed(Failure::Broken)
            }
            Ok(response) => {
                let mut response = response.map(|body| Either::Right(Either::Left(body)));
                *response.version_mut() = http::Version::HTTP_11;
                // What the gate says about a request, the origin does not.
                keep_end_to_end(response.headers_mut(), |name| name.starts_with(OWN_PREFIX));
                // A length beside a transfer coding means nothing (RFC 9112, 6.3), and hyper writes no such answer.
                if response.headers().contains_key(TRANSFER_ENCODING) {
                    response.headers_mut().remove(CONTENT_LENGTH);
                }
                response
            }
            Err(failure) => self.failed(failure),
        }
    }

    fn failed(&self, failure: Failure) -> Response<Body> {
        let (status, reason) = failure.answer();
        self.judge.metrics().upstream_failures.with_label_values(&[reason]).inc();
        let response = answer(status, reason);
        // After a body that ended badly nothing on the connection can be told apart any more.
        if failure == Failure::ClientBody { closing(response) } else { response }
    }

    async fn handle_trusted(
        &self,
        snapshot: &Snapshot,
        mut request: Request<Incoming>,
        connection: &Connection,
        facts: HeadFacts,
    ) -> Result<Response<Body>, Refusal> {
        // A listener exists only where the configuration has a gateway, and reloads cannot take it away.
        let Some(settings) = &snapshot.config.gateway else {
            return Err(Refusal::NOT_CONFIGURED);
        };
        // The authority of an absolute-form target replaces `Host` for rules and origin alike (RFC 9112, 3.2.2).
        if let Some(Ok(host)) = request.uri().authority().map(|a| HeaderValue::from_str(a.as_str())) {
            request.headers_mut().insert(HOST, host);
        }
        let origin = origin(request.headers(), connection, settings)?;
        let target = target(&request, facts);
        let Judged { answer, by } = {
            let host = request.headers().get(HOST).map_or(&b""[..], HeaderValue::as_bytes);
            let asked = Asked {
                method: request.method().as_str(),
                target: &target,
                scheme: origin.scheme,
                host,
                client: origin.client,
                destination: connection.local,
                headers: request.headers(),
            };
            self.judge.judge(snapshot, &asked)
        };
        // The peer of an older connection may be a trusted proxy by now.
        let followed = connection.followed.as_ref().filter(|_| !origin.trusted);
        let denies_session = answer.denies_session();
        Ok(match answer {
            Answer::Allow { upstream_uri, session, .. } => {
                // A reload may have looked through the sessions just before this one was seen.
                if let (Some(followed), Some(session)) = (followed, &session)
                    && followed.saw(session)
                    && self.judge.is_blacklisted(session)
                {
                    followed.cut();
                }
                prepare_upstream(&mut request, by, &origin, connection, session);
                self.proxy(settings, &settings.upstream, upstream_uri, request).await
            }
            Answer::Forward { upstream, upstream_uri, .. } => {
                prepare_upstream(&mut request, by, &origin, connection, None);
                match Upstream::parse(&upstream) {
                    Ok(upstream) => self.proxy(settings, &upstream, upstream_uri, request).await,
                    Err(_) => self.failed(Failure::Unreachable),
                }
            }
            Answer::Deny { reason, status } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                let response = denial(settings, by, status, reason);
                match followed {
                    Some(followed) if denies_session => {
                        followed.denied();
                        closing(response)
                    }
                    _ => response,
                }
            }
            Answer::Redirect { location, reason } => {
                let mut response = denial(settings, by, StatusCode::FOUND, reason);
                match HeaderValue::try_from(location) {
                    Ok(location) => drop(response.headers_mut().insert(LOCATION, location)),
                    // Templates are checked at load and what is filled in is percent-encoded.
                    Err(_) => *response.status_mut() = StatusCode::FORBIDDEN,
                }
                response
            }
        })
    }
}

impl Handler for Gateway {
    const NAME: &'static str = "gateway";

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        facts: HeadFacts,
    ) -> Response<Body> {
        let snapshot = self.judge.snapshot();
        match self.handle_trusted(&snapshot, request, connection, facts).await {
            Ok(response) => response,
            Err(refusal) => {
                self.refused(refusal);
                closing(answer(refusal.status, refusal.reason))
            }
        }
    }

    fn refused(&self, refusal: Refusal) {
        self.judge.metrics().bad_requests.with_label_values(&[Self::NAME, refusal.reason]).inc();
    }

    fn limits(&self) -> Limits {
        let snapshot = self.judge.snapshot();
        let settings = snapshot.config.gateway.as_ref();
        let trusted = settings.filter(|s| s.proxy_protocol).map(|s| Arc::clone(&s.trusted_proxies));
        let direct = settings.map(|s| Direct {
            flows: Arc::clone(self.judge.flows()),
            trusted_proxies: Arc::clone(&s.trusted_proxies),
        });
        Limits {
            timeouts: settings.map_or(
                ClientTimeouts {
                    header: Duration::from_secs(10),
                    body: Duration::from_secs(30),
                    keepalive: Duration::from_secs(75),
                },
                |s| ClientTimeouts {
                    header: s.header_timeout,
                    body: s.body_timeout,
                    keepalive: s.keepalive_timeout,
                },
            ),
            proxy_protocol: trusted,
            direct,
        }
    }
}

fn upstream_timeouts(settings: &config::Gateway) -> UpstreamTimeouts {
    UpstreamTimeouts { connect: settings.connect_timeout, answer: settings.upstream_timeout }
}

/// Who sent the request. A peer is believed about others only if it is a trusted proxy; on a unix socket it is whoever
/// may open the socket.
fn origin(
    headers: &HeaderMap,
    connection: &Connection,
    settings: &config::Gateway,
) -> Result<Origin, Refusal> {
    let trusted = match connection.peer {
        _ if connection.passes_through => false,
        Some(peer) => settings.trusted_proxies.contains(&peer),
        None => true,
    };
    let peer = connection.peer.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    if !trusted {
        return Ok(Origin { client: peer, scheme: "http", trusted, forwarded_for: None });
    }
    let client = forwarded_client(headers, peer, &settings.trusted_proxies)?;
    let scheme = match single(headers, FORWARDED_PROTO.as_str())? {
        Some(proto) if proto.as_bytes().eq_ignore_ascii_case(b"https") => "https",
        _ => "http",
    };
    let lines: Vec<&str> = headers.get_all(&FORWARDED_FOR).iter().filter_map(|v| v.to_str().ok()).collect();
    Ok(Origin { client, scheme, trusted, forwarded_for: (!lines.is_empty()).then(|| lines.join(", ")) })
}

/// The target as it came over the wire, but for the text of a fragment, which hyper drops: that there was one is enough
/// to refuse it.
fn target(request: &Request<Incoming>, facts: HeadFacts) -> Cow<'_, [u8]> {
    let uri = request.uri();
    // A proxy for one origin opens no tunnels. Whatever CONNECT names, it is no path.
    if request.method() == Method::CONNECT {
        return uri.authority().map(|authority| authority.as_str().as_bytes().into()).unwrap_or_default();
    }
    let mut target = match (uri.scheme(), uri.path_and_query()) {
        (None, Some(path)) if uri.authority().is_none() => Cow::Borrowed(path.as_str().as_bytes()),
        _ => Cow::Owned(uri.to_string().into_bytes()),
    };
    if facts.fragment {
        target.to_mut().push(b'#');
    }
    target
}

/// Makes of the client's request the one that goes upstream; only the URI is set later.
fn prepare_upstream(
    request: &mut Request<Incoming>,
    by: DecidedBy<'_>,
    origin: &Origin,
    connection: &Connection,
    session: Option<String>,
) {
    let headers = request.headers_mut();
    keep_end_to_end(headers, |name| name == EXPECT.as_str() || is_claimed(name, origin.trusted));
    if let Some(index) = by.route
        && let Check::ContentJwt(check) = &by.snapshot.config.policy.routes[index].check
    {
        check.places.iter().for_each(|place| remove_token(headers, place));
    }
    // On a unix socket there is no address to add.
    let forwarded_for = match (&origin.forwarded_for, connection.peer) {
        (Some(earlier), Some(peer)) => HeaderValue::try_from(format!("{earlier}, {peer}")).ok(),
        (Some(earlier), None) => HeaderValue::try_from(earlier).ok(),
        (None, _) => connection.peer_text.clone(),
    };
    if let Some(value) = forwarded_for {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(origin.scheme));
    // A session with bytes that no header can carry is simply not told.
    if let Some(Ok(session)) = session.map(HeaderValue::try_from) {
        headers.insert(SESSION, session);
    }
}

/// Whether a client has no say in a field, in any spelling that an origin may take for it: `_` is read as `-`.
fn is_claimed(name: &str, trusted: bool) -> bool {
    let claimed = |name: &str| {
        name.starts_with(OWN_PREFIX)
            || name == FORWARDED_FOR.as_str()
            || name == FORWARDED_PROTO.as_str()
            || OTHER_PATHS.contains(&name)
            || (!trusted && OTHER_CLIENTS.contains(&name))
    };
    if !name.contains('_') {
        return claimed(name);
    }
    let folded = name.replace('_', "-");
    claimed(&folded) || matches!(folded.as_str(), "host" | "content-length" | "transfer-encoding")
}

/// Takes a token out of the header fields; the ones in the URI are gone already.
fn remove_token(headers: &mut HeaderMap, place: &TokenPlace) {
    match place {
        TokenPlace::Path | TokenPlace::Query(_) => {}
        TokenPlace::Header(name) => drop(headers.remove(&**name)),
        TokenPlace::Cookie(name) => {
            let kept: Vec<Vec<u8>> = headers
                .get_all(COOKIE)
                .iter()
                .flat_map(|line| line.as_bytes().split(|&b| b == b';'))
                .map(<[u8]>::trim_ascii)
                .filter(|pair| !pair.is_empty())
                .filter(|pair| split_cookie(pair).is_none_or(|(key, _)| key != name.as_bytes()))
                .map(<[u8]>::to_vec)
                .collect();
            headers.remove(COOKIE);
            if !kept.is_empty()
                && let Ok(line) = HeaderValue::from_bytes(&kept.join(&b"; "[..]))
            {
                headers.insert(COOKIE, line);
            }
        }
    }
}

fn denial(
    settings: &config::Gateway,
    by: DecidedBy<'_>,
    status: StatusCode,
    reason: Reason,
) -> Response<Body> {
    let mut response = refusal(status, reason, settings.deny_body);
    add_deny_headers(response.headers_mut(), by);
    response
}

/// Adds what the route wants on its refusals.
pub(crate) fn add_deny_headers(headers: &mut HeaderMap, by: DecidedBy<'_>) {
    if let Some(index) = by.route {
        for (name, value) in &by.snapshot.config.routes[index].deny_headers {
            headers.insert(name.clone(), value.clone());
        }
    }
}
