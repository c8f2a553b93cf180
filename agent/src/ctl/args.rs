//! What `edgegate ctl` understands on the command line.

use crate::config;
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Where the agent listens unless its configuration says otherwise.
const SOCKET: &str = "/run/edgegate/control.sock";

/// `edgegate ctl`.
#[derive(Args)]
pub(crate) struct Ctl {
    /// The agent's control socket: `[control] socket` of its configuration.
    #[arg(long, global = true, env = "EDGEGATE_SOCKET", value_name = "PATH", default_value = SOCKET)]
    pub(super) socket: PathBuf,
    /// Print the agent's answers as JSON, lists and events as a line of JSON each.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: CtlCommand,
}

#[derive(Subcommand)]
pub(super) enum CtlCommand {
    /// Show what the agent does and holds.
    Status,
    /// Show the configuration in force, or push an overlay over the agent's file.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// End sessions, and look at those that are ended.
    Blacklist {
        #[command(subcommand)]
        command: BlacklistCommand,
    },
    /// Keys of the Content JWT. No command shows one.
    Secret {
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// Addresses that are refused.
    Deny {
        #[command(subcommand)]
        command: ListCommand,
    },
    /// Addresses that are exempt from `deny` and from countries.
    Allow {
        #[command(subcommand)]
        command: ListCommand,
    },
    /// Show refusals and changes as they happen.
    Events {
        /// Until Ctrl-C; without it, what comes within a second.
        #[arg(long)]
        follow: bool,
    },
    /// The fleet that this agent follows.
    Fleet {
        #[command(subcommand)]
        command: FleetCommand,
    },
    /// Look at the kernel part, or take it out. Its filter stays in force when the agent ends; neither needs an agent.
    Prefilter {
        #[command(subcommand)]
        command: PrefilterCommand,
    },
}

#[derive(Subcommand)]
pub(super) enum ConfigCommand {
    /// List every key that is set, with its value and where that comes from.
    Get {
        /// Print the overlay that is pushed, in the form that `put` takes; its secrets are hidden.
        #[arg(long)]
        toml: bool,
    },
    /// Push an overlay: its tables merge key by key over the file's, everything else replaces it.
    Put {
        /// The overlay, in TOML; - for standard input.
        file: PathBuf,
        /// Only if this is the present version.
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
        /// Check it, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the overlay back: the agent's file alone holds again.
    Reset {
        /// Only if this is the present version.
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
}

#[derive(Subcommand)]
pub(super) enum BlacklistCommand {
    /// Blacklist sessions, all in one change.
    Add {
        /// Session ids.
        #[arg(required = true, value_name = "SID", value_parser = NonEmptyStringValueParser::new())]
        sids: Vec<String>,
        /// Day list to add to, as YYYYMMDD or `today`.
        #[arg(long, default_value = TODAY, value_parser = day)]
        day: String,
    },
    /// Let sessions pass again.
    Remove {
        /// Session ids.
        #[arg(required = true, value_name = "SID", value_parser = NonEmptyStringValueParser::new())]
        sids: Vec<String>,
        /// Day list to remove from, as YYYYMMDD or `today`; without it from every day, each session in a change of its own.
        #[arg(long, default_value = ALL, hide_default_value = true, value_parser = day_or_all)]
        day: String,
    },
    /// Add many sessions from a file of any size. Exits 1 if some were refused; the others are in force then.
    Import {
        /// Text (sids by comma or line, or lines as `20251228 : "a,b"`), NDJSON or JSON; - for standard input.
        file: PathBuf,
        /// Day list for sessions that have none of their own, as YYYYMMDD or `today`.
        #[arg(long, default_value = TODAY, value_parser = day)]
        day: String,
        /// Remove them instead.
        #[arg(long)]
        remove: bool,
        /// What the file holds; without it, what its name or else its beginning tells.
        #[arg(long, value_enum, value_name = "FORM")]
        form: Option<Form>,
    },
    /// List the days, or the sessions of one.
    List {
        /// The day, as YYYYMMDD or `today`.
        #[arg(long, value_parser = day)]
        day: Option<String>,
    },
    /// Replace a day's list as one.
    Replace {
        /// The day, as YYYYMMDD or `today`.
        #[arg(value_parser = day)]
        day: String,
        /// Its sessions: text (by comma or line) or a JSON list; - for standard input.
        file: PathBuf,
        /// What the file holds; without it, what its name or else its beginning tells.
        #[arg(long, value_enum, value_name = "FORM")]
        form: Option<Form>,
    },
    /// Drop a day's list.
    Drop {
        /// The day, as YYYYMMDD, `today` or `all`.
        #[arg(value_parser = day_or_all)]
        day: String,
    },
}

/// How a file writes sessions down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Form {
    /// Separated by comma or line, or lines as `20251228 : "a,b"`.
    Text,
    /// A JSON value per line.
    Ndjson,
    /// One JSON list or object.
    Json,
}

#[derive(Subcommand)]
pub(super) enum SecretCommand {
    /// Store a key, in base64url; read from standard input without --key-file, so that no process list shows it.
    Put {
        /// Name of the secret.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        kid: String,
        /// The first `iat` that it signs, in unix seconds.
        #[arg(long, value_name = "N")]
        slot: u64,
        /// A file with the key.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
        /// From when on it verifies nothing, in unix seconds.
        #[arg(long, value_name = "UNIX")]
        until: Option<u64>,
        /// Accept a key that has not 32 bytes.
        #[arg(long)]
        allow_key_size: bool,
    },
    /// List names and slots.
    List,
    /// Delete a slot.
    Delete {
        /// Name of the secret.
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        kid: String,
        /// The slot.
        #[arg(long, value_name = "N")]
        slot: u64,
    },
}

#[derive(Subcommand)]
pub(super) enum ListCommand {
    /// Put addresses on the list, each in a change of its own.
    Add {
        /// Addresses or networks.
        #[arg(required = true, value_name = "CIDR", value_parser = NonEmptyStringValueParser::new())]
        cidrs: Vec<String>,
    },
    /// Take addresses off the list, each in a change of its own.
    Remove {
        /// Addresses or networks, as they are listed.
        #[arg(required = true, value_name = "CIDR", value_parser = NonEmptyStringValueParser::new())]
        cidrs: Vec<String>,
    },
    /// Show the list.
    List,
}

#[derive(Subcommand)]
pub(super) enum FleetCommand {
    /// Show the fleet's hosts and how far behind each is.
    Status,
}

#[derive(Subcommand)]
pub(super) enum PrefilterCommand {
    /// Show interfaces, maps and counters. Exits 0 if an interface is filtered, 1 if none is, 2 on an error.
    Status(PinDir),
    /// Take program, links and maps out of the kernel. Refused while an agent runs that uses them.
    Detach(PinDir),
}

#[derive(Args)]
pub(super) struct PinDir {
    /// Where they are pinned: `prefilter.pin_dir` of the configuration.
    #[arg(long, value_name = "DIR", default_value = config::PIN_DIR)]
    pub(super) pin_dir: PathBuf,
}

/// The day of the agent's clock, in UTC.
pub(super) const TODAY: &str = "today";

/// Every day.
pub(super) const ALL: &str = "all";

/// Whether the eight digits are a date is for the agent to say.
fn day(text: &str) -> Result<String, &'static str> {
    if text == TODAY || (text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit())) {
        Ok(text.to_owned())
    } else {
        Err("write a day as YYYYMMDD, or `today`")
    }
}

fn day_or_all(text: &str) -> Result<String, &'static str> {
    if text == ALL { Ok(text.to_owned()) } else { day(text) }
}
