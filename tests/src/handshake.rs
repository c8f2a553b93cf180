//! Real connections whose sequence numbers are known: read from the handshake as a packet socket sees it.

use crate::PATIENCE;
use crate::deferred::defer;
use crate::frames::{ACK, SYN, Segment};
use crate::require::missing;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// A packet socket that has all packets of the network that this thread is in.
struct Sniffer(OwnedFd);

impl Sniffer {
    /// Opens one, where that is allowed; what is sent from now on is seen.
    fn open() -> Option<Self> {
        // ETH_P_ALL in network byte order.
        let all = Protocol::from_raw(std::num::NonZeroU32::new(u32::from(3_u16.to_be())).expect("not zero"));
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, Some(all));
        if let Err(error) = &socket {
            missing("kernel", &format!("a packet socket: {error}"));
        }
        let socket = socket.ok()?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).expect("a time limit");
        Some(Self(socket))
    }

    /// The sequence number and the acknowledged one of the second packet of a handshake.
    fn second_packet(&self, server: SocketAddr, client: SocketAddr) -> (u32, u32) {
        let ports = [server.port(), client.port()].map(u16::to_be_bytes).concat();
        let header = if server.is_ipv4() { 20 } else { 40 };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut buffer = [0; 256];
            let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty()).expect("a packet");
            let Some(tcp) = buffer[..length].get(14 + header..) else { continue };
            if tcp.len() >= 20 && tcp[..4] == ports && tcp[13] & 0x3f == SYN | ACK {
                let number = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
                return (number(4), number(8));
            }
        }
        panic!("no handshake between {client} and {server}")
    }
}

/// An established connection.
pub struct Connection {
    pub client: TcpStream,
    pub server: TcpStream,
    /// What the client would send next, without data.
    pub next: Segment,
}

impl Connection {
    /// A connection of this machine with itself, over IPv4 or IPv6.
    #[must_use]
    pub fn local(ip: &str) -> Option<Self> {
        let ip: IpAddr = ip.parse().expect("an address");
        Self::new(ip, |server| TcpStream::connect(server).expect("a connection"))
    }

    /// A connection to an address of this machine, however it is made. `None`: the test is skipped.
    #[must_use]
    pub fn new(ip: IpAddr, connect: impl FnOnce(SocketAddr) -> TcpStream) -> Option<Self> {
        let sniffer = Sniffer::open()?;
        let listener = TcpListener::bind((ip, 0)).expect("a listener");
        let client = connect(listener.local_addr().expect("its address"));
        let (server, peer) = listener.accept().expect("the connection");
        let here = server.local_addr().expect("its address");
        let (sequence, acknowledged) = sniffer.second_packet(here, peer);
        let mut next = Segment::new(peer, here, b"");
        next.sequence = acknowledged;
        next.acknowledged = sequence.wrapping_add(1);
        Some(Self { client, server, next })
    }

    /// The port that the client connected to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.next.destination.port()
    }

    /// The client's next segment, with data.
    #[must_use]
    pub fn request(&self, data: &[u8]) -> Segment {
        Segment { data: data.to_vec(), ..self.next.clone() }
    }
}

/// A connection that its client takes for established, and whose server waits for the end of the handshake.
pub struct Pending {
    pub client: TcpStream,
    pub listener: TcpListener,
    /// What the client would send next, without data.
    pub next: Segment,
}

impl Pending {
    /// One of this machine with itself. `None`: the test is skipped.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn local(ip: &str) -> Option<Self> {
        let ip: IpAddr = ip.parse().expect("an address");
        let sniffer = Sniffer::open()?;
        let listener = TcpListener::bind((ip, 0)).expect("a listener");
        defer(&listener);
        let here = listener.local_addr().expect("its address");
        let client = TcpStream::connect(here).expect("a connection");
        let peer = client.local_addr().expect("its address");
        let (sequence, acknowledged) = sniffer.second_packet(here, peer);
        let mut next = Segment::new(peer, here, b"");
        next.sequence = acknowledged;
        next.acknowledged = sequence.wrapping_add(1);
        Some(Self { client, listener, next })
    }
}
