//! Connections to upstreams: kept, bounded in time, and told apart when they fail.
//!
//! A connection has no task of its own. Whoever has a request on it drives it, so that an answer wakes one task and passes
//! from hyper's reader to hyper's writer in one go. Only a request with a body gets a task beside it: its upload goes on
//! while the client does not take the answer.

mod link;
mod passed;

use crate::config::Upstream;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
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
            let again = kept.is_some().then(|| repeatable(&request)).flatten();
            let undone = match self.send_on(kept.take(), request).await {
                Ok(response) => return Ok(response),
                Err(undone) => undone,
            };
            (request, kept) = match (undone.request, again) {
                // Any number of kept connections may have been closed meanwhile.
                (Some(request), _) => (request, self.take()),
                // A new one cannot have been.
                (None, Some(again)) if undone.unanswered => (again, None),
                _ => return Err(undone.failure),
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

/// A copy to be sent should the first be lost on the way.
fn repeatable(request: &Request<Sent>) -> Option<Request<Sent>> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe || !request.body().is_end_stream() {
        return None;
    }
    let mut copy = Request::new(Either::Left(Empty::new()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
