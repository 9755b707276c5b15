//! The last refusals of a shard: who was not let in, to what, and why.
//!
//! **Invariants.** No more than [`REFUSALS_MAX`] are held; a refusal like one that is held adds to it, so that a flood of
//! one kind leaves the others there. What is held is small and plain: no text of a remote, and never a token.
//! **Not here.** Counting all of them (`counts`), and logging.

use crate::policy::port_id::PortId;
use std::net::IpAddr;
use std::time::Duration;

/// Refusals of one shard that are held; beyond, the oldest goes.
pub const REFUSALS_MAX: usize = 100;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum Refused {
    Device,
    Datagram,
    Join,
    Token,
    Connection,
}

impl Refused {
    /// As lists and logs have it.
    pub fn name(self) -> &'static str {
        match self {
            Refused::Device => "device",
            Refused::Datagram => "datagram",
            Refused::Join => "join",
            Refused::Token => "token",
            Refused::Connection => "connection",
        }
    }
}

/// One refusal, or several alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// When it was last, since the start of the process.
    pub at: Duration,
    /// What was refused.
    pub what: Refused,
    /// Whose it was, in canonical form.
    pub ip: IpAddr,
    /// The port it was for; `None` for the API.
    pub port: Option<PortId>,
    /// The name of the reason.
    pub reason: &'static str,
    /// How often.
    pub times: u64,
}

/// The last refusals of one shard.
#[derive(Debug, Default)]
pub struct Refusals(Vec<Refusal>);

impl Refusals {
    /// Holds a refusal.
    pub fn hold(&mut self, refusal: Refusal) {
        let alike = |held: &&mut Refusal| {
            (held.ip, held.what, held.port, held.reason) == (refusal.ip, refusal.what, refusal.port, refusal.reason)
        };
        if let Some(held) = self.0.iter_mut().find(alike) {
            held.times += refusal.times;
            held.at = refusal.at;
        } else if self.0.len() < REFUSALS_MAX {
            self.0.push(refusal);
        } else if let Some(oldest) = self.0.iter_mut().min_by_key(|held| held.at) {
            *oldest = refusal;
        }
    }

    /// Those that are held, in no order.
    pub fn held(&self) -> &[Refusal] {
        &self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(host: u8, second: u64) -> Refusal {
        Refusal {
            at: Duration::from_secs(second),
            what: Refused::Device,
            ip: [10, 0, 0, host].into(),
            port: None,
            reason: "source",
            times: 1,
        }
    }

    #[test]
    fn refusals_that_are_alike_are_one_and_the_oldest_goes() {
        let mut refusals = Refusals::default();
        refusals.hold(refusal(200, 0));
        (0..100).for_each(|second| refusals.hold(refusal(1, second)));
        assert_eq!(refusals.held().iter().map(|held| held.times).collect::<Vec<_>>(), [1, 100]);
        (2..=100).for_each(|host| refusals.hold(refusal(host, 200 + u64::from(host))));
        assert_eq!(refusals.held().len(), REFUSALS_MAX);
        assert!(refusals.held().iter().all(|held| held.ip != refusal(200, 0).ip));
        assert!(refusals.held().iter().any(|held| held.ip == refusal(1, 0).ip));
    }
}
