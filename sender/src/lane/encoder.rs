//! Encoders: threads that read blocks out of packs and compute their repair symbols.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use diodesync::buffer::Buffer;
use diodesync::fec::{Codec, EncodedBlock, Window};
use diodesync::id::Blake3;
use diodesync::limits::BLOCK_BYTES;
use diodesync::pack::PackStore;
use diodesync::send::Job;
use diodesync::wire::ObjectId;
use diodesync_control::service::yield_to_others;

/// A release's number of order, a job, and its block; none if it could not be read.
type Encoded = (u64, Job, Option<EncodedBlock>);

/// The objects of a release that are not in packs.
#[derive(Debug, Clone)]
pub struct Control {
    /// The trust bundle.
    pub trust: Arc<Vec<u8>>,
    /// The index.
    pub index: Arc<Vec<u8>>,
}

/// A few threads. Their queues are bounded by who asks: see `AHEAD`.
#[derive(Debug)]
pub struct Encoders {
    jobs: Sender<(u64, Job, Control)>,
    blocks: Receiver<Encoded>,
    waited: Option<Encoded>,
    buffers: Buffers,
}

/// Source and repair buffers to use again.
type Buffers = Arc<Mutex<Vec<(Buffer, Vec<u8>)>>>;

/// Threads: encoding at 2 GB/s, one keeps up with any lane on its own, two hide reading.
const THREADS: usize = 2;
/// Pairs of buffers kept for the next blocks.
const BUFFERS_MAX: usize = 16;
/// How much an encoder steps back if it is to yield.
const ENCODER_NICE: i32 = 10;

impl Encoders {
    /// Starts the threads; they end when this is dropped. With `is_yielding` they take what the machine has left: a lane
    /// that goes as fast as it can must not do so at the cost of whoever else needs the processors, least of all of a
    /// receiver on the same machine.
    pub fn start(packs: Arc<PackStore>, is_yielding: bool) -> anyhow::Result<Self> {
        let (jobs, queue) = channel::<(u64, Job, Control)>();
        let (done, blocks) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let buffers = Buffers::default();
        for number in 0..THREADS {
            let (queue, done, packs, buffers) = (queue.clone(), done.clone(), packs.clone(), buffers.clone());
            let work = move || {
                if is_yielding {
                    yield_to_others(ENCODER_NICE);
                }
                let mut codec = Codec::default();
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((generation, job, control)) = job else { return };
                    let (source, repair) =
                        buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
                    let block = match read(&packs, &control, &job, source) {
                        Ok(source) => {
                            let window = Window { start: job.window_start, symbols: job.window_symbols };
                            Some(codec.encode_window(job.oti, job.sbn, window, source, repair))
                        }
                        Err(error) => {
                            tracing::error!(object = %job.object, error = format!("{error:#}"), "cannot be read and is not sent");
                            None
                        }
                    };
                    if done.send((generation, job, block)).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("encoder {number}"));
            thread.spawn(work).context("cannot start an encoder's thread")?;
        }
        Ok(Self { jobs, blocks, waited: None, buffers })
    }

    /// Has a job read and encoded.
    pub fn encode(&self, generation: u64, job: Job, control: &Control) {
        // The threads live as long as this.
        let _ = self.jobs.send((generation, job, control.clone()));
    }

    /// The next one that is done.
    pub fn poll(&mut self) -> Option<Encoded> {
        self.waited.take().or_else(|| self.blocks.try_recv().ok())
    }

    /// Waits until one is done, for a while.
    pub fn wait(&mut self, time: Duration) {
        if self.waited.is_none() {
            match self.blocks.recv_timeout(time) {
                Ok(encoded) => self.waited = Some(encoded),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(time),
            }
        }
    }

    /// Takes the buffers of a block that went out.
    pub fn recycle(&self, block: EncodedBlock) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < BUFFERS_MAX {
            buffers.push(block.into_buffers());
        }
    }
}

/// Reads the octets of a job's source block.
fn read(packs: &PackStore, control: &Control, job: &Job, mut buffer: Buffer) -> anyhow::Result<Buffer> {
    let octets = match job.object {
        ObjectId::Block(id) => {
            buffer.resize(job.oti.transfer_bytes() as usize);
            packs.read_at(id.pack, id.offset(), &mut buffer)?;
            // The receiver would drop it, and could not say why.
            let found = Blake3::of(&buffer);
            if let Some(expected) = job.hash.filter(|expected| *expected != found) {
                packs.condemn(id);
                bail!(
                    "{} does not hold what was submitted: block {} has BLAKE3 {found}, expected {expected}. Its disk has \
                     changed it; submit what lies in it again, see: diode-sender verify",
                    packs.path(id.pack).display(),
                    id.block
                );
            }
            return Ok(buffer);
        }
        ObjectId::Index(_) => &control.index,
        ObjectId::Trust(_) => &control.trust,
    };
    let start = job.sbn.0 as usize * BLOCK_BYTES;
    let piece = octets.get(start..start + job.oti.block_bytes(job.sbn));
    let piece = piece.context("its length is not the one that was planned")?;
    buffer.resize(piece.len());
    buffer.copy_from_slice(piece);
    Ok(buffer)
}

#[cfg(test)]
mod tests {
    use diodesync::fec::{Oti, RepairUse};
    use diodesync::id::{BlockId, BlockNo, PackId, Sbn};

    use super::*;

    #[test]
    fn no_changed_octet_of_a_pack_is_sent() {
        let dir = std::env::temp_dir().join(format!("diode-sender-pack-octets-{}", std::process::id()));
        let packs = PackStore::open(&dir).unwrap();
        let id = BlockId { pack: PackId([7; 8]), block: BlockNo(0) };
        let content: Vec<u8> = (0..3000).map(|n| (n * 31) as u8).collect();
        let job = Job {
            run: diodesync::send::RunId(1),
            object: ObjectId::Block(id),
            oti: Oti::for_object(content.len() as u32, 1392, RepairUse::Data),
            sbn: Sbn(0),
            window_start: 0,
            window_symbols: 1,
            position: Some(0),
            hash: Some(Blake3::of(&content)),
            round: 0,
        };
        let control = Control { trust: Arc::default(), index: Arc::default() };
        for at in 0..content.len() {
            let mut changed = content.clone();
            changed[at] ^= 1 << (at % 8);
            packs.write_at(id.pack, 0, &changed).unwrap();
            let error = read(&packs, &control, &job, Buffer::default()).unwrap_err().to_string();
            assert!(
                error.contains("0707070707070707.pack") && error.contains("block 0"),
                "octet {at}: {error}"
            );
            // It is not read again, whatever it holds.
            packs.write_at(id.pack, 0, &content).unwrap();
            assert!(read(&packs, &control, &job, Buffer::default()).is_err());
            assert!(packs.absolve(&id));
        }
        packs.write_at(id.pack, 0, &content).unwrap();
        assert_eq!(read(&packs, &control, &job, Buffer::default()).unwrap().to_vec(), content);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
