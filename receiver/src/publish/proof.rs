//! The upstream's proofs, checked again on this side.

use anyhow::Context;
use diodesync::id::Sha256;
use diodesync::limits::PROOF_BYTES_MAX;
use diodesync::pack::{Blobs, PackStore};
use diodesync::release::index::{ArtifactKind, Index, Provider, ProviderProof, archive_file_name};
use diodesync::release::name::ArtifactName;
use diodesync::release::provider::{ProofInput, Signer, verify};

use super::gate::Found;

/// Checks the proof of every artifact that has one, and says who signed it.
///
/// # Errors
/// The first artifact whose proof does not hold, and why.
pub fn check(index: &Index, packs: &PackStore, found: &mut Found) -> anyhow::Result<()> {
    for (name, kind) in &index.artifacts {
        if let (ArtifactName::Provider(address, version), ArtifactKind::Provider(provider)) = (name, kind) {
            let Provider { proof: Some(proof), archives, .. } = provider else { continue };
            let archives = archives
                .iter()
                .map(|(platform, archive)| (archive_file_name(address, version, platform), archive.blob));
            let archives: Vec<_> = archives.collect();
            let signer = check_provider(index, packs, proof, &archives).with_context(|| name.to_string())?;
            found.signers.insert(name.clone(), vec![signer.fingerprint]);
        }
    }
    Ok(())
}

fn check_provider(
    index: &Index,
    packs: &PackStore,
    proof: &ProviderProof,
    archives: &[(String, Sha256)],
) -> anyhow::Result<Signer> {
    let read = |digest: &Sha256| -> anyhow::Result<Vec<u8>> {
        let blob = index.blobs.get(digest).with_context(|| format!("blob {digest} is not listed"))?;
        packs.whole_blob(blob, PROOF_BYTES_MAX)?.context("a proof is larger than any proof should be")
    };
    let keys = proof
        .keys
        .iter()
        .map(|(id, digest)| Ok((id.clone(), read(digest)?)))
        .collect::<anyhow::Result<_>>()?;
    let (sums, signature) = (read(&proof.sums)?, read(&proof.signature)?);
    Ok(verify(&ProofInput { sums: &sums, signature: &signature, keys: &keys }, archives)?)
}
