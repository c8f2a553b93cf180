//! The kernel's reading of tokens against the validator's, by many generated requests.
//!
//! What the kernel refuses, the validator must refuse for the same reason; and of what the validator refuses for its
//! session, the kernel must find all that is written as signers write it.
#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod tokens;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ebpf_abi::{FLAG_MONITOR, FLAG_SESSIONS, Outcome, SID_CAPACITY, Session, session_key, set_bit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tests::frames::Segment;
use tests::kernel::{Kernel, PASS, TODAY};
use tokens::{Made, World};
use validator_core::net::PortSet;
use validator_core::{
    Day, Fallback, KeyRing, NoGeo, Policy, Prefilter, Reason, Request, Scratch, Sessions, Verdict, decide,
};

const REQUESTS: usize = 100_000;

const PORT: u16 = 8080;

/// Bytes of a request that a full segment has.
const SEGMENT: usize = 1460;

/// Places where a session may be that the kernel looks at; of more than so many, at the last ones.
const PLACES: usize = 8;

/// Longest header of a token, in letters, that the kernel has to read.
const HEADER: usize = 300;

/// Sessions with even numbers are blacklisted.
fn blacklisted(world: &World) -> impl Iterator<Item = &str> {
    world.sids.iter().step_by(2).map(String::as_str)
}

/// A policy under which everything passes but blacklisted sessions.
fn policy(world: &World) -> Policy {
    let mut sessions = Sessions::new(31);
    for sid in blacklisted(world) {
        sessions.add(Day::of(u64::from(TODAY) * 86_400), sid);
    }
    Policy {
        fallback: Fallback::Allow,
        leeway: 0,
        keys: KeyRing::default().into(),
        sessions,
        prefilter: Prefilter { session_ports: PortSet::new([PORT]), ..Prefilter::default() }.into(),
        routes: vec![].into(),
    }
}

/// The method and the target of a request, if userspace would get so far as to look at them.
fn request_line(request: &[u8]) -> Option<(&str, &[u8])> {
    let end = request.iter().position(|&byte| byte == b'\n')?;
    let line = request[..end].strip_suffix(b"\r").unwrap_or(&request[..end]);
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    let sound = words.next().is_none() && matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
    let method = std::str::from_utf8(method).ok()?;
    sound.then_some((method, target))
}

/// What both say of requests, one after another.
struct Judges {
    kernel: Kernel,
    policy: Policy,
    scratch: Scratch,
    found: u64,
}

impl Judges {
    fn new(world: &World) -> Option<Self> {
        let mut kernel = Kernel::load()?;
        set_bit(&mut kernel.tables(0).session_ports, PORT);
        let sessions: BTreeMap<_, _> = blacklisted(world)
            .filter_map(|sid| session_key(sid.as_bytes()))
            .map(|key| (key, Session { last_day: TODAY + 31, generation: 0 }))
            .collect();
        kernel.sessions(&sessions.into_iter().collect::<Vec<_>>());
        kernel.configure(0, FLAG_SESSIONS | FLAG_MONITOR);
        let policy = policy(world);
        let mut scratch = Scratch::new();
        scratch.reserve(&policy);
        Some(Self { kernel, policy, scratch, found: 0 })
    }

    /// Whether the kernel would refuse the request.
    fn kernel_refuses(&mut self, request: &[u8]) -> bool {
        let end = |ip: &str, port| SocketAddr::new(ip.parse().expect("an address"), port);
        let segment = Segment::new(end("192.0.2.9", 50_123), end("198.18.7.7", PORT), request);
        let frame = segment.frame();
        let (verdict, out) = self.kernel.run_uncounted(&frame);
        assert!(verdict == PASS && out == frame, "monitor mode changes nothing: {frame:02x?}");
        let found = self.kernel.counter(Outcome::MonitorSession);
        let refuses = found != self.found;
        self.found = found;
        refuses
    }

    /// Why the validator refuses the request; an error where it is none that userspace could read.
    fn validator_refuses(&mut self, request: &[u8]) -> Result<Option<Reason>, ()> {
        let (method, target) = request_line(request).ok_or(())?;
        let request = Request {
            method,
            target,
            scheme: "http",
            host: b"cdn.example",
            client: [192, 0, 2, 9].into(),
            destination: Some(([198, 18, 7, 7].into(), PORT)),
            headers: &[],
        };
        let now = u64::from(TODAY) * 86_400 + 5;
        let decision = decide(&self.policy, &request, &NoGeo, now, &mut self.scratch, &mut ());
        match decision.verdict {
            Verdict::Allow { .. } => Ok(None),
            Verdict::Deny { reason, .. } => Ok(Some(reason)),
            other => panic!("no route leads there: {other:?}"),
        }
    }
}

/// Places in the payload where a session may be, in groups of letters: those that a search by whole groups has to look at.
fn places(payload: &str) -> Vec<usize> {
    let groups = payload.as_bytes().chunks(4).enumerate();
    groups.filter(|(_, group)| matches!(*group, b"InNp" | b"aWQi" | b"c2lk")).map(|(at, _)| at).collect()
}

/// How many sessions a payload seems to have that are blacklisted, in the outermost object and elsewhere. What does not
/// start with a quote seems to be one as well, until it is proven.
fn seeming(payload: &str, policy: &Policy) -> usize {
    let bytes = URL_SAFE_NO_PAD.decode(payload).expect("base64");
    let text = String::from_utf8(bytes).expect("text");
    let values =
        text.split(r#""sid":"#).skip(1).filter_map(|rest| rest.get(rest.chars().next()?.len_utf8()..));
    let ids = values.filter_map(|rest| rest.split('"').next());
    ids.filter(|id| policy.sessions.contains(id, u64::from(TODAY) * 86_400)).count()
}

/// Why the kernel need not find the session of a request that the validator refuses for it.
fn excuse(made: &Made, policy: &Policy) -> Option<&'static str> {
    let Made { request, compact, sid, escaped, header, payload, sid_at } = made;
    let places = places(payload);
    let looked_at = &places[places.len().saturating_sub(PLACES)..];
    // A quote that is second or third in its group is told by the group that follows, or by the rest of its own.
    let place = sid_at.map(|at| (at + [0, 2, 1][at % 3]) / 3);
    assert!(!compact || place.is_none_or(|place| places.contains(&place)), "{place:?} of {places:?}");
    Some(match sid {
        _ if !compact => "not compact, or damaged",
        None => "no session in the outermost object",
        Some(_) if *escaped => "escapes in the id",
        Some(sid) if sid.len() > SID_CAPACITY => "a long id",
        _ if *header > HEADER => "a long header",
        _ if request.len() > SEGMENT => "a long request",
        _ if place.is_some_and(|place| !looked_at.contains(&place)) => "before the last eight places",
        // Of those that are blacklisted it proves the first and the last one.
        _ if seeming(payload, policy) > 2 => "between two that are none",
        _ => return None,
    })
}

/// A request with a payload.
fn with_payload(payload: &str) -> Vec<u8> {
    let payload = URL_SAFE_NO_PAD.encode(payload);
    format!("GET /eyJhbGciOiJub25lIn0.{payload}.c2ln/x HTTP/1.1\r\nHost: cdn.example\r\n\r\n").into_bytes()
}

/// Texts that are no JSON, read alike: what closes more than was opened is where readers may part.
#[test]
fn brackets_that_do_not_match() {
    let world = World::new(1);
    let Some(mut judges) = Judges::new(&world) else { return };
    let plain = |sid: &&String| sid.chars().all(char::is_alphanumeric) && sid.len() <= SID_CAPACITY;
    let sid = world.sids.iter().step_by(2).find(plain).expect("one of many");
    let mut refused = 0;
    // Every row of up to seven brackets behind the first one.
    for row in (0..=7).flat_map(|length| (0..1_u32 << length).map(move |bits| (length, bits))) {
        let (length, bits) = row;
        let brackets: String = (0..length).map(|at| if bits >> at & 1 == 0 { '{' } else { '}' }).collect();
        for between in ["", ","] {
            let payload = format!(r#"{{{brackets}{between}"sid":"{sid}""#);
            let request = with_payload(&payload);
            if judges.kernel_refuses(&request) {
                refused += 1;
                let reason = judges.validator_refuses(&request);
                assert_eq!(reason, Ok(Some(Reason::SessionBlacklisted)), "{payload}");
            }
        }
    }
    assert!(refused > 40, "{refused}");
}

/// Other requests than those of every run are made from another number in `EDGEGATE_SEED`.
#[test]
fn the_kernel_refuses_nothing_else_and_misses_nothing_plain() {
    let seed = std::env::var("EDGEGATE_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut world = World::new(seed.unwrap_or(0x7369_6420));
    let Some(mut judges) = Judges::new(&world) else { return };
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong: Vec<String> = vec![];
    for number in 0..REQUESTS {
        let made = world.request();
        let kernel = judges.kernel_refuses(&made.request);
        let validator = judges.validator_refuses(&made.request);
        let shown = || format!("request {number}: {}", made.request.escape_ascii());
        let what = match (kernel, validator) {
            (true, Ok(Some(Reason::SessionBlacklisted))) => "refused by both".to_owned(),
            // Refused in userspace as well, before anybody asks for a session.
            (true, Ok(Some(Reason::UriAmbiguous))) => {
                "refused by both, by the validator for its target".to_owned()
            }
            (true, Err(())) => "refused by the kernel, no request to userspace".to_owned(),
            (true, Ok(reason)) => {
                wrong.push(format!("refused by the kernel, not by the validator ({reason:?}); {}", shown()));
                "WRONG: refused by the kernel alone".to_owned()
            }
            (false, Ok(Some(Reason::SessionBlacklisted))) => match excuse(&made, &judges.policy) {
                Some(excuse) => format!("missed: {excuse}"),
                None => {
                    wrong.push(format!("missed by the kernel; {}", shown()));
                    "WRONG: missed".to_owned()
                }
            },
            (false, Ok(Some(reason))) => format!("refused by the validator alone: {}", reason.name()),
            (false, Ok(None)) if made.compact && made.sid.is_some() => "passed by both, compact".to_owned(),
            (false, Ok(None)) => "passed by both".to_owned(),
            (false, Err(())) => "no request".to_owned(),
        };
        *counts.entry(what).or_default() += 1;
    }
    for (what, count) in &counts {
        println!("{count:7} {what}");
    }
    assert!(
        wrong.is_empty(),
        "{} of {REQUESTS}, among them: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(5)]
    );
    // Were there hardly any of these, there would be nothing to see.
    for (what, least) in [
        ("refused by both", REQUESTS / 4),
        ("passed by both, compact", REQUESTS / 20),
        ("passed by both", REQUESTS / 50),
        ("missed: not compact, or damaged", REQUESTS / 100),
        ("missed: a long id", REQUESTS / 1000),
        ("missed: escapes in the id", REQUESTS / 1000),
    ] {
        assert!(counts.get(what).is_some_and(|&count| count >= least), "{what}: {counts:?}");
    }
}
