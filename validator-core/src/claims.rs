//! The claims of a verified token, each with its type checked.

use crate::geo::Country;
use crate::json::{self, Kind, Value};
use crate::limits::MAX_INTEGER;
use crate::net::{canonical, parse_net, parse_v4};
use crate::reason::Reason;
use crate::uri::percent_decoded;
use core::net::IpAddr;

/// The payload of a token: an object whose members are the claims.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a>(pub(crate) Value<'a>);

impl<'a> Payload<'a> {
    #[inline(always)]
    fn claim(self, of: &Registered) -> Option<Value<'a>> {
        self.0.outermost(of.key)
    }

    /// `iat`, where it is as it must be.
    #[inline(always)]
    pub(crate) fn issued(self) -> Option<u64> {
        self.claim(&IAT)?.as_integer(MAX_INTEGER)
    }

    /// `sid`, where it is a string.
    #[inline(always)]
    pub(crate) fn session(self) -> Option<&'a str> {
        self.claim(&SID)?.as_str()
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
    cid: &'a [u8],
    stt: &'a [u8],
    /// `cip`, where it is one address of IPv4: the usual case is read once and for all.
    address: Option<u32>,
}

/// A claim that is missing or not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadClaim {
    /// [`Reason::ClaimMissing`] or [`Reason::ClaimInvalid`].
    pub(crate) reason: Reason,
    /// Its name.
    pub(crate) claim: &'static str,
}

/// A claim that has a meaning.
struct Registered {
    key: u64,
    missing: BadClaim,
    invalid: BadClaim,
}

impl Registered {
    const fn new(claim: &'static str) -> Self {
        assert!(claim.len() < 8, "only names of up to seven bytes are told apart by their keys");
        Self {
            key: json::key(claim.as_bytes()),
            missing: BadClaim { reason: Reason::ClaimMissing, claim },
            invalid: BadClaim { reason: Reason::ClaimInvalid, claim },
        }
    }
}

// Others are left alone.
static IAT: Registered = Registered::new("iat");
static EXP: Registered = Registered::new("exp");
static CID: Registered = Registered::new("cid");
static STT: Registered = Registered::new("stt");
static NBF: Registered = Registered::new("nbf");
static SID: Registered = Registered::new("sid");
static LOCAL: Registered = Registered::new("local");
static CIP: Registered = Registered::new("cip");
static GEO: Registered = Registered::new("geo");
static GEO_TW: Registered = Registered::new("geo-tw");
static ASN: Registered = Registered::new("asn");

impl<'a> Claims<'a> {
    /// Checks every claim that has a meaning.
    ///
    /// # Errors
    /// The first mandatory claim that is absent, else the first claim with the wrong type or a value that it cannot
    /// have.
    #[inline(always)]
    pub(crate) fn read(payload: Payload<'a>) -> Result<Self, &'static BadClaim> {
        let present = |of: &'static Registered| payload.claim(of).ok_or(&of.missing);
        let (iat, exp) = (present(&IAT)?, present(&EXP)?);
        let (cid, stt) = (present(&CID)?, present(&STT)?);

        let time =
            |of: &'static Registered, claim: Value<'_>| claim.as_integer(MAX_INTEGER).ok_or(&of.invalid);
        let text = |of: &'static Registered| match payload.claim(of) {
            None => Ok(None),
            Some(claim) => claim.as_str().map(Some).ok_or(&of.invalid),
        };
        let valid = |of: &'static Registered, check: fn(Value<'_>) -> bool| {
            if payload.claim(of).is_none_or(check) { Ok(()) } else { Err(&of.invalid) }
        };
        let cid = cid.as_bytes().filter(|cid| !cid.is_empty()).ok_or(&CID.invalid)?;
        let stt = stt.as_bytes().filter(|stt| is_technology(stt)).ok_or(&STT.invalid)?;
        let (iat, exp) = (time(&IAT, iat)?, time(&EXP, exp)?);
        let nbf = match payload.claim(&NBF) {
            None => None,
            Some(nbf) => Some(time(&NBF, nbf)?),
        };
        let (sid, local) = (text(&SID)?, text(&LOCAL)?);
        let cip = payload.claim(&CIP);
        let address = cip.and_then(Value::as_bytes).and_then(parse_v4);
        if address.is_none() && cip.is_some_and(|cip| !is_address_list(cip)) {
            return Err(&CIP.invalid);
        }
        valid(&GEO, is_country_list)?;
        valid(&GEO_TW, is_window_list)?;
        valid(&ASN, |asn| one_or_more(asn, |a| asn_number(a).is_some()))?;
        Ok(Self { payload, iat, exp, nbf, sid, local, cid, stt, address })
    }

    /// Whether a named group of the path has the value of the claim of the same name. `stt` ignores ASCII case; all
    /// others are equal byte by byte after percent-decoding the group, if there can be escapes at all. A number claim is compared
    /// with its literal.
    pub(crate) fn equals_group(&self, name: &str, group: &[u8], has_escapes: bool) -> bool {
        let expected = match name {
            "cid" => self.cid,
            "stt" => self.stt,
            _ => {
                let Some(claim) = self.payload.0.get(name) else { return false };
                let text = match claim.kind() {
                    Kind::String => claim.as_bytes(),
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
    #[inline(always)]
    pub(crate) fn admits_address(&self, client: &IpAddr) -> bool {
        if let (Some(address), IpAddr::V4(client)) = (self.address, client) {
            return client.to_bits() == address;
        }
        self.payload.claim(&CIP).is_none_or(|cip| names_address(cip, *client))
    }

    /// Whether the token asks for geo-blocking at this instant: `geo` names a country, and `geo-tw` is absent, empty,
    /// or has a window that holds `now` (start inclusive, end exclusive).
    #[inline(always)]
    pub(crate) fn blocks_by_country(&self, now: u64) -> bool {
        let Some(geo) = self.payload.claim(&GEO) else { return false };
        geo.children().next().is_some()
            && self.payload.claim(&GEO_TW).is_none_or(|windows| {
                windows.children().next().is_none()
                    || windows.children().filter_map(window).any(|(start, end)| (start..end).contains(&now))
            })
    }

    /// Whether `geo` names the country.
    pub(crate) fn admits_country(&self, country: Country) -> bool {
        self.payload.claim(&GEO).is_some_and(|geo| {
            geo.children().any(|code| code.as_str().and_then(Country::new) == Some(country))
        })
    }

    /// Whether the token is bound to networks at all.
    #[inline(always)]
    pub(crate) fn names_asn(&self) -> bool {
        self.payload.claim(&ASN).is_some()
    }

    /// Whether `asn` names the network.
    pub(crate) fn admits_asn(&self, number: u32) -> bool {
        self.payload.claim(&ASN).is_some_and(|asn| any_of(asn, |a| asn_number(a) == Some(number)))
    }
}

/// Whether this is an address, a network, or a list of one or more of either.
fn is_address_list(cip: Value<'_>) -> bool {
    one_or_more(cip, |c| c.as_str().and_then(parse_net).is_some())
}

/// Whether any of them has this address, in any of its spellings.
fn names_address(cip: Value<'_>, client: IpAddr) -> bool {
    let client = canonical(client);
    any_of(cip, |c| c.as_str().and_then(parse_net).is_some_and(|net| net.contains(&client)))
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

fn is_technology(stt: &[u8]) -> bool {
    ["dash", "hls", "mss"].iter().any(|known| stt.eq_ignore_ascii_case(known.as_bytes()))
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
