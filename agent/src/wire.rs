//! The client's side of a connection: what hyper does not tell about a request, and limits on time.
//!
//! HTTP itself is hyper's job. But hyper drops a fragment from the target and a `Content-Length` beside a
//! `Transfer-Encoding` without a word, and both are ways to make two readers see two requests. [`Wire`] stands between
//! socket and hyper, passes every byte through, follows the framing, and keeps [`HeadFacts`] of each request head for
//! whoever answers that request.

pub(crate) mod idle;

use crate::deadline::Deadline;
use idle::{Answers, Idleness};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest request line, in bytes without its line end.
pub(crate) const MAX_REQUEST_LINE: usize = 16 * 1024;

/// Longest header block, in bytes: everything after the request line.
pub(crate) const MAX_HEADER_BLOCK: usize = 64 * 1024;

/// Most header fields of one request.
pub(crate) const MAX_HEADERS: usize = 100;

/// What was seen of one request head on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HeadFacts {
    /// The target holds a `#`.
    pub fragment: bool,
    /// Another reader may see another end of the body: a length beside a transfer coding, two lengths, or a coding
    /// that is not just `chunked`.
    pub ambiguous_framing: bool,
    /// The request line is longer than [`MAX_REQUEST_LINE`].
    pub line_too_long: bool,
    /// The header block is longer than [`MAX_HEADER_BLOCK`].
    pub headers_too_large: bool,
}

/// Facts of the heads that arrived and were not answered yet, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heads(Arc<Mutex<VecDeque<HeadFacts>>>);

impl Heads {
    /// The facts of the oldest head. hyper hands over requests in the order of their heads, each exactly once.
    ///
    /// A request that the scanner has not seen, because it lost the framing before, is one that two readers read
    /// differently already.
    pub(crate) fn next(&self) -> HeadFacts {
        let oldest = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        oldest.unwrap_or(HeadFacts { ambiguous_framing: true, ..HeadFacts::default() })
    }

    fn push(&self, facts: HeadFacts) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(facts);
    }
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientTimeouts {
    /// From the first byte of a head, or from the start of the connection, to the end of the head.
    pub header: Duration,
    /// Between two pieces of a body, and for taking some of a response.
    pub body: Duration,
    /// Between two requests.
    pub keepalive: Duration,
}

/// A connection that is watched.
pub(crate) struct Wire<S> {
    /// First, so that nothing is said about the socket any more when it is closed.
    idleness: Option<Idleness>,
    inner: S,
    /// Bytes that were read before hyper took over.
    preread: Vec<u8>,
    scanner: Scanner,
    heads: Heads,
    timeouts: ClientTimeouts,
    read_deadline: Deadline,
    write_deadline: Deadline,
    /// Whether any byte has arrived yet.
    started: bool,
}

impl<S> Wire<S> {
    /// Watches `inner`; `preread` holds bytes that were already taken from it and belong to HTTP.
    pub(crate) fn new(inner: S, preread: Vec<u8>, timeouts: ClientTimeouts) -> Self {
        Self {
            idleness: None,
            inner,
            preread,
            scanner: Scanner::default(),
            heads: Heads::default(),
            timeouts,
            read_deadline: Deadline::default(),
            write_deadline: Deadline::default(),
            started: false,
        }
    }

    /// Has it told when the connection is between two requests.
    pub(crate) fn tell(mut self, idleness: Option<Idleness>) -> Self {
        self.idleness = idleness;
        self
    }

    /// Where the connection's answers are to be counted, if anybody is told.
    pub(crate) fn answers(&self) -> Option<Answers> {
        self.idleness.as_ref().map(Idleness::answers)
    }

    /// The facts of the heads on this connection.
    pub(crate) fn heads(&self) -> Heads {
        self.heads.clone()
    }

    /// How long the client may be silent now. hyper reads no head while a request is under way, so that whoever waits for one
    /// waits for the client.
    fn read_limit(&self) -> Duration {
        match self.scanner.expects() {
            Expects::NewHead if self.started => self.timeouts.keepalive,
            Expects::NewHead | Expects::RestOfHead => self.timeouts.header,
            Expects::Body => self.timeouts.body,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if this.preread.is_empty() {
            match Pin::new(&mut this.inner).poll_read(cx, buf) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if let Some(idleness) = &mut this.idleness {
                        idleness.asked(this.scanner.heads, this.scanner.expects() == Expects::NewHead);
                    }
                    let limit = this.read_limit();
                    ready!(this.read_deadline.poll(cx, limit));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        } else {
            let len = this.preread.len().min(buf.remaining());
            buf.put_slice(&this.preread[..len]);
            this.preread.drain(..len);
        }
        let arrived = &buf.filled()[before..];
        let earlier = this.scanner.expects();
        this.scanner.feed(arrived, &this.heads);
        this.started |= !arrived.is_empty();
        if let Some(idleness) = &mut this.idleness {
            idleness.read(arrived.len());
        }
        // A head is bounded from its first byte on, so more pieces of it do not prolong it.
        if earlier != Expects::RestOfHead || this.scanner.expects() != Expects::RestOfHead {
            this.read_deadline.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    fn wrote(&mut self, poll: &Poll<io::Result<usize>>) {
        if let (Some(idleness), Poll::Ready(Ok(bytes))) = (&mut self.idleness, poll) {
            idleness.wrote(*bytes);
        }
    }

    /// Bounds how long the client takes nothing of what is written.
    fn bound_write<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write_deadline.clear();
            return poll;
        }
        ready!(self.write_deadline.poll(cx, self.timeouts.body));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write(cx, buf);
        this.wrote(&poll);
        this.bound_write(cx, poll)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_write_vectored(cx, bufs);
        this.wrote(&poll);
        this.bound_write(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.inner).poll_flush(cx);
        if let (Some(idleness), Poll::Ready(Ok(()))) = (&mut this.idleness, &poll) {
            idleness.flushed(this.scanner.heads);
        }
        this.bound_write(cx, poll)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(idleness) = &mut this.idleness {
            idleness.end();
        }
        let poll = Pin::new(&mut this.inner).poll_shutdown(cx);
        this.bound_write(cx, poll)
    }
}

/// What the next byte of a connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expects {
    NewHead,
    RestOfHead,
    Body,
}

/// Follows the framing of requests.
#[derive(Debug, Default)]
struct Scanner {
    state: State,
    /// The start of a head that arrived in pieces.
    partial: Vec<u8>,
    /// Whole heads so far.
    heads: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// Bytes of a body with a length.
    Length(u64),
    Chunked(Chunk),
    /// Framing was lost. The connection answers what it has and closes; nothing after this matters.
    Lost,
}

/// Position within a chunked body (RFC 9112, 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size(u64),
    /// A chunk extension, up to the end of the line.
    Extension(u64),
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// Within the trailer section; whether the current line is empty so far.
    Trailer {
        empty: bool,
    },
}

impl Scanner {
    fn expects(&self) -> Expects {
        match self.state {
            State::Head if self.partial.is_empty() => Expects::NewHead,
            State::Head => Expects::RestOfHead,
            State::Length(_) | State::Chunked(_) | State::Lost => Expects::Body,
        }
    }

    fn feed(&mut self, mut bytes: &[u8], heads: &Heads) {
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Head => self.feed_head(bytes, heads),
                State::Length(left) => {
                    let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.state = State::Head;
                    }
                    taken
                }
                State::Chunked(chunk) => {
                    let (used, next) = feed_chunked(*chunk, bytes);
                    self.state = next;
                    used
                }
                State::Lost => return,
            };
            bytes = &bytes[used..];
        }
    }

    /// Takes the bytes of a head; returns how many of `bytes` belong to it.
    fn feed_head(&mut self, bytes: &[u8], heads: &Heads) -> usize {
        if self.partial.is_empty() {
            // Usually a head arrives whole and is read where it is.
            return match read_head(bytes) {
                Head::Whole { len, facts, next } => {
                    heads.push(facts);
                    self.heads += 1;
                    self.state = next;
                    len
                }
                Head::Partial => {
                    self.partial.extend_from_slice(bytes);
                    bytes.len()
                }
                Head::Bad => {
                    self.state = State::Lost;
                    bytes.len()
                }
            };
        }
        let earlier = self.partial.len();
        self.partial.extend_from_slice(bytes);
        // Read again only when the end has come, so that a head in tiny pieces costs no more than a whole one.
        if !ends_head(&self.partial, earlier) {
            if self.partial.len() > MAX_REQUEST_LINE + MAX_HEADER_BLOCK {
                self.lose();
            }
            return bytes.len();
        }
        match read_head(&self.partial) {
            Head::Whole { len, facts, next } => {
                heads.push(facts);
                self.heads += 1;
                self.state = next;
                self.partial = Vec::new();
                len - earlier
            }
            Head::Partial => bytes.len(),
            Head::Bad => {
                self.lose();
                bytes.len()
            }
        }
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.partial = Vec::new();
    }
}

/// Whether an empty line ends within the bytes from `from` on.
fn ends_head(bytes: &[u8], from: usize) -> bool {
    let tail = &bytes[from.saturating_sub(3)..];
    tail.windows(2).any(|pair| pair == b"\n\n") || tail.windows(3).any(|three| three == b"\n\r\n")
}

enum Head {
    Whole {
        len: usize,
        facts: HeadFacts,
        next: State,
    },
    Partial,
    /// hyper's parser is the same and will refuse it too.
    Bad,
}

fn read_head(bytes: &[u8]) -> Head {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Head::Partial,
        Err(_) => return Head::Bad,
    };
    let (mut lengths, mut codings, mut chunked) = (0, 0, false);
    let mut length = 0;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            lengths += 1;
            length = std::str::from_utf8(field.value).ok().and_then(|v| v.trim().parse().ok()).unwrap_or(0);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            codings += 1;
            chunked = field.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
        }
    }
    let facts = HeadFacts {
        fragment: request.path.is_some_and(|target| target.contains('#')),
        ambiguous_framing: lengths + codings > 1 || (codings == 1 && !chunked),
        ..sizes(&bytes[..len])
    };
    let next = match (facts.ambiguous_framing, codings, length) {
        (true, ..) => State::Lost,
        (false, 0, 0) => State::Head,
        (false, 0, length) => State::Length(length),
        (false, ..) => State::Chunked(Chunk::Size(0)),
    };
    Head::Whole { len, facts, next }
}

/// Whether parts of a head are over their limits.
fn sizes(head: &[u8]) -> HeadFacts {
    // Nearly all of them are shorter than the shorter limit.
    if head.len() <= MAX_REQUEST_LINE {
        return HeadFacts::default();
    }
    let head = head.trim_ascii_start();
    let line = head.iter().position(|&b| b == b'\n').unwrap_or(head.len());
    HeadFacts {
        line_too_long: line > MAX_REQUEST_LINE + 1,
        headers_too_large: head.len() - line > MAX_HEADER_BLOCK,
        ..HeadFacts::default()
    }
}

/// Takes bytes of a chunked body; returns how many, and where the scanner stands after them.
fn feed_chunked(mut at: Chunk, bytes: &[u8]) -> (usize, State) {
    let mut used = 0;
    while let Some(&byte) = bytes.get(used) {
        if let Chunk::Data(left) = at {
            let available = bytes.len() - used;
            let taken = available.min(usize::try_from(left).unwrap_or(usize::MAX));
            used += taken;
            let left = left - taken as u64;
            at = if left == 0 { Chunk::DataEnd } else { Chunk::Data(left) };
            continue;
        }
        used += 1;
        at = match (at, byte) {
            (Chunk::Size(size) | Chunk::Extension(size), b'\n') => match size {
                0 => Chunk::Trailer { empty: true },
                size => Chunk::Data(size),
            },
            (Chunk::Size(size), digit) if digit.is_ascii_hexdigit() => {
                let digit = u64::from(char::from(digit).to_digit(16).unwrap_or(0));
                match size.checked_mul(16) {
                    Some(size) => Chunk::Size(size | digit),
                    None => return (used, State::Lost),
                }
            }
            (Chunk::Size(size), b'\r') => Chunk::Size(size),
            (Chunk::Size(size), b';' | b' ' | b'\t') => Chunk::Extension(size),
            (Chunk::Extension(size), _) => Chunk::Extension(size),
            (Chunk::DataEnd, b'\n') => Chunk::Size(0),
            (Chunk::DataEnd, b'\r') => Chunk::DataEnd,
            (Chunk::Trailer { empty: true }, b'\n') => return (used, State::Head),
            (Chunk::Trailer { .. }, b'\n') => Chunk::Trailer { empty: true },
            (Chunk::Trailer { empty }, b'\r') => Chunk::Trailer { empty },
            (Chunk::Trailer { .. }, _) => Chunk::Trailer { empty: false },
            (Chunk::Size(_) | Chunk::DataEnd | Chunk::Data(_), _) => return (used, State::Lost),
        };
    }
    (used, State::Chunked(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: HeadFacts = HeadFacts {
        fragment: false,
        ambiguous_framing: false,
        line_too_long: false,
        headers_too_large: false,
    };

    /// Feeds the bytes in pieces of `size` and returns the facts and the final state.
    fn scan(bytes: &[u8], size: usize) -> (Vec<HeadFacts>, State) {
        let heads = Heads::default();
        let mut scanner = Scanner::default();
        bytes.chunks(size).for_each(|piece| scanner.feed(piece, &heads));
        let facts = heads.0.lock().unwrap().drain(..).collect();
        (facts, scanner.state)
    }

    #[test]
    fn framing_is_followed_in_pieces_of_any_size() {
        let stream = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n\
            POST /b#x HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nGET /inside#body HTTP/1.1\r\n\r\n\r\n\
            \r\nPOST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
            5;ext=\"#\"\r\n#####\r\n1D\r\nGET /in#chunk HTTP/1.1\r\n\r\n###\r\n0\r\nTrailer: #\r\n\r\n\
            GET /d HTTP/1.1\nHost: h\n\n";
        let expected = [PLAIN, HeadFacts { fragment: true, ..PLAIN }, PLAIN, PLAIN];
        for size in 1..stream.len() {
            let (facts, state) = scan(stream, size);
            assert_eq!(facts, expected, "pieces of {size}");
            assert_eq!(state, State::Head, "pieces of {size}");
        }
    }

    #[test]
    fn ambiguous_framing() {
        for fields in [
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n");
            let (facts, state) = scan(head.as_bytes(), head.len());
            assert_eq!(facts, [HeadFacts { ambiguous_framing: true, ..PLAIN }], "{fields}");
            assert_eq!(state, State::Lost);
        }
    }

    #[test]
    fn limits_at_their_boundary() {
        let line = |len: usize| {
            let fixed = "GET / HTTP/1.1".len();
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(len - fixed))
        };
        let (facts, _) = scan(line(MAX_REQUEST_LINE).as_bytes(), 1000);
        assert_eq!(facts, [PLAIN]);
        let (facts, _) = scan(line(MAX_REQUEST_LINE + 1).as_bytes(), 1000);
        assert_eq!(facts, [HeadFacts { line_too_long: true, ..PLAIN }]);

        let block = |len: usize| {
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(len - "x: \r\n\r\n".len() - 1))
        };
        let (facts, _) = scan(block(MAX_HEADER_BLOCK).as_bytes(), 1000);
        assert_eq!(facts, [PLAIN]);
        let (facts, _) = scan(block(MAX_HEADER_BLOCK + 1).as_bytes(), 1000);
        assert_eq!(facts, [HeadFacts { headers_too_large: true, ..PLAIN }]);
    }

    #[test]
    fn lost_framing_keeps_no_memory() {
        let mut scanner = Scanner::default();
        let heads = Heads::default();
        for _ in 0..10 {
            scanner.feed(&[b'A'; 16 * 1024], &heads);
        }
        assert_eq!(scanner.state, State::Lost);
        assert!(scanner.partial.is_empty());
        assert!(heads.next().ambiguous_framing, "what nobody has read is not let through");
        let (_, state) = scan(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 7);
        assert_eq!(state, State::Lost);
        let (_, state) =
            scan(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n", 7);
        assert_eq!(state, State::Lost);
    }
}
