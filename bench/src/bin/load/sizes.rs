//! Which size a message has: one for all, or a mix by weights.
//!
//! **Invariants.** The size follows from stream and sequence alone, so that runs are alike.
//! **Not here.** What fills a message (`payload`).

use crate::payload::{HEAD_BYTES, MESSAGE_BYTES_MAX};
use std::fmt;
use std::str::FromStr;

/// Sizes of messages, and how often each comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Each size with the sum of the weights up to it.
    steps: Vec<(u32, u64)>,
    text: String,
}

/// Why a text names no sizes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizesError {
    /// It is neither `SIZE` nor `SIZE:WEIGHT,SIZE:WEIGHT`.
    #[error("{0:?} is neither a size nor SIZE:WEIGHT")]
    NotASize(String),
    /// A message must hold its head and not be too large.
    #[error("a message has {HEAD_BYTES} to {MESSAGE_BYTES_MAX} bytes, not {0}")]
    OutOfBounds(usize),
    /// Nothing could be chosen.
    #[error("the weights are all 0")]
    NoWeight,
}

impl Sizes {
    /// The size of a message.
    pub fn of(&self, stream: u32, sequence: u64) -> u32 {
        let [(size, _)] = self.steps[..] else {
            let total = self.steps.last().map_or(1, |(_, sum)| *sum);
            let mixed = (u64::from(stream) << 32 ^ sequence).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let point = (mixed >> 32) % total;
            return self.steps.iter().find(|(_, sum)| point < *sum).map_or(0, |(size, _)| *size);
        };
        size
    }

    /// The largest.
    pub fn max(&self) -> usize {
        self.steps.iter().map(|(size, _)| *size as usize).max().unwrap_or(0)
    }
}

impl FromStr for Sizes {
    type Err = SizesError;

    fn from_str(text: &str) -> Result<Self, SizesError> {
        let mut steps = Vec::new();
        let mut sum = 0u64;
        for entry in text.split(',') {
            let not_a_size = || SizesError::NotASize(entry.to_owned());
            let (size, weight) = entry.split_once(':').unwrap_or((entry, "1"));
            let size = size.trim().parse().map_err(|_| not_a_size())?;
            if !(HEAD_BYTES..=MESSAGE_BYTES_MAX).contains(&size) {
                return Err(SizesError::OutOfBounds(size));
            }
            sum += u64::from(weight.trim().parse::<u32>().map_err(|_| not_a_size())?);
            steps.push((size as u32, sum));
        }
        if sum == 0 { Err(SizesError::NoWeight) } else { Ok(Sizes { steps, text: text.to_owned() }) }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_comes_in_its_proportions() {
        let sizes: Sizes = "64:70,1024:25,4096:5".parse().expect("a mix");
        let count = |wanted| (0..10_000).filter(|sequence| sizes.of(1, *sequence) == wanted).count();
        assert!((6_700..=7_300).contains(&count(64)), "{}", count(64));
        assert!((2_200..=2_800).contains(&count(1_024)), "{}", count(1_024));
        assert!((350..=650).contains(&count(4_096)), "{}", count(4_096));
        assert_eq!(sizes.max(), 4_096);
    }

    #[test]
    fn one_size_is_always_the_same() {
        let sizes: Sizes = "64".parse().expect("a size");
        assert!((0..100).all(|sequence| sizes.of(9, sequence) == 64));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "x", "64:", "64:x", "23", "2000000", "64:0"] {
            assert!(text.parse::<Sizes>().is_err(), "{text:?}");
        }
    }
}
