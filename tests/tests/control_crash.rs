//! `kill -9` at any moment under a stream of pushes: what was acknowledged is there, and nothing is there by half.
//!
//! Every writer knows what it was told is stored, and the one push that it has no answer to. The seed is printed, and may be
//! given as `EDGEGATE_SEED`; `EDGEGATE_ROUNDS` asks for other numbers of rounds.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use rustix::process::Signal;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::binary::{Edgegate, Home};
use tests::contract::{Config, now};
use tests::control::{Api, controlled, session_status};
use tests::edge::{Edge, places};
use tests::kernel::{listed, pinned_sessions};
use tests::netns::Net;
use tests::origin::Origin;
use tests::random::Random;
use validator_core::Day;

/// Sessions of one push.
const MANY: usize = 40;

/// Names that come and go.
const FEW: u64 = 12;

fn day(back: u32) -> Day {
    Day::from_number(Day::of(now()).number() - back)
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| text.parse().unwrap())
}

/// What a writer knows of one thing: the last state that was acknowledged, and one that may have come after it.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    sure: Option<u64>,
    perhaps: Option<Option<u64>>,
}

impl Known {
    fn allows(&self, found: Option<u64>) -> bool {
        found == self.sure || self.perhaps == Some(found)
    }
}

/// What a writer does, again and again, until the agent is gone. Each thing has a name, and a number that says which push it
/// is of; `None`: it was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Single sessions come and go.
    Session,
    /// Many in one call, never to be removed.
    Batch,
    /// A day's list is replaced as one.
    Day,
    /// Slots of a secret are set and removed.
    Slot,
    /// The overlay.
    Config,
    /// Networks come and go.
    Net,
}

const KINDS: [Kind; 6] = [Kind::Session, Kind::Batch, Kind::Day, Kind::Slot, Kind::Config, Kind::Net];

type Things = BTreeMap<(Kind, u64), Known>;

/// Pushes until there is no answer, and counts in `acknowledged`.
fn write(
    api: &Api,
    kind: Kind,
    things: &mut Things,
    next: &AtomicU64,
    random: &mut Random,
    acknowledged: &AtomicU64,
) {
    loop {
        let push = next.fetch_add(1, Ordering::Relaxed);
        let name = match kind {
            Kind::Batch => push,
            Kind::Day | Kind::Config => 0,
            Kind::Session | Kind::Slot | Kind::Net => random.number() % FEW,
        };
        let known = things.entry((kind, name)).or_default();
        let remove = match kind {
            Kind::Session | Kind::Slot | Kind::Net | Kind::Config => {
                known.sure.is_some() && random.once_in(2)
            }
            Kind::Batch | Kind::Day => false,
        };
        // One that comes again has nothing that would tell it from the last.
        let wanted = (!remove).then_some(if matches!(kind, Kind::Session | Kind::Net) { 0 } else { push });
        known.perhaps = Some(wanted);
        let method = if remove { "DELETE" } else { "PUT" };
        let many = |what: &str| (0..MANY).map(|n| format!("{what}{push}-{n}\n")).collect::<String>();
        let (method, path, form, body) = match kind {
            Kind::Session => {
                (method, format!("/v1/blacklist/{}/one{name}", day(2)), "text/plain", String::new())
            }
            Kind::Batch => ("POST", format!("/v1/blacklist?day={}", day(0)), "text/plain", many("batch")),
            Kind::Day => ("PUT", format!("/v1/blacklist/{}", day(1)), "text/plain", many("day")),
            Kind::Slot => {
                let key = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, [7; 32]);
                let body = json!({ "key": key, "until": 2_000_000_000 + push }).to_string();
                (method, format!("/v1/secrets/pushed/{name}"), "application/json", body)
            }
            Kind::Config => (
                method,
                "/v1/config".into(),
                "application/toml",
                format!("# {push}\n[blacklist]\nretain_days = {}\n", 20 + push % 5),
            ),
            Kind::Net => {
                (method, format!("/v1/prefilter/deny/198.51.100.{name}"), "text/plain", String::new())
            }
        };
        let Ok(answer) = api.try_send(method, &path, &[("Content-Type", form)], body) else { return };
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        *known = Known { sure: wanted, perhaps: None };
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Everything that the agent has, in the same words.
fn found(api: &Api) -> BTreeMap<(Kind, u64), u64> {
    let mut all = BTreeMap::new();
    let mut lists: BTreeMap<(Kind, u64), BTreeSet<String>> = BTreeMap::new();
    for (back, kind, prefix) in [(0, Kind::Batch, "batch"), (1, Kind::Day, "day")] {
        for sid in api.sids(&day(back).to_string()) {
            let Some((push, n)) = sid.strip_prefix(prefix).and_then(|rest| rest.split_once('-')) else {
                continue;
            };
            lists.entry((kind, push.parse().unwrap())).or_default().insert(n.to_owned());
        }
    }
    for ((kind, push), names) in lists {
        assert_eq!(names.len(), MANY, "half of {kind:?} {push}");
        let name = if kind == Kind::Batch { push } else { 0 };
        assert_eq!(all.insert((kind, name), push), None, "two lists in place of one");
    }
    for sid in api.sids(&day(2).to_string()) {
        all.insert((Kind::Session, sid.strip_prefix("one").unwrap().parse().unwrap()), 0);
    }
    for slot in api.get("/v1/secrets").done().body["secrets"].as_array().unwrap() {
        if slot["kid"] == "pushed" {
            all.insert(
                (Kind::Slot, slot["slot"].as_u64().unwrap()),
                slot["until"].as_u64().unwrap() - 2_000_000_000,
            );
        }
    }
    if let Some(text) = api.get("/v1/config").done().body["pushed"].as_str() {
        let push: u64 =
            text.strip_prefix("# ").and_then(|rest| rest.lines().next()).unwrap().parse().unwrap();
        all.insert((Kind::Config, 0), push);
        assert_eq!(
            api.get("/v1/blacklist").done().body["retain_days"],
            20 + push % 5,
            "what is pushed is in force"
        );
    }
    for net in api.get("/v1/prefilter").done().body["deny"].as_array().unwrap() {
        if let Some(name) = net["cidr"].as_str().unwrap().strip_prefix("198.51.100.") {
            all.insert((Kind::Net, name.strip_suffix("/32").unwrap().parse().unwrap()), 0);
        }
    }
    all
}

/// Compares, and takes what is there for sure from now on.
fn settle(things: &mut [Things], found: &BTreeMap<(Kind, u64), u64>, seed: u64) {
    let mut left = found.clone();
    for ((kind, name), known) in things.iter_mut().flatten() {
        let is = left.remove(&(*kind, *name));
        assert!(known.allows(is), "seed {seed}: {kind:?} {name} is {is:?}, but {known:?}");
        *known = Known { sure: is, perhaps: None };
    }
    assert!(left.is_empty(), "seed {seed}: nobody pushed {left:?}");
}

/// Runs rounds of pushing for up to so many milliseconds (for longer if a busy machine has not let a few pushes
/// through by then), and crashing; `check` looks at each agent that has come back.
fn rounds(mut gate: Edgegate, seed: u64, rounds: u64, longest: u64, check: impl Fn(&Edgegate, &Api)) {
    let mut random = Random(seed);
    let mut things: Vec<Things> = KINDS.map(|_| Things::new()).to_vec();
    let next = AtomicU64::new(1);
    let (pushed, mut version) = (AtomicU64::new(0), 0);
    for _ in 0..rounds {
        let api = Api::of(&gate);
        let (pause, mut seeds) =
            (Duration::from_millis(random.number() % longest), KINDS.map(|_| Random(random.number())));
        let enough = pushed.load(Ordering::Relaxed) + 1 + random.number() % 4;
        let home: Home = std::thread::scope(|scope| {
            for ((kind, things), random) in KINDS.iter().zip(&mut things).zip(&mut seeds) {
                let (api, next, pushed) = (&api, &next, &pushed);
                scope.spawn(move || write(api, *kind, things, next, random, pushed));
            }
            std::thread::sleep(pause);
            let patience = Instant::now() + Duration::from_secs(60);
            while pushed.load(Ordering::Relaxed) < enough && Instant::now() < patience {
                std::thread::sleep(Duration::from_millis(1));
            }
            // The writers end with it.
            gate.end(Signal::KILL)
        });
        assert!(
            pushed.load(Ordering::Relaxed) >= enough,
            "seed {seed}: hardly anything is acknowledged in a minute"
        );
        gate = home.start_again();
        let api = Api::of(&gate);
        settle(&mut things, &found(&api), seed);
        let after = api.version();
        assert!(after >= version, "seed {seed}: version {after} after {version}");
        version = after;
        check(&gate, &api);
        // Not to grow without end.
        if things.iter().map(BTreeMap::len).sum::<usize>() > 300 {
            let gone = api.ask("DELETE", &format!("/v1/blacklist/{}", day(0))).done();
            assert!(gone.count("removed") > 0);
            things.iter_mut().for_each(|things| things.retain(|(kind, _), _| *kind != Kind::Batch));
        }
    }
    println!("seed {seed}: {rounds} crashes, {} pushes acknowledged", pushed.into_inner());
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_torn() {
    let seed = number("EDGEGATE_SEED", now());
    println!("EDGEGATE_SEED={seed}");
    let origin = Origin::start();
    let home = Home::new();
    let text = controlled(&home, &Config::new(&origin.url()).text());
    rounds(home.run(&text), seed, number("EDGEGATE_ROUNDS", 300), 60, |gate, api| {
        // What is listed is in force, too.
        if let Some(sid) = api.sids(&day(1).to_string()).first() {
            assert_eq!(session_status(gate.gateway(), sid), 403);
        }
    });
}

/// What the kernel looks for is what the store has, after each crash.
#[test]
fn the_kernel_has_what_the_store_has() {
    let Some(net) = Net::new() else { return };
    let seed = number("EDGEGATE_SEED", now());
    println!("EDGEGATE_SEED={seed}");
    let origin = Origin::start();
    let edge = Edge::new(&net, &origin.url(), "native");
    let home = Home::new();
    home.write("city.mmdb", agent::demo::geodb::city_database(&places(&net), 1));
    let text = controlled(&home, &edge.text());
    rounds(home.run(&text), seed, number("EDGEGATE_ROUNDS", 25), 500, |gate, api| {
        let days = api.get("/v1/blacklist").done();
        let retain = u32::try_from(days.body["retain_days"].as_u64().unwrap()).unwrap();
        let mut last_days: BTreeMap<String, u32> = BTreeMap::new();
        for day in days.body["days"].as_array().unwrap() {
            let day = day["day"].as_str().unwrap();
            let last = Day::from_name(day).unwrap().number() + retain;
            for sid in api.sids(day) {
                let known = last_days.entry(sid).or_insert(last);
                *known = last.max(*known);
            }
        }
        let wanted = last_days
            .iter()
            .map(|(sid, last)| listed(ebpf_abi::session_key(sid.as_bytes()).unwrap(), *last))
            .collect();
        assert_eq!(pinned_sessions(net.pin_dir()), wanted);
        let status = gate.home().output(&[
            "ctl",
            "--socket",
            "control.sock",
            "prefilter",
            "status",
            "--pin-dir",
            net.pin_dir().to_str().unwrap(),
        ]);
        let shown = String::from_utf8(status.stdout).unwrap();
        let lists = api.get("/v1/prefilter").done();
        let denied = lists.body["deny"].as_array().unwrap().len();
        for line in [format!("sessions: {} of", last_days.len()), format!("exact: {denied} of")] {
            assert!(shown.contains(&line), "{line:?} not in {shown}");
        }
    });
}
