//! The claims of a verified token, each with its type checked.

use crate::geo::Country;
use crate::json::{self, Kind, Value};
use crate::limits::MAX_INTEGER;
use crate::net::{canonical, parse_net};
use crate::reason::Reason;
use crate::uri::percent_decoded;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The payload of a token: an object whose members are the claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a>(pub(crate) Value<'a>);

// Keys of the claims that have a meaning; others are left alone.
const IAT: u64 = json::key(b"iat");
const EXP: u64 = json::key(b"exp");
const CID: u64 = json::key(b"cid");
const STT: u64 = json::key(b"stt");
const NBF: u64 = json::key(b"nbf");
const SID: u64 = json::key(b"sid");
const LOCAL: u64 = json::key(b"local");
const CIP: u64 = json::key(b"cip");
const GEO: u64 = json::key(b"geo");
const GEO_TW: u64 = json::key(b"geo-tw");
const ASN: u64 = json::key(b"asn");

impl<'a> Payload<'a> {
    #[inline(always)]
    fn claim(self, key: u64) -> Option<Value<'a>> {
        self.0.outermost(key)
    }

    /// `iat`, where it is as it must be.
    pub(crate) fn issued(self) -> Option<u64> {
        self.claim(IAT)?.as_integer(MAX_INTEGER)
    }

    /// `sid`, where it is a string.
    pub(crate) fn session(self) -> Option<&'a str> {
        self.claim(SID)?.as_str()
    }
}

/// Claims whose types and values are as specified. What needs the request (address, time, place) is asked of the
/// methods; nothing is copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claims<'a> {
    payload: Payload<'a>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) nbf: Option<u64>,
    pub(crate) sid: Option<&'a str>,
    pub(crate) local: Option<&'a str>,
    cid: &'a str,
    stt: &'a str,
    cip: Cip<'a>,
}

/// Addresses that a token is bound to.
#[derive(Debug, Clone, Copy)]
enum Cip<'a> {
    Any,
    /// One, as [`bits`].
    Address(u128),
    /// A network, or a list of either.
    Other(Value<'a>),
}

/// An address as a number, in one spelling.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A claim that is missing or not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadClaim {
    /// [`Reason::ClaimMissing`] or [`Reason::ClaimInvalid`].
    pub(crate) reason: Reason,
    /// Its name.
    pub(crate) claim: &'static str,
}

impl BadClaim {
    const fn missing(claim: &'static str) -> Self {
        Self { reason: Reason::ClaimMissing, claim }
    }

    const fn invalid(claim: &'static str) -> Self {
        Self { reason: Reason::ClaimInvalid, claim }
    }
}

impl<'a> Claims<'a> {
    /// Checks every claim that has a meaning.
    ///
    /// # Errors
    /// The first mandatory claim that is absent, else the first claim with the wrong type or a value that it cannot
    /// have.
    pub(crate) fn read(payload: Payload<'a>) -> Result<Self, BadClaim> {
        let present = |name, key| payload.claim(key).ok_or(BadClaim::missing(name));
        let (iat, exp) = (present("iat", IAT)?, present("exp", EXP)?);
        let (cid, stt) = (present("cid", CID)?, present("stt", STT)?);

        let time = |name, claim: Value<'_>| claim.as_integer(MAX_INTEGER).ok_or(BadClaim::invalid(name));
        let text = |name, key| {
            payload.claim(key).map(|claim| claim.as_str().ok_or(BadClaim::invalid(name))).transpose()
        };
        let valid = |name, key, check: fn(Value<'_>) -> bool| {
            if payload.claim(key).is_none_or(check) { Ok(()) } else { Err(BadClaim::invalid(name)) }
        };
        let cid = cid.as_str().filter(|cid| !cid.is_empty()).ok_or(BadClaim::invalid("cid"))?;
        let stt = stt.as_str().filter(|stt| is_technology(stt)).ok_or(BadClaim::invalid("stt"))?;
        let claims = Self {
            payload,
            iat: time("iat", iat)?,
            exp: time("exp", exp)?,
            nbf: payload.claim(NBF).map(|nbf| time("nbf", nbf)).transpose()?,
            sid: text("sid", SID)?,
            local: text("local", LOCAL)?,
            cid,
            stt,
            cip: match payload.claim(CIP) {
                None => Cip::Any,
                Some(claim) => Cip::read(claim).ok_or(BadClaim::invalid("cip"))?,
            },
        };
        valid("geo", GEO, is_country_list)?;
        valid("geo-tw", GEO_TW, is_window_list)?;
        valid("asn", ASN, |asn| one_or_more(asn, |a| asn_number(a).is_some()))?;
        Ok(claims)
    }

    /// Whether a named group of the path has the value of the claim of the same name. `stt` ignores ASCII case; all
    /// others are equal byte by byte after percent-decoding the group, if there can be escapes at all. A number claim is compared
    /// with its literal.
    pub(crate) fn equals_group(&self, name: &str, group: &[u8], has_escapes: bool) -> bool {
        let expected = match name {
            "cid" => self.cid.as_bytes(),
            "stt" => self.stt.as_bytes(),
            _ => {
                let Some(claim) = self.payload.0.get(name) else { return false };
                let text = match claim.kind() {
                    Kind::String => claim.as_str().map(str::as_bytes),
                    Kind::Number => claim.number(),
                    _ => None,
                };
                let Some(text) = text else { return false };
                text
            }
        };
        match (has_escapes, name == "stt") {
            (false, false) => group == expected,
            (false, true) => group.eq_ignore_ascii_case(expected),
            (true, false) => percent_decoded(group).eq(expected.iter().copied()),
            (true, true) => percent_decoded(group)
                .map(|b| b.to_ascii_lowercase())
                .eq(expected.iter().map(u8::to_ascii_lowercase)),
        }
    }

    /// Whether the client's address is one of `cip`, or there is no `cip`.
    pub(crate) fn admits_address(&self, client: IpAddr) -> bool {
        match self.cip {
            Cip::Any => true,
            Cip::Address(address) => address == bits(client),
            Cip::Other(cip) => {
                let client = canonical(client);
                any_of(cip, |c| c.as_str().and_then(parse_net).is_some_and(|net| net.contains(&client)))
            }
        }
    }

    /// Whether the token asks for geo-blocking at this instant: `geo` names a country, and `geo-tw` is absent, empty,
    /// or has a window that holds `now` (start inclusive, end exclusive).
    pub(crate) fn blocks_by_country(&self, now: u64) -> bool {
        let Some(geo) = self.payload.claim(GEO) else { return false };
        geo.children().next().is_some()
            && self.payload.claim(GEO_TW).is_none_or(|windows| {
                windows.children().next().is_none()
                    || windows.children().filter_map(window).any(|(start, end)| (start..end).contains(&now))
            })
    }

    /// Whether `geo` names the country.
    pub(crate) fn admits_country(&self, country: Country) -> bool {
        self.payload.claim(GEO).is_some_and(|geo| {
            geo.children().any(|code| code.as_str().and_then(Country::new) == Some(country))
        })
    }

    /// Whether the token is bound to networks at all.
    pub(crate) fn names_asn(&self) -> bool {
        self.payload.claim(ASN).is_some()
    }

    /// Whether `asn` names the network.
    pub(crate) fn admits_asn(&self, number: u32) -> bool {
        self.payload.claim(ASN).is_some_and(|asn| any_of(asn, |a| asn_number(a) == Some(number)))
    }
}

impl<'a> Cip<'a> {
    /// An address, a network, or a list of one or more of either. The usual one address is read once and for all.
    fn read(claim: Value<'a>) -> Option<Self> {
        if let Some(text) = claim.as_str() {
            if let Ok(address) = text.parse::<Ipv4Addr>() {
                return Some(Self::Address(bits(IpAddr::V4(address))));
            }
            if let Ok(address) = text.parse::<Ipv6Addr>() {
                return Some(Self::Address(bits(IpAddr::V6(address))));
            }
        }
        let is_valid = one_or_more(claim, |c| c.as_str().and_then(parse_net).is_some());
        is_valid.then_some(Self::Other(claim))
    }
}

/// Whether `check` holds for the value itself or, if it is a list, for each of its one or more elements.
fn one_or_more(value: Value<'_>, check: impl Fn(Value<'_>) -> bool) -> bool {
    match value.as_array() {
        Some(mut elements) => value.children().next().is_some() && elements.all(check),
        None => check(value),
    }
}

/// Whether `check` holds for the value itself or, if it is a list, for any of its elements.
fn any_of(value: Value<'_>, check: impl Fn(Value<'_>) -> bool) -> bool {
    match value.as_array() {
        Some(mut elements) => elements.any(check),
        None => check(value),
    }
}

fn is_technology(stt: &str) -> bool {
    ["dash", "hls", "mss"].iter().any(|known| stt.eq_ignore_ascii_case(known))
}

fn is_country_list(geo: Value<'_>) -> bool {
    geo.as_array().is_some_and(|mut codes| codes.all(|code| code.as_str().and_then(Country::new).is_some()))
}

/// A window that ends before it starts would switch blocking off without a word, so it is no window.
fn is_window_list(windows: Value<'_>) -> bool {
    windows
        .as_array()
        .is_some_and(|mut list| list.all(|entry| window(entry).is_some_and(|(start, end)| start < end)))
}

fn window(entry: Value<'_>) -> Option<(u64, u64)> {
    let instant = |name| entry.get(name)?.as_integer(MAX_INTEGER);
    Some((instant("start")?, instant("end")?))
}

/// `3215` or `"AS3215"`.
fn asn_number(value: Value<'_>) -> Option<u32> {
    let digits = match value.as_str() {
        Some(text) => {
            let (prefix, digits) = text.split_at_checked(2)?;
            if !prefix.eq_ignore_ascii_case("AS") || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            digits
        }
        None => return value.as_integer(u64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok()),
    };
    digits.parse().ok()
}
