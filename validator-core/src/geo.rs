//! Where an address is: asked from whoever holds the databases, and only when a claim or rule needs it.

use core::net::IpAddr;

/// A country by its ISO 3166-1 alpha-2 code, in capitals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// Reads a code of two ASCII letters in any case.
    #[must_use]
    pub fn new(code: &str) -> Option<Self> {
        match *code.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Some(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => None,
        }
    }

    /// The two capitals.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl core::fmt::Debug for Country {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Look-ups by address. `None` means that there is no database or that it does not know the address.
///
/// Addresses are asked for in their canonical spelling ([`crate::net::canonical`]).
pub trait Geo {
    /// The country of an address.
    fn country(&self, ip: IpAddr) -> Option<Country>;

    /// Whether `is` holds for any localised name of the address's city.
    fn city_is(&self, ip: IpAddr, is: &mut dyn FnMut(&str) -> bool) -> Option<bool>;

    /// The autonomous system number of an address.
    fn asn(&self, ip: IpAddr) -> Option<u32>;
}

/// No database at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGeo;

impl Geo for NoGeo {
    fn country(&self, _: IpAddr) -> Option<Country> {
        None
    }

    fn city_is(&self, _: IpAddr, _: &mut dyn FnMut(&str) -> bool) -> Option<bool> {
        None
    }

    fn asn(&self, _: IpAddr) -> Option<u32> {
        None
    }
}

/// Whether two names are the same but for letter case, in any script.
#[must_use]
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.chars().flat_map(char::to_lowercase).eq(b.chars().flat_map(char::to_lowercase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn country_codes() {
        assert_eq!(Country::new("fr"), Country::new("FR"));
        assert_eq!(Country::new("fR").unwrap().as_str(), "FR");
        for bad in ["", "F", "FRA", "F1", "é"] {
            assert_eq!(Country::new(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_ignore_case_in_any_script() {
        assert!(same_name("MÜNCHEN", "München"));
        assert!(same_name("МОСКВА", "Москва"));
        assert!(!same_name("Paris", "Pari"));
    }
}
