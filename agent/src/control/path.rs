//! Paths and queries of the control API.

use super::answer::Error;
use http::Uri;
use percent_encoding::percent_decode_str;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The segments of a path, decoded.
pub(super) struct Path<'p>(Vec<Cow<'p, str>>);

impl<'p> Path<'p> {
    /// Splits and decodes it; `None` if it is no text.
    pub(super) fn parse(path: &'p str) -> Option<Self> {
        let segments = path.strip_prefix('/')?.split('/');
        segments
            .map(|segment| percent_decode_str(segment).decode_utf8().ok())
            .collect::<Option<_>>()
            .map(Self)
    }

    pub(super) fn segments(&self) -> Vec<&str> {
        self.0.iter().map(AsRef::as_ref).collect()
    }
}

/// The parameters of a query, each of which must be known and occur once.
pub(super) fn query(uri: &Uri, known: &[&str]) -> Result<BTreeMap<String, String>, Error> {
    let mut found = BTreeMap::new();
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&name) {
            let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Error::bad_request(format!("unknown parameter {name:?}; known: {list}")));
        }
        let value = percent_decode_str(value).decode_utf8();
        let value = value.map_err(|_| Error::bad_request(format!("the parameter {name} is no text")))?;
        if found.insert(name.to_owned(), value.into_owned()).is_some() {
            return Err(Error::bad_request(format!("the parameter {name} is given twice")));
        }
    }
    Ok(found)
}
