//! The command's part: reading a medium, which is nobody's friend.
//!
//! Names are compared with what an export writes and everything else is passed over. Files are opened beneath the folder
//! that was named and nowhere else, without following links, and only regular ones are read, once. Nothing is mounted or
//! executed. What is read goes to the daemon as it is.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use diodesync::id::ExportId;
use diodesync::quantity::Bytes as Human;
use diodesync::volume::{COMPLETE_FILE, FILE_BYTES_MAX, MANIFEST_BYTES_MAX, MANIFEST_FILE};
use diodesync_control::{Client, Progress};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use tokio::sync::mpsc;

use super::{Offered, Standing, Stuck, Summary, Taken, UnderWay};

/// Octets that are read at once.
const READ_BYTES: usize = 1 << 18;
/// Files that a volume has at most.
const FILES_MAX: usize = 4096;

/// `import`.
#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The folder with volumes: where a medium is mounted (ro,nodev,nosuid,noexec)
    #[arg(required_unless_present_any = ["list", "discard"], conflicts_with_all = ["list", "discard"])]
    dir: Option<PathBuf>,
    /// Show the imports of which not everything is here
    #[arg(long, conflicts_with = "discard")]
    list: bool,
    /// Throw away what came of an import that nobody goes on with; whole blocks of it stay
    #[arg(long, value_name = "EXPORT")]
    discard: Option<ExportId>,
}

/// A volume's folder.
#[derive(Debug)]
struct Volume {
    name: String,
    export: ExportId,
    dir: OwnedFd,
    /// First slot, and name.
    files: Vec<(u32, String)>,
    is_complete: bool,
}

/// What was asked for.
pub async fn import(client: &Client, args: ImportArgs, json: bool) -> anyhow::Result<()> {
    if let Some(export) = args.discard {
        client.post(&format!("/v1/imports/{export}/discard"), &serde_json::Value::Null).await?;
        if json {
            println!("{:#}", serde_json::json!({ "export": export }));
        } else {
            println!("export {export}: what had come of it is thrown away; whole blocks stay");
        }
    } else if let Some(dir) = args.dir {
        read_all(client, &dir).await?;
    } else {
        let answer = client.get("/v1/imports").await?;
        if json {
            println!("{answer:#}");
        } else {
            print!("{}", listing(&serde_json::from_value(answer)?));
        }
    }
    Ok(())
}

fn listing(UnderWay { imports, stuck }: &UnderWay) -> String {
    if imports.is_empty() && stuck.is_empty() {
        return "no import is under way\n".to_owned();
    }
    let mut text = String::new();
    for Standing { export, volumes, data_slots, missing_slots, missing, .. } in imports {
        let on: Vec<String> = missing.iter().map(|lack| format!("{:03}", lack.volume)).collect();
        let state = if on.is_empty() {
            "every piece is here, and it was not finished; import one of its volumes again".to_owned()
        } else {
            format!(
                "{missing_slots} of {data_slots} pieces are missing, on volume {} of {volumes}",
                on.join(", ")
            )
        };
        text += &format!("export {export}: {state}\n");
    }
    for Stuck { export, why } in stuck {
        text += &format!(
            "export {export}: its state cannot be read now: {why}. Import one of its media again; or give its room back: diode-receiver import --discard {export}\n"
        );
    }
    text
}

/// Reads all volumes in a folder. It is an error if not everything is here then.
async fn read_all(client: &Client, dir: &Path) -> anyhow::Result<()> {
    let volumes = volumes(dir)?;
    if volumes.is_empty() {
        bail!(
            "there is no volume in {}; expected folders named diodesync-EXPORT-NNN, as diode-sender export writes them",
            dir.display()
        );
    }
    let mut exports: Vec<ExportId> = volumes.iter().map(|volume| volume.export).collect();
    exports.sort_unstable();
    exports.dedup();
    let mut failures = Vec::new();
    for export in exports {
        let volumes: Vec<&Volume> = volumes.iter().filter(|volume| volume.export == export).collect();
        match import_one(client, export, &volumes).await {
            Ok(true) => {}
            Ok(false) => failures.push(format!("export {export} is not whole yet")),
            Err(error) => failures.push(format!("export {export}: {error:#}")),
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
}

async fn import_one(client: &Client, export: ExportId, volumes: &[&Volume]) -> anyhow::Result<bool> {
    let offered = begin(client, export, volumes).await?;
    println!(
        "export {export}: {} volume(s), {} of {} pieces are here already",
        offered.volumes,
        offered.data_slots - offered.missing_slots,
        offered.data_slots
    );
    for volume in volumes {
        if !volume.is_complete {
            println!("{}: it was not completed when it was written; what is there is taken", volume.name);
        }
        let mut total = Taken::default();
        for (first, name) in &volume.files {
            let file = match open_file(&volume.dir, name) {
                Ok(file) => file,
                // Somebody else has put it there, or the medium has lost it. Parity may make up for it.
                Err(error) => {
                    println!("{}: {name:?} is passed over: {error:#}", volume.name);
                    continue;
                }
            };
            let taken = send_file(client, volume, *first, name, file).await?;
            total.slots += taken.slots;
            total.new += taken.new;
            total.damaged.extend(taken.damaged);
        }
        println!(
            "{}: {} pieces, {} new, {} damaged",
            volume.name,
            total.slots,
            total.new,
            total.damaged.len()
        );
    }
    let path = format!("/v1/imports/{export}/finish");
    let summary: Summary = serde_json::from_value(client.post(&path, &serde_json::Value::Null).await?)?;
    if summary.repaired > 0 {
        println!("{} pieces were repaired by parity", summary.repaired);
    }
    summary.dropped.iter().for_each(|why| println!("not kept: {why}"));
    if summary.was_whole {
        println!("everything of this export came before; what is on this medium was taken again");
        return Ok(true);
    }
    for (volume, slots) in &summary.missing {
        println!("volume {volume:03}: {slots} pieces are missing");
    }
    if summary.missing_slots == 0 {
        println!("everything is here; see: diode-receiver status");
    }
    Ok(summary.missing_slots == 0)
}

/// Any volume's manifest will do, and that of an earlier medium too.
async fn begin(client: &Client, export: ExportId, volumes: &[&Volume]) -> anyhow::Result<Offered> {
    let mut refused = Vec::new();
    for volume in volumes {
        let manifest = open_file(&volume.dir, MANIFEST_FILE).and_then(|file| {
            let mut octets = Vec::new();
            file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut octets)?;
            Ok(octets)
        });
        let answer = match manifest {
            Ok(octets) => {
                let body = http_body_util::Full::new(Bytes::from(octets)).map_err(|never| match never {});
                client.post_stream("/v1/imports", body.boxed()).await
            }
            Err(error) => Err(error),
        };
        match answer.and_then(|answer| Ok(serde_json::from_value::<Offered>(answer)?)) {
            Ok(offered) if offered.export == export => return Ok(offered),
            Ok(offered) => {
                refused.push(format!("{}: its manifest is of export {}", volume.name, offered.export))
            }
            Err(error) => refused.push(format!("{}: {error:#}", volume.name)),
        }
    }
    let path = format!("/v1/imports/{export}/resume");
    match client.post(&path, &serde_json::Value::Null).await {
        Ok(answer) => Ok(serde_json::from_value(answer)?),
        Err(_) => bail!("{}", refused.join("\n")),
    }
}

async fn send_file(
    client: &Client,
    volume: &Volume,
    first: u32,
    name: &str,
    file: File,
) -> anyhow::Result<Taken> {
    let bytes = file.metadata()?.len();
    let progress = Progress::new(bytes);
    progress.message(format!("{}/{name} ({})", volume.name, Human(bytes)));
    let (sender, receiver) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(8);
    let reader = tokio::task::spawn_blocking(move || {
        // Rotten sectors are read errors: what is behind them must not be lost with them, so they become zeros.
        let mut at = 0;
        while at < bytes.min(FILE_BYTES_MAX) {
            let want = usize::try_from(bytes - at).unwrap_or(READ_BYTES).min(READ_BYTES);
            let mut chunk = vec![0; want];
            if std::os::unix::fs::FileExt::read_exact_at(&file, &mut chunk, at).is_err() {
                read_around(&file, &mut chunk, at);
            }
            progress.add(want as u64);
            at += want as u64;
            if sender.blocking_send(Ok(Frame::data(chunk.into()))).is_err() {
                return;
            }
        }
        progress.finish();
    });
    let body = StreamBody::new(diodesync_control::ReceiverStream(receiver)).boxed();
    let path = format!("/v1/imports/{}/slots?first={first}", volume.export);
    let answer = client.post_stream(&path, body).await;
    reader.await?;
    Ok(serde_json::from_value(answer?)?)
}

/// Reads what can be read, sector by sector.
fn read_around(file: &File, chunk: &mut [u8], at: u64) {
    for (sector, offset) in chunk.chunks_mut(512).zip((at..).step_by(512)) {
        if std::os::unix::fs::FileExt::read_exact_at(file, sector, offset).is_err() {
            sector.fill(0);
        }
    }
}

/// The volumes in a folder.
fn volumes(dir: &Path) -> anyhow::Result<Vec<Volume>> {
    let what = || format!("cannot read {}", dir.display());
    let root = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.with_context(what)?;
    let mut volumes = Vec::new();
    for name in names(&root).with_context(what)? {
        let Some(export) = export_of(&name) else { continue };
        let opened = open_beneath(&root, &name, OFlags::DIRECTORY);
        let opened = opened.and_then(|dir| names(&dir).map(|names| (dir, names)));
        let (dir, names) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                println!("{name}: it is passed over: {error}");
                continue;
            }
        };
        let mut files: Vec<(u32, String)> = names
            .iter()
            .filter_map(|name| Some((name.strip_suffix(".slots")?.parse().ok()?, name.clone())))
            .take(FILES_MAX)
            .collect();
        files.sort();
        let is_complete = names.iter().any(|name| name == COMPLETE_FILE);
        volumes.push(Volume { name, export, dir, files, is_complete });
    }
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(volumes)
}

/// `diodesync-EXPORT-NNN`
fn export_of(name: &str) -> Option<ExportId> {
    let (export, number) = name.strip_prefix("diodesync-")?.split_once('-')?;
    let is_number = number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit());
    export.parse().ok().filter(|_| is_number)
}

fn names(dir: impl AsFd) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        names.extend(entry?.file_name().to_str().ok().map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

fn open_beneath(dir: impl AsFd, name: &str, flags: OFlags) -> std::io::Result<OwnedFd> {
    // What was a file a moment ago may be a FIFO now, which would block for ever.
    let flags =
        flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?)
}

fn open_file(dir: &OwnedFd, name: &str) -> anyhow::Result<File> {
    let file =
        File::from(open_beneath(dir, name, OFlags::empty()).with_context(|| format!("cannot open {name}"))?);
    if !file.metadata()?.is_file() {
        bail!("{name} is not a regular file");
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::VolumeLack;

    #[test]
    fn what_is_under_way_is_told() {
        let standing = |missing: Vec<VolumeLack>| Standing {
            export: ExportId([1; 8]),
            made_s: 5,
            volumes: 3,
            data_slots: 40,
            missing_slots: missing.iter().map(|lack| lack.slots).sum(),
            missing,
        };
        let of = |imports: Vec<Standing>, stuck: Vec<Stuck>| listing(&UnderWay { imports, stuck });
        assert_eq!(of(Vec::new(), Vec::new()), "no import is under way\n");
        let lacks = vec![VolumeLack { volume: 2, slots: 7 }, VolumeLack { volume: 3, slots: 1 }];
        assert_eq!(
            of(vec![standing(lacks)], Vec::new()),
            "export 0101010101010101: 8 of 40 pieces are missing, on volume 002, 003 of 3\n"
        );
        assert!(of(vec![standing(Vec::new())], Vec::new()).contains("every piece is here"));
        let stuck = vec![Stuck { export: ExportId([2; 8]), why: "it is for another".to_owned() }];
        assert!(
            of(Vec::new(), stuck)
                .contains("another. Import one of its media again; or give its room back: diode-receiver import --discard 02")
        );
    }

    #[test]
    fn only_names_of_volumes_are_looked_at() {
        assert!(export_of("diodesync-0011223344556677-001").is_some());
        for bad in [
            "diodesync-0011223344556677",
            "diodesync-0011223344556677-1",
            "diodesync-xx-001",
            "x",
            "diodesync-0011223344556677-00a",
        ] {
            assert!(export_of(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn links_and_fifos_are_not_followed() {
        let dir = std::env::temp_dir().join(format!("diodesync-medium-{}", std::process::id()));
        let volume = dir.join("diodesync-0011223344556677-001");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(dir.join("outside"), b"secret").unwrap();
        std::fs::write(volume.join("00000000.slots"), b"x").unwrap();
        std::os::unix::fs::symlink("../outside", volume.join("manifest")).unwrap();
        std::os::unix::fs::symlink(&volume, dir.join("diodesync-0011223344556678-001")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            volume.join("00000001.slots"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let found = volumes(&dir).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].files.len(), 2);
        assert!(open_file(&found[0].dir, "manifest").is_err());
        assert!(open_file(&found[0].dir, "../outside").is_err());
        assert!(
            open_file(&found[0].dir, "00000001.slots")
                .unwrap_err()
                .to_string()
                .contains("not a regular file")
        );
        assert!(open_file(&found[0].dir, "00000000.slots").is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
