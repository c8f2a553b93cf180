//! From the first byte of a frame to what the decisions ask for.
//!
//! Every read is preceded by a check against the end of the frame, in the form that the verifier follows: the byte
//! after what is read lies not behind the end.

use crate::memory::{bounds, load8, load16_be, load32, load64};
use aya_ebpf::programs::XdpContext;
use core::mem::{MaybeUninit, offset_of};
use ebpf_abi::{Address, Flow, MAPPED_BITS, Outcome};

/// What the decisions ask for.
#[repr(C)]
pub struct Packet {
    /// Addresses, ports and protocol; without ports where [`Packet::transport`] says so.
    pub flow: Flow,
    /// What follows IP's header.
    pub transport: Transport,
    /// Whether it is of IPv4.
    pub v4: u32,
    /// Whether IP's header is as short as it can be.
    pub plain: u32,
    /// Where IP's header starts in the frame.
    pub network_at: u32,
    /// Where the transport's header starts in the frame.
    pub transport_at: u32,
    /// Where the packet ends in the frame; zero where its header does not say.
    pub end_at: u32,
}

/// What follows IP's header.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP's ports.
    Tcp,
    /// UDP's ports.
    Udp,
    /// Something without ports.
    Portless,
    /// A fragment; the ports may be elsewhere.
    Fragment,
    /// Something that is cut short, or behind more headers than are followed.
    Unknown,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q.
const VLAN: u16 = 0x8100;
/// 802.1ad, the outer of two tags.
const SERVICE_VLAN: u16 = 0x88a8;

const ETHERNET_LEN: usize = 14;
const VLAN_LEN: usize = 4;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// Tags that are followed.
const VLAN_TAGS: usize = 2;

/// Extension headers of IPv6 that are followed.
const EXTENSIONS: usize = 6;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;

/// What precedes the IPv4 part of a mapped address: `::ffff:0:0/96`.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

const _: () = assert!(MAPPED.len() as u32 * 8 == MAPPED_BITS);

/// The place in a frame up to which it has been read.
struct Cursor {
    start: usize,
    at: usize,
    end: usize,
}

impl Cursor {
    /// Steps over a header, or not if the frame ends before; gives where it starts.
    #[inline(always)]
    fn take(&mut self, bytes: usize) -> Option<usize> {
        let header = self.at;
        if header + bytes > self.end {
            return None;
        }
        self.at += bytes;
        Some(header)
    }

    /// How far into the frame a place is.
    #[inline(always)]
    fn offset(&self, at: usize) -> u32 {
        (at - self.start) as u32
    }
}

/// Reads a frame. What is not a whole packet of a known protocol has its outcome at once.
///
/// A function of its own that leaves what it finds in memory: of all the kinds of frames that there are, the verifier
/// follows one from here on, and not each of them.
#[inline(never)]
pub fn parse(context: &XdpContext, packet: &mut Packet) -> Result<(), Outcome> {
    let (start, end) = bounds(context.ctx);
    let mut cursor = Cursor { start, at: start, end };
    let ethernet = cursor.take(ETHERNET_LEN).ok_or(Outcome::PassUnparsed)?;
    // SAFETY: `take` has checked that the whole header lies in the frame.
    let mut protocol = unsafe { load16_be(ethernet + 12) };
    for _ in 0..VLAN_TAGS {
        if !is_vlan(protocol) {
            break;
        }
        let vlan = cursor.take(VLAN_LEN).ok_or(Outcome::PassUnparsed)?;
        // SAFETY: as above.
        protocol = unsafe { load16_be(vlan + 2) };
    }
    match protocol {
        IPV4 => ipv4(&mut cursor, packet),
        IPV6 => ipv6(&mut cursor, packet),
        _ if is_vlan(protocol) => Err(Outcome::PassUnparsed),
        _ => Err(Outcome::PassOther),
    }
}

#[inline(always)]
const fn is_vlan(protocol: u16) -> bool {
    matches!(protocol, VLAN | SERVICE_VLAN)
}

#[inline(always)]
fn ipv4(cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Outcome> {
    let ip = cursor.take(IPV4_LEN).ok_or(Outcome::PassUnparsed)?;
    // SAFETY: `take` has checked that the whole header lies in the frame.
    let (version_and_words, total_length, fragment, protocol, source, destination) = unsafe {
        let total_length = load16_be(ip + 2) as usize;
        (load8(ip), total_length, load16_be(ip + 6), load8(ip + 9), load32(ip + 12), load32(ip + 16))
    };
    let header_length = (version_and_words & 0xf) as usize * 4;
    if version_and_words >> 4 != 4 || header_length < IPV4_LEN || ip + header_length > cursor.end {
        return Err(Outcome::PassUnparsed);
    }
    // Zero: segments that the kernel has merged into one of more than 64 KiB, as generic mode sees them. On the wire it
    // is malformed, and the stack drops it.
    if total_length != 0 && (total_length < header_length || ip + total_length > cursor.end) {
        return Err(Outcome::PassUnparsed);
    }
    packet.flow.source = mapped(source);
    packet.flow.destination = mapped(destination);
    packet.network_at = cursor.offset(ip);
    packet.transport_at = packet.network_at + header_length as u32;
    packet.end_at = if total_length == 0 { 0 } else { packet.network_at + total_length as u32 };
    packet.v4 = 1;
    packet.plain = u32::from(header_length == IPV4_LEN);
    portless(packet, Transport::Fragment, protocol);
    cursor.at = ip + header_length;
    // More fragments, or not the first one.
    if fragment & 0x3fff == 0 {
        ports(cursor, packet);
    }
    Ok(())
}

/// A source in `::ffff:0:0/96` is the IPv4 address that it contains, with no more ado: [`Address`] is made that way.
#[inline(always)]
fn ipv6(cursor: &mut Cursor, packet: &mut Packet) -> Result<(), Outcome> {
    let ip = cursor.take(IPV6_LEN).ok_or(Outcome::PassUnparsed)?;
    // SAFETY: `take` has checked that the whole header lies in the frame.
    let (version, payload_length, next) =
        unsafe { (load8(ip) >> 4, load16_be(ip + 4) as usize, load8(ip + 6)) };
    // A payload of length zero says nothing of its length: a jumbogram, or merged segments as above.
    if version != 6 || ip + IPV6_LEN + payload_length > cursor.end {
        return Err(Outcome::PassUnparsed);
    }
    // SAFETY: as above.
    let (source, destination) =
        unsafe { ([load64(ip + 8), load64(ip + 16)], [load64(ip + 24), load64(ip + 32)]) };
    packet.flow.source = address(source);
    packet.flow.destination = address(destination);
    packet.network_at = cursor.offset(ip);
    packet.transport_at = packet.network_at + IPV6_LEN as u32;
    packet.end_at =
        if payload_length == 0 { 0 } else { packet.network_at + (IPV6_LEN + payload_length) as u32 };
    packet.v4 = 0;
    packet.plain = u32::from(!is_extension(next));
    portless(packet, Transport::Unknown, next);
    if is_extension(next) {
        extensions(cursor, packet);
    } else {
        ports(cursor, packet);
    }
    Ok(())
}

/// Until more is known.
#[inline(always)]
fn portless(packet: &mut Packet, transport: Transport, protocol: u8) {
    packet.transport = transport;
    packet.flow.source_port = 0;
    packet.flow.destination_port = 0;
    const { assert!(offset_of!(Flow, protocol) == 36 && size_of::<Flow>() == 40) };
    // Three bytes more than the protocol, or the compiler would call a function to clear them.
    // SAFETY: the last four bytes of the flow, which is aligned to 8.
    unsafe { (&raw mut packet.flow).cast::<u32>().add(9).write(protocol.into()) };
}

#[inline(always)]
const fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | MOBILITY)
}

/// Follows extension headers up to what they precede.
#[inline(always)]
fn extensions(cursor: &mut Cursor, packet: &mut Packet) {
    for _ in 0..EXTENSIONS {
        let Some(header) = cursor.take(8) else { return };
        // SAFETY: `take` has checked that these bytes lie in the frame.
        let (next, length, offset_and_more) =
            unsafe { (load8(header), load8(header + 1), load16_be(header + 2)) };
        let length = match packet.flow.protocol {
            FRAGMENT if offset_and_more & 0xfff9 != 0 => {
                packet.transport = Transport::Fragment;
                return;
            }
            FRAGMENT => 8,
            AUTHENTICATION => (length as usize + 2) * 4,
            _ => (length as usize + 1) * 8,
        };
        if header + length > cursor.end {
            return;
        }
        cursor.at = header + length;
        packet.flow.protocol = next;
        if !is_extension(next) {
            packet.transport_at = cursor.offset(cursor.at);
            ports(cursor, packet);
            return;
        }
    }
}

/// Reads the ports of TCP and UDP.
#[inline(always)]
fn ports(cursor: &mut Cursor, packet: &mut Packet) {
    let transport = match packet.flow.protocol {
        TCP => Transport::Tcp,
        UDP => Transport::Udp,
        _ => {
            packet.transport = Transport::Portless;
            return;
        }
    };
    packet.transport = Transport::Unknown;
    let Some(header) = cursor.take(8) else { return };
    // SAFETY: `take` has checked that these bytes lie in the frame.
    unsafe {
        packet.flow.source_port = load16_be(header);
        packet.flow.destination_port = load16_be(header + 2);
    }
    packet.transport = transport;
}

#[inline(always)]
fn mapped(v4: u32) -> Address {
    address([0, u64::from(v4) << 32 | 0xffff_0000])
}

/// The bytes of an address that was read as two words.
#[inline(always)]
fn address(words: [u64; 2]) -> Address {
    const { assert!(size_of::<[u64; 2]>() == size_of::<Address>()) };
    let mut bytes = MaybeUninit::<Address>::uninit();
    // SAFETY: as many bytes as the address has; then all of them are written.
    unsafe {
        bytes.as_mut_ptr().cast::<[u64; 2]>().write_unaligned(words);
        bytes.assume_init()
    }
}
