//! The demo's configuration, its tokens, and one request for each thing that the gate decides.

use super::client::Reply;
use super::media;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use validator_core::{Algorithm, Day, Key, Reason, Secret, secure_token_parameters, sign};

/// The demo's key and secret. They guard nothing but the demo.
const KEY: &[u8; 32] = b"edgegate demo key, not a secret!";
const KID: &str = "demo-key-1";
const LESSON_SECRET: &str = "demo lesson secret";
const BLACKLISTED: &str = "session-shared-too-often";

/// Whose session the HLS token is.
pub(super) const VIEWER: &str = "viewer-1";

/// The control socket, in the demo's folder.
pub(super) const SOCKET: &str = "control.sock";

const HLS: &str = "/Content/Channel/Demo/HLS";
const DASH: &str = "/Content/Channel/Demo/DASH";
const LESSON: &str = "/classes/lesson-1.html";

/// Clients by their place in the demo's geo databases.
const PARIS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 1));
const MUNICH: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const USA: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const DENIED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

/// One request and what it should lead to.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) client: IpAddr,
    pub(super) target: String,
    expected: Expected,
}

enum Expected {
    /// These bytes.
    Content(&'static [u8]),
    /// A refusal with the reason's own status.
    Refusal(Reason),
    /// A redirect whose target starts like this.
    Redirect(String),
}

impl Case {
    pub(super) fn expects(&self, reply: &Reply) -> bool {
        match &self.expected {
            Expected::Content(body) => reply.status == 200 && reply.body == *body && !body.is_empty(),
            Expected::Refusal(reason) => {
                reply.status == reason.status() && reply.reason.as_deref() == Some(reason.name())
            }
            Expected::Redirect(start) => {
                reply.status == 302 && reply.location.as_ref().is_some_and(|to| to.starts_with(start))
            }
        }
    }
}

/// Makes the demo's tokens.
pub(super) struct Minter {
    now: u64,
    key: Option<Key>,
    secret: Option<Secret>,
}

impl Minter {
    pub(super) fn new(now: u64) -> Self {
        Self {
            now,
            key: Key::new(KEY, false).ok(),
            secret: Secret::new(Algorithm::Md5, LESSON_SECRET.as_bytes()),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// The configuration file.
    pub(super) fn configuration(&self, listen: SocketAddr, origin: SocketAddr, folder: &Path) -> String {
        let socket = toml::Value::from(folder.join(SOCKET).to_string_lossy().as_ref());
        let control = format!("state_dir = \"state\"\ncontrol = {{ socket = {socket} }}\n");
        let port = listen.port();
        // A port that the system is still to choose cannot be named.
        let service_port = if port == 0 { String::new() } else { format!("ports = [{port}]\n") };
        let prefilter = format!(
            r#"deny = ["{DENIED}"]

[[prefilter.service]]
address = "127.0.0.0/8"
{service_port}deny_countries = ["US"]
"#
        );
        let lessons = format!(
            r#"
[secure_token.lessons]
secrets = ["{LESSON_SECRET}"]

[[route]]
name = "lessons"
when = [ {{ variable = "uri", operator = "starts_with", value = "/classes" }} ]
check = "secure-token"
secret = "lessons"
on_deny = {{ redirect = "https://login.example/?return={{return}}" }}
"#
        );
        let geo = "city = \"city.mmdb\"\nasn = \"asn.mmdb\"\n";
        control + &self.common(listen, origin, geo, &prefilter) + &lessons
    }

    /// The configuration file of a gate with a kernel part.
    pub(super) fn kernel_configuration(
        &self,
        listen: SocketAddr,
        origin: SocketAddr,
        prefilter: &str,
    ) -> String {
        self.common(listen, origin, "city = \"kernel-city.mmdb\"\n", prefilter)
    }

    fn common(&self, listen: SocketAddr, origin: SocketAddr, geo: &str, prefilter: &str) -> String {
        let key = URL_SAFE_NO_PAD.encode(KEY);
        let today = Day::of(self.now);
        format!(
            r#"# Written by `edgegate demo`.
default = "deny"

[gateway]
listen = ["{listen}"]
upstream = "http://{origin}"

[geo]
{geo}
[secrets.{KID}]
slots = [ {{ slot = 0, key = "{key}" }} ]

[blacklist]
days = {{ {today} = "{BLACKLISTED}" }}

[prefilter]
{prefilter}
[[route]]
name = "live"
when = [ {{ variable = "uri", operator = "starts_with", value = "/Content/" }} ]
check = "content-jwt"
path_validation = [
    '/Content/Channel/(?<cid>.*?)/(?<stt>.*?)/.*\.(m4a|m4v|m4i|ts)',
    '/Content/Channel/(?<cid>[^/]+)/(?<stt>[^/]+)/.*\.(mpd|m3u8)',
]
"#
        )
    }

    pub(super) fn hls_playlist(&self) -> String {
        format!("{}/master.m3u8", self.viewers_hls())
    }

    /// What a viewer asks for, each by the name of a file for its URL.
    pub(super) fn viewer(&self) -> [(&'static str, String); 2] {
        let hls = self.viewers_hls();
        [
            ("segment.url", format!("{hls}/stream_01/Segment-1.m4v")),
            ("live.url", format!("{hls}/stream_01/live.ts")),
        ]
    }

    fn viewers_hls(&self) -> String {
        format!("/{}{HLS}", self.token("hls", &format!(r#","sid":"{VIEWER}""#)))
    }

    pub(super) fn blacklisted(&self) -> String {
        format!("/{}{HLS}/master.m3u8", self.token("hls", &format!(r#","sid":"{BLACKLISTED}""#)))
    }

    pub(super) fn dash_manifest(&self) -> String {
        format!("/{}{DASH}/master.mpd", self.token("dash", ""))
    }

    pub(super) fn french(&self) -> String {
        format!("/{}{HLS}/master.m3u8", self.token("hls", r#","geo":["FR"]"#))
    }

    pub(super) fn lesson(&self) -> String {
        self.lesson_until(self.now + 3600)
    }

    /// Every case. `gateway` only appears in where a redirect leads back to.
    pub(super) fn cases(&self, gateway: SocketAddr) -> Vec<Case> {
        let now = self.now;
        let playlist = format!("{HLS}/master.m3u8");
        let segment = format!("{HLS}/stream_01/Segment-1.m4v");
        let manifest = format!("{DASH}/master.mpd");
        let with = |more: &str, path: &str| format!("/{}{path}", self.token("hls", more));
        let made = |payload: &str, path: &str| format!("/{}{path}", self.sign(payload));
        let good = self.token("hls", "");
        let allowed = |name, client, target, path: &str| Case {
            name,
            client,
            target,
            expected: Expected::Content(media::asset(path).map_or(&[], |asset| asset.body)),
        };
        let refused =
            |name, client, target, reason| Case { name, client, target, expected: Expected::Refusal(reason) };
        let login = |name, target, path: &str| Case {
            name,
            client: PARIS,
            target,
            expected: Expected::Redirect(format!(
                "https://login.example/?return=http%3A%2F%2F{}{}",
                gateway.to_string().replace(':', "%3A"),
                path.replace('/', "%2F")
            )),
        };

        let (past, hour) = (now - 3600, now + 3600);
        let times = |iat: u64, exp: u64| format!(r#"{{"iat":{iat},"exp":{exp},"cid":"Demo","stt":"hls"}}"#);
        let mut forged = good.clone();
        let last = if forged.pop() == Some('A') { 'E' } else { 'A' };
        forged.push(last);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let unsigned = format!("{none}.{}.", URL_SAFE_NO_PAD.encode(times(now, hour)));
        let foreign = self.sign_as("another-key", &times(now, hour));
        vec![
            allowed("HLS playlist", PARIS, with("", &playlist), &playlist),
            allowed("HLS segment", PARIS, with("", &segment), &segment),
            allowed("DASH manifest", PARIS, self.dash_manifest(), &manifest),
            refused("no token", PARIS, playlist.clone(), Reason::TokenMissing),
            refused("half a token", PARIS, format!("/{}{playlist}", &good[..60]), Reason::TokenMalformed),
            refused(
                "unsigned token, alg none",
                PARIS,
                format!("/{unsigned}{playlist}"),
                Reason::AlgorithmNotAllowed,
            ),
            refused("unknown kid", PARIS, format!("/{foreign}{playlist}"), Reason::KeyUnknown),
            refused("changed signature", PARIS, format!("/{forged}{playlist}"), Reason::SignatureInvalid),
            refused(
                "no cid",
                PARIS,
                made(&format!(r#"{{"iat":{now},"exp":{hour},"stt":"hls"}}"#), &playlist),
                Reason::ClaimMissing,
            ),
            refused("expired", PARIS, made(&times(past, past + 60), &playlist), Reason::Expired),
            refused("from the future", PARIS, made(&times(hour, hour + 60), &playlist), Reason::NotYetValid),
            refused("blacklisted session", PARIS, self.blacklisted(), Reason::SessionBlacklisted),
            refused("HLS token on DASH content", PARIS, with("", &manifest), Reason::PathMismatch),
            allowed("bound to its address", PARIS, with(r#","cip":"127.0.0.1""#, &playlist), &playlist),
            refused(
                "bound to another address",
                MUNICH,
                with(r#","cip":"127.0.0.1""#, &playlist),
                Reason::IpMismatch,
            ),
            allowed("bound to France", PARIS, self.french(), &playlist),
            refused("bound to France", MUNICH, self.french(), Reason::GeoBlocked),
            allowed("bound to München", MUNICH, with(r#","local":"München""#, &playlist), &playlist),
            refused(
                "bound to München",
                PARIS,
                with(r#","local":"München""#, &playlist),
                Reason::LocalityMismatch,
            ),
            allowed("bound to a network", PARIS, with(r#","asn":"AS3215""#, &playlist), &playlist),
            refused("bound to a network", MUNICH, with(r#","asn":"AS3215""#, &playlist), Reason::AsnMismatch),
            refused(
                "dot segment after the token",
                PARIS,
                with("", &format!("{HLS}/x/../master.m3u8")),
                Reason::UriAmbiguous,
            ),
            refused("outside every route", PARIS, "/admin".into(), Reason::NoRoute),
            refused("denied address", DENIED, with("", &playlist), Reason::IpDenied),
            refused("denied country", USA, with("", &playlist), Reason::CountryDenied),
            allowed("lesson with a Secure Token", PARIS, self.lesson(), LESSON),
            login("lesson, expired: to the login page", self.lesson_until(past), LESSON),
            login("lesson without a token: likewise", LESSON.into(), LESSON),
        ]
    }

    fn token(&self, technology: &str, more: &str) -> String {
        let (iat, exp) = (self.now, self.now + 3600);
        self.sign(&format!(r#"{{"iat":{iat},"exp":{exp},"cid":"Demo","stt":"{technology}"{more}}}"#))
    }

    fn sign(&self, payload: &str) -> String {
        self.sign_as(KID, payload)
    }

    fn sign_as(&self, kid: &str, payload: &str) -> String {
        self.key.as_ref().map(|key| sign::content_jwt(kid, payload, key)).unwrap_or_default()
    }

    fn lesson_until(&self, expiry: u64) -> String {
        let parameters =
            self.secret.as_ref().map(|secret| secure_token_parameters(secret, LESSON.as_bytes(), expiry));
        format!("{LESSON}?{}", parameters.unwrap_or_default())
    }
}
