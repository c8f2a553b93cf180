//! What happens, told to whoever listens at the moment: `GET /v1/events`.

use serde::Serialize;
use std::net::IpAddr;
use std::time::SystemTime;
use tokio::sync::broadcast;

/// Events that wait for a slow listener; the oldest make way for others and are counted.
const WAITING: usize = 4096;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Event {
    /// A request was refused.
    Refused {
        /// Why.
        reason: &'static str,
        /// What was answered: deny, redirect or forward.
        verdict: &'static str,
        /// Who asked.
        client: IpAddr,
        /// Which route decided.
        route: String,
        /// Whose session it was, as far as a good signature says so.
        session: Option<String>,
        /// What was asked for, without anything that may be a token.
        path: String,
    },
    /// Something did not hold, and was let through.
    Monitored {
        /// Which claim or list.
        claim: &'static str,
        /// Who asked.
        client: IpAddr,
        /// Which route decided.
        route: String,
        /// Whose session it was.
        session: Option<String>,
        /// What was asked for.
        path: String,
    },
    /// The kernel part refused packets.
    Kernel {
        /// What it did.
        verdict: &'static str,
        /// Why.
        reason: &'static str,
        /// From where they came.
        source: IpAddr,
        /// From which port, as far as known.
        source_port: Option<u16>,
        /// Where they went.
        destination: IpAddr,
        /// To which port, as far as known.
        destination_port: Option<u16>,
        /// From which country, as far as known.
        country: Option<String>,
        /// What stands for the session, where there is one.
        session_hash: Option<String>,
        /// How many.
        packets: u64,
    },
    /// Another version is in force.
    Change {
        /// Which.
        version: u64,
        /// How many sessions are blacklisted.
        sessions: usize,
    },
    /// The listener was too slow.
    Missed {
        /// How many events it has missed.
        count: u64,
    },
}

/// An event and its time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Told {
    /// Unix seconds.
    pub(crate) at: f64,
    /// What happened.
    #[serde(flatten)]
    pub(crate) event: Event,
}

impl Told {
    /// Now.
    pub(crate) fn now(event: Event) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Milliseconds are enough, and read well.
        Self { at: (since.as_secs_f64() * 1000.0).round() / 1000.0, event }
    }
}

/// Carries events from where they happen to who listens.
#[derive(Clone)]
pub(crate) struct Bus(broadcast::Sender<Told>);

impl Default for Bus {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING))
    }
}

impl Bus {
    /// Tells an event, which is only made if anybody listens.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // The last listener may be gone by now.
            let _nobody = self.0.send(Told::now(event()));
        }
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Told> {
        self.0.subscribe()
    }
}
