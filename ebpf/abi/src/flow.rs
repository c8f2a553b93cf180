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

/// Up to when a flow of a cell may be known, in ticks of 2^30 nanoseconds, of which it has the lowest 16 bits; zero: none
/// is. All cells are 128 KiB, which a processor keeps near. After some 19 hours an old one looks like a new one for a
/// while, which costs a look-up and means nothing.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Cell(pub u16);

impl Cell {
    /// How many ticks ahead a cell may be.
    const AHEAD: u16 = 256;

    /// How far ahead of now an instant may be, in nanoseconds.
    pub const LONGEST: u64 = (Self::AHEAD as u64 - 2) << 30;

    /// A cell up to an instant of `CLOCK_MONOTONIC`, at most [`Cell::LONGEST`] from now.
    #[inline(always)]
    #[must_use]
    pub const fn until(nanoseconds: u64) -> Self {
        let tick = Self::tick(nanoseconds).wrapping_add(1);
        Self(if tick == 0 { 1 } else { tick })
    }

    /// Whether the cell is ahead of an instant.
    #[inline(always)]
    #[must_use]
    pub const fn is_ahead(self, now: u64) -> bool {
        self.0 != 0 && self.left(now) < Self::AHEAD
    }

    /// The later of two cells, the second of which is ahead of now.
    #[inline(always)]
    #[must_use]
    pub const fn or_later(self, other: Self, now: u64) -> Self {
        if self.is_ahead(now) && self.left(now) > other.left(now) { self } else { other }
    }

    #[inline(always)]
    const fn left(self, now: u64) -> u16 {
        self.0.wrapping_sub(Self::tick(now))
    }

    #[inline(always)]
    const fn tick(nanoseconds: u64) -> u16 {
        let [low, high, ..] = (nanoseconds >> 30).to_le_bytes();
        u16::from_le_bytes([low, high])
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

#[cfg(test)]
mod tests {
    use super::*;

    /// From any instant on, also where ticks begin again, a cell holds as long as it has to, and not much longer.
    #[test]
    fn cells_hold_as_long_as_they_say() {
        const TICK: u64 = 1 << 30;
        for start in [0, 1, 65_000, 65_270, 65_535, 65_536, 131_000] {
            for now in [start * TICK, start * TICK + 1, start * TICK + TICK - 1] {
                for lasting in [0, 1, TICK, 60_000_000_000, 120_000_000_000, Cell::LONGEST] {
                    let until = now + lasting;
                    let cell = Cell::until(until);
                    for at in [now, now + lasting / 2, until] {
                        assert!(cell.is_ahead(at), "{start} {now} {lasting} {at}");
                        assert!(!Cell(0).is_ahead(at));
                    }
                    assert!(!cell.is_ahead(until + 3 * TICK));
                    for other in [0, lasting / 2, Cell::LONGEST].map(|lasting| Cell::until(now + lasting)) {
                        for later in [cell.or_later(other, now), other.or_later(cell, now)] {
                            assert!(later == cell || later == other);
                            assert!(later.left(now) >= cell.left(now) && later.left(now) >= other.left(now));
                        }
                    }
                    assert_eq!(Cell(0).or_later(cell, now), cell);
                    assert_eq!(Cell(cell.0.wrapping_sub(1000)).or_later(cell, now), cell);
                }
            }
        }
    }
}
