//! The example configuration and tokens for it. The tokens are made by cryptographic crates alone, so that a mistake
//! of the product in making tokens cannot hide one in judging them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::{Digest as _, Md5};
use serde_json::{Map, Value, json};
use sha2::Sha256;
use std::time::SystemTime;
use validator_core::Day;

/// The secret that `live` tokens are signed with, by its slots.
pub const KID: &str = "orange-key-1";
pub const OLD_KEY: &[u8; 32] = b"the key in slot nought, 32 bytes";
pub const KEY: &[u8; 32] = b"the key in the later slot, bytes";
/// From this `iat` on [`KEY`] signs, before it [`OLD_KEY`].
pub const LATER_SLOT: u64 = 1_713_789_349;
pub const CLASSES_SECRET: &str = "mysecretkey";
pub const BLACKLISTED: &str = "session896";

/// Content that a token of [`claims`] opens.
pub const SEGMENT: &str = "/Content/Channel/Channel7/HLS/stream_01/Segment-1.ts";

/// Now, in unix seconds.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs()
}

/// Settings of listeners and lists that tests vary.
pub struct Config {
    /// Lines for `[gateway]`, besides `listen` and `upstream`.
    pub gateway: String,
    /// Lines for `[gateway]` instead of its `listen`.
    pub listen: String,
    pub upstream: String,
    /// Lines for the route `live`.
    pub live: String,
    /// Routes before all others.
    pub routes: String,
    /// Sections.
    pub more: String,
    /// Sessions that are blacklisted today, comma-separated.
    pub blacklist: String,
}

impl Config {
    /// The example in front of `upstream`, on ports that the system chooses.
    #[must_use]
    pub fn new(upstream: &str) -> Self {
        Self {
            gateway: String::new(),
            listen: "listen = [\"127.0.0.1:0\"]".into(),
            upstream: upstream.into(),
            live: String::new(),
            routes: String::new(),
            more: String::new(),
            blacklist: format!("{BLACKLISTED},{BLACKLISTED},session123"),
        }
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { gateway, listen, upstream, live, routes, more, blacklist } = self;
        let (old_key, key) = (URL_SAFE_NO_PAD.encode(OLD_KEY), URL_SAFE_NO_PAD.encode(KEY));
        let today = Day::of(now());
        format!(
            r#"
default = "deny"

[gateway]
{listen}
upstream = "{upstream}"
{gateway}

[auth]
listen = ["127.0.0.1:0"]

[metrics]
listen = "127.0.0.1:0"

[geo]
city = "city.mmdb"
asn = "asn.mmdb"

[secrets.{KID}]
slots = [ {{ slot = 0, key = "{old_key}" }}, {{ slot = {LATER_SLOT}, key = "{key}" }} ]

[secure_token.classes]
secrets = ["{CLASSES_SECRET}"]

[secure_token.strong]
secrets = ["{CLASSES_SECRET}"]
algorithm = "hmac-sha256"

[blacklist]
retain_days = 31
days = {{ {today} = "{blacklist}" }}

[prefilter]
deny = ["203.0.113.0/25"]

[[prefilter.service]]
address = "0.0.0.0/0"
countries = ["FR", "DE"]

{more}

{routes}

[[route]]
name = "live"
when = [ {{ variable = "uri", operator = "starts_with", value = "/Content/" }} ]
check = "content-jwt"
path_validation = ['/Content/Channel/(?<cid>.*?)/(?<stt>.*?)/.*\.(m4a|m4v|m4i|ts)', '/Content/Channel/(?<cid>[^/]+)/(?<stt>[^/]+)/.*\.(mpd|m3u8)']
max_lifetime = 86400
{live}

[[route]]
name = "classes"
when = [ {{ variable = "uri", operator = "starts_with", value = "/classes" }} ]
check = "secure-token"
secret = "classes"
on_deny = {{ redirect = "https://login.example/?return={{return}}" }}

[[route]]
name = "strong"
when = [ {{ variable = "uri", operator = "starts_with", value = "/strong/" }} ]
check = "secure-token"
secret = "strong"

[[route]]
name = "plain"
when = [ {{ variable = "uri", operator = "starts_with", value = "/plain/" }} ]
check = "secure-token"
secret = "classes"

[[route]]
name = "open"
when = [ {{ variable = "uri", operator = "starts_with", value = "/open/" }} ]
check = "allow"
"#
        )
    }
}

/// Every claim, all of which hold for a client at 127.0.0.1 asking for [`SEGMENT`].
///
/// # Panics
/// Never.
#[must_use]
pub fn claims() -> Map<String, Value> {
    let now = now();
    let claims = json!({
        "iat": now - 10,
        "exp": now + 3600,
        "nbf": now - 10,
        "cid": "Channel7",
        "stt": "hls",
        "cip": "127.0.0.1",
        "geo": ["FR", "DE"],
        "geo-tw": [{ "start": now - 60, "end": now + 3600 }],
        "local": "Paris",
        "sid": "session1",
        "asn": "AS3215",
    });
    claims.as_object().expect("an object").clone()
}

/// A token from the text of header and payload.
///
/// # Panics
/// Never: every key has some length.
#[must_use]
pub fn compact(header: &str, payload: &str, key: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A token with these claims, made as a good signer would.
#[must_use]
pub fn token_of(claims: &Map<String, Value>) -> String {
    let payload = Value::Object(claims.clone()).to_string();
    compact(&format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{KID}"}}"#), &payload, KEY)
}

/// A good token.
#[must_use]
pub fn token() -> String {
    token_of(&claims())
}

/// `st` and `e` for a path.
#[must_use]
pub fn secure_token(path: &str, expiry: u64) -> String {
    let hash = Md5::digest(format!("{CLASSES_SECRET}{path}{expiry}"));
    format!("st={}&e={expiry}", URL_SAFE_NO_PAD.encode(hash))
}

/// `st` and `e` of the strong variant.
///
/// # Panics
/// Never: every key has some length.
#[must_use]
pub fn strong_token(path: &str, expiry: u64) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(CLASSES_SECRET.as_bytes()).expect("a key");
    mac.update(format!("{path}\n{expiry}").as_bytes());
    format!("st={}&e={expiry}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// A request without a body, whose connection is kept.
#[must_use]
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: cdn.example\r\n\r\n")
}
