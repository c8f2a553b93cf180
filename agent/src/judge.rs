//! Between listeners and the validator: asks for a decision, counts it, logs it, and gives it an owned form.

use crate::clock::Clock;
use crate::events::{Bus, Event};
use crate::flows::Flows;
use crate::logging::{Limiter, redacted};
use crate::metrics::{Metrics, NO_ROUTE};
use crate::snapshot::{Live, Snapshot};
use bytes::Bytes;
use http::HeaderMap;
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;
use validator_core::{Decision, Headers, Reason, Request, Scratch, Verdict, decide};

/// Longest part of a method that is logged, in bytes; anybody may make one up.
const MAX_LOGGED_METHOD: usize = 16;

/// Decides for every listener of the process.
#[derive(Clone)]
pub(crate) struct Judge {
    live: Live,
    clock: Clock,
    metrics: Metrics,
    flows: Arc<Flows>,
    events: Bus,
    denials: Arc<Limiter>,
}

/// What a listener knows of a request.
pub(crate) struct Asked<'a> {
    /// The method.
    pub method: &'a str,
    /// The request target as received.
    pub target: &'a [u8],
    /// `http` or `https`, as the client sees it.
    pub scheme: &'a str,
    /// The `Host` header, empty where there is none.
    pub host: &'a [u8],
    /// The client's address.
    pub client: IpAddr,
    /// Where the client connected to, where known.
    pub destination: Option<SocketAddr>,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// A verdict that outlives its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The content may be had.
    Allow {
        /// Path and query without the token.
        upstream_uri: Bytes,
        /// What identifies the content, where that is something else.
        cache_key: Option<Bytes>,
        /// The token's `sid`.
        session: Option<String>,
    },
    /// Refused with this status.
    Deny {
        /// Why.
        reason: Reason,
        /// The status.
        status: u16,
    },
    /// Refused and sent elsewhere.
    Redirect {
        /// Where to.
        location: Vec<u8>,
        /// Why.
        reason: Reason,
    },
    /// Refused and handed to another upstream.
    Forward {
        /// That upstream's URL.
        upstream: String,
        /// Path and query without the token.
        upstream_uri: Bytes,
        /// Why.
        reason: Reason,
    },
}

/// An answer, and what it was given by.
pub(crate) struct Judged<'s> {
    /// The answer.
    pub answer: Answer,
    /// What the request is to be handled by.
    pub by: DecidedBy<'s>,
}

/// The route that decided, and the snapshot under which it did.
#[derive(Clone, Copy)]
pub(crate) struct DecidedBy<'s> {
    /// Index of the route.
    pub route: Option<usize>,
    /// Everything else.
    pub snapshot: &'s Snapshot,
}

/// Header fields as the validator asks for them.
pub(crate) struct Fields<'a>(pub(crate) &'a HeaderMap);

impl Headers for Fields<'_> {
    fn each_value<'h>(&'h self, name: &str, each: &mut dyn FnMut(&'h [u8])) {
        self.0.get_all(name).iter().for_each(|value| each(value.as_bytes()));
    }
}

/// Scratch of a thread and the version of the snapshot that it has room for.
struct Prepared {
    version: u64,
    scratch: Scratch,
}

thread_local! {
    static PREPARED: RefCell<Prepared> = RefCell::new(Prepared { version: 0, scratch: Scratch::new() });
}

impl Judge {
    /// A judge of the snapshot in force.
    #[must_use]
    pub(crate) fn new(live: Live, clock: Clock, metrics: Metrics, flows: Arc<Flows>, events: Bus) -> Self {
        Self { live, clock, metrics, flows, events, denials: Arc::default() }
    }

    /// The snapshot in force, for what must be known before a decision.
    #[must_use]
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.live.current()
    }

    /// The counters of the process.
    #[must_use]
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The connections of the process.
    #[must_use]
    pub(crate) fn flows(&self) -> &Arc<Flows> {
        &self.flows
    }

    /// Whether a session is blacklisted by now, whatever the snapshot said that it was judged under.
    #[must_use]
    pub(crate) fn is_blacklisted(&self, session: &str) -> bool {
        self.live.current().config.policy.sessions.contains(session, self.clock.now())
    }

    /// Lets a bounded number of complaints about a client's requests into the log; the others are counted.
    #[must_use]
    pub(crate) fn may_log(&self) -> bool {
        self.denials.admit(self.clock.now()).is_some()
    }

    /// Decides on one request under one snapshot.
    #[must_use]
    pub(crate) fn judge<'s>(&self, snapshot: &'s Snapshot, asked: &Asked<'_>) -> Judged<'s> {
        let fields = Fields(asked.headers);
        let request = Request {
            method: asked.method,
            target: asked.target,
            scheme: asked.scheme,
            host: asked.host,
            client: asked.client,
            destination: asked.destination.map(|destination| (destination.ip(), destination.port())),
            headers: &fields,
        };
        let now = self.clock.now();
        let (answer, route) = PREPARED.with_borrow_mut(|prepared| {
            if prepared.version != snapshot.version {
                prepared.scratch.reserve(&snapshot.config.policy);
                prepared.version = snapshot.version;
            }
            let started = Instant::now();
            let decision = decide(
                &snapshot.config.policy,
                &request,
                &*snapshot.geo,
                now,
                &mut prepared.scratch,
                &mut (),
            );
            self.metrics.decision.observe(started.elapsed().as_secs_f64());
            self.report(snapshot, asked, &decision, now);
            (Answer::from(decision.verdict), decision.route)
        });
        Judged { answer, by: DecidedBy { route, snapshot } }
    }

    fn report(&self, snapshot: &Snapshot, asked: &Asked<'_>, decision: &Decision<'_>, now: u64) {
        let verdict = decision.verdict.name();
        let reason = decision.verdict.reason();
        snapshot.counters.count(decision.route, verdict, reason, decision.let_through());

        let route = || decision.route.map_or(NO_ROUTE, |index| &*snapshot.config.policy.routes[index].name);
        let client = asked.client;
        // A denied address may ask as often as it likes; a claim takes a signed token.
        if let Some(reason) = decision.listed
            && let Some(suppressed) = self.denials.admit(now)
        {
            tracing::warn!(%reason, %client, path = redacted(decision.path), suppressed, "listed, let through by monitor mode");
        }
        for claim in decision.monitored.names() {
            self.events.tell(|| Event::Monitored {
                claim,
                client,
                route: route().to_owned(),
                session: decision.session.map(str::to_owned),
                path: redacted(decision.path),
            });
            tracing::warn!(
                claim,
                %client,
                route = route(),
                session = decision.session,
                path = redacted(decision.path),
                "mismatch let through by monitor mode"
            );
        }
        if let Some(reason) = reason {
            self.events.tell(|| Event::Refused {
                reason: reason.name(),
                verdict,
                client,
                route: route().to_owned(),
                session: decision.session.map(str::to_owned),
                path: redacted(decision.path),
            });
        }
        match reason {
            None => tracing::debug!(%client, route = route(), path = redacted(decision.path), "allowed"),
            Some(reason) if tracing::enabled!(tracing::Level::INFO) => {
                if let Some(suppressed) = self.denials.admit(now) {
                    tracing::info!(
                        %reason,
                        verdict,
                        %client,
                        method = asked.method.get(..MAX_LOGGED_METHOD).unwrap_or(asked.method),
                        route = route(),
                        session = decision.session,
                        path = redacted(decision.path),
                        suppressed,
                        "refused"
                    );
                }
            }
            Some(_) => {}
        }
    }
}

impl Answer {
    /// Whether it refuses a request because its session is blacklisted. Where a route sends such a request elsewhere,
    /// its client is still to be served.
    #[must_use]
    pub(crate) fn denies_session(&self) -> bool {
        matches!(self, Self::Deny { reason: Reason::SessionBlacklisted, .. })
    }
}

impl From<Verdict<'_>> for Answer {
    fn from(verdict: Verdict<'_>) -> Self {
        match verdict {
            Verdict::Allow { upstream_uri, cache_key, session } => Self::Allow {
                upstream_uri: Bytes::copy_from_slice(upstream_uri),
                cache_key: (cache_key != upstream_uri).then(|| Bytes::copy_from_slice(cache_key)),
                session: session.map(str::to_owned),
            },
            Verdict::Deny { reason, status } => Self::Deny { reason, status },
            Verdict::Redirect { location, reason } => Self::Redirect { location: location.to_vec(), reason },
            Verdict::Forward { upstream, upstream_uri, reason } => {
                let upstream_uri = Bytes::copy_from_slice(upstream_uri);
                Self::Forward { upstream: upstream.to_owned(), upstream_uri, reason }
            }
        }
    }
}
