//! The agent as a whole: started with everything bound or not at all, reloaded, and stopped without dropping a request.

use crate::admin::Admin;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::control::{self, Control};
use crate::events::Bus;
use crate::fleet::{self, Fleet};
use crate::flows::Flows;
use crate::gateway::Gateway;
use crate::judge::Judge;
use crate::kernel::{self, FollowError, Part};
use crate::metrics::Metrics;
use crate::server::{self, Handler};
use crate::snapshot::{Live, Snapshot};
use crate::socket::{BindError, Listener};
use crate::state::{Change, ChangeError, Done, Store, World, Writer};
use crate::upstream::Upstreams;
use crate::workers::{Places, Workers};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use validator_core::Day;

/// Most connections to the auth and metrics listeners each. Their clients are few and known.
const INNER_CONNECTIONS: usize = 4096;

/// Most connections to the control socket.
const CONTROL_CONNECTIONS: usize = 256;

/// How long what was asked for there may take at the end. Streams of events have no end of their own.
const CONTROL_DRAIN: Duration = Duration::from_secs(5);

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
    /// The system has no threads left.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReloadError(ChangeError);

/// A running agent.
pub struct Running {
    writer: Arc<Writer>,
    #[cfg(test)]
    flows: Arc<Flows>,
    shutdown: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Where the gateway's connections are, which the tasks wait for.
    workers: Workers,
    gateway: Vec<SocketAddr>,
    auth: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
}

/// Binds everything, then serves.
///
/// # Errors
/// [`StartError`]; nothing is left bound then.
pub fn start(snapshot: Snapshot, clock: Clock, metrics: Metrics) -> Result<Running, StartError> {
    start_with(snapshot, None, clock, metrics)
}

/// Likewise, with the store that the snapshot was made from.
pub(crate) fn start_with(
    mut snapshot: Snapshot,
    store: Option<Store>,
    clock: Clock,
    metrics: Metrics,
) -> Result<Running, StartError> {
    let config = &snapshot.config;
    let workers = Workers::start()?;
    let gateway = {
        let _accepting = workers.accepting().enter();
        config.gateway.as_ref().map(|g| bind_all("gateway", &g.listen)).transpose()?
    };
    let auth = config.auth.as_ref().map(|a| bind_all("auth", &a.listen)).transpose()?;
    let admin = config.metrics.map(|address| Listener::bind("metrics", &Listen::Tcp(address))).transpose()?;
    let control = config.control.as_deref().map(Listener::bind_control).transpose()?;
    let drain = config.gateway.as_ref().map_or(DRAIN, |g| g.drain_timeout);
    let gateway_slots = config.gateway.as_ref().map_or(1, |g| g.max_connections);

    // After everything that another agent on this host would stand in the way of.
    let flows = Arc::new(Flows::new(metrics.flows_rejected.clone()));
    let events = Bus::default();
    let kernel = Arc::new(Part::new(metrics.clone(), Arc::clone(&flows), events.clone()));
    let staged = kernel.prepare(&snapshot, None, clock.now())?;
    kernel.commit(staged, &mut snapshot)?;
    metrics.snapshot_version.set(i64::try_from(snapshot.revision).unwrap_or(i64::MAX));
    let live = Live::new(snapshot);
    let judge = Judge::new(live.clone(), clock.clone(), metrics.clone(), Arc::clone(&flows), events.clone());
    let world = World {
        live: live.clone(),
        kernel: Arc::clone(&kernel),
        flows: Arc::clone(&flows),
        metrics: metrics.clone(),
        clock: clock.clone(),
        events: events.clone(),
    };
    let fleet = match (&store, &live.current().config.fleet) {
        (Some(_), Some(settings)) => Some(Fleet::new(Arc::clone(settings), metrics.clone())),
        _ => None,
    };
    let writer = Arc::new(Writer::start(world, store)?);
    let (shutdown, down) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let addresses = |listeners: &[Listener]| listeners.iter().filter_map(Listener::address).collect();

    let time = Time {
        kernel: Arc::clone(&kernel),
        live: live.clone(),
        clock: clock.clone(),
        writer: Arc::clone(&writer),
    };
    tasks.spawn(time.tell(down.clone()));
    if let Some(fleet) = &fleet {
        let world = fleet::World {
            writer: Arc::clone(&writer),
            live: live.clone(),
            clock: clock.clone(),
            down: down.clone(),
        };
        tasks.spawn(Arc::clone(fleet).follow(world));
    }
    let mut running = Running {
        writer: Arc::clone(&writer),
        #[cfg(test)]
        flows: Arc::clone(&flows),
        shutdown,
        tasks: JoinSet::new(),
        workers,
        gateway: addresses(gateway.as_deref().unwrap_or_default()),
        auth: addresses(auth.as_deref().unwrap_or_default()),
        admin: admin.as_ref().and_then(Listener::address),
    };
    let slots = Arc::new(Semaphore::new(gateway_slots));
    let places = running.workers.places(|| Gateway::new(judge.clone(), Upstreams::default()));
    for listener in gateway.into_iter().flatten() {
        let serving = server::serve(listener, places.clone(), Arc::clone(&slots), down.clone(), drain);
        tasks.spawn_on(serving, running.workers.accepting());
    }
    spawn(&mut tasks, auth.into_iter().flatten(), Auth::new(judge), INNER_CONNECTIONS, &down, drain);
    let handler = Admin::new(metrics.clone(), down.clone());
    spawn(&mut tasks, admin.into_iter(), handler, INNER_CONNECTIONS, &down, drain);
    let handler = Control::new(control::Seen {
        live,
        writer,
        kernel,
        events,
        metrics,
        clock,
        fleet,
        gateway: running.gateway.clone(),
        auth: running.auth.clone(),
        admin: running.admin,
        down: down.clone(),
    });
    spawn(&mut tasks, control.into_iter(), handler, CONTROL_CONNECTIONS, &down, CONTROL_DRAIN);
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

    /// Reads the configuration file again and puts it in force as a whole. Gives the version since.
    ///
    /// # Errors
    /// [`ReloadError`]; the old configuration stays in force then.
    pub fn reload(&self) -> Result<u64, ReloadError> {
        let applied = self.writer.change_blocking(Change::Reload).map_err(ReloadError)?;
        if let Done::Config { warnings, .. } = &applied.done {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        Ok(applied.version)
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
pub(crate) async fn run(snapshot: Snapshot, store: Option<Store>, metrics: Metrics) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;

    report_warnings(&snapshot.config);
    if snapshot.kernel.is_none() {
        kernel::remove_leftovers(&snapshot.config.kernel);
    }
    let running = start_with(snapshot, store, Clock::System, metrics)?;
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
            _ = hangup.recv() => match tokio::task::block_in_place(|| running.reload()) {
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
            Places::here(Arc::clone(&handler)),
            Arc::clone(&slots),
            shutdown.clone(),
            drain,
        ));
    }
}

/// What has to be told that time goes on.
struct Time {
    kernel: Arc<Part>,
    live: Live,
    clock: Clock,
    writer: Arc<Writer>,
}

impl Time {
    /// Tells the kernel the time often enough, and has day lists forgotten that have ended, until the agent ends.
    async fn tell(self, mut shutdown: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut day = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = shutdown.wait_for(|&down| down) => return,
            }
            let now = self.clock.now();
            self.kernel.tick(&self.live.current(), now);
            let today = Day::of(now);
            if day.replace(today) != Some(today)
                && let Err(error) = self.writer.change(Change::Forget).await
            {
                tracing::warn!("day lists that have ended are still in the store: {error}");
            }
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
