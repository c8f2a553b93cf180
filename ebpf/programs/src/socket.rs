//! The local socket that a segment is for: whether an answer in its place would come at the right place.

use crate::memory::{load32, load64};
use crate::work::Work;
use aya_ebpf::bindings::{
    bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Tuple4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Tuple6,
};
use aya_ebpf::helpers::generated::{
    bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_request_sock, bpf_skc_to_tcp_sock,
};
use aya_ebpf::{EbpfContext as _, Global, btf_maps::Array, macros::btf_map, programs::XdpContext};
use core::mem::zeroed;
use ebpf_abi::{CELLS, Flow, Idle};

/// The agent maps it into its memory.
pub const MMAPABLE: usize = 1 << 10;

/// See [`ebpf_abi::map::IDLE`].
#[btf_map]
static IDLE: Array<u64, { CELLS as usize }, MMAPABLE> = Array::new();

/// Where the fields of the kernel's sockets are that are asked for, by name in [`ebpf_abi::TCP_FIELDS`]. The agent sets
/// them to what the running kernel says of itself; zero: it does not say. To the verifier they are constants.
#[unsafe(no_mangle)]
static TCP_RCV_NXT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_SND_NXT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_SND_UNA: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_BYTES_RECEIVED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static TCP_BYTES_ACKED: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static REQUEST_RCV_NXT: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static REQUEST_SNT_ISN: Global<u32> = Global::new(0);

/// The namespace of the interface.
const CURRENT_NAMESPACE: u64 = u64::MAX;

/// `BPF_TCP_ESTABLISHED`.
const ESTABLISHED: u32 = 1;

/// What TCP knows of a local socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Socket {
    /// Bytes that it has received in order.
    received: u64,
    /// Bytes of its own that the client has acknowledged.
    acknowledged: u64,
    /// Sequence number of the next byte that it expects.
    pub next: u32,
    /// Sequence number of the next byte that it sends.
    given: u32,
    /// Sequence number of the first byte that the client has not acknowledged.
    unacknowledged: u32,
    /// As `BPF_TCP_ESTABLISHED`.
    state: u32,
}

/// Looks the local socket of a segment up, and notes what is known of it. False: there is none, or the kernel does not say.
#[inline(never)]
pub fn look_up(context: &XdpContext, work: &mut Work) -> bool {
    if TCP_RCV_NXT.load() == 0 {
        return false;
    }
    let flow = &work.packet.flow;
    // SAFETY: every bit pattern is one, and zeros are.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let size = if work.packet.v4 != 0 {
        tuple.__bindgen_anon_1.ipv4 = Tuple4 {
            saddr: tail(&flow.source),
            daddr: tail(&flow.destination),
            sport: flow.source_port.to_be(),
            dport: flow.destination_port.to_be(),
        };
        size_of::<Tuple4>()
    } else {
        tuple.__bindgen_anon_1.ipv6 = Tuple6 {
            saddr: words(&flow.source),
            daddr: words(&flow.destination),
            sport: flow.source_port.to_be(),
            dport: flow.destination_port.to_be(),
        };
        size_of::<Tuple6>()
    };
    // SAFETY: the context is this program's, the tuple is as long as said; what is found is given back below.
    let socket =
        unsafe { bpf_skc_lookup_tcp(context.as_ptr(), &raw mut tuple, size as u32, CURRENT_NAMESPACE, 0) };
    if socket.is_null() {
        return false;
    }
    let known = &mut work.socket;
    // SAFETY: not null.
    known.state = unsafe { (*socket).state };
    // SAFETY: not null. It is null where the socket is only a request for a connection, or the rest of one.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket.cast()) } as usize;
    if tcp != 0 {
        // SAFETY: places within a `tcp_sock`, as the kernel describes it and as its verifier checks.
        unsafe {
            known.next = load32(tcp + TCP_RCV_NXT.load() as usize);
            known.given = load32(tcp + TCP_SND_NXT.load() as usize);
            known.unacknowledged = load32(tcp + TCP_SND_UNA.load() as usize);
            known.received = load64(tcp + TCP_BYTES_RECEIVED.load() as usize);
            known.acknowledged = load64(tcp + TCP_BYTES_ACKED.load() as usize);
        }
    }
    // SAFETY: as above. It is null where the socket is no request for a connection.
    let request = if tcp == 0 { unsafe { bpf_skc_to_tcp_request_sock(socket.cast()) as usize } } else { 0 };
    if request != 0 {
        requested(request, known);
    }
    // SAFETY: it was found above and is not used any more.
    unsafe { bpf_sk_release(socket.cast()) };
    tcp != 0 || request != 0
}

/// What is known of a connection whose handshake ends with the segment before this one, which the stack has still in a queue,
/// or with this one. As the socket will be: with nothing taken and nothing given. Should the segment before have been lost, a
/// reset where the request was ends the request for a connection just as it ends a connection.
#[inline(always)]
fn requested(request: usize, known: &mut Socket) {
    // SAFETY: places within a `tcp_request_sock`, as the kernel describes it and as its verifier checks.
    let (next, first) = unsafe {
        (load32(request + REQUEST_RCV_NXT.load() as usize), load32(request + REQUEST_SNT_ISN.load() as usize))
    };
    let given = first.wrapping_add(1);
    *known = Socket { received: 0, acknowledged: 0, next, given, unacknowledged: given, state: ESTABLISHED };
}

/// Whether the socket that was looked up waits for just this segment, as the first byte of a request, and has nothing left
/// to say.
///
/// It is the connection's first segment, or the agent has said that everything so far is answered. What TCP knows is not
/// enough: a connection on which nothing is under way may still owe the rest of an answer, or be in the midst of a body.
#[inline(always)]
pub fn waits(work: &Work) -> bool {
    let Socket { received, acknowledged, next, given, unacknowledged, state } = work.socket;
    let segment = &work.segment;
    let in_order = next == segment.sequence && given == segment.acknowledged;
    // A client with no room has not taken all that was given to its connection.
    let room = segment.window != 0;
    if state != ESTABLISHED || !in_order || !room {
        return false;
    }
    // This segment acknowledges all that was sent. The socket will only hear of it when it gets the segment.
    let acknowledged = acknowledged + u64::from(given.wrapping_sub(unacknowledged));
    (received == 0 && acknowledged == 0) || is_idle(work.packet.flow.hash(), received, acknowledged)
}

#[inline(always)]
fn is_idle(hash: u64, received: u64, acknowledged: u64) -> bool {
    let Some(word) = IDLE.get_ptr(Flow::cell(hash)) else { return false };
    // SAFETY: aligned and never freed; the agent writes it at any time.
    let word = unsafe { word.read_volatile() };
    word == Idle::new(hash, received, acknowledged).0
}

/// The IPv4 address in a mapped one, in network byte order.
#[inline(always)]
const fn tail(address: &[u8; 16]) -> u32 {
    let [.., a, b, c, d] = *address;
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
const fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
