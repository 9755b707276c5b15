//! What devices send: a stream of cells, each of which names its connection and its own place, so that a driver that
//! joined in the middle finds out where it is, and one that gets a wrong byte finds out where that came from.
//!
//! **Invariants.** A byte depends on the stream's nonce and its position alone.
//! **Not here.** Which nonces there are (`record`).

/// Bytes of one cell: the nonce, then the cell's number, mixed.
pub const CELL_BYTES: usize = 16;
/// Bytes that surely hold one whole cell.
pub const LOCATE_BYTES: usize = 2 * CELL_BYTES - 1;

/// The first byte that is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// Its offset in the data.
    pub at: usize,
    /// What should stand there.
    pub expected: u8,
    /// What does.
    pub actual: u8,
}

/// Writes the stream's bytes from `position` on.
pub fn fill(nonce: u64, position: u64, out: &mut [u8]) {
    let mut cell_number = position / CELL_BYTES as u64;
    let mut skip = (position % CELL_BYTES as u64) as usize;
    let mut rest = out;
    while !rest.is_empty() {
        let cell = cell(nonce, cell_number);
        let count = rest.len().min(CELL_BYTES - skip);
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&cell[skip..skip + count]);
        (rest, skip, cell_number) = (later, 0, cell_number + 1);
    }
}

/// Compares `data` with the stream's bytes from `position` on.
pub fn check(nonce: u64, position: u64, data: &[u8]) -> Result<(), Mismatch> {
    let mut expected = [0; 4096];
    for (part_number, part) in data.chunks(expected.len()).enumerate() {
        let offset = part_number * expected.len();
        let expected = &mut expected[..part.len()];
        fill(nonce, position + offset as u64, expected);
        if expected != part {
            let at = expected.iter().zip(part).position(|(a, b)| a != b).unwrap_or(0);
            return Err(Mismatch { at: offset + at, expected: expected[at], actual: part[at] });
        }
    }
    Ok(())
}

/// The nonce of the stream that `data` is of and the position of its first byte, if it holds a whole cell of a known one.
pub fn locate(data: &[u8], is_known: impl Fn(u64) -> bool) -> Option<(u64, u64)> {
    (0..CELL_BYTES).find_map(|skip| {
        let cell = data.get(skip..skip + CELL_BYTES)?;
        let (nonce, number) = cell.split_at(CELL_BYTES / 2);
        let nonce = u64::from_le_bytes(*nonce.first_chunk()?);
        if !is_known(nonce) {
            return None;
        }
        let number = u64::from_le_bytes(*number.first_chunk()?) ^ mix(nonce);
        Some((nonce, number.checked_mul(CELL_BYTES as u64)?.checked_sub(skip as u64)?))
    })
}

/// A number that is not like its argument (the finalizer of splitmix64).
pub fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn cell(nonce: u64, number: u64) -> [u8; CELL_BYTES] {
    let mut cell = [0; CELL_BYTES];
    cell[..CELL_BYTES / 2].copy_from_slice(&nonce.to_le_bytes());
    cell[CELL_BYTES / 2..].copy_from_slice(&(number ^ mix(nonce)).to_le_bytes());
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_of_a_stream_is_located_and_checked() {
        let nonce = 0x0123_4567_89ab_cdef;
        let mut stream = vec![0; 1_000];
        fill(nonce, 0, &mut stream);
        for start in 0..200 {
            let part = &stream[start..start + LOCATE_BYTES];
            assert_eq!(locate(part, |known| known == nonce), Some((nonce, start as u64)));
            assert_eq!(check(nonce, start as u64, &stream[start..]), Ok(()));
        }
    }

    #[test]
    fn a_wrong_byte_is_found() {
        let mut stream = vec![0; 10_000];
        fill(7, 5, &mut stream);
        stream[9_000] ^= 1;
        let mismatch = check(7, 5, &stream).expect_err("a byte is wrong");
        assert_eq!((mismatch.at, mismatch.expected ^ mismatch.actual), (9_000, 1));
    }
}
