//! `edgegate sign`: URLs with tokens.

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::Serialize;
use validator_core::{Algorithm, Country, Key, Secret, net, secure_token_parameters, sign, uri};

/// A Content JWT to make.
pub(crate) struct ContentJwt {
    pub(crate) kid: String,
    pub(crate) path: String,
    pub(crate) base: Option<String>,
    pub(crate) claims: Claims,
}

/// The payload, in the order in which it is written.
#[derive(Debug, Serialize)]
pub(crate) struct Claims {
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) cid: String,
    pub(crate) stt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cip: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) geo: Vec<String>,
    #[serde(rename = "geo-tw", skip_serializing_if = "Vec::is_empty")]
    pub(crate) geo_tw: Vec<Window>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) local: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) asn: Option<u32>,
}

/// A window of `geo-tw`, in unix seconds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Window {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl std::str::FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || "write START-END in unix seconds, START before END".to_owned();
        let (start, end) = text.split_once('-').ok_or_else(usage)?;
        let (start, end) = (start.parse().map_err(|_| usage())?, end.parse().map_err(|_| usage())?);
        if start < end { Ok(Self { start, end }) } else { Err(usage()) }
    }
}

/// Reads a key in base64url, with or without padding.
///
/// # Errors
/// When it is not base64url, or has not a size that the gate accepts.
pub(crate) fn key(text: &str, any_size: bool) -> anyhow::Result<Key> {
    let text = text.trim();
    let bytes = URL_SAFE_NO_PAD.decode(text).or_else(|_| URL_SAFE.decode(text));
    let bytes = zeroize::Zeroizing::new(bytes.ok().context("the key is not base64url")?);
    Ok(Key::new(&bytes, any_size)?)
}

/// The URL, or the path where no base is given.
///
/// # Errors
/// When a claim or the path is such that the gate would refuse the token.
pub(crate) fn content_jwt(request: &ContentJwt, key: &Key) -> anyhow::Result<String> {
    let ContentJwt { kid, path, base, claims } = request;
    check_path(path)?;
    ensure!(!claims.cid.is_empty(), "--cid must not be empty");
    ensure!(
        ["dash", "hls", "mss"].iter().any(|known| claims.stt.eq_ignore_ascii_case(known)),
        "--stt {:?}: write dash, hls or mss, in any letter case",
        claims.stt
    );
    if let Some(cip) = &claims.cip {
        net::parse_net(cip).with_context(|| format!("--cip {cip:?} is neither an IP address nor a CIDR"))?;
    }
    if let Some(bad) = claims.geo.iter().find(|code| Country::new(code).is_none()) {
        bail!("--geo {bad:?} is not an ISO 3166-1 alpha-2 code");
    }
    let token = sign::content_jwt(kid, &serde_json::to_string(claims)?, key);
    Ok(format!("{}/{token}{path}", base_of(base.as_deref())?))
}

/// The URL, or the path and query where no base is given.
///
/// # Errors
/// When the secret is empty, the path is one that the gate would refuse, or the expiry has not ten digits.
pub(crate) fn secure_token(
    algorithm: Algorithm,
    secret: &str,
    path: &str,
    expiry: u64,
    base: Option<&str>,
) -> anyhow::Result<String> {
    check_path(path)?;
    ensure!((1_000_000_000..=9_999_999_999).contains(&expiry), "the expiry {expiry} has not ten digits");
    let secret = Secret::new(algorithm, secret.as_bytes()).context("the secret is empty")?;
    let (bare, separator) = match path.split_once('?') {
        Some((bare, _)) => (bare, '&'),
        None => (path, '?'),
    };
    let parameters = secure_token_parameters(&secret, bare.as_bytes(), expiry);
    Ok(format!("{}{path}{separator}{parameters}", base_of(base)?))
}

fn check_path(path: &str) -> anyhow::Result<()> {
    ensure!(path.starts_with('/'), "--path {path:?}: a path starts with /");
    if let Err(ambiguity) = uri::parse(path.as_bytes()) {
        bail!("--path {path:?}: the gate would refuse it: {}", ambiguity.text());
    }
    Ok(())
}

fn base_of(base: Option<&str>) -> anyhow::Result<&str> {
    let Some(base) = base else { return Ok("") };
    let rest = base.strip_prefix("https://").or_else(|| base.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    match authority {
        Some(authority) if !authority.is_empty() && !authority.contains('/') => {
            Ok(base.strip_suffix('/').unwrap_or(base))
        }
        _ => bail!("--base {base:?}: write http://host or https://host, without a path"),
    }
}
