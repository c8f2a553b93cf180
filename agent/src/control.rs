//! The control API: HTTP and JSON on a unix socket, for operators and their programs.
//!
//! An answer of 2xx to a change means that it is stored, and in force in userspace and in the kernel. `openapi.json` beside this
//! file describes every call; the API serves it too.

mod answer;
mod blacklist;
mod listing;
mod path;
pub(crate) mod upload;

use crate::check::{self, Question};
use crate::clock::Clock;
use crate::config;
use crate::events::Bus;
use crate::fleet::Fleet;
use crate::kernel::{Part, Report};
use crate::message::{Body, Refusal};
use crate::metrics::Metrics;
use crate::server::{Connection, Handler, Limits};
use crate::snapshot::{Live, Snapshot};
use crate::state::{Change, ChangeError, List, NewSecret, Origin, Writer};
use crate::wire::HeadFacts;
use answer::{Error, Outcome, json, streamed};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, IF_MATCH};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use path::Path;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use zeroize::Zeroizing;

/// Longest body that is kept in memory, in bytes: configurations and the list of one day.
const LONGEST_BODY: usize = 64 * 1024 * 1024;

/// Longest body of a small question.
const LONGEST_QUESTION: usize = 1024 * 1024;

/// How long a client may be silent within a request.
const PATIENCE: Duration = Duration::from_secs(60);

const OPENAPI: &str = include_str!("control/openapi.json");

/// Everything that can be looked at or changed.
pub(crate) struct Seen {
    pub(crate) live: Live,
    pub(crate) writer: Arc<Writer>,
    pub(crate) kernel: Arc<Part>,
    pub(crate) events: Bus,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Clock,
    pub(crate) fleet: Option<Arc<Fleet>>,
    pub(crate) gateway: Vec<SocketAddr>,
    pub(crate) auth: Vec<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
    /// The agent stops.
    pub(crate) down: watch::Receiver<bool>,
}

/// Answers the control socket.
pub(crate) struct Control {
    seen: Seen,
    started: (SystemTime, Instant),
    /// The user that the agent runs as.
    user: u32,
}

impl Control {
    /// Answers about an agent that starts now.
    #[must_use]
    pub(crate) fn new(seen: Seen) -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self { seen, started: (SystemTime::now(), Instant::now()), user }
    }

    async fn answer(&self, request: Request<Incoming>, connection: &Connection) -> Outcome {
        // The socket's mode says the same; a process may have been handed an open socket.
        if connection.user.is_none_or(|user| user != 0 && user != self.user) {
            return Err(Error::forbidden());
        }
        let target = request.uri().clone();
        let path = Path::parse(target.path())
            .ok_or_else(|| Error::bad_request("the path is not percent-encoded text"))?;
        let method = request.method().clone();
        let segments: Vec<&str> = path.segments();
        let Some((&"v1", rest)) = segments.split_first() else { return Err(Error::not_found()) };
        match (rest, &method) {
            (["status"], &Method::GET) => self.status(),
            (["openapi.json"], &Method::GET) => Ok(answer::raw_json(OPENAPI)),
            (["config"], &Method::GET) => self.config(),
            (["config"], &Method::PUT) => self.put_config(request).await,
            (["config"], &Method::DELETE) => {
                let expected = expected_version(&request)?;
                self.set_config(None, expected, false).await
            }
            (["blacklist", rest @ ..], _) => self.blacklist(rest, request).await,
            (["secrets"], &Method::GET) => self.secrets(),
            (["secrets", kid, slot], &Method::PUT) => self.put_secret(kid, slot, request).await,
            (["secrets", kid, slot], &Method::DELETE) => self.secret(kid, slot, None).await,
            (["prefilter"], &Method::GET) => self.prefilter(),
            (["prefilter", list, net @ ..], &Method::PUT | &Method::DELETE) if !net.is_empty() => {
                self.net(list, &net.join("/"), method == Method::DELETE).await
            }
            (["check"], &Method::POST) => self.check(request).await,
            (["events"], &Method::GET) => Ok(self.events()),
            (["fleet"], &Method::GET) => Ok(json(&self.fleet().await, None)),
            (["status" | "events" | "fleet" | "openapi.json"], _) => Err(Error::method_not_allowed("GET")),
            (["config"], _) => Err(Error::method_not_allowed("GET, PUT, DELETE")),
            (["secrets" | "prefilter"], _) => Err(Error::method_not_allowed("GET")),
            (["secrets", _, _] | ["prefilter", _, _, ..], _) => Err(Error::method_not_allowed("PUT, DELETE")),
            (["check"], _) => Err(Error::method_not_allowed("POST")),
            _ => Err(Error::not_found()),
        }
    }

    fn status(&self) -> Outcome {
        let snapshot = self.seen.live.current();
        let config = &snapshot.config;
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        let kids: std::collections::BTreeSet<&str> = config.slots.iter().map(|info| &*info.kid).collect();
        let store = self.seen.writer.store(|store| {
            let bytes = std::fs::metadata(store.path()).map(|file| file.len()).unwrap_or(0);
            json!({ "path": store.path(), "bytes": bytes, "writable": store.is_writable() && !store.is_broken() })
        });
        let answer = json!({
            "version": snapshot.revision,
            "agent": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "started": self.started.0.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            "uptime_seconds": self.started.1.elapsed().as_secs(),
            "config": {
                "file": snapshot.overlay.file,
                "pushed": snapshot.overlay.config.contains_key(&Origin::Pushed),
                "fleet": snapshot.overlay.config.contains_key(&Origin::Fleet),
                "routes": config.policy.routes.len(),
                "warnings": warnings,
            },
            "listeners": {
                "gateway": self.seen.gateway,
                "auth": self.seen.auth,
                "metrics": self.seen.admin,
            },
            "blacklist": {
                "sessions": config.policy.sessions.len(),
                "capacity": config.blacklist_capacity,
                "days": snapshot.overlay.days.len(),
                "retain_days": config.policy.sessions.retain_days(),
            },
            "lists": { "deny": config.kernel.deny.len(), "allow": config.kernel.allow.len() },
            "secrets": { "kids": kids.len(), "slots": config.slots.len() },
            "kernel": self.kernel(&snapshot),
            "store": store,
            "fleet": self.seen.fleet.as_ref().map(|fleet| fleet.status()),
        });
        Ok(json(&answer, Some(snapshot.revision)))
    }

    async fn fleet(&self) -> Json {
        match &self.seen.fleet {
            Some(fleet) => fleet.overview().await,
            None => json!({ "fleet": null }),
        }
    }

    fn kernel(&self, snapshot: &Snapshot) -> Json {
        let settings = &snapshot.config.kernel;
        let (state, why) = match self.seen.kernel.report(snapshot) {
            Report::On => ("on", None),
            Report::NotConfigured => ("not_configured", None),
            Report::Off(why) => ("off", Some(why)),
        };
        json!({ "state": state, "why": why, "interfaces": settings.interfaces, "monitor": settings.monitor })
    }

    fn config(&self) -> Outcome {
        let snapshot = self.seen.live.current();
        let overlay = &snapshot.overlay;
        let (origins, layers): (Vec<Origin>, Vec<_>) = overlay.layers().into_iter().unzip();
        // It was read before it came in force.
        let shown = config::shown(&layers).map_err(|problems| Error::problems(&problems))?;
        let values: Vec<Json> = shown
            .into_iter()
            .map(|shown| {
                let origin = origins.get(shown.layer).copied().unwrap_or(Origin::File);
                json!({ "key": shown.key, "toml": shown.toml, "value": shown.json, "origin": origin })
            })
            .collect();
        let text = |origin| overlay.config.get(&origin).map(|text| config::without_secrets(text));
        // Of the configuration alone: others push sessions meanwhile.
        let version = overlay.config_revision;
        let answer = json!({
            "version": version,
            "file": overlay.file,
            "pushed": text(Origin::Pushed),
            "fleet": text(Origin::Fleet),
            "values": values,
        });
        Ok(json(&answer, Some(version)))
    }

    async fn put_config(&self, request: Request<Incoming>) -> Outcome {
        let expected = expected_version(&request)?;
        let dry_run = match path::query(request.uri(), &["dry_run"])?.remove("dry_run").as_deref() {
            None | Some("false") => false,
            Some("true" | "") => true,
            Some(_) => return Err(Error::bad_request("dry_run is true or false")),
        };
        let bytes = whole(request, LONGEST_BODY).await?;
        let text = String::from_utf8(bytes.to_vec()).map(Zeroizing::new);
        let text = text.map_err(|_| Error::bad_request("the configuration is not UTF-8 text"))?;
        self.set_config(Some(text), expected, dry_run).await
    }

    async fn set_config(
        &self,
        text: Option<Zeroizing<String>>,
        expected: Option<u64>,
        dry_run: bool,
    ) -> Outcome {
        let told: &[&str] = if text.is_some() { &["warnings"] } else { &[] };
        let change = Change::Config { origin: Origin::Pushed, text, expected, dry_run };
        let applied = self.seen.writer.change(change).await?;
        Ok(answer::counts(&applied.done, applied.version, told))
    }

    fn secrets(&self) -> Outcome {
        let snapshot = self.seen.live.current();
        let mut slots: Vec<_> = snapshot.config.slots.iter().collect();
        slots.sort_by_key(|info| (&info.kid, info.slot));
        let secrets: Vec<Json> = slots
            .into_iter()
            .map(|info| {
                let origin = snapshot.overlay.origin_of_slot(&info.kid, info.slot);
                json!({ "kid": info.kid, "slot": info.slot, "until": info.until, "bytes": info.bytes, "origin": origin })
            })
            .collect();
        Ok(json(&json!({ "version": snapshot.revision, "secrets": secrets }), Some(snapshot.revision)))
    }

    async fn put_secret(&self, kid: &str, slot: &str, request: Request<Incoming>) -> Outcome {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Given<'g> {
            // Borrowed, so that there is no copy of it.
            key: &'g str,
            until: Option<u64>,
            #[serde(default)]
            allow_key_size: bool,
        }
        let is_json = upload::Form::of(&request) == Some(upload::Form::Json);
        let bytes = Zeroizing::new(whole(request, LONGEST_QUESTION).await?.to_vec());
        let given = if is_json {
            // The message of the parser may quote the key.
            serde_json::from_slice(&bytes).map_err(|_| {
                Error::bad_request(
                    "write {\"key\": \"base64url\"}, with \"until\" (unix seconds) and \"allow_key_size\" if needed",
                )
            })?
        } else {
            let text = std::str::from_utf8(&bytes).map_err(|_| Error::bad_request("the key is not text"))?;
            Given { key: text.trim(), until: None, allow_key_size: false }
        };
        let (key, bytes) = config::read_key(given.key, given.allow_key_size).map_err(Error::invalid)?;
        let secret = NewSecret { key, bytes, until: given.until, any_size: given.allow_key_size };
        self.secret(kid, slot, Some(secret)).await
    }

    async fn secret(&self, kid: &str, slot: &str, secret: Option<NewSecret>) -> Outcome {
        let slot = slot.parse().map_err(|_| Error::bad_request("the slot is not a number"))?;
        let change = Change::Secret { origin: Origin::Pushed, kid: kid.into(), slot, secret };
        let applied = self.seen.writer.change(change).await?;
        Ok(answer::counts(&applied.done, applied.version, &["removed"]))
    }

    fn prefilter(&self) -> Outcome {
        let snapshot = self.seen.live.current();
        let nets = |list: List, nets: &[ipnet::IpNet]| -> Vec<Json> {
            let net = |net: &ipnet::IpNet| {
                let origin = snapshot.overlay.flags(list, net).origin();
                json!({ "cidr": net.to_string(), "origin": origin })
            };
            nets.iter().map(net).collect()
        };
        let kernel = &snapshot.config.kernel;
        let answer = json!({
            "version": snapshot.revision,
            "deny": nets(List::Deny, &kernel.deny),
            "allow": nets(List::Allow, &kernel.allow),
            "kernel": self.kernel(&snapshot),
        });
        Ok(json(&answer, Some(snapshot.revision)))
    }

    async fn net(&self, list: &str, net: &str, remove: bool) -> Outcome {
        let list = [List::Deny, List::Allow].into_iter().find(|known| known.name() == list);
        let list = list.ok_or_else(Error::not_found)?;
        let net = validator_core::net::parse_net(net).ok_or_else(|| {
            Error::invalid(format!(
                "{net:?} is no address or network such as 203.0.113.0/24 or 2001:db8::/32"
            ))
        })?;
        let change = Change::Net { origin: Origin::Pushed, list, net, remove };
        let applied = self.seen.writer.change(change).await?;
        Ok(answer::counts(&applied.done, applied.version, answer::names_of(remove)))
    }

    async fn check(&self, request: Request<Incoming>) -> Outcome {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Asked {
            url: String,
            client: IpAddr,
            at: Option<u64>,
            #[serde(default = "get")]
            method: String,
            #[serde(default)]
            headers: Vec<String>,
        }
        fn get() -> String {
            "GET".to_owned()
        }
        let bytes = whole(request, LONGEST_QUESTION).await?;
        let asked: Asked = serde_json::from_slice(&bytes)
            .map_err(|error| Error::bad_request(format!("the question cannot be read: {error}")))?;
        let question = Question {
            url: asked.url,
            client: asked.client.to_canonical(),
            at: asked.at.unwrap_or_else(|| self.seen.clock.now()),
            method: asked.method,
            headers: asked.headers,
        };
        let snapshot = self.seen.live.current();
        let explanation = check::explain(&snapshot, &question);
        let explanation = explanation.map_err(|error| Error::invalid(format!("{error:#}")))?;
        Ok(json(&explanation, None))
    }

    fn events(&self) -> Response<Body> {
        let told = self.seen.events.listen().map(|told| {
            let mut line = serde_json::to_vec(&told).unwrap_or_default();
            line.push(b'\n');
            Some(Bytes::from(line))
        });
        streamed(UnsyncBoxBody::new(StreamBody::new(until_down(told, self.seen.down.clone()))))
    }
}

impl Handler for Control {
    const NAME: &'static str = "control";

    async fn handle(
        &self,
        request: Request<Incoming>,
        connection: &Connection,
        _: HeadFacts,
    ) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match self.answer(request, connection).await {
            Ok(response) => response,
            Err(error) => {
                tracing::info!(%method, path, status = error.status().as_u16(), "control: refused: {}", error.message());
                error.into_response()
            }
        }
    }

    fn refused(&self, refusal: Refusal) {
        self.seen.metrics.bad_requests.with_label_values(&[Self::NAME, refusal.reason]).inc();
    }

    fn refusal(&self, refusal: Refusal) -> Response<Body> {
        Error::http(refusal).into_response()
    }

    fn limits(&self) -> Limits {
        Limits::plain(PATIENCE, PATIENCE)
    }
}

impl From<ChangeError> for Error {
    fn from(error: ChangeError) -> Self {
        Self::change(&error)
    }
}

/// Frames until the agent stops.
fn until_down(
    lines: impl Stream<Item = Option<Bytes>>,
    down: watch::Receiver<bool>,
) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> {
    // `None` is the end, also of the other stream.
    let down = WatchStream::new(down).filter(|&down| down).map(|_| None);
    lines.merge(down).map_while(|line| line.map(|line| Ok(Frame::data(line))))
}

/// A whole body.
async fn whole(request: Request<Incoming>, longest: usize) -> Result<Bytes, Error> {
    let body = Limited::new(request.into_body(), longest).collect().await;
    let body = body.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Error::too_large(longest)
        } else {
            Error::bad_request("the body broke off")
        }
    })?;
    Ok(body.to_bytes())
}

/// The version of `If-Match`.
fn expected_version(request: &Request<Incoming>) -> Result<Option<u64>, Error> {
    let Some(value) = request.headers().get(IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse();
    number.map(Some).map_err(|_| Error::bad_request("If-Match is not a version such as \"12\""))
}

/// The media type of a request, without parameters.
fn media_type(request: &Request<Incoming>) -> Option<String> {
    let value = request.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
