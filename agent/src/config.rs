//! The configuration file: TOML in, [`Config`] out, or everything that is wrong with it.
//!
//! A [`Config`] has the compiled [`Policy`] of the validator and the settings of everything around it. No problem,
//! `Debug` text or warning ever contains a secret.

mod fleet;
mod layers;
mod listeners;
mod lists;
mod problem;
mod reader;
mod routes;
mod secrets;
#[cfg(test)]
mod tests;

pub(crate) use fleet::{DEFAULT_NAME, bucket_name, host_name, key_prefix, server as check_server};
pub use fleet::{Fleet, FleetLogin};
pub use layers::{Layer, Shown, shown, without_secrets};
pub use listeners::{Auth, Gateway, Listen, Upstream};
pub(crate) use lists::PIN_DIR;
pub use lists::{GeoPaths, Kernel, KernelMode, SessionAction};
pub use problem::{Problem, Problems};
pub use routes::RouteSettings;
pub use secrets::SlotInfo;
pub(crate) use secrets::key as read_key;

use listeners::Listeners;
use problem::Report;
use reader::{Section, wipe};
use routes::Context;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use validator_core::{Day, Fallback, Policy};
use zeroize::Zeroizing;

/// A whole configuration. A clone shares what is large.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where state is kept between two runs.
    pub state_dir: PathBuf,
    /// The compiled policy.
    pub policy: Policy,
    /// What routes need besides; parallel to `policy.routes`.
    pub routes: Arc<[RouteSettings]>,
    /// The reverse proxy. It or `auth` is present.
    pub gateway: Option<Gateway>,
    /// The auth listener.
    pub auth: Option<Auth>,
    /// The control socket's absolute path.
    pub control: Option<PathBuf>,
    /// Where the fleet's bucket is.
    pub fleet: Option<Arc<Fleet>>,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// How to log.
    pub log: Log,
    /// Where the geo databases are.
    pub geo: GeoPaths,
    /// The kernel prefilter.
    pub kernel: Arc<Kernel>,
    /// How many distinct sessions may be blacklisted, 1 to 10,000,000.
    pub blacklist_capacity: usize,
    /// The sessions of each day list, sorted. All of them are in `policy.sessions`.
    pub days: Arc<BTreeMap<Day, Vec<Box<str>>>>,
    /// The slots of all secrets, without their keys, in the order of the text. All of them are in `policy.keys`.
    pub slots: Arc<[SlotInfo]>,
    /// What is legal and probably not meant, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// What is logged at all.
    pub level: LogLevel,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The least important events that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures.
    Error,
    /// What may become a failure.
    Warn,
    /// The normal course.
    Info,
    /// Details for operators.
    Debug,
    /// Details for developers.
    Trace,
}

impl LogLevel {
    /// The word that stands for it in a configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Reads a configuration file. `now` (unix seconds) only serves warnings.
///
/// # Errors
/// Everything that is wrong with the file; or that it cannot be read.
pub fn load(path: &Path, now: u64) -> Result<Config, Problems> {
    parse(&read_text(path)?, path, now)
}

/// The text of a configuration file.
///
/// # Errors
/// It cannot be read, or is no text.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, Problems> {
    let bytes = fs::read(path);
    let bytes = bytes.map_err(|error| Problems::of_file(path, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map(Zeroizing::new).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = Zeroizing::new(error.into_bytes());
        let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1;
        Problems::of_file(path, format!("is not UTF-8 text; the first wrong byte is in line {line}"))
    })
}

/// Reads the text of a configuration. `origin` is the file's path: it stands before every problem, and relative paths
/// start at its folder. `now` (unix seconds) only serves warnings.
///
/// # Errors
/// Everything that is wrong with the text, and with the key files that it names.
pub fn parse(text: &str, origin: &Path, now: u64) -> Result<Config, Problems> {
    parse_layers(&[Layer { name: origin, text }], now)
}

/// Reads a configuration of several texts, each of which lies over those before it. Relative paths start at the folder of
/// the first one, which is a file. `now` (unix seconds) only serves warnings.
///
/// # Errors
/// Everything that is wrong with the texts, and with the key files that they name.
pub fn parse_layers(layers: &[Layer<'_>], now: u64) -> Result<Config, Problems> {
    let origin = layers.first().map_or(Path::new(""), |layer| layer.name);
    let report = Report::new();
    let Ok(mut document) = layers::document(layers, &report) else {
        return Err(report.finish_syntax(layers));
    };
    let folder = origin.parent().unwrap_or(Path::new(""));
    let config = read(Section::root(&report, &document), folder, now);
    wipe(&mut document);
    let warnings = report.finish(layers)?;
    config.map(|config| Config { warnings, ..config }).ok_or_else(|| {
        // Every `None` comes with a problem; this is for the reader of a mistake in this module.
        Problems::of_file(origin, "is incomplete".into())
    })
}

fn read(mut root: Section<'_>, folder: &Path, now: u64) -> Option<Config> {
    let state_dir = root.take("state_dir").and_then(|value| value.path(folder));
    let fallback = root.word("default", &[("deny", Fallback::Deny), ("allow", Fallback::Allow)]);
    let leeway = root.number("leeway", &(0..=3600)).unwrap_or(0);

    let mut all = Listeners::default();
    let gateway = root.take("gateway");
    let auth = root.take("auth");
    if gateway.is_none() && auth.is_none() {
        root.place.problem("neither [gateway] nor [auth] is there; add at least one");
    }
    let gateway =
        gateway.and_then(|value| value.section()).map(|section| listeners::gateway(section, &mut all));
    let auth = auth.and_then(|value| value.section()).map(|section| listeners::auth(section, &mut all));
    let control = root.section("control").map(|section| listeners::control(section, &mut all));
    let metrics = root.section("metrics").map(|section| listeners::metrics(section, &mut all));
    let fleet = root.section("fleet").map(|section| fleet::fleet(section, folder));
    let log = log(root.section("log"));

    let geo = root.section("geo").map(|section| lists::geo(section, folder)).unwrap_or_default();
    let secrets::Keys { ring: keys, slots, any } = secrets::keys(root.section("secrets").as_ref(), folder);
    // Where there is a control socket, a key may still be pushed; or come from the fleet.
    let fleet_has_keys = fleet.as_ref().is_some_and(|fleet| fleet.as_ref().is_some_and(|f| f.secrets));
    let any_key = any || control.is_some() || fleet_has_keys;
    let secure_token = root.section("secure_token");
    let secure_tokens = secrets::secure_tokens(secure_token.as_ref(), folder);
    let lists::Blacklist { sessions, days, capacity } = lists::blacklist(root.section("blacklist"), now);
    let (prefilter, mut kernel) = lists::prefilter(root.section("prefilter"), folder, geo.knows_countries());
    kernel.trusted = all.trusted;

    let fallback = fallback.unwrap_or(Fallback::Deny);
    let context = Context { secure_tokens, any_key, countries_known: geo.knows_countries() };
    let (routes, settings) = routes::routes(&mut root, fallback, &context);
    root.finish();

    Some(Config {
        state_dir: state_dir.unwrap_or_else(|| "/var/lib/edgegate".into()),
        policy: Policy {
            fallback,
            leeway,
            keys: keys.into(),
            sessions,
            prefilter: prefilter.into(),
            routes: routes.into(),
        },
        routes: settings.into(),
        gateway: match gateway {
            Some(read) => Some(read?),
            None => None,
        },
        auth,
        control: control.flatten(),
        fleet: fleet.flatten().map(Arc::new),
        metrics: metrics.flatten(),
        log,
        geo,
        kernel: kernel.into(),
        blacklist_capacity: capacity,
        days: days.into(),
        slots: slots.into(),
        warnings: Vec::new(),
    })
}

fn log(section: Option<Section<'_>>) -> Log {
    let mut log = Log { format: LogFormat::Text, level: LogLevel::Info };
    let Some(mut section) = section else { return log };
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    log.format = section.word("format", &formats).unwrap_or(log.format);
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    log.level = section.word("level", &levels).unwrap_or(log.level);
    section.finish();
    log
}
