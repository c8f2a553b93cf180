//! A network of its own for each test: a namespace, a veth pair from here to there, and addresses on both ends. All of it
//! goes with the test, however that ends.

use crate::require::missing;
use crate::wait_for;
use aya::maps::{Array, MapData};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramInfo, Xdp};
use aya::{Ebpf, EbpfLoader};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, id};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// A denied packet gets no answer in this time. The first retransmission comes after a second.
const SILENCE: Duration = Duration::from_millis(500);

/// The object that edgegate embeds. Without a configuration it passes every packet.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/prebuilt/edgegate.o");

/// The network of a test.
pub struct Net {
    number: u8,
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
        static LACK: OnceLock<Option<String>> = OnceLock::new();
        if let Some(lack) = LACK.get_or_init(lack) {
            missing("kernel", lack);
            return None;
        }
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < 32, "more networks than fit into the last byte of an address");
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
            net.address(&net.here(family), if family == 4 { 29 } else { 64 }, None);
            for end in [net.good(family), net.bad(family)] {
                net.address(&end, if family == 4 { 29 } else { 64 }, Some(namespace));
            }
        }
        ip(&format!("link set {interface} up"));
        ip(&format!("-n {namespace} link set {peer} up"));
        ip(&format!("-n {namespace} link set lo up"));
        // Neighbours are known, so that a denied address is asked for by nothing but the test.
        let (here, there) = (net.mac(None), net.mac(Some(namespace)));
        for family in [4, 6] {
            ip(&format!("-n {namespace} neigh replace {} lladdr {here} dev {peer}", net.here(family)));
            for end in [net.good(family), net.bad(family)] {
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

    fn end(&self, family: u8, end: u8) -> IpAddr {
        // Networks for measurements (RFC 2544) and unique local ones; by process, so that several can run.
        let process = id();
        let [.., high, low] = process.to_be_bytes();
        if family == 4 {
            Ipv4Addr::new(198, 18 + (high & 1), low, (self.number << 3) | end).into()
        } else {
            let process = u16::from_be_bytes([high, low]);
            Ipv6Addr::new(0xfd00, 0xe9e9, process, self.number.into(), 0, 0, 0, end.into()).into()
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
        let namespace = File::open(Path::new("/run/netns").join(&self.namespace)).expect("the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("into the namespace");
                run()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
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

    /// Connects from an address of the other side.
    ///
    /// # Errors
    /// When that fails, or nothing answers for half a second.
    pub fn connect(&self, from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.inside(|| {
            let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket(family, SocketType::STREAM, None)?;
            bind(&socket, &SocketAddr::new(from, 0))?;
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

    /// Puts a program of somebody else on the interface: with a link, for as long as the value lives, or as `ip` does
    /// it.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn foreign_program(&self, linked: bool) -> Foreign {
        let mut object = EbpfLoader::new().load(OBJECT).expect("the object");
        let program: &mut Xdp =
            object.program_mut(ebpf_abi::PROGRAM).expect("the program").try_into().expect("an XDP program");
        program.load().expect("a loaded program");
        if linked {
            program.attach(&self.interface, XdpMode::Skb).expect("an attached program");
        } else {
            let pin = format!("{}-foreign", self.pin_dir.display());
            program.pin(&pin).expect("a pinned program");
            ip(&format!("link set dev {} xdpdrv pinned {pin}", self.interface));
            fs::remove_file(pin).expect("the pin");
        }
        let id = program.info().as_ref().map(ProgramInfo::id).expect("its id");
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
