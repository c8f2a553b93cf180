//! Everything a decision depends on besides the request and the time: compiled once, then only read.

use crate::geo::Country;
use crate::keys::KeyRing;
use crate::limits::DEFAULT_MAX_TTL;
use crate::net::{NetSet, PortSet};
use crate::pattern::PathPattern;
use crate::reason::Reason;
use crate::routes::Routes;
use crate::rules::When;
use crate::secure_token::{Algorithm, Secret};
use crate::sessions::Sessions;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;

/// What happens to a request that no route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// It passes.
    Allow,
    /// It is [`Reason::NoRoute`].
    Deny,
}

/// The compiled configuration of the validator. A clone shares what is large.
#[derive(Debug, Clone)]
pub struct Policy {
    /// For requests without a route.
    pub fallback: Fallback,
    /// Seconds of clock difference that `iat`, `nbf` and `exp` are forgiven.
    pub leeway: u64,
    /// Secrets of Content JWTs.
    pub keys: Arc<KeyRing>,
    /// Blacklisted sessions.
    pub sessions: Sessions,
    /// Lists that apply before anything else.
    pub prefilter: Arc<Prefilter>,
    /// In order; the first whose conditions hold decides.
    pub routes: Routes,
}

/// The address and country lists that the kernel applies too.
#[derive(Debug, Clone, Default)]
pub struct Prefilter {
    /// Exempt from `deny` and `services`.
    pub allow: NetSet,
    /// Refused.
    pub deny: NetSet,
    /// Country policies by destination; the first that covers the destination decides.
    pub services: Vec<Service>,
    /// Ports on which no request passes whose token segment claims a blacklisted session, whatever its route.
    pub session_ports: PortSet,
    /// Whether what would be refused is only reported.
    pub monitor: bool,
}

impl Prefilter {
    /// Whether the client may have connected to a session port. Where nobody knows to which port, it may have.
    pub(crate) fn watches_sessions(&self, destination: Option<(IpAddr, u16)>) -> bool {
        match destination {
            Some((_, port)) => self.session_ports.contains(port),
            None => !self.session_ports.is_empty(),
        }
    }
}

/// A country policy for one destination.
#[derive(Debug, Clone)]
pub struct Service {
    /// Destination networks.
    pub addresses: NetSet,
    /// Destination ports; empty for all.
    pub ports: Vec<u16>,
    /// Which countries pass.
    pub countries: Countries,
    /// Unix seconds, start inclusive, end exclusive; outside all of them the policy does not apply. Empty: always.
    pub windows: Vec<core::ops::Range<u64>>,
}

/// Which countries pass.
#[derive(Debug, Clone)]
pub enum Countries {
    /// Only these; an unknown country does not.
    Only(Vec<Country>),
    /// All but these; an unknown country does.
    AllBut(Vec<Country>),
}

impl Service {
    pub(crate) fn covers(&self, destination: (IpAddr, u16)) -> bool {
        self.addresses.contains(&destination.0)
            && (self.ports.is_empty() || self.ports.contains(&destination.1))
    }

    /// Whether a client of this address family cannot but have connected to the service, wherever that was.
    pub(crate) fn covers_everything(&self, client: IpAddr) -> bool {
        self.ports.is_empty() && self.addresses.covers_family(client)
    }

    pub(crate) fn applies_at(&self, now: u64) -> bool {
        self.windows.is_empty() || self.windows.iter().any(|window| window.contains(&now))
    }

    pub(crate) fn admits(&self, country: Option<Country>) -> bool {
        match (&self.countries, country) {
            (Countries::Only(list), Some(country)) => list.contains(&country),
            (Countries::Only(_), None) => false,
            (Countries::AllBut(list), Some(country)) => !list.contains(&country),
            (Countries::AllBut(_), None) => true,
        }
    }
}

/// One rule: conditions, the check that it applies, and what a refusal looks like.
#[derive(Debug)]
pub struct Route {
    /// For logs and metrics.
    pub name: Box<str>,
    /// When the route decides.
    pub when: When,
    /// What it checks.
    pub check: Check,
    /// What a refusal looks like.
    pub on_deny: OnDeny,
    /// Statuses of refusals.
    pub statuses: Statuses,
}

/// What a route checks.
#[derive(Debug)]
pub enum Check {
    /// A JWT in the path, the query, a header or a cookie.
    ContentJwt(ContentJwt),
    /// `st` and `e` in the query.
    SecureToken(SecureToken),
    /// Nothing: every request passes.
    Allow,
    /// Nothing: every request is [`Reason::RuleDenied`].
    Deny,
}

/// A Content JWT check.
#[derive(Debug)]
pub struct ContentJwt {
    /// Where the token may be, tried in order; the first place that has one decides.
    pub places: Vec<TokenPlace>,
    /// The path must match one of these. Without any, no path does.
    pub patterns: Vec<PathPattern>,
    /// Claims whose mismatch is let through and reported.
    pub monitored: Bindings,
    /// Bound on `exp - iat`, in seconds.
    pub max_lifetime: Option<u64>,
    /// Whether an address that no database knows passes `geo`, `local` and `asn`.
    pub unknown_place_passes: bool,
}

/// Where a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// The first path segment.
    Path,
    /// A query parameter.
    Query(Box<str>),
    /// A header field, in lower case; `Bearer ` before the token is skipped.
    Header(Box<str>),
    /// A cookie.
    Cookie(Box<str>),
}

/// Claims that bind a token to who uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bindings {
    /// `cip`.
    pub cip: bool,
    /// `geo`.
    pub geo: bool,
    /// `local`.
    pub local: bool,
    /// `asn`.
    pub asn: bool,
}

impl Bindings {
    /// The names of the claims in the set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        [("cip", self.cip), ("geo", self.geo), ("local", self.local), ("asn", self.asn)]
            .into_iter()
            .filter_map(|(name, there)| there.then_some(name))
    }

    /// Adds a claim by its name; false if it is no binding claim.
    pub fn insert(&mut self, name: &str) -> bool {
        match name {
            "cip" => self.cip = true,
            "geo" => self.geo = true,
            "local" => self.local = true,
            "asn" => self.asn = true,
            _ => return false,
        }
        true
    }
}

/// A Secure Token check.
#[derive(Debug)]
pub struct SecureToken {
    /// How the hash is made.
    pub algorithm: Algorithm,
    /// Any of these may have made it.
    pub secrets: Vec<Secret>,
    /// Bound on `e - now`, in seconds.
    pub max_ttl: u64,
}

impl SecureToken {
    /// A check with the default bound.
    #[must_use]
    pub fn new(algorithm: Algorithm, secrets: Vec<Secret>) -> Self {
        Self { algorithm, secrets, max_ttl: DEFAULT_MAX_TTL }
    }
}

/// What a refusal looks like.
#[derive(Debug)]
pub enum OnDeny {
    /// The status of the reason.
    Status,
    /// A redirect.
    Redirect(Template),
    /// The request goes to another upstream, by its URL.
    Forward(Box<str>),
}

/// A redirect target in which `{return}` stands for the percent-encoded URL of the request, without its token.
#[derive(Debug)]
pub struct Template {
    pub(crate) parts: Vec<Box<str>>,
}

impl Template {
    /// Reads a template.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self { parts: text.split("{return}").map(Into::into).collect() }
    }

    /// The template as written.
    #[must_use]
    pub fn text(&self) -> String {
        self.parts.join("{return}")
    }
}

/// The status of each reason on a route.
#[derive(Debug, Clone)]
pub struct Statuses([u16; Reason::ALL.len()]);

impl Default for Statuses {
    fn default() -> Self {
        Self(Reason::ALL.map(Reason::status))
    }
}

impl Statuses {
    /// Sets the status of a reason.
    pub fn set(&mut self, reason: Reason, status: u16) {
        self.0[reason as usize] = status;
    }

    /// The status of a reason.
    #[must_use]
    pub fn get(&self, reason: Reason) -> u16 {
        self.0[reason as usize]
    }
}
