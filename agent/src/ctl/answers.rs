//! The agent's answers, as far as they are shown to people. Members that are not known here are no error: a later agent
//! may tell more.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;

#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) version: u64,
    pub(super) agent: String,
    pub(super) pid: u32,
    pub(super) uptime_seconds: u64,
    pub(super) config: ConfigStatus,
    pub(super) listeners: Listeners,
    pub(super) blacklist: BlacklistStatus,
    pub(super) lists: ListsStatus,
    pub(super) secrets: SecretsStatus,
    pub(super) kernel: Kernel,
    pub(super) store: Store,
    pub(super) fleet: Option<Fleet>,
}

#[derive(Deserialize)]
pub(super) struct ConfigStatus {
    pub(super) file: String,
    pub(super) pushed: bool,
    pub(super) fleet: bool,
    pub(super) routes: u64,
    pub(super) warnings: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Listeners {
    pub(super) gateway: Vec<String>,
    pub(super) auth: Vec<String>,
    pub(super) metrics: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct BlacklistStatus {
    pub(super) sessions: u64,
    pub(super) capacity: u64,
    pub(super) days: u64,
    pub(super) retain_days: u64,
}

#[derive(Deserialize)]
pub(super) struct ListsStatus {
    pub(super) deny: u64,
    pub(super) allow: u64,
}

#[derive(Deserialize)]
pub(super) struct SecretsStatus {
    pub(super) kids: u64,
    pub(super) slots: u64,
}

#[derive(Deserialize)]
pub(super) struct Kernel {
    pub(super) state: String,
    pub(super) why: Option<String>,
    pub(super) interfaces: Vec<String>,
    pub(super) monitor: bool,
}

#[derive(Deserialize)]
pub(super) struct Store {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) writable: bool,
}

#[derive(Deserialize)]
pub(super) struct Fleet {
    pub(super) state: String,
    pub(super) server: String,
    pub(super) bucket: String,
    pub(super) host: String,
    pub(super) applied_revision: u64,
    pub(super) lag: u64,
    pub(super) why: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct FleetStatus {
    pub(super) fleet: Option<Fleet>,
    #[serde(default)]
    pub(super) hosts: Vec<Host>,
    pub(super) revision: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Host {
    pub(super) host: String,
    pub(super) applied_revision: u64,
    pub(super) lag: u64,
    pub(super) seen: u64,
    pub(super) version: u64,
}

#[derive(Deserialize)]
pub(super) struct Config {
    pub(super) version: u64,
    pub(super) file: String,
    pub(super) pushed: Option<String>,
    pub(super) fleet: Option<String>,
    pub(super) values: Vec<Setting>,
}

#[derive(Deserialize)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) toml: String,
    pub(super) origin: String,
}

#[derive(Deserialize)]
pub(super) struct ConfigChange {
    pub(super) version: u64,
    #[serde(default)]
    pub(super) warnings: Vec<String>,
    pub(super) changed: bool,
}

#[derive(Deserialize)]
pub(super) struct Days {
    pub(super) sessions: u64,
    pub(super) capacity: u64,
    pub(super) retain_days: u64,
    pub(super) days: Vec<Day>,
}

#[derive(Deserialize)]
pub(super) struct Day {
    pub(super) day: String,
    pub(super) sessions: u64,
    pub(super) file: u64,
    pub(super) pushed: u64,
    pub(super) fleet: u64,
    pub(super) last_day: String,
}

/// A line of a day's list.
#[derive(Deserialize)]
pub(super) struct Entry {
    pub(super) sid: String,
}

#[derive(Deserialize)]
pub(super) struct Secrets {
    pub(super) secrets: Vec<Secret>,
}

#[derive(Deserialize)]
pub(super) struct Secret {
    pub(super) kid: String,
    pub(super) slot: u64,
    pub(super) until: Option<u64>,
    pub(super) bytes: u64,
    pub(super) origin: String,
}

#[derive(Deserialize)]
pub(super) struct SecretStored {
    pub(super) version: u64,
    pub(super) replaced: bool,
}

#[derive(Deserialize)]
pub(super) struct Prefilter {
    pub(super) deny: Vec<Network>,
    pub(super) allow: Vec<Network>,
    pub(super) kernel: Kernel,
}

#[derive(Deserialize)]
pub(super) struct Network {
    pub(super) cidr: String,
    pub(super) origin: String,
}

/// What a change to a list has done; each answer has those members that it can have.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub(super) version: u64,
    pub(super) added: Option<u64>,
    pub(super) present: Option<u64>,
    pub(super) removed: Option<u64>,
    pub(super) absent: Option<u64>,
    pub(super) refused: Option<u64>,
    pub(super) refusals: Vec<RefusedValue>,
}

impl fmt::Display for Counts {
    /// As in `added 2, already there 1 (version 12)`, without what was 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("added", self.added),
            ("already there", self.present),
            ("removed", self.removed),
            ("not there", self.absent),
            ("refused", self.refused),
        ];
        let mut parts =
            counts.into_iter().filter_map(|(what, count)| Some((what, count.filter(|n| *n > 0)?)));
        match parts.next() {
            Some((what, count)) => write!(f, "{what} {count}")?,
            None => f.write_str("nothing to do")?,
        }
        for (what, count) in parts {
            write!(f, ", {what} {count}")?;
        }
        write!(f, " (version {})", self.version)
    }
}

/// An entry of a body that was not taken.
#[derive(Debug, Deserialize)]
pub(super) struct RefusedValue {
    pub(super) line: Option<u64>,
    #[serde(default)]
    pub(super) value: String,
    pub(super) why: String,
}

impl fmt::Display for RefusedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{:?}: {}", self.value, self.why)
    }
}

/// An answer of 4xx or 5xx.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    /// The body as it came.
    pub(super) body: Vec<u8>,
    told: Told,
    /// What stands for `pushed` in problems: the file that the overlay was read from.
    pub(super) overlay: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Told {
    message: Option<String>,
    problems: Vec<Problem>,
    #[serde(flatten)]
    counts: Counts,
}

#[derive(Debug, Deserialize)]
struct Problem {
    file: String,
    line: Option<u64>,
    column: Option<u64>,
    #[serde(default)]
    key: String,
    text: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, body: &[u8]) -> Self {
        // Whatever answers on the socket may be something else: then the status has to do.
        let told = serde_json::from_slice(body).unwrap_or_default();
        Self { status, body: body.to_owned(), told, overlay: None }
    }
}

impl fmt::Display for Refusal {
    /// The message; then a line for each problem or refused value, and what was done all the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { message, problems, counts } = &self.told;
        match message {
            Some(message) => f.write_str(message)?,
            None if counts.refused.is_some() => f.write_str("the agent took none of it")?,
            None => write!(f, "the agent answered {} and did not say why", self.status)?,
        }
        for Problem { file, line, column, key, text } in problems {
            let file = self.overlay.as_ref().filter(|_| file == PUSHED).unwrap_or(file);
            write!(f, "\n{file}")?;
            for number in [line, column].into_iter().map_while(|number| *number) {
                write!(f, ":{number}")?;
            }
            if !key.is_empty() {
                write!(f, ": {key}")?;
            }
            write!(f, ": {text}")?;
        }
        for refused in &counts.refusals {
            write!(f, "\n{refused}")?;
        }
        let done = [counts.added, counts.removed].into_iter().flatten().any(|count| count > 0);
        if done { write!(f, "\nbefore that: {counts}") } else { Ok(()) }
    }
}

/// How a problem names an overlay.
const PUSHED: &str = "pushed";

/// An event: whatever members it has beside these two.
#[derive(Deserialize)]
pub(super) struct Event {
    pub(super) at: f64,
    pub(super) kind: String,
    #[serde(flatten)]
    pub(super) more: serde_json::Map<String, Value>,
}
