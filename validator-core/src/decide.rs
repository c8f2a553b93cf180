//! The decision: request, policy, places and time in, verdict out.

use crate::claimed::{self, ClaimedScratch};
use crate::explain::{Bytes, Trace};
use crate::geo::{Country, Geo, same_name};
use crate::limits::MAX_TARGET;
use crate::net::canonical;
use crate::pattern::PatternScratch;
use crate::policy::{
    Bindings, Check, ContentJwt, Fallback, OnDeny, Policy, Route, SecureToken, Service, TokenPlace,
};
use crate::query::{self, Found};
use crate::reason::Reason;
use crate::request::{Facts, Occurs, Request, RuleScratch, cookie, header};
use crate::secure_token::{self, PARAMETERS};
use crate::token::{self, TokenScratch, Unverified};
use crate::uri::{self, Spelling, Split, Target};
use alloc::vec::Vec;
use core::cell::Cell;

/// What is to happen to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It may have the content.
    Allow {
        /// Path and query without the token, as they go to the origin.
        upstream_uri: &'a [u8],
        /// What identifies the content, independent of who asks: the same for every token.
        cache_key: &'a [u8],
        /// The token's `sid`.
        session: Option<&'a str>,
    },
    /// It is refused.
    Deny {
        /// Why.
        reason: Reason,
        /// The HTTP status to answer with.
        status: u16,
    },
    /// It is refused and sent elsewhere.
    Redirect {
        /// The URL to send it to.
        location: &'a [u8],
        /// Why.
        reason: Reason,
    },
    /// It is refused and handed to another upstream.
    Forward {
        /// That upstream's URL.
        upstream: &'a str,
        /// Path and query without the token.
        upstream_uri: &'a [u8],
        /// Why.
        reason: Reason,
    },
}

impl Verdict<'_> {
    /// The reason of anything but [`Verdict::Allow`].
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Allow { .. } => None,
            Self::Deny { reason, .. } | Self::Redirect { reason, .. } | Self::Forward { reason, .. } => {
                Some(*reason)
            }
        }
    }

    /// `allow`, `deny`, `redirect` or `forward`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Allow { .. } => "allow",
            Self::Deny { .. } => "deny",
            Self::Redirect { .. } => "redirect",
            Self::Forward { .. } => "forward",
        }
    }
}

/// A verdict and how it came about.
#[derive(Debug, Clone, Copy)]
pub struct Decision<'a> {
    /// What is to happen.
    pub verdict: Verdict<'a>,
    /// Index into [`Policy::routes`] of the route that decided.
    pub route: Option<usize>,
    /// The `sid` of a token whose signature was good, also when the request was refused after that.
    pub session: Option<&'a str>,
    /// Claims that did not hold and were let through by monitor mode.
    pub monitored: Bindings,
    /// Why the lists would have refused the request, had they not been in monitor mode.
    pub listed: Option<Reason>,
    /// The path without a leading token: what may be logged. Empty when the target could not be read.
    pub path: &'a [u8],
}

impl Decision<'_> {
    /// Names of everything that monitor mode let through: claims, and reasons of the lists.
    pub fn let_through(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.listed.map(Reason::name).into_iter().chain(self.monitored.names())
    }
}

/// Memory that a decision works in, so that it allocates nothing. One per thread, used for one request after another.
#[derive(Debug)]
pub struct Scratch {
    token: TokenScratch,
    claimed: ClaimedScratch,
    patterns: PatternScratch,
    rules: RuleScratch,
    out: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// Scratch without room for any policy's patterns yet; see [`Scratch::reserve`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            token: TokenScratch::new(),
            claimed: ClaimedScratch::new(),
            patterns: PatternScratch::new(),
            rules: RuleScratch::new(),
            out: Vec::new(),
        }
    }

    /// Makes room for every decision under this policy. Without it decisions are the same, but the first ones allocate.
    pub fn reserve(&mut self, policy: &Policy) {
        let mut longest_template = 0;
        for route in policy.routes.iter() {
            if let Check::ContentJwt(check) = &route.check {
                check.patterns.iter().for_each(|pattern| self.patterns.reserve(pattern, MAX_TARGET));
            }
            if let OnDeny::Redirect(template) = &route.on_deny {
                let fixed: usize = template.parts.iter().map(|part| part.len()).sum();
                // Percent-encoding makes three bytes of one; host and scheme are within the margin below.
                longest_template =
                    longest_template.max(fixed + template.parts.len().saturating_sub(1) * 3 * MAX_TARGET);
            }
        }
        let wanted = 2 * MAX_TARGET + longest_template;
        self.out.clear();
        self.out.reserve(wanted);
    }
}

/// Decides on one request. `now` is in unix seconds.
///
/// Checks run in the order of [`Reason::ALL`], and the first that fails is the reason. Nothing that an unverified token
/// says has any influence but on which key it is held against, and, on session ports, that a blacklisted session is
/// refused on every route.
pub fn decide<'a, T: Trace>(
    policy: &'a Policy,
    request: &Request<'a>,
    geo: &'a dyn Geo,
    now: u64,
    scratch: &'a mut Scratch,
    trace: &mut T,
) -> Decision<'a> {
    let Scratch { token, claimed, patterns, rules, out } = scratch;
    let country = Cell::new(None);
    let listed = match prefilter(policy, request, geo, now, &country, trace) {
        Ok(()) => None,
        Err(reason) if policy.prefilter.monitor => {
            trace.note("prefilter", format_args!("{}: let through by monitor mode", reason.name()));
            Some(reason)
        }
        Err(reason) => return refused_before_routing(reason, None),
    };
    let facts = match admit(request, geo, &country, rules, trace) {
        Ok(facts) => facts,
        Err(reason) => return refused_before_routing(reason, listed),
    };
    let decider = Decider { policy, now, listed, token, claimed, patterns, out };
    match find_route(policy, &facts, trace) {
        Some(index) => decider.on_route(index, &facts, false, trace),
        None => match find_misplaced(policy, &facts, trace) {
            Some((index, facts)) => decider.on_route(index, &facts, true, trace),
            None => decider.on_no_route(&facts, trace),
        },
    }
}

/// What a decision is made with, once its route is known.
struct Decider<'a> {
    policy: &'a Policy,
    now: u64,
    listed: Option<Reason>,
    token: &'a mut TokenScratch,
    claimed: &'a mut ClaimedScratch,
    patterns: &'a mut PatternScratch,
    out: &'a mut Vec<u8>,
}

impl<'a> Decider<'a> {
    fn on_no_route<T: Trace>(self, facts: &Facts<'_, 'a>, trace: &mut T) -> Decision<'a> {
        let Self { policy, now, listed, claimed, out, .. } = self;
        if is_ambiguous(facts.token) {
            return refused_before_routing(Reason::UriAmbiguous, listed);
        }
        let is_denied = policy.fallback == Fallback::Deny;
        let claims =
            !is_denied && claims_blacklisted(policy, facts.request, facts.token, now, claimed, trace);
        let (refused, listed) = refused_or_listed(claims, policy, listed);
        let verdict = if let Some(reason) = refused {
            Verdict::Deny { reason, status: reason.status() }
        } else if is_denied {
            Verdict::Deny { reason: Reason::NoRoute, status: Reason::NoRoute.status() }
        } else {
            let upstream_uri = upstream_uri(facts, &core::iter::empty(), out);
            Verdict::Allow { upstream_uri, cache_key: upstream_uri, session: None }
        };
        Decision {
            verdict,
            route: None,
            session: None,
            monitored: Bindings::default(),
            listed,
            path: facts.path,
        }
    }

    /// What the route says. On one that was found behind a misplaced token, nothing passes.
    #[inline(always)]
    fn on_route<T: Trace>(
        self,
        index: usize,
        facts: &Facts<'_, 'a>,
        is_misplaced: bool,
        trace: &mut T,
    ) -> Decision<'a> {
        let Self { policy, now, listed, token, claimed, patterns, out } = self;
        let route = &policy.routes[index];
        let mut findings = Findings::default();
        let outcome = match &route.check {
            Check::Allow => Ok(()),
            Check::Deny => Err(Reason::RuleDenied),
            Check::SecureToken(check) => check_secure_token(check, facts, now, trace),
            // Routes before this one never saw the shifted path, so a good token in another place must not open it.
            Check::ContentJwt(_) if is_misplaced => Err(Reason::TokenMalformed),
            Check::ContentJwt(check) => {
                let checker = JwtChecker { policy, check, facts, now, findings: &mut findings };
                checker.run(token, patterns, trace)
            }
        };
        // What was decoded has no byte with another reading.
        if !findings.segment_decoded && is_ambiguous(facts.token) {
            return refused_before_routing(Reason::UriAmbiguous, listed);
        }
        let unchecked = facts.token.filter(|_| !findings.segment_session_passed);
        // A redirect or forward gives way to this.
        let is_denied = outcome.is_err() && matches!(route.on_deny, OnDeny::Status);
        let claims = !is_denied && claims_blacklisted(policy, facts.request, unchecked, now, claimed, trace);
        let (session, monitored, path) = (findings.session, findings.monitored, facts.path);
        let (refused, listed) = refused_or_listed(claims, policy, listed);
        // Each is made where it goes, and not moved.
        match (refused, outcome) {
            (None, Ok(())) => {
                let upstream_uri = upstream_uri(facts, &stripped_parameters(&route.check), out);
                let verdict = Verdict::Allow { upstream_uri, cache_key: upstream_uri, session };
                Decision { verdict, route: Some(index), session, monitored, listed, path }
            }
            (None, Err(reason)) => {
                let verdict = refuse(route, reason, facts, out);
                Decision { verdict, route: Some(index), session, monitored, listed, path }
            }
            (Some(reason), _) => {
                let verdict = Verdict::Deny { reason, status: reason.status() };
                Decision { verdict, route: Some(index), session, monitored, listed, path }
            }
        }
    }
}

/// Whether a token segment that nobody could decode has more than one reading.
fn is_ambiguous(segment: Option<&[u8]>) -> bool {
    segment.is_some_and(|segment| uri::check_token(segment).is_err())
}

/// Of a request of which it is known whether its token segment claims a blacklisted session, on a session port: what it is
/// refused for, and why the lists would have refused it.
#[inline(always)]
fn refused_or_listed(
    claims_blacklisted: bool,
    policy: &Policy,
    listed: Option<Reason>,
) -> (Option<Reason>, Option<Reason>) {
    let reason = Some(Reason::SessionBlacklisted);
    match claims_blacklisted {
        false => (None, listed),
        true if policy.prefilter.monitor => (None, listed.or(reason)),
        true => (reason, listed),
    }
}

/// Whether the token segment claims a blacklisted session, and the port is a session port. It is to be asked where nothing else
/// has refused the request outright.
///
/// The kernel refuses such requests there without checking a token, and what it refuses must not pass where it does not
/// look. Its answer is that of this refusal.
#[inline(always)]
fn claims_blacklisted<T: Trace>(
    policy: &Policy,
    request: &Request<'_>,
    segment: Option<&[u8]>,
    now: u64,
    scratch: &mut ClaimedScratch,
    trace: &mut T,
) -> bool {
    let Some(segment) = segment else { return false };
    !policy.sessions.is_empty()
        && policy.prefilter.watches_sessions(request.destination)
        && finds_blacklisted(policy, request, segment, now, scratch, trace)
}

#[inline(never)]
fn finds_blacklisted<T: Trace>(
    policy: &Policy,
    request: &Request<'_>,
    segment: &[u8],
    now: u64,
    scratch: &mut ClaimedScratch,
    trace: &mut T,
) -> bool {
    let blacklisted = |sid: &str| policy.sessions.contains(sid, now);
    let Some(session) = claimed::find(segment, scratch, blacklisted) else { return false };
    let is = if request.destination.is_some() { "is" } else { "may be" };
    let effect = if policy.prefilter.monitor { "let through by monitor mode" } else { "refused" };
    trace.note(
        "session",
        format_args!("{session:?} is blacklisted, and the port {is} a session port: {effect}"),
    );
    true
}

/// What the checks learn on their way.
#[derive(Default)]
struct Findings<'a> {
    session: Option<&'a str>,
    /// Whether the token segment was taken for the token, and is well-formed.
    segment_decoded: bool,
    /// Whether the token segment was the verified token, and its session is on no list.
    segment_session_passed: bool,
    monitored: Bindings,
}

/// The target: everything between the lists and the routes.
#[inline(always)]
fn admit<'r, 'a, T: Trace>(
    request: &'r Request<'a>,
    geo: &'a dyn Geo,
    country: &'r Cell<Option<Option<Country>>>,
    scratch: &'a mut RuleScratch,
    trace: &mut T,
) -> Result<Facts<'r, 'a>, Reason> {
    let ambiguous = |ambiguity: uri::Ambiguity, trace: &mut T| {
        trace.note("target", format_args!("{}", ambiguity.text()));
        Reason::UriAmbiguous
    };
    let Split { target, token, path, spelling } =
        uri::split(request.target).map_err(|ambiguity| ambiguous(ambiguity, trace))?;
    // Who wants to know how it came to a decision is told of the target first. Others may be told by its token that it is in order.
    if T::ENABLED
        && let Some(segment) = token
    {
        uri::check_token(segment).map_err(|ambiguity| ambiguous(ambiguity, trace))?;
    }
    if path.is_empty() {
        trace.note("target", format_args!("nothing follows the token segment"));
        return Err(Reason::UriAmbiguous);
    }
    trace.note("path", format_args!("{}", Bytes(path)));
    let RuleScratch { decoded_path, text } = scratch;
    let decoded_path: &[u8] = if spelling == Spelling::Escaped {
        decoded_path.clear();
        decoded_path.extend(uri::percent_decoded(path));
        decoded_path
    } else {
        path
    };
    Ok(Facts { request, target, token, path, spelling, decoded_path, geo, country, text })
}

#[inline(always)]
fn prefilter<T: Trace>(
    policy: &Policy,
    request: &Request<'_>,
    geo: &dyn Geo,
    now: u64,
    country: &Cell<Option<Option<Country>>>,
    trace: &mut T,
) -> Result<(), Reason> {
    let lists = &policy.prefilter;
    if lists.allow.contains(&request.client) {
        trace.note("prefilter", format_args!("{} is on the allow list", canonical(request.client)));
        return Ok(());
    }
    if lists.deny.contains(&request.client) {
        trace.note("prefilter", format_args!("{} is on the deny list", canonical(request.client)));
        return Err(Reason::IpDenied);
    }
    let covers = |service: &&Service| match request.destination {
        Some(destination) => service.covers(destination),
        None => service.covers_everything(request.client),
    };
    if let Some(service) = lists.services.iter().find(covers)
        && service.applies_at(now)
    {
        let found = geo.country(canonical(request.client));
        country.set(Some(found));
        if !service.admits(found) {
            let destination = request.destination;
            trace.note("prefilter", format_args!("country {found:?} may not reach {destination:?}"));
            return Err(Reason::CountryDenied);
        }
    }
    Ok(())
}

fn refused_before_routing<'a>(reason: Reason, listed: Option<Reason>) -> Decision<'a> {
    Decision {
        verdict: Verdict::Deny { reason, status: reason.status() },
        route: None,
        session: None,
        monitored: Bindings::default(),
        listed,
        path: b"",
    }
}

/// The first route whose conditions hold.
#[inline(always)]
fn find_route<T: Trace>(policy: &Policy, facts: &Facts<'_, '_>, trace: &mut T) -> Option<usize> {
    if !T::ENABLED {
        return policy.routes.first(facts.decoded_path, |route| route.when.holds(facts));
    }
    for (index, route) in policy.routes.iter().enumerate() {
        let Some(group) = route.when.first_failing(facts) else {
            trace.note("route", format_args!("{} decides", route.name));
            return Some(index);
        };
        let conditions: Vec<&str> = group.iter().map(|condition| condition.text()).collect();
        trace.note("route", format_args!("{} not: {}", route.name, conditions.join(" or ")));
    }
    None
}

/// The route of a damaged token that no longer has the shape of one.
///
/// Where no route's conditions hold and the default is to deny, the path behind the first segment is tried, on routes that
/// take a token there; such a request can only be refused, but with the route's own answer and `token_malformed` instead
/// of `no_route`. The facts for that reading come along.
#[inline(never)]
fn find_misplaced<'r, 'a, T: Trace>(
    policy: &Policy,
    facts: &Facts<'r, 'a>,
    trace: &mut T,
) -> Option<(usize, Facts<'r, 'a>)> {
    if policy.fallback == Fallback::Allow || facts.path.len() != facts.target.path.len() {
        return None;
    }
    let (_, behind) = uri::first_segment(facts.path);
    if behind.is_empty() {
        return None;
    }
    // An encoded slash is ambiguous, so both forms of the path have the same segments.
    let (_, decoded_path) = uri::first_segment(facts.decoded_path);
    let shifted = Facts { path: behind, decoded_path, ..*facts };
    let index =
        policy.routes.first(decoded_path, |route| takes_path_token(route) && route.when.holds(&shifted))?;
    let name = &policy.routes[index].name;
    trace
        .note("route", format_args!("{name} decides: the first segment is no token but stands in its place"));
    Some((index, shifted))
}

fn takes_path_token(route: &Route) -> bool {
    matches!(&route.check, Check::ContentJwt(check) if check.places.contains(&TokenPlace::Path))
}

fn check_secure_token<T: Trace>(
    check: &SecureToken,
    facts: &Facts<'_, '_>,
    now: u64,
    trace: &mut T,
) -> Result<(), Reason> {
    let token = secure_token::Unverified::parse(facts.target.query, check.algorithm)?;
    if T::ENABLED {
        let hashed = secure_token::hashed_text(check.algorithm, facts.path, token.e);
        trace.note("hashed", format_args!("{} of {}", check.algorithm.name(), Bytes(&hashed)));
        trace.note("given", format_args!("st={}", secure_token::encode(token.given())));
        for secret in &check.secrets {
            trace.note("expected", format_args!("st={}", secret.sign(facts.path, token.e)));
        }
    }
    token.verify(facts.path, &check.secrets, check.max_ttl, now)
}

/// The checks of one Content JWT.
struct JwtChecker<'c, 'a> {
    policy: &'a Policy,
    check: &'a ContentJwt,
    facts: &'c Facts<'c, 'a>,
    now: u64,
    findings: &'c mut Findings<'a>,
}

impl<'a> JwtChecker<'_, 'a> {
    #[inline(always)]
    fn run<T: Trace>(
        self,
        scratch: &'a mut TokenScratch,
        patterns: &mut PatternScratch,
        trace: &mut T,
    ) -> Result<(), Reason> {
        let Self { policy, check, facts, now, .. } = self;
        let token = self.find_token()?;
        trace.note("token", format_args!("{} bytes", token.len()));
        if T::ENABLED {
            token::texts(token).for_each(|(part, text)| trace.note(part, format_args!("{}", Bytes(&text))));
        }

        let unverified = Unverified::parse(token, &policy.keys, now, scratch).map_err(|malformed| {
            if T::ENABLED {
                trace.note("token", format_args!("{}", malformed.text(token)));
            }
            Reason::TokenMalformed
        })?;
        let is_segment = facts.token.is_some_and(|segment| core::ptr::eq(segment, token));
        self.findings.segment_decoded = is_segment;
        let slot = unverified.slot(now)?;
        let kid = unverified.kid().unwrap_or_default();
        trace.note("key", format_args!("kid {kid:?}, slot {}", slot.slot));
        trace.note("hashed", format_args!("HS256 of {}", Bytes(unverified.signed())));
        let verified = unverified.verify(&slot.key)?;
        trace.note("signature", format_args!("good"));
        self.findings.session = verified.session();

        let claims = verified.claims().map_err(|bad| {
            trace.note("claims", format_args!("{} is {}", bad.claim, bad.reason));
            bad.reason
        })?;
        let (iat, exp) = (claims.iat, claims.exp);
        trace.note("claims", format_args!("iat {iat}, exp {exp}, now {now}"));
        let latest = now.saturating_add(policy.leeway);
        if iat > latest || claims.nbf.is_some_and(|nbf| nbf > latest) {
            return Err(Reason::NotYetValid);
        }
        if exp <= now.saturating_sub(policy.leeway) {
            return Err(Reason::Expired);
        }
        if check.max_lifetime.is_some_and(|most| exp.saturating_sub(iat) > most) {
            return Err(Reason::LifetimeExceeded);
        }
        if claims.sid.is_some_and(|sid| policy.sessions.contains(sid, now)) {
            return Err(Reason::SessionBlacklisted);
        }
        self.findings.segment_session_passed = is_segment;

        let has_escapes = facts.spelling == Spelling::Escaped;
        let is_plain = facts.spelling == Spelling::Plain;
        let fits = check.patterns.iter().any(|pattern| {
            let fits = pattern.captures_of(facts.path, is_plain, patterns).is_some_and(|groups| {
                pattern.group_names().iter().zip(groups.iter()).all(|(name, range)| {
                    // A group that took no part in the match has no value that could equal the claim.
                    let group = range.and_then(|range| facts.path.get(range));
                    group.is_some_and(|group| claims.equals_group(name, group, has_escapes))
                })
            });
            let outcome = if fits { "fits path and claims" } else { "does not fit" };
            trace.note("pattern", format_args!("{} {outcome}", pattern.as_str()));
            fits
        });
        if !fits {
            return Err(Reason::PathMismatch);
        }

        let client = || facts.client();
        let unknown = check.unknown_place_passes;
        let watch = check.monitored;
        let seen = &mut self.findings.monitored;
        let mut bind = |name: &str, holds: bool, watched: bool, reason, seen: &mut bool| {
            if holds {
                return Ok(());
            }
            let effect = if watched { "let through by monitor mode" } else { "refused" };
            trace.note("binding", format_args!("{name} does not hold for {}: {effect}", client()));
            *seen = watched;
            if watched { Ok(()) } else { Err(reason) }
        };
        let holds = claims.admits_address(&facts.request.client);
        bind("cip", holds, watch.cip, Reason::IpMismatch, &mut seen.cip)?;
        if claims.blocks_by_country(now) {
            let holds = facts.country().map_or(unknown, |country| claims.admits_country(country));
            bind("geo", holds, watch.geo, Reason::GeoBlocked, &mut seen.geo)?;
        }
        if let Some(local) = claims.local {
            let holds = facts.geo.city_is(client(), &mut |name| same_name(name, local)).unwrap_or(unknown);
            bind("local", holds, watch.local, Reason::LocalityMismatch, &mut seen.local)?;
        }
        if claims.names_asn() {
            let holds = facts.geo.asn(client()).map_or(unknown, |number| claims.admits_asn(number));
            bind("asn", holds, watch.asn, Reason::AsnMismatch, &mut seen.asn)?;
        }
        Ok(())
    }

    /// The token of the first place that has one.
    fn find_token(&self) -> Result<&'a [u8], Reason> {
        let headers = self.facts.request.headers;
        for place in &self.check.places {
            let found = match place {
                TokenPlace::Path => match self.path_token()? {
                    Some(token) => Occurs::Once(token),
                    None => Occurs::Never,
                },
                TokenPlace::Query(name) => {
                    match self.facts.target.query.map_or(Found::Absent, |q| query::find(q, name)) {
                        Found::Absent => Occurs::Never,
                        Found::Once(token) => Occurs::Once(token),
                        Found::Ambiguous => Occurs::Repeatedly(b""),
                    }
                }
                TokenPlace::Header(name) => match header(headers, name) {
                    Occurs::Once(value) => Occurs::Once(without_scheme(value)),
                    other => other,
                },
                TokenPlace::Cookie(name) => cookie(headers, name),
            };
            match found {
                Occurs::Never => {}
                Occurs::Once(token) => return Ok(token),
                // Whichever copy were taken, another reader might take the other.
                Occurs::Repeatedly(_) => return Err(Reason::TokenMalformed),
            }
        }
        Err(Reason::TokenMissing)
    }

    /// The token segment. A first segment in its place that has not the shape of a token is malformed rather than
    /// missing if it consists of three parts.
    fn path_token(&self) -> Result<Option<&'a [u8]>, Reason> {
        let facts = self.facts;
        if facts.token.is_some() {
            return Ok(facts.token);
        }
        let (segment, rest) = uri::first_segment(facts.path);
        let three_parts = !rest.is_empty() && segment.iter().filter(|&&b| b == b'.').count() == 2;
        if three_parts { Err(Reason::TokenMalformed) } else { Ok(None) }
    }
}

fn without_scheme(value: &[u8]) -> &[u8] {
    let value = value.trim_ascii();
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii_start(),
        _ => value,
    }
}

/// The query parameters that carry the check's token.
fn stripped_parameters(check: &Check) -> impl Iterator<Item = &str> + Clone {
    let (places, secure): (&[TokenPlace], &[&str]) = match check {
        Check::ContentJwt(check) => (&check.places, &[]),
        Check::SecureToken(_) => (&[], &PARAMETERS),
        Check::Allow | Check::Deny => (&[], &[]),
    };
    let named = places.iter().filter_map(|place| match place {
        TokenPlace::Query(name) => Some(&**name),
        _ => None,
    });
    named.chain(secure.iter().copied())
}

/// Path and query without any token. Borrowed from the request unless parameters must be cut out of the query.
fn upstream_uri<'a, 'n>(
    facts: &Facts<'_, 'a>,
    parameters: &(impl Iterator<Item = &'n str> + Clone),
    out: &'a mut Vec<u8>,
) -> &'a [u8] {
    let Target { origin_form, path, query, .. } = facts.target;
    match query {
        Some(query) if query::mentions(query, parameters) => {
            out.clear();
            out.extend_from_slice(facts.path);
            query::push_without(out, query, parameters);
            out
        }
        // The path that counts is the end of the whole one, so what follows is already in place.
        _ => &origin_form[path.len() - facts.path.len()..],
    }
}

fn refuse<'a>(route: &'a Route, reason: Reason, facts: &Facts<'_, 'a>, out: &'a mut Vec<u8>) -> Verdict<'a> {
    let parameters = stripped_parameters(&route.check);
    match &route.on_deny {
        OnDeny::Status => Verdict::Deny { reason, status: route.statuses.get(reason) },
        OnDeny::Forward(upstream) => {
            Verdict::Forward { upstream, upstream_uri: upstream_uri(facts, &parameters, out), reason }
        }
        OnDeny::Redirect(template) => {
            out.clear();
            let mut parts = template.parts.iter();
            if let Some(first) = parts.next() {
                out.extend_from_slice(first.as_bytes());
            }
            for part in parts {
                push_return_url(out, facts, &parameters);
                out.extend_from_slice(part.as_bytes());
            }
            Verdict::Redirect { location: out, reason }
        }
    }
}

/// Appends the request's absolute URL without its token, percent-encoded so that it fits into a query parameter.
fn push_return_url<'n>(
    out: &mut Vec<u8>,
    facts: &Facts<'_, '_>,
    parameters: &(impl Iterator<Item = &'n str> + Clone),
) {
    let authority = facts.target.authority.unwrap_or(facts.request.host);
    push_encoded(out, facts.request.scheme.as_bytes());
    push_encoded(out, b"://");
    push_encoded(out, authority);
    push_encoded(out, facts.path);
    if let Some(query) = facts.target.query {
        // The kept part of the query is written once as it is, read from there, and overwritten with its encoded form.
        let start = out.len();
        query::push_without(out, query, parameters);
        let plain = out.len() - start;
        for index in start..start + plain {
            let byte = out[index];
            push_encoded(out, &[byte]);
        }
        out.drain(start..start + plain);
    }
}

/// Percent-encodes everything but the unreserved characters of RFC 3986.
fn push_encoded(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte);
        } else {
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}
