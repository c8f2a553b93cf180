//! How a decision came about, told step by step to whoever wants to know.

use core::fmt;

/// Listens to a decision. Decisions on the request path run with `()`, for which all of this compiles to nothing.
pub trait Trace {
    /// Whether notes are wanted: what is costly to say is then prepared.
    const ENABLED: bool;

    /// One step: its topic, a single word, and what was found.
    fn note(&mut self, topic: &'static str, detail: fmt::Arguments<'_>);
}

impl Trace for () {
    const ENABLED: bool = false;

    #[inline(always)]
    fn note(&mut self, _: &'static str, _: fmt::Arguments<'_>) {}
}

/// Bytes of a request in readable form.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}
