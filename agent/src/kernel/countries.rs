//! The countries of all addresses in the form that the kernel looks them up in.
//!
//! ```text
//! networks ─▶ ranges without gaps (Ranges) ─▶ IPv6: whole /64 networks (Networks64) ─▶ neighbours joined, by chunk (Table)
//! ```

use super::lists::OverCapacity;
use crate::geo::Databases;
use ebpf_abi::{
    BLOCK_BITS, COUNTRY_UNDETERMINED, COUNTRY_UNKNOWN, Tables, V4_CHUNKS, V6_CHUNKS, country_number,
    set_verdict, verdict,
};

/// What every mapped IPv4 address starts with.
const MAPPED: u128 = 0xffff << 32;

/// The way out of too many ranges.
const WAY_OUT: &str = "use a smaller database, such as Country instead of City";

/// How many ranges there are of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    /// Of IPv4 addresses.
    pub(crate) v4: usize,
    /// Of IPv6 networks.
    pub(crate) v6: usize,
}

/// Writes what the database says about every address.
///
/// An IPv6 network (/64) that mapped IPv4 addresses fall into is what the database says about all of it, so hardly ever
/// of one country; nothing comes from there.
///
/// # Errors
/// When it says too much.
pub(super) fn compile(geo: &Databases, tables: &mut Tables) -> Result<Counts, OverCapacity> {
    let Tables { v4_chunks, v4_ranges, v6_chunks, v6_ranges, .. } = tables;
    let (v4_limit, v6_limit) = (v4_ranges.len(), v6_ranges.len());
    let mut v4 =
        Ranges::new(u128::from(u32::MAX), Table::new(&mut v4_chunks[..V4_CHUNKS - 1], v4_ranges, 16));
    let networks = Networks64::new(Table::new(&mut v6_chunks[..V6_CHUNKS - 1], v6_ranges, 48));
    let mut v6 = Ranges::new(u128::MAX, networks);

    let knows_ipv6 = geo.countries_of_ipv6();
    geo.each_country_network(|first, last, country| {
        let country = match *country.as_str().as_bytes() {
            [first, second] => country_number([first, second]),
            _ => COUNTRY_UNKNOWN,
        };
        v4.add(first, last, country);
        // Elsewhere an IPv6 address is known only if it stands for one of IPv4.
        let family = if knows_ipv6 { 0 } else { MAPPED };
        v6.add(family | first, family | last, country);
    });
    within(
        Counts { v4: v4.finish().finish(), v6: v6.finish().finish() },
        Counts { v4: v4_limit, v6: v6_limit },
    )
}

/// Notes for each of the first policies what is known of all addresses of each block: most packets then need no country.
/// Where lists have entries is known already.
pub(super) fn blocks(tables: &mut Tables, policies: usize) {
    let Tables { listed_v4, verdicts_v4, policies: all, v4_chunks, v4_ranges, .. } = tables;
    for (verdicts, policy) in verdicts_v4.iter_mut().zip(all).take(policies) {
        let passes = |country: u16| {
            policy.get(usize::from(country / 64)).is_some_and(|word| word >> (country % 64) & 1 != 0)
        };
        for (chunk, bounds) in (0_u32..).zip(v4_chunks[..V4_CHUNKS - 1].windows(2)) {
            let &[first, end] = bounds else { continue };
            let ranges = v4_ranges.get(first as usize..end as usize).unwrap_or_default();
            // Blocks in which an address passes, and in which one does not.
            let (mut passing, mut refused) = (0_u64, 0_u64);
            // From the last range on, each ends where the one behind it starts.
            let mut end = CHUNK;
            for range in ranges.iter().rev() {
                let (start, [low, high, ..]) = (range >> 16, range.to_le_bytes());
                let (from, to) = (start / BLOCK, (end - 1) / BLOCK);
                let blocks = (2 << to) - (1 << from);
                if passes(u16::from_le_bytes([low, high])) {
                    passing |= blocks;
                } else {
                    refused |= blocks;
                }
                end = start;
            }
            for at in 0..CHUNK / BLOCK {
                let block = chunk * (CHUNK / BLOCK) + at;
                let listed =
                    listed_v4.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 != 0);
                let verdict = match (passing >> at & 1, refused >> at & 1) {
                    (1, 0) if listed => verdict::LISTED,
                    (1, 0) => verdict::PASSES,
                    (0, 1) if !listed => verdict::REFUSED,
                    _ => verdict::OPEN,
                };
                set_verdict(verdicts, block, verdict);
            }
        }
    }
}

/// Addresses of IPv4 in a chunk.
const CHUNK: u32 = 1 << 16;

/// Addresses of IPv4 in a block.
const BLOCK: u32 = 1 << (32 - BLOCK_BITS);

/// Whether there is room for so many ranges.
fn within(counts: Counts, limits: Counts) -> Result<Counts, OverCapacity> {
    let key = "geo.country or geo.city";
    let check = |what, found, limit| {
        let error = OverCapacity { key, what, found, limit, way_out: WAY_OUT };
        if found > limit { Err(error) } else { Ok(()) }
    };
    check("ranges of IPv4 addresses by country", counts.v4, limits.v4)?;
    check("ranges of IPv6 networks by country", counts.v6, limits.v6)?;
    Ok(counts)
}

/// What takes ranges that follow on each other without a gap.
trait Take {
    /// Takes the next one; its last position is part of it.
    fn take(&mut self, first: u128, last: u128, country: u16);
}

/// Fills the gaps between networks: what is in none of them has no country.
struct Ranges<T> {
    /// The first position that nothing was said about; `None` at the end.
    next: Option<u128>,
    /// The last position that there is; networks behind it do not count.
    end: u128,
    to: T,
}

impl<T: Take> Ranges<T> {
    fn new(end: u128, to: T) -> Self {
        Self { next: Some(0), end, to }
    }

    fn add(&mut self, first: u128, last: u128, country: u16) {
        let Some(next) = self.next else { return };
        let (first, last) = (first.max(next), last.min(self.end));
        if first > last {
            return;
        }
        if next < first {
            self.to.take(next, first - 1, COUNTRY_UNKNOWN);
        }
        self.to.take(first, last, country);
        self.next = last.checked_add(1).filter(|&next| next <= self.end);
    }

    fn finish(mut self) -> T {
        if let Some(next) = self.next {
            self.to.take(next, self.end, COUNTRY_UNKNOWN);
        }
        self.to
    }
}

/// Makes of ranges of IPv6 addresses those of networks.
struct Networks64<'t> {
    /// The country of the part of a network that was taken, if more of it has to come.
    begun: Option<u16>,
    to: Table<'t, u64>,
}

impl<'t> Networks64<'t> {
    fn new(to: Table<'t, u64>) -> Self {
        Self { begun: None, to }
    }

    fn finish(self) -> usize {
        self.to.finish()
    }
}

impl Take for Networks64<'_> {
    fn take(&mut self, first: u128, last: u128, country: u16) {
        const HOST: u128 = u64::MAX as u128;
        let (mut network, last_network) = (first >> 64, last >> 64);
        let ends = last & HOST == HOST;
        if let Some(begun) = self.begun.take() {
            let country = if begun == country { country } else { COUNTRY_UNDETERMINED };
            if network == last_network && !ends {
                self.begun = Some(country);
                return;
            }
            self.to.take(network, network, country);
            network += 1;
        }
        if !ends {
            self.begun = Some(country);
        }
        // The last network is left out if it has only begun.
        let whole = if ends { Some(last_network) } else { last_network.checked_sub(1) };
        if let Some(whole) = whole.filter(|&whole| network <= whole) {
            self.to.take(network, whole, country);
        }
    }
}

/// A range of positions that lie in one country.
#[derive(Clone, Copy)]
struct Range {
    first: u128,
    last: u128,
    country: u16,
}

/// Joins neighbours of one country and writes them by chunk.
struct Table<'t, R> {
    chunks: &'t mut [u32],
    ranges: &'t mut [R],
    /// How many bits of a position stand behind those that choose its chunk.
    low_bits: u32,
    /// How many ranges there are, whether or not they have room.
    count: usize,
    /// The last range, which may still grow.
    open: Option<Range>,
}

impl<'t, R: TryFrom<u128>> Table<'t, R> {
    fn new(chunks: &'t mut [u32], ranges: &'t mut [R], low_bits: u32) -> Self {
        Self { chunks, ranges, low_bits, count: 0, open: None }
    }

    fn write(&mut self, range: Range) {
        let low = (1 << self.low_bits) - 1;
        let (first_chunk, last_chunk) = (range.first >> self.low_bits, range.last >> self.low_bits);
        for chunk in first_chunk..=last_chunk {
            let start = if chunk == first_chunk { range.first & low } else { 0 };
            if start == 0 {
                self.start_chunk(chunk);
            }
            let value = R::try_from(start << 16 | u128::from(range.country));
            if let (Some(place), Ok(value)) = (self.ranges.get_mut(self.count), value) {
                *place = value;
            }
            self.count += 1;
        }
    }

    fn start_chunk(&mut self, chunk: u128) {
        let place = usize::try_from(chunk).ok().and_then(|chunk| self.chunks.get_mut(chunk));
        if let Some(place) = place {
            *place = u32::try_from(self.count).unwrap_or(u32::MAX);
        }
    }

    /// Gives how many ranges there are. More than there is room for are not all written.
    fn finish(mut self) -> usize {
        if let Some(range) = self.open.take() {
            self.write(range);
        }
        // Behind the last chunk is where it ends.
        if let Some(end) = self.chunks.last_mut() {
            *end = u32::try_from(self.count).unwrap_or(u32::MAX);
        }
        self.count
    }
}

impl<R: TryFrom<u128>> Take for Table<'_, R> {
    fn take(&mut self, first: u128, last: u128, country: u16) {
        match &mut self.open {
            Some(open) if open.country == country => open.last = last,
            open => {
                if let Some(full) = open.replace(Range { first, last, country }) {
                    self.write(full);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::geodb::{Layout, PLACES, Place, city_database_in};
    use bytemuck::allocation::zeroed_box;
    use ebpf_abi::{Verdicts, set_bit};
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use validator_core::Geo;
    use validator_core::net::canonical;

    const LAYOUTS: [Layout; 3] = [Layout::Mapped, Layout::Tunnels, Layout::Ipv4];

    /// What the program finds: the last range of the chunk that does not start behind the address. The number of steps
    /// depends on the chunk alone.
    fn search<R: Copy + Into<u64>>(chunks: &[u32], ranges: &[R], chunk: u16, low: u64) -> u16 {
        let (mut base, end) = (chunks[usize::from(chunk)] as usize, chunks[usize::from(chunk) + 1] as usize);
        assert!(base < end && end <= ranges.len());
        assert_eq!(ranges[base].into() >> 16, 0);
        let mut size = end - base;
        while size > 1 {
            let half = size / 2;
            base = if ranges[base + half].into() >> 16 <= low { base + half } else { base };
            size -= half;
        }
        u16::try_from(ranges[base].into() & 0xffff).unwrap()
    }

    fn find(tables: &Tables, ip: IpAddr) -> u16 {
        match ip {
            IpAddr::V4(v4) => {
                let bits = v4.to_bits();
                let chunk = u16::try_from(bits >> 16).unwrap();
                search(&tables.v4_chunks, &tables.v4_ranges, chunk, u64::from(bits & 0xffff))
            }
            IpAddr::V6(v6) => {
                let bits = u64::try_from(v6.to_bits() >> 64).unwrap();
                let chunk = u16::try_from(bits >> 48).unwrap();
                search(&tables.v6_chunks, &tables.v6_ranges, chunk, bits & ((1 << 48) - 1))
            }
        }
    }

    fn expected(geo: &Databases, ip: IpAddr) -> u16 {
        let country = geo.country(canonical(ip));
        country.map_or(COUNTRY_UNKNOWN, |country| {
            country_number(country.as_str().as_bytes().try_into().unwrap())
        })
    }

    fn open(layout: Layout, places: &[Place]) -> Databases {
        Databases::of_cities(city_database_in(layout, places, 0))
    }

    fn compiled(geo: &Databases) -> (Box<Tables>, Counts) {
        let mut tables: Box<Tables> = zeroed_box();
        let counts = compile(geo, &mut tables).unwrap();
        assert_eq!(tables.v4_chunks[65_536] as usize, counts.v4);
        assert_eq!(tables.v6_chunks[65_536] as usize, counts.v6);
        (tables, counts)
    }

    /// Ranges rise within a chunk, and no two neighbours could be one.
    fn assert_tidy<R: Copy + Into<u64>>(chunks: &[u32], ranges: &[R]) {
        for pair in chunks[..65_537].windows(2) {
            let chunk: Vec<u64> =
                ranges[pair[0] as usize..pair[1] as usize].iter().map(|&r| r.into()).collect();
            assert!(chunk.is_sorted_by(|a, b| a >> 16 < b >> 16 && a & 0xffff != b & 0xffff));
        }
    }

    /// Every bound of every network, the addresses next to it, and what else stands for an IPv4 address there.
    fn probes(places: &[Place]) -> HashSet<u128> {
        let bounds = places.iter().flat_map(|place| [place.network.network(), place.network.broadcast()]);
        let bits = bounds.flat_map(|bound| match bound {
            IpAddr::V4(v4) => {
                let bits = u128::from(v4.to_bits());
                vec![bits, bits | 0xffff << 32, bits << 80 | 0x2002 << 112, bits << 64 | 0x2001 << 112]
            }
            IpAddr::V6(v6) => vec![v6.to_bits()],
        });
        let half = |bits: u128| [bits, bits >> 64 << 64, bits | u128::from(u64::MAX)];
        let near = |bits: u128| [bits.wrapping_sub(1), bits, bits.wrapping_add(1)];
        bits.chain([0, u128::MAX]).flat_map(half).flat_map(near).collect()
    }

    /// Holds the tables against the database, at all bounds and at `more`.
    fn check(layout: Layout, places: &[Place], more: &[u128]) {
        let geo = open(layout, places);
        let (mut tables, _) = compiled(&geo);
        assert_tidy(&tables.v4_chunks, &tables.v4_ranges);
        assert_tidy(&tables.v6_chunks, &tables.v6_ranges);
        let probes: HashSet<u128> = probes(places).into_iter().chain(more.iter().copied()).collect();
        for &bits in &probes {
            let v4 = Ipv4Addr::from_bits(u32::try_from(bits & 0xffff_ffff).unwrap());
            assert_eq!(find(&tables, v4.into()), expected(&geo, v4.into()), "{layout:?} {v4} {places:?}");
        }
        check_blocks(&mut tables, &probes);
        // All that is known of each network: the probes are in all countries that are there.
        let mut by_network: HashMap<u128, HashSet<u16>> = HashMap::new();
        for &bits in &probes {
            let found = expected(&geo, Ipv6Addr::from_bits(bits).into());
            by_network.entry(bits >> 64).or_default().insert(found);
        }
        for (network, countries) in by_network {
            let ip = Ipv6Addr::from_bits(network << 64);
            let found = find(&tables, ip.into());
            let countries: Vec<u16> = countries.into_iter().collect();
            match countries[..] {
                [one] => assert_eq!(found, one, "{layout:?} {ip} {places:?}"),
                _ => assert_eq!(found, COUNTRY_UNDETERMINED, "{layout:?} {ip} {countries:?} {places:?}"),
            }
        }
    }

    /// The verdict about a block, as the program reads it.
    fn verdict_of(verdicts: &Verdicts, block: u32) -> u32 {
        u32::try_from(verdicts[block as usize / 32] >> (block % 32 * 2) & 3).unwrap()
    }

    /// What is known of blocks is what the table says of all their addresses, and lists keep it open.
    fn check_blocks(tables: &mut Tables, probes: &HashSet<u128>) {
        let [fr, de] = [*b"FR", *b"DE"].map(country_number);
        // What passes, by policy: France; all but France and Germany; everything; nothing. The next one is in no use.
        let passes: [&dyn Fn(u16) -> bool; 4] =
            [&|country| country == fr, &|country| country != fr && country != de, &|_| true, &|_| false];
        for (policy, passes) in tables.policies.iter_mut().zip(passes) {
            *policy = [0; 16];
            (0..1024_u16)
                .filter(|&country| passes(country))
                .for_each(|country| policy[usize::from(country / 64)] |= 1 << (country % 64));
        }
        let blocks_probed = || probes.iter().map(|bits| u32::try_from(bits & 0xffff_ffff).unwrap() / BLOCK);
        tables.listed_v4.fill(0);
        for block in blocks_probed().filter(|block| block % 3 == 0) {
            set_bit(&mut tables.listed_v4, block);
        }
        tables.verdicts_v4.iter_mut().for_each(|verdicts| verdicts.fill(0));
        blocks(tables, passes.len());
        assert!(tables.verdicts_v4[passes.len()].iter().all(|&word| word == 0));
        for block in blocks_probed() {
            // Every range that reaches into the block starts in it or holds its first address.
            let first = block * BLOCK;
            let (chunk, low) = (first as usize >> 16, first & 0xffff);
            let ranges =
                &tables.v4_ranges[tables.v4_chunks[chunk] as usize..tables.v4_chunks[chunk + 1] as usize];
            let starts = ranges.iter().filter(|&&range| range >> 16 > low && range >> 16 < low + BLOCK);
            let begin = find(tables, Ipv4Addr::from_bits(first).into());
            let countries: Vec<u16> =
                starts.map(|range| u16::try_from(range & 0xffff).unwrap()).chain([begin]).collect();
            let listed = tables.listed_v4[block as usize / 64] >> (block % 64) & 1 != 0;
            for (verdicts, passes) in tables.verdicts_v4.iter().zip(passes) {
                let all = countries.iter().all(|&country| passes(country));
                let none = !countries.iter().any(|&country| passes(country));
                let expected = match (listed, all, none) {
                    (false, true, _) => verdict::PASSES,
                    (true, true, _) => verdict::LISTED,
                    (false, _, true) => verdict::REFUSED,
                    _ => verdict::OPEN,
                };
                let found = verdict_of(verdicts, block);
                assert_eq!(found, expected, "{} {countries:?} {listed}", Ipv4Addr::from_bits(first));
            }
        }
        // What passes everything and nothing is the same everywhere.
        let count = |verdicts: &Verdicts, verdict| {
            (0..1 << BLOCK_BITS).filter(|&block| verdict_of(verdicts, block) == verdict).count()
        };
        let listed: usize = tables.listed_v4.iter().map(|word| word.count_ones() as usize).sum();
        assert_eq!(count(&tables.verdicts_v4[2], verdict::LISTED), listed);
        assert_eq!(count(&tables.verdicts_v4[2], verdict::PASSES), (1 << BLOCK_BITS) - listed);
        assert_eq!(count(&tables.verdicts_v4[3], verdict::OPEN), listed);
        assert_eq!(count(&tables.verdicts_v4[3], verdict::REFUSED), (1 << BLOCK_BITS) - listed);
    }

    fn place(network: &str, country: &'static str) -> Place {
        Place { network: network.parse().unwrap(), country, city: None, asn: None }
    }

    #[test]
    fn no_database_knows_nothing() {
        let (tables, counts) = compiled(&Databases::default());
        assert_eq!(counts, Counts { v4: 65_536, v6: 65_536 });
        for ip in ["0.0.0.0", "192.0.2.1", "255.255.255.255", "::1", "2001:db8::1", "ffff::"] {
            assert_eq!(find(&tables, ip.parse().unwrap()), COUNTRY_UNKNOWN, "{ip}");
        }
    }

    #[test]
    fn the_places_of_the_demo() {
        for layout in LAYOUTS {
            check(layout, PLACES, &[]);
            check(layout, &[], &[]);
        }
        let (tables, counts) = compiled(&open(Layout::Mapped, PLACES));
        let [fr, de, us] = [*b"FR", *b"DE", *b"US"].map(country_number);
        for (ip, number) in [
            ("127.0.0.1", fr),
            ("127.0.0.4", COUNTRY_UNKNOWN),
            ("198.51.100.255", de),
            ("203.0.113.0", us),
            ("2001:db8::1", fr),
            ("2001:db8:4000::1", de),
            ("2001:db8:8000::", COUNTRY_UNKNOWN),
            ("::1", COUNTRY_UNDETERMINED),
        ] {
            assert_eq!(find(&tables, ip.parse().unwrap()), number, "{ip}");
        }
        // 127.0.0.1 to .3 make four ranges more in their chunk; each of three networks, and ::1 as 0.0.0.1, two in its own.
        assert_eq!(counts, Counts { v4: 65_536 + 4 + 4 * 2, v6: 65_536 + 1 + 3 });
    }

    #[test]
    fn neighbours_of_one_country_are_one() {
        let halves = [place("10.0.0.0/9", "FR"), place("10.128.0.0/10", "FR"), place("10.192.0.0/10", "FR")];
        let whole = [place("10.0.0.0/8", "FR")];
        let ranges = |places| compiled(&open(Layout::Mapped, places)).1;
        assert_eq!(ranges(&halves), ranges(&whole));
        assert_eq!(ranges(&whole).v4, 65_536);
        assert_eq!(ranges(&[place("10.0.0.0/17", "FR")]).v4, 65_537);
    }

    #[test]
    fn a_network_of_two_countries_is_undetermined() {
        let whole = place("2001:db8::/32", "FR");
        for (part, number) in [
            (place("2001:db8::/65", "DE"), COUNTRY_UNDETERMINED),
            (place("2001:db8:0:0:8000::/65", "DE"), COUNTRY_UNDETERMINED),
            (place("2001:db8::5/128", "DE"), COUNTRY_UNDETERMINED),
            (place("2001:db8::5/128", "FR"), country_number(*b"FR")),
            (place("2001:db8::/64", "DE"), country_number(*b"DE")),
        ] {
            let places = [whole, part];
            let (tables, _) = compiled(&open(Layout::Mapped, &places));
            assert_eq!(find(&tables, "2001:db8::1".parse().unwrap()), number, "{part:?}");
            assert_eq!(find(&tables, "2001:db8:0:1::".parse().unwrap()), country_number(*b"FR"), "{part:?}");
            check(Layout::Mapped, &places, &[]);
        }
        // Without the one around it, the rest of the network is unknown, which is another country.
        let (tables, _) = compiled(&open(Layout::Mapped, &[place("2001:db8::5/128", "DE")]));
        assert_eq!(find(&tables, "2001:db8::5".parse().unwrap()), COUNTRY_UNDETERMINED);
    }

    #[test]
    fn networks_wider_than_ipv4() {
        for wide in ["::/0", "::/1", "::/64", "::/95", "::/96", "0.0.0.0/0", "0.0.0.0/1", "8000::/1"] {
            for layout in LAYOUTS {
                check(layout, &[place(wide, "FR")], &[]);
                check(layout, &[place(wide, "FR"), place("10.0.0.0/8", "DE")], &[]);
            }
        }
    }

    #[test]
    fn too_many_ranges_are_refused_by_name() {
        let geo = open(Layout::Mapped, &[place("10.0.0.0/17", "FR"), place("2001:db8::/32", "FR")]);
        let mut tables: Box<Tables> = zeroed_box();
        let mut v4 = vec![0_u32; 65_536];
        let mut table = Table::new(&mut tables.v4_chunks[..65_537], &mut v4, 16);
        table.take(0, 0x7fff, 1);
        table.take(0x8000, u128::from(u32::MAX), 2);
        assert_eq!(table.finish(), 65_537);
        let check = |what: &str, error: OverCapacity| {
            let text = error.to_string();
            assert!(text.contains(what) && text.contains("Country instead of City"), "{text}");
            assert!(text.contains("65537") || text.contains("65539"), "{text}");
        };
        let limits = Counts { v4: 65_536, v6: 65_536 };
        check("IPv4", within(Counts { v4: 65_537, v6: 65_536 }, limits).unwrap_err());
        check("IPv6", within(Counts { v4: 65_536, v6: 65_539 }, limits).unwrap_err());
        assert_eq!(within(limits, limits).unwrap(), limits);
        assert!(compile(&geo, &mut tables).is_ok());
    }

    /// Networks around few addresses, so that they nest and touch.
    fn any_place() -> impl Strategy<Value = Place> {
        let v4 = (0u32..4, 0u32..4, 0u32..4, 0u8..=32).prop_map(|(high, mid, low, len)| {
            IpNet::new(Ipv4Addr::from_bits(high << 30 | mid << 15 | low).into(), len).unwrap()
        });
        let v6 = (
            prop::sample::select(vec![0u128, 0x2001, 0x2002, 0x2a00, 0xffff]),
            0u128..3,
            0u128..4,
            0u128..4,
            0u8..=128,
        )
            .prop_map(|(high, second, mid, low, len)| {
                let bits = high << 112 | second << 96 | mid << 63 | low;
                IpNet::new(Ipv6Addr::from_bits(bits).into(), len).unwrap()
            });
        let country = prop::sample::select(vec!["FR", "DE", "US", "", "12"]);
        (prop_oneof![v4, v6], country).prop_map(|(network, country)| Place {
            network,
            country,
            city: None,
            asn: None,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_the_database(
            layout in prop::sample::select(LAYOUTS.to_vec()),
            places in prop::collection::vec(any_place(), 0..24),
            more in prop::collection::vec(any::<u128>(), 0..50),
        ) {
            check(layout, &places, &more);
        }
    }
}
