//! The demo's client: one request from a chosen loopback address.

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http::header::{HOST, LOCATION};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpSocket;

/// The demo talks to itself: an answer that takes longer than this never comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came back.
pub(super) struct Reply {
    pub(super) status: u16,
    /// The gate's reason, where it refused.
    pub(super) reason: Option<String>,
    pub(super) location: Option<String>,
    pub(super) body: Bytes,
}

/// Sends a GET for exactly this target.
pub(super) async fn get(gateway: SocketAddr, from: IpAddr, target: &str) -> anyhow::Result<Reply> {
    tokio::time::timeout(PATIENCE, exchange(gateway, from, target))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no answer from {gateway} in {PATIENCE:?}")))
}

async fn exchange(gateway: SocketAddr, from: IpAddr, target: &str) -> anyhow::Result<Reply> {
    let socket = if gateway.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if from.is_ipv4() == gateway.is_ipv4() {
        socket.bind((from, 0).into()).with_context(|| format!("cannot send from {from}"))?;
    }
    let stream = socket.connect(gateway).await.with_context(|| format!("cannot reach {gateway}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(target).header(HOST, gateway.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let reply = Reply {
        status: head.status.as_u16(),
        reason: text("x-edgegate-reason"),
        location: text(LOCATION.as_str()),
        body: body.collect().await?.to_bytes(),
    };
    driver.abort();
    Ok(reply)
}
