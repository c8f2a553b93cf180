//! `edgegate ctl`: the client of the agent's control API.
//!
//! ```text
//! args ──▶ one module for each group of commands ──▶ client: HTTP over the socket ──▶ agent
//!          status, config, blacklist, secrets,          │ upload: files of any size
//!          lists, events                                ▼
//!                                        answers ──▶ print, or the JSON as it came
//! ```
//!
//! Exits 0 when it is done, 1 when the agent refused all or some of it, 2 on a wrong command and where there is no agent.

mod answers;
mod args;
mod blacklist;
mod client;
mod config;
mod error;
mod events;
mod lists;
mod prefilter;
mod print;
mod secrets;
mod status;
mod upload;

#[cfg(test)]
mod tests;

pub(crate) use args::Ctl;

use anyhow::Context as _;
use args::{CtlCommand, FleetCommand};
use client::{Answer, Client};
use error::Error;
use lists::List;
use print::clean;
use serde::de::DeserializeOwned;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

const DONE: u8 = 0;
/// The agent refused.
const REFUSED: u8 = 1;
/// No agent, or another error.
const FAILED: u8 = 2;

/// Runs a command.
///
/// # Errors
/// When the system refuses even the beginning of it; everything else is reported by its exit code.
pub(crate) fn main(ctl: Ctl) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let mut out = BufWriter::new(io::stdout().lock());
    let code = runtime.block_on(run(ctl, &mut out, &mut io::stderr().lock()));
    // A read of standard input may be under way, and nobody waits for it any more.
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

/// Runs a command with its output where it is wanted, and gives its exit code.
async fn run(ctl: Ctl, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let mut session = Session { client: Client::new(&ctl.socket), json: ctl.json, out };
    let result = dispatch(&mut session, ctl.command).await;
    // What was printed before an error stands before it.
    let flushed = session.out.flush().map_err(Error::Output);
    let error = match result.and_then(|code| flushed.map(|()| code)) {
        Ok(code) => return code,
        Err(error) if error.is_closed_pipe() => return DONE,
        Err(error) => error,
    };
    let code = match &error {
        Error::Refused(refusal) => {
            if session.json {
                // Programs read what they would read from the socket. If they do not, the exit code is left.
                let _ = session.json(&refusal.body).and_then(|()| session.out.flush());
            }
            REFUSED
        }
        _ => FAILED,
    };
    let message = format!("edgegate: {:#}", anyhow::Error::from(error));
    for line in message.lines() {
        // Where even standard error is closed, the exit code says enough.
        let _ = writeln!(err, "{}", clean(line));
    }
    code
}

async fn dispatch(session: &mut Session<'_>, command: CtlCommand) -> Result<u8, Error> {
    let all_taken = match command {
        CtlCommand::Status => status::status(session).await.map(|()| true),
        CtlCommand::Config { command } => config::run(session, command).await.map(|()| true),
        CtlCommand::Blacklist { command } => blacklist::run(session, command).await,
        CtlCommand::Secret { command } => secrets::run(session, command).await.map(|()| true),
        CtlCommand::Deny { command } => lists::run(session, List::Deny, command).await.map(|()| true),
        CtlCommand::Allow { command } => lists::run(session, List::Allow, command).await.map(|()| true),
        CtlCommand::Events { follow } => events::run(session, follow).await.map(|()| true),
        CtlCommand::Fleet { command: FleetCommand::Status } => status::fleet(session).await.map(|()| true),
        CtlCommand::Prefilter { .. } if session.json => Err(Error::NoJson),
        CtlCommand::Prefilter { command } => prefilter::run(&command, session.out),
    };
    Ok(if all_taken? { DONE } else { REFUSED })
}

/// What every command needs.
struct Session<'a> {
    client: Client,
    json: bool,
    out: &'a mut dyn Write,
}

impl Session<'_> {
    /// Shows an answer to people, or passes its JSON on.
    fn show<T: DeserializeOwned>(
        &mut self,
        answer: &Answer,
        print: impl FnOnce(T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        self.line(&answer.body, print)
    }

    /// Likewise a line of an answer that is a stream.
    fn line<T: DeserializeOwned>(
        &mut self,
        line: &[u8],
        print: impl FnOnce(T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        if self.json {
            return Ok(self.json(line)?);
        }
        let value = serde_json::from_slice(line).map_err(|source| Error::NotUnderstood { source })?;
        Ok(print(value, self.out)?)
    }

    fn json(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes.trim_ascii_end())?;
        self.out.write_all(b"\n")
    }
}
