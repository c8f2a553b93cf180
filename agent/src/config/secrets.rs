//! `[secrets]` and `[secure_token]`: everything that must not be printed.

use super::problem::Place;
use super::reader::{Section, Value};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use validator_core::limits::MAX_INTEGER;
use validator_core::{Algorithm, Key, KeyError, KeyRing, Secret, Slot};
use zeroize::Zeroizing;

/// Base64url whose padding may be left out. Other alphabets, white space and stray bits are refused.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Longest file with keys or secrets, in bytes. It keeps a wrong path from filling the memory.
const LONGEST_FILE: u64 = 1024 * 1024;

const ALGORITHMS: [(&str, Algorithm); 2] =
    [(Algorithm::Md5.name(), Algorithm::Md5), (Algorithm::HmacSha256.name(), Algorithm::HmacSha256)];

/// The secrets of Content JWTs; and whether any is configured, good or not.
pub(super) fn keys(section: Option<&Section<'_>>, folder: &Path) -> (KeyRing, bool) {
    let mut ring = KeyRing::default();
    let entries = section.map(Section::entries).unwrap_or_default();
    let any = !entries.is_empty();
    for (kid, place, value) in entries {
        let section = value.section_like("a table [secrets.NAME]");
        let Some(slots) = section.map(|section| slots(section, folder)) else { continue };
        // Without a good slot there is already a problem.
        if let Err(error) = ring.insert(kid, slots)
            && error != KeyError::NoSlots
        {
            place.problem(error.to_string());
        }
    }
    (ring, any)
}

fn slots(mut section: Section<'_>, folder: &Path) -> Vec<Slot> {
    let any_size = section.boolean("allow_key_size", false);
    let way_out = "write for example slots = [ { slot = 0, key_file = \"/etc/edgegate/key\" } ]";
    let list = section.require("slots", way_out).map(|value| {
        if value.list_len() == Some(0) {
            value.place.problem(format!("needs at least one slot; {way_out}"));
        }
        value.tables()
    });
    section.finish();
    let mut numbers = BTreeMap::new();
    let mut slots = Vec::new();
    for section in list.unwrap_or_default() {
        let Some((place, slot)) = slot(section, any_size, folder) else { continue };
        if let Some(earlier) = numbers.insert(slot.slot, place.key.clone()) {
            place.problem(format!(
                "slot {} is already taken by {earlier}; give each slot its own number",
                slot.slot
            ));
        } else {
            slots.push(slot);
        }
    }
    slots
}

fn slot<'t>(mut section: Section<'t>, any_size: bool, folder: &Path) -> Option<(Place<'t>, Slot)> {
    let range = 0..=MAX_INTEGER;
    let number = section.require("slot", "write the first `iat` that it verifies, or 0").and_then(|value| {
        let number = value.number(&range)?;
        Some((value.place, number))
    });
    let until = section.take("until");
    let until = until.and_then(|value| Some((value.number(&range)?, value.place)));
    if let (Some((_, number)), Some((until, place))) = (&number, &until)
        && until <= number
    {
        place.warn("the slot ends before it starts, so it verifies nothing");
    }
    let (key, key_file) = (section.take("key"), section.take("key_file"));
    let key = match (key, key_file) {
        (Some(value), None) => value.string().and_then(|text| key_of(text, any_size, &value.place)),
        (None, Some(value)) => value.path(folder).and_then(|path| {
            let bytes = read(&path, &value.place)?;
            let Ok(text) = std::str::from_utf8(&bytes) else {
                value.place.problem("the file is not text; write the key into it in base64url");
                return None;
            };
            key_of(text.trim_ascii(), any_size, &value.place)
        }),
        (Some(_), Some(value)) => {
            value.place.problem("both key and key_file are given; remove one");
            None
        }
        (None, None) => {
            section.place.missing("key", "write exactly one of key and key_file");
            None
        }
    };
    section.finish();
    let (place, slot) = number?;
    Some((place, Slot { slot, until: until.map(|(until, _)| until), key: key? }))
}

fn key_of(text: &str, any_size: bool, place: &Place<'_>) -> Option<Key> {
    // The decoder asks for whole groups; a buffer that never grows leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 4));
    // The decoder's own message shows a character of the key.
    if BASE64.decode_vec(text, &mut bytes).is_err() {
        place.problem(
            "the key is not base64url; write its bytes with A-Z a-z 0-9 - _ only, where plain base64 has + and /",
        );
        return None;
    }
    Key::new(&bytes, any_size).map_err(|error| place.problem(error.to_string())).ok()
}

/// One `[secure_token.NAME]`, not prepared for an algorithm yet, because a route may choose another.
pub(super) struct TokenSecrets {
    texts: Vec<Zeroizing<Vec<u8>>>,
    pub(super) algorithm: Algorithm,
    pub(super) max_ttl: Option<u64>,
}

impl TokenSecrets {
    pub(super) fn prepare(&self, algorithm: Algorithm) -> Vec<Secret> {
        self.texts.iter().filter_map(|text| Secret::new(algorithm, text)).collect()
    }
}

/// All `[secure_token]` tables by name, those with problems too.
pub(super) fn secure_tokens<'t>(
    section: Option<&Section<'t>>,
    folder: &Path,
) -> BTreeMap<&'t str, TokenSecrets> {
    let mut all = BTreeMap::new();
    for (name, _, value) in section.map(Section::entries).unwrap_or_default() {
        let secrets = match value.section_like("a table [secure_token.NAME]") {
            Some(section) => token_secrets(section, folder),
            None => TokenSecrets { texts: Vec::new(), algorithm: Algorithm::Md5, max_ttl: None },
        };
        all.insert(name, secrets);
    }
    all
}

/// `algorithm` and `max_ttl`, which a route may have too.
pub(super) fn token_settings(section: &mut Section<'_>) -> (Option<Algorithm>, Option<u64>) {
    (section.word("algorithm", &ALGORITHMS), section.number("max_ttl", &(1..=MAX_INTEGER)))
}

fn token_secrets(mut section: Section<'_>, folder: &Path) -> TokenSecrets {
    let (algorithm, max_ttl) = token_settings(&mut section);
    let list = section.take("secrets");
    let single = section.take("secure_token_secret");
    let file = section.take("secrets_file");
    let texts = match (list, single, file) {
        (Some(value), None, None) => listed(&value),
        (None, Some(value), None) => value.text().map(|text| vec![secret(text.as_bytes())]),
        (None, None, Some(value)) => value.path(folder).and_then(|path| lines(&path, &value.place)),
        (None, None, None) => {
            let way_out = "write exactly one of secrets, secrets_file and secure_token_secret";
            section.place.missing("secrets", way_out);
            None
        }
        (list, single, file) => {
            if let Some(value) = [file, single, list].into_iter().flatten().next() {
                value.place.problem("keep exactly one of secrets, secrets_file and secure_token_secret");
            }
            None
        }
    };
    section.finish();
    TokenSecrets { texts: texts.unwrap_or_default(), algorithm: algorithm.unwrap_or(Algorithm::Md5), max_ttl }
}

fn listed(value: &Value<'_>) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    let list = value.list()?;
    if list.is_empty() {
        value.place.problem("needs at least one secret");
    }
    Some(list.iter().filter_map(Value::text).map(|text| secret(text.as_bytes())).collect())
}

/// The lines of a file, without those that are empty.
fn lines(path: &Path, place: &Place<'_>) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    let bytes = read(path, place)?;
    let mut secrets = Vec::new();
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii() != line {
            place.warn(format!(
                "line {} of the file has white space around the secret, which counts",
                index + 1
            ));
        }
        if !line.is_empty() {
            secrets.push(secret(line));
        }
    }
    if secrets.is_empty() {
        place.problem(format!("{} has no secret; write one per line", path.display()));
    }
    Some(secrets)
}

fn secret(text: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.to_vec())
}

fn read(path: &Path, place: &Place<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let file = |path: &Path| -> std::io::Result<Zeroizing<Vec<u8>>> {
        let file = File::open(path)?;
        // One byte more than the file has, so that reading to its end does not move the bytes to a larger buffer.
        let size = file.metadata()?.len().min(LONGEST_FILE) + 1;
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0)));
        file.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match file(path) {
        Ok(bytes) if bytes.len() as u64 > LONGEST_FILE => {
            place.problem(format!(
                "{} is longer than {LONGEST_FILE} bytes; is it the right file?",
                path.display()
            ));
            None
        }
        Ok(bytes) => Some(bytes),
        Err(error) => {
            place.problem(format!("{} cannot be read: {error}", path.display()));
            None
        }
    }
}
