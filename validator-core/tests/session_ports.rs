//! What a refusal on a session port keeps and says. The verdicts themselves are in `testdata/session_ports*.toml`.

use std::fmt::Arguments;
use validator_core::net::PortSet;
use validator_core::{
    Check, Day, Fallback, KeyRing, NoGeo, OnDeny, Policy, Prefilter, Reason, Request, Route, Scratch,
    Sessions, Statuses, Trace, Verdict, When, decide,
};

/// Keeps what is said of sessions.
#[derive(Default)]
struct Said(Vec<String>);

impl Trace for Said {
    const ENABLED: bool = true;

    fn note(&mut self, topic: &'static str, detail: Arguments<'_>) {
        if topic == "session" {
            self.0.push(detail.to_string());
        }
    }
}

/// One open route that would answer with another status.
fn policy(monitor: bool) -> Policy {
    let mut sessions = Sessions::new(31);
    sessions.add(Day::of(0), "stolen");
    let mut statuses = Statuses::default();
    statuses.set(Reason::SessionBlacklisted, 410);
    Policy {
        fallback: Fallback::Deny,
        leeway: 0,
        keys: KeyRing::default().into(),
        sessions,
        prefilter: Prefilter { session_ports: PortSet::new([80]), monitor, ..Prefilter::default() }.into(),
        routes: vec![Route {
            name: "open".into(),
            when: When::default(),
            check: Check::Allow,
            on_deny: OnDeny::Status,
            statuses,
        }]
        .into(),
    }
}

/// Status (200 where it is allowed), route, what was reported, and what was said.
fn judge(monitor: bool, port: Option<u16>) -> (u16, Option<usize>, Option<Reason>, Vec<String>) {
    let policy = policy(monitor);
    let request = Request {
        method: "GET",
        // The payload is {"sid":"stolen"}.
        target: b"/eyJ.eyJzaWQiOiJzdG9sZW4ifQ.x/open",
        scheme: "http",
        host: b"h",
        client: [192, 0, 2, 1].into(),
        destination: port.map(|port| ([192, 0, 2, 200].into(), port)),
        headers: &[],
    };
    let (mut scratch, mut said) = (Scratch::new(), Said::default());
    let decision = decide(&policy, &request, &NoGeo, 0, &mut scratch, &mut said);
    assert_eq!(decision.session, None, "nobody has signed the token");
    let status = match decision.verdict {
        Verdict::Deny { status, .. } => status,
        _ => 200,
    };
    (status, decision.route, decision.listed, said.0)
}

/// The route is named, because its headers belong on the refusal; its status is not the kernel's, and gives way.
#[test]
fn the_route_is_named_and_the_port_is_told() {
    let note = |rest: &str| vec![format!("\"stolen\" is blacklisted, and the port {rest}")];
    assert_eq!(judge(false, Some(80)), (403, Some(0), None, note("is a session port: refused")));
    assert_eq!(judge(false, None), (403, Some(0), None, note("may be a session port: refused")));
    assert_eq!(judge(false, Some(443)), (200, Some(0), None, vec![]));
    let listed = Some(Reason::SessionBlacklisted);
    let monitored = note("is a session port: let through by monitor mode");
    assert_eq!(judge(true, Some(80)), (200, Some(0), listed, monitored));
}
