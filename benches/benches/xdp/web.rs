//! Answers to blacklisted sessions, by the program and by nginx: a network of two namespaces, the same nginx behind both
//! ports, one connection for each request, and clients that read every answer to its end.
//!
//! On one port nginx answers 403 by itself. On the other one, requests are searched for sessions, and nginx only ever sees
//! the connection: it is accepted, and then reset in place of the client's next packet. Processor time is that of the whole
//! machine, clients included, which do the same on both.
#![expect(clippy::expect_used, reason = "what cannot be set up cannot be measured")]

use crate::Scale;
use crate::frames;
use crate::kernel::{Kernel, TODAY, risen};
use aya::programs::xdp::XdpMode;
use benches::report::{Promise, Report};
use bytemuck::allocation::zeroed_box;
use ebpf_abi::{FLAG_RESPOND, FLAG_SESSIONS, Outcome, Reply, Session, Tables, set_bit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio, id};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// Where nginx answers by itself.
const BY_NGINX: u16 = 8081;
/// Where the program answers.
const BY_KERNEL: u16 = 8082;

const CLIENTS: usize = 8;

/// What nginx says where the program should have answered.
const LEFT_OVER: &str = "left to nginx";
const BODY: &str = "session_blacklisted\n";

const PATIENCE: Duration = Duration::from_secs(10);

/// The program of nginx, if there is one.
pub(crate) fn nginx() -> Option<&'static str> {
    ["nginx", "/usr/sbin/nginx"].into_iter().find(|program| {
        let mut command = Command::new(program);
        command.arg("-v").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// Why there can be no network of its own, or no answers in it, if so.
pub(crate) fn unfit() -> Option<String> {
    if agent::kernel::tcp_offsets().is_none() {
        return Some("it does not describe its sockets (no BTF)".to_owned());
    }
    let name = format!("edgegate-bench-{}-probe", id());
    ["add", "del"].into_iter().find_map(|verb| {
        match Command::new("ip").args(["netns", verb, &name]).output() {
            Err(error) => Some(format!("ip: {error}")),
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!("ip netns: {}", String::from_utf8_lossy(&output.stderr).trim())),
        }
    })
}

/// Two namespaces and what connects them. They go with the value, and what is in them goes with them.
struct Net {
    server: String,
    client: String,
    interface: String,
    peer: String,
}

impl Net {
    fn new() -> Self {
        let process = id();
        let net = Self {
            server: format!("edgegate-bench-{process}-server"),
            client: format!("edgegate-bench-{process}-client"),
            interface: format!("eb{process}s"),
            peer: format!("eb{process}c"),
        };
        let Self { server, client, interface, peer } = &net;
        ip(&format!("netns add {server}"));
        ip(&format!("netns add {client}"));
        ip(&format!("-n {server} link add {interface} type veth peer name {peer} netns {client}"));
        for (namespace, interface, address) in [(server, interface, SERVER), (client, peer, CLIENT)] {
            ip(&format!("-n {namespace} addr add {address}/24 dev {interface}"));
            ip(&format!("-n {namespace} link set {interface} up"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        // Thousands of connections a second need their ports.
        net.inside(client, || fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65000"))
            .expect("more ports");
        net
    }

    /// Runs something in a thread with the network of a namespace; its children have that network, too.
    fn inside<T: Send>(&self, namespace: &str, run: impl FnOnce() -> T + Send) -> T {
        scope(|scope| {
            let thread = scope.spawn(|| {
                enter(namespace);
                run()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.client, &self.server] {
            let _never_made = Command::new("ip").args(["netns", "del", namespace]).output();
        }
    }
}

/// Moves the thread into a namespace.
fn enter(namespace: &str) {
    let file = File::open(Path::new("/run/netns").join(namespace)).expect("the namespace");
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("into the namespace");
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// nginx on both ports, until it is dropped.
struct Nginx {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Nginx {
    fn start(net: &Net, program: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", path(name)))
            .collect();
        let server = |port: u16, body: &str| {
            format!(
                "server {{ listen {SERVER}:{port} backlog=4096;\n\
                 location / {{ default_type text/plain; return 403 \"{}\"; }} }}\n",
                body.replace('\n', "\\n")
            )
        };
        // One process in the foreground, so that its handle is all there is to end.
        let text = format!(
            "daemon off;\nmaster_process off;\nerror_log stderr crit;\npid {};\n\
             events {{ worker_connections 8192; multi_accept on; }}\n\
             http {{\n{temporary}access_log off;\nkeepalive_timeout 0;\n{}{}}}\n",
            path("nginx.pid"),
            server(BY_NGINX, BODY),
            server(BY_KERNEL, LEFT_OVER),
        );
        fs::write(path("nginx.conf"), text).expect("a configuration");
        let process = net.inside(&net.server, || {
            let mut command = Command::new(program);
            command.args(["-e", "stderr", "-p", &path(""), "-c", &path("nginx.conf")]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("nginx")
        });
        let mut nginx = Self { process, _folder: folder };
        let start = Instant::now();
        let answers = || net.inside(&net.client, || TcpStream::connect((SERVER, BY_KERNEL)).is_ok());
        while !answers() {
            assert!(nginx.process.try_wait().is_ok_and(|end| end.is_none()), "nginx has ended");
            assert!(start.elapsed() < PATIENCE, "nginx does not listen");
            sleep(Duration::from_millis(20));
        }
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _over_already = self.process.kill();
        let _over_already = self.process.wait();
    }
}

/// What the program answers, made up to whole words as the agent does.
fn reply() -> Reply {
    let (head, end) = (
        "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\ncache-control: no-store",
        "\r\n\r\n",
    );
    let close = format!("\r\ncontent-length: {}\r\nconnection: close", BODY.len());
    let mut text = format!("{head}{close}");
    while !(text.len() + end.len() + BODY.len()).is_multiple_of(8) {
        text.push(' ');
    }
    text += end;
    text += BODY;
    let mut reply: Reply = bytemuck::Zeroable::zeroed();
    reply.bytes[..text.len()].copy_from_slice(text.as_bytes());
    reply.length = u32::try_from(text.len()).unwrap_or(0);
    reply.sum =
        text.as_bytes().chunks_exact(2).map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]]))).sum();
    reply
}

/// The program at the server, with the session of the clients blacklisted.
fn filter(net: &Net) -> Kernel {
    let mut kernel = Kernel::load();
    let mut tables: Box<Tables> = zeroed_box();
    set_bit(&mut tables.session_ports, BY_KERNEL);
    tables.replies = [reply(); 2];
    kernel.tables(&tables);
    let listed: Vec<_> = frames::session_keys()
        .into_iter()
        .map(|key| (key, Session { last_day: TODAY, generation: 1 }))
        .collect();
    kernel.list(&listed);
    kernel.configure(FLAG_SESSIONS | FLAG_RESPOND);
    attach(net, &net.server, &net.interface, &mut kernel);
    kernel
}

fn attach(net: &Net, namespace: &str, interface: &str, kernel: &mut Kernel) {
    net.inside(namespace, || {
        kernel.program_mut().attach(interface, XdpMode::Driver).expect("the program attached");
    });
}

/// What came of a phase.
#[derive(Default, Clone, Copy)]
struct Phase {
    answers: u64,
    /// Of these, those that were left to nginx.
    left_over: u64,
    seconds: f64,
    /// Processor time of the whole machine.
    busy: f64,
}

impl Phase {
    fn rate(self) -> f64 {
        self.answers as f64 / self.seconds
    }

    /// Microseconds of processor time for each answer.
    fn cost(self) -> f64 {
        self.busy * 1e6 / self.answers as f64
    }
}

/// Has clients ask for a while, one connection for each request.
fn phase(net: &Net, port: u16, request: &[u8], lasting: Duration) -> Phase {
    let over = AtomicBool::new(false);
    let (mut phase, busy, start) = (Phase::default(), busy(), Instant::now());
    scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    enter(&net.client);
                    let mut counts = [0u64; 2];
                    while !over.load(Ordering::Relaxed) {
                        let left_over = ask(port, request).expect("an answer");
                        counts[usize::from(left_over)] += 1;
                    }
                    counts
                })
            })
            .collect();
        sleep(lasting);
        over.store(true, Ordering::Relaxed);
        for client in clients {
            let [answers, left_over] = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            phase.answers += answers + left_over;
            phase.left_over += left_over;
        }
    });
    phase.seconds = start.elapsed().as_secs_f64();
    phase.busy = self::busy() - busy;
    phase
}

/// One request and its answer. True: it was left to nginx.
fn ask(port: u16, request: &[u8]) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((SERVER, port)), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut answer = Vec::with_capacity(1024);
    stream.read_to_end(&mut answer)?;
    let left_over = answer.ends_with(LEFT_OVER.as_bytes());
    if answer.starts_with(b"HTTP/1.1 403 Forbidden\r\n") && (left_over || answer.ends_with(BODY.as_bytes())) {
        Ok(left_over)
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()))
    }
}

/// Seconds that all processors were busy since the start, interrupts included: that is where the program runs.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
    let mut numbers = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let mut number = || numbers.next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0);
    let (user, nice, system, _idle, _waiting, interrupts, soft) =
        (number(), number(), number(), number(), number(), number(), number());
    let ticks = rustix::param::clock_ticks_per_second();
    (user + nice + system + interrupts + soft) / ticks as f64
}

/// What is measured of answers.
pub(crate) fn measure(scale: &Scale, program: &str, report: &mut Report) {
    let net = Net::new();
    let kernel = filter(&net);
    // Without a configuration it passes everything. A program on the other end is what lets this end answer.
    let mut other_end = Kernel::load();
    attach(&net, &net.client, &net.peer, &mut other_end);
    let _nginx = Nginx::start(&net, program);
    let (request, _) = frames::request();

    let [mut rates, mut costs] = [const { [const { Vec::new() }; 2] }; 2];
    let mut shares = Vec::new();
    for round in 0..scale.rounds {
        let mut phases = [Phase::default(); 2];
        // Whoever comes second finds what the first one left.
        for index in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let before = kernel.counters();
            let phase = phase(&net, [BY_KERNEL, BY_NGINX][index], &request, scale.phase);
            let after = kernel.counters();
            let answered = risen(&before, &after, Outcome::RespondSession);
            let expected = if index == 0 { phase.answers - phase.left_over } else { 0 };
            assert_eq!(answered, expected, "{} answers, {} by nginx", phase.answers, phase.left_over);
            phases[index] = phase;
        }
        for (index, phase) in phases.into_iter().enumerate() {
            rates[index].push(phase.rate());
            costs[index].push(phase.cost());
        }
        shares.push(phases[0].left_over as f64 / phases[0].answers as f64 * 100.0);
    }
    let [by_kernel, by_nginx] = &rates;
    let promise = Promise::RatioAtLeast(1.5);
    report.pair("refused in the kernel", "/s", by_kernel, ("/s by nginx", by_nginx), promise);
    let [by_kernel, by_nginx] = &costs;
    let promise = Promise::RatioAtMost(1.0);
    report.pair("  processor time of the machine", "us", by_kernel, ("us by nginx", by_nginx), promise);
    report.single("  left to nginx, as the connection was busy", "%", &shares, Promise::None);
}
