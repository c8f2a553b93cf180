//! The writer on a store of its own and a clock that stands, without listeners.

use super::*;
use crate::clock::Clock;
use crate::events::Bus;
use crate::flows::Flows;
use crate::kernel::Part;
use crate::snapshot::Live;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::mpsc;
use tokio::runtime::Runtime;
use validator_core::{Day, Key};
use zeroize::Zeroizing;

/// 2026-01-01, shortly before midnight.
const NOW: u64 = 1_767_311_990;
const DAY: u64 = 86_400;
const RETAIN: u32 = 2;

/// What the configuration file lists.
#[derive(Debug, Clone, Default)]
struct InFile {
    sessions: BTreeSet<(u32, &'static str)>,
    nets: BTreeSet<&'static str>,
    slots: BTreeSet<u64>,
    more: String,
}

impl InFile {
    fn text(&self, folder: &Path) -> String {
        let mut text = format!(
            "state_dir = \"{0}/state\"\n[control]\nsocket = \"{0}/s\"\n[auth]\nlisten = [\"127.0.0.1:0\"]\n[prefilter]\ndeny = {1:?}\n",
            folder.display(),
            self.nets
        )
        .replace('{', "[")
        .replace('}', "]");
        if !self.slots.is_empty() {
            let slots: Vec<String> = self
                .slots
                .iter()
                .map(|slot| format!("{{ slot = {slot}, key = \"{}\" }}", key_text(1)))
                .collect();
            writeln!(text, "[secrets.k]\nslots = [{}]", slots.join(", ")).unwrap();
        }
        writeln!(text, "[blacklist]\nretain_days = {RETAIN}\n{}\n[blacklist.days]", self.more).unwrap();
        let days: BTreeSet<u32> = self.sessions.iter().map(|(back, _)| *back).collect();
        for back in days {
            let sids: Vec<&str> =
                self.sessions.iter().filter(|(of, _)| *of == back).map(|(_, sid)| *sid).collect();
            writeln!(text, "{} = \"{}\"", day(back), sids.join(",")).unwrap();
        }
        text
    }
}

fn key_text(byte: u8) -> String {
    URL_SAFE_NO_PAD.encode([byte; 32])
}

/// So many days before the first today.
fn day(back: u32) -> Day {
    Day::from_number(Day::of(NOW).number() - back)
}

struct Agent {
    // The first to go, since its thread uses all others.
    writer: Option<Writer>,
    live: Live,
    clock: Clock,
    folder: tempfile::TempDir,
    runtime: Runtime,
}

impl Agent {
    fn start(in_file: &InFile) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("edgegate.toml"), in_file.text(folder.path())).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let clock = Clock::fixed(NOW);
        let (writer, live) = Self::run(folder.path(), &clock, &runtime);
        Self { writer: Some(writer), live, clock, folder, runtime }
    }

    fn run(folder: &Path, clock: &Clock, runtime: &Runtime) -> (Writer, Live) {
        let _within = runtime.enter();
        let metrics = Metrics::new().unwrap();
        let (snapshot, store) = load(&folder.join("edgegate.toml"), clock.now(), &metrics).unwrap();
        let live = Live::new(snapshot);
        let (flows, events) = (Arc::new(Flows::new(metrics.flows_rejected.clone())), Bus::default());
        let kernel = Arc::new(Part::new(metrics.clone(), Arc::clone(&flows), events.clone()));
        let world = World { live: live.clone(), kernel, flows, metrics, clock: clock.clone(), events };
        (Writer::start(world, store).unwrap(), live)
    }

    fn restart(&mut self) {
        self.writer = None;
        let (writer, live) = Self::run(self.folder.path(), &self.clock, &self.runtime);
        (self.writer, self.live) = (Some(writer), live);
    }

    fn change(&self, change: Change) -> Result<Done, ChangeError> {
        self.writer.as_ref().unwrap().change_blocking(change).map(|applied| applied.done)
    }

    /// Hands several in so that they come as one group.
    fn together(&self, changes: Vec<Change>) -> Vec<Result<u64, ChangeError>> {
        let writer = self.writer.as_ref().unwrap();
        // The reply keeps the writer busy until all are there.
        let (go_on, wait) = mpsc::channel::<()>();
        writer.send(Change::Forget, Box::new(move |_| wait.recv().unwrap()));
        let outcomes: Vec<_> = changes
            .into_iter()
            .map(|change| {
                let (tell, told) = mpsc::channel();
                writer.send(change, Box::new(move |outcome| tell.send(outcome).unwrap()));
                told
            })
            .collect();
        go_on.send(()).unwrap();
        outcomes.into_iter().map(|told| told.recv().unwrap().map(|applied| applied.version)).collect()
    }

    fn write_file(&self, in_file: &InFile) {
        std::fs::write(self.folder.path().join("edgegate.toml"), in_file.text(self.folder.path())).unwrap();
    }

    fn stored(&self) -> Vec<(Day, String)> {
        let read = self.writer.as_ref().unwrap().store(|store| store.read().unwrap()).unwrap();
        let mut found = Vec::new();
        read.sessions(Day::from_number(0), &mut |day, sid, _| found.push((day, sid.to_owned()))).unwrap();
        found
    }

    /// Everything that is in force and may be different after a restart, as text.
    fn shown(&self) -> String {
        let snapshot = self.live.current();
        let config = &snapshot.config;
        let sessions: BTreeMap<&str, u32> = config.policy.sessions.iter().collect();
        let slots: BTreeSet<String> = config
            .slots
            .iter()
            .map(|info| {
                let origin = snapshot.overlay.origin_of_slot(&info.kid, info.slot);
                format!("{} {} {:?} {} {origin:?}", info.kid, info.slot, info.until, info.bytes)
            })
            .collect();
        let nets = |list, nets: &[IpNet]| -> BTreeSet<String> {
            nets.iter().map(|net| format!("{net} {:?}", snapshot.overlay.flags(list, net))).collect()
        };
        format!(
            "revision {}\nsessions {sessions:?}\ndays {:?}\nslots {slots:?}\ndeny {:?}\nallow {:?}\npushed {:?}\n",
            snapshot.revision,
            snapshot.overlay.days,
            nets(List::Deny, &config.kernel.deny),
            nets(List::Allow, &config.kernel.allow),
            snapshot.overlay.config.keys(),
        )
    }
}

fn edits(origin: Origin, back: u32, sids: &[&str], remove: bool) -> Change {
    let edits = sids.iter().map(|sid| SessionEdit { day: day(back), sid: (*sid).into() }).collect();
    Change::Sessions { origin, edits, remove }
}

fn secret(origin: Origin, slot: u64, byte: Option<u8>, until: Option<u64>) -> Change {
    let secret = byte.map(|byte| NewSecret {
        key: Key::new(&[byte; 32], false).unwrap(),
        bytes: Zeroizing::new(vec![byte; 32]),
        until,
        any_size: false,
    });
    Change::Secret { origin, kid: "k".into(), slot, secret }
}

fn net(origin: Origin, net: &str, remove: bool) -> Change {
    Change::Net { origin, list: List::Deny, net: net.parse().unwrap(), remove }
}

fn config(text: &str, expected: Option<u64>) -> Change {
    let text = Some(Zeroizing::new(text.to_owned()));
    Change::Config { origin: Origin::Pushed, text, expected, dry_run: false }
}

#[test]
fn lists_end_at_midnight() {
    let in_file = InFile { sessions: [(0, "f0"), (RETAIN, "f2")].into(), ..InFile::default() };
    let mut agent = Agent::start(&in_file);
    for (back, sid) in [(0, "p0"), (1, "p1"), (RETAIN, "p2"), (1, "both"), (RETAIN, "both")] {
        agent.change(edits(Origin::Pushed, back, &[sid], false)).unwrap();
    }
    let Done::Sessions(late) = agent.change(edits(Origin::Pushed, RETAIN + 1, &["late"], false)).unwrap()
    else {
        panic!()
    };
    assert!(late.added == 0 && late.refused[0].1.contains("has ended"), "{late:?}");
    let in_force = |agent: &Agent| -> Vec<&str> {
        let sessions = &agent.live.current().config.policy.sessions;
        ["f0", "f2", "p0", "p1", "p2", "both"]
            .into_iter()
            .filter(|sid| sessions.contains(sid, agent.clock.now()))
            .collect()
    };
    assert_eq!(in_force(&agent), ["f0", "f2", "p0", "p1", "p2", "both"]);
    agent.clock.set(NOW + DAY);
    // At once, before anybody has done anything.
    assert_eq!(in_force(&agent), ["f0", "p0", "p1", "both"]);
    assert_eq!(agent.stored().len(), 5);
    let Done::Counts(counts) = agent.change(Change::Forget).unwrap() else { panic!() };
    assert_eq!(counts.removed, 2, "f2 and p2");
    assert_eq!(
        agent.stored(),
        [(day(1), "both".to_owned()), (day(1), "p1".to_owned()), (day(0), "p0".to_owned())]
    );
    let before = agent.shown();
    agent.change(Change::Forget).unwrap();
    assert_eq!(agent.shown(), before, "once is enough");
    agent.restart();
    assert_eq!(agent.shown(), before);
    // The day is too old now.
    let refused =
        agent.change(Change::Day { origin: Origin::Pushed, day: day(RETAIN), sids: vec!["x".into()] });
    assert!(matches!(refused, Err(ChangeError::Invalid(_))), "{refused:?}");
    agent.clock.set(NOW + 10 * DAY);
    agent.change(Change::Forget).unwrap();
    assert!(agent.stored().is_empty() && agent.live.current().config.policy.sessions.is_empty());
}

/// A day is over for the store when it is over for tokens, even if nobody was there at midnight.
#[test]
fn a_restart_after_midnight() {
    let mut agent = Agent::start(&InFile { sessions: [(0, "f0")].into(), ..InFile::default() });
    agent.change(edits(Origin::Pushed, 1, &["a"], false)).unwrap();
    agent.change(edits(Origin::Pushed, 0, &["b"], false)).unwrap();
    agent.clock.set(NOW + 2 * DAY);
    agent.restart();
    assert_eq!(agent.live.current().config.policy.sessions.len(), 2);
    agent.change(Change::Forget).unwrap();
    agent.clock.set(NOW + 3 * DAY);
    agent.change(Change::Forget).unwrap();
    assert!(agent.stored().is_empty(), "{:?}", agent.stored());
}

#[test]
fn slots_have_an_end() {
    let mut agent = Agent::start(&InFile { slots: [0].into(), ..InFile::default() });
    agent.change(secret(Origin::Pushed, 5, Some(7), Some(NOW + 10))).unwrap();
    for _ in 0..2 {
        let snapshot = agent.live.current();
        let slots = snapshot.config.policy.keys.slots("k");
        let untils: Vec<_> = slots.iter().map(|slot| (slot.slot, slot.until)).collect();
        assert_eq!(untils, [(0, None), (5, Some(NOW + 10))]);
        agent.restart();
    }
    // The same without an end.
    agent.change(secret(Origin::Pushed, 5, Some(7), None)).unwrap();
    agent.restart();
    assert_eq!(agent.live.current().config.policy.keys.slots("k").last().unwrap().until, None);
}

/// One that cannot be done does not stand in the way of its neighbours, nor do they share its fate.
#[test]
fn a_group_with_mistakes() {
    let mut agent = Agent::start(&InFile { more: "capacity = 3".to_owned(), ..InFile::default() });
    let first = agent.live.current().revision;
    let outcomes = agent.together(vec![
        edits(Origin::Pushed, 0, &["a"], false),
        config("nonsense", None),
        secret(Origin::Pushed, 9, None, None),
        net(Origin::Pushed, "192.0.2.0/24", false),
        Change::Day {
            origin: Origin::Pushed,
            day: day(0),
            sids: ["p", "q", "r", "s"].map(Into::into).into(),
        },
        edits(Origin::Pushed, 0, &["b", "c", "d"], false),
    ]);
    let good: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, false, true, false, true], "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(ChangeError::Config(_))), "{outcomes:?}");
    assert!(matches!(outcomes[2], Err(ChangeError::NotFound(_))), "{outcomes:?}");
    assert!(matches!(outcomes[4], Err(ChangeError::Full(_))), "{outcomes:?}");
    let versions: Vec<u64> = outcomes.into_iter().filter_map(Result::ok).collect();
    assert_eq!(versions, [first + 1; 3], "one commit");
    let shown = agent.shown();
    assert!(
        shown.contains("\"a\"")
            && shown.contains("\"c\"")
            && !shown.contains("\"d\"")
            && shown.contains("192.0.2.0/24"),
        "{shown}"
    );
    agent.restart();
    assert_eq!(agent.shown(), shown);

    // What makes the group as a whole impossible is found out one by one.
    let missing = "[geo]\ncity = \"absent.mmdb\"\n";
    let outcomes = agent.together(vec![
        net(Origin::Pushed, "198.51.100.1/32", false),
        config(missing, None),
        net(Origin::Pushed, "198.51.100.2/32", false),
    ]);
    let good: Vec<bool> = outcomes.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, true], "{outcomes:?}");
    let outcomes = agent.together(vec![
        config("[blacklist]\ncapacity = 2\n", None),
        net(Origin::Pushed, "198.51.100.3/32", false),
    ]);
    assert!(matches!(outcomes[..], [Err(ChangeError::Full(_)), Ok(_)]), "{outcomes:?}");
    let shown = agent.shown();
    agent.restart();
    assert_eq!(agent.shown(), shown);
}

/// Two who have looked at the same version, in one group: the second has to look again.
#[test]
fn versions_within_a_group() {
    let agent = Agent::start(&InFile::default());
    let version = agent.live.current().revision;
    let text = |days: u32| format!("[blacklist]\nretain_days = {days}\n");
    let outcomes = agent.together(vec![config(&text(5), Some(version)), config(&text(6), Some(version))]);
    assert!(matches!(outcomes[..], [Ok(_), Err(ChangeError::Version { .. })]), "{outcomes:?}");
    let version = agent.live.current().revision;
    // A session is no configuration.
    let outcomes =
        agent.together(vec![edits(Origin::Pushed, 0, &["a"], false), config(&text(7), Some(version))]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(agent.change(config(&text(8), Some(version))).is_err());
    let version = agent.live.current().revision;
    // What changes nothing makes no other version.
    let outcomes =
        agent.together(vec![edits(Origin::Pushed, 0, &["a"], false), config(&text(7), Some(version))]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

const SIDS: [&str; 3] = ["a", "b", "c"];
const NETS: [&str; 3] = ["192.0.2.0/24", "192.0.2.7/32", "2001:db8::/32"];
const SLOTS: [u64; 2] = [0, 5];
const DAYS: [u32; 3] = [0, 1, 2];

/// What may be done, in any order.
#[derive(Debug, Clone)]
enum Act {
    Session(Origin, u32, &'static str, bool),
    Day(Origin, u32, BTreeSet<&'static str>),
    Everywhere(&'static str),
    AllDays,
    Net(Origin, &'static str, bool),
    Nets(BTreeSet<&'static str>),
    Slot(Origin, u64, bool),
    /// The file lists something, or no more, and is read again.
    FileSession(u32, &'static str),
    FileNet(&'static str),
    FileSlot(u64),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let origin = || prop::sample::select(Origin::STORED.to_vec());
    let some = |of: [&'static str; 3]| {
        prop::sample::subsequence(of.to_vec(), 0..=3).prop_map(|list| list.into_iter().collect())
    };
    let (day, sid, net) = (
        || prop::sample::select(DAYS.to_vec()),
        || prop::sample::select(SIDS.to_vec()),
        || prop::sample::select(NETS.to_vec()),
    );
    let slot = || prop::sample::select(SLOTS.to_vec());
    prop_oneof![
        6 => (origin(), day(), sid(), any::<bool>()).prop_map(|(o, d, s, r)| Act::Session(o, d, s, r)),
        2 => (origin(), day(), some(SIDS)).prop_map(|(o, d, s)| Act::Day(o, d, s)),
        1 => sid().prop_map(Act::Everywhere),
        1 => Just(Act::AllDays),
        4 => (origin(), net(), any::<bool>()).prop_map(|(o, n, r)| Act::Net(o, n, r)),
        1 => some(NETS).prop_map(Act::Nets),
        4 => (origin(), slot(), any::<bool>()).prop_map(|(o, s, r)| Act::Slot(o, s, r)),
        2 => (day(), sid()).prop_map(|(d, s)| Act::FileSession(d, s)),
        1 => net().prop_map(Act::FileNet),
        1 => slot().prop_map(Act::FileSlot),
        1 => Just(Act::Restart),
    ]
}

/// What is said of one entry. The operator's word counts most, and is forgotten once it makes no difference.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    fleet: bool,
    operator: Option<bool>,
}

impl Entry {
    fn is_listed(self, in_file: bool) -> bool {
        self.operator.unwrap_or(self.fleet || in_file)
    }

    fn tell(&mut self, origin: Origin, remove: bool, in_file: bool) {
        match (origin, remove) {
            (Origin::Fleet, false) => self.fleet = true,
            (Origin::Fleet, true) => {
                if self.fleet && !in_file && self.operator == Some(false) {
                    self.operator = None;
                }
                self.fleet = false;
            }
            (_, false) => self.operator = Some(true),
            (_, true) if !self.is_listed(in_file) => {}
            (_, true) => self.operator = (self.fleet || in_file).then_some(false),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Model {
    file: InFile,
    sessions: BTreeMap<(u32, &'static str), Entry>,
    nets: BTreeMap<&'static str, Entry>,
    /// Of each origin that says something: whether there is a key.
    slots: BTreeMap<u64, BTreeMap<Origin, bool>>,
}

impl Model {
    fn session(&mut self, origin: Origin, back: u32, sid: &'static str, remove: bool) {
        let in_file = self.file.sessions.contains(&(back, sid));
        self.sessions.entry((back, sid)).or_default().tell(origin, remove, in_file);
    }

    fn is_session_listed(&self, back: u32, sid: &'static str) -> bool {
        let in_file = self.file.sessions.contains(&(back, sid));
        self.sessions.get(&(back, sid)).copied().unwrap_or_default().is_listed(in_file)
    }

    fn net(&mut self, origin: Origin, net: &'static str, remove: bool) {
        let in_file = self.file.nets.contains(net);
        self.nets.entry(net).or_default().tell(origin, remove, in_file);
    }

    fn has_slot(&self, slot: u64) -> bool {
        let said = self.slots.get(&slot).and_then(|origins| origins.values().next_back().copied());
        said.unwrap_or_else(|| self.file.slots.contains(&slot))
    }

    /// Does it here and there.
    fn act(&mut self, agent: &mut Agent, act: &Act) {
        let changed = match act {
            Act::Session(origin, back, sid, remove) => {
                self.session(*origin, *back, sid, *remove);
                agent.change(edits(*origin, *back, &[sid], *remove))
            }
            Act::Day(origin, back, sids) => {
                for sid in SIDS {
                    // Of others' sessions the fleet says nothing.
                    let there = self.sessions.get(&(*back, sid)).is_some_and(|entry| entry.fleet);
                    if sids.contains(sid) || *origin != Origin::Fleet || there {
                        self.session(*origin, *back, sid, !sids.contains(sid));
                    }
                }
                agent.change(Change::Day {
                    origin: *origin,
                    day: day(*back),
                    sids: sids.iter().map(|sid| (*sid).into()).collect(),
                })
            }
            Act::Everywhere(sid) => {
                DAYS.iter().for_each(|back| self.session(Origin::Pushed, *back, sid, true));
                agent.change(Change::Everywhere { origin: Origin::Pushed, sids: vec![(*sid).into()] })
            }
            Act::AllDays => {
                for (back, sid) in DAYS.iter().flat_map(|back| SIDS.map(|sid| (*back, sid))) {
                    self.session(Origin::Pushed, back, sid, true);
                }
                agent.change(Change::AllDays { origin: Origin::Pushed })
            }
            Act::Net(origin, which, remove) => {
                self.net(*origin, which, *remove);
                agent.change(net(*origin, which, *remove))
            }
            Act::Nets(nets) => {
                for net in NETS {
                    if nets.contains(net) || self.nets.get(net).is_some_and(|entry| entry.fleet) {
                        self.net(Origin::Fleet, net, !nets.contains(net));
                    }
                }
                agent.change(Change::Nets {
                    list: List::Deny,
                    nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
                })
            }
            Act::Slot(origin, slot, remove) => {
                let in_file = self.file.slots.contains(slot);
                let there = self.has_slot(*slot);
                let origins = self.slots.entry(*slot).or_default();
                let below = in_file || origins.keys().any(|other| other < origin);
                match remove {
                    false => drop(origins.insert(*origin, true)),
                    // The fleet only takes back its own word.
                    true if *origin == Origin::Fleet => drop(origins.remove(origin)),
                    true if !there => {}
                    true if below => drop(origins.insert(*origin, false)),
                    true => drop(origins.remove(origin)),
                }
                let outcome = agent.change(secret(*origin, *slot, (!remove).then_some(7), None));
                assert_eq!(outcome.is_ok(), there || !remove || *origin == Origin::Fleet, "{outcome:?}");
                Ok(Done::Counts(Counts::default()))
            }
            Act::FileSession(back, sid) => self.file(agent, |file| toggle(&mut file.sessions, (*back, *sid))),
            Act::FileNet(net) => self.file(agent, |file| toggle(&mut file.nets, *net)),
            Act::FileSlot(slot) => self.file(agent, |file| toggle(&mut file.slots, *slot)),
            Act::Restart => {
                let before = agent.shown();
                agent.restart();
                assert_eq!(agent.shown(), before);
                Ok(Done::Counts(Counts::default()))
            }
        };
        changed.unwrap();
    }

    fn file(&mut self, agent: &Agent, edit: impl FnOnce(&mut InFile)) -> Result<Done, ChangeError> {
        edit(&mut self.file);
        agent.write_file(&self.file);
        agent.change(Change::Reload)
    }

    fn compare(&self, agent: &Agent) {
        let snapshot = agent.live.current();
        for sid in SIDS {
            let newest = DAYS.into_iter().find(|back| self.is_session_listed(*back, sid)).map(day);
            assert_eq!(snapshot.config.policy.sessions.newest(sid), newest, "{sid}");
        }
        for back in DAYS {
            let count =
                |fits: &dyn Fn(&'static str) -> bool| SIDS.into_iter().filter(|sid| fits(sid)).count() as u64;
            let counts = snapshot.overlay.days.get(&day(back)).copied().unwrap_or_default();
            let entry = |sid| self.sessions.get(&(back, sid)).copied().unwrap_or_default();
            assert_eq!(counts.listed, count(&|sid| self.is_session_listed(back, sid)), "listed {back}");
            assert_eq!(counts.file, count(&|sid| self.file.sessions.contains(&(back, sid))), "file {back}");
            assert_eq!(counts.fleet, count(&|sid| entry(sid).fleet), "fleet {back}");
            assert_eq!(counts.pushed, count(&|sid| entry(sid).operator == Some(true)), "pushed {back}");
        }
        let listed: BTreeSet<String> = snapshot.config.kernel.deny.iter().map(ToString::to_string).collect();
        let wanted = |net: &&str| {
            self.nets.get(*net).copied().unwrap_or_default().is_listed(self.file.nets.contains(*net))
        };
        assert_eq!(listed, NETS.into_iter().filter(wanted).map(Into::into).collect());
        let slots: BTreeSet<u64> =
            snapshot.config.policy.keys.slots("k").iter().map(|slot| slot.slot).collect();
        assert_eq!(slots, SLOTS.into_iter().filter(|slot| self.has_slot(*slot)).collect());
    }
}

fn toggle<T: Ord + Copy>(set: &mut BTreeSet<T>, value: T) {
    if !set.remove(&value) {
        set.insert(value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// File, fleet and operator, in any order: what is in force is what a simple model says, and a restart changes nothing.
    #[test]
    fn origins_and_their_order(acts in prop::collection::vec(act(), 1..25)) {
        let mut model = Model::default();
        let mut agent = Agent::start(&model.file);
        for act in &acts {
            model.act(&mut agent, act);
            model.compare(&agent);
        }
        let before = agent.shown();
        agent.restart();
        prop_assert_eq!(agent.shown(), before);
        model.compare(&agent);
    }
}

/// A store that was lost is not taken for a new one.
#[test]
fn stores_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.redb");
    drop(Store::open(folder.path()).unwrap());
    let whole = std::fs::read(&path).unwrap();
    assert!(std::fs::read_dir(folder.path()).unwrap().count() == 1, "nothing else is left");
    for bytes in [&[][..], &whole[..100], &whole[..whole.len() / 2], b"<html>", &[7; 100_000]] {
        std::fs::write(&path, bytes).unwrap();
        let error = Store::open(folder.path()).err().unwrap_or_else(|| panic!("{} bytes", bytes.len()));
        assert!(matches!(error, StoreError::Corrupt { .. }), "{} bytes: {error:?}", bytes.len());
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
    }
}

/// Bits that have changed in silence are found, or were in nobody's way.
#[test]
fn a_store_with_flipped_bits() {
    let agent = Agent::start(&InFile::default());
    let sids: Vec<String> = (0..3000).map(|n| format!("session{n}")).collect();
    let names: Vec<&str> = sids.iter().map(String::as_str).collect();
    agent.change(edits(Origin::Pushed, 0, &names, false)).unwrap();
    agent.change(secret(Origin::Pushed, 5, Some(7), None)).unwrap();
    agent.change(net(Origin::Pushed, "192.0.2.0/24", false)).unwrap();
    let Agent { writer, folder, .. } = agent;
    drop(writer);
    let folder = folder.path().join("state");
    let path = folder.join("state.redb");
    let whole = std::fs::read(&path).unwrap();
    let content = |store: &Store| {
        let read = store.read()?;
        let mut all = vec![format!("{:?}", (read.revision()?, read.lists()?))];
        read.sessions(Day::from_number(0), &mut |day, sid, flags| {
            all.push(format!("{day} {sid} {flags:?}"))
        })?;
        all.extend(
            read.secrets()?.iter().map(|(kid, slot, _, secret)| format!("{kid} {slot} {:?}", secret.key)),
        );
        Ok::<_, StoreError>(all)
    };
    let wanted = content(&Store::open(&folder).unwrap()).unwrap();
    assert_eq!(wanted.len(), 3002);
    let (mut found, mut random) = (0, 1u64);
    for round in 0..300 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The header first, then anywhere.
        let at = if round < 100 { round * 5 } else { usize::try_from(random >> 16).unwrap() % whole.len() };
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (random >> 61);
        std::fs::write(&path, &bytes).unwrap();
        match Store::open(&folder).and_then(|store| content(&store)) {
            Ok(is) => assert!(is == wanted, "byte {at}: another content"),
            Err(StoreError::Corrupt { .. }) => found += 1,
            Err(error) => panic!("byte {at}: {error:?}"),
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn a_store_of_the_future_and_one_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse(_))));
    let path = store.path().to_owned();
    drop(store);
    let database = redb::Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    write.open_table(meta).unwrap().insert("schema", &2u64.to_le_bytes()[..]).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = Store::open(folder.path()).err().unwrap();
    assert!(
        matches!(error, StoreError::Newer { found: 2, .. }) && error.to_string().contains("schema 2"),
        "{error}"
    );
}
