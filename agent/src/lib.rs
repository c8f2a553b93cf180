//! The agent of edgegate: everything around the decision that [`validator_core`] makes.
//!
//! ```text
//!            ┌─ server ── wire ── hyper ─┬─ gateway ── judge ──▶ validator_core::decide
//! sockets ──▶│  accept, PROXY header,    ├─ auth ───── judge         │
//!            │  limits, drain            └─ admin (metrics)          ▼ allow
//!            └─ run: start, stop                                  upstream (kept connections)
//!                     │  ├─ workers: the threads that the gateway's connections are served on
//!                     │  ├─ kernel: XDP program, what it judges by in its maps
//!                     │  └─ flows: whose session is on which connection, what the kernel is told about it
//!              snapshot = config + sessions + geo databases + counters, replaced as a whole
//!                     ▲
//!              state: store and writer, the only one that replaces it
//!                     ▲
//!    operators ─▶ control (HTTP on a unix socket, `ctl` is its client)     fleet ◀─ NATS bucket
//! ```
//!
//! The library exists for the binary `edgegate` and for the project's own tests; it is not a stable interface.

mod admin;
mod auth;
mod check;
pub mod cli;
pub mod clock;
pub mod config;
mod control;
mod ctl;
mod deadline;
pub mod demo;
mod events;
mod fleet;
mod flows;
mod gateway;
pub mod geo;
mod judge;
pub mod kernel;
mod logging;
pub mod memory;
mod message;
pub mod metrics;
mod private;
mod proxy_protocol;
pub mod run;
mod server;
mod sign;
pub mod snapshot;
mod socket;
mod state;
mod upstream;
mod wire;
mod workers;
