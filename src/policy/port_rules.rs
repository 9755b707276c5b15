//! A number of seconds for each port: one for all, or some ports' own before it.
//!
//! **Invariants.** The first entry that names a port holds for it; 0 is none.
//! **Not here.** What the numbers bound (`shard::expiry`).

use crate::policy::access::{PortRanges, PortRangesError};
use std::num::{NonZeroU16, NonZeroU32};

/// Seconds by port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortRules(Vec<(Option<PortRanges>, u32)>);

/// Why a text is no list of seconds by port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortRulesError {
    /// An entry that is neither seconds nor ports with seconds.
    #[error("{0:?} is neither a number of seconds nor PORTS=SECONDS")]
    Entry(String),
    /// An entry whose ports are none.
    #[error(transparent)]
    Ports(#[from] PortRangesError),
    /// An entry behind the one for all ports.
    #[error("{0:?} is never reached: the number for all ports comes last")]
    Unreached(String),
}

impl PortRules {
    /// Parses a comma-separated list, such as `6001=60,2000-2999=0,600`. Blanks are trimmed, empty entries skipped.
    ///
    /// # Errors
    /// The first entry that is not taken.
    pub fn parse(text: &str) -> Result<Self, PortRulesError> {
        let mut rules: Vec<(Option<PortRanges>, u32)> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (ports, seconds) = match entry.split_once('=') {
                Some((ports, seconds)) => (Some(PortRanges::parse(ports)?), seconds.trim()),
                None => (None, entry),
            };
            // The standard parser would take a plus sign.
            let digits = seconds.bytes().all(|byte| byte.is_ascii_digit());
            let seconds = seconds.parse().ok().filter(|_| digits);
            let seconds = seconds.ok_or_else(|| PortRulesError::Entry(entry.to_owned()))?;
            if rules.last().is_some_and(|(ports, _)| ports.is_none()) {
                return Err(PortRulesError::Unreached(entry.to_owned()));
            }
            rules.push((ports, seconds));
        }
        Ok(PortRules(rules))
    }

    /// The seconds of a port.
    pub fn of(&self, number: NonZeroU16) -> Option<NonZeroU32> {
        let names = |ports: &Option<PortRanges>| ports.as_ref().is_none_or(|ports| ports.contains(number));
        self.0.iter().find(|(ports, _)| names(ports)).and_then(|(_, seconds)| NonZeroU32::new(*seconds))
    }

    /// Whether no port has any.
    pub fn is_none(&self) -> bool {
        self.0.iter().all(|(_, seconds)| *seconds == 0)
    }
}

/// What becomes of a port's devices without anyone's doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceRules {
    /// For how long nothing may come from a device, nor go to it.
    pub idle: PortRules,
    /// How long a device may be connected.
    pub age: PortRules,
    /// Where a new connection of a source takes the place of its old one.
    pub replacing: Option<PortRanges>,
}

impl DeviceRules {
    /// Whether no device ends by itself.
    pub fn end_none(&self) -> bool {
        self.idle.is_none() && self.age.is_none()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str, port: u16) -> u32 {
        PortRules::parse(text).unwrap().of(NonZeroU16::new(port).unwrap()).map_or(0, NonZeroU32::get)
    }

    #[test]
    fn the_first_entry_that_names_a_port_holds() {
        let text = " 6001=60, 2000-2999 = 0 ,2500=7,,600";
        for (port, seconds) in [(6_001, 60), (2_000, 0), (2_500, 0), (1, 600), (65_535, 600)] {
            assert_eq!(of(text, port), seconds, "{port}");
        }
        assert_eq!((of("0", 1), of("", 1), of("6001=60", 6_002)), (0, 0, 0));
        assert!(PortRules::parse("0, ").unwrap().is_none() && !PortRules::parse("1=0,2=1").unwrap().is_none());
    }

    #[test]
    fn an_entry_that_is_none_is_named() {
        for entry in ["x", "-1", "+1", "1.5", "4294967296", "6001=", "6001=x", "6001=1=2"] {
            assert_eq!(PortRules::parse(&format!("1=1,{entry}")), Err(PortRulesError::Entry(entry.into())), "{entry}");
        }
        assert_eq!(PortRules::parse("0=5"), Err(PortRulesError::Ports(PortRangesError::Entry("0".into()))));
        assert_eq!(PortRules::parse("=5"), Err(PortRulesError::Ports(PortRangesError::Empty)));
        assert_eq!(PortRules::parse("600,6001=60"), Err(PortRulesError::Unreached("6001=60".into())));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            let _ = PortRules::parse(&text);
        }
    }
}
