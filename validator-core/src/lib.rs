//! The decision of edgegate: request, policy and time in, verdict out.
#![no_std]
extern crate alloc;

pub mod pattern;
