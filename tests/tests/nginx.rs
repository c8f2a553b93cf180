//! A real nginx in front, with the example configuration `agent/dist/nginx.conf` as it is but for its addresses.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use tests::binary::{Edgegate, Owned, finish, free_address};
use tests::conn::Conn;
use tests::contract::{Config, SEGMENT, claims, get, now, secure_token, token, token_of};
use tests::origin::{Origin, Then};
use tests::raw::Reply;
use tests::require::capability;
use tests::wait_for;

const EXAMPLE: &str = include_str!("../../agent/dist/nginx.conf");

struct Nginx {
    address: SocketAddr,
    folder: tempfile::TempDir,
    _process: Owned,
}

impl Nginx {
    fn start(program: &Path, gate: &Edgegate, origin: &Origin) -> Self {
        // The port is free when it is chosen; should somebody be faster, another one is taken.
        (0..5).find_map(|_| Self::try_start(program, gate, origin)).unwrap_or_else(|| panic!("no nginx"))
    }

    fn try_start(program: &Path, gate: &Edgegate, origin: &Origin) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut example = EXAMPLE.to_owned();
        for (placeholder, value) in [
            ("127.0.0.1:9180", gate.auth().to_string()),
            ("127.0.0.1:9000", origin.address().to_string()),
            ("127.0.0.1:8081", address.to_string()),
            ("/var/cache/nginx/edgegate", path("cache")),
            ("/var/log/nginx/edgegate.log", path("access.log")),
        ] {
            assert!(example.contains(placeholder), "the example has no {placeholder}");
            example = example.replace(placeholder, &value);
        }
        std::fs::write(folder.path().join("edgegate.conf"), example).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", path(name)))
            .collect();
        // One process in the foreground, so that its handle is all there is to end.
        let main = format!(
            "daemon off;\nmaster_process off;\nerror_log stderr info;\npid {};\nevents {{}}\nhttp {{\n{temporary}include {};\n}}\n",
            path("nginx.pid"),
            path("edgegate.conf")
        );
        std::fs::write(folder.path().join("nginx.conf"), main).unwrap();
        let errors = std::fs::File::create(folder.path().join("error.log")).unwrap();
        let child = Command::new(program)
            .args(["-e", "stderr", "-p", &path(""), "-c", &path("nginx.conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        let mut process = Owned(child);
        let started = wait_for("nginx to listen", || match process.0.try_wait().unwrap() {
            Some(_) => Some(false),
            None => std::net::TcpStream::connect(address).ok().map(|_| true),
        });
        let errors = || std::fs::read_to_string(folder.path().join("error.log")).unwrap();
        assert!(started || errors().contains("Address already in use"), "{}", errors());
        started.then_some(Self { address, folder, _process: process })
    }

    fn ask(&self, target: &str) -> Reply {
        Conn::open(self.address).send(get(target)).reply()
    }

    fn logs(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap();
        read("access.log") + &read("error.log")
    }
}

/// nginx, edgegate and an origin whose answers may be kept, or nothing where there is no nginx.
fn chain() -> Option<(Nginx, Edgegate, Origin)> {
    let program = capability("nginx")?;
    let origin = Origin::answering(|seen, to| {
        let body = seen.target();
        let cache = if body.starts_with("/open/") { "no-store" } else { "max-age=3600" };
        let head =
            format!("HTTP/1.1 200 OK\r\nCache-Control: {cache}\r\nContent-Length: {}\r\n\r\n", body.len());
        to.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        Ok(Then::Keep)
    });
    // The gateway is not used here.
    let gate = Edgegate::run(&Config::new("http://127.0.0.1:1").text());
    Some((Nginx::start(&program, &gate, &origin), gate, origin))
}

#[test]
fn allowed_requests_reach_the_origin_without_their_token() {
    let Some((nginx, _gate, origin)) = chain() else { return };
    let token = token();
    for query in ["", "?a=1&b=%2F&c"] {
        let reply = nginx.ask(&format!("/{token}{SEGMENT}{query}"));
        assert_eq!(reply.status, 200, "{reply:?} {}", nginx.logs());
        assert_eq!(String::from_utf8_lossy(&reply.body), format!("{SEGMENT}{query}"));
        assert_eq!(origin.last().target(), format!("{SEGMENT}{query}"));
    }
    // Bytes that nginx would decode or normalise by itself.
    for path in ["/open/a%20b/%E4%BD%A0", "/open/a+b;c=d", "/open/%41"] {
        assert_eq!(nginx.ask(path).status, 200, "{path}");
        assert_eq!(origin.last().target(), path);
    }
    let request = format!(
        "GET /{token}{SEGMENT}?fresh HTTP/1.1\r\nHost: cdn.example\r\nX-Edgegate-Session: forged\r\n\
         X-Original-URI: /open/x\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    );
    assert_eq!(Conn::open(nginx.address).send(request).reply().status, 200);
    let seen = origin.last();
    assert_eq!(seen.values("x-edgegate-session"), ["session1"]);
    assert_eq!(seen.values("host"), ["cdn.example"]);
    assert!(!format!("{:?}", origin.seen()).contains(&token[..40]), "{:?}", origin.seen());
}

#[test]
fn refusals_have_their_real_status() {
    let Some((nginx, _gate, origin)) = chain() else { return };
    let mut old = claims();
    old.insert("exp".into(), (now() - 5).into());
    for (target, status, reason) in [
        (SEGMENT.to_owned(), 403, "token_missing"),
        (format!("/{}{SEGMENT}", token_of(&old)), 410, "expired"),
        (format!("/plain/x?{}", secure_token("/plain/x", now() - 5)), 410, "expired"),
        ("/classes/x?a=1".into(), 302, "token_missing"),
        ("/open/a%2Fb".into(), 400, "uri_ambiguous"),
        // What nginx would make another path of is judged as it came.
        ("/admin/../open/x".into(), 400, "uri_ambiguous"),
        ("/open//x".into(), 400, "uri_ambiguous"),
        ("/admin".into(), 403, "no_route"),
        ("/_edgegate".into(), 404, ""),
    ] {
        let reply = nginx.ask(&target);
        assert_eq!(reply.status, status, "{target}: {reply:?} {}", nginx.logs());
        if reason.is_empty() {
            continue;
        }
        assert_eq!(reply.header("x-edgegate-reason"), Some(reason), "{target}");
        assert_eq!(reply.header("cache-control"), Some("no-store"), "{target}");
        let location = "https://login.example/?return=http%3A%2F%2Fcdn.example%2Fclasses%2Fx%3Fa%3D1";
        assert_eq!(reply.header("location"), (status == 302).then_some(location), "{target}");
    }
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
}

/// One entry of the cache serves every token that may have it, and no other.
#[test]
fn the_cache_knows_no_tokens() {
    let Some((nginx, gate, origin)) = chain() else { return };
    let mut other = claims();
    other.insert("sid".into(), "session2".into());
    let (first, second) = (token(), token_of(&other));
    assert_ne!(first, second);
    for token in [&first, &second, &first] {
        let reply = nginx.ask(&format!("/{token}{SEGMENT}?q"));
        assert_eq!(
            (reply.status, String::from_utf8_lossy(&reply.body).into_owned()),
            (200, format!("{SEGMENT}?q"))
        );
    }
    assert_eq!(origin.seen().len(), 1, "{:?}", origin.seen());
    assert_eq!(nginx.ask(&format!("/{first}{SEGMENT}?other")).status, 200);
    assert_eq!(origin.seen().len(), 2);

    // What is in the cache is still asked about.
    assert_eq!(nginx.ask(&format!("{SEGMENT}?q")).status, 403);
    let blacklisting = Config { blacklist: "session2".into(), ..Config::new("http://127.0.0.1:1") };
    let log = gate.reload(&blacklisting.text());
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(nginx.ask(&format!("/{second}{SEGMENT}?q")).status, 403);
    assert_eq!(nginx.ask(&format!("/{first}{SEGMENT}?q")).status, 200);
    drop(gate);
    assert_eq!(nginx.ask(&format!("/{first}{SEGMENT}?q")).status, 500, "nobody to ask, nothing served");
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn curl_through_nginx_and_what_is_logged() {
    let (Some(curl), Some((nginx, _gate, origin))) = (capability("curl"), chain()) else { return };
    let token = token();
    let run = |target: &str, more: &[&str]| {
        let mut command = Command::new(&curl);
        command
            .args(["-sS", "--max-time", "30", "-o", "-", "-w", " %{http_code} %{redirect_url}"])
            .args(more);
        let output = finish({
            command.arg(format!("http://{}{target}", nginx.address));
            command
        });
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let url = format!("/{token}{SEGMENT}");
    assert_eq!(run(&url, &[]), format!("{SEGMENT} 200 "));
    assert_eq!(run(&url, &["--head"]).trim_end().rsplit(' ').next(), Some("200"));
    assert!(run(SEGMENT, &[]).contains(" 403"));
    let redirected = run("/classes/x", &[]);
    assert!(redirected.contains(" 302 https://login.example/?return=http%3A%2F%2F127.0.0.1"), "{redirected}");
    assert_eq!(run("/open/upload", &["--data-binary", "some body"]), "/open/upload 200 ");
    assert_eq!(origin.last().length, 9);

    let log = wait_for("the access log", || {
        let log = nginx.logs();
        (log.matches("\" 200 ").count() == 3).then_some(log)
    });
    let signature = token.rsplit('.').next().unwrap();
    assert!(log.contains(SEGMENT) && log.contains("reason=\"token_missing\""), "{log}");
    assert!(!log.contains(signature), "the token is in the log: {log}");
}
