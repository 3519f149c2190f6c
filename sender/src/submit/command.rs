//! The command's end: what is refused here has not been sent anywhere.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use bytes::Bytes;
use diodesync::id::{Channel, Sha256};
use diodesync::quantity::Bytes as Human;
use diodesync::release::name::{FilePath, ProviderAddress};
use diodesync_control::{Client, Progress, ReceiverStream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{FRAME_BYTES_MAX, Message, Role, TAG_DATA, TAG_MESSAGE, Target, What, frame_head};

/// `submit files`.
#[derive(Debug, clap::Args)]
pub struct FilesArgs {
    /// Files, and folders with all that is in them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The folder of the served tree to put them into
    #[arg(long, value_name = "PREFIX")]
    into: Option<String>,
    /// The channel to submit to
    #[arg(long, default_value = "main")]
    channel: Channel,
}

/// `submit provider`.
#[derive(Debug, clap::Args)]
pub struct ProviderArgs {
    /// Archives named terraform-provider-TYPE_VERSION_OS_ARCH.zip, of one version or of several
    #[arg(required = true, value_name = "ZIP")]
    zips: Vec<PathBuf>,
    /// The provider's source address
    #[arg(long, value_name = "HOST/NAMESPACE/TYPE")]
    source: String,
    /// The registry's SHA256SUMS file for this version
    #[arg(long, value_name = "FILE", requires = "signature", requires = "key")]
    sums: Option<PathBuf>,
    /// The binary detached OpenPGP signature over it
    #[arg(long, value_name = "FILE", requires = "sums")]
    signature: Option<PathBuf>,
    /// The public keys that may have signed it; can be given again
    #[arg(long, value_name = "FILE", requires = "sums")]
    key: Vec<PathBuf>,
    /// Give up the upstream's proof: only the network mirror serves the provider then, and clients must trust this gateway
    #[arg(long, conflicts_with = "sums")]
    unsigned: bool,
    /// Plugin protocol versions that it speaks
    #[arg(long, value_name = "VERSION", default_value = "5.0")]
    protocol: Vec<String>,
    /// The channel to submit to
    #[arg(long, default_value = "main")]
    channel: Channel,
}

/// A file to be sent.
#[derive(Debug, Clone)]
pub struct Item {
    /// Where it is.
    pub source: PathBuf,
    /// What it is called to the daemon.
    pub path: String,
    /// What it is.
    pub role: Role,
    /// Its octets.
    pub bytes: u64,
}

impl Item {
    /// A regular file under its own name.
    pub fn of(path: &Path, role: Role) -> anyhow::Result<Self> {
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if !metadata.is_file() {
            bail!("{} is not a regular file", path.display());
        }
        let name = path.file_name().with_context(|| format!("{} has no file name", path.display()))?;
        let name = utf8(path, name)?.to_owned();
        Ok(Self { source: path.to_owned(), path: name, role, bytes: metadata.len() })
    }
}

/// Submits plain files.
pub async fn files(target: &Target, args: FilesArgs) -> anyhow::Result<Value> {
    let prefix = args.into.as_deref().map(|into| into.trim_end_matches('/')).filter(|into| !into.is_empty());
    if let Some(prefix) = prefix {
        prefix.parse::<FilePath>().context("--into")?;
    }
    let mut items = Vec::new();
    for path in &args.paths {
        let metadata =
            std::fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        // A folder given as "." or "a/.." has no name of its own: what is in it goes to the top.
        let name = path.file_name().map(|name| utf8(path, name)).transpose()?;
        let at: Vec<&str> = prefix.into_iter().chain(name).collect();
        walk(path, &metadata, &at.join("/"), &mut items)?;
    }
    if items.is_empty() {
        bail!("there is no file in what was given");
    }
    target.submit(args.channel, What::Files, items).await
}

fn utf8<'a>(path: &Path, name: &'a std::ffi::OsStr) -> anyhow::Result<&'a str> {
    name.to_str().with_context(|| format!("the name of {} is not UTF-8; rename it", path.display()))
}

/// Finds the files below a path, in a fixed order.
fn walk(path: &Path, metadata: &std::fs::Metadata, name: &str, items: &mut Vec<Item>) -> anyhow::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        name.parse::<FilePath>().with_context(|| format!("cannot submit {}", path.display()))?;
        let role = if metadata.mode() & 0o111 == 0 { Role::Plain } else { Role::Executable };
        let item = Item { source: path.to_owned(), path: name.to_owned(), role, bytes: metadata.len() };
        items.push(item);
        return Ok(());
    }
    if !kind.is_dir() {
        let what = if kind.is_symlink() {
            "a symbolic link"
        } else {
            "not a regular file (a FIFO, socket or device)"
        };
        bail!(
            "{} is {what}; only regular files and folders are submitted. Nothing was submitted",
            path.display()
        );
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))?;
    let mut entries =
        entries.collect::<Result<Vec<_>, _>>().with_context(|| format!("cannot list {}", path.display()))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, file_name) = (entry.path(), entry.file_name());
        let own = utf8(&path, &file_name)?;
        let name = if name.is_empty() { own.to_owned() } else { format!("{name}/{own}") };
        let metadata = entry.metadata().with_context(|| format!("cannot read {}", path.display()))?;
        walk(&path, &metadata, &name, items)?;
    }
    Ok(())
}

/// Submits a provider.
pub async fn provider(target: &Target, args: ProviderArgs) -> anyhow::Result<Value> {
    let address: ProviderAddress = args.source.parse().context("--source")?;
    if args.sums.is_none() && !args.unsigned {
        bail!(
            "the provider's proof is missing: give --sums, --signature and --key as its registry serves them, or say \
             --unsigned to give up the proof"
        );
    }
    let proof = args.sums.iter().map(|path| (path, Role::Sums));
    let proof = proof.chain(args.signature.iter().map(|path| (path, Role::Signature)));
    let proof = proof.chain(args.key.iter().map(|path| (path, Role::Key)));
    let files = proof.chain(args.zips.iter().map(|path| (path, Role::Archive)));
    let items = files.map(|(path, role)| Item::of(path, role)).collect::<Result<_, _>>()?;
    let what =
        What::Provider { address: address.to_string(), protocols: args.protocol, unsigned: args.unsigned };
    target.submit(args.channel, what, items).await
}

/// Streams files to the daemon; what it answers.
pub(super) async fn send(
    client: &Client,
    channel: Channel,
    what: What,
    items: Vec<Item>,
) -> anyhow::Result<Value> {
    let (frames, receiver) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(8);
    let put = move |octets: std::io::Result<Bytes>| frames.blocking_send(octets.map(Frame::data)).is_ok();
    let progress = Progress::new(items.iter().map(|item| item.bytes).sum());
    let reader = tokio::task::spawn_blocking(move || {
        read_all(channel, what, &items, &Frames(Box::new(put)), &progress)
    });
    let body = StreamBody::new(ReceiverStream(receiver)).boxed();
    let answer = client.post_stream("/v1/submit", body).await;
    // What the daemon says is why the reader's channel closed, so it comes first.
    match (answer, reader.await?) {
        (Ok(answer), Ok(())) => Ok(answer),
        (_, Err(ReadFailure::File(error))) => Err(error),
        (Err(error), _) => Err(error),
        (Ok(_), Err(ReadFailure::Closed)) => bail!("the daemon answered before it had everything"),
    }
}

/// Why not everything was handed over.
#[derive(Debug)]
pub enum ReadFailure {
    /// A file could not be read.
    File(anyhow::Error),
    /// The daemon takes no more.
    Closed,
}

/// Where frames go, or what breaks the submission off; false if nothing more is taken.
pub struct Frames(pub(super) Box<dyn Fn(std::io::Result<Bytes>) -> bool + Send>);

impl Frames {
    fn put(&self, octets: Vec<u8>) -> Result<(), ReadFailure> {
        if (self.0)(Ok(octets.into())) { Ok(()) } else { Err(ReadFailure::Closed) }
    }

    fn say(&self, message: &Message) -> Result<(), ReadFailure> {
        let body = serde_json::to_vec(message).map_err(|error| ReadFailure::File(error.into()))?;
        self.put([&frame_head(TAG_MESSAGE, body.len()), body.as_slice()].concat())
    }

    /// Says what comes. `bytes` are those of the files that come whole.
    pub fn begin(&self, channel: Channel, what: What, bytes: u64) -> Result<(), ReadFailure> {
        self.say(&Message::Begin { channel, what, bytes })
    }

    fn announce(&self, item: &Item) -> Result<(), ReadFailure> {
        let Item { path, role, bytes, .. } = item;
        self.say(&Message::File { path: path.clone(), role: *role, bytes: *bytes })
    }

    /// Hands a file over.
    pub fn file(&self, item: &Item, progress: &Progress) -> Result<(), ReadFailure> {
        progress.message(format!("{} ({})", item.path, Human(item.bytes)));
        self.content(item, progress)?;
        self.say(&Message::EndFile)
    }

    /// Hands a file over that must be what its digest says.
    pub fn file_of(&self, item: &Item, sha256: Sha256) -> Result<(), ReadFailure> {
        self.content(item, &Progress::hidden())?;
        self.say(&Message::EndOf { sha256 })
    }

    fn content(&self, item: &Item, progress: &Progress) -> Result<(), ReadFailure> {
        self.announce(item)?;
        read_file(item, self, progress).inspect_err(|_| {
            // Breaking the body off tells the daemon that this is not the end.
            let _ = (self.0)(Err(std::io::Error::other("the command could not read a file")));
        })
    }

    /// Names a file that the daemon holds.
    pub fn held(&self, item: &Item, sha256: Sha256) -> Result<(), ReadFailure> {
        self.announce(item)?;
        self.say(&Message::Held { sha256 })
    }

    /// Says that this is all.
    pub fn end(&self) -> Result<(), ReadFailure> {
        self.say(&Message::End)
    }
}

pub(super) fn read_all(
    channel: Channel,
    what: What,
    items: &[Item],
    frames: &Frames,
    progress: &Progress,
) -> Result<(), ReadFailure> {
    frames.begin(channel, what, items.iter().map(|item| item.bytes).sum())?;
    items.iter().try_for_each(|item| frames.file(item, progress))?;
    progress.finish();
    frames.end()
}

fn read_file(item: &Item, frames: &Frames, progress: &Progress) -> Result<(), ReadFailure> {
    let failed = |error: std::io::Error| {
        ReadFailure::File(anyhow::Error::new(error).context(format!("cannot read {}", item.source.display())))
    };
    // What was a file a moment ago may be a FIFO now, which would block for ever.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let mut file =
        File::options().read(true).custom_flags(flags.bits() as i32).open(&item.source).map_err(failed)?;
    let mut left = item.bytes;
    loop {
        // One octet more than expected shows a file that has grown.
        let want = (left + 1).min(FRAME_BYTES_MAX as u64) as usize;
        let mut frame = vec![0; 5 + want];
        let (head, body) = frame.split_at_mut(5);
        let read = file.read(body).map_err(failed)?;
        if read as u64 > left || read == 0 && left > 0 {
            let why = anyhow::anyhow!(
                "{} changed while it was read; submit it again when it has settled",
                item.source.display()
            );
            return Err(ReadFailure::File(why));
        }
        if read == 0 {
            return Ok(());
        }
        head.copy_from_slice(&frame_head(TAG_DATA, read));
        frame.truncate(5 + read);
        left -= read as u64;
        progress.add(read as u64);
        frames.put(frame)?;
    }
}
