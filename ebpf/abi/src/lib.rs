//! Types shared between the kernel programs and the agent. Only the identification of the ABI is fixed so far: the
//! agent refuses a pinned map or an object whose magic or version differs.
#![no_std]

/// First word of the configuration map: `edge` in ASCII, big-endian.
pub const MAGIC: u32 = 0x6564_6765;

/// Version of every layout in this crate. Any change of a shared type raises it.
pub const ABI_VERSION: u32 = 0;
