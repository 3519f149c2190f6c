//! The command's part: slots onto media that a person puts in.
//!
//! Written means on the medium: every file is synced, thrown out of the cache, read back and compared before the volume
//! is marked complete. What is there already is compared and left, so that after a stick was pulled the same command
//! goes on.

use std::fs::File;
use std::io::{BufRead, IsTerminal};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use diodesync::id::{Channel, ExportId, ReleaseNo};
use diodesync::pack::fact;
use diodesync::quantity::{Bytes, Span, parse_bytes, parse_percent};
use diodesync::volume::{COMPLETE_FILE, MANIFEST_FILE, VolumeNo, slots_file, volume_dir};
use diodesync_control::{Client, Progress, clock_s};

use super::{Begun, Request, VolumePlan};
use crate::resend;

/// Octets that are read back at once.
const READ_BYTES: usize = 1 << 20;
/// Octets that a volume takes besides its slots: manifest, marker, folder, clusters half used.
const OVERHEAD_BYTES: u64 = 1 << 20;

/// `export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// The folder to write to: where the medium is mounted
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The channel whose newest release is exported
    #[arg(long, default_value = "main")]
    channel: Channel,
    /// Export everything, which is what is done if nothing else is asked for
    #[arg(long, conflicts_with_all = ["since", "ticket"])]
    full: bool,
    /// Export only what this older release does not hold
    #[arg(long, value_name = "N")]
    since: Option<u64>,
    /// Export only what the ticket asks for: a file that holds it, or - for standard input
    #[arg(long, value_name = "TICKET", conflicts_with = "since")]
    ticket: Option<String>,
    /// The size of one volume, like 4GB; what is free in DIR, if it is not given
    #[arg(long, value_name = "SIZE")]
    volume_size: Option<String>,
    /// Parity over all volumes, as a share of the data
    #[arg(long, value_name = "SHARE", default_value = "10%")]
    parity: String,
    /// Leave the contents readable for whoever finds a volume
    #[arg(long)]
    plain: bool,
}

/// Writes a release onto one volume or several.
pub async fn export(client: &Client, args: ExportArgs) -> anyhow::Result<()> {
    let to = &args.to;
    if !to.is_dir() {
        bail!("{} is not a folder; mount the medium there first", to.display());
    }
    let begun = match unfinished(client, to).await? {
        Some(begun) => {
            eprintln!("going on with export {} of release {} {}", begun.export, begun.channel, begun.number);
            begun
        }
        None => begin(client, &args).await?,
    };
    let total: u64 = begun.volumes.iter().map(|volume| volume.bytes).sum();
    let baseline = match begun.baseline {
        _ if begun.is_by_ticket => format!("the {} blocks that the ticket asks for", begun.blocks),
        Some(number) => format!("what release {number} does not hold"),
        None => "everything".to_owned(),
    };
    println!(
        "release {} {}: {baseline}, {} on {} volume(s); {} of them may be lost",
        begun.channel,
        begun.number,
        Bytes(total),
        begun.volumes.len(),
        begun.expendable
    );
    let carry = Duration::from_secs(begun.expires_s.saturating_sub(clock_s()));
    println!("the receiver takes it for {}", Span(carry));
    let export: ExportId = begun.export.parse()?;
    for (number, volume) in (0u32..).zip(&begun.volumes) {
        let name = volume_dir(export, VolumeNo(number));
        if client.get(&format!("/v1/exports/{export}/volumes/{number}")).await?.as_bool() == Some(true) {
            println!("{name} is written already");
            continue;
        }
        wait_for_room(to, &name, volume)?;
        write_volume(client, &begun, export, number, &to.join(&name)).await?;
        client.post(&format!("/v1/exports/{export}/volumes/{number}"), &serde_json::json!(true)).await?;
        println!("{name}: {} written, read back and compared", Bytes(volume.bytes));
    }
    client.post(&format!("/v1/exports/{export}/finish"), &serde_json::json!(true)).await?;
    println!("Unmount before you pull it out. On the high side: diode-receiver import {}", to.display());
    Ok(())
}

async fn begin(client: &Client, args: &ExportArgs) -> anyhow::Result<Begun> {
    let volume_bytes = match &args.volume_size {
        Some(size) => parse_bytes(size).context("--volume-size")?,
        None => free_bytes(&args.to)?,
    };
    let request = Request {
        channel: args.channel.clone(),
        since: args.since.map(ReleaseNo),
        ticket: args
            .ticket
            .as_ref()
            .map(|ticket| resend::read_ticket(std::slice::from_ref(ticket)))
            .transpose()?,
        parity_percent: parse_percent(&args.parity).context("--parity")?,
        volume_bytes,
        plain: args.plain,
    };
    Ok(serde_json::from_value(client.post("/v1/exports", &serde_json::to_value(request)?).await?)?)
}

/// The export of which a volume in `to` was begun and not completed, if the daemon still knows it.
async fn unfinished(client: &Client, to: &Path) -> anyhow::Result<Option<Begun>> {
    for entry in std::fs::read_dir(to).with_context(|| format!("cannot list {}", to.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let export = name.to_str().and_then(|name| name.strip_prefix("diodesync-")?.get(..16)?.parse().ok());
        let Some(export): Option<ExportId> = export else { continue };
        if let Ok(begun) = client.get(&format!("/v1/exports/{export}")).await {
            return Ok(Some(serde_json::from_value(begun)?));
        }
    }
    Ok(None)
}

fn free_bytes(dir: &Path) -> anyhow::Result<u64> {
    let stat = rustix::fs::statvfs(dir).with_context(|| format!("cannot measure {}", dir.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Waits until a medium with room is in, for as long as there is a person to put one in.
fn wait_for_room(to: &Path, name: &str, volume: &VolumePlan) -> anyhow::Result<()> {
    let needed = volume.bytes + OVERHEAD_BYTES;
    loop {
        let there = written_bytes(&to.join(name));
        let free = free_bytes(to)?;
        if free + there >= needed {
            return Ok(());
        }
        let what = format!(
            "{name} needs {}, {} has {} free; put the next medium in and mount it there",
            Bytes(needed),
            to.display(),
            Bytes(free)
        );
        if !std::io::stdin().is_terminal() {
            bail!("{what}, then run the same command again: it goes on here");
        }
        eprintln!("{what}, then press Enter");
        std::io::stdin().lock().read_line(&mut String::new())?;
    }
}

/// Octets of a volume that were written before.
fn written_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

async fn write_volume(
    client: &Client,
    begun: &Begun,
    export: ExportId,
    number: u32,
    dir: &Path,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let volume = begun.volumes.get(number as usize).context("there is no such volume")?;
    let progress = Progress::new(2 * volume.bytes);
    let manifest = BASE64_STANDARD.decode(&begun.manifest)?;
    let mut marker = String::new();
    let mut done = |name: &str, digest: blake3::Hash| marker.push_str(&format!("{digest}  {name}\n"));

    let mut writer = Writer::open(dir.join(MANIFEST_FILE))?;
    writer.put(&manifest)?;
    done(MANIFEST_FILE, writer.finish(&progress)?);
    for (first, end, _) in &volume.files {
        let name = slots_file(*first);
        progress.message(format!("{}/{name}", dir.display()));
        let mut writer = Writer::open(dir.join(&name))?;
        let path = format!("/v1/exports/{export}/slots?first={first}&end={end}");
        client
            .get_octets(&path, |octets| {
                progress.add(octets.len() as u64);
                writer.put(octets)
            })
            .await?;
        done(&name, writer.finish(&progress)?);
    }
    fact::sync_dir(dir)?;
    fact::write_atomic(&dir.join(COMPLETE_FILE), 0o644, &[marker.as_bytes()])?;
    progress.finish();
    Ok(())
}

/// A file on the medium, written where it differs.
struct Writer {
    path: PathBuf,
    file: File,
    at: u64,
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Writer {
    fn open(path: PathBuf) -> anyhow::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, file, at: 0, hasher: blake3::Hasher::new(), buffer: Vec::new() })
    }

    fn put(&mut self, octets: &[u8]) -> anyhow::Result<()> {
        self.hasher.update(octets);
        self.buffer.resize(octets.len(), 0);
        let is_there = self.file.read_exact_at(&mut self.buffer, self.at).is_ok() && self.buffer == octets;
        if !is_there {
            let written = self.file.write_all_at(octets, self.at);
            written.with_context(|| format!("cannot write {} at {}", self.path.display(), self.at))?;
        }
        self.at += octets.len() as u64;
        Ok(())
    }

    /// Has it on the medium, and reads it from there.
    fn finish(self, progress: &Progress) -> anyhow::Result<blake3::Hash> {
        let what = || format!("cannot write {}", self.path.display());
        self.file.set_len(self.at).with_context(what)?;
        self.file.sync_all().with_context(what)?;
        drop_cache(&self.file);
        drop(self.file);
        let file =
            File::open(&self.path).with_context(|| format!("cannot read {} back", self.path.display()))?;
        drop_cache(&file);
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; READ_BYTES];
        let mut at = 0;
        while at < self.at {
            let room = usize::try_from(self.at - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let piece = buffer.get_mut(..room).unwrap_or_default();
            let read = file.read_exact_at(piece, at);
            read.with_context(|| format!("cannot read {} back at {at}", self.path.display()))?;
            hasher.update(piece);
            progress.add(room as u64);
            at += room as u64;
        }
        let (written, found) = (self.hasher.finalize(), hasher.finalize());
        if written != found {
            bail!(
                "{} reads back as something else than was written: the medium is faulty. Use another one",
                self.path.display()
            );
        }
        Ok(written)
    }
}

/// So that what is read comes from the medium. A file system that cannot do it costs certainty, not data.
fn drop_cache(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}
