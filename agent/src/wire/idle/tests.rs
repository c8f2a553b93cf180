//! hyper on a [`Wire`] as the server uses it, with a client and answers that do what a test says.

use super::*;
use crate::flows::tests::{Recorder, flow, recorded};
use crate::wire::{ClientTimeouts, Wire};
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use proptest::prelude::*;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

type Piece = io::Result<Bytes>;

/// A body whose pieces come when the test sends them.
struct Pieces(mpsc::UnboundedReceiver<Piece>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.get_mut().0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// What a request waits for.
struct Answer(oneshot::Sender<Response<Pieces>>);

impl Answer {
    /// Sends the head of the answer.
    fn begin(self, length: Option<usize>) -> mpsc::UnboundedSender<Piece> {
        let (pieces, body) = mpsc::unbounded_channel();
        let mut response = Response::new(Pieces(body));
        if let Some(length) = length {
            response.headers_mut().insert("content-length", HeaderValue::from(length));
        }
        assert!(self.0.send(response).is_ok());
        pieces
    }

    fn finish(self, text: &'static str) {
        self.begin(Some(text.len())).send(Ok(Bytes::from(text))).unwrap();
    }
}

/// Both sides of a connection.
struct Both {
    client: DuplexStream,
    sent: u64,
    got: Vec<u8>,
    asked: mpsc::UnboundedReceiver<(Request<Incoming>, Answer)>,
    kernel: Arc<Recorder>,
    server: JoinHandle<hyper::Result<()>>,
}

impl Both {
    /// The connection holds `buffer` bytes in each direction.
    fn new(buffer: usize) -> Self {
        let (flows, kernel) = recorded();
        let (client, socket) = duplex(buffer);
        let limit = Duration::from_secs(60);
        let wire =
            Wire::new(socket, Vec::new(), ClientTimeouts { header: limit, body: limit, keepalive: limit })
                .tell(Some(Idleness::new(flows, flow(1))));
        let answers = wire.answers();
        let (ask, asked) = mpsc::unbounded_channel();
        let service = service_fn(move |request| {
            let (answer, answered) = oneshot::channel();
            let _test_is_over = ask.send((request, Answer(answer)));
            let answers = answers.clone();
            async move { answered.await.map(|response| response.map(|body| Counted::new(body, answers))) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limit)
            .half_close(true)
            .serve_connection(TokioIo::new(wire), service);
        Self { client, sent: 0, got: Vec::new(), asked, kernel, server: tokio::spawn(served) }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.write_all(bytes.as_ref()).await.unwrap();
        self.sent += bytes.as_ref().len() as u64;
        self.rest().await;
    }

    /// Lets everything run until it waits, and takes what the client gets.
    async fn rest(&mut self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let mut piece = [0; 4096];
        while let Ok(Ok(len)) = tokio::time::timeout(Duration::ZERO, self.client.read(&mut piece)).await
            && len > 0
        {
            self.got.extend_from_slice(&piece[..len]);
            tokio::task::yield_now().await;
        }
    }

    async fn request(&mut self) -> (Request<Incoming>, Answer) {
        self.rest().await;
        self.asked.try_recv().unwrap()
    }

    /// The answer that the next request waits for, which has no body.
    async fn answer(&mut self) -> Answer {
        self.request().await.1
    }

    /// Whether the kernel would answer a request that came now.
    async fn is_idle(&mut self) -> bool {
        self.rest().await;
        self.kernel.word() == Some((self.sent, self.got.len() as u64))
    }

    /// Everything that was said after a request.
    fn words(&self) -> Vec<(u64, u64)> {
        let mut words = self.kernel.published.lock().unwrap().clone();
        words.retain(|(received, _)| *received > 0);
        words.dedup();
        words
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.got).into_owned()
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn requests_one_after_the_other() {
    let mut both = Both::new(4096);
    assert!(both.is_idle().await, "before the first request");
    for _ in 0..3 {
        let (start, end) = GET.split_at(10);
        both.send(start).await;
        assert!(!both.is_idle().await, "part of a head");
        both.send(end).await;
        assert!(!both.is_idle().await, "unanswered");
        let answer = both.answer().await.begin(Some(10));
        assert!(!both.is_idle().await, "nothing of a body");
        answer.send(Ok("12345".into())).unwrap();
        assert!(!both.is_idle().await, "half a body");
        answer.send(Ok("67890".into())).unwrap();
        assert!(both.is_idle().await, "{}", both.text());
    }
    // Chunked, the end is a piece of its own.
    both.send(GET).await;
    let answer = both.answer().await.begin(None);
    answer.send(Ok("12345".into())).unwrap();
    assert!(!both.is_idle().await);
    drop(answer);
    assert!(both.is_idle().await);
    assert!(both.text().ends_with("\r\n0\r\n\r\n"), "{}", both.text());
    both.send("\r\n").await;
    assert!(!both.is_idle().await, "an empty line before a head");
    both.send(GET).await;
    both.answer().await.finish("x");
    assert!(both.is_idle().await);
}

#[tokio::test]
async fn pipelined_requests() {
    let mut both = Both::new(4096);
    both.send(format!("{GET}{GET}{}", &GET[..5])).await;
    both.answer().await.finish("one");
    assert!(!both.is_idle().await, "the second waits");
    let second = both.answer().await;
    assert!(!both.is_idle().await);
    second.finish("two");
    assert!(!both.is_idle().await, "the third has begun");
    both.send(&GET[5..]).await;
    let third = both.answer().await;
    assert!(!both.is_idle().await);
    // What comes while an answer is under way stays in the socket, where the kernel counts it.
    both.send(GET).await;
    third.finish("three");
    assert!(!both.is_idle().await);
    both.answer().await.finish("four");
    assert!(both.is_idle().await);
    assert_eq!(both.words(), [(both.sent, both.got.len() as u64)]);
}

#[tokio::test]
async fn bodies() {
    for head in [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n",
    ] {
        let mut both = Both::new(4096);
        both.send(head).await;
        let (request, answer) = both.request().await;
        assert!(!both.is_idle().await, "a body is to come");
        both.send("12345").await;
        answer.finish("early");
        assert!(!both.is_idle().await, "answered, and half the body is to come");
        // Frame by frame: hyper does not tell such a body that it has ended.
        let mut body = request.into_body();
        let reading = tokio::spawn(async move {
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
            (first, second)
        });
        both.send("67890").await;
        assert!(both.is_idle().await, "{}", both.text());
        assert_eq!(reading.await.unwrap(), ("12345".into(), "67890".into()));
    }
    let mut both = Both::new(4096);
    both.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n").await;
    let (request, answer) = both.request().await;
    let body = tokio::spawn(request.into_body().collect());
    both.send("0\r\n").await;
    assert!(!both.is_idle().await);
    both.send("\r\n").await;
    assert_eq!(body.await.unwrap().unwrap().to_bytes(), "12345");
    assert!(!both.is_idle().await, "unanswered");
    drop(answer.begin(None));
    assert!(both.is_idle().await);
}

/// A body that nobody reads is still on its way, or hyper gives the connection up.
#[tokio::test]
async fn unread_bodies() {
    let mut both = Both::new(4096);
    both.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n").await;
    let (request, answer) = both.request().await;
    drop(request);
    answer.finish("no");
    assert!(!both.is_idle().await);
    assert_eq!(both.kernel.word(), None, "{}", both.text());
    both.server.await.unwrap().unwrap();

    // One that is there already is drained.
    let mut both = Both::new(4096);
    both.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n1234567890").await;
    let (request, answer) = both.request().await;
    drop(request);
    answer.finish("no");
    assert!(both.is_idle().await);
}

#[tokio::test]
async fn interim_answers() {
    let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let mut both = Both::new(4096);
    both.send(head).await;
    let (request, answer) = both.request().await;
    assert!(!both.is_idle().await);
    let body = tokio::spawn(request.into_body().collect());
    assert!(!both.is_idle().await);
    assert!(both.text().starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "{}", both.text());
    both.send("12345").await;
    assert_eq!(body.await.unwrap().unwrap().to_bytes(), "12345");
    assert!(!both.is_idle().await, "only the interim answer is there");
    answer.finish("done");
    assert!(both.is_idle().await);

    // Refused before the body is sent, with or without which the client goes on.
    let mut both = Both::new(4096);
    both.send(head).await;
    let (request, answer) = both.request().await;
    drop(request);
    answer.finish("no");
    assert!(!both.is_idle().await);
    assert_eq!(both.kernel.word(), None);
}

#[tokio::test]
async fn half_closed_clients() {
    let mut both = Both::new(4096);
    both.send(GET).await;
    let answer = both.answer().await;
    both.client.shutdown().await.unwrap();
    assert!(!both.is_idle().await);
    answer.finish("done");
    assert!(!both.is_idle().await);
    assert_eq!(both.kernel.word(), None);
    assert!(both.text().ends_with("done"));

    let mut both = Both::new(4096);
    assert!(both.is_idle().await);
    both.client.shutdown().await.unwrap();
    both.rest().await;
    assert_eq!(both.kernel.word(), None);
}

#[tokio::test]
async fn what_ends_badly() {
    // The body of the answer fails, before or after something of it was written.
    for written in [false, true] {
        let mut both = Both::new(4096);
        both.send(GET).await;
        let body = both.answer().await.begin(Some(10));
        if written {
            body.send(Ok("12345".into())).unwrap();
            both.rest().await;
        }
        body.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        assert!(!both.is_idle().await);
        assert!((&mut both.server).await.unwrap().is_err());
        assert_eq!(both.kernel.word(), None);
        assert_eq!(both.words(), []);
    }
    // What hyper answers by itself.
    for bad in [
        "GET / HTTP/3.7\r\n\r\n",
        "nonsense\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\n12345",
        "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut both = Both::new(4096);
        both.send(bad).await;
        both.rest().await;
        assert_eq!(both.kernel.word(), None, "{bad}");
        assert_eq!(both.words(), [], "{bad}");
    }
    // Framing that two readers read differently, whatever hyper makes of it.
    let mut both = Both::new(4096);
    both.send(
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    .await;
    both.answer().await.finish("x");
    both.rest().await;
    assert_eq!(both.words(), []);
}

/// An answer that ends with the connection is not finished before.
#[tokio::test]
async fn last_answers() {
    for (request, length) in [
        ("GET / HTTP/1.0\r\n\r\n", None),
        ("GET / HTTP/1.0\r\n\r\n", Some(4)),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", Some(4)),
    ] {
        let mut both = Both::new(4096);
        both.send(request).await;
        let body = both.answer().await.begin(length);
        body.send(Ok("last".into())).unwrap();
        drop(body);
        both.rest().await;
        assert_eq!(both.kernel.word(), None);
        assert_eq!(both.words(), [], "{request:?}");
        assert!(both.text().ends_with("last"), "{}", both.text());
    }
}

#[tokio::test]
async fn answers_without_a_body() {
    let mut both = Both::new(4096);
    both.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let _never_asked_for = both.answer().await.begin(Some(1000));
    assert!(both.is_idle().await);
    both.send(GET).await;
    let answer = both.answer().await;
    assert!(!both.is_idle().await);
    let (_pieces, body) = mpsc::unbounded_channel();
    let mut response = Response::new(Pieces(body));
    *response.status_mut() = http::StatusCode::NOT_MODIFIED;
    answer.0.send(response).ok().unwrap();
    assert!(both.is_idle().await, "{}", both.text());
}

/// hyper has the whole answer, and the client takes little of it at a time.
#[tokio::test]
async fn slow_clients() {
    let mut both = Both::new(64);
    both.send(GET).await;
    both.answer().await.finish("0123456789".repeat(100).leak());
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let mut piece = [0; 50];
    while both.server_holds_back(&mut piece).await {}
    assert!(both.is_idle().await, "{}", both.text());
    assert!(both.text().ends_with("0123456789"));
}

/// hyper asks for the next request while the end of the last answer is still with it.
#[tokio::test]
async fn answers_that_hyper_holds() {
    let mut both = Both::new(64);
    let head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n";
    both.send(head).await;
    let (request, answer) = both.request().await;
    answer.finish("0123456789".repeat(100).leak());
    let all_run = || async {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    };
    all_run().await;
    tokio::spawn(request.into_body().collect());
    both.client.write_all(b"12345").await.unwrap();
    both.sent += 5;
    all_run().await;
    let mut piece = [0; 50];
    while both.server_holds_back(&mut piece).await {}
    assert!(both.is_idle().await, "{}", both.text());
    assert_eq!(both.words().len(), 1);
}

impl Both {
    /// Takes a piece; whether the answer was still unfinished by then, in which case nothing may be published for it.
    async fn server_holds_back(&mut self, piece: &mut [u8]) -> bool {
        let unfinished = self.got.len() + 64 < 1000;
        if unfinished {
            assert_eq!(self.words(), [], "after {}", self.got.len());
            let len = self.client.read(piece).await.unwrap();
            self.got.extend_from_slice(&piece[..len]);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
        unfinished
    }
}

/// The connection ends without anybody's say.
#[tokio::test]
async fn aborted_connections() {
    let mut both = Both::new(4096);
    assert!(both.is_idle().await);
    both.server.abort();
    both.rest().await;
    assert_eq!(both.kernel.word(), None);
}

/// A request, and its answer if it is to be given before the next request is sent.
fn any_request() -> impl Strategy<Value = (String, bool)> {
    let line = prop::sample::select(vec!["GET", "POST", "HEAD"]);
    let framing = prop_oneof![
        Just(String::from("\r\n")),
        (0usize..20).prop_map(|len| format!("Content-Length: {len}\r\n\r\n{}", "b".repeat(len))),
        Just(String::from("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")),
    ];
    (line, framing, any::<bool>())
        .prop_map(|(line, rest, wait)| (format!("{line} / HTTP/1.1\r\nHost: h\r\n{rest}"), wait))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However bytes come and go, every word says that the first n requests are answered by the first n answers.
    #[test]
    fn words_fall_between_requests(
        requests in prop::collection::vec(any_request(), 1..6),
        piece in 1usize..200,
        buffer in 1usize..300,
        reads_bodies in any::<bool>(),
    ) {
        // The clock moves only when nothing else does, so that the client has read everything when its patience ends.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (published, word, answered) = runtime.block_on(async {
            let mut both = Both::new(buffer);
            let bytes: Vec<u8> = requests.iter().flat_map(|(request, _)| request.bytes()).collect();
            let mut asked = std::mem::replace(&mut both.asked, mpsc::unbounded_channel().1);
            let waits: Vec<bool> = requests.iter().map(|(_, wait)| *wait).collect();
            let answering = tokio::spawn(async move {
                let mut answered = 0;
                while let Some((request, answer)) = asked.recv().await {
                    if reads_bodies {
                        let _cut_off = request.into_body().collect().await;
                    }
                    if waits.get(answered).copied().unwrap_or_default() {
                        tokio::task::yield_now().await;
                    }
                    let body = answer.begin(Some(50));
                    for _ in 0..5 {
                        let _gone = body.send(Ok("0123456789".into()));
                        tokio::task::yield_now().await;
                    }
                    answered += 1;
                }
            });
            let (mut from_server, mut to_server) = tokio::io::split(both.client);
            let reading = tokio::spawn(async move {
                let mut got = Vec::new();
                let mut piece = [0; 37];
                while let Ok(Ok(len)) =
                    tokio::time::timeout(Duration::from_millis(20), from_server.read(&mut piece)).await
                    && len > 0
                {
                    got.extend_from_slice(&piece[..len]);
                }
                got
            });
            for piece in bytes.chunks(piece) {
                if to_server.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let got = reading.await.unwrap();
            let word = both.kernel.word();
            both.server.abort();
            answering.abort();
            let published = both.kernel.published.lock().unwrap().clone();
            (published, word, got)
        });

        let mut received = vec![0];
        let mut given = vec![0];
        let mut rest = &answered[..];
        for (request, _) in &requests {
            received.push(received.last().unwrap() + request.len() as u64);
            while rest.starts_with(b"HTTP/1.1 100") {
                rest = &rest[25..];
            }
            let Some(head) = rest.windows(4).position(|four| four == b"\r\n\r\n") else { break };
            let body = if request.starts_with("HEAD") { 0 } else { 50 };
            rest = rest.get(head + 4 + body..).unwrap_or_default();
            given.push((answered.len() - rest.len()) as u64);
        }
        for word in &published {
            let number = received.iter().position(|at| *at == word.0);
            prop_assert!(number.is_some(), "{:?} is within a request: {:?}", word, received);
            prop_assert_eq!(given.get(number.unwrap()), Some(&word.1), "{:?}", given);
        }
        // Where hyper need not give up an unread body, the last word is that all is done.
        if reads_bodies {
            prop_assert_eq!(word, Some((*received.last().unwrap(), answered.len() as u64)));
        }
    }
}
