//! System calls that have no safe wrapper elsewhere. Nothing unsafe leaves this module.
#![expect(unsafe_code, reason = "memory that the kernel shares, behind safe types")]

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::slice;
use std::sync::atomic::AtomicU64;

/// The values of an array map of `u64`, in this process's memory. They stay there when the map is closed.
pub(crate) struct SharedWords {
    start: NonNull<AtomicU64>,
    len: usize,
}

impl SharedWords {
    /// Maps the first `len` values of a map that was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// What the kernel says: the map is smaller, or not made for this.
    pub(crate) fn map(map: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
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
    use std::os::fd::AsFd as _;
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
