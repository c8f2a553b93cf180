//! Tests of the JSON reader.

use super::text::{are_digits, eight_digits};
use super::*;
use crate::limits::{MAX_DEPTH, MAX_MEMBERS, MAX_NODES};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use proptest::prelude::*;

fn read<T>(text: &str, look: impl FnOnce(Value<'_>) -> T) -> Result<T, JsonError> {
    Tape::new().read_text(text.as_bytes()).map(look)
}

impl Tape {
    pub(crate) fn read_text(&mut self, text: &[u8]) -> Result<Value<'_>, JsonError> {
        // What an earlier text has left must not count.
        self.text.fill(b'"');
        self.text()[..text.len()].copy_from_slice(text);
        self.read(text.len(), || ())
    }
}

impl Tape {
    /// Likewise, as if nothing were usual.
    fn read_carefully(&mut self, text: &[u8]) -> Result<Value<'_>, JsonError> {
        self.text()[..text.len()].copy_from_slice(text);
        let Self { text: room, quotes, nodes, places, crowded } = self;
        room[text.len()..].fill(0);
        let is_plain = find_quotes(room, text.len(), quotes);
        let mut reader = Reader { text: room, quotes, len: text.len(), is_plain, nodes, count: 0 };
        *crowded = reader.read(places, || ())? == Seen::Crowd;
        Ok(Value { tape: self, index: 0 })
    }
}

/// Names that are often the same, and some that have the same place.
const MEMBER_NAME: &str = "[ab]{0,3}|iat|[a-z]{1,3}|[a-z]{60,70}";
const MEMBER_VALUE: &str = concat!(
    r#"("[ -!#-\[\]-~]{0,70}"|[0-9]{1,21}|-?[0-9]{1,3}(\.[0-9]{1,2})?(e[+-]?[0-9])?|true|null"#,
    r#"|\[\]|\{\}|\[1,"a",\{"b":1\}\]|\{"b":"x","c":\[\]\}|\{"b":1,"b":2\})"#
);

#[test]
fn well_formed_texts() {
    for text in [
        "{}",
        " \t\r\n{ } ",
        "[]",
        "[1,2.5,-0,1e5,1E-5,0.1e+2]",
        r#"{"a":{"b":[true,false,null,"x"]},"c":"é\u00e9\ud83d\ude00\n\/"}"#,
        "\"\\u0000\"",
    ] {
        assert!(read(text, |_| ()).is_ok(), "{text}");
    }
}

#[test]
fn malformed_texts() {
    for text in [
        "",
        " ",
        "{",
        "}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "{'a':1}",
        "[1,]",
        "[1 2]",
        "01",
        "+1",
        "1.",
        ".5",
        "1e",
        "--1",
        "-",
        "0x1",
        "NaN",
        "tru",
        "truex",
        "nul",
        "\"",
        "\"\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800\\ud800\"",
        "\"a\nb\"",
        "\"\\n\u{1}\"",
        "{}{}",
        "{} x",
        "{\"a\":1}}",
        "{\"a\":1},",
        "{\"a\":1}{\"a\":1}",
        "{\"a\":1}\0",
        "\u{feff}{}",
        "/**/{}",
    ] {
        assert_eq!(read(text, |_| ()).err(), Some(JsonError::Syntax), "{text:?}");
    }
    for invalid_utf8 in [
        &b"\"\xff\""[..],
        b"\"\xc3\"",
        b"\"\xc3\\u00e9\"",
        b"\"\\u00e9\xa9\"",
        b"\"\\\"\xe2\x82\"",
        b"{\"\xc3\":1}",
        b"\"\0\"",
        b"{}\0",
        b"\0",
    ] {
        assert_eq!(Tape::new().read_text(invalid_utf8).err(), Some(JsonError::Syntax), "{invalid_utf8:?}");
    }
}

#[test]
fn duplicate_names_are_refused_at_every_level() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"exp":1,"\u0065xp":2}"#,
        r#"{"\u0065xp":1,"exp":2}"#,
        r#"{"x":{"a":[],"b":1,"a":{}}}"#,
        r#"[{"é":1,"\u00e9":1}]"#,
        r#"{"":1,"":2}"#,
    ] {
        assert_eq!(read(text, |_| ()).err(), Some(JsonError::Duplicate), "{text}");
    }
    assert!(read(r#"{"a":{"a":{"a":1}},"b":{"a":1}}"#, |_| ()).is_ok());
}

#[test]
fn limits_hold_at_their_boundary() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(MAX_DEPTH), |_| ()).is_ok());
    assert_eq!(read(&nested(MAX_DEPTH + 1), |_| ()).err(), Some(JsonError::Limit));

    let members = |count: usize| {
        let list: Vec<String> = (0..count).map(|i| format!("\"{i}\":0")).collect();
        format!("{{{}}}", list.join(","))
    };
    assert!(read(&members(MAX_MEMBERS), |_| ()).is_ok());
    assert_eq!(read(&members(MAX_MEMBERS + 1), |_| ()).err(), Some(JsonError::Limit));

    let elements = |count: usize| format!("[{}]", ["0"].repeat(count).join(","));
    assert!(read(&elements(MAX_NODES - 1), |_| ()).is_ok());
    assert_eq!(read(&elements(MAX_NODES), |_| ()).err(), Some(JsonError::Limit));
}

#[test]
fn keys_tell_short_names_apart() {
    assert_ne!(key(b"iat"), key(b"iat\0"));
    assert_ne!(key(b""), key(b"\0"));
    assert_eq!(key(b"client_a"), key(b"client_b"), "seven bytes and the length");
    // Names with the same key are told apart all the same, and found.
    let text = r#"{"client_a":1,"client_b":2,"":3}"#;
    let values = ["client_a", "client_b", "client_c", ""];
    let found = |root: Value<'_>| values.map(|name| root.get(name).and_then(|v| v.as_integer(9)));
    assert_eq!(read(text, found), Ok([Some(1), Some(2), None, Some(3)]));
    let usual = "iat exp cid stt cip geo geo-tw local sid asn nbf alg kid typ iss sub aud jti crit scope";
    let mut seen = 0_u64;
    for name in usual.split(' ') {
        let bit = 1 << place(key(name.as_bytes()));
        assert_eq!(seen & bit, 0, "{name} meets another name");
        seen |= bit;
    }
}

#[test]
fn outermost_members_are_found_in_any_crowd() {
    let two = (0..).map(|n| format!("x{n}")).find(|name| place(key(name.as_bytes())) == place(key(b"iat")));
    let other = two.unwrap();
    let find = |root: Value<'_>| root.outermost(key(b"iat")).map(|iat| iat.as_integer(9));
    for (text, expected) in [
        (r#"{"iat":1}"#.into(), Some(Some(1))),
        (r#"{"a":{"iat":2},"iat":1,"b":[3]}"#.into(), Some(Some(1))),
        (format!(r#"{{"iat":1,"{other}":2}}"#), Some(Some(1))),
        (format!(r#"{{"{other}":2,"iat":1}}"#), Some(Some(1))),
        (format!(r#"{{"{other}":2,"x":{{"iat":1}}}}"#), None),
        (r#"{"\u0069at":1}"#.into(), Some(Some(1))),
        (r#"{"a":{"iat":2}}"#.into(), None),
        ("{}".into(), None),
        ("[1,{\"iat\":1}]".into(), None),
        ("7".into(), None),
    ] {
        assert_eq!(read(&text, find), Ok(expected), "{text}");
    }
    // Nothing is left of an earlier text.
    let mut tape = Tape::new();
    assert!(tape.read_text(br#"{"iat":1,"exp":2}"#).is_ok());
    assert!(tape.read_text(br#"{"exp":2}"#).unwrap().outermost(key(b"iat")).is_none());
}

#[test]
fn integers() {
    for (text, expected) in [
        ("0", Some(0)),
        ("7", Some(7)),
        ("10", Some(10)),
        ("1234567", Some(1_234_567)),
        ("12345678", Some(12_345_678)),
        ("87654321", Some(87_654_321)),
        ("1713789349", Some(1_713_789_349)),
        ("1713789349.0", None),
        ("17137893e1", None),
        ("18446744073709551615", None),
        ("18446744073709551616", None),
        ("18446744073709551617", None),
        ("9007199254740992", Some(1 << 53)),
        ("9007199254740993", None),
        ("99999999999999999999999", None),
        ("-1", None),
        ("-0", None),
        ("1.0", None),
        ("1e3", None),
        ("\"1\"", None),
        ("true", None),
    ] {
        assert_eq!(read(text, |v| v.as_integer(1 << 53)), Ok(expected), "{text}");
    }
}

#[test]
fn words_of_digits() {
    for byte in 0..=u8::MAX {
        for at in 0..8 {
            let mut digits = *b"30291857";
            digits[at] = byte;
            let word = u64::from_le_bytes(digits);
            assert_eq!(are_digits(word), byte.is_ascii_digit(), "{byte} at {at}");
            if byte.is_ascii_digit() {
                let value = String::from_utf8(digits.to_vec()).unwrap().parse();
                assert_eq!(Ok(eight_digits(word)), value);
            }
        }
    }
}

#[test]
fn members_and_elements() {
    let text = r#"{"k\u0069d":"a\tb","list":[{"n":1},[2],"3"],"last":null}"#;
    read(text, |root| {
        assert_eq!(root.get("kid").and_then(Value::as_str), Some("a\tb"));
        let list: Vec<Kind> = root.get("list").and_then(Value::as_array).unwrap().map(Value::kind).collect();
        assert_eq!(list, [Kind::Object, Kind::Array, Kind::String]);
        assert_eq!(root.get("last").map(Value::kind), Some(Kind::Null));
        assert!(root.get("n").is_none());
    })
    .unwrap();
}

/// The same value as the reader sees it, in a form that can be compared with the generated one.
fn render(value: Value<'_>) -> String {
    match value.kind() {
        Kind::Null => "null".into(),
        Kind::Bool => "bool".into(),
        Kind::Number => String::from_utf8_lossy(value.number().unwrap()).into_owned(),
        Kind::String => format!("{:?}", value.as_str().unwrap()),
        Kind::Array => format!("{:?}", value.children().map(render).collect::<Vec<_>>()),
        Kind::Object => format!(
            "{{{:?}}}",
            value
                .children()
                .map(|c| (String::from_utf8_lossy(c.name()).into_owned(), render(c)))
                .collect::<Vec<_>>()
        ),
    }
}

/// A text and its rendering. Every character of a string is written plainly or as an escape, by choice.
fn document() -> impl Strategy<Value = (String, String)> {
    let string = prop::collection::vec((any::<char>(), any::<bool>()), 0..8).prop_map(|chars| {
        let mut text = String::from("\"");
        let mut plain = String::new();
        for (c, escape) in chars {
            plain.push(c);
            if escape || c < ' ' || c == '"' || c == '\\' {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                text.push(c);
            }
        }
        text.push('"');
        (text, format!("{plain:?}"))
    });
    let scalar = prop_oneof![
        Just((String::from("null"), String::from("null"))),
        Just((String::from("true"), String::from("bool"))),
        any::<u32>().prop_map(|n| (format!("{n}"), format!("{n}"))),
        string,
    ];
    scalar.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|items| {
                let texts: Vec<&str> = items.iter().map(|i| i.0.as_str()).collect();
                let renders: Vec<&str> = items.iter().map(|i| i.1.as_str()).collect();
                (format!("[ {} ]", texts.join(" , ")), format!("{renders:?}"))
            }),
            prop::collection::vec(inner, 0..5).prop_map(|items| {
                let texts: Vec<String> =
                    items.iter().enumerate().map(|(i, v)| format!("\"k{i}\" : {}", v.0)).collect();
                let renders: Vec<(String, &str)> =
                    items.iter().enumerate().map(|(i, v)| (format!("k{i}"), v.1.as_str())).collect();
                (format!("{{{}}}", texts.join(",")), format!("{{{renders:?}}}"))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn integers_are_what_they_say(number in any::<u64>(), shift in 0..64_u32) {
        let number = number >> shift;
        let expected = (number <= 1 << 53).then_some(number);
        prop_assert_eq!(read(&format!("{number}"), |v| v.as_integer(1 << 53)), Ok(expected));
    }

    #[test]
    fn reads_back_what_was_written((text, expected) in document()) {
        prop_assert_eq!(read(&text, render), Ok(expected));
    }

    #[test]
    fn the_usual_way_and_the_careful_one_agree(
        members in prop::collection::vec((MEMBER_NAME, MEMBER_VALUE), 0..8),
        // A byte in place of another, or none in place of it, somewhere.
        change in prop::option::of((any::<prop::sample::Index>(), prop::option::of(r#"[\[\]{}",:\\0a.e -]"#))),
    ) {
        let members: Vec<String> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        let mut text = format!("{{{}}}", members.join(","));
        if let Some((index, byte)) = change {
            let at = index.index(text.len());
            text.replace_range(at..=at, byte.as_deref().unwrap_or_default());
        }
        let (mut one, mut other) = (Tape::new(), Tape::new());
        let keys: Vec<u64> = members.iter().map(|member| key(&member.as_bytes()[1..member.len().min(4)])).collect();
        let look = |value: Value<'_>| {
            let found: Vec<_> = keys.iter().map(|key| value.outermost(*key).map(render)).collect();
            (render(value), if value.is_object() { found } else { Vec::new() })
        };
        prop_assert_eq!(one.read_text(text.as_bytes()).map(look), other.read_carefully(text.as_bytes()).map(look));
    }

    #[test]
    fn any_bytes_end_in_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _either = Tape::new().read_text(&bytes).map(render);
    }

    #[test]
    fn any_json_like_text_ends(text in r#"[\[\]{}",:\\u0-9a-f\-.e ]{0,80}"#) {
        let _either = read(&text, render);
    }
}
