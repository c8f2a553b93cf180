//! What the C library's allocator keeps for later goes back to the system.
#![expect(unsafe_code, reason = "a call into the C library")]

/// Gives back what is not in use, after something large has passed: a list of a million sessions is handled in pieces that would
/// otherwise stay, in the holes between what remains.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no pointers, and may be called from any thread at any time.
    let _whether_any = unsafe { libc::malloc_trim(0) };
}
