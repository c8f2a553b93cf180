//! The edgegate binary.
fn main() {}
