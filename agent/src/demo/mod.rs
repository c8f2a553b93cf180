//! `edgegate demo`: the whole job on one machine, with real content and real geo databases.
//!
//! An origin with a small HLS and DASH presentation stands behind a gateway whose configuration is an ordinary file in
//! a temporary folder. One request per case goes through it, from loopback addresses that the geo databases place in
//! different countries; the table shows what became of each. As root it goes on with the kernel part.

mod cases;
mod client;
pub mod geodb;
mod kernel;
pub mod media;
mod origin;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::private;
use crate::run::{self, Running, StartError};
use crate::state;
use anyhow::Context as _;
use cases::{Minter, SOCKET, VIEWER};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where the gateway listens unless told otherwise.
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// Runs every case and prints the table; then serves until Ctrl-C, unless `once`.
///
/// Returns whether every verdict was as expected.
///
/// # Errors
/// When the demo cannot be set up, or a request of its own fails.
pub async fn run(listen: Option<SocketAddr>, once: bool, dir: Option<&Path>) -> anyhow::Result<bool> {
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = dir.unwrap_or(temporary.path());
    let folder = make_folder(folder).with_context(|| format!("cannot use {}", folder.display()))?;
    let origin = origin::start().await?;
    let minter = Minter::new(Clock::System.now());
    let gate = start_gate(&folder, origin.address, listen, &minter)?;
    let Some(&address) = gate.gateway().first() else {
        anyhow::bail!("the gateway has no address");
    };

    println!("edgegate demo: gateway on http://{address}, origin on http://{}", origin.address);
    println!("configuration: {}", folder.join("edgegate.toml").display());
    println!("control: edgegate ctl --socket {}\n", folder.join(SOCKET).display());
    let (good, total) = show_cases(&minter, address).await?;
    println!("\n{good} of {total} verdicts as expected\n");
    let mut as_expected = good == total;
    if let Some((good, total)) = kernel::show(&minter, origin.address, &folder).await? {
        println!("\n{good} of {total} as expected in the kernel");
        as_expected &= good == total;
    }
    if !once {
        write_urls(&folder, &minter, address)?;
        show_commands(&minter, address, &folder);
        println!("\nServing until Ctrl-C.");
        tokio::signal::ctrl_c().await.context("cannot wait for Ctrl-C")?;
    }
    gate.stop().await;
    Ok(as_expected)
}

/// Writes databases and configuration, and starts the gateway on them.
fn start_gate(
    folder: &Path,
    origin: SocketAddr,
    listen: Option<SocketAddr>,
    minter: &Minter,
) -> anyhow::Result<Running> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    write("city.mmdb", &geodb::city_database(geodb::PLACES, minter.now()))?;
    write("asn.mmdb", &geodb::asn_database(geodb::PLACES, minter.now()))?;
    let start = |listen: SocketAddr| {
        write("edgegate.toml", minter.configuration(listen, origin, folder).as_bytes())?;
        let metrics = Metrics::new()?;
        let (snapshot, store) = state::load(&folder.join("edgegate.toml"), minter.now(), &metrics)?;
        run::start_with(snapshot, store, Clock::System, metrics).map_err(anyhow::Error::from)
    };
    match listen {
        Some(listen) => start(listen),
        None => {
            let listen: SocketAddr = DEFAULT_LISTEN.parse()?;
            start(listen).or_else(|error| {
                // Somebody else's 8080 is no reason to fail before anything was shown.
                let taken = matches!(error.downcast_ref(), Some(StartError::Bind(bind))
                    if bind.source.kind() == std::io::ErrorKind::AddrInUse);
                if taken { start(SocketAddr::new(listen.ip(), 0)) } else { Err(error) }
            })
        }
    }
}

/// Gives how many verdicts were as expected, and how many there are.
async fn show_cases(minter: &Minter, gateway: SocketAddr) -> anyhow::Result<(usize, usize)> {
    println!("{:<44} {:<11} {:>6}  {:<22} as expected", "request", "client", "status", "verdict");
    let (mut good, mut total) = (0, 0);
    for case in minter.cases(gateway) {
        let reply = client::get(gateway, case.client, &case.target)
            .await
            .with_context(|| format!("the request of the case {:?} failed", case.name))?;
        let verdict = reply.reason.as_deref().unwrap_or("allow");
        let as_expected = case.expects(&reply);
        let shown = if as_expected { "yes" } else { "NO" };
        println!("{:<44} {:<11} {:>6}  {verdict:<22} {shown}", case.name, case.client, reply.status);
        total += 1;
        good += usize::from(as_expected);
    }
    Ok((good, total))
}

/// The URLs of a viewer, a file each: to be asked for again and again.
fn write_urls(folder: &Path, minter: &Minter, gateway: SocketAddr) -> anyhow::Result<()> {
    for (name, target) in minter.viewer() {
        let path = folder.join(name);
        std::fs::write(&path, format!("http://{gateway}{target}\n"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Its absolute path: that of the socket in it must not depend on who asks.
fn make_folder(folder: &Path) -> std::io::Result<PathBuf> {
    private::folder(folder)?;
    folder.canonicalize()
}

fn show_commands(minter: &Minter, gateway: SocketAddr, folder: &Path) {
    let base = format!("http://{gateway}");
    let hls = format!("{base}{}", minter.hls_playlist());
    let dash = format!("{base}{}", minter.dash_manifest());
    let lesson = format!("{base}{}", minter.lesson());
    let mut text = String::new();
    for (title, command) in [
        ("allowed", format!("curl -i '{hls}'")),
        ("the same without its token", format!("curl -i '{base}/Content/Channel/Demo/HLS/master.m3u8'")),
        (
            "bound to France, asked from Germany",
            format!("curl -i --interface 127.0.0.2 '{base}{}'", minter.french()),
        ),
        ("Secure Token", format!("curl -i '{lesson}'")),
        ("play HLS through the gate", format!("ffplay '{hls}'")),
        ("play DASH through the gate", format!("ffplay '{dash}'")),
        (
            "end the session of the HLS token",
            format!("edgegate ctl --socket {} blacklist add {VIEWER}", folder.join(SOCKET).display()),
        ),
    ] {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "\n# {title}\n{command}");
    }
    print!("{text}");
}
