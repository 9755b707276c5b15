//! Accept lists: the text of a parsed list parses to the same list, and it accepts what its entries say one by one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uring_dispatch::policy::sources::{Family, Sources, SourcesError};

/// Reads `input` up to its first zero byte as an accept list, and what follows as addresses to try.
pub fn check(input: &[u8]) {
    let end = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    let Ok(text) = std::str::from_utf8(&input[..end]) else { return };
    let entries: Vec<&str> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).collect();
    let sources = match Sources::parse(text) {
        Ok(sources) => sources,
        Err(SourcesError::Empty) => return assert!(entries.is_empty()),
        Err(SourcesError::Entry(named)) => {
            let first = entries.iter().position(|entry| *entry == named).expect("the entry that is named is there");
            let before = entries[..first].join(",");
            assert!(first == 0 || Sources::parse(&before).is_ok(), "an earlier entry is at fault too");
            return assert!(named.parse::<IpAddr>().is_err());
        }
    };
    assert_eq!(Sources::parse(&sources.to_string()).as_ref(), Ok(&sources), "{sources}");
    let blocks: Option<Vec<Block>> = entries.iter().map(|entry| Block::of(entry)).collect();
    let blocks = blocks.expect("what the list takes has a plain meaning");
    for family in Family::ALL {
        assert_eq!(sources.has(family), blocks.iter().any(|block| block.family == family), "{family:?} of {sources}");
    }
    let given = input[end..].chunks_exact(17).map(|probe| address(probe[0], &probe[1..]));
    for probe in blocks.iter().flat_map(Block::edges).chain(given) {
        let expected = blocks.iter().any(|block| block.holds(probe));
        assert_eq!(sources.accepts(probe), expected, "{probe} of {sources}");
    }
}

/// An entry as a number and how many of its first bits count.
struct Block {
    family: Family,
    number: u128,
    bits: u32,
}

impl Block {
    fn of(entry: &str) -> Option<Self> {
        let (address, bits) = entry.split_once('/').unwrap_or((entry, ""));
        let address: IpAddr = address.parse().ok()?;
        let bits = (!bits.is_empty()).then(|| bits.parse::<u32>().expect("a block that was taken has a length"));
        Some(match (address, bits) {
            (IpAddr::V4(v4), bits) => Block::v4(v4, bits.unwrap_or(32)),
            (IpAddr::V6(v6), bits) => match v6.to_ipv4_mapped() {
                Some(v4) if bits.is_none_or(|bits| bits >= 96) => Block::v4(v4, bits.unwrap_or(128) - 96),
                _ => Block { family: Family::V6, number: v6.to_bits(), bits: bits.unwrap_or(128) },
            },
        })
    }

    fn v4(address: Ipv4Addr, bits: u32) -> Self {
        Block { family: Family::V4, number: u128::from(address.to_bits()), bits }
    }

    fn width(&self) -> u32 {
        if self.family == Family::V4 { 32 } else { 128 }
    }

    fn holds(&self, address: IpAddr) -> bool {
        let number = match address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let differing = number ^ self.number;
        Family::of(address) == self.family && differing.checked_shr(self.width() - self.bits).unwrap_or(0) == 0
    }

    /// The entry itself, and it with one bit flipped: the last that counts, the first that does not, the last of all.
    fn edges(&self) -> impl Iterator<Item = IpAddr> {
        let flips = [self.bits.checked_sub(1), Some(self.bits), Some(self.width() - 1)].into_iter().flatten();
        let flips: Vec<u32> = flips.filter(|&bit| bit < self.width()).collect();
        let numbers = flips.into_iter().map(|bit| self.number ^ (1 << (self.width() - 1 - bit))).chain([self.number]);
        numbers.map(|number| match self.family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(number as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)).to_canonical(),
        })
    }
}

/// The canonical address that some bytes of an input mean.
fn address(kind: u8, bytes: &[u8]) -> IpAddr {
    let number = bytes.iter().fold(0u128, |sum, &byte| sum << 8 | u128::from(byte));
    if kind & 1 == 0 {
        IpAddr::V4(Ipv4Addr::from_bits(number as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(number)).to_canonical()
    }
}
