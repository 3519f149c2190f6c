//! Goodput against loss as an SVG by hand: one line, two axes, readable on light and dark pages.

use std::fmt::Write as _;

use crate::report::{Point, Report};
use crate::stand::gib;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 64.0;

/// The colours follow the reader's preference; without one they are those of a light page.
const STYLE: &str = "\
  text { font: 12px system-ui, sans-serif; fill: #444 }
  .title { font-size: 14px; font-weight: 600; fill: #111 }
  .grid { stroke: #ddd } .axis { stroke: #777 }
  .line { fill: none; stroke: #0969da; stroke-width: 2 } .dot { fill: #0969da } .more { fill: none; stroke: #0969da; stroke-width: 2 }
  .raw { stroke: #9a6700; stroke-dasharray: 5 4 } .rawtext { fill: #9a6700 }
  @media (prefers-color-scheme: dark) {
    text { fill: #bbb } .title { fill: #eee } .grid { stroke: #333 } .axis { stroke: #888 }
    .line, .more { stroke: #58a6ff } .dot { fill: #58a6ff } .raw { stroke: #d29922 } .rawtext { fill: #d29922 }
  }
";

/// Draws the curve of a report.
pub fn svg(report: &Report) -> String {
    let raw = report.raw_gbit_s();
    let most = report.curve.iter().filter_map(|point| point.gbit_s).chain(raw).fold(1.0, f64::max);
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0].into_iter().find(|step| most / step <= 8.0).unwrap_or(50.0);
    let top = (most / step).ceil() * step;
    let x = |percent: f64| LEFT + percent / 10.0 * (WIDTH - LEFT - RIGHT);
    let y = |gbit_s: f64| HEIGHT - BOTTOM - gbit_s / top * (HEIGHT - TOP - BOTTOM);

    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"Goodput against random loss\">\n<style>\n{STYLE}</style>"
    );
    let _ = writeln!(
        out,
        "<text class=\"title\" x=\"{LEFT}\" y=\"22\">Goodput against random loss, Gbit/s</text>"
    );
    let mut level = 0.0;
    while level <= top + 1e-9 {
        let at = y(level);
        let class = if level == 0.0 { "axis" } else { "grid" };
        let _ = writeln!(
            out,
            "<line class=\"{class}\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{level}</text>",
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0
        );
        level += step;
    }
    for percent in 0..=10 {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percent} %</text>",
            x(f64::from(percent)),
            HEIGHT - BOTTOM + 18.0
        );
    }
    if let Some(raw) = raw {
        let at = y(raw);
        let _ = writeln!(
            out,
            "<line class=\"raw\" x1=\"{LEFT}\" x2=\"{end:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"rawtext\" x=\"{end:.1}\" y=\"{:.1}\" text-anchor=\"end\">plain UDP, {raw:.1}</text>",
            at - 5.0,
            end = WIDTH - RIGHT
        );
    }
    let there: Vec<(f64, f64, &Point)> = report
        .curve
        .iter()
        .filter_map(|point| Some((x(point.loss_percent), y(point.gbit_s?), point)))
        .collect();
    let path: Vec<String> = there.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(out, "<polyline class=\"line\" points=\"{}\"/>", path.join(" "));
    for (x, y, point) in &there {
        let class = if point.rounds == 1 { "dot" } else { "more" };
        let _ = writeln!(
            out,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{} %: {:.2} Gbit/s</title></circle>",
            point.loss_percent,
            point.gbit_s.unwrap_or_default()
        );
    }
    let rounds = if there.iter().any(|(_, _, point)| point.rounds > 1) {
        "; hollow: one round was not enough"
    } else {
        ""
    };
    let lines = [
        format!(
            "{:.1} GiB from the release command to publication, both ends on one machine{rounds}",
            gib(report.size_bytes)
        ),
        format!("{}, {}", report.date, report.machine),
    ];
    for (line, at) in lines.iter().zip([HEIGHT - 24.0, HEIGHT - 8.0]) {
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{at}\">{line}</text>");
    }
    out.push_str("</svg>\n");
    out
}
