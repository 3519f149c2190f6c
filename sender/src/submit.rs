//! `submit`: handing artifacts to the daemon.
//!
//! The command reads the files, because the daemon may not be allowed to, and streams them over the control socket in
//! frames of a tag, a length (u32, big-endian) and a body:
//!
//! ```text
//! 1  JSON [`Message`]
//! 2  octets of the blob that the last message began
//! ```
//!
//! A stream that ends without [`Message::End`] leaves nothing behind.

mod command;
mod image;
mod layout;
mod local;
mod module;
mod packages;
mod server;
mod target;

use std::collections::{BTreeMap, BTreeSet};

use diodesync::id::{Channel, Sha256};
use serde::{Deserialize, Serialize};

pub use command::{FilesArgs, Frames, Item, ProviderArgs, ReadFailure, files, provider};
pub use image::{ImageArgs, image};
pub use local::{hand_over, take_from};
pub use module::{ModuleArgs, module};
pub use packages::{PackagesArgs, packages};
pub use server::{Garbled, Submitter, receive};
pub use target::{Target, To};

const TAG_MESSAGE: u8 = 1;
const TAG_DATA: u8 = 2;
/// Octets of the largest frame.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// What the command says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case", deny_unknown_fields)]
enum Message {
    /// The first message.
    Begin {
        /// The channel to submit to.
        channel: Channel,
        /// What is submitted.
        what: What,
        /// Octets of all files.
        bytes: u64,
    },
    /// A file follows.
    File {
        /// Its path in the tree that is served; for a provider or a package, its file name; for an image, its digest.
        path: String,
        /// What it is.
        role: Role,
        /// Its octets.
        bytes: u64,
    },
    /// All of the last file was sent.
    EndFile,
    /// All of the last file was sent, and it must be this.
    EndOf {
        /// Its digest.
        sha256: Sha256,
    },
    /// The last file does not come: the daemon holds it.
    Held {
        /// What it is.
        sha256: Sha256,
    },
    /// That is all.
    End,
}

/// What is submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// Plain files.
    Files,
    /// Archives of one provider.
    Provider {
        /// `HOST/NAMESPACE/TYPE`.
        address: String,
        /// Plugin protocol versions.
        protocols: Vec<String>,
        /// Whether the operator gave up the upstream's proof.
        unsigned: bool,
    },
    /// An image and its signatures.
    Image {
        /// `REGISTRY/REPOSITORY`.
        repository: String,
        /// The manifest of each tag.
        tags: BTreeMap<String, Sha256>,
        /// Manifests of other platforms than are wanted, which an index may name and which do not come.
        #[serde(default)]
        omitted: BTreeSet<Sha256>,
    },
    /// A version of a Terraform module.
    Module {
        /// `HOST/NAMESPACE/NAME/SYSTEM`.
        address: String,
        /// Its version.
        version: String,
        /// Where in the archive it is.
        folder: String,
    },
    /// Debian packages.
    Packages {
        /// The suite.
        suite: String,
        /// The component of it.
        component: String,
        /// Packages that the daemon holds and that do not come again.
        #[serde(default)]
        held: Vec<Sha256>,
    },
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A plain file.
    Plain,
    /// A plain file that may be executed.
    Executable,
    /// A provider's archive.
    Archive,
    /// `SHA256SUMS`.
    Sums,
    /// The signature over it.
    Signature,
    /// A key file: of a provider's publisher, or of an archive.
    Key,
    /// A manifest of an image.
    Manifest,
    /// A configuration or layer of an image. Those that the daemon holds are left out.
    Blob,
    /// A Debian package.
    Package,
    /// The `InRelease` of an archive.
    Release,
    /// The `Packages` file that names the packages.
    Index,
    /// The archive of a module.
    Module,
}

fn frame_head(tag: u8, bytes: usize) -> [u8; 5] {
    let [a, b, c, d] = (bytes as u32).to_be_bytes();
    [tag, a, b, c, d]
}
