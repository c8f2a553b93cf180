//! Places are looked up only when a claim or rule needs them, and the country once per decision.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::cell::Cell;
use std::net::IpAddr;
use validator_core::pattern::{Limits, PathPattern};
use validator_core::{
    Bindings, Check, Condition, ContentJwt, Countries, Country, Fallback, Geo, Key, KeyRing, NoGeo, OnDeny,
    Operand, Policy, Prefilter, Reason, Request, Route, Scratch, Service, Sessions, Slot, Statuses,
    TokenPlace, When, decide, net, sign,
};

/// Everything is in Paris; counts who asks for what.
#[derive(Default)]
struct Counting {
    country: Cell<u32>,
    city: Cell<u32>,
    asn: Cell<u32>,
}

impl Geo for Counting {
    fn country(&self, _: IpAddr) -> Option<Country> {
        self.country.set(self.country.get() + 1);
        Country::new("FR")
    }

    fn city_is(&self, _: IpAddr, is: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
        self.city.set(self.city.get() + 1);
        Some(is("Paris"))
    }

    fn asn(&self, _: IpAddr) -> Option<u32> {
        self.asn.set(self.asn.get() + 1);
        Some(3215)
    }
}

fn key() -> Key {
    Key::new(&[7; 32], false).unwrap()
}

fn policy(when: Vec<Vec<Condition>>, services: Vec<Service>) -> Policy {
    let mut keys = KeyRing::default();
    keys.insert("k", vec![Slot { slot: 0, until: None, key: key() }]).unwrap();
    let check = ContentJwt {
        places: vec![TokenPlace::Path],
        patterns: vec![PathPattern::new("/live/.*", &Limits::default()).unwrap()],
        monitored: Bindings::default(),
        max_lifetime: None,
        unknown_place_passes: false,
    };
    Policy {
        fallback: Fallback::Deny,
        leeway: 0,
        keys: keys.into(),
        sessions: Sessions::new(31),
        prefilter: Prefilter { services, ..Prefilter::default() }.into(),
        routes: vec![Route {
            name: "live".into(),
            when: When::new(when),
            check: Check::ContentJwt(check),
            on_deny: OnDeny::Status,
            statuses: Statuses::default(),
        }]
        .into(),
    }
}

/// A request from Paris to a path.
fn request(target: &str, destination: Option<(IpAddr, u16)>) -> Request<'_> {
    Request {
        method: "GET",
        target: target.as_bytes(),
        scheme: "https",
        host: b"h",
        client: [192, 0, 2, 1].into(),
        destination,
        headers: &[],
    }
}

/// The reason, and how often country, city and network were asked for.
fn judge(policy: &Policy, claims: &str) -> (Option<Reason>, [u32; 3]) {
    let payload = format!(r#"{{"iat":100,"cid":"c","stt":"hls",{claims}}}"#);
    let target = format!("/{}/live/x", sign::content_jwt("k", &payload, &key()));
    let request = request(&target, Some(([198, 51, 100, 1].into(), 443)));
    let geo = Counting::default();
    let mut scratch = Scratch::new();
    let reason = decide(policy, &request, &geo, 150, &mut scratch, &mut ()).verdict.reason();
    (reason, [geo.country.get(), geo.city.get(), geo.asn.get()])
}

#[test]
fn only_claims_that_are_reached_ask() {
    let policy = policy(vec![], vec![]);
    for (claims, expected) in [
        (r#""exp":200"#, (None, [0, 0, 0])),
        (r#""exp":200,"geo":[]"#, (None, [0, 0, 0])),
        (r#""exp":200,"geo":["FR"]"#, (None, [1, 0, 0])),
        (r#""exp":200,"geo":["FR"],"geo-tw":[{"start":160,"end":170}]"#, (None, [0, 0, 0])),
        (r#""exp":200,"local":"paris""#, (None, [0, 1, 0])),
        (r#""exp":200,"asn":3215"#, (None, [0, 0, 1])),
        (r#""exp":200,"geo":["DE"],"local":"Paris","asn":3215"#, (Some(Reason::GeoBlocked), [1, 0, 0])),
        (r#""exp":150,"geo":["FR"],"local":"Paris","asn":3215"#, (Some(Reason::Expired), [0, 0, 0])),
    ] {
        assert_eq!(judge(&policy, claims), expected, "{claims}");
    }
}

#[test]
fn rule_service_and_claim_share_one_look_up() {
    let france = || Condition::new("country", "is_equal", Operand::Text("fr")).unwrap();
    let service = Service {
        addresses: net::NetSet::new([net::parse_net("198.51.100.0/24").unwrap()]),
        ports: vec![443],
        countries: Countries::Only(vec![Country::new("FR").unwrap()]),
        windows: vec![],
    };
    let policy = policy(vec![vec![france()], vec![france()]], vec![service]);
    assert_eq!(judge(&policy, r#""exp":200,"geo":["FR"]"#), (None, [1, 0, 0]));
}

#[test]
fn a_service_for_every_destination_needs_none() {
    let service = |ports: Vec<u16>| Service {
        addresses: net::NetSet::new([net::parse_net("0.0.0.0/0").unwrap()]),
        ports,
        countries: Countries::AllBut(vec![Country::new("FR").unwrap()]),
        windows: vec![],
    };
    let judged = |ports| {
        let policy = policy(vec![], vec![service(ports)]);
        let request = request("/live/x", None);
        let geo = Counting::default();
        decide(&policy, &request, &geo, 150, &mut Scratch::new(), &mut ()).verdict.reason()
    };
    assert_eq!(judged(vec![]), Some(Reason::CountryDenied));
    // Whether the client came to this port nobody knows.
    assert_eq!(judged(vec![443]), Some(Reason::TokenMissing));
}

#[test]
fn without_a_database_the_claim_decides_against() {
    let policy = policy(vec![], vec![]);
    for (claim, reason) in [
        (r#""geo":["FR"]"#, Reason::GeoBlocked),
        (r#""local":"Paris""#, Reason::LocalityMismatch),
        (r#""asn":3215"#, Reason::AsnMismatch),
    ] {
        let payload = format!(r#"{{"iat":100,"exp":200,"cid":"c","stt":"hls",{claim}}}"#);
        let target = format!("/{}/live/x", sign::content_jwt("k", &payload, &key()));
        let request = request(&target, None);
        let mut scratch = Scratch::new();
        let decision = decide(&policy, &request, &NoGeo, 150, &mut scratch, &mut ());
        assert_eq!(decision.verdict.reason(), Some(reason), "{claim}");
    }
}
