//! A made-up geo database of about the size of a real one.

use agent::demo::geodb::{Place, city_database};
use ipnet::{IpNet, Ipv4Net};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use tests::random::Random;

/// Countries there are.
pub const COUNTRIES: u32 = 240;

/// Countries as two letters each.
#[must_use]
pub fn country(number: u32) -> [u8; 2] {
    let letter = |number: u32| b'A' + u8::try_from(number % 26).unwrap_or(0);
    [letter(number / 26), letter(number)]
}

/// A network of IPv4 and its country.
#[derive(Clone, Copy)]
pub struct Network {
    /// Its first address.
    pub first: u32,
    /// Its length.
    pub bits: u8,
    /// Its country.
    pub country: [u8; 2],
}

/// A number of 32 bits below another one.
pub fn below(random: &mut Random, end: u32) -> u32 {
    u32::try_from(random.number() % u64::from(end)).unwrap_or(0)
}

/// Networks that cover all of IPv4, no two neighbours in the same country, so that none can be joined. Of their lengths
/// the mean is about that of a real database; there are some more of them.
#[must_use]
pub fn networks(full: bool) -> Vec<Network> {
    let mut random = Random(1);
    let mut networks = Vec::new();
    let (mut next, mut last) = (0u64, 0);
    while next < 1 << 32 {
        let wanted = if full { 17 + below(&mut random, 6) } else { 16 };
        let bits = wanted.max(32 - next.trailing_zeros().min(16));
        last = (last + 1 + below(&mut random, COUNTRIES - 1)) % COUNTRIES;
        networks.push(Network {
            first: u32::try_from(next).unwrap_or(u32::MAX),
            bits: u8::try_from(bits).unwrap_or(32),
            country: country(last),
        });
        next += 1 << (32 - bits);
    }
    networks
}

/// A database of these networks.
///
/// # Panics
/// When a network is none.
#[must_use]
pub fn city(networks: &[Network]) -> Vec<u8> {
    // The demo's databases take names that live as long as the program.
    let mut names: HashMap<[u8; 2], &'static str> = HashMap::new();
    let places: Vec<Place> = networks
        .iter()
        .map(|network| {
            let name = names
                .entry(network.country)
                .or_insert_with(|| String::from_utf8_lossy(&network.country).into_owned().leak());
            let net = Ipv4Net::new(Ipv4Addr::from_bits(network.first), network.bits).expect("a network");
            Place { network: IpNet::V4(net), country: name, city: None, asn: None }
        })
        .collect();
    city_database(&places, 0)
}
