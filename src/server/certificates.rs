//! The certificate of the API while the daemon runs: read again on SIGHUP, and watched for its expiry.
//!
//! **Invariants.** Files that are not good change nothing. What is read goes to every shard.
//! **Not here.** The files (`config`), and signals (`server`).

use crate::config::TlsFiles;
use crate::shard::mailbox::{Peers, Request};
use crate::shard::tls::Identity;
use std::time::{Duration, SystemTime};

/// How long before its expiry an operator is warned, and how often.
const WARNING_DAYS: i64 = 14;
const DAY_S: i64 = 24 * 60 * 60;
pub(super) const WARNING_INTERVAL: Duration = Duration::from_secs(DAY_S as u64);

/// Where the certificate is kept, and when it expires.
pub(super) struct Certificates {
    files: TlsFiles,
    expires_s: i64,
}

impl Certificates {
    /// Those of these files, which were read before.
    pub(super) fn new(files: TlsFiles, identity: &Identity) -> Self {
        Certificates { files, expires_s: identity.expires_s }
    }

    /// Reads the files again and has every shard show what is in them.
    pub(super) async fn reload(&mut self, peers: &Peers) {
        let identity = match self.files.load() {
            Ok(identity) => identity,
            Err(error) => return tracing::error!(%error, "the certificate was not read again; the one before stays"),
        };
        self.expires_s = identity.expires_s;
        for shard in 0..peers.shards() {
            peers.ask(shard, Request::Identify { identity: identity.clone() }).await;
        }
        tracing::info!(expires_in_days = self.expires_in_days(), "the certificate was read again");
        self.warn();
    }

    /// Warns where the certificate expires soon.
    pub(super) fn warn(&self) {
        let expires_in_days = self.expires_in_days();
        if expires_in_days < 0 {
            tracing::error!(expired_before_days = -expires_in_days, "the certificate has expired");
        } else if expires_in_days < WARNING_DAYS {
            tracing::warn!(expires_in_days, "the certificate expires soon");
        }
    }

    /// Whole days; below zero once it has expired.
    fn expires_in_days(&self) -> i64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        (self.expires_s - i64::try_from(now.as_secs()).unwrap_or(i64::MAX)).div_euclid(DAY_S)
    }
}
