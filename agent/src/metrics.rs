//! Counters for Prometheus. No label holds anything that a client can choose.

use crate::kernel::{Compiled, Counters, Lists};
use ebpf_abi::FLAG_SESSIONS;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use validator_core::Reason;

/// Bounds of `edgegate_decision_seconds`: from a quarter of a microsecond to one millisecond.
const DECISION_BOUNDS: [f64; 10] = [250e-9, 500e-9, 1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 64e-6, 256e-6, 1e-3];

/// The label of requests that no route decided.
pub const NO_ROUTE: &str = "-";

/// Every metric of the process.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    verdicts: IntCounterVec,
    monitored: IntCounterVec,
    /// Time spent deciding.
    pub decision: Histogram,
    /// Version of the configuration in force.
    pub snapshot_version: IntGauge,
    /// Reloads that were refused.
    pub reload_failures: IntCounter,
    /// Requests refused for their HTTP, before any decision.
    pub bad_requests: IntCounterVec,
    /// Requests whose upstream did not answer.
    pub upstream_failures: IntCounterVec,
    /// Connections that the kernel was told to reject.
    pub(crate) flows_rejected: IntCounterVec,
    /// The revision of the fleet's bucket that is in force.
    pub(crate) fleet_applied_revision: IntGauge,
    /// Whether the fleet's bucket is followed.
    pub(crate) fleet_connected: IntGauge,
    /// The kernel part.
    pub(crate) kernel: KernelMetrics,
}

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// None in practice: names and labels are fixed and distinct.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok(counters)
        };
        let verdicts =
            counters("edgegate_verdicts_total", "Decisions by outcome.", &["route", "verdict", "reason"])?;
        let monitored = counters(
            "edgegate_monitored_total",
            "Claims that did not hold, and lists that would have refused, let through by monitor mode.",
            &["claim"],
        )?;
        let bad_requests = counters(
            "edgegate_bad_requests_total",
            "Requests refused for their HTTP before any decision.",
            &["listener", "reason"],
        )?;
        let upstream_failures =
            counters("edgegate_upstream_failures_total", "Requests whose upstream failed.", &["reason"])?;
        let flows_rejected = counters(
            "edgegate_flows_rejected_total",
            "Connections that the kernel part was told to reject.",
            &["cause"],
        )?;
        let build = counters("edgegate_build_info", "The running version.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).inc();

        let decision = Histogram::with_opts(
            HistogramOpts::new("edgegate_decision_seconds", "Time spent deciding.")
                .buckets(DECISION_BOUNDS.to_vec()),
        )?;
        registry.register(Box::new(decision.clone()))?;
        let snapshot_version =
            IntGauge::new("edgegate_snapshot_version", "Version of the configuration in force.")?;
        registry.register(Box::new(snapshot_version.clone()))?;
        let reload_failures = IntCounter::new("edgegate_reload_failures_total", "Refused reloads.")?;
        registry.register(Box::new(reload_failures.clone()))?;
        let packets = counters(
            "edgegate_kernel_packets_total",
            "Packets by what the kernel part did with them, since its maps were made.",
            &["verdict", "reason"],
        )?;
        let entries = IntGaugeVec::new(
            Opts::new("edgegate_map_entries", "Entries in the kernel maps that are in force."),
            &["map"],
        )?;
        registry.register(Box::new(entries.clone()))?;
        let up = IntGauge::new("edgegate_kernel_up", "Whether the kernel part is in force.")?;
        registry.register(Box::new(up.clone()))?;
        let fleet_applied_revision = IntGauge::new(
            "edgegate_fleet_applied_revision",
            "Revision of the fleet's bucket that is in force.",
        )?;
        let fleet_connected =
            IntGauge::new("edgegate_fleet_connected", "Whether the fleet's bucket is followed.")?;
        let kernel = KernelMetrics { packets, entries, up, source: Arc::default() };
        Ok(Self {
            kernel,
            registry,
            verdicts,
            monitored,
            decision,
            snapshot_version,
            reload_failures,
            bad_requests,
            upstream_failures,
            flows_rejected,
            fleet_applied_revision,
            fleet_connected,
        })
    }

    /// Shows the fleet's gauges: where there is no fleet, nobody should wait for a connection.
    pub(crate) fn show_fleet(&self) {
        for gauge in [&self.fleet_applied_revision, &self.fleet_connected] {
            // It is there already.
            let _shown = self.registry.register(Box::new(gauge.clone()));
        }
    }

    /// The counters of a set of routes.
    #[must_use]
    pub fn for_routes(&self, names: impl IntoIterator<Item = String>) -> RouteCounters {
        let routes = names.into_iter().chain([NO_ROUTE.to_owned()]).map(PerRoute::new).collect();
        RouteCounters { verdicts: self.verdicts.clone(), monitored: self.monitored.clone(), routes }
    }

    /// The text exposition format.
    ///
    /// # Errors
    /// When a metric is inconsistent, which registration rules out.
    pub fn render(&self) -> prometheus::Result<String> {
        self.kernel.refresh();
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// What the kernel part tells of itself.
#[derive(Clone)]
pub(crate) struct KernelMetrics {
    packets: IntCounterVec,
    entries: IntGaugeVec,
    up: IntGauge,
    source: Arc<Mutex<Option<Counters>>>,
}

impl KernelMetrics {
    /// It is in force, and counts here.
    pub(crate) fn up(&self, counters: Counters) {
        self.set_source(Some(counters));
        self.up.set(1);
    }

    /// It is not in force.
    pub(crate) fn down(&self) {
        self.set_source(None);
        self.up.set(0);
        self.entries.reset();
    }

    /// These are in force, and so many sessions.
    pub(crate) fn entries(&self, lists: &Lists, compiled: &Compiled, sessions: usize) {
        let sessions = if compiled.flags & FLAG_SESSIONS == 0 { 0 } else { sessions };
        for (map, entries) in [
            ("exact", lists.exact.len()),
            ("prefix", lists.prefix.len()),
            ("services", compiled.services),
            ("countries_v4", compiled.ranges.v4),
            ("countries_v6", compiled.ranges.v6),
            ("sessions", sessions),
        ] {
            self.entries.with_label_values(&[map]).set(i64::try_from(entries).unwrap_or(i64::MAX));
        }
    }

    fn set_source(&self, counters: Option<Counters>) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }

    /// Takes over what the program has counted by now.
    fn refresh(&self) {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(counters) = source.as_ref() else { return };
        match counters.read() {
            Ok(counts) => {
                for (outcome, count) in counts {
                    let (verdict, reason) = outcome.labels();
                    let counter = self.packets.with_label_values(&[verdict, reason]);
                    // The map counts; new maps start at zero, as a restarted process would.
                    if count < counter.get() {
                        counter.reset();
                    }
                    counter.inc_by(count - counter.get());
                }
            }
            Err(error) => tracing::warn!("kernel: the counters cannot be read: {error}"),
        }
    }
}

/// Counters of a configuration's routes; clones count together. A counter is looked up by name once, when it is first needed.
#[derive(Clone)]
pub struct RouteCounters {
    verdicts: IntCounterVec,
    monitored: IntCounterVec,
    routes: Arc<[PerRoute]>,
}

struct PerRoute {
    name: String,
    /// Allowed, then one for each reason. A route has one kind of refusal, so the reason alone names the series.
    outcomes: Arc<[OnceLock<IntCounter>]>,
}

impl PerRoute {
    fn new(name: String) -> Self {
        let outcomes = (0..=Reason::ALL.len()).map(|_| OnceLock::new()).collect();
        Self { name, outcomes }
    }
}

impl RouteCounters {
    /// Counts a decision; `route` is its index, `None` for requests that no route decided.
    pub fn count(
        &self,
        route: Option<usize>,
        verdict: &'static str,
        reason: Option<Reason>,
        let_through: impl Iterator<Item = &'static str>,
    ) {
        let index = route.unwrap_or(self.routes.len() - 1);
        let Some(route) = self.routes.get(index) else { return };
        let outcome = reason.map_or(0, |reason| reason as usize + 1);
        route.outcomes[outcome]
            .get_or_init(|| {
                let reason = reason.map_or("", Reason::name);
                self.verdicts.with_label_values(&[route.name.as_str(), verdict, reason])
            })
            .inc();
        for claim in let_through {
            self.monitored.with_label_values(&[claim]).inc();
        }
    }
}
