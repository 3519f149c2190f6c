//! Approvals: what a person says of a release, signed with a key that no daemon holds.
//!
//! ```text
//! diodesync approval 1
//! link      LinkId
//! channel   name
//! release   number
//! index     SHA-256 of the index
//! decision  approve | reject
//! made      seconds since 1970
//! expires   seconds since 1970
//! key       the approver's Ed25519 key, hexadecimal
//! why       text, without which the line is left out
//! signature Ed25519 (RFC 8032) over everything above, as written here, base64
//! ```
//!
//! One space stands between a word and what follows. It is text, so that it can be pasted, and each line can be read by
//! whoever carries it. What is signed is written anew from what was read, so spaces that a form or a mail adds do no
//! harm.
//!
//! What is to be decided travels to an approver as the four lines from `link` to `index` below `diodesync approval request 1`;
//! lines that begin with `#` say what it means.
//!
//! Nothing here can be used for another release, another link or another index. The newest decision of a key counts;
//! one that was made before cannot be brought back. A rejection never expires: time must not publish anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::ZeroizeOnDrop;

use crate::id::{Channel, LinkId, ReleaseNo, Sha256};

/// The first line.
const HEAD: &str = "diodesync approval 1";
/// The first line of a request.
const REQUEST: &str = "diodesync approval request 1";
/// Octets of the longest approval.
pub const APPROVAL_BYTES_MAX: usize = 4096;
/// Characters of the longest reason.
pub const WHY_CHARS_MAX: usize = 500;
/// The furthest that an approver's clock may be ahead, in seconds.
const AHEAD_S_MAX: u64 = 300;

/// Why a text is no approval, or one that does not count.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApprovalError {
    /// Not of this form.
    #[error(
        "this is not what it should be: expected {expected}, found {found:?}; copy it whole, from its first line to its last"
    )]
    Form {
        /// What should stand there.
        expected: &'static str,
        /// What does, cut short.
        found: String,
    },
    /// Longer than any approval.
    #[error("this is not an approval: it has {found} octets, the limit is {APPROVAL_BYTES_MAX}")]
    Size {
        /// Its octets.
        found: usize,
    },
    /// Changed since it was signed.
    #[error("the approval's signature by key {key} does not match: it was changed after it was signed")]
    Signature {
        /// The key that it names.
        key: ApproverId,
    },
    /// The key cannot be one.
    #[error("{0:?} is no Ed25519 public key of 64 lower-case hexadecimal digits")]
    Key(String),
    /// The reason does not fit.
    #[error("expected a reason of one line with 1 to {WHY_CHARS_MAX} characters")]
    Why,
    /// Signed for something else.
    #[error(
        "the approval is for {what} {found}, expected {expected}; ask for a new one for what is held now"
    )]
    Other {
        /// Of what.
        what: &'static str,
        /// What it should be for.
        expected: String,
        /// What it is for.
        found: String,
    },
    /// Nobody's.
    #[error(
        "key {key} is of no approver that this receiver knows; its public half belongs into an [[approver]] of receiver.toml"
    )]
    Unknown {
        /// The key that it names.
        key: ApproverId,
    },
    /// Its time, or the key's, is over.
    #[error("{what} expired at second {at_s}, it is second {now_s} now; make a new one")]
    Expired {
        /// What did.
        what: String,
        /// When.
        at_s: u64,
        /// The time by which it is judged.
        now_s: u64,
    },
    /// Made in the future.
    #[error(
        "the approval was made at second {made_s}, it is second {now_s} here; set the clock of the machine that made it, or this one's"
    )]
    Ahead {
        /// When it was made, by its own words.
        made_s: u64,
        /// The time by which it is judged.
        now_s: u64,
    },
}

/// An approver's public key; as text, 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApproverId([u8; 32]);

impl ApproverId {
    fn verifier(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.0).ok().filter(|key| !key.is_weak())
    }
}

impl fmt::Display for ApproverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ApproverId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApproverId({self})")
    }
}

impl From<ApproverId> for String {
    fn from(id: ApproverId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ApproverId {
    type Error = ApprovalError;

    fn try_from(text: String) -> Result<Self, ApprovalError> {
        text.parse()
    }
}

impl FromStr for ApproverId {
    type Err = ApprovalError;

    fn from_str(text: &str) -> Result<Self, ApprovalError> {
        let no = || ApprovalError::Key(text.chars().take(100).collect());
        let id = Self(text.parse::<Sha256>().map_err(|_| no())?.0);
        id.verifier().map(|_| id).ok_or_else(no)
    }
}

/// An approver's secret key.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ApproverKey(SigningKey);

impl fmt::Debug for ApproverKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApproverKey({}…)", self.id())
    }
}

impl ApproverKey {
    /// From its 32 secret octets.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// Its public half.
    pub fn id(&self) -> ApproverId {
        ApproverId(self.0.verifying_key().to_bytes())
    }

    /// Signs a decision that is made at `made_s` and counts until `expires_s`, seconds since 1970.
    ///
    /// # Errors
    /// [`ApprovalError::Why`].
    pub fn sign(
        &self,
        subject: Subject,
        decision: Decision,
        (made_s, expires_s): (u64, u64),
    ) -> Result<Approval, ApprovalError> {
        decision.check()?;
        let mut approval =
            Approval { subject, decision, made_s, expires_s, key: self.id(), signature: [0; 64] };
        approval.signature = self.0.sign(approval.statement().as_bytes()).to_bytes();
        Ok(approval)
    }
}

/// What is decided on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The link.
    pub link: LinkId,
    /// The channel.
    pub channel: Channel,
    /// The release.
    pub number: ReleaseNo,
    /// The digest of its index, and so of everything in it.
    pub index: Sha256,
}

impl Subject {
    /// The request for a decision.
    pub fn to_request(&self) -> String {
        format!("{REQUEST}\n{self}")
    }

    /// Reads a request for a decision.
    ///
    /// # Errors
    /// [`ApprovalError::Form`].
    pub fn parse_request(text: &str) -> Result<Self, ApprovalError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let mut lines = Lines(lines);
        lines.head(REQUEST, "\"diodesync approval request 1\"")?;
        let subject = lines.subject()?;
        lines.end()?;
        Ok(subject)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, channel, number, index } = self;
        writeln!(f, "link {link}\nchannel {channel}\nrelease {number}\nindex {index}")
    }
}

/// What an approver says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be published.
    Approve,
    /// It must not be, for this reason.
    Reject(String),
}

impl Decision {
    fn check(&self) -> Result<(), ApprovalError> {
        let Self::Reject(why) = self else { return Ok(()) };
        let is_good = (1..=WHY_CHARS_MAX).contains(&why.chars().count())
            && why.trim() == why
            && !why.chars().any(char::is_control);
        if is_good { Ok(()) } else { Err(ApprovalError::Why) }
    }
}

/// What an approver has signed. One that exists was signed with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Of what.
    pub subject: Subject,
    /// What is said of it.
    pub decision: Decision,
    /// When it was made, seconds since 1970.
    pub made_s: u64,
    /// Until when it counts, seconds since 1970.
    pub expires_s: u64,
    /// Whose it is.
    pub key: ApproverId,
    signature: [u8; 64],
}

impl Approval {
    /// What is signed.
    fn statement(&self) -> String {
        let decision = match self.decision {
            Decision::Approve => "approve",
            Decision::Reject(_) => "reject",
        };
        let mut text = format!(
            "{HEAD}\n{}decision {decision}\nmade {}\nexpires {}\nkey {}\n",
            self.subject, self.made_s, self.expires_s, self.key
        );
        if let Decision::Reject(why) = &self.decision {
            let _ = writeln!(text, "why {why}");
        }
        text
    }

    /// Reads an approval and checks its signature.
    ///
    /// # Errors
    /// [`ApprovalError`] if it is none.
    pub fn parse(text: &str) -> Result<Self, ApprovalError> {
        if text.len() > APPROVAL_BYTES_MAX {
            return Err(ApprovalError::Size { found: text.len() });
        }
        let mut lines = Lines(text.lines().map(str::trim).filter(|line| !line.is_empty()));
        lines.head(HEAD, "\"diodesync approval 1\"")?;
        let subject = lines.subject()?;
        let decision: String = lines.parse("decision", "\"decision approve\" or \"decision reject\"")?;
        let made_s = lines.parse("made", "seconds after \"made\"")?;
        let expires_s = lines.parse("expires", "seconds after \"expires\"")?;
        let key = lines.parse("key", "an Ed25519 key after \"key\"")?;
        let decision = match decision.as_str() {
            "approve" => Decision::Approve,
            "reject" => Decision::Reject(lines.parse("why", "a reason after \"why\"")?),
            other => return form("\"decision approve\" or \"decision reject\"", other),
        };
        decision.check()?;
        let signature: String = lines.parse("signature", "base64 after \"signature\"")?;
        lines.end()?;
        let octets = BASE64_STANDARD.decode(&signature).ok().and_then(|octets| octets.try_into().ok());
        let Some(octets) = octets else { return form("a signature of 64 octets in base64", &signature) };
        let approval = Self { subject, decision, made_s, expires_s, key, signature: octets };
        let verifier = key.verifier().ok_or_else(|| ApprovalError::Key(key.to_string()))?;
        verifier
            .verify_strict(approval.statement().as_bytes(), &Signature::from_bytes(&octets))
            .map_err(|_| ApprovalError::Signature { key })?;
        Ok(approval)
    }

    /// Whether it counts for a release at a time, and whose it is: the one check.
    ///
    /// # Errors
    /// Why it does not.
    pub fn judge<'a>(
        &self,
        subject: &Subject,
        approvers: &'a [Approver],
        now_s: u64,
    ) -> Result<&'a Approver, ApprovalError> {
        self.is_for(subject)?;
        let approver = approvers.iter().find(|approver| approver.key == self.key);
        let approver = approver.ok_or(ApprovalError::Unknown { key: self.key })?;
        if self.made_s > now_s.saturating_add(AHEAD_S_MAX) {
            return Err(ApprovalError::Ahead { made_s: self.made_s, now_s });
        }
        let expired = |what: String, at_s: u64| Err(ApprovalError::Expired { what, at_s, now_s });
        match approver.until_s {
            Some(until_s)
                if until_s <= now_s && (self.decision == Decision::Approve || until_s <= self.made_s) =>
            {
                return expired(format!("the key of approver {}", approver.name), until_s);
            }
            _ => {}
        }
        if self.decision == Decision::Approve && self.expires_s <= now_s {
            return expired(format!("the approval of {}", approver.name), self.expires_s);
        }
        Ok(approver)
    }

    fn is_for(&self, expected: &Subject) -> Result<(), ApprovalError> {
        let found = &self.subject;
        let other = |what, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
            Err(ApprovalError::Other { what, expected: expected.to_string(), found: found.to_string() })
        };
        if found.link != expected.link {
            return other("link", &expected.link, &found.link);
        }
        if found.channel != expected.channel {
            return other("channel", &expected.channel, &found.channel);
        }
        if found.number != expected.number {
            return other("release", &expected.number, &found.number);
        }
        if found.index != expected.index {
            return other("an index with digest", &expected.index, &found.index);
        }
        Ok(())
    }
}

impl fmt::Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}signature {}", self.statement(), BASE64_STANDARD.encode(self.signature))
    }
}

fn form<T>(expected: &'static str, found: &str) -> Result<T, ApprovalError> {
    Err(ApprovalError::Form { expected, found: found.chars().take(80).collect() })
}

/// The lines that are left.
struct Lines<I>(I);

impl<'a, I: Iterator<Item = &'a str>> Lines<I> {
    fn head(&mut self, head: &str, expected: &'static str) -> Result<(), ApprovalError> {
        let found = self.0.next().unwrap_or_default();
        if found == head { Ok(()) } else { form(expected, found) }
    }

    fn subject(&mut self) -> Result<Subject, ApprovalError> {
        Ok(Subject {
            link: self.parse("link", "a link's id after \"link\"")?,
            channel: self.parse("channel", "a channel after \"channel\"")?,
            number: ReleaseNo(self.parse("release", "a number after \"release\"")?),
            index: self.parse("index", "a SHA-256 digest after \"index\"")?,
        })
    }

    fn parse<T: FromStr>(&mut self, word: &str, expected: &'static str) -> Result<T, ApprovalError> {
        let line = self.0.next().unwrap_or_default();
        let value = line.split_once(' ').filter(|(found, _)| *found == word).map(|(_, value)| value.trim());
        match value.and_then(|value| value.parse().ok()) {
            Some(value) => Ok(value),
            None => form(expected, line),
        }
    }

    fn end(&mut self) -> Result<(), ApprovalError> {
        match self.0.next() {
            None => Ok(()),
            Some(more) => form("nothing after the signature", more),
        }
    }
}

/// Somebody whose approvals count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approver {
    /// Who it is.
    pub name: String,
    /// The key.
    pub key: ApproverId,
    /// When the key expires, seconds since 1970.
    pub until_s: Option<u64>,
}

/// How many approvers a channel's releases need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quorum {
    /// None.
    #[default]
    Auto,
    /// One.
    One,
    /// Two different ones.
    Two,
}

impl Quorum {
    /// The same as a number.
    pub fn count(self) -> usize {
        match self {
            Self::Auto => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

/// How a release stands with its approvers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who has approved.
    pub approved: BTreeSet<String>,
    /// Who has rejected, and why.
    pub rejected: BTreeMap<String, String>,
    /// Decisions that do not count (any more): why.
    pub void: Vec<ApprovalError>,
}

impl Standing {
    /// Counts decisions, of each approver the newest; of two that were made at once, the rejection.
    pub fn of(subject: &Subject, approvals: &[Approval], approvers: &[Approver], now_s: u64) -> Self {
        let mut newest: BTreeMap<ApproverId, &Approval> = BTreeMap::new();
        for approval in approvals {
            let rank = |it: &Approval| (it.made_s, matches!(it.decision, Decision::Reject(_)));
            let place = newest.entry(approval.key).or_insert(approval);
            if rank(approval) > rank(place) {
                *place = approval;
            }
        }
        let mut standing = Self::default();
        for approval in newest.into_values() {
            match (approval.judge(subject, approvers, now_s), &approval.decision) {
                (Ok(approver), Decision::Approve) => {
                    standing.approved.insert(approver.name.clone());
                }
                (Ok(approver), Decision::Reject(why)) => {
                    standing.rejected.insert(approver.name.clone(), why.clone());
                }
                (Err(error), _) => standing.void.push(error),
            }
        }
        standing
    }

    /// Whether it may be published.
    pub fn is_enough(&self, quorum: Quorum) -> bool {
        self.rejected.is_empty() && self.approved.len() >= quorum.count()
    }
}

#[cfg(test)]
mod tests;
