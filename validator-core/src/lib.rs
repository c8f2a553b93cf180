//! The decision of edgegate: request, policy and time in, verdict out.
//!
//! ```text
//! request ─▶ prefilter lists ─▶ target read ─▶ route found ─▶ token parsed ─▶ signature ─▶ claims ─▶ path ─▶ place
//!            ip · country       one reading    first match    strict          HS256 · hash  types     groups  ip · geo
//!                               only           decides        base64url/JSON  const. time   times     = claims
//! ```
//!
//! Two token systems are known: Content JWT (HS256, in the path, query, a header or a cookie) and Secure Token
//! (`?st=…&e=…`). [`decide`] borrows from the request, works in a caller-held [`Scratch`] and allocates nothing.
//!
//! What this crate does not do: it opens no socket or file, reads no clock, starts no thread and knows no database. Time
//! is an argument; places are asked through the [`Geo`] trait. It needs `alloc` and no `std`.
//!
//! ```
//! use validator_core::{decide, Fallback, Key, KeyRing, NoGeo, Policy, Prefilter, Request, Scratch, Sessions, Slot};
//! use validator_core::{Bindings, Check, ContentJwt, OnDeny, Reason, Route, Statuses, TokenPlace, Verdict, When};
//! use validator_core::pattern::{Limits, PathPattern};
//!
//! let key = Key::new(&[7; 32], false)?;
//! let mut keys = KeyRing::default();
//! keys.insert("k1", vec![Slot { slot: 0, until: None, key: key.clone() }])?;
//! let check = ContentJwt {
//!     places: vec![TokenPlace::Path],
//!     patterns: vec![PathPattern::new("/live/(?<cid>[^/]+)/.*", &Limits::default())?],
//!     monitored: Bindings::default(),
//!     max_lifetime: None,
//!     unknown_place_passes: false,
//! };
//! let policy = Policy {
//!     fallback: Fallback::Deny,
//!     leeway: 0,
//!     keys: keys.into(),
//!     sessions: Sessions::new(31),
//!     prefilter: Prefilter::default().into(),
//!     routes: vec![Route {
//!         name: "live".into(),
//!         when: When::default(),
//!         check: Check::ContentJwt(check),
//!         on_deny: OnDeny::Status,
//!         statuses: Statuses::default(),
//!     }]
//!     .into(),
//! };
//! let mut scratch = Scratch::new();
//! scratch.reserve(&policy);
//!
//! let token = validator_core::sign::content_jwt("k1", r#"{"iat":100,"exp":200,"cid":"c1","stt":"hls"}"#, &key);
//! let good = format!("/{token}/live/c1/master.m3u8");
//! let wrong = format!("/{token}/live/c2/master.m3u8");
//! let mut verdict = |target: &str, now| {
//!     let request = Request {
//!         method: "GET",
//!         target: target.as_bytes(),
//!         scheme: "https",
//!         host: b"cdn.example",
//!         client: [192, 0, 2, 1].into(),
//!         destination: None,
//!         headers: &[],
//!     };
//!     match decide(&policy, &request, &NoGeo, now, &mut scratch, &mut ()).verdict {
//!         Verdict::Allow { upstream_uri, .. } => Ok(String::from_utf8_lossy(upstream_uri).into_owned()),
//!         other => Err(other.reason()),
//!     }
//! };
//! assert_eq!(verdict(&good, 150), Ok("/live/c1/master.m3u8".into()));
//! assert_eq!(verdict(&good, 200), Err(Some(Reason::Expired)));
//! assert_eq!(verdict(&wrong, 150), Err(Some(Reason::PathMismatch)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

mod bytes;
mod claimed;
mod claims;
mod decide;
mod explain;
mod geo;
mod json;
mod keys;
pub mod limits;
pub mod net;
pub mod pattern;
mod policy;
mod query;
mod reason;
mod request;
mod routes;
mod rules;
mod secure_token;
mod sessions;
pub mod sign;
mod token;
pub mod uri;

pub use decide::{Decision, Scratch, Verdict, decide};
pub use explain::Trace;
pub use geo::{Country, Geo, NoGeo};
pub use keys::{Key, KeyError, KeyRing, Slot};
pub use policy::{
    Bindings, Check, ContentJwt, Countries, Fallback, OnDeny, Policy, Prefilter, Route, SecureToken, Service,
    Statuses, Template, TokenPlace,
};
pub use reason::Reason;
pub use request::{Headers, Request, split_cookie};
pub use routes::Routes;
pub use rules::{Condition, ConditionError, OPERATORS, Operand, VARIABLES, When};
pub use secure_token::{Algorithm, Secret, parameters as secure_token_parameters};
pub use sessions::{Day, Sessions};
