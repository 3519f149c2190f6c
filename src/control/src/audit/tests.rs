use super::*;
use diodesync::id::{Channel, ReleaseNo};

/// A folder that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("diodesync-audit-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("keys")).unwrap();
        Self(dir)
    }

    fn place(&self) -> Place {
        Place { dir: self.0.clone(), side: Side::Receiver, key: "keys/audit.key" }
    }

    fn open(&self) -> Audit {
        Audit::open(self.place(), None).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.0.join("audit/00000000000000000001.jsonl")
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for (_, path) in log::files(&self.place().folder()).unwrap() {
            let take = |line: &[u8]| -> anyhow::Result<()> {
                lines.push(line.to_vec());
                Ok(())
            };
            log::each_line(&path, take).unwrap();
        }
        lines
    }

    fn write(&self, lines: &[Vec<u8>]) {
        let text: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        std::fs::write(self.file(), text).unwrap();
    }

    fn verify(&self, exported: &[PathBuf]) -> anyhow::Result<verify::Good> {
        verify::verify(&self.place(), exported, self.place().public_key().unwrap())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn event(number: u64) -> Event {
    Event::Serving { channel: Channel::main(), number: ReleaseNo(number) }
}

fn by() -> Actor {
    Actor::daemon("test")
}

#[test]
fn what_several_processes_tell_is_one_log() {
    let folder = Folder::new("several");
    // Each has its own idea of where the log ends.
    let (one, other) = (folder.open(), folder.open());
    for number in 0..20 {
        [&one, &other][number as usize % 2].tell(&by(), event(number)).unwrap();
    }
    assert_eq!(folder.lines().len(), 21, "one beginning, and what was told");
    let good = folder.verify(&[]).unwrap();
    assert_eq!((good.head.seq, good.has_own), (21, true));
    assert_eq!(one.checkpoint().unwrap().head(), good.head);
    let first = String::from_utf8(folder.lines().remove(0)).unwrap();
    let key = folder.place().public_key().unwrap();
    assert!(
        first.contains(&format!("\"event\":\"begun\",\"side\":\"receiver\",\"version\":1,\"key\":\"{key}\""))
    );
}

#[test]
fn a_long_log_is_several_files_that_fit() {
    let folder = Folder::new("files");
    let audit = folder.open();
    audit.state().log.file_bytes = 1000;
    (0..30).for_each(|number| audit.tell(&by(), event(number)).unwrap());
    let files = log::files(&folder.place().folder()).unwrap();
    assert!(files.len() > 4, "{files:?}");
    assert_eq!(folder.verify(&[]).unwrap().head.seq, 31);
    folder.open().tell(&by(), event(30)).unwrap();
    assert_eq!(folder.verify(&[]).unwrap().head.seq, 32);
    // A file that is gone is a gap, and so is the first.
    for (first, path) in &files {
        let aside = path.with_extension("aside");
        std::fs::rename(path, &aside).unwrap();
        let error = folder.verify(&[]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("entry {first} is missing"))
                || error.contains(&format!("entries {first} to")),
            "{error}"
        );
        std::fs::rename(&aside, path).unwrap();
    }
}

#[test]
fn each_entry_that_is_changed_dropped_swapped_or_cut_is_named() {
    let folder = Folder::new("tamper");
    let audit = folder.open();
    (0..9).for_each(|number| audit.tell(&by(), event(number)).unwrap());
    let good = folder.lines();
    let exported = folder.0.join("exported");
    std::fs::write(&exported, audit.checkpoint().unwrap().encode()).unwrap();
    // Who has changed the log has taken its own checkpoint away.
    let own = folder.place().checkpoint();
    std::fs::remove_file(&own).unwrap();
    let refused = |lines: &[Vec<u8>], seq: usize, how: &str| {
        folder.write(lines);
        let error = folder.verify(std::slice::from_ref(&exported)).unwrap_err().to_string();
        let named = [format!("entry {seq} "), format!("entries {seq} to")];
        assert!(named.iter().any(|name| error.starts_with(name)), "{how} {seq}: {error}");
    };
    for at in 0..good.len() {
        let seq = at + 1;
        let mut bad = good.clone();
        let place = bad[at].len() / 2;
        bad[at][place] ^= 1;
        refused(&bad, seq, "changed");
        let mut bad = good.clone();
        bad.remove(at);
        refused(&bad, seq, "dropped");
        refused(&good[..at], seq, "cut");
        if at + 1 < good.len() {
            let mut bad = good.clone();
            bad.swap(at, at + 1);
            refused(&bad, seq, "swapped");
        }
    }
    folder.write(&good);
    folder.verify(std::slice::from_ref(&exported)).unwrap();
    // Without an exported one, the log's own checkpoint does as well.
    std::fs::copy(&exported, &own).unwrap();
    folder.write(&good[..4]);
    assert!(folder.verify(&[]).unwrap_err().to_string().starts_with("entries 5 to 10 are missing"));
    // A daemon that starts says so, in its log too, and goes on.
    let audit = folder.open();
    audit.start(&exported);
    assert!(audit.alarm().unwrap().contains("entries 5 to 10 are missing"));
    let lines = folder.lines();
    assert!(String::from_utf8_lossy(&lines[4]).contains("\"event\":\"broken\""), "{lines:?}");
    assert!(folder.verify(&[exported]).is_err());
}

#[test]
fn the_end_that_a_crash_has_torn_is_taken_out_and_told() {
    let folder = Folder::new("torn");
    let audit = folder.open();
    (0..3).for_each(|number| audit.tell(&by(), event(number)).unwrap());
    let whole = std::fs::read(folder.file()).unwrap();
    let line = folder.lines().pop().unwrap();
    std::fs::write(folder.file(), [&whole, &line[..line.len() - 1]].concat()).unwrap();
    let error = folder.verify(&[]).unwrap_err().to_string();
    assert!(error.contains("entry 5 is cut off in the middle"), "{error}");
    for octets in 1..=line.len() {
        std::fs::write(folder.file(), [&whole, &line[..octets]].concat()).unwrap();
        folder.open().tell(&by(), event(9)).unwrap();
        let mended = String::from_utf8_lossy(&folder.lines()[4]).into_owned();
        assert!(mended.contains(&format!("\"event\":\"mended\",\"octets\":{octets}")), "{mended}");
        assert_eq!(folder.verify(&[]).unwrap().head.seq, 6);
    }
}

#[test]
fn what_cannot_be_told_is_refused_and_what_has_happened_waits() {
    let folder = Folder::new("waits");
    let audit = folder.open();
    audit.tell(&by(), event(1)).unwrap();
    // A folder in the place of the next file can be written by nobody.
    let wall = folder.0.join("audit/00000000000000000900.jsonl");
    std::fs::create_dir(&wall).unwrap();
    let error = format!("{:#}", audit.tell(&by(), event(2)).unwrap_err());
    assert!(error.contains("what it cannot tell is not done") && error.contains("/audit/"), "{error}");
    audit.note(&by(), event(3));
    audit.note(&by(), event(4));
    assert!(audit.alarm().unwrap().contains("takes no entry"));
    assert_eq!(folder.lines_but(&wall).len(), 2);
    std::fs::remove_dir(&wall).unwrap();
    audit.retry();
    assert_eq!(audit.alarm(), None);
    audit.tell(&by(), event(5)).unwrap();
    let numbers: Vec<String> =
        folder.lines().iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    for (line, number) in numbers[1..].iter().zip([1, 3, 4, 5]) {
        assert!(line.contains(&format!("\"number\":{number},")), "{line}");
    }
    assert_eq!(folder.verify(&[]).unwrap().head.seq, 5);
}

impl Folder {
    /// The lines, with a file out of the way.
    fn lines_but(&self, wall: &Path) -> Vec<Vec<u8>> {
        let aside = wall.with_extension("aside");
        std::fs::rename(wall, &aside).unwrap();
        let lines = self.lines();
        std::fs::rename(aside, wall).unwrap();
        lines
    }
}

#[test]
fn a_garbled_checkpoint_of_its_own_is_as_none_and_a_forged_one_is_refused() {
    let folder = Folder::new("own");
    let audit = folder.open();
    audit.tell(&by(), event(1)).unwrap();
    let own = folder.place().checkpoint();
    std::fs::write(&own, "").unwrap();
    assert!(!folder.verify(&[]).unwrap().has_own);
    let forged = Checkpoint::sign(
        &AuditKey::from_seed(&[1; 32]),
        Side::Receiver,
        None,
        Head { seq: 1, hash: diodesync::id::Sha256([0; 32]) },
        0,
    );
    std::fs::write(&own, forged.encode()).unwrap();
    let error = format!("{:#}", folder.verify(&[]).unwrap_err());
    assert!(error.contains("audit/checkpoint") && error.contains("forged"), "{error}");
    assert!(fact::check_private(&folder.0.join("keys/audit.key")).is_ok());
}
