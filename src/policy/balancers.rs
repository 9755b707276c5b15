//! Which programs stand before the daemon and are believed when they say whom a connection or a request comes from.
//!
//! **Invariants.** Only a listed address is believed; one that is listed for the PROXY protocol has to speak it.
//! **Not here.** What they say (`protocol::proxy_header`, `protocol::forwarded`).

use crate::policy::sources::{Family, Sources, SourcesError};
use std::net::IpAddr;

/// The addresses that are believed, by what they say it with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancers {
    /// By the PROXY protocol, on connections to the API.
    pub api: Listed,
    /// By the PROXY protocol, on connections to TCP ports.
    pub devices: Listed,
    /// By `X-Forwarded-For` and `Forwarded`, in requests; for the log alone.
    pub forwarding: Listed,
}

/// A list of addresses, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed(Option<Sources>);

impl Listed {
    /// Parses a comma-separated list of addresses and blocks, or `none`.
    ///
    /// # Errors
    /// As [`Sources::parse`].
    pub fn parse(text: &str) -> Result<Self, SourcesError> {
        if text.trim() == "none" { Ok(Listed(None)) } else { Sources::parse(text).map(|list| Listed(Some(list))) }
    }

    /// Whether an address, in canonical form, is listed.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.0.as_ref().is_some_and(|list| list.accepts(ip))
    }

    /// Whether any address of this family is listed.
    pub fn has_family(&self, family: Family) -> bool {
        self.0.as_ref().is_some_and(|list| list.has(family))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_believed_who_is_not_listed() {
        let none = Listed::parse(" none ").unwrap();
        assert_eq!(none, Listed::default());
        assert!(!none.has([127, 0, 0, 1].into()) && !none.has_family(Family::V4));
        let some = Listed::parse("10.0.0.0/8").unwrap();
        assert!(some.has([10, 1, 2, 3].into()) && !some.has([11, 0, 0, 1].into()));
        assert!(some.has_family(Family::V4) && !some.has_family(Family::V6));
        assert_eq!(Listed::parse("none,10.0.0.1"), Err(SourcesError::Entry("none".into())));
        assert_eq!(Listed::parse(""), Err(SourcesError::Empty));
    }
}
