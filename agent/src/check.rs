//! `edgegate check`: one verdict, explained.

use crate::geo::Databases;
use crate::judge::Fields;
use crate::snapshot::Snapshot;
use anyhow::{Context as _, bail};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};
use validator_core::{Request, Scratch, Trace, Verdict, decide};

/// What to explain.
pub(crate) struct Question {
    pub(crate) url: String,
    pub(crate) client: IpAddr,
    pub(crate) at: u64,
    pub(crate) method: String,
    pub(crate) headers: Vec<String>,
}

/// A verdict and the steps to it.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    pub(crate) verdict: &'static str,
    pub(crate) status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstream_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) location: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) forward: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session: Option<String>,
    pub(crate) monitored: Vec<&'static str>,
    pub(crate) client: IpAddr,
    pub(crate) at: u64,
    pub(crate) steps: Vec<Step>,
}

/// One step of a decision.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) step: &'static str,
    pub(crate) detail: String,
}

impl Explanation {
    pub(crate) fn allowed(&self) -> bool {
        self.verdict == "allow"
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.at));
        writeln!(f, "{:<12}{} at {} ({instant})", "client", self.client, self.at)?;
        for Step { step, detail } in &self.steps {
            writeln!(f, "{step:<12}{detail}")?;
        }
        let reason = self.reason.unwrap_or("the content may be had");
        writeln!(f, "{:<12}{} {}: {reason}", "verdict", self.verdict, self.status)?;
        let monitored = (!self.monitored.is_empty()).then(|| self.monitored.join(", "));
        for (name, value) in [
            ("upstream", &self.upstream_uri),
            ("cache key", &self.cache_key),
            ("location", &self.location),
            ("forward", &self.forward),
            ("session", &self.session),
            ("monitored", &monitored),
        ] {
            if let Some(value) = value {
                writeln!(f, "{name:<12}{value}")?;
            }
        }
        Ok(())
    }
}

/// Decides on a request as the gateway would, and keeps every step.
///
/// # Errors
/// When the URL, a header or the method cannot be part of a request.
pub(crate) fn explain(snapshot: &Snapshot, question: &Question) -> anyhow::Result<Explanation> {
    let (scheme, host, target) = split_url(&question.url)?;
    if question.at > MAX_INSTANT {
        bail!("--at {}: that is after the year 9999", question.at);
    }
    let headers = parse_headers(&question.headers)?;
    http::Method::from_bytes(question.method.as_bytes())
        .with_context(|| format!("--method {:?} is no HTTP method", question.method))?;
    let request = Request {
        method: &question.method,
        target: target.as_bytes(),
        scheme,
        host: host.as_bytes(),
        client: question.client,
        // The listener's own address, where it is bound to one: services of the prefilter are by destination.
        destination: gateway_address(snapshot),
        headers: &Fields(&headers),
    };
    let mut steps = Steps::default();
    let mut scratch = Scratch::new();
    scratch.reserve(&snapshot.config.policy);
    let geo: &Databases = &snapshot.geo;
    let decision = decide(&snapshot.config.policy, &request, geo, question.at, &mut scratch, &mut steps);

    let text = |bytes: &[u8]| Some(String::from_utf8_lossy(bytes).into_owned());
    let mut explanation = Explanation {
        verdict: decision.verdict.name(),
        status: 200,
        reason: decision.verdict.reason().map(validator_core::Reason::name),
        route: decision.route.map(|index| snapshot.config.policy.routes[index].name.to_string()),
        upstream_uri: None,
        cache_key: None,
        location: None,
        forward: None,
        session: decision.session.map(str::to_owned),
        monitored: decision.let_through().collect(),
        client: request.client,
        at: question.at,
        steps: steps.0,
    };
    match decision.verdict {
        Verdict::Allow { upstream_uri, cache_key, .. } => {
            explanation.upstream_uri = text(upstream_uri);
            explanation.cache_key = text(cache_key);
        }
        Verdict::Deny { status, .. } => explanation.status = status,
        Verdict::Redirect { location, .. } => {
            explanation.status = 302;
            explanation.location = text(location);
        }
        Verdict::Forward { upstream, upstream_uri, .. } => {
            explanation.forward = Some(upstream.to_owned());
            explanation.upstream_uri = text(upstream_uri);
        }
    }
    Ok(explanation)
}

/// The last second that can be written as a date with four digits for the year.
const MAX_INSTANT: u64 = 253_402_300_799;

fn gateway_address(snapshot: &Snapshot) -> Option<(IpAddr, u16)> {
    use crate::config::Listen;
    snapshot.config.gateway.as_ref()?.listen.iter().find_map(|listen| match listen {
        Listen::Tcp(address) => Some((address.ip(), address.port())),
        Listen::Unix(_) => None,
    })
}

/// Scheme, authority and origin-form of a URL; or of a bare path, which then has no host. The path is not touched:
/// what a browser would make of it is not what arrives.
fn split_url(url: &str) -> anyhow::Result<(&'static str, &str, &str)> {
    let (scheme, rest) = if let Some(rest) = url.strip_prefix("http://") {
        ("http", rest)
    } else if let Some(rest) = url.strip_prefix("https://") {
        ("https", rest)
    } else if url.starts_with('/') {
        return Ok(("http", "", url));
    } else {
        bail!("--url: write http://host/path, https://host/path or /path");
    };
    match rest.find('/') {
        Some(0) | None => bail!("--url: a host and a path are needed, as in https://host/path"),
        Some(at) => Ok((scheme, &rest[..at], &rest[at..])),
    }
}

fn parse_headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) =
            line.split_once(':').with_context(|| format!("--header {line:?}: write 'Name: value'"))?;
        let name = HeaderName::try_from(name.trim())
            .with_context(|| format!("--header: {name:?} is no field name"))?;
        let value = HeaderValue::from_str(value.trim())
            .with_context(|| format!("--header {name}: the value has a character that no header may have"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Trace for Steps {
    const ENABLED: bool = true;

    fn note(&mut self, topic: &'static str, detail: fmt::Arguments<'_>) {
        self.0.push(Step { step: topic, detail: detail.to_string() });
    }
}
