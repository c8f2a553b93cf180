//! `ctl secret`.

use super::Session;
use super::answers::{Counts, SecretStored, Secrets};
use super::args::SecretCommand;
use super::client::{full, request, segment, whole};
use super::error::Error;
use super::print::{clean, instant, table};
use super::upload::{self, STANDARD_INPUT};
use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Longest file that is taken for a key's.
const LONGEST: u64 = 16 << 10;

pub(super) async fn run(session: &mut Session<'_>, command: SecretCommand) -> Result<(), Error> {
    match command {
        SecretCommand::Put { kid, slot, key_file, until, allow_key_size } => {
            let body = body(key_file, until, allow_key_size).await?;
            let request = request(Method::PUT, &path(&kid, slot))
                .header(CONTENT_TYPE, "application/json")
                .body(full(body))?;
            let answer = whole(session.client.exchange(request).await?).await?;
            session.show(&answer, |stored: SecretStored, out| {
                let what = if stored.replaced { "replaced" } else { "stored" };
                writeln!(out, "{} slot {slot}: {what} (version {})", clean(&kid), stored.version)
            })
        }
        SecretCommand::List => {
            let answer = session.client.ask(Method::GET, "/v1/secrets").await?;
            session.show(&answer, |list: Secrets, out| {
                let row = |secret: &super::answers::Secret| {
                    let until = secret.until.map_or_else(|| "-".to_owned(), instant);
                    let (slot, bytes) = (secret.slot.to_string(), secret.bytes.to_string());
                    vec![secret.kid.clone(), slot, bytes, secret.origin.clone(), until]
                };
                let rows: Vec<_> = list.secrets.iter().map(row).collect();
                table(out, &["kid", "slot", "bytes", "from", "until"], &rows)
            })
        }
        SecretCommand::Delete { kid, slot } => {
            let answer = session.client.ask(Method::DELETE, &path(&kid, slot)).await?;
            session.show(&answer, |counts: Counts, out| {
                writeln!(out, "{} slot {slot}: deleted (version {})", clean(&kid), counts.version)
            })
        }
    }
}

fn path(kid: &str, slot: u64) -> String {
    format!("/v1/secrets/{}/{slot}", segment(kid))
}

/// What is sent, wiped when it is sent. hyper's own buffer is not, but ends with this process.
async fn body(key_file: Option<PathBuf>, until: Option<u64>, allow_key_size: bool) -> Result<Bytes, Error> {
    #[derive(Serialize)]
    struct Put<'a> {
        key: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
        allow_key_size: bool,
    }
    let path = key_file.unwrap_or_else(|| PathBuf::from(STANDARD_INPUT));
    if path.as_os_str() == STANDARD_INPUT && std::io::stdin().is_terminal() {
        return Err(Error::KeyFromTerminal);
    }
    let bytes = Zeroizing::new(upload::read(&path, LONGEST).await?);
    // Whether it is a good key is for the agent to say; that it is a line is what makes it JSON.
    let key = std::str::from_utf8(&bytes).map(str::trim).unwrap_or_default();
    if key.is_empty() || key.lines().count() > 1 {
        return Err(Error::NoKey { path });
    }
    // Room for everything, as growing would leave copies behind: a character takes six bytes at most.
    let mut body = Zeroizing::new(Vec::with_capacity(6 * key.len() + 128));
    let put = Put { key, until, allow_key_size };
    serde_json::to_writer(&mut *body, &put).map_err(|source| Error::NotUnderstood { source })?;
    Ok(Bytes::from_owner(body))
}
