//! Content JWTs by signers that have nothing in common with the gate: PyJWT, and a few lines over `hmac` and `sha2`.
//!
//! One claim is changed at a time, so that each status and reason is seen to come from that claim alone.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use serde_json::{Map, Value, json};
use std::process::Command;
use tests::binary::{Edgegate, finish};
use tests::conn::Conn;
use tests::contract::{
    BLACKLISTED, Config, KEY, KID, LATER_SLOT, OLD_KEY, SEGMENT, claims, compact, get, now, token, token_of,
};
use tests::origin::Origin;
use tests::raw::Reply;
use tests::require::capability;

const HEADER: &str = r#"{"typ":"JWT","alg":"HS256","kid":"orange-key-1"}"#;

struct Gate {
    gate: Edgegate,
    origin: Origin,
    failures: Vec<String>,
}

impl Gate {
    fn new() -> Self {
        let origin = Origin::start();
        let gate = Edgegate::run(&Config::new(&origin.url()).text());
        Self { gate, origin, failures: Vec::new() }
    }

    fn ask(&self, token: &str, path: &str) -> Reply {
        Conn::open(self.gate.gateway()).send(get(&format!("/{token}{path}"))).reply()
    }

    /// Compares an answer with a reason, empty for content.
    fn expect(&mut self, what: &str, token: &str, path: &str, reason: &str) {
        let asked = self.origin.seen().len();
        let reply = self.ask(token, path);
        let status = match reason {
            "" => 200,
            "expired" => 410,
            "uri_ambiguous" => 400,
            _ => 403,
        };
        let body = String::from_utf8_lossy(&reply.body).into_owned();
        let text = if reason.is_empty() { path } else { reason };
        let same = reply.status == status
            && reply.header("x-edgegate-reason").unwrap_or_default() == reason
            && body.trim_end() == text
            && (reason.is_empty() || reply.header("cache-control") == Some("no-store"))
            && (self.origin.seen().len() > asked) == reason.is_empty();
        if !same {
            let (status, headers) = (reply.status, reply.headers);
            self.failures.push(format!("{what}: wanted {reason:?}, got {status} {headers:?} {body:?}"));
        }
    }

    fn finish(self) {
        assert!(self.failures.is_empty(), "{}", self.failures.join("\n"));
    }
}

fn with(changes: &Value) -> Map<String, Value> {
    let mut claims = claims();
    claims.extend(changes.as_object().unwrap().clone());
    claims
}

/// Claims with one changed, and what must come of it.
fn mutations() -> Vec<(Value, &'static str)> {
    let now = now();
    let mut list = vec![(json!({}), "")];
    // Types: what is no integer from 0 to 2^53 is no time, and a string is a string.
    for name in ["iat", "exp", "nbf"] {
        for bad in [json!("1"), json!(null), json!(-1), json!(1.5), json!([1]), json!({}), json!(true)] {
            list.push((json!({ name: bad }), "claim_invalid"));
        }
    }
    list.push((json!({ "exp": 9_007_199_254_740_993_u64 }), "claim_invalid"));
    for name in ["cid", "stt", "sid", "local", "cip"] {
        for bad in [json!(7), json!(null), json!({}), json!(true)] {
            list.push((json!({ name: bad }), "claim_invalid"));
        }
    }
    for (name, bad) in [
        ("cid", json!("")),
        ("stt", json!("")),
        ("stt", json!("smooth")),
        ("stt", json!(["hls"])),
        ("cip", json!("localhost")),
        ("cip", json!("127.0.0.1/33")),
        ("cip", json!([])),
        ("cip", json!(["127.0.0.1", 7])),
        ("geo", json!("FR")),
        ("geo", json!(["FRA"])),
        ("geo", json!([7])),
        ("geo", json!(null)),
        ("geo-tw", json!({ "start": 1, "end": 2 })),
        ("geo-tw", json!([{ "start": 1 }])),
        ("geo-tw", json!([{ "start": "1", "end": 2 }])),
        ("geo-tw", json!(null)),
        ("asn", json!("3215 ")),
        ("asn", json!(-1)),
        ("asn", json!(4_294_967_296_u64)),
        ("asn", json!([])),
        ("asn", json!(null)),
    ] {
        list.push((json!({ name: bad }), "claim_invalid"));
    }
    // Values.
    list.extend([
        (json!({ "iat": now + 600 }), "not_yet_valid"),
        (json!({ "nbf": now + 600 }), "not_yet_valid"),
        (json!({ "exp": now - 5 }), "expired"),
        (json!({ "exp": now + 90_000 }), "lifetime_exceeded"),
        (json!({ "cid": "Channel8" }), "path_mismatch"),
        (json!({ "cid": "channel7" }), "path_mismatch"),
        (json!({ "stt": "dash" }), "path_mismatch"),
        (json!({ "stt": "HLS" }), ""),
        (json!({ "cip": "192.0.2.1" }), "ip_mismatch"),
        (json!({ "cip": "127.0.0.0/8" }), ""),
        (json!({ "cip": "::ffff:127.0.0.1" }), ""),
        (json!({ "cip": ["192.0.2.1", "127.0.0.0/24"] }), ""),
        (json!({ "geo": ["DE"] }), "geo_blocked"),
        (json!({ "geo": ["fr"] }), ""),
        (json!({ "geo": [] }), ""),
        (json!({ "geo": ["DE"], "geo-tw": [] }), "geo_blocked"),
        (json!({ "geo": ["DE"], "geo-tw": [{ "start": 1, "end": now - 60 }] }), ""),
        (json!({ "local": "München" }), "locality_mismatch"),
        (json!({ "local": "paris" }), ""),
        (json!({ "asn": 3320 }), "asn_mismatch"),
        (json!({ "asn": 3215 }), ""),
        (json!({ "asn": [3320, "AS3215"] }), ""),
        (json!({ "sid": BLACKLISTED }), "session_blacklisted"),
        (json!({ "sid": "session123" }), "session_blacklisted"),
        (json!({ "sid": "session12" }), ""),
        (json!({ "anything": { "else": [1, null] } }), ""),
    ]);
    list
}

#[test]
fn one_claim_at_a_time_by_the_independent_signer() {
    let mut gate = Gate::new();
    for (changes, reason) in mutations() {
        gate.expect(&format!("{changes} instead"), &token_of(&with(&changes)), SEGMENT, reason);
    }
    for (name, reason) in [
        ("iat", "claim_missing"),
        ("exp", "claim_missing"),
        ("cid", "claim_missing"),
        ("stt", "claim_missing"),
        ("nbf", ""),
        ("cip", ""),
        ("geo", ""),
        ("geo-tw", ""),
        ("local", ""),
        ("sid", ""),
        ("asn", ""),
    ] {
        let mut claims = claims();
        claims.remove(name).unwrap();
        gate.expect(&format!("no {name}"), &token_of(&claims), SEGMENT, reason);
    }
    gate.finish();
}

#[test]
fn what_is_around_the_claims() {
    let mut gate = Gate::new();
    let payload = Value::Object(claims()).to_string();
    for (header, reason) in [
        (r#"{"alg":"HS256","kid":"orange-key-1"}"#, ""),
        (r#"{"typ":7,"alg":"HS256","kid":"orange-key-1"}"#, ""),
        (r#"{"alg":"none","kid":"orange-key-1"}"#, "algorithm_not_allowed"),
        (r#"{"alg":"hs256","kid":"orange-key-1"}"#, "algorithm_not_allowed"),
        (r#"{"alg":"HS512","kid":"orange-key-1"}"#, "algorithm_not_allowed"),
        (r#"{"kid":"orange-key-1"}"#, "algorithm_not_allowed"),
        (r#"{"alg":"HS256"}"#, "key_unknown"),
        (r#"{"alg":"HS256","kid":"../../etc/passwd"}"#, "key_unknown"),
        (r#"{"alg":"HS256","kid":7}"#, "key_unknown"),
        (r#"{"alg":"HS256","kid":"orange-key-1","crit":["exp"]}"#, "token_malformed"),
        (r#"{"alg":"HS256","alg":"HS256","kid":"orange-key-1"}"#, "token_malformed"),
        (r#"["HS256"]"#, "token_malformed"),
        ("{", "token_malformed"),
    ] {
        gate.expect(header, &compact(header, &payload, KEY), SEGMENT, reason);
    }
    let (iat, exp) = (now() - 10, now() + 60);
    for (payload, reason) in [
        ("[]".to_owned(), "token_malformed"),
        ("".to_owned(), "token_malformed"),
        (
            format!(r#"{{"iat":{iat},"exp":{exp},"exp":{exp},"cid":"Channel7","stt":"hls"}}"#),
            "token_malformed",
        ),
        (format!(r#"{{"iat":{iat},"exp":{exp}.0,"cid":"Channel7","stt":"hls"}}"#), "claim_invalid"),
        (format!(r#"{{"iat":{iat},"exp":4e9,"cid":"Channel7","stt":"hls"}}"#), "claim_invalid"),
        (format!(r#" {{ "iat":{iat}, "exp":{exp}, "cid":"Channel7", "\u0073tt":"hls" }} "#), ""),
    ] {
        gate.expect(&payload, &compact(HEADER, &payload, KEY), SEGMENT, reason);
    }

    let good = token();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let expired = token_of(&with(&json!({ "exp": now() - 5 })));
    let (expired, _) = expired.rsplit_once('.').unwrap();
    for (what, token, reason) in [
        ("another signature", format!("{signed}.{}", "A".repeat(43)), "signature_invalid"),
        ("expired and badly signed", format!("{expired}.{signature}"), "signature_invalid"),
        ("padding", format!("{good}="), "token_malformed"),
        ("four parts", format!("{good}.x"), "token_malformed"),
        ("two parts", signed.to_owned(), "token_malformed"),
        ("an empty signature", format!("{signed}."), "signature_invalid"),
    ] {
        gate.expect(what, &token, SEGMENT, reason);
    }
    let reply = Conn::open(gate.gate.gateway()).send(get(SEGMENT)).reply();
    assert_eq!((reply.status, reply.header("x-edgegate-reason")), (403, Some("token_missing")));

    // The path, which the token is for.
    for (path, reason) in [
        ("/Content/Channel/Channel7/HLS/master.m3u8", ""),
        ("/Content/Channel/Channel7/HLS/a/b/c.m4a", ""),
        ("/Content/Channel/Channel%37/HLS/stream_01/Segment-1.ts", ""),
        ("/Content/Channel/Channel8/HLS/stream_01/Segment-1.ts", "path_mismatch"),
        ("/Content/Channel/Channel7/HLS/stream_01/Segment-1.exe", "path_mismatch"),
        ("/Content/Channel/Channel7/HLS/../HLS/Segment-1.ts", "uri_ambiguous"),
        ("/Content/Channel/Channel7/HLS/%2e%2e/Segment-1.ts", "uri_ambiguous"),
        ("/Content/Channel//Channel7/HLS/Segment-1.ts", "uri_ambiguous"),
        ("/Content/Channel/Channel7%2fHLS/Segment-1.ts", "uri_ambiguous"),
        ("/elsewhere", "no_route"),
    ] {
        gate.expect(path, &good, path, reason);
    }
    gate.finish();
}

/// A token's `iat` chooses the slot, before its signature is checked by the key of that slot.
#[test]
fn slots_by_iat() {
    let mut gate = Gate::new();
    let old = |key: &[u8], iat: u64| {
        compact(HEADER, &format!(r#"{{"iat":{iat},"exp":{},"cid":"Channel7","stt":"hls"}}"#, iat + 60), key)
    };
    for (what, token, reason) in [
        ("the old key before its end", old(OLD_KEY, LATER_SLOT - 1), "expired"),
        ("the new key before its start", old(KEY, LATER_SLOT - 1), "signature_invalid"),
        ("the new key at its start", old(KEY, LATER_SLOT), "expired"),
        ("the old key after its end", old(OLD_KEY, LATER_SLOT), "signature_invalid"),
        ("the old key now", old(OLD_KEY, now()), "signature_invalid"),
        ("the new key now", old(KEY, now()), ""),
    ] {
        gate.expect(what, &token, SEGMENT, reason);
    }
    gate.finish();
}

/// The same through PyJWT, all tokens made by one run of it.
#[test]
fn one_claim_at_a_time_by_pyjwt() {
    let Some(python) = capability("python-jwt") else { return };
    let script = "\
import base64, json, jwt, sys
key, kid, payloads = base64.b64decode(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
encode = getattr(jwt.api_jws, 'encode', None) or jwt.PyJWS().encode
for payload in payloads:
    token = encode(json.dumps(payload).encode(), key, 'HS256', {'kid': kid})
    print(token if isinstance(token, str) else token.decode())
";
    use base64::Engine as _;
    let (changes, mut reasons): (Vec<Value>, Vec<&str>) = mutations().into_iter().unzip();
    let mut payloads: Vec<Map<String, Value>> = changes.iter().map(with).collect();
    for name in ["iat", "exp", "cid", "stt"] {
        let mut claims = claims();
        claims.remove(name).unwrap();
        payloads.push(claims);
        reasons.push("claim_missing");
    }
    let mut command = Command::new(python);
    command.args(["-c", script, &base64::engine::general_purpose::STANDARD.encode(KEY), KID]);
    command.arg(serde_json::to_string(&payloads).unwrap());
    let output = finish(command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tokens = String::from_utf8(output.stdout).unwrap();
    assert_eq!(tokens.lines().count(), payloads.len());

    let mut gate = Gate::new();
    for ((token, payload), reason) in tokens.lines().zip(&payloads).zip(reasons) {
        gate.expect(&format!("PyJWT: {}", Value::Object(payload.clone())), token, SEGMENT, reason);
    }
    gate.finish();
}
