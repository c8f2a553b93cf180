//! TCP's header, and places within a frame by their distance from its start.

use crate::memory::{bounds, load8, load16_be, load32};
use crate::work::Work;
use aya_ebpf::programs::XdpContext;

pub const FIN: u32 = 1;
pub const SYN: u32 = 2;
pub const RST: u32 = 4;
pub const PSH: u32 = 8;
pub const ACK: u32 = 16;

/// TCP's header without options.
pub const TCP_LEN: u32 = 20;

/// Time stamps with the padding that usually precedes them.
pub const STAMPS_LEN: u32 = 12;

/// The first four bytes of options that are `STAMPS_LEN` long: twice nothing, then time stamps of ten bytes.
const STAMPS: u32 = u32::from_le_bytes([1, 1, 8, 10]);

/// Farthest that anything the program looks for may be from the start of a frame; a power of two less one.
pub const FAR: u32 = 0xfff;

/// A frame as it is now. Whatever changes its length makes it stale.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub fn of(context: &XdpContext) -> Self {
        let (start, end) = bounds(context.ctx);
        Self { start, end }
    }

    /// The address of `bytes` bytes at a place in the frame, if it has them.
    #[inline(always)]
    pub fn at(self, place: u32, bytes: usize) -> Option<usize> {
        let at = self.start + (place & FAR) as usize;
        if at + bytes > self.end { None } else { Some(at) }
    }

    /// The frame's length.
    #[inline(always)]
    pub fn length(self) -> u32 {
        (self.end - self.start) as u32
    }

    /// Where it ends.
    #[inline(always)]
    pub const fn end(self) -> usize {
        self.end
    }
}

/// Reads the header of a TCP packet; `None` if it is not whole.
#[inline(always)]
pub fn parse(frame: Frame, work: &mut Work) -> Option<()> {
    let transport_at = work.packet.transport_at;
    let into = &mut work.segment;
    into.end_at = if work.packet.end_at == 0 { frame.length() } else { work.packet.end_at };
    let header = frame.at(transport_at, TCP_LEN as usize)?;
    // SAFETY: `at` has checked that the whole header lies in the frame.
    let (length, flags) = unsafe { (u32::from(load8(header + 12) >> 4) * 4, u32::from(load8(header + 13))) };
    let data_at = transport_at + length;
    if length < TCP_LEN || data_at > into.end_at {
        return None;
    }
    into.data_at = data_at;
    into.flags = flags & 0x3f;
    // SAFETY: as above.
    unsafe {
        into.sequence = load32(header + 4).swap_bytes();
        into.acknowledged = load32(header + 8).swap_bytes();
        into.window = u32::from(load16_be(header + 14));
    }
    into.stamped = 0;
    if length >= TCP_LEN + STAMPS_LEN
        && let Some(options) = frame.at(transport_at + TCP_LEN, STAMPS_LEN as usize)
    {
        // SAFETY: `at` has checked that these bytes lie in the frame.
        unsafe {
            if load32(options) == STAMPS {
                into.stamped = 1;
                into.stamps = [load32(options + 4), load32(options + 8)];
            }
        }
    }
    Some(())
}
