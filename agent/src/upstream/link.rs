//! One connection to an upstream.

use super::{Failure, Pool, UpstreamTimeouts, locked};
use crate::config::Upstream;
use crate::deadline::Deadline;
use crate::socket::{Socket, Stream};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Empty};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::unconstrained;

/// The body of a request: none, or the client's.
pub(super) type Sent = Either<Empty<Bytes>, Incoming>;

/// A request that was not answered.
pub(super) struct Undone {
    /// Why.
    pub(super) failure: Failure,
    /// More about it, for the log.
    pub(super) error: String,
    /// The request, if nothing of it was sent.
    pub(super) request: Option<Request<Sent>>,
    /// The connection ended before anything was answered.
    pub(super) unanswered: bool,
}

impl Undone {
    fn new(failure: Failure, error: String) -> Self {
        Self { failure, error, request: None, unanswered: false }
    }

    fn timeout() -> Self {
        Self::new(Failure::Timeout, "no answer in time".into())
    }
}

/// A connection. It goes on only while somebody drives it.
pub(super) struct Link {
    sender: http1::SendRequest<Sent>,
    /// `None` once it has ended.
    connection: Option<http1::Connection<TokioIo<Bounded>, Sent>>,
    driver: Arc<Driver>,
    /// Wakes the driver, whoever it is.
    waker: Waker,
    deadline: Deadline,
}

impl Link {
    /// Makes a connection.
    pub(super) async fn connect(
        upstream: &Upstream,
        timeouts: UpstreamTimeouts,
    ) -> Result<Box<Self>, Undone> {
        let connecting = async {
            io::Result::Ok(match upstream {
                Upstream::Tcp { authority } => {
                    let stream = TcpStream::connect(authority.as_str()).await?;
                    stream.set_nodelay(true)?;
                    Stream::Tcp(stream)
                }
                Upstream::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            })
        };
        let limit = timeouts.connect.min(timeouts.answer);
        let socket = match tokio::time::timeout(limit, connecting).await {
            Ok(Ok(stream)) => Socket::from(stream),
            Ok(Err(error)) if error.kind() != io::ErrorKind::TimedOut => {
                return Err(Undone::new(Failure::Unreachable, error.to_string()));
            }
            Ok(Err(_)) | Err(_) => {
                return Err(Undone::new(Failure::Timeout, "cannot connect in time".into()));
            }
        };
        let bounded = Bounded { socket, limit: timeouts.answer, deadline: Deadline::default() };
        let (sender, connection) =
            http1::handshake(TokioIo::new(bounded)).await.map_err(|error| Undone::from_hyper(&error))?;
        let driver = Arc::new(Driver::default());
        let waker = Waker::from(Arc::clone(&driver));
        let deadline = Deadline::default();
        Ok(Box::new(Self { sender, connection: Some(connection), driver, waker, deadline }))
    }

    /// Sends a request without a body, and waits for the head of the answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<Sent>,
        limit: Duration,
    ) -> Result<Response<Incoming>, Undone> {
        // Looked at whenever the connection was driven, so it need not wake anybody; but then the budget of the task must not
        // hold the answer back either.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        self.deadline.clear();
        poll_fn(|cx| {
            self.drive(cx);
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return Poll::Ready(answer.map_err(Undone::from));
            }
            ready!(self.deadline.poll(cx, limit));
            Poll::Ready(Err(Undone::timeout()))
        })
        .await
    }

    /// Sends a request whose body is still to come, and waits for the head of the answer. The rest of both goes on by itself.
    pub(super) async fn upload(
        mut self: Box<Self>,
        request: Request<Sent>,
        limit: Duration,
        pool: &Arc<Pool>,
    ) -> Result<Response<Incoming>, Undone> {
        let answer = self.sender.try_send_request(request);
        let pool = Arc::clone(pool);
        tokio::spawn(async move {
            poll_fn(|cx| {
                self.drive(cx);
                if self.has_ended() || self.is_idle() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            pool.keep(self);
        });
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(Undone::from),
            Err(_elapsed) => Err(Undone::timeout()),
        }
    }

    /// Goes on with what is under way. Whoever `cx` stands for is woken when there is more to do.
    pub(super) fn drive(&mut self, cx: &Context<'_>) {
        self.driver.set(Some(cx.waker()));
        self.go_on();
    }

    /// Nobody is woken for it any more, until it is driven again.
    pub(super) fn rest(&self) {
        self.driver.set(None);
    }

    /// Whether a request may be sent on it.
    pub(super) fn is_idle(&self) -> bool {
        !self.has_ended() && self.sender.is_ready()
    }

    /// Likewise, after a look at what has come in meanwhile: the end, or something that nobody asked for.
    pub(super) fn is_still_idle(&mut self) -> bool {
        self.go_on();
        self.is_idle()
    }

    fn has_ended(&self) -> bool {
        self.connection.is_none()
    }

    fn go_on(&mut self) {
        if let Some(connection) = &mut self.connection
            && Pin::new(connection).poll(&mut Context::from_waker(&self.waker)).is_ready()
        {
            // With it goes a request that it has not begun with.
            self.connection = None;
        }
    }
}

/// Who is to be woken for a connection. It changes with each request, and what hyper and tokio keep need not.
#[derive(Default)]
struct Driver(Mutex<Option<Waker>>);

impl Driver {
    fn set(&self, waker: Option<&Waker>) {
        let mut current = locked(&self.0);
        let same = match (&*current, waker) {
            (Some(current), Some(waker)) => current.will_wake(waker),
            (None, None) => true,
            _ => false,
        };
        if !same {
            let earlier = std::mem::replace(&mut *current, waker.cloned());
            drop(current);
            drop(earlier);
        }
    }
}

impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(waker) = &*locked(&self.0) {
            waker.wake_by_ref();
        }
    }
}

impl From<TrySendError<Request<Sent>>> for Undone {
    fn from(mut error: TrySendError<Request<Sent>>) -> Self {
        let request = error.take_message();
        Self { request, ..Self::from_hyper(&error.into_error()) }
    }
}

impl Undone {
    fn from_hyper(error: &hyper::Error) -> Self {
        let client_body = sources(error)
            .filter_map(|source| source.downcast_ref::<hyper::Error>())
            .any(|e| e.is_user() && !e.is_canceled());
        let failure = if client_body {
            Failure::ClientBody
        } else if has_io_error(error, &[io::ErrorKind::TimedOut]) {
            Failure::Timeout
        } else {
            Failure::Broken
        };
        // A close that crosses the request comes back as a reset.
        let reset = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
        let unanswered = failure == Failure::Broken
            && (error.is_incomplete_message() || error.is_canceled() || has_io_error(error, &reset));
        let chain: Vec<String> = sources(error).map(ToString::to_string).collect();
        Self { unanswered, ..Self::new(failure, chain.join(": ")) }
    }
}

fn has_io_error(error: &hyper::Error, kinds: &[io::ErrorKind]) -> bool {
    sources(error)
        .filter_map(|source| source.downcast_ref::<io::Error>())
        .any(|error| kinds.contains(&error.kind()))
}

fn sources<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// A socket that fails when the other side takes nothing for too long. How long one waits for something to read is the
/// reader's business.
struct Bounded {
    socket: Socket,
    limit: Duration,
    deadline: Deadline,
}

impl Bounded {
    fn bound<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.deadline.clear();
            return poll;
        }
        ready!(self.deadline.poll(cx, self.limit));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.bound(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.bound(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
