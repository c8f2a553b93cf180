//! The claims of a verified token, each with its type checked.

use crate::geo::Country;
use crate::json::{self, Kind, Member, Value};
use crate::limits::MAX_INTEGER;
use crate::net::{canonical, parse_net};
use crate::reason::Reason;
use crate::uri::percent_decoded;
use core::net::IpAddr;
use ipnet::IpNet;

/// The payload of a token, and where in it the claims are that have a meaning; others are left alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Payload<'a> {
    object: Value<'a>,
    /// `iat`, where it is as it must be.
    pub(crate) issued: Option<u64>,
    iat: Option<Member>,
    exp: Option<Member>,
    cid: Option<Member>,
    stt: Option<Member>,
    nbf: Option<Member>,
    sid: Option<Member>,
    local: Option<Member>,
    cip: Option<Member>,
    geo: Option<Member>,
    geo_tw: Option<Member>,
    asn: Option<Member>,
}

impl<'a> Payload<'a> {
    /// Finds the claims of an outermost object.
    #[inline(always)]
    pub(crate) fn new(object: Value<'a>) -> Self {
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
        let iat = object.outermost(IAT);
        Self {
            object,
            issued: iat.and_then(|iat| object.member(iat).as_integer(MAX_INTEGER)),
            iat,
            exp: object.outermost(EXP),
            cid: object.outermost(CID),
            stt: object.outermost(STT),
            nbf: object.outermost(NBF),
            sid: object.outermost(SID),
            local: object.outermost(LOCAL),
            cip: object.outermost(CIP),
            geo: object.outermost(GEO),
            geo_tw: object.outermost(GEO_TW),
            asn: object.outermost(ASN),
        }
    }

    /// `sid`, where it is a string.
    pub(crate) fn session(&self) -> Option<&'a str> {
        self.value(self.sid?).as_str()
    }

    #[inline(always)]
    fn value(&self, member: Member) -> Value<'a> {
        self.object.member(member)
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
    Address(IpAddr),
    Net(IpNet),
    List(Value<'a>),
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
        let present = |name, claim: Option<Member>| {
            claim.map(|member| payload.value(member)).ok_or(BadClaim::missing(name))
        };
        let (_, exp) = (present("iat", payload.iat)?, present("exp", payload.exp)?);
        let (cid, stt) = (present("cid", payload.cid)?, present("stt", payload.stt)?);

        let time = |name, claim: Value<'_>| claim.as_integer(MAX_INTEGER).ok_or(BadClaim::invalid(name));
        let text = |name, claim: Value<'a>| claim.as_str().ok_or(BadClaim::invalid(name));
        let optional = |claim: Option<Member>| claim.map(|member| payload.value(member));
        let valid = |name, claim: Option<Member>, check: fn(Value<'_>) -> bool| {
            if optional(claim).is_none_or(check) { Ok(()) } else { Err(BadClaim::invalid(name)) }
        };
        let cid = cid.as_str().filter(|cid| !cid.is_empty()).ok_or(BadClaim::invalid("cid"))?;
        let stt = stt.as_str().filter(|stt| is_technology(stt)).ok_or(BadClaim::invalid("stt"))?;
        let claims = Self {
            payload,
            iat: payload.issued.ok_or(BadClaim::invalid("iat"))?,
            exp: time("exp", exp)?,
            nbf: optional(payload.nbf).map(|nbf| time("nbf", nbf)).transpose()?,
            sid: optional(payload.sid).map(|sid| text("sid", sid)).transpose()?,
            local: optional(payload.local).map(|local| text("local", local)).transpose()?,
            cid,
            stt,
            cip: match payload.cip {
                None => Cip::Any,
                Some(member) => Cip::read(payload.value(member)).ok_or(BadClaim::invalid("cip"))?,
            },
        };
        valid("geo", payload.geo, is_country_list)?;
        valid("geo-tw", payload.geo_tw, is_window_list)?;
        valid("asn", payload.asn, |asn| one_or_more(asn, |a| asn_number(a).is_some()))?;
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
                let Some(claim) = self.payload.object.get(name) else { return false };
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
        let client = canonical(client);
        match self.cip {
            Cip::Any => true,
            Cip::Address(address) => address == client,
            Cip::Net(net) => net.contains(&client),
            Cip::List(list) => list
                .children()
                .any(|c| c.as_str().and_then(parse_net).is_some_and(|net| net.contains(&client))),
        }
    }

    /// Whether the token asks for geo-blocking at this instant: `geo` names a country, and `geo-tw` is absent, empty,
    /// or has a window that holds `now` (start inclusive, end exclusive).
    pub(crate) fn blocks_by_country(&self, now: u64) -> bool {
        let Some(geo) = self.payload.geo else { return false };
        let named = self.payload.value(geo).children().next().is_some();
        named
            && self.payload.geo_tw.is_none_or(|windows| {
                let windows = self.payload.value(windows);
                windows.children().next().is_none()
                    || windows.children().filter_map(window).any(|(start, end)| (start..end).contains(&now))
            })
    }

    /// Whether `geo` names the country.
    pub(crate) fn admits_country(&self, country: Country) -> bool {
        self.payload.geo.is_some_and(|geo| {
            self.payload
                .value(geo)
                .children()
                .any(|code| code.as_str().and_then(Country::new) == Some(country))
        })
    }

    /// Whether the token is bound to networks at all.
    pub(crate) fn names_asn(&self) -> bool {
        self.payload.asn.is_some()
    }

    /// Whether `asn` names the network.
    pub(crate) fn admits_asn(&self, number: u32) -> bool {
        let named = |asn| any_of(self.payload.value(asn), |a| asn_number(a) == Some(number));
        self.payload.asn.is_some_and(named)
    }
}

impl<'a> Cip<'a> {
    /// An address, a network, or a list of one or more of either. The usual one address is read once and for all.
    fn read(claim: Value<'a>) -> Option<Self> {
        let Some(text) = claim.as_str() else {
            let each = |c: Value<'_>| c.as_str().and_then(parse_net).is_some();
            return (claim.kind() == Kind::Array && one_or_more(claim, each)).then_some(Self::List(claim));
        };
        match text.parse() {
            Ok(address) => Some(Self::Address(canonical(address))),
            Err(_) => parse_net(text).map(Self::Net),
        }
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
