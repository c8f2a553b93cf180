//! The address lists in the form that the kernel looks them up in.

use ebpf_abi::{Address, EXACT_CAPACITY, LIST_ALLOW, LIST_DENY, LIST_TRUSTED, MAPPED_BITS, PREFIX_CAPACITY};
use ipnet::IpNet;
use std::collections::BTreeMap;

/// Bits of an [`Address`].
const BITS: u32 = 128;

/// What every mapped IPv4 address starts with.
const MAPPED: u128 = 0xffff << 32;

/// A network of mapped addresses. Host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Prefix {
    /// Network address.
    pub(crate) address: Address,
    /// How many of its bits count.
    pub(crate) bits: u32,
}

/// More than the kernel part holds.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key}: {found} {what}, but the kernel part holds {limit}; {way_out}, or empty prefilter.interfaces to do without it"
)]
pub struct OverCapacity {
    /// Where in the configuration they come from.
    pub(super) key: &'static str,
    /// Of what there are too many.
    pub(super) what: &'static str,
    /// How many there are.
    pub(super) found: usize,
    /// How many there may be.
    pub(super) limit: usize,
    /// What to do about it.
    pub(super) way_out: &'static str,
}

/// All lists, with the flags of each entry and of everything that covers it, so that the longest match alone decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lists {
    /// Single addresses.
    pub(crate) exact: BTreeMap<Address, u32>,
    /// Networks.
    pub(crate) prefix: BTreeMap<Prefix, u32>,
}

impl Lists {
    /// Joins the lists; `trusted` are the peers that speak for others.
    ///
    /// # Errors
    /// When they do not fit into the kernel's maps.
    pub fn new(deny: &[IpNet], allow: &[IpNet], trusted: &[IpNet]) -> Result<Self, OverCapacity> {
        // Sorted by address, then from the wider to the narrower. The families are kept apart until the end: `::/0` does
        // not mean IPv4.
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        let flagged = [(deny, LIST_DENY), (allow, LIST_ALLOW), (trusted, LIST_TRUSTED)];
        for (net, flag) in
            flagged.into_iter().flat_map(|(nets, flag)| nets.iter().map(move |net| (net, flag)))
        {
            let (family, address, bits) = match net.trunc() {
                IpNet::V4(net) => {
                    let mapped = MAPPED | u128::from(net.network().to_bits());
                    (&mut v4, mapped, u32::from(net.prefix_len()) + MAPPED_BITS)
                }
                IpNet::V6(net) => (&mut v6, net.network().to_bits(), u32::from(net.prefix_len())),
            };
            *family.entry((address, bits)).or_insert(0) |= flag;
        }
        inherit(&mut v4);
        inherit(&mut v6);
        // A wide IPv6 network also holds the place where IPv4 is mapped to; an entry of its own keeps it out of there.
        if v6.keys().any(|&outer| contains(outer, (MAPPED, MAPPED_BITS))) {
            v4.entry((MAPPED, MAPPED_BITS)).or_insert(0);
        }

        let mut lists = Self::default();
        for ((address, bits), flags) in v4.into_iter().chain(v6) {
            let address = address.to_be_bytes();
            if bits == BITS {
                lists.exact.insert(address, flags);
            } else {
                lists.prefix.insert(Prefix { address, bits }, flags);
            }
        }
        let check = |what, found: usize, limit: u32| {
            let limit = limit as usize;
            let (key, way_out) =
                ("prefilter.deny and prefilter.allow, with trusted peers", "join neighbours");
            if found > limit { Err(OverCapacity { key, what, found, limit, way_out }) } else { Ok(()) }
        };
        check("single addresses", lists.exact.len(), EXACT_CAPACITY)?;
        check("networks", lists.prefix.len(), PREFIX_CAPACITY)?;
        Ok(lists)
    }
}

/// Gives every network the flags of those that it lies in.
fn inherit(nets: &mut BTreeMap<(u128, u32), u32>) {
    let mut covering: Vec<((u128, u32), u32)> = Vec::new();
    for (&net, flags) in nets {
        while covering.last().is_some_and(|&(outer, _)| !contains(outer, net)) {
            covering.pop();
        }
        *flags |= covering.last().map_or(0, |&(_, flags)| flags);
        covering.push((net, *flags));
    }
}

fn contains(outer: (u128, u32), inner: (u128, u32)) -> bool {
    outer.1 <= inner.1 && (outer.1 == 0 || (outer.0 ^ inner.0) >> (BITS - outer.1) == 0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use validator_core::net::NetSet;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| validator_core::net::parse_net(text).unwrap()).collect()
    }

    /// As the program does: the exact address first, then the longest prefix.
    fn flags(lists: &Lists, ip: IpAddr) -> u32 {
        let bits = match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        if let Some(&flags) = lists.exact.get(&bits.to_be_bytes()) {
            return flags;
        }
        let covers =
            |prefix: &Prefix| contains((u128::from_be_bytes(prefix.address), prefix.bits), (bits, BITS));
        let longest = lists.prefix.iter().filter(|(prefix, _)| covers(prefix)).max_by_key(|(p, _)| p.bits);
        longest.map_or(0, |(_, &flags)| flags)
    }

    #[test]
    fn the_longest_match_carries_what_covers_it() {
        let deny = nets(&["10.0.0.0/8", "10.1.2.3", "192.0.2.0/24", "::/0"]);
        let allow = nets(&["10.1.0.0/16", "192.0.2.7", "2001:db8::/32"]);
        let trusted = nets(&["10.1.2.0/24", "192.0.2.9", "::1"]);
        let lists = Lists::new(&deny, &allow, &trusted).unwrap();
        for (ip, expected) in [
            ("10.9.9.9", LIST_DENY),
            ("10.1.9.9", LIST_DENY | LIST_ALLOW),
            ("10.1.2.3", LIST_DENY | LIST_ALLOW | LIST_TRUSTED),
            ("10.1.2.4", LIST_DENY | LIST_ALLOW | LIST_TRUSTED),
            ("192.0.2.9", LIST_DENY | LIST_TRUSTED),
            ("::1", LIST_DENY | LIST_TRUSTED),
            ("192.0.2.8", LIST_DENY),
            ("192.0.2.7", LIST_DENY | LIST_ALLOW),
            ("2001:db8::1", LIST_DENY | LIST_ALLOW),
            ("2001:db9::1", LIST_DENY),
            ("198.51.100.1", 0),
        ] {
            assert_eq!(flags(&lists, ip.parse().unwrap()), expected, "{ip}");
        }
        assert_eq!((lists.exact.len(), lists.prefix.len()), (4, 7));
    }

    #[test]
    fn limits() {
        let many = |count: u32, len| -> Vec<IpNet> {
            let net =
                |i: u32| IpNet::new(Ipv4Addr::from_bits(i << (32 - len)).into(), u8::try_from(len).unwrap());
            (0..count).map(|i| net(i).unwrap()).collect()
        };
        assert!(Lists::new(&many(EXACT_CAPACITY, 32), &[], &[]).is_ok());
        let error = Lists::new(&many(EXACT_CAPACITY + 1, 32), &[], &[]).unwrap_err().to_string();
        assert!(error.contains("65537 single addresses") && error.contains("65536"), "{error}");
        assert!(Lists::new(&many(PREFIX_CAPACITY, 24), &[], &[]).is_ok());
        let error =
            Lists::new(&[], &many(PREFIX_CAPACITY, 24), &nets(&["192.0.2.0/25"])).unwrap_err().to_string();
        assert!(error.contains("16385 networks") && error.contains("16384"), "{error}");
    }

    /// Networks around few addresses, so that they nest.
    pub(in crate::kernel) fn any_net() -> impl Strategy<Value = IpNet> {
        let v4 = (0u32..4, 0u32..16, 0u8..=32).prop_map(|(high, low, len)| {
            IpNet::new(IpAddr::V4(Ipv4Addr::from_bits(high << 30 | low)), len).unwrap().trunc()
        });
        let v6 =
            (0u128..4, 0u128..3, 0u128..16, 0u8..=128).prop_filter_map("IPv4", |(high, mid, low, len)| {
                let bits = (high << 126) | (mid * (MAPPED / 2)) | low;
                let net = IpNet::new(IpAddr::V6(Ipv6Addr::from_bits(bits)), len).unwrap().trunc();
                validator_core::net::parse_net(&net.to_string()).filter(|net| matches!(net, IpNet::V6(_)))
            });
        prop_oneof![v4, v6]
    }

    proptest! {
        /// The kernel's lists say what userspace's say.
        #[test]
        fn agrees_with_userspace(
            deny in prop::collection::vec(any_net(), 0..12),
            allow in prop::collection::vec(any_net(), 0..12),
            trusted in prop::collection::vec(any_net(), 0..12),
            ips in prop::collection::vec(any_net(), 1..20),
        ) {
            let lists = Lists::new(&deny, &allow, &trusted).unwrap();
            let (denied, allowed) = (NetSet::new(deny), NetSet::new(allow));
            let trusted = NetSet::new(trusted);
            for ip in ips {
                let ip = ip.addr();
                let flag = |set: &NetSet, flag| if set.contains(&ip) { flag } else { 0 };
                let expected = flag(&allowed, LIST_ALLOW)
                    | flag(&denied, LIST_DENY)
                    | flag(&trusted, LIST_TRUSTED);
                prop_assert_eq!(flags(&lists, ip), expected, "{}", ip);
            }
        }
    }
}
