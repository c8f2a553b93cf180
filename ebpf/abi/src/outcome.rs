//! What may become of a packet, and how it is told.

use crate::{Address, SessionKey};
use core::mem::{align_of, offset_of, size_of};

/// Declares the outcomes once: variant, verdict and reason.
macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $verdict:literal $reason:literal,)*) => {
        /// What became of a packet, and why. Each has a counter. Verdict and reason are named here and nowhere else.
        #[repr(u32)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[$doc])* $name,)*
        }

        impl Outcome {
            /// Every outcome, in the order of their counters.
            pub const ALL: [Self; [$($verdict),*].len()] = [$(Self::$name),*];

            /// Verdict and reason as in metrics.
            #[must_use]
            pub const fn labels(self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$name => ($verdict, $reason),)*
                }
            }
        }
    };
}

outcomes! {
    /// Passed: nothing speaks against it.
    Pass = "pass" "default",
    /// Passed: neither IPv4 nor IPv6.
    PassOther = "pass" "other_protocol",
    /// Passed: cut short, more VLAN tags or extension headers than are followed, or malformed. The stack decides.
    PassUnparsed = "pass" "unparsed",
    /// Passed: a fragment from an address that is not denied. Its ports may be elsewhere.
    PassFragment = "pass" "fragment",
    /// Passed: on the allow list.
    PassAllowed = "pass" "allowed",
    /// Passed: on the list of those who speak for others.
    PassTrusted = "pass" "trusted",
    /// Passed: a request that was searched for a session, and none is blacklisted.
    PassInspected = "pass" "inspected",
    /// Passed: a blacklisted session, but an answer would not come at its place in the connection. Userspace decides.
    PassBusy = "pass" "session_busy",
    /// Passed: what looks like a blacklisted session is none, or is not proven to be one. Userspace decides.
    PassUnproven = "pass" "session_unproven",
    /// Dropped: on the deny list.
    DropIpDenied = "drop" "ip_denied",
    /// Dropped: the service does not admit the country.
    DropCountryDenied = "drop" "country_denied",
    /// Answered: a blacklisted session.
    RespondSession = "respond" "session_blacklisted",
    /// Passed on to the server as a reset: a blacklisted session, whose client is reset when it asks again.
    ResetSession = "reset" "session_blacklisted",
    /// Passed on to the server as a reset: a blacklisted session, whose client gets no answer.
    DropSession = "drop" "session_blacklisted",
    /// Answered again: the client had not got the answer.
    RespondAgain = "respond" "retransmitted",
    /// Reset: the client asks again.
    ResetAgain = "reset" "retransmitted",
    /// Passed on to the server as a reset: its connection was refused.
    ResetServer = "reset" "server_released",
    /// Acknowledged: the client's end of a refused connection.
    AnswerFin = "respond" "connection_end",
    /// Dropped: of a connection that is over.
    DropOver = "drop" "connection_over",
    /// Reset: a connection that the agent rejected.
    ResetFlow = "reset" "flow_rejected",
    /// Dropped: of a connection that the agent rejected.
    DropFlow = "drop" "flow_rejected",
    /// Passed in monitor mode: would have been dropped as [`Outcome::DropIpDenied`].
    MonitorIpDenied = "monitor" "ip_denied",
    /// Passed in monitor mode: would have been dropped as [`Outcome::DropCountryDenied`].
    MonitorCountryDenied = "monitor" "country_denied",
    /// Passed in monitor mode: a blacklisted session.
    MonitorSession = "monitor" "session_blacklisted",
}

const _: () = {
    let mut index = 0;
    while index < Outcome::ALL.len() {
        assert!(Outcome::ALL[index] as usize == index);
        index += 1;
    }
};

/// One of many packets that met the same outcome.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Event {
    /// The packet's source.
    pub source: Address,
    /// Its destination.
    pub destination: Address,
    /// The session, zero if that is not the reason.
    pub session: SessionKey,
    /// Packets with this outcome on this processor since the last event of it, this one included.
    pub packets: u64,
    /// An [`Outcome`] as a number.
    pub outcome: u32,
    /// The country of the source ([`crate::country_number`]), if that is the reason.
    pub country: u16,
    /// The source's port; zero if there is none or it was not looked at.
    pub source_port: u16,
    /// The destination's port, likewise.
    pub destination_port: u16,
    /// As in IP.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

const _: () = {
    assert!(size_of::<Event>() == 72 && align_of::<Event>() == 8);
    assert!(offset_of!(Event, session) == 32 && offset_of!(Event, packets) == 48);
    assert!(offset_of!(Event, outcome) == 56 && offset_of!(Event, country) == 60);
};
