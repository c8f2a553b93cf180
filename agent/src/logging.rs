//! Logs, in which no token, signature or key ever appears.

use crate::config::{Log, LogFormat};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing_subscriber::EnvFilter;

/// Most denials that are logged in one second. An attack must not become a second one on the disk; what is left out is
/// counted and said.
const DENIALS_PER_SECOND: u64 = 100;

/// Longest path that is logged, in bytes.
const MAX_LOGGED: usize = 256;

/// Longest path segment that is logged as it is. A segment of a token is longer; names of content hardly are.
const MAX_SEGMENT: usize = 80;

/// Characters of a signature: 32 bytes in base64url. Whoever cuts a token in pieces may leave it whole.
const SIGNATURE: usize = 43;

/// Sends events to standard error. The environment variable `EDGEGATE_LOG` overrides the configured level with a
/// filter like `agent::judge=debug`.
pub(crate) fn init(log: &Log) {
    let filter =
        EnvFilter::try_from_env("EDGEGATE_LOG").unwrap_or_else(|_| EnvFilter::new(log.level.as_str()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, as tests make, leaves the first in force.
    let _already_set = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
}

/// A path as it may be logged: anything that could be part of a token is replaced, and so is what a terminal or a log
/// reader could take for something else.
#[must_use]
pub(crate) fn redacted(path: &[u8]) -> String {
    let mut shown = String::new();
    for (index, segment) in path.split(|&b| b == b'/').enumerate() {
        if index > 0 {
            shown.push('/');
        }
        if shown.len() > MAX_LOGGED {
            shown.push('…');
            break;
        }
        if may_hold_token(segment) {
            shown.push_str("[redacted]");
        } else {
            shown.push_str(&printable(segment));
        }
    }
    shown
}

/// Whether a path segment may be a token or a piece of one: long, or with the start of an encoded JSON object or
/// what may be a signature in it.
fn may_hold_token(segment: &[u8]) -> bool {
    let base64url = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    segment.len() > MAX_SEGMENT
        || segment.windows(3).any(|three| three == b"eyJ")
        || segment.split(|b| !base64url(b)).any(|run| run.len() >= SIGNATURE)
}

fn printable(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.iter().all(u8::is_ascii_graphic) {
        return String::from_utf8_lossy(bytes);
    }
    let mut shown = String::new();
    for &byte in bytes {
        if byte.is_ascii_graphic() {
            shown.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _infallible = write!(shown, "\\x{byte:02x}");
        }
    }
    Cow::Owned(shown)
}

/// Lets a bounded number of events through each second.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    /// The current second in the upper half, events in it in the lower.
    window: AtomicU64,
    suppressed: AtomicU64,
}

impl Limiter {
    /// Whether an event at `now` (unix seconds) may be logged; with it comes the number of those left out since the
    /// last one that was.
    pub(crate) fn admit(&self, now: u64) -> Option<u64> {
        let second = now & 0xffff_ffff;
        let seen = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            Some(if window >> 32 == second { window.saturating_add(1) } else { second << 32 | 1 })
        });
        let window = seen.unwrap_or_default();
        let earlier = if window >> 32 == second { window & 0xffff_ffff } else { 0 };
        if earlier < DENIALS_PER_SECOND {
            Some(self.suppressed.swap(0, Ordering::Relaxed))
        } else {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_token_is_shown() {
        for (path, shown) in [
            ("/Content/a%20b/x.ts", "/Content/a%20b/x.ts"),
            ("/eyJhbGciOiJIUzI1NiJ9.eyJ.x/Content", "/[redacted]/Content"),
            ("/xeyJhbGciOiJIUzI1NiJ9/Content", "/[redacted]/Content"),
            ("/JzdHQifQ.y_X-daK2_y5gVhHVu2RPuFnHQQMwONY_uST92L5pQSg/Content", "/[redacted]/Content"),
            ("/550e8400-e29b-41d4-a716-446655440000/x.ts", "/550e8400-e29b-41d4-a716-446655440000/x.ts"),
            ("/a\x1b[31m\n/b", "/a\\x1b[31m\\x0a/b"),
        ] {
            assert_eq!(redacted(path.as_bytes()), shown);
        }
        assert_eq!(redacted("a".repeat(MAX_SEGMENT + 1).as_bytes()), "[redacted]");
        let long = redacted("/abcdefghi".repeat(1000).as_bytes());
        assert!(long.len() < 2 * MAX_LOGGED && long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_flood_is_counted_not_logged() {
        let limiter = Limiter::default();
        let admitted = (0..1000).filter(|_| limiter.admit(7).is_some()).count();
        assert_eq!(admitted as u64, DENIALS_PER_SECOND);
        assert_eq!(limiter.admit(8), Some(1000 - DENIALS_PER_SECOND));
        assert_eq!(limiter.admit(8), Some(0));
    }
}
