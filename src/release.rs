//! Releases: what a channel serves, as artifacts, blobs, and the blocks that hold them.

pub mod approval;
pub mod archive;
pub mod catalog;
pub mod change;
pub mod constraint;
pub mod delta;
pub mod glob;
pub mod image;
pub mod index;
pub mod module;
pub mod name;
pub mod package;
pub mod policy;
pub mod provider;
pub mod retention;

pub use index::{Artifact, ArtifactKind, Blob, Extent, Index, IndexError, PackRun};
pub use name::{
    ArtifactName, FilePath, ImageRepository, ModuleAddress, NameError, PackageName, Platform,
    ProviderAddress, Suite, Tag, Version,
};
