//! From the first look at a configuration to the last request under way: starting, reloading, stopping.

use rustix::process::Signal;
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::mpsc;
use tests::binary::{Edgegate, Home};
use tests::conn::Conn;
use tests::contract::{Config, SEGMENT, get, token};
use tests::origin::{Origin, Then};
use tests::wait_for;

const NOBODY: &str = "http://127.0.0.1:1";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn status(gate: &Edgegate, target: &str) -> u16 {
    Conn::open(gate.gateway()).send(get(target)).reply().status
}

/// A download that is under way when the gate is told to end is delivered whole; nobody new is let in.
#[test]
fn sigterm_drains() {
    const PIECE: usize = 100_000;
    let (go_on, told) = mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let origin = Origin::answering(move |_, to| {
        to.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * PIECE).as_bytes())?;
        to.write_all(&vec![b'a'; PIECE])?;
        to.flush()?;
        let _test_has_failed = told.lock().unwrap().recv();
        to.write_all(&vec![b'b'; PIECE])?;
        Ok(Then::Keep)
    });
    let gate = Edgegate::run(&Config::new(&origin.url()).text());
    let address = gate.gateway();
    let mut idle = Conn::open(address);
    assert_eq!(idle.send(get("/admin")).reply().status, 403);
    let mut download = Conn::open(address);
    download.send(get("/open/film"));
    let (begun, first_piece) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut got, mut said) = (Vec::new(), false);
        let reply = download.stream_reply(false, &mut |piece| {
            got.extend_from_slice(piece);
            if !said && !got.is_empty() {
                said = true;
                begun.send(()).unwrap();
            }
        });
        (reply.unwrap(), got, download)
    });
    first_piece.recv_timeout(tests::PATIENCE).unwrap();

    gate.signal(Signal::TERM);
    wait_for("new connections to be refused", || TcpStream::connect(address).err());
    assert!(idle.is_closed(), "an idle connection is not kept");
    go_on.send(()).unwrap();
    let (reply, got, mut download) = reader.join().unwrap();
    assert_eq!((reply.status, got.len()), (200, 2 * PIECE));
    assert!(got[..PIECE].iter().all(|&b| b == b'a') && got[PIECE..].iter().all(|&b| b == b'b'));
    assert!(download.is_closed(), "the connection is not kept after its last answer");
    let (status, log) = gate.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// What does not end in time is cut off; the process ends all the same.
#[test]
fn draining_is_bounded() {
    let origin = Origin::answering(|_, to| {
        to.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")?;
        std::thread::sleep(10 * tests::PATIENCE);
        Ok(Then::Close)
    });
    let config = Config { gateway: "drain_timeout = 1".into(), ..Config::new(&origin.url()) };
    let gate = Edgegate::run(&config.text());
    let mut conn = Conn::open(gate.gateway());
    conn.send(get("/open/x"));
    wait_for("the request upstream", || origin.seen().pop());
    gate.signal(Signal::TERM);
    let (status, log) = gate.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drain_timeout"), "{log}");
    assert!(conn.try_reply(false).is_err(), "half an answer was passed off as a whole one");
}

#[test]
fn sighup_swaps() {
    let origin = Origin::start();
    let mut config = Config::new(&origin.url());
    let gate = Edgegate::run(&config.text());
    let target = format!("/{}{SEGMENT}", token());
    let mut kept = Conn::open(gate.gateway());
    assert_eq!(kept.send(get(&target)).reply().status, 200);
    config.blacklist = "other,session1".into();
    let log = gate.reload(&config.text());
    assert!(log.contains("configuration reloaded"), "{log}");
    // On a connection from before too.
    let reply = kept.send(get(&target)).reply();
    assert_eq!((reply.status, reply.header("x-edgegate-reason")), (403, Some("session_blacklisted")));
    assert_eq!(status(&gate, &target), 403);
    config.blacklist = "other".into();
    let _log = gate.reload(&config.text());
    assert_eq!(status(&gate, &target), 200);
    assert!(kept.is_closed(), "the connection of a blacklisted session is not kept");
}

/// Under steady load, reloads cost no request and no request sees anything but one configuration or the other.
#[test]
fn sighup_under_load() {
    let origin = Origin::start();
    let mut config = Config::new(&origin.url());
    let gate = Edgegate::run(&config.text());
    let target = format!("/{}{SEGMENT}", token());
    let done = std::sync::atomic::AtomicBool::new(false);
    let address = gate.gateway();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut conn = Conn::open(address);
                    let (mut allowed, mut denied) = (0, 0);
                    while !done.load(std::sync::atomic::Ordering::SeqCst) {
                        match conn.send(get(&target)).reply().status {
                            200 => allowed += 1,
                            403 => {
                                denied += 1;
                                conn = Conn::open(address);
                            }
                            other => return Err(other),
                        }
                    }
                    Ok((allowed, denied))
                })
            })
            .collect();
        for round in 0..6 {
            let before = origin.seen().len();
            if round % 2 == 0 {
                wait_for("requests that are let through", || {
                    (origin.seen().len() > before + 20).then_some(())
                });
            }
            config.blacklist = if round % 2 == 0 { "session1".into() } else { "other".into() };
            let log = gate.reload(&config.text());
            assert!(log.contains("configuration reloaded"), "{log}");
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        for client in clients {
            let (allowed, _denied) = client.join().unwrap().unwrap();
            assert!(allowed > 0);
        }
    });
}

/// A reload that cannot be carried out says why and where, and changes nothing.
#[test]
fn sighup_with_a_bad_file() {
    let origin = Origin::start();
    let config = Config::new(&origin.url());
    let gate = Edgegate::run(&config.text());
    let target = format!("/{}{SEGMENT}", token());
    let text = config.text();

    let typo = text.replace("max_lifetime", "max_lifetme").replace("check = \"allow\"", "check = \"maybe\"");
    let line_of = |text: &str, needle: &str| {
        let at = text.find(needle).unwrap();
        text[..at].lines().count() + usize::from(text[..at].ends_with('\n'))
    };
    let log = gate.reload(&typo);
    assert!(log.contains("reload refused"), "{log}");
    for (needle, said) in [("max_lifetme", "max_lifetime"), ("maybe", "check")] {
        let place = format!("edgegate.toml:{}:", line_of(&typo, needle));
        assert!(
            log.lines().any(|line| line.contains(&place) && line.contains(said)),
            "{needle}: {place}: {log}"
        );
    }
    assert_eq!(status(&gate, &target), 200);

    // What only a restart can change.
    let log = gate.reload(&text.replace("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:1\""));
    assert!(log.contains("reload refused") && log.contains("metrics.listen"), "{log}");
    assert_eq!(status(&gate, &target), 200);

    // A database that is damaged on disk; the open one goes on.
    let whole = std::fs::read(gate.home().path("city.mmdb")).unwrap();
    gate.home().write("city.mmdb", &whole[..whole.len() / 2]);
    let log = gate.reload(&text);
    assert!(log.contains("reload refused") && log.contains("city.mmdb"), "{log}");
    assert_eq!(status(&gate, &target), 200, "the token is bound to a country and a city");

    std::fs::remove_file(gate.home().path("edgegate.toml")).unwrap();
    let from = gate.log().len();
    gate.signal(Signal::HUP);
    let log = gate.wait_for_log(from, "reload refused");
    assert!(log.contains("edgegate.toml"), "{log}");
    assert_eq!(status(&gate, &target), 200);

    let metrics = String::from_utf8(gate.metrics_page("/metrics").body).unwrap();
    assert!(metrics.contains("edgegate_reload_failures_total 4"), "{metrics}");
    gate.home().write("city.mmdb", &whole);
    let log = gate.reload(&text);
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(status(&gate, &target), 200);
}

/// A start that fails says what is wrong, and leaves nothing bound meanwhile or behind.
#[test]
fn a_damaged_database_at_the_start() {
    let home = Home::new();
    let whole = std::fs::read(home.path("city.mmdb")).unwrap();
    let mut flipped = whole.clone();
    flipped.iter_mut().take(200).for_each(|byte| *byte = 0xff);
    let socket = home.path("gate.sock");
    let mut config = Config::new(NOBODY);
    config.listen = format!("listen = [\"unix:{}\"]", socket.display());
    home.write("edgegate.toml", config.text());
    for (what, bytes) in [
        ("cut off", &whole[..whole.len() / 2]),
        ("empty", &[][..]),
        ("not one", b"<html>"),
        ("damaged", &flipped),
    ] {
        home.write("city.mmdb", bytes);
        for command in [&["run", "--config", "edgegate.toml"][..], &["config", "check", "edgegate.toml"]] {
            let output = home.output(command);
            assert_eq!(output.status.code(), Some(2), "{what}: {command:?} {}", stderr(&output));
            let said = stderr(&output);
            assert!(said.contains("geo.city") && said.contains("city.mmdb"), "{what}: {said}");
            assert!(!socket.exists(), "{what}: a socket was left");
        }
    }
    // The wrong kind.
    home.write("city.mmdb", std::fs::read(home.path("asn.mmdb")).unwrap());
    let output = home.output(&["run", "--config", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("ASN") && stderr(&output).contains("City"), "{}", stderr(&output));
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let home = Home::new();
    let mut config = Config::new(NOBODY);
    config.listen = format!("listen = [\"unix:{}\", \"{address}\"]", home.path("gate.sock").display());
    home.write("edgegate.toml", config.text());
    let output = home.output(&["run", "--config", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("gateway.listen") && said.contains(&address.to_string()), "{said}");
    assert!(said.contains("in use"), "{said}");
    assert!(!home.path("gate.sock").exists(), "the other listener's socket was left");
}

/// A socket file that a crash left is no obstacle; one that somebody listens on is.
#[test]
fn a_socket_in_use() {
    let home = Home::new();
    let socket = home.path("gate.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let mut config = Config::new(NOBODY);
    config.listen = format!("listen = [\"unix:{}\"]", socket.display());
    let text = config.text();
    let gate = home.run(&text);
    assert_eq!(Conn::open_unix(&socket).send(get("/admin")).reply().status, 403);

    let output = gate.home().output(&["run", "--config", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("gate.sock"), "{}", stderr(&output));
    assert_eq!(Conn::open_unix(&socket).send(get("/admin")).reply().status, 403, "the first goes on");
    gate.signal(Signal::INT);
    let (status, log) = gate.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// All problems of a file in one run, each with its line, by `run` and by `config check`.
#[test]
fn bad_configurations() {
    let home = Home::new();
    let good = Config::new(NOBODY).text();
    home.write("edgegate.toml", &good);
    let output = home.output(&["config", "check", "edgegate.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));

    let bad = good
        .replace("upstream = \"http://", "upstream = \"https://")
        .replace("secret = \"classes\"", "secret = \"clases\"")
        .replace("retain_days", "retain_day")
        .replace("(?<cid>.*?)/(?<stt>", "(?<cid>.*?/(?<stt>");
    home.write("edgegate.toml", &bad);
    for command in [&["run", "--config", "edgegate.toml"][..], &["config", "check", "edgegate.toml"]] {
        let output = home.output(command);
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let said = stderr(&output);
        for (needle, key) in [
            ("https://127", "gateway.upstream"),
            ("\"clases\"", "secret"),
            ("retain_day ", "retain_days"),
            ("(?<cid>.*?/(?<stt>", "path_validation"),
        ] {
            let line = 1 + bad[..bad.find(needle).unwrap()].matches('\n').count();
            let place = format!("edgegate.toml:{line}:");
            assert!(said.lines().any(|l| l.contains(&place) && l.contains(key)), "{place} {key}: {said}");
        }
    }
    for (file, text) in [("absent.toml", None), ("empty.toml", Some("")), ("broken.toml", Some("a = [\n"))] {
        text.inspect(|text| home.write(file, text));
        for command in [&["run", "--config", file][..], &["config", "check", file]] {
            let output = home.output(command);
            assert_eq!(output.status.code(), Some(2), "{command:?}");
            assert!(stderr(&output).contains(file), "{}", stderr(&output));
        }
    }
    // Wrong use of the command is an error too.
    for arguments in
        [&["run"][..], &["config", "check"], &["check", "--config", "edgegate.toml"], &["nonsense"]]
    {
        assert_eq!(home.output(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
