//! Tests of claimed sessions.

use super::*;
use crate::json::{Tape, Value};
use crate::limits::MAX_TOKEN;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

/// A segment around a payload. Nobody has signed it.
fn segment(payload: &[u8]) -> String {
    format!("eyJhbGciOiJub25lIn0.{}.AAAA", URL_SAFE_NO_PAD.encode(payload))
}

/// What the lenient reading finds.
fn lenient(segment: &[u8]) -> Vec<String> {
    let mut payload = Vec::new();
    decode_leniently(segment, &mut payload);
    sessions(&payload).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

/// The `sid` of a payload as the strict reader sees it; an error where it refuses the payload.
fn strict(payload: &str) -> Result<Option<String>, ()> {
    let mut tape = Tape::new();
    let value = tape.read_text(payload.as_bytes()).map_err(|_| ())?;
    Ok(value.get("sid").and_then(Value::as_str).map(ToOwned::to_owned))
}

fn is_claimed(segment: &[u8], sid: &str) -> bool {
    find(segment, &mut ClaimedScratch::new(), |found| found == sid).is_some()
}

#[test]
fn where_a_session_is_claimed() {
    let cases: &[(&str, &[&str])] = &[
        (r#"{"sid":"a"}"#, &["a"]),
        (r#"{"sid":""}"#, &[""]),
        (r#"{"iat":1,"sid":"a","exp":2}"#, &["a"]),
        (r#"{"sid":"a","sid":"b"}"#, &["a", "b"]),
        (r#"{"sid":1,"sid":"b"}"#, &["b"]),
        // Depth.
        (r#"{"x":{"sid":"a"}}"#, &[]),
        (r#"{"x":[{"sid":"a"}]}"#, &[]),
        (r#"{"geo-tw":[{"start":1,"end":2}],"sid":"a"}"#, &["a"]),
        (r#"{"sid":"a","geo-tw":[{"start":1,"end":2}]}"#, &["a"]),
        (r#"{"x":{"y":[1]},"sid":"a"}"#, &["a"]),
        // Strings.
        (r#"{"x":"{\"sid\":\"a\"}"}"#, &[]),
        (r#"{"x":",\\","sid":"a"}"#, &["a"]),
        (r#"{"x":"\\\",","sid":"a"}"#, &["a"]),
        (r#"{"x":"{[","sid":"a"}"#, &["a"]),
        (r#"{"x":"}]","sid":"a"}"#, &["a"]),
        (r#"{"\",":1,"sid":"a"}"#, &["a"]),
        // No plain member.
        (r#"{"x":"sid","y":"a"}"#, &[]),
        (r#"{"sid": "a"}"#, &[]),
        (r#"{ "sid":"a"}"#, &[]),
        (r#"{"s\u0069d":"a"}"#, &[]),
        (r#"{"sid":"a\u0062"}"#, &[]),
        ("{\"sid\":\"a\tb\"}", &[]),
        (r#"{"sid":["a"]}"#, &[]),
        (r#"{"xsid":"a"}"#, &[]),
        (r#"{"sid":"a"#, &[]),
        // No JSON, and claimed all the same.
        (r#"{"sid":"a""#, &["a"]),
        (r#"{,"sid":"a"#, &[]),
        (r#"{}{"sid":"a"}"#, &["a"]),
        (r#"{}}]{"sid":"a"}"#, &[]),
        (r#"{}}{{"sid":"a"}"#, &["a"]),
        (r#"{x,"sid":"a" trailing"#, &["a"]),
        // Not an object.
        (r#" {"sid":"a"}"#, &[]),
        (r#"["sid":"a"]"#, &[]),
        (r#""sid":"a""#, &[]),
        ("", &[]),
    ];
    for (payload, expected) in cases {
        assert_eq!(lenient(segment(payload.as_bytes()).as_bytes()), *expected, "{payload}");
    }
}

#[test]
fn payloads_end_at_the_first_foreign_character() {
    let whole = segment(br#"{"sid":"abc"}"#);
    let payload = whole.split('.').nth(1).unwrap();
    for (text, expected) in [
        (format!("e.{payload}"), true),
        (format!("e.{payload}="), true),
        (format!("e.{payload}.b.c.d"), true),
        (format!("e.{payload}%zz"), true),
        (format!(".{payload}"), true),
        (format!("e..{payload}"), false),
        (format!("e.%{payload}"), false),
        (format!("e.{}+{}", &payload[..4], &payload[4..]), false),
        (payload.to_owned(), false),
    ] {
        assert_eq!(lenient(text.as_bytes()) == ["abc"], expected, "{text}");
    }
    // The closing quote is the only byte of the last quantum: two characters hold it, one does not.
    let payload = URL_SAFE_NO_PAD.encode(br#"{"sid":"a""#);
    assert_eq!((payload.len(), lenient(format!("e.{payload}").as_bytes())), (14, vec!["a".to_owned()]));
    assert_eq!(lenient(format!("e.{}", &payload[..13]).as_bytes()), [""; 0]);
}

#[test]
fn other_spellings_are_claimed_by_well_formed_tokens() {
    for payload in [
        r#"{"\u0073id":"a"}"#,
        r#"{"sid":"\u0061"}"#,
        r#"{"sid" : "a"}"#,
        r#" {"sid":"a"}"#,
        "{\n\t\"iat\":1,\n\t\"sid\":\"a\"\n}",
    ] {
        let token = segment(payload.as_bytes());
        assert!(is_claimed(token.as_bytes(), "a"), "{payload}");
        assert!(!is_claimed(token.as_bytes(), "b"), "{payload}");
        // One more part, and it is no token.
        assert!(!is_claimed(format!("{token}.AAAA").as_bytes(), "a"), "{payload}");
    }
    assert!(!is_claimed(segment(br#"{"x": {"sid": "a"}}"#).as_bytes(), "a"));
}

#[test]
fn segments_may_be_longer_than_tokens() {
    let sid = "s".repeat(11_000);
    let long = segment(format!("{{\"sid\":\"{sid}\"}}").as_bytes());
    assert!(long.len() > MAX_TOKEN && long.len() < MAX_TARGET);
    let mut scratch = ClaimedScratch::new();
    let room = scratch.payload.capacity();
    assert_eq!(find(long.as_bytes(), &mut scratch, |_| true), Some(&*sid));
    assert_eq!(scratch.payload.capacity(), room, "it allocates");
}

/// Text of a string without escapes.
fn plain_string() -> impl Strategy<Value = String> {
    prop_oneof![r#"[a-z0-9{}\[\],:é ]{0,8}"#, Just(String::from("sid"))]
}

/// Text of a string, with escapes, brackets, and what looks like a claim.
fn string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z{}\\[\\],: é]{0,4}",
        Just(String::from(r#"\""#)),
        Just(String::from(r"\\")),
        Just(String::from(r"\u0022")),
        Just(String::from(r#",\"sid\":\"s1\""#)),
        Just(String::from("sid")),
    ];
    prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
}

/// A compact value that is not at the top.
fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just(String::from("null")),
        Just(String::from("true")),
        any::<u32>().prop_map(|n| format!("{n}")),
        string().prop_map(|s| format!("\"{s}\"")),
    ];
    scalar.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec((name(), inner), 0..4).prop_map(|members| object(&members)),
        ]
    })
}

/// Names, `sid` often among them.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::from("sid")), 1 => Just(String::from("geo-tw")), 4 => string()]
}

/// An object of those members that no earlier one has the name of.
fn object(members: &[(String, String)]) -> String {
    let first = |index: usize| members[..index].iter().all(|(name, _)| *name != members[index].0);
    let members: Vec<String> = (0..members.len())
        .filter(|&index| first(index))
        .map(|index| format!("\"{}\":{}", members[index].0, members[index].1))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// Members of which none is called `sid`, in any spelling.
fn other_members() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((name(), value()), 0..5)
        .prop_map(|members| members.into_iter().filter(|(name, _)| name != "sid").collect())
}

proptest! {
    #[test]
    fn compact_tokens_claim_what_the_strict_reader_says(
        before in other_members(),
        sid in plain_string(),
        after in other_members(),
    ) {
        let members = [before, vec![("sid".to_owned(), format!("\"{sid}\""))], after].concat();
        let payload = object(&members);
        // Not well-formed: a name twice, in two spellings.
        prop_assume!(strict(&payload).is_ok());
        prop_assert_eq!(strict(&payload), Ok(Some(sid.clone())), "{}", &payload);
        prop_assert_eq!(lenient(segment(payload.as_bytes()).as_bytes()), [sid], "{}", &payload);
    }

    #[test]
    fn tokens_without_a_session_claim_none(members in other_members()) {
        let payload = object(&members);
        prop_assume!(strict(&payload).is_ok());
        prop_assert_eq!(strict(&payload), Ok(None), "{}", &payload);
        prop_assert_eq!(lenient(segment(payload.as_bytes()).as_bytes()), [""; 0], "{}", &payload);
    }

    /// Whatever a well-formed text looks like, the lenient reading never finds another session than the strict one.
    #[test]
    fn well_formed_texts_claim_no_other_session(members in prop::collection::vec((name(), value()), 0..6)) {
        let payload = object(&members);
        let said = strict(&payload);
        prop_assume!(said.is_ok());
        for claimed in lenient(segment(payload.as_bytes()).as_bytes()) {
            prop_assert_eq!(Ok(Some(claimed)), said.clone(), "{}", &payload);
        }
    }

    #[test]
    fn any_segment_ends(text in r#"[{}\[\]",:\\sid a]{0,60}"#, cut in 0_usize..90) {
        let segment = segment(text.as_bytes());
        let segment = &segment.as_bytes()[..cut.min(segment.len())];
        let _either = find(segment, &mut ClaimedScratch::new(), |_| false);
    }
}
