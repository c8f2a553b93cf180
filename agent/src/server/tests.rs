use super::*;
use crate::config::Listen;
use crate::flows::tests::{Recorder, recorded};
use crate::workers::Workers;
use ebpf_abi::Flow;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Says whether the connection is followed.
struct Says {
    flows: Arc<Flows>,
    trusted_proxies: Arc<NetSet>,
    proxy_protocol: bool,
}

impl Handler for Says {
    const NAME: &'static str = "test";

    async fn handle(&self, _: Request<Incoming>, connection: &Connection, _: HeadFacts) -> Response<Body> {
        answer(http::StatusCode::OK, if connection.followed.is_some() { "direct" } else { "not direct" })
    }

    fn refused(&self, _: Refusal) {}

    fn limits(&self) -> Limits {
        let minute = Duration::from_secs(60);
        Limits {
            proxy_protocol: self.proxy_protocol.then(|| Arc::clone(&self.trusted_proxies)),
            direct: Some(Direct {
                flows: Arc::clone(&self.flows),
                trusted_proxies: Arc::clone(&self.trusted_proxies),
            }),
            ..Limits::plain(minute, minute)
        }
    }
}

/// A server that trusts these networks.
fn start(listen: &Listen, trusted: &[&str], proxy_protocol: bool) -> (Option<SocketAddr>, Arc<Recorder>) {
    let (flows, kernel) = recorded();
    let trusted_proxies = Arc::new(NetSet::new(trusted.iter().map(|net| net.parse().unwrap())));
    let listener = Listener::bind("test", listen).unwrap();
    let address = listener.address();
    let (shutdown, down) = watch::channel(false);
    tokio::spawn(async move {
        let places = Places::here(Arc::new(Says { flows, trusted_proxies, proxy_protocol }));
        serve(listener, places, Arc::new(Semaphore::new(10)), down, Duration::ZERO).await;
        drop(shutdown);
    });
    (address, kernel)
}

fn any_port() -> Listen {
    Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// Sends bytes and reads until the body has come.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &str) -> String {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut got = String::new();
    while !got.ends_with("direct\n") {
        let mut piece = [0; 1024];
        let len = stream.read(&mut piece).await.unwrap();
        assert!(len > 0, "{got}");
        got.push_str(std::str::from_utf8(&piece[..len]).unwrap());
    }
    got
}

/// Waits for what another task is about to do.
async fn wait(condition: impl Fn() -> bool) {
    for _ in 0..4000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(condition());
}

/// Answers with the name of its thread, but only when it may.
struct Waits {
    asked: Arc<Semaphore>,
    may: watch::Receiver<bool>,
}

impl Handler for Waits {
    const NAME: &'static str = "test";

    async fn handle(&self, _: Request<Incoming>, _: &Connection, _: HeadFacts) -> Response<Body> {
        self.asked.add_permits(1);
        self.may.clone().wait_for(|&may| may).await.unwrap();
        let mut response = answer(http::StatusCode::OK, "direct");
        let thread = std::thread::current().name().unwrap().to_owned();
        response.headers_mut().insert("thread", HeaderValue::try_from(thread).unwrap());
        response
    }

    fn refused(&self, _: Refusal) {}

    fn limits(&self) -> Limits {
        Limits::plain(Duration::from_secs(60), Duration::from_secs(60))
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn direct_clients() {
    let (address, kernel) = start(&any_port(), &["192.0.2.0/24"], true);
    let mut client = TcpStream::connect(address.unwrap()).await.unwrap();
    wait(|| kernel.word() == Some((0, 0))).await;
    let mut given = 0;
    for number in 1..4u64 {
        let got = exchange(&mut client, GET).await;
        assert!(got.ends_with("\r\n\r\ndirect\n"), "{got}");
        given += got.len() as u64;
        wait(|| kernel.word() == Some((number * GET.len() as u64, given))).await;
    }
    let flow: Flow = *kernel.words.lock().unwrap().keys().next().unwrap();
    assert_eq!(flow, flows::tcp(client.local_addr().unwrap(), address.unwrap()));
    drop(client);
    wait(|| kernel.word().is_none()).await;
}

#[tokio::test]
async fn everybody_else() {
    let (address, kernel) = start(&any_port(), &["127.0.0.0/8"], false);
    let mut client = TcpStream::connect(address.unwrap()).await.unwrap();
    assert!(exchange(&mut client, GET).await.ends_with("\nnot direct\n"));
    assert!(kernel.published.lock().unwrap().is_empty());

    for header in ["PROXY TCP4 192.0.2.1 198.51.100.2 4000 443\r\n", "PROXY UNKNOWN\r\n"] {
        let (address, kernel) = start(&any_port(), &["127.0.0.0/8"], true);
        let mut client = TcpStream::connect(address.unwrap()).await.unwrap();
        assert!(exchange(&mut client, &format!("{header}{GET}")).await.ends_with("\nnot direct\n"));
        assert!(kernel.published.lock().unwrap().is_empty());
    }

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (_, kernel) = start(&Listen::Unix(path.clone()), &[], false);
    let mut client = UnixStream::connect(path).await.unwrap();
    assert!(exchange(&mut client, GET).await.ends_with("\nnot direct\n"));
    assert!(kernel.published.lock().unwrap().is_empty());
}

/// Requests on every thread are answered before the end, and nobody else is.
#[tokio::test]
async fn all_threads_are_drained() {
    let workers = Workers::of(2).unwrap();
    let (let_go, may) = watch::channel(false);
    let asked = Arc::new(Semaphore::new(0));
    let places = workers.places(|| Waits { asked: Arc::clone(&asked), may: may.clone() });
    let listener = {
        let _accepting = workers.accepting().enter();
        Listener::bind("test", &any_port()).unwrap()
    };
    let address = listener.address().unwrap();
    let (shutdown, down) = watch::channel(false);
    let serving = serve(listener, places, Arc::new(Semaphore::new(10)), down, Duration::from_secs(60));
    let serving = workers.accepting().spawn(serving);

    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(GET.as_bytes()).await.unwrap();
        clients.push(client);
    }
    let all_asked = asked.acquire_many(4).await.unwrap();
    shutdown.send_replace(true);
    wait(|| std::net::TcpStream::connect(address).is_err()).await;
    assert!(!serving.is_finished());
    let_go.send_replace(true);
    let mut threads = std::collections::HashSet::new();
    for client in &mut clients {
        let mut got = String::new();
        client.read_to_string(&mut got).await.unwrap();
        threads.extend(got.lines().filter_map(|line| line.strip_prefix("thread: ")).map(str::to_owned));
    }
    assert_eq!(threads.len(), 2, "{threads:?}");
    serving.await.unwrap();
    drop(all_asked);
}
