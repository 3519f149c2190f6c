//! The listener's certificate: read at the start, and again whenever its files are replaced, so that a renewal needs no
//! restart. What is wrong later is an alarm and the old certificate stays in use: a gateway that stops because its
//! certificate has expired serves nobody better.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use diodesync::audit::Side;
use diodesync::pack::Stamp;
use diodesync_control::secret;
use serde::{Deserialize, Serialize};

use super::TlsHandle;
use crate::certs::{self, CertError, Loaded};
use crate::config::Config;

/// Days before the end at which there is an alarm. Our own certificate is renewed earlier.
const ALARM_DAYS: u64 = 30;

/// How the certificate stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// When the chain in use expires, seconds since 1970.
    pub expires_s: u64,
    /// What an operator has to do about it.
    pub problem: Option<String>,
}

/// A certificate and the files that it comes from.
#[derive(Debug)]
pub struct Tls {
    handle: TlsHandle,
    chain: PathBuf,
    key: PathBuf,
    hosts: Vec<String>,
    ca_pem: Option<String>,
    stamps: (Option<Stamp>, Option<Stamp>),
    expires_s: u64,
    /// Why the files are not in use, or what is wrong with them.
    trouble: Option<String>,
    /// Whether that is their dates, so that time may mend it.
    is_untimely: bool,
}

impl Tls {
    /// Reads the certificate of the configuration: the site's own, or the one that our authority has made.
    ///
    /// # Errors
    /// If there is none, it is not for the configured names, or the site's own is not valid now. The dates of one of ours
    /// are an alarm: only the clock can be wrong.
    pub fn open(config: &Config, now_s: u64) -> anyhow::Result<Self> {
        let (dir, hosts) = (&config.dir, &config.serve.hosts);
        let (chain, key, ca_pem) = match (&config.serve.certificate, &config.serve.key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone(), None),
            _ => {
                let ca = dir.join("ca.pem");
                let pem =
                    std::fs::read_to_string(&ca).with_context(|| format!("cannot read {}", ca.display()))?;
                (dir.join("server.pem"), dir.join("tls/server.key"), Some(pem))
            }
        };
        let found = secret::find(Side::Receiver, &key);
        let stamps = (Stamp::of(&chain), Stamp::of(&found));
        let Loaded { server, expires_s, dates } = certs::load(&chain, &found, hosts, now_s)?;
        let trouble = match dates {
            Some(error) if ca_pem.is_none() => return Err(error.into()),
            other => other.as_ref().map(CertError::to_string),
        };
        let (handle, hosts) = (TlsHandle::new(Arc::new(server)), hosts.clone());
        let is_untimely = trouble.is_some();
        Ok(Self { handle, chain, key, hosts, ca_pem, stamps, expires_s, trouble, is_untimely })
    }

    /// What the listener uses.
    pub fn handle(&self) -> TlsHandle {
        self.handle.clone()
    }

    /// Our authority's certificate, if it is ours that is served with.
    pub fn ca_pem(&self) -> Option<&String> {
        self.ca_pem.as_ref()
    }

    /// Goes over to files that were replaced, and looks again at those that a clock has kept out.
    pub fn look(&mut self, now_s: u64) {
        // A renewal leaves one in the folder, which then comes before the one that the service manager gave.
        let key = secret::find(Side::Receiver, &self.key);
        let stamps = (Stamp::of(&self.chain), Stamp::of(&key));
        if stamps == self.stamps && !self.is_untimely {
            return;
        }
        let is_replaced = stamps != self.stamps;
        self.stamps = stamps;
        self.is_untimely = false;
        let loaded = certs::load(&self.chain, &key, &self.hosts, now_s).and_then(|loaded| {
            // One that no client takes is worse than the one in use.
            self.is_untimely = loaded.dates.is_some();
            loaded.dates.map_or(Ok((loaded.server, loaded.expires_s)), Err)
        });
        match loaded {
            Ok((server, expires_s)) => {
                tracing::info!(chain = %self.chain.display(), "the certificate in its place is in use");
                self.handle.switch(Arc::new(server));
                (self.expires_s, self.trouble) = (expires_s, None);
            }
            Err(error) if is_replaced => {
                let text = format!("the certificate was replaced and the old one stays in use: {error}");
                tracing::error!("{text}");
                self.trouble = Some(text);
            }
            Err(_) => {}
        }
    }

    /// How it stands.
    pub fn status(&self, now_s: u64) -> TlsStatus {
        let what = self.chain.display();
        let renew = if self.ca_pem.is_some() {
            "it should have been renewed; the log says why it was not"
        } else {
            "put the renewed chain and key in its place; no restart is needed"
        };
        let problem = self.trouble.clone().or_else(|| {
            if now_s > self.expires_s {
                Some(format!(
                    "{what} expired on {}, and clients refuse it: {renew}",
                    certs::utc(self.expires_s)
                ))
            } else if now_s.saturating_add(ALARM_DAYS * 86_400) > self.expires_s {
                Some(format!("{what} expires on {}: {renew}", certs::utc(self.expires_s)))
            } else {
                None
            }
        });
        TlsStatus { expires_s: self.expires_s, problem }
    }
}

/// Where the certificate comes from, for who renews it: none if it is the site's own.
pub fn renewed_dir(config: &Config) -> Option<&Path> {
    config.serve.certificate.is_none().then_some(config.dir.as_path())
}
