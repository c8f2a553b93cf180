//! Names and values of the bucket.
//!
//! | key, after the prefix | value |
//! |---|---|
//! | `config` | TOML that lies over the file |
//! | `deny`, `allow` | a network on each line |
//! | `secret.KID.SLOT`, KID in base64url | `{"key": …, "until": …, "allow_key_size": …}` |
//! | `blacklist.DAY.PART`, DAY as YYYYMMDD, PART two hex digits | the sessions of that day whose part it is, one per line |
//!
//! A deleted key is an empty value.

use crate::config;
use crate::state::{Change, List, NewSecret, Origin};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use std::fmt;
use validator_core::Day;
use validator_core::net::parse_net;
use zeroize::Zeroizing;

/// A key, without the prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Config,
    List(List),
    Secret { kid: Box<str>, slot: u64 },
    Part { day: Day, part: u8 },
}

impl Key {
    /// Reads a key; what is none of ours is left to others.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let tokens: Vec<&str> = text.split('.').collect();
        let key = match *tokens {
            ["config"] => Self::Config,
            ["deny"] => Self::List(List::Deny),
            ["allow"] => Self::List(List::Allow),
            ["secret", kid, slot] => {
                let kid = String::from_utf8(BASE64.decode(kid).ok()?).ok()?;
                Self::Secret { kid: kid.into(), slot: slot.parse().ok()? }
            }
            ["blacklist", day, part] => {
                Self::Part { day: Day::from_name(day)?, part: u8::from_str_radix(part, 16).ok()? }
            }
            _ => return None,
        };
        // One name for one thing.
        (key.to_string() == text).then_some(key)
    }

    /// What puts a value in force; `None`: the key was deleted.
    ///
    /// # Errors
    /// What is wrong with the value. Of the rest, what can be used is in the change.
    pub(super) fn change(&self, value: Option<&[u8]>) -> (Option<Change>, Option<String>) {
        let Ok(text) = value.map(std::str::from_utf8).transpose() else {
            return (None, Some(format!("{self} is not UTF-8 text")));
        };
        let mut wrong = None;
        let mut refuse = |what: String| {
            wrong.get_or_insert(what);
        };
        let change = match self {
            Self::Config => Some(Change::Config {
                origin: Origin::Fleet,
                text: text.map(|text| Zeroizing::new(text.to_owned())),
                expected: None,
                dry_run: false,
            }),
            Self::List(list) => {
                let mut nets = Vec::new();
                for line in lines(text) {
                    match parse_net(line) {
                        Some(net) => nets.push(net),
                        None => refuse(format!("{self}: a line is no network")),
                    }
                }
                Some(Change::Nets { list: *list, nets })
            }
            Self::Secret { kid, slot } => match text.map(read_secret).transpose() {
                Ok(secret) => {
                    Some(Change::Secret { origin: Origin::Fleet, kid: kid.clone(), slot: *slot, secret })
                }
                Err(what) => {
                    refuse(format!("{self}: {what}"));
                    None
                }
            },
            Self::Part { day, part } => {
                let (sids, strays): (Vec<&str>, Vec<&str>) =
                    lines(text).partition(|sid| part_of(sid) == *part);
                if !strays.is_empty() {
                    refuse(format!("{self}: {} sessions belong to other parts", strays.len()));
                }
                let sids = sids.into_iter().map(Box::from).collect();
                Some(Change::Part { day: *day, part: *part, sids })
            }
        };
        (change, wrong)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::List(list) => f.write_str(list.name()),
            Self::Secret { kid, slot } => write!(f, "secret.{}.{slot}", BASE64.encode(kid.as_bytes())),
            Self::Part { day, part } => write!(f, "blacklist.{day}.{part:02x}"),
        }
    }
}

/// The lines of a value that say something.
pub(super) fn lines(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.unwrap_or_default().lines().filter(|line| !line.is_empty())
}

/// A value of lines.
pub(super) fn from_lines<'l>(lines: impl IntoIterator<Item = &'l str>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The part of a day's list that a session belongs to: the lowest byte of its name's CRC-32, as zip and zlib have it.
pub(super) fn part_of(sid: &str) -> u8 {
    let mut crc = u32::MAX;
    for byte in sid.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    let [lowest, ..] = (!crc).to_le_bytes();
    lowest
}

/// The value of a secret.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Secret<'s> {
    pub(super) key: &'s str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<u64>,
    #[serde(default)]
    pub(super) allow_key_size: bool,
}

fn read_secret(text: &str) -> Result<NewSecret, String> {
    // The message of the parser may quote the key.
    let secret: Secret<'_> = serde_json::from_str(text)
        .map_err(|_| "not {\"key\": \"base64url\", \"until\": …, \"allow_key_size\": …}".to_owned())?;
    let (key, bytes) = config::read_key(secret.key, secret.allow_key_size)?;
    Ok(NewSecret { key, bytes, until: secret.until, any_size: secret.allow_key_size })
}

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct HostReport {
    /// The last revision that is in force there.
    pub(super) applied_revision: u64,
    /// Its own version.
    pub(super) version: u64,
    /// When it said so, in unix seconds.
    pub(super) seen: u64,
    /// The agent's version.
    pub(super) agent: String,
    /// What it could not apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let day = Day::from_name("20251228").unwrap();
        for (key, text) in [
            (Key::Config, "config"),
            (Key::List(List::Deny), "deny"),
            (Key::List(List::Allow), "allow"),
            (Key::Secret { kid: "a.b*".into(), slot: 7 }, "secret.YS5iKg.7"),
            (Key::Part { day, part: 0x0a }, "blacklist.20251228.0a"),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(Key::parse(text), Some(key));
        }
        for text in [
            "",
            "Config",
            "config.x",
            "blacklist.20251228",
            "blacklist.20251228.A0",
            "blacklist.20251228.100",
            "blacklist.20251301.00",
            "secret.YS5iKg.07",
            "secret.YS5iKg.x",
            "secret.%.1",
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn parts_are_those_of_zlib() {
        // python3 -c 'import zlib; print(zlib.crc32(b"123456789") & 255)'
        assert_eq!(part_of("123456789"), 0x26);
        assert_eq!(part_of(""), 0);
    }

    #[test]
    fn strays_are_told_and_left_out() {
        let key = Key::Part { day: Day::from_name("20251228").unwrap(), part: 0x26 };
        let (change, wrong) = key.change(Some(b"123456789\nx\n"));
        let Some(Change::Part { sids, .. }) = change else { panic!("no part") };
        assert_eq!(sids, ["123456789".into()]);
        assert_eq!(wrong.unwrap(), "blacklist.20251228.26: 1 sessions belong to other parts");
    }

    #[test]
    fn a_wrong_secret_is_not_quoted() {
        let key = Key::Secret { kid: "k".into(), slot: 0 };
        for value in ["hunter2", "{\"key\":\"hunter2!\"}", "{\"key\":\"hunter2\",\"x\":1}"] {
            let (change, wrong) = key.change(Some(value.as_bytes()));
            assert!(change.is_none());
            assert!(!wrong.unwrap().contains("hunter2"));
        }
        let good = "{\"key\":\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}";
        assert!(matches!(
            key.change(Some(good.as_bytes())),
            (Some(Change::Secret { secret: Some(_), .. }), None)
        ));
        assert!(matches!(key.change(None), (Some(Change::Secret { secret: None, .. }), None)));
    }
}
