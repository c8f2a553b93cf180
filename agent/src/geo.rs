//! Geo databases in MaxMind's format.

use crate::config::GeoPaths;
use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};
use serde::Deserialize;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use validator_core::{Country, Geo};

/// A database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// The file cannot be read.
    #[error("geo.{key}: cannot read {}: {source}", path.display())]
    Read {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is no such database.
    #[error("geo.{key}: {} is not a usable MaxMind database: {source}", path.display())]
    Format {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: MaxMindDbError,
    },
    /// The database holds something else.
    #[error("geo.{key}: {} is a `{found}` database; one whose type ends in {wanted} is needed", path.display())]
    Kind {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Its type by its metadata.
        found: String,
        /// The types that would do.
        wanted: &'static str,
    },
}

type Database = Reader<Vec<u8>>;

/// Where a record has its country.
const COUNTRY: [&str; 2] = ["country", "iso_code"];

/// The open databases of one configuration.
#[derive(Default)]
pub struct Databases {
    city: Option<Database>,
    country: Option<Database>,
    asn: Option<Database>,
}

impl Databases {
    /// Opens what is configured.
    ///
    /// # Errors
    /// The first database that cannot be read, is damaged or holds something else, by key and path.
    pub fn open(paths: &GeoPaths) -> Result<Self, GeoError> {
        Ok(Self {
            city: open("city", paths.city.as_deref(), &["City", "Enterprise"], "City or Enterprise")?,
            country: open(
                "country",
                paths.country.as_deref(),
                &["Country", "City", "Enterprise"],
                "Country, City or Enterprise",
            )?,
            asn: open("asn", paths.asn.as_deref(), &["ASN", "ISP"], "ASN or ISP")?,
        })
    }

    /// The database that tells countries.
    fn countries(&self) -> Option<&Database> {
        self.country.as_ref().or(self.city.as_ref())
    }

    /// Whether [`Geo::country`] knows IPv6 addresses at all.
    pub(crate) fn countries_of_ipv6(&self) -> bool {
        self.countries().is_some_and(|reader| reader.metadata().ip_version == 6)
    }

    /// Gives the first and the last address of every network whose country is known, in the order of addresses. IPv4
    /// networks are given where a database has them, in `::/96`, and once more wherever it repeats them. An IPv4 address
    /// is in the country of its place in `::/96`, and so is the IPv6 address there, if [`Databases::countries_of_ipv6`].
    pub(crate) fn each_country_network(&self, mut each: impl FnMut(u128, u128, Country)) {
        let options = WithinOptions::default().include_aliased_networks();
        let networks = self.countries().and_then(|reader| reader.networks(options).ok());
        // Records are few and shared by many networks.
        let mut known: HashMap<usize, Option<Country>> = HashMap::new();
        // What cannot be read is unknown, as in a look-up.
        for found in networks.into_iter().flatten().flatten() {
            let (Some(offset), Ok(network)) = (found.offset(), found.network()) else { continue };
            let country = known.entry(offset).or_insert_with(|| {
                let code: Option<&str> = decode(&found, &COUNTRY);
                code.and_then(Country::new)
            });
            let Some(country) = *country else { continue };
            let (first, bits) = match network.ip() {
                IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
                IpAddr::V6(v6) => (v6.to_bits(), 128),
            };
            // A network of one address has no host bits.
            let hosts = u128::MAX.checked_shr(128 - bits + u32::from(network.prefix())).unwrap_or(0);
            each(first, first | hosts, country);
        }
    }

    /// The databases of a process that has but one, of cities.
    #[cfg(test)]
    pub(crate) fn of_cities(file: Vec<u8>) -> Self {
        Self { city: Some(Reader::from_source(file).unwrap()), ..Self::default() }
    }
}

/// Reads a database into memory and checks all of it, so that a damaged one is refused now and not met by a request.
fn open(
    key: &'static str,
    path: Option<&Path>,
    kinds: &[&str],
    wanted: &'static str,
) -> Result<Option<Database>, GeoError> {
    let Some(path) = path else { return Ok(None) };
    let owned = || path.to_owned();
    let bytes = std::fs::read(path).map_err(|source| GeoError::Read { key, path: owned(), source })?;
    let format = |source| GeoError::Format { key, path: owned(), source };
    let reader = Reader::from_source(bytes).map_err(format)?;
    reader.verify().map_err(format)?;
    let found = &reader.metadata().database_type;
    if !kinds.iter().any(|kind| found.ends_with(kind)) {
        return Err(GeoError::Kind { key, path: owned(), found: found.clone(), wanted });
    }
    Ok(Some(reader))
}

impl Geo for Databases {
    fn country(&self, ip: IpAddr) -> Option<Country> {
        let code: &str = member(self.countries()?, ip, &COUNTRY)?;
        Country::new(code)
    }

    fn city_is(&self, ip: IpAddr, is: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
        let names: HashMap<&str, &str> = member(self.city.as_ref()?, ip, &["city", "names"])?;
        Some(names.values().any(|name| is(name)))
    }

    fn asn(&self, ip: IpAddr) -> Option<u32> {
        member(self.asn.as_ref()?, ip, &["autonomous_system_number"])
    }
}

/// One member of an address's record. A record that cannot be decoded counts as unknown: databases are verified when
/// they are opened.
fn member<'de, T: Deserialize<'de>>(reader: &'de Database, ip: IpAddr, path: &[&'de str]) -> Option<T> {
    decode(&reader.lookup(ip).ok()?, path)
}

fn decode<'de, T: Deserialize<'de>>(found: &LookupResult<'de, Vec<u8>>, path: &[&'de str]) -> Option<T> {
    let path: Vec<PathElement<'_>> = path.iter().map(|key| PathElement::Key(key)).collect();
    found.decode_path(&path).ok()?
}
