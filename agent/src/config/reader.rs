//! A typed view of a TOML table: every reading either yields a value or reports what is wrong with it.
//!
//! A value that is wrong reads like one that is absent, so that reading goes on and one run finds all problems. What was
//! built on the way is thrown away when there is any.

use super::problem::{Place, Report, advice, shown};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};
use zeroize::Zeroize as _;

/// A value and where it is.
pub(super) struct Value<'t> {
    /// Where the value is.
    pub(super) place: Place<'t>,
    value: &'t DeValue<'t>,
}

impl<'t> Value<'t> {
    fn new(place: Place<'t>, value: &'t Spanned<DeValue<'t>>) -> Self {
        Self { place, value: value.get_ref() }
    }

    /// A string, possibly empty.
    pub(super) fn string(&self) -> Option<&'t str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type("a string"),
        }
    }

    /// A string with at least one character.
    pub(super) fn text(&self) -> Option<&'t str> {
        let text = self.string()?;
        if text.is_empty() {
            self.place.problem("is empty; write a value or leave it out");
            return None;
        }
        Some(text)
    }

    /// A file path; a relative one starts at `folder`.
    pub(super) fn path(&self, folder: &Path) -> Option<PathBuf> {
        let text = self.text()?;
        if text.contains('\0') {
            self.place.problem("a path cannot contain a NUL character");
            return None;
        }
        Some(folder.join(text))
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_type("a boolean"),
        }
    }

    /// An integer within `range`.
    pub(super) fn number<T: TryFrom<u64>>(&self, range: &RangeInclusive<u64>) -> Option<T> {
        let DeValue::Integer(integer) = self.value else { return self.wrong_type("an integer") };
        let value = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let value = value.and_then(|value| u64::try_from(value).ok()).filter(|value| range.contains(value));
        let value = value.and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            let (start, end) = (range.start(), range.end());
            self.place.problem(format!("out of range; write a number from {start} to {end}"));
        }
        value
    }

    /// One of the given words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let given = self.string()?;
        let found = words.iter().find(|(word, _)| *word == given);
        if found.is_none() {
            let advice = advice(given, words.iter().map(|(word, _)| *word), "values");
            self.place.problem(format!("unknown value {}; {advice}", shown(given)));
        }
        found.map(|&(_, value)| value)
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Option<Vec<Value<'t>>> {
        match self.value {
            DeValue::Array(array) => Some(self.elements(array)),
            _ => self.wrong_type("a list"),
        }
    }

    /// The elements of a list; a single string stands for a list of one.
    pub(super) fn string_or_list(&self) -> Option<Vec<Value<'t>>> {
        match self.value {
            DeValue::String(_) => Some(vec![Value { place: self.place.clone(), value: self.value }]),
            DeValue::Array(array) => Some(self.elements(array)),
            _ => self.wrong_type("a string or a list of strings"),
        }
    }

    /// The elements of a list of tables.
    pub(super) fn tables(&self) -> Vec<Section<'t>> {
        if self.value.is_table() {
            self.place
                .problem(format!("expected a list of tables, found a table; write [[{}]]", self.place.key));
            return Vec::new();
        }
        self.list().unwrap_or_default().iter().filter_map(Value::section).collect()
    }

    pub(super) fn section(&self) -> Option<Section<'t>> {
        self.section_like("a table")
    }

    /// A table; `expected` describes it.
    pub(super) fn section_like(&self, expected: &str) -> Option<Section<'t>> {
        match self.value {
            DeValue::Table(table) => Some(Section { place: self.place.clone(), table, known: Vec::new() }),
            _ => self.wrong_type(expected),
        }
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    /// The number of elements, if this is a list.
    pub(super) fn list_len(&self) -> Option<usize> {
        self.value.as_array().map(|array| array.len())
    }

    pub(super) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    /// Reports the type and yields nothing.
    pub(super) fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        let found = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.place.problem(format!("expected {expected}, found {found}"));
        None
    }

    fn elements(&self, array: &'t DeArray<'t>) -> Vec<Value<'t>> {
        let element = |(index, value): (usize, &'t Spanned<DeValue<'t>>)| {
            Value::new(self.place.element(index, &value.span()), value)
        };
        array.iter().enumerate().map(element).collect()
    }
}

/// A table with a fixed set of keys: the ones that are asked for. [`Section::finish`] reports all others.
pub(super) struct Section<'t> {
    /// Where the table is: its header, or its opening brace.
    pub(super) place: Place<'t>,
    table: &'t DeTable<'t>,
    known: Vec<&'static str>,
}

impl<'t> Section<'t> {
    pub(super) fn root(report: &'t Report, table: &'t DeTable<'t>) -> Self {
        Self { place: Place::new(report, &(0..0), String::new()), table, known: Vec::new() }
    }

    /// The value of a key, which is known from now on.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'t>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some(Value::new(self.place.member(key, &value.span()), value))
    }

    /// The value of a mandatory key; `way_out` tells what to write when it is absent.
    pub(super) fn require(&mut self, key: &'static str, way_out: &str) -> Option<Value<'t>> {
        let value = self.take(key);
        if value.is_none() {
            self.place.missing(key, way_out);
        }
        value
    }

    /// Accepts a key only to report that it does not belong here.
    pub(super) fn refuse(&mut self, key: &'static str, why: &str) {
        self.known.push(key);
        if let Some((name, _)) = self.table.get_key_value(key) {
            self.place.member(key, &name.span()).problem(why);
        }
    }

    pub(super) fn section(&mut self, key: &'static str) -> Option<Section<'t>> {
        self.take(key)?.section()
    }

    /// The elements of a list; none when the key is absent.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<Value<'t>> {
        self.take(key).and_then(|value| value.list()).unwrap_or_default()
    }

    /// The tables of a list of tables, which `[[key]]` writes too; none when the key is absent.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Section<'t>> {
        self.take(key).map(|value| value.tables()).unwrap_or_default()
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key).and_then(|value| value.boolean()).unwrap_or(default)
    }

    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<u64>,
    ) -> Option<T> {
        self.take(key)?.number(range)
    }

    /// A duration of 1 to 3600 seconds.
    pub(super) fn seconds(&mut self, key: &'static str, default: u64) -> Duration {
        Duration::from_secs(self.number(key, &(1..=3600)).unwrap_or(default))
    }

    pub(super) fn word<T: Copy>(&mut self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        self.take(key)?.word(words)
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self) {
        for (name, _) in self.table {
            let key: &str = name.get_ref();
            if !self.known.contains(&key) {
                let advice = advice(key, self.known.iter().copied(), "keys");
                self.place.member(key, &name.span()).problem(format!("unknown key; {advice}"));
            }
        }
    }

    /// All members of a table whose keys are free names, in the order of the file: the name, where the name is, and
    /// the value.
    pub(super) fn entries(&self) -> Vec<(&'t str, Place<'t>, Value<'t>)> {
        let mut entries: Vec<_> = self.table.iter().collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let entry = |(name, value): (&'t Spanned<_>, &'t Spanned<DeValue<'t>>)| {
            let text: &'t std::borrow::Cow<'t, str> = name.get_ref();
            let place = self.place.member(text, &name.span());
            let value = Value::new(place.at(&value.span()), value);
            (text.as_ref(), place, value)
        };
        entries.into_iter().map(entry).collect()
    }
}

/// Overwrites the strings that the parser copied out of the text, since some of them are secrets.
pub(super) fn wipe(table: &mut DeTable<'_>) {
    for (_, value) in table.iter_mut() {
        wipe_value(value.get_mut());
    }
}

pub(super) fn wipe_value(value: &mut DeValue<'_>) {
    match value {
        DeValue::String(std::borrow::Cow::Owned(text)) => text.zeroize(),
        DeValue::Array(array) => array.iter_mut().for_each(|element| wipe_value(element.get_mut())),
        DeValue::Table(table) => wipe(table),
        _ => {}
    }
}
