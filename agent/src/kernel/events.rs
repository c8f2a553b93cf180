//! What the program tells of single packets, into the log.

use super::error::KernelError;
use super::object::pinned;
use crate::events::{Bus, Event as Told};
use aya::maps::{MapData, RingBuf};
use ebpf_abi::{COUNTRY_UNKNOWN, Event, Outcome, SessionKey, map};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// Between two looks at the ring. Nobody waits for an event, and the ring holds many seconds of them.
const PAUSE: Duration = Duration::from_millis(100);

/// The ring of events.
pub(crate) struct Events(RingBuf<MapData>);

impl Events {
    /// Opens the pinned ring. Whoever reads it takes the events out.
    ///
    /// # Errors
    /// [`KernelError`], which names the map.
    pub(crate) fn open(folder: &Path) -> Result<Self, KernelError> {
        let ring = RingBuf::try_from(pinned(folder, map::EVENTS)?);
        ring.map(Self).map_err(KernelError::map(map::EVENTS))
    }

    /// Logs events, and tells them to who listens, for as long as it is polled.
    pub(crate) async fn tell(mut self, bus: Bus) {
        loop {
            while let Some(item) = self.0.next() {
                if let Ok(event) = bytemuck::try_pod_read_unaligned::<Event>(&item) {
                    report(&event, &bus);
                }
            }
            sleep(PAUSE).await;
        }
    }
}

fn report(event: &Event, bus: &Bus) {
    let Some(outcome) = Outcome::ALL.get(event.outcome as usize) else { return };
    let (verdict, reason) = outcome.labels();
    tracing::info!(
        verdict,
        reason,
        source = %address(event.source),
        source_port = (event.source_port != 0).then_some(event.source_port),
        destination = %address(event.destination),
        destination_port = (event.destination_port != 0).then_some(event.destination_port),
        country = country(event.country),
        session = (event.session != SessionKey::default()).then(|| hash(event.session)),
        packets = event.packets,
        "kernel"
    );
    bus.tell(|| Told::Kernel {
        verdict,
        reason,
        source: address(event.source),
        source_port: (event.source_port != 0).then_some(event.source_port),
        destination: address(event.destination),
        destination_port: (event.destination_port != 0).then_some(event.destination_port),
        country: country(event.country),
        session_hash: (event.session != SessionKey::default()).then(|| hash(event.session)),
        packets: event.packets,
    });
}

fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

/// The two letters of a country.
fn country(number: u16) -> Option<String> {
    let index = number.checked_sub(1).filter(|&index| number != COUNTRY_UNKNOWN && index < 26 * 26)?;
    let letter = |index: u16| char::from(b'A' + u8::try_from(index).unwrap_or(0));
    Some([letter(index / 26), letter(index % 26)].iter().collect())
}

/// What stands for a session: enough to tell two apart, and nothing that could be used.
fn hash(SessionKey([first, _]): SessionKey) -> String {
    format!("{first:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebpf_abi::country_number;

    #[test]
    fn countries_by_number() {
        for code in ["AA", "FR", "DE", "ZZ"] {
            let bytes = code.as_bytes().try_into().unwrap();
            assert_eq!(country(country_number(bytes)).as_deref(), Some(code));
        }
        for number in [COUNTRY_UNKNOWN, ebpf_abi::COUNTRY_UNDETERMINED, 26 * 26 + 1] {
            assert_eq!(country(number), None);
        }
    }

    #[test]
    fn addresses_of_either_family() {
        assert_eq!(address(*b"\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\0\x02\x01").to_string(), "192.0.2.1");
        assert_eq!(
            address([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]).to_string(),
            "2001:db8::1"
        );
    }
}
