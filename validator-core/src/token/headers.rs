//! Headers of good tokens, kept so that they need not be read again, and what such tokens start with, so that it need not be
//! hashed again.
//!
//! All tokens of an issuer begin with the same letters, up to a key's name. Whoever has those letters has that header, so
//! nothing of the request's own is taken on trust: the signature is checked over the letters at hand, with the key as it
//! is in force now.

use crate::keys::Start;
use crate::limits::MAX_KID;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// How many are kept. Issuers have few keys in use at a time.
const PLACES: usize = 4;

/// Longest header that is kept, in letters.
const MAX_LETTERS: usize = 512;

/// The header of a good token: its `alg` is `HS256`, and it has no `crit`.
#[derive(Debug)]
pub(super) struct Known {
    /// As they stand in the token, without the dot.
    pub(super) letters: Vec<u8>,
    /// Name of the key.
    pub(super) kid: String,
}

/// The last few that were new.
#[derive(Debug)]
pub(super) struct Headers {
    places: Box<[Known]>,
    /// How the last good token with each of them starts.
    starts: [Start; PLACES],
    /// Where the next one goes.
    next: usize,
}

impl Headers {
    pub(super) fn new() -> Self {
        // Room for all, so that none is made on a request.
        let place =
            || Known { letters: Vec::with_capacity(MAX_LETTERS), kid: String::with_capacity(MAX_KID) };
        Self {
            places: (0..PLACES).map(|_| place()).collect(),
            starts: [const { Start::none() }; PLACES],
            next: 0,
        }
    }

    /// The one that the token begins with.
    pub(super) fn find(&self, token: &[u8]) -> Option<usize> {
        self.places.iter().position(|known| {
            let len = known.letters.len();
            token.get(len) == Some(&b'.') && len > 0 && token[..len] == *known.letters
        })
    }

    /// A header, and how tokens with it start.
    pub(super) fn get(&mut self, index: usize) -> (&Known, &mut Start) {
        (&self.places[index], &mut self.starts[index])
    }

    /// Keeps the header of a token whose signature is good.
    pub(super) fn keep(&mut self, letters: &[u8], kid: &str) {
        if letters.len() > MAX_LETTERS || kid.len() > MAX_KID {
            return;
        }
        let place = &mut self.places[self.next];
        place.letters.clear();
        place.letters.extend_from_slice(letters);
        place.kid.clear();
        place.kid.push_str(kid);
        self.next = (self.next + 1) % PLACES;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn the_last_few_are_found_by_their_letters_and_the_dot() {
        let mut headers = Headers::new();
        let kid = |headers: &Headers, token: &str| {
            headers.find(token.as_bytes()).map(|index| headers.places[index].kid.clone())
        };
        assert_eq!(kid(&headers, ".a.b"), None);
        for number in 0..=PLACES {
            headers.keep(format!("header{number}").as_bytes(), &format!("k{number}"));
        }
        assert_eq!(kid(&headers, "header0.a.b"), None, "driven out");
        assert_eq!(kid(&headers, "header1.a.b"), Some("k1".into()));
        assert_eq!(kid(&headers, "header4.a.b"), Some("k4".into()));
        assert_eq!(kid(&headers, "header4"), None);
        assert_eq!(kid(&headers, "header4a.b"), None);
        assert_eq!(kid(&headers, "header"), None);
    }

    #[test]
    fn room_is_not_outgrown() {
        let mut headers = Headers::new();
        let room = |headers: &Headers| headers.places.iter().map(|k| k.letters.capacity()).sum::<usize>();
        let before = room(&headers);
        headers.keep(&[b'a'; MAX_LETTERS + 1], "k");
        assert_eq!(headers.find(&[&[b'a'; MAX_LETTERS + 1][..], b"."].concat()), None);
        headers.keep(b"a", &"k".repeat(MAX_KID + 1));
        assert_eq!(headers.find(b"a."), None);
        headers.keep(&[b'a'; MAX_LETTERS], &"k".repeat(MAX_KID));
        assert_eq!(headers.find(&[&[b'a'; MAX_LETTERS][..], b"."].concat()), Some(0));
        assert_eq!(room(&headers), before);
    }
}
