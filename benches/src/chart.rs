//! Charts as SVG: bars for subjects side by side, and lines for what grows with the work.

use plotters::coord::ranged1d::{AsRangedCoord, SegmentValue, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// Size of a chart, in pixels.
const WIDTH: u32 = 960;
const HEIGHT: u32 = 480;
const BAR: u32 = 34;
const HEADER: u32 = 120;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xe4, 0xe4, 0xe4);
const OURS: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const OTHERS: RGBColor = RGBColor(0xa8, 0xb0, 0xb8);

/// Colours that people tell apart who see few (Okabe and Ito), and paper keeps apart.
const COLOURS: [RGBColor; 7] = [
    OURS,
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    INK,
];

/// What stands above a chart.
#[derive(Debug, Clone, Copy)]
pub struct Heading<'a> {
    /// What it shows, with the unit.
    pub title: &'a str,
    /// When and where it was measured.
    pub subtitle: &'a str,
}

/// A bar of [`bars`].
#[derive(Debug, Clone)]
pub struct Bar {
    /// Whose it is.
    pub name: String,
    /// Its length.
    pub value: f64,
    /// Quartiles of it.
    pub spread: Option<[f64; 2]>,
    /// Whether it is edgegate's.
    pub ours: bool,
}

/// An axis of [`lines`].
#[derive(Debug, Clone, Copy)]
pub struct Axis<'a> {
    /// What it counts, and in what.
    pub label: &'a str,
    /// Whether equal steps are equal factors. Values then have to be above 0.
    pub logarithmic: bool,
}

/// A line of [`lines`].
#[derive(Debug, Clone)]
pub struct Series {
    /// Whose it is.
    pub name: String,
    /// Work and cost, in the order of the work.
    pub points: Vec<(f64, f64)>,
}

/// Horizontal bars, the first one on top.
#[must_use]
pub fn bars(heading: Heading<'_>, bars: &[Bar]) -> String {
    let count = i32::try_from(bars.len()).unwrap_or(i32::MAX);
    let height = HEADER + BAR * u32::try_from(bars.len()).unwrap_or(1);
    let longest = bars.iter().map(|bar| bar.spread.map_or(bar.value, |[_, high]| high.max(bar.value)));
    // Room for the number behind the longest one.
    let end = longest.fold(f64::MIN_POSITIVE, f64::max) * 1.12;
    let letters = bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
    draw(heading, height, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .margin_right(24)
            .x_label_area_size(32)
            .y_label_area_size(u32::try_from(letters).unwrap_or(40) * 15 / 2 + 16)
            .build_cartesian_2d(0.0..end, (0..(count - 1).max(0)).into_segmented())?;
        let at = |row: i32| count - 1 - row;
        let name = |value: &SegmentValue<i32>| match value {
            SegmentValue::CenterOf(row) => {
                let row = usize::try_from(at(*row)).ok();
                row.and_then(|row| bars.get(row)).map_or_else(String::new, |bar| bar.name.clone())
            }
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&name)
            .y_labels(bars.len() + 1)
            .label_style((FONT, 14, &INK))
            .draw()?;
        let style = (FONT, 13, &INK).into_text_style(area).pos(Pos::new(HPos::Left, VPos::Center));
        for (row, bar) in (0..).zip(bars) {
            let colour = if bar.ours { OURS } else { OTHERS };
            let row = at(row);
            let mut body = Rectangle::new(
                [(0.0, SegmentValue::Exact(row)), (bar.value, SegmentValue::Exact(row + 1))],
                colour.filled(),
            );
            body.set_margin(6, 6, 0, 0);
            chart.draw_series([body])?;
            let middle = SegmentValue::CenterOf(row);
            let mut tip = bar.value;
            if let Some([low, high]) = bar.spread {
                chart.draw_series([PathElement::new(
                    vec![(low, middle.clone()), (high, middle.clone())],
                    INK.stroke_width(2),
                )])?;
                tip = tip.max(high);
            }
            let number = EmptyElement::at((tip, middle)) + Text::new(short(bar.value), (7, 0), style.clone());
            chart.draw_series([number])?;
        }
        Ok(())
    })
}

/// Lines with a mark at each point, several in one picture.
#[must_use]
pub fn lines(heading: Heading<'_>, x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> String {
    let values = |pick: fn(&(f64, f64)) -> f64| series.iter().flat_map(|s| &s.points).map(pick);
    let (across, up) = (range(x, values(|point| point.0)), range(y, values(|point| point.1)));
    draw(heading, HEIGHT, |area| match (x.logarithmic, y.logarithmic) {
        (false, false) => plot(area, [x, y], across, up, series),
        (false, true) => plot(area, [x, y], across, up.log_scale(), series),
        (true, false) => plot(area, [x, y], across.log_scale(), up, series),
        (true, true) => plot(area, [x, y], across.log_scale(), up.log_scale(), series),
    })
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn plot<X, Y>(area: &Area<'_>, [x, y]: [Axis<'_>; 2], across: X, up: Y, series: &[Series]) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(24)
        .x_label_area_size(46)
        .y_label_area_size(76)
        .build_cartesian_2d(across, up)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_desc(x.label)
        .y_desc(y.label)
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .label_style((FONT, 14, &INK))
        .draw()?;
    for (index, line) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = || line.points.iter().copied();
        chart
            .draw_series(LineSeries::new(points(), colour.stroke_width(2)))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        chart.draw_series(points().map(|point| Circle::new(point, 4, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font((FONT, 14, &INK))
        .draw()
}

/// What an axis goes from and to.
fn range(axis: Axis<'_>, values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let values = values.filter(|value| value.is_finite() && (!axis.logarithmic || *value > 0.0));
    let (low, high) = values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match (axis.logarithmic, low <= high) {
        (true, true) => low / 1.25..high * 1.25,
        (false, true) => low.min(0.0)..if high > 0.0 { high * 1.15 } else { 1.0 },
        (true, false) => 1.0..10.0,
        (false, false) => 0.0..1.0,
    }
}

/// Draws a chart under its heading, into memory.
fn draw(heading: Heading<'_>, height: u32, chart: impl FnOnce(&Area<'_>) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        let drawn = (|| {
            root.fill(&WHITE)?;
            let below = root.titled(heading.title, (FONT, 20).into_font().color(&INK))?;
            let below = below.titled(heading.subtitle, (FONT, 13).into_font().color(&INK))?;
            chart(&below)?;
            root.present()
        })();
        drawn.expect("a chart in memory");
    }
    svg
}

/// A number with three digits that count: `74.1k`, `0.25`, `5`.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 9_995.0 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.0995 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::{Axis, Bar, Heading, Series, bars, lines, short};

    const HEADING: Heading<'_> = Heading { title: "Requests & seconds", subtitle: "a day, a machine" };

    #[test]
    fn numbers() {
        for (value, text) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (1.0, "1"),
            (100.0, "100"),
            (5_000.0, "5000"),
            (74_123.0, "74.1k"),
            (100_000.0, "100k"),
            (1_500_000.0, "1.5M"),
            (0.0123, "0.0123"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn every_subject_has_its_bar() {
        let bar =
            |name: &str, value, ours| Bar { name: name.into(), value, spread: Some([value, value]), ours };
        let svg = bars(HEADING, &[bar("gateway", 60_000.0, true), bar("<other>", 40_000.0, false)]);
        for text in ["<svg", "gateway", "60k", "&lt;other&gt;", "40k", "a day, a machine"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        let _nothing_to_show = bars(HEADING, &[]);
    }

    #[test]
    fn every_series_has_its_line() {
        let series = |name: &str| Series { name: name.into(), points: vec![(1.0, 2.0), (5_000.0, 40.0)] };
        for (across, up) in [(false, false), (false, true), (true, false), (true, true)] {
            let (x, y) =
                (Axis { label: "work", logarithmic: across }, Axis { label: "cost", logarithmic: up });
            let svg = lines(HEADING, x, y, &[series("one"), series("two")]);
            for text in ["work", "cost", "one", "two", "<polyline"] {
                assert!(svg.contains(text), "{text} is not in {svg}");
            }
            let _nothing_to_show = lines(HEADING, x, y, &[]);
        }
    }
}
