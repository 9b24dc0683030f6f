//! Charts as SVG, written by hand: logarithmic axes, each line labelled where it ends, a legend,
//! readable on light and dark pages.
//!
//! Contract: well-formed XML without scripts, fonts or references; text is escaped; the picture is
//! wide enough for its labels; what cannot be on a logarithmic axis (zero, nothing measured) is
//! left out.

use std::fmt::Write;

const LEAST_WIDTH: f64 = 860.0;
/// Where the lines of a chart of lines begin and end.
const LEFT: f64 = 75.0;
const RIGHT: f64 = 675.0;
const COLOURS: [&str; 9] = [
    "#e4572e", "#4c78a8", "#72a8d8", "#59a14f", "#b07aa1", "#9c755f", "#d4a017", "#499894",
    "#8f8f8f",
];
const STYLE: &str = "text{font:12px \
    sans-serif;fill:#3a3a3a}.t{font-size:15px;font-weight:bold}.a{stroke:#999}\
.g{stroke:#9996;stroke-width:.5}.s{font-size:11px;fill:#777}\
@media(prefers-color-scheme:dark){text{fill:#ddd}.s{fill:#aaa}}";

/// Of what stands for any colour.
const GREY: &str = "#888";
/// The marks of a range, and the radius of each dot.
const MARKS: [(&str, f64); 4] = [("p50", 5.0), ("p99", 4.0), ("p99.9", 3.0), ("most", 2.0)];

/// One point of a line: median, and the least and most of the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Its x value.
    pub x: f64,
    /// Median.
    pub y: f64,
    /// Least.
    pub least: f64,
    /// Most.
    pub most: f64,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    /// The label at its end.
    pub name: String,
    /// Its points, by x.
    pub points: Vec<Point>,
    /// Drawn thicker: a line of ringweir.
    pub strong: bool,
}

/// One pair of axes.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The heading above it.
    pub title: String,
    /// Its lines.
    pub series: Vec<Series>,
}

/// What the axes mean and how their numbers are written.
#[derive(Clone, Copy)]
pub struct Axes {
    /// The label below.
    pub x: &'static str,
    /// The label above, after the panel's title.
    pub y: &'static str,
    /// The text of a number below.
    pub x_text: fn(f64) -> String,
    /// The text of a number at the side.
    pub y_text: fn(f64) -> String,
}

/// A row of a chart of ranges: p50, p99, p99.9 and most.
#[derive(Clone, Debug)]
pub struct Row {
    /// The label at its side.
    pub label: String,
    /// A row of ringweir.
    pub strong: bool,
    /// The four figures.
    pub marks: [f64; 4],
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// More than the width of `text`, which depends on the font of the program that shows it.
fn room(text: &str, strong: bool) -> f64 {
    text.chars().count() as f64 * if strong { 8.6 } else { 7.8 }
}

struct Svg {
    text: String,
}

impl Svg {
    fn new(title: &str, width: f64, height: f64) -> Self {
        let width = width.max(LEAST_WIDTH).ceil();
        let title = escape(title);
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
            width=\"{width}\" height=\"{height}\" \
             role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n<text class=\"t\" \
             x=\"10\" y=\"22\">{title}</text>\n"
        );
        Self { text }
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _written = self.text.write_fmt(element);
        self.text.push('\n');
    }

    fn label(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = escape(text);
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" \
            class=\"{class}\">{text}</text>"
        ));
    }

    fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        self.add(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    fn stroke(&mut self, colour: &str, width: f64, [x1, y1, x2, y2]: [f64; 4]) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
            stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        ));
    }

    fn dot(&mut self, colour: &str, radius: f64, [cx, cy]: [f64; 2]) {
        self.add(format_args!(
            "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"{radius}\" fill=\"{colour}\"/>"
        ));
    }

    fn end(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }
}

/// A logarithmic axis from `least` to `most`.
#[derive(Clone, Copy)]
struct Log {
    from: f64,
    to: f64,
    at: f64,
    pixels: f64,
}

impl Log {
    /// Round powers of ten around all values; `None` if there are none.
    fn around(
        values: impl Iterator<Item = f64>,
        at: f64,
        pixels: f64,
        whole: bool,
    ) -> Option<Self> {
        let (mut low, mut high) = (f64::INFINITY, 0f64);
        values
            .filter(|v| *v > 0.0 && v.is_finite())
            .for_each(|v| (low, high) = (low.min(v), high.max(v)));
        if low > high {
            return None;
        }
        let (mut from, mut to) = (low.log10(), high.log10());
        if whole {
            (from, to) = (from.floor(), to.ceil());
        }
        if to - from < 0.1 {
            (from, to) = (from - 0.5, to + 0.5);
        }
        Some(Self { from, to, at, pixels })
    }

    fn place(self, value: f64) -> f64 {
        self.at + (value.log10() - self.from) / (self.to - self.from) * self.pixels
    }

    fn decades(self) -> impl Iterator<Item = f64> {
        (self.from.ceil() as i32..=self.to.floor() as i32).map(|n| 10f64.powi(n))
    }
}

/// Moves labels apart so that none lies on another.
fn spread(labels: &mut [(f64, usize)], least: f64, bottom: f64) {
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    for i in 1..labels.len() {
        labels[i].0 = labels[i].0.max(labels[i - 1].0 + least);
    }
    let over = labels.last().map_or(0.0, |l| l.0 - bottom).max(0.0);
    let mut limit = f64::INFINITY;
    for label in labels.iter_mut().rev() {
        if over > 0.0 {
            label.0 = label.0.min(bottom).min(limit);
            limit = label.0 - least;
        }
    }
}

/// Lines over x, one panel below the other.
pub fn lines(title: &str, axes: Axes, panels: &[Panel]) -> String {
    const TALL: f64 = 250.0;
    const STEP: f64 = TALL + 75.0;
    let longest = panels.iter().flat_map(|p| &p.series).map(|s| room(&s.name, s.strong));
    let width = RIGHT + 30.0 + longest.fold(0.0, f64::max);
    let legend = 52.0 + STEP * panels.len() as f64;
    let mut svg = Svg::new(title, width, legend + 12.0);
    // A contender has the same colour everywhere.
    let mut names: Vec<&str> = Vec::new();
    panels.iter().flat_map(|p| &p.series).for_each(|s| {
        if !names.contains(&s.name.as_str()) {
            names.push(&s.name);
        }
    });
    let colour =
        |name: &str| COLOURS[names.iter().position(|n| *n == name).unwrap_or(0) % COLOURS.len()];
    let points = || panels.iter().flat_map(|p| &p.series).flat_map(|s| &s.points);
    for (n, panel) in panels.iter().enumerate() {
        let top = 62.0 + STEP * n as f64;
        let bottom = top + TALL;
        let (Some(x), Some(y)) = (
            Log::around(points().map(|p| p.x), LEFT, RIGHT - LEFT, false),
            Log::around(points().flat_map(|p| [p.least, p.most]), bottom, -TALL, true),
        ) else {
            continue;
        };
        svg.label(LEFT, top - 12.0, "start", "", &format!("{}: {}", panel.title, axes.y));
        for value in y.decades() {
            svg.line("g", [LEFT, y.place(value), RIGHT, y.place(value)]);
            svg.label(LEFT - 6.0, y.place(value) + 4.0, "end", "", &(axes.y_text)(value));
        }
        let mut marks: Vec<f64> = points().map(|p| p.x).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        for value in marks {
            svg.line("g", [x.place(value), top, x.place(value), bottom]);
            svg.label(x.place(value), bottom + 16.0, "middle", "", &(axes.x_text)(value));
        }
        svg.label((LEFT + RIGHT) / 2.0, bottom + 32.0, "middle", "s", axes.x);
        svg.line("a", [LEFT, bottom, RIGHT, bottom]);
        let mut ends = Vec::new();
        for (i, series) in panel.series.iter().enumerate() {
            let (colour, width) = (colour(&series.name), if series.strong { 3.0 } else { 1.5 });
            let drawn: Vec<_> = series.points.iter().filter(|p| p.y > 0.0).collect();
            let path: Vec<_> =
                drawn.iter().map(|p| format!("{:.1},{:.1}", x.place(p.x), y.place(p.y))).collect();
            let path = path.join(" ");
            svg.add(format_args!(
                "<polyline points=\"{path}\" fill=\"none\" stroke=\"{colour}\" \
                stroke-width=\"{width}\"/>"
            ));
            for point in &drawn {
                let at = [x.place(point.x), y.place(point.y)];
                svg.dot(colour, width, at);
                if point.least > 0.0 && point.most > point.least {
                    let (low, high) = (y.place(point.least), y.place(point.most));
                    svg.stroke(colour, 1.0, [at[0], low, at[0], high]);
                }
            }
            if let Some(last) = drawn.last() {
                ends.push((y.place(last.y) + 4.0, i));
            }
        }
        spread(&mut ends, 13.0, bottom + 4.0);
        for (at, i) in ends {
            let series = &panel.series[i];
            let (name, colour) = (escape(&series.name), colour(&series.name));
            let (weight, width) = if series.strong { ("bold", 3.0) } else { ("normal", 1.5) };
            // A label can be far from the end of its line.
            svg.stroke(colour, width, [RIGHT + 9.0, at - 4.0, RIGHT + 21.0, at - 4.0]);
            let x = RIGHT + 26.0;
            svg.add(format_args!(
                "<text x=\"{x}\" y=\"{at:.1}\" \
                style=\"fill:{colour};font-weight:{weight}\">{name}</text>"
            ));
        }
    }
    svg.dot(GREY, 3.0, [LEFT + 4.0, legend - 4.0]);
    svg.label(LEFT + 14.0, legend, "start", "s", "median of the rounds");
    svg.stroke(GREY, 1.0, [LEFT + 174.0, legend - 10.0, LEFT + 174.0, legend + 2.0]);
    svg.label(LEFT + 184.0, legend, "start", "s", "least to most of the rounds");
    svg.stroke(GREY, 3.0, [LEFT + 370.0, legend - 4.0, LEFT + 382.0, legend - 4.0]);
    svg.label(LEFT + 388.0, legend, "start", "s", "thick: ringweir");
    svg.end()
}

/// Ranges on one axis, one row below the other.
pub fn ranges(title: &str, about: &str, text: fn(f64) -> String, rows: &[Row]) -> String {
    let longest = rows.iter().map(|r| room(&r.label, false)).fold(0.0, f64::max);
    let left = longest.max(230.0) + 20.0;
    let right = left + 580.0;
    let bottom = 60.0 + 24.0 * rows.len() as f64;
    let legend = bottom + 42.0;
    let mut svg = Svg::new(title, right + 30.0, legend + 12.0);
    svg.label(10.0, 42.0, "start", "s", about);
    if let Some(x) =
        Log::around(rows.iter().flat_map(|r| r.marks), left + 10.0, right - left - 10.0, true)
    {
        for value in x.decades() {
            svg.line("g", [x.place(value), 52.0, x.place(value), bottom]);
            svg.label(x.place(value), bottom + 16.0, "middle", "", &text(value));
        }
        svg.line("a", [left + 10.0, bottom, right, bottom]);
        for (n, row) in rows.iter().enumerate() {
            let y = 66.0 + 24.0 * n as f64;
            let colour = if row.strong { COLOURS[0] } else { COLOURS[1] };
            svg.label(left, y + 4.0, "end", "", &row.label);
            let at: Vec<f64> =
                row.marks.iter().filter(|v| **v > 0.0).map(|v| x.place(*v)).collect();
            let (Some(first), Some(last)) = (at.first(), at.last()) else { continue };
            svg.stroke(colour, 1.5, [*first, y, *last, y]);
            for (cx, (_mark, radius)) in at.iter().zip(MARKS) {
                svg.dot(colour, radius, [*cx, y]);
            }
        }
    }
    for (n, (mark, radius)) in MARKS.into_iter().enumerate() {
        let at = left + 15.0 + 70.0 * n as f64;
        svg.dot(GREY, radius, [at, legend - 4.0]);
        svg.label(at + 9.0, legend, "start", "s", mark);
    }
    for (n, who) in ["ringweir", "others"].into_iter().enumerate() {
        let at = left + 310.0 + 100.0 * n as f64;
        svg.stroke(COLOURS[n], 3.0, [at, legend - 4.0, at + 12.0, legend - 4.0]);
        svg.label(at + 18.0, legend, "start", "s", who);
    }
    svg.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_moved_apart_and_stay_in_the_chart() {
        let mut labels = vec![(100.0, 0), (99.0, 1), (101.0, 2), (20.0, 3)];
        spread(&mut labels, 13.0, 110.0);
        assert_eq!(labels.iter().map(|l| l.1).collect::<Vec<_>>(), [3, 1, 0, 2]);
        assert!(labels.windows(2).all(|w| w[1].0 - w[0].0 >= 13.0 - 1e-9), "{labels:?}");
        assert!(labels.iter().all(|l| l.0 <= 110.0), "{labels:?}");
    }

    /// Whether no text but the title begins or ends outside.
    fn fits(svg: &str) -> bool {
        let number = |element: &str, name: &str| -> f64 {
            let behind = element.split_once(&format!(" {name}=\"")).expect(name).1;
            behind.split('"').next().and_then(|n| n.parse().ok()).expect(name)
        };
        let width = number(svg, "width");
        let inside = |element: &str| {
            let text = element.split_once('>').expect("text").1.split('<').next().expect("text");
            let room = room(text, element.contains("weight:bold"));
            let x = number(element, "x");
            let left = match element.split_once("text-anchor=\"").map(|(_, anchor)| &anchor[..3]) {
                Some("end") => x - room,
                Some("mid") => x - room / 2.0,
                _ => x,
            };
            left >= 0.0 && left + room <= width
        };
        svg.split("<text").skip(1).filter(|t| !t.starts_with(" class=\"t\"")).all(inside)
    }

    /// Control: a label that is longer than the one for which there is room ends outside.
    #[test]
    fn long_labels_are_inside_the_picture() {
        let name = "a contender with a name that is much longer than any other: 8 readers";
        let point = Point { x: 10.0, y: 5.0, least: 4.0, most: 6.0 };
        let axes = Axes { x: "x", y: "y", x_text: |v| v.to_string(), y_text: |v| v.to_string() };
        let series = Series { name: name.into(), points: vec![point], strong: true };
        let row = Row { label: name.into(), strong: true, marks: [1.0, 2.0, 3.0, 40.0] };
        let panel = Panel { title: "p".into(), series: vec![series] };
        for svg in [lines("t", axes, &[panel]), ranges("t", "about", |v| v.to_string(), &[row])] {
            assert!(fits(&svg), "{svg}");
            assert!(!fits(&svg.replace(name, &name.repeat(2))), "the control");
            assert!(svg.contains("least to most") || svg.contains("p99.9"), "a legend: {svg}");
        }
    }

    #[test]
    fn zero_and_missing_values_are_left_out() {
        let axes = Axes { x: "x", y: "y", x_text: |v| v.to_string(), y_text: |v| v.to_string() };
        let series = Series {
            name: "a<b&c".into(),
            points: vec![
                Point { x: 1.0, y: 0.0, least: 0.0, most: 0.0 },
                Point { x: 10.0, y: 5.0, least: 4.0, most: 6.0 },
            ],
            strong: true,
        };
        let svg = lines("t", axes, &[Panel { title: "p".into(), series: vec![series] }]);
        assert!(
            svg.contains("a&lt;b&amp;c") && !svg.contains("NaN") && !svg.contains("inf"),
            "{svg}"
        );
        assert_eq!(svg.matches("<circle").count(), 2, "one of them is in the legend");
        assert!(!ranges("t", "", |v| v.to_string(), &[]).contains("NaN"));
    }
}
