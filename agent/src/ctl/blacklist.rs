//! `ctl blacklist`.

use super::Session;
use super::answers::{Counts, Days, Entry};
use super::args::{BlacklistCommand, TODAY};
use super::client::{Answer, Lines, empty, full, request, segment, whole};
use super::error::Error;
use super::print::{clean, count, table};
use super::upload::Upload;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};

/// Says whether everything was taken.
pub(super) async fn run(session: &mut Session<'_>, command: BlacklistCommand) -> Result<bool, Error> {
    match command {
        BlacklistCommand::Add { sids, day } => {
            let answer = post_list(session, &sids, &day, false).await?;
            return counts(session, &answer);
        }
        BlacklistCommand::Remove { sids, day } => {
            let answer = post_list(session, &sids, &day, true).await?;
            return counts(session, &answer);
        }
        BlacklistCommand::Import { file, day, remove, form } => {
            let upload = Upload::open(&file, form).await?;
            let answer = upload.send(&session.client, Method::POST, &collection(&day, remove)).await?;
            return counts(session, &answer);
        }
        BlacklistCommand::List { day: None } => days(session).await?,
        BlacklistCommand::List { day: Some(day) } => sids(session, &day).await?,
        BlacklistCommand::Replace { day, file, form } => {
            let upload = Upload::open(&file, form).await?;
            let path = format!("/v1/blacklist/{}", segment(&day));
            let answer = upload.send(&session.client, Method::PUT, &path).await?;
            return counts(session, &answer);
        }
        BlacklistCommand::Drop { day } => {
            let path = format!("/v1/blacklist/{}", segment(&day));
            let answer = session.client.ask(Method::DELETE, &path).await?;
            return counts(session, &answer);
        }
    }
    Ok(true)
}

/// As one list, so that it is one change: all of it is in force, or none.
async fn post_list(session: &Session<'_>, sids: &[String], day: &str, remove: bool) -> Result<Answer, Error> {
    let list = serde_json::Value::from(sids).to_string();
    let request = request(Method::POST, &collection(day, remove)).header(CONTENT_TYPE, "application/json");
    whole(session.client.exchange(request.body(full(list))?).await?).await
}

/// The agent takes its own today where no day is named.
fn collection(day: &str, remove: bool) -> String {
    let day = (day != TODAY).then(|| format!("day={day}"));
    let parameters: Vec<String> = day.into_iter().chain(remove.then(|| "remove=true".to_owned())).collect();
    let mark = if parameters.is_empty() { "" } else { "?" };
    format!("/v1/blacklist{mark}{}", parameters.join("&"))
}

fn counts(session: &mut Session<'_>, answer: &Answer) -> Result<bool, Error> {
    session.show(answer, |counts: Counts, out| {
        for refused in &counts.refusals {
            writeln!(out, "{}", clean(&refused.to_string()))?;
        }
        writeln!(out, "{counts}")
    })?;
    Ok(answer.status != StatusCode::MULTI_STATUS)
}

async fn days(session: &mut Session<'_>) -> Result<(), Error> {
    let answer = session.client.ask(Method::GET, "/v1/blacklist").await?;
    session.show(&answer, |list: Days, out| {
        let row = |day: &super::answers::Day| {
            let counts = [day.sessions, day.file, day.pushed, day.fleet].map(|count| count.to_string());
            std::iter::once(day.day.clone()).chain(counts).chain([day.last_day.clone()]).collect()
        };
        let rows: Vec<Vec<String>> = list.days.iter().map(row).collect();
        table(out, &["day", "sessions", "file", "pushed", "fleet", "last day"], &rows)?;
        let kept = list.retain_days;
        writeln!(
            out,
            "\n{}, room for {}, days are kept for {kept}",
            count(list.sessions, "session"),
            list.capacity
        )
    })
}

/// One id per line, as `import` and `replace` take them.
async fn sids(session: &mut Session<'_>, day: &str) -> Result<(), Error> {
    let request = request(Method::GET, &format!("/v1/blacklist/{}", segment(day))).body(empty())?;
    let mut lines = Lines::new(session.client.exchange(request).await?.into_body());
    while let Some(line) = lines.next().await? {
        session.line(&line, |entry: Entry, out| writeln!(out, "{}", clean(&entry.sid)))?;
    }
    Ok(())
}
