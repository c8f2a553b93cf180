//! The fleet: what is in force on all hosts, in a bucket of a NATS server (JetStream, key-value).
//!
//! ```text
//! edgegate fleet push ──▶ bucket ──▶ watch, in the order of revisions ──▶ state::Writer ──▶ in force
//!                                      ▲ from the revision in the store        │
//!                         hosts' bucket ◀── what is in force here ─────────────┘
//! ```
//!
//! Each value says what all of a thing is, not what changes of it: it can come twice, and the last one is enough. While the
//! server is away, what is in the store stays in force.

pub(crate) mod args;
mod bucket;
mod follow;
mod keys;
mod push;

use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::snapshot::Live;
use crate::state::Writer;
use async_nats::Client;
use bucket::{Bucket, Hosts};
use keys::HostReport;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a question to other hosts' reports may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The fleet as this host sees it.
pub(crate) struct Fleet {
    settings: Arc<config::Fleet>,
    host: String,
    state: Mutex<State>,
    metrics: Metrics,
}

/// How it stands with the bucket.
#[derive(Default)]
struct State {
    link: Link,
    /// Why it is not as it should be.
    why: Option<String>,
    /// What could not be applied, by key, and why not.
    refused: BTreeMap<String, String>,
    /// The revision that is in force here.
    applied: u64,
    /// The last one that is known.
    last: u64,
    client: Option<Client>,
}

impl State {
    /// What could not be applied, on one line.
    fn refused(&self) -> Option<String> {
        let mut told = self.refused.values();
        let first = told.next()?.clone();
        let more = told.count();
        Some(if more == 0 { first } else { format!("{first} (and {more} more)") })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Link {
    #[default]
    Starting,
    Connected,
    Away,
}

/// What it works on.
pub(crate) struct World {
    pub(crate) writer: Arc<Writer>,
    pub(crate) live: Live,
    pub(crate) clock: Clock,
    pub(crate) down: watch::Receiver<bool>,
}

impl Fleet {
    /// The fleet of a configuration.
    #[must_use]
    pub(crate) fn new(settings: Arc<config::Fleet>, metrics: Metrics) -> Arc<Self> {
        let host = settings.host.clone().unwrap_or_else(machine);
        metrics.show_fleet();
        Arc::new(Self { settings, host, state: Mutex::default(), metrics })
    }

    /// Follows the bucket until the agent stops.
    pub(crate) async fn follow(self: Arc<Self>, world: World) {
        follow::follow(self, world).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands, as the control API tells it.
    #[must_use]
    pub(crate) fn status(&self) -> Json {
        let state = self.state();
        json!({
            "state": match state.link {
                Link::Starting => "starting",
                Link::Connected => "connected",
                Link::Away => "away",
            },
            "server": self.settings.nats.join(", "),
            "bucket": self.settings.bucket,
            "prefix": self.settings.prefix,
            "host": self.host,
            "applied_revision": state.applied,
            "lag": state.last.saturating_sub(state.applied),
            "why": state.why.clone().or_else(|| state.refused()),
        })
    }

    /// Likewise, with what all hosts report. Without the server, no host is known.
    pub(crate) async fn overview(&self) -> Json {
        let (client, known) = {
            let state = self.state();
            (state.client.clone().filter(|_| state.link == Link::Connected), state.last.max(state.applied))
        };
        let asked = match client {
            Some(client) => tokio::time::timeout(PATIENCE, ask(&client, &self.settings)).await.ok(),
            None => None,
        };
        let (last, hosts) = match asked {
            Some(Ok(told)) => told,
            Some(Err(error)) => {
                tracing::warn!("fleet: the hosts' reports cannot be read: {error}");
                (known, Vec::new())
            }
            None => (known, Vec::new()),
        };
        json!({ "fleet": self.status(), "revision": last, "hosts": hosts_json(&hosts, last) })
    }
}

/// The last revision, and what each host reports.
async fn ask(
    client: &Client,
    settings: &config::Fleet,
) -> Result<(u64, Vec<(String, HostReport)>), bucket::BucketError> {
    let bucket = Bucket::open(client, settings, false).await?;
    let last = bucket.last_revision().await?;
    let hosts = match Hosts::open(client, settings, false).await {
        Ok(hosts) => hosts.all().await?,
        Err(bucket::BucketError::NoBucket(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok((last, hosts))
}

fn hosts_json(hosts: &[(String, HostReport)], last: u64) -> Vec<Json> {
    let host = |(name, report): &(String, HostReport)| {
        json!({
            "host": name,
            "applied_revision": report.applied_revision,
            "lag": last.saturating_sub(report.applied_revision),
            "seen": report.seen,
            "version": report.version,
            "agent": report.agent,
            "refused": report.refused,
        })
    };
    hosts.iter().map(host).collect()
}

/// The machine's name, as far as it can stand in a key.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String =
        name.trim().chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    if config::host_name(&name).is_ok() { name } else { "unnamed".to_owned() }
}
