//! `edgegate fleet`: changes the bucket, and shows what the hosts have of it.

use super::bucket::{Bucket, BucketError, Hosts, connect};
use super::keys;
use super::{ask, hosts_json};
use crate::clock::Clock;
use crate::config::{self, Fleet, FleetLogin, Layer};
use crate::control::upload::{self, Form, Item, Stop};
use crate::state::List;
use anyhow::{Context as _, bail};
use async_nats::{Client, Event};
use clap::{Args, Subcommand};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use validator_core::Day;
use validator_core::net::parse_net;
use zeroize::Zeroizing;

/// Longest file with a key, in bytes.
const LONGEST_KEY: u64 = 64 * 1024;

#[derive(Subcommand)]
pub(crate) enum FleetCommand {
    /// Change what is in force on all hosts.
    Push {
        #[command(flatten)]
        at: At,
        #[command(subcommand)]
        what: What,
    },
    /// Show which revision each host has in force. Exits 0 if all have the last one, 1 if not, 2 on an error.
    Status {
        #[command(flatten)]
        at: At,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Where the bucket is.
#[derive(Args)]
pub(crate) struct At {
    /// An agent's configuration, whose [fleet] says where the bucket is.
    #[arg(long, required_unless_present = "nats", conflicts_with = "nats")]
    config: Option<PathBuf>,
    /// A server, as in nats://nats.example:4222; may be repeated.
    #[arg(long, value_name = "URL")]
    nats: Vec<String>,
    /// The key-value bucket.
    #[arg(long, default_value = config::DEFAULT_NAME)]
    bucket: String,
    /// The first tokens of its keys.
    #[arg(long, default_value = config::DEFAULT_NAME)]
    prefix: String,
    /// A file of credentials, as nsc writes it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["user", "token_file"])]
    credentials: Option<PathBuf>,
    /// A user name.
    #[arg(long, requires = "password_file", conflicts_with = "token_file")]
    user: Option<String>,
    /// A file with the user's password in its first line.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// A file with a token in its first line.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Authorities of the server's certificate, besides those of the system.
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// This side's certificate.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Refuse a server without TLS.
    #[arg(long)]
    tls_required: bool,
}

#[derive(Subcommand)]
pub(crate) enum What {
    /// Lay a configuration over every host's file, in place of the one that is there.
    Config {
        /// TOML: only what differs from the files.
        #[arg(required_unless_present = "remove", conflicts_with = "remove")]
        file: Option<PathBuf>,
        /// Remove it instead.
        #[arg(long)]
        remove: bool,
    },
    /// Change day lists of sessions.
    Blacklist {
        #[command(subcommand)]
        change: BlacklistChange,
    },
    /// Change the networks that are refused.
    Deny {
        #[command(subcommand)]
        change: NetChange,
    },
    /// Change the networks that are exempt.
    Allow {
        #[command(subcommand)]
        change: NetChange,
    },
    /// Change secrets, for hosts whose [fleet] has `secrets = true`.
    Secret {
        #[command(subcommand)]
        change: SecretChange,
    },
}

#[derive(Subcommand)]
pub(crate) enum BlacklistChange {
    /// Add sessions.
    Add(Sessions),
    /// Remove sessions.
    Remove(Sessions),
    /// Add the sessions of a file: `20251228 : "a,b"`, or plain names separated by comma or line.
    Import {
        /// The file; - is the standard input.
        file: PathBuf,
        /// The day of what has none of its own, as YYYYMMDD; today (UTC) without it.
        #[arg(long, value_parser = day)]
        day: Option<Day>,
    },
    /// Remove the lists of days that have ended everywhere.
    Forget {
        /// The first day that stays, as YYYYMMDD.
        #[arg(long, value_parser = day)]
        before: Day,
    },
}

#[derive(Args)]
pub(crate) struct Sessions {
    /// Session ids.
    #[arg(required = true)]
    sid: Vec<String>,
    /// The day, as YYYYMMDD; today (UTC) without it.
    #[arg(long, value_parser = day)]
    day: Option<Day>,
}

#[derive(Subcommand)]
pub(crate) enum NetChange {
    /// Add networks.
    Add {
        /// Addresses or networks.
        #[arg(required = true, value_parser = net)]
        cidr: Vec<ipnet::IpNet>,
    },
    /// Remove networks.
    Remove {
        /// Addresses or networks.
        #[arg(required = true, value_parser = net)]
        cidr: Vec<ipnet::IpNet>,
    },
}

#[derive(Subcommand)]
pub(crate) enum SecretChange {
    /// Set a slot.
    Put {
        /// Name of the secret.
        kid: String,
        /// Number of the slot.
        #[arg(long)]
        slot: u64,
        /// A file with the key, in base64url.
        #[arg(long, value_name = "FILE")]
        key_file: PathBuf,
        /// When the slot ends, in unix seconds.
        #[arg(long, value_name = "UNIX")]
        until: Option<u64>,
        /// Accept a key that has not 32 bytes.
        #[arg(long)]
        allow_key_size: bool,
    },
    /// Remove a slot.
    Delete {
        /// Name of the secret.
        kid: String,
        /// Number of the slot.
        #[arg(long)]
        slot: u64,
    },
}

fn day(text: &str) -> Result<Day, String> {
    if text == "today" {
        return Ok(Day::of(Clock::System.now()));
    }
    Day::from_name(text).ok_or_else(|| "no day of the calendar; write YYYYMMDD".to_owned())
}

fn net(text: &str) -> Result<ipnet::IpNet, String> {
    parse_net(text).ok_or_else(|| "no address or network such as 203.0.113.0/24 or 2001:db8::/32".to_owned())
}

/// Does it. Gives whether all is as it should be.
pub(crate) async fn run(command: FleetCommand) -> anyhow::Result<bool> {
    match command {
        FleetCommand::Push { at, what } => {
            let settings = at.settings()?;
            if let (What::Config { file: Some(file), .. }, Some(base)) = (&what, &at.config) {
                check_over(base, file)?;
            }
            let client = at_once(&settings).await?;
            let bucket = Bucket::open(&client, &settings, true).await?;
            // Hosts may have no right to make it.
            Hosts::open(&client, &settings, true).await?;
            let revision = push(&bucket, what).await?;
            println!("revision {revision}");
            Ok(true)
        }
        FleetCommand::Status { at, json } => {
            let settings = at.settings()?;
            let client = at_once(&settings).await?;
            let (last, hosts) = ask(&client, &settings).await?;
            let all =
                hosts.iter().all(|(_, report)| report.applied_revision >= last && report.refused.is_none());
            if json {
                println!("{:#}", json!({ "revision": last, "hosts": hosts_json(&hosts, last) }));
                return Ok(all);
            }
            println!("revision {last}, {} hosts", hosts.len());
            let now = Clock::System.now();
            for (name, report) in &hosts {
                let lag = last.saturating_sub(report.applied_revision);
                let ago = now.saturating_sub(report.seen);
                let refused =
                    report.refused.as_ref().map(|why| format!("  refused: {why}")).unwrap_or_default();
                println!(
                    "{name}  revision {}  lag {lag}  seen {ago} s ago{refused}",
                    report.applied_revision
                );
            }
            Ok(all)
        }
    }
}

async fn push(bucket: &Bucket, what: What) -> anyhow::Result<u64> {
    let today = || Day::of(Clock::System.now());
    let revision = match what {
        What::Config { file: None, .. } => bucket.set_config(None).await?,
        What::Config { file: Some(file), .. } => {
            let text = config::read_text(&file)?;
            // Whether it makes sense depends on what it lies over; that it is TOML does not.
            config::shown(&[Layer { name: &file, text: &text }])?;
            bucket.set_config(Some(&text)).await?
        }
        What::Blacklist { change } => match change {
            BlacklistChange::Add(Sessions { sid, day }) => {
                bucket.change_sessions(&of_day(sid, day.unwrap_or_else(today)), false).await?
            }
            BlacklistChange::Remove(Sessions { sid, day }) => {
                bucket.change_sessions(&of_day(sid, day.unwrap_or_else(today)), true).await?
            }
            BlacklistChange::Import { file, day } => {
                bucket.change_sessions(&import(&file, day.unwrap_or_else(today))?, false).await?
            }
            BlacklistChange::Forget { before } => {
                let (parts, revision) = bucket.forget_before(before).await?;
                println!("{parts} parts removed");
                revision
            }
        },
        What::Deny { change } => nets(bucket, List::Deny, change).await?,
        What::Allow { change } => nets(bucket, List::Allow, change).await?,
        What::Secret { change: SecretChange::Delete { kid, slot } } => {
            bucket.set_secret(&kid, slot, None).await?
        }
        What::Secret { change: SecretChange::Put { kid, slot, key_file, until, allow_key_size } } => {
            let mut text = Zeroizing::new(String::new());
            let file =
                File::open(&key_file).with_context(|| format!("cannot read {}", key_file.display()))?;
            file.take(LONGEST_KEY).read_to_string(&mut text)?;
            let key = text.trim();
            config::read_key(key, allow_key_size).map_err(anyhow::Error::msg)?;
            let value = Zeroizing::new(serde_json::to_vec(&keys::Secret { key, until, allow_key_size })?);
            bucket.set_secret(&kid, slot, Some(&value)).await?
        }
    };
    Ok(revision)
}

async fn nets(bucket: &Bucket, list: List, change: NetChange) -> Result<u64, BucketError> {
    let (nets, remove) = match change {
        NetChange::Add { cidr } => (cidr, false),
        NetChange::Remove { cidr } => (cidr, true),
    };
    bucket.change_list(list, &nets, remove).await
}

fn of_day(sids: Vec<String>, day: Day) -> Vec<(Day, String)> {
    sids.into_iter().map(|sid| (day, sid)).collect()
}

fn import(file: &Path, day: Day) -> anyhow::Result<Vec<(Day, String)>> {
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
    };
    let (mut found, mut refused) = (Vec::new(), None);
    let read = upload::read(Form::Text, BufReader::new(reader), day, &mut |item| match item {
        Item::Session { day, sid, .. } => {
            found.push((day, sid.to_owned()));
            Ok(())
        }
        Item::Refused { line, why, .. } => {
            refused = Some((line, why));
            Err(Stop)
        }
    });
    if let Some((line, why)) = refused {
        bail!("{}:{line}: {why}; nothing was pushed", file.display());
    }
    read.map_err(anyhow::Error::msg)?;
    Ok(found)
}

/// Whether a configuration makes sense over the one of an agent.
fn check_over(base: &Path, file: &Path) -> anyhow::Result<()> {
    let (below, above) = (config::read_text(base)?, config::read_text(file)?);
    let layers = [Layer { name: base, text: &below }, Layer { name: file, text: &above }];
    config::parse_layers(&layers, Clock::System.now())?;
    Ok(())
}

async fn at_once(settings: &Fleet) -> Result<Client, BucketError> {
    connect(settings, "fleet", None::<fn(Event)>).await
}

impl At {
    fn settings(&self) -> anyhow::Result<Fleet> {
        if let Some(path) = &self.config {
            let config = config::load(path, Clock::System.now())?;
            let fleet = config.fleet.with_context(|| format!("{} has no [fleet]", path.display()))?;
            return Ok((*fleet).clone());
        }
        for url in &self.nats {
            config::check_server(url).map_err(anyhow::Error::msg).context("--nats")?;
        }
        config::bucket_name(&self.bucket).map_err(anyhow::Error::msg).context("--bucket")?;
        config::key_prefix(&self.prefix).map_err(anyhow::Error::msg).context("--prefix")?;
        let login = match (&self.credentials, &self.user, &self.password_file, &self.token_file) {
            (Some(path), ..) => FleetLogin::Credentials(path.clone()),
            (None, Some(user), Some(file), _) => {
                FleetLogin::Password { user: user.clone(), file: file.clone() }
            }
            (.., Some(path)) => FleetLogin::Token(path.clone()),
            _ => FleetLogin::None,
        };
        Ok(Fleet {
            nats: self.nats.clone(),
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            host: None,
            login,
            tls_ca: self.tls_ca.clone(),
            tls_identity: self.tls_cert.clone().zip(self.tls_key.clone()),
            tls_required: self.tls_required,
            secrets: false,
        })
    }
}
