//! Whether a connection is between two requests, told to whoever has to know.
//!
//! The word must not be given while a request waits for its answer or an answer is not written to its end. So it is given
//! only when hyper asks for more bytes (it keeps the connection, and has no use for what it has), the scanner is at the
//! start of a head (no byte of a head or body was read that does not belong to a request handed over), and as many
//! answers were written as heads were read. An answer counts when hyper has let go of its body and flushed after that:
//! hyper flushes a connection only when its own buffer is empty.

use crate::flows::Flows;
use bytes::Bytes;
use ebpf_abi::Flow;
use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

/// The bytes and answers of one connection.
pub(crate) struct Idleness {
    flows: Arc<Flows>,
    flow: Flow,
    answers: Answers,
    received: u64,
    given: u64,
    /// Answers that were flushed; `None` while something was written since.
    flushed: Option<u64>,
    /// hyper has asked for the next head and got nothing yet.
    asking: bool,
    /// Nothing more is read or written; what is said about the connection is no longer true.
    over: bool,
}

impl Idleness {
    /// A connection without a byte so far.
    pub(crate) fn new(flows: Arc<Flows>, flow: Flow) -> Self {
        Self {
            flows,
            flow,
            answers: Answers::default(),
            received: 0,
            given: 0,
            flushed: Some(0),
            asking: false,
            over: false,
        }
    }

    /// Where the answers of the connection are counted.
    pub(crate) fn answers(&self) -> Answers {
        self.answers.clone()
    }

    /// Bytes were read. None means that the client has closed its side.
    pub(super) fn read(&mut self, bytes: usize) {
        self.asking = false;
        self.received += bytes as u64;
        if bytes == 0 {
            self.end();
        }
    }

    /// hyper asked for bytes, and there are none. `heads` is how many were read so far; `between` that none has begun.
    pub(super) fn asked(&mut self, heads: u64, between: bool) {
        self.asking = between;
        self.look(heads);
    }

    /// Bytes were written.
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.given += bytes as u64;
        self.flushed = None;
    }

    /// Everything was written that hyper had.
    pub(super) fn flushed(&mut self, heads: u64) {
        self.flushed = Some(self.answers.0.load(Ordering::Relaxed));
        self.look(heads);
    }

    fn look(&self, heads: u64) {
        if self.asking && self.flushed == Some(heads) && !self.over {
            self.flows.idle(&self.flow, self.received, self.given);
        }
    }

    /// The connection ends, in whichever way.
    pub(super) fn end(&mut self) {
        if !self.over {
            self.over = true;
            self.flows.gone(&self.flow);
        }
    }
}

impl Drop for Idleness {
    fn drop(&mut self) {
        self.end();
    }
}

/// The number of answers that hyper is done with.
#[derive(Clone, Default)]
pub(crate) struct Answers(Arc<AtomicU64>);

/// The body of an answer, which counts once hyper lets go of it. It does so when everything was buffered, or, without
/// a look at it, where an answer has no body. One that failed does not count: what the client has is unfinished.
pub(crate) struct Counted<B> {
    body: B,
    answers: Option<Answers>,
}

impl<B> Counted<B> {
    /// Has `body` counted, if there is anybody who counts.
    pub(crate) fn new(body: B, answers: Option<Answers>) -> Self {
        Self { body, answers }
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        if let Some(Answers(count)) = &self.answers {
            // The connection's task alone counts and reads.
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if matches!(frame, Some(Err(_))) {
            this.answers = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
