//! Connections: those that were refused, and those between two requests.

use crate::{Address, CELLS};
use core::mem::{align_of, offset_of, size_of};

/// A connection as its client's packets name it. Aligned so that its addresses can be read as words.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Flow {
    /// The client.
    pub source: Address,
    /// Where it connected to.
    pub destination: Address,
    /// The client's port.
    pub source_port: u16,
    /// The port that it connected to.
    pub destination_port: u16,
    /// As in IP: 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

const _: () = {
    assert!(size_of::<Flow>() == 40 && align_of::<Flow>() == 8);
    assert!(offset_of!(Flow, destination) == 16 && offset_of!(Flow, source_port) == 32);
    assert!(offset_of!(Flow, destination_port) == 34 && offset_of!(Flow, protocol) == 36);
};

impl Flow {
    /// A number that stands for the flow; two flows may share one.
    #[inline(always)]
    #[must_use]
    pub const fn hash(&self) -> u64 {
        let [s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15] = self.source;
        let source_high = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let source_low = u64::from_le_bytes([s8, s9, s10, s11, s12, s13, s14, s15]);
        let [.., d8, d9, d10, d11, d12, d13, d14, d15] = self.destination;
        let destination_low = u64::from_le_bytes([d8, d9, d10, d11, d12, d13, d14, d15]);
        let ports =
            (self.source_port as u64) << 32 | (self.destination_port as u64) << 16 | self.protocol as u64;
        let mut hash = source_high ^ source_low.rotate_left(29) ^ destination_low.rotate_left(7) ^ ports;
        hash = (hash ^ (hash >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25);
        hash = (hash ^ (hash >> 28)).wrapping_mul(0x9fb2_1c65_1e98_df25);
        hash ^ (hash >> 32)
    }

    /// The cell that a flow of this [`Flow::hash`] falls into, below [`CELLS`].
    #[inline(always)]
    #[must_use]
    pub const fn cell(hash: u64) -> u32 {
        let [low, ..] = halves(hash);
        low & (CELLS - 1)
    }
}

/// The lower half of a number, then the upper one.
#[inline(always)]
const fn halves(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// Where a refused connection stands.
pub mod stage {
    /// The client was answered (or is about to be reset or dropped); the server does not know yet. The next packet tells it.
    pub const SERVER_WAITS: u32 = 0;
    /// Client and server are through with each other.
    pub const OVER: u32 = 1;
    /// Rejected by the agent: segments with data are refused. What ends the connection in good order passes.
    pub const NO_MORE_DATA: u32 = 2;
    /// Rejected by the agent: every packet is refused.
    pub const CUT: u32 = 3;
}

/// What is known of a refused connection.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct FlowState {
    /// Until when it counts, in nanoseconds of `CLOCK_MONOTONIC`.
    pub until: u64,
    /// One of [`stage`].
    pub stage: u32,
    /// Sequence number of the refused request, of which the server knows nothing.
    pub request: u32,
    /// Sequence number that the server would go on with.
    pub reply: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<FlowState>() == 24 && align_of::<FlowState>() == 8);
    assert!(offset_of!(FlowState, stage) == 8 && offset_of!(FlowState, request) == 12);
    assert!(offset_of!(FlowState, reply) == 16);
};

/// What the agent says of a connection of its own gateway that waits for a request: how many bytes it has taken and
/// given, all of them answered and none of them part of a request. The kernel compares with its own count, so a word that
/// is out of date says that the connection is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idle(pub u64);

impl Idle {
    /// The word for a flow with this [`Flow::hash`].
    #[inline(always)]
    #[must_use]
    pub const fn new(hash: u64, received: u64, acknowledged: u64) -> Self {
        let counts = received.wrapping_mul(0x9fb2_1c65_1e98_df25) ^ acknowledged.rotate_left(32);
        let counts = counts.wrapping_mul(0xff51_afd7_ed55_8ccd);
        Self((hash & 0xffff_ffff_0000_0000) | (counts >> 32))
    }
}
