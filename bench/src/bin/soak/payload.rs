//! What drivers write, and what a datagram carries either way: one framed unit with its writer, its number, its length
//! and a checksum.
//!
//! **Invariants.** One WRITE is one unit, so a device sees any WRITE that is torn, repeated or mixed with another.
//! A unit below [`HEAD_BYTES`] has no head: its bytes depend on its length alone.
//! **Not here.** What a writer's numbers should be (`record`).

use super::pattern;

/// Magic, checksum, writer, number, length.
pub const HEAD_BYTES: usize = 28;
const MAGIC: [u8; 4] = *b"DSPU";
const POISON: [u8; 4] = *b"DSPX";
/// What a headless unit's bytes come from.
const HEADLESS_NONCE: u64 = 0x6865_6164_6c65_7373;

/// What a unit says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Who wrote it.
    pub writer: u64,
    /// Which of its units for this receiver it is.
    pub number: u64,
    /// Its bytes in all.
    pub len: usize,
}

/// What is wrong with bytes that should be a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitFault {
    /// It was written to another device.
    #[error("a unit arrived that names another device: {0:?}")]
    Poison(Unit),
    /// No unit begins here.
    #[error("no unit begins at {0:02x?}")]
    Magic(Vec<u8>),
    /// Its content is not what was written.
    #[error("the content of {0:?} is damaged")]
    Checksum(Unit),
    /// Its length is not the datagram's.
    #[error("{0:?} arrived as a datagram of {1} bytes")]
    Length(Unit, usize),
    /// A headless one has wrong bytes.
    #[error("a datagram of {0} bytes is damaged")]
    Headless(usize),
}

/// A unit of `len` bytes in all; headless where it is too short.
pub fn unit(writer: u64, number: u64, len: usize) -> Vec<u8> {
    build(MAGIC, writer, number, len)
}

/// A unit that no device may ever receive, of [`HEAD_BYTES`] at least.
pub fn poison(writer: u64, number: u64, len: usize) -> Vec<u8> {
    build(POISON, writer, number, len.max(HEAD_BYTES))
}

fn build(magic: [u8; 4], writer: u64, number: u64, len: usize) -> Vec<u8> {
    let mut unit = vec![0; len];
    if len < HEAD_BYTES {
        pattern::fill(HEADLESS_NONCE, len as u64, &mut unit);
        return unit;
    }
    let (head, content) = unit.split_at_mut(HEAD_BYTES);
    pattern::fill(writer ^ number, 0, content);
    head[..4].copy_from_slice(&magic);
    head[8..16].copy_from_slice(&writer.to_le_bytes());
    head[16..24].copy_from_slice(&number.to_le_bytes());
    head[24..28].copy_from_slice(&(len as u32).to_le_bytes());
    let checksum = crc32fast::hash(&unit[8..]);
    unit[4..8].copy_from_slice(&checksum.to_le_bytes());
    unit
}

/// Reads a whole datagram; `None` for a headless one.
///
/// # Errors
/// [`UnitFault`].
pub fn datagram(data: &[u8]) -> Result<Option<Unit>, UnitFault> {
    if data.len() < HEAD_BYTES {
        let intact = pattern::check(HEADLESS_NONCE, data.len() as u64, data).is_ok();
        return if intact { Ok(None) } else { Err(UnitFault::Headless(data.len())) };
    }
    match read(data)? {
        Some(unit) if unit.len == data.len() => Ok(Some(unit)),
        Some(unit) => Err(UnitFault::Length(unit, data.len())),
        None => Err(UnitFault::Magic(data[..HEAD_BYTES].to_vec())),
    }
}

/// Reads the unit that `data` begins with; `None` where it is not whole.
fn read(data: &[u8]) -> Result<Option<Unit>, UnitFault> {
    let Some(head) = data.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let number_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| head[at + byte]));
    let len = u32::from_le_bytes(std::array::from_fn(|byte| head[24 + byte])) as usize;
    let unit = Unit { writer: number_at(8), number: number_at(16), len };
    if head[..4] == POISON {
        return Err(UnitFault::Poison(unit));
    }
    if head[..4] != MAGIC || len < HEAD_BYTES {
        return Err(UnitFault::Magic(head.to_vec()));
    }
    let Some(whole) = data.get(..len) else { return Ok(None) };
    if whole[4..8] != crc32fast::hash(&whole[8..]).to_le_bytes() {
        return Err(UnitFault::Checksum(unit));
    }
    Ok(Some(unit))
}

/// A device's incoming stream, cut into units.
#[derive(Debug, Default)]
pub struct Units {
    bytes: Vec<u8>,
    taken: usize,
}

impl Units {
    /// Adds bytes that came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole unit; `None` where more bytes are needed.
    ///
    /// # Errors
    /// [`UnitFault`]; nothing can be taken after it.
    pub fn next_unit(&mut self) -> Result<Option<Unit>, UnitFault> {
        let unit = read(&self.bytes[self.taken..])?;
        self.taken += unit.map_or(0, |unit| unit.len);
        Ok(unit)
    }

    /// Bytes of a unit that is not whole.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_out_alike_however_the_bytes_are_split() {
        let bytes: Vec<u8> = (0..20).flat_map(|number| unit(9, number, HEAD_BYTES + 7 * number as usize)).collect();
        for step in [1, 5, 1_000] {
            let mut units = Units::default();
            let mut seen = 0;
            for part in bytes.chunks(step) {
                units.push(part);
                while let Some(unit) = units.next_unit().expect("intact") {
                    assert_eq!(unit.number, seen);
                    seen += 1;
                }
            }
            assert_eq!((seen, units.left()), (20, 0));
        }
    }

    #[test]
    fn damage_is_found() {
        let mut bytes = unit(1, 2, 100);
        bytes[60] ^= 1;
        assert!(matches!(datagram(&bytes), Err(UnitFault::Checksum(_))));
        assert!(matches!(datagram(&unit(1, 2, 100)[..50]), Err(UnitFault::Magic(_))));
        assert!(matches!(datagram(&poison(1, 2, 100)), Err(UnitFault::Poison(_))));
        for len in 0..HEAD_BYTES {
            assert_eq!(datagram(&unit(1, 2, len)), Ok(None));
        }
        assert_eq!(datagram(&[1, 2, 3]), Err(UnitFault::Headless(3)));
    }
}
