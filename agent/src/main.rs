//! The edgegate binary.
mod demo;

fn main() {}
