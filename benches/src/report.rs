//! Figures, what is promised of them, and how both are told.

use serde::Serialize;
use std::fmt::Write as _;

/// A promise is missed if it is missed by more than this.
const NOISE: f64 = 1.10;

/// What a figure has to come to.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Nothing; it is there to be read.
    None,
    /// A bound for the ratio to the baseline.
    RatioAtMost(f64),
    /// See [`Promise::RatioAtMost`].
    RatioAtLeast(f64),
    /// A bound for the figure itself.
    AtMost(f64),
    /// A bound that no noise excuses.
    Exactly(f64),
}

/// One line of the report.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// What it is counted in.
    pub unit: &'static str,
    /// The median.
    pub value: f64,
    /// What it is held against, and its median.
    pub baseline: Option<(String, f64)>,
    /// Lower quartile, median and upper quartile of the ratios of each round.
    pub ratio: Option<[f64; 3]>,
    /// What is promised of it.
    pub promise: Promise,
    /// Whether that is kept.
    pub held: bool,
}

/// All of them.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order of their measurement.
    pub figures: Vec<Figure>,
    /// Parts that were left out, and why.
    pub skipped: Vec<String>,
}

impl Report {
    /// A figure by itself.
    pub fn single(&mut self, name: &str, unit: &'static str, values: &[f64], promise: Promise) {
        self.add(name, unit, values, None, promise);
    }

    /// A figure beside its baseline, measured in the same rounds.
    pub fn pair(
        &mut self,
        name: &str,
        unit: &'static str,
        values: &[f64],
        baseline: (&str, &[f64]),
        promise: Promise,
    ) {
        self.add(name, unit, values, Some(baseline), promise);
    }

    fn add(
        &mut self,
        name: &str,
        unit: &'static str,
        values: &[f64],
        baseline: Option<(&str, &[f64])>,
        promise: Promise,
    ) {
        let value = quartiles(values)[1];
        let ratio = baseline.map(|(_, others)| {
            let ratios: Vec<f64> = values.iter().zip(others).map(|(value, other)| value / other).collect();
            quartiles(&ratios)
        });
        let middle = ratio.map_or(f64::NAN, |ratio| ratio[1]);
        let held = match promise {
            Promise::None => true,
            Promise::RatioAtMost(bound) => middle <= bound * NOISE,
            Promise::RatioAtLeast(bound) => middle >= bound / NOISE,
            Promise::AtMost(bound) => value <= bound * NOISE,
            Promise::Exactly(bound) => value <= bound,
        };
        let baseline = baseline.map(|(name, values)| (name.to_owned(), quartiles(values)[1]));
        self.figures.push(Figure { name: name.to_owned(), unit, value, baseline, ratio, promise, held });
    }

    /// Whether every promise is kept.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.figures.iter().all(|figure| figure.held)
    }

    /// As a table, with what is promised where that is judged.
    #[must_use]
    pub fn table(&self, judged: bool) -> String {
        let mut table = String::new();
        let mut line = |cells: [&str; 5]| {
            let [name, value, baseline, ratio, promise] = cells;
            let _to_memory = writeln!(table, "{name:<58} {value:>14}  {baseline:<40} {ratio:<20} {promise}");
        };
        line(["figure (medians)", "", "baseline", "ratio (quartiles)", "promise"]);
        for figure in &self.figures {
            let value = format!("{:.1} {}", figure.value, figure.unit);
            let baseline = figure.baseline.as_ref();
            let baseline = baseline.map_or_else(String::new, |(name, value)| format!("{value:.1} {name}"));
            let ratio = figure.ratio;
            let ratio = ratio
                .map_or_else(String::new, |[low, middle, high]| format!("{middle:.3} ({low:.3}-{high:.3})"));
            let promise = match figure.promise {
                Promise::None => String::new(),
                Promise::RatioAtMost(bound) => format!("ratio <= {bound}"),
                Promise::RatioAtLeast(bound) => format!("ratio >= {bound}"),
                Promise::AtMost(bound) | Promise::Exactly(bound) => format!("<= {bound}"),
            };
            let promise = match (figure.promise, figure.held) {
                (Promise::None, _) => promise,
                _ if !judged => promise,
                (_, true) => promise + ": held",
                (_, false) => promise + ": MISSED",
            };
            line([&figure.name, &value, &baseline, &ratio, &promise]);
        }
        for skipped in &self.skipped {
            let _to_memory = writeln!(table, "skipped: {skipped}");
        }
        table
    }
}

/// Lower quartile, median and upper quartile.
#[must_use]
pub fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    [1, 2, 3].map(|quarter| sorted.get(last * quarter / 4).copied().unwrap_or(f64::NAN))
}
