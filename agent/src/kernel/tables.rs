//! Everything that the kernel judges by, compiled from the configuration and the geo databases.

use super::countries::{self, Counts};
use super::lists::{Lists, OverCapacity};
use super::reply::replies;
use crate::config::{Config, SessionAction};
use crate::geo::Databases;
use bytemuck::Zeroable as _;
use bytemuck::allocation::zeroed_box;
use ebpf_abi::{
    Address, BLOCK_BITS, Blocks, COUNTRY_UNDETERMINED, FLAG_RESET, FLAG_RESPOND, FLAG_SERVICES,
    FLAG_SESSIONS, MAPPED_BITS, POLICIES, Policy, SERVICES, Service, Tables, country_number, listed_bit,
    set_bit,
};
use ipnet::IpNet;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use validator_core::{Countries, Country};

/// What one configuration has for the kernel.
#[derive(Debug)]
pub(crate) struct KernelTables {
    /// The address lists.
    pub(crate) lists: Lists,
    /// Everything else.
    pub(crate) compiled: Compiled,
}

impl KernelTables {
    /// Compiles all of it.
    ///
    /// # Errors
    /// What the kernel part has no room for.
    pub(crate) fn new(config: &Config, geo: &Databases) -> Result<Self, OverCapacity> {
        let kernel = &config.kernel;
        let lists = Lists::new(&kernel.deny, &kernel.allow, &kernel.trusted)?;
        let compiled = Compiled::new(config, geo, &lists)?;
        Ok(Self { lists, compiled })
    }
}

/// What a bank holds besides lists.
pub(crate) struct Compiled {
    /// As the program reads it; far too big for a stack. `None` once the kernel has it.
    pub(crate) tables: Option<Box<Tables>>,
    /// Those of the `FLAG_*` that tell about it.
    pub(crate) flags: u32,
    /// How many ranges of addresses the countries take.
    pub(crate) ranges: Counts,
    /// How many rows the services take.
    pub(crate) services: usize,
    /// When each policy applies. None at all: always.
    windows: Vec<Vec<Range<u64>>>,
}

/// Without the tables, which nobody could read.
impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables: _, flags, ranges, services, windows } = self;
        f.debug_struct("Compiled")
            .field("flags", flags)
            .field("ranges", ranges)
            .field("services", services)
            .field("windows", windows)
            .finish_non_exhaustive()
    }
}

impl Compiled {
    /// Compiles it.
    ///
    /// # Errors
    /// What the tables have no room for.
    pub(crate) fn new(config: &Config, geo: &Databases, lists: &Lists) -> Result<Self, OverCapacity> {
        let mut tables: Box<Tables> = zeroed_box();
        list_bits(lists, &mut tables);
        let services = services(config, &mut tables)?;
        let (mut flags, mut ranges) = (0, Counts::default());
        if services > 0 {
            flags |= FLAG_SERVICES;
            ranges = countries::compile(geo, &mut tables)?;
            countries::blocks(&mut tables, config.policy.prefilter.services.len());
        }
        flags |= sessions(config, &mut tables)?;
        let windows =
            config.policy.prefilter.services.iter().map(|service| service.windows.clone()).collect();
        Ok(Self { tables: Some(tables), flags, ranges, services, windows })
    }

    /// A bit for each policy: whether it applies at `now`, in unix seconds.
    pub(crate) fn active(&self, now: u64) -> u64 {
        let applies = |windows: &Vec<Range<u64>>| {
            windows.is_empty() || windows.iter().any(|window| window.contains(&now))
        };
        // The first policy is the lowest bit.
        self.windows.iter().rev().fold(0, |bits, windows| bits << 1 | u64::from(applies(windows)))
    }
}

/// Writes rows and policies of the services. Gives how many rows there are.
fn services(config: &Config, tables: &mut Tables) -> Result<usize, OverCapacity> {
    let services = &config.policy.prefilter.services;
    let check = |what, found, limit, way_out| {
        let error = OverCapacity { key: "prefilter.service", what, found, limit, way_out };
        if found > limit { Err(error) } else { Ok(()) }
    };
    check("services", services.len(), POLICIES, "join those with the same countries")?;
    let mut found = 0;
    for (index, (service, networks)) in services.iter().zip(&config.kernel.services).enumerate() {
        // Checked above.
        let policy_index = u16::try_from(index).unwrap_or(u16::MAX);
        let ports = if service.ports.is_empty() { &[0][..] } else { &service.ports };
        for network in networks {
            for &port in ports {
                if let Some(place) = tables.services.get_mut(found) {
                    *place = row(*network, port, policy_index);
                }
                found += 1;
            }
        }
        if let Some(place) = tables.policies.get_mut(index) {
            *place = policy(&service.countries);
        }
    }
    let way_out = "use wider networks or leave out ports";
    check("pairs of an address and a port", found, SERVICES, way_out)?;
    tables.service_count = found as u64;
    Ok(found)
}

fn row(network: IpNet, port: u16, policy: u16) -> Service {
    let (address, mask, family): (Address, u128, u16) = match network.trunc() {
        IpNet::V4(net) => {
            // All bits before the IPv4 part count.
            let mask = u128::from(net.netmask().to_bits()) | !u128::from(u32::MAX);
            (net.network().to_ipv6_mapped().octets(), mask, 4)
        }
        IpNet::V6(net) => (net.network().octets(), net.netmask().to_bits(), 6),
    };
    Service { network: address, mask: mask.to_be_bytes(), port, policy, family, reserved: 0 }
}

fn policy(countries: &Countries) -> Policy {
    let mut policy = Policy::zeroed();
    let (list, passes) = match countries {
        Countries::Only(list) => (list, true),
        Countries::AllBut(list) => {
            policy.fill(u64::MAX);
            (list, false)
        }
    };
    let mut set = |number: u16, passes| {
        if let Some(word) = policy.get_mut(usize::from(number / 64)) {
            let bit = 1 << (number % 64);
            *word = if passes { *word | bit } else { *word & !bit };
        }
    };
    for number in list.iter().filter_map(number) {
        set(number, passes);
    }
    set(COUNTRY_UNDETERMINED, true);
    policy
}

/// The number of a country.
fn number(country: &Country) -> Option<u16> {
    let code: [u8; 2] = country.as_str().as_bytes().try_into().ok()?;
    Some(country_number(code))
}

/// Writes what concerns sessions. Gives the flags for it.
fn sessions(config: &Config, tables: &mut Tables) -> Result<u32, OverCapacity> {
    let kernel = &config.kernel;
    let flag = match kernel.session_action {
        SessionAction::Respond => FLAG_RESPOND,
        SessionAction::Reset => FLAG_RESET,
        SessionAction::Drop => 0,
        SessionAction::Off => return Ok(0),
    };
    if kernel.session_ports.is_empty() {
        return Ok(0);
    }
    kernel.session_ports.iter().for_each(|&port| set_bit(&mut tables.session_ports, port));
    if flag == FLAG_RESPOND {
        tables.replies = replies(config)?;
    }
    Ok(FLAG_SESSIONS | flag)
}

/// Sets the bits that say whether a list may have an entry for an address.
fn list_bits(lists: &Lists, tables: &mut Tables) {
    let exact = lists.exact.iter().map(|(&address, &flags)| (address, 128, flags));
    let prefix = lists.prefix.iter().map(|(prefix, &flags)| (prefix.address, prefix.bits, flags));
    for (address, bits, flags) in exact.chain(prefix) {
        // An entry without flags only keeps a wider one away from mapped addresses. It says what no entry would say.
        if flags == 0 {
            continue;
        }

        match mapped(address).filter(|_| bits >= MAPPED_BITS) {
            Some(v4) => {
                set_blocks(&mut tables.listed_v4, v4.to_bits() >> (32 - BLOCK_BITS), bits - MAPPED_BITS);
                // The mapped form itself, should a packet of IPv6 have it.
                set_bit(&mut tables.listed_v6, listed_bit(0, 0, 0));
            }
            None => {
                let [first, second, third, ..] = Ipv6Addr::from(address).segments();
                // Bits that may be anything behind the first word may be anything in the result; as many as are fixed
                // there are fixed here.
                let block = listed_bit(first, second, third);
                set_blocks(&mut tables.listed_v6, block, bits.saturating_sub(16));
            }
        }
    }
}

fn mapped(address: Address) -> Option<Ipv4Addr> {
    Ipv6Addr::from(address).to_ipv4_mapped()
}

/// Sets the bit of every block whose number has the first `fixed` bits in common with `at`.
fn set_blocks(blocks: &mut Blocks, at: u32, fixed: u32) {
    let size = 1_u32 << (BLOCK_BITS - fixed.min(BLOCK_BITS));
    let start = at & !(size - 1);
    if size < 64 {
        (start..start + size).for_each(|block| set_bit(blocks, block));
    } else {
        let words = blocks.iter_mut().skip(start as usize / 64).take(size as usize / 64);
        words.for_each(|word| *word = u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::super::lists::tests::any_net;
    use super::*;
    use crate::config;
    use crate::demo::geodb::{PLACES, city_database};
    use ebpf_abi::COUNTRY_UNKNOWN;
    use proptest::prelude::*;
    use std::net::IpAddr;
    use std::path::Path;

    const GATEWAY: &str = "gateway = { listen = [\"127.0.0.1:1\"], upstream = \"http://a\" }\n";
    const GEO: &str = "geo = { city = \"city.mmdb\" }\n";

    fn config(text: &str) -> Config {
        config::parse(&format!("{GATEWAY}{GEO}{text}"), Path::new("edgegate.toml"), 0).unwrap()
    }

    fn try_compile(text: &str) -> Result<KernelTables, OverCapacity> {
        KernelTables::new(&config(text), &Databases::of_cities(city_database(PLACES, 0)))
    }

    fn compiled(text: &str) -> Compiled {
        try_compile(text).unwrap().compiled
    }

    /// A service of one network, with more keys.
    fn service(address: &str, keys: &str) -> String {
        format!("[[prefilter.service]]\naddress = {address}\n{keys}\n")
    }

    fn bit(bits: &[u64], bit: impl Into<u32>) -> bool {
        let bit = bit.into();
        bits[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    #[test]
    fn nothing_configured_sets_nothing() {
        let compiled = compiled("");
        assert_eq!((compiled.flags, compiled.services, compiled.ranges), (0, 0, Counts::default()));
        assert!(bytemuck::bytes_of(&**compiled.tables.as_ref().unwrap()).iter().all(|&byte| byte == 0));
        assert_eq!(compiled.active(0), 0);
        assert!(format!("{compiled:?}").len() < 300);
    }

    #[test]
    fn services_are_rows_in_order() {
        let text =
            service("[\"192.0.2.77/24\", \"2001:db8::/33\"]", "ports = [80, 443]\ncountries = [\"FR\"]")
                + &service("\"0.0.0.0/0\"", "deny_countries = [\"DE\", \"US\"]");
        let compiled = compiled(&text);
        assert_eq!((compiled.flags, compiled.services), (FLAG_SERVICES, 5));
        assert_eq!(compiled.tables.as_ref().unwrap().service_count, 5);
        let rows = &compiled.tables.as_ref().unwrap().services;
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let row = |network, mask, port, policy, family| Service {
            network: v6(network),
            mask: v6(mask),
            port,
            policy,
            family,
            reserved: 0,
        };
        let (v4_mask, v6_mask) = ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00", "ffff:ffff:8000::");
        assert_eq!(rows[0], row("::ffff:192.0.2.0", v4_mask, 80, 0, 4));
        assert_eq!(rows[1], row("::ffff:192.0.2.0", v4_mask, 443, 0, 4));
        assert_eq!(rows[2], row("2001:db8::", v6_mask, 80, 0, 6));
        assert_eq!(rows[3], row("2001:db8::", v6_mask, 443, 0, 6));
        assert_eq!(rows[4], row("::ffff:0.0.0.0", "ffff:ffff:ffff:ffff:ffff:ffff::", 0, 1, 4));
        assert_eq!(rows[5], Service::zeroed());

        let [only, all_but, unused @ ..] = &compiled.tables.as_ref().unwrap().policies;
        for number in 0..1024 {
            let [fr, de, us] = [*b"FR", *b"DE", *b"US"].map(country_number);
            let undetermined = number == COUNTRY_UNDETERMINED;
            assert_eq!(bit(only, number), number == fr || undetermined, "{number}");
            assert_eq!(bit(all_but, number), number != de && number != us, "{number}");
        }
        assert!(bit(all_but, COUNTRY_UNKNOWN) && !bit(only, COUNTRY_UNKNOWN));
        assert!(unused.iter().flatten().all(|&word| word == 0));
        // The demo's places are there.
        assert!(compiled.ranges.v4 > 65_536 && compiled.ranges.v6 > 65_536);
    }

    #[test]
    fn limits_of_services() {
        let one = service("\"192.0.2.1\"", "countries = [\"FR\"]");
        assert_eq!(compiled(&one.repeat(POLICIES)).active(0), u64::MAX);
        let error = try_compile(&one.repeat(POLICIES + 1)).unwrap_err().to_string();
        assert!(error.contains("prefilter.service: 65 services") && error.contains("64"), "{error}");
        let ports = |count: usize| {
            let ports: Vec<String> = (1..=count).map(|port| port.to_string()).collect();
            service(
                "[\"192.0.2.1\", \"::1\"]",
                &format!("ports = [{}]\ncountries = [\"FR\"]", ports.join(", ")),
            )
        };
        assert_eq!(compiled(&ports(SERVICES / 2)).services, SERVICES);
        let error = try_compile(&ports(SERVICES / 2 + 1)).unwrap_err().to_string();
        assert!(error.contains("66 pairs of an address and a port"), "{error}");
        assert!(error.contains("wider networks") && error.contains("prefilter.interfaces"), "{error}");
    }

    #[test]
    fn sessions_by_action() {
        for (action, flags, answered) in [
            ("respond", FLAG_SESSIONS | FLAG_RESPOND, true),
            ("reset", FLAG_SESSIONS | FLAG_RESET, false),
            ("drop", FLAG_SESSIONS, false),
            ("off", 0, false),
        ] {
            let text = format!("[prefilter]\nsession_ports = [80, 8080]\nsession_action = \"{action}\"\n");
            let compiled = compiled(&text);
            assert_eq!(compiled.flags, flags, "{action}");
            assert!(
                compiled.tables.as_ref().unwrap().replies.iter().all(|reply| (reply.length > 0) == answered),
                "{action}"
            );
            for port in 0..=u16::MAX {
                let expected = action != "off" && (port == 80 || port == 8080);
                assert_eq!(
                    bit(&compiled.tables.as_ref().unwrap().session_ports, port),
                    expected,
                    "{action} {port}"
                );
            }
        }
        let without_ports = compiled("[prefilter]\nsession_action = \"respond\"\n");
        assert_eq!((without_ports.flags, without_ports.tables.as_ref().unwrap().replies[0].length), (0, 0));
    }

    #[test]
    fn an_answer_that_is_too_long_counts_only_where_it_is_given() {
        let long = format!(
            "route = [{{ check = \"content-jwt\", path_validation = \"/.*\", deny_headers = {{ x = \"{}\" }} }}]\n\
             secrets.a.slots = [{{ slot = 0, key = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\" }}]\n",
            "x".repeat(1000),
        );
        let with = |action: &str| {
            try_compile(&format!("{long}[prefilter]\nsession_ports = [80]\nsession_action = \"{action}\"\n"))
        };
        let error = with("respond").unwrap_err().to_string();
        assert!(error.contains("deny_headers") && error.contains("session_action = \"reset\""), "{error}");
        assert!(with("reset").is_ok());
    }

    #[test]
    fn windows_open_and_close() {
        let windows = |list: &[(u64, u64)]| {
            let windows: Vec<String> =
                list.iter().map(|(start, end)| format!("{{ start = {start}, end = {end} }}")).collect();
            service("\"192.0.2.1\"", &format!("countries = [\"FR\"]\nwindows = [{}]", windows.join(", ")))
        };
        let text = [
            windows(&[]),
            // Out of order, one within another, and two that touch: 10 to 30, and 40 to 50.
            windows(&[(40, 45), (10, 20), (20, 30), (12, 15), (45, 50)]),
            windows(&[(25, 60)]),
        ]
        .concat();
        let compiled = compiled(&text);
        for (now, active) in [
            (0, 0b001),
            (9, 0b001),
            (10, 0b011),
            (20, 0b011),
            (25, 0b111),
            (29, 0b111),
            (30, 0b101),
            (49, 0b111),
            (50, 0b101),
            (60, 0b001),
            (u64::MAX, 0b001),
        ] {
            assert_eq!(compiled.active(now), active, "{now}");
        }
    }

    #[test]
    fn trusted_peers_are_listed() {
        let trusted = |text: &str| {
            let config = config::parse(text, Path::new("edgegate.toml"), 0).unwrap();
            config.kernel.trusted.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(trusted(GATEWAY), [""; 0]);
        assert_eq!(trusted("auth = { listen = [\"127.0.0.1:1\"] }"), ["127.0.0.0/8", "::1/128"]);
        let both = "gateway = { listen = [\"127.0.0.1:1\"], upstream = \"http://a\", trusted_proxies = [\"10.0.0.0/8\"] }\n\
                    auth = { listen = [\"127.0.0.1:2\"], trusted_peers = [\"192.0.2.1\"] }";
        assert_eq!(trusted(both), ["10.0.0.0/8", "192.0.2.1/32"]);
        let config = config::parse(both, Path::new("edgegate.toml"), 0).unwrap();
        let tables = KernelTables::new(&config, &Databases::default()).unwrap();
        assert_eq!(tables.lists.exact.values().copied().collect::<Vec<_>>(), [ebpf_abi::LIST_TRUSTED]);
        assert!(bit(&tables.compiled.tables.as_ref().unwrap().listed_v4, 0x0a_010_u32));
    }

    fn listed(tables: &Tables, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => bit(&tables.listed_v4, v4.to_bits() >> 12),
            IpAddr::V6(v6) => {
                let [first, second, third, ..] = v6.segments();
                bit(&tables.listed_v6, listed_bit(first, second, third))
            }
        }
    }

    fn list_tables(nets: &[IpNet]) -> Box<Tables> {
        let mut tables: Box<Tables> = zeroed_box();
        list_bits(&Lists::new(nets, &[], &[]).unwrap(), &mut tables);
        tables
    }

    #[test]
    fn bits_of_lists() {
        let ones = |bits: &[u64]| bits.iter().map(|word| word.count_ones()).sum::<u32>();
        for (net, v4, v6) in [
            ("10.0.0.0/8", 4096, 1),
            ("10.1.2.3", 1, 1),
            ("10.1.16.0/20", 1, 1),
            ("10.1.16.0/21", 1, 1),
            ("10.1.0.0/19", 2, 1),
            ("10.1.0.0/16", 16, 1),
            ("10.0.0.0/14", 64, 1),
            ("0.0.0.0/0", 1 << 20, 1),
            ("2001:db8::1", 0, 1),
            ("2001:db8::/36", 0, 1),
            ("2001:db8::/35", 0, 2),
            ("2001:db8::/32", 0, 16),
            ("2001:db8::/30", 0, 64),
            ("2001::/17", 0, 1 << 19),
            ("2001::/16", 0, 1 << 20),
            ("2000::/3", 0, 1 << 20),
            ("::/0", 0, 1 << 20),
        ] {
            let tables = list_tables(&[validator_core::net::parse_net(net).unwrap()]);
            assert_eq!((ones(&tables.listed_v4), ones(&tables.listed_v6)), (v4, v6), "{net}");
        }
        let tables = list_tables(&["10.1.0.0/20".parse().unwrap(), "2001:db8::/33".parse().unwrap()]);
        for (ip, expected) in [
            ("10.1.9.9", true),
            ("10.1.16.0", false),
            ("10.2.0.0", false),
            ("::ffff:10.1.9.9", true),
            ("2001:db8::1", true),
            ("2001:db8:7fff::1", true),
            ("2001:db8:8000::1", false),
            ("2001:db9::1", false),
        ] {
            assert_eq!(listed(&tables, ip.parse().unwrap()), expected, "{ip}");
        }
    }

    proptest! {
        /// Whatever a list has an entry for has its bit; a network's bounds and what lies between have it too.
        #[test]
        fn no_listed_address_lacks_its_bit(
            nets in prop::collection::vec(any_net(), 0..6),
            ips in prop::collection::vec((any_net(), any::<u128>()), 1..20),
        ) {
            let tables = list_tables(&nets);
            let set = validator_core::net::NetSet::new(nets.iter().copied());
            for (net, random) in ips.into_iter().chain(nets.iter().map(|&net| (net, 0))) {
                let within: IpAddr = match net {
                    IpNet::V4(net) => {
                        let random = u32::try_from(random & u128::from(u32::MAX)).unwrap();
                        Ipv4Addr::from_bits(net.network().to_bits() | (net.hostmask().to_bits() & random)).into()
                    }
                    IpNet::V6(net) => {
                        Ipv6Addr::from_bits(net.network().to_bits() | (net.hostmask().to_bits() & random)).into()
                    }
                };
                for ip in [net.network(), net.broadcast(), within] {
                    if set.contains(&ip) {
                        // An address of IPv6 that stands for one of IPv4 is looked up as either.
                        prop_assert!(listed(&tables, ip), "{}", ip);
                        prop_assert!(listed(&tables, ip.to_canonical()), "{}", ip);
                    }
                }
            }
        }
    }
}
