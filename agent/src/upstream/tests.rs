use super::*;
use http_body_util::BodyExt as _;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n0\r\n\r\n";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwho";

/// What an origin does with a request after its head.
#[derive(Clone, Copy)]
enum Then {
    Answer(&'static [u8]),
    AnswerAndClose(&'static [u8]),
    Close,
    Nothing,
}

/// An origin that does the next thing on its list for each request, the last one for ever.
struct Origin {
    pool: Arc<Pool>,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    async fn start(script: &'static [Then]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(AtomicUsize::new(0));
        let (seen, requests) = (Arc::clone(&connections), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                seen.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, script, Arc::clone(&requests)));
            }
        });
        let limit = Duration::from_millis(300);
        let timeouts = UpstreamTimeouts { connect: limit, answer: limit };
        let pool = Upstreams::default().pool(&Upstream::Tcp { authority }, timeouts);
        Self { pool, connections }
    }

    async fn ask(&self, method: Method) -> Result<Response<Passed>, Failure> {
        let mut request = Request::new(Either::Left(Empty::new()));
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_static("/");
        request.headers_mut().insert("host", HeaderValue::from_static("h"));
        self.pool.send_prepared(request).await
    }

    async fn whole(&self, method: Method) {
        let response = self.ask(method).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "whole");
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn kept(&self) -> usize {
        locked(&self.pool.idle).len()
    }
}

async fn serve(mut stream: TcpStream, script: &'static [Then], requests: Arc<AtomicUsize>) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.clear();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let number = requests.fetch_add(1, Ordering::Relaxed);
        match script[number.min(script.len() - 1)] {
            Then::Answer(answer) => stream.write_all(answer).await?,
            Then::AnswerAndClose(answer) => return stream.write_all(answer).await,
            Then::Close => return Ok(()),
            Then::Nothing => {}
        }
    }
}

#[tokio::test]
async fn connections_are_used_again() {
    for answer in [WHOLE, CHUNKED] {
        let script: &'static [Then] =
            if answer == WHOLE { &[Then::Answer(WHOLE)] } else { &[Then::Answer(CHUNKED)] };
        let origin = Origin::start(script).await;
        for _ in 0..5 {
            origin.whole(Method::GET).await;
            assert_eq!(origin.kept(), 1);
        }
        assert_eq!(origin.connections(), 1);

        // As many as are needed at a time.
        let both = tokio::join!(origin.ask(Method::GET), origin.ask(Method::GET));
        assert_eq!(origin.connections(), 2);
        drop(both);
    }
}

/// A close that was seen costs nobody a request, whatever its method.
#[tokio::test]
async fn a_close_is_noticed() {
    let origin = Origin::start(&[Then::AnswerAndClose(WHOLE)]).await;
    for round in 1..5 {
        origin.whole(Method::POST).await;
        assert_eq!(origin.connections(), round);
        // Let the close arrive.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    origin.pool.tidy();
    assert_eq!(origin.kept(), 0);
}

/// A request that may have been taken is sent again only if it changes nothing, and only where the connection was old.
#[tokio::test]
async fn requests_that_get_lost() {
    let origin = Origin::start(&[Then::Answer(WHOLE), Then::Close, Then::Answer(WHOLE)]).await;
    origin.whole(Method::GET).await;
    origin.whole(Method::GET).await;
    assert_eq!(origin.connections(), 2);

    let origin = Origin::start(&[Then::Answer(WHOLE), Then::Close, Then::Answer(WHOLE)]).await;
    origin.whole(Method::GET).await;
    assert_eq!(origin.ask(Method::POST).await.err(), Some(Failure::Broken));
    assert_eq!(origin.connections(), 1);

    let origin = Origin::start(&[Then::Close]).await;
    assert_eq!(origin.ask(Method::GET).await.err(), Some(Failure::Broken));
    assert_eq!(origin.connections(), 1);
}

#[test]
fn what_is_sent_again_is_the_same() {
    let made = |method: &Method| {
        let mut request: Request<Sent> = Request::new(Either::Left(Empty::new()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = "/a%20b/c?d=e&f".parse().unwrap();
        for (name, value) in [
            ("host", &b"cdn.example"[..]),
            ("cookie", b"a=1"),
            ("x-forwarded-for", b"192.0.2.1, 192.0.2.2"),
            ("cookie", b"b=2"),
            ("x-empty", b""),
            ("x-latin", b" caf\xe9 \t;"),
        ] {
            let name = HeaderName::from_static(name);
            request.headers_mut().append(name, HeaderValue::from_bytes(value).unwrap());
        }
        request
    };
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        let (first, again) = (made(&method), Repeat::of(&made(&method)).unwrap().request().unwrap());
        assert_eq!((again.method(), again.uri()), (first.method(), first.uri()));
        assert_eq!(again.headers(), first.headers());
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::TRACE] {
        assert!(Repeat::of(&made(&method)).is_none());
    }
}

#[tokio::test]
async fn silence_has_a_limit() {
    let origin = Origin::start(&[Then::Nothing, Then::Answer(HALF)]).await;
    assert_eq!(origin.ask(Method::GET).await.err(), Some(Failure::Timeout));
    let half = origin.ask(Method::GET).await.unwrap();
    let error = half.into_body().collect().await.unwrap_err();
    let error = error.downcast::<io::Error>().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(origin.kept(), 0);
}

/// What is left of an answer would be taken for the next one.
#[tokio::test]
async fn a_connection_with_half_an_answer_is_not_kept() {
    let origin = Origin::start(&[Then::Answer(HALF), Then::Answer(WHOLE)]).await;
    drop(origin.ask(Method::GET).await.unwrap());
    assert_eq!(origin.kept(), 0);
    origin.whole(Method::GET).await;
    assert_eq!(origin.connections(), 2);
}

/// Likewise of one that goes on after its end.
#[tokio::test]
async fn a_connection_with_more_than_an_answer_is_not_used_again() {
    const MORE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwholeHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    let origin = Origin::start(&[Then::Answer(MORE)]).await;
    for round in 1..4 {
        origin.whole(Method::GET).await;
        assert_eq!(origin.connections(), round);
    }
}

#[tokio::test]
async fn unused_connections_are_closed() {
    let origin = Origin::start(&[Then::Answer(WHOLE)]).await;
    origin.whole(Method::GET).await;
    tokio::time::pause();
    tokio::time::advance(IDLE - TIDY).await;
    origin.pool.tidy();
    assert_eq!(origin.kept(), 1);
    tokio::time::advance(TIDY).await;
    assert!(origin.pool.take().is_none(), "too old to be used");
}
