//! The demo's origin: serves the presentation to the gateway.

use super::media;
use crate::config::Listen;
use crate::message::{Body, Refusal, answer};
use crate::server::{self, Connection, Handler, Limits};
use crate::socket::Listener;
use crate::wire::HeadFacts;
use crate::workers::Places;
use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::IntervalStream;

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
    let places = Places::here(Arc::new(Presentation));
    let task = tokio::spawn(server::serve(listener, places, slots, down, Duration::ZERO));
    Ok(Origin { address, task, _up: up })
}

struct Presentation;

impl Handler for Presentation {
    const NAME: &'static str = "origin";

    async fn handle(&self, request: Request<Incoming>, _: &Connection, _: HeadFacts) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        }
        if request.uri().path().ends_with("/live.ts") && *request.method() == Method::GET {
            return live();
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

/// A broadcast without an end: a null packet of MPEG-TS every now and then.
fn live() -> Response<Body> {
    let mut packet = vec![0xff; 188];
    packet[..4].copy_from_slice(&[0x47, 0x1f, 0xff, 0x10]);
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let packets = IntervalStream::new(ticks).map(move |_| Ok(Frame::data(Bytes::from(packet.clone()))));
    let mut response =
        Response::new(Either::Right(Either::Right(UnsyncBoxBody::new(StreamBody::new(packets)))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("video/mp2t"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
