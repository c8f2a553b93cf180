//! The fleet's bucket: where it is, who asks, and what of it counts here.

use super::listeners::host_and_port;
use super::reader::{Section, Value};
use std::path::{Path, PathBuf};

/// Name of bucket and first token of keys where the configuration has none.
pub(crate) const DEFAULT_NAME: &str = "edgegate";

/// Longest name of a bucket, prefix or host, in bytes.
const LONGEST_NAME: usize = 128;

/// The fleet's bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// NATS servers, at least one: `nats://host[:port]` or `tls://host[:port]`.
    pub nats: Vec<String>,
    /// The key-value bucket.
    pub bucket: String,
    /// The first tokens of its keys.
    pub prefix: String,
    /// What this host reports itself as; `None`: the machine's host name.
    pub host: Option<String>,
    /// Who asks.
    pub login: FleetLogin,
    /// Authorities of the server's certificate, besides those of the system.
    pub tls_ca: Option<PathBuf>,
    /// This side's certificate and key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// Whether a server without TLS is refused.
    pub tls_required: bool,
    /// Whether secrets are taken from the bucket.
    pub secrets: bool,
}

/// How to log in. Files are read when a connection is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FleetLogin {
    /// Not at all.
    None,
    /// With a file of credentials, as `nsc` writes it.
    Credentials(PathBuf),
    /// With a name and the password in the first line of a file.
    Password {
        /// The name.
        user: String,
        /// The file.
        file: PathBuf,
    },
    /// With the token in the first line of a file.
    Token(PathBuf),
}

pub(super) fn fleet(mut section: Section<'_>, folder: &Path) -> Option<Fleet> {
    let way_out = "write for example nats = \"nats://nats.example:4222\"";
    let nats = section.require("nats", way_out).and_then(|value| servers(&value));
    let bucket = section.take("bucket").and_then(|value| checked(&value, bucket_name));
    let prefix = section.take("prefix").and_then(|value| checked(&value, key_prefix));
    let host = section.take("host").and_then(|value| checked(&value, host_name));
    let login = login(&mut section, folder);
    let mut path = |key: &'static str| section.take(key).map(|value| (value.path(folder), value.place));
    let (tls_ca, cert, key) = (path("tls_ca"), path("tls_cert"), path("tls_key"));
    let tls_identity = match (cert, key) {
        (Some((cert, _)), Some((key, _))) => cert.zip(key),
        (Some((_, place)), None) => {
            place.problem("needs tls_key as well");
            None
        }
        (None, Some((_, place))) => {
            place.problem("needs tls_cert as well");
            None
        }
        (None, None) => None,
    };
    let tls_required = section.boolean("tls_required", false);
    let secrets = section.boolean("secrets", false);
    section.finish();
    let default = || DEFAULT_NAME.to_owned();
    Some(Fleet {
        nats: nats?,
        bucket: bucket.unwrap_or_else(default),
        prefix: prefix.unwrap_or_else(default),
        host,
        login,
        tls_ca: tls_ca.and_then(|(path, _)| path),
        tls_identity,
        tls_required,
        secrets,
    })
}

fn login(section: &mut Section<'_>, folder: &Path) -> FleetLogin {
    let credentials = section.take("credentials");
    let user = section.take("user");
    let password = section.take("password_file");
    let token = section.take("token_file");
    let ways = [&credentials, &user, &token];
    if let Some(second) = ways.into_iter().flatten().nth(1) {
        second.place.problem("there are two ways to log in; leave one of credentials, user and token_file");
    }
    let path = |value: &Value<'_>| value.path(folder);
    if let Some(credentials) = credentials {
        return path(&credentials).map_or(FleetLogin::None, FleetLogin::Credentials);
    }
    match (user, password, token) {
        (Some(user), Some(password), _) => match (user.text(), path(&password)) {
            (Some(user), Some(file)) => FleetLogin::Password { user: user.to_owned(), file },
            _ => FleetLogin::None,
        },
        (Some(user), None, _) => {
            user.place.problem("needs password_file as well, with the password in its first line");
            FleetLogin::None
        }
        (None, Some(password), _) => {
            password.place.problem("needs user as well");
            FleetLogin::None
        }
        (None, None, Some(token)) => path(&token).map_or(FleetLogin::None, FleetLogin::Token),
        (None, None, None) => FleetLogin::None,
    }
}

fn servers(value: &Value<'_>) -> Option<Vec<String>> {
    let elements = value.string_or_list()?;
    if elements.is_empty() {
        value.place.problem("needs at least one server; write for example \"nats://nats.example:4222\"");
    }
    // All of them are looked at before the first wrong one counts.
    let servers: Vec<Option<String>> = elements.iter().map(|element| checked(element, server)).collect();
    servers.into_iter().collect()
}

fn checked(value: &Value<'_>, check: impl FnOnce(&str) -> Result<(), String>) -> Option<String> {
    let text = value.text()?;
    check(text).map_err(|problem| value.place.problem(problem)).ok()?;
    Some(text.to_owned())
}

/// Whether a text is the address of a server. The message does not repeat it, since it may contain a password.
pub(crate) fn server(text: &str) -> Result<(), String> {
    let rest = text.strip_prefix("nats://").or_else(|| text.strip_prefix("tls://"));
    let rest = rest.ok_or("write nats://host, nats://host:port or tls://host:port")?;
    if rest.contains('@') {
        return Err(
            "a password does not belong here; use user and password_file, token_file or credentials".into()
        );
    }
    host_and_port(rest).map(drop)
}

/// Whether a bucket may have this name.
pub(crate) fn bucket_name(text: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    if text.len() <= LONGEST_NAME && !text.is_empty() && text.bytes().all(good) {
        Ok(())
    } else {
        Err(format!("a bucket's name has 1 to {LONGEST_NAME} letters, digits, - and _"))
    }
}

/// Whether keys may start with this.
pub(crate) fn key_prefix(text: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_=/.".contains(&b);
    if text.len() <= LONGEST_NAME && text.bytes().all(good) && text.split('.').all(|token| !token.is_empty())
    {
        Ok(())
    } else {
        Err(format!("a prefix has 1 to {LONGEST_NAME} letters, digits, - _ = / and single dots between them"))
    }
}

/// Whether a host may have this name.
pub(crate) fn host_name(text: &str) -> Result<(), String> {
    key_prefix(text).map_err(|problem| problem.replace("a prefix", "a host's name"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const GATEWAY: &str = "gateway = { listen = [\"127.0.0.1:1\"], upstream = \"http://a\" }\n";

    fn read(fleet: &str) -> Fleet {
        let text = format!("{GATEWAY}[fleet]\n{fleet}");
        let config =
            parse(&text, Path::new("/etc/edgegate/edgegate.toml"), 0).unwrap_or_else(|e| panic!("{e}"));
        (*config.fleet.unwrap()).clone()
    }

    #[test]
    fn little_is_enough() {
        let fleet = read("nats = \"nats://a.example\"");
        assert_eq!(
            fleet,
            Fleet {
                nats: vec!["nats://a.example".into()],
                bucket: "edgegate".into(),
                prefix: "edgegate".into(),
                host: None,
                login: FleetLogin::None,
                tls_ca: None,
                tls_identity: None,
                tls_required: false,
                secrets: false,
            }
        );
    }

    #[test]
    fn everything() {
        let fleet = read(
            "nats = [\"nats://[2001:db8::1]:4222\", \"tls://b:1\"]\nbucket = \"cdn\"\nprefix = \"live.eu\"\nhost = \"edge-1.par\"\n\
             user = \"u\"\npassword_file = \"p\"\ntls_ca = \"/ca\"\ntls_cert = \"c\"\ntls_key = \"k\"\ntls_required = true\nsecrets = true",
        );
        assert_eq!(fleet.nats, ["nats://[2001:db8::1]:4222", "tls://b:1"]);
        assert_eq!(
            (&*fleet.bucket, &*fleet.prefix, fleet.host.as_deref()),
            ("cdn", "live.eu", Some("edge-1.par"))
        );
        assert_eq!(fleet.login, FleetLogin::Password { user: "u".into(), file: "/etc/edgegate/p".into() });
        assert_eq!(fleet.tls_ca, Some("/ca".into()));
        assert_eq!(fleet.tls_identity, Some(("/etc/edgegate/c".into(), "/etc/edgegate/k".into())));
        assert!(fleet.tls_required && fleet.secrets);
        let login = |text: &str| read(&format!("nats = \"nats://a\"\n{text}")).login;
        assert_eq!(login("credentials = \"/c\""), FleetLogin::Credentials("/c".into()));
        assert_eq!(login("token_file = \"/t\""), FleetLogin::Token("/t".into()));
    }

    /// Keys may come from the bucket: routes need none in the file.
    #[test]
    fn keys_may_come_later() {
        let route = "[[route]]\nname = \"r\"\ncheck = \"content-jwt\"\npath_validation = ['/(?<cid>[^/]+)/(?<stt>[^/]+)/.*']\n";
        let parse = |secrets: &str| {
            let text = format!("{GATEWAY}{route}[fleet]\nnats = \"nats://a\"\n{secrets}");
            parse(&text, Path::new("f"), 0).map(drop)
        };
        assert!(parse("secrets = true").is_ok());
        assert!(parse("").is_err());
    }
}
