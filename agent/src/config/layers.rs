//! Several texts that make up one configuration: tables merge key by key, and everything else in a later text replaces what
//! an earlier one has.

use super::problem::{Place, Problems, Report};
use super::reader::{wipe, wipe_value};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

/// What stands for a secret in what is shown of a configuration. As a secret it is refused.
pub(crate) const HIDDEN: &str = "(hidden)";

/// One of the texts.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'t> {
    /// What stands before problems in this text: the file's path, or who pushed it.
    pub name: &'t Path,
    /// TOML.
    pub text: &'t str,
}

/// A value that is set, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    /// The dotted key.
    pub key: String,
    /// The value as TOML, on one line.
    pub toml: String,
    /// The same for programs.
    pub json: Json,
    /// Which of the layers it comes from.
    pub layer: usize,
}

/// The texts as one document. Offsets in it count through all texts as if they followed each other,
/// one byte apart.
pub(super) fn document<'t>(layers: &[Layer<'t>], report: &Report) -> Result<DeTable<'t>, SyntaxError> {
    let mut merged = DeTable::new();
    let (mut start, mut failed) = (0, false);
    for layer in layers {
        let (document, errors) = DeTable::parse_recoverable(layer.text);
        let mut document = document.into_inner();
        // What the parser made of a damaged text is not worth reading. One error per line: the others follow from it.
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            let span = span.start + start..span.end + start;
            Place::new(report, &span, String::new()).problem(syntax(error.message()));
        }
        if errors.is_empty() {
            lay(&mut merged, moved(document, start));
        } else {
            wipe(&mut document);
            failed = true;
        }
        start += layer.text.len() + 1;
    }
    if failed {
        wipe(&mut merged);
        return Err(SyntaxError);
    }
    Ok(merged)
}

/// Some text is no TOML; the report says which and where.
#[derive(Debug)]
pub(super) struct SyntaxError;

/// Every value that is set, without secrets.
///
/// # Errors
/// What is no TOML.
pub fn shown(layers: &[Layer<'_>]) -> Result<Vec<Shown>, Problems> {
    let report = Report::new();
    let mut document = match document(layers, &report) {
        Ok(document) => document,
        Err(SyntaxError) => return Err(report.finish_syntax(layers)),
    };
    let ends: Vec<usize> = layers
        .iter()
        .scan(0, |end, layer| {
            *end += layer.text.len() + 1;
            Some(*end)
        })
        .collect();
    let mut found = Vec::new();
    leaves(&document, &mut Vec::new(), &mut |path, span, value| {
        let mut value = plain(value);
        hide(path, &mut value);
        let key = path.iter().map(|name| bare(name)).collect::<Vec<_>>().join(".");
        let layer = ends.partition_point(|&end| end <= span.start).min(ends.len().saturating_sub(1));
        found.push((
            span.start,
            Shown {
                key,
                toml: value.to_string(),
                json: serde_json::to_value(&value).unwrap_or_default(),
                layer,
            },
        ));
    });
    wipe(&mut document);
    found.sort_by_key(|(start, _)| *start);
    Ok(found.into_iter().map(|(_, shown)| shown).collect())
}

/// The text of a layer, with `(hidden)` in place of its secrets. What is no TOML is hidden as a whole.
pub fn without_secrets(text: &str) -> String {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut document = document.into_inner();
    let mut spans = Vec::new();
    if errors.is_empty() {
        secret_spans(&document, &mut spans);
    } else {
        spans.push(0..text.len());
    }
    wipe(&mut document);
    spans.sort_by_key(|span| span.start);
    let mut result = String::with_capacity(text.len());
    let mut end = 0;
    for span in spans {
        result.push_str(text.get(end..span.start).unwrap_or_default());
        result.push_str(&format!("\"{HIDDEN}\""));
        end = span.end;
    }
    result.push_str(text.get(end..).unwrap_or_default());
    result
}

/// Lays a document over another.
fn lay<'t>(lower: &mut DeTable<'t>, upper: DeTable<'t>) {
    for (key, value) in upper {
        if value.get_ref().is_table()
            && let Some(below) = lower.get_mut(&*key.get_ref().clone())
            && let DeValue::Table(below) = below.get_mut()
        {
            if let DeValue::Table(value) = value.into_inner() {
                lay(below, value);
            }
            continue;
        }
        if let Some((_, mut gone)) = lower.remove_entry(&*key.get_ref().clone()) {
            wipe_value(gone.get_mut());
        }
        lower.insert(key, value);
    }
}

/// The same document, `by` bytes further on.
fn moved<'t>(document: DeTable<'t>, by: usize) -> DeTable<'t> {
    let key = |key: Spanned<DeString<'t>>| {
        let span = further(key.span(), by);
        Spanned::new(span, key.into_inner())
    };
    document.into_iter().map(|(name, value)| (key(name), moved_value(value, by))).collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = further(value.span(), by);
    let value = match value.into_inner() {
        DeValue::Array(array) => {
            DeValue::Array(array.into_iter().map(|element| moved_value(element, by)).collect())
        }
        DeValue::Table(table) => DeValue::Table(moved(table, by)),
        plain => plain,
    };
    Spanned::new(span, value)
}

fn further(span: Range<usize>, by: usize) -> Range<usize> {
    span.start + by..span.end + by
}

/// Calls `each` with the path, place and value of everything that is no table.
fn leaves<'t>(
    table: &'t DeTable<'t>,
    path: &mut Vec<&'t str>,
    each: &mut impl FnMut(&[&str], Range<usize>, &DeValue<'_>),
) {
    for (key, value) in table {
        path.push(key.get_ref());
        match value.get_ref() {
            DeValue::Table(inner) => leaves(inner, path, each),
            leaf => each(path, value.span(), leaf),
        }
        path.pop();
    }
}

/// Where the secrets of a document are.
fn secret_spans(document: &DeTable<'_>, spans: &mut Vec<Range<usize>>) {
    leaves(document, &mut Vec::new(), &mut |path, span, value| match (secrecy(path), value) {
        (Secrecy::Keys, DeValue::Array(slots)) => {
            let slots = slots.iter().filter_map(|slot| slot.get_ref().as_table());
            spans.extend(slots.filter_map(|slot| slot.get("key")).map(Spanned::span));
        }
        (Secrecy::List, DeValue::Array(secrets)) => spans.extend(secrets.iter().map(Spanned::span)),
        // Not what it should be; it may still hold a secret.
        (Secrecy::Keys | Secrecy::List | Secrecy::All, _) => spans.push(span),
        (Secrecy::None, _) => {}
    });
}

fn hide(path: &[&str], value: &mut toml::Value) {
    let hidden = || toml::Value::String(HIDDEN.to_owned());
    match (secrecy(path), &mut *value) {
        (Secrecy::Keys, toml::Value::Array(slots)) => {
            for key in slots.iter_mut().filter_map(|slot| slot.as_table_mut()?.get_mut("key")) {
                *key = hidden();
            }
        }
        (Secrecy::List, toml::Value::Array(secrets)) => {
            secrets.iter_mut().for_each(|secret| *secret = hidden())
        }
        (Secrecy::Keys | Secrecy::List | Secrecy::All, _) => *value = hidden(),
        (Secrecy::None, _) => {}
    }
}

/// What of a value is secret.
enum Secrecy {
    None,
    /// The `key` of each table in it.
    Keys,
    /// Each element.
    List,
    All,
}

fn secrecy(path: &[&str]) -> Secrecy {
    match path {
        ["secrets", _, "slots"] => Secrecy::Keys,
        ["secrets", _, "allow_key_size"] => Secrecy::None,
        ["secrets", ..] => Secrecy::All,
        ["secure_token", _, "secrets"] => Secrecy::List,
        ["secure_token", _, "secure_token_secret"] | ["secure_token"] | ["secure_token", _] => Secrecy::All,
        ["fleet", "password" | "token"] => Secrecy::All,
        _ => Secrecy::None,
    }
}

/// Without places.
fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| toml::Value::String(number.to_string()), toml::Value::Integer),
        DeValue::Float(number) => number
            .as_str()
            .parse()
            .map_or_else(|_| toml::Value::String(number.to_string()), toml::Value::Float),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Datetime(value) => toml::Value::Datetime(*value),
        DeValue::Array(array) => {
            toml::Value::Array(array.iter().map(|element| plain(element.get_ref())).collect())
        }
        DeValue::Table(table) => toml::Value::Table(
            table.iter().map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref()))).collect(),
        ),
    }
}

/// A key as it is written in TOML.
fn bare(name: &str) -> Cow<'_, str> {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { name.into() } else { toml::Value::String(name.to_owned()).to_string().into() }
}

/// The parser says what it met; this adds the way out where it is not the same thing.
fn syntax(message: &str) -> String {
    match message {
        "duplicate key" => "TOML syntax: duplicate key; the key or table is given twice, remove one".into(),
        _ => format!("TOML syntax: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers<'t>(texts: &[&'t str]) -> Vec<Layer<'t>> {
        texts.iter().map(|text| Layer { name: Path::new("f"), text }).collect()
    }

    fn lines(texts: &[&str]) -> Vec<String> {
        let shown = shown(&layers(texts)).unwrap();
        shown.iter().map(|s| format!("{} = {} #{}", s.key, s.toml, s.layer)).collect()
    }

    #[test]
    fn tables_merge_and_the_rest_is_replaced() {
        let file = "leeway = 1\n[gateway]\nlisten = [\"a\"]\nupstream = \"u\"\n[[route]]\nname = \"x\"\n[[route]]\nname = \"y\"\n";
        let fleet = "leeway = 2\n[gateway]\nupstream = \"v\"\n";
        let pushed = "[[route]]\nname = \"z\"\n[blacklist.days]\n20250101 = \"s\"\n";
        assert_eq!(
            lines(&[file, fleet, pushed]),
            [
                "gateway.listen = [\"a\"] #0",
                "leeway = 2 #1",
                "gateway.upstream = \"v\" #1",
                "route = [{ name = \"z\" }] #2",
                "blacklist.days.20250101 = \"s\" #2",
            ]
        );
        assert_eq!(lines(&["a = 1", "a = { b = 1 }"]), ["a.b = 1 #1"]);
        assert_eq!(lines(&["a = { b = 1 }", "a = 1"]), ["a = 1 #1"]);
        assert_eq!(lines(&["", ""]), [""; 0]);
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = "[secrets.\"a b\"]\nallow_key_size = true\nslots = [ { slot = 0, key = \"SECRET\" }, { slot = 1, key_file = \"f\" } ]\n\
                    [secure_token]\nx.secrets = [\"SECRET\", 'SECRET']\ny.secure_token_secret = \"SECRET\"\nz = \"SECRET\"\n\
                    [fleet]\npassword = \"SECRET\"\n";
        let shown = lines(&[text]).join("\n");
        assert!(!shown.contains("SECRET"), "{shown}");
        assert!(shown.contains("secrets.\"a b\".allow_key_size = true"), "{shown}");
        assert!(shown.contains("key_file = \"f\""), "{shown}");
        let hidden = without_secrets(text);
        assert!(!hidden.contains("SECRET"), "{hidden}");
        assert_eq!(hidden, text.replace("\"SECRET\"", "\"(hidden)\"").replace("'SECRET'", "\"(hidden)\""));
        assert_eq!(without_secrets("secrets = [[["), "\"(hidden)\"");
        assert_eq!(without_secrets("secrets.k = [\"SECRET\"]"), "secrets.k = \"(hidden)\"");
    }
}
