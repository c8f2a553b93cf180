//! Connections of direct clients: whose session was seen on which, and what the kernel is told about them.
//!
//! Direct means that the client itself is at the other end, so that what is known of the connection is known of the
//! client. What comes through a trusted proxy, a PROXY header or a unix socket is not followed.

use crate::clock::Clock;
use crate::kernel::KernelError;
use crate::logging::Limiter;
use crate::socket::Cut;
use crate::wire::idle::Idleness;
use arc_swap::ArcSwapOption;
use ebpf_abi::{Address, Flow, stage};
use lru::LruCache;
use prometheus::IntCounterVec;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use validator_core::net::NetSet;

/// TCP in IP.
const TCP: u8 = 6;

/// Connections of other proxies that are remembered; nobody says when they end. The least recently seen one makes way.
const ASKED_CAPACITY: usize = 65_536;

/// How long they are.
const ASKED_AGE: Duration = Duration::from_secs(600);

/// What the kernel part does about connections.
pub(crate) trait Sink: Send + Sync {
    /// All `received` bytes are answered, all `given` bytes of answers are written, and the client may ask again.
    fn publish(&self, flow: &Flow, received: u64, given: u64);

    /// Nothing is known of the connection any more.
    fn clear(&self, flow: &Flow);

    /// Refuses the connection; `stage` is one of [`stage`].
    ///
    /// # Errors
    /// [`KernelError`]; the connection goes on then.
    fn reject(&self, flow: &Flow, stage: u32, lasting: Duration) -> Result<(), KernelError>;
}

/// Why a connection is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A request of a blacklisted session was refused on it; the refusal is still to be delivered.
    Denied,
    /// Its session was blacklisted while it was open.
    Blacklisted,
}

impl Cause {
    const fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Blacklisted => "blacklisted",
        }
    }

    /// What the kernel does, and for how long: until the client has given up.
    const fn effect(self) -> (u32, Duration) {
        match self {
            Self::Denied => (stage::NO_MORE_DATA, Duration::from_secs(60)),
            Self::Blacklisted => (stage::CUT, Duration::from_secs(120)),
        }
    }
}

/// The flow of a TCP connection.
#[must_use]
pub(crate) fn tcp(client: SocketAddr, server: SocketAddr) -> Flow {
    Flow {
        source: mapped(client.ip()),
        destination: mapped(server.ip()),
        source_port: client.port(),
        destination_port: server.port(),
        protocol: TCP,
        reserved: [0; 3],
    }
}

fn mapped(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn client(flow: &Flow) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(flow.source)).to_canonical()
}

/// The connections of a process. Those of other servers are only remembered for the kernel part.
pub(crate) struct Flows {
    /// Whether `kernel` is there: asking this costs requests less than asking that.
    on: AtomicBool,
    kernel: ArcSwapOption<Box<dyn Sink>>,
    /// Connections of the gateway on which a session was seen.
    open: Mutex<HashMap<Flow, Arc<Seen>>>,
    /// Connections that the auth listener was asked about.
    asked: Mutex<LruCache<Flow, Asked>>,
    rejected: IntCounterVec,
    complaints: Limiter,
}

/// An open connection.
struct Seen {
    flow: Flow,
    session: Mutex<Option<Arc<str>>>,
    cut: Arc<Cut>,
}

struct Asked {
    session: Arc<str>,
    at: Instant,
}

impl Flows {
    /// No connections; what is rejected is counted in `rejected`, by cause.
    #[must_use]
    pub(crate) fn new(rejected: IntCounterVec) -> Self {
        Self {
            on: AtomicBool::new(false),
            kernel: ArcSwapOption::empty(),
            open: Mutex::default(),
            asked: Mutex::new(LruCache::unbounded()),
            rejected,
            complaints: Limiter::default(),
        }
    }

    /// Puts another kernel part in place, or none.
    pub(crate) fn set_kernel(&self, kernel: Option<Box<dyn Sink>>) {
        let on = kernel.is_some();
        self.kernel.store(kernel.map(Arc::new));
        self.on.store(on, Ordering::Release);
    }

    /// Follows a connection of a direct client until the result is dropped.
    #[must_use]
    pub(crate) fn follow(self: &Arc<Self>, flow: Flow) -> Followed {
        let seen = Seen { flow, session: Mutex::default(), cut: Arc::default() };
        Followed { flows: Arc::clone(self), seen: Arc::new(seen) }
    }

    /// A connection waits for a request.
    pub(crate) fn idle(&self, flow: &Flow, received: u64, given: u64) {
        self.with_kernel(|kernel| kernel.publish(flow, received, given));
    }

    /// A connection has ended.
    pub(crate) fn gone(&self, flow: &Flow) {
        self.with_kernel(|kernel| kernel.clear(flow));
    }

    /// A session was allowed on a connection of another proxy. True: it was not known to be there.
    pub(crate) fn saw(&self, flow: Flow, session: &str, now: Instant) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut asked = locked(&self.asked);
        match asked.get_mut(&flow) {
            Some(known) if *known.session == *session => {
                known.at = now;
                return false;
            }
            Some(known) => *known = Asked { session: session.into(), at: now },
            None => {
                asked.put(flow, Asked { session: session.into(), at: now });
            }
        }
        while asked.len() > ASKED_CAPACITY || asked.peek_lru().is_some_and(|(_, oldest)| oldest.is_old(now)) {
            asked.pop_lru();
        }
        true
    }

    /// Rejects a connection in the kernel. False: no kernel part, or it cannot.
    pub(crate) fn reject(&self, flow: &Flow, cause: Cause) -> bool {
        let (stage, lasting) = cause.effect();
        match self.with_kernel(|kernel| kernel.reject(flow, stage, lasting)) {
            Some(Ok(())) => {
                self.rejected.with_label_values(&[cause.label()]).inc();
                true
            }
            Some(Err(error)) => {
                if let Some(suppressed) = self.complaints.admit(Clock::System.now()) {
                    tracing::warn!(suppressed, "kernel: a connection could not be rejected: {error}");
                }
                false
            }
            None => false,
        }
    }

    /// Cuts the connections whose session `is_listed` (now, and was not before), but for those of `trusted` clients; says
    /// how many. Those of another server only the kernel part can cut.
    pub(crate) fn blacklisted(
        &self,
        is_listed: impl Fn(&str) -> bool,
        trusted: &NetSet,
        now: Instant,
    ) -> usize {
        // Copied, so that no request waits while sessions are looked up.
        let open: Vec<Arc<Seen>> = locked(&self.open).values().cloned().collect();
        let concerns = |flow: &Flow, session: &str| is_listed(session) && !trusted.contains(&client(flow));
        let cut = open
            .iter()
            .filter(|seen| {
                locked(&seen.session).as_ref().is_some_and(|session| concerns(&seen.flow, session))
            })
            .map(|seen| self.cut(seen))
            .filter(|&cut| cut)
            .count();
        if !self.is_on() {
            return cut;
        }
        let asked: Vec<(Flow, Arc<str>)> = locked(&self.asked)
            .iter()
            .take_while(|(_, asked)| !asked.is_old(now))
            .map(|(flow, asked)| (*flow, Arc::clone(&asked.session)))
            .collect();
        let rejected = asked
            .iter()
            .filter(|(flow, session)| concerns(flow, session))
            .filter(|(flow, _)| self.reject(flow, Cause::Blacklisted))
            .count();
        cut + rejected
    }

    /// Cuts a connection of the gateway. False: that was done before.
    fn cut(&self, seen: &Seen) -> bool {
        // The kernel takes no more packets from now on; without it the connection has a moment left.
        self.reject(&seen.flow, Cause::Blacklisted);
        seen.cut.cut()
    }

    fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    fn with_kernel<T>(&self, use_it: impl FnOnce(&dyn Sink) -> T) -> Option<T> {
        if !self.is_on() {
            return None;
        }
        self.kernel.load().as_ref().map(|kernel| use_it(&***kernel))
    }
}

impl Asked {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= ASKED_AGE
    }
}

/// An open connection of a direct client.
pub(crate) struct Followed {
    flows: Arc<Flows>,
    seen: Arc<Seen>,
}

impl Followed {
    /// Tells the kernel part when the connection waits for a request.
    #[must_use]
    pub(crate) fn idleness(&self) -> Idleness {
        Idleness::new(Arc::clone(&self.flows), self.seen.flow)
    }

    /// A session was allowed on it. True: it was not the last one already.
    pub(crate) fn saw(&self, session: &str) -> bool {
        let mut last = locked(&self.seen.session);
        if last.as_deref() == Some(session) {
            return false;
        }
        let first = last.replace(session.into()).is_none();
        drop(last);
        // Whoever asks now is another.
        self.seen.cut.spare();
        if first {
            // One that is there under the same name has ended, and its owner does not know yet.
            locked(&self.flows.open).insert(self.seen.flow, Arc::clone(&self.seen));
        }
        true
    }

    /// A request of a blacklisted session was refused on it: the kernel part lets no more of them through, and the refusal
    /// is still delivered.
    pub(crate) fn denied(&self) {
        self.flows.reject(&self.seen.flow, Cause::Denied);
    }

    /// Its session is blacklisted.
    pub(crate) fn cut(&self) {
        self.flows.cut(&self.seen);
    }

    /// What cuts it.
    pub(crate) fn cutter(&self) -> Arc<Cut> {
        Arc::clone(&self.seen.cut)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        if locked(&self.seen.session).is_none() {
            return;
        }
        let mut open = locked(&self.flows.open);
        // Another connection may have the name by now.
        if open.get(&self.seen.flow).is_some_and(|seen| Arc::ptr_eq(seen, &self.seen)) {
            open.remove(&self.seen.flow);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
