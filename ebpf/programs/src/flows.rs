//! Connections that were refused: by this program, which then has to bring them to an end, or by the agent.

use crate::segment::{ACK, FIN, RST, SYN};
use crate::socket::{self, MMAPABLE};
use crate::work::{Plan, Work};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::{
    btf_maps::{Array, LruHashMap},
    macros::btf_map,
    programs::XdpContext,
};
use ebpf_abi::{CELLS as CELL_COUNT, Cell, FLOW_CAPACITY, Flow, FlowState, Outcome, stage};

/// See [`ebpf_abi::map::FLOWS`].
#[btf_map]
static FLOWS: LruHashMap<Flow, FlowState, { FLOW_CAPACITY as usize }> = LruHashMap::new();

/// See [`ebpf_abi::map::CELLS`].
#[btf_map]
static CELLS: Array<[Cell; CELL_COUNT as usize], 1, MMAPABLE> = Array::new();

/// How long a connection that was answered is remembered: longer than a client tries.
const REMEMBERED: u64 = 60_000_000_000;

/// Whether there may be anything to know of a flow. Of most there is not, and its cell says so.
#[inline(always)]
pub fn may_be_known(flow: &Flow) -> bool {
    let Some(cell) = cell(flow) else { return false };
    // SAFETY: aligned and never freed; written at any time.
    let until = unsafe { cell.read_volatile() };
    // SAFETY: a call without arguments.
    until.0 != 0 && until.is_ahead(unsafe { bpf_ktime_get_ns() })
}

/// The cell of a flow.
#[inline(always)]
fn cell(flow: &Flow) -> Option<*mut Cell> {
    let cells = CELLS.get_ptr_mut(0)?.cast::<Cell>();
    // SAFETY: the index is below the length.
    Some(unsafe { cells.add(Flow::cell(flow.hash()) as usize) })
}

/// What is known of a flow.
#[inline(always)]
pub fn find(flow: &Flow) -> Option<*mut FlowState> {
    let state = FLOWS.get_ptr_mut(flow)?;
    // SAFETY: found above. Its memory stays what it is until the program ends, though another may take it over: then
    // this packet is judged by the state of another flow that was just refused. The least recently used one of many is
    // not the one that was just looked up.
    let until = unsafe { (*state).until };
    // SAFETY: a call without arguments.
    if until > unsafe { bpf_ktime_get_ns() } { Some(state) } else { None }
}

/// Remembers that the request of a segment is refused. False: it cannot be remembered, so it must not be refused.
#[inline(always)]
pub fn remember(work: &Work) -> bool {
    // SAFETY: a call without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    let until = now + REMEMBERED;
    let state = FlowState {
        until,
        stage: stage::SERVER_WAITS,
        request: work.segment.sequence,
        reply: work.segment.acknowledged,
        reserved: 0,
    };
    if FLOWS.insert(&work.packet.flow, &state, 0).is_err() {
        return false;
    }
    let Some(cell) = cell(&work.packet.flow) else { return false };
    // SAFETY: aligned and never freed. Two that write at once write nearly the same.
    unsafe { cell.write_volatile(cell.read_volatile().or_later(Cell::until(until), now)) };
    true
}

/// Forgets what was remembered just now: the request is not refused after all.
#[inline(always)]
pub fn forget(work: &Work) {
    let _was_there = FLOWS.remove(&work.packet.flow);
}

/// The server has been told.
#[inline(always)]
pub fn release(state: *mut FlowState) {
    // SAFETY: as in `find`.
    unsafe { (*state).stage = stage::OVER };
}

/// What becomes of a segment of a connection that is known, or `None` if it is judged like any other. Where that is not
/// just dropping it, [`Work::plan`] says what is sent or passed on.
#[inline(always)]
pub fn judge(context: &XdpContext, state: *mut FlowState, work: &mut Work) -> Option<Outcome> {
    let config = work.config();
    let segment = &work.segment;
    // SAFETY: as in `find`.
    let FlowState { stage, request, reply, .. } = unsafe { *state };
    if segment.flags & SYN != 0 {
        // A new connection with the same ports.
        let _was_there = FLOWS.remove(&work.packet.flow);
        return None;
    }
    if segment.flags & RST != 0 {
        // It ends the connection by itself, if the server still has one.
        return None;
    }
    let length = segment.length();
    if stage == stage::NO_MORE_DATA || stage == stage::CUT {
        if config.monitor() || (stage == stage::NO_MORE_DATA && (length == 0 || is_old(context, work))) {
            return None;
        }
        if !config.respond() && !config.reset() && config.sessions() {
            return Some(Outcome::DropFlow);
        }
        return Some(reset_client(work, Outcome::ResetFlow));
    }
    if length != 0 && segment.sequence == request {
        if config.respond() {
            // The answer was lost, and the client asks again.
            return Some(Outcome::RespondAgain);
        }
        if stage == stage::OVER && config.reset() {
            return Some(reset_client(work, Outcome::ResetAgain));
        }
    }
    if stage == stage::SERVER_WAITS {
        // The server never saw the request: for it, this is the next byte.
        work.plan =
            Plan { back: 0, flags: RST | ACK, sequence: request, acknowledged: reply, reply: 0, reserved: 0 };
        return Some(Outcome::ResetServer);
    }
    if segment.flags & FIN != 0 {
        let end = segment.sequence.wrapping_add(length).wrapping_add(1);
        work.plan = Plan {
            back: 1,
            flags: ACK,
            sequence: segment.acknowledged,
            acknowledged: end,
            reply: 0,
            reserved: 0,
        };
        return Some(Outcome::AnswerFin);
    }
    Some(Outcome::DropOver)
}

/// Whether the server has these bytes already: the client only did not hear of it, and is still to get its answer.
#[inline(always)]
fn is_old(context: &XdpContext, work: &mut Work) -> bool {
    socket::look_up(context, work) && (work.segment.sequence.wrapping_sub(work.socket.next) as i32) < 0
}

/// A reset to the client, at the byte that it expects.
#[inline(always)]
fn reset_client(work: &mut Work, outcome: Outcome) -> Outcome {
    let segment = &work.segment;
    work.plan = Plan {
        back: 1,
        flags: RST | ACK,
        sequence: segment.acknowledged,
        acknowledged: segment.sequence.wrapping_add(segment.length()),
        reply: 0,
        reserved: 0,
    };
    outcome
}
