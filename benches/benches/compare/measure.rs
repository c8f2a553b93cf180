//! What is done to a subject: requests that it must and must not let through, and load.

use crate::machine::{bound, processor_time};
use crate::subjects::Subject;
use benches::open_loop::{Load, Outcome};
use std::process::Command;
use std::time::Duration;
use tests::conn::Conn;

/// Asks once for what the subject is measured with, and once for everything that it must refuse.
pub(crate) fn check(subject: &Subject) {
    let mut right = Conn::open(subject.address);
    let reply = right.send(subject.request(&subject.target)).reply();
    let body = String::from_utf8_lossy(&reply.body);
    assert_eq!((reply.status, &*body), (200, subject.body), "{}", subject.name);
    for (what, target, status) in &subject.refused {
        let reply = Conn::open(subject.address).send(subject.request(target)).reply();
        let body = String::from_utf8_lossy(&reply.body);
        assert_eq!(reply.status, *status, "{}: {what}: {body}", subject.name);
    }
}

/// As fast as it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throughput {
    /// Requests per second.
    pub(crate) rate: f64,
    /// Requests per second of the subject's processor time.
    pub(crate) per_core: f64,
    /// The part of a core that the subject had.
    pub(crate) busy: f64,
}

/// Has `wrk` ask as fast as it can. Every answer has to be a 2xx, and the subject right before and after.
pub(crate) fn throughput(subject: &Subject, connections: usize, seconds: u64) -> Throughput {
    check(subject);
    let (target, headers) = subject.ask(&subject.target);
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    for header in headers {
        command.args(["-H", &header]);
    }
    command.arg(format!("http://{}{target}", subject.address));
    let before = processor_time(&subject.processes);
    let output = bound(&command).output().expect("wrk");
    let time = processor_time(&subject.processes) - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let wrong = !output.status.success()
        || text.contains("Non-2xx")
        || text.contains("Socket errors")
        || text.contains("unable to");
    assert!(!wrong, "{}: {text}{}", subject.name, String::from_utf8_lossy(&output.stderr));
    let (requests, lasted) = counted(&text).unwrap_or_else(|| panic!("wrk says {text}"));
    assert!(requests > 0.0, "{}: {text}", subject.name);
    check(subject);
    Throughput { rate: requests / lasted, per_core: requests / time, busy: time / lasted }
}

/// Requests and seconds: `  61234 requests in 2.00s, 15.36MB read`.
fn counted(text: &str) -> Option<(f64, f64)> {
    let (requests, rest) = text.lines().find_map(|line| line.split_once(" requests in "))?;
    let time = rest.split(',').next()?;
    let unit = time.trim_start_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let number: f64 = time.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        _ => return None,
    };
    Some((requests.trim().parse().ok()?, seconds))
}

/// Asks at a fixed rate. Every answer has to be the right one; only missing ones are left to the caller, as a subject
/// that is too slow for the rate has none.
pub(crate) fn open_loop(subject: &Subject, connections: usize, rate: f64, lasting: Duration) -> Outcome {
    let request = subject.request(&subject.target);
    let load = Load {
        address: subject.address,
        connections,
        rate,
        lasting,
        request: &request,
        body: subject.body.as_bytes(),
    };
    let outcome = load.run().unwrap_or_else(|error| panic!("{}: {error}", subject.name));
    assert_eq!(outcome.wrong, 0, "{}: {:?}", subject.name, outcome.fault());
    outcome
}

/// Decisions that a gate has made so far, and the seconds that they took, by its own metrics.
pub(crate) fn decisions(subject: &Subject) -> (f64, f64) {
    let gate = subject.gate.as_ref().expect("a gate of edgegate");
    let page = gate.metrics_page("/metrics");
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let value = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse::<f64>().ok())
            .unwrap_or_else(|| panic!("no {name} in {page}"))
    };
    (value("edgegate_decision_seconds_count"), value("edgegate_decision_seconds_sum"))
}
