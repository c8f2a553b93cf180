//! A geo database without a file: the demo's places, looked up without allocating.

use agent::demo::geodb::{PLACES, Place};
use std::net::IpAddr;
use validator_core::{Country, Geo};

/// The demo's places.
pub struct Places;

impl Geo for Places {
    fn country(&self, ip: IpAddr) -> Option<Country> {
        Country::new(place(ip)?.country)
    }

    fn city_is(&self, ip: IpAddr, is: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
        Some(place(ip)?.city?.iter().any(|(_, name)| is(name)))
    }

    fn asn(&self, ip: IpAddr) -> Option<u32> {
        Some(place(ip)?.asn?.0)
    }
}

fn place(ip: IpAddr) -> Option<&'static Place> {
    PLACES.iter().filter(|p| p.network.contains(&ip)).max_by_key(|p| p.network.prefix_len())
}
