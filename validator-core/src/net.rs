//! Addresses: one spelling each, lists of networks and ports, and the `cip` claim's forms.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The one spelling of an address: IPv4-mapped IPv6 is its IPv4.
#[must_use]
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Reads `192.0.2.1`, `2001:db8::/32` and the like: an address is a network of one. Zone identifiers, leading zeros and
/// ports are refused; a network within `::ffff:0:0/96` is its IPv4 network.
#[must_use]
pub fn parse_net(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    let IpNet::V6(v6) = net else { return Some(net) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).ok().map(IpNet::V4),
        _ => Some(net),
    }
}

/// Reads an address of IPv4 as the standard library does, in fewer steps.
#[inline(always)]
pub(crate) fn parse_v4(text: &[u8]) -> Option<u32> {
    // Each number so far, the one at hand lowest; and that one's digits.
    let (mut numbers, mut number, mut digits, mut dots) = (0_u32, 0_u32, 0, 0);
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            // No leading zeros.
            if digits > 0 && number == 0 {
                return None;
            }
            number = number * 10 + u32::from(digit);
            digits += 1;
            if number > 255 {
                return None;
            }
        } else if byte == b'.' && digits > 0 && dots < 3 {
            numbers = numbers << 8 | number;
            (number, digits) = (0, 0);
            dots += 1;
        } else {
            return None;
        }
    }
    (digits > 0 && dots == 3).then_some(numbers << 8 | number)
}

/// A set of networks; look-up is logarithmic in their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl NetSet {
    /// The set of all addresses in any of `nets`.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let mut set = Self::default();
        for net in nets {
            match net {
                IpNet::V4(net) => set.v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => set.v6.push(v6_range(net)),
            }
        }
        set.v4 = merged(set.v4, |end| end.checked_add(1));
        set.v6 = merged(set.v6, |end| end.checked_add(1));
        set
    }

    /// Whether the address, in any of its spellings, is in the set.
    #[must_use]
    #[inline]
    pub fn contains(&self, ip: &IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => in_ranges(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => in_ranges(&self.v4, v4.to_bits()),
                None => in_ranges(&self.v6, v6.to_bits()),
            },
        }
    }

    /// Whether every address of the family of `like` is in the set.
    #[must_use]
    pub(crate) fn covers_family(&self, like: IpAddr) -> bool {
        match canonical(like) {
            IpAddr::V4(_) => self.v4 == [(0, u32::MAX)],
            IpAddr::V6(_) => self.v6 == [(0, u128::MAX)],
        }
    }

    /// Whether no address is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// A set of ports; look-up is logarithmic in their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortSet {
    sorted: Vec<u16>,
}

impl PortSet {
    /// The set of all `ports`.
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut sorted: Vec<u16> = ports.into_iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        Self { sorted }
    }

    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.sorted.binary_search(&port).is_ok()
    }

    /// Whether no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }
}

fn v6_range(net: Ipv6Net) -> (u128, u128) {
    let bits = |address: Ipv6Addr| address.to_bits();
    (bits(net.network()), bits(net.broadcast()))
}

/// Sorted ranges without overlap; neighbours are joined.
fn merged<N: Ord + Copy>(mut ranges: Vec<(N, N)>, after: impl Fn(N) -> Option<N>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    let mut joined: Vec<(N, N)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if after(last.1).is_none_or(|next| start <= next) => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

fn in_ranges<N: Ord + Copy>(ranges: &[(N, N)], value: N) -> bool {
    let after = ranges.partition_point(|&(start, _)| start <= value);
    after > 0 && value <= ranges[after - 1].1
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn spellings() {
        for (text, net) in [
            ("192.0.2.1", Some("192.0.2.1/32")),
            ("::ffff:192.0.2.1", Some("192.0.2.1/32")),
            ("::ffff:192.0.2.0/120", Some("192.0.2.0/24")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("192.0.2.01", None),
            ("fe80::1%eth0", None),
            ("192.0.2.1:80", None),
            ("192.0.2.1/33", None),
            (" 192.0.2.1", None),
            ("", None),
        ] {
            assert_eq!(parse_net(text), net.map(|n| n.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn both_families_and_mapped_addresses() {
        let set = NetSet::new(["10.0.0.0/8", "2001:db8::/32"].map(|n| n.parse().unwrap()));
        for (address, expected) in [
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("::ffff:10.0.0.1", true),
            ("::10.0.0.1", false),
            ("2001:db8:ffff::", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(set.contains(&ip(address)), expected, "{address}");
        }
        assert!(!NetSet::default().contains(&ip("::")));
        assert!(NetSet::new(vec!["0.0.0.0/0".parse().unwrap()]).contains(&ip("255.255.255.255")));
        assert!(NetSet::new(vec!["::/0".parse().unwrap()]).contains(&ip("ffff::ffff")));
        let halves = NetSet::new(["0.0.0.0/1", "128.0.0.0/1"].map(|n| n.parse().unwrap()));
        assert!(halves.covers_family(ip("192.0.2.1")) && !halves.covers_family(ip("::1")));
    }

    #[test]
    fn ports() {
        let set = PortSet::new([8080, 80, 8080, 65_535]);
        assert_eq!(
            [1, 80, 443, 8080, 65_535].map(|port| set.contains(port)),
            [false, true, false, true, true]
        );
        assert_eq!(set, PortSet::new([80, 8080, 65_535]));
        assert!(!set.is_empty() && PortSet::default().is_empty());
    }

    proptest! {
        #[test]
        fn addresses_are_read_as_by_the_standard_library(text in "[0-9]{1,3}(\\.[0-9]{0,3}){2,4}|[0-9.a:]{0,16}") {
            let expected = text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
            prop_assert_eq!(parse_v4(text.as_bytes()), expected, "{}", text);
        }

        #[test]
        fn every_address_is_read(bits in any::<u32>()) {
            let text = alloc::string::ToString::to_string(&Ipv4Addr::from_bits(bits));
            prop_assert_eq!(parse_v4(text.as_bytes()), Some(bits));
        }

        #[test]
        fn agrees_with_a_linear_search(
            nets in prop::collection::vec((any::<u32>(), 20u8..=32), 0..20),
            probes in prop::collection::vec(any::<u32>(), 0..40),
        ) {
            // Few distinct high bits, so that probes hit.
            let squeeze = |bits: u32| (bits & 0x0000_3fff) | 0x0a00_0000;
            let nets: Vec<IpNet> = nets
                .iter()
                .map(|&(bits, prefix)| Ipv4Net::new(squeeze(bits).into(), prefix).unwrap().into())
                .collect();
            let set = NetSet::new(nets.clone());
            for probe in probes {
                let address = IpAddr::V4(squeeze(probe).into());
                prop_assert_eq!(set.contains(&address), nets.iter().any(|net| net.contains(&address)));
            }
        }
    }
}
