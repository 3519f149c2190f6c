//! What is measured, in which order.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::Options;
use crate::raw::{self, Raw};
use crate::report::{Point, Report, Row, median};
use crate::stand::{Crossing, Stand, Weather, gib};
use crate::wire;

/// Names for `--only`.
pub const NAMES: [(&str, &str); 12] = [
    ("loss0", "goodput without loss, as fast as it goes"),
    ("loss1", "goodput at 1 % random loss; runs of datagrams that the device has joined are lost"),
    ("loss5", "goodput at 5 % random loss"),
    ("loss1each", "goodput at 1 % random loss of single datagrams: the device joins none"),
    ("jumbo", "goodput at an MTU of 9000"),
    ("stock", "1 and 2 Gbit/s with a receive buffer limit of 212992 octets and no privileges"),
    ("burst", "50 ms of everything lost, at 1 Gbit/s"),
    ("slow", "as fast as it goes into a receiver that shares one core with something else"),
    ("delta", "a second release with 1 % of the blobs changed"),
    ("files", "100,000 files of 4 KiB"),
    ("tiny", "one file of 1 KiB"),
    ("rates", "the highest of some fixed rates at which nothing is lost (only when it is named)"),
];

/// Blobs of the large release.
const BLOBS: u64 = 1000;
/// The receive buffer limit that Debian comes with.
const STOCK_RMEM_MAX: u64 = 212_992;

/// Measures what was asked for.
pub fn measure(options: &Options) -> Result<Report> {
    let mut bench = Bench {
        options,
        report: Report {
            date: said("date", &["+%Y-%m-%d"]),
            machine: machine(),
            commit: said("git", &["describe", "--always", "--dirty"]),
            size_bytes: options.size / BLOBS * BLOBS,
            raw: Vec::new(),
            raw_jumbo: Vec::new(),
            curve: Vec::new(),
            rows: Vec::new(),
        },
    };
    bench.run()?;
    Ok(bench.report)
}

struct Bench<'a> {
    options: &'a Options,
    report: Report,
}

impl Bench<'_> {
    fn wants(&self, name: &str) -> bool {
        (self.options.only.is_empty() && name != "rates") || self.options.only.iter().any(|only| only == name)
    }

    fn run(&mut self) -> Result<()> {
        let large =
            ["loss0", "loss1", "loss5", "loss1each", "jumbo", "stock", "burst", "slow", "delta", "rates"];
        if self.options.plot.is_some() || large.iter().any(|name| self.wants(name)) {
            let mut stand = self.stand("link")?;
            let done = self.large(&mut stand);
            explain(&mut stand, done)?;
        }
        if self.wants("tiny") {
            let mut stand = self.stand("tiny")?;
            let done = self.tiny(&mut stand);
            explain(&mut stand, done)?;
        }
        if self.wants("files") {
            let mut stand = self.stand("files")?;
            let done = self.files(&mut stand);
            explain(&mut stand, done)?;
        }
        Ok(())
    }

    fn stand(&self, name: &'static str) -> Result<Stand> {
        let mut stand = Stand::new(name)?;
        if let Some(folder) = &self.options.perf {
            stand.profile_into(folder)?;
        }
        Ok(stand)
    }

    /// Plain UDP now.
    fn raw(&mut self, stand: &Stand, mtu: u16) -> Result<()> {
        let gap = stand.gap()?;
        gap.set_mtu(mtu)?;
        gap.set_gro(true)?;
        gap.set_loss(0.0)?;
        let raw = raw::measure(gap, mtu, 4 << 30)?;
        say(&format!("plain UDP, MTU {mtu}: {:.2} Gbit/s, {:.1} % lost", raw.gbit_s, raw.lost * 100.0));
        if mtu == 1500 {
            self.report.raw.push(raw)
        } else {
            self.report.raw_jumbo.push(raw)
        }
        Ok(())
    }

    fn large(&mut self, stand: &mut Stand) -> Result<()> {
        let blob_bytes = self.report.size_bytes / BLOBS;
        let mut seconds = 0.0;
        // In parts, so that no more than one of them is there twice.
        for part in 0..8 {
            let numbers = part * BLOBS / 8..(part + 1) * BLOBS / 8;
            seconds += stand.submit(numbers.map(|number| (blob_name(number), number)), blob_bytes)?;
        }
        say(&format!("submitted {:.2} GiB in {seconds:.1} s", gib(self.report.size_bytes)));
        self.raw(stand, 1500)?;
        let clear = self.weather();
        let goodputs = [
            ("loss0", "goodput, no loss", 6.0, 8.5, clear.clone()),
            ("loss1", "goodput, 1 % loss", 5.0, 7.0, Weather { loss: 0.01, ..clear.clone() }),
            ("loss5", "goodput, 5 % loss", 3.5, 5.0, Weather { loss: 0.05, ..clear.clone() }),
            (
                "loss1each",
                "the same, 1 %, no GRO",
                0.0,
                0.0,
                Weather { loss: 0.01, gro: false, ..clear.clone() },
            ),
            ("jumbo", "goodput, MTU 9000", 8.0, 12.0, Weather { mtu: 9000, ..clear }),
        ];
        for (name, what, must, aim, weather) in goodputs {
            if self.wants(name) {
                self.raw(stand, weather.mtu)?;
                self.goodput(stand, name, what, (must, aim), weather)?;
            }
        }
        if self.wants("rates") {
            self.rates(stand)?;
        }
        self.costs();
        if self.wants("stock") {
            self.stock(stand)?;
        }
        if self.wants("burst") {
            self.burst(stand)?;
        }
        if self.wants("slow") {
            self.slow(stand)?;
        }
        if self.options.plot.is_some() {
            self.curve(stand)?;
        }
        if self.wants("delta") {
            self.delta(stand)?;
        }
        self.raw(stand, 1500)?;
        self.ratios();
        Ok(())
    }

    /// As fast as it goes, or at the rate that was asked for.
    fn weather(&self) -> Weather {
        Weather { rate: self.options.rate.clone(), ..Weather::default() }
    }

    /// Goodput against loss.
    fn curve(&mut self, stand: &mut Stand) -> Result<()> {
        for percent in [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0] {
            let mut weather = Weather { loss: percent / 100.0, ..self.weather() };
            let mut crossing = stand.cross(&weather)?;
            if !crossing.is_published {
                weather.rounds = 4;
                crossing = stand.cross(&weather)?;
            }
            tell(&format!("plot {percent} %"), &crossing);
            let gbit_s = crossing.is_published.then(|| crossing.gbit_s());
            self.report.curve.push(Point { loss_percent: percent, gbit_s, rounds: weather.rounds });
        }
        Ok(())
    }

    /// Several runs; when one round is not enough at full speed, the number with more rounds is told too.
    fn goodput(
        &mut self,
        stand: &mut Stand,
        name: &str,
        what: &str,
        (must, aim): (f64, f64),
        mut weather: Weather,
    ) -> Result<()> {
        let mut runs = Vec::new();
        let mut note = String::new();
        while runs.len() < self.options.runs {
            let crossing = stand.cross(&weather)?;
            tell(name, &crossing);
            if !crossing.is_published && weather.rounds == 1 {
                note = format!(
                    "{} blocks lacking after one round; 4 rounds without a gap: ",
                    crossing.blocks_lacking
                );
                weather.rounds = 4;
                runs.clear();
                continue;
            }
            runs.push(crossing);
        }
        // Where the receiver's buffer overflowed, nobody can tell one kind of loss from the other.
        if weather.loss > 0.0
            && let Some(run) = runs.iter().find(|run| run.kernel_drops == 0)
        {
            let length = run.lost as f64 / run.lost_packets.max(1) as f64;
            note += &format!("{length:.1} datagrams lost at once");
        }
        let value = median(runs.iter().filter(|run| run.is_published).map(Crossing::gbit_s));
        let shown = value.map_or("never complete".to_owned(), |value| format!("{value:.2} Gbit/s"));
        self.report.rows.push(Row {
            name: name.to_owned(),
            what: what.to_owned(),
            must: if must > 0.0 { format!("{must} Gbit/s") } else { String::new() },
            aim: if must > 0.0 { format!("{aim} Gbit/s") } else { String::new() },
            measured: shown,
            value,
            ratio_to_raw: None,
            is_reached: (must > 0.0).then(|| value.is_some_and(|value| value >= must)),
            note,
            runs,
        });
        Ok(())
    }

    /// Fixed rates, rising until something is lost although the path loses nothing.
    fn rates(&mut self, stand: &mut Stand) -> Result<()> {
        let mut runs = Vec::new();
        let mut best = None;
        for rate in
            ["1gbit", "1.5gbit", "2gbit", "2.5gbit", "3gbit", "4gbit", "5gbit", "6gbit", "8gbit", "10gbit"]
        {
            let crossing = stand.cross(&Weather { rate: rate.to_owned(), ..Weather::default() })?;
            tell(&format!("rates {rate}"), &crossing);
            let is_clean = crossing.is_published && crossing.lost == 0;
            if is_clean {
                best = Some(crossing.gbit_s());
            }
            let is_hopeless = !crossing.is_published;
            runs.push(crossing);
            if is_hopeless {
                break;
            }
        }
        self.report.rows.push(Row {
            name: "rates".to_owned(),
            what: "goodput at the highest clean rate".to_owned(),
            must: String::new(),
            aim: String::new(),
            measured: best.map_or("none".to_owned(), |best| format!("{best:.2} Gbit/s")),
            value: best,
            ratio_to_raw: None,
            is_reached: None,
            note: "1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 Gbit/s, until a release does not arrive".to_owned(),
            runs,
        });
        Ok(())
    }

    /// What follows from the goodputs' runs: CPU, memory, the end of a release.
    fn costs(&mut self) {
        let of = |name: &str| self.report.rows.iter().find(|row| row.name == name);
        let mut rows = Vec::new();
        for (name, what, must, aim) in
            [("loss0", "CPU, both ends, no loss", 2.8, 2.0), ("loss1", "CPU, both ends, 1 % loss", 3.3, 2.5)]
        {
            let Some(row) = of(name) else { continue };
            let value = median(row.runs.iter().map(Crossing::cpu_s_per_gib));
            let softirqd = median(row.runs.iter().map(|run| run.besides.softirqd_s / gib(run.content_bytes)));
            let note =
                format!("and {:.2} s of ksoftirqd, in no process' account", softirqd.unwrap_or_default());
            rows.push(plain(&format!("cpu-{name}"), what, (must, aim), "s/GiB", value, &note));
        }
        if let Some(row) = of("loss0") {
            let last = median(row.runs.iter().map(|run| run.last_to_published_s));
            rows.push(plain("last", "last datagram to published", (1.0, 0.2), "s", last, ""));
        }
        let runs = || self.report.rows.iter().flat_map(|row| &row.runs);
        type Side = fn(&Crossing) -> u64;
        let sides: [(&str, &str, Side); 2] = [
            ("rss-tx", "peak RSS of the sender", |run| run.low.rss_peak_bytes),
            ("rss-rx", "peak RSS of the receiver", |run| run.high.rss_peak_bytes),
        ];
        for (name, what, side) in sides {
            let peak = runs().map(side).max().map(|bytes| bytes as f64 / f64::from(1 << 20));
            let note = format!("of all runs above, {:.2} GiB each", gib(self.report.size_bytes));
            rows.push(plain(name, what, (256.0, 128.0), "MiB", peak, &note));
        }
        self.report.rows.extend(rows);
    }

    fn stock(&mut self, stand: &mut Stand) -> Result<()> {
        let limit = ReceiveLimit::set(STOCK_RMEM_MAX)?;
        let mut runs = Vec::new();
        for rate in ["1gbit", "2gbit"] {
            let crossing =
                stand.cross(&Weather { rate: rate.to_owned(), unprivileged: true, ..Weather::default() })?;
            tell(&format!("stock {rate}"), &crossing);
            runs.push(crossing);
        }
        drop(limit);
        let is_clean = |run: &Crossing| run.is_published && run.kernel_drops == 0;
        let shown: Vec<String> = ["1 Gbit/s", "2 Gbit/s"]
            .iter()
            .zip(&runs)
            .map(|(rate, run)| match run.is_published {
                true if run.kernel_drops == 0 => format!("{rate}: complete"),
                true => format!("{rate}: complete, {} dropped", run.kernel_drops),
                false => {
                    format!("{rate}: {} blocks lacking, {} dropped", run.blocks_lacking, run.kernel_drops)
                }
            })
            .collect();
        self.report.rows.push(Row {
            name: "stock".to_owned(),
            what: "stock rmem_max, no privileges".to_owned(),
            must: "1 Gbit/s, none dropped".to_owned(),
            aim: "2 Gbit/s".to_owned(),
            measured: shown.join("; "),
            value: None,
            ratio_to_raw: None,
            is_reached: Some(runs.first().is_some_and(is_clean)),
            note: String::new(),
            runs,
        });
        Ok(())
    }

    fn burst(&mut self, stand: &mut Stand) -> Result<()> {
        // 50 ms at 1 Gbit/s.
        let burst_bytes = 6_250_000;
        let crossing =
            stand.cross(&Weather { rate: "1gbit".to_owned(), burst_bytes, ..Weather::default() })?;
        tell("burst", &crossing);
        let measured = if crossing.is_published {
            format!("nothing lost, {} repaired", crossing.repaired)
        } else {
            format!("{} blocks lacking", crossing.blocks_lacking)
        };
        self.report.rows.push(Row {
            name: "burst".to_owned(),
            what: "50 ms of everything lost at 1 Gbit/s".to_owned(),
            must: "nothing lost".to_owned(),
            aim: "200 ms by a setting".to_owned(),
            measured,
            value: None,
            ratio_to_raw: None,
            is_reached: Some(crossing.is_published),
            note: format!("{} octets lost at once", crossing.burst_bytes),
            runs: vec![crossing],
        });
        Ok(())
    }

    fn slow(&mut self, stand: &mut Stand) -> Result<()> {
        let weather = Weather { slow_receiver: true, rounds: 4, ..Weather::default() };
        let crossing = stand.cross(&weather)?;
        tell("slow", &crossing);
        let measured = if crossing.is_published {
            format!("{:.2} Gbit/s, {} lost", crossing.gbit_s(), crossing.lost)
        } else {
            format!("{} blocks lacking, {} lost", crossing.blocks_lacking, crossing.lost)
        };
        self.report.rows.push(Row {
            name: "slow".to_owned(),
            what: "max into a slow receiver".to_owned(),
            must: "completes, losses shown".to_owned(),
            aim: String::new(),
            measured,
            value: None,
            ratio_to_raw: None,
            is_reached: Some(crossing.is_published && (crossing.lost == 0 || crossing.kernel_drops > 0)),
            note: "4 rounds without a gap; the receiver on one core, which something else wants too"
                .to_owned(),
            runs: vec![crossing],
        });
        Ok(())
    }

    fn delta(&mut self, stand: &mut Stand) -> Result<()> {
        let first = stand.cross(&Weather { rate: "1gbit".to_owned(), ..Weather::default() })?;
        tell("delta: first", &first);
        let blob_bytes = self.report.size_bytes / BLOBS;
        let changed = (0..BLOBS / 100).map(|number| (blob_name(number * 100 + 7), BLOBS + number));
        stand.submit(changed, blob_bytes)?;
        let second = stand.cross_again()?;
        tell("delta: second", &second);
        let value = 100.0 * second.sent_datagrams as f64 / first.sent_datagrams as f64;
        let note = if second.is_published { "at 1 Gbit/s" } else { "NOT published" };
        let mut row =
            plain("delta", "1 % of the blobs changed", (1.3, 1.15), "% of the datagrams", Some(value), note);
        row.runs = vec![first, second];
        self.report.rows.push(row);
        Ok(())
    }

    fn files(&mut self, stand: &mut Stand) -> Result<()> {
        let count: u32 = if self.options.quick { 20_000 } else { 100_000 };
        let files = (0..count).map(|number| (format!("{:03}/{number:06}", number / 500), u64::from(number)));
        let seconds = stand.submit(files, 4096)?;
        let submit = f64::from(count) / seconds;
        let crossing = stand.cross(&Weather { rounds: 4, ..Weather::default() })?;
        tell("files", &crossing);
        let cross = crossing.is_published.then(|| f64::from(count) / crossing.seconds);
        let note = format!("{count} files of 4 KiB");
        self.report.rows.push(plain_least(
            "submit",
            "small files, submit",
            (10_000.0, 20_000.0),
            "files/s",
            Some(submit),
            &note,
        ));
        let mut row =
            plain_least("files", "small files, over the link", (20_000.0, 40_000.0), "files/s", cross, &note);
        row.runs = vec![crossing];
        self.report.rows.push(row);
        Ok(())
    }

    fn tiny(&mut self, stand: &mut Stand) -> Result<()> {
        let wire = wire::one_file(stand, 1024)?;
        let value = (wire.index + wire.block) as f64 / 1024.0;
        let note = format!(
            "index {} octets, block {}, IP and UDP headers included; besides: trust {}, sessions {}, beacons {}",
            wire.index, wire.block, wire.trust, wire.sessions, wire.beacons
        );
        self.report.rows.push(plain(
            "tiny",
            "one file of 1 KiB, on the wire",
            (8.0, 4.0),
            "KiB",
            Some(value),
            &note,
        ));
        Ok(())
    }

    /// Against the median of all plain runs, before, between and after.
    fn ratios(&mut self) {
        let middle = |raw: &[Raw]| median(raw.iter().map(|raw| raw.gbit_s));
        let (raw, jumbo) = (middle(&self.report.raw), middle(&self.report.raw_jumbo));
        for row in &mut self.report.rows {
            let raw = match row.name.as_str() {
                "loss0" | "loss1" | "loss5" | "loss1each" | "rates" => raw,
                "jumbo" => jumbo,
                _ => continue,
            };
            row.ratio_to_raw = row.value.zip(raw).map(|(value, raw)| value / raw);
            if row.name == "loss0" {
                row.must = "6 Gbit/s, 0.55".to_owned();
                row.aim = "8.5 Gbit/s, 0.8".to_owned();
                row.is_reached =
                    row.is_reached.map(|is| is && row.ratio_to_raw.is_some_and(|ratio| ratio >= 0.55));
            }
        }
    }
}

/// A row with a number that must be no more than `must`.
fn plain(name: &str, what: &str, (must, aim): (f64, f64), unit: &str, value: Option<f64>, note: &str) -> Row {
    Row {
        name: name.to_owned(),
        what: what.to_owned(),
        must: format!("≤ {must} {unit}"),
        aim: format!("{aim} {unit}"),
        measured: value.map_or("-".to_owned(), |value| format!("{value:.2} {unit}")),
        value,
        ratio_to_raw: None,
        is_reached: Some(value.is_some_and(|value| value <= must)),
        note: note.to_owned(),
        runs: Vec::new(),
    }
}

/// A row with a number that must be at least `must`.
fn plain_least(
    name: &str,
    what: &str,
    (must, aim): (f64, f64),
    unit: &str,
    value: Option<f64>,
    note: &str,
) -> Row {
    let mut row = plain(name, what, (must, aim), unit, value, note);
    row.must = format!("≥ {must} {unit}");
    row.measured = value.map_or("-".to_owned(), |value| format!("{value:.0} {unit}"));
    row.is_reached = Some(value.is_some_and(|value| value >= must));
    row
}

fn blob_name(number: u64) -> String {
    format!("blob{number:04}")
}

fn tell(name: &str, run: &Crossing) {
    let speed =
        if run.is_published { format!("{:.2} Gbit/s", run.gbit_s()) } else { "NOT published".to_owned() };
    say(&format!(
        "{name}: {speed} in {:.1} s, CPU s/GiB {:.2} + {:.2}, lost {} ({} in the kernel), {} blocks lacking, others {:.2} cores",
        run.seconds,
        run.low.cpu_s / gib(run.content_bytes),
        run.high.cpu_s / gib(run.content_bytes),
        run.lost,
        run.kernel_drops,
        run.blocks_lacking,
        run.besides.other_cores
    ));
}

fn say(text: &str) {
    eprintln!("{text}");
}

/// Prints what the daemons said when something went wrong.
fn explain(stand: &mut Stand, done: Result<()>) -> Result<()> {
    if done.is_err() {
        stand.pair().low.print_log();
        stand.pair().high.print_log();
    }
    done
}

/// `net.core.rmem_max` is one for the whole machine: it is set for a while and put back.
struct ReceiveLimit(String);

const RMEM_MAX: &str = "/proc/sys/net/core/rmem_max";

impl ReceiveLimit {
    fn set(bytes: u64) -> Result<Self> {
        let old = std::fs::read_to_string(RMEM_MAX)?;
        std::fs::write(RMEM_MAX, bytes.to_string()).with_context(|| format!("cannot write {RMEM_MAX}"))?;
        Ok(Self(old))
    }
}

impl Drop for ReceiveLimit {
    fn drop(&mut self) {
        let _ = std::fs::write(RMEM_MAX, self.0.trim());
    }
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':')).map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {cores} cores, Linux {}",
        model.unwrap_or("unknown processor").trim(),
        said("uname", &["-r"])
    )
}
