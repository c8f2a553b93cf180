//! Output for people: aligned columns, and nothing that a terminal would obey.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

/// Rows under a header, in columns two spaces apart. A column of numbers is set to the right.
pub(super) fn table(out: &mut dyn Write, header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let cells: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let column = |index: usize| cells.iter().filter_map(move |row| row.get(index));
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(index, name)| column(index).map(|cell| width(cell)).max().unwrap_or(0).max(width(name)))
        .collect();
    let numbers: Vec<bool> = (0..header.len())
        .map(|index| column(index).all(|cell| cell.bytes().all(|byte| byte.is_ascii_digit())))
        .collect();
    let header = header.iter().map(|name| Cow::Borrowed(*name)).collect();
    for row in std::iter::once(&header).chain(&cells) {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let gap = " ".repeat(widths[index].saturating_sub(width(cell)));
            let (before, after) = if numbers[index] { (&*gap, "") } else { ("", &*gap) };
            for part in [before, cell, after, "  "] {
                line.push_str(part);
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// A name and what there is to say about it.
pub(super) fn fact(out: &mut dyn Write, name: &str, value: impl fmt::Display) -> io::Result<()> {
    writeln!(out, "{name:<12}{}", clean(&value.to_string()))
}

/// A text without control characters: what comes from clients must not steer the terminal.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() { cleaned.extend(c.escape_default()) } else { cleaned.push(c) }
    }
    Cow::Owned(cleaned)
}

/// An instant in unix seconds, as a date.
pub(super) fn instant(unix: u64) -> String {
    // The last second with four digits for the year; humantime writes no later one.
    const LAST: u64 = 253_402_300_799;
    if unix > LAST {
        return unix.to_string();
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix)).to_string()
}

/// A count and its noun, as in `1 day` and `2 days`.
pub(super) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn width(text: &str) -> usize {
    text.chars().count()
}
