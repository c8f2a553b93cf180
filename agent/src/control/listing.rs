//! The sessions of a day, page by page: a list may be longer than what anybody wants in memory.

use crate::snapshot::Snapshot;
use crate::state::{Flags, Origin, Writer};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use validator_core::Day;

/// Sessions that are read at a time.
const PAGE: usize = 4096;

/// Lines of JSON, sorted by session. What changes while it is read may or may not be in it.
pub(super) fn stream(
    snapshot: Arc<Snapshot>,
    writer: Arc<Writer>,
    day: Day,
) -> UnsyncBoxBody<Bytes, Infallible> {
    let (mut lines, body) = Channel::<Bytes, Infallible>::new(2);
    tokio::spawn(async move {
        let mut after: Option<Box<str>> = None;
        loop {
            let (reading, from) = (Arc::clone(&writer), after.clone());
            let page = tokio::task::spawn_blocking(move || page(&reading, day, from.as_deref())).await;
            let Ok(stored) = page else { return };
            let last = stored.len() < PAGE;
            let until = stored.last().map(|(sid, _)| sid.clone()).filter(|_| !last);
            let text = lines_of(&snapshot, day, after.as_deref(), until.as_deref(), &stored);
            // Whoever listened is gone.
            if !text.is_empty() && lines.send_data(Bytes::from(text)).await.is_err() {
                return;
            }
            if last {
                return;
            }
            after = until;
        }
    });
    UnsyncBoxBody::new(body.map_err(|never| match never {}))
}

/// What the store says of the sessions after `after`.
fn page(writer: &Writer, day: Day, after: Option<&str>) -> Vec<(Box<str>, Flags)> {
    let page = writer.store(|store| store.read()?.sessions_after(day, after, PAGE));
    match page {
        Some(Ok(page)) => page,
        Some(Err(error)) => {
            tracing::warn!("a list of sessions cannot be read: {error}");
            Vec::new()
        }
        None => Vec::new(),
    }
}

/// The sessions of file and store that come after one and not after another.
fn lines_of(
    snapshot: &Snapshot,
    day: Day,
    after: Option<&str>,
    until: Option<&str>,
    stored: &[(Box<str>, Flags)],
) -> Vec<u8> {
    let in_file = snapshot.texts.days.get(&day).map(Vec::as_slice).unwrap_or_default();
    let start = after.map_or(0, |after| in_file.partition_point(|sid| **sid <= *after));
    let end = until.map_or(in_file.len(), |until| in_file.partition_point(|sid| **sid <= *until));
    let in_file = in_file.get(start..end).unwrap_or_default();
    let known = |sid: &str| stored.binary_search_by(|(other, _)| (**other).cmp(sid)).is_ok();
    let from_file = in_file.iter().filter(|sid| !known(sid)).map(|sid| (&**sid, Origin::File));
    let from_store = stored
        .iter()
        .filter(|(sid, flags)| flags.is_listed(in_file.binary_search(sid).is_ok()))
        .map(|(sid, flags)| (&**sid, flags.origin()));
    let mut listed: Vec<(&str, Origin)> = from_file.chain(from_store).collect();
    listed.sort_unstable_by_key(|(sid, _)| *sid);
    let name = day.to_string();
    let mut text = Vec::new();
    for (sid, origin) in listed {
        text.extend_from_slice(json!({ "day": name, "sid": sid, "origin": origin }).to_string().as_bytes());
        text.push(b'\n');
    }
    text
}
