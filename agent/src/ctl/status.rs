//! `ctl status` and `ctl fleet`.

use super::Session;
use super::answers::{Fleet, FleetStatus, Kernel, Status};
use super::error::Error;
use super::print::{count, fact, instant, table};
use http::Method;
use std::io::{self, Write};
use std::time::Duration;

pub(super) async fn status(session: &mut Session<'_>) -> Result<(), Error> {
    let answer = session.client.ask(Method::GET, "/v1/status").await?;
    session.show(&answer, |status: Status, out| print_status(&status, out))
}

pub(super) async fn fleet(session: &mut Session<'_>) -> Result<(), Error> {
    let answer = session.client.ask(Method::GET, "/v1/fleet").await?;
    session.show(&answer, |status: FleetStatus, out| {
        let Some(fleet) = &status.fleet else {
            return writeln!(out, "the agent follows no fleet: [fleet] is not in its configuration");
        };
        fact(out, "fleet", summary(fleet))?;
        fact(out, "host", &fleet.host)?;
        if let Some(revision) = status.revision {
            fact(out, "revision", format!("{revision}, applied here {}", fleet.applied_revision))?;
        }
        writeln!(out)?;
        let row = |host: &super::answers::Host| {
            vec![
                host.host.clone(),
                host.applied_revision.to_string(),
                host.lag.to_string(),
                host.version.to_string(),
                instant(host.seen),
            ]
        };
        let rows: Vec<_> = status.hosts.iter().map(row).collect();
        table(out, &["host", "applied", "lag", "version", "seen"], &rows)
    })
}

fn print_status(status: &Status, out: &mut dyn Write) -> io::Result<()> {
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    fact(out, "agent", format!("{}, pid {}, up {uptime}", status.agent, status.pid))?;
    fact(out, "version", status.version)?;
    let config = &status.config;
    let overlays = [(config.fleet, ", with the fleet's overlay"), (config.pushed, ", with a pushed overlay")];
    let overlays: String = overlays.into_iter().filter_map(|(there, text)| there.then_some(text)).collect();
    fact(out, "config", format!("{}{overlays}, {}", config.file, count(config.routes, "route")))?;
    for warning in &config.warnings {
        fact(out, "", format!("warning: {warning}"))?;
    }
    let listeners = &status.listeners;
    let none = "not configured";
    for (name, addresses) in [("gateway", &listeners.gateway), ("auth", &listeners.auth)] {
        fact(out, name, if addresses.is_empty() { none.to_owned() } else { addresses.join(", ") })?;
    }
    fact(out, "metrics", listeners.metrics.as_deref().unwrap_or(none))?;
    let list = &status.blacklist;
    fact(
        out,
        "blacklist",
        format!(
            "{} in {}, room for {}, days are kept for {}",
            count(list.sessions, "session"),
            count(list.days, "day"),
            list.capacity,
            list.retain_days
        ),
    )?;
    fact(out, "lists", format!("{} denied, {} allowed", status.lists.deny, status.lists.allow))?;
    let secrets = &status.secrets;
    fact(out, "secrets", format!("{}, {}", count(secrets.kids, "name"), count(secrets.slots, "slot")))?;
    fact(out, "kernel", kernel(&status.kernel))?;
    let store = &status.store;
    let writable = if store.writable { "" } else { ", not writable: changes are refused" };
    fact(out, "store", format!("{}, {}{writable}", store.path, count(store.bytes, "byte")))?;
    fact(out, "fleet", status.fleet.as_ref().map_or_else(|| none.to_owned(), summary))
}

/// The kernel part in a line.
pub(super) fn kernel(kernel: &Kernel) -> String {
    let state = kernel.state.replace('_', " ");
    let details = [
        (!kernel.interfaces.is_empty()).then(|| format!(" on {}", kernel.interfaces.join(", "))),
        kernel.monitor.then(|| ", monitoring only".to_owned()),
        kernel.why.as_ref().map(|why| format!(": {why}")),
    ];
    // "on on eth0" says it twice.
    let state = if state == "on" && details[0].is_some() { "filters".to_owned() } else { state };
    details.into_iter().flatten().fold(state, |line, detail| line + &detail)
}

fn summary(fleet: &Fleet) -> String {
    let why = fleet.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let lag = if fleet.lag == 0 { String::new() } else { format!(", {} behind", fleet.lag) };
    format!("{} (bucket {} at {}){lag}{why}", fleet.state, fleet.bucket, fleet.server)
}
