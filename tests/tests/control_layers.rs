//! What lies over what: the file, what is pushed over it, and what stays removed; versions, and capacity.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use rustix::process::Signal;
use serde_json::{Value, json};
use std::sync::Barrier;
use tests::binary::{Edgegate, Home};
use tests::conn::Conn;
use tests::contract::{BLACKLISTED, Config, KID, LATER_SLOT, SEGMENT, get, now, token};
use tests::control::{Answer, Api, controlled, judged, run, session_status};
use tests::origin::Origin;
use tests::raw::Echo;
use validator_core::Day;

const TOML: &str = "application/toml";
const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

fn today() -> String {
    Day::of(now()).to_string()
}

fn yesterday() -> String {
    Day::from_number(Day::of(now()).number() - 1).to_string()
}

/// A key's value and where it comes from.
fn setting(api: &Api, key: &str) -> (Value, String) {
    let config = api.get("/v1/config").done();
    let values = config.body["values"].as_array().unwrap();
    let found = values.iter().find(|value| value["key"] == key).unwrap_or(&Value::Null);
    (found["value"].clone(), found["origin"].as_str().unwrap_or_default().to_owned())
}

fn put_config(api: &Api, text: &str) -> Answer {
    api.put("PUT", "/v1/config", TOML, text)
}

/// What the address lists do with one; countries are another matter.
fn verdict(api: &Api, client: &str) -> &'static str {
    let question = json!({ "url": "/open/x", "client": client }).to_string();
    let answer = api.put("POST", "/v1/check", JSON, question).done();
    if answer.body["reason"] == "ip_denied" { "deny" } else { "allow" }
}

#[test]
fn the_file_and_what_is_pushed_over_it() {
    let origin = Origin::start();
    let (gate, api) = run(&Config::new(&origin.url()));
    assert_eq!(setting(&api, "prefilter.deny"), (json!(["203.0.113.0/25"]), "file".into()));
    let overlay = "[prefilter]\ndeny = [\"198.51.100.7\"]\n[blacklist]\nretain_days = 7\n";
    let first = api.version();
    let pushed = put_config(&api, overlay).done();
    assert_eq!((&pushed.body["changed"], pushed.version()), (&json!(true), first + 1));
    let again = put_config(&api, overlay).done();
    assert_eq!((&again.body["changed"], again.version()), (&json!(false), first + 1));
    assert_eq!(setting(&api, "prefilter.deny"), (json!(["198.51.100.7"]), "pushed".into()));
    assert_eq!(setting(&api, "blacklist.retain_days"), (json!(7), "pushed".into()));
    assert_eq!(setting(&api, "gateway.upstream").1, "file");
    assert_eq!((verdict(&api, "203.0.113.5"), verdict(&api, "198.51.100.7")), ("allow", "deny"));
    assert_eq!(api.get("/v1/config").done().body["pushed"], overlay);
    assert_eq!(api.get("/v1/status").done().body["config"]["pushed"], true);

    // A file that changes below it.
    let text = std::fs::read_to_string(gate.home().path("edgegate.toml")).unwrap();
    let log = gate.reload(
        &text.replace("retain_days = 31", "retain_days = 30").replace("203.0.113.0/25", "203.0.113.0/26"),
    );
    assert!(log.contains("configuration reloaded"), "{log}");
    assert_eq!(setting(&api, "blacklist.retain_days"), (json!(7), "pushed".into()));
    assert_eq!(verdict(&api, "198.51.100.7"), "deny");
    let gate = gate.restart(Signal::KILL);
    let api = Api::of(&gate);
    assert_eq!(setting(&api, "blacklist.retain_days"), (json!(7), "pushed".into()));
    let reset = api.ask("DELETE", "/v1/config").done();
    assert_eq!(reset.body["changed"], true);
    assert_eq!(setting(&api, "blacklist.retain_days"), (json!(30), "file".into()));
    assert_eq!(setting(&api, "prefilter.deny"), (json!(["203.0.113.0/26"]), "file".into()));
    assert_eq!((verdict(&api, "203.0.113.5"), verdict(&api, "198.51.100.7")), ("deny", "allow"));

    // A file that does not go with what is pushed: refused as a whole, and where is said.
    let route = "[[route]]\nname = \"mine\"\nwhen = [ { variable = \"uri\", operator = \"exists\" } ]\ncheck = \"secure-token\"\nsecret = \"classes\"\n";
    let _pushed = put_config(&api, route).done();
    let log = gate.reload(&text.replace("[secure_token.classes]", "[secure_token.lessons]"));
    assert!(log.contains("reload refused") && log.contains("pushed:5:"), "{log}");
    let log = gate.reload(&text);
    assert!(log.contains("configuration reloaded"), "{log}");
}

/// Every problem with its place, and nothing changes; by a dry run, too.
#[test]
fn what_cannot_be_in_force() {
    let origin = Origin::start();
    let (gate, api) = run(&Config::new(&origin.url()));
    let version = api.version();
    for query in ["", "?dry_run=true"] {
        let put = |text: &str| api.put("PUT", &format!("/v1/config{query}"), TOML, text);
        let answer = put("# mine\n[blacklist]\nretain_day = 7\n\n[[route]]\ncheck = \"maybe\"\n");
        let _message = answer.refused(422, "invalid");
        let problems = answer.body["problems"].as_array().unwrap();
        for (line, key) in [(3, "retain_day"), (6, "check")] {
            let found = problems.iter().find(|problem| problem["line"] == line);
            let found = found.unwrap_or_else(|| panic!("nothing on line {line}: {problems:?}"));
            assert_eq!(found["file"], "pushed", "{found}");
            assert!(found.to_string().contains(key) && found["column"].as_u64().unwrap() > 0, "{found}");
        }
        let syntax = put("[blacklist]\nretain_days = \n");
        let _message = syntax.refused(422, "invalid");
        assert_eq!(
            (&syntax.body["problems"][0]["file"], &syntax.body["problems"][0]["line"]),
            (&json!("pushed"), &json!(2))
        );
        // A file of the host that is named and not there.
        let _message = put("[geo]\ncity = \"absent.mmdb\"\n").refused(422, "invalid");
        // What only a restart can change.
        for (text, key) in [
            ("[gateway]\nlisten = [\"127.0.0.1:1\"]", "gateway.listen"),
            ("[gateway]\nmax_connections = 7", "gateway.max_connections"),
            ("[auth]\nlisten = [\"127.0.0.1:1\"]", "auth.listen"),
            ("[metrics]\nlisten = \"127.0.0.1:1\"", "metrics.listen"),
            ("[control]\nsocket = \"/run/elsewhere.sock\"", "control.socket"),
            ("state_dir = \"/var/lib/elsewhere\"", "state_dir"),
            ("[log]\nlevel = \"debug\"", "log"),
            ("[prefilter]\nmode = \"generic\"", "prefilter.mode"),
            ("[prefilter]\npin_dir = \"/sys/fs/bpf/elsewhere\"", "prefilter.pin_dir"),
        ] {
            let answer = put(text);
            let message = answer.refused(422, "invalid");
            assert!(message.contains(&format!("`{key}`")) && message.contains("restart"), "{message}");
        }
    }
    assert_eq!(api.version(), version);
    assert_eq!(api.get("/v1/config").done().body["pushed"], Value::Null);
    assert_eq!(Conn::open(gate.gateway()).send(get(&format!("/{}{SEGMENT}", token()))).reply().status, 200);
}

#[test]
fn versions() {
    let origin = Origin::start();
    let (_gate, api) = run(&Config::new(&origin.url()));
    let put = |version: u64, text: &str| {
        api.send("PUT", "/v1/config", &[("If-Match", &format!("\"{version}\""))], text)
    };
    let first = api.version();
    let overlay = |days: u64| format!("[blacklist]\nretain_days = {days}\n");
    let second = put(first, &overlay(8)).done().version();
    assert_eq!(second, first + 1);
    let stale = put(first, &overlay(9));
    let _message = stale.refused(412, "version_mismatch");
    assert_eq!((stale.version(), setting(&api, "blacklist.retain_days").0), (second, json!(8)));
    // Sessions come and go all the time; it is still the same configuration.
    let third = api.ask("PUT", "/v1/blacklist/today/a").done().version();
    let fourth = put(second, &overlay(10)).done().version();
    assert!(fourth > third);
    for stale in [first, second, third] {
        let _message = put(stale, &overlay(9)).refused(412, "version_mismatch");
        let _message = api
            .send("DELETE", "/v1/config", &[("If-Match", &format!("\"{stale}\""))], "")
            .refused(412, "version_mismatch");
    }
    let _any = api.send("PUT", "/v1/config", &[("If-Match", "*")], overlay(9)).done();
    assert!(api.version() > fourth);

    // Of several who have looked at the same version one wins, however close together they come.
    for (version, round) in (api.version()..).zip(0..15) {
        let barrier = Barrier::new(8);
        let put = &put;
        let won: Vec<u64> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let barrier = &barrier;
                    let text = overlay(10 + round * 8 + writer);
                    scope.spawn(move || {
                        barrier.wait();
                        let answer = put(version, &text);
                        if answer.status == 200 {
                            Some(answer.version())
                        } else {
                            answer.refused(412, "version_mismatch");
                            None
                        }
                    })
                })
                .collect();
            writers.into_iter().filter_map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(won, [version + 1], "round {round}");
    }
}

/// What the file lists and somebody has removed stays removed: after a restart, and after the file was read again.
#[test]
fn removed_from_the_file() {
    let origin = Origin::start();
    let (gate, api) = run(&Config::new(&origin.url()));
    let text = std::fs::read_to_string(gate.home().path("edgegate.toml")).unwrap();
    assert_eq!(session_status(gate.gateway(), BLACKLISTED), 403);
    let gone = api.ask("DELETE", &format!("/v1/blacklist/today/{BLACKLISTED}")).done();
    assert_eq!(gone.count("removed"), 1);
    assert_eq!(verdict(&api, "203.0.113.5"), "deny");
    assert_eq!(api.ask("DELETE", "/v1/prefilter/deny/203.0.113.0%2F25").done().count("removed"), 1);
    assert_eq!(api.ask("DELETE", &format!("/v1/secrets/{KID}/0")).done().count("removed"), 1);
    let look = |gate: &Edgegate| {
        let api = Api::of(gate);
        assert_eq!(api.sids("today"), ["session123"]);
        assert_eq!(api.get("/v1/blacklist").done().body["sessions"], 1);
        assert_eq!(session_status(gate.gateway(), BLACKLISTED), 200);
        assert_eq!(verdict(&api, "203.0.113.5"), "allow");
        let lists = api.get("/v1/prefilter").done();
        assert_eq!(lists.body["deny"], json!([]));
        let slots = api.get("/v1/secrets").done();
        let slots: Vec<_> = slots.body["secrets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| (s["slot"].clone(), s["origin"].clone()))
            .collect();
        assert_eq!(slots, [(json!(LATER_SLOT), json!("file"))]);
    };
    look(&gate);
    let reload = |gate: &Edgegate, text: &str| {
        let log = gate.reload(text);
        assert!(log.contains("configuration reloaded"), "{log}");
    };
    reload(&gate, &text);
    look(&gate);
    // The file names them no more, and then again.
    let without =
        text.replace(&format!("{BLACKLISTED},{BLACKLISTED},"), "").replace("\"203.0.113.0/25\"", "");
    assert_ne!(without, text);
    reload(&gate, &without);
    look(&gate);
    reload(&gate, &text);
    look(&gate);
    let mut gate = gate;
    for signal in [Signal::KILL, Signal::TERM] {
        gate = gate.restart(signal);
        look(&gate);
        reload(&gate, &text);
        look(&gate);
    }
    // Until somebody says otherwise.
    let api = Api::of(&gate);
    assert_eq!(api.ask("PUT", &format!("/v1/blacklist/today/{BLACKLISTED}")).done().count("added"), 1);
    assert_eq!(api.ask("PUT", "/v1/prefilter/deny/203.0.113.0/25").done().count("added"), 1);
    let gate = gate.restart(Signal::KILL);
    assert_eq!(
        (session_status(gate.gateway(), BLACKLISTED), verdict(&Api::of(&gate), "203.0.113.5")),
        (403, "deny")
    );
    // A day's list that is dropped, and all.
    assert_eq!(Api::of(&gate).ask("DELETE", "/v1/blacklist/today").done().count("removed"), 2);
    let gate = gate.restart(Signal::KILL);
    assert_eq!(Api::of(&gate).get("/v1/blacklist").done().body["sessions"], 0);
    assert_eq!(session_status(gate.gateway(), BLACKLISTED), 200);
}

#[test]
fn a_blacklist_that_is_full() {
    let origin = Origin::start();
    let home = Home::new();
    let text = controlled(&home, &Config::new(&origin.url()).text())
        .replace("retain_days = 31", "retain_days = 31\ncapacity = 5");
    let gate = home.run(&text);
    let api = Api::of(&gate);
    let raise = |answer: &Answer| {
        assert!(answer.body["message"].as_str().unwrap().contains("blacklist.capacity"), "{}", answer.body)
    };
    let full = |answer: Answer| {
        let _message = answer.refused(422, "full");
        raise(&answer);
    };
    // Two are in the file.
    let some = api.put("POST", "/v1/blacklist", TEXT, "a,b,c,d,e");
    assert_eq!((some.status, some.count("added"), some.count("refused")), (207, 3, 2), "{some:?}");
    full(api.ask("PUT", "/v1/blacklist/today/d"));
    full(api.put("POST", "/v1/blacklist", TEXT, "d,e"));
    assert_eq!(session_status(gate.gateway(), "d"), 200);
    // Those that are there come to another day, too.
    assert_eq!(api.ask("PUT", &format!("/v1/blacklist/{}/a", yesterday())).done().count("added"), 1);
    // A whole list that would leave one more than there is room for: `a` stays, by yesterday's list.
    full(api.put("PUT", "/v1/blacklist/today", TEXT, "p,q,r,s,t"));
    assert_eq!(api.sids("today"), ["a", "b", "c", "session123", BLACKLISTED], "as one or not at all");
    assert_eq!(api.put("PUT", "/v1/blacklist/today", TEXT, "p,q,r,s").done().count("added"), 4);
    assert_eq!(api.get("/v1/blacklist").done().body["sessions"], 5);

    // Room by the overlay, which cannot go then.
    let _pushed = put_config(&api, "[blacklist]\ncapacity = 7\n").done();
    assert_eq!(api.put("POST", "/v1/blacklist", TEXT, "x,y").done().count("added"), 2);
    full(api.ask("DELETE", "/v1/config"));
    full(put_config(&api, "[blacklist]\ncapacity = 6\n"));
    full(api.put("PUT", "/v1/config?dry_run=true", TOML, "[blacklist]\ncapacity = 6\n"));
    let gate = gate.restart(Signal::KILL);
    let api = Api::of(&gate);
    assert_eq!(api.get("/v1/blacklist").done().body["sessions"], 7);
    let _gone = api.put("POST", "/v1/blacklist?remove=true", TEXT, "x,y").done();
    let _reset = api.ask("DELETE", "/v1/config").done();
    full(api.ask("PUT", "/v1/blacklist/today/x"));
}

/// A list of any form that breaks off keeps the parts that were stored, and says so.
#[test]
fn a_body_that_breaks_off() {
    let echo = Echo::start();
    let (_gate, api) = run(&Config::new(&format!("http://{}", echo.address)));
    let names: String = (0..50_000).map(|n| format!("s{n}\n")).collect();
    let mut conn = api.connect();
    conn.send(format!(
        "POST /v1/blacklist HTTP/1.1\r\nHost: gate\r\nContent-Length: {}\r\n\r\n{names}half of a na",
        names.len() + 100
    ));
    conn.finish();
    let answer = judged("POST", "/v1/blacklist", conn.reply());
    let _message = answer.refused(400, "bad_request");
    assert_eq!((answer.count("added"), answer.count("refused")), (50_000, 0), "{}", answer.body);
    let listed = api.sids(&today());
    assert!(!listed.contains(&"half of a na".to_owned()), "half a name is none");
}

/// What is no HTTP, or not enough of it, gets no answer that is no JSON.
#[test]
fn requests_that_are_none() {
    let origin = Origin::start();
    let (_gate, api) = run(&Config::new(&origin.url()));
    for request in [
        "GET /v1/status HTTP/1.1\r\n\r\n".to_owned(),
        "GET /v1/status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".into(),
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(20_000)),
        format!("GET /v1/status HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(66_000)),
        "POST /v1/blacklist HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
    ] {
        let reply = api.connect().send(&request).reply();
        assert!((400..500).contains(&reply.status), "{reply:?}");
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"));
        assert!(body["error"].is_string() && body["message"].is_string(), "{body}");
        assert_eq!(reply.header("content-type"), Some("application/json"));
    }
    assert_eq!(api.get("/v1/status").status, 200);
}
