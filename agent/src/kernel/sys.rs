//! System calls that have no safe wrapper elsewhere. Nothing unsafe leaves this module.
#![expect(unsafe_code, reason = "system calls that take addresses, and memory that the kernel shares")]

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::atomic::AtomicU64;

// linux/bpf.h
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Entries that come from the kernel in one call.
const BATCH: usize = 1 << 16;

/// The part of `bpf_attr` for one element.
#[repr(C)]
struct ElementCall {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `bpf_attr` for many elements.
#[repr(C)]
struct BatchCall {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Writes one value of an array, however big, without a copy of it on the stack.
///
/// # Errors
/// What the kernel says; the value has another size than the map's.
pub fn write_element<T: bytemuck::Pod>(map: &MapData, index: u32, value: &T) -> io::Result<()> {
    if map.info().map_err(io::Error::other)?.value_size() as usize != size_of::<T>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut call = ElementCall {
        map: descriptor(map),
        padding: 0,
        key: (&raw const index) as u64,
        value: (&raw const *value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut call)
}

/// Reads all entries of a hash that nobody else writes meanwhile.
///
/// # Errors
/// What the kernel says.
pub fn read_entries<K: bytemuck::Pod, V: bytemuck::Pod>(map: &MapData) -> io::Result<Vec<(K, V)>> {
    let mut found = Vec::new();
    check::<K, V>(map)?;
    let mut room = BATCH;
    let (mut keys, mut values) = (vec![K::zeroed(); room], vec![V::zeroed(); room]);
    // Where the kernel goes on; it means something to the kernel alone.
    let (mut from, mut to) = (None::<u32>, 0u32);
    loop {
        let mut call = BatchCall {
            from: from.as_ref().map_or(0, |from| (&raw const *from) as u64),
            to: (&raw mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: u32::try_from(room).unwrap_or(u32::MAX),
            map: descriptor(map),
            element_flags: 0,
            flags: 0,
        };
        let outcome = bpf(BPF_MAP_LOOKUP_BATCH, &mut call);
        let end = match outcome {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            // A bucket has more entries than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                keys.resize(room, K::zeroed());
                values.resize(room, V::zeroed());
                continue;
            }
            Err(error) => return Err(error),
        };
        let count = usize::try_from(call.count).unwrap_or(0).min(room);
        found.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if end {
            return Ok(found);
        }
        from = Some(to);
    }
}

fn check<K, V>(map: &MapData) -> io::Result<()> {
    let info = map.info().map_err(io::Error::other)?;
    if info.key_size() as usize == size_of::<K>() && info.value_size() as usize == size_of::<V>() {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

fn descriptor(map: &MapData) -> u32 {
    map.fd().as_fd().as_raw_fd().cast_unsigned()
}

fn bpf<T>(command: libc::c_long, call: &mut T) -> io::Result<()> {
    let call: *mut T = call;
    // SAFETY: `call` is one of the structures above, zero where it is padded, whose addresses lead to as many elements as
    // it says, of the sizes that the map has; they live until the call returns.
    let outcome = unsafe { libc::syscall(libc::SYS_bpf, command, call, size_of::<T>()) };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The values of an array map of `u64`, in this process's memory. They stay there when the map is closed.
pub struct SharedWords {
    start: NonNull<AtomicU64>,
    len: usize,
}

impl SharedWords {
    /// Maps the first `len` values of a map that was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// What the kernel says: the map is smaller, or not made for this.
    pub fn map(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::InvalidInput)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without an address and MAP_FIXED the kernel takes a free place, so no memory in use is replaced.
        let start = unsafe { mmap(null_mut(), bytes, access, MapFlags::SHARED, map, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `start` begins `len` words that are mapped for reading and writing until drop, and is aligned to a
        // page. Whoever else writes them does so behind atomics' interior mutability; no plain reference to them exists.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<AtomicU64>();
        // SAFETY: the mapping is exactly this one, and every reference into it borrows from `self`.
        let _cannot_fail = unsafe { munmap(self.start.as_ptr().cast(), bytes) };
    }
}

// SAFETY: memory belongs to the process, not to a thread, and atomics are all that it is used as.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::sync::atomic::Ordering;

    /// A file in memory is mapped as a map is, and needs no privileges.
    #[test]
    fn words_are_shared() {
        let file = memfd_create("words", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 1024 * 8).unwrap();
        let one = SharedWords::map(file.as_fd(), 1024).unwrap();
        let other = SharedWords::map(file.as_fd(), 1024).unwrap();
        drop(file);
        one[1023].store(7, Ordering::Release);
        assert_eq!(other[1023].load(Ordering::Acquire), 7);
        assert_eq!((one.len(), other[0].load(Ordering::Acquire)), (1024, 0));
        drop(one);
        assert_eq!(other[1023].load(Ordering::Acquire), 7);
    }

    #[test]
    fn what_cannot_be_mapped() {
        let file = memfd_create("words", MemfdFlags::CLOEXEC).unwrap();
        assert!(SharedWords::map(file.as_fd(), 0).is_err());
        assert!(SharedWords::map(file.as_fd(), usize::MAX).is_err());
        let (pipe, _other_end) = rustix::pipe::pipe().unwrap();
        assert!(SharedWords::map(pipe.as_fd(), 8).is_err());
    }
}
