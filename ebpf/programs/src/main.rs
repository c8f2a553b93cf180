//! The kernel part of edgegate: an XDP program that drops packets by where they come from, and answers requests of
//! blacklisted sessions, before a socket is reached.
//!
//! Needs Linux 5.15, the oldest kernel it is meant for; the newest thing that it uses is the view of a socket's TCP state
//! (`bpf_skc_to_tcp_sock`, Linux 5.9). It is not marked for multi-buffer packets (Linux 5.18): where a frame does not
//! fit a page, the driver refuses it in native mode, and generic mode makes every frame one piece.
//!
//! Read top-down, as a packet travels: [`edgegate_xdp`], [`decide`], then the modules in their order.
//!
//! What cannot be judged passes. The stack drops what is malformed, and looks further than this program where it is
//! set up to, as for a third VLAN tag; userspace judges every request again. Here, dropping too much would cost a client.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod answer;
mod config;
mod counters;
mod events;
mod flows;
mod lists;
mod memory;
mod packet;
mod request;
mod segment;
mod services;
mod session;
mod socket;
mod work;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use config::Config;
use core::ptr::addr_of;
use ebpf_abi::{FlowState, LIST_ALLOW, LIST_DENY, LIST_TRUSTED, Outcome, Tables, verdict};
use packet::{Packet, Transport};
use segment::{ACK, FIN, Frame, PSH, RST};
use session::Finding;
use work::{Plan, Work};

/// The entry point, once per packet.
#[xdp]
fn edgegate_xdp(context: XdpContext) -> u32 {
    let outcome = decide(&context);
    counters::count(outcome);
    match outcome {
        Outcome::DropIpDenied | Outcome::DropCountryDenied | Outcome::DropOver | Outcome::DropFlow => {
            xdp_action::XDP_DROP
        }
        Outcome::RespondSession
        | Outcome::RespondAgain
        | Outcome::ResetAgain
        | Outcome::AnswerFin
        | Outcome::ResetFlow => xdp_action::XDP_TX,
        _ => xdp_action::XDP_PASS,
    }
}

/// The decisions in their order; the first that applies is the outcome.
#[inline(always)]
fn decide(context: &XdpContext) -> Outcome {
    let Some(config) = config::in_force() else { return Outcome::Pass };
    let Some(work) = work::work() else { return Outcome::Pass };
    if let Err(outcome) = packet::parse(context, &mut work.packet) {
        return outcome;
    }
    match by_packet(config, work) {
        Decided::As(outcome) => outcome,
        Decided::Unless(outcome) => by_connection(context, work).unwrap_or(outcome),
    }
}

/// How far a packet alone decides.
enum Decided {
    /// As far as can be.
    As(Outcome),
    /// Like this, unless its connection decides otherwise; the processor's [`Work`] knows the packet.
    Unless(Outcome),
}

/// What the packet itself decides. A function of its own, so that its memory is free for what follows.
#[inline(never)]
fn by_packet(config: Config, work: &mut Work) -> Decided {
    let Some(tables) = config.tables() else { return Decided::As(Outcome::Pass) };
    let packet = &work.packet;
    let policy = if config.services() { services::policy_in_force(&config, tables, packet) } else { None };
    let known = policy.map_or(verdict::OPEN, |policy| services::verdict_of_block(tables, policy, packet));
    let mut passed = Outcome::Pass;
    if known == verdict::REFUSED {
        let outcome = country_denied(config);
        // Only those who are told ask which country it is.
        if events::is_due(outcome) {
            events::write(outcome, &packet.flow, services::country(tables, packet), &events::NO_SESSION);
        }
        return Decided::As(outcome);
    }
    if known != verdict::PASSES {
        let flags = lists::look_up(&config, tables, packet);
        if flags & LIST_TRUSTED != 0 {
            return Decided::As(Outcome::PassTrusted);
        }
        if flags & LIST_ALLOW != 0 {
            passed = Outcome::PassAllowed;
        } else {
            let policy = if known == verdict::LISTED { None } else { policy };
            let (outcome, country) = by_source(config, tables, packet, flags, policy);
            if !matches!(outcome, Outcome::Pass) {
                events::tell(outcome, &packet.flow, country, &events::NO_SESSION);
                return Decided::As(outcome);
            }
        }
    }
    match packet.transport {
        Transport::Tcp | Transport::Udp => {}
        Transport::Portless => return Decided::As(passed),
        Transport::Fragment => return Decided::As(Outcome::PassFragment),
        Transport::Unknown => return Decided::As(Outcome::PassUnparsed),
    }
    if watch(config, tables, work) { Decided::Unless(passed) } else { Decided::As(passed) }
}

/// Deny list, then countries. The country comes along where it is the reason.
#[inline(always)]
fn by_source(
    config: Config,
    tables: *const Tables,
    packet: &Packet,
    flags: u32,
    policy: Option<u16>,
) -> (Outcome, u16) {
    if flags & LIST_DENY != 0 {
        let outcome = if config.monitor() { Outcome::MonitorIpDenied } else { Outcome::DropIpDenied };
        return (outcome, 0);
    }
    match policy.and_then(|policy| services::refused_country(tables, policy, packet)) {
        Some(country) => (country_denied(config), country),
        None => (Outcome::Pass, 0),
    }
}

/// The outcome where a country is not admitted.
#[inline(always)]
const fn country_denied(config: Config) -> Outcome {
    if config.monitor() { Outcome::MonitorCountryDenied } else { Outcome::DropCountryDenied }
}

/// Notes what decides further, if anything more than the source is to decide.
#[inline(always)]
fn watch(config: Config, tables: *const Tables, work: &mut Work) -> bool {
    let known = flows::may_be_known(&work.packet.flow);
    let watched = matches!(work.packet.transport, Transport::Tcp)
        && config.sessions()
        // SAFETY: a place within the tables.
        && lists::bit(unsafe { addr_of!((*tables).session_ports) }, u32::from(work.packet.flow.destination_port));
    work.config = [config.flags, config.bank];
    work.watched = u32::from(watched);
    work.known = u32::from(known);
    known || watched
}

/// Rejected flows, then sessions. `None`: the connection does not matter.
#[inline(never)]
fn by_connection(context: &XdpContext, work: &mut Work) -> Option<Outcome> {
    let state = if work.known != 0 { flows::find(&work.packet.flow) } else { None };
    if !matches!(work.packet.transport, Transport::Tcp) {
        state?;
        return if work.config().monitor() { None } else { Some(Outcome::DropFlow) };
    }
    segment::parse(Frame::of(context), work)?;
    if let Some(state) = state
        && let Some(outcome) = flows::judge(context, state, work)
    {
        return Some(rejected(context, work, outcome, state));
    }
    if work.watched == 0 {
        return None;
    }
    by_session(context, work)
}

/// Carries out what is to become of a segment of a refused connection.
#[inline(always)]
fn rejected(context: &XdpContext, work: &mut Work, outcome: Outcome, state: *mut FlowState) -> Outcome {
    match outcome {
        Outcome::DropFlow | Outcome::DropOver => return outcome,
        Outcome::ResetFlow => events::tell(outcome, &work.packet.flow, 0, &events::NO_SESSION),
        Outcome::RespondAgain => {
            if !request::has_token(context, work) {
                return Outcome::DropOver;
            }
            plan_answer(work);
        }
        _ => {}
    }
    if !answer::make(context, work) {
        return Outcome::DropOver;
    }
    if matches!(outcome, Outcome::ResetServer) {
        flows::release(state);
    }
    outcome
}

/// The session of a request. `None`: it is no request that is looked into.
#[inline(always)]
fn by_session(context: &XdpContext, work: &mut Work) -> Option<Outcome> {
    // Where the header does not say where the packet ends, there are several segments in it.
    if work.packet.end_at == 0 || !request::has_token(context, work) || !request::find_payload(context, work)
    {
        return None;
    }
    request::search(context, work);
    match session::look_up(context, work) {
        Finding::Nothing => return Some(Outcome::PassInspected),
        Finding::Unproven => return Some(Outcome::PassUnproven),
        Finding::Blacklisted => {}
    }
    let outcome = refuse(context, work);
    events::tell(outcome, &work.packet.flow, 0, &work.key);
    Some(outcome)
}

/// Refuses the request of a blacklisted session, if that can be done at its place in the connection.
#[inline(always)]
fn refuse(context: &XdpContext, work: &mut Work) -> Outcome {
    let config = work.config();
    if config.monitor() {
        return Outcome::MonitorSession;
    }
    let waits = work.packet.plain != 0 && socket::look_up(context, work) && socket::waits(work);
    if !waits || !flows::remember(work) {
        return Outcome::PassBusy;
    }
    let outcome = if config.respond() {
        plan_answer(work);
        Outcome::RespondSession
    } else {
        // The server first: of the client there will be more packets, and of nobody else.
        plan_reset(work);
        if config.reset() { Outcome::ResetSession } else { Outcome::DropSession }
    };
    if !answer::make(context, work) {
        flows::forget(work);
        return Outcome::PassBusy;
    }
    if !config.respond()
        && let Some(state) = flows::find(&work.packet.flow)
    {
        flows::release(state);
    }
    outcome
}

/// Plans the answer to the request of a segment.
#[inline(always)]
fn plan_answer(work: &mut Work) {
    let segment = &work.segment;
    work.plan = Plan {
        back: 1,
        flags: ACK | PSH | FIN,
        sequence: segment.acknowledged,
        acknowledged: segment.sequence.wrapping_add(segment.length()),
        reply: if work.head == 0 { 1 } else { 2 },
        reserved: 0,
    };
}

/// Plans a reset for the server in place of the request of a segment.
#[inline(always)]
fn plan_reset(work: &mut Work) {
    let segment = &work.segment;
    work.plan = Plan {
        back: 0,
        flags: RST | ACK,
        sequence: segment.sequence,
        acknowledged: segment.acknowledged,
        reply: 0,
        reserved: 0,
    };
}

/// Terms of the program for the kernel, which shows its sockets to GPL-compatible programs only. This crate is also under
/// the GPL, version 2, as its manifest says.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The language asks for it. Nothing here can panic; were it otherwise, the verifier would refuse the endless loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
