//! The sessions of a day, page by page: a list may be longer than what anybody wants in memory.

use crate::snapshot::Snapshot;
use crate::state::{Change, ChangeError, Flags, Origin, Writer};
use bytes::Bytes;
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::json;
use std::io;
use std::sync::Arc;
use validator_core::Day;

/// Sessions of the store with what is said of them.
type Page = Vec<(Box<str>, Flags)>;

/// Sessions that are read at a time.
const PAGE: usize = 4096;

/// Lines of JSON, sorted by session. What changes while it is read may or may not be in it.
///
/// # Errors
/// When the store cannot be read. Later it breaks off: half a list must not look like a whole one.
pub(super) async fn stream(
    snapshot: Arc<Snapshot>,
    writer: Arc<Writer>,
    day: Day,
) -> Result<UnsyncBoxBody<Bytes, io::Error>, ChangeError> {
    let mut next = match page(&writer, day, None).await {
        // A change that changes nothing opens the store again, if it can be.
        Err(_) => {
            writer.change(Change::Forget).await?;
            page(&writer, day, None).await?
        }
        Ok(page) => page,
    };
    let (mut lines, body) = Channel::<Bytes, io::Error>::new(2);
    tokio::spawn(async move {
        let mut after: Option<Box<str>> = None;
        loop {
            let stored = std::mem::take(&mut next);
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
            next = match page(&writer, day, after.as_deref()).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!("a list of sessions cannot be read to its end: {error}");
                    return lines.abort(io::Error::other(error));
                }
            };
        }
    });
    Ok(UnsyncBoxBody::new(body))
}

/// What the store says of the sessions after `after`.
async fn page(writer: &Arc<Writer>, day: Day, after: Option<&str>) -> Result<Page, ChangeError> {
    let (writer, after) = (Arc::clone(writer), after.map(Box::<str>::from));
    let read = tokio::task::spawn_blocking(move || {
        writer.store(|store| store.read()?.sessions_after(day, after.as_deref(), PAGE))
    });
    match read.await {
        Ok(Some(page)) => Ok(page?),
        // Without a store there is nothing but the file.
        Ok(None) => Ok(Page::new()),
        Err(_) => Err(ChangeError::Stopping),
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
