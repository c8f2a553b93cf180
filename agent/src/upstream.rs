//! Connections to upstreams: kept, bounded in time, and told apart when they fail.

use crate::config::Upstream;
use crate::message::{Body, passed};
use crate::socket::Socket;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_io_timeout::TimeoutStream;

/// How long an unused connection is kept. Below the default of common origins, so that it is rarely they who close it.
const IDLE: Duration = Duration::from_secs(50);

/// Most unused connections that are kept to one upstream.
const MAX_IDLE: usize = 1024;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct UpstreamTimeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// To begin an answer, and between two pieces of it.
    pub answer: Duration,
}

/// Pools of connections by upstream. They outlive configurations, so that a reload costs no connection.
#[derive(Clone, Default)]
pub(crate) struct Upstreams(Arc<Mutex<HashMap<(Upstream, UpstreamTimeouts), Pool>>>);

impl Upstreams {
    /// The pool of an upstream.
    #[must_use]
    pub(crate) fn pool(&self, upstream: &Upstream, timeouts: UpstreamTimeouts) -> Pool {
        let mut pools = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pools
            .entry((upstream.clone(), timeouts))
            .or_insert_with(|| Pool::new(upstream.clone(), timeouts))
            .clone()
    }
}

/// Kept connections to one upstream.
#[derive(Clone)]
pub(crate) struct Pool {
    client: Client<Connector, Body>,
    authority: Authority,
    timeouts: UpstreamTimeouts,
}

impl Pool {
    fn new(upstream: Upstream, timeouts: UpstreamTimeouts) -> Self {
        let authority = match &upstream {
            Upstream::Tcp { authority } => authority.parse().ok(),
            Upstream::Unix(_) => None,
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(MAX_IDLE)
            // The path goes up byte by byte as the validator gave it; `Host` is set by the caller.
            .set_host(false)
            .build(Connector { upstream, timeouts });
        // The authority only names the pool; a socket path has none.
        Self { client, authority: authority.unwrap_or_else(|| Authority::from_static("localhost")), timeouts }
    }

    /// Sends a request for `path` and waits for the head of the answer.
    ///
    /// A request without a body whose kept connection turns out to be closed is sent once more.
    ///
    /// # Errors
    /// A [`Failure`].
    pub(crate) async fn send(
        &self,
        mut request: Request<Incoming>,
        path: PathAndQuery,
    ) -> Result<Response<Incoming>, Failure> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Failure::Broken)?;
        *request.version_mut() = http::Version::HTTP_11;

        let empty = request.body().is_end_stream();
        let again = (empty && is_safe(request.method())).then(|| without_body(&request));
        let request = if empty { without_body(&request) } else { request.map(passed) };
        match self.send_once(request).await {
            Err((Failure::Broken, true)) => match again {
                Some(again) => self.send_once(again).await.map_err(|(failure, _)| failure),
                None => Err(Failure::Broken),
            },
            other => other.map_err(|(failure, _)| failure),
        }
    }

    /// The failure comes with whether the connection ended before anything was answered.
    async fn send_once(&self, request: Request<Body>) -> Result<Response<Incoming>, (Failure, bool)> {
        match tokio::time::timeout(self.timeouts.answer, self.client.request(request)).await {
            Err(_elapsed) => Err((Failure::Timeout, false)),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => {
                let failure = classify(&error);
                if failure != Failure::ClientBody {
                    tracing::warn!(upstream = %self.authority, error = %chain(&error), "upstream failed");
                }
                // A close that crosses the request comes back as a reset.
                let unanswered = hyper_error(&error)
                    .is_some_and(|e| e.is_incomplete_message() || e.is_canceled())
                    || has_io_error(&error, |kind| {
                        matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
                    });
                Err((failure, unanswered))
            }
        }
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn without_body(request: &Request<Incoming>) -> Request<Body> {
    let mut copy = Request::new(Either::Left(Full::default()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn classify(error: &hyper_util::client::legacy::Error) -> Failure {
    let timed_out = has_io_error(error, |kind| kind == io::ErrorKind::TimedOut);
    if error.is_connect() {
        return if timed_out { Failure::Timeout } else { Failure::Unreachable };
    }
    let client_body = sources(error)
        .filter_map(|source| source.downcast_ref::<hyper::Error>())
        .any(|e| e.is_user() && !e.is_canceled());
    if client_body {
        return Failure::ClientBody;
    }
    if timed_out { Failure::Timeout } else { Failure::Broken }
}

fn has_io_error(error: &hyper_util::client::legacy::Error, is: impl Fn(io::ErrorKind) -> bool) -> bool {
    sources(error).filter_map(|source| source.downcast_ref::<io::Error>()).any(|e| is(e.kind()))
}

fn hyper_error(error: &hyper_util::client::legacy::Error) -> Option<&hyper::Error> {
    sources(error).find_map(|source| source.downcast_ref())
}

fn sources<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    sources(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Makes connections to one upstream, whatever the URI says.
#[derive(Clone)]
struct Connector {
    upstream: Upstream,
    timeouts: UpstreamTimeouts,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<UpstreamStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { upstream, timeouts } = self.clone();
        Box::pin(async move {
            let connecting = async {
                io::Result::Ok(match &upstream {
                    Upstream::Tcp { authority } => {
                        let stream = TcpStream::connect(authority.as_str()).await?;
                        stream.set_nodelay(true)?;
                        Socket::from(stream)
                    }
                    Upstream::Unix(path) => Socket::from(UnixStream::connect(path).await?),
                })
            };
            let socket = tokio::time::timeout(timeouts.connect, connecting)
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            let mut bounded = TimeoutStream::new(socket);
            bounded.set_read_timeout(Some(timeouts.answer));
            bounded.set_write_timeout(Some(timeouts.answer));
            Ok(TokioIo::new(UpstreamStream(Box::pin(bounded))))
        })
    }
}

/// A connection to an upstream that ends with an error when nothing moves for too long.
struct UpstreamStream(Pin<Box<TimeoutStream<Socket>>>);

impl Connection for UpstreamStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().poll_shutdown(cx)
    }
}
