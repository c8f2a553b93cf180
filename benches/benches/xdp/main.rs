//! What the kernel part costs and gains, each figure beside its baseline in the same run. Medians of rounds in which all
//! that is compared takes turns; a promise is missed, and the bench fails, if the median misses it by more than noise.
//!
//! `cargo bench -p benches --bench xdp` as root. With `--test` every part runs once on little data, and only outcomes
//! count. A part whose tools are missing is skipped, unless `EDGEGATE_REQUIRE` names them: `kernel,xdp-filter,nginx`.
#![expect(clippy::expect_used, reason = "a bench whose report cannot be written must not look well")]

mod filter;
mod frames;
mod kernel;
mod load;
mod packets;
mod raw;
mod web;

use benches::report::Report;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// How much of everything.
pub(crate) struct Scale {
    /// Whether this is a measurement, and not a test of the bench.
    pub(crate) full: bool,
    /// Rounds of everything.
    pub(crate) rounds: u32,
    /// Turns of each program in a round.
    pub(crate) turns: u32,
    /// Packets in a turn.
    pub(crate) packets: u32,
    /// Addresses on the lists, of each family; a tenth as many networks.
    pub(crate) listed: usize,
    /// Blacklisted sessions.
    pub(crate) sessions: usize,
    /// Single writes that are measured to know what all would take.
    pub(crate) singles: usize,
    /// How long clients go on in a round.
    pub(crate) phase: Duration,
}

/// A measurement.
const FULL: Scale = Scale {
    full: true,
    rounds: 21,
    turns: 3,
    packets: 1 << 17,
    listed: 10_000,
    sessions: 1_000_000,
    singles: 20_000,
    phase: Duration::from_millis(1000),
};

/// A test.
const QUICK: Scale = Scale {
    full: false,
    rounds: 1,
    turns: 1,
    packets: 1 << 12,
    listed: 100,
    sessions: 10_000,
    singles: 100,
    phase: Duration::from_millis(100),
};

fn main() -> ExitCode {
    let scale = if std::env::args().any(|argument| argument == "--test") { QUICK } else { FULL };
    let mut report = Report::default();
    match kernel::unfit() {
        Some(reason) => skip(&mut report, "everything", "kernel", &reason),
        None => run(&scale, &mut report),
    }
    print!("{}", report.table(scale.full));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the folder of what is built");
    let text = serde_json::to_string_pretty(&report).expect("numbers and names");
    if scale.full {
        std::fs::write(target.join("xdp.json"), text).expect("the report written");
    }
    if scale.full && !report.holds() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(scale: &Scale, report: &mut Report) {
    let lack = filter::unfit();
    let xdp_filter = filter::object().filter(|_| lack.is_none());
    if xdp_filter.is_none() {
        let reason = lack.unwrap_or_else(|| "its object is not installed".to_owned());
        skip(report, "packets against xdp-filter", "xdp-filter", &reason);
    }
    // On one processor from the first packet to the last, whose caches then have what they can have.
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            let mut here = CpuSet::new();
            here.set(sched_getcpu());
            sched_setaffinity(None, &here).expect("one processor");
            packets::measure(scale, xdp_filter.as_deref(), report);
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    load::measure(scale, report);
    match (web::unfit(), web::nginx()) {
        (Some(reason), _) => skip(report, "answers against nginx", "kernel", &reason),
        (None, None) => skip(report, "answers against nginx", "nginx", "not installed"),
        (None, Some(program)) => web::measure(scale, program, report),
    }
}

/// Leaves a part out, if that is allowed.
fn skip(report: &mut Report, part: &str, tool: &str, reason: &str) {
    let message = format!("{part}: needs {tool}: {reason}");
    let required = std::env::var("EDGEGATE_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == tool), "{message}");
    report.skipped.push(message);
}
