//! What was measured, as tables for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::raw::Raw;
use crate::stand::{Crossing, gib};

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// For `--only`.
    pub name: String,
    /// What is measured.
    pub what: String,
    /// What must be reached.
    pub must: String,
    /// What is aimed for.
    pub aim: String,
    /// What was measured.
    pub measured: String,
    /// The measured number in the unit of `must`; none if there is no number.
    pub value: Option<f64>,
    /// Against plain UDP in the same run.
    pub ratio_to_raw: Option<f64>,
    /// Whether what must be reached was reached.
    pub is_reached: Option<bool>,
    /// Whatever else is to be known.
    pub note: String,
    /// The runs behind it.
    pub runs: Vec<Crossing>,
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The day.
    pub date: String,
    /// Processor, cores, kernel.
    pub machine: String,
    /// The commit.
    pub commit: String,
    /// Octets of the large release.
    pub size_bytes: u64,
    /// Plain UDP at an MTU of 1500, in the order of the runs.
    pub raw: Vec<Raw>,
    /// Plain UDP at an MTU of 9000.
    pub raw_jumbo: Vec<Raw>,
    /// Goodput against loss.
    pub curve: Vec<Point>,
    /// The table.
    pub rows: Vec<Row>,
}

/// One point of the plot.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Random loss.
    pub loss_percent: f64,
    /// Goodput; none if the release did not arrive.
    pub gbit_s: Option<f64>,
    /// Rounds that the sender had for it.
    pub rounds: u32,
}

/// The one in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => values.get(middle).copied(),
        _ => Some((values.get(middle - 1)? + values.get(middle)?) / 2.0),
    }
}

impl Report {
    /// For programs.
    pub fn to_json(&self) -> Result<serde_json::Value> {
        Ok(serde_json::to_value(self)?)
    }

    /// For people.
    pub fn to_text(&self, with_threads: bool) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "{}, {}, commit {}", self.date, self.machine, self.commit);
        let _ = writeln!(
            out,
            "{:.2} GiB in 1,000 blobs; goodput is content per time from the release command to publication",
            gib(self.size_bytes)
        );
        for (what, raw) in [("MTU 1500", &self.raw), ("MTU 9000", &self.raw_jumbo)] {
            if raw.is_empty() {
                continue;
            }
            let middle = |of: fn(&Raw) -> f64| median(raw.iter().map(of)).unwrap_or_default();
            let all: Vec<String> = raw.iter().map(|raw| format!("{:.1}", raw.gbit_s)).collect();
            let _ = writeln!(
                out,
                "plain UDP, {what}: {:.2} Gbit/s (runs {}), {:.1} % lost, CPU s per GiB {:.2} + {:.2}",
                middle(|raw| raw.gbit_s),
                all.join(" "),
                middle(|raw| raw.lost) * 100.0,
                middle(|raw| raw.send_cpu_s_per_gib),
                middle(|raw| raw.receive_cpu_s_per_gib),
            );
        }
        let mut table = vec![["", "", "must", "aim", "measured", "of raw", "note"].map(str::to_owned)];
        for row in &self.rows {
            let mark = match row.is_reached {
                Some(true) => "ok",
                Some(false) => "NO",
                None => "",
            };
            let ratio = row.ratio_to_raw.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            let (what, must, aim) = (row.what.clone(), row.must.clone(), row.aim.clone());
            table.push([mark.to_owned(), what, must, aim, row.measured.clone(), ratio, row.note.clone()]);
        }
        out.push('\n');
        write_table(&mut out, &table);
        out.push('\n');
        write_table(&mut out, &self.costs());
        if with_threads {
            out.push('\n');
            write_table(&mut out, &self.threads());
        }
        out
    }

    /// Plain UDP at an MTU of 1500.
    pub fn raw_gbit_s(&self) -> Option<f64> {
        median(self.raw.iter().map(|raw| raw.gbit_s))
    }

    /// One line for each run.
    fn costs(&self) -> Vec<[String; 13]> {
        let head = [
            "run",
            "Gbit/s",
            "CPU s/GiB tx",
            "rx",
            "softirqd",
            "RSS MiB tx",
            "rx",
            "lost %",
            "in kernel",
            "repaired",
            "last→pub s",
            "others",
            "stolen",
        ];
        let mut table = vec![head.map(str::to_owned)];
        for (row, run) in self.rows.iter().flat_map(|row| row.runs.iter().map(move |run| (row, run))) {
            let per_gib = |seconds: f64| format!("{:.2}", seconds / gib(run.content_bytes));
            let mib = |bytes: u64| format!("{}", bytes >> 20);
            let speed = if run.is_published {
                format!("{:.2}", run.gbit_s())
            } else {
                format!("- ({} blocks lacking)", run.blocks_lacking)
            };
            table.push([
                row.name.clone(),
                speed,
                per_gib(run.low.cpu_s),
                per_gib(run.high.cpu_s),
                per_gib(run.besides.softirqd_s),
                mib(run.low.rss_peak_bytes),
                mib(run.high.rss_peak_bytes),
                format!("{:.2}", 100.0 * run.lost as f64 / (run.lost + run.received).max(1) as f64),
                run.kernel_drops.to_string(),
                run.repaired.to_string(),
                format!("{:.3}", run.last_to_published_s),
                format!("{:.2}", run.besides.other_cores),
                format!("{:.2}", run.besides.stolen_cores),
            ]);
        }
        table
    }

    /// CPU seconds for each GiB by thread, of the median run of each row that has a goodput.
    fn threads(&self) -> Vec<Vec<String>> {
        let mut columns = Vec::new();
        for row in &self.rows {
            let mut runs: Vec<&Crossing> =
                row.runs.iter().filter(|run| gib(run.content_bytes) > 0.05).collect();
            runs.sort_by(|a, b| a.cpu_s_per_gib().total_cmp(&b.cpu_s_per_gib()));
            if let Some(run) = runs.get(runs.len() / 2) {
                columns.push((row.name.clone(), *run));
            }
        }
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (at, (_, run)) in columns.iter().enumerate() {
            for (side, cost) in [("1 tx", &run.low), ("2 rx", &run.high)] {
                let user = [("(user mode)".to_owned(), cost.user_s), ("(all)".to_owned(), cost.cpu_s)];
                for (thread, seconds) in cost.threads.clone().into_iter().chain(user) {
                    let cells = names
                        .entry(format!("{side} {thread}"))
                        .or_insert_with(|| vec![String::new(); columns.len()]);
                    if let Some(cell) = cells.get_mut(at) {
                        *cell = format!("{:.2}", seconds / gib(run.content_bytes));
                    }
                }
            }
        }
        let mut table = vec![vec!["CPU s per GiB".to_owned()]];
        if let Some(head) = table.first_mut() {
            head.extend(columns.iter().map(|(name, _)| name.clone()));
        }
        for (name, cells) in names {
            // The digit only sorts.
            let name = name.get(2..).unwrap_or_default().to_owned();
            table.push([name].into_iter().chain(cells).collect());
        }
        table
    }
}

/// Columns as wide as they have to be.
fn write_table<R: AsRef<[String]>>(out: &mut String, rows: &[R]) {
    let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|row| row.as_ref().get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}
