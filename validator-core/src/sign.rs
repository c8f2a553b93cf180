//! Making tokens: for `edgegate sign`, the demo and the tests.

use crate::keys::Key;
use alloc::format;
use alloc::string::String;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A compact token from the text of its header and of its payload. Both texts are taken as they are, so that tests can
/// make tokens that no good signer would.
#[must_use]
pub fn compact(header: &str, payload: &str, key: &Key) -> String {
    let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let mac = key.sign(&[token.as_bytes()]);
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(mac));
    token
}

/// A token with the usual header for `kid`, whose name needs no escaping in JSON beyond quotes and backslashes.
#[must_use]
pub fn content_jwt(kid: &str, payload: &str, key: &Key) -> String {
    let kid = kid.replace('\\', "\\\\").replace('"', "\\\"");
    compact(&format!(r#"{{"typ":"JWT","alg":"HS256","kid":"{kid}"}}"#), payload, key)
}
