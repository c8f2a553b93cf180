//! Servers behind the gate. They do what a test tells them, and remember what they saw.

use crate::conn::Stream;
use sha2::{Digest as _, Sha256};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What an origin was asked.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Method, target and version.
    pub line: String,
    pub headers: Vec<(String, String)>,
    /// Length and SHA-256 of the body; nothing of it is kept.
    pub length: u64,
    pub digest: String,
}

impl Seen {
    /// The request target.
    #[must_use]
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// Every value of a header.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Keep,
    Close,
}

type Answer = dyn Fn(&Seen, &mut dyn Write) -> io::Result<Then> + Send + Sync;

/// A server that answers by a function, each connection in a thread of its own. It ends with the test process.
pub struct Origin {
    /// Where it listens; no address for a unix socket.
    address: Option<SocketAddr>,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl Origin {
    /// Answers every request with 200 and the target as body.
    #[must_use]
    pub fn start() -> Self {
        Self::answering(|seen, to| answer(to, seen.target().as_bytes()))
    }

    /// Answers by `answer`, which writes a whole answer.
    ///
    /// # Panics
    /// When there is no port.
    pub fn answering(
        answer: impl Fn(&Seen, &mut dyn Write) -> io::Result<Then> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let incoming = move || listener.accept().map(|(stream, _)| Box::new(stream) as Box<dyn Stream>);
        Self::serve(Some(address), incoming, Arc::new(answer))
    }

    /// The same on a unix socket.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn on_socket(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let incoming = move || listener.accept().map(|(stream, _)| Box::new(stream) as Box<dyn Stream>);
        Self::serve(
            None,
            incoming,
            Arc::new(|seen: &Seen, to: &mut dyn Write| answer(to, seen.target().as_bytes())),
        )
    }

    fn serve(
        address: Option<SocketAddr>,
        accept: impl Fn() -> io::Result<Box<dyn Stream>> + Send + 'static,
        answer: Arc<Answer>,
    ) -> Self {
        let origin = Self { address, seen: Arc::default(), connections: Arc::default() };
        let (seen, connections) = (Arc::clone(&origin.seen), Arc::clone(&origin.connections));
        std::thread::spawn(move || {
            while let Ok(stream) = accept() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || serve_connection(stream, &seen, &*answer));
            }
        });
        origin
    }

    /// Where it listens.
    ///
    /// # Panics
    /// On a unix socket.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.expect("an address")
    }

    /// As an upstream of the configuration.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Every request so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last request.
    ///
    /// # Panics
    /// When there was none.
    #[must_use]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("a request")
    }

    /// How many connections were made to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Writes a 200 with a body.
///
/// # Errors
/// When the other side is gone.
pub fn answer(to: &mut dyn Write, body: &[u8]) -> io::Result<Then> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    to.write_all(&[head.as_bytes(), body].concat())?;
    Ok(Then::Keep)
}

fn serve_connection(mut stream: Box<dyn Stream>, seen: &Mutex<Vec<Seen>>, answer: &Answer) {
    let mut buffer = Vec::new();
    while let Ok(request) = read_request(&mut *stream, &mut buffer) {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let mut head_only = HeadOnly { inner: &mut *stream, done: false };
        let answered = if request.line.starts_with("HEAD ") {
            answer(&request, &mut head_only)
        } else {
            answer(&request, &mut stream)
        };
        if !matches!(answered, Ok(Then::Keep)) {
            return;
        }
    }
}

/// Leaves out the body of an answer.
struct HeadOnly<'s> {
    inner: &'s mut dyn Stream,
    done: bool,
}

impl Write for HeadOnly<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.done {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            self.done = end.is_some();
            self.inner.write_all(&bytes[..end.map_or(bytes.len(), |at| at + 4)])?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn read_request(stream: &mut dyn Stream, buffer: &mut Vec<u8>) -> io::Result<Seen> {
    let head = until(stream, buffer, b"\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut seen = Seen { line, headers, ..Seen::default() };
    let mut digest = Sha256::new();
    if seen.values("transfer-encoding").is_empty() {
        let length = seen.values("content-length").first().and_then(|v| v.parse().ok()).unwrap_or(0);
        seen.length = length;
        exactly(stream, buffer, length, &mut digest)?;
    } else {
        loop {
            let size = until(stream, buffer, b"\r\n")?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                while !until(stream, buffer, b"\r\n")?.trim().is_empty() {}
                break;
            }
            seen.length += size;
            exactly(stream, buffer, size, &mut digest)?;
            until(stream, buffer, b"\r\n")?;
        }
    }
    seen.digest = hex(&digest.finalize());
    Ok(seen)
}

fn fill(stream: &mut dyn Stream, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 16 * 1024];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        len => {
            buffer.extend_from_slice(&piece[..len]);
            Ok(())
        }
    }
}

fn until(stream: &mut dyn Stream, buffer: &mut Vec<u8>, end: &[u8]) -> io::Result<String> {
    loop {
        if let Some(at) = buffer.windows(end.len()).position(|window| window == end) {
            let rest = buffer.split_off(at + end.len());
            return Ok(String::from_utf8_lossy(&std::mem::replace(buffer, rest)).into_owned());
        }
        fill(stream, buffer)?;
    }
}

fn exactly(
    stream: &mut dyn Stream,
    buffer: &mut Vec<u8>,
    length: u64,
    digest: &mut Sha256,
) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        if buffer.is_empty() {
            fill(stream, buffer)?;
        }
        let taken = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        digest.update(&buffer[..taken]);
        buffer.drain(..taken);
        left -= taken as u64;
    }
    Ok(())
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
