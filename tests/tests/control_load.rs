//! Many at once: writers, viewers while lists change, and lists of a million.

use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tests::binary::{Edgegate, Home};
use tests::conn::Conn;
use tests::contract::{Config, SEGMENT, claims, get, now, token_of};
use tests::control::{Api, controlled, run, session_status};
use tests::origin::Origin;
use tests::raw::{Echo, Reply};
use tests::wait_for;
use validator_core::Day;

fn today() -> String {
    Day::of(now()).to_string()
}

/// Content with a token of a session.
fn target(sid: &str) -> String {
    let mut claims = claims();
    claims.insert("sid".into(), sid.into());
    format!("/{}{SEGMENT}", token_of(&claims))
}

#[test]
fn fifty_writers() {
    const WRITERS: usize = 50;
    const PUSHES: usize = 12;
    let origin = Origin::start();
    let (gate, api) = run(&Config::new(&origin.url()));
    let first = api.version();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let api = &api;
            scope.spawn(move || {
                let mut version = first;
                for push in 0..PUSHES {
                    let answer = match push % 3 {
                        0 => api.ask("PUT", &format!("/v1/blacklist/today/w{writer}-{push}")),
                        1 => api.ask("PUT", &format!("/v1/prefilter/deny/10.{writer}.{push}.1")),
                        _ => api.put(
                            "POST",
                            "/v1/blacklist",
                            "text/plain",
                            format!("w{writer}-{push}-a,w{writer}-{push}-b"),
                        ),
                    };
                    let answer = answer.done();
                    assert!(
                        answer.version() > version,
                        "writer {writer}: {version}, then {}",
                        answer.version()
                    );
                    version = answer.version();
                }
            });
        }
    });
    let commits = api.version() - first;
    println!("{} pushes in {commits} commits", WRITERS * PUSHES);
    assert!(commits < (WRITERS * PUSHES) as u64, "nothing was committed together");
    let look = |api: &Api| {
        let sids: BTreeSet<String> = api.sids("today").into_iter().collect();
        let lists = api.get("/v1/prefilter").done();
        let nets: BTreeSet<&str> =
            lists.body["deny"].as_array().unwrap().iter().map(|net| net["cidr"].as_str().unwrap()).collect();
        for (writer, push) in (0..WRITERS).flat_map(|writer| (0..PUSHES).map(move |push| (writer, push))) {
            match push % 3 {
                0 => assert!(sids.contains(&format!("w{writer}-{push}"))),
                1 => assert!(nets.contains(&*format!("10.{writer}.{push}.1/32"))),
                _ => {
                    assert!(["a", "b"].iter().all(|part| sids.contains(&format!("w{writer}-{push}-{part}"))))
                }
            }
        }
    };
    look(&api);
    let gate = gate.restart(Signal::KILL);
    look(&Api::of(&gate));
}

/// What a client sees of a verdict.
type Seen = (u16, Option<String>, Option<String>);

fn seen(reply: &Reply) -> Seen {
    let header = |name| reply.header(name).map(str::to_owned);
    (reply.status, header("location"), header("x-edgegate-reason"))
}

/// Every request is judged by one version or the other, never by half of each, and each gets an answer.
#[test]
fn pushes_while_viewers_watch() {
    const VIEWERS: usize = 6;
    const FLIPS: usize = 60;
    let echo = Echo::start();
    let (gate, api) = run(&Config::new(&format!("http://{}", echo.address)));
    let address = gate.gateway();
    let overlay = |name: &str, list: &str, path: &str| {
        format!(
            "[blacklist.days]\n{} = \"{list}\"\n[[route]]\nname = \"{name}\"\nwhen = [ {{ variable = \"uri\", operator = \"starts_with\", value = \"/Content/\" }} ]\n\
             check = \"content-jwt\"\npath_validation = ['{path}']\non_deny = {{ redirect = \"https://{name}.example/\" }}\n",
            today()
        )
    };
    // By the list, to one place; by the path, to another. A mixture would let it pass, or send it elsewhere.
    let overlays = [
        overlay("one", "viewer", "/Content/Channel/(?<cid>[^/]+)/(?<stt>[^/]+)/.*"),
        overlay("two", "nobody", "/Content/Elsewhere/(?<cid>[^/]+)/(?<stt>[^/]+)/.*"),
    ];
    let target = target("viewer");
    let put = |text: &str| api.put("PUT", "/v1/config", "application/toml", text).done();
    let expected: Vec<Seen> = overlays
        .iter()
        .map(|overlay| {
            let _pushed = put(overlay);
            seen(&Conn::open(address).send(get(&target)).reply())
        })
        .collect();
    assert!(expected[0].1 != expected[1].1 && expected.iter().all(|seen| seen.1.is_some()), "{expected:?}");

    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let counts = std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..VIEWERS)
            .map(|viewer| {
                let (done, answered, expected, target) = (&done, &answered, &expected, &target);
                scope.spawn(move || {
                    let mut conn = Conn::open(address);
                    let mut counts = BTreeMap::<Seen, usize>::new();
                    while !done.load(Ordering::SeqCst) {
                        // One of them sends the next request before the answer has come.
                        let reply = conn.send(get(target)).reply();
                        if reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
                        {
                            conn = Conn::open(address);
                        }
                        let seen = seen(&reply);
                        assert!(
                            expected.contains(&seen),
                            "viewer {viewer}: {seen:?} is neither of {expected:?}"
                        );
                        *counts.entry(seen).or_default() += 1;
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    counts
                })
            })
            .collect();
        for flip in 0..FLIPS {
            let _pushed = put(&overlays[flip % 2]);
            // In force with the answer, for whoever asks from now on.
            assert_eq!(
                seen(&Conn::open(address).send(get(&target)).reply()),
                expected[flip % 2],
                "flip {flip}"
            );
            let before = answered.load(Ordering::SeqCst);
            wait_for("viewers to go on", || {
                (answered.load(Ordering::SeqCst) >= before + VIEWERS || done.load(Ordering::SeqCst))
                    .then_some(())
            });
        }
        done.store(true, Ordering::SeqCst);
        let mut all = BTreeMap::<Seen, usize>::new();
        for viewer in viewers {
            for (seen, count) in viewer.join().unwrap() {
                *all.entry(seen).or_default() += count;
            }
        }
        all
    });
    println!("{FLIPS} flips: {counts:?}");
    assert_eq!(counts.len(), 2, "{counts:?}");
}

/// Session by session: a listed one is refused from the answer on, and whoever else watches does not notice.
#[test]
fn sessions_come_and_go_while_viewers_watch() {
    let echo = Echo::start();
    let (gate, api) = run(&Config::new(&format!("http://{}", echo.address)));
    let address = gate.gateway();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..4)
            .map(|viewer| {
                let (done, target) = (&done, target(&format!("viewer{viewer}")));
                scope.spawn(move || {
                    let (mut conn, mut count) = (Conn::open(address), 0);
                    while !done.load(Ordering::SeqCst) {
                        assert_eq!(
                            conn.send(get(&target)).reply().status,
                            200,
                            "a viewer that nobody has listed"
                        );
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for round in 0..100 {
            let path = format!("/v1/blacklist/today/s{}", round % 7);
            let _listed = api.ask("PUT", &path).done();
            assert_eq!(session_status(address, &format!("s{}", round % 7)), 403);
            let _gone = api.ask("DELETE", &path).done();
            assert_eq!(session_status(address, &format!("s{}", round % 7)), 200);
        }
        done.store(true, Ordering::SeqCst);
        for viewer in viewers {
            assert!(viewer.join().unwrap() > 0);
        }
    });
}

fn roomy() -> (Edgegate, Api) {
    let echo = Echo::start();
    let home = Home::new();
    let config = Config::new(&format!("http://{}", echo.address)).text();
    let text = controlled(&home, &config).replace("retain_days = 31", "retain_days = 31\ncapacity = 3000000");
    let gate = home.run(&text);
    let api = Api::of(&gate);
    (gate, api)
}

/// A million, in builds that are meant to be fast. Others have a fifth of them, and `EDGEGATE_SESSIONS` has its say.
#[test]
fn a_million_sessions_under_load() {
    let otherwise = if cfg!(debug_assertions) { 200_000 } else { 1_000_000 };
    let many: usize = std::env::var("EDGEGATE_SESSIONS").ok().map_or(otherwise, |text| text.parse().unwrap());
    let (gate, api) = roomy();
    let sid = |n: usize| format!("session-{n:07}-of-a-viewer");
    gate.home().write("list.txt", (0..many).map(|n| sid(n) + "\n").collect::<String>());
    let (before, started) = (gate.peak_memory(), std::time::Instant::now());
    let done = AtomicBool::new(false);
    let import = |arguments: &[&str]| {
        let output = gate.home().output(
            &[&["ctl", "--socket", "control.sock", "blacklist", "import", "list.txt"], arguments].concat(),
        );
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    std::thread::scope(|scope| {
        let viewers: Vec<_> = (0..2)
            .map(|_| {
                let (done, target, address) = (&done, target("viewer"), gate.gateway());
                scope.spawn(move || {
                    let mut conn = Conn::open(address);
                    while !done.load(Ordering::SeqCst) {
                        assert_eq!(conn.send(get(&target)).reply().status, 200);
                    }
                })
            })
            .collect();
        let said = import(&[]);
        assert!(said.contains(&format!("added {many}")), "{said}");
        done.store(true, Ordering::SeqCst);
        viewers.into_iter().for_each(|viewer| viewer.join().unwrap());
    });
    let more = gate.peak_memory().saturating_sub(before);
    println!("{many} sessions in {:?}, {} MiB more", started.elapsed(), more >> 20);
    // Names of 27 bytes, twice where a table grows.
    assert!(more < 150 << 20, "{} MiB more for {many} sessions", more >> 20);
    assert_eq!(api.get("/v1/status").done().body["blacklist"]["sessions"], many + 2);
    for n in (0..many).step_by(many / 500) {
        assert_eq!(session_status(gate.gateway(), &sid(n)), 403, "{}", sid(n));
    }
    assert!(import(&[]).contains(&format!("already there {many}")));
    let gate = gate.restart(Signal::KILL);
    let listed = Api::of(&gate).sids("today");
    assert_eq!(listed.len(), many + 2);
    assert!(
        (0..many).zip(&listed).all(|(n, listed)| *listed == sid(n) || n >= many),
        "not all, or not in order"
    );
    assert_eq!(session_status(gate.gateway(), &sid(many - 1)), 403);
}

/// What passes through is not kept.
#[test]
fn a_stream_does_not_sit_in_memory() {
    const LENGTH: usize = 100 << 20;
    let (gate, api) = roomy();
    let names: String = (0..1000).map(|n| format!("{n:0>1000}\n")).collect();
    let _listed = api.put("POST", "/v1/blacklist", "text/plain", &names).done();
    let before = gate.peak_memory();
    let mut conn = api.connect();
    conn.send("POST /v1/blacklist HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("{:x}\r\n{names}\r\n", names.len());
    let chunks = LENGTH / names.len();
    for _ in 0..chunks {
        conn.try_send(chunk.as_bytes()).unwrap();
    }
    let reply = conn.send("0\r\n\r\n").reply();
    let answer = tests::control::judged("POST", "/v1/blacklist", reply).done();
    assert_eq!((answer.count("present"), answer.count("added")), (1000 * chunks as u64, 0));
    let more = gate.peak_memory().saturating_sub(before);
    println!("{} MiB passed through, {} MiB more", LENGTH >> 20, more >> 20);
    assert!(more < 80 << 20, "{} MiB more", more >> 20);
}
