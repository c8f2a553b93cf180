//! Every command of `edgegate ctl` against a running agent.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tests::binary::{self, Edgegate, Owned, finish};
use tests::conn::Conn;
use tests::contract::{Config, SEGMENT, claims, get, token_of};
use tests::control::{Api, run};
use tests::origin::Origin;

/// Another key than those of the configuration.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

struct World {
    gate: Edgegate,
    api: Api,
    _origin: Origin,
}

impl World {
    fn new() -> Self {
        let origin = Origin::start();
        let (gate, api) = run(&Config::new(&origin.url()));
        Self { gate, api, _origin: origin }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::path());
        command.args(["ctl", "--socket"]).arg(self.api.socket()).args(arguments).stdin(Stdio::null());
        command.current_dir(self.gate.home().path("."));
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        finish(self.command(arguments))
    }

    /// What a command prints that does what it should.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command complains of that the agent refuses.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn viewer(&self) -> u16 {
        let request = get(&format!("/{}{SEGMENT}", token_of(&claims())));
        Conn::open(self.gate.gateway()).send(request).reply().status
    }
}

#[test]
fn status() {
    let world = World::new();
    let text = world.done(&["status"]);
    let gateway = format!("gateway     {}", world.gate.gateway());
    for part in
        ["agent ", "version     1", &gateway, "kernel      ", "state.redb", "fleet       not configured"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: Value = serde_json::from_str(&world.done(&["--json", "status"])).unwrap();
    assert_eq!(json["pid"], world.gate.pid());
}

#[test]
fn sessions() {
    let world = World::new();
    let session = claims()["sid"].as_str().unwrap().to_owned();
    assert_eq!(world.viewer(), 200);
    let told = world.done(&["blacklist", "add", &session, "other"]);
    assert!(told.starts_with("added 2"), "{told}");
    assert_eq!(world.viewer(), 403);
    assert!(world.done(&["blacklist", "list"]).contains("sessions, room for 1000000"));
    let today: Vec<String> =
        world.done(&["blacklist", "list", "--day", "today"]).lines().map(str::to_owned).collect();
    assert!(today.contains(&session) && today.contains(&"other".to_owned()), "{today:?}");
    let told = world.done(&["blacklist", "remove", &session]);
    assert!(told.starts_with("removed 1"), "{told}");
    assert_eq!(world.viewer(), 200);

    for (name, text) in [
        ("list.txt", format!("{session}, a\nb\n")),
        ("list.ndjson", format!("{{\"sid\":\"{session}\"}}\n\"c\"\n")),
        ("list.json", format!("[\"{session}\", \"d\"]")),
    ] {
        world.gate.home().write(name, text);
        world.done(&["blacklist", "import", name]);
        assert_eq!(world.viewer(), 403, "{name}");
        world.done(&["blacklist", "import", name, "--remove"]);
        assert_eq!(world.viewer(), 200, "{name}");
    }
    let tomorrow = "20991231";
    world.done(&["blacklist", "replace", tomorrow, "list.txt"]);
    assert_eq!(world.done(&["blacklist", "list", "--day", tomorrow]).lines().count(), 3);
    let told = world.done(&["blacklist", "drop", tomorrow]);
    assert!(told.starts_with("removed 3"), "{told}");
    let told = world.refused(&["blacklist", "add", "x", "--day", "19991231"]);
    assert!(told.contains("retain_days"), "{told}");
}

#[test]
fn configuration() {
    let world = World::new();
    assert!(world.done(&["config", "get"]).contains("gateway.upstream"));
    world.gate.home().write("overlay.toml", "leeway = 7\n");
    world.done(&["config", "put", "overlay.toml", "--dry-run"]);
    assert_eq!(world.api.version(), 1, "it was only checked");
    world.done(&["config", "put", "overlay.toml", "--if-version", "1"]);
    let shown = world.done(&["config", "get"]);
    let leeway = shown.lines().find(|line| line.starts_with("leeway")).unwrap();
    assert!(leeway.contains('7') && leeway.contains("pushed"), "{leeway}");
    assert_eq!(world.done(&["config", "get", "--toml"]).trim(), "leeway = 7");
    let told = world.refused(&["config", "put", "overlay.toml", "--if-version", "1"]);
    assert!(told.contains("version"), "{told}");
    world.gate.home().write("wrong.toml", "leeway = 1\nnonsense = 2\n");
    let told = world.refused(&["config", "put", "wrong.toml"]);
    assert!(told.contains("wrong.toml:2:1: nonsense"), "{told}");
    world.done(&["config", "reset"]);
    assert!(!world.done(&["config", "get"]).contains("leeway"));
}

#[test]
fn secrets() {
    let world = World::new();
    world.gate.home().write("key", KEY);
    let told = world.done(&["secret", "put", "k2", "--slot", "5", "--key-file", "key"]);
    assert!(!told.contains(KEY), "{told}");
    let list = world.done(&["secret", "list"]);
    assert!(list.contains("k2") && list.contains("orange-key-1") && !list.contains(KEY), "{list}");
    world.done(&["secret", "delete", "k2", "--slot", "5"]);
    assert!(!world.done(&["secret", "list"]).contains("k2"));
    let told = world.refused(&["secret", "delete", "k2", "--slot", "5"]);
    assert!(told.contains("no slot 5"), "{told}");
    world.gate.home().write("key", "not base64url!");
    let told = world.refused(&["secret", "put", "k2", "--slot", "5", "--key-file", "key"]);
    assert!(told.contains("base64url"), "{told}");
}

#[test]
fn networks() {
    let world = World::new();
    world.done(&["deny", "add", "127.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(world.viewer(), 403);
    world.done(&["allow", "add", "127.0.0.1"]);
    assert_eq!(world.viewer(), 200);
    assert!(world.done(&["deny", "list"]).contains("2001:db8::/32"));
    assert!(world.done(&["allow", "list"]).contains("127.0.0.1"));
    world.done(&["allow", "remove", "127.0.0.1"]);
    world.done(&["deny", "remove", "127.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(world.viewer(), 200);
    assert!(world.refused(&["deny", "add", "10.0.0.0/33"]).contains("10.0.0.0/33"));
}

#[test]
fn events_and_fleet() {
    let world = World::new();
    let mut command = world.command(&["--json", "events", "--follow"]);
    let mut follower = Owned(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
    let heard = AtomicBool::new(false);
    // The follower may not listen yet: until it does, there is always something new.
    let line = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if heard.load(Ordering::SeqCst) {
                    return;
                }
                let _version = world.api.ask("PUT", &format!("/v1/blacklist/today/s{number}")).done();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let line = lines.next().unwrap().unwrap();
        heard.store(true, Ordering::SeqCst);
        line
    });
    let event: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(event["kind"], "change", "{event}");

    let output = world.output(&["fleet", "status"]);
    let told = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("not configured") || told.contains("no fleet"), "{told}");
}
