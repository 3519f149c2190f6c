//! The proof that a Terraform registry gives for a provider.
