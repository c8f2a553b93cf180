//! Bytes of a frame and of tables at any alignment, and what keeps the compiler from rewriting what the verifier has to
//! follow.
//!
//! The compiler would make single bytes of every access that may be unaligned; the kernels that this is for run on
//! processors that do not mind. Written as instructions, each access is one, and it stays behind its check.

use aya_ebpf::bindings::xdp_md;
use core::arch::asm;
use core::mem::offset_of;

/// The addresses of a frame's first byte and of the byte behind its last one. They are read anew each time: what the
/// verifier has learned of one copy stays with it, and helpers that change the frame make copies worthless.
#[inline(always)]
pub fn bounds(context: *const xdp_md) -> (usize, usize) {
    const { assert!(offset_of!(xdp_md, data) == 0 && offset_of!(xdp_md, data_end) == 4) };
    let (start, end);
    // SAFETY: the context is the program's own.
    unsafe {
        asm!("{v} = *(u32 *)({c} + 0)", c = in(reg) context, v = lateout(reg) start, options(readonly, nostack));
        asm!("{v} = *(u32 *)({c} + 4)", c = in(reg) context, v = lateout(reg) end, options(readonly, nostack));
    }
    (start, end)
}

/// Reads 8 bytes in the processor's order.
///
/// # Safety
/// They must be readable.
#[inline(always)]
pub unsafe fn load64(at: usize) -> u64 {
    let value: u64;
    // SAFETY: the caller's; the access writes nothing.
    unsafe {
        asm!("{v} = *(u64 *)({p} + 0)", p = in(reg) at, v = lateout(reg) value, options(readonly, nostack))
    };
    value
}

/// Reads 4 bytes in the processor's order.
///
/// # Safety
/// They must be readable.
#[inline(always)]
pub unsafe fn load32(at: usize) -> u32 {
    let value: u64;
    // SAFETY: the caller's; the access writes nothing.
    unsafe {
        asm!("{v} = *(u32 *)({p} + 0)", p = in(reg) at, v = lateout(reg) value, options(readonly, nostack))
    };
    value as u32
}

/// Reads 2 bytes, the most significant one first, as packets have them.
///
/// # Safety
/// They must be readable.
#[inline(always)]
pub unsafe fn load16_be(at: usize) -> u16 {
    let value: u64;
    // SAFETY: the caller's; the access writes nothing.
    unsafe {
        asm!("{v} = *(u16 *)({p} + 0)", p = in(reg) at, v = lateout(reg) value, options(readonly, nostack))
    };
    (value as u16).swap_bytes()
}

/// Reads a byte.
///
/// # Safety
/// It must be readable.
#[inline(always)]
pub unsafe fn load8(at: usize) -> u8 {
    let value: u64;
    // SAFETY: the caller's; the access writes nothing.
    unsafe {
        asm!("{v} = *(u8 *)({p} + 0)", p = in(reg) at, v = lateout(reg) value, options(readonly, nostack))
    };
    value as u8
}

/// Writes 8 bytes in the processor's order.
///
/// # Safety
/// They must be writable.
#[inline(always)]
pub unsafe fn store64(at: usize, value: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("*(u64 *)({p} + 0) = {v}", p = in(reg) at, v = in(reg) value, options(nostack)) };
}

/// Writes 4 bytes in the processor's order.
///
/// # Safety
/// They must be writable.
#[inline(always)]
pub unsafe fn store32(at: usize, value: u32) {
    // SAFETY: the caller's.
    unsafe {
        asm!("*(u32 *)({p} + 0) = {v}", p = in(reg) at, v = in(reg) u64::from(value), options(nostack))
    };
}

/// Writes 2 bytes in the processor's order.
///
/// # Safety
/// They must be writable.
#[inline(always)]
pub unsafe fn store16(at: usize, value: u16) {
    // SAFETY: the caller's.
    unsafe {
        asm!("*(u16 *)({p} + 0) = {v}", p = in(reg) at, v = in(reg) u64::from(value), options(nostack))
    };
}

/// The same number, of which the compiler knows nothing any more: it cannot turn arithmetic into branches, which the
/// verifier would follow one by one.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut same = value;
    // SAFETY: the register gets what it has. An instruction there must be: the kernel takes no two lines of source for one.
    unsafe { asm!("{v} = {v}", v = inout(reg) same, options(pure, nomem, nostack, preserves_flags)) };
    same
}

/// One if `a` is above `b`, else zero, without a branch.
#[inline(always)]
pub fn above(a: u64, b: u64) -> u64 {
    let difference = b.wrapping_sub(a);
    opaque(((!b & a) | (!(b ^ a) & difference)) >> 63)
}

/// Whether so many bytes at a place come before the end of a frame, compared in just this way also in a loop.
#[inline(always)]
pub fn fits(at: usize, bytes: usize, end: usize) -> bool {
    opaque((at + bytes) as u64) as usize <= end
}
