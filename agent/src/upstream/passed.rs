//! The body of an answer on its way to the client.

use super::link::Link;
use super::{Pool, UpstreamTimeouts};
use crate::deadline::Deadline;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

/// A body that is passed on as it comes. Its connection goes back to the pool with the end of it, and is closed if the body is
/// dropped before.
pub(crate) struct Passed {
    body: Incoming,
    /// The connection that it comes from, unless that is driven by somebody else or done already.
    link: Option<Box<Link>>,
    pool: Arc<Pool>,
    deadline: Deadline,
}

impl Passed {
    /// A body whose connection goes on while it is asked for.
    pub(super) fn driving(body: Incoming, link: Box<Link>, pool: &Arc<Pool>) -> Self {
        let mut passed = Self { link: Some(link), ..Self::driven(body, pool) };
        passed.release();
        passed
    }

    /// A body whose connection goes on by itself.
    pub(super) fn driven(body: Incoming, pool: &Arc<Pool>) -> Self {
        Self { body, link: None, pool: Arc::clone(pool), deadline: Deadline::default() }
    }

    /// Gives the connection back if everything has come, even if it was not passed on yet.
    fn release(&mut self) {
        if let Some(link) = self.link.take_if(|link| link.is_idle()) {
            self.pool.keep(link);
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(link) = &mut self.link else { return Pin::new(&mut self.body).poll_frame(cx) };
        // hyper's two ends of the body are both in our hands: neither has to wake the other.
        let mut unheard = Context::from_waker(Waker::noop());
        link.rest();
        let mut frame = Pin::new(&mut self.body).poll_frame(&mut unheard);
        if frame.is_pending() {
            link.drive(cx);
            frame = Pin::new(&mut self.body).poll_frame(&mut unheard);
        }
        if frame.is_ready() {
            self.release();
        }
        frame
    }
}

impl Body for Passed {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = this.poll_body(cx) {
            this.deadline.clear();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let UpstreamTimeouts { answer, .. } = this.pool.timeouts;
        ready!(this.deadline.poll(cx, answer));
        Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
