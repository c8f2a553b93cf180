//! Serving HTTP/1.1: connections accepted, bounded, watched and drained. What to answer is a [`Handler`]'s business.

use crate::flows::{self, Flows, Followed};
use crate::message::{Body, Refusal, answer, closing};
use crate::proxy_protocol;
use crate::socket::{Listener, Socket};
use crate::wire::idle::Counted;
use crate::wire::{ClientTimeouts, HeadFacts, MAX_HEADER_BLOCK, MAX_HEADERS, MAX_REQUEST_LINE, Wire};
use crate::workers::Places;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use validator_core::net::NetSet;
use validator_core::uri::is_plain_authority;

/// Pause after the system refused to accept a connection, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is on the other side of a connection.
pub(crate) struct Connection {
    /// The client, or the proxy in front of us; what a trusted proxy's PROXY header says. `None` on a unix socket.
    pub peer: Option<IpAddr>,
    /// Its address as text, which every request that goes upstream needs.
    pub peer_text: Option<HeaderValue>,
    /// Where it connected to. `None` on a unix socket.
    pub local: Option<SocketAddr>,
    /// Who is on the other side of a unix socket, by user id.
    pub user: Option<u32>,
    /// The peer is a proxy that passes connections through without a look at HTTP, and did not say for whom. What the
    /// requests say about their client is then the client's own word.
    pub passes_through: bool,
    /// What is known of the connection itself, where the client is at its other end.
    pub followed: Option<Followed>,
}

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Name of the listener in metrics and logs.
    const NAME: &'static str;

    /// Answers one request. `facts` is what hyper does not tell about it, with all limits already checked.
    fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        facts: HeadFacts,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// Reports a request that was refused before it came to [`Handler::handle`].
    fn refused(&self, refusal: Refusal);

    /// What it is answered, where there can be an answer.
    fn refusal(&self, refusal: Refusal) -> Response<Body> {
        answer(refusal.status, refusal.reason)
    }

    /// Limits for a connection that is about to be served.
    fn limits(&self) -> Limits;
}

/// Limits of one connection.
pub(crate) struct Limits {
    /// How long the client may take.
    pub timeouts: ClientTimeouts,
    /// Peers that begin with a PROXY header.
    pub proxy_protocol: Option<Arc<NetSet>>,
    /// Who follows connections of direct clients.
    pub direct: Option<Direct>,
}

/// Who follows connections, and whose.
pub(crate) struct Direct {
    /// The connections of the process.
    pub flows: Arc<Flows>,
    /// Peers that are no clients.
    pub trusted_proxies: Arc<NetSet>,
}

impl Direct {
    fn follow(&self, peer: SocketAddr, local: SocketAddr) -> Option<Followed> {
        let direct = !self.trusted_proxies.contains(&peer.ip());
        direct.then(|| self.flows.follow(flows::tcp(peer, local)))
    }
}

impl Limits {
    /// The same patience with every part of a request, and no PROXY header.
    pub(crate) fn plain(timeout: Duration, keepalive: Duration) -> Self {
        Self {
            timeouts: ClientTimeouts { header: timeout, body: timeout, keepalive },
            proxy_protocol: None,
            direct: None,
        }
    }
}

/// Serves a listener until `shutdown` turns true, then lets requests under way finish for at most `drain`.
pub(crate) async fn serve<H: Handler>(
    listener: Listener,
    places: Places<H>,
    slots: Arc<Semaphore>,
    mut shutdown: watch::Receiver<bool>,
    drain: Duration,
) {
    let graceful = GracefulShutdown::new();
    loop {
        // Beyond the limit connections wait in the system's backlog.
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            (Ok(slot), accepted) = next => (slot, accepted),
            _ = shutdown.wait_for(|&down| down) => break,
            else => break,
        };
        match accepted {
            Ok(stream) => {
                let watcher = graceful.watcher();
                places.spawn(|handler, elsewhere| async move {
                    match if elsewhere { stream.moved() } else { Ok(stream) } {
                        Ok(stream) => serve_connection(stream.into(), handler, watcher).await,
                        Err(error) => {
                            tracing::warn!(listener = H::NAME, %error, "cannot serve a connection");
                        }
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(listener = H::NAME, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let open = graceful.count();
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        tracing::warn!(listener = H::NAME, open, "requests were still under way at the end of drain_timeout");
    }
}

async fn serve_connection<H: Handler>(
    mut socket: Socket,
    handler: Arc<H>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let limits = handler.limits();
    let (peer, local) = (socket.peer(), socket.local());
    let followed = match (&limits.direct, peer, local) {
        (Some(direct), Some(peer), Some(local)) => direct.follow(peer, local),
        _ => None,
    };
    let mut connection = Connection {
        peer: peer.map(|peer| peer.ip().to_canonical()),
        peer_text: None,
        local,
        user: socket.user(),
        passes_through: false,
        followed,
    };
    let mut preread = Vec::new();
    if let Some(trusted) = &limits.proxy_protocol
        && connection.peer.is_none_or(|peer| trusted.contains(&peer))
    {
        let reading = proxy_protocol::read(&mut socket);
        match tokio::time::timeout(limits.timeouts.header, reading).await {
            Ok(Ok(header)) => {
                connection = match header.addresses {
                    Some((source, destination)) => Connection {
                        peer: Some(source.ip().to_canonical()),
                        peer_text: None,
                        local: Some(destination),
                        user: None,
                        passes_through: false,
                        followed: None,
                    },
                    None => Connection { passes_through: true, followed: None, ..connection },
                };
                preread = header.rest;
            }
            Ok(Err(error)) => {
                tracing::info!(listener = H::NAME, peer = ?connection.peer, %error, "no PROXY header");
                return handler.refused(Refusal::BAD_REQUEST);
            }
            Err(_elapsed) => return handler.refused(Refusal::BAD_REQUEST),
        }
    }

    connection.peer_text = connection.peer.and_then(|peer| HeaderValue::try_from(peer.to_string()).ok());

    let cut = connection.followed.as_ref().map(Followed::cutter);
    if let Some(cut) = &cut {
        socket.reset_if_cut(Arc::clone(cut));
    }
    let idleness = connection.followed.as_ref().map(Followed::idleness);
    let wire = Wire::new(socket, preread, limits.timeouts).tell(idleness);
    let (heads, answers) = (wire.heads(), wire.answers());
    let connection = &connection;
    let service = service_fn(|request: Request<Incoming>| {
        let facts = heads.next();
        let handler = &handler;
        let answers = answers.clone();
        async move {
            let refusal = if facts.line_too_long {
                Some(Refusal::URI_TOO_LONG)
            } else if facts.headers_too_large {
                Some(Refusal::HEADERS_TOO_LARGE)
            } else if facts.ambiguous_framing || !has_one_host(&request) {
                Some(Refusal::BAD_REQUEST)
            } else {
                None
            };
            let response = match refusal {
                Some(refusal) => {
                    handler.refused(refusal);
                    closing(handler.refusal(refusal))
                }
                None => handler.handle(request, connection, facts).await,
            };
            Ok::<_, Infallible>(response.map(|body| Counted::new(body, answers)))
        }
    });
    let served = http1::Builder::new()
        // The wire watches the time.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_REQUEST_LINE + MAX_HEADER_BLOCK + 1024)
        // A client may close its sending side once it has asked.
        .half_close(true)
        .serve_connection(TokioIo::new(wire), service);
    let cut = async {
        match &cut {
            Some(cut) => cut.wait().await,
            None => std::future::pending().await,
        }
    };
    let served = tokio::select! {
        served = watcher.watch(served) => served,
        // Whatever is under way goes with the connection.
        () = cut => return tracing::debug!(listener = H::NAME, peer = ?connection.peer, "connection cut"),
    };
    if let Err(error) = served {
        if error.is_parse() {
            handler.refused(Refusal::BAD_REQUEST);
        }
        tracing::debug!(listener = H::NAME, peer = ?connection.peer, %error, "connection ended");
    }
}

/// One `Host` field with a plain authority in it, or none where HTTP/1.0 or an absolute-form target makes up for it
/// (RFC 9112, 3.2).
fn has_one_host(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(http::header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() < http::Version::HTTP_11,
        (Some(host), None) => is_plain_authority(host.as_bytes()),
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests;
