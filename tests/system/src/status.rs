//! What `status --json` of either side says. A missing field is an error here, so that the contract with scripts
//! cannot erode unseen; more fields are welcome.

use serde::Deserialize;

/// `diode-sender status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct SenderStatus {
    /// `sender`.
    pub side: String,
    /// One for each lane of the configuration.
    pub lanes: Vec<SenderLane>,
    /// One for each channel that was ever used.
    pub channels: Vec<SenderChannel>,
    /// The disk.
    pub disk: Disk,
    /// What an operator should look at.
    pub alarms: Vec<Alarm>,
}

/// The disk of either side.
#[derive(Debug, Clone, Deserialize)]
pub struct Disk {
    /// The folder of the packs.
    pub path: String,
    /// Octets of its file system.
    pub total_bytes: u64,
    /// Octets that are free.
    pub free_bytes: u64,
    /// Octets that bulk data leaves free.
    pub reserve_bytes: u64,
    /// Octets that the packs take.
    pub packs_bytes: u64,
    /// Octets that retention has given back since the start.
    pub freed_bytes: u64,
}

/// One lane of the sender.
#[derive(Debug, Clone, Deserialize)]
pub struct SenderLane {
    /// Its name.
    pub name: String,
    /// Where its datagrams go.
    pub to: String,
    /// The session's number.
    pub session: Option<u64>,
    /// Whether a rate window holds data back.
    pub is_paused: bool,
    /// The present rate.
    pub rate_bits_per_s: f64,
    /// Since the daemon started.
    pub sent_datagrams: u64,
    /// Since the daemon started.
    pub sent_bytes: u64,
}

/// One channel of the sender.
#[derive(Debug, Clone, Deserialize)]
pub struct SenderChannel {
    /// Its name.
    pub channel: String,
    /// The newest release.
    pub newest: Option<u64>,
    /// What happens to that release.
    pub state: SendState,
    /// The round that runs, from 1.
    pub round: u64,
    /// Rounds of a release.
    pub rounds: u64,
    /// Blocks sent in this round.
    pub sent_blocks: u64,
    /// Blocks that this release sends.
    pub total_blocks: u64,
    /// Octets sent in this round.
    pub sent_bytes: u64,
    /// Octets that this release sends.
    pub total_bytes: u64,
    /// Artifacts submitted since the newest release.
    pub staged: u64,
}

/// What the sender does with a channel's newest release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SendState {
    /// There is none.
    Idle,
    /// A round runs.
    Sending,
    /// The gap between two rounds.
    Waiting,
    /// Every round is done.
    Complete,
}

/// `diode-receiver status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct ReceiverStatus {
    /// `receiver`.
    pub side: String,
    /// One for each lane of the configuration.
    pub lanes: Vec<ReceiverLane>,
    /// What became of their symbols.
    pub decoding: Decoding,
    /// One for each channel that was ever heard of.
    pub channels: Vec<ReceiverChannel>,
    /// The disk.
    pub disk: Disk,
    /// The site's own mirrors.
    pub mirrors: Vec<MirrorStatus>,
    /// What an operator should look at.
    pub alarms: Vec<Alarm>,
}

/// One of the site's own mirrors.
#[derive(Debug, Clone, Deserialize)]
pub struct MirrorStatus {
    /// Its name.
    pub name: String,
    /// starting, working, current or behind.
    pub state: String,
    /// The releases that it holds, by channel.
    pub holds: Vec<(String, u64)>,
    /// Why it is behind.
    pub reason: Option<String>,
    /// Octets that were sent or written since the start.
    pub pushed_bytes: u64,
    /// What an operator may want to know.
    pub notes: Vec<String>,
}

/// One lane of the receiver. The counters start with the daemon.
#[derive(Debug, Clone, Deserialize)]
pub struct ReceiverLane {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub listen: String,
    /// The accepted session's number.
    pub session: Option<u64>,
    /// Authentic datagrams.
    pub received: u64,
    /// Gaps in the sequence numbers.
    pub lost: u64,
    /// Datagrams that were not authentic.
    pub rejected: u64,
    /// The wire version of the session.
    pub wire_version: Option<u8>,
    /// Datagrams that the kernel dropped because nobody read them in time.
    pub kernel_drops: u64,
}

/// What became of the symbols of all lanes.
#[derive(Debug, Clone, Deserialize)]
pub struct Decoding {
    /// Symbols that had come before, or were not needed.
    pub duplicates: u64,
    /// Source symbols that repair symbols gave back.
    pub repaired: u64,
    /// Blocks that were complete.
    pub blocks: u64,
}

/// One channel of the receiver.
#[derive(Debug, Clone, Deserialize)]
pub struct ReceiverChannel {
    /// Its name.
    pub channel: String,
    /// The release that the mirrors serve.
    pub published: Option<u64>,
    /// Those that are known, oldest first.
    pub releases: Vec<ReceiverRelease>,
}

/// One release at the receiver.
#[derive(Debug, Clone, Deserialize)]
pub struct ReceiverRelease {
    /// Its number.
    pub number: u64,
    /// How far it is.
    pub state: ReleaseState,
    /// Blocks that its index names.
    pub blocks_needed: u64,
    /// Those of them that are here and verified.
    pub blocks_held: u64,
    /// Octets that its index names.
    pub bytes_needed: u64,
    /// Those of them that are here and verified.
    pub bytes_held: u64,
    /// Why it is incomplete or refused.
    pub reason: Option<String>,
}

/// How far a release is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseState {
    /// Blocks are still coming.
    Arriving,
    /// Scanners look at it.
    Scanning,
    /// It waits for scanners.
    Unscanned,
    /// It waits for approvers.
    Held,
    /// Everything is here; digests and proofs are being checked.
    Checking,
    /// The mirrors serve it, or served it until a newer one came.
    Published,
    /// The sender is done and blocks are missing.
    Incomplete,
    /// There is no room for what it lacks.
    NoSpace,
    /// The mirrors serve it, and something of it was lost since.
    Damaged,
    /// A check or a policy said no.
    Refused,
}

/// Something that an operator should look at.
#[derive(Debug, Clone, Deserialize)]
pub struct Alarm {
    /// A stable name.
    pub id: String,
    /// What it is and what to do.
    pub text: String,
}

impl SenderStatus {
    /// The alarms of one kind.
    pub fn alarm(&self, id: &str) -> Option<&Alarm> {
        self.alarms.iter().find(|alarm| alarm.id == id)
    }

    /// The channel called `name`.
    pub fn channel(&self, name: &str) -> Option<&SenderChannel> {
        self.channels.iter().find(|channel| channel.channel == name)
    }

    /// What waits to be released, in all channels.
    pub fn staged(&self) -> u64 {
        self.channels.iter().map(|channel| channel.staged).sum()
    }

    /// Octets put on all lanes since the daemon started.
    pub fn sent_bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.sent_bytes).sum()
    }
}

impl ReceiverStatus {
    /// The mirror called `name`.
    pub fn mirror(&self, name: &str) -> Option<&MirrorStatus> {
        self.mirrors.iter().find(|mirror| mirror.name == name)
    }

    /// The alarms of one kind.
    pub fn alarm(&self, id: &str) -> Option<&Alarm> {
        self.alarms.iter().find(|alarm| alarm.id == id)
    }

    /// The channel called `name`.
    pub fn channel(&self, name: &str) -> Option<&ReceiverChannel> {
        self.channels.iter().find(|channel| channel.channel == name)
    }

    /// One release of the channel called `name`.
    pub fn release(&self, name: &str, number: u64) -> Option<&ReceiverRelease> {
        self.channel(name)?.releases.iter().find(|release| release.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_json_is_read() {
        let sender: SenderStatus = serde_json::from_str(
            r#"{"side":"sender",
                "lanes":[{"name":"main","to":"127.0.0.1:7400","session":1764000000000,"is_paused":false,
                          "rate_bits_per_s":1000000000,"sent_datagrams":7,"sent_bytes":9000}],
                "channels":[{"channel":"main","newest":2,"state":"waiting","round":1,"rounds":2,"sent_blocks":3,
                             "total_blocks":3,"sent_bytes":3145728,"total_bytes":3145728,"staged":0},
                            {"channel":"idle","newest":null,"state":"idle","round":0,"rounds":2,"sent_blocks":0,
                             "total_blocks":0,"sent_bytes":0,"total_bytes":0,"staged":4}],
                "disk":{"path":"/var/lib/diodesync/packs","total_bytes":9,"free_bytes":5,"reserve_bytes":1,"packs_bytes":2,
                        "freed_bytes":0},
                "alarms":[]}"#,
        )
        .unwrap();
        assert_eq!(sender.channel("main").unwrap().state, SendState::Waiting);
        assert_eq!((sender.staged(), sender.sent_bytes()), (4, 9000));
        let receiver: ReceiverStatus = serde_json::from_str(
            r#"{"side":"receiver",
                "lanes":[{"name":"main","listen":"0.0.0.0:7400","session":null,"wire_version":2,"received":0,"lost":0,
                          "rejected":0,"kernel_drops":0}],
                "decoding":{"duplicates":0,"repaired":0,"blocks":0},
                "channels":[{"channel":"main","published":null,"releases":[
                    {"number":1,"state":"refused","blocks_needed":1,"blocks_held":1,"bytes_needed":5,"bytes_held":5,
                     "reason":"why"}]}],
                "disk":{"path":"/var/lib/diodesync/packs","total_bytes":9,"free_bytes":5,"reserve_bytes":1,"packs_bytes":2,
                        "freed_bytes":0},
                "mirrors":[],
                "alarms":[{"id":"silence","text":"nothing heard for 10 s"}]}"#,
        )
        .unwrap();
        assert_eq!(receiver.release("main", 1).unwrap().state, ReleaseState::Refused);
        assert!(receiver.release("main", 2).is_none());
    }
}
