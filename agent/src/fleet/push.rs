//! Changes the bucket. Each value is read, changed, and written only if nobody has changed it meanwhile, else all over again:
//! of two who push at the same time, none loses anything.

use super::bucket::{Bucket, BucketError};
use super::keys::{Key, from_lines, lines, part_of};
use crate::state::{List, check_sid};
use async_nats::jetstream::kv::{Operation, UpdateErrorKind};
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use validator_core::Day;

/// How often a value that others change is tried.
const ATTEMPTS: u32 = 200;

/// Room for the head of a message within the server's `max_payload`.
const HEAD: usize = 1024;

/// What a value is to become.
pub(super) enum Edit {
    /// It is good as it is.
    Keep,
    /// This.
    Set(Vec<u8>),
    /// Nothing.
    Delete,
}

impl Bucket {
    /// Changes a value. Gives its revision since.
    ///
    /// # Errors
    /// [`BucketError`]; it is unchanged then, unless the server's answer was lost.
    pub(super) async fn edit(
        &self,
        key: &Key,
        mut edit: impl FnMut(Option<&[u8]>) -> Result<Edit, BucketError>,
    ) -> Result<u64, BucketError> {
        let name = self.name_of(key);
        for attempt in 0..ATTEMPTS {
            let entry = self.store.entry(&name).await.map_err(BucketError::server)?;
            let revision = entry.as_ref().map_or(0, |entry| entry.revision);
            let old = entry.filter(|entry| entry.operation == Operation::Put).map(|entry| entry.value);
            let done = match edit(old.as_deref())? {
                Edit::Keep => return Ok(revision),
                Edit::Delete if old.is_none() => return Ok(revision),
                Edit::Set(value) => {
                    let most = self.client.max_payload().saturating_sub(HEAD);
                    if value.len() > most {
                        return Err(BucketError::TooLarge { key: name, bytes: value.len(), most });
                    }
                    self.store.update(&name, Bytes::from(value), revision).await
                }
                Edit::Delete => match self.store.delete_expect_revision(&name, Some(revision)).await {
                    Ok(()) => return self.last_revision().await,
                    Err(error) => Err(error),
                },
            };
            match done {
                Ok(revision) => return Ok(revision),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {
                    // They do not step aside at the same time.
                    let spread = std::process::id() % 7 + 1;
                    tokio::time::sleep(Duration::from_millis(u64::from(spread * attempt.min(10)))).await;
                }
                Err(error) => return Err(BucketError::server(error)),
            }
        }
        Err(BucketError::Contended(name))
    }

    /// Sets the configuration, or removes it.
    pub(super) async fn set_config(&self, text: Option<&str>) -> Result<u64, BucketError> {
        let set = |old: Option<&[u8]>| {
            Ok(match text {
                Some(text) if old == Some(text.as_bytes()) => Edit::Keep,
                Some(text) => Edit::Set(text.as_bytes().to_vec()),
                None => Edit::Delete,
            })
        };
        self.edit(&Key::Config, set).await
    }

    /// Sets a slot of a secret, or removes it.
    pub(super) async fn set_secret(
        &self,
        kid: &str,
        slot: u64,
        value: Option<&[u8]>,
    ) -> Result<u64, BucketError> {
        let set = |_: Option<&[u8]>| Ok(value.map_or(Edit::Delete, |value| Edit::Set(value.to_vec())));
        self.edit(&Key::Secret { kid: kid.into(), slot }, set).await
    }

    /// Adds networks to a list, or removes them.
    pub(super) async fn change_list(
        &self,
        list: List,
        nets: &[IpNet],
        remove: bool,
    ) -> Result<u64, BucketError> {
        let nets: Vec<String> = nets.iter().map(|net| net.trunc().to_string()).collect();
        let names: BTreeSet<&str> = nets.iter().map(String::as_str).collect();
        self.change_lines(&Key::List(list), &names, remove).await
    }

    /// Adds sessions to the lists of days, or removes them. Gives the last of the revisions that came of it.
    ///
    /// # Errors
    /// [`BucketError`]; some parts may have been changed.
    pub(super) async fn change_sessions(
        &self,
        sessions: &[(Day, String)],
        remove: bool,
    ) -> Result<u64, BucketError> {
        let mut parts: BTreeMap<Key, BTreeSet<&str>> = BTreeMap::new();
        for (day, sid) in sessions {
            check_sid(sid).map_err(BucketError::Invalid)?;
            parts.entry(Key::Part { day: *day, part: part_of(sid) }).or_default().insert(sid);
        }
        let mut last = 0;
        for (key, sids) in &parts {
            last = last.max(self.change_lines(key, sids, remove).await?);
        }
        Ok(last)
    }

    async fn change_lines(
        &self,
        key: &Key,
        names: &BTreeSet<&str>,
        remove: bool,
    ) -> Result<u64, BucketError> {
        let change = |old: Option<&[u8]>| {
            let text = old.map(std::str::from_utf8).transpose();
            let text = text.map_err(|_| BucketError::Invalid(format!("{key} holds no text")))?;
            let old: BTreeSet<&str> = lines(text).collect();
            let new: BTreeSet<&str> = if remove {
                old.difference(names).copied().collect()
            } else {
                old.union(names).copied().collect()
            };
            Ok(if new == old { Edit::Keep } else { Edit::Set(from_lines(new).into_bytes()) })
        };
        self.edit(key, change).await
    }

    /// Removes the lists of all days before one. Gives how many parts that were.
    pub(super) async fn forget_before(&self, first: Day) -> Result<(usize, u64), BucketError> {
        let mut count = 0;
        for key in self.keys().await? {
            if let Key::Part { day, .. } = &key
                && *day < first
            {
                self.store.purge(self.name_of(&key)).await.map_err(BucketError::server)?;
                count += 1;
            }
        }
        Ok((count, self.last_revision().await?))
    }
}
