//! Tokens and requests by chance: good ones, odd ones, and damaged ones.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt::Write as _;
use tests::random::Random;

/// Every claim of the specification, and some that it does not name; many end like `sid`.
const CLAIMS: &[&str] = &[
    "iat", "exp", "nbf", "cid", "stt", "cip", "geo", "geo-tw", "local", "asn", "uid", "kid", "sidx", "x", "",
];

/// A request, and what its maker knows of it.
pub(crate) struct Made {
    pub(crate) request: Vec<u8>,
    /// Whether its token is well-formed and written as compactly as it can be, with a plain name of its session.
    pub(crate) compact: bool,
    /// The session of the outermost object, if there is one, as a string.
    pub(crate) sid: Option<String>,
    /// Whether the session's id is written with escapes.
    pub(crate) escaped: bool,
    /// Letters of the token's header.
    pub(crate) header: usize,
    /// The payload's letters, before anything was done to them.
    pub(crate) payload: String,
    /// Where the member of the session starts in the payload's text.
    pub(crate) sid_at: Option<usize>,
}

/// What requests are made from.
pub(crate) struct World {
    pub(crate) random: Random,
    /// Sessions, some of which are blacklisted.
    pub(crate) sids: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self { random: Random(seed), sids: vec![] };
        world.sids = (0..2000).map(|_| world.new_sid()).collect();
        world
    }

    /// An id of 1 to 140 bytes.
    fn new_sid(&mut self) -> String {
        let random = &mut self.random;
        if random.once_in(4) {
            let mut digits = format!("{:016x}{:016x}", random.number(), random.number());
            [8, 13, 18, 23].into_iter().for_each(|at| digits.insert(at, '-'));
            return digits;
        }
        let letters: &[&str] = match random.below(6) {
            0 => &["é", "ß", "a", "文", "字", "😀", "-"],
            1 => &["{", "}", "[", "]", ",", ":", "/", " ", "'", "sid", "%"],
            // Of these there is no plain spelling.
            2 if random.once_in(3) => &["\"", "\\", "\n", "a", "b"],
            _ => &["0", "1", "2", "a", "b", "c", "X", "Y", "Z", "-", "_", ".", "~"],
        };
        let bytes = if random.once_in(2) { 1 + random.below(140) } else { 1 + random.below(30) };
        let mut sid = String::new();
        loop {
            let letter = random.one_of(letters);
            if sid.len() + letter.len() > bytes {
                return if sid.is_empty() { "s".to_owned() } else { sid };
            }
            sid.push_str(letter);
        }
    }

    /// One of the sessions, more often one with an even number.
    fn sid(&mut self) -> String {
        let at = self.random.below(self.sids.len());
        let at = if self.random.once_in(2) { at & !1 } else { at };
        self.sids[at].clone()
    }

    /// A request with a token.
    pub(crate) fn request(&mut self) -> Made {
        let Text { mut json, mut compact, sid, escaped, sid_at } = self.payload();
        let mut header = self.header();
        let letters = header.len();
        if self.random.once_in(10) {
            compact = false;
            self.distort(&mut json);
        }
        let mut payload = URL_SAFE_NO_PAD.encode(&json);
        let encoded = payload.clone();
        if self.random.once_in(12) {
            compact = false;
            self.damage(&mut header, &mut payload);
        }
        let signature = "c2lnbmF0dXJl_-0";
        let token = match self.random.below(110) {
            0 => format!("{header}.{payload}"),
            1 => format!("{header}.{payload}."),
            2 => format!("{header}.{payload}.{signature}.x"),
            3 => format!("{header}..{payload}.{signature}"),
            4 => format!(".{header}.{payload}.{signature}"),
            5 => format!("{header}{payload}.{signature}"),
            6 => format!("x/{header}.{payload}.{signature}"),
            7 => format!("eyJabc/x.{payload}.{signature}"),
            8 => format!("eyJ.abc/{header}.{payload}.{signature}"),
            9 => format!("{header}.{signature}.{payload}"),
            10 => format!("{header}/.{payload}.{signature}"),
            _ => format!("{header}.{payload}.{signature}"),
        };
        compact &= token == format!("{header}.{payload}.{signature}");
        let method = self.random.one_of(&["GET", "GET", "HEAD"]);
        let rest = match self.random.below(60) {
            0 => "",
            1 => "?a=b",
            2 => "/a//b",
            3 => "/a?b=c",
            4 => "/",
            _ => "/live/c1/seg-1.ts",
        };
        let mut request = format!("{method} /{token}{rest} HTTP/1.1\r\nHost: cdn.example\r\n");
        if self.random.once_in(4) {
            let length = self.random.below(900);
            let _to_memory = write!(request, "x-more: {}\r\n", "y".repeat(length));
        }
        request.push_str("\r\n");
        let mut request = request.into_bytes();
        if self.random.once_in(10) {
            compact = false;
            self.mutate(&mut request);
        }
        request.truncate(3300);
        if !request.ends_with(b"\r\n\r\n") {
            compact = false;
        }
        Made { request, compact, sid, escaped, header: letters, payload: encoded, sid_at }
    }

    /// A header of 20 to 300 letters, seldom a longer one.
    fn header(&mut self) -> String {
        let mut members = vec![r#""alg":"HS256""#.to_owned()];
        if self.random.once_in(2) {
            members.push(r#""typ":"JWT""#.to_owned());
        }
        match self.random.below(8) {
            0 => {
                let length = 1 + self.random.below(150);
                members.push(format!(r#""kid":"{}""#, "k".repeat(length)));
            }
            1 => {
                let length = 190 + self.random.below(60);
                members.push(format!(r#""kid":"{}""#, "k".repeat(length)));
            }
            _ => members.push(r#""kid":"orange-key-1""#.to_owned()),
        }
        self.random.shuffle(&mut members);
        URL_SAFE_NO_PAD.encode(format!("{{{}}}", members.join(",")))
    }

    /// Adds and removes what gives JSON its shape.
    fn distort(&mut self, json: &mut String) {
        for _ in 0..=self.random.below(6) {
            let at = self.random.below(json.len() + 1);
            let at = (at..=json.len()).find(|&at| json.is_char_boundary(at)).unwrap_or(0);
            if self.random.once_in(4) && json[at..].starts_with(|letter: char| "{}[]\",:\\".contains(letter))
            {
                json.remove(at);
            } else {
                json.insert(
                    at,
                    self.random.one_of(&['{', '}', '[', ']', '}', ']', '"', ',', ':', '\\', '\0', 'é']),
                );
            }
        }
    }

    /// Does something to the letters.
    fn damage(&mut self, header: &mut String, payload: &mut String) {
        match self.random.below(9) {
            0 => payload.truncate(self.random.below(payload.len() + 1)),
            1 => payload.push('='),
            2 => payload.insert(self.random.below(payload.len() + 1), '.'),
            3 => payload
                .insert(self.random.below(payload.len() + 1), self.random.one_of(&['+', '/', '%', '=', '~'])),
            4 => payload.insert(self.random.below(payload.len() + 1), 'A'),
            5 => {
                payload.remove(self.random.below(payload.len()));
            }
            6 => header.truncate(3 + self.random.below(header.len() - 3)),
            7 => header.replace_range(..1, self.random.one_of(&["f", "E", "%"])),
            _ => header.insert(
                3 + self.random.below(header.len() - 3),
                self.random.one_of(&['+', '%', '=', '~', '\u{7f}']),
            ),
        }
    }

    /// Changes, adds or removes single bytes of a request.
    fn mutate(&mut self, request: &mut Vec<u8>) {
        for _ in 0..=self.random.below(3) {
            let at = self.random.below(request.len().min(700) - 4);
            match self.random.below(6) {
                0 => request.insert(at, b'.'),
                1 => {
                    request.remove(at);
                }
                2 => request[at] ^= 1 << self.random.below(7),
                3 => request[at] = self.random.one_of(b"./ ?#%\\AZaz09-_=\r\n\t"),
                // Often the places that count.
                4 => request[self.random.below(12)] ^= 1 << self.random.below(7),
                _ => {
                    let end = request.len() - 1 - self.random.below(4);
                    request[end] = self.random.one_of(b"\r\nx");
                }
            }
        }
    }

    /// The claims.
    fn payload(&mut self) -> Text {
        let mut names: Vec<&str> = CLAIMS.to_vec();
        self.random.shuffle(&mut names);
        let count = self.random.below(names.len());
        names.truncate(count);
        let mut compact = true;
        let mut members: Vec<String> = names.iter().map(|name| self.claim(name)).collect();
        let (mut sid, mut escaped, mut place) = (None, false, None);
        for _ in 0..self.random.one_of(&[0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]) {
            let at = self.random.below(members.len() + 1);
            // Two are one too many.
            compact &= place.is_none();
            place = Some(at);
            let id = self.sid();
            match self.random.below(16) {
                0 => {
                    let value = self.random.one_of(&["7", "null", "true", "[]", "{}", "-1.5e3"]);
                    members.insert(at, format!(r#""sid":{value}"#));
                    compact = false;
                }
                1 => {
                    let name = self.random.one_of(&["s\\u0069d", "\\u0073id", "si\\u0064"]);
                    members.insert(at, format!(r#""{name}":"{}""#, text(&id)));
                    (sid, compact) = (Some(id), false);
                }
                2 => {
                    let letters: String = id.chars().map(escape).collect();
                    members.insert(at, format!(r#""sid":"{letters}""#));
                    (sid, escaped) = (Some(id), true);
                }
                3 => {
                    let colon = self.random.one_of(&[" :", ": ", ":\n", "\t:"]);
                    members.insert(at, format!(r#""sid"{colon}"{}""#, text(&id)));
                    (sid, compact) = (Some(id), false);
                }
                _ => {
                    members.insert(at, format!(r#""sid":"{}""#, text(&id)));
                    escaped |= text(&id) != id;
                    sid = Some(id);
                }
            }
        }
        let (comma, open, close) = match self.random.below(80) {
            0 => (", ", "{", "}"),
            1 => (",", "{ ", "}"),
            2 => (",\n  ", "{\n  ", "\n}"),
            3 => (",", " {", "}"),
            4 => (",", "[{", "}]"),
            5 => (",,", "{", "}"),
            6 => (",", "{", ""),
            7 => (",", "{", " }"),
            _ => (",", "{", "}"),
        };
        compact &= (comma, open, close) == (",", "{", "}");
        let before = |at: usize| members[..at].iter().map(|member| member.len() + comma.len()).sum::<usize>();
        let sid_at = place.map(|at| open.len() + before(at));
        Text { json: format!("{open}{}{close}", members.join(comma)), compact, sid, escaped, sid_at }
    }

    /// A member with one of the names.
    fn claim(&mut self, name: &str) -> String {
        let value = match name {
            "iat" | "exp" | "nbf" => (1_700_000_000 + self.random.below(1_000_000)).to_string(),
            "stt" => r#""hls""#.to_owned(),
            "cip" => r#"["192.0.2.0/24","2001:db8::/32"]"#.to_owned(),
            "geo" => r#"["FR","DE"]"#.to_owned(),
            "geo-tw" => r#"[{"start":1713789350,"end":1713799350},{"start":1,"end":2}]"#.to_owned(),
            "asn" => self.random.one_of(&["3215", r#""AS3215""#, "[1,2]"]).to_owned(),
            _ => self.odd_value(),
        };
        format!(r#""{name}":{value}"#)
    }

    /// Something that may look like a session and is none of this token.
    fn odd_value(&mut self) -> String {
        let id = text(&self.sid());
        match self.random.below(24) {
            0 => format!(r#"{{"sid":"{id}"}}"#),
            1 => format!(r#"[{{"sid":"{id}"}},[[{{"a":1,"sid":"{id}"}}]]]"#),
            2 => format!(r#""{}""#, text(&format!(r#"{{"sid":"{id}"}}"#))),
            3 => format!(r#"",\"sid\":\"{id}\"""#),
            4 => format!(r#""{{[\\\"{id}\\""#),
            5 => format!(r#"["sid","{id}","sid:",{{"uid":"sid"}}]"#),
            6 => format!(r#"{{"x":{{"sid":{{"sid":"{id}"}}}}}}"#),
            7 => r#""inside the president's residence: sid\"sid\"id\"""#.to_owned(),
            8 => format!(r#"{{"cid":"{id}","uid":"{id}","gid":"a","pid":"b","kid":"cc","sid":7}}"#),
            _ => {
                let length = self.random.below(40);
                format!(r#""{}""#, "Channel-ü ".chars().cycle().take(length).collect::<String>())
            }
        }
    }
}

struct Text {
    json: String,
    compact: bool,
    sid: Option<String>,
    escaped: bool,
    sid_at: Option<usize>,
}

/// The text of a JSON string.
fn text(value: &str) -> String {
    let mut out = String::new();
    for letter in value.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '\0'..='\x1f' => out.push_str(&escape(letter)),
            _ => out.push(letter),
        }
    }
    out
}

/// A letter as an escape.
fn escape(letter: char) -> String {
    letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
}
