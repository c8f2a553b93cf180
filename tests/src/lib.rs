//! Harness of the end-to-end tests.
//!
//! - [`binary`]: the real `edgegate`, built once, run as a process of its own and ended with its test.
//! - [`cases`]: token cases as data, and what each must lead to.
//! - [`conn`]: connections that are kept, read answer by answer.
//! - [`contract`]: the example configuration and tokens for it, made without the product's own code.
//! - [`control`]: the control socket, whose every answer is held against the API's document.
//! - [`edge`]: a gate whose kernel part watches sessions and countries, and what to ask it.
//! - [`fleet`]: a real `nats-server` and agents that follow it.
//! - [`frames`]: Ethernet frames made byte by byte.
//! - [`handshake`]: connections whose sequence numbers are known.
//! - [`kernel`]: the kernel program, loaded but attached nowhere, and frames to run through it.
//! - [`netns`]: a network of its own for each test, with a veth pair to it.
//! - [`origin`]: servers behind the gate, which do what a test tells them and remember what they saw.
//! - [`places`]: a geo database in memory, for tests of the library alone.
//! - [`random`]: random numbers that are the same in every run.
//! - [`raw`]: HTTP spoken byte by byte, so that no client tidies up what a test sends.
//! - [`require`]: tools that a test needs and a machine may lack.
//! - [`schema`]: as much of JSON Schema as that document uses.
//! - [`tables`]: the kernel's tables, filled by hand.
#![expect(clippy::expect_used, clippy::panic, reason = "a harness fails by panicking")]
#![expect(missing_docs, reason = "fields and variants of test data say what they are by their names")]

pub mod binary;
pub mod cases;
pub mod conn;
pub mod contract;
pub mod control;
pub mod deferred;
pub mod edge;
pub mod fleet;
pub mod frames;
pub mod handshake;
pub mod kernel;
pub mod netns;
pub mod origin;
pub mod places;
pub mod random;
pub mod raw;
pub mod require;
pub mod schema;
pub mod tables;

use std::time::{Duration, Instant};

/// Nothing takes this long, even on a slow and noisy machine; what does has failed.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none in time.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
