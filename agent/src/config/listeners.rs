//! Where requests come in and where they go: listeners, upstreams, and the settings of both.

use super::problem::{Place, shown};
use super::reader::{Section, Value};
use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use validator_core::net::{NetSet, canonical, parse_net};

/// Longest path of a Unix socket on Linux, in bytes: 108 with the NUL that ends it.
const LONGEST_SOCKET_PATH: usize = 107;

/// The reverse proxy.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// At least one.
    pub listen: Vec<Listen>,
    /// Where allowed requests go.
    pub upstream: Upstream,
    /// Peers whose `X-Forwarded-For` or PROXY header is believed.
    pub trusted_proxies: Arc<NetSet>,
    /// Whether connections start with a PROXY header.
    pub proxy_protocol: bool,
    /// Whether refusals have a body.
    pub deny_body: bool,
    /// For a request's head, from its first byte.
    pub header_timeout: Duration,
    /// Between two pieces of a body.
    pub body_timeout: Duration,
    /// For the next request on an idle connection.
    pub keepalive_timeout: Duration,
    /// For a connection to the upstream.
    pub connect_timeout: Duration,
    /// For the upstream's response head.
    pub upstream_timeout: Duration,
    /// For open requests when the process ends.
    pub drain_timeout: Duration,
    /// Client connections at a time, 1 to 1,000,000.
    pub max_connections: usize,
}

/// The listener that answers another proxy's authorisation requests.
#[derive(Debug, Clone)]
pub struct Auth {
    /// At least one.
    pub listen: Vec<Listen>,
    /// Who may ask, over TCP.
    pub trusted_peers: NetSet,
}

/// Where a listener listens. Displayed as in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// An address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The absolute path of a socket.
    Unix(PathBuf),
}

impl Listen {
    /// Reads `IP:PORT` or `unix:/path`.
    ///
    /// # Errors
    /// What is wrong and what would be right, on one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!(
                "{} is no listen address; write IP:PORT such as \"0.0.0.0:8080\" or \"[::]:8080\", or \
                 \"unix:/path\"; host names are not looked up",
                shown(text)
            )
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An HTTP server without TLS. Displayed as in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Upstream {
    /// A host and port.
    Tcp {
        /// `host:port`, the port always written; an IPv6 address is in brackets.
        authority: String,
    },
    /// The absolute path of a socket.
    Unix(PathBuf),
}

impl Upstream {
    /// Reads `http://host[:port]` or `unix:/path`.
    ///
    /// # Errors
    /// What is wrong and what would be right, on one line. The text itself is not repeated, since it may contain a
    /// password.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
        let authority = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(
                    "TLS to an upstream is not supported; use http:// on a trusted network, or unix:".into(),
                );
            }
            _ => return Err("write http://host, http://host:port or unix:/path".into()),
        };
        let (host, port) = host_and_port(authority)?;
        Ok(Self::Tcp { authority: format!("{host}:{}", port.unwrap_or(80)) })
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { authority } => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What listeners have in common.
#[derive(Default)]
pub(super) struct Listeners<'t> {
    /// All so far, to find two that want the same address.
    all: Vec<(Listen, Place<'t>)>,
    /// The peers that any of them trusts.
    pub(super) trusted: Vec<IpNet>,
}

impl<'t> Listeners<'t> {
    fn add(&mut self, listen: Listen, place: Place<'t>) -> Listen {
        for (other, elsewhere) in &self.all {
            if *other == listen && !matches!(listen, Listen::Tcp(address) if address.port() == 0) {
                place.problem(format!("{listen} is already taken by {}; use another", elsewhere.key));
                break;
            }
            if overlap(other, &listen) {
                place.warn(format!(
                    "{listen} overlaps with {other} of {}; only one can listen",
                    elsewhere.key
                ));
            }
        }
        self.all.push((listen.clone(), place));
        listen
    }
}

pub(super) fn gateway<'t>(mut section: Section<'t>, all: &mut Listeners<'t>) -> Option<Gateway> {
    let listen = listen_list(&mut section, all, "0.0.0.0:8080");
    let upstream = section.require("upstream", "write for example upstream = \"http://127.0.0.1:9000\"");
    let upstream = upstream.and_then(|value| {
        let parsed = Upstream::parse(value.text()?);
        parsed.map_err(|text| value.place.problem(text)).ok()
    });
    let trusted = section.take("trusted_proxies");
    let trusted_place = trusted.as_ref().map_or_else(|| section.place.clone(), |value| value.place.clone());
    let trusted = trusted.and_then(|value| value.list()).unwrap_or_default();
    let proxies = trust(&trusted, "any client can claim any address");
    all.trusted.extend(&proxies);
    let trusted_proxies = Arc::new(NetSet::new(proxies));
    let proxy_protocol = section.boolean("proxy_protocol", false);
    if proxy_protocol && trusted.is_empty() {
        trusted_place
            .warn("proxy_protocol is on, but trusted_proxies is empty: no PROXY header will be believed");
    }
    let deny_body = section.boolean("deny_body", true);
    let header_timeout = section.seconds("header_timeout", 10);
    let body_timeout = section.seconds("body_timeout", 30);
    let keepalive_timeout = section.seconds("keepalive_timeout", 75);
    let connect_timeout = section.seconds("connect_timeout", 5);
    let upstream_timeout = section.seconds("upstream_timeout", 60);
    let drain_timeout = section.seconds("drain_timeout", 30);
    let max_connections = section.number("max_connections", &(1..=1_000_000)).unwrap_or(16_384);
    section.finish();
    Some(Gateway {
        listen,
        upstream: upstream?,
        trusted_proxies,
        proxy_protocol,
        deny_body,
        header_timeout,
        body_timeout,
        keepalive_timeout,
        connect_timeout,
        upstream_timeout,
        drain_timeout,
        max_connections,
    })
}

pub(super) fn auth<'t>(mut section: Section<'t>, all: &mut Listeners<'t>) -> Auth {
    let listen = listen_list(&mut section, all, "127.0.0.1:9180");
    let trusted_peers = match section.take("trusted_peers") {
        Some(value) => trust(
            &value.list().unwrap_or_default(),
            "anyone who reaches the listener can ask it, and claim any client",
        ),
        None => ["127.0.0.0/8", "::1/128"].into_iter().filter_map(parse_net).collect(),
    };
    section.finish();
    all.trusted.extend(&trusted_peers);
    Auth { listen, trusted_peers: NetSet::new(trusted_peers) }
}

pub(super) fn control<'t>(mut section: Section<'t>, all: &mut Listeners<'t>) -> Option<PathBuf> {
    let way_out = "write for example socket = \"/run/edgegate/control.sock\"";
    let socket = section.require("socket", way_out).and_then(|value| {
        let text = value.text()?;
        let parsed = socket_path(text.strip_prefix("unix:").unwrap_or(text));
        let path = parsed.map_err(|text| value.place.problem(text)).ok()?;
        all.add(Listen::Unix(path.clone()), value.place);
        Some(path)
    });
    section.finish();
    socket
}

pub(super) fn metrics<'t>(mut section: Section<'t>, all: &mut Listeners<'t>) -> Option<SocketAddr> {
    let listen =
        section.require("listen", "write for example listen = \"127.0.0.1:9190\"").and_then(|value| {
            let text = value.text()?;
            let Ok(Listen::Tcp(address)) = Listen::parse(text) else {
                value
                    .place
                    .problem(format!("{} is no IP:PORT; write for example \"127.0.0.1:9190\"", shown(text)));
                return None;
            };
            all.add(Listen::Tcp(address), value.place);
            Some(address)
        });
    section.finish();
    listen
}

fn listen_list<'t>(section: &mut Section<'t>, all: &mut Listeners<'t>, example: &str) -> Vec<Listen> {
    let way_out = format!("write for example listen = [\"{example}\"]");
    let Some(value) = section.require("listen", &way_out) else { return Vec::new() };
    let Some(elements) = value.list() else { return Vec::new() };
    if elements.is_empty() {
        value.place.problem(format!("needs at least one address; {way_out}"));
    }
    let listen = |value: Value<'t>| {
        let parsed = Listen::parse(value.text()?);
        let listen = parsed.map_err(|text| value.place.problem(text)).ok()?;
        Some(all.add(listen, value.place))
    };
    elements.into_iter().filter_map(listen).collect()
}

/// Addresses and networks.
pub(super) fn nets(values: &[Value<'_>]) -> Vec<IpNet> {
    values.iter().filter_map(net).collect()
}

pub(super) fn net(value: &Value<'_>) -> Option<IpNet> {
    let text = value.text()?;
    let net = parse_net(text);
    if net.is_none() {
        let text = shown(text);
        value.place.problem(format!(
            "{text} is no address or network; write for example \"192.0.2.1\" or \"2001:db8::/32\""
        ));
    }
    net
}

/// Networks that are believed; `danger` is what it means to believe everybody.
fn trust(values: &[Value<'_>], danger: &str) -> Vec<IpNet> {
    for value in values {
        let text = value.is_string().then(|| value.string()).flatten();
        if text.and_then(parse_net).is_some_and(|net| net.prefix_len() == 0) {
            value.place.warn(format!("trusts every address: {danger}"));
        }
    }
    nets(values)
}

/// Whether a listener on all addresses and one on a single address want the same port.
fn overlap(a: &Listen, b: &Listen) -> bool {
    let (Listen::Tcp(a), Listen::Tcp(b)) = (a, b) else { return false };
    a.port() == b.port()
        && a.port() != 0
        && a.is_ipv4() == b.is_ipv4()
        && a.ip().is_unspecified() != b.ip().is_unspecified()
}

/// A socket's path, without `unix:`.
fn socket_path(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') {
        return Err("a socket's path has to be absolute, such as \"/run/edgegate/gateway.sock\"".into());
    }
    if path.contains(char::is_control) {
        return Err("a socket's path cannot contain control characters".into());
    }
    if path.len() > LONGEST_SOCKET_PATH {
        return Err(format!("a socket's path has at most {LONGEST_SOCKET_PATH} bytes; use a shorter one"));
    }
    Ok(path.into())
}

/// Splits `host[:port]`, nothing before or after. The message does not repeat the text.
pub(super) fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    if authority.contains('@') {
        return Err("a user name or password is not supported here; remove everything up to the @".into());
    }
    if authority.contains(['/', '?', '#']) {
        return Err("a path or query is not supported here; end after the host and port".into());
    }
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
        Some(end) => authority.split_at(end + 2),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some(digits) if digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            let port = digits.parse().ok().filter(|&port: &u16| port > 0);
            Some(port.ok_or("the port has to be a number from 1 to 65535")?)
        }
        _ => {
            return Err(
                "after the host comes nothing or a port; an IPv6 address is written in brackets".into()
            );
        }
    };
    if let Some(v6) = host.strip_prefix('[') {
        let v6 = v6.strip_suffix(']').and_then(|text| text.parse::<std::net::Ipv6Addr>().ok());
        return v6.map(|_| (host, port)).ok_or_else(|| "no IPv6 address between the brackets".into());
    }
    let name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(name) {
        return Err("no host name or IP address where the host should be".into());
    }
    // Resolvers read such a "name" in more than one way.
    if host.bytes().all(|b| b.is_ascii_digit() || b == b'.') && host.parse::<IpAddr>().map(canonical).is_err()
    {
        return Err("the host looks like an IPv4 address and is none".into());
    }
    Ok((host, port))
}
