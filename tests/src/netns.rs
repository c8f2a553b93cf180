//! A network of its own for each test: a namespace, a veth pair from here to there, and addresses on both ends. All of it
//! goes with the test, however that ends.

use crate::require::missing;
use crate::wait_for;
use aya::maps::{Array, MapData};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader};
use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// A denied packet gets no answer in this time. The first retransmission comes after a second.
const SILENCE: Duration = Duration::from_millis(500);

/// The object that edgegate embeds. Without a configuration it passes every packet.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/prebuilt/edgegate.o");

/// Networks whose addresses differ.
const NUMBERS: u16 = 32;

/// The network of a test.
pub struct Net {
    number: u16,
    namespace: String,
    interface: String,
    peer: String,
    pin_dir: PathBuf,
}

/// What came of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// It was accepted.
    Accepted,
    /// There was an answer, but nobody listens.
    Refused,
    /// There was no answer.
    Silence,
}

impl Net {
    /// Makes a network, or says why the test is skipped.
    ///
    /// # Panics
    /// When the machine should be able to and is not.
    #[must_use]
    pub fn new() -> Option<Self> {
        if !is_able() {
            return None;
        }
        let number = next();
        let process = id();
        let net = Self {
            number,
            namespace: format!("edgegate-{process}-{number}"),
            interface: format!("eg{process}h{number}"),
            peer: format!("eg{process}p{number}"),
            pin_dir: format!("/sys/fs/bpf/edgegate-test-{process}-{number}").into(),
        };
        ip(&format!("netns add {}", net.namespace));
        net.make();
        Some(net)
    }

    /// Runs a test with a network of its own that is also apart from the machine's: nothing that other tests do shows in
    /// the counters and sockets of this side, either.
    ///
    /// # Panics
    /// When the test does, or the machine should be able to and is not.
    pub fn apart(test: impl FnOnce(&Self) + Send) {
        if !is_able() {
            return;
        }
        let apart = Namespace::new(format!("edgegate-{}-{}-apart", id(), next()));
        apart.inside(|| {
            ip("link set lo up");
            test(&Self::new().expect("a network, as it is able to"));
        });
    }

    /// The interface goes, and another comes with the same name and addresses.
    pub fn remake(&self) {
        ip(&format!("link del {}", self.interface));
        self.make();
    }

    fn make(&self) {
        let net = self;
        let Self { namespace, interface, peer, .. } = net;
        ip(&format!("link add {interface} type veth peer name {peer} netns {namespace}"));
        for family in [4, 6] {
            net.address(&net.here(family), prefix_len(family), None);
            for end in [net.good(family), net.bad(family), net.other(family)] {
                net.address(&end, prefix_len(family), Some(namespace));
            }
        }
        ip(&format!("link set {interface} up"));
        ip(&format!("-n {namespace} link set {peer} up"));
        ip(&format!("-n {namespace} link set lo up"));
        // Neighbours are known, so that a denied address is asked for by nothing but the test.
        let (here, there) = (net.mac(None), net.mac(Some(namespace)));
        for family in [4, 6] {
            ip(&format!("-n {namespace} neigh replace {} lladdr {here} dev {peer}", net.here(family)));
            for end in [net.good(family), net.bad(family), net.other(family)] {
                ip(&format!("neigh replace {end} lladdr {there} dev {interface}"));
            }
        }
    }

    /// Lets nothing more come from the other side, or lets it come again. What is sent there arrives.
    pub fn silence(&self, family: u8, silent: bool) {
        let verb = if silent { "add" } else { "del" };
        ip(&format!("-n {} -{family} route {verb} blackhole {}", self.namespace, self.here(family)));
    }

    /// The interface on this side.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// A folder for pins; it does not exist yet.
    #[must_use]
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// The address on this side, of family 4 or 6.
    #[must_use]
    pub fn here(&self, family: u8) -> IpAddr {
        self.end(family, 1)
    }

    /// An address on the other side.
    #[must_use]
    pub fn good(&self, family: u8) -> IpAddr {
        self.end(family, 2)
    }

    /// Another address on the other side.
    #[must_use]
    pub fn bad(&self, family: u8) -> IpAddr {
        self.end(family, 3)
    }

    /// A third address on the other side.
    #[must_use]
    pub fn other(&self, family: u8) -> IpAddr {
        self.end(family, 4)
    }

    fn end(&self, family: u8, end: u8) -> IpAddr {
        // Networks for measurements (RFC 2544) and unique local ones; by process, so that several can run. Each end is in
        // an IPv6 network (/64) of its own, as countries are told apart no further.
        let process = id();
        let [.., high, low] = process.to_be_bytes();
        let [_, number] = (((self.number % NUMBERS) << 3) | u16::from(end)).to_be_bytes();
        if family == 4 {
            Ipv4Addr::new(198, 18 + (high & 1), low, number).into()
        } else {
            let process = u16::from_be_bytes([high, low]);
            Ipv6Addr::new(0xfd00, 0xe9e9, process, number.into(), 0, 0, 0, 1).into()
        }
    }

    fn address(&self, address: &IpAddr, len: u8, namespace: Option<&str>) {
        let inside = namespace.map(|name| format!("-n {name} ")).unwrap_or_default();
        let device = if namespace.is_some() { &self.peer } else { &self.interface };
        let more = if address.is_ipv6() { " nodad" } else { "" };
        ip(&format!("{inside}addr add {address}/{len} dev {device}{more}"));
    }

    fn mac(&self, namespace: Option<&str>) -> String {
        let inside = namespace.map(|name| format!("-n {name} ")).unwrap_or_default();
        let device = if namespace.is_some() { &self.peer } else { &self.interface };
        let shown = ip(&format!("{inside}link show dev {device}"));
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).unwrap_or_else(|| panic!("no address in {shown}")).to_owned()
    }

    /// Runs something with the network of the other side.
    ///
    /// # Panics
    /// When that does, or the namespace is gone.
    pub fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespace, run)
    }

    /// Whether connections that the other side makes from now on have TCP's time stamps.
    ///
    /// # Panics
    /// When that cannot be set.
    pub fn time_stamps(&self, on: bool) {
        let value = if on { "1" } else { "0" };
        self.inside(|| {
            fs::write("/proc/sys/net/ipv4/tcp_timestamps", value).expect("a setting of the namespace")
        });
    }

    /// Meanwhile nothing that comes for an address of the other side reaches a socket there. What it sends gets through.
    pub fn deaf<T>(&self, address: IpAddr, meanwhile: impl FnOnce() -> T) -> T {
        let Self { namespace, peer, .. } = self;
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        let route = |verb: &str| {
            ip(&format!("{family} -n {namespace} route {verb} local {address} dev {peer} table local"));
        };
        route("del");
        let result = meanwhile();
        route("add");
        result
    }

    /// Sends datagrams from an address of the other side.
    ///
    /// # Panics
    /// When they cannot be sent.
    pub fn send(&self, from: IpAddr, to: SocketAddr, count: usize) {
        self.inside(|| {
            let socket = UdpSocket::bind((from, 0)).expect("a socket");
            for _ in 0..count {
                socket.send_to(b"!", to).expect("a datagram sent");
            }
        });
    }

    /// Runs a test while packets come from the bad addresses, all the time, to sockets that tell whether one came
    /// through.
    ///
    /// # Panics
    /// When one did, or the test does.
    pub fn under_fire(&self, test: impl FnOnce()) {
        struct Stop<'s>(&'s AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        for family in [4, 6] {
            let here = UdpSocket::bind((self.here(family), 0)).expect("a socket");
            // Through while nothing is denied, or the test would prove nothing.
            self.send(self.good(family), here.local_addr().expect("its address"), 1);
            here.set_read_timeout(Some(crate::PATIENCE)).expect("a bounded socket");
            here.recv(&mut [0; 8]).expect("a packet");
        }
        let targets = [4, 6].map(|family| UdpSocket::bind((self.here(family), 0)).expect("a socket"));
        let addresses = targets.each_ref().map(|socket| socket.local_addr().expect("its address"));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                self.inside(|| {
                    let sockets =
                        [4, 6].map(|family| UdpSocket::bind((self.bad(family), 0)).expect("a socket"));
                    while !stop.load(Ordering::Relaxed) {
                        for (socket, to) in sockets.iter().zip(addresses) {
                            socket.send_to(b"!", to).expect("a datagram sent");
                            sent.fetch_add(1, Ordering::Relaxed);
                        }
                        std::thread::sleep(Duration::from_micros(50));
                    }
                });
            });
            let _stop = Stop(&stop);
            test();
        });
        assert!(sent.load(Ordering::Relaxed) > 1000, "hardly any fire");
        for socket in targets {
            socket.set_nonblocking(true).expect("a socket");
            assert!(socket.recv(&mut [0; 8]).is_err(), "a packet from a denied address came through");
        }
    }

    /// Connects from an address of the other side.
    ///
    /// # Errors
    /// When that fails, or nothing answers for half a second.
    pub fn connect(&self, from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.connect_from(SocketAddr::new(from, 0), to)
    }

    /// Connects from an address and port of the other side, also if a connection from there has just ended.
    ///
    /// # Errors
    /// When that fails, or nothing answers for half a second.
    pub fn connect_from(&self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.inside(|| {
            let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            // Processes that other tests start must not keep it open.
            let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &from)?;
            set_socket_timeout(&socket, Timeout::Send, Some(SILENCE))?;
            connect(&socket, &to)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(crate::PATIENCE))?;
            Ok(stream)
        })
    }

    /// What comes of connecting from an address of the other side.
    ///
    /// # Panics
    /// When something else came of it.
    #[must_use]
    pub fn meet(&self, from: IpAddr, to: SocketAddr) -> Met {
        match self.connect(from, to) {
            Ok(_) => Met::Accepted,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Met::Refused,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                Met::Silence
            }
            Err(error) => panic!("{from} to {to}: {error}"),
        }
    }

    /// Ids of the XDP programs on the interface, as `ip` shows them.
    #[must_use]
    pub fn programs(&self) -> Vec<u32> {
        let shown = ip(&format!("-d link show dev {}", self.interface));
        let mut words = shown.split_whitespace();
        let mut found = Vec::new();
        while let Some(word) = words.next() {
            if word.starts_with("prog/xdp") {
                let id = words.by_ref().nth(1).and_then(|id| id.parse().ok());
                found.push(id.unwrap_or_else(|| panic!("no id in {shown}")));
            }
        }
        found
    }

    /// Puts a program that passes everything on the other end, for as long as the value lives. An interface of this kind
    /// takes frames that a program sends back to it only if it has a program itself.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn pass_on_peer(&self) -> XdpLink {
        // One for all: to load it takes longer than many a test.
        static PASS: OnceLock<Mutex<Ebpf>> = OnceLock::new();
        let mut object =
            PASS.get_or_init(|| Mutex::new(pass().0)).lock().unwrap_or_else(PoisonError::into_inner);
        let program = program(&mut object);
        let link = self.inside(|| program.attach(&self.peer, XdpMode::Driver).expect("an attached program"));
        program.take_link(link).expect("the link")
    }

    /// Puts a program of somebody else on the interface: with a link, for as long as the value lives, or as `ip` does
    /// it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn foreign_program(&self, linked: bool) -> Foreign {
        let (mut object, id) = pass();
        let program = program(&mut object);
        if linked {
            program.attach(&self.interface, XdpMode::Skb).expect("an attached program");
        } else {
            let pin = format!("{}-foreign", self.pin_dir.display());
            program.pin(&pin).expect("a pinned program");
            ip(&format!("link set dev {} xdpdrv pinned {pin}", self.interface));
            fs::remove_file(pin).expect("the pin");
        }
        Foreign { id, _object: object }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let Self { namespace, interface, pin_dir, .. } = self;
        for arguments in [["link", "del", interface], ["netns", "del", namespace]] {
            let _gone_already = Command::new("ip").args(arguments).output();
        }
        let _never_made = fs::remove_dir_all(pin_dir);
    }
}

/// A program of somebody else.
pub struct Foreign {
    pub id: u32,
    _object: Ebpf,
}

/// A loaded program that passes everything, and its id.
fn pass() -> (Ebpf, u32) {
    let mut object = EbpfLoader::new().load(OBJECT).expect("the object");
    let program = program(&mut object);
    program.load().expect("a loaded program");
    let id = program.info().as_ref().map(ProgramInfo::id).expect("its id");
    (object, id)
}

fn program(object: &mut Ebpf) -> &mut Xdp {
    object.program_mut(ebpf_abi::PROGRAM).expect("the program").try_into().expect("an XDP program")
}

/// A namespace, for as long as the value lives.
struct Namespace(String);

impl Namespace {
    fn new(name: String) -> Self {
        ip(&format!("netns add {name}"));
        Self(name)
    }

    fn inside<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        inside(&self.0, run)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone_already = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// Runs something in a namespace: it and the processes and threads that it starts have that network.
fn inside<T: Send>(namespace: &str, run: impl FnOnce() -> T + Send) -> T {
    let file = File::open(Path::new("/run/netns").join(namespace)).expect("the namespace");
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("into the namespace");
            run()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

const fn prefix_len(family: u8) -> u8 {
    if family == 4 { 29 } else { 61 }
}

/// A number that nothing else of this process has in the name of a namespace.
fn next() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether the machine is able to; if not, says that the test is skipped.
fn is_able() -> bool {
    static LACK: OnceLock<Option<String>> = OnceLock::new();
    match LACK.get_or_init(lack) {
        Some(lack) => missing("kernel", lack),
        None => return true,
    }
    false
}

/// Runs `ip`.
///
/// # Panics
/// When it fails.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until no program with this id is loaded.
pub fn wait_until_unloaded(program: u32) {
    wait_for("the program to be unloaded", || {
        let mut loaded = aya::programs::loaded_programs().filter_map(Result::ok);
        (!loaded.any(|other| other.id() == program)).then_some(())
    });
}

/// What the machine lacks for tests of the kernel part.
fn lack() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let name = format!("edgegate-{}-probe", id());
    for arguments in [["netns", "add", &name], ["netns", "del", &name]] {
        match Command::new("ip").args(arguments).output() {
            Err(error) => return Some(format!("ip: {error}")),
            Ok(output) if !output.status.success() => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Some(format!("ip {}: {said}", arguments.join(" ")));
            }
            Ok(_) => {}
        }
    }
    match Array::<MapData, u32>::create(1, 0) {
        Ok(_) => None,
        Err(error) => Some(format!("bpf: {error:?}")),
    }
}
