//! From the first byte of a frame to what the decisions ask for.
//!
//! Every read is preceded by a check against the end of the frame, in the form that the verifier follows: the byte
//! after what is read lies not behind the end.

use aya_ebpf::programs::XdpContext;
use ebpf_abi::{Address, MAPPED_BITS, Outcome};

/// What the decisions ask for.
pub struct Packet {
    /// Where it says it comes from.
    pub source: Address,
}

/// A number as packets have it: most significant byte first, at any alignment.
type Be16 = [u8; 2];

#[repr(C)]
struct Ethernet {
    addresses: [u8; 12],
    protocol: Be16,
}

#[repr(C)]
struct Vlan {
    tag: Be16,
    protocol: Be16,
}

#[repr(C)]
struct Ipv4 {
    version_and_words: u8,
    service: u8,
    total_length: Be16,
    identity_fragment_lifetime_protocol_checksum: [u8; 8],
    source: [u8; 4],
    destination: [u8; 4],
}

#[repr(C)]
struct Ipv6 {
    version_class_flow: [u8; 4],
    payload_length: Be16,
    next_header: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// 802.1Q.
const VLAN: u16 = 0x8100;
/// 802.1ad, the outer of two tags.
const SERVICE_VLAN: u16 = 0x88a8;

/// Tags that are followed.
const VLAN_TAGS: usize = 2;

/// What precedes the IPv4 part of a mapped address: `::ffff:0:0/96`.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

const _: () = assert!(MAPPED.len() as u32 * 8 == MAPPED_BITS);

/// The place in a frame up to which it has been read.
struct Cursor {
    at: usize,
    end: usize,
}

impl Cursor {
    /// Reads a header and steps behind it, or not if the frame ends before.
    #[inline(always)]
    fn read<T>(&mut self) -> Option<*const T> {
        const { assert!(align_of::<T>() == 1) };
        let header = self.at;
        if header + size_of::<T>() > self.end {
            return None;
        }
        self.at += size_of::<T>();
        Some(header as *const T)
    }

    /// Whether the frame goes on for so many bytes after a header that was read.
    #[inline(always)]
    fn holds<T>(&self, header: *const T, bytes: usize) -> bool {
        header as usize + bytes <= self.end
    }
}

/// Reads a frame. What is not a whole packet of a known protocol has its outcome at once.
#[inline(always)]
pub fn parse(context: &XdpContext) -> Result<Packet, Outcome> {
    let mut cursor = Cursor { at: context.data(), end: context.data_end() };
    let ethernet = cursor.read::<Ethernet>().ok_or(Outcome::PassUnparsed)?;
    // SAFETY: `read` has checked that the whole header lies in the frame; the type is made of bytes.
    let mut protocol = u16::from_be_bytes(unsafe { (*ethernet).protocol });
    for _ in 0..VLAN_TAGS {
        if !is_vlan(protocol) {
            break;
        }
        let vlan = cursor.read::<Vlan>().ok_or(Outcome::PassUnparsed)?;
        // SAFETY: as above.
        protocol = u16::from_be_bytes(unsafe { (*vlan).protocol });
    }
    match protocol {
        IPV4 => ipv4(&mut cursor),
        IPV6 => ipv6(&mut cursor),
        _ if is_vlan(protocol) => Err(Outcome::PassUnparsed),
        _ => Err(Outcome::PassOther),
    }
}

#[inline(always)]
const fn is_vlan(protocol: u16) -> bool {
    matches!(protocol, VLAN | SERVICE_VLAN)
}

/// A fragment has its source like any other packet, and is judged like one.
#[inline(always)]
fn ipv4(cursor: &mut Cursor) -> Result<Packet, Outcome> {
    let ip = cursor.read::<Ipv4>().ok_or(Outcome::PassUnparsed)?;
    // SAFETY: `read` has checked that the whole header lies in the frame; the type is made of bytes.
    let (version_and_words, total_length, source) =
        unsafe { ((*ip).version_and_words, u16::from_be_bytes((*ip).total_length) as usize, (*ip).source) };
    let header_length = (version_and_words & 0xf) as usize * 4;
    if version_and_words >> 4 != 4 || header_length < size_of::<Ipv4>() || !cursor.holds(ip, header_length) {
        return Err(Outcome::PassUnparsed);
    }
    // Zero: segments that the kernel has merged into one of more than 64 KiB, as generic mode sees them. On the wire it
    // is malformed, and the stack drops it.
    if total_length != 0 && (total_length < header_length || !cursor.holds(ip, total_length)) {
        return Err(Outcome::PassUnparsed);
    }
    let [a, b, c, d] = source;
    let [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11] = MAPPED;
    Ok(Packet { source: [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, a, b, c, d] })
}

/// Extension headers come after the source and do not matter to it. A source in `::ffff:0:0/96` is the IPv4 address that
/// it contains, with no more ado: [`Address`] is made that way.
#[inline(always)]
fn ipv6(cursor: &mut Cursor) -> Result<Packet, Outcome> {
    let ip = cursor.read::<Ipv6>().ok_or(Outcome::PassUnparsed)?;
    // SAFETY: `read` has checked that the whole header lies in the frame; the type is made of bytes.
    let (first, payload_length, source) = unsafe {
        ((*ip).version_class_flow[0], u16::from_be_bytes((*ip).payload_length) as usize, (*ip).source)
    };
    // A payload of length zero says nothing of its length: a jumbogram, or merged segments as above.
    if first >> 4 != 6 || !cursor.holds(ip, size_of::<Ipv6>() + payload_length) {
        return Err(Outcome::PassUnparsed);
    }
    Ok(Packet { source })
}
