//! An agent that answers what it is told to.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;

/// What becomes of a request.
pub(super) enum Reply {
    /// A whole answer.
    Of(u16, &'static str),
    /// These pieces, then the end.
    Stream(&'static [&'static str]),
    /// These pieces, then the connection breaks.
    Broken(&'static [&'static str]),
    /// These pieces, and the connection stays.
    Open(&'static [&'static str]),
    /// The connection breaks before there is an answer.
    Nothing,
}

/// What was asked.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Method and target.
    pub(super) line: String,
    pub(super) content_type: String,
    pub(super) if_match: String,
    /// Its beginning.
    pub(super) body: Vec<u8>,
    pub(super) length: usize,
    pub(super) lines: usize,
    /// The body came to its end.
    pub(super) whole: bool,
}

impl Seen {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(super) struct Mock {
    folder: tempfile::TempDir,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
}

impl Mock {
    /// Answers one request after the other, each on a connection of its own.
    pub(super) fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let mock = Self { folder: tempfile::tempdir().unwrap(), seen: Arc::default() };
        let listener = UnixListener::bind(mock.socket()).unwrap();
        let mut replies: VecDeque<Reply> = replies.into_iter().collect();
        let seen = Arc::clone(&mock.seen);
        tokio::spawn(async move {
            while let Some(reply) = replies.pop_front() {
                let (stream, _) = listener.accept().await.unwrap();
                let reply = Mutex::new(Some(reply));
                let service = service_fn(|request| answer(request, reply.lock().unwrap().take(), &seen));
                // Broken connections are part of the game.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
        mock
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// A file beside the socket.
    pub(super) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Method and target of every request.
    pub(super) fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.line.clone()).collect()
    }
}

async fn answer(
    request: Request<Incoming>,
    reply: Option<Reply>,
    seen: &Mutex<Vec<Seen>>,
) -> io::Result<Response<Channel<Bytes, io::Error>>> {
    let field =
        |name: &str| request.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let mut this = Seen {
        line: format!("{} {}", request.method(), request.uri()),
        content_type: field("content-type"),
        if_match: field("if-match"),
        ..Seen::default()
    };
    let mut body = request.into_body();
    this.whole = loop {
        match body.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap();
                this.length += data.len();
                this.lines += data.iter().filter(|byte| **byte == b'\n').count();
                this.body.extend(data.iter().take(1024 - this.body.len().min(1024)));
            }
        }
    };
    seen.lock().unwrap().push(this);
    let (status, pieces, end): (u16, &[&'static str], _) = match &reply {
        Some(Reply::Of(status, body)) => (*status, &[*body][..], End::Whole),
        Some(Reply::Stream(pieces)) => (200, pieces, End::Whole),
        Some(Reply::Broken(pieces)) => (200, pieces, End::Broken),
        Some(Reply::Open(pieces)) => (200, pieces, End::Never),
        Some(Reply::Nothing) | None => return Err(io::Error::other("no answer")),
    };
    let (mut sender, body) = Channel::new(16);
    for piece in pieces {
        sender.send_data(Bytes::from_static(piece.as_bytes())).await.unwrap();
    }
    match end {
        End::Whole => drop(sender),
        End::Broken => {
            tokio::spawn(async move {
                // After the pieces are on their way: hyper would drop them otherwise.
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                sender.abort(io::Error::other("broken"));
            });
        }
        End::Never => {
            tokio::spawn(async move {
                let _sender = sender;
                std::future::pending::<Infallible>().await
            });
        }
    }
    Ok(Response::builder().status(status).body(body).unwrap())
}

enum End {
    Whole,
    Broken,
    Never,
}
