//! Connections to upstreams: kept, bounded in time, and told apart when they fail.
//!
//! A connection has no task of its own. Whoever has a request on it drives it, so that an answer wakes one task and passes
//! from hyper's reader to hyper's writer in one go. Only a request with a body gets a task beside it: its upload goes on
//! while the client does not take the answer.

mod link;
mod passed;

use crate::config::Upstream;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Empty};
use hyper::body::{Body as _, Incoming};
use link::{Link, Sent, Undone};
pub(crate) use passed::Passed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How long an unused connection is kept. Below the default of common origins, so that it is rarely they who close it.
const IDLE: Duration = Duration::from_secs(50);

/// Most unused connections that are kept to one upstream by each worker.
const MAX_IDLE: usize = 1024;

/// How often unused connections are looked at.
const TIDY: Duration = Duration::from_secs(5);

/// Why an upstream gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection could be made.
    Unreachable,
    /// It took too long.
    Timeout,
    /// The connection broke, or what came back was not HTTP.
    Broken,
    /// The client's own body ended badly.
    ClientBody,
}

impl Failure {
    /// Status and name.
    #[must_use]
    pub(crate) const fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Unreachable => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
            Self::Broken => (StatusCode::BAD_GATEWAY, "upstream_failed"),
            Self::ClientBody => (StatusCode::BAD_REQUEST, "bad_request"),
        }
    }
}

/// How long an upstream may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpstreamTimeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// To begin an answer, and between two pieces of it.
    pub answer: Duration,
}

/// Pools of connections by upstream, of one worker. They outlive configurations, so that a reload costs no connection.
#[derive(Default)]
pub(crate) struct Upstreams(Mutex<Vec<Arc<Pool>>>);

impl Upstreams {
    /// The pool of an upstream. There are few.
    #[must_use]
    pub(crate) fn pool(&self, upstream: &Upstream, timeouts: UpstreamTimeouts) -> Arc<Pool> {
        let mut pools = locked(&self.0);
        if let Some(pool) = pools.iter().find(|pool| pool.timeouts == timeouts && pool.upstream == *upstream)
        {
            return Arc::clone(pool);
        }
        let pool = Arc::new(Pool { upstream: upstream.clone(), timeouts, idle: Mutex::default() });
        tokio::spawn(tidy(Arc::downgrade(&pool)));
        pools.push(Arc::clone(&pool));
        pool
    }
}

/// Kept connections to one upstream.
pub(crate) struct Pool {
    upstream: Upstream,
    timeouts: UpstreamTimeouts,
    /// The one that was used last is at the end, and is used next: what a quiet time does not need grows old and goes.
    idle: Mutex<Vec<Kept>>,
}

struct Kept {
    link: Box<Link>,
    since: Instant,
}

impl Kept {
    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= IDLE
    }
}

impl Pool {
    /// Sends a request for `path` and waits for the head of the answer.
    ///
    /// A request that a kept connection did not take is sent on another. One that may have been taken is sent once more if it
    /// has no body and changes nothing.
    ///
    /// # Errors
    /// A [`Failure`].
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: Request<Incoming>,
        path: PathAndQuery,
    ) -> Result<Response<Passed>, Failure> {
        self.send_prepared(prepared(request, path)).await
    }

    async fn send_prepared(
        self: &Arc<Self>,
        mut request: Request<Sent>,
    ) -> Result<Response<Passed>, Failure> {
        let mut kept = self.take();
        loop {
            let again = kept.is_some().then(|| Repeat::of(&request)).flatten();
            let undone = match self.send_on(kept.take(), request).await {
                Ok(response) => return Ok(response),
                Err(undone) => undone,
            };
            let again = again.filter(|_| undone.unanswered).and_then(|again| again.request());
            (request, kept) = match (undone.request, again) {
                // Any number of kept connections may have been closed meanwhile.
                (Some(request), _) => (request, self.take()),
                // A new one cannot have been.
                (None, Some(again)) => (again, None),
                (None, None) => return Err(undone.failure),
            };
        }
    }

    /// Sends on a kept connection, or else on a new one.
    async fn send_on(
        self: &Arc<Self>,
        kept: Option<Box<Link>>,
        request: Request<Sent>,
    ) -> Result<Response<Passed>, Undone> {
        let is_kept = kept.is_some();
        let mut link = match kept {
            Some(link) => link,
            None => Link::connect(&self.upstream, self.timeouts).await?,
        };
        let limit = self.timeouts.answer;
        let answered = if request.body().is_end_stream() {
            let answered = link.ask(request, limit).await;
            answered.map(|response| response.map(|body| Passed::driving(body, link, self)))
        } else {
            let answered = link.upload(request, limit, self).await;
            answered.map(|response| response.map(|body| Passed::driven(body, self)))
        };
        answered.map_err(|undone| {
            let silent = undone.failure == Failure::ClientBody || (is_kept && undone.request.is_some());
            if !silent {
                tracing::warn!(upstream = %self.upstream, error = undone.error, "upstream failed");
            }
            // A connection that was never used has no excuse.
            if is_kept { undone } else { Undone { request: None, ..undone } }
        })
    }

    fn take(&self) -> Option<Box<Link>> {
        let kept = locked(&self.idle).pop()?;
        (!kept.is_old(Instant::now())).then_some(kept.link)
    }

    /// Takes a connection back, if another request may be sent on it.
    fn keep(&self, link: Box<Link>) {
        link.rest();
        let mut idle = locked(&self.idle);
        if link.is_idle() && idle.len() < MAX_IDLE {
            idle.push(Kept { link, since: Instant::now() });
        }
    }

    /// Closes connections that have been unused for long, and those that the upstream has closed.
    fn tidy(&self) {
        let now = Instant::now();
        locked(&self.idle).retain_mut(|kept| !kept.is_old(now) && kept.link.is_still_idle());
    }
}

/// Looks after a pool for as long as it exists.
async fn tidy(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(TIDY).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.tidy();
    }
}

/// The request as it goes upstream: the path goes up byte by byte as the validator gave it, `Host` is set by the caller.
fn prepared(request: Request<Incoming>, path: PathAndQuery) -> Request<Sent> {
    let (mut head, body) = request.into_parts();
    head.uri = Uri::from(path);
    head.version = http::Version::HTTP_11;
    head.extensions = http::Extensions::new();
    let body = if body.is_end_stream() { Either::Left(Empty::new()) } else { Either::Right(body) };
    Request::from_parts(head, body)
}

/// A request to be sent should the first be lost on the way. Hardly any is, so it is what costs least to make: text.
struct Repeat {
    method: Method,
    /// The path, then names and values of the fields by turns, each with a line end, which none of them can hold.
    lines: Vec<u8>,
}

impl Repeat {
    /// Of a request that has no body and changes nothing.
    fn of(request: &Request<Sent>) -> Option<Self> {
        let method = request.method();
        let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        let path = request.uri().path_and_query().filter(|_| safe && request.body().is_end_stream())?;
        let mut lines = Vec::with_capacity(1024);
        let mut add = |line: &[u8]| {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        };
        add(path.as_str().as_bytes());
        for (name, value) in request.headers() {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
        Some(Self { method: method.clone(), lines })
    }

    fn request(&self) -> Option<Request<Sent>> {
        let mut lines = self.lines.strip_suffix(b"\n")?.split(|&b| b == b'\n');
        let mut request = Request::new(Either::Left(Empty::new()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(PathAndQuery::try_from(lines.next()?).ok()?);
        while let Some(name) = lines.next() {
            let name = HeaderName::from_bytes(name).ok()?;
            request.headers_mut().append(name, HeaderValue::from_bytes(lines.next()?).ok()?);
        }
        Some(request)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
