//! The document of the control API: whole and strict. What a running agent answers is held against it elsewhere.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::control::document;
use tests::schema::{misfit, resolve};

/// Every operation of the API.
const OPERATIONS: &[&str] = &[
    "GET /v1/status",
    "GET /v1/config",
    "PUT /v1/config",
    "DELETE /v1/config",
    "GET /v1/blacklist",
    "POST /v1/blacklist",
    "GET /v1/blacklist/{day}",
    "PUT /v1/blacklist/{day}",
    "DELETE /v1/blacklist/{day}",
    "PUT /v1/blacklist/{day}/{sid}",
    "DELETE /v1/blacklist/{day}/{sid}",
    "GET /v1/secrets",
    "PUT /v1/secrets/{kid}/{slot}",
    "DELETE /v1/secrets/{kid}/{slot}",
    "GET /v1/prefilter",
    "PUT /v1/prefilter/{list}/{cidr}",
    "DELETE /v1/prefilter/{list}/{cidr}",
    "POST /v1/check",
    "GET /v1/events",
    "GET /v1/fleet",
    "GET /v1/openapi.json",
];

#[test]
fn every_operation_is_described() {
    let document = document();
    let mut found = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.insert(format!("{} {path}", method.to_uppercase()));
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "twice: {operation}");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let in_path: BTreeSet<&str> = parameters
                .map(|parameter| resolve(document, parameter))
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            let templated: BTreeSet<&str> =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            assert_eq!(in_path, templated, "{method} {path}");
        }
    }
    assert_eq!(found, OPERATIONS.iter().map(|operation| (*operation).to_owned()).collect());
}

#[test]
fn every_reference_leads_somewhere_and_nothing_is_left_over() {
    let document = document();
    let mut references = BTreeSet::new();
    collect_references(document, &mut references);
    for reference in &references {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    }
    for (kind, parts) in document["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            assert!(references.contains(&reference), "{reference} is not used");
        }
    }
}

fn collect_references(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            references.extend(members.get("$ref").map(|reference| reference.as_str().unwrap().to_owned()));
            members.values().for_each(|member| collect_references(member, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
        _ => {}
    }
}

/// What an object may have is written down, and so is what it must have.
#[test]
fn objects_are_strict() {
    fn look(value: &Value, at: &str) {
        if value["type"] == "object" && value.get("properties").is_some() {
            assert_eq!(value["additionalProperties"], false, "{at}");
            assert!(value["required"].is_array(), "{at}");
        }
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, member)| look(member, &format!("{at}/{name}")));
            }
            Value::Array(items) => items.iter().for_each(|item| look(item, at)),
            _ => {}
        }
    }
    look(document(), "");
}

#[test]
fn schemas_fit_what_is_said() {
    let document = document();
    let kernel = json!({ "state": "on", "why": null, "interfaces": ["eth0"], "monitor": false });
    let counts = json!({ "version": 1, "added": 1, "present": 0, "removed": 0, "absent": 0, "refused": 1,
        "refusals": [{ "line": 3, "value": "", "why": "empty" }] });
    let fleet = json!({ "state": "connected", "server": "nats://n", "bucket": "b", "host": "edge-1",
        "applied_revision": 5, "lag": 0, "why": null });
    let mut more = kernel.clone();
    more["more"] = true.into();
    let mut less = kernel.clone();
    less.as_object_mut().unwrap().remove("why");
    for (schema, value, good) in [
        ("Kernel", more, false),
        ("Kernel", less, false),
        ("FleetStatus", json!({ "fleet": null }), true),
        ("FleetStatus", json!({ "fleet": fleet, "hosts": [], "revision": 5 }), true),
        ("FleetStatus", json!({ "fleet": fleet }), false),
        ("Kernel", kernel.clone(), true),
        (
            "Prefilter",
            json!({ "version": 1, "deny": [{ "cidr": "::1/128", "origin": "fleet" }], "allow": [], "kernel": kernel }),
            true,
        ),
        (
            "Config",
            json!({ "version": 1, "file": "f", "pushed": null, "fleet": "x", "values": [
            { "key": "gateway.listen", "toml": "[]", "value": [], "origin": "file" }] }),
            true,
        ),
        ("BlacklistChanged", counts, true),
        ("Session", json!({ "day": "20251228", "sid": "a", "origin": "pushed" }), true),
        ("Session", json!({ "day": "2025-12-28", "sid": "a", "origin": "pushed" }), false),
        ("SessionList", json!(["a", { "sid": "a" }, { "sid": "a", "day": 20251228 }]), true),
        ("SessionList", json!({ "20251228": "a,b", "20251229": ["a"] }), true),
        ("SessionList", json!({ "yesterday": "a,b" }), false),
        (
            "Secrets",
            json!({ "version": 1, "secrets": [{ "kid": "k", "slot": 0, "until": null, "bytes": 32, "origin": "file" }] }),
            true,
        ),
        (
            "Secrets",
            json!({ "version": 1, "secrets": [{ "kid": "k", "slot": 0, "until": null, "bytes": 32, "origin": "file", "key": "x" }] }),
            false,
        ),
        ("NewSecret", json!({ "key": "x" }), true),
        ("Error", json!({ "error": "not_found", "message": "m" }), true),
        ("Error", json!({ "error": "unheard_of", "message": "m" }), false),
        ("VersionMismatch", json!({ "error": "version_mismatch", "message": "m", "version": 9 }), true),
        (
            "InvalidConfig",
            json!({ "error": "invalid", "message": "m", "problems": [
            { "file": "pushed", "line": 3, "column": 1, "key": "a", "text": "t" }] }),
            true,
        ),
        ("Event", json!({ "at": 1.5, "kind": "change", "version": 7, "sessions": 3 }), true),
        ("Event", json!({ "at": 1.5, "kind": "change", "version": 7, "count": 3 }), false),
        ("Event", json!({ "at": 1.5, "kind": "unheard of" }), false),
        ("Event", json!({ "at": 1.5, "kind": "missed", "count": 3 }), true),
        ("Event", json!({ "at": 1.5, "kind": "missed" }), false),
    ] {
        let found = misfit(document, &document["components"]["schemas"][schema], &value).is_none();
        assert_eq!(found, good, "{schema}: {value}");
    }
}
