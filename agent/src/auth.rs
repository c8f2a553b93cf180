//! The auth listener: answers other proxies' questions whether a request may pass.
//!
//! | asker | asks at | the request is in | the answer |
//! |---|---|---|---|
//! | nginx `auth_request` | any path | `X-Original-URI`, `X-Original-Method`, `X-Real-IP` | 200 or 403; the real status in `X-Edgegate-Status` |
//! | Traefik, Caddy | `/forward` | `X-Forwarded-Uri`, `-Method`, `-Host`, `-For` | the real status |
//! | Envoy `ext_authz` | `/envoy` before the path | the request line and `Host`, `X-Forwarded-For` | the real status |
//!
//! nginx may also name the client's connection, with `X-Real-Port`, `X-Server-Addr` and `X-Server-Port`: then the kernel part
//! can refuse it.

use crate::flows::{self, Cause};
use crate::gateway::add_deny_headers;
use crate::judge::{Answer, Asked, DecidedBy, Judge, Judged};
use crate::message::{Body, REASON, Refusal, answer, closing, forwarded_client, parse_address, single};
use crate::server::{Connection, Handler, Limits};
use crate::wire::HeadFacts;
use ebpf_abi::Flow;
use http::header::{HOST, HeaderName, LOCATION};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use validator_core::net::NetSet;
use validator_core::uri::is_plain_authority;

const STATUS: HeaderName = HeaderName::from_static("x-edgegate-status");
const URI: HeaderName = HeaderName::from_static("x-edgegate-uri");
const CACHE_KEY: HeaderName = HeaderName::from_static("x-edgegate-cache-key");
const SESSION: HeaderName = HeaderName::from_static("x-edgegate-session");
const FORWARD: HeaderName = HeaderName::from_static("x-edgegate-forward");

/// Inputs that must not occur twice: of two copies one may be the client's.
const INPUTS: [&str; 11] = [
    "x-original-uri",
    "x-original-method",
    "x-real-ip",
    "x-real-port",
    "x-server-addr",
    "x-server-port",
    "x-forwarded-uri",
    "x-forwarded-method",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-for",
];

/// How a proxy asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asker {
    Nginx,
    Forward,
    Envoy,
}

impl Asker {
    fn of(path: &str) -> Self {
        if path == "/forward" {
            Self::Forward
        } else if path.strip_prefix("/envoy").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            Self::Envoy
        } else {
            Self::Nginx
        }
    }

    /// nginx turns any refusal but 403 into a 500 of its own.
    fn visible(self, status: StatusCode) -> StatusCode {
        match self {
            Self::Nginx if status != StatusCode::OK => StatusCode::FORBIDDEN,
            _ => status,
        }
    }
}

/// The auth listener of a process.
pub(crate) struct Auth {
    judge: Judge,
}

/// The request that is asked about.
struct Question {
    method: String,
    target: Vec<u8>,
    scheme: &'static str,
    host: Vec<u8>,
    client: IpAddr,
    destination: Option<SocketAddr>,
    /// The client's connection, where it is named.
    flow: Option<Flow>,
}

impl Auth {
    /// A listener that decides by `judge`.
    #[must_use]
    pub(crate) fn new(judge: Judge) -> Self {
        Self { judge }
    }

    fn decide(
        &self,
        request: &Request<Incoming>,
        connection: &Connection,
        facts: HeadFacts,
    ) -> Result<Response<Body>, Refusal> {
        let snapshot = self.judge.snapshot();
        let none = NetSet::default();
        let trusted = snapshot.config.auth.as_ref().map_or(&none, |auth| &auth.trusted_peers);
        if connection.peer.is_some_and(|peer| !trusted.contains(&peer)) {
            return Err(Refusal::PEER_UNTRUSTED);
        }
        let headers = request.headers();
        for name in INPUTS {
            single(headers, name)?;
        }
        let asker = Asker::of(request.uri().path());
        let question = question(asker, request, connection, facts, trusted)?;
        let asked = Asked {
            method: &question.method,
            target: &question.target,
            scheme: question.scheme,
            host: &question.host,
            client: question.client,
            destination: question.destination,
            headers,
        };
        let judged = self.judge.judge(&snapshot, &asked);
        let proxies = snapshot.config.gateway.as_ref().map_or(&none, |gateway| &gateway.trusted_proxies);
        if let Some(flow) = question.flow
            && !proxies.contains(&question.client)
        {
            self.follow(flow, &judged);
        }
        Ok(reply(asker, &judged))
    }
}

impl Auth {
    /// Remembers the session on a client's connection, or has a connection refused.
    fn follow(&self, flow: Flow, judged: &Judged<'_>) {
        let flows = self.judge.flows();
        match &judged.answer {
            // A reload may have looked through the sessions just before this one was seen.
            Answer::Allow { session: Some(session), .. }
                if flows.saw(flow, session, Instant::now()) && self.judge.is_blacklisted(session) =>
            {
                flows.reject(&flow, Cause::Blacklisted);
            }
            answer if answer.denies_session() => {
                flows.reject(&flow, Cause::Denied);
            }
            _ => {}
        }
    }
}

impl Handler for Auth {
    const NAME: &'static str = "auth";

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        facts: HeadFacts,
    ) -> Response<Body> {
        self.decide(&request, connection, facts).unwrap_or_else(|refusal| {
            self.refused(refusal);
            if self.judge.may_log() {
                let Refusal { reason, detail, .. } = refusal;
                tracing::warn!(peer = ?connection.peer, reason, detail, "question refused; see the example configurations");
            }
            let mut response = closing(answer(refusal.status, refusal.reason));
            response.headers_mut().insert(STATUS, HeaderValue::from(refusal.status.as_u16()));
            response.headers_mut().insert(REASON, HeaderValue::from_static(refusal.reason));
            response
        })
    }

    fn refused(&self, refusal: Refusal) {
        self.judge.metrics().bad_requests.with_label_values(&[Self::NAME, refusal.reason]).inc();
    }

    fn limits(&self) -> Limits {
        // Proxies keep connections for long; they are few.
        Limits::plain(Duration::from_secs(30), Duration::from_secs(3600))
    }
}

/// Reads the question out of the headers of its asker.
fn question(
    asker: Asker,
    request: &Request<Incoming>,
    connection: &Connection,
    facts: HeadFacts,
    trusted: &NetSet,
) -> Result<Question, Refusal> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).map(|value| value.to_str().map_err(|_| Refusal::BAD_REQUEST));
    let bytes = |name: &str| headers.get(name).map(|value| value.as_bytes().to_vec());

    let (target, method) = match asker {
        Asker::Nginx => (bytes("x-original-uri"), text("x-original-method").transpose()?),
        Asker::Forward => (bytes("x-forwarded-uri"), text("x-forwarded-method").transpose()?),
        Asker::Envoy => {
            let whole = request.uri().path_and_query().map_or("", |path| path.as_str());
            let mut target = whole.strip_prefix("/envoy").unwrap_or(whole).as_bytes().to_vec();
            if facts.fragment {
                target.push(b'#');
            }
            (Some(target), Some(request.method().as_str()))
        }
    };
    let incomplete =
        |detail| Refusal { status: asker.visible(StatusCode::BAD_REQUEST), detail, ..Refusal::BAD_REQUEST };
    let target = target.ok_or(incomplete("the asking proxy does not say which URI it asks about"))?;

    // A peer that does not say whom it asks for asks for itself. On a unix socket that is nobody.
    let client = match (asker, text("x-real-ip").transpose()?) {
        (Asker::Nginx, Some(ip)) => Some(parse_address(ip).ok_or(Refusal::BAD_REQUEST)?),
        (Asker::Nginx, None) => connection.peer,
        _ if headers.contains_key("x-forwarded-for") => {
            let peer = connection.peer.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
            Some(forwarded_client(headers, peer, trusted)?)
        }
        _ => connection.peer,
    };
    let client = client.ok_or(incomplete("the asking proxy does not say who the client is"))?;

    let destination = match (text("x-server-addr").transpose()?, text("x-server-port").transpose()?) {
        (Some(address), Some(port)) => {
            let address = parse_address(address).ok_or(Refusal::BAD_REQUEST)?;
            Some(SocketAddr::new(address, parse_port(port)?))
        }
        _ => None,
    };
    // Other askers pass on what clients send under these names.
    let flow = match (asker, text("x-real-ip"), text("x-real-port").transpose(), destination) {
        (Asker::Nginx, Some(_), Ok(Some(port)), Some(server)) => {
            Some(flows::tcp(SocketAddr::new(client, parse_port(port)?), server))
        }
        (Asker::Nginx, _, Err(refusal), _) => return Err(refusal),
        _ => None,
    };
    let https = text("x-forwarded-proto").transpose()?.is_some_and(|p| p.eq_ignore_ascii_case("https"));
    // nginx passes on what clients send, also under this name; `Host` is what it asks with.
    let forwarded_host = if asker == Asker::Nginx { None } else { bytes("x-forwarded-host") };
    let host = forwarded_host.or_else(|| bytes(HOST.as_str())).unwrap_or_default();
    if !is_plain_authority(&host) {
        return Err(incomplete("the host is not a name or address and perhaps a port"));
    }
    Ok(Question {
        method: method.unwrap_or("GET").to_owned(),
        target,
        scheme: if https { "https" } else { "http" },
        host,
        client,
        destination,
        flow,
    })
}

/// A port in digits alone; the standard library would also take a sign.
fn parse_port(text: &str) -> Result<u16, Refusal> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(Refusal::BAD_REQUEST)
}

/// The answer in the form that the asker understands. What a header cannot carry is left out.
fn reply(asker: Asker, judged: &Judged<'_>) -> Response<Body> {
    let (status, body) = match &judged.answer {
        Answer::Allow { .. } => (StatusCode::OK, ""),
        Answer::Deny { reason, status } => {
            (StatusCode::from_u16(*status).unwrap_or(StatusCode::FORBIDDEN), reason.name())
        }
        Answer::Redirect { reason, .. } => (StatusCode::FOUND, reason.name()),
        Answer::Forward { reason, .. } => (forwarded_status(judged.by, *reason), reason.name()),
    };
    let mut response = answer(asker.visible(status), body);
    let headers = response.headers_mut();
    headers.insert(STATUS, HeaderValue::from(status.as_u16()));
    match &judged.answer {
        Answer::Allow { upstream_uri, cache_key, session } => {
            insert(headers, URI, upstream_uri);
            insert(headers, CACHE_KEY, cache_key.as_ref().unwrap_or(upstream_uri));
            insert(headers, SESSION, session.as_deref().unwrap_or_default().as_bytes());
        }
        Answer::Deny { reason, .. } => drop(headers.insert(REASON, HeaderValue::from_static(reason.name()))),
        Answer::Redirect { location, reason } => {
            headers.insert(REASON, HeaderValue::from_static(reason.name()));
            insert(headers, LOCATION, location);
        }
        Answer::Forward { upstream, upstream_uri, reason } => {
            headers.insert(REASON, HeaderValue::from_static(reason.name()));
            insert(headers, FORWARD, upstream.as_bytes());
            insert(headers, URI, upstream_uri);
        }
    }
    if !matches!(judged.answer, Answer::Allow { .. }) {
        add_deny_headers(headers, judged.by);
    }
    response
}

/// An asker has to forward by itself; to one that does not, the request is refused.
fn forwarded_status(by: DecidedBy<'_>, reason: validator_core::Reason) -> StatusCode {
    let status = by
        .route
        .map_or(reason.status(), |index| by.snapshot.config.policy.routes[index].statuses.get(reason));
    StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN)
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &[u8]) {
    if !value.is_empty()
        && let Ok(value) = HeaderValue::from_bytes(value)
    {
        headers.insert(name, value);
    }
}
