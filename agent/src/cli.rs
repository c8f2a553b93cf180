//! The command line.

use crate::check::{self, Question};
use crate::clock::Clock;
use crate::ctl::Ctl;
use crate::fleet::args::{self as fleet, FleetCommand};
use crate::metrics::Metrics;
use crate::sign::{self, Claims, ContentJwt, Window};
use crate::snapshot::Snapshot;
use crate::{ctl, demo, logging, run, state};
use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use validator_core::Algorithm;

/// Exit code of a refusal.
const DENIED: u8 = 1;
/// Exit code of an error.
const FAILED: u8 = 2;

/// Token gate for CDN edge hosts.
#[derive(Parser)]
#[command(name = "edgegate", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the whole job on an embedded presentation: one request per case, then serve until Ctrl-C.
    Demo {
        /// Where the gateway listens. Without it 127.0.0.1:8080, or another port if that is taken.
        #[arg(long)]
        listen: Option<SocketAddr>,
        /// Exit after the table; not 0 if a verdict was not as expected.
        #[arg(long)]
        once: bool,
        /// Where configuration, state and control socket are, and stay for the next demo. A temporary folder without it.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Run the agent. SIGHUP reloads the configuration, SIGTERM finishes requests under way and ends.
    Run {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Work on a configuration without running it.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Control a running agent. Exits 0 when it is done, 1 if the agent refused it, 2 on an error.
    Ctl(Box<Ctl>),
    /// Control what is in force on all hosts of a fleet.
    Fleet {
        #[command(subcommand)]
        command: Box<FleetCommand>,
    },
    /// Explain the verdict on a URL, step by step. Exits 0 if it is allowed, 1 if not, 2 on an error.
    Check(CheckArgs),
    /// Make a URL with a token.
    Sign {
        #[command(subcommand)]
        scheme: SignCommand,
    },
    /// Print a script that completes these commands in a shell.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// List every problem of a configuration, with its line. Exits 0 if there is none, else 2.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
}

#[derive(Args)]
struct CheckArgs {
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// The URL, or its path.
    #[arg(long)]
    url: String,
    /// The client's address.
    #[arg(long)]
    client: IpAddr,
    /// The instant, in unix seconds; now without it.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
    /// The method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header field; may be repeated.
    #[arg(long = "header", value_name = "N: V")]
    headers: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum SignCommand {
    /// A JWT in the path.
    ContentJwt(Box<ContentJwtArgs>),
    /// A hash and an expiry in the query.
    SecureToken(SecureTokenArgs),
}

#[derive(Args)]
struct ContentJwtArgs {
    /// The key, in base64url.
    #[arg(long, required_unless_present = "key_file", conflicts_with = "key_file")]
    key: Option<String>,
    /// A file with the key, in base64url. Keeps it out of the process list.
    #[arg(long)]
    key_file: Option<PathBuf>,
    /// Accept a key that has not 32 bytes.
    #[arg(long)]
    allow_key_size: bool,
    /// Name of the secret.
    #[arg(long)]
    kid: String,
    /// Path of the content.
    #[arg(long)]
    path: String,
    /// Content id.
    #[arg(long)]
    cid: String,
    /// Streaming technology: dash, hls or mss.
    #[arg(long)]
    stt: String,
    /// How long the token is good, as in 90s, 15m, 1h, 2d.
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// When it is issued, in unix seconds; now without it.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
    /// Client address or CIDR.
    #[arg(long)]
    cip: Option<String>,
    /// Countries, as in FR,DE.
    #[arg(long, value_delimiter = ',')]
    geo: Vec<String>,
    /// When `geo` is enforced, as in 1713789349-1713794749; may be repeated.
    #[arg(long, value_name = "START-END")]
    geo_tw: Vec<Window>,
    /// City.
    #[arg(long)]
    local: Option<String>,
    /// Session id.
    #[arg(long)]
    sid: Option<String>,
    /// Autonomous system number.
    #[arg(long)]
    asn: Option<u32>,
    /// Start of the URL, as in https://cdn.example; without it only the path is printed.
    #[arg(long)]
    base: Option<String>,
}

#[derive(Args)]
struct SecureTokenArgs {
    /// The secret.
    #[arg(long, required_unless_present = "secret_file", conflicts_with = "secret_file")]
    secret: Option<String>,
    /// A file with the secret in its first line. Keeps it out of the process list.
    #[arg(long)]
    secret_file: Option<PathBuf>,
    /// Path of the content, with its query if there is one.
    #[arg(long)]
    path: String,
    /// How long the token is good, as in 90s, 15m, 1h, 2d.
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// When it is issued, in unix seconds; now without it.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
    /// How the hash is made.
    #[arg(long, value_enum, default_value = "md5")]
    algorithm: AlgorithmName,
    /// Start of the URL, as in https://cdn.example; without it only path and query are printed.
    #[arg(long)]
    base: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum AlgorithmName {
    Md5,
    HmacSha256,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Runs the command that the process was started with.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo { listen, once, dir } => demo(listen, once, dir.as_deref()),
        Command::Run { config } => run(&config),
        Command::Config { command: ConfigCommand::Check { file } } => config_check(&file),
        Command::Ctl(args) => ctl::main(*args),
        Command::Fleet { command } => fleet(*command),
        Command::Check(args) => check(args),
        Command::Sign { scheme } => match scheme {
            SignCommand::ContentJwt(args) => sign_content_jwt(*args),
            SignCommand::SecureToken(args) => sign_secure_token(&args),
        },
        Command::Completions { shell } => completions(shell),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("edgegate: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")
}

fn demo(listen: Option<SocketAddr>, once: bool, dir: Option<&Path>) -> anyhow::Result<ExitCode> {
    let as_expected = runtime()?.block_on(demo::run(listen, once, dir))?;
    Ok(if as_expected { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn fleet(command: FleetCommand) -> anyhow::Result<ExitCode> {
    let good = runtime()?.block_on(fleet::run(command))?;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let metrics = Metrics::new()?;
    let (snapshot, store) = state::load(path, Clock::System.now(), &metrics)?;
    logging::init(&snapshot.config.log);
    runtime()?.block_on(run::run(snapshot, store, metrics))?;
    Ok(ExitCode::SUCCESS)
}

/// Opens the geo databases too: a configuration is good if the agent would start with it.
fn config_check(path: &Path) -> anyhow::Result<ExitCode> {
    let snapshot = Snapshot::load(path, Clock::System.now(), &Metrics::new()?)?;
    for warning in &snapshot.config.warnings {
        println!("warning: {warning}");
    }
    println!("{}: good, {} routes", path.display(), snapshot.config.policy.routes.len());
    Ok(ExitCode::SUCCESS)
}

fn completions(shell: Shell) -> anyhow::Result<ExitCode> {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    // Not straight to standard output: the generator would panic if that is closed.
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut Cli::command(), "edgegate", &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("cannot write the script"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let now = Clock::System.now();
    let snapshot = Snapshot::load(&args.config, now, &Metrics::new()?)?;
    let question = Question {
        url: args.url,
        client: args.client.to_canonical(),
        at: args.at.unwrap_or(now),
        method: args.method,
        headers: args.headers,
    };
    let explanation = check::explain(&snapshot, &question)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!("{explanation}");
    }
    Ok(if explanation.allowed() { ExitCode::SUCCESS } else { ExitCode::from(DENIED) })
}

fn sign_content_jwt(args: ContentJwtArgs) -> anyhow::Result<ExitCode> {
    let text = secret_text(args.key, args.key_file.as_deref())?;
    let key = sign::key(&text, args.allow_key_size)?;
    let iat = args.at.unwrap_or_else(|| Clock::System.now());
    let claims = Claims {
        iat,
        exp: iat.saturating_add(args.ttl.as_secs()),
        cid: args.cid,
        stt: args.stt,
        cip: args.cip,
        geo: args.geo,
        geo_tw: args.geo_tw,
        local: args.local,
        sid: args.sid,
        asn: args.asn,
    };
    let request = ContentJwt { kid: args.kid, path: args.path, base: args.base, claims };
    println!("{}", sign::content_jwt(&request, &key)?);
    Ok(ExitCode::SUCCESS)
}

fn sign_secure_token(args: &SecureTokenArgs) -> anyhow::Result<ExitCode> {
    let text = secret_text(args.secret.clone(), args.secret_file.as_deref())?;
    let secret = text.lines().next().unwrap_or_default();
    let algorithm = match args.algorithm {
        AlgorithmName::Md5 => Algorithm::Md5,
        AlgorithmName::HmacSha256 => Algorithm::HmacSha256,
    };
    let expiry = args.at.unwrap_or_else(|| Clock::System.now()).saturating_add(args.ttl.as_secs());
    println!("{}", sign::secure_token(algorithm, secret, &args.path, expiry, args.base.as_deref())?);
    Ok(ExitCode::SUCCESS)
}

fn secret_text(given: Option<String>, file: Option<&Path>) -> anyhow::Result<zeroize::Zeroizing<String>> {
    let text = match (given, file) {
        (Some(text), _) => text,
        (None, Some(path)) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?
        }
        // clap asks for one of them.
        (None, None) => String::new(),
    };
    Ok(zeroize::Zeroizing::new(text))
}
