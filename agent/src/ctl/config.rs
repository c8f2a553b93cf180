//! `ctl config`.

use super::Session;
use super::answers::{Config, ConfigChange};
use super::args::ConfigCommand;
use super::client::{empty, full, request, whole};
use super::error::Error;
use super::print::{clean, table};
use super::upload::{self, STANDARD_INPUT};
use http::Method;
use http::header::{CONTENT_TYPE, IF_MATCH};
use std::io::{self, Write};
use std::path::Path;

/// Longest overlay that is read. Configurations are written by hand.
const LONGEST: u64 = 16 << 20;

pub(super) async fn run(session: &mut Session<'_>, command: ConfigCommand) -> Result<(), Error> {
    match command {
        ConfigCommand::Get { toml } => get(session, toml).await,
        ConfigCommand::Put { file, if_version, dry_run } => put(session, &file, if_version, dry_run).await,
        ConfigCommand::Reset { if_version } => reset(session, if_version).await,
    }
}

async fn get(session: &mut Session<'_>, toml: bool) -> Result<(), Error> {
    let answer = session.client.ask(Method::GET, "/v1/config").await?;
    session
        .show(&answer, |config: Config, out| if toml { overlay(&config, out) } else { values(&config, out) })
}

/// Can be given back to `put`, also where there is none. Lines of TOML stay lines.
fn overlay(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let Some(pushed) = &config.pushed else {
        return writeln!(out, "# no overlay is pushed over {}", clean(&config.file));
    };
    for line in pushed.lines() {
        // A tab may stand for itself, and written out it would be no TOML.
        let parts: Vec<_> = line.split('\t').map(clean).collect();
        writeln!(out, "{}", parts.join("\t"))?;
    }
    Ok(())
}

fn values(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let overlays = [("the fleet's overlay", &config.fleet), ("the pushed overlay", &config.pushed)];
    let overlays: String = overlays
        .into_iter()
        .filter(|(_, there)| there.is_some())
        .map(|(name, _)| format!(", {name}"))
        .collect();
    writeln!(out, "version {}: {}{overlays}\n", config.version, clean(&config.file))?;
    let rows: Vec<_> = config
        .values
        .iter()
        .map(|setting| vec![setting.key.clone(), setting.origin.clone(), setting.toml.clone()])
        .collect();
    // The value last: it may be long.
    table(out, &["key", "from", "value"], &rows)
}

async fn put(
    session: &mut Session<'_>,
    file: &Path,
    if_version: Option<u64>,
    dry_run: bool,
) -> Result<(), Error> {
    let overlay = upload::read(file, LONGEST).await?;
    let path = if dry_run { "/v1/config?dry_run=true" } else { "/v1/config" };
    let request = if_match(request(Method::PUT, path), if_version).header(CONTENT_TYPE, "application/toml");
    let response = session.client.exchange(request.body(full(overlay))?).await;
    let response = response.map_err(|error| match error {
        // A line of the overlay is a line of this file.
        Error::Refused(mut refusal) if file.as_os_str() != STANDARD_INPUT => {
            refusal.overlay = Some(file.display().to_string());
            Error::Refused(refusal)
        }
        error => error,
    });
    let answer = whole(response?).await?;
    session.show(&answer, |change: ConfigChange, out| {
        for warning in &change.warnings {
            writeln!(out, "warning: {}", clean(warning))?;
        }
        let ConfigChange { version, changed, .. } = change;
        match (dry_run, changed) {
            (true, true) => writeln!(out, "good; nothing was changed (version {version})"),
            (true, false) => writeln!(out, "good; it is what is pushed already (version {version})"),
            (false, true) => writeln!(out, "in force (version {version})"),
            (false, false) => writeln!(out, "that is what was pushed already (version {version})"),
        }
    })
}

async fn reset(session: &mut Session<'_>, if_version: Option<u64>) -> Result<(), Error> {
    let request = if_match(request(Method::DELETE, "/v1/config"), if_version).body(empty())?;
    let answer = whole(session.client.exchange(request).await?).await?;
    session.show(&answer, |change: ConfigChange, out| {
        let what = if change.changed { "the overlay is gone" } else { "there was no overlay" };
        writeln!(out, "{what} (version {})", change.version)
    })
}

fn if_match(request: http::request::Builder, version: Option<u64>) -> http::request::Builder {
    match version {
        Some(version) => request.header(IF_MATCH, format!("\"{version}\"")),
        None => request,
    }
}
