//! The document of the API: whole, and true of the answers that this client reads.

use serde_json::{Value, json};
use std::collections::BTreeSet;

fn document() -> Value {
    serde_json::from_str(include_str!("../../control/openapi.json")).unwrap()
}

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
                .map(|parameter| resolve(&document, parameter))
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
    collect_references(&document, &mut references);
    for reference in &references {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    }
    for (kind, parts) in document["components"].as_object().unwrap() {
        for name in parts.as_object().unwrap().keys() {
            let reference = format!("#/components/{kind}/{name}");
            // A kind of answer that no operation gives at present.
            assert!(references.contains(&reference) || name == "Error409", "{reference} is not used");
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
            let open = at.ends_with("/schemas/Event");
            assert_eq!(value["additionalProperties"], open, "{at}");
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
    look(&document(), "");
}

#[test]
fn schemas_fit_what_is_said() {
    let document = document();
    let kernel = json!({ "state": "on", "why": null, "interfaces": ["eth0"], "monitor": false });
    let counts = json!({ "version": 1, "added": 1, "present": 0, "removed": 0, "absent": 0, "refused": 1,
        "refusals": [{ "line": 3, "value": "", "why": "empty" }] });
    let fleet = json!({ "state": "connected", "server": "nats://n", "bucket": "b", "host": "edge-1",
        "applied_revision": 5, "lag": 0, "why": null });
    let status: Value = serde_json::from_str(super::STATUS).unwrap();
    let mut more = status.clone();
    more["kernel"]["more"] = true.into();
    let mut less = status.clone();
    less["store"].as_object_mut().unwrap().remove("bytes");
    for (schema, value, good) in [
        ("Status", status, true),
        ("Status", more, false),
        ("Status", less, false),
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
        ("Event", json!({ "at": 1.5, "kind": "refused", "reason": "expired" }), true),
        ("Event", json!({ "at": 1.5, "kind": "missed", "count": 3 }), true),
        ("Event", json!({ "at": 1.5, "kind": "missed" }), false),
    ] {
        let found = fits(&document, &document["components"]["schemas"][schema], &value);
        assert_eq!(found, good, "{schema}: {value}");
    }
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => resolve(document, document.pointer(&reference[1..]).unwrap()),
        None => value,
    }
}

/// As much of JSON Schema as the document uses; what it does not know is an error, and not let pass.
fn fits(document: &Value, schema: &Value, value: &Value) -> bool {
    let schema = schema.as_object().unwrap();
    let fits = |schema: &Value, value: &Value| fits(document, schema, value);
    let count = |list: &Value| list.as_array().unwrap().iter().filter(|schema| fits(schema, value)).count();
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    schema.iter().all(|(keyword, wanted)| match keyword.as_str() {
        "$ref" => fits(document.pointer(&wanted.as_str().unwrap()[1..]).unwrap(), value),
        "type" => match wanted {
            Value::Array(names) => names.iter().any(|name| is(name.as_str().unwrap())),
            name => is(name.as_str().unwrap()),
        },
        "const" => value == wanted,
        "enum" => wanted.as_array().unwrap().contains(value),
        "oneOf" => count(wanted) == 1,
        "anyOf" => count(wanted) > 0,
        "required" => {
            let names = wanted.as_array().unwrap();
            value
                .as_object()
                .is_none_or(|members| names.iter().all(|n| members.contains_key(n.as_str().unwrap())))
        }
        "properties" => value.as_object().is_none_or(|members| {
            members.iter().all(|(name, member)| wanted.get(name).is_none_or(|schema| fits(schema, member)))
        }),
        "additionalProperties" => value.as_object().is_none_or(|members| {
            let known = |name: &String| schema.get("properties").is_some_and(|p| p.get(name).is_some());
            members.iter().filter(|(name, _)| !known(name)).all(|(_, member)| match wanted {
                Value::Bool(allowed) => *allowed,
                schema => fits(schema, member),
            })
        }),
        "propertyNames" => {
            value.as_object().is_none_or(|members| members.keys().all(|name| fits(wanted, &json!(name))))
        }
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| fits(wanted, item))),
        "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
        "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
        "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
        "pattern" => {
            let quoted = wanted == "^\"[0-9]+\"$";
            assert!(quoted || wanted == "^[0-9]{8}$", "pattern {wanted}");
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            value.as_str().is_none_or(|text| !quoted && text.len() == 8 && digits(text))
        }
        "if" => !fits(wanted, value) || fits(&schema["then"], value),
        "then" | "description" | "examples" | "default" | "writeOnly" => true,
        other => panic!("keyword {other}"),
    })
}
