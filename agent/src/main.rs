//! The edgegate binary.
mod config;
mod demo;

fn main() {}
