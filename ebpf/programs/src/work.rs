//! Memory of a processor for one packet at a time.
//!
//! What is kept here instead of on the stack is as good as unknown to the verifier when it is read again. That is wanted:
//! after a loop with many exits, it follows one path on instead of one for each exit.

use crate::config::Config;
use crate::packet::Packet;
use crate::socket::Socket;
use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use ebpf_abi::{SID_WORDS, SessionKey};

/// Places in a token where a session may be; a power of two.
pub const CANDIDATES: usize = 8;

/// What is worked out about a segment of a TCP connection.
#[repr(C)]
pub struct Work {
    /// The id of a session as it is decoded, with room for what a decoded group of letters has before it.
    pub sid: [u64; SID_WORDS + 3],
    /// Its key.
    pub key: SessionKey,
    /// Groups of letters in which `"sid":"` may be.
    pub candidates: [u32; CANDIDATES],
    /// How many of them there are.
    pub found: u32,
    /// Whether the request is a `HEAD` and not a `GET`.
    pub head: u32,
    /// Where the token starts in the frame.
    pub token_at: u32,
    /// Letters of its header.
    pub header: u32,
    /// Where its payload starts in the frame.
    pub payload_at: u32,
    /// How many bytes the payload has before the session's id.
    pub value_at: u32,
    /// Length of the id in bytes.
    pub length: u32,
    /// What a walk through the token has come to; its meaning is the walk's.
    pub walk: [u32; 4],
    /// Values of [`Work::value_at`] whose ids are blacklisted: the first and the last one.
    pub hits: [u32; 2],
    /// How many there are.
    pub hit: u32,
    /// What was read of the configuration: its flags, and the bank that they belong to.
    pub config: [u32; 2],
    /// Whether its port is searched for sessions.
    pub watched: u32,
    /// Whether the flow may be known.
    pub known: u32,
    /// The packet.
    pub packet: Packet,
    /// The segment, if it is one.
    pub segment: Segment,
    /// The local socket that it is for, if it was looked up.
    pub socket: Socket,
    /// What to send or to pass on in place of the segment.
    pub plan: Plan,
}

impl Work {
    /// What was read of the configuration for this packet.
    #[inline(always)]
    pub const fn config(&self) -> Config {
        let [flags, bank] = self.config;
        Config { bank, flags }
    }
}

/// A segment of TCP: where its data is, and what its header says. Numbers are in the processor's order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Segment {
    /// Where the data starts in the frame.
    pub data_at: u32,
    /// Where the data ends in the frame.
    pub end_at: u32,
    /// Sequence number of the first byte.
    pub sequence: u32,
    /// Sequence number that the sender expects.
    pub acknowledged: u32,
    /// TCP's flags.
    pub flags: u32,
    /// The window as it is in the header.
    pub window: u32,
    /// Whether there are time stamps where they usually are, and nothing else.
    pub stamped: u32,
    /// The sender's time stamp and the one that it echoes, as they are in the header.
    pub stamps: [u32; 2],
}

impl Segment {
    /// Bytes of data.
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        self.end_at.wrapping_sub(self.data_at)
    }
}

/// What to send or to pass on in place of a segment.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plan {
    /// Whether it goes back to the sender instead of on to the server.
    pub back: u32,
    /// TCP's flags.
    pub flags: u32,
    /// Sequence number.
    pub sequence: u32,
    /// Number acknowledged.
    pub acknowledged: u32,
    /// Index of the reply plus one; zero for none.
    pub reply: u32,
    /// Zero.
    pub reserved: u32,
}

#[btf_map]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// This processor's memory.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: it is this processor's own, never freed, and the program is not interrupted by itself. It is asked for once
    // per packet.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}
