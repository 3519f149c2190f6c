//! The text format of Prometheus (version 0.0.4): `# HELP`, `# TYPE`, samples. Names end in their unit, counters in
//! `_total`.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use diodesync::pack::Disk;

/// The Content-Type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics in the making.
#[derive(Debug, Default)]
pub struct Metrics {
    out: String,
}

/// What a metric does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It rises.
    Counter,
    /// It rises and falls.
    Gauge,
}

impl Metrics {
    /// Writes one metric with all its samples: labels and value. None of them, and it is left out.
    pub fn put<V: Display>(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Vec<(&'static str, String)>, V)>,
    ) {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            self.out.push_str(name);
            for (at, (label, text)) in labels.iter().enumerate() {
                let _ = write!(self.out, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escape(text));
            }
            let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }

    /// Writes one metric that has one sample.
    pub fn one<V: Display>(&mut self, kind: Kind, name: &'static str, help: &'static str, value: V) {
        self.put(kind, name, help, [(Vec::new(), value)]);
    }

    /// What both sides say of the disk of their packs.
    pub fn disk(&mut self, disk: Option<&Disk>) {
        let Some(disk) = disk else { return };
        self.one(
            Kind::Gauge,
            "diodesync_disk_size_bytes",
            "Octets of the file system of the packs.",
            disk.total_bytes,
        );
        self.one(Kind::Gauge, "diodesync_disk_free_bytes", "Octets that are free on it.", disk.free_bytes);
        self.one(
            Kind::Gauge,
            "diodesync_disk_reserve_bytes",
            "Octets that bulk data leaves free.",
            disk.reserve_bytes,
        );
        self.one(Kind::Gauge, "diodesync_packs_bytes", "Octets that the packs take.", disk.packs_bytes);
    }

    /// What needs an operator, by kind.
    pub fn alarms<'a>(&mut self, ids: impl Iterator<Item = &'a str>) {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        for id in ids {
            *kinds.entry(id).or_default() += 1;
        }
        let all: u64 = kinds.values().sum();
        let samples = kinds.into_iter().map(|(id, count)| (vec![("id", id.to_owned())], count));
        self.put(
            Kind::Gauge,
            "diodesync_alarm",
            "Alarms of a kind; a kind without alarms is left out.",
            samples,
        );
        self.one(Kind::Gauge, "diodesync_alarms", "All alarms.", all);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.out
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out() {
        let mut metrics = Metrics::default();
        metrics.put(
            Kind::Gauge,
            "x_bytes",
            "Octets.",
            [(vec![("a", "q\"\\\n".to_owned()), ("b", "c".to_owned())], 7)],
        );
        metrics.one(Kind::Counter, "y_total", "Things.", 1);
        metrics.put(Kind::Gauge, "nothing", "Nothing.", Vec::<(Vec<(&str, String)>, u8)>::new());
        assert_eq!(
            metrics.into_text(),
            "# HELP x_bytes Octets.\n# TYPE x_bytes gauge\nx_bytes{a=\"q\\\"\\\\\\n\",b=\"c\"} 7\n\
             # HELP y_total Things.\n# TYPE y_total counter\ny_total 1\n"
        );
    }
}
