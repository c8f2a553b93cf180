//! The metrics listener: `/metrics`, `/healthz`, `/readyz`.

use crate::message::{Body, Refusal, answer};
use crate::metrics::Metrics;
use crate::server::{Connection, Handler, Limits};
use crate::wire::HeadFacts;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use std::time::Duration;
use tokio::sync::watch;

/// Answers monitoring systems.
pub(crate) struct Admin {
    metrics: Metrics,
    shutdown: watch::Receiver<bool>,
}

impl Admin {
    /// Serves `metrics`; not ready any more once `shutdown` is true.
    #[must_use]
    pub(crate) fn new(metrics: Metrics, shutdown: watch::Receiver<bool>) -> Self {
        Self { metrics, shutdown }
    }

    fn render(&self) -> Response<Body> {
        match self.metrics.render() {
            Ok(text) => {
                let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            Err(error) => {
                tracing::error!(%error, "metrics cannot be rendered");
                answer(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be rendered")
            }
        }
    }
}

impl Handler for Admin {
    const NAME: &'static str = "metrics";

    async fn handle(&self, request: Request<Incoming>, _: &Connection, _: HeadFacts) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
        }
        match request.uri().path() {
            "/metrics" => self.render(),
            "/healthz" => answer(StatusCode::OK, "ok"),
            "/readyz" if *self.shutdown.borrow() => answer(StatusCode::SERVICE_UNAVAILABLE, "draining"),
            "/readyz" => answer(StatusCode::OK, "ready"),
            _ => answer(StatusCode::NOT_FOUND, "try /metrics, /healthz or /readyz"),
        }
    }

    fn refused(&self, refusal: Refusal) {
        self.metrics.bad_requests.with_label_values(&[Self::NAME, refusal.reason]).inc();
    }

    fn limits(&self) -> Limits {
        Limits::plain(Duration::from_secs(10), Duration::from_secs(75))
    }
}
