//! The checks of [`crate::policy`] as one would write them with common libraries.

use crate::{KEY, NOW, PATH, PATTERN};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use regex::Regex;
use serde::Deserialize;
use std::net::IpAddr;

/// `jsonwebtoken` for the token and `regex` for the path, with everything prepared that can be.
pub struct Others {
    key: DecodingKey,
    validation: Validation,
    pattern: Regex,
}

#[derive(Deserialize)]
struct Claims {
    iat: u64,
    exp: u64,
    cid: String,
    stt: String,
    cip: Option<IpAddr>,
    sid: Option<String>,
}

impl Default for Others {
    fn default() -> Self {
        Self::new()
    }
}

impl Others {
    /// Prepares them.
    #[must_use]
    pub fn new() -> Self {
        // The instant is not the present one, so times are compared below.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        let pattern = Regex::new(&format!(r"\A(?:{PATTERN})\z")).expect("a valid pattern");
        Self { key: DecodingKey::from_secret(&KEY), validation, pattern }
    }

    /// Whether they accept a token for [`PATH`].
    #[must_use]
    pub fn accept(&self, token: &str) -> bool {
        let client: IpAddr = [192, 0, 2, 1].into();
        let Ok(data) = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation) else {
            return false;
        };
        let claims = data.claims;
        let Some(groups) = self.pattern.captures(PATH) else { return false };
        data.header.kid.as_deref() == Some("orange-key-1")
            && claims.iat <= NOW
            && claims.exp > NOW
            && claims.exp - claims.iat <= 86_400
            && claims.sid.as_deref() != Some("session123")
            && claims.cip.is_none_or(|cip| cip == client)
            && groups["cid"] == claims.cid
            && groups["stt"].eq_ignore_ascii_case(&claims.stt)
    }
}
