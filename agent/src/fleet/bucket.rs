//! The bucket on its servers: a connection, and the two buckets behind it.
//!
//! What hosts report lies in a bucket of its own, `BUCKET-hosts`, where it ends after some days. So the revisions of the
//! first one count nothing but what has to be in force.

use super::keys::{HostReport, Key};
use crate::config::{Fleet, FleetLogin};
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::{Ordered, OrderedConfig};
use async_nats::jetstream::context::KeyValueErrorKind;
use async_nats::jetstream::kv::{self, Operation, Store};
use async_nats::jetstream::stream::{DiscardPolicy, LastRawMessageErrorKind};
use async_nats::jetstream::{self, Context, ErrorCode};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio_stream::StreamExt as _;
use zeroize::Zeroizing;

/// How long what a host has reported is kept.
const REPORTS_LAST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A connection on which nothing comes back for three of these is dead.
const PING: Duration = Duration::from_secs(3);

/// Longest wait between two attempts to connect.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// For an answer of the server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the bucket cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BucketError {
    /// A file that the login or TLS needs.
    #[error("{path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// There is no server, or it does not let this side in.
    #[error("{0}")]
    Connect(String),
    /// There is no bucket.
    #[error("there is no bucket {0}; `edgegate fleet push` makes it")]
    NoBucket(String),
    /// The server said no, or nothing in time.
    #[error("{0}")]
    Server(String),
    /// Something else came before, again and again.
    #[error("others change {0} all the time; try again")]
    Contended(String),
    /// It would not fit.
    #[error("{key} would have {bytes} bytes, more than the server's max_payload of {most}")]
    TooLarge {
        /// Of which key.
        key: String,
        /// How many.
        bytes: usize,
        /// How many are allowed.
        most: usize,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl BucketError {
    pub(super) fn server(error: impl std::error::Error) -> Self {
        // The outer text seldom says more than what was attempted.
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            let inner = source.to_string();
            if !text.contains(&inner) {
                text = format!("{text}: {inner}");
            }
        }
        Self::Server(text)
    }
}

/// Connects. With `tell` it connects again and again, for ever, and tells of every event; without, it tries each server once.
pub(super) async fn connect(
    settings: &Fleet,
    name: &str,
    tell: Option<impl Fn(Event) + Send + Sync + 'static>,
) -> Result<Client, BucketError> {
    let mut options = ConnectOptions::new()
        .name(format!("edgegate {name}"))
        .ping_interval(PING)
        .connection_timeout(PATIENCE)
        .request_timeout(Some(PATIENCE))
        .reconnect_delay_callback(|attempts| {
            let delay = Duration::from_millis(50).saturating_mul(1 << attempts.min(10));
            delay.min(LONGEST_DELAY)
        })
        .require_tls(settings.tls_required);
    match &settings.login {
        FleetLogin::None => {}
        FleetLogin::Credentials(path) => {
            let text = read(path)?;
            options = options.credentials(&text).map_err(|error| file(path, error))?;
        }
        FleetLogin::Password { user, file } => {
            options = options.user_and_password(user.clone(), first_line(file)?);
        }
        FleetLogin::Token(path) => options = options.token(first_line(path)?),
    }
    if let Some(path) = &settings.tls_ca {
        options = options.add_root_certificates(path.clone());
    }
    if let Some((cert, key)) = &settings.tls_identity {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    options = match tell {
        Some(tell) => options.retry_on_initial_connect().event_callback(move |event| {
            tell(event);
            std::future::ready(())
        }),
        None => options.max_reconnects(3),
    };
    let servers = settings.nats.iter().map(|url| url.parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
    let servers = servers.map_err(|error| BucketError::Connect(error.to_string()))?;
    options.connect(servers).await.map_err(|error| {
        let BucketError::Server(text) = BucketError::server(error) else {
            return BucketError::Connect("unknown".to_owned());
        };
        BucketError::Connect(format!("{}: {text}", settings.nats.join(", ")))
    })
}

fn read(path: &Path) -> Result<Zeroizing<String>, BucketError> {
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(|error| file(path, error))
}

fn first_line(path: &Path) -> Result<String, BucketError> {
    Ok(read(path)?.lines().next().unwrap_or_default().to_owned())
}

fn file(path: &Path, error: std::io::Error) -> BucketError {
    BucketError::File { path: path.display().to_string(), error }
}

/// The bucket of what has to be in force.
pub(super) struct Bucket {
    pub(super) store: Store,
    pub(super) client: Client,
    prefix: String,
    name: String,
}

/// What a bucket is at the moment.
pub(super) struct Facts {
    /// Which bucket it is: another one of the same name is not the same.
    pub(super) identity: String,
    /// The last revision, of whatever key.
    pub(super) last: u64,
    /// How many keys it has.
    pub(super) values: u64,
}

/// A value that comes from the bucket.
pub(super) struct Entry {
    pub(super) key: Option<Key>,
    /// `None`: it was deleted.
    pub(super) value: Option<Bytes>,
    pub(super) revision: u64,
    /// How many more wait.
    pub(super) pending: u64,
}

/// Values as they come.
pub(super) struct Watch {
    /// How many there were at the start.
    pub(super) pending: u64,
    messages: Ordered,
    skip: usize,
}

impl Bucket {
    /// Opens it; with `make`, makes it where there is none.
    pub(super) async fn open(client: &Client, settings: &Fleet, make: bool) -> Result<Self, BucketError> {
        let context = context(client);
        let config = kv::Config {
            bucket: settings.bucket.clone(),
            description: "edgegate: what is in force on the fleet".to_owned(),
            history: 1,
            ..kv::Config::default()
        };
        let store = open(&context, config, make).await?;
        Ok(Self {
            store,
            client: client.clone(),
            prefix: settings.prefix.clone(),
            name: settings.bucket.clone(),
        })
    }

    /// What the server calls a key.
    pub(super) fn name_of(&self, key: &Key) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn filter(&self) -> String {
        format!("{}{}.>", self.store.prefix, self.prefix)
    }

    /// Asks the server.
    pub(super) async fn facts(&self) -> Result<Facts, BucketError> {
        let info = self.store.stream.get_info().await.map_err(BucketError::server)?;
        Ok(Facts {
            identity: format!("{}/{}@{}", self.name, self.prefix, info.created.unix_timestamp_nanos()),
            last: info.state.last_sequence,
            values: info.state.messages,
        })
    }

    /// The last revision of our keys.
    pub(super) async fn last_revision(&self) -> Result<u64, BucketError> {
        match self.store.stream.get_last_raw_message_by_subject(&self.filter()).await {
            Ok(message) => Ok(message.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(BucketError::server(error)),
        }
    }

    /// The keys that it has, deleted ones too.
    pub(super) async fn keys(&self) -> Result<BTreeSet<Key>, BucketError> {
        let mut subjects =
            self.store.stream.info_with_subjects(self.filter()).await.map_err(BucketError::server)?;
        let skip = self.store.prefix.len() + self.prefix.len() + 1;
        let mut keys = BTreeSet::new();
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject.map_err(BucketError::server)?;
            keys.extend(subject.get(skip..).and_then(Key::parse));
        }
        Ok(keys)
    }

    /// Values from a revision on, in the order of revisions; `None`: the last one of each key.
    pub(super) async fn watch(&self, from: Option<u64>) -> Result<Watch, BucketError> {
        let deliver = match from {
            Some(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            None => DeliverPolicy::LastPerSubject,
        };
        let skip = self.store.prefix.len() + self.prefix.len() + 1;
        watch(&self.store, &self.client, self.filter(), deliver, skip).await
    }
}

impl Watch {
    /// The next value; `None` when the server has ended it.
    pub(super) async fn next(&mut self) -> Result<Option<Entry>, BucketError> {
        let Some((key, entry)) = self.next_raw().await? else { return Ok(None) };
        Ok(Some(Entry { key: Key::parse(&key), ..entry }))
    }

    async fn next_raw(&mut self) -> Result<Option<(String, Entry)>, BucketError> {
        let Some(message) = self.messages.next().await else { return Ok(None) };
        let message = message.map_err(BucketError::server)?;
        let info = message.info().map_err(|error| BucketError::Server(error.to_string()))?;
        let key = message.subject.get(self.skip..).unwrap_or_default().to_owned();
        let gone = message.headers.as_ref().and_then(|headers| headers.get("KV-Operation"));
        let gone = gone.and_then(|word| word.as_str().parse::<Operation>().ok());
        let gone = gone.is_some_and(|operation| operation != Operation::Put);
        let (revision, pending) = (info.stream_sequence, info.pending);
        let value = (!gone).then(|| message.payload.clone());
        Ok(Some((key, Entry { key: None, value, revision, pending })))
    }
}

/// What hosts report.
pub(super) struct Hosts {
    store: Store,
    client: Client,
    prefix: String,
}

impl Hosts {
    /// Opens the bucket, or makes it.
    pub(super) async fn open(client: &Client, settings: &Fleet, make: bool) -> Result<Self, BucketError> {
        let config = kv::Config {
            bucket: format!("{}-hosts", settings.bucket),
            description: "edgegate: what the hosts of the fleet have in force".to_owned(),
            history: 1,
            max_age: REPORTS_LAST,
            ..kv::Config::default()
        };
        let store = open(&context(client), config, make).await?;
        Ok(Self { store, client: client.clone(), prefix: settings.prefix.clone() })
    }

    /// Reports.
    pub(super) async fn report(&self, host: &str, report: &HostReport) -> Result<(), BucketError> {
        let value = serde_json::to_vec(report).unwrap_or_default();
        let key = format!("{}.host.{host}", self.prefix);
        self.store.put(key, value.into()).await.map(drop).map_err(BucketError::server)
    }

    /// What each host said last, by name.
    pub(super) async fn all(&self) -> Result<Vec<(String, HostReport)>, BucketError> {
        let filter = format!("{}{}.host.>", self.store.prefix, self.prefix);
        let skip = filter.len() - 1;
        let mut watch = watch(&self.store, &self.client, filter, DeliverPolicy::LastPerSubject, skip).await?;
        let mut found = Vec::new();
        let mut left = watch.pending;
        while left > 0 {
            let Some((host, entry)) = watch.next_raw().await? else { break };
            left = entry.pending;
            let report = entry.value.and_then(|value| serde_json::from_slice(&value).ok());
            found.extend(report.map(|report| (host, report)));
        }
        found.sort_by(|(a, _): &(String, HostReport), (b, _)| a.cmp(b));
        // A host may have reported twice meanwhile; its last word counts.
        let mut last: Vec<(String, HostReport)> = Vec::with_capacity(found.len());
        for (host, report) in found {
            match last.last_mut() {
                Some((known, older)) if *known == host => *older = report,
                _ => last.push((host, report)),
            }
        }
        Ok(last)
    }
}

fn context(client: &Client) -> Context {
    let mut context = jetstream::new(client.clone());
    context.set_timeout(PATIENCE);
    context
}

async fn open(context: &Context, config: kv::Config, make: bool) -> Result<Store, BucketError> {
    let name = config.bucket.clone();
    let error = match context.get_key_value(&name).await {
        Ok(store) => return Ok(store),
        Err(error) => error,
    };
    if error.kind() != KeyValueErrorKind::GetBucket || !is_missing(&error) {
        return Err(BucketError::server(error));
    }
    if !make {
        return Err(BucketError::NoBucket(name));
    }
    // Another one who makes it at the same time makes the same. The library's own way asks for the account first, in a form
    // that servers before 2.11 do not know.
    let stream = jetstream::stream::Config {
        name: format!("KV_{name}"),
        description: Some(config.description),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: config.history,
        max_age: config.max_age,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        discard: DiscardPolicy::New,
        num_replicas: 1,
        ..jetstream::stream::Config::default()
    };
    context.create_stream(stream).await.map_err(BucketError::server)?;
    context.get_key_value(&name).await.map_err(BucketError::server)
}

fn is_missing(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(said) = this.downcast_ref::<jetstream::Error>() {
            return said.error_code() == ErrorCode::STREAM_NOT_FOUND;
        }
        if let Some(said) = this.downcast_ref::<jetstream::context::GetStreamError>()
            && let jetstream::context::GetStreamErrorKind::JetStream(said) = said.kind()
        {
            return said.error_code() == ErrorCode::STREAM_NOT_FOUND;
        }
        error = this.source();
    }
    false
}

async fn watch(
    store: &Store,
    client: &Client,
    filter_subject: String,
    deliver_policy: DeliverPolicy,
    skip: usize,
) -> Result<Watch, BucketError> {
    let config = OrderedConfig {
        deliver_subject: client.new_inbox(),
        filter_subject,
        deliver_policy,
        ..OrderedConfig::default()
    };
    let consumer = store.stream.create_consumer(config).await.map_err(BucketError::server)?;
    let pending = consumer.cached_info().num_pending;
    let messages = consumer.messages().await.map_err(BucketError::server)?;
    Ok(Watch { pending, messages, skip })
}
