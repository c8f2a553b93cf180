//! Lists of sessions in any of their forms, read as they arrive.

use super::media_type;
use bytes::{Buf as _, Bytes};
use http::Request;
use hyper::body::Incoming;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::io::{self, BufRead, Read};
use tokio::sync::mpsc;
use validator_core::Day;

/// Longest line of JSON, and longest name, that is looked at; in bytes.
const LONGEST: usize = 64 * 1024;

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `20251228 : "a,b"`, or plain names.
    Text,
    /// A JSON value per line.
    Lines,
    /// One JSON value.
    Json,
}

impl Form {
    /// What a request says about its body; text if it says nothing.
    pub(super) fn of(request: &Request<Incoming>) -> Option<Self> {
        match media_type(request).as_deref() {
            // What curl says of any file.
            None | Some("text/plain" | "application/octet-stream" | "application/x-www-form-urlencoded") => {
                Some(Self::Text)
            }
            Some("application/json") => Some(Self::Json),
            Some("application/x-ndjson" | "application/jsonl" | "application/x-jsonlines") => {
                Some(Self::Lines)
            }
            Some(_) => None,
        }
    }
}

/// Something in a list.
pub(crate) enum Item<'i> {
    /// A session.
    Session { line: u64, day: Day, sid: &'i str },
    /// What is none.
    Refused { line: u64, value: &'i str, why: String },
}

/// Nothing more is wanted.
#[derive(Debug)]
pub(crate) struct Stop;

/// Gets what is found.
type Sink<'s> = &'s mut dyn FnMut(Item<'_>) -> Result<(), Stop>;

/// Reads a whole list. Sessions without a day of their own are of `day`.
///
/// # Errors
/// What makes it impossible to read on; or the sink stopped.
pub(crate) fn read(form: Form, reader: impl BufRead, day: Day, sink: Sink<'_>) -> Result<(), String> {
    match form {
        Form::Text => text(reader, day, sink),
        Form::Lines => lines(reader, day, sink),
        Form::Json => json(reader, day, sink),
    }
}

fn text(mut reader: impl BufRead, default: Day, sink: Sink<'_>) -> Result<(), String> {
    let (mut line, mut day, mut at_start) = (1, default, true);
    let mut word = Vec::new();
    loop {
        let end = next_word(&mut reader, &mut word, at_start).map_err(|error| broken(&error))?;
        let name = String::from_utf8_lossy(&word);
        let name = name.trim_matches(|c: char| c.is_whitespace() || c == '"');
        let stopped = |outcome: Result<(), Stop>| outcome.map_err(|Stop| "stopped".to_owned());
        if end == End::Colon {
            // A day, or a name with a colon in it.
            at_start = false;
            if name.len() == 8 && name.bytes().all(|b| b.is_ascii_digit()) {
                match Day::from_name(name) {
                    Some(named) => day = named,
                    None => {
                        let why = "no day of the calendar; write YYYYMMDD".to_owned();
                        stopped(sink(Item::Refused { line, value: name, why }))?;
                        skip_line(&mut reader).map_err(|error| broken(&error))?;
                        (line, day, at_start) = (line + 1, default, true);
                    }
                }
                word.clear();
            } else {
                word.push(b':');
            }
            continue;
        }
        if word.len() > LONGEST {
            let why = format!("longer than {LONGEST} bytes");
            stopped(sink(Item::Refused { line, value: name, why }))?;
        } else if std::str::from_utf8(&word).is_err() {
            stopped(sink(Item::Refused { line, value: name, why: "no UTF-8 text".to_owned() }))?;
        } else if !(name.is_empty() || at_start && name.starts_with('#')) {
            stopped(sink(Item::Session { line, day, sid: name }))?;
        }
        word.clear();
        match end {
            End::Comma => at_start = false,
            End::Line => (line, day, at_start) = (line + 1, default, true),
            End::Body => return Ok(()),
            End::Colon => {}
        }
    }
}

/// What ended a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Colon,
    Comma,
    Line,
    Body,
}

/// Reads on to the next separator. A colon is one only where a day may stand. No more than a bit over [`LONGEST`] bytes are
/// kept.
fn next_word(reader: &mut impl BufRead, word: &mut Vec<u8>, colons: bool) -> io::Result<End> {
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(End::Body);
        }
        let end = piece.iter().position(|&b| matches!(b, b',' | b'\n') || (colons && b == b':'));
        let kept = piece.get(..end.unwrap_or(piece.len())).unwrap_or_default();
        if word.len() <= LONGEST {
            word.extend_from_slice(kept.get(..kept.len().min(LONGEST + 1)).unwrap_or_default());
        }
        let ended = end.and_then(|end| piece.get(end).copied());
        let used = end.map_or(piece.len(), |end| end + 1);
        reader.consume(used);
        match ended {
            Some(b',') => return Ok(End::Comma),
            Some(b'\n') => return Ok(End::Line),
            Some(_) => return Ok(End::Colon),
            None => {}
        }
    }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    reader.skip_until(b'\n').map(drop)
}

fn lines(mut reader: impl BufRead, default: Day, sink: Sink<'_>) -> Result<(), String> {
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let most = LONGEST as u64 + 1;
        let read = reader.by_ref().take(most).read_until(b'\n', &mut text).map_err(|error| broken(&error))?;
        if read == 0 {
            return Ok(());
        }
        let outcome = if text.len() > LONGEST {
            let value = String::from_utf8_lossy(text.get(..100).unwrap_or_default()).into_owned();
            skip_line(&mut reader).map_err(|error| broken(&error))?;
            sink(Item::Refused { line, value: &value, why: format!("longer than {LONGEST} bytes") })
        } else if text.trim_ascii().is_empty() {
            Ok(())
        } else {
            let mut stopped = false;
            let mut found = Found { place: line, day: default, sink: &mut *sink, stopped: &mut stopped };
            let mut json = serde_json::Deserializer::from_slice(&text);
            let outcome = One(&mut found).deserialize(&mut json).and_then(|()| json.end());
            match outcome {
                _ if stopped => Err(Stop),
                Ok(()) => Ok(()),
                Err(error) => {
                    let value = String::from_utf8_lossy(text.trim_ascii());
                    sink(Item::Refused { line, value: &value, why: error.to_string() })
                }
            }
        };
        outcome.map_err(|Stop| "stopped".to_owned())?;
    }
    Ok(())
}

fn json(reader: impl BufRead, day: Day, sink: Sink<'_>) -> Result<(), String> {
    let mut stopped = false;
    let mut json = serde_json::Deserializer::from_reader(reader);
    let mut found = Found { place: 1, day, sink, stopped: &mut stopped };
    let outcome = All(&mut found).deserialize(&mut json).and_then(|()| json.end());
    outcome.map_err(|error| format!("the JSON cannot be read: {error}"))
}

fn broken(error: &io::Error) -> String {
    format!("the body broke off: {error}")
}

/// Where JSON has got to.
struct Found<'s> {
    /// Which line, or which element.
    place: u64,
    day: Day,
    sink: Sink<'s>,
    stopped: &'s mut bool,
}

impl Found<'_> {
    fn tell<E: serde::de::Error>(&mut self, item: Item<'_>) -> Result<(), E> {
        (self.sink)(item).map_err(|Stop| {
            *self.stopped = true;
            E::custom("stopped")
        })
    }

    fn session<E: serde::de::Error>(&mut self, day: Day, sid: &str) -> Result<(), E> {
        let (line, sid) = (self.place, sid.trim());
        self.tell(Item::Session { line, day, sid })
    }

    fn refuse<E: serde::de::Error>(&mut self, value: &str, why: &str) -> Result<(), E> {
        let line = self.place;
        self.tell(Item::Refused { line, value, why: why.to_owned() })
    }
}

/// `"a"`, or `{"sid": "a", "day": "20251228"}`.
struct One<'f, 's>(&'f mut Found<'s>);

impl<'de> DeserializeSeed<'de> for One<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a session's name, or {\"sid\": …, \"day\": …}")
    }

    fn visit_str<E: serde::de::Error>(self, sid: &str) -> Result<(), E> {
        let day = self.0.day;
        self.0.session(day, sid)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (mut sid, mut day) = (None::<String>, Some(self.0.day));
        let mut named = String::new();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "sid" => sid = Some(map.next_value()?),
                "day" => {
                    named = map.next_value::<DayName>()?.0;
                    day = Day::from_name(&named);
                }
                // What `GET` says of each.
                "origin" => drop(map.next_value::<IgnoredAny>()?),
                other => return Err(A::Error::custom(format!("unknown member {other:?}; known: sid, day"))),
            }
        }
        match (sid, day) {
            (Some(sid), Some(day)) => self.0.session(day, &sid),
            (Some(_), None) => self.0.refuse(&named, "no day of the calendar; write YYYYMMDD"),
            (None, _) => self.0.refuse("", "without a sid"),
        }
    }
}

/// A day's name, as text or as a number.
struct DayName(String);

impl<'de> serde::Deserialize<'de> for DayName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = DayName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a day such as \"20251228\"")
            }

            fn visit_str<E>(self, name: &str) -> Result<DayName, E> {
                Ok(DayName(name.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<DayName, E> {
                Ok(DayName(number.to_string()))
            }
        }
        deserializer.deserialize_any(Name)
    }
}

/// A list of sessions, or lists by day.
struct All<'f, 's>(&'f mut Found<'s>);

impl<'de> DeserializeSeed<'de> for All<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for All<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sessions, or an object with a list for each day")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(One(self.0))?.is_some() {
            self.0.place += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let default = self.0.day;
        while let Some(name) = map.next_key::<String>()? {
            match Day::from_name(&name) {
                Some(day) => {
                    self.0.day = day;
                    map.next_value_seed(OfDay(self.0))?;
                }
                None => {
                    self.0.refuse(&name, "no day of the calendar; write YYYYMMDD")?;
                    map.next_value::<IgnoredAny>()?;
                    self.0.place += 1;
                }
            }
        }
        self.0.day = default;
        Ok(())
    }
}

/// The list of one day: names separated by commas, or a list of them.
struct OfDay<'f, 's>(&'f mut Found<'s>);

impl<'de> DeserializeSeed<'de> for OfDay<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OfDay<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names separated by commas, or a list of names")
    }

    fn visit_str<E: serde::de::Error>(self, names: &str) -> Result<(), E> {
        let day = self.0.day;
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            self.0.session(day, name)?;
            self.0.place += 1;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        All(self.0).visit_seq(seq)
    }
}

/// The pieces of a body, for a reader on another thread.
pub(super) struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Pieces {
    pub(super) fn new(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { receiver, piece: Bytes::new() }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found, a line each; and what stopped it.
    fn found(form: Form, body: &str) -> (Vec<String>, Option<String>) {
        let mut found = Vec::new();
        let day = Day::from_name("20260102").unwrap();
        // A small buffer, so that everything is cut somewhere.
        let reader = io::BufReader::with_capacity(3, body.as_bytes());
        let stopped = read(form, reader, day, &mut |item| {
            found.push(match item {
                Item::Session { line, day, sid } => format!("{line} {day} {sid}"),
                Item::Refused { line, value, why } => format!("{line} refused {value}: {why}"),
            });
            Ok(())
        });
        (found, stopped.err())
    }

    fn all(form: Form, body: &str) -> Vec<String> {
        let (found, stopped) = found(form, body);
        assert_eq!(stopped, None);
        found
    }

    #[test]
    fn the_seeds_form() {
        let body = "20251228 : \"session896,session896,session123\"\n\n# a remark\nplain\r\n a , b\nuser:7,20251228:x\n20251301: y,z\n20251229:c";
        assert_eq!(
            all(Form::Text, body),
            [
                "1 20251228 session896",
                "1 20251228 session896",
                "1 20251228 session123",
                "4 20260102 plain",
                "5 20260102 a",
                "5 20260102 b",
                "6 20260102 user:7",
                "6 20260102 20251228:x",
                "7 refused 20251301: no day of the calendar; write YYYYMMDD",
                "8 20251229 c",
            ]
        );
        assert_eq!(all(Form::Text, ""), [""; 0]);
        let long = "x".repeat(LONGEST + 1);
        let told = all(Form::Text, &format!("{long},y"));
        assert!(told[0].ends_with("longer than 65536 bytes") && told[1] == "1 20260102 y");
    }

    #[test]
    fn lines_of_json() {
        let body = "{\"sid\":\"a\",\"day\":\"20251228\"}\n\n\"b\"\n{\"sid\":\"c\",\"day\":20251229}\n{\"day\":\"20251228\"}\n{\"sid\":\"d\",\"day\":\"x\"}\n{\"sid\":1}\nnot\n{\"sid\":\"e\",\"origin\":\"file\"}";
        let told = all(Form::Lines, body);
        assert_eq!(told[..3], ["1 20251228 a", "3 20260102 b", "4 20251229 c"]);
        assert_eq!(
            told[3..5],
            ["5 refused : without a sid", "6 refused x: no day of the calendar; write YYYYMMDD"]
        );
        assert!(told[5].starts_with("7 refused {\"sid\":1}: invalid type"), "{}", told[5]);
        assert!(told[6].starts_with("8 refused not: "), "{}", told[6]);
        assert_eq!(told[7..], ["9 20260102 e"]);
    }

    #[test]
    fn one_json_value() {
        assert_eq!(
            all(Form::Json, "[\"a\", {\"sid\":\"b\",\"day\":\"20251228\"}]"),
            ["1 20260102 a", "2 20251228 b"]
        );
        assert_eq!(
            all(Form::Json, "{\"20251228\":\"a, b,\",\"20251229\":[\"c\"],\"x\":[1]}"),
            [
                "1 20251228 a",
                "2 20251228 b",
                "3 20251229 c",
                "4 refused x: no day of the calendar; write YYYYMMDD"
            ]
        );
        let (told, stopped) = found(Form::Json, "[\"a\", 7]");
        assert_eq!(told, ["1 20260102 a"]);
        assert!(stopped.unwrap().contains("invalid type: integer `7`"));
        assert!(found(Form::Json, "[\"a\"").1.unwrap().contains("EOF"));
        assert!(found(Form::Json, "[\"a\"] x").1.is_some());
    }

    #[test]
    fn a_sink_that_has_enough() {
        for (form, body) in
            [(Form::Text, "a,b"), (Form::Lines, "\"a\"\n\"b\""), (Form::Json, "[\"a\",\"b\"]")]
        {
            let mut count = 0;
            let outcome = read(form, body.as_bytes(), Day::of(0), &mut |_| {
                count += 1;
                Err(Stop)
            });
            assert!(outcome.is_err() && count == 1, "{form:?}");
        }
    }
}
