//! The expiry of the API's certificate, of which an operator is warned in time.
//!
//! **Invariants.** A certificate that expires soon is warned of each day, and when it is read.
//! **Not here.** Reading it (`config`), and reading it again (`reload`).

use crate::shard::tls::Identity;
use std::time::{Duration, SystemTime};

/// How long before its expiry an operator is warned, and how often.
const WARNING_DAYS: i64 = 14;
const DAY_S: i64 = 24 * 60 * 60;
pub(super) const WARNING_INTERVAL: Duration = Duration::from_secs(DAY_S as u64);

/// Warns where the first of its certificates expires soon, or has.
pub(super) fn warn(identity: &Identity) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let left_s = identity.expires_s - i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    // Whole days; below zero once it has expired.
    let expires_in_days = left_s.div_euclid(DAY_S);
    if expires_in_days < 0 {
        tracing::error!(expired_before_days = -expires_in_days, "the certificate has expired");
    } else if expires_in_days < WARNING_DAYS {
        tracing::warn!(expires_in_days, "the certificate expires soon");
    }
}
