//! The PROXY header, versions 1 and 2, before the first byte of HTTP.

use crate::socket::Socket;
use ppp::{HeaderResult, PartialResult as _, v1, v2};
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt as _;

/// Longest header that is read: version 1 has at most 107 bytes, version 2 a fixed part, addresses and a few options.
const MAX_HEADER: usize = 2048;

/// Longest version 1 header.
const MAX_V1: usize = 107;

/// Fixed part of a version 2 header; its last two bytes are the length of what follows.
const V2_FIXED: usize = 16;

/// A PROXY header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Source and destination; `None` when the proxy speaks for itself (health checks) or about no IP connection.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Bytes after the header that were read along with it.
    pub rest: Vec<u8>,
}

/// Reads a header from the start of a connection.
///
/// # Errors
/// When the connection ends first, or begins with something else.
pub(crate) async fn read(socket: &mut Socket) -> io::Result<Header> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        if let Some(header) = parse(&bytes)? {
            return Ok(header);
        }
        if bytes.len() > MAX_HEADER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "PROXY header is too long"));
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The header at the start of `bytes`; `None` when more bytes are needed.
fn parse(bytes: &[u8]) -> io::Result<Option<Header>> {
    // Neither version can be told apart, let alone be complete, below the length of version 2's fixed part.
    if bytes.len() < V2_FIXED && may_begin(bytes) {
        return Ok(None);
    }
    // The parser takes a version 1 header that was cut within its last port for a bad one.
    if bytes.starts_with(b"PROXY ") && bytes.len() < MAX_V1 && !bytes.windows(2).any(|two| two == b"\r\n") {
        return Ok(None);
    }
    let result = HeaderResult::parse(bytes);
    if result.is_incomplete() {
        return Ok(None);
    }
    let invalid =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let (addresses, len) = match result {
        HeaderResult::V1(header) => {
            let header = header.map_err(|error| invalid(&error))?;
            (v1_addresses(&header.addresses), header.header.len())
        }
        HeaderResult::V2(header) => {
            let header = header.map_err(|error| invalid(&error))?;
            let addresses = match header.command {
                v2::Command::Local => None,
                v2::Command::Proxy => v2_addresses(&header.addresses),
            };
            (addresses, header.len())
        }
    };
    Ok(Some(Header { addresses, rest: bytes.get(len..).unwrap_or_default().to_vec() }))
}

fn may_begin(bytes: &[u8]) -> bool {
    let common = |prefix: &[u8]| prefix.iter().zip(bytes).all(|(a, b)| a == b);
    common(b"PROXY ") || common(v2::PROTOCOL_PREFIX)
}

fn v1_addresses(addresses: &v1::Addresses) -> Option<(SocketAddr, SocketAddr)> {
    match addresses {
        v1::Addresses::Tcp4(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
        v1::Addresses::Tcp6(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
        v1::Addresses::Unknown => None,
    }
}

fn v2_addresses(addresses: &v2::Addresses) -> Option<(SocketAddr, SocketAddr)> {
    match addresses {
        v2::Addresses::IPv4(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
        v2::Addresses::IPv6(a) => Some((
            (a.source_address, a.source_port).into(),
            (a.destination_address, a.destination_port).into(),
        )),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(source: &str, destination: &str) -> Option<(SocketAddr, SocketAddr)> {
        Some((source.parse().unwrap(), destination.parse().unwrap()))
    }

    fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([0x20 | command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn headers_in_pieces() {
        let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 443\r\n".to_vec();
        let v1_v6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 443\r\n".to_vec();
        let v2 = v2_header(1, 0x11, &[192, 0, 2, 1, 198, 51, 100, 2, 0x0f, 0xa0, 0x01, 0xbb]);
        // A version 2 header with an option behind the addresses.
        let mut body = vec![192, 0, 2, 1, 198, 51, 100, 2, 0x0f, 0xa0, 0x01, 0xbb];
        body.extend([0x04, 0, 2, 0, 0]);
        let v2_option = v2_header(1, 0x11, &body);
        for (header, expected) in [
            (v1, addresses("192.0.2.1:4000", "198.51.100.2:443")),
            (v1_v6, addresses("[2001:db8::1]:4000", "[2001:db8::2]:443")),
            (v2, addresses("192.0.2.1:4000", "198.51.100.2:443")),
            (v2_option, addresses("192.0.2.1:4000", "198.51.100.2:443")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2_header(0, 0x00, &[]), None),
        ] {
            for len in 0..header.len() {
                assert_eq!(parse(&header[..len]).unwrap(), None, "{len} bytes of {header:?}");
            }
            let mut stream = header.clone();
            stream.extend(b"GET / HTTP/1.1\r\n");
            let parsed = parse(&stream).unwrap().unwrap();
            assert_eq!(parsed, Header { addresses: expected, rest: b"GET / HTTP/1.1\r\n".to_vec() });
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.256 198.51.100.2 4000 443\r\n",
            b"PROXY TCP9 192.0.2.1 198.51.100.2 4000 443\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
