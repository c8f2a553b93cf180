//! Harness of the end-to-end tests.
//!
//! - [`cases`]: token cases as data, and what each must lead to.
//! - [`places`]: a geo database in memory, for tests of the library alone.
//! - [`raw`]: HTTP spoken byte by byte, so that no client tidies up what a test sends.
#![expect(clippy::expect_used, clippy::panic, reason = "a harness fails by panicking")]
#![expect(missing_docs, reason = "fields and variants of test data say what they are by their names")]

pub mod cases;
pub mod places;
pub mod raw;
