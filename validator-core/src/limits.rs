//! Every bound that a request meets inside the validator. Each has a test at its boundary.

/// Longest request target (path and query) that is looked at, in bytes. Longer ones are [`crate::Reason::UriAmbiguous`];
/// listeners refuse them earlier, with their own status.
pub const MAX_TARGET: usize = 16 * 1024;

/// Longest value of a header field that rules are prepared for without allocating, in bytes; listeners take no longer
/// one.
pub(crate) const MAX_TEXT: usize = 64 * 1024;

/// Longest token, in bytes of its compact form.
pub const MAX_TOKEN: usize = 8 * 1024;

/// Longest decoded JSON text of a token: base64url turns four characters into three bytes.
pub(crate) const MAX_JSON: usize = MAX_TOKEN / 4 * 3;

/// Deepest nesting of a token's JSON; the top-level object counts as one.
pub const MAX_DEPTH: usize = 8;

/// Most values (members, elements, and the root) in one JSON text of a token.
pub const MAX_NODES: usize = 512;

/// Most members of one JSON object. It bounds the search for duplicate names, which is quadratic in this number.
pub const MAX_MEMBERS: usize = 64;

/// Longest `kid` that is looked up; a longer one is an unknown key.
pub const MAX_KID: usize = 128;

/// Largest integer that a time or number claim may hold: 2^53, the last one that every JSON reader holds exactly.
pub const MAX_INTEGER: u64 = 1 << 53;

/// Shortest key that is accepted at all, in bytes.
pub const MIN_KEY: usize = 16;

/// Size of a Content JWT key in bytes, unless another is explicitly allowed.
pub const KEY_SIZE: usize = 32;

/// Default bound on `e - now` of a Secure Token, in seconds: 30 days.
pub const DEFAULT_MAX_TTL: u64 = 30 * 86_400;
