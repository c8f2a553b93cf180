//! `/v1/blacklist`: day lists as a whole, one by one, and streams of any length.

use super::answer::{Error, Outcome, counts, json, names_of, streamed};
use super::upload::{Form, Item, Pieces, Stop};
use super::{Control, LONGEST_BODY, listing, path, upload, whole};
use crate::snapshot::Snapshot;
use crate::state::{Change, ChangeError, Counts, Done, Origin, SessionEdit, Writer, check_sid};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value as Json, json};
use std::io::BufReader;
use std::sync::Arc;
use tokio::sync::mpsc;
use validator_core::Day;

/// Sessions that are stored together. A later part waits for the disk while the next one is read.
const PART: usize = 65_536;

/// Bytes of their names.
const PART_BYTES: usize = 2 * 1024 * 1024;

/// Stands for the lists of all days.
const EVERY_DAY: Day = Day::from_number(u32::MAX);

/// Refused lines that are told one by one.
const TOLD: usize = 100;

/// Pieces of a body that wait to be read.
const WAITING: usize = 16;

impl Control {
    pub(super) async fn blacklist(&self, rest: &[&str], request: Request<Incoming>) -> Outcome {
        let today = Day::of(self.seen.clock.now());
        match (rest, request.method()) {
            ([], &Method::GET) => self.days(),
            ([], &Method::POST) => self.upload(request, today).await,
            ([], _) => Err(Error::method_not_allowed("GET, POST")),
            ([day], &Method::GET) => self.day(day_of(day, today)?).await,
            ([day], &Method::PUT) => {
                let day = day_of(day, today)?;
                let sids = one_list(request).await?;
                let applied =
                    self.seen.writer.change(Change::Day { origin: Origin::Pushed, day, sids }).await?;
                Ok(counts(&applied.done, applied.version, &["added", "removed", "present"]))
            }
            ([day], &Method::DELETE) => {
                let change = if *day == "all" {
                    Change::AllDays { origin: Origin::Pushed }
                } else {
                    Change::Day { origin: Origin::Pushed, day: day_of(day, today)?, sids: Vec::new() }
                };
                let applied = self.seen.writer.change(change).await?;
                Ok(counts(&applied.done, applied.version, &["removed"]))
            }
            ([_], _) => Err(Error::method_not_allowed("GET, PUT, DELETE")),
            ([day, sid], method @ (&Method::PUT | &Method::DELETE)) => {
                let remove = method == Method::DELETE;
                check_sid(sid).map_err(Error::invalid)?;
                let change = if remove && *day == "all" {
                    Change::Everywhere { origin: Origin::Pushed, sids: vec![(*sid).into()] }
                } else {
                    let edits = [SessionEdit { day: day_of(day, today)?, sid: (*sid).into() }].into();
                    Change::Sessions { origin: Origin::Pushed, edits, remove }
                };
                let applied = self.seen.writer.change(change).await?;
                if let Done::Sessions(Counts { refused, .. }) = &applied.done
                    && let Some((_, why)) = refused.first()
                {
                    return Err(if is_full(why) { Error::full(why) } else { Error::invalid(why) });
                }
                Ok(counts(&applied.done, applied.version, names_of(remove)))
            }
            ([_, _], _) => Err(Error::method_not_allowed("PUT, DELETE")),
            _ => Err(Error::not_found()),
        }
    }

    fn days(&self) -> Outcome {
        let snapshot = self.seen.live.current();
        let sessions = &snapshot.config.policy.sessions;
        let days: Vec<Json> = snapshot
            .overlay
            .days
            .iter()
            .map(|(day, counts)| {
                json!({
                    "day": day.to_string(),
                    "sessions": counts.listed,
                    "file": counts.file,
                    "fleet": counts.fleet,
                    "pushed": counts.pushed,
                    "last_day": Day::from_number(sessions.last_day(*day)).to_string(),
                })
            })
            .collect();
        let answer = json!({
            "version": snapshot.revision,
            "sessions": sessions.len(),
            "capacity": snapshot.config.blacklist_capacity,
            "retain_days": sessions.retain_days(),
            "days": days,
        });
        Ok(json(&answer, Some(snapshot.revision)))
    }

    async fn day(&self, day: Day) -> Outcome {
        let (snapshot, writer) = (self.seen.live.current(), Arc::clone(&self.seen.writer));
        Ok(streamed(listing::stream(snapshot, writer, day).await?))
    }

    /// Adds or removes everything in a body, however long, part by part.
    async fn upload(&self, request: Request<Incoming>, today: Day) -> Outcome {
        let mut query = path::query(request.uri(), &["day", "remove"])?;
        let remove = match query.remove("remove").as_deref() {
            None | Some("false") => false,
            Some("true" | "") => true,
            Some(_) => return Err(Error::bad_request("remove is true or false")),
        };
        let day = match query.remove("day").as_deref() {
            None => today,
            Some("all") if remove => EVERY_DAY,
            Some(name) => day_of(name, today)?,
        };
        let form = Form::of(&request).ok_or_else(unknown_form)?;
        let (send, receive) = mpsc::channel(WAITING);
        let writer = Arc::clone(&self.seen.writer);
        let reading = tokio::task::spawn_blocking(move || {
            let mut parts = Parts::new(&writer, remove, day);
            let outcome =
                upload::read(form, BufReader::new(Pieces::new(receive)), day, &mut |item| parts.take(item));
            parts.finish(outcome)
        });
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map(|frame| frame.into_data()) else {
                // The reader says what it has so far.
                let _reader_has_stopped = send.send(Err(std::io::ErrorKind::UnexpectedEof.into())).await;
                break;
            };
            if let Ok(data) = data
                && send.send(Ok(data)).await.is_err()
            {
                // It needs no more.
                break;
            }
        }
        drop(send);
        let (summary, stop) = reading.await.map_err(|_| Error::stopping())?;
        summary.answer(stop, &self.seen.live.current())
    }
}

/// What became of an upload so far.
#[derive(Default)]
struct Summary {
    counts: Counts,
    refused: u64,
    /// Those of them that there is no room for, and what is said of that.
    full: (u64, String),
    told: Vec<Json>,
    version: Option<u64>,
}

impl Summary {
    fn refuse(&mut self, line: u64, value: &str, why: &str) {
        self.refused += 1;
        if is_full(why) {
            self.full = (self.full.0 + 1, why.to_owned());
        }
        if self.told.len() < TOLD {
            let value: String = value.chars().take(100).collect();
            self.told.push(json!({ "line": line, "value": value, "why": why }));
        }
    }

    fn answer(self, stop: Option<Error>, snapshot: &Snapshot) -> Outcome {
        let Counts { added, present, removed, absent, .. } = self.counts;
        let version = self.version.unwrap_or(snapshot.revision);
        let members = [
            ("added", added.into()),
            ("present", present.into()),
            ("removed", removed.into()),
            ("absent", absent.into()),
            ("refused", self.refused.into()),
            ("refusals", Json::from(self.told)),
        ];
        if let Some(stop) = stop {
            let stop = stop.with("version", version.into());
            return Err(members.into_iter().fold(stop, |error, (name, value)| error.with(name, value)));
        }
        let mut answer = json!({ "version": version });
        for (name, value) in members {
            answer[name] = value;
        }
        let mut response = json(&answer, Some(version));
        if self.refused > 0 {
            let nothing = added + present + removed + absent == 0;
            *response.status_mut() =
                if nothing { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::MULTI_STATUS };
            if nothing {
                let (full, why) = self.full;
                let error = if full == self.refused {
                    Error::full(why)
                } else {
                    Error::invalid("every line was refused")
                };
                let error = error.with("version", version.into());
                let told = answer["refusals"].take();
                return Err(error.with("refused", self.refused.into()).with("refusals", told));
            }
        }
        Ok(response)
    }
}

/// Hands sessions to the writer, many at a time.
struct Parts<'w> {
    writer: &'w Writer,
    remove: bool,
    /// Of sessions without a day of their own.
    day: Day,
    edits: Vec<SessionEdit>,
    /// How long their names are.
    bytes: usize,
    /// Where in the body each of them stands.
    lines: Vec<u64>,
    summary: Summary,
    failed: Option<Error>,
}

impl<'w> Parts<'w> {
    fn new(writer: &'w Writer, remove: bool, day: Day) -> Self {
        let (edits, lines) = (Vec::new(), Vec::new());
        Self { writer, remove, day, edits, bytes: 0, lines, summary: Summary::default(), failed: None }
    }

    fn take(&mut self, item: Item<'_>) -> Result<(), Stop> {
        match item {
            Item::Session { line, day, sid } if self.day == EVERY_DAY && day != EVERY_DAY => {
                self.summary.refuse(line, sid, "with day=all no session has a day of its own");
            }
            Item::Session { line, day, sid } => match check_sid(sid) {
                Ok(()) => {
                    self.bytes += sid.len();
                    self.edits.push(SessionEdit { day, sid: sid.into() });
                    self.lines.push(line);
                }
                Err(why) => self.summary.refuse(line, sid, &why),
            },
            Item::Refused { line, value, why } => self.summary.refuse(line, value, &why),
        }
        if self.edits.len() >= PART || self.bytes >= PART_BYTES { self.hand_in() } else { Ok(()) }
    }

    fn hand_in(&mut self) -> Result<(), Stop> {
        if self.edits.is_empty() {
            return Ok(());
        }
        let (edits, lines) = (std::mem::take(&mut self.edits), std::mem::take(&mut self.lines));
        let edits: Arc<[SessionEdit]> = edits.into();
        self.bytes = 0;
        // With a default of all days none of them has another.
        let change = if edits.first().is_some_and(|edit| edit.day == EVERY_DAY) {
            let sids = edits.iter().map(|edit| edit.sid.clone()).collect();
            Change::Everywhere { origin: Origin::Pushed, sids }
        } else {
            Change::Sessions { origin: Origin::Pushed, edits: Arc::clone(&edits), remove: self.remove }
        };
        match self.writer.change_blocking(change) {
            Ok(applied) => {
                self.summary.version = Some(applied.version);
                if let Done::Sessions(counts) = applied.done {
                    let total = &mut self.summary.counts;
                    total.added += counts.added;
                    total.present += counts.present;
                    total.removed += counts.removed;
                    total.absent += counts.absent;
                    for (index, why) in counts.refused {
                        let (line, sid) = (
                            lines.get(index).copied().unwrap_or(0),
                            edits.get(index).map_or("", |edit| &edit.sid),
                        );
                        self.summary.refuse(line, sid, &why);
                    }
                }
                Ok(())
            }
            Err(error) => {
                self.failed = Some(Error::from(error));
                Err(Stop)
            }
        }
    }

    /// What became of it all, and what stopped it.
    fn finish(mut self, outcome: Result<(), String>) -> (Summary, Option<Error>) {
        // What was read before a body broke off was meant.
        let handed_in = if self.failed.is_none() { self.hand_in() } else { Err(Stop) };
        let stop = match (self.failed.take(), outcome) {
            (Some(failed), _) => Some(failed),
            (None, Err(why)) => Some(Error::bad_request(why)),
            (None, Ok(())) => handed_in.err().map(|Stop| Error::from(ChangeError::Stopping)),
        };
        (self.summary, stop)
    }
}

/// The sessions of a body that is one list.
async fn one_list(request: Request<Incoming>) -> Result<Vec<Box<str>>, Error> {
    let form = Form::of(&request).ok_or_else(unknown_form)?;
    let bytes = whole(request, LONGEST_BODY).await?;
    // Which day stands in the path. One in the body would be another.
    let nowhere = EVERY_DAY;
    let mut sids = Vec::new();
    let mut refused = None;
    let read = upload::read(form, BufReader::new(&*bytes), nowhere, &mut |item| {
        match item {
            Item::Session { day, sid, .. } if day == nowhere => sids.push(sid.into()),
            Item::Session { line, .. } => refused = Some((line, "the day stands in the path".to_owned())),
            Item::Refused { line, why, .. } => refused = Some((line, why)),
        }
        if refused.is_none() { Ok(()) } else { Err(Stop) }
    });
    match (refused, read) {
        (Some((line, why)), _) => Err(Error::invalid(format!("line {line}: {why}"))),
        (None, Err(why)) => Err(Error::bad_request(why)),
        (None, Ok(())) => Ok(sids),
    }
}

/// Whether this is why there is no room for a session.
fn is_full(why: &str) -> bool {
    why.starts_with("the blacklist is full")
}

fn unknown_form() -> Error {
    Error::bad_request("Content-Type is text/plain, application/json or application/x-ndjson")
}

fn day_of(name: &str, today: Day) -> Result<Day, Error> {
    if name == "today" {
        return Ok(today);
    }
    Day::from_name(name)
        .ok_or_else(|| Error::invalid(format!("{name:?} is no day of the calendar; write YYYYMMDD")))
}
