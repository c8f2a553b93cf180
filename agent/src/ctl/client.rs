//! HTTP over the agent's socket: a connection for each request.

use super::answers::Refusal;
use super::error::Error;
use bytes::{Bytes, BytesMut};
use http::header::HOST;
use http::{Method, Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// A body that is at hand, or one that is read while it is sent.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// The agent behind a socket.
pub(super) struct Client {
    socket: PathBuf,
}

/// An answer of 2xx that has arrived whole.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// A request without a body, and its whole answer.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Answer, Error> {
        whole(self.exchange(request(method, path).body(empty())?).await?).await
    }

    /// A request and its answer as far as it has come.
    ///
    /// # Errors
    /// Also with what the agent says when it refuses.
    pub(super) async fn exchange(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Error> {
        request.headers_mut().insert(HOST, http::HeaderValue::from_static("edgegate"));
        let stream = UnixStream::connect(&self.socket);
        let stream = stream.await.map_err(|source| Error::connect(&self.socket, source))?;
        let io = TokioIo::new(UntilAnswered { stream, deaf: false });
        let (mut sender, connection) = http1::handshake(io).await.map_err(broke_off)?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(broke_off)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.into_body().collect().await.map_err(broke_off)?.to_bytes();
        Err(Error::Refused(Box::new(Refusal::new(status, &body))))
    }
}

/// Starts a request.
pub(super) fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path)
}

/// No body.
pub(super) fn empty() -> Body {
    full(Bytes::new())
}

/// A body that is at hand.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

/// Waits for the rest of an answer.
pub(super) async fn whole(response: Response<Incoming>) -> Result<Answer, Error> {
    let status = response.status();
    let body = response.into_body().collect().await.map_err(broke_off)?.to_bytes();
    Ok(Answer { status, body })
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    let encoded = utf8_percent_encode(text, KEPT).to_string();
    // A dot segment would be taken for a direction.
    if matches!(text, "." | "..") { encoded.replace('.', "%2E") } else { encoded }
}

/// An answer line by line.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer holds no line end.
    searched: usize,
}

impl Lines {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line without its end; `None` after the last. Nothing is lost if the future is dropped.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame.map_err(broke_off)?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    self.searched = 0;
                    return Ok(Some(self.buffer.split().freeze()));
                }
            }
        }
    }
}

fn broke_off(source: hyper::Error) -> Error {
    Error::BrokeOff { source }
}

/// A stream whose writer waits once the agent takes no more.
///
/// The agent may answer amid a long body and close. hyper would end with the error of the next write, and the answer
/// that says why would be lost; so only the reading side tells when it is over.
struct UntilAnswered {
    stream: UnixStream,
    deaf: bool,
}

impl UntilAnswered {
    fn unless_deaf<T>(&mut self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                self.deaf = true;
                Poll::Pending
            }
            result => result,
        }
    }
}

impl AsyncRead for UntilAnswered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for UntilAnswered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Pending;
        }
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.unless_deaf(result)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.deaf {
            return Poll::Pending;
        }
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.unless_deaf(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
