//! `ctl events`.

use super::Session;
use super::answers::Event;
use super::client::{Lines, empty, request};
use super::error::Error;
use super::print::clean;
use http::Method;
use serde_json::Value;
use std::io::{self, Write};
use std::pin::pin;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::{Instant, sleep_until};

/// How long to look without `--follow`.
const GLANCE: Duration = Duration::from_secs(1);

pub(super) async fn run(session: &mut Session<'_>, follow: bool) -> Result<(), Error> {
    let request = request(Method::GET, "/v1/events").body(empty())?;
    let mut lines = Lines::new(session.client.exchange(request).await?.into_body());
    let end = Instant::now() + GLANCE;
    // One for all of the loop, so that none is missed between two events.
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    loop {
        let line = tokio::select! {
            biased;
            result = &mut interrupted, if follow => return result.map_err(Error::Output),
            () = sleep_until(end), if !follow => return Ok(()),
            line = lines.next() => line?,
        };
        let Some(line) = line else { return Err(Error::StreamEnded) };
        session.line(&line, |event: Event, out| print(&event, out))?;
        // Whoever watches wants to see it now.
        session.out.flush()?;
    }
}

/// The instant, the kind, and whatever else there is as `name=value`.
fn print(event: &Event, out: &mut dyn Write) -> io::Result<()> {
    // To the nearest millisecond: a fraction such as .123 has no exact form, and may lie just below.
    let at = Duration::try_from_secs_f64(event.at + 0.000_5).ok();
    let at = at.and_then(|since| UNIX_EPOCH.checked_add(since));
    let at = match at {
        // Later years are not written with four digits.
        Some(at) if event.at < 253_402_300_800.0 => humantime::format_rfc3339_millis(at).to_string(),
        _ => event.at.to_string(),
    };
    write!(out, "{at}  {:<9}", clean(&event.kind))?;
    for (name, value) in &event.more {
        match value {
            Value::Null => {}
            Value::String(text) if is_plain(text) => write!(out, " {}={}", clean(name), clean(text))?,
            value => write!(out, " {}={}", clean(name), clean(&value.to_string()))?,
        }
    }
    writeln!(out)
}

/// Needs no quotes to be told from what follows it.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '"')
}
