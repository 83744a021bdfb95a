//! Horizontal bars in groups, with a style of their own: readable on light and dark pages.

use super::{escape, push};

/// Bars that stand together.
pub struct Group {
    /// Their common name.
    pub name: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

/// A bar with its spread.
pub struct Bar {
    /// Index of its name in the legend.
    pub series: usize,
    /// The bar's length, in the chart's unit.
    pub value: f64,
    /// Where the spread begins.
    pub from: f64,
    /// The spread's end, in the chart's unit.
    pub to: f64,
}

const WIDTH: f64 = 760.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 58.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
/// Colours of the series; neighbours differ in lightness, too. The rest are grey.
const COLOURS: [&str; 6] = ["#2f7ed8", "#1aa37a", "#8f5bd6", "#e08a1e", "#c9483b", "#7a8290"];

/// The style that goes with it.
pub const STYLE: &str = "svg{font:13px system-ui,sans-serif}svg text{fill:#24292f}svg .quiet{fill:#57606a}svg .rule{stroke:#d0d7de}svg .spread{stroke:#24292f;stroke-width:1.5}\
@media(prefers-color-scheme:dark){svg text{fill:#e6edf3}svg .quiet{fill:#9aa4af}svg .rule{stroke:#3d444d}svg .spread{stroke:#e6edf3}}";

/// Draws the groups; `series` are the names in the legend.
pub fn render(title: &str, series: &[String], groups: &[Group]) -> String {
    let bars = groups.iter().map(|group| group.bars.len()).sum::<usize>() as f64;
    let height = TOP + bars * BAR + groups.len() as f64 * GAP + 8.0;
    let longest =
        groups.iter().flat_map(|group| &group.bars).map(|bar| bar.to.max(bar.value)).fold(0.0, f64::max);
    let scale = if longest > 0.0 { (WIDTH - LEFT - RIGHT) / longest } else { 0.0 };
    let mut out = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}"><style>{STYLE}</style><text x="0" y="16" font-weight="600">{title}</text>"#,
        title = escape(title)
    );
    legend(&mut out, series, groups);
    push(
        &mut out,
        format_args!(r#"<line class="rule" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{}"/>"#, height - 8.0),
    );
    let mut y = TOP + GAP / 2.0;
    for group in groups {
        let middle = y + group.bars.len() as f64 * BAR / 2.0 + 4.0;
        push(
            &mut out,
            format_args!(
                r#"<text x="{}" y="{middle:.1}" text-anchor="end">{}</text>"#,
                LEFT - 8.0,
                escape(&group.name)
            ),
        );
        for bar in &group.bars {
            draw(&mut out, bar, y, scale);
            y += BAR;
        }
        y += GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, bar: &Bar, y: f64, scale: f64) {
    let x = |value: f64| LEFT + value.max(0.0) * scale;
    let (middle, end) = (y + BAR / 2.0, x(bar.value));
    push(
        out,
        format_args!(
            r#"<rect x="{LEFT}" y="{:.1}" width="{:.1}" height="{:.1}" rx="2" fill="{}"/>"#,
            y + 1.5,
            end - LEFT,
            BAR - 3.0,
            colour(bar.series)
        ),
    );
    if bar.to > bar.from {
        let (from, to) = (x(bar.from), x(bar.to));
        push(
            out,
            format_args!(
                r#"<line class="spread" x1="{from:.1}" y1="{middle:.1}" x2="{to:.1}" y2="{middle:.1}"/>"#
            ),
        );
    }
    let label = x(bar.to.max(bar.value)) + 6.0;
    push(
        out,
        format_args!(
            r#"<text class="quiet" x="{label:.1}" y="{:.1}" font-size="12">{}</text>"#,
            middle + 4.0,
            number(bar.value)
        ),
    );
}

fn legend(out: &mut String, series: &[String], groups: &[Group]) {
    let mut x = 0.0;
    for (index, name) in series.iter().enumerate() {
        if groups.iter().all(|group| group.bars.iter().all(|bar| bar.series != index)) {
            continue;
        }
        push(
            out,
            format_args!(
                r#"<rect x="{x:.0}" y="30" width="11" height="11" rx="2" fill="{}"/><text x="{:.0}" y="40">{}</text>"#,
                colour(index),
                x + 16.0,
                escape(name)
            ),
        );
        // Letters are about 7.5 units wide at this size.
        x += 34.0 + 7.5 * name.chars().count() as f64;
    }
}

fn colour(series: usize) -> &'static str {
    COLOURS[series.min(COLOURS.len() - 1)]
}

/// As many digits as say something.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_or_spread_fits() {
        let bar = |value, to| Bar { series: 0, value, from: value, to };
        let group = Group { name: "a".into(), bars: vec![bar(10.0, 10.0), bar(50.0, 100.0)] };
        let svg = render("t", &["one".into()], &[group]);
        let end = format!(r#"x2="{:.1}""#, WIDTH - RIGHT);
        assert!(svg.contains(&end), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 3, "a square in the legend and two bars");
    }

    #[test]
    fn names_cannot_break_out_of_the_picture() {
        let svg = render("<a>", &["\"b\"".into()], &[Group { name: "&".into(), bars: vec![] }]);
        assert!(!svg.contains("<a>") && svg.contains("&lt;a&gt;") && svg.contains(">&amp;<"));
    }

    #[test]
    fn nothing_measured_is_no_division_by_zero() {
        let bar = Bar { series: 9, value: 0.0, from: 0.0, to: 0.0 };
        let svg = render("t", &["x".into()], &[Group { name: "a".into(), bars: vec![bar] }]);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
