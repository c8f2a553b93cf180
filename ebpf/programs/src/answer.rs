//! Frames that are made in place of others: an answer to the client, or a reset for the server.
//!
//! Checksums are computed anew over all of TCP's header. Those of a frame that comes from another process of the machine
//! are not complete, so there is nothing to correct.

use crate::memory::{fits, load8, load32, load64, store16, store32, store64};
use crate::packet::TCP;
use crate::segment::{Frame, STAMPS_LEN, TCP_LEN};
use crate::work::Work;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_tail;
use aya_ebpf::programs::XdpContext;
use core::ptr::addr_of;
use ebpf_abi::{REPLY_CAPACITY, Reply, Tables};

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: u32 = 20;
const IPV6_LEN: u32 = 40;

/// Routers that a made packet may pass.
const LIFETIME: u8 = 64;

/// Makes of the frame what the plan says. False: there is no room; the frame is as it was.
#[inline(never)]
pub fn make(context: &XdpContext, work: &Work) -> bool {
    let Some(tables) = work.config().tables() else { return false };
    if work.packet.plain == 0 {
        return false;
    }
    let plan = &work.plan;
    let segment = &work.segment;
    let (reply, length, payload_sum) = reply(tables, plan.reply);
    // A reset needs no time stamps.
    let stamped = segment.stamped != 0 && plan.back != 0;
    let header = if stamped { TCP_LEN + STAMPS_LEN } else { TCP_LEN };
    let change = (work.packet.transport_at + header + length).wrapping_sub(Frame::of(context).length());
    // SAFETY: the context is this program's; every address into the frame is computed anew below.
    if unsafe { bpf_xdp_adjust_tail(context.ctx, change as i32) } != 0 {
        return false;
    }
    // From here on nothing fails: the frame is longer than all that is written.
    let frame = Frame::of(context);
    let _whole = write(frame, work, reply, header, length, payload_sum);
    true
}

/// A reply by its number plus one, its length, and the sum of its words.
#[inline(always)]
fn reply(tables: *const Tables, number: u32) -> (*const Reply, u32, u32) {
    // SAFETY: the index is below the length; the tables are never freed.
    unsafe {
        let reply = addr_of!((*tables).replies).cast::<Reply>().add((number.wrapping_sub(1) & 1) as usize);
        if number == 0 {
            return (reply, 0, 0);
        }
        let length = addr_of!((*reply).length).read_volatile() & (2 * REPLY_CAPACITY as u32 - 1);
        (reply, length, addr_of!((*reply).sum).read_volatile())
    }
}

#[inline(always)]
fn write(
    frame: Frame,
    work: &Work,
    reply: *const Reply,
    header: u32,
    length: u32,
    payload_sum: u32,
) -> Option<()> {
    let plan = &work.plan;
    let segment = &work.segment;
    let back = plan.back != 0;
    let ethernet = frame.at(0, ETHERNET_LEN)?;
    if back {
        // SAFETY: `at` has checked that the bytes lie in the frame, here and below.
        unsafe {
            let (a, b, c) = (load32(ethernet), load32(ethernet + 4), load32(ethernet + 8));
            // Six bytes each: the first address is `a` and the lower half of `b`.
            store32(ethernet, b >> 16 | c << 16);
            store32(ethernet + 4, c >> 16 | a << 16);
            store32(ethernet + 8, a >> 16 | b << 16);
        }
    }
    let mut sum = u64::from(payload_sum) + u64::from(TCP) * 256 + swapped(header + length);
    sum += if work.packet.v4 != 0 {
        ipv4(frame, work.packet.network_at, back, IPV4_LEN + header + length)?
    } else {
        ipv6(frame, work.packet.network_at, back, header + length)?
    };
    let tcp = frame.at(work.packet.transport_at, TCP_LEN as usize)?;
    // SAFETY: as above.
    unsafe {
        if back {
            let ports = load32(tcp);
            store32(tcp, ports << 16 | ports >> 16);
        }
        store32(tcp + 4, plan.sequence.swap_bytes());
        store32(tcp + 8, plan.acknowledged.swap_bytes());
        let window = if back { 0xffffu32 } else { 0 };
        store32(tcp + 12, (header / 4) << 4 | plan.flags << 8 | window << 16);
        store32(tcp + 16, 0);
        sum += words(tcp, 5);
    }
    if header != TCP_LEN {
        let options = frame.at(work.packet.transport_at + TCP_LEN, STAMPS_LEN as usize)?;
        let [theirs, ours] = segment.stamps;
        // SAFETY: as above.
        unsafe {
            // The clock of the server's time stamps is its own; the last one that the client has seen is one it takes.
            store32(options + 4, ours);
            store32(options + 8, theirs);
            sum += words(options, 3);
        }
    }
    // SAFETY: as above.
    unsafe { store16(tcp + 16, !folded(sum)) };
    if length != 0 {
        payload(frame, work.packet.transport_at + header, reply, length);
    }
    Some(())
}

/// Copies the reply; there is room for it.
#[inline(always)]
fn payload(frame: Frame, at: u32, reply: *const Reply, length: u32) {
    let Some(to) = frame.at(at, 8) else { return };
    // SAFETY: a place within the reply.
    let from = unsafe { addr_of!((*reply).bytes) } as usize;
    for word in 0..REPLY_CAPACITY / 8 {
        let here = to + word * 8;
        if word * 8 >= length as usize || !fits(here, 8, frame.end()) {
            break;
        }
        // SAFETY: within the reply, and checked against the end of the frame.
        unsafe { store64(here, load64(from + word * 8)) };
    }
}

/// Completes IPv4's header. Gives the sum of the addresses.
#[inline(always)]
fn ipv4(frame: Frame, at: u32, back: bool, length: u32) -> Option<u64> {
    let ip = frame.at(at, IPV4_LEN as usize)?;
    // SAFETY: `at` has checked that the bytes lie in the frame.
    unsafe {
        let first = load32(ip);
        store32(ip, first & 0xffff | (swapped(length) as u32) << 16);
        if back {
            let (source, destination) = (load32(ip + 12), load32(ip + 16));
            store32(ip + 12, destination);
            store32(ip + 16, source);
        }
        let lifetime = if back { LIFETIME } else { load8(ip + 8) };
        store32(ip + 8, u32::from(lifetime) | u32::from(TCP) << 8);
        let sum = words(ip, 5);
        store16(ip + 10, !folded(sum));
        Some(words(ip + 12, 2))
    }
}

/// Completes IPv6's header. Gives the sum of the addresses.
#[inline(always)]
fn ipv6(frame: Frame, at: u32, back: bool, length: u32) -> Option<u64> {
    let ip = frame.at(at, IPV6_LEN as usize)?;
    // SAFETY: `at` has checked that the bytes lie in the frame.
    unsafe {
        let lifetime = if back { LIFETIME } else { load8(ip + 7) };
        store32(ip + 4, swapped(length) as u32 | u32::from(TCP) << 16 | u32::from(lifetime) << 24);
        if back {
            let (s0, s1) = (load64(ip + 8), load64(ip + 16));
            let (d0, d1) = (load64(ip + 24), load64(ip + 32));
            store64(ip + 8, d0);
            store64(ip + 16, d1);
            store64(ip + 24, s0);
            store64(ip + 32, s1);
        }
        Some(words(ip + 8, 8))
    }
}

/// The sum of words of 32 bits. Folded it is that of the words of 16 bits in them, in whichever byte order.
///
/// # Safety
/// They must be readable.
#[inline(always)]
unsafe fn words(at: usize, count: usize) -> u64 {
    let mut sum = 0;
    for word in 0..count {
        // SAFETY: the caller's.
        sum += u64::from(unsafe { load32(at + word * 4) });
    }
    sum
}

#[inline(always)]
const fn folded(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// A number of 16 bits as a packet has it.
#[inline(always)]
const fn swapped(number: u32) -> u64 {
    (number as u16).swap_bytes() as u64
}
