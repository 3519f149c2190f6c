//! What a producer may submit. Judged twice: by what it says before any content is taken, and by what its artifacts were
//! found to be called before they are staged.

use std::collections::{BTreeMap, BTreeSet};

use diodesync::id::{Channel, Sha256};
use diodesync::quantity::Bytes;
use diodesync::release::glob::matches;
use diodesync::release::index::ArtifactKind;
use diodesync::release::name::{
    ArtifactName, FilePath, ModuleAddress, NameError, ProviderAddress, parse_provider_archive_name,
};
use diodesync::release::policy::{Kind, subject};
use diodesync::release::{Artifact, ImageRepository, Tag};
use thiserror::Error;

use super::identity::Pin;
use super::protocol::Offer;
use crate::submit::{Role, What};

/// Tags of one image.
const TAGS_MAX: usize = 1000;

/// `[[producer]]`: a build host, or several that share a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// What messages and the audit log call it.
    pub name: String,
    /// Its key.
    pub key: Pin,
    /// Channels that it may submit to.
    pub channels: Vec<Channel>,
    /// Kinds of artifacts.
    pub kinds: Vec<Kind>,
    /// Patterns of their names, as [`subject`] gives them.
    pub names: Vec<String>,
    /// Whether providers may come without their registry's proof.
    pub unsigned: bool,
    /// Octets of one submission.
    pub bytes_max: u64,
    /// Octets of content that are taken from it on one day (UTC).
    pub bytes_per_day: u64,
}

/// Something is outside of a producer's rights.
#[derive(Debug, Error)]
pub enum RightsError {
    /// Its channel.
    #[error(
        "producer {producer} may not submit to channel {channel}: channels of its [[producer]] has {allowed}"
    )]
    Channel {
        /// Who.
        producer: String,
        /// Where to.
        channel: Channel,
        /// Where it may.
        allowed: String,
    },
    /// Its kind.
    #[error("producer {producer} may not submit {what}: kinds of its [[producer]] has {allowed}")]
    Kind {
        /// Who.
        producer: String,
        /// An artifact, or its kind.
        what: String,
        /// What it may.
        allowed: String,
    },
    /// Its name.
    #[error(
        "producer {producer} may not submit {artifact}: no pattern in names of its [[producer]] ({allowed}) matches {subject:?}"
    )]
    Name {
        /// Who.
        producer: String,
        /// Which artifact.
        artifact: String,
        /// What is compared with the patterns.
        subject: String,
        /// Those.
        allowed: String,
    },
    /// A provider without a proof.
    #[error(
        "producer {producer} may not submit provider {address} without its proof: unsigned of its [[producer]] is false"
    )]
    Unsigned {
        /// Who.
        producer: String,
        /// Which provider.
        address: String,
    },
    /// Too large.
    #[error(
        "the submission of producer {producer} has {found}, and bytes_max of its [[producer]] is {max}",
        found = Bytes(*.found),
        max = Bytes(*.max)
    )]
    TooLarge {
        /// Who.
        producer: String,
        /// Octets.
        found: u64,
        /// At most.
        max: u64,
    },
    /// Too much on one day.
    #[error(
        "producer {producer} wants to send {wanted} more, and {came} came from it today already; bytes_per_day of its \
         [[producer]] is {max}. The day ends at 00:00 UTC",
        wanted = Bytes(*.wanted),
        came = Bytes(*.came),
        max = Bytes(*.max)
    )]
    TooMuch {
        /// Who.
        producer: String,
        /// Octets that are lacking.
        wanted: u64,
        /// Octets that came.
        came: u64,
        /// At most.
        max: u64,
    },
    /// An image with too many names.
    #[error("the image of producer {producer} has {found} tags, and {TAGS_MAX} at most are taken at once")]
    Tags {
        /// Who.
        producer: String,
        /// How many.
        found: usize,
    },
    /// What only a command on the sender's own host may say.
    #[error("producer {producer} names content that it does not give; that is for the sender's own host")]
    NotGiven {
        /// Who.
        producer: String,
    },
    /// A name that is none.
    #[error(transparent)]
    NoName(#[from] NameError),
}

fn list(items: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

impl Producer {
    /// Whether an offer is within its rights, as far as it says what it is.
    ///
    /// # Errors
    /// The first rule that it is not within.
    pub fn judge_offer(&self, offer: &Offer) -> Result<(), RightsError> {
        if !self.channels.contains(&offer.channel) {
            return Err(RightsError::Channel {
                producer: self.name.clone(),
                channel: offer.channel.clone(),
                allowed: list(&self.channels),
            });
        }
        self.judge_what(&offer.what)?;
        names(offer)?.iter().try_for_each(|name| self.judge(name))?;
        let found = offer.bytes();
        if found > self.bytes_max {
            return Err(RightsError::TooLarge { producer: self.name.clone(), found, max: self.bytes_max });
        }
        Ok(())
    }

    fn judge_what(&self, what: &What) -> Result<(), RightsError> {
        let kind = kind_of(what);
        if !self.kinds.contains(&kind) {
            return Err(self.no_kind(format!("artifacts of kind {}", kind.word())));
        }
        let producer = self.name.clone();
        match what {
            What::Provider { address, unsigned: true, .. } if !self.unsigned => {
                Err(RightsError::Unsigned { producer, address: address.clone() })
            }
            What::Packages { held, .. } if !held.is_empty() => Err(RightsError::NotGiven { producer }),
            What::Image { omitted, .. } if !omitted.is_empty() => Err(RightsError::NotGiven { producer }),
            What::Image { tags, .. } if tags.len() > TAGS_MAX => {
                Err(RightsError::Tags { producer, found: tags.len() })
            }
            _ => Ok(()),
        }
    }

    fn no_kind(&self, what: String) -> RightsError {
        let allowed = list(self.kinds.iter().map(|kind| kind.word()));
        RightsError::Kind { producer: self.name.clone(), what, allowed }
    }

    /// Whether it may submit an artifact of this name.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, name: &ArtifactName) -> Result<(), RightsError> {
        if !self.kinds.contains(&Kind::of(name)) {
            return Err(self.no_kind(name.to_string()));
        }
        let subject = subject(name);
        if self.names.iter().any(|pattern| matches(pattern, &subject)) {
            return Ok(());
        }
        Err(RightsError::Name {
            producer: self.name.clone(),
            artifact: name.to_string(),
            subject,
            allowed: list(&self.names),
        })
    }

    /// Whether it may send so much more today.
    ///
    /// # Errors
    /// If not.
    pub fn judge_day(&self, came: u64, wanted: u64) -> Result<(), RightsError> {
        if came.saturating_add(wanted) <= self.bytes_per_day {
            return Ok(());
        }
        Err(RightsError::TooMuch { producer: self.name.clone(), wanted, came, max: self.bytes_per_day })
    }
}

fn kind_of(what: &What) -> Kind {
    match what {
        What::Files => Kind::File,
        What::Provider { .. } => Kind::Provider,
        What::Image { .. } => Kind::Image,
        What::Module { .. } => Kind::Module,
        What::Packages { .. } => Kind::Package,
    }
}

/// The artifacts that an offer says it makes. What Debian packages are called stands in them.
fn names(offer: &Offer) -> Result<Vec<ArtifactName>, NameError> {
    Ok(match &offer.what {
        What::Files => {
            let path = |path: &String| path.parse::<FilePath>().map(ArtifactName::File);
            offer.files.iter().map(|file| path(&file.path)).collect::<Result<_, _>>()?
        }
        What::Provider { address, .. } => {
            let address: ProviderAddress = address.parse()?;
            let archives = offer.files.iter().filter(|file| file.role == Role::Archive);
            let version = |path: &str| parse_provider_archive_name(&address.kind, path).map(|(it, _)| it);
            let versions = archives.map(|file| version(&file.path)).collect::<Result<Vec<_>, _>>()?;
            versions.into_iter().map(|version| ArtifactName::Provider(address.clone(), version)).collect()
        }
        What::Image { repository, tags, .. } => {
            let repository: ImageRepository = repository.parse()?;
            let tags = tags.keys().map(|tag| tag.parse::<Tag>()).collect::<Result<Vec<_>, _>>()?;
            tags.into_iter().map(|tag| ArtifactName::Image(repository.clone(), tag)).collect()
        }
        What::Module { address, version, .. } => {
            let address: ModuleAddress = address.parse()?;
            vec![ArtifactName::Module(address, version.parse()?)]
        }
        What::Packages { .. } => Vec::new(),
    })
}

/// Those of `asked` that a producer could have submitted itself, because an artifact within its rights is made of them.
/// It is told of no others that they are here: it sends them, as if they were not.
pub fn known_to<'a>(
    producer: &Producer,
    artifacts: impl Iterator<Item = (&'a ArtifactName, &'a ArtifactKind)>,
    asked: &BTreeMap<Sha256, u64>,
) -> BTreeSet<Sha256> {
    let mut known = BTreeSet::new();
    for (name, kind) in artifacts.filter(|(name, _)| producer.judge(name).is_ok()) {
        let artifact = Artifact { name: name.clone(), kind: kind.clone() };
        known.extend(artifact.blobs().into_iter().filter(|digest| asked.contains_key(digest)));
    }
    known
}

#[cfg(test)]
mod tests;
