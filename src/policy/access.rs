//! What drivers may do at all: which ports they may open, which sources they may accept, and where their datagrams may go.
//!
//! **Invariants.** The ports of the daemon's own API are never allowed for TCP, whatever the ranges say; a list that was
//! parsed allows at least one port.
//! **Not here.** Whether a driver may come in (`token`), and what a session accepts of what it may (`roster`).

use crate::policy::ending::JoinRefusal;
use crate::policy::port_id::{PortId, Transport};
use crate::policy::sources::Sources;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

/// What the operator allows to every driver.
#[derive(Debug, Clone)]
pub struct Access {
    /// The ports that may be opened.
    pub ports: PortRanges,
    /// The sources that may be accepted.
    pub sources: Sources,
    /// Where datagrams of drivers may go.
    pub udp_egress: Egress,
    /// Where the API listens.
    pub api_port: u16,
    /// Where it listens with TLS, if it does.
    pub api_tls_port: Option<u16>,
}

impl Access {
    /// Whether a driver may join this port for these sources: every entry has to lie in one that is allowed.
    ///
    /// # Errors
    /// The rule that forbids it, and the entry that breaks it.
    pub fn check(&self, port: PortId, sources: &Sources) -> Result<(), JoinRefusal> {
        let number = port.number.get();
        let is_own = number == self.api_port || Some(number) == self.api_tls_port;
        if port.transport == Transport::Tcp && is_own {
            return Err(JoinRefusal::OwnPort);
        }
        if !self.ports.contains(port.number) {
            return Err(JoinRefusal::PortNotAllowed(port));
        }
        sources.first_outside(&self.sources).map_or(Ok(()), |entry| Err(JoinRefusal::SourceNotAllowed(entry)))
    }
}

/// A set of port numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRanges(Vec<RangeInclusive<u16>>);

/// Why a text is no set of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortRangesError {
    /// An entry that is neither a port nor a range of ports.
    #[error("{0:?} is neither a port (1 to 65535) nor a range of ports")]
    Entry(String),
    /// A range whose end lies before its start.
    #[error("the range {0:?} ends before it begins")]
    Reversed(String),
    /// A list without an entry.
    #[error("the list has no entry")]
    Empty,
}

impl PortRanges {
    /// Parses a comma-separated list of ports and ranges, such as `2000-2999,161`. Blanks are trimmed, empty entries
    /// skipped, and entries may overlap.
    ///
    /// # Errors
    /// The first entry that is neither, or that there is no entry.
    pub fn parse(text: &str) -> Result<Self, PortRangesError> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let ranges = entries.map(range).collect::<Result<Vec<_>, _>>()?;
        if ranges.is_empty() { Err(PortRangesError::Empty) } else { Ok(PortRanges(ranges)) }
    }

    /// Whether the port is in the set.
    pub fn contains(&self, number: NonZeroU16) -> bool {
        self.0.iter().any(|range| range.contains(&number.get()))
    }
}

fn range(entry: &str) -> Result<RangeInclusive<u16>, PortRangesError> {
    let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err(PortRangesError::Entry(entry.to_owned()));
    };
    if last < first {
        return Err(PortRangesError::Reversed(entry.to_owned()));
    }
    Ok(first.get()..=last.get())
}

/// Decimal digits alone: the standard parser would take a plus sign.
fn port(text: &str) -> Option<NonZeroU16> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Where datagrams of a driver may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// Anywhere: BACnet drivers write to a broadcast device, which they need not accept.
    Any,
    /// To addresses that the driver itself accepts.
    Accepted,
}

/// A text that names no egress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be one of any, accepted")]
pub struct EgressError;

impl Egress {
    /// Parses `any` or `accepted`.
    ///
    /// # Errors
    /// [`EgressError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, EgressError> {
        match text {
            "any" => Ok(Egress::Any),
            "accepted" => Ok(Egress::Accepted),
            _ => Err(EgressError),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(port: u16) -> NonZeroU16 {
        NonZeroU16::new(port).unwrap()
    }

    fn access(ports: &str, sources: &str) -> Access {
        Access {
            ports: PortRanges::parse(ports).unwrap(),
            sources: Sources::parse(sources).unwrap(),
            udp_egress: Egress::Any,
            api_port: 3_000,
            api_tls_port: Some(3_443),
        }
    }

    fn check(access: &Access, transport: Transport, port: u16, accept: &str) -> Result<(), JoinRefusal> {
        access.check(PortId { transport, number: number(port) }, &Sources::parse(accept).unwrap())
    }

    #[test]
    fn ports_and_ranges_make_one_set() {
        let ports = PortRanges::parse(" 2000-2999, 161 ,,6001 - 6001,65535,").unwrap();
        for inside in [2_000, 2_500, 2_999, 161, 6_001, 65_535] {
            assert!(ports.contains(number(inside)), "{inside}");
        }
        for outside in [1, 160, 162, 1_999, 3_000, 6_000, 6_002, 65_534] {
            assert!(!ports.contains(number(outside)), "{outside}");
        }
    }

    #[test]
    fn an_entry_that_is_no_range_of_ports_is_named() {
        for entry in ["0", "65536", "x", "-", "1-", "-1", "1-2-3", "+1", "0-5", "1..5", "1-70000", "tcp"] {
            assert_eq!(PortRanges::parse(&format!("1,{entry}")), Err(PortRangesError::Entry(entry.to_owned())));
        }
        assert_eq!(PortRanges::parse("9-8"), Err(PortRangesError::Reversed("9-8".to_owned())));
        for text in ["", " , "] {
            assert_eq!(PortRanges::parse(text), Err(PortRangesError::Empty));
        }
    }

    #[test]
    fn the_apis_own_ports_are_refused_for_tcp_alone() {
        let access = access("1-65535", "0.0.0.0/0");
        assert_eq!(check(&access, Transport::Tcp, 3_000, "10.0.0.1"), Err(JoinRefusal::OwnPort));
        assert_eq!(check(&access, Transport::Tcp, 3_443, "10.0.0.1"), Err(JoinRefusal::OwnPort));
        assert_eq!(check(&access, Transport::Udp, 3_000, "10.0.0.1"), Ok(()));
    }

    #[test]
    fn a_refusal_names_the_rule_and_what_breaks_it() {
        let access = access("2000-2999", "10.0.0.0/8,192.168.0.7,2001:db8::/32");
        for accept in ["10.1.2.3", "10.0.0.0/8,192.168.0.7/32", "2001:db8::1,2001:db8:1::/48", "::ffff:10.0.0.1"] {
            assert_eq!(check(&access, Transport::Udp, 2_000, accept), Ok(()), "{accept}");
        }
        for (accept, outside) in
            [("10.1.2.3,11.0.0.1", "11.0.0.1"), ("8.0.0.0/5", "8.0.0.0/5"), ("192.168.0.6/31", "192.168.0.6/31")]
        {
            let refusal = check(&access, Transport::Tcp, 2_999, accept).unwrap_err();
            assert_eq!(refusal.status(), 403);
            let reason = refusal.reason();
            assert!(reason.starts_with(&format!("{outside} ")) && reason.contains("--allow-sources"), "{reason}");
        }
        let refusal = check(&access, Transport::Tcp, 3_001, "11.0.0.1").unwrap_err();
        assert!(refusal.reason().contains("tcp/3001") && refusal.reason().contains("--allow-ports"));
    }

    #[test]
    fn egress_is_any_or_accepted() {
        assert_eq!((Egress::parse("any"), Egress::parse("accepted")), (Ok(Egress::Any), Ok(Egress::Accepted)));
        assert_eq!((Egress::parse(""), Egress::parse("Any")), (Err(EgressError), Err(EgressError)));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            let _ = PortRanges::parse(&text);
        }

        #[test]
        fn a_set_holds_the_ports_that_its_ranges_say(
            ranges in proptest::collection::vec((1..=u16::MAX, 1..=u16::MAX), 1..6),
            port in 1..=u16::MAX,
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(one, other)| (one.min(other), one.max(other))).collect();
            let text: Vec<String> = ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            let ports = PortRanges::parse(&text.join(",")).unwrap();
            let expected = ranges.iter().any(|&(first, last)| first <= port && port <= last);
            prop_assert_eq!(ports.contains(number(port)), expected);
        }
    }
}
