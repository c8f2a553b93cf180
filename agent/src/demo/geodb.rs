//! Small MaxMind databases for the demo and for tests, in the layout of GeoLite2-City and GeoLite2-ASN.
//!
//! A file of format 2.0 is a binary search tree over the bits of an address, 16 zero bytes, a data section,
//! a marker and a metadata map. The tree has 128 levels; IPv4 networks live under `::/96`, and
//! `::ffff:0:0/96` leads to the same nodes, so an IPv4 address in its IPv6 notation is found too. It also
//! means that `::1` and `0.0.0.1` are the same entry, as in every database of this kind.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What the databases say about the addresses of one network.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The addresses; bits behind the prefix are ignored.
    pub network: IpNet,
    /// ISO 3166-1 code in capitals: `FR`.
    pub country: &'static str,
    /// Names of the city as `(language, name)`, each language once: `("en", "Munich")`.
    pub city: Option<&'static [(&'static str, &'static str)]>,
    /// Number and name of the autonomous system.
    pub asn: Option<(u32, &'static str)>,
}

/// Where the demo's clients are: loopback addresses for requests to a local gate, and the ranges reserved for
/// documentation for everything that names a client address itself. All other addresses are unknown.
pub const PLACES: &[Place] = &[
    Place { network: v4(127, 0, 0, 1, 32), country: "FR", city: PARIS, asn: ORANGE },
    Place { network: v4(127, 0, 0, 2, 32), country: "DE", city: MUNICH, asn: DTAG },
    Place { network: v4(127, 0, 0, 3, 32), country: "US", city: None, asn: ATT },
    Place { network: v6(Ipv6Addr::LOCALHOST, 128), country: "FR", city: PARIS, asn: ORANGE },
    Place { network: v4(192, 0, 2, 0, 24), country: "FR", city: PARIS, asn: ORANGE },
    Place { network: v4(198, 51, 100, 0, 24), country: "DE", city: MUNICH, asn: DTAG },
    Place { network: v4(203, 0, 113, 0, 24), country: "US", city: NEW_YORK, asn: ATT },
    Place { network: v6(doc(0), 34), country: "FR", city: PARIS, asn: ORANGE },
    Place { network: v6(doc(0x4000), 34), country: "DE", city: MUNICH, asn: DTAG },
];

/// A database of countries and cities, of type `edgegate-demo-City`.
///
/// A record has `country.iso_code` and, where the city is known, `city.names.<language>`. Of networks that
/// overlap the more specific one answers, of equal ones the last. `build_epoch` is in Unix seconds.
///
/// # Panics
///
/// If tree and data together pass 2^28 nodes and bytes, the limit of the record size used; that takes more
/// than a million networks.
pub fn city_database(places: &[Place], build_epoch: u64) -> Vec<u8> {
    city_database_in(Layout::Mapped, places, build_epoch)
}

/// As [`city_database`], in another layout.
pub(crate) fn city_database_in(layout: Layout, places: &[Place], build_epoch: u64) -> Vec<u8> {
    let records = places.iter().map(|place| {
        let city = place.city.map(|names| {
            let names = names.iter().map(|(language, name)| (*language, Value::Text(name))).collect();
            ("city", Value::Map(vec![("names", Value::Map(names))]))
        });
        let country = ("country", Value::Map(vec![("iso_code", Value::Text(place.country))]));
        (place.network, Value::Map(city.into_iter().chain([country]).collect()))
    });
    let languages: BTreeSet<_> =
        places.iter().filter_map(|place| place.city).flatten().map(|(l, _)| *l).collect();
    let about = About {
        database_type: "edgegate-demo-City",
        description: "Made-up places of the edgegate demo",
        languages: languages.into_iter().map(Value::Text).collect(),
        build_epoch,
    };
    database(layout, records.collect(), about)
}

/// A database of autonomous systems, of type `edgegate-demo-ASN`.
///
/// A record has `autonomous_system_number` and `autonomous_system_organization`. Places without one are left
/// out, so that a wider network's answers for them; everything else is as in [`city_database`].
///
/// # Panics
///
/// As [`city_database`].
pub fn asn_database(places: &[Place], build_epoch: u64) -> Vec<u8> {
    let records = places.iter().filter_map(|place| {
        let (number, organization) = place.asn?;
        let record = vec![
            ("autonomous_system_number", Value::Unsigned(UINT32, number.into())),
            ("autonomous_system_organization", Value::Text(organization)),
        ];
        Some((place.network, Value::Map(record)))
    });
    let about = About {
        database_type: "edgegate-demo-ASN",
        description: "Made-up autonomous systems of the edgegate demo",
        languages: Vec::new(),
        build_epoch,
    };
    database(Layout::Mapped, records.collect(), about)
}

/// Where a database has IPv4 networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In `::/96` and in their mapped form.
    Mapped,
    /// As MaxMind's own: also where 6to4 and Teredo put them.
    #[cfg(test)]
    Tunnels,
    /// There are no others.
    #[cfg(test)]
    Ipv4,
}

const PARIS: Option<&[(&str, &str)]> = Some(&[("de", "Paris"), ("en", "Paris"), ("fr", "Paris")]);
const MUNICH: Option<&[(&str, &str)]> = Some(&[("de", "München"), ("en", "Munich"), ("fr", "Munich")]);
const NEW_YORK: Option<&[(&str, &str)]> = Some(&[("de", "New York"), ("en", "New York"), ("fr", "New York")]);
const ORANGE: Option<(u32, &str)> = Some((3215, "Orange"));
const DTAG: Option<(u32, &str)> = Some((3320, "Deutsche Telekom AG"));
const ATT: Option<(u32, &str)> = Some((7018, "AT&T Enterprises, LLC"));

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
}

const fn v6(address: Ipv6Addr, length: u8) -> IpNet {
    IpNet::new_assert(IpAddr::V6(address), length)
}

/// `2001:db8:<third>::`
const fn doc(third: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, third, 0, 0, 0, 0, 0)
}

/// What differs between the metadata of two databases.
struct About {
    database_type: &'static str,
    description: &'static str,
    languages: Vec<Value>,
    build_epoch: u64,
}

/// Bits in each of a node's two records. 24 would do for the demo; 28 is what MaxMind's own databases use.
const RECORD_SIZE: u16 = 28;
const SEPARATOR: [u8; 16] = [0; 16];
const METADATA_MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

fn database(layout: Layout, mut networks: Vec<(IpNet, Value)>, about: About) -> Vec<u8> {
    let (ip_version, levels_above) = match layout {
        #[cfg(test)]
        Layout::Ipv4 => (4, 96),
        _ => (6, 0),
    };
    networks.retain(|(network, _)| ip_version == 6 || network.addr().is_ipv4());
    // Wide networks first: a narrower one then only has to split what it falls into. The sort is stable, so
    // of two equal networks the later one still overwrites the earlier.
    networks.sort_by_key(|(network, _)| position(*network).1);
    let mut tree = Tree::new();
    let mut data = Vec::new();
    let mut offsets = HashMap::new();
    for (network, record) in networks {
        let mut encoded = Vec::new();
        encode(&record, &mut encoded);
        let offset = *offsets.entry(encoded).or_insert_with_key(|encoded| {
            let offset = data.len();
            data.extend_from_slice(encoded);
            offset
        });
        let (prefix, length) = position(network);
        tree.set(prefix << levels_above, length - levels_above, Record::Data(offset));
    }
    let aliases: &[(u128, u8)] = match layout {
        Layout::Mapped => &[(MAPPED, 96)],
        #[cfg(test)]
        Layout::Tunnels => &[(MAPPED, 96), (0x2002 << 112, 16), (0x2001 << 112, 32)],
        #[cfg(test)]
        Layout::Ipv4 => &[],
    };
    for &(prefix, length) in aliases {
        tree.set(prefix, length, tree.get(0, 96));
    }

    let node_count = tree.nodes.len();
    let mut file = tree.encode();
    file.extend_from_slice(&SEPARATOR);
    file.append(&mut data);
    file.extend_from_slice(METADATA_MARKER);
    let metadata = Value::Map(vec![
        ("binary_format_major_version", Value::Unsigned(UINT16, 2)),
        ("binary_format_minor_version", Value::Unsigned(UINT16, 0)),
        ("build_epoch", Value::Unsigned(UINT64, about.build_epoch)),
        ("database_type", Value::Text(about.database_type)),
        ("description", Value::Map(vec![("en", Value::Text(about.description))])),
        ("ip_version", Value::Unsigned(UINT16, ip_version)),
        ("languages", Value::List(about.languages)),
        ("node_count", Value::Unsigned(UINT32, node_count as u64)),
        ("record_size", Value::Unsigned(UINT16, RECORD_SIZE.into())),
    ]);
    encode(&metadata, &mut file);
    file
}

/// `::ffff:0:0`, where IPv6 notation puts the IPv4 addresses.
const MAPPED: u128 = 0xffff_0000_0000;

/// Where a network is in the tree: the leading `length` bits of the number, `(number, length)`.
fn position(network: IpNet) -> (u128, u8) {
    match network {
        IpNet::V4(network) => (u32::from(network.network()).into(), 96 + network.prefix_len()),
        IpNet::V6(network) => {
            let number = u128::from(network.network());
            let mapped = network.prefix_len() >= 96 && number >> 32 == MAPPED >> 32;
            (if mapped { number ^ MAPPED } else { number }, network.prefix_len())
        }
    }
}

/// The search tree. Node 0 is the root and always there.
struct Tree {
    /// Where an address goes on whose next bit is 0, and 1.
    nodes: Vec<[Record; 2]>,
}

#[derive(Clone, Copy)]
enum Record {
    /// Nothing is known.
    Empty,
    /// The index of the node that looks at the next bit.
    Node(usize),
    /// The offset of a record in the data section.
    Data(usize),
}

impl Tree {
    fn new() -> Self {
        Self { nodes: vec![[Record::Empty; 2]] }
    }

    /// Makes `record` the answer for a whole network, whatever was there before.
    fn set(&mut self, prefix: u128, length: u8, record: Record) {
        let Some(last) = length.checked_sub(1) else {
            self.nodes[0] = [record; 2];
            return;
        };
        let mut node = 0;
        for depth in 0..last {
            let side = bit(prefix, depth);
            node = match self.nodes[node][side] {
                Record::Node(next) => next,
                // Split: the answer for the whole stays the answer for both halves.
                whole => {
                    self.nodes.push([whole; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][side] = Record::Node(next);
                    next
                }
            };
        }
        self.nodes[node][bit(prefix, last)] = record;
    }

    /// Where the walk along a network ends: at its own node, or earlier at the answer for a wider one.
    fn get(&self, prefix: u128, length: u8) -> Record {
        let mut record = Record::Node(0);
        for depth in 0..length {
            let Record::Node(node) = record else { break };
            record = self.nodes[node][bit(prefix, depth)];
        }
        record
    }

    /// Seven bytes a node: the low three bytes of the left record, a byte with the high four bits of both,
    /// the low three bytes of the right record.
    fn encode(&self) -> Vec<u8> {
        let number = |record| {
            // One number space for all three: below the node count a node, at it nothing, above it data.
            let number = match record {
                Record::Node(node) => node,
                Record::Empty => self.nodes.len(),
                Record::Data(offset) => self.nodes.len() + SEPARATOR.len() + offset,
            };
            assert!(number < 1 << RECORD_SIZE, "too many networks for records of {RECORD_SIZE} bits");
            number.to_be_bytes()
        };
        let mut bytes = Vec::with_capacity(self.nodes.len() * 7);
        for node in &self.nodes {
            let [[.., l3, l2, l1, l0], [.., r3, r2, r1, r0]] = node.map(number);
            bytes.extend_from_slice(&[l2, l1, l0, l3 << 4 | r3, r2, r1, r0]);
        }
        bytes
    }
}

fn bit(prefix: u128, depth: u8) -> usize {
    usize::from(prefix >> (127 - depth) & 1 == 1)
}

/// A value of the data or metadata section.
enum Value {
    Text(&'static str),
    /// A number and the type it is written as.
    Unsigned(u8, u64),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}

// Type numbers of the format.
const TEXT: u8 = 2;
const UINT16: u8 = 5;
const UINT32: u8 = 6;
const MAP: u8 = 7;
const UINT64: u8 = 9;
const LIST: u8 = 11;

fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => {
            control(TEXT, text.len(), out);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Unsigned(kind, number) => {
            // Leading zero bytes are left out; zero itself has none at all.
            let bytes = number.to_be_bytes();
            let digits = &bytes[number.leading_zeros() as usize / 8..];
            control(*kind, digits.len(), out);
            out.extend_from_slice(digits);
        }
        Value::Map(entries) => {
            control(MAP, entries.len(), out);
            for (key, value) in entries {
                encode(&Value::Text(key), out);
                encode(value, out);
            }
        }
        Value::List(values) => {
            control(LIST, values.len(), out);
            values.iter().for_each(|value| encode(value, out));
        }
    }
}

/// The head of a value: five bits of size and three of type. Types above 7 take a byte of their own, sizes
/// above 28 one to three bytes that count on from where the shorter form ends.
fn control(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (code, more, count) = match size {
        0..29 => (size, 0, 0),
        29..285 => (29, size - 29, 1),
        285..65_821 => (30, size - 285, 2),
        _ => (31, size - 65_821, 3),
    };
    let [.., code] = code.to_be_bytes();
    if kind <= 7 {
        out.push(kind << 5 | code);
    } else {
        out.extend_from_slice(&[code, kind - 7]);
    }
    let more = more.to_be_bytes();
    out.extend_from_slice(&more[more.len() - count..]);
}

#[cfg(test)]
mod tests {
    use maxminddb::{Reader, geoip2};

    use super::*;

    const EPOCH: u64 = 1_700_000_000;

    #[test]
    fn every_place_reads_back_from_both_databases() {
        let (cities, systems) = (open(city_database(PLACES, EPOCH)), open(asn_database(PLACES, EPOCH)));
        for place in PLACES {
            for address in [place.network.network(), place.network.broadcast()] {
                let found = cities.lookup(address).unwrap();
                assert_eq!(found.network().unwrap().to_string(), place.network.to_string());
                let record: geoip2::City<'_> = found.decode().unwrap().unwrap();
                assert_eq!(record.country.iso_code, Some(place.country), "{address}");
                let name = |language| {
                    place
                        .city
                        .and_then(|names| names.iter().find(|(l, _)| *l == language))
                        .map(|(_, name)| *name)
                };
                assert_eq!(record.city.names.english, name("en"), "{address}");
                assert_eq!(record.city.names.german, name("de"), "{address}");
                assert_eq!(record.city.names.french, name("fr"), "{address}");
                assert_eq!(
                    system(&systems, address).as_ref().map(|(n, name)| (*n, &**name)),
                    place.asn,
                    "{address}"
                );
            }
        }
    }

    #[test]
    fn munich_has_its_name_in_each_language() {
        let reader = open(city_database(PLACES, EPOCH));
        let found = reader.lookup(ip("198.51.100.77")).unwrap();
        let names = found.decode::<geoip2::City<'_>>().unwrap().unwrap().city.names;
        assert_eq!(
            (names.english, names.german, names.french),
            (Some("Munich"), Some("München"), Some("Munich"))
        );
    }

    #[test]
    fn neighbours_are_unknown() {
        let (cities, systems) = (open(city_database(PLACES, EPOCH)), open(asn_database(PLACES, EPOCH)));
        for address in [
            "127.0.0.0",
            "127.0.0.4",
            "126.255.255.255",
            "192.0.1.255",
            "192.0.3.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "0.0.0.0",
            "255.255.255.255",
            "::",
            "::2",
            "::ffff:127.0.0.4",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:8000::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
            "2002:c000:201::",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(!cities.lookup(ip(address)).unwrap().has_data(), "{address}");
            assert_eq!(system(&systems, ip(address)), None, "{address}");
        }
    }

    #[test]
    fn ipv4_mapped_addresses_and_networks_are_the_ipv4_ones() {
        let reader = open(asn_database(PLACES, EPOCH));
        assert_eq!(number(&reader, ip("::ffff:127.0.0.2")), Some(3320));
        assert_eq!(number(&reader, ip("::ffff:203.0.113.255")), Some(7018));

        let mapped = [numbered("::ffff:10.0.0.0/104", 1), numbered("10.1.0.0/16", 2)];
        let reader = open(asn_database(&mapped, EPOCH));
        for (address, expected) in
            [("10.0.0.1", 1), ("::ffff:10.0.0.1", 1), ("10.1.0.1", 2), ("::ffff:10.1.0.1", 2)]
        {
            assert_eq!(number(&reader, ip(address)), Some(expected), "{address}");
        }
    }

    #[test]
    fn the_more_specific_network_wins_in_any_order() {
        let mut places = vec![
            numbered("::/0", 1),
            numbered("0.0.0.0/0", 2),
            numbered("10.0.0.0/8", 3),
            numbered("10.1.2.3/32", 4),
            numbered("10.1.2.99/24", 5),
            numbered("2001:db8::/32", 6),
        ];
        for _ in 0..places.len() {
            places.rotate_left(1);
            let reader = open(asn_database(&places, EPOCH));
            for (address, expected) in [
                ("2a00::1", 1),
                ("9.255.255.255", 2),
                ("::ffff:9.255.255.255", 2),
                ("10.2.0.0", 3),
                ("10.1.2.3", 4),
                ("10.1.2.4", 5),
                ("2001:db8::1", 6),
            ] {
                assert_eq!(number(&reader, ip(address)), Some(expected), "{address}");
            }
        }
        let twice = [numbered("10.0.0.0/8", 1), numbered("10.0.0.0/8", 2)];
        assert_eq!(number(&open(asn_database(&twice, EPOCH)), ip("10.0.0.1")), Some(2));
    }

    #[test]
    fn a_place_without_a_system_leaves_the_wider_one_visible() {
        let hole = Place { asn: None, ..numbered("10.1.0.0/16", 0) };
        let reader = open(asn_database(&[numbered("10.0.0.0/8", 3), hole], EPOCH));
        assert_eq!(number(&reader, ip("10.1.0.1")), Some(3));
    }

    #[test]
    fn the_metadata_is_complete() {
        let reader = open(city_database(PLACES, EPOCH));
        let metadata = reader.metadata();
        assert_eq!((metadata.binary_format_major_version, metadata.binary_format_minor_version), (2, 0));
        assert_eq!((metadata.ip_version, metadata.record_size), (6, 28));
        assert_eq!(metadata.build_epoch, EPOCH);
        assert_eq!(metadata.database_type, "edgegate-demo-City");
        assert_eq!(metadata.languages, ["de", "en", "fr"]);
        assert_eq!(metadata.description["en"], "Made-up places of the edgegate demo");
        assert_eq!(open(asn_database(PLACES, EPOCH)).metadata().database_type, "edgegate-demo-ASN");
    }

    #[test]
    fn a_database_without_places_is_valid_and_knows_nothing() {
        for file in [city_database(&[], 0), asn_database(&[], 0)] {
            let reader = open(file);
            assert_eq!(reader.metadata().build_epoch, 0);
            assert!(!reader.lookup(ip("127.0.0.1")).unwrap().has_data());
            assert!(!reader.lookup(ip("::1")).unwrap().has_data());
        }
    }

    #[test]
    fn texts_of_every_size_class_read_back() {
        for length in [0, 1, 28, 29, 284, 285, 65_820, 65_821, 70_000] {
            let name: &'static str = "x".repeat(length).leak();
            let place = Place { asn: Some((u32::MAX, name)), ..numbered("10.0.0.0/8", 0) };
            let reader = open(asn_database(&[place], EPOCH));
            assert_eq!(system(&reader, ip("10.0.0.1")), Some((u32::MAX, name.to_owned())));
        }
    }

    #[test]
    fn equal_records_are_stored_once() {
        let once = asn_database(&[numbered("10.0.0.0/32", 7)], EPOCH);
        let twice = asn_database(&[numbered("10.0.0.0/32", 7), numbered("10.0.0.1/32", 7)], EPOCH);
        assert_eq!(once.len(), twice.len());
    }

    #[test]
    fn ten_thousand_networks_answer_as_a_search_for_the_longest_prefix_does() {
        let mut random = Random(7);
        let places: Vec<Place> = (0..10_000)
            .map(|index| {
                let network = if index % 2 == 0 {
                    IpNet::new(random.v4().into(), 8 + random.below(25)).unwrap()
                } else {
                    IpNet::new(random.v6().into(), 16 + random.below(113)).unwrap()
                };
                Place { network, ..numbered("::/0", index) }
            })
            .collect();
        let reader = open(asn_database(&places, EPOCH));
        let numbers: HashMap<IpNet, u32> =
            places.iter().filter_map(|place| Some((place.network.trunc(), place.asn?.0))).collect();
        for place in &places {
            // Bounds, neighbours behind them, and one address anywhere.
            let (first, last) = (place.network.network(), place.network.broadcast());
            let anywhere = if first.is_ipv4() { random.v4().into() } else { random.v6().into() };
            for address in [first, last, step(first, false), step(last, true), anywhere] {
                let expected = (0..=place.network.max_prefix_len())
                    .rev()
                    .find_map(|length| numbers.get(&IpNet::new(address, length).unwrap().trunc()).copied());
                assert_eq!(number(&reader, address), expected, "{address}");
                if let IpAddr::V4(address) = address {
                    assert_eq!(
                        number(&reader, address.to_ipv6_mapped().into()),
                        expected,
                        "::ffff:{address}"
                    );
                }
            }
        }
    }

    /// A reader of a file that passes the reader's own check of every node and record.
    fn open(file: Vec<u8>) -> Reader<Vec<u8>> {
        let reader = Reader::from_source(file).unwrap();
        reader.verify().unwrap();
        reader
    }

    fn system(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<(u32, String)> {
        let record: geoip2::Asn<'_> = reader.lookup(address).unwrap().decode().unwrap()?;
        Some((
            record.autonomous_system_number.unwrap(),
            record.autonomous_system_organization.unwrap().to_owned(),
        ))
    }

    fn number(reader: &Reader<Vec<u8>>, address: IpAddr) -> Option<u32> {
        system(reader, address).map(|(number, _)| number)
    }

    fn numbered(network: &str, number: u32) -> Place {
        Place { network: network.parse().unwrap(), country: "FR", city: None, asn: Some((number, "Example")) }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The next address up or down, around the end.
    fn step(address: IpAddr, up: bool) -> IpAddr {
        match address {
            IpAddr::V4(v4) if up => Ipv4Addr::from(u32::from(v4).wrapping_add(1)).into(),
            IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_sub(1)).into(),
            IpAddr::V6(v6) if up => Ipv6Addr::from(u128::from(v6).wrapping_add(1)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_sub(1)).into(),
        }
    }

    /// SplitMix64: the same sequence in every run.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        }

        fn below(&mut self, limit: u8) -> u8 {
            u8::try_from(self.next() % u64::from(limit)).unwrap()
        }

        fn v4(&mut self) -> Ipv4Addr {
            let [a, b, c, d, ..] = self.next().to_be_bytes();
            Ipv4Addr::new(a, b, c, d)
        }

        /// In `2000::/12`: crowded, so that networks overlap, and apart from the IPv4 addresses.
        fn v6(&mut self) -> Ipv6Addr {
            let number = u128::from(self.next()) << 64 | u128::from(self.next());
            Ipv6Addr::from(0x2000 << 112 | number >> 12)
        }
    }
}
