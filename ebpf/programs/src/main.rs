//! The kernel part of edgegate: an XDP program that drops packets by source address before a socket is reached.
//!
//! Needs Linux 5.15, the oldest kernel it is meant for; nothing in it is newer than 32-bit arithmetic (Linux 5.1). It is
//! not marked for multi-buffer packets (Linux 5.18): where a frame does not fit a page, the driver refuses it in native
//! mode, and generic mode makes every frame one piece.
//!
//! Read top-down, as a packet travels: [`edgegate_xdp`], [`decide`], then the modules in their order.
//!
//! What cannot be judged passes. The stack drops what is malformed, and looks further than this program where it is
//! set up to, as for a third VLAN tag; here, dropping too much would cost a client.
#![no_std]
#![no_main]

mod config;
mod counters;
mod lists;
mod packet;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use config::Config;
use ebpf_abi::{LIST_ALLOW, LIST_DENY, Outcome};
use packet::Packet;

/// The entry point, once per packet.
#[xdp]
fn edgegate_xdp(context: XdpContext) -> u32 {
    let outcome = decide(&context);
    counters::count(outcome);
    match outcome {
        Outcome::DropIpDenied => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// The decisions in their order; the first that applies is the outcome.
#[inline(always)]
fn decide(context: &XdpContext) -> Outcome {
    let Some(config) = config::in_force() else {
        return Outcome::Pass;
    };
    let packet = match packet::parse(context) {
        Ok(packet) => packet,
        Err(outcome) => return outcome,
    };
    by_lists(&config, &packet)
}

/// Allow list, then deny list.
#[inline(always)]
fn by_lists(config: &Config, packet: &Packet) -> Outcome {
    let flags = lists::look_up(config, packet.source);
    if flags & LIST_ALLOW != 0 {
        Outcome::PassAllowed
    } else if flags & LIST_DENY == 0 {
        Outcome::Pass
    } else if config.monitor() {
        Outcome::MonitorIpDenied
    } else {
        Outcome::DropIpDenied
    }
}

/// Terms of the program for the kernel, which lends some helpers to GPL-compatible programs only. None of those is
/// used.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"Apache-2.0 OR MIT\0";

/// The language asks for it. Nothing here can panic; were it otherwise, the verifier would refuse the endless loop.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
