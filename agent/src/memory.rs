//! The allocator of the `edgegate` command.
#![expect(unsafe_code, reason = "calls into the allocator")]

pub use mimalloc::MiMalloc;

/// `mi_option_purge_delay`. The binding does not name it; the numbers are part of mimalloc's interface, where options that are
/// gone keep theirs.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// How long a page is kept that is not in use, in milliseconds. Requests find theirs in the same ones again before that; but a
/// list of a million sessions is handled in pieces, and what they leave behind would add up to more than the list within
/// mimalloc's own second.
const KEPT: libc::c_long = 10;

/// Has memory that became free go back to the system soon.
pub fn give_back_soon() {
    // SAFETY: it takes no pointers, and stores a number.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, KEPT) }
}

/// Has it go back now, after something large has passed: of what nobody asks for again nobody would notice that its time is up.
pub(crate) fn give_back() {
    // SAFETY: it takes no pointers.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second is the default of this option and of no other: were the numbers to move, it would be missed here.
    #[test]
    fn the_option_is_the_delay() {
        // SAFETY: they take no pointers.
        let [before, after] = unsafe {
            let before = libmimalloc_sys::mi_option_get(PURGE_DELAY);
            give_back_soon();
            [before, libmimalloc_sys::mi_option_get(PURGE_DELAY)]
        };
        assert_eq!([before, after], [1000, KEPT]);
    }
}
