//! The daemon's end: checks, and stages all or nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use diodesync::id::Sha256;
use diodesync::limits::PROOF_BYTES_MAX;
use diodesync::pack::PackStore;
use diodesync::release::index::{ArtifactKind, Provider, ProviderArchive, ProviderProof};
use diodesync::release::name::{
    ArtifactName, FilePath, Platform, ProviderAddress, Version, parse_provider_archive_name,
};
use diodesync::release::provider::{ProofInput, split_keys, verify};
use diodesync_control::audit::Tell;
use diodesync_control::clock_s;
use tokio::sync::mpsc;

use super::{FRAME_BYTES_MAX, Message, Role, TAG_DATA, TAG_MESSAGE, What, image, module, packages};
use crate::ingest::{BlobWriter, Submission, Totals};
use crate::provider_zip;
use crate::store::Store;

/// A file is not what it was when its digest was proven.
#[derive(Debug, thiserror::Error)]
#[error(
    "blob {expected} was found to be {found} when it was read back; submit it again, and look at the disk"
)]
pub struct Garbled {
    /// What it was to be.
    pub expected: Sha256,
    /// What it is.
    pub found: Sha256,
}

/// Who submits, and what that means for the checks.
#[derive(Clone, Copy)]
pub struct Submitter<'a> {
    /// Tells what is about to be staged.
    pub tell: &'a Tell<'a>,
    /// Whether an artifact may be submitted, once it is known what it is called.
    pub judge: &'a dyn Fn(&ArtifactName) -> anyhow::Result<()>,
    /// Whether an artifact is made only of what the submission names, file by file, and of nothing else that is here.
    pub only_given: bool,
}

impl<'a> Submitter<'a> {
    /// Someone who may submit everything: who reaches the control socket, and the daemon itself.
    pub fn trusted(tell: &'a Tell<'a>) -> Self {
        Self { tell, judge: &|_| Ok(()), only_given: false }
    }
}

/// Takes a submission from the chunks of a request's body. Runs on a thread of its own; `writer` lets one through at a
/// time.
pub fn receive(
    packs: &PackStore,
    store: &Mutex<Store>,
    writer: &Mutex<()>,
    chunks: mpsc::Receiver<Bytes>,
    by: &Submitter<'_>,
) -> anyhow::Result<Totals> {
    let mut frames = FrameReader { chunks, rest: Bytes::new(), data_left: 0 };
    let Some(Frame::Message(Message::Begin { channel, what, bytes })) = frames.next()? else {
        bail!("a submission must begin with what it is");
    };
    let _one_at_a_time = writer.lock().unwrap_or_else(PoisonError::into_inner);
    packs.admit("the submission", bytes)?;
    let mut submission = Submission::begin(packs, store, channel)?;
    match what {
        What::Files => take_files(&mut submission, &mut frames)?,
        What::Provider { address, protocols, unsigned } => {
            let address = address.parse()?;
            let files = take_provider_files(&mut submission, &mut frames)?;
            check_provider(&mut submission, &address, protocols, unsigned, files)?;
        }
        What::Module { address, version, folder } => {
            let (address, version, folder) = (address.parse()?, version.parse()?, folder.parse()?);
            module::take(&mut submission, &mut frames, address, version, folder)?;
        }
        What::Packages { suite, component, held } => {
            packages::take(&mut submission, &mut frames, &suite.parse()?, &component, &held)?
        }
        What::Image { repository, tags, omitted } => {
            let image = image::Named { repository: repository.parse()?, tags, omitted };
            image::take(&mut submission, &mut frames, image, by.only_given)?
        }
    }
    submission.names().try_for_each(by.judge)?;
    submission.finish(clock_s(), by.tell)
}

fn take_files(submission: &mut Submission<'_>, frames: &mut FrameReader) -> anyhow::Result<()> {
    while let Some((path, role, bytes)) = frames.next_file()? {
        let name = ArtifactName::File(path.parse::<FilePath>()?);
        let executable = match role {
            Role::Plain => false,
            Role::Executable => true,
            _ => bail!("{path} is not a plain file"),
        };
        let blob = take_blob(submission, frames, bytes)?;
        submission.artifact(name, ArtifactKind::File { blob, executable })?;
    }
    Ok(())
}

/// Takes the octets of a file that was announced to have `bytes`.
pub(super) fn take_blob(
    submission: &mut Submission<'_>,
    frames: &mut FrameReader,
    bytes: u64,
) -> anyhow::Result<Sha256> {
    let mut blob: BlobWriter = submission.begin_blob(bytes);
    let mut taken = 0;
    loop {
        match frames.next()? {
            Some(Frame::Data(octets)) => {
                taken += octets.len() as u64;
                submission.write(&mut blob, &octets)?;
            }
            Some(Frame::Message(Message::EndFile)) if taken == bytes => return submission.end_blob(blob),
            Some(Frame::Message(Message::Held { sha256 })) if taken == 0 => {
                submission.refer(&sha256, bytes)?;
                return Ok(sha256);
            }
            Some(Frame::Message(Message::EndOf { sha256 })) if taken == bytes => {
                let found = submission.end_blob(blob)?;
                anyhow::ensure!(found == sha256, Garbled { expected: sha256, found });
                return Ok(found);
            }
            Some(Frame::Message(Message::EndFile | Message::EndOf { .. })) => {
                bail!("a file of {bytes} octets was announced, {taken} came")
            }
            _ => bail!("a submission broke off in the middle of a file"),
        }
    }
}

/// What was submitted for a provider.
#[derive(Debug, Default)]
struct ProviderFiles {
    sums: Option<Sha256>,
    signature: Option<Sha256>,
    keys: Vec<(String, Sha256)>,
    archives: Vec<(String, Sha256)>,
}

fn take_provider_files(
    submission: &mut Submission<'_>,
    frames: &mut FrameReader,
) -> anyhow::Result<ProviderFiles> {
    let mut files = ProviderFiles::default();
    while let Some((name, role, bytes)) = frames.next_file()? {
        if role != Role::Archive && bytes > PROOF_BYTES_MAX {
            bail!("{name} has {bytes} octets; a proof has at most {PROOF_BYTES_MAX}");
        }
        let blob = take_blob(submission, frames, bytes)?;
        match role {
            Role::Sums => files.sums = Some(blob),
            Role::Signature => files.signature = Some(blob),
            Role::Key => files.keys.push((name, blob)),
            Role::Archive => files.archives.push((name, blob)),
            _ => bail!("{name} has no place in a provider"),
        }
    }
    Ok(files)
}

fn check_provider(
    submission: &mut Submission<'_>,
    address: &ProviderAddress,
    protocols: Vec<String>,
    unsigned: bool,
    files: ProviderFiles,
) -> anyhow::Result<()> {
    let read = |submission: &Submission<'_>, blob: &Sha256| -> anyhow::Result<Vec<u8>> {
        submission.whole(blob, PROOF_BYTES_MAX)
    };
    let proof = match (files.sums, files.signature) {
        (Some(sums), Some(signature)) if !unsigned => {
            let mut keys = BTreeMap::new();
            for (name, blob) in &files.keys {
                let split =
                    split_keys(&read(submission, blob)?).with_context(|| format!("the key file {name}"))?;
                keys.extend(split);
            }
            let signature_octets = read(submission, &signature)?;
            if signature_octets.starts_with(b"-----BEGIN") {
                bail!(
                    "the signature is ASCII-armored; Terraform takes binary ones only. Convert it with: gpg --dearmor"
                );
            }
            let archives: Vec<_> = files.archives.clone();
            let sums_octets = read(submission, &sums)?;
            let input = ProofInput { sums: &sums_octets, signature: &signature_octets, keys: &keys };
            let signer = verify(&input, &archives)?;
            tracing::info!(%address, key = signer.key_id, fingerprint = signer.fingerprint, "provider's proof is good");
            let keys = keys
                .into_iter()
                .map(|(id, armored)| Ok((id, submission.put(&armored)?)))
                .collect::<anyhow::Result<_>>()?;
            Some(ProviderProof { sums, signature, keys })
        }
        (None, None) if unsigned => None,
        _ => bail!("a provider comes with sums, signature and keys, or with --unsigned and none of them"),
    };

    let mut versions: BTreeMap<Version, BTreeMap<Platform, ProviderArchive>> = BTreeMap::new();
    for (name, blob) in &files.archives {
        let (version, platform) = parse_provider_archive_name(&address.kind, name)?;
        let reader = || submission.reader(blob).context("a blob that was just written is missing");
        let archive = || -> anyhow::Result<[u8; 32]> {
            provider_zip::check_is_provider_zip(reader()?, &address.kind)?;
            Ok(provider_zip::h1(std::io::BufReader::with_capacity(1 << 16, reader()?))?)
        };
        let h1 = archive().with_context(|| format!("{name} is refused"))?;
        tracing::info!(%address, %version, %platform, h1 = BASE64_STANDARD.encode(h1), "provider archive");
        versions.entry(version).or_default().insert(platform, ProviderArchive { blob: *blob, h1 });
    }
    if versions.is_empty() {
        bail!("no archive was given for {address}");
    }
    for (version, mut archives) in versions {
        let name = ArtifactName::Provider(address.clone(), version);
        // Platforms that came before under the same proof stay.
        if let Some(ArtifactKind::Provider(before)) = submission.present(&name) {
            let sums = |proof: &Option<ProviderProof>| proof.as_ref().map(|proof| proof.sums);
            if sums(&before.proof) == sums(&proof) {
                before.archives.into_iter().for_each(|(platform, archive)| {
                    archives.entry(platform).or_insert(archive);
                });
            }
        }
        let provider = Provider { protocols: protocols.clone(), proof: proof.clone(), archives };
        submission.artifact(name, ArtifactKind::Provider(provider))?;
    }
    Ok(())
}

enum Frame {
    Message(Message),
    Data(Bytes),
}

/// Takes frames out of chunks of any size.
pub(super) struct FrameReader {
    chunks: mpsc::Receiver<Bytes>,
    rest: Bytes,
    data_left: usize,
}

impl FrameReader {
    /// The next file's path, role and octets; `None` at the end that was meant to be one.
    pub(super) fn next_file(&mut self) -> anyhow::Result<Option<(String, Role, u64)>> {
        match self.next()? {
            Some(Frame::Message(Message::File { path, role, bytes })) => Ok(Some((path, role, bytes))),
            Some(Frame::Message(Message::End)) => Ok(None),
            Some(_) => bail!("a submission says something that does not belong here"),
            None => bail!("the submission broke off; nothing of it was kept"),
        }
    }

    fn next(&mut self) -> anyhow::Result<Option<Frame>> {
        if self.data_left > 0 {
            return self.data();
        }
        let mut head = [0; 5];
        for (at, octet) in head.iter_mut().enumerate() {
            match self.octet() {
                Some(next) => *octet = next,
                None if at == 0 => return Ok(None),
                None => bail!("the submission broke off; nothing of it was kept"),
            }
        }
        let [tag, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if length > FRAME_BYTES_MAX {
            bail!("a frame of {length} octets was announced, the limit is {FRAME_BYTES_MAX}");
        }
        match tag {
            TAG_MESSAGE => {
                let mut body = Vec::with_capacity(length);
                while body.len() < length {
                    body.push(self.octet().context("the submission broke off; nothing of it was kept")?);
                }
                let message = serde_json::from_slice(&body);
                Ok(Some(Frame::Message(message.context("a message of the submission is not understood")?)))
            }
            TAG_DATA if length > 0 => {
                self.data_left = length;
                self.data()
            }
            _ => bail!("a frame of the submission is not understood"),
        }
    }

    fn data(&mut self) -> anyhow::Result<Option<Frame>> {
        if !self.fill() {
            bail!("the submission broke off; nothing of it was kept");
        }
        let octets = self.rest.split_to(self.rest.len().min(self.data_left));
        self.data_left -= octets.len();
        Ok(Some(Frame::Data(octets)))
    }

    fn octet(&mut self) -> Option<u8> {
        if !self.fill() {
            return None;
        }
        self.rest.split_to(1).first().copied()
    }

    fn fill(&mut self) -> bool {
        while self.rest.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = chunk,
                None => return false,
            }
        }
        true
    }
}
