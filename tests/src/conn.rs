//! Connections that are kept: answers are read one after the other, and what follows one is left for the next.

use crate::PATIENCE;
use crate::raw::Reply;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A stream that can be bounded in time.
pub trait Stream: Read + Write + Send {
    /// Bounds each read and write.
    ///
    /// # Errors
    /// What the system says.
    fn bound(&self, limit: Duration) -> io::Result<()>;
    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// What the system says.
    fn finish(&self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn bound(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

impl Stream for UnixStream {
    fn bound(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

/// The head of an answer, and how its body ends.
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    chunked: bool,
    length: Option<u64>,
}

/// A connection of a client.
pub struct Conn {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Conn {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn open(address: SocketAddr) -> Self {
        Self::on(TcpStream::connect(address).expect("a connection"))
    }

    /// Takes a connection over.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn over(stream: TcpStream) -> Self {
        Self::on(stream)
    }

    /// Connects to a unix socket.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn open_unix(path: &Path) -> Self {
        Self::try_open_unix(path).expect("a connection")
    }

    /// [`Conn::open_unix`] where perhaps nobody listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_open_unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).map(Self::on)
    }

    fn on(stream: impl Stream + 'static) -> Self {
        stream.bound(PATIENCE).expect("a bounded stream");
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// Sends bytes. A gate that has seen enough may close before it has read everything, so errors are left to
    /// whoever reads the answer.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _closed_early = self.try_send(bytes.as_ref());
        self
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        let _closed_early = self.stream.finish();
    }

    /// Reads one whole answer.
    ///
    /// # Panics
    /// When the connection ends first.
    pub fn reply(&mut self) -> Reply {
        self.try_reply(false).expect("a whole answer")
    }

    /// Reads the answer to a HEAD request.
    ///
    /// # Panics
    /// When the connection ends first.
    pub fn reply_to_head(&mut self) -> Reply {
        self.try_reply(true).expect("an answer")
    }

    /// Reads one answer; an error when the connection ends before the answer does.
    ///
    /// # Errors
    /// As said.
    pub fn try_reply(&mut self, head_only: bool) -> io::Result<Reply> {
        let mut body = Vec::new();
        let head = self.stream_reply(head_only, &mut |piece| body.extend_from_slice(piece))?;
        Ok(Reply { body, ..head })
    }

    /// Reads one answer and hands its body over piece by piece; the reply itself has none.
    ///
    /// # Errors
    /// When the connection ends before the answer does.
    pub fn stream_reply(&mut self, head_only: bool, sink: &mut dyn FnMut(&[u8])) -> io::Result<Reply> {
        let head = loop {
            let head = self.head()?;
            // 100 Continue and the like come before the answer.
            if head.status >= 200 {
                break head;
            }
        };
        if !head_only && head.status != 204 && head.status != 304 {
            match head {
                Head { chunked: true, .. } => self.chunks(sink)?,
                Head { length: Some(length), .. } => self.exactly(length, sink)?,
                Head { length: None, .. } => self.rest(sink)?,
            }
        }
        Ok(Reply { status: head.status, headers: head.headers, body: Vec::new() })
    }

    /// Reads the head of an answer whose body has no end.
    ///
    /// # Errors
    /// When the connection ends first.
    pub fn head_of_reply(&mut self) -> io::Result<Reply> {
        let Head { status, headers, .. } = self.head()?;
        Ok(Reply { status, headers, body: Vec::new() })
    }

    /// Reads one chunk of its body.
    ///
    /// # Errors
    /// When the connection ends first.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut bytes = Vec::new();
        self.exactly(size, &mut |piece| bytes.extend_from_slice(piece))?;
        self.line()?;
        Ok(bytes)
    }

    /// Whether the other side has closed, without sending anything more. Waits for it.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().is_err_and(|e| closed(&e))
    }

    /// Whether the other side has ended what it sends, in order and without anything more. Waits for it.
    pub fn has_ended(&mut self) -> bool {
        self.buffer.is_empty() && self.fill().is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof)
    }

    fn head(&mut self) -> io::Result<Head> {
        let text = loop {
            if let Some(at) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.buffer.split_off(at + 4);
                break String::from_utf8_lossy(&std::mem::replace(&mut self.buffer, rest)).into_owned();
            }
            self.fill()?;
        };
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let value = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v);
        let chunked = value("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
        let length = value("content-length").and_then(|v| v.parse().ok());
        Ok(Head { status: status.ok_or(io::ErrorKind::InvalidData)?, headers, chunked, length })
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            len => {
                self.buffer.extend_from_slice(&piece[..len]);
                Ok(())
            }
        }
    }

    fn exactly(&mut self, length: u64, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            if self.buffer.is_empty() {
                self.fill()?;
            }
            let taken = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            sink(&self.buffer[..taken]);
            self.buffer.drain(..taken);
            left -= taken as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn chunks(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            self.exactly(size, sink)?;
            if !self.line()?.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }

    fn rest(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            sink(&self.buffer);
            self.buffer.clear();
            match self.fill() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

/// A close with unread bytes on the other side comes as a reset.
fn closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
