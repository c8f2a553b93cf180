//! A fleet: a real `nats-server`, agents that follow it, and both ways to talk to them.

use crate::binary::{Edgegate, Home, Owned, finish, free_address, path, wait_until_open};
use crate::require::capability;
use crate::{PATIENCE, wait_for};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A NATS server with a store of its own.
pub struct Nats {
    program: PathBuf,
    arguments: Vec<String>,
    folder: TempDir,
    address: SocketAddr,
    process: Option<Owned>,
}

impl Nats {
    /// Starts one on loopback, or says why the test is skipped.
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_with(free_address(), &[])
    }

    /// Starts one on an address, with more arguments.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(address: SocketAddr, arguments: &[&str]) -> Option<Self> {
        let program = capability("nats-server")?;
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut nats = Self { program, arguments, folder, address, process: None };
        nats.resume();
        Some(nats)
    }

    /// Starts it again, with what it has stored.
    ///
    /// # Panics
    /// When it does not start.
    pub fn resume(&mut self) {
        let store = self.folder.path().join("store");
        let mut command = Command::new(&self.program);
        command.args(["-a", &self.address.ip().to_string(), "-p", &self.address.port().to_string()]);
        command.arg("-js").arg("-sd").arg(store).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let log = std::fs::File::create(self.folder.path().join("log")).expect("a log");
        self.process = Some(Owned(command.stderr(log).spawn().expect("nats-server")));
        wait_until_open(self.reachable());
        // JetStream comes a little later than the port; what needs it tries again.
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it and forgets what it has stored.
    ///
    /// # Panics
    /// When the store cannot be removed.
    pub fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("store")).expect("the store removed");
    }

    fn reachable(&self) -> SocketAddr {
        if self.address.ip().is_unspecified() {
            SocketAddr::new([127, 0, 0, 1].into(), self.address.port())
        } else {
            self.address
        }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its URL on this host.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.reachable())
    }

    /// `edgegate fleet push` with words.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn try_push(&self, words: &[&str]) -> Output {
        let mut command = Command::new(path());
        command.args(["fleet", "push", "--nats", &self.url()]).args(words);
        finish(command)
    }

    /// Likewise; gives the revision.
    ///
    /// # Panics
    /// When it fails for as long as a server may take to start.
    pub fn push(&self, words: &[&str]) -> u64 {
        let mut said = String::new();
        wait_for_or("a push", &mut said, |said| {
            let output = self.try_push(words);
            *said = format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = text.lines().find_map(|line| line.strip_prefix("revision "))?;
            line.parse().ok()
        })
    }

    /// A connection that speaks the protocol itself.
    #[must_use]
    pub fn wire(&self) -> Wire {
        Wire::open(self.reachable())
    }
}

fn wait_for_or<T>(what: &str, said: &mut String, mut probe: impl FnMut(&mut String) -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe(said) {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited in vain for {what}: {said}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// A connection to a server without any library.
pub struct Wire {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Wire {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let reader = BufReader::new(stream.try_clone().expect("the same connection"));
        let mut wire = Self { stream, reader };
        wire.send(b"CONNECT {\"verbose\":false,\"headers\":true,\"no_responders\":true}\r\nSUB answer 1\r\n");
        wire
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server to listen");
    }

    /// Publishes, and gives what the server answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn request(&mut self, subject: &str, payload: &str) -> Value {
        let message = format!("PUB {subject} answer {}\r\n{payload}\r\n", payload.len());
        self.send(message.as_bytes());
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("an answer");
            assert!(!line.is_empty() && !line.starts_with("-ERR"), "{subject}: {line}");
            if line.starts_with("PING") {
                self.send(b"PONG\r\n");
            } else if line.starts_with("MSG ") {
                let len: usize =
                    line.split_whitespace().last().and_then(|len| len.parse().ok()).expect("a length");
                let mut body = vec![0; len + 2];
                self.reader.read_exact(&mut body).expect("a body");
                return serde_json::from_slice(&body[..len]).expect("JSON");
            }
        }
    }

    /// Puts a value, and gives its revision.
    ///
    /// # Panics
    /// When the server does not take it.
    pub fn put(&mut self, key: &str, value: &str) -> u64 {
        let answer = self.request(&format!("$KV.edgegate.edgegate.{key}"), value);
        answer["seq"].as_u64().unwrap_or_else(|| panic!("{key}: {answer}"))
    }
}

/// An agent of a fleet.
pub struct Host {
    pub name: String,
    /// Lines for the file, besides the usual ones.
    pub more: String,
    server: String,
    folder: TempDir,
    gate: Option<Edgegate>,
}

impl Host {
    /// A host that is not running yet. `fleet` has lines for its `[fleet]`.
    ///
    /// # Panics
    /// When there is no room for its folder.
    #[must_use]
    pub fn new(name: &str, url: &str, fleet: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = format!("nats = \"{url}\"\n{fleet}");
        Self { name: name.to_owned(), more: String::new(), server, folder, gate: None }
    }

    /// Its folder, with the control socket and the state.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts it, with the state that it had.
    pub fn start(&mut self) {
        let Self { name, more, server, .. } = self;
        let folder = self.folder.path().display();
        let config = format!(
            "state_dir = \"{folder}/state\"\n{more}\n[gateway]\nlisten = [\"127.0.0.1:0\"]\nupstream = \"http://127.0.0.1:1\"\n\
             [metrics]\nlisten = \"127.0.0.1:0\"\n[control]\nsocket = \"{folder}/control\"\n\
             [fleet]\nhost = \"{name}\"\n{server}\n"
        );
        self.gate = Some(Home::new().run(&config));
    }

    /// The running gate.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn gate(&self) -> &Edgegate {
        self.gate.as_ref().expect("a running host")
    }

    /// Ends it at once, whatever it does.
    pub fn kill(&mut self) {
        self.gate = None;
    }

    /// Asks its control socket.
    ///
    /// # Panics
    /// When there is no whole answer.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.folder.path().join("control")).expect("the control socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: c\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("it to listen");
        stream.write_all(body.as_bytes()).expect("it to listen");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        let text = String::from_utf8(bytes).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if chunked { unchunked(body) } else { body.to_owned() })
    }

    /// What it answers to GET.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// What it says of the fleet.
    #[must_use]
    pub fn fleet(&self) -> Value {
        self.get("/v1/status")["fleet"].take()
    }

    /// Waits until a revision is in force there.
    pub fn wait_for_revision(&self, revision: u64) {
        wait_for(&format!("revision {revision} on {}", self.name), || {
            (self.fleet()["applied_revision"].as_u64() >= Some(revision)).then_some(())
        });
    }

    /// Waits until it is connected, or whatever else.
    pub fn wait_for_state(&self, state: &str) {
        wait_for(&format!("{} to be {state}", self.name), || (self.fleet()["state"] == state).then_some(()));
    }

    /// The sessions of a day, with where they come from.
    #[must_use]
    pub fn sessions(&self, day: &str) -> Vec<(String, String)> {
        let (status, body) = self.ask("GET", &format!("/v1/blacklist/{day}"), "");
        assert_eq!(status, 200, "{body}");
        let line = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            (text("sid"), text("origin"))
        };
        body.lines().map(line).collect()
    }

    /// The names of the sessions of a day.
    #[must_use]
    pub fn sids(&self, day: &str) -> Vec<String> {
        self.sessions(day).into_iter().map(|(sid, _)| sid).collect()
    }

    /// Calls `each` with every line of its events, on a thread of its own.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn events(&self, mut each: impl FnMut(Value) + Send + 'static) {
        let mut stream = UnixStream::connect(self.folder.path().join("control")).expect("the control socket");
        stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: c\r\n\r\n").expect("it to listen");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("a head");
        }
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if line.starts_with('{') {
                    each(serde_json::from_str(&line).expect("JSON"));
                }
            }
        });
    }
}

/// Three hosts that follow a server.
#[must_use]
pub fn three(nats: &Nats) -> Vec<Host> {
    let mut hosts: Vec<Host> =
        ["edge-1", "edge-2", "edge-3"].iter().map(|name| Host::new(name, &nats.url(), "")).collect();
    hosts.iter_mut().for_each(Host::start);
    hosts
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
        if size == 0 {
            break;
        }
    }
    text
}
