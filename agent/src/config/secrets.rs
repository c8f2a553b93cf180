//! `[secrets]` and `[secure_token]`: everything that must not be printed.

use super::layers::HIDDEN;
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

/// A slot as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// The secret's name.
    pub kid: Box<str>,
    /// The first `iat` that it verifies, in unix seconds.
    pub slot: u64,
    /// When it ends, in unix seconds.
    pub until: Option<u64>,
    /// How long the key is.
    pub bytes: usize,
}

/// `[secrets]`.
pub(super) struct Keys {
    /// The secrets of Content JWTs.
    pub(super) ring: KeyRing,
    /// What may be shown of them.
    pub(super) slots: Vec<SlotInfo>,
    /// Whether any is configured, good or not.
    pub(super) any: bool,
}

/// The secrets of Content JWTs.
pub(super) fn keys(section: Option<&Section<'_>>, folder: &Path) -> Keys {
    let mut ring = KeyRing::default();
    let mut infos = Vec::new();
    let entries = section.map(Section::entries).unwrap_or_default();
    let any = !entries.is_empty();
    for (kid, place, value) in entries {
        let section = value.section_like("a table [secrets.NAME]");
        let Some(slots) = section.map(|section| slots(section, folder)) else { continue };
        let info = |(slot, bytes): &(Slot, usize)| SlotInfo {
            kid: kid.into(),
            slot: slot.slot,
            until: slot.until,
            bytes: *bytes,
        };
        infos.extend(slots.iter().map(info));
        let slots = slots.into_iter().map(|(slot, _)| slot).collect();
        // Without a good slot there is already a problem.
        if let Err(error) = ring.insert(kid, slots)
            && error != KeyError::NoSlots
        {
            place.problem(error.to_string());
        }
    }
    Keys { ring, slots: infos, any }
}

/// The slots of a secret, each with the length of its key.
fn slots(mut section: Section<'_>, folder: &Path) -> Vec<(Slot, usize)> {
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
        let Some((place, slot, bytes)) = slot(section, any_size, folder) else { continue };
        if let Some(earlier) = numbers.insert(slot.slot, place.key.clone()) {
            place.problem(format!(
                "slot {} is already taken by {earlier}; give each slot its own number",
                slot.slot
            ));
        } else {
            slots.push((slot, bytes));
        }
    }
    slots
}

fn slot<'t>(mut section: Section<'t>, any_size: bool, folder: &Path) -> Option<(Place<'t>, Slot, usize)> {
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
    let (key, bytes) = key?;
    Some((place, Slot { slot, until: until.map(|(until, _)| until), key }, bytes))
}

fn key_of(text: &str, any_size: bool, place: &Place<'_>) -> Option<(Key, usize)> {
    if is_placeholder(text, place) {
        return None;
    }
    match key(text, any_size) {
        Ok((key, bytes)) => Some((key, bytes.len())),
        Err(why) => {
            place.problem(why);
            None
        }
    }
}

/// Reads a key, and gives its bytes too.
///
/// # Errors
/// What is wrong with it, without a character of it.
pub(crate) fn key(text: &str, any_size: bool) -> Result<(Key, Zeroizing<Vec<u8>>), String> {
    // The decoder asks for whole groups; a buffer that never grows leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() + 4));
    // The decoder's own message shows a character of the key.
    if BASE64.decode_vec(text, &mut bytes).is_err() {
        return Err(
            "the key is not base64url; write its bytes with A-Z a-z 0-9 - _ only, where plain base64 has + and /"
                .to_owned(),
        );
    }
    let key = Key::new(&bytes, any_size).map_err(|error| error.to_string())?;
    Ok((key, bytes))
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
        (None, Some(value), None) => {
            let text = value.text().filter(|text| !is_placeholder(text, &value.place));
            text.map(|text| vec![secret(text.as_bytes())])
        }
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
    let texts =
        list.iter().filter_map(|value| value.text().filter(|text| !is_placeholder(text, &value.place)));
    Some(texts.map(|text| secret(text.as_bytes())).collect())
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

/// Whether this is what a configuration shows in place of a secret.
fn is_placeholder(text: &str, place: &Place<'_>) -> bool {
    let placeholder = text == HIDDEN;
    if placeholder {
        place.problem(
            "stands for a secret that is not shown; write the secret itself, or the name of a file with it",
        );
    }
    placeholder
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
