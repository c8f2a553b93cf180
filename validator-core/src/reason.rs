//! Why a request was refused: one name, one default status each.

/// A refusal. The order of the variants is the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The client's address is on the deny list.
    IpDenied,
    /// The client's country may not reach this destination.
    CountryDenied,
    /// Validator and origin might not see the same path.
    UriAmbiguous,
    /// No route matched and the default is to deny.
    NoRoute,
    /// The route denies everything.
    RuleDenied,
    /// The request carries no token.
    TokenMissing,
    /// The token is not well-formed, or over a limit.
    TokenMalformed,
    /// `alg` is not exactly `HS256`.
    AlgorithmNotAllowed,
    /// No `kid`, an unknown one, or no slot of it in force.
    KeyUnknown,
    /// The signature or hash does not match.
    SignatureInvalid,
    /// A mandatory claim is absent.
    ClaimMissing,
    /// A claim has the wrong type or value.
    ClaimInvalid,
    /// `iat` or `nbf` is in the future.
    NotYetValid,
    /// The token was good and has ended.
    Expired,
    /// The token is valid for longer than allowed.
    LifetimeExceeded,
    /// The session is blacklisted.
    SessionBlacklisted,
    /// No path pattern fits the path and the claims.
    PathMismatch,
    /// The client's address is not the one in `cip`.
    IpMismatch,
    /// The client's country is not in `geo`.
    GeoBlocked,
    /// The client's city is not the one in `local`.
    LocalityMismatch,
    /// The client's network is not in `asn`.
    AsnMismatch,
}

impl Reason {
    /// Every reason, in the order of the checks.
    pub const ALL: [Self; 21] = [
        Self::IpDenied,
        Self::CountryDenied,
        Self::UriAmbiguous,
        Self::NoRoute,
        Self::RuleDenied,
        Self::TokenMissing,
        Self::TokenMalformed,
        Self::AlgorithmNotAllowed,
        Self::KeyUnknown,
        Self::SignatureInvalid,
        Self::ClaimMissing,
        Self::ClaimInvalid,
        Self::NotYetValid,
        Self::Expired,
        Self::LifetimeExceeded,
        Self::SessionBlacklisted,
        Self::PathMismatch,
        Self::IpMismatch,
        Self::GeoBlocked,
        Self::LocalityMismatch,
        Self::AsnMismatch,
    ];

    /// The outward name and the status that goes with it where a route sets no other.
    const fn describe(self) -> (&'static str, u16) {
        match self {
            Self::IpDenied => ("ip_denied", 403),
            Self::CountryDenied => ("country_denied", 403),
            Self::UriAmbiguous => ("uri_ambiguous", 400),
            Self::NoRoute => ("no_route", 403),
            Self::RuleDenied => ("rule_denied", 403),
            Self::TokenMissing => ("token_missing", 403),
            Self::TokenMalformed => ("token_malformed", 403),
            Self::AlgorithmNotAllowed => ("algorithm_not_allowed", 403),
            Self::KeyUnknown => ("key_unknown", 403),
            Self::SignatureInvalid => ("signature_invalid", 403),
            Self::ClaimMissing => ("claim_missing", 403),
            Self::ClaimInvalid => ("claim_invalid", 403),
            Self::NotYetValid => ("not_yet_valid", 403),
            Self::Expired => ("expired", 410),
            Self::LifetimeExceeded => ("lifetime_exceeded", 403),
            Self::SessionBlacklisted => ("session_blacklisted", 403),
            Self::PathMismatch => ("path_mismatch", 403),
            Self::IpMismatch => ("ip_mismatch", 403),
            Self::GeoBlocked => ("geo_blocked", 403),
            Self::LocalityMismatch => ("locality_mismatch", 403),
            Self::AsnMismatch => ("asn_mismatch", 403),
        }
    }

    /// The outward name, as in bodies, headers, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.describe().0
    }

    /// The HTTP status where the route sets no other.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.describe().1
    }

    /// The reason with this outward name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
