//! The demo's origin: serves the presentation to the gateway.

use super::media;
use crate::config::Listen;
use crate::message::{Body, Refusal, answer};
use crate::server::{self, Connection, Handler, Limits};
use crate::socket::Listener;
use crate::wire::HeadFacts;
use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// A running origin; it ends when this is dropped.
pub(super) struct Origin {
    pub(super) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
    _up: watch::Sender<bool>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the origin on a loopback port that the system chooses.
pub(super) async fn start() -> anyhow::Result<Origin> {
    let listener = Listener::bind("origin", &Listen::Tcp((Ipv4Addr::LOCALHOST, 0).into()))?;
    let address = listener.address().context("the origin has no address")?;
    let (up, down) = watch::channel(false);
    let slots = Arc::new(Semaphore::new(1024));
    let task = tokio::spawn(server::serve(listener, Arc::new(Presentation), slots, down, Duration::ZERO));
    Ok(Origin { address, task, _up: up })
}

struct Presentation;

impl Handler for Presentation {
    const NAME: &'static str = "origin";

    async fn handle(&self, request: Request<Incoming>, _: &Connection, _: HeadFacts) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        }
        let Some(asset) = media::asset(request.uri().path()) else {
            return answer(StatusCode::NOT_FOUND, "no such asset");
        };
        let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(asset.body))));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
        response
    }

    fn refused(&self, _: Refusal) {}

    fn limits(&self) -> Limits {
        Limits::plain(Duration::from_secs(30), Duration::from_secs(75))
    }
}
