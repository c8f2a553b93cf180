//! The real `edgegate`.

use crate::{PATIENCE, raw, wait_for};
use agent::demo::geodb::{PLACES, asn_database, city_database};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tempfile::TempDir;

/// The binary, built by cargo where and how the running test was built.
///
/// # Panics
/// When it does not build.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // A test runs as TARGET_DIR/PROFILE/deps/NAME.
        let test = std::env::current_exe().expect("the path of the test");
        let folder = test.ancestors().nth(2).expect("the folder of the profile");
        let name = folder.file_name().and_then(|name| name.to_str()).expect("the name of the profile");
        let profile = if name == "debug" { "dev" } else { name };
        escargot::CargoBuild::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/Cargo.toml"))
            // Of the whole workspace, so that dependencies have the features that they were built with for the test.
            .arg("--workspace")
            .bin("edgegate")
            .target_dir(folder.parent().expect("the target folder"))
            .arg("--profile")
            .arg(profile)
            .run()
            .unwrap_or_else(|error| panic!("edgegate does not build: {error}"))
            .path()
            .to_owned()
    })
}

/// A folder with geo databases and whatever else a configuration names.
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// A fresh folder with `city.mmdb` and `asn.mmdb`.
    ///
    /// # Panics
    /// When the disk is full, or the like.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it makes a folder")]
    pub fn new() -> Self {
        let home = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        home.write("city.mmdb", city_database(PLACES, 1));
        home.write("asn.mmdb", asn_database(PLACES, 1));
        home
    }

    /// The path of a file in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file as a whole: whoever reads it sees the old one or the new one.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let fresh = self.path("fresh");
        std::fs::write(&fresh, bytes).expect("a file");
        std::fs::rename(fresh, self.path(name)).expect("the file in its place");
    }

    /// Starts `edgegate run` and waits until it is ready. The configuration has to have `[metrics]`.
    #[must_use]
    pub fn run(self, config: &str) -> Edgegate {
        self.run_with(config, &[])
    }

    /// [`Home::run`] with environment variables.
    #[must_use]
    pub fn run_with(self, config: &str, env: &[(&str, &str)]) -> Edgegate {
        self.write("edgegate.toml", config);
        let mut command = self.command(&["run", "--config", "edgegate.toml"]);
        command.envs(env.iter().copied());
        self.start(command)
    }

    /// Starts a command of [`Home::command`] that runs the gate, and waits until it is ready.
    #[must_use]
    pub fn start(self, command: Command) -> Edgegate {
        Edgegate::start(self, command)
    }

    /// Starts the gate with the configuration that lies here already.
    #[must_use]
    pub fn start_again(self) -> Edgegate {
        let command = self.command(&["run", "--config", "edgegate.toml"]);
        self.start(command)
    }

    /// The command with arguments, in this folder.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(path());
        command.args(arguments).current_dir(self.folder.path()).env_remove("EDGEGATE_LOG");
        command.stdin(Stdio::null());
        command
    }

    /// Runs the command to its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    pub fn output(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments))
    }
}

/// Runs a command to its end, but not for ever.
///
/// # Panics
/// When it cannot be started, or does not end in time.
#[must_use]
pub fn finish(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = Owned(child.unwrap_or_else(|error| panic!("{command:?}: {error}")));
    let read = |mut from: Box<dyn Read + Send>| -> JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _read_what_there_is = from.read_to_end(&mut bytes);
            bytes
        })
    };
    let stdout = read(Box::new(child.0.stdout.take().expect("its output")));
    let stderr = read(Box::new(child.0.stderr.take().expect("its errors")));
    let status = child.wait();
    let joined = |thread: JoinHandle<Vec<u8>>| thread.join().expect("a reader");
    Output { status, stdout: joined(stdout), stderr: joined(stderr) }
}

/// A process that does not outlive its test, however that ends.
pub struct Owned(pub Child);

impl Owned {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not come.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the end of a process", || self.0.try_wait().expect("a process of ours"))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A running gate.
pub struct Edgegate {
    process: Owned,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    gateway: Vec<SocketAddr>,
    auth: Vec<SocketAddr>,
    metrics: SocketAddr,
    home: Home,
}

impl Edgegate {
    /// Starts a gate in a fresh folder; see [`Home::run`].
    #[must_use]
    pub fn run(config: &str) -> Self {
        Home::new().run(config)
    }

    fn start(home: Home, mut command: Command) -> Self {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("edgegate");
        let mut process = Owned(child);
        let stderr = BufReader::new(process.0.stderr.take().expect("its log"));
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let mut log = written.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&String::from_utf8_lossy(&line));
                log.push('\n');
            }
        });
        let text = || log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The metrics listener is the last to be announced.
        let metrics = wait_for("the gate to listen", || {
            let ended = process.0.try_wait().expect("a process of ours");
            assert!(ended.is_none(), "edgegate ended with {ended:?}:\n{}", text());
            addresses(&text(), "metrics").first().copied()
        });
        let (gateway, auth) = (addresses(&text(), "gateway"), addresses(&text(), "auth"));
        let gate = Self { process, log, reader: Some(reader), gateway, auth, metrics, home };
        wait_for("the gate to be ready", || (gate.metrics_page("/readyz").status == 200).then_some(()));
        gate
    }

    /// The first address of the gateway.
    #[must_use]
    pub fn gateway(&self) -> SocketAddr {
        *self.gateway.first().expect("a gateway")
    }

    /// All addresses of the gateway.
    #[must_use]
    pub fn gateways(&self) -> &[SocketAddr] {
        &self.gateway
    }

    /// The first address of the auth listener.
    #[must_use]
    pub fn auth(&self) -> SocketAddr {
        *self.auth.first().expect("an auth listener")
    }

    /// A page of the metrics listener.
    #[must_use]
    pub fn metrics_page(&self, path: &str) -> raw::Reply {
        let request = format!("GET {path} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n");
        raw::exchange(self.metrics, request.as_bytes())
    }

    /// Everything it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the log has a text after its first `from` bytes; returns what it has there.
    #[must_use]
    pub fn wait_for_log(&self, from: usize, text: &str) -> String {
        wait_for(&format!("{text:?} in the log"), || {
            let log = self.log();
            log[from..].contains(text).then(|| log[from..].to_owned())
        })
    }

    /// The folder it runs in.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The most memory it had in use, in bytes.
    ///
    /// # Panics
    /// When the system does not say.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.memory_by("VmHWM:")
    }

    /// How much memory it has, in bytes.
    ///
    /// # Panics
    /// When the system does not say.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory_by("VmRSS:")
    }

    fn memory_by(&self, name: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a size of memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.0.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a running gate");
    }

    /// Puts a new configuration in its file, sends SIGHUP, and returns what the log says of it.
    #[must_use]
    pub fn reload(&self, config: &str) -> String {
        let from = self.log().len();
        self.home.write("edgegate.toml", config);
        self.signal(Signal::HUP);
        wait_for("the reload to be logged", || {
            let log = self.log()[from..].to_owned();
            (log.contains("configuration reloaded") || log.contains("reload refused")).then_some(log)
        })
    }

    /// Waits for its end; returns how it ended and the whole log.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn wait(mut self) -> (ExitStatus, String) {
        let status = self.process.wait();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of the log");
        }
        (status, self.log())
    }

    /// Ends it by a signal, and starts it again in the same folder, with whatever configuration lies there.
    #[must_use]
    pub fn restart(self, signal: Signal) -> Self {
        self.end(signal).start_again()
    }

    /// Ends it by a signal; gives the folder, in which it may be started again.
    #[must_use]
    pub fn end(self, signal: Signal) -> Home {
        self.signal(signal);
        let Self { mut process, home, .. } = self;
        let _ended = process.wait();
        home
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Whether the process is still there.
    ///
    /// # Panics
    /// Never in practice.
    pub fn is_running(&mut self) -> bool {
        self.process.0.try_wait().expect("a process of ours").is_none()
    }
}

/// Addresses of a listener by the log, in text or JSON.
fn addresses(log: &str, listener: &str) -> Vec<SocketAddr> {
    let named = [format!("listener=\"{listener}\""), format!("\"listener\":\"{listener}\"")];
    log.lines()
        .filter(|line| line.contains("listening") && named.iter().any(|name| line.contains(name)))
        .filter_map(|line| line.split(['"', '=', ' ']).find_map(|word| word.parse().ok()))
        .collect()
}

/// An address that nobody listens on.
///
/// # Panics
/// When the system has no port left.
#[must_use]
pub fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    listener.local_addr().expect("its address")
}

/// Waits until something accepts connections.
pub fn wait_until_open(address: SocketAddr) {
    wait_for(&format!("{address} to open"), || std::net::TcpStream::connect(address).ok());
}

/// An instant after which a test gives up.
#[must_use]
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}
