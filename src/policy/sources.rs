//! An accept list: the addresses and blocks from which a driver takes devices, parsed once.
//!
//! **Invariants.** Addresses are canonical (IPv4-mapped is IPv4), sorted and unique; a block matches whatever host bits
//! it was written with; a list that parses accepts at least one address.
//! **Not here.** Who else accepts a source (`roster`).

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Which family of addresses, and so which socket, is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The two families.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address in canonical form.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// A parsed accept list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    addresses: Vec<IpAddr>,
    blocks: Vec<IpNet>,
}

/// Why a text is no accept list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    /// An entry that is neither address nor block.
    #[error("{0:?} is neither an address nor a block of addresses")]
    Entry(String),
    /// A list without an entry.
    #[error("the list has no entry")]
    Empty,
}

impl Sources {
    /// Parses a comma-separated list. Blanks are trimmed, empty entries skipped, duplicates are one.
    ///
    /// # Errors
    /// The first entry that is neither address nor block (a zone id is neither), or that there is no entry.
    pub fn parse(text: &str) -> Result<Self, SourcesError> {
        let mut sources = Sources { addresses: Vec::new(), blocks: Vec::new() };
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if let Ok(address) = entry.parse::<IpAddr>() {
                sources.addresses.push(address.to_canonical());
            } else if let Some(block) = parse_block(entry) {
                sources.blocks.push(canonical_block(block));
            } else {
                return Err(SourcesError::Entry(entry.to_owned()));
            }
        }
        if sources.addresses.is_empty() && sources.blocks.is_empty() {
            return Err(SourcesError::Empty);
        }
        sources.addresses.sort_unstable();
        sources.addresses.dedup();
        sources.blocks.sort_unstable();
        sources.blocks.dedup();
        Ok(sources)
    }

    /// Whether a device at `source`, in canonical form, is accepted.
    pub fn accepts(&self, source: IpAddr) -> bool {
        self.addresses.binary_search(&source).is_ok() || self.blocks.iter().any(|block| block.contains(&source))
    }

    /// The first entry that does not lie in `allowed`: an address in one of its entries, a block in one of its blocks.
    pub fn first_outside(&self, allowed: &Sources) -> Option<IpNet> {
        self.entries().find(|entry| !allowed.encloses(entry))
    }

    /// Memory that the list takes.
    pub fn memory_bytes(&self) -> usize {
        self.addresses.capacity() * size_of::<IpAddr>() + self.blocks.capacity() * size_of::<IpNet>()
    }

    /// Whether any entry is of this family.
    pub fn has(&self, family: Family) -> bool {
        self.addresses.iter().any(|&address| Family::of(address) == family)
            || self.blocks.iter().any(|block| Family::of(block.addr()) == family)
    }
}

impl From<IpAddr> for Sources {
    fn from(ip: IpAddr) -> Self {
        Sources { addresses: vec![ip.to_canonical()], blocks: Vec::new() }
    }
}

impl Sources {
    /// Every entry, an address as the block of itself alone.
    fn entries(&self) -> impl Iterator<Item = IpNet> {
        self.addresses.iter().copied().map(IpNet::from).chain(self.blocks.iter().copied())
    }

    fn encloses(&self, block: &IpNet) -> bool {
        let is_address = block.prefix_len() == block.max_prefix_len();
        self.blocks.iter().any(|own| own.contains(block))
            || (is_address && self.addresses.binary_search(&block.addr()).is_ok())
    }
}

impl fmt::Display for Sources {
    /// The canonical list.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.addresses.iter().map(IpAddr::to_string).chain(self.blocks.iter().map(IpNet::to_string));
        for (at, entry) in entries.enumerate() {
            write!(f, "{}{entry}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// An address, a slash, and a length in digits. The address is as strict as one that stands alone.
fn parse_block(entry: &str) -> Option<IpNet> {
    let (address, bits) = entry.split_once('/')?;
    let digits = bits.bytes().all(|byte| byte.is_ascii_digit());
    IpNet::new(address.parse().ok()?, bits.parse().ok().filter(|_| digits)?).ok()
}

/// A block of IPv4-mapped addresses is the IPv4 block; host bits are cleared.
fn canonical_block(block: IpNet) -> IpNet {
    const MAPPED_PREFIX_BITS: u8 = 96;
    let block = block.trunc();
    if let IpNet::V6(v6) = block
        && v6.prefix_len() >= MAPPED_PREFIX_BITS
        && let Some(v4) = Ipv6Addr::to_ipv4_mapped(&v6.addr())
        && let Ok(block) = IpNet::new(IpAddr::V4(v4), v6.prefix_len() - MAPPED_PREFIX_BITS)
    {
        return block;
    }
    block
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn blanks_empty_entries_and_duplicates_do_not_count() {
        let sources = Sources::parse(" 10.0.0.1 ,,10.0.0.1,::ffff:10.0.0.1, ").unwrap();
        assert_eq!(sources, Sources::parse("10.0.0.1").unwrap());
        assert_eq!(sources.to_string(), "10.0.0.1");
        assert!(sources.accepts(ip("10.0.0.1")) && !sources.accepts(ip("10.0.0.2")));
        assert!(sources.has(Family::V4) && !sources.has(Family::V6));
    }

    #[test]
    fn blocks_match_whatever_their_host_bits() {
        let sources = Sources::parse("10.1.2.3/8, 2001:db8::1/32").unwrap();
        assert!(sources.accepts(ip("10.255.0.1")) && sources.accepts(ip("2001:db8:ffff::")));
        assert!(!sources.accepts(ip("11.0.0.1")) && !sources.accepts(ip("2001:db9::")));
        assert!(sources.has(Family::V4) && sources.has(Family::V6));
    }

    #[test]
    fn a_block_of_mapped_addresses_is_the_ipv4_block() {
        let sources = Sources::parse("::ffff:10.0.0.0/104").unwrap();
        assert!(sources.accepts(ip("10.9.9.9")) && !sources.accepts(ip("11.0.0.0")));
        assert!(sources.has(Family::V4) && !sources.has(Family::V6));
    }

    #[test]
    fn everything_of_a_family_is_a_block() {
        let sources = Sources::parse("0.0.0.0/0").unwrap();
        assert!(sources.accepts(ip("8.8.8.8")) && !sources.accepts(ip("::1")));
    }

    #[test]
    fn entries_lie_in_a_list_one_by_one() {
        let allowed = Sources::parse("10.0.0.0/9,10.128.0.0/9,192.168.0.7,2001:db8::/32").unwrap();
        for inside in ["10.0.0.1", "10.0.0.0/9", "10.200.0.0/16", "192.168.0.7", "192.168.0.7/32", "2001:db8:1::/48"] {
            assert_eq!(Sources::parse(inside).unwrap().first_outside(&allowed), None, "{inside}");
        }
        // Two blocks together are no block.
        for outside in ["10.0.0.0/8", "192.168.0.6/31", "2001:db8::/31", "0.0.0.0/0", "::/0", "::/1", "11.0.0.0/32"] {
            let entry = outside.parse().unwrap();
            let list = Sources::parse(&format!("10.0.0.1,{outside}")).unwrap();
            assert_eq!(list.first_outside(&allowed), Some(entry), "{outside}");
        }
    }

    #[test]
    fn an_entry_that_is_neither_address_nor_block_is_named() {
        for entry in ["bogus", "10.0.0.1/33", "fe80::1%eth0", "10.0.0", "10.0.0.1:80", "1.2.3.4/8/9", "[::1]"] {
            let error = Sources::parse(&format!("10.0.0.1,{entry}")).unwrap_err();
            assert_eq!(error, SourcesError::Entry(entry.to_owned()));
        }
    }

    #[test]
    fn a_list_with_no_entry_is_refused() {
        for text in ["", " ", ",", " , ,"] {
            assert_eq!(Sources::parse(text), Err(SourcesError::Empty));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,80}") {
            let _ = Sources::parse(&text);
        }

        #[test]
        fn an_address_is_accepted_by_itself_and_by_its_blocks(address in any::<IpAddr>(), bits in 0u8..=128) {
            let address = address.to_canonical();
            let bits = bits.min(if address.is_ipv4() { 32 } else { 128 });
            prop_assert!(Sources::parse(&address.to_string()).unwrap().accepts(address));
            let block = format!("{address}/{bits}");
            prop_assert!(Sources::parse(&block).unwrap().accepts(address));
        }

        #[test]
        fn what_lies_in_a_list_accepts_nothing_that_the_list_does_not(
            entry in any::<IpAddr>(), allowed in any::<IpAddr>(), bits in 0u8..=128, allowed_bits in 0u8..=128, device in any::<IpAddr>(),
        ) {
            let block = |ip: IpAddr, bits: u8| format!("{ip}/{}", bits.min(if ip.is_ipv4() { 32 } else { 128 }));
            let list = Sources::parse(&block(entry, bits)).unwrap();
            let allowed = Sources::parse(&block(allowed, allowed_bits)).unwrap();
            let device = device.to_canonical();
            if list.first_outside(&allowed).is_none() && list.accepts(device) {
                prop_assert!(allowed.accepts(device));
            }
            prop_assert_eq!(list.first_outside(&list), None);
        }
    }
}
