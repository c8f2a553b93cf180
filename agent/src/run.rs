//! The agent as a whole: started with everything bound or not at all, reloaded, and stopped without dropping a request.

use crate::admin::Admin;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::flows::Flows;
use crate::gateway::Gateway;
use crate::judge::Judge;
use crate::kernel::{self, FollowError, Part};
use crate::metrics::Metrics;
use crate::server::{self, Handler};
use crate::snapshot::{Live, LoadError, Snapshot};
use crate::socket::{BindError, Listener};
use crate::upstream::Upstreams;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use validator_core::net::NetSet;

/// Most connections to the auth and metrics listeners each. Their clients are few and known.
const INNER_CONNECTIONS: usize = 4096;

/// Between two looks at the clock on the kernel's behalf: less than windows and day lists are ahead of userspace there.
const TICK: Duration = Duration::from_millis(500);

/// How long requests under way may take at the end, where there is no gateway to say.
const DRAIN: Duration = Duration::from_secs(30);

/// Why the agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel part is required, and not in force.
    #[error(transparent)]
    Kernel(#[from] FollowError),
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The new configuration cannot be put in force.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It changes what only a restart can change.
    #[error("`{0}` cannot change while the agent runs: restart it, or set the old value again")]
    NeedsRestart(&'static str),
    /// The kernel did not take the new configuration, or is required now and not in force.
    #[error(transparent)]
    Kernel(#[from] FollowError),
}

/// A running agent.
pub struct Running {
    live: Live,
    metrics: Metrics,
    kernel: Arc<Part>,
    flows: Arc<Flows>,
    shutdown: watch::Sender<bool>,
    tasks: JoinSet<()>,
    gateway: Vec<SocketAddr>,
    auth: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

/// Binds everything, then serves.
///
/// # Errors
/// [`StartError`]; nothing is left bound then.
pub fn start(mut snapshot: Snapshot, clock: Clock, metrics: Metrics) -> Result<Running, StartError> {
    let config = &snapshot.config;
    let gateway = config.gateway.as_ref().map(|g| bind_all("gateway", &g.listen)).transpose()?;
    let auth = config.auth.as_ref().map(|a| bind_all("auth", &a.listen)).transpose()?;
    let admin = config.metrics.map(|address| Listener::bind("metrics", &Listen::Tcp(address))).transpose()?;
    let drain = config.gateway.as_ref().map_or(DRAIN, |g| g.drain_timeout);
    let gateway_slots = config.gateway.as_ref().map_or(1, |g| g.max_connections);

    // After everything that another agent on this host would stand in the way of.
    let flows = Arc::new(Flows::new(metrics.flows_rejected.clone()));
    let kernel = Arc::new(Part::new(metrics.clone(), Arc::clone(&flows)));
    kernel.follow(&mut snapshot, None, clock.now())?;
    metrics.snapshot_version.set(i64::try_from(snapshot.version).unwrap_or(i64::MAX));
    let live = Live::new(snapshot);
    let judge = Judge::new(live.clone(), clock.clone(), metrics.clone(), Arc::clone(&flows));
    let (shutdown, down) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let addresses = |listeners: &[Listener]| listeners.iter().filter_map(Listener::address).collect();

    tasks.spawn(tell_time(Arc::clone(&kernel), live.clone(), clock, down.clone()));
    let mut running = Running {
        live,
        metrics: metrics.clone(),
        kernel,
        flows,
        shutdown,
        tasks: JoinSet::new(),
        gateway: addresses(gateway.as_deref().unwrap_or_default()),
        auth: addresses(auth.as_deref().unwrap_or_default()),
        admin: admin.as_ref().and_then(Listener::address),
    };
    let handler = Gateway::new(judge.clone(), Upstreams::default());
    spawn(&mut tasks, gateway.into_iter().flatten(), handler, gateway_slots, &down, drain);
    spawn(&mut tasks, auth.into_iter().flatten(), Auth::new(judge), INNER_CONNECTIONS, &down, drain);
    let handler = Admin::new(metrics, down.clone());
    spawn(&mut tasks, admin.into_iter(), handler, INNER_CONNECTIONS, &down, drain);
    running.tasks = tasks;
    Ok(running)
}

impl Running {
    /// Addresses of the gateway, with the ports that the system chose.
    #[must_use]
    pub fn gateway(&self) -> &[SocketAddr] {
        &self.gateway
    }

    /// Addresses of the auth listener.
    #[must_use]
    pub fn auth(&self) -> &[SocketAddr] {
        &self.auth
    }

    /// Address of the metrics listener.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Reads the configuration again and puts it in force as a whole.
    ///
    /// # Errors
    /// [`ReloadError`]; the old configuration stays in force then.
    pub fn reload(&self, path: &Path, now: u64) -> Result<u64, ReloadError> {
        let outcome = self.try_reload(path, now);
        if outcome.is_err() {
            self.metrics.reload_failures.inc();
        }
        outcome
    }

    fn try_reload(&self, path: &Path, now: u64) -> Result<u64, ReloadError> {
        let mut snapshot = Snapshot::load(path, now, &self.metrics)?;
        if let Some(key) = needs_restart(&self.live.current().config, &snapshot.config) {
            return Err(ReloadError::NeedsRestart(key));
        }
        let version = snapshot.version;
        report_warnings(&snapshot.config);
        let old = self.live.current();
        self.kernel.follow(&mut snapshot, Some(&old), now)?;
        self.live.replace(snapshot);
        let new = self.live.current();
        self.kernel.leave(&new);
        self.reject_blacklisted(&old, &new, now);
        self.metrics.snapshot_version.set(i64::try_from(version).unwrap_or(i64::MAX));
        Ok(version)
    }

    /// Rejects connections whose session the snapshot in force blacklists and `old` did not.
    fn reject_blacklisted(&self, old: &Snapshot, new: &Snapshot, now: u64) {
        let none = NetSet::default();
        let trusted = new.config.gateway.as_ref().map_or(&none, |gateway| &gateway.trusted_proxies);
        let listed = |snapshot: &Snapshot, sid: &str| snapshot.config.policy.sessions.contains(sid, now);
        let rejected =
            self.flows.blacklisted(|sid| listed(new, sid) && !listed(old, sid), trusted, Instant::now());
        if rejected > 0 {
            tracing::info!(rejected, "kernel: connections of newly blacklisted sessions are refused");
        }
    }

    /// Accepts nothing more, and returns when the requests under way are finished or out of time.
    pub async fn stop(mut self) {
        self.shutdown.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Runs until SIGTERM or SIGINT; SIGHUP reloads.
///
/// # Errors
/// [`StartError`], or a signal that cannot be listened to.
pub async fn run(snapshot: Snapshot, path: &Path, metrics: Metrics) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;

    report_warnings(&snapshot.config);
    if snapshot.kernel.is_none() {
        kernel::remove_leftovers(&snapshot.config.kernel);
    }
    let running = start(snapshot, Clock::System, metrics)?;
    for (listener, addresses) in [("gateway", running.gateway()), ("auth", running.auth())] {
        for address in addresses {
            tracing::info!(listener, %address, "listening");
        }
    }
    if let Some(address) = running.metrics() {
        tracing::info!(listener = "metrics", %address, "listening");
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match running.reload(path, Clock::System.now()) {
                Ok(version) => tracing::info!(version, "configuration reloaded"),
                Err(error) => tracing::error!("reload refused, the old configuration stays in force:\n{error}"),
            },
        }
    }
    tracing::info!("draining");
    running.stop().await;
    tracing::info!("stopped");
    Ok(())
}

fn bind_all(section: &'static str, listen: &[Listen]) -> Result<Vec<Listener>, BindError> {
    listen.iter().map(|address| Listener::bind(section, address)).collect()
}

fn spawn<H: Handler>(
    tasks: &mut JoinSet<()>,
    listeners: impl Iterator<Item = Listener>,
    handler: H,
    connections: usize,
    shutdown: &watch::Receiver<bool>,
    drain: Duration,
) {
    let handler = Arc::new(handler);
    let slots = Arc::new(Semaphore::new(connections));
    for listener in listeners {
        tasks.spawn(server::serve(
            listener,
            Arc::clone(&handler),
            Arc::clone(&slots),
            shutdown.clone(),
            drain,
        ));
    }
}

/// The first key whose new value only a restart could put in force. Sockets are bound and logs opened once.
fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    let gateway = |config: &Config| config.gateway.as_ref().map(|g| g.listen.clone());
    let connections = |config: &Config| config.gateway.as_ref().map(|g| g.max_connections);
    let auth = |config: &Config| config.auth.as_ref().map(|a| a.listen.clone());
    if gateway(old) != gateway(new) {
        Some("gateway.listen")
    } else if connections(old) != connections(new) {
        Some("gateway.max_connections")
    } else if auth(old) != auth(new) {
        Some("auth.listen")
    } else if old.metrics != new.metrics {
        Some("metrics.listen")
    } else if old.log != new.log {
        Some("log")
    } else if old.kernel.mode != new.kernel.mode {
        Some("prefilter.mode")
    } else if old.kernel.pin_dir != new.kernel.pin_dir {
        Some("prefilter.pin_dir")
    } else if !old.kernel.interfaces.is_empty() && old.blacklist_capacity != new.blacklist_capacity {
        Some("blacklist.capacity")
    } else {
        None
    }
}

/// Tells the kernel the time often enough, until the agent ends.
async fn tell_time(kernel: Arc<Part>, live: Live, clock: Clock, mut shutdown: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => kernel.tick(&live.current(), clock.now()),
            _ = shutdown.wait_for(|&down| down) => return,
        }
    }
}

fn report_warnings(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests;
