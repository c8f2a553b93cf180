//! Token cases: `validator-core/testdata/*.toml`.
//!
//! A file has one `config` (the text of a configuration without listeners), `[keys]` (keys by name, in base64url),
//! `[base]` (what every case starts from) and `[[case]]` entries. A case says what it changes and what must come of it:
//!
//! | key | meaning |
//! |---|---|
//! | `name` | unique in its file |
//! | `now`, `client`, `method`, `scheme`, `host`, `headers` | the request; `headers` is a list of `[name, value]` |
//! | `target` | the request target; `{token}`, `{path}` and `{st}` are filled in. Default `/{token}{path}` |
//! | `path` | for `{path}` |
//! | `claims`, `set`, `unset` | JSON text of the claims; members to set in it; names to remove from it |
//! | `payload` | JSON text of the whole payload, instead of claims |
//! | `header` | JSON text of the token's header |
//! | `key` | name of the key that signs |
//! | `pad` | size of the made token in bytes; white space behind its payload fills it up |
//! | `token` | the whole token, instead of making one; `{token}` in it is the made one, and `{head}`, `{body}` and `{mac}` are its three parts |
//! | `st` | a Secure Token hash to make: `{ secret, path, e, algorithm }` |
//! | `destination` | where the client connected to, `IP:PORT`; not known unless given. A live gateway has its own, and watches every port if the file has `session_ports` |
//! | `verdict` | `allow`, `deny`, `redirect` or `forward`; default `deny` where `reason` is given, else `allow` |
//! | `reason`, `status` | why it is refused; the status is the reason's own unless given |
//! | `upstream` | path and query that go upstream |
//! | `location`, `forward` | where a refusal leads to |
//! | `session`, `monitored` | what the decision reports |
//! | `library_only` | why the case cannot be sent over HTTP |

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use validator_core::{Algorithm, Headers, Key, Reason, Request, Secret, sign};

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(skip)]
    pub path: PathBuf,
    pub config: String,
    #[serde(default)]
    pub keys: BTreeMap<String, String>,
    pub base: Fields,
    #[serde(rename = "case")]
    pub cases: Vec<Entry>,
}

/// One entry as written.
#[derive(Debug, Deserialize)]
pub struct Entry {
    pub name: String,
    #[serde(flatten)]
    fields: Fields,
    #[serde(flatten)]
    pub expect: Expect,
}

/// What makes up a request; whatever is absent comes from the file's base.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Fields {
    now: Option<u64>,
    client: Option<IpAddr>,
    method: Option<String>,
    scheme: Option<String>,
    host: Option<String>,
    headers: Option<Vec<(String, String)>>,
    target: Option<String>,
    path: Option<String>,
    claims: Option<String>,
    set: Option<String>,
    unset: Option<Vec<String>>,
    payload: Option<String>,
    header: Option<String>,
    key: Option<String>,
    pad: Option<usize>,
    token: Option<String>,
    st: Option<SecureToken>,
    destination: Option<SocketAddr>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecureToken {
    secret: String,
    path: String,
    e: String,
    #[serde(default)]
    algorithm: String,
}

/// What must come of a request.
#[derive(Debug, Clone, Deserialize)]
pub struct Expect {
    verdict: Option<String>,
    reason: Option<String>,
    status: Option<u16>,
    pub upstream: Option<String>,
    pub location: Option<String>,
    pub forward: Option<String>,
    pub session: Option<String>,
    pub monitored: Option<Vec<String>>,
    pub library_only: Option<String>,
}

impl Expect {
    /// `allow`, `deny`, `redirect` or `forward`.
    #[must_use]
    pub fn verdict(&self) -> &str {
        let default = if self.reason.is_some() { "deny" } else { "allow" };
        self.verdict.as_deref().unwrap_or(default)
    }

    /// The reason of a refusal.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
            .as_deref()
            .map(|name| Reason::from_name(name).unwrap_or_else(|| panic!("no reason {name}")))
    }

    /// The HTTP status that the gateway answers with.
    #[must_use]
    pub fn status(&self) -> u16 {
        match (self.status, self.verdict(), self.reason()) {
            (Some(status), ..) => status,
            (None, "redirect", _) => 302,
            (None, "deny", Some(reason)) => reason.status(),
            _ => 200,
        }
    }
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Case {
    pub id: String,
    pub now: u64,
    pub client: IpAddr,
    pub method: String,
    pub scheme: String,
    pub host: String,
    pub headers: Vec<(String, String)>,
    pub target: String,
    pub destination: Option<SocketAddr>,
    pub expect: Expect,
}

/// Every file of cases, with its cases.
#[must_use]
pub fn load_all() -> Vec<(File, Vec<Case>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../validator-core/testdata");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("validator-core/testdata")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let text = std::fs::read_to_string(&path).expect("a file of cases");
            let mut file: File = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            file.path = path;
            let cases = file.cases.iter().map(|entry| file.case(entry)).collect::<Vec<_>>();
            let mut names: Vec<&str> = cases.iter().map(|case: &Case| case.id.as_str()).collect();
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                panic!("two cases are called {}", pair[0]);
            }
            (file, cases)
        })
        .collect()
}

impl File {
    /// The policy of the file, as the agent reads it. `listeners` are sections that the text itself leaves out.
    #[must_use]
    pub fn configuration(&self, listeners: &str) -> agent::config::Config {
        let text = format!("{}\n{listeners}", self.config);
        let now = self.base.now.unwrap_or_default();
        agent::config::parse(&text, &self.path, now)
            .unwrap_or_else(|problems| panic!("the configuration of {}:\n{problems}", self.path.display()))
    }

    fn case(&self, entry: &Entry) -> Case {
        let stem = self.path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let id = format!("{stem}/{}", entry.name);
        let base = &self.base;
        let own = &entry.fields;
        let text = |own: &Option<String>, base: &Option<String>, default: &str| {
            own.clone().or_else(|| base.clone()).unwrap_or_else(|| default.to_owned())
        };
        let made = self.made_token(own, &id);
        let token = match own.token.as_ref().or(base.token.as_ref()) {
            Some(literal) => {
                let mut parts = made.split('.').map(str::to_owned);
                let mut part = || parts.next().unwrap_or_default();
                let (head, body, mac) = (part(), part(), part());
                literal
                    .replace("{token}", &made)
                    .replace("{head}", &head)
                    .replace("{body}", &body)
                    .replace("{mac}", &mac)
            }
            None => made,
        };
        let st = own.st.as_ref().or(base.st.as_ref()).map(secure_token).unwrap_or_default();
        let target = text(&own.target, &base.target, "/{token}{path}")
            .replace("{token}", &token)
            .replace("{path}", &text(&own.path, &base.path, "/"))
            .replace("{st}", &st);
        let headers = own.headers.clone().or_else(|| base.headers.clone()).unwrap_or_default();
        Case {
            now: own.now.or(base.now).expect("now"),
            client: own.client.or(base.client).unwrap_or_else(|| [192, 0, 2, 1].into()),
            method: text(&own.method, &base.method, "GET"),
            scheme: text(&own.scheme, &base.scheme, "http"),
            host: text(&own.host, &base.host, "cdn.example"),
            headers: headers.into_iter().map(|(n, v)| (n, v.replace("{token}", &token))).collect(),
            target,
            destination: own.destination.or(base.destination),
            expect: entry.expect.clone(),
            id,
        }
    }

    /// The token that a case's header, claims and key make; empty where the file has no keys.
    fn made_token(&self, own: &Fields, id: &str) -> String {
        let base = &self.base;
        let Some(key) = own.key.as_ref().or(base.key.as_ref()) else { return String::new() };
        let key = self.keys.get(key).unwrap_or_else(|| panic!("{id}: no key {key}"));
        let key = Key::new(&decode(key), true).unwrap_or_else(|e| panic!("{id}: {e}"));
        let header = own.header.as_ref().or(base.header.as_ref()).expect("a header");
        let payload = match (&own.payload, own.claims.as_ref().or(base.claims.as_ref())) {
            (Some(payload), _) => payload.clone(),
            (None, Some(claims)) => {
                let parse = |text: &str| -> Map<String, Value> {
                    serde_json::from_str(text).unwrap_or_else(|e| panic!("{id}: {e} in {text}"))
                };
                let mut claims = parse(claims);
                claims.extend(own.set.as_deref().map(parse).unwrap_or_default());
                for name in own.unset.iter().flatten() {
                    claims.remove(name).unwrap_or_else(|| panic!("{id}: there is no {name} to remove"));
                }
                serde_json::to_string(&claims).expect("claims are JSON")
            }
            (None, None) => panic!("{id}: neither claims nor payload"),
        };
        let Some(size) = own.pad.or(base.pad) else { return sign::compact(header, &payload, &key) };
        let mut padded = payload;
        loop {
            let token = sign::compact(header, &padded, &key);
            if token.len() >= size {
                assert_eq!(
                    token.len(),
                    size,
                    "{id}: no payload makes a token of this size; change its header"
                );
                return token;
            }
            // Three bytes are four characters; the last steps are taken one by one.
            let room = size - token.len();
            padded.push_str(&" ".repeat(1.max(room.saturating_sub(4) / 4 * 3)));
        }
    }
}

impl Case {
    /// The request as the validator takes it.
    pub fn request<'a>(&'a self, headers: &'a HeaderLines) -> Request<'a> {
        Request {
            method: &self.method,
            target: self.target.as_bytes(),
            scheme: &self.scheme,
            host: self.host.as_bytes(),
            client: self.client,
            destination: self.destination.map(|d| (d.ip(), d.port())),
            headers,
        }
    }

    /// The header fields as the validator takes them.
    #[must_use]
    pub fn header_lines(&self) -> HeaderLines {
        HeaderLines(self.headers.clone())
    }
}

/// Header fields of a case.
pub struct HeaderLines(Vec<(String, String)>);

impl Headers for HeaderLines {
    fn each_value<'h>(&'h self, name: &str, each: &mut dyn FnMut(&'h [u8])) {
        self.0.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).for_each(|(_, v)| each(v.as_bytes()));
    }
}

fn secure_token(st: &SecureToken) -> String {
    let algorithm = match st.algorithm.as_str() {
        "" | "md5" => Algorithm::Md5,
        "hmac-sha256" => Algorithm::HmacSha256,
        other => panic!("no algorithm {other}"),
    };
    let secret = Secret::new(algorithm, st.secret.as_bytes()).expect("a secret");
    secret.sign(st.path.as_bytes(), st.e.as_bytes())
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).expect("a key in base64url")
}
