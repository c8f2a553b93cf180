//! Bytes looked at sixteen at a time.

use wide::u8x16;

/// Bytes of a vector.
pub(crate) const WINDOW: usize = 16;

/// The first place of a byte. This is for what is near; `memchr` is for what is far, and its way there is longer.
#[inline(always)]
pub(crate) fn find(byte: u8, bytes: &[u8]) -> Option<usize> {
    let Some(last) = bytes.len().checked_sub(WINDOW) else {
        return bytes.iter().position(|other| *other == byte);
    };
    let mut at = 0;
    loop {
        let window = u8x16::new(*bytes.get(at..)?.first_chunk()?);
        let found = window.simd_eq(u8x16::splat(byte)).to_bitmask();
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        if at == last {
            return None;
        }
        // The last one lies over the one before.
        at = last.min(at + WINDOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_place_is_found(bytes in prop::collection::vec(0..20_u8, 0..80), byte in 0..20_u8) {
            prop_assert_eq!(find(byte, &bytes), bytes.iter().position(|other| *other == byte));
        }
    }
}
