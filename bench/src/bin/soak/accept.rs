//! Accept lists: which entries a driver names, how it writes them, and what they accept.
//!
//! **Invariants.** Matching is done here and not by the daemon's code, which is under test.
//! **Not here.** Who uses which list (`plan`).

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Sources that each shared port's warden accepts.
pub const WARDEN_ACCEPTS: &str = "127.10.0.0/16,::1";
/// A source that no device ever has.
pub const NOBODY: &str = "127.77.0.1";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Block(Ipv4Addr, u32),
    Six(Ipv6Addr),
}

/// What a driver accepts.
#[derive(Debug, Clone)]
pub struct AcceptList {
    entries: Vec<Entry>,
    text: String,
}

impl AcceptList {
    /// The list that `text` writes; entries that are none are left out.
    pub fn of(text: &str) -> Self {
        let entries = text.split(',').filter_map(|entry| Entry::parse(entry.trim())).collect();
        AcceptList { entries, text: text.to_owned() }
    }

    /// A list that is equal to, overlaps or has nothing in common with those of others.
    pub fn random(rng: &mut ChaCha8Rng) -> Self {
        let mut text = String::new();
        for _ in 0..rng.random_range(1..=3) {
            let host = rng.random_range(1..=8);
            let entry = match rng.random_range(0..12) {
                0 | 1 => format!("127.10.0.{host}"),
                2 => "127.10.0.1,127.10.0.2".to_owned(),
                3 => "127.10.0.0/24".to_owned(),
                4 => "127.10.1.9/16".to_owned(),
                5 => "127.0.0.0/8".to_owned(),
                6 => format!("127.20.0.{host}"),
                7 => "127.20.0.0/16".to_owned(),
                8 => format!("127.20.0.{host}/30"),
                9 => format!("::ffff:127.10.0.{host}"),
                10 => "::1".to_owned(),
                _ => "127.10.0.0/15".to_owned(),
            };
            text.push_str(if rng.random_bool(0.2) { " " } else { "" });
            text.push_str(&entry);
            text.push_str(if rng.random_bool(0.2) { " ,," } else { "," });
        }
        // Nobody sees a refusal here unless the source accepts it: 127.99.0.0/16 is kept for the refused.
        if text.contains("127.0.0.0/8") {
            text = text.replace("127.0.0.0/8", "127.16.0.0/12");
        }
        if rng.random_bool(0.5) {
            text.truncate(text.trim_end_matches(',').len());
        }
        AcceptList::of(&text)
    }

    /// How the driver writes it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it accepts a device there.
    pub fn accepts(&self, source: IpAddr) -> bool {
        self.entries.iter().any(|entry| match (entry, source) {
            (Entry::Block(base, mask), IpAddr::V4(source)) => (base.to_bits() ^ source.to_bits()) & mask == 0,
            (Entry::Six(address), IpAddr::V6(source)) => *address == source,
            _ => false,
        })
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Entry> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, bits.parse::<u32>().ok()?),
            None => (text, 32),
        };
        match address.parse::<IpAddr>().ok()?.to_canonical() {
            IpAddr::V4(base) => Some(Entry::Block(base, u32::MAX.checked_shl(32 - bits).unwrap_or(0))),
            IpAddr::V6(address) => Some(Entry::Six(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_accepts_its_addresses_and_blocks() {
        let list = AcceptList::of(" 127.10.1.9/16 ,,::ffff:127.20.0.3,::1,");
        for (source, accepted) in
            [("127.10.200.1", true), ("127.20.0.3", true), ("::1", true), ("127.20.0.4", false), ("::2", false)]
        {
            assert_eq!(list.accepts(source.parse().expect("an address")), accepted, "{source}");
        }
    }
}
