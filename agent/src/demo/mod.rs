//! What the `demo` command serves and reads.
#![cfg_attr(not(test), expect(dead_code, reason = "the demo command does not use its parts yet"))]

pub(crate) mod geodb;
pub(crate) mod media;
