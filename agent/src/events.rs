//! What happens, told to whoever listens at the moment: `GET /v1/events`.

use serde::Serialize;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;
use tokio::sync::broadcast;
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

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
pub(crate) struct Bus {
    told: broadcast::Sender<Told>,
    /// The channel knows, too, but has to lock itself to say so, and requests under attack ask all the time.
    listeners: Arc<AtomicUsize>,
}

impl Default for Bus {
    fn default() -> Self {
        Self { told: broadcast::Sender::new(WAITING), listeners: Arc::default() }
    }
}

impl Bus {
    /// Tells an event, which is only made if anybody listens.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        if self.listeners.load(Ordering::Relaxed) > 0 {
            // The last listener may be gone by now.
            let _nobody = self.told.send(Told::now(event()));
        }
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) -> Listener {
        let told = BroadcastStream::new(self.told.subscribe());
        self.listeners.fetch_add(1, Ordering::Relaxed);
        Listener { told, listeners: Arc::clone(&self.listeners) }
    }
}

/// What is told, to one who listens.
pub(crate) struct Listener {
    told: BroadcastStream<Told>,
    listeners: Arc<AtomicUsize>,
}

impl Stream for Listener {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        let told = ready!(Pin::new(&mut self.told).poll_next(cx));
        let missed = |BroadcastStreamRecvError::Lagged(count)| Told::now(Event::Missed { count });
        Poll::Ready(told.map(|told| told.unwrap_or_else(missed)))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    #[tokio::test]
    async fn only_who_listens_is_told() {
        let bus = Bus::default();
        bus.tell(|| unreachable!("nobody listens"));
        let mut listener = bus.listen();
        bus.tell(|| Event::Change { version: 7, sessions: 0 });
        let told = listener.next().await.unwrap();
        assert!(matches!(told.event, Event::Change { version: 7, .. }), "{told:?}");
        for version in 0..=WAITING as u64 {
            bus.tell(|| Event::Change { version, sessions: 0 });
        }
        let told = listener.next().await.unwrap();
        assert!(matches!(told.event, Event::Missed { count: 1 }), "{told:?}");
        drop(listener);
        bus.tell(|| unreachable!("nobody listens any more"));
    }
}
