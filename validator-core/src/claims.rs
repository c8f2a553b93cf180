//! The claims of a verified token, each with its type checked.

use crate::geo::Country;
use crate::json::{Kind, Value};
use crate::limits::MAX_INTEGER;
use crate::net::{canonical, parse_net};
use crate::reason::Reason;
use crate::uri::percent_decoded;
use core::net::IpAddr;

/// Claims whose types and values are as specified. What needs the request (address, time, place) is asked of the
/// methods; nothing is copied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claims<'a> {
    payload: Value<'a>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    pub(crate) nbf: Option<u64>,
    pub(crate) sid: Option<&'a str>,
    pub(crate) local: Option<&'a str>,
    cip: Option<Value<'a>>,
    geo: Option<Value<'a>>,
    geo_tw: Option<Value<'a>>,
    asn: Option<Value<'a>>,
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
    /// Reads and checks every claim that has a meaning; others are left alone.
    ///
    /// # Errors
    /// The first mandatory claim that is absent, else the first claim with the wrong type or a value that it cannot
    /// have.
    pub(crate) fn read(payload: Value<'a>) -> Result<Self, BadClaim> {
        // One walk over the members instead of a search for each claim.
        let (mut iat, mut exp, mut cid, mut stt, mut nbf, mut sid) = (None, None, None, None, None, None);
        let (mut local, mut cip, mut geo, mut geo_tw, mut asn) = (None, None, None, None, None);
        for member in payload.children() {
            let place = match member.name() {
                b"iat" => &mut iat,
                b"exp" => &mut exp,
                b"cid" => &mut cid,
                b"stt" => &mut stt,
                b"nbf" => &mut nbf,
                b"sid" => &mut sid,
                b"local" => &mut local,
                b"cip" => &mut cip,
                b"geo" => &mut geo,
                b"geo-tw" => &mut geo_tw,
                b"asn" => &mut asn,
                _ => continue,
            };
            *place = Some(member);
        }
        let present = |name, claim: Option<Value<'a>>| claim.ok_or(BadClaim::missing(name));
        let (iat, exp) = (present("iat", iat)?, present("exp", exp)?);
        let (cid, stt) = (present("cid", cid)?, present("stt", stt)?);

        let time = |name, claim: Value<'_>| claim.as_integer(MAX_INTEGER).ok_or(BadClaim::invalid(name));
        let text = |name, claim: Option<Value<'a>>| {
            claim.map(|claim| claim.as_str().ok_or(BadClaim::invalid(name))).transpose()
        };
        let valid = |name, claim: Option<Value<'a>>, check: fn(Value<'_>) -> bool| {
            if claim.is_none_or(check) { Ok(claim) } else { Err(BadClaim::invalid(name)) }
        };
        valid("cid", Some(cid), |cid| cid.as_str().is_some_and(|cid| !cid.is_empty()))?;
        valid("stt", Some(stt), is_technology)?;
        Ok(Self {
            payload,
            iat: time("iat", iat)?,
            exp: time("exp", exp)?,
            nbf: nbf.map(|nbf| time("nbf", nbf)).transpose()?,
            sid: text("sid", sid)?,
            local: text("local", local)?,
            cip: valid("cip", cip, |cip| one_or_more(cip, |c| c.as_str().and_then(parse_net).is_some()))?,
            geo: valid("geo", geo, is_country_list)?,
            geo_tw: valid("geo-tw", geo_tw, is_window_list)?,
            asn: valid("asn", asn, |asn| one_or_more(asn, |a| asn_number(a).is_some()))?,
        })
    }

    /// Whether a named group of the path has the value of the claim of the same name. `stt` ignores ASCII case; all
    /// others are equal byte by byte after percent-decoding the group. A number claim is compared with its literal.
    pub(crate) fn equals_group(&self, name: &str, group: &[u8]) -> bool {
        let Some(claim) = self.payload.get(name) else { return false };
        let expected = match claim.kind() {
            Kind::String => claim.as_str().map(str::as_bytes),
            Kind::Number => claim.number(),
            _ => None,
        };
        let Some(expected) = expected else { return false };
        if name == "stt" {
            percent_decoded(group)
                .map(|b| b.to_ascii_lowercase())
                .eq(expected.iter().map(u8::to_ascii_lowercase))
        } else {
            percent_decoded(group).eq(expected.iter().copied())
        }
    }

    /// Whether the client's address is one of `cip`, or there is no `cip`.
    pub(crate) fn admits_address(&self, client: IpAddr) -> bool {
        self.cip.is_none_or(|cip| {
            let client = canonical(client);
            any_of(cip, |c| c.as_str().and_then(parse_net).is_some_and(|net| net.contains(&client)))
        })
    }

    /// Whether the token asks for geo-blocking at this instant: `geo` names a country, and `geo-tw` is absent, empty,
    /// or has a window that holds `now` (start inclusive, end exclusive).
    pub(crate) fn blocks_by_country(&self, now: u64) -> bool {
        let named = self.geo.is_some_and(|geo| geo.children().next().is_some());
        let in_window = self.geo_tw.is_none_or(|windows| {
            windows.children().next().is_none()
                || windows.children().filter_map(window).any(|(start, end)| (start..end).contains(&now))
        });
        named && in_window
    }

    /// Whether `geo` names the country.
    pub(crate) fn admits_country(&self, country: Country) -> bool {
        self.geo.is_some_and(|geo| {
            geo.children().any(|code| code.as_str().and_then(Country::new) == Some(country))
        })
    }

    /// Whether the token is bound to networks at all.
    pub(crate) fn names_asn(&self) -> bool {
        self.asn.is_some()
    }

    /// Whether `asn` names the network.
    pub(crate) fn admits_asn(&self, number: u32) -> bool {
        self.asn.is_some_and(|asn| any_of(asn, |a| asn_number(a) == Some(number)))
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

fn is_technology(stt: Value<'_>) -> bool {
    stt.as_str().is_some_and(|stt| ["dash", "hls", "mss"].iter().any(|known| stt.eq_ignore_ascii_case(known)))
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
