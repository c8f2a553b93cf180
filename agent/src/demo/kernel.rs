//! The demo's kernel part: a client in a network namespace of its own, behind a veth pair whose other end is filtered.
//!
//! ```text
//! namespace: client ── veth ── XDP program ─▶ gateway (the same process) ─▶ the demo's origin
//! ```

use super::cases::Minter;
use super::client;
use super::geodb::{self, Place};
use crate::clock::Clock;
use crate::kernel;
use crate::metrics::Metrics;
use crate::run;
use crate::snapshot::Snapshot;
use anyhow::Context as _;
use ebpf_abi::Outcome;
use ipnet::IpNet;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A dropped packet gets no answer in this time.
const SILENCE: Duration = Duration::from_millis(700);

/// Shows the kernel part, and whether all was as expected; `None`, and why, where it cannot be shown.
pub(super) async fn show(
    minter: &Minter,
    origin: SocketAddr,
    folder: &Path,
) -> anyhow::Result<Option<(usize, usize)>> {
    if !rustix::process::geteuid().is_root() {
        println!("kernel part: not shown, it needs root");
        return Ok(None);
    }
    let net = match Net::new() {
        Ok(net) => net,
        Err(error) => {
            println!("kernel part: not shown: {error:#}");
            return Ok(None);
        }
    };
    let metrics = Metrics::new()?;
    let snapshot = net.snapshot(minter, origin, folder, &metrics)?;
    let gate = match run::start(snapshot, Clock::System, metrics.clone()) {
        Ok(gate) => gate,
        Err(error) => {
            println!("kernel part: not shown: {error}");
            return Ok(None);
        }
    };
    println!("kernel part: XDP program on {}, client in namespace {}\n", net.here, net.namespace);
    println!(
        "{:<26} {:<15} {:<30} {:<29} userspace  as expected",
        "request", "client", "client saw", "kernel"
    );
    let mut good = 0;
    let cases = net.cases(minter);
    for case in &cases {
        good += usize::from(net.show(case, &metrics).await?);
    }
    gate.stop().await;
    kernel::detach(&net.pin_dir).context("cannot take the kernel part out")?;
    Ok(Some((good, cases.len())))
}

/// One request and what is to become of it in the kernel.
struct Case {
    name: &'static str,
    client: Ipv4Addr,
    target: String,
    /// Status and reason; `None`: no answer at all.
    seen: Option<(u16, Option<&'static str>)>,
    kernel: Outcome,
    /// Decisions in userspace.
    decisions: u64,
}

/// A namespace and a veth pair. They go with the value.
struct Net {
    namespace: String,
    here: String,
    there: String,
    pin_dir: PathBuf,
    /// The third byte of every address, so that two demos can run.
    number: u8,
}

/// What a client saw, and how long it took.
struct Seen {
    reply: Option<client::Reply>,
    took: Duration,
}

impl Net {
    fn new() -> anyhow::Result<Self> {
        let process = std::process::id();
        let net = Self {
            namespace: format!("edgegate-demo-{process}"),
            here: format!("egd{process}h"),
            there: format!("egd{process}p"),
            pin_dir: format!("/sys/fs/bpf/edgegate-demo-{process}").into(),
            number: process.to_le_bytes()[0],
        };
        let Self { namespace, here, there, .. } = &net;
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("link add {here} type veth peer name {there} netns {namespace}"))?;
        ip(&format!("addr add {}/24 dev {here}", net.address(1)))?;
        for end in [2, 3, 4] {
            ip(&format!("-n {namespace} addr add {}/24 dev {there}", net.address(end)))?;
        }
        ip(&format!("link set {here} up"))?;
        ip(&format!("-n {namespace} link set {there} up"))?;
        Ok(net)
    }

    /// Of the networks for measurements (RFC 2544): 1 is the gate, 2 a client in France, 3 one in the USA, 4 a denied one.
    const fn address(&self, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 19, self.number, end)
    }

    /// Databases and configuration, as files.
    fn snapshot(
        &self,
        minter: &Minter,
        origin: SocketAddr,
        folder: &Path,
        metrics: &Metrics,
    ) -> anyhow::Result<Snapshot> {
        let place = |end, country| Place {
            network: IpNet::from(IpAddr::V4(self.address(end))),
            country,
            city: None,
            asn: None,
        };
        let places = [place(2, "FR"), place(3, "US"), place(4, "FR")];
        let database = folder.join("kernel-city.mmdb");
        std::fs::write(&database, geodb::city_database(&places, minter.now()))
            .with_context(|| format!("cannot write {}", database.display()))?;
        let prefilter = format!(
            r#"interfaces = ["{}"]
mode = "generic"
required = true
pin_dir = "{}"
deny = ["{}"]
session_ports = [8080]

[[prefilter.service]]
address = "{}"
ports = [8080]
countries = ["FR"]
"#,
            self.here,
            self.pin_dir.display(),
            self.address(4),
            self.address(1),
        );
        let path = folder.join("edgegate-kernel.toml");
        std::fs::write(&path, minter.kernel_configuration(self.gateway(), origin, &prefilter))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Snapshot::load(&path, minter.now(), metrics)?)
    }

    const fn gateway(&self) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address(1)), 8080)
    }

    fn cases(&self, minter: &Minter) -> Vec<Case> {
        let playlist = minter.hls_playlist();
        let refused = Some((403, Some("session_blacklisted")));
        let case = |name, end, target, seen, kernel, decisions| Case {
            name,
            client: self.address(end),
            target,
            seen,
            kernel,
            decisions,
        };
        vec![
            case("HLS playlist", 2, playlist.clone(), Some((200, None)), Outcome::PassInspected, 1),
            case("blacklisted session", 2, minter.blacklisted(), refused, Outcome::RespondSession, 0),
            case("denied country", 3, playlist.clone(), None, Outcome::DropCountryDenied, 0),
            case("denied address", 4, playlist, None, Outcome::DropIpDenied, 0),
        ]
    }

    /// Sends a request and prints what became of it; whether that is as expected.
    async fn show(&self, case: &Case, metrics: &Metrics) -> anyhow::Result<bool> {
        let counted = || -> anyhow::Result<(u64, u64)> {
            let packets = kernel::counters(&self.pin_dir)?.read()?;
            let packets = packets.iter().find(|(outcome, _)| *outcome == case.kernel).map_or(0, |(_, n)| *n);
            Ok((packets, metrics.decision.get_sample_count()))
        };
        let (packets_before, decisions_before) = counted()?;
        let seen = self.request(case)?;
        let (packets, decisions) = counted()?;
        let (packets, decisions) = (packets - packets_before, decisions - decisions_before);

        let answer = seen.reply.as_ref().map(|reply| (reply.status, reply.reason.as_deref()));
        let as_expected = answer == case.seen && packets > 0 && decisions == case.decisions;
        let millis = seen.took.as_secs_f64() * 1e3;
        let saw = match &answer {
            None => "no answer".to_owned(),
            Some((status, _)) => match self.curl(case).filter(|_| case.seen == answer && decisions == 0) {
                Some(time) => format!("{status}; curl: after {time} ms"),
                None => format!("{status} after {millis:.2} ms"),
            },
        };
        let (verdict, reason) = case.kernel.labels();
        let untouched = if decisions == 0 { "untouched" } else { "decided" };
        println!(
            "{:<26} {:<15} {saw:<30} {:<29} {untouched:<10} {}",
            case.name,
            case.client,
            format!("{verdict} {reason}"),
            if as_expected { "yes" } else { "NO" }
        );
        Ok(as_expected)
    }

    fn request(&self, case: &Case) -> anyhow::Result<Seen> {
        let namespace = Path::new("/run/netns").join(&self.namespace);
        let namespace =
            File::open(&namespace).with_context(|| format!("cannot open {}", namespace.display()))?;
        let (gateway, client, target) = (self.gateway(), IpAddr::V4(case.client), case.target.clone());
        // A thread of its own: it stays in the namespace.
        let thread = std::thread::spawn(move || -> anyhow::Result<Seen> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let started = Instant::now();
            let reply = runtime.block_on(async {
                tokio::time::timeout(SILENCE, client::get(gateway, client, &target)).await
            });
            Ok(Seen { reply: reply.ok().transpose()?, took: started.elapsed() })
        });
        thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the client's thread ended early")))
    }

    /// The time that curl takes for the same request, in milliseconds.
    fn curl(&self, case: &Case) -> Option<String> {
        let url = format!("http://{}{}", self.gateway(), case.target);
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace, "curl", "--silent", "--output", "/dev/null"])
            .args(["--interface", &case.client.to_string(), "--max-time", "2"])
            .args(["--write-out", "%{time_total}", &url])
            .output()
            .ok()?;
        let seconds: f64 = std::str::from_utf8(&output.stdout).ok()?.trim().parse().ok()?;
        output.status.success().then(|| format!("{:.2}", seconds * 1e3))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Err(error) = kernel::detach(&self.pin_dir) {
            tracing::debug!("{error}");
        }
        for arguments in [["link", "del", &self.here], ["netns", "del", &self.namespace]] {
            let _gone_already = Command::new("ip").args(arguments).output();
        }
    }
}

/// Runs `ip`, of iproute2.
fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("cannot run `ip`")?;
    if output.status.success() {
        return Ok(());
    }
    anyhow::bail!("`ip {arguments}`: {}", String::from_utf8_lossy(&output.stderr).trim())
}
