//! The client against an agent that says what it is told to.

mod mock;

use super::*;
use clap::Parser;
use mock::{Mock, Reply};
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    ctl: Ctl,
}

fn parse(arguments: &[&str]) -> Result<Ctl, clap::Error> {
    Line::try_parse_from([&["ctl"], arguments].concat()).map(|line| line.ctl)
}

/// Exit code, output and errors of a command.
async fn ctl(socket: &Path, arguments: &[&str]) -> (u8, String, String) {
    let ctl = parse(&[&["--socket", socket.to_str().unwrap()], arguments].concat()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(ctl, &mut out, &mut err).await;
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// What a command prints of one good answer, and what it asked for.
async fn shown(answer: &'static str, arguments: &[&str]) -> (String, String) {
    let mock = Mock::start([Reply::Of(200, answer)]);
    let (code, out, err) = ctl(&mock.socket(), arguments).await;
    assert_eq!((code, &*err), (DONE, ""), "{arguments:?}: {out}");
    (mock.lines().concat(), out)
}

#[test]
fn arguments() {
    let good: &[&[&str]] = &[
        &["status"],
        &["status", "--json"],
        &["--json", "config", "get", "--toml"],
        &["config", "put", "-", "--if-version", "3", "--dry-run"],
        &["config", "reset", "--if-version", "3"],
        &["blacklist", "add", "a", "b", "--day", "20251228"],
        &["blacklist", "remove", "a", "--day", "all"],
        &["blacklist", "import", "f", "--remove", "--form", "ndjson", "--day", "today"],
        &["blacklist", "list", "--day", "20251228"],
        &["blacklist", "replace", "today", "-"],
        &["blacklist", "drop", "all"],
        &["secret", "put", "k", "--slot", "0", "--until", "1", "--allow-key-size", "--key-file", "f"],
        &["secret", "list"],
        &["secret", "delete", "k", "--slot", "0"],
        &["deny", "add", "192.0.2.0/24", "::1"],
        &["allow", "list"],
        &["events", "--follow"],
        &["fleet", "status"],
        &["prefilter", "status", "--pin-dir", "/x"],
    ];
    for arguments in good {
        assert!(parse(arguments).is_ok(), "{arguments:?}");
    }
    let bad: &[&[&str]] = &[
        &[],
        &["config", "put"],
        &["blacklist", "add"],
        &["blacklist", "add", ""],
        &["blacklist", "add", "a", "--day", "all"],
        &["blacklist", "remove", "a", "--day", "2025-12-28"],
        &["blacklist", "drop"],
        &["blacklist", "replace", "all", "f"],
        &["secret", "put", "k"],
        &["secret", "put", "k", "the-key", "--slot", "0"],
        &["deny", "remove"],
        &["events", "follow"],
    ];
    for arguments in bad {
        assert!(parse(arguments).is_err(), "{arguments:?}");
    }
    assert_eq!(parse(&["status"]).unwrap().socket, Path::new("/run/edgegate/control.sock"));
}

const STATUS: &str = r#"{"version":12,"agent":"0.1.0","pid":7,"started":1700000000,"uptime_seconds":65,
    "config":{"file":"/etc/edgegate/edgegate.toml","pushed":true,"fleet":false,"routes":3,"warnings":["no \u001b[31mred"]},
    "listeners":{"gateway":["127.0.0.1:8080","unix:/run/gate.sock"],"auth":[],"metrics":"127.0.0.1:9190"},
    "blacklist":{"sessions":1,"capacity":1000000,"days":1,"retain_days":31},
    "lists":{"deny":2,"allow":0},"secrets":{"kids":1,"slots":2},
    "kernel":{"state":"off","why":"no BTF","interfaces":["eth0"],"monitor":false},
    "store":{"path":"/var/lib/edgegate/state.redb","bytes":123,"writable":false},
    "fleet":{"state":"away","server":"nats://n","bucket":"b","host":"edge-1","applied_revision":5,"lag":2,"why":"no route"}}"#;

#[tokio::test]
async fn status_and_fleet() {
    let (asked, out) = shown(STATUS, &["status"]).await;
    assert_eq!(asked, "GET /v1/status");
    let expected = "\
agent       0.1.0, pid 7, up 1m 5s
version     12
config      /etc/edgegate/edgegate.toml, with a pushed overlay, 3 routes
            warning: no \\u{1b}[31mred
gateway     127.0.0.1:8080, unix:/run/gate.sock
auth        not configured
metrics     127.0.0.1:9190
blacklist   1 session in 1 day, room for 1000000, days are kept for 31
lists       2 denied, 0 allowed
secrets     1 name, 2 slots
kernel      off on eth0: no BTF
store       /var/lib/edgegate/state.redb, 123 bytes, not writable: changes are refused
fleet       away (bucket b at nats://n), 2 behind: no route
";
    assert_eq!(out, expected);
    assert_eq!(shown(STATUS, &["status", "--json"]).await.1, format!("{STATUS}\n"), "as it came");

    let (asked, out) = shown(r#"{"fleet":null}"#, &["fleet", "status"]).await;
    assert_eq!(asked, "GET /v1/fleet");
    assert!(out.contains("no fleet"), "{out}");
    let fleet = r#"{"fleet":{"state":"connected","server":"nats://n","bucket":"b","host":"edge-1","applied_revision":5,
        "lag":0,"why":null},"hosts":[{"host":"edge-1","applied_revision":5,"lag":0,"seen":1700000000,"version":12}],"revision":5}"#;
    let (_, out) = shown(fleet, &["fleet", "status"]).await;
    let expected = "\
fleet       connected (bucket b at nats://n)
host        edge-1
revision    5, applied here 5

host    applied  lag  version  seen
edge-1        5    0       12  2023-11-14T22:13:20Z
";
    assert_eq!(out, expected);
}

/// What the README shows is what comes out.
#[tokio::test]
async fn the_readmes_examples() {
    let readme = include_str!("../../../README.md");
    let status = r#"{"version":12,"agent":"0.1.0","pid":4711,"started":1700000000,"uptime_seconds":65,
        "config":{"file":"/etc/edgegate/edgegate.toml","pushed":true,"fleet":false,"routes":3,"warnings":[]},
        "listeners":{"gateway":["0.0.0.0:8080"],"auth":["127.0.0.1:9180"],"metrics":"127.0.0.1:9190"},
        "blacklist":{"sessions":3,"capacity":1000000,"days":1,"retain_days":31},
        "lists":{"deny":2,"allow":0},"secrets":{"kids":1,"slots":2},
        "kernel":{"state":"on","why":null,"interfaces":["eth0"],"monitor":false},
        "store":{"path":"/var/lib/edgegate/state.redb","bytes":1589248,"writable":true},"fleet":null}"#;
    let days = r#"{"version":12,"sessions":3,"capacity":1000000,"retain_days":31,"days":[
        {"day":"20251228","sessions":3,"file":1,"pushed":2,"fleet":0,"last_day":"20260128"}]}"#;
    for (answer, arguments) in [(status, &["status"][..]), (days, &["blacklist", "list"])] {
        let (_, out) = shown(answer, arguments).await;
        assert!(readme.contains(&format!("```text\n{out}```\n")), "{out}");
    }
}

#[tokio::test]
async fn configuration() {
    let get = r#"{"version":4,"file":"/etc/e.toml","pushed":"leeway = 2\n","fleet":null,"values":[
        {"key":"gateway.listen","toml":"[\"127.0.0.1:8080\"]","value":["127.0.0.1:8080"],"origin":"file"},
        {"key":"leeway","toml":"2","value":2,"origin":"pushed"}]}"#;
    let (asked, out) = shown(get, &["config", "get"]).await;
    assert_eq!(asked, "GET /v1/config");
    let expected = "\
version 4: /etc/e.toml, the pushed overlay

key             from    value
gateway.listen  file    [\"127.0.0.1:8080\"]
leeway          pushed  2
";
    assert_eq!(out, expected);
    assert_eq!(shown(get, &["config", "get", "--toml"]).await.1, "leeway = 2\n");
    let bare = r#"{"version":4,"file":"/etc/e.toml","pushed":null,"fleet":null,"values":[]}"#;
    let (_, out) = shown(bare, &["config", "get", "--toml"]).await;
    assert_eq!(out, "# no overlay is pushed over /etc/e.toml\n");

    let changed = r#"{"version":5,"warnings":["w"],"changed":true}"#;
    let mock = Mock::start([
        Reply::Of(200, changed),
        Reply::Of(200, changed),
        Reply::Of(200, r#"{"version":6,"changed":false}"#),
    ]);
    let file = mock.file("overlay.toml", "leeway = 3\n");
    let (code, out, _) = ctl(&mock.socket(), &["config", "put", &file, "--if-version", "4"]).await;
    assert_eq!((code, &*out), (DONE, "warning: w\nin force (version 5)\n"));
    let (_, out, _) = ctl(&mock.socket(), &["config", "put", &file, "--dry-run"]).await;
    assert!(out.contains("good; nothing was changed"), "{out}");
    let (_, out, _) = ctl(&mock.socket(), &["config", "reset", "--if-version", "5"]).await;
    assert_eq!(out, "there was no overlay (version 6)\n");
    assert_eq!(mock.lines(), ["PUT /v1/config", "PUT /v1/config?dry_run=true", "DELETE /v1/config"]);
    let seen = mock.seen.lock().unwrap();
    assert_eq!((seen[0].text(), &*seen[0].if_match), ("leeway = 3\n", "\"4\""));
    assert_eq!((&*seen[1].if_match, &*seen[2].if_match), ("", "\"5\""));
}

#[tokio::test]
async fn refusals() {
    let invalid = r#"{"error":"invalid","message":"2 problems","problems":[
        {"file":"pushed","line":3,"column":1,"key":"route[0].check","text":"unknown"},
        {"file":"/etc/e.toml","line":null,"column":null,"key":"","text":"gone"}]}"#;
    let stale = r#"{"error":"version_mismatch","message":"the version is 9","version":9}"#;
    let mock = Mock::start([
        Reply::Of(422, invalid),
        Reply::Of(412, stale),
        Reply::Of(412, stale),
        Reply::Of(502, "<html>"),
        Reply::Of(200, r#"{"version":3,"added":1}"#),
        Reply::Of(422, r#"{"error":"invalid","message":"no CIDR"}"#),
    ]);
    let file = mock.file("overlay.toml", "x");
    let socket = mock.socket();
    let (code, out, err) = ctl(&socket, &["config", "put", &file]).await;
    assert_eq!((code, &*out), (REFUSED, ""));
    let expected = format!("edgegate: 2 problems\n{file}:3:1: route[0].check: unknown\n/etc/e.toml: gone\n");
    assert_eq!(err, expected);
    let (code, _, err) = ctl(&socket, &["config", "put", &file, "--if-version", "8"]).await;
    assert_eq!((code, &*err), (REFUSED, "edgegate: the version is 9\n"));
    let (code, out, _) = ctl(&socket, &["config", "put", &file, "--if-version", "8", "--json"]).await;
    assert_eq!((code, out), (REFUSED, format!("{stale}\n")));
    let (code, _, err) = ctl(&socket, &["status"]).await;
    assert!(code == REFUSED && err.contains("502 Bad Gateway"), "{err}");
    // What was done before the refusal is not forgotten.
    let (code, out, err) = ctl(&socket, &["deny", "add", "192.0.2.0/24", "x", "never"]).await;
    assert_eq!((code, &*out, &*err), (REFUSED, "192.0.2.0/24: added 1 (version 3)\n", "edgegate: no CIDR\n"));
    assert_eq!(mock.lines()[4..], ["PUT /v1/prefilter/deny/192.0.2.0%2F24", "PUT /v1/prefilter/deny/x"]);
}

#[tokio::test]
async fn sessions() {
    let mock = Mock::start([
        Reply::Of(
            200,
            r#"{"version":3,"added":2,"present":1,"removed":0,"absent":0,"refused":0,"refusals":[]}"#,
        ),
        Reply::Of(
            200,
            r#"{"version":4,"added":0,"present":0,"removed":1,"absent":0,"refused":0,"refusals":[]}"#,
        ),
        Reply::Of(
            200,
            r#"{"version":5,"added":0,"present":0,"removed":1,"absent":1,"refused":0,"refusals":[]}"#,
        ),
        Reply::Of(200, r#"{"version":6,"removed":6}"#),
    ]);
    let socket = mock.socket();
    let (_, out, _) = ctl(&socket, &["blacklist", "add", "a", "b\"", "c"]).await;
    assert_eq!(out, "added 2, already there 1 (version 3)\n");
    let (_, out, _) = ctl(&socket, &["blacklist", "remove", "a", "b", "--day", "20251228"]).await;
    assert_eq!(out, "removed 1 (version 4)\n");
    let (code, out, _) = ctl(&socket, &["blacklist", "remove", "a/ä", ".."]).await;
    assert_eq!((code, &*out), (DONE, "removed 1, not there 1 (version 5)\n"));
    ctl(&socket, &["blacklist", "drop", "all"]).await;
    let expected = [
        "POST /v1/blacklist",
        "POST /v1/blacklist?day=20251228&remove=true",
        "POST /v1/blacklist?day=all&remove=true",
        "DELETE /v1/blacklist/all",
    ];
    assert_eq!(mock.lines(), expected);

    let days = r#"{"version":1,"sessions":3,"capacity":10,"retain_days":31,"days":[
        {"day":"20251228","sessions":3,"file":0,"pushed":3,"fleet":0,"last_day":"20260128"}]}"#;
    let (_, out) = shown(days, &["blacklist", "list"]).await;
    let expected = "\
\x20    day  sessions  file  pushed  fleet  last day
20251228         3     0       3      0  20260128

3 sessions, room for 10, days are kept for 31
";
    assert_eq!(out, expected);
    let seen = mock.seen.lock().unwrap();
    assert_eq!((seen[0].text(), &*seen[0].content_type), (r#"["a","b\"","c"]"#, "application/json"));
}

#[tokio::test]
async fn lists_and_keys() {
    let lists = r#"{"version":1,"deny":[{"cidr":"203.0.113.0/24","origin":"file"}],"allow":[],
        "kernel":{"state":"on","why":null,"interfaces":["eth0"],"monitor":false}}"#;
    let (_, out) = shown(lists, &["deny", "list"]).await;
    assert_eq!(out, "deny            from\n203.0.113.0/24  file\n\nkernel: filters on eth0\n");
    let (_, out) = shown(lists, &["allow", "list"]).await;
    assert_eq!(out, "allow  from\n\nkernel: filters on eth0\n");

    let keys =
        r#"{"version":1,"secrets":[{"kid":"k","slot":0,"until":1713789349,"bytes":32,"origin":"file"}]}"#;
    let (asked, out) = shown(keys, &["secret", "list"]).await;
    assert_eq!(asked, "GET /v1/secrets");
    assert_eq!(out, "kid  slot  bytes  from  until\nk       0     32  file  2024-04-22T12:35:49Z\n");

    let mock = Mock::start([
        Reply::Of(200, r#"{"version":2,"replaced":false}"#),
        Reply::Of(422, r#"{"error":"invalid","message":"a key has 32 bytes"}"#),
        Reply::Of(200, r#"{"version":3,"removed":1}"#),
    ]);
    let file = mock.file("key", "c2VjcmV0LXNlY3JldA\n");
    let socket = mock.socket();
    let put = ["secret", "put", "orange key", "--slot", "7", "--key-file", &file];
    let (code, out, _) = ctl(&socket, &[&put[..], &["--until", "9", "--allow-key-size"]].concat()).await;
    assert_eq!((code, &*out), (DONE, "orange key slot 7: stored (version 2)\n"));
    let (code, out, err) = ctl(&socket, &put).await;
    assert_eq!(code, REFUSED);
    assert!(!format!("{out}{err}").contains("c2Vjc"), "{err}");
    let (_, out, _) = ctl(&socket, &["secret", "delete", "orange key", "--slot", "7"]).await;
    assert_eq!(out, "orange key slot 7: deleted (version 3)\n");
    let path = "/v1/secrets/orange%20key/7";
    assert_eq!(mock.lines(), [format!("PUT {path}"), format!("PUT {path}"), format!("DELETE {path}")]);
    for bad in ["", "\n", "c2VjcmV0\nc2VjcmV0"] {
        let file = mock.file("key", bad);
        let (code, _, err) = ctl(&socket, &["secret", "put", "k", "--slot", "7", "--key-file", &file]).await;
        assert!(code == FAILED && err.contains("one line") && !err.contains("c2Vj"), "{err}");
    }
    let seen = mock.seen.lock().unwrap();
    assert_eq!(seen[0].text(), r#"{"key":"c2VjcmV0LXNlY3JldA","until":9,"allow_key_size":true}"#);
    assert_eq!(seen[1].text(), r#"{"key":"c2VjcmV0LXNlY3JldA","allow_key_size":false}"#);
}

#[tokio::test]
async fn a_body_of_any_size() {
    let done =
        r#"{"version":3,"added":3000000,"present":0,"removed":0,"absent":0,"refused":0,"refusals":[]}"#;
    let some = r#"{"version":3,"added":1,"present":0,"removed":0,"absent":0,"refused":1,
        "refusals":[{"line":2,"value":"\u0007","why":"no sid"}]}"#;
    let none = r#"{"version":3,"added":0,"present":0,"removed":0,"absent":0,"refused":1,"refusals":[{"line":1,"value":"","why":"empty"}]}"#;
    let mock = Mock::start([
        Reply::Of(200, done),
        Reply::Of(207, some),
        Reply::Of(422, none),
        Reply::Of(200, r#"{"version":4,"added":2,"removed":1,"present":5}"#),
        Reply::Of(200, done),
    ]);
    let socket = mock.socket();
    let many: String = (0..3_000_000).map(|n| format!("session{n:07}\n")).collect();
    let file = mock.file("many", &many);
    let (code, out, err) = ctl(&socket, &["blacklist", "import", &file, "--day", "20251228"]).await;
    assert_eq!(
        (code, &*out, &*err),
        (DONE, "added 3000000 (version 3)\n", ""),
        "and no bar where no terminal is"
    );
    let small = mock.file("a.jsonl", "{\"sid\":\"a\"}\n");
    let (code, out, _) = ctl(&socket, &["blacklist", "import", &small, "--remove"]).await;
    assert_eq!((code, &*out), (REFUSED, "line 2: \"\\u{7}\": no sid\nadded 1, refused 1 (version 3)\n"));
    let (code, _, err) = ctl(&socket, &["blacklist", "import", &small]).await;
    assert_eq!((code, &*err), (REFUSED, "edgegate: the agent took none of it\nline 1: \"\": empty\n"));
    let list = mock.file("list", "[\"a\"]");
    let (_, out, _) = ctl(&socket, &["blacklist", "replace", "today", &list]).await;
    assert_eq!(out, "added 2, already there 5, removed 1 (version 4)\n");
    let expected = [
        ("POST /v1/blacklist?day=20251228", "text/plain; charset=utf-8", many.len(), 3_000_000),
        ("POST /v1/blacklist?remove=true", "application/x-ndjson", 12, 1),
        ("POST /v1/blacklist", "application/x-ndjson", 12, 1),
        ("PUT /v1/blacklist/today", "application/json", 5, 0),
    ];
    let seen = mock.seen.lock().unwrap();
    let seen: Vec<_> =
        seen.iter().map(|seen| (&*seen.line, &*seen.content_type, seen.length, seen.lines)).collect();
    assert_eq!(seen, expected);
}

/// A file that cannot be read to its end must not look like one that was.
#[tokio::test]
async fn half_a_body_is_never_whole() {
    let mock = Mock::start([Reply::Of(200, "{}")]);
    let folder = mock.socket().parent().unwrap().to_owned();
    let import = ["blacklist", "import", folder.to_str().unwrap()];
    let (code, _, err) = ctl(&mock.socket(), &import).await;
    assert!(code == FAILED && err.contains("cannot read"), "{err}");
    let (code, _, err) = ctl(&mock.socket(), &[&import[..], &["--form", "text"]].concat()).await;
    assert!(code == FAILED && err.contains("could not be read to its end"), "{err}");
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(mock.seen.lock().unwrap().iter().all(|seen| !seen.whole), "{:?}", mock.seen);
}

/// The agent refuses amid a long body, and closes without reading the rest.
#[tokio::test]
async fn an_early_answer_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let file = folder.path().join("many");
    std::fs::write(&file, "session\n".repeat(4_000_000)).unwrap();
    let agent = tokio::spawn(async move {
        for _ in 0..20 {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 100_000]).await.unwrap();
            let body = r#"{"error":"store_failed","message":"the disk is full"}"#;
            let answer = format!("HTTP/1.1 507 Full\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    for _ in 0..20 {
        let (code, _, err) = ctl(&socket, &["blacklist", "import", file.to_str().unwrap()]).await;
        assert_eq!((code, &*err), (REFUSED, "edgegate: the disk is full\n"));
    }
    agent.await.unwrap();
}

#[tokio::test]
async fn streams() {
    let pieces = &[
        "{\"day\":\"20251228\",\"sid\":\"a\",\"ori",
        "gin\":\"pushed\"}\n{\"sid\":\"b\\nc\"}\n",
        "{\"sid\":\"d\"}",
    ];
    let list = ["blacklist", "list", "--day", "20251228"];
    let mock =
        Mock::start([Reply::Stream(pieces), Reply::Stream(pieces), Reply::Broken(pieces), Reply::Nothing]);
    let (code, out, _) = ctl(&mock.socket(), &list).await;
    assert_eq!((code, &*out), (DONE, "a\nb\\nc\nd\n"));
    let (_, out, _) = ctl(&mock.socket(), &[&list[..], &["--json"]].concat()).await;
    assert_eq!(out, format!("{}\n", pieces.concat()));
    let (code, out, err) = ctl(&mock.socket(), &list).await;
    assert!(code == FAILED && out == "a\nb\\nc\n" && err.contains("broke off"), "{out}{err}");
    let (code, _, err) = ctl(&mock.socket(), &list).await;
    assert!(code == FAILED && err.contains("broke off"), "{err}");
}

#[tokio::test]
async fn events() {
    let events = &[
        "{\"at\":1713789349.123,\"kind\":\"refused\",\"reason\":\"expired\",\"path\":\"/a b\\u001b\",\"n\":3,\"x\":null}\n",
        "{\"at\":1713789350,\"kind\":\"missed\",\"count\":7}\n",
    ];
    let mock = Mock::start([Reply::Open(events)]);
    let expected = "\
2024-04-22T12:35:49.123Z  refused   n=3 path=\"/a b\\u001b\" reason=expired
2024-04-22T12:35:50.000Z  missed    count=7
";
    let (code, out, err) = ctl(&mock.socket(), &["events"]).await;
    assert_eq!((code, &*out, &*err), (DONE, expected, ""));
}

/// `… | head` is no error.
#[tokio::test]
async fn nobody_reads_any_more() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mock = Mock::start([Reply::Of(200, STATUS)]);
    let ctl = parse(&["--socket", mock.socket().to_str().unwrap(), "status"]).unwrap();
    let mut err = Vec::new();
    assert_eq!(run(ctl, &mut Closed, &mut err).await, DONE);
    assert_eq!(err, b"");
}

#[tokio::test]
async fn no_agent() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("s");
    let (code, _, err) = ctl(&socket, &["status"]).await;
    assert!(code == FAILED && err.contains("no socket") && err.contains("[control] socket"), "{err}");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let (code, _, err) = ctl(&socket, &["status"]).await;
    assert!(code == FAILED && err.contains("nobody listens"), "{err}");
    let denied = Error::connect(&socket, io::ErrorKind::PermissionDenied.into()).to_string();
    assert!(denied.contains("root and the agent's user"), "{denied}");

    let (code, _, err) = ctl(&socket, &["prefilter", "status", "--json"]).await;
    assert!(code == FAILED && err.contains("no JSON"), "{err}");
    let mock = Mock::start([Reply::Of(200, "hello")]);
    let (code, _, err) = ctl(&mock.socket(), &["status"]).await;
    assert!(code == FAILED && err.contains("not of the expected form"), "{err}");
}
