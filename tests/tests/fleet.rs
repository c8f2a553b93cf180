//! Three agents and a real `nats-server`: what is pushed to the bucket is in force on all of them, whatever goes away between.

use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tests::binary::{finish, free_address};
use tests::contract::now;
use tests::fleet::{Host, Nats, three};
use tests::netns::{Net, ip};
use tests::require::capability;
use tests::wait_for;
use validator_core::Day;

fn today() -> String {
    Day::of(now()).to_string()
}

/// The key of a session's part, computed by the rule of the documentation.
fn key_of(sid: &str) -> String {
    let mut crc = u32::MAX;
    for byte in sid.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    format!("blacklist.{}.{:02x}", today(), !crc & 0xff)
}

/// Sessions with the same part as the first.
fn neighbours(count: usize) -> Vec<String> {
    let first = key_of("n0");
    (0..).map(|n| format!("n{n}")).filter(|sid| key_of(sid) == first).take(count).collect()
}

fn everywhere(hosts: &[Host], revision: u64, sids: &[&str]) {
    for host in hosts {
        host.wait_for_revision(revision);
        assert_eq!(host.sids("today"), sids, "{}", host.name);
    }
}

#[test]
fn a_push_reaches_all() {
    let Some(nats) = Nats::start() else { return };
    let hosts = three(&nats);
    let revision = nats.push(&["blacklist", "add", "a", "b", "c"]);
    everywhere(&hosts, revision, &["a", "b", "c"]);
    let revision = nats.push(&["blacklist", "remove", "b", "nobody"]);
    everywhere(&hosts, revision, &["a", "c"]);
    assert!(hosts[0].sessions("today").iter().all(|(_, origin)| origin == "fleet"));

    let file = hosts[0].folder().join("list");
    std::fs::write(&file, format!("{} : \"d,e\"\n20200101 : \"long,gone\"\nf\n", today())).unwrap();
    let revision = nats.push(&["blacklist", "import", file.to_str().unwrap()]);
    everywhere(&hosts, revision, &["a", "c", "d", "e", "f"]);

    let revision = nats.push(&["deny", "add", "203.0.113.7/24", "2001:db8::/32"]);
    let revision = revision.max(nats.push(&["allow", "add", "203.0.113.9"]));
    for host in &hosts {
        host.wait_for_revision(revision);
        let lists = host.get("/v1/prefilter");
        let cidrs = |list: &Value| -> Vec<String> {
            list.as_array().unwrap().iter().map(|net| net["cidr"].as_str().unwrap().to_owned()).collect()
        };
        let mut deny = cidrs(&lists["deny"]);
        deny.sort();
        assert_eq!(deny, ["2001:db8::/32", "203.0.113.0/24"]);
        assert_eq!(cidrs(&lists["allow"]), ["203.0.113.9/32"]);
    }
    // The same again is no new revision; ended days leave the bucket, and nothing else.
    assert!(nats.push(&["deny", "add", "203.0.113.0/24"]) < revision);
    let output = nats.try_push(&["blacklist", "forget", "--before", "20200102"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("2 parts removed\n"), "{output:?}");
    let revision = nats.push(&["deny", "remove", "203.0.113.0/24", "2001:db8::/32"]);
    everywhere(&hosts, revision, &["a", "c", "d", "e", "f"]);
    assert_eq!(hosts[1].get("/v1/prefilter")["deny"], serde_json::json!([]));
    let page = String::from_utf8(hosts[2].gate().metrics_page("/metrics").body).unwrap();
    assert!(page.contains(&format!("edgegate_fleet_applied_revision {revision}\n")), "{page}");
    assert!(page.contains("edgegate_fleet_connected 1\n"), "{page}");

    // All report, and any of them tells of all.
    let fleet = wait_for("all hosts to report", || {
        let fleet = hosts[0].get("/v1/fleet");
        let hosts = fleet["hosts"].as_array().unwrap();
        let good = hosts.iter().filter(|host| host["lag"] == 0 && host["applied_revision"] == revision);
        (good.count() == 3).then_some(fleet)
    });
    assert_eq!(fleet["revision"], revision);
    assert_eq!(fleet["fleet"]["state"], "connected");
    let names: Vec<_> = fleet["hosts"].as_array().unwrap().iter().map(|host| host["host"].clone()).collect();
    assert_eq!(names, ["edge-1", "edge-2", "edge-3"]);
    let mut command = Command::new(tests::binary::path());
    command.args(["fleet", "status", "--nats", &nats.url(), "--json"]);
    let output = finish(command);
    assert!(output.status.success(), "{output:?}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["hosts"].as_array().unwrap().len(), 3);
}

#[test]
fn the_server_goes_and_returns() {
    let Some(mut nats) = Nats::start() else { return };
    let hosts = three(&nats);
    let revision = nats.push(&["blacklist", "add", "a"]);
    everywhere(&hosts, revision, &["a"]);
    nats.kill();
    for host in &hosts {
        host.wait_for_state("away");
        assert_eq!(host.sids("today"), ["a"]);
        let (status, body) = host.ask("PUT", "/v1/blacklist/today/here", "");
        assert_eq!(status, 200, "{body}");
        assert_eq!(host.get("/v1/fleet")["hosts"], serde_json::json!([]));
    }
    nats.resume();
    let revision = nats.push(&["blacklist", "add", "b"]);
    everywhere(&hosts, revision, &["a", "b", "here"]);
    hosts.iter().for_each(|host| host.wait_for_state("connected"));
}

/// An agent that starts while the server is away serves what it has stored.
#[test]
fn killed_and_stale_hosts_catch_up() {
    let Some(mut nats) = Nats::start() else { return };
    let mut hosts = three(&nats);
    let day = today();
    let revision = nats.push(&["blacklist", "add", "a", "b"]);
    everywhere(&hosts, revision, &["a", "b"]);
    hosts[0].gate().signal(Signal::KILL);
    hosts[0].kill();
    hosts[1].kill();
    nats.push(&["blacklist", "remove", "a"]);
    nats.push(&["deny", "add", "203.0.113.0/24"]);
    hosts[0].start();
    let revision = nats.push(&["blacklist", "add", "c"]);
    hosts[0].wait_for_revision(revision);
    assert_eq!(hosts[0].sids(&day), ["b", "c"]);

    for n in 0..20 {
        nats.push(&["blacklist", "add", &format!("x{n:02}")]);
    }
    nats.push(&["deny", "remove", "203.0.113.0/24"]);
    nats.kill();
    hosts[1].start();
    assert_eq!(hosts[1].fleet()["state"], "starting");
    assert_eq!(hosts[1].sids(&day), ["a", "b"]);
    nats.resume();
    let revision = nats.push(&["blacklist", "remove", "x00"]);
    let expected: Vec<String> =
        ["b", "c"].map(String::from).into_iter().chain((1..20).map(|n| format!("x{n:02}"))).collect();
    for host in &hosts {
        host.wait_for_revision(revision);
        assert_eq!(host.sids(&day), expected, "{}", host.name);
        assert_eq!(host.get("/v1/prefilter")["deny"], serde_json::json!([]), "{}", host.name);
    }
}

/// Values that are gone without a trace, and another bucket of the same name: no revision tells of either.
#[test]
fn a_bucket_that_loses_values_or_is_another() {
    let Some(mut nats) = Nats::start() else { return };
    let mut hosts = three(&nats);
    let revision = nats.push(&["blacklist", "add", "a", "b"]);
    let revision = revision.max(nats.push(&["deny", "add", "203.0.113.0/24"]));
    everywhere(&hosts, revision, &["a", "b"]);
    let (status, body) = hosts[0].ask("PUT", "/v1/blacklist/today/own", "");
    assert_eq!(status, 200, "{body}");
    hosts[2].kill();

    let answer = nats.wire().request("$JS.API.STREAM.PURGE.KV_edgegate", "");
    assert_eq!(answer["purged"], 3, "{answer}");
    hosts[2].start();
    let without_a_and_b = |host: &Host| {
        wait_for("the lists to be empty", || {
            let empty = host.sids("today").iter().all(|sid| sid == "own");
            (empty && host.get("/v1/prefilter")["deny"] == serde_json::json!([])).then_some(())
        });
    };
    hosts.iter().for_each(without_a_and_b);
    assert_eq!(hosts[0].sids("today"), ["own"]);

    let revision = nats.push(&["blacklist", "add", "d"]);
    hosts.iter().for_each(|host| host.wait_for_revision(revision));
    hosts[2].kill();
    nats.wipe();
    nats.resume();
    assert_eq!(nats.push(&["blacklist", "add", "c"]), 1);
    hosts[2].start();
    for host in &hosts {
        let own = host.name == "edge-1";
        let expected: &[&str] = if own { &["c", "own"] } else { &["c"] };
        wait_for("the new bucket to be in force", || (host.sids("today") == expected).then_some(()));
        assert_eq!(host.fleet()["applied_revision"], 1);
    }
}

/// Of many who push at the same time, none loses anything, though all change the same values.
#[test]
fn concurrent_pushers() {
    let Some(nats) = Nats::start() else { return };
    let hosts = three(&nats);
    let sids = neighbours(12);
    std::thread::scope(|scope| {
        for (n, sid) in sids.iter().enumerate() {
            let nats = &nats;
            scope.spawn(move || {
                nats.push(&["blacklist", "add", sid]);
                nats.push(&["deny", "add", &format!("198.51.{n}.0/24")]);
            });
        }
    });
    let revision = nats.push(&["allow", "add", "203.0.113.1"]);
    let mut expected: Vec<&str> = sids.iter().map(String::as_str).collect();
    expected.sort_unstable();
    everywhere(&hosts, revision, &expected);
    for host in &hosts {
        assert_eq!(host.get("/v1/prefilter")["deny"].as_array().unwrap().len(), sids.len());
    }
}

#[test]
fn configurations_lie_between_file_and_operator() {
    let Some(nats) = Nats::start() else { return };
    let hosts = three(&nats);
    let push = |text: &str| {
        let file = hosts[0].folder().join("overlay.toml");
        std::fs::write(&file, text).unwrap();
        nats.push(&["config", file.to_str().unwrap()])
    };
    let leeway = |host: &Host| -> Option<(Value, Value)> {
        let config = host.get("/v1/config");
        let values = config["values"].as_array().unwrap();
        let value = values.iter().find(|value| value["key"] == "leeway")?;
        Some((value["value"].clone(), value["origin"].clone()))
    };
    let revision = push("leeway = 7\n");
    for host in &hosts {
        host.wait_for_revision(revision);
        assert_eq!(leeway(host), Some((7.into(), "fleet".into())));
    }
    let (status, body) = hosts[0].ask("PUT", "/v1/config", "leeway = 9\n");
    assert_eq!(status, 200, "{body}");
    let revision = push("leeway = 8\n");
    hosts.iter().for_each(|host| host.wait_for_revision(revision));
    assert_eq!(leeway(&hosts[0]), Some((9.into(), "pushed".into())));
    assert_eq!(leeway(&hosts[1]), Some((8.into(), "fleet".into())));

    // What a host cannot use is told, and does not hold up what follows.
    for (text, why) in [
        ("default = \"maybe\"\n", "default"),
        ("[log]\nformat = \"json\"\n", "restart"),
        ("[geo]\ncity = \"/nowhere.mmdb\"\n", "/nowhere.mmdb"),
    ] {
        push(text);
        let revision = nats.push(&["blacklist", "add", why.trim_start_matches('/')]);
        for host in &hosts {
            host.wait_for_revision(revision);
            let told = host.fleet()["why"].as_str().unwrap_or_default().to_owned();
            assert!(told.contains(why), "{text}: {told}");
            assert!(host.sids("today").iter().any(|sid| why.ends_with(sid)));
        }
        assert_eq!(leeway(&hosts[1]), Some((8.into(), "fleet".into())));
    }
    wait_for("the hosts to report what they refused", || {
        let fleet = hosts[0].get("/v1/fleet");
        let refused = |host: &&Value| host["refused"].as_str().is_some_and(|why| why.contains("nowhere"));
        (fleet["hosts"].as_array().unwrap().iter().filter(refused).count() == 3).then_some(())
    });
    let output = nats.try_push(&["config", "/dev/null/no"]);
    assert_eq!(output.status.code(), Some(2));
    let revision = nats.push(&["config", "--remove"]);
    for host in &hosts {
        host.wait_for_revision(revision);
        assert_eq!(host.fleet()["why"], Value::Null);
    }
    assert_eq!(leeway(&hosts[0]), Some((9.into(), "pushed".into())));
    assert_eq!(leeway(&hosts[1]), None);
}

/// Secrets come only where the host asks for them; what an operator has said there counts more.
#[test]
fn secrets_and_operators() {
    let Some(nats) = Nats::start() else { return };
    let mut hosts = [Host::new("with", &nats.url(), "secrets = true"), Host::new("without", &nats.url(), "")];
    hosts.iter_mut().for_each(Host::start);
    let key = hosts[0].folder().join("key");
    std::fs::write(&key, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\n").unwrap();
    let key = key.to_str().unwrap();
    nats.push(&["secret", "put", "blue key", "--slot", "3", "--key-file", key]);
    let revision = nats.push(&["blacklist", "add", "a", "b"]);
    everywhere(&hosts, revision, &["a", "b"]);
    let secrets = hosts[0].get("/v1/secrets");
    assert_eq!(
        (&secrets["secrets"][0]["kid"], &secrets["secrets"][0]["slot"], &secrets["secrets"][0]["origin"]),
        (&"blue key".into(), &3.into(), &"fleet".into())
    );
    assert_eq!(hosts[1].get("/v1/secrets")["secrets"], serde_json::json!([]));

    // An operator takes a session out here; the fleet's next word on others leaves it at that.
    let [_, neighbour] = &neighbours(2)[..] else { panic!("two") };
    let revision = nats.push(&["blacklist", "add", "n0"]);
    hosts[0].wait_for_revision(revision);
    assert_eq!(hosts[0].ask("DELETE", "/v1/blacklist/today/n0", "").0, 200);
    let revision = nats.push(&["blacklist", "add", neighbour]);
    hosts[0].wait_for_revision(revision);
    assert_eq!(hosts[0].sids("today"), ["a", "b", neighbour]);
    // Gone from the fleet and put there again, it counts again.
    nats.push(&["blacklist", "remove", "n0"]);
    let revision = nats.push(&["blacklist", "add", "n0"]);
    hosts[0].wait_for_revision(revision);
    assert!(hosts[0].sids("today").contains(&"n0".to_owned()));

    let revision = nats.push(&["secret", "delete", "blue key", "--slot", "3"]);
    hosts[0].wait_for_revision(revision);
    assert_eq!(hosts[0].get("/v1/secrets")["secrets"], serde_json::json!([]));
    assert!(hosts.iter().all(|host| !host.gate().log().contains("AAECAwQF")));
}

#[test]
fn logins_and_certificates() {
    if capability("openssl").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ca, ca_key, cert, key, request) =
        (file("ca"), file("ca-key"), file("cert"), file("key"), file("request"));
    std::fs::write(file("extensions"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' '));
        let output = finish(command);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {new} -keyout {ca_key} -out {ca} -days 2 -subj /CN=ca"));
    openssl(&format!("req {new} -keyout {key} -out {request} -subj /CN=edge"));
    let extensions = file("extensions");
    openssl(&format!(
        "x509 -req -in {request} -CA {ca} -CAkey {ca_key} -CAcreateserial -out {cert} -days 2 -extfile {extensions}"
    ));
    let arguments = [
        "--tls",
        "--tlsverify",
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
        "--tlscacert",
        &ca,
        "--user",
        "edge",
        "--pass",
        "hunter2",
    ];
    let Some(nats) = Nats::start_with(free_address(), &arguments) else { return };
    std::fs::write(file("right"), "hunter2\n").unwrap();
    std::fs::write(file("wrong"), "hunter3\n").unwrap();
    let (right, wrong) = (file("right"), file("wrong"));
    let identity =
        format!("tls_ca = \"{ca}\"\ntls_cert = \"{cert}\"\ntls_key = \"{key}\"\ntls_required = true\n");
    let login = |file: &str| format!("user = \"edge\"\npassword_file = \"{file}\"\n");
    let mut good = Host::new("good", &nats.url(), &format!("{identity}{}", login(&right)));
    let mut bad = Host::new("bad", &nats.url(), &format!("{identity}{}", login(&wrong)));
    let mut naked = Host::new("naked", &nats.url(), &login(&right));
    [&mut good, &mut bad, &mut naked].into_iter().for_each(Host::start);

    let words = [
        "--tls-ca",
        &ca,
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--user",
        "edge",
        "--password-file",
        &right,
    ];
    let words: Vec<&str> = words.into_iter().chain(["blacklist", "add", "a"]).collect();
    good.wait_for_revision(nats.push(&words));
    assert_eq!(good.sids("today"), ["a"]);
    for host in [&bad, &naked] {
        wait_for("it to say why", || host.fleet()["why"].as_str().map(drop));
        assert_eq!(host.fleet()["applied_revision"], 0);
        assert_ne!(host.fleet()["state"], "connected");
        assert!(!host.gate().log().contains("hunter"), "{}", host.gate().log());
    }
    let output = nats.try_push(&["blacklist", "add", "b"]);
    assert_eq!(output.status.code(), Some(2));
}

/// The network is cut between the server and an agent in another namespace. Nothing says so: packets just stay away.
#[test]
fn a_cut_network() {
    let Some(net) = Net::new() else { return };
    let port = free_address().port();
    let Some(nats) = Nats::start_with(([0, 0, 0, 0], port).into(), &[]) else { return };
    let mut near = Host::new("near", &nats.url(), "");
    near.start();
    let mut far = Host::new("far", &format!("nats://{}:{port}", net.here(4)), "");
    net.inside(|| far.start());
    let revision = nats.push(&["blacklist", "add", "a"]);
    [&near, &far].into_iter().for_each(|host| host.wait_for_revision(revision));

    // Short enough for nobody to notice.
    ip(&format!("link set {} down", net.interface()));
    let revision = nats.push(&["blacklist", "add", "b"]);
    near.wait_for_revision(revision);
    assert_eq!(far.sids("today"), ["a"]);
    ip(&format!("link set {} up", net.interface()));
    far.wait_for_revision(revision);
    assert_eq!(far.sids("today"), ["a", "b"]);

    // Until it gives the connection up.
    ip(&format!("link set {} down", net.interface()));
    far.wait_for_state("away");
    let revision = nats.push(&["blacklist", "remove", "a"]);
    let revision = revision.max(nats.push(&["blacklist", "add", "c"]));
    near.wait_for_revision(revision);
    assert_eq!(far.sids("today"), ["a", "b"]);
    ip(&format!("link set {} up", net.interface()));
    far.wait_for_revision(revision);
    assert_eq!(far.sids("today"), ["b", "c"]);
    far.wait_for_state("connected");
}

/// From a push until it is in force on three agents. Prints what it measures, and compares it with the promise; on a machine
/// that does other things it says nothing.
#[test]
#[ignore = "it measures time"]
fn push_to_in_force() {
    const PUSHES: usize = 200;
    const PROMISE: Duration = Duration::from_millis(100);
    let Some(nats) = Nats::start() else { return };
    let hosts = three(&nats);
    let revision = nats.push(&["blacklist", "add", "first"]);
    hosts.iter().for_each(|host| host.wait_for_revision(revision));
    let (tell, told) = mpsc::channel();
    for (number, host) in hosts.iter().enumerate() {
        let tell = tell.clone();
        host.events(move |event| {
            if event["kind"] == "change" {
                let _measured = tell.send((number, Instant::now()));
            }
        });
    }
    let mut wire = nats.wire();
    let mut times: Vec<Duration> = Vec::new();
    for n in 0..PUSHES {
        let sid = format!("s{n}");
        let start = Instant::now();
        wire.put(&key_of(&sid), &format!("{sid}\n"));
        let mut left: BTreeSet<usize> = (0..hosts.len()).collect();
        let mut last = start;
        while !left.is_empty() {
            let (number, at) = told.recv_timeout(tests::PATIENCE).unwrap();
            assert!(left.remove(&number), "two changes of one host for one push");
            last = last.max(at);
        }
        times.push(last - start);
    }
    for host in &hosts {
        host.wait_for_revision(revision + PUSHES as u64);
    }
    times.sort_unstable();
    let (p50, p99) = (times[PUSHES / 2], times[PUSHES * 99 / 100]);
    println!("{PUSHES} pushes to 3 agents: p50 {p50:?}, p99 {p99:?}, longest {:?}", times[PUSHES - 1]);
    assert!(p99 <= PROMISE, "p99 is {p99:?}, more than {PROMISE:?}");
}

/// What a full blacklist had no room for comes in when there is room and the bucket is read again.
#[test]
fn a_full_host_tells_and_tries_again() {
    let Some(mut nats) = Nats::start() else { return };
    let mut host = Host::new("small", &nats.url(), "");
    host.more = "[blacklist]\ncapacity = 2\n".to_owned();
    host.start();
    let revision = nats.push(&["blacklist", "add", "a", "b", "c"]);
    host.wait_for_revision(revision);
    let there = host.sids("today");
    assert_eq!(there.len(), 2);
    assert!(
        host.fleet()["why"].as_str().unwrap_or_default().contains("blacklist.capacity"),
        "{}",
        host.fleet()
    );
    let revision = nats.push(&["blacklist", "remove", &there[0]]);
    host.wait_for_revision(revision);
    nats.kill();
    host.wait_for_state("away");
    nats.resume();
    wait_for("the one that found no room", || (host.sids("today").len() == 2).then_some(()));
    wait_for("nothing to be wrong", || (host.fleet()["why"] == Value::Null).then_some(()));
    assert!(!host.sids("today").contains(&there[0]));
}
