//! Geo databases in MaxMind's format.

use crate::config::GeoPaths;
use maxminddb::{MaxMindDbError, PathElement, Reader};
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
        let reader = self.country.as_ref().or(self.city.as_ref())?;
        let code: &str = member(reader, ip, &["country", "iso_code"])?;
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
    let path: Vec<PathElement<'_>> = path.iter().map(|key| PathElement::Key(key)).collect();
    reader.lookup(ip).ok()?.decode_path(&path).ok()?
}
