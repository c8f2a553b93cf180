//! A gate whose kernel part watches sessions and countries, in the network of a test.

use crate::binary::{Edgegate, Home};
use crate::conn::Conn;
use crate::contract::{CLASSES_SECRET, KEY, KID, get, now, token_of};
use crate::netns::Net;
use crate::wait_for;
use agent::demo::geodb::{Place, city_database};
use aya::maps::{Array, Map, MapData};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ebpf_abi::{Flow, Outcome};
use serde_json::json;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::Duration;
use validator_core::Day;

/// Where the gate listens, and looks for sessions.
pub const PORT: u16 = 8080;

/// Another port where sessions are looked for; no gate listens there.
pub const OTHER_PORT: u16 = 8081;

/// A session that is blacklisted.
pub const ENDED: &str = "session896";

/// What needs a token in its path.
const SEGMENT: &str = "/Content/Channel/Channel7/HLS/stream_01/Segment-1.ts";

/// How long a client that gets no answer is watched.
pub const SILENCE: Duration = Duration::from_millis(500);

/// How to attach.
const MODES: [&str; 2] = ["native", "generic"];

/// Runs a test once for each way to attach.
pub fn in_both_modes(test: impl Fn(&Net, &'static str) + Sync) {
    for mode in MODES {
        Net::apart(|net| {
            // Without it nothing that the program sends back in native mode would arrive.
            let _peer = (mode == "native").then(|| net.pass_on_peer());
            test(net, mode);
        });
    }
}

/// Both families, with and without TCP's time stamps.
pub fn ways(net: &Net) -> impl Iterator<Item = (u8, String)> {
    [(4, true), (4, false), (6, true), (6, false)].into_iter().map(|(family, stamps)| {
        net.time_stamps(stamps);
        (family, format!("IPv{family}, time stamps: {stamps}"))
    })
}

/// Counters by how they have changed.
pub struct Since<'g> {
    gate: &'g Gate,
    counts: [u64; Outcome::ALL.len()],
    decisions: Vec<String>,
}

impl<'g> Since<'g> {
    #[must_use]
    pub fn now(gate: &'g Gate) -> Self {
        let counts = Outcome::ALL.map(|outcome| gate.count(outcome));
        Self { gate, counts, decisions: gate.decisions() }
    }

    /// Packets with an outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.gate.count(outcome) - self.counts[outcome as usize]
    }

    /// Waits until there were so many.
    pub fn wait_for(&self, outcome: Outcome, count: u64) {
        wait_for(&format!("{outcome:?}"), || (self.count(outcome) >= count).then_some(()));
    }

    /// Whether userspace has decided nothing.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.gate.decisions() == self.decisions
    }
}

/// A configuration for a network.
#[derive(Clone)]
pub struct Edge<'n> {
    pub net: &'n Net,
    pub upstream: String,
    pub mode: &'static str,
    /// Lines for `[gateway]`.
    pub gateway: String,
    /// Lines for `[prefilter]`.
    pub prefilter: String,
    /// Services of it.
    pub services: String,
    /// Lines for the route of [`target`].
    pub route: String,
    /// Sessions that are blacklisted today, comma-separated.
    pub blacklist: &'static str,
}

impl<'n> Edge<'n> {
    /// One that answers the session [`ENDED`] in the kernel.
    #[must_use]
    pub fn new(net: &'n Net, upstream: &str, mode: &'static str) -> Self {
        Self {
            net,
            upstream: upstream.to_owned(),
            mode,
            gateway: String::new(),
            prefilter: String::new(),
            services: String::new(),
            route: String::new(),
            blacklist: ENDED,
        }
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { net, upstream, mode, gateway, prefilter, services, route, blacklist } = self;
        let key = URL_SAFE_NO_PAD.encode(KEY);
        format!(
            r#"
[gateway]
listen = ["{}", "{}"]
upstream = "{upstream}"
{gateway}

[metrics]
listen = "127.0.0.1:0"

[geo]
city = "city.mmdb"

[secrets.{KID}]
slots = [ {{ slot = 0, key = "{key}" }} ]

[secure_token.classes]
secrets = ["{CLASSES_SECRET}"]

[blacklist]
days = {{ {} = "{blacklist}" }}

[prefilter]
interfaces = ["{}"]
mode = "{mode}"
pin_dir = "{}"
required = true
session_ports = [{PORT}, {OTHER_PORT}]
{prefilter}

{services}

[[route]]
name = "live"
when = [ {{ variable = "uri", operator = "starts_with", value = "/Content/" }} ]
check = "content-jwt"
path_validation = '/Content/Channel/(?<cid>[^/]+)/(?<stt>[^/]+)/.*'
{route}

[[route]]
name = "open"
when = [ {{ variable = "uri", operator = "exists" }} ]
check = "allow"
"#,
            at(net, 4),
            at(net, 6),
            Day::of(now()),
            net.interface(),
            net.pin_dir().display(),
        )
    }

    /// Starts the gate. Its geo database places the good addresses in France and the bad ones in the United States, unless
    /// `places` does otherwise.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn run_among(&self, places: &[Place]) -> Gate {
        let home = Home::new();
        home.write("city.mmdb", city_database(places, 1));
        Gate(home.run(&self.text()))
    }

    /// [`Edge::run_among`] with the usual places.
    #[must_use]
    pub fn run(&self) -> Gate {
        self.run_among(&places(self.net))
    }
}

/// The good addresses in France, the bad ones in the United States.
#[must_use]
pub fn places(net: &Net) -> Vec<Place> {
    [4, 6].iter().flat_map(|&family| [place(net.good(family), "FR"), place(net.bad(family), "US")]).collect()
}

/// A place of one address, or of its IPv6 network.
#[must_use]
pub fn place(address: IpAddr, country: &'static str) -> Place {
    let length = if address.is_ipv4() { 32 } else { 64 };
    let network = format!("{address}/{length}").parse().expect("a network");
    Place { network, country, city: None, asn: None }
}

/// Where the gate listens in a network.
#[must_use]
pub fn at(net: &Net, family: u8) -> SocketAddr {
    SocketAddr::new(net.here(family), PORT)
}

/// A good token of a session.
///
/// # Panics
/// Never.
#[must_use]
pub fn token(session: &str) -> String {
    let now = now();
    let claims =
        json!({ "iat": now - 10, "exp": now + 3600, "cid": "Channel7", "stt": "hls", "sid": session });
    token_of(claims.as_object().expect("an object"))
}

/// Content that needs a token, with one of a session.
#[must_use]
pub fn target(session: &str) -> String {
    format!("/{}{SEGMENT}", token(session))
}

/// A request of a session.
#[must_use]
pub fn request(session: &str) -> String {
    get(&target(session))
}

/// A running gate.
pub struct Gate(pub Edgegate);

impl Deref for Gate {
    type Target = Edgegate;

    fn deref(&self) -> &Edgegate {
        &self.0
    }
}

impl Gate {
    /// A metric; zero if it is not there yet.
    ///
    /// # Panics
    /// When metrics cannot be had.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        let page = String::from_utf8(self.metrics_page("/metrics").body).expect("text");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.unwrap_or(0)
    }

    /// Packets with an outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        let (verdict, reason) = outcome.labels();
        self.metric(&format!(r#"edgegate_kernel_packets_total{{reason="{reason}",verdict="{verdict}"}}"#))
    }

    /// Everything that userspace has counted of its decisions.
    ///
    /// # Panics
    /// When metrics cannot be had.
    #[must_use]
    pub fn decisions(&self) -> Vec<String> {
        let page = String::from_utf8(self.metrics_page("/metrics").body).expect("text");
        let kinds = ["edgegate_verdicts_total", "edgegate_decision_seconds_count"];
        page.lines().filter(|line| kinds.iter().any(|kind| line.starts_with(kind))).map(Into::into).collect()
    }

    /// Connections that were rejected for a cause.
    #[must_use]
    pub fn rejected(&self, cause: &str) -> u64 {
        self.metric(&format!("edgegate_flows_rejected_total{{cause=\"{cause}\"}}"))
    }

    /// Puts another configuration in force.
    ///
    /// # Panics
    /// When it is refused.
    pub fn put(&self, edge: &Edge<'_>) {
        let log = self.reload(&edge.text());
        assert!(log.contains("configuration reloaded"), "{log}");
    }
}

/// A client's connection.
pub struct Client {
    pub conn: Conn,
    /// The same connection, for what is not HTTP.
    pub stream: TcpStream,
    pub port: u16,
    flow: Flow,
}

impl Client {
    /// Connects to a port on this side of a network.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn open(net: &Net, from: SocketAddr, to: SocketAddr) -> Self {
        let stream = net.connect_from(from, to).unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
        // Each write is a segment of its own.
        stream.set_nodelay(true).expect("a stream");
        let from = stream.local_addr().expect("its address");
        let flow = Flow {
            source: mapped(from.ip()),
            destination: mapped(to.ip()),
            source_port: from.port(),
            destination_port: to.port(),
            protocol: 6,
            reserved: [0; 3],
        };
        let conn = Conn::over(stream.try_clone().expect("a stream"));
        Self { conn, stream, port: from.port(), flow }
    }

    /// Connects to the gate from the good address.
    #[must_use]
    pub fn new(net: &Net, family: u8) -> Self {
        Self::open(net, SocketAddr::new(net.good(family), 0), at(net, family))
    }

    /// Reads the kernel's whole answer, and that the connection ends after it in order.
    ///
    /// # Panics
    /// When it is another answer, or none.
    pub fn expect_refusal(&mut self) {
        let reply = self.conn.reply();
        assert_eq!((reply.status, &reply.body[..]), (403, &b"session_blacklisted\n"[..]), "{reply:?}");
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(self.conn.has_ended(), "no end in order");
    }

    /// Asks for something that is allowed.
    ///
    /// # Panics
    /// When it is not.
    pub fn expect_allowed(&mut self, session: &str) {
        let reply = self.conn.send(request(session)).reply();
        assert_eq!((reply.status, &reply.body[..]), (200, SEGMENT.as_bytes()), "{reply:?}");
    }

    /// Waits until everything was acknowledged that the client has sent.
    pub fn wait_until_sent(&self, net: &Net) {
        let port = self.port;
        net.inside(|| {
            wait_for_socket("the last byte to be acknowledged", |socket| {
                socket.local == port && socket.unacknowledged == 0
            });
        });
    }

    /// Waits until everything was acknowledged that the server has sent.
    pub fn wait_until_received(&self) {
        wait_until_received(self.port);
    }

    /// Waits until the server's side has no socket any more.
    pub fn wait_until_released(&self) {
        wait_for("the server's socket to go", || {
            let there = |socket: &Tcp| socket.remote == self.port && socket.state != TIME_WAIT;
            (!sockets().iter().any(there)).then_some(())
        });
    }

    /// Closes, and waits until the client's side has no socket any more: it was told that its end has come through.
    pub fn close(self, net: &Net) {
        let Self { conn, stream, port, .. } = self;
        drop((conn, stream));
        wait_until_over(net, port);
    }
}

/// Waits until the client's side has no socket of a port any more.
pub fn wait_until_over(net: &Net, port: u16) {
    net.inside(|| {
        wait_for("the client's socket to go", || {
            let there = |socket: &Tcp| socket.local == port && socket.state != TIME_WAIT;
            (!sockets().iter().any(there)).then_some(())
        });
    });
}

fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What the agent tells the kernel about connections that wait for a request.
pub struct Idle(Array<MapData, u64>);

impl Idle {
    /// Opens the map of the agent that runs in a network.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn open(net: &Net) -> Self {
        let path = net.pin_dir().join(format!("v{}/maps/{}", ebpf_abi::ABI_VERSION, ebpf_abi::map::IDLE));
        let map = Map::from_map_data(MapData::from_pin(path).expect("a pinned map")).expect("an array");
        Self(map.try_into().expect("an array"))
    }

    /// Waits until a connection waits for a request that is not its first, in another state than last time; gives what is
    /// said of it.
    pub fn wait(&self, client: &Client, last: u64) -> u64 {
        let hash = client.flow.hash();
        let unused = ebpf_abi::Idle::new(hash, 0, 0).0;
        wait_for("the connection to be idle", || {
            let word = self.0.get(&Flow::cell(hash), 0).ok()?;
            (word >> 32 == hash >> 32 && word != last && word != unused).then_some(word)
        })
    }
}

/// A state of [`Tcp`].
const TIME_WAIT: u8 = 6;

/// A TCP socket of the network that the calling thread is in.
#[derive(Debug)]
pub struct Tcp {
    pub local: u16,
    pub remote: u16,
    /// As in `/proc/net/tcp`.
    pub state: u8,
    /// Bytes that the other side has not acknowledged.
    pub unacknowledged: u64,
}

/// All of them.
///
/// # Panics
/// When the system does not say.
#[must_use]
pub fn sockets() -> Vec<Tcp> {
    let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("sockets");
    let text = read("tcp") + &read("tcp6");
    text.lines().filter_map(socket).collect()
}

fn socket(line: &str) -> Option<Tcp> {
    let mut words = line.split_whitespace().skip(1);
    let mut port = || u16::from_str_radix(words.next()?.rsplit(':').next()?, 16).ok();
    let (local, remote) = (port()?, port()?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let unacknowledged = u64::from_str_radix(words.next()?.split(':').next()?, 16).ok()?;
    Some(Tcp { local, remote, state, unacknowledged })
}

/// See [`Client::wait_until_received`].
pub fn wait_until_received(port: u16) {
    wait_for_socket("the last byte to be acknowledged", |socket| {
        socket.remote == port && socket.unacknowledged == 0
    });
}

fn wait_for_socket(what: &str, fits: impl Fn(&Tcp) -> bool) {
    wait_for(what, || sockets().iter().any(&fits).then_some(()));
}

/// A counter of TCP in the network that the calling thread is in, as `nstat` names it without the protocol:
/// `EstabResets`, `TCPChallengeACK`.
///
/// # Panics
/// When there is none of this name.
#[must_use]
pub fn counter(name: &str) -> u64 {
    let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).expect("counters");
    let text = read("snmp") + &read("netstat");
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.chunks(2).find_map(|pair| {
        let [names, values] = pair else { return None };
        let at = names.split(' ').position(|word| word == name)?;
        values.split(' ').nth(at)?.parse().ok()
    });
    found.unwrap_or_else(|| panic!("no {name}"))
}
