//! Line charts, coloured by the page's style sheet.

use super::{escape, push};

/// Size of a chart, in SVG units, and its margins: left, top, right, bottom.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 280.0;
const MARGIN: [f64; 4] = [64.0, 28.0, 16.0, 44.0];
/// Grid lines wanted per axis.
const TICKS: usize = 5;

/// One line of a chart.
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// x and y of its points, from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart with linear axes from 0 on y, or a logarithmic y axis.
pub struct Chart<'a> {
    /// What the x axis shows, with its unit.
    pub x: &'a str,
    /// What the y axis shows, with its unit.
    pub y: &'a str,
    /// The y axis is logarithmic, from the power of ten below the lowest value on.
    pub log_y: bool,
    /// Labels of the x axis in place of numbers: (position, text).
    pub x_labels: Vec<(f64, String)>,
    /// The lines; at most six are told apart by colour.
    pub series: Vec<Series>,
}

struct Axis {
    from: f64,
    to: f64,
    log: bool,
}

impl Axis {
    fn share(&self, value: f64) -> f64 {
        let (from, to, value) = if self.log {
            (self.from.log10(), self.to.log10(), value.max(self.from).log10())
        } else {
            (self.from, self.to, value)
        };
        if to > from { ((value - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 }
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (from, to) = (self.from.log10().round() as i32, self.to.log10().round() as i32);
            return (from..=to).map(|power| 10f64.powi(power)).collect();
        }
        let step = nice_step((self.to - self.from) / TICKS as f64);
        let first = (self.from / step).ceil() as i64;
        (first..)
            .map(|n| n as f64 * step)
            .take_while(|value| *value <= self.to * 1.000_001)
            .take(20)
            .collect()
    }
}

/// The next of 1, 2, 5 times a power of ten.
fn nice_step(raw: f64) -> f64 {
    if !raw.is_finite() || raw <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| raw / power <= *factor).unwrap_or(10.0);
    factor * power
}

/// The chart as an `<svg>` element with a legend.
pub fn render(chart: &Chart<'_>) -> String {
    let points = || chart.series.iter().flat_map(|series| &series.points);
    let (x_axis, y_axis) = axes(chart, &points().copied().collect::<Vec<_>>());
    let mut out =
        format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#, escape(chart.y));
    draw_grid(&mut out, chart, &x_axis, &y_axis);
    for (index, series) in chart.series.iter().enumerate() {
        draw_series(&mut out, index % 6, series, &x_axis, &y_axis);
    }
    draw_legend(&mut out, chart);
    out.push_str("</svg>");
    out
}

fn axes(chart: &Chart<'_>, points: &[(f64, f64)]) -> (Axis, Axis) {
    let bound = |pick: fn(&(f64, f64)) -> f64, start: f64, fold: fn(f64, f64) -> f64| {
        points.iter().map(pick).filter(|value| value.is_finite()).fold(start, fold)
    };
    let (x_from, x_to) = (bound(|p| p.0, f64::MAX, f64::min), bound(|p| p.0, f64::MIN, f64::max));
    let y_top = bound(|p| p.1, 0.0, f64::max);
    let x_axis = if x_from > x_to {
        Axis { from: 0.0, to: 1.0, log: false }
    } else {
        Axis { from: x_from, to: x_to, log: false }
    };
    let y_axis = if chart.log_y {
        let lowest = points.iter().map(|p| p.1).filter(|y| *y > 0.0).fold(f64::MAX, f64::min);
        let from = if lowest == f64::MAX { 1.0 } else { 10f64.powf(lowest.log10().floor()) };
        Axis { from, to: 10f64.powf(y_top.max(from * 10.0).log10().ceil()), log: true }
    } else {
        let step = nice_step(y_top / TICKS as f64);
        Axis { from: 0.0, to: ((y_top / step).ceil() * step).max(step), log: false }
    };
    (x_axis, y_axis)
}

fn place(x_axis: &Axis, y_axis: &Axis, (x, y): (f64, f64)) -> (f64, f64) {
    let [left, top, right, bottom] = MARGIN;
    (
        left + x_axis.share(x) * (WIDTH - left - right),
        HEIGHT - bottom - y_axis.share(y) * (HEIGHT - top - bottom),
    )
}

fn draw_grid(out: &mut String, chart: &Chart<'_>, x_axis: &Axis, y_axis: &Axis) {
    let [left, top, right, bottom] = MARGIN;
    let base = HEIGHT - bottom;
    for value in y_axis.ticks() {
        let (_, y) = place(x_axis, y_axis, (x_axis.from, value));
        push(out, format_args!(r#"<path class="grid" d="M{left} {y:.1}H{}"/>"#, WIDTH - right));
        push(
            out,
            format_args!(
                r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#,
                left - 6.0,
                y + 4.0,
                number(value)
            ),
        );
    }
    let labels: Vec<(f64, String)> = if chart.x_labels.is_empty() {
        x_axis.ticks().into_iter().map(|value| (value, number(value))).collect()
    } else {
        chart.x_labels.clone()
    };
    for (value, label) in labels {
        let (x, _) = place(x_axis, y_axis, (value, 0.0));
        push(out, format_args!(r#"<path class="grid" d="M{x:.1} {top}V{base}"/>"#));
        push(
            out,
            format_args!(
                r#"<text x="{x:.1}" y="{}" text-anchor="middle">{}</text>"#,
                base + 16.0,
                escape(&label)
            ),
        );
    }
    let middle = left + (WIDTH - left - right) / 2.0;
    push(
        out,
        format_args!(
            r#"<text class="axis" x="{middle}" y="{}" text-anchor="middle">{}</text>"#,
            HEIGHT - 6.0,
            escape(chart.x)
        ),
    );
    push(out, format_args!(r#"<text class="axis" x="4" y="14">{}</text>"#, escape(chart.y)));
}

fn draw_series(out: &mut String, colour: usize, series: &Series, x_axis: &Axis, y_axis: &Axis) {
    let mut path = String::new();
    let finite = series.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
    for (index, &point) in finite.clone().enumerate() {
        let (x, y) = place(x_axis, y_axis, point);
        push(&mut path, format_args!("{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" }));
    }
    push(out, format_args!(r#"<path class="line c{colour}" d="{path}"/>"#));
    /// More points than this are a curve, and need no marks.
    const MARKS: usize = 40;
    if series.points.len() <= MARKS {
        for &point in finite {
            let (x, y) = place(x_axis, y_axis, point);
            let (a, b) = (number(point.0), number(point.1));
            push(
                out,
                format_args!(
                    r#"<circle class="mark c{colour}" cx="{x:.1}" cy="{y:.1}" r="3"><title>{a}: {b}</title></circle>"#
                ),
            );
        }
    }
}

fn draw_legend(out: &mut String, chart: &Chart<'_>) {
    /// Width of a letter, roughly.
    const LETTER: f64 = 6.5;
    let mut x = WIDTH - MARGIN[2];
    for (index, series) in chart.series.iter().enumerate().rev() {
        x -= series.name.chars().count() as f64 * LETTER + 24.0;
        push(out, format_args!(r#"<path class="line c{}" d="M{x:.1} 10h14"/>"#, index % 6));
        push(out, format_args!(r#"<text x="{:.1}" y="14">{}</text>"#, x + 18.0, escape(&series.name)));
    }
}

/// A number without needless digits.
fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{scaled:.4}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, log_y: bool) -> String {
        let series = vec![Series { name: "a<b".into(), points }];
        render(&Chart { x: "x", y: "y", log_y, x_labels: Vec::new(), series })
    }

    #[test]
    fn steps_are_round_numbers() {
        assert_eq!([0.3, 7.0, 12.0, 0.0].map(nice_step), [0.5, 10.0, 20.0, 1.0]);
        assert_eq!([0.05, 1200.0, 250_000.0, 3e6].map(number), ["0.05", "1200", "250k", "3M"]);
    }

    #[test]
    fn odd_data_gives_finite_coordinates() {
        for points in [vec![], vec![(1.0, 0.0)], vec![(0.0, f64::NAN), (1.0, f64::INFINITY), (2.0, 3.0)]] {
            for log_y in [false, true] {
                let svg = chart(points.clone(), log_y);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn names_are_escaped() {
        assert!(chart(vec![(0.0, 1.0), (1.0, 2.0)], false).contains("a&lt;b"));
    }
}
