//! Programs that are a few instructions, loaded and run without a compiler for them; aya takes whole objects only.
//!
//! [`Driver`] is why they are needed. The kernel runs a program on one and the same frame as often as it is told to, and
//! with the same source all that is looked up is in the nearest cache. Frames with other sources need a call each, which
//! costs several times what is measured. So the frame is changed within the call: the driver writes random words into it and
//! then jumps to the program under test.
#![expect(unsafe_code, reason = "system calls that no crate offers")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

// linux/bpf.h
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// What aya says of every XDP program; programs that jump to each other have to agree.
const BPF_XDP: u32 = 37;
const HELPER_GET_PRANDOM_U32: i32 = 7;
const HELPER_TAIL_CALL: i32 = 12;

/// `XDP_PASS`.
pub(crate) const PASS: u32 = 2;
/// `XDP_DROP`.
pub(crate) const DROP: u32 = 1;
/// `XDP_ABORTED`.
const ABORTED: i32 = 0;

#[repr(C)]
struct CreateCall {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

#[repr(C)]
struct UpdateCall {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadCall {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

#[repr(C)]
#[derive(Default)]
struct RunCall {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    processor: u32,
    batch: u32,
    padding: u32,
}

/// Four bytes of a frame that are random: of a random word the bits of `mask`, plus `base`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random {
    pub(crate) at: usize,
    pub(crate) mask: u32,
    pub(crate) base: u32,
}

/// A program that changes its frame and jumps to another program.
pub(crate) struct Driver {
    program: OwnedFd,
    _target: OwnedFd,
}

impl Driver {
    /// Makes one for frames that hold all the `random` words.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn new(target: BorrowedFd<'_>, random: &[Random]) -> io::Result<Self> {
        let table = program_array(target)?;
        let end = random.iter().map(|random| random.at + 4).max().unwrap_or(0);
        let end = i32::try_from(end).map_err(io::Error::other)?;
        let body: Vec<u64> = random.iter().flat_map(randomize).collect();
        let behind = i16::try_from(body.len() + 5).map_err(io::Error::other)?;
        let mut code = vec![
            instruction(0xbf, 6, 1, 0, 0),      // r6 = context
            instruction(0x61, 7, 6, 0, 0),      // r7 = its data
            instruction(0x61, 8, 6, 4, 0),      // r8 = where that ends
            instruction(0xbf, 2, 7, 0, 0),      // r2 = r7
            instruction(0x07, 2, 0, 0, end),    // r2 += what is written
            instruction(0x2d, 2, 8, behind, 0), // if r2 > r8: behind the jump
        ];
        code.extend(body);
        code.extend([
            instruction(0xbf, 1, 6, 0, 0),                 // r1 = context
            instruction(0x18, 2, 1, 0, table.as_raw_fd()), // r2 = map
            0,
            instruction(0xb4, 3, 0, 0, 0), // r3 = its first program
            instruction(0x85, 0, 0, 0, HELPER_TAIL_CALL),
            instruction(0xb4, 0, 0, 0, ABORTED),
            instruction(0x95, 0, 0, 0, 0),
        ]);
        Ok(Self { program: load(&code)?, _target: table })
    }

    /// Runs it `repeat` times. Gives the last verdict, and the nanoseconds of each run, which the kernel rounds down. (Time
    /// around the call would be mostly waiting: for as long as a program is run so, the kernel calls it in another way, and
    /// whenever it changes that, it waits for all packets under way.)
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn run(&self, frame: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
        let mut call = RunCall {
            program: descriptor(&self.program),
            size_in: u32::try_from(frame.len()).map_err(io::Error::other)?,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..RunCall::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut call)?;
        Ok((call.verdict, call.duration))
    }
}

/// A program that passes everything: what is left when nothing is judged.
///
/// # Errors
/// What the kernel says.
pub(crate) fn passing() -> io::Result<OwnedFd> {
    load(&[instruction(0xb4, 0, 0, 0, PASS.cast_signed()), instruction(0x95, 0, 0, 0, 0)])
}

/// Writes a random word into the frame at r7.
fn randomize(random: &Random) -> Vec<u64> {
    let Random { at, mask, base } = *random;
    let mut code = vec![instruction(0x85, 0, 0, 0, HELPER_GET_PRANDOM_U32)];
    if mask != u32::MAX {
        code.push(instruction(0x54, 0, 0, 0, mask.cast_signed())); // w0 &= mask
    }
    if base != 0 {
        code.push(instruction(0x04, 0, 0, 0, base.cast_signed())); // w0 += base
    }
    code.push(instruction(0x63, 7, 0, i16::try_from(at).unwrap_or(i16::MAX), 0)); // *(u32 *)(r7 + at) = r0
    code
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    code as u64
        | (to as u64) << 8
        | (from as u64) << 12
        | (offset.cast_unsigned() as u64) << 16
        | (immediate.cast_unsigned() as u64) << 32
}

/// A table of one program.
fn program_array(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut call =
        CreateCall { kind: BPF_MAP_TYPE_PROG_ARRAY, key_size: 4, value_size: 4, entries: 1, flags: 0 };
    let table = owned(bpf(BPF_MAP_CREATE, &mut call)?)?;
    let (key, value) = (0u32, program.as_raw_fd());
    let mut call = UpdateCall {
        map: descriptor(&table),
        padding: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut call)?;
    Ok(table)
}

fn load(code: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut call = LoadCall {
        kind: BPF_PROG_TYPE_XDP,
        count: u32::try_from(code.len()).map_err(io::Error::other)?,
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach: BPF_XDP,
    };
    owned(bpf(BPF_PROG_LOAD, &mut call)?)
}

fn descriptor(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for this call, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_long, call: &mut T) -> io::Result<libc::c_long> {
    let call: *mut T = call;
    // SAFETY: `call` is one of the structures above; its addresses lead to as much as its sizes say, or as the map's do, and
    // live until the call returns.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, call, size_of::<T>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}
