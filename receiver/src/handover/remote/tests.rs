use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use diodesync::id::{BlockNo, PackId};
use diodesync::journal::HeldBlock;
use diodesync::limits::BLOCK_BYTES;
use diodesync::link::LinkKey;
use diodesync::pack::PackStore;

use super::*;
use crate::handover::{Judge, Notice, Order, Orders};
use crate::lane::LanesShared;
use crate::serve::testing::TempDir;

fn block(number: u32) -> BlockId {
    BlockId { pack: PackId([1; 8]), block: BlockNo(number) }
}

/// Says what it was asked.
#[derive(Debug, Default)]
struct Scribe(Mutex<Vec<String>>);

impl Scribe {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn wait_for(&self, expected: &str) {
        wait(|| self.0.lock().unwrap().iter().any(|text| text == expected));
    }
}

fn wait(is_done: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < Duration::from_secs(20), "it did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Judge for Scribe {
    fn claim(&self, id: &BlockId) -> Claim {
        self.note(format!("claim {}", id.block));
        Claim::Wanted(HeldBlock { hash: Blake3([id.block.0 as u8; 32]), bytes: 7 })
    }

    fn written(&self, id: BlockId, _: Blake3, bytes: u32) {
        self.note(format!("written {} {bytes}", id.block));
    }

    fn gave_up(&self, id: &BlockId) {
        self.note(format!("gave up {}", id.block));
    }

    fn note_trouble(&self, text: String) {
        self.note(text);
    }
}

struct Publisher {
    scribe: Arc<Scribe>,
    notices: Receiver<Notice>,
    orders: Orders,
    joined: Arc<AtomicUsize>,
}

impl Publisher {
    fn listen(dir: &Path) -> Self {
        let (notices, from_lane) = channel();
        let scribe = Arc::new(Scribe::default());
        let (orders, joined) = (Orders::default(), Arc::new(AtomicUsize::new(0)));
        let desk = Desk {
            judge: scribe.clone(),
            notices,
            orders: orders.clone(),
            first: Box::new(|| {
                let senders = vec![LinkKey::from_seed(&[1; 32]).verifier()];
                vec![Order::Done(vec![block(1)]), Order::Missing(vec![block(2)]), Order::Senders(senders)]
            }),
            lanes: Arc::new(LanesShared::default()),
            joined: joined.clone(),
        };
        listen(dir, desk).unwrap();
        Self { scribe, notices: from_lane, orders, joined }
    }
}

#[test]
fn a_lane_in_another_process_asks_tells_and_is_told() {
    let dir = TempDir::new("remote");
    let packs = Arc::new(PackStore::open(&dir.path().join("packs")).unwrap());
    let remote = Arc::new(Remote::new(dir.path(), packs));

    // Nobody is there: blocks are written, and remembered.
    assert_eq!(remote.claim(&block(9)), Claim::Unknown);
    remote.written(block(9), Blake3([9; 32]), 5);

    let (notices, to_publisher) = channel();
    let (to_lanes, orders) = channel();
    let (to_us, joined) = channel();
    let stop = Arc::new(AtomicBool::new(false));
    let relay = Relay {
        remote: remote.clone(),
        notices: to_publisher,
        orders: to_lanes,
        lanes: Arc::new(LanesShared::default()),
        stop: stop.clone(),
        joined: to_us,
    };
    let relay = std::thread::spawn(move || relay.run());
    notices.send(Notice::Held(vec![block(3)])).unwrap();
    let publisher = Publisher::listen(dir.path());
    joined.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(orders.recv(), Ok(Order::Done(done)) if done == [block(1)]));
    assert!(matches!(orders.recv(), Ok(Order::Missing(missing)) if missing == [block(2)]));
    assert!(matches!(orders.recv(), Ok(Order::Senders(keys)) if keys.len() == 1));
    publisher.orders.send(Order::Missing(vec![block(5)]));
    assert!(matches!(orders.recv(), Ok(Order::Missing(missing)) if missing == [block(5)]));
    let mut seen = (false, false);
    while seen != (true, true) {
        match publisher.notices.recv_timeout(Duration::from_secs(20)).unwrap() {
            Notice::Held(held) => seen.0 = held == [block(3)],
            Notice::Unjudged(blocks) => {
                let [unjudged] = blocks[..] else { panic!("{blocks:?}") };
                assert_eq!((unjudged.id, unjudged.hash, unjudged.bytes), (block(9), Blake3([9; 32]), 5));
                seen.1 = true;
            }
            other => panic!("{other:?}"),
        }
    }

    // A publisher that is there judges.
    wait(|| matches!(remote.claim(&block(4)), Claim::Wanted(_)));
    remote.written(block(4), Blake3([4; 32]), 7);
    publisher.scribe.wait_for("written 4 7");
    // What was claimed of nobody who is there now counts when it was hashed.
    remote.written(block(8), Blake3([8; 32]), 5);
    let notice = publisher.notices.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(&notice, Notice::Unjudged(blocks) if blocks[0].id == block(8)), "{notice:?}");
    // What cannot be ends the connection.
    let last = BlockId { pack: PackId([1; 8]), block: BlockNo(u32::MAX) };
    let too_long = BLOCK_BYTES as u32 + 1;
    for (id, bytes) in [(block(7), 0), (block(7), too_long), (last, 7)] {
        let mut stream = UnixStream::connect(socket(dir.path())).unwrap();
        stream.write_all(&[JUDGEMENT]).unwrap();
        send(&mut stream, &Ask::Written(id, Blake3([7; 32]), bytes)).unwrap();
        assert!(receive::<Answer>(&mut stream).is_err(), "{id} with {bytes} octets");
    }
    // What a lane that is gone had claimed is free again.
    assert!(matches!(remote.claim(&block(6)), Claim::Wanted(_)));
    assert_eq!(publisher.joined.load(Ordering::Relaxed), 1);
    drop(remote);
    // The last word of lanes that stop is passed on.
    notices.send(Notice::Held(vec![block(10)])).unwrap();
    stop.store(true, Ordering::Relaxed);
    relay.join().unwrap();
    let notice = publisher.notices.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(&notice, Notice::Held(held) if *held == [block(10)]), "{notice:?}");
    publisher.scribe.wait_for("gave up 6");
    wait(|| publisher.joined.load(Ordering::Relaxed) == 0);
}

#[test]
fn octets_that_are_no_message_are_refused() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    ours.write_all(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()).unwrap();
    assert!(receive::<Ask>(&mut theirs).unwrap_err().to_string().contains("at most"));
    for bad in [&[][..], &[9], &[0, 1, 2], &[1; 200]] {
        assert!(parse::<Ask>(bad).is_err(), "{bad:?}");
    }
    let mut long = bincode::encode_to_vec(Ask::Trouble("x".to_owned()), CONFIG).unwrap();
    long.push(0);
    assert!(parse::<Ask>(&long).unwrap_err().to_string().contains("after a message"));
}
