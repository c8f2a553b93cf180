//! What gateway, auth listener and reloads tell the kernel part about connections.

use super::*;
use crate::flows;
use crate::flows::tests::{Recorder, recorded_by};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ebpf_abi::{Flow, stage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use validator_core::{Day, Key, sign};

const NOW: u64 = 1_767_225_600;
const KEY: &[u8; 32] = b"a key that is exactly 32 bytes..";

/// An agent, its configuration, and what its kernel part was told.
struct Gate {
    running: Running,
    folder: tempfile::TempDir,
    kernel: Arc<Recorder>,
    metrics: Metrics,
}

/// An answer.
struct Reply {
    head: String,
    closed: bool,
}

impl Gate {
    fn start(trusted_proxies: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgegate.toml");
        std::fs::write(&path, config(trusted_proxies, "")).unwrap();
        let metrics = Metrics::new().unwrap();
        let snapshot = Snapshot::load(&path, NOW, &metrics).unwrap();
        let running = start(snapshot, Clock::fixed(NOW), metrics.clone()).unwrap();
        let kernel = recorded_by(&running.flows);
        Self { running, folder, kernel, metrics }
    }

    fn reload(&self, trusted_proxies: &str, blacklist: &str) {
        let path = self.folder.path().join("edgegate.toml");
        std::fs::write(&path, config(trusted_proxies, blacklist)).unwrap();
        self.running.reload().unwrap();
    }

    fn rejected(&self) -> Vec<(Flow, u32)> {
        std::mem::take(&mut *self.kernel.rejected.lock().unwrap())
    }
}

fn config(trusted_proxies: &str, blacklist: &str) -> String {
    let key = URL_SAFE_NO_PAD.encode(KEY);
    let today = Day::of(NOW);
    format!(
        "default = \"deny\"\n\
         [gateway]\nlisten = [\"127.0.0.1:0\"]\nupstream = \"http://127.0.0.1:1\"\ntrusted_proxies = [{trusted_proxies}]\n\
         [auth]\nlisten = [\"127.0.0.1:0\"]\n\
         [secrets.k]\nslots = [ {{ slot = 0, key = \"{key}\" }} ]\n\
         [blacklist]\nretain_days = 31\ndays = {{ {today} = \"{blacklist}\" }}\n\
         [[route]]\nname = \"all\"\nwhen = [ {{ variable = \"uri\", operator = \"starts_with\", value = \"/c/\" }} ]\ncheck = \"content-jwt\"\npath_validation = ['/(?<cid>[^/]+)/(?<stt>[^/]+)/.*']\n"
    )
}

fn target(session: &str) -> String {
    let payload = format!(
        "{{\"iat\":{},\"exp\":{},\"cid\":\"c\",\"stt\":\"hls\",\"sid\":\"{session}\"}}",
        NOW - 10,
        NOW + 1000
    );
    format!("/{}/c/hls/x", sign::content_jwt("k", &payload, &Key::new(KEY, false).unwrap()))
}

async fn ask(stream: &mut TcpStream, target: &str, fields: &str) -> Reply {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let len = stream.read(&mut piece).await.unwrap();
        got.extend_from_slice(&piece[..len]);
        let text = String::from_utf8_lossy(&got).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.unwrap().parse::<usize>().unwrap() {
                let closed = head.contains("\r\nconnection: close");
                return Reply { head, closed };
            }
        }
        assert!(len > 0, "{text}");
    }
}

#[tokio::test]
async fn connections_of_the_gateway() {
    let gate = Gate::start("");
    let address = gate.running.gateway()[0];
    let connect = || async { TcpStream::connect(address).await.unwrap() };
    let (mut one, mut two, mut ended) = (connect().await, connect().await, connect().await);
    let flow = |stream: &TcpStream| flows::tcp(stream.local_addr().unwrap(), address);
    for stream in [&mut one, &mut ended] {
        // Let through; nobody is upstream.
        assert!(ask(stream, &target("a"), "").await.head.starts_with("http/1.1 502"));
    }
    assert!(ask(&mut two, &target("b"), "").await.head.starts_with("http/1.1 502"));
    let ended_flow = flow(&ended);
    drop(ended);
    while gate.kernel.words.lock().unwrap().contains_key(&ended_flow) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    gate.reload("", "c");
    assert_eq!(gate.rejected(), []);
    gate.reload("", "a,c");
    assert_eq!(gate.rejected(), [(flow(&one), stage::CUT)]);
    let end = one.read(&mut [0]).await;
    assert!(end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset), "{end:?}");
    gate.reload("", "a,c");
    assert_eq!(gate.rejected(), [], "listed before");

    // Other refusals leave the connection alone.
    let reply = ask(&mut two, "/c/hls/x", "").await;
    assert!(reply.head.contains("token_missing") && !reply.closed, "{}", reply.head);
    assert_eq!(gate.rejected(), []);
    let reply = ask(&mut two, &target("a"), "").await;
    assert!(reply.head.starts_with("http/1.1 403") && reply.head.contains("session_blacklisted"));
    assert!(reply.closed, "{}", reply.head);
    assert_eq!(gate.rejected(), [(flow(&two), stage::NO_MORE_DATA)]);
    assert_eq!(two.read(&mut [0]).await.unwrap(), 0);
    let metrics = gate.metrics.render().unwrap();
    for line in [
        "edgegate_flows_rejected_total{cause=\"blacklisted\"} 1",
        "edgegate_flows_rejected_total{cause=\"denied\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

/// A connection of a trusted proxy carries many clients.
#[tokio::test]
async fn connections_of_trusted_proxies() {
    for trusted_later in [false, true] {
        let trusted = "\"127.0.0.1\"";
        let gate = Gate::start(if trusted_later { "" } else { trusted });
        let mut stream = TcpStream::connect(gate.running.gateway()[0]).await.unwrap();
        assert!(ask(&mut stream, &target("a"), "").await.head.starts_with("http/1.1 502"));
        gate.reload(trusted, "a");
        let reply = ask(&mut stream, &target("a"), "").await;
        assert!(reply.head.contains("session_blacklisted") && !reply.closed, "{}", reply.head);
        assert_eq!(gate.rejected(), []);
    }
}

#[tokio::test]
async fn connections_that_nginx_asks_about() {
    let gate = Gate::start("\"192.0.2.9\"");
    let mut nginx = TcpStream::connect(gate.running.auth()[0]).await.unwrap();
    let fields = |session: &str, ip: &str, rest: &str| {
        format!("X-Original-URI: {}\r\nX-Real-IP: {ip}\r\n{rest}", target(session))
    };
    let named =
        |port: u16| format!("X-Real-Port: {port}\r\nX-Server-Addr: 198.51.100.1\r\nX-Server-Port: 443\r\n");
    let flow = |port: u16| {
        flows::tcp(SocketAddr::from(([192, 0, 2, 1], port)), SocketAddr::from(([198, 51, 100, 1], 443)))
    };
    for (port, ip) in [(1000, "192.0.2.1"), (1001, "192.0.2.9")] {
        let reply = ask(&mut nginx, "/", &fields("a", ip, &named(port))).await;
        assert!(reply.head.starts_with("http/1.1 200"), "{}", reply.head);
    }
    // Not all of it is named, or by an asker that passes on what clients say.
    for rest in ["", "X-Real-Port: 1002\r\n", "X-Real-Port: 1002\r\nX-Server-Addr: 198.51.100.1\r\n"] {
        assert!(ask(&mut nginx, "/", &fields("a", "192.0.2.1", rest)).await.head.starts_with("http/1.1 200"));
    }
    let forward = |session: &str, port: u16| {
        let (target, named) = (target(session), named(port));
        format!("X-Forwarded-Uri: {target}\r\nX-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n{named}")
    };
    assert!(ask(&mut nginx, "/forward", &forward("a", 1003)).await.head.starts_with("http/1.1 200"));
    gate.reload("\"192.0.2.9\"", "a");
    assert_eq!(gate.rejected(), [(flow(1000), stage::CUT)]);

    // The asker's own connection stays.
    let reply = ask(&mut nginx, "/", &fields("a", "192.0.2.1", &named(1004))).await;
    assert!(reply.head.contains("session_blacklisted") && !reply.closed, "{}", reply.head);
    assert_eq!(gate.rejected(), [(flow(1004), stage::NO_MORE_DATA)]);
    for fields in [fields("a", "192.0.2.9", &named(1005)), fields("a", "192.0.2.1", "")] {
        assert!(ask(&mut nginx, "/", &fields).await.head.contains("session_blacklisted"));
    }
    assert!(ask(&mut nginx, "/forward", &forward("a", 1006)).await.head.contains("session_blacklisted"));
    assert_eq!(gate.rejected(), []);
}
