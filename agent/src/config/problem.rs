//! What is wrong with a configuration, and where.

use super::layers::Layer;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Something in a configuration file that has to change, or that may not be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file, as it was named by the caller.
    pub file: Arc<Path>,
    /// Line and column, both counted from 1, the column in characters; `None` when the file as a whole is meant.
    pub at: Option<(usize, usize)>,
    /// The dotted key, such as `route[0].check`; empty when no single key is meant.
    pub key: String,
    /// What is wrong and the way out, on one line.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Everything that is wrong with a configuration file, in the order of the file. Displayed as one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// A problem of the file as a whole.
    pub(super) fn of_file(file: &Path, text: String) -> Self {
        Self(vec![Problem { file: file.into(), at: None, key: String::new(), text }])
    }

    /// The problems one by one; there is at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Collects problems and warnings while texts are read. Shared by reference, so that every value can report for itself.
pub(super) struct Report {
    problems: RefCell<Vec<Found>>,
    warnings: RefCell<Vec<Found>>,
}

/// A problem whose offset has not become a line and column yet.
struct Found {
    offset: usize,
    key: String,
    text: String,
}

impl Report {
    pub(super) fn new() -> Self {
        Self { problems: RefCell::default(), warnings: RefCell::default() }
    }

    pub(super) fn problem(&self, offset: usize, key: &str, text: String) {
        self.problems.borrow_mut().push(Found { offset, key: key.to_owned(), text });
    }

    pub(super) fn warn(&self, offset: usize, key: &str, text: String) {
        self.warnings.borrow_mut().push(Found { offset, key: key.to_owned(), text });
    }

    /// The warnings, or the problems if there is one. `layers` are what was read.
    pub(super) fn finish(self, layers: &[Layer<'_>]) -> Result<Vec<Problem>, Problems> {
        let Self { problems, warnings } = self;
        let texts = Text::all(layers);
        let placed = |mut found: Vec<Found>| -> Vec<Problem> {
            // Stable: what is reported about one place stays in the order of the checks.
            found.sort_by_key(|found| found.offset);
            let problem = |found: Found| {
                let after = texts.partition_point(|text| text.start <= found.offset);
                let text = &texts[after.saturating_sub(1)];
                Problem {
                    file: text.file.clone(),
                    at: Some(text.position(found.offset.saturating_sub(text.start))),
                    key: found.key,
                    text: one_line(found.text),
                }
            };
            found.into_iter().map(problem).collect()
        };
        let problems = placed(problems.into_inner());
        if problems.is_empty() { Ok(placed(warnings.into_inner())) } else { Err(Problems(problems)) }
    }

    /// The problems of a text that does not parse: one per line, because the others of a line follow from the first.
    pub(super) fn finish_syntax(self, layers: &[Layer<'_>]) -> Problems {
        let mut problems = match self.finish(layers) {
            Err(Problems(problems)) => problems,
            Ok(_) => {
                let file = layers.first().map_or(Path::new(""), |layer| layer.name);
                return Problems::of_file(file, "is not TOML".into());
            }
        };
        problems.dedup_by_key(|problem| (problem.file.clone(), problem.at.map(|(line, _)| line)));
        Problems(problems)
    }
}

/// One of the texts that a configuration is made of, to find lines in.
struct Text<'t> {
    file: Arc<Path>,
    text: &'t str,
    /// Its first byte, counted through all texts.
    start: usize,
    /// Bytes of the text at which lines start.
    lines: Vec<usize>,
}

impl<'t> Text<'t> {
    /// All of them in order; there is at least one.
    fn all(layers: &[Layer<'t>]) -> Vec<Self> {
        let none = [Layer { name: Path::new(""), text: "" }];
        let layers = if layers.is_empty() { &none } else { layers };
        let mut start = 0;
        let text = |layer: &Layer<'t>| {
            let newlines = layer.text.bytes().enumerate().filter(|&(_, b)| b == b'\n').map(|(at, _)| at + 1);
            let lines = std::iter::once(0).chain(newlines).collect();
            let text = Self { file: layer.name.into(), text: layer.text, start, lines };
            // One more, so that the end of a text is not the start of the next.
            start += layer.text.len() + 1;
            text
        };
        layers.iter().map(text).collect()
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|&start| start <= offset).max(1);
        let start = self.lines.get(line - 1).copied().unwrap_or(0);
        let before = self.text.as_bytes().get(start..offset.min(self.text.len())).unwrap_or_default();
        (line, String::from_utf8_lossy(before).chars().count() + 1)
    }
}

/// A spot in the file, its dotted key, and the report to tell about it.
#[derive(Clone)]
pub(super) struct Place<'t> {
    report: &'t Report,
    offset: usize,
    /// The dotted key.
    pub(super) key: String,
}

impl<'t> Place<'t> {
    pub(super) fn new(report: &'t Report, span: &Range<usize>, key: String) -> Self {
        Self { report, offset: span.start, key }
    }

    /// The same report and key at another spot.
    pub(super) fn at(&self, span: &Range<usize>) -> Self {
        Self { offset: span.start, ..self.clone() }
    }

    /// A member of this table, at `span`.
    pub(super) fn member(&self, name: &str, span: &Range<usize>) -> Self {
        let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let name = if bare { name.to_owned() } else { shown(name) };
        let key = if self.key.is_empty() { name } else { format!("{}.{name}", self.key) };
        Self { key, ..self.at(span) }
    }

    /// An element of this list, at `span`.
    pub(super) fn element(&self, index: usize, span: &Range<usize>) -> Self {
        Self { key: format!("{}[{index}]", self.key), ..self.at(span) }
    }

    pub(super) fn problem(&self, text: impl Into<String>) {
        self.report.problem(self.offset, &self.key, text.into());
    }

    pub(super) fn warn(&self, text: impl Into<String>) {
        self.report.warn(self.offset, &self.key, text.into());
    }

    /// A problem with a member that this table lacks.
    pub(super) fn missing(&self, name: &str, way_out: &str) {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) };
        self.report.problem(self.offset, &key, format!("is missing; {way_out}"));
    }
}

/// `text` in quotes, without control characters and not too long for a message.
pub(super) fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    let cut: String = text.chars().take(LONGEST).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}

/// The advice after an unknown word: the nearest known one, or all of them. `what` names them in the plural.
pub(super) fn advice<'k>(given: &str, known: impl IntoIterator<Item = &'k str>, what: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(near) = nearest(given, &known) {
        return format!("did you mean {}?", shown(near));
    }
    format!("known {what}: {}", known.join(", "))
}

/// The known word that `given` probably stands for: at most a third of the longer word differs.
fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    const LONGEST: usize = 128;
    if given.len() > LONGEST {
        return None;
    }
    let given = given.to_lowercase();
    let scored = known.iter().filter_map(|&word| {
        let distance = strsim::osa_distance(&given, &word.to_lowercase());
        let length = given.chars().count().max(word.chars().count());
        (distance <= length / 3).then_some((distance, word))
    });
    scored.min().map(|(_, word)| word)
}

/// Messages of other crates may draw over several lines.
fn one_line(text: String) -> String {
    if text.contains(char::is_control) {
        text.split(char::is_control)
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; ")
    } else {
        text
    }
}
