//! HTTP/1.1 spoken byte by byte.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// No answer takes this long on loopback.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a header, which must not occur twice.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "two {name} in {:?}", self.headers);
        value
    }
}

/// Sends bytes on a new connection and reads one answer.
#[must_use]
pub fn exchange(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
    // A gate that has seen enough may close before it has read everything.
    let _closed_early = stream.write_all(request);
    let head_only = request.starts_with(b"HEAD ");
    read_reply(&mut stream, head_only).expect("an answer")
}

/// Reads one answer from a connection that stays open; `None` when it was closed before the first byte.
pub fn read_reply(stream: &mut TcpStream, head_only: bool) -> Option<Reply> {
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => {
                assert!(bytes.is_empty(), "the answer ends in its head: {}", String::from_utf8_lossy(&bytes));
                return None;
            }
            Ok(len) => bytes.extend_from_slice(&piece[..len]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let value =
        |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
    let mut body = bytes.split_off(end);
    let chunked = value("transfer-encoding").is_some();
    let length = value("content-length").and_then(|v| v.parse::<usize>().ok());
    let complete = |body: &[u8]| match length {
        _ if head_only => true,
        Some(length) => body.len() >= length,
        None if chunked => body.ends_with(b"0\r\n\r\n"),
        None => false,
    };
    while !complete(&body) {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(len) => body.extend_from_slice(&piece[..len]),
        }
    }
    Some(Reply { status: status.expect("a status line"), headers, body })
}

/// An origin that answers every request with what it saw: the request line and headers as the body.
pub struct Echo {
    pub address: SocketAddr,
    _thread: JoinHandle<()>,
}

impl Echo {
    /// Starts on a loopback port that the system chooses. It ends with the test process.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("its address");
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
        Self { address, _thread: thread }
    }
}

fn echo(mut stream: TcpStream) {
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    loop {
        while let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            let head = std::mem::replace(&mut bytes, rest);
            let body = if head.starts_with(b"HEAD ") { &[][..] } else { &head[..] };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
            if stream.write_all(&[answer.as_bytes(), body].concat()).is_err() {
                return;
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(len) => bytes.extend_from_slice(&piece[..len]),
        }
    }
}
