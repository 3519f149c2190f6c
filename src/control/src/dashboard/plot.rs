//! Plots: SVG that the server draws, so that they are there without a script. Pure: all of it is in the arguments.
//!
//! Lines differ by their dashes too, not by colour alone; title and description say in words what is drawn.

use diodesync::quantity::{BitsPerS, Bytes};

use super::history::{History, Sample};
use super::html::{Html, count};
use crate::put;

/// The drawing's size, in its own units; the page scales it.
const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 180.0;
/// The room for the scale at the left, for the time at the bottom, and at the other edges.
const LEFT: f64 = 84.0;
const BOTTOM: f64 = 26.0;
const EDGE: f64 = 10.0;
/// Lines of the grid above zero.
const STEPS: u32 = 4;

/// What the values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bits per second.
    BitsPerS,
    /// Datagrams or the like, per second.
    PerS,
    /// Octets.
    Bytes,
}

impl Unit {
    /// A value as a person reads it.
    pub fn text(self, value: f64) -> String {
        let whole = value.max(0.0).round() as u64;
        match self {
            Self::BitsPerS => BitsPerS(whole).to_string(),
            Self::Bytes => Bytes(whole).to_string(),
            Self::PerS if value > 0.0 && value < 10.0 => format!("{value:.1}/s"),
            Self::PerS => format!("{}/s", count(whole)),
        }
    }
}

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// What it is.
    pub label: &'static str,
    /// Time (any unit, as `from` and `to`) and value, by rising time.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Plot {
    /// What it shows.
    pub title: &'static str,
    /// The unit of its values.
    pub unit: Unit,
    /// The time at its left edge.
    pub from: f64,
    /// The time at its right edge.
    pub to: f64,
    /// What is written at the left edge, in the middle and at the right edge.
    pub times: [&'static str; 3],
    /// A longer time than this between two points is a gap.
    pub gap: f64,
    /// Its lines, three at most.
    pub lines: Vec<Line>,
}

/// How far back a plot goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// The last ten minutes, by the second.
    TenMinutes,
    /// The last day, by the minute.
    Day,
}

impl History {
    /// A plot of counts, for each second: what each is called, its place, and the factor to the plot's unit.
    pub fn plot(
        &self,
        title: &'static str,
        unit: Unit,
        range: Range,
        now_ms: u64,
        counts: &[(&'static str, usize, f64)],
    ) -> Plot {
        let (length_s, step_s, times, gap): (u64, u64, _, _) = match range {
            Range::TenMinutes => (600, 2, ["10 min ago", "5 min", "now"], 5.0),
            Range::Day => (86_400, 60, ["24 h ago", "12 h", "now"], 300.0),
        };
        // In steps, so that a picture stays the same for a while and need not be sent again.
        let to_s = now_ms / 1000 / step_s * step_s;
        let is_shown = |sample: &&Sample| sample.at_ms <= to_s * 1000;
        let line = |(label, count, factor): &(&'static str, usize, f64)| {
            let point = |sample: &Sample| (sample.at_ms as f64 / 1000.0, sample.per_s(*count) * factor);
            let points = match range {
                Range::TenMinutes => self.seconds().filter(is_shown).map(point).collect(),
                Range::Day => self.minutes().filter(is_shown).map(point).collect(),
            };
            Line { label, points }
        };
        let lines = counts.iter().map(line).collect();
        Plot { title, unit, from: to_s.saturating_sub(length_s) as f64, to: to_s as f64, times, gap, lines }
    }
}

/// The value of the uppermost line of the grid: the next of 1, 2, 2.5 and 5 times a power of ten.
fn ceiling(max: f64) -> f64 {
    let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
    let power = 10f64.powf(max.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|top| *top >= max)
        .unwrap_or(10.0 * power)
}

impl Plot {
    /// Draws it, with a caption.
    pub fn draw(&self) -> Html {
        let mut out = Html::default();
        put!(&mut out, "<figure class=\"plot\"><figcaption><strong>" (self.title) "</strong>");
        for (at, line) in self.lines.iter().enumerate() {
            let (now, peak) = (line.points.last().map_or(0.0, |point| point.1), peak(line));
            put!(&mut out, "<span class=\"key k" (at) "\"><svg viewBox=\"0 0 24 8\" aria-hidden=\"true\">");
            put!(&mut out, "<path d=\"M1 4H23\"/></svg>" (line.label) " <b>" (self.unit.text(now)) "</b>");
            put!(&mut out, " <small>peak " (self.unit.text(peak)) "</small></span>");
        }
        out.raw("</figcaption>");
        self.draw_svg(&mut out);
        out.raw("</figure>");
        out
    }

    fn draw_svg(&self, out: &mut Html) {
        let top = ceiling(self.lines.iter().map(peak).fold(0.0, f64::max));
        let x = |time: f64| {
            LEFT + (WIDTH - LEFT - EDGE)
                * ((time - self.from) / (self.to - self.from).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
        };
        let y = |value: f64| EDGE + (HEIGHT - EDGE - BOTTOM) * (1.0 - (value / top).clamp(0.0, 1.0));
        put!(out, "<svg viewBox=\"0 0 " (WIDTH) " " (HEIGHT) "\" role=\"img\"><title>" (self.title) "</title><desc>");
        for line in &self.lines {
            let now = line.points.last().map_or(0.0, |point| point.1);
            put!(out, (line.label) ": now " (self.unit.text(now)) ", at most " (self.unit.text(peak(line))) ". ");
        }
        out.raw("</desc>");
        for step in 0..=STEPS {
            let value = top * f64::from(step) / f64::from(STEPS);
            let at = format!("{:.1}", y(value));
            put!(out, "<path class=\"grid\" d=\"M" (LEFT) " " (at) "H" (WIDTH - EDGE) "\"/>");
            if step % 2 == 0 {
                put!(out, "<text class=\"end\" x=\"" (LEFT - 8.0) "\" y=\"" (at) "\" dy=\"4\">" (self.unit.text(value)) "</text>");
            }
        }
        let [left, middle, right] = self.times;
        let below = HEIGHT - 6.0;
        put!(out, "<text x=\"" (LEFT) "\" y=\"" (below) "\">" (left) "</text>");
        put!(out, "<text class=\"mid\" x=\"" ((LEFT + WIDTH - EDGE) / 2.0) "\" y=\"" (below) "\">" (middle) "</text>");
        put!(out, "<text class=\"end\" x=\"" (WIDTH - EDGE) "\" y=\"" (below) "\">" (right) "</text>");
        for (at, line) in self.lines.iter().enumerate().rev() {
            for run in runs(&line.points, self.gap) {
                let mut path = String::new();
                for (point, (time, value)) in run.iter().enumerate() {
                    path.push(if point == 0 { 'M' } else { 'L' });
                    path.push_str(&format!("{:.1} {:.1}", x(*time), y(*value)));
                }
                if at == 0
                    && let (Some(first), Some(last)) = (run.first(), run.last())
                {
                    let floor = format!("{:.1}", y(0.0));
                    let (from, to) = (format!("{:.1}", x(first.0)), format!("{:.1}", x(last.0)));
                    put!(out, "<path class=\"area\" d=\"" (path) "L" (to) " " (floor) "L" (from) " " (floor) "Z\"/>");
                }
                put!(out, "<path class=\"line k" (at) "\" d=\"" (path) "\"/>");
            }
        }
        out.raw("</svg>");
    }
}

fn peak(line: &Line) -> f64 {
    line.points.iter().map(|point| point.1).fold(0.0, f64::max)
}

/// Points between which there is no gap.
fn runs(points: &[(f64, f64)], gap: f64) -> impl Iterator<Item = &[(f64, f64)]> {
    points.chunk_by(move |a, b| b.0 - a.0 <= gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: &[(f64, f64)]) -> Plot {
        let line = Line { label: "received", points: points.to_vec() };
        let times = ["10 min ago", "5 min", "now"];
        Plot { title: "Rate", unit: Unit::BitsPerS, from: 0.0, to: 600.0, times, gap: 5.0, lines: vec![line] }
    }

    #[test]
    fn scales_are_round_and_cover_what_is_drawn() {
        for (max, top) in
            [(0.0, 1.0), (1.0, 1.0), (1.1, 2.0), (2.2, 2.5), (3.0, 5.0), (7.0, 10.0), (312e6, 500e6)]
        {
            assert!((ceiling(max) / top - 1.0).abs() < 1e-9, "{max}: {}", ceiling(max));
        }
        for odd in [f64::NAN, f64::INFINITY, -5.0] {
            assert!((ceiling(odd) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn everything_stays_within_the_drawing() {
        let wild = [(-50.0, 0.0), (0.0, 3.0), (300.0, 1e300), (301.0, -4.0), (9999.0, 5.0)];
        let drawn = plot(&wild).draw().into_string();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        for path in drawn.split(" d=\"").skip(2).filter_map(|rest| rest.split('"').next()) {
            let numbers =
                path.split(|c: char| !c.is_ascii_digit() && c != '.' && c != '-').filter(|n| !n.is_empty());
            for number in numbers.map(|n| n.parse::<f64>().unwrap()) {
                assert!((0.0..=WIDTH).contains(&number), "{number} in {path}");
            }
        }
        // No style attributes: the content security policy would drop them.
        assert!(!drawn.contains("style="));
    }

    #[test]
    fn what_was_not_measured_is_a_gap() {
        let drawn = plot(&[(0.0, 1.0), (1.0, 2.0), (100.0, 3.0), (101.0, 1.0)]).draw().into_string();
        assert_eq!(drawn.matches("class=\"line k0\"").count(), 2);
        assert!(drawn.contains("at most 3 bit/s"), "{drawn}");
        assert!(plot(&[]).draw().into_string().contains("now 0 bit/s"));
    }
}
