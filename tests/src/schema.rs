//! As much of JSON Schema and OpenAPI as the document of the control API uses, so that every answer can be held against it.

use serde_json::{Value, json};

/// Follows a reference, if it is one.
///
/// # Panics
/// When it leads nowhere.
#[must_use]
pub fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            resolve(document, document.pointer(&reference[1..]).expect("a reference that leads somewhere"))
        }
        None => value,
    }
}

/// Why a value does not fit a schema, with its place; `None` if it does. What this does not know is an error, and not let
/// pass.
///
/// # Panics
/// At a keyword that is not known here.
#[must_use]
pub fn misfit(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let members = schema.as_object().expect("a schema");
    members.iter().find_map(|(keyword, wanted)| {
        let place = || format!("{keyword} {wanted}: {value}");
        match keyword.as_str() {
            "$ref" => misfit(document, resolve(document, schema), value),
            "oneOf" | "anyOf" => {
                let each: Vec<_> =
                    list(wanted).iter().map(|schema| misfit(document, schema, value)).collect();
                let fit = each.iter().filter(|misfit| misfit.is_none()).count();
                let good = if keyword == "oneOf" { fit == 1 } else { fit > 0 };
                (!good).then(|| format!("{fit} of {} fit: {each:?}", each.len()))
            }
            "required" => {
                let members = value.as_object()?;
                let missing = list(wanted).iter().find(|name| !members.contains_key(text(name)))?;
                Some(format!("no {missing}: {value}"))
            }
            "properties" => value.as_object()?.iter().find_map(|(name, member)| {
                misfit(document, wanted.get(name)?, member).map(|why| format!("{name}: {why}"))
            }),
            "additionalProperties" => {
                let known =
                    |name: &String| schema.get("properties").is_some_and(|known| known.get(name).is_some());
                let mut others = value.as_object()?.iter().filter(|(name, _)| !known(name));
                match wanted {
                    Value::Bool(true) => None,
                    Value::Bool(false) => others.next().map(|(name, _)| format!("unknown {name}: {value}")),
                    schema => others.find_map(|(_, member)| misfit(document, schema, member)),
                }
            }
            "propertyNames" => {
                value.as_object()?.keys().find_map(|name| misfit(document, wanted, &json!(name)))
            }
            "items" => value.as_array()?.iter().find_map(|item| misfit(document, wanted, item)),
            "if" => match misfit(document, wanted, value) {
                None => misfit(document, &schema["then"], value),
                Some(_) => None,
            },
            "then" | "description" | "examples" | "default" | "writeOnly" => None,
            _ => (!holds(keyword, wanted, value)).then(place),
        }
    })
}

/// Keywords that look at one value alone.
fn holds(keyword: &str, wanted: &Value, value: &Value) -> bool {
    match keyword {
        "type" => match wanted {
            Value::Array(names) => names.iter().any(|name| is(text(name), value)),
            name => is(text(name), value),
        },
        "const" => value == wanted,
        "enum" => list(wanted).contains(value),
        "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().expect("a number")),
        "maximum" => value.as_f64().is_none_or(|number| number <= wanted.as_f64().expect("a number")),
        "minLength" => value.as_str().is_none_or(|text| !text.is_empty()),
        "pattern" => value.as_str().is_none_or(|value| {
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            match text(wanted) {
                "^[0-9]{8}$" => value.len() == 8 && digits(value),
                "^\"[0-9]+\"$" => {
                    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).is_some_and(digits)
                }
                other => panic!("pattern {other}"),
            }
        }),
        other => panic!("keyword {other}"),
    }
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
