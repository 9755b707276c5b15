//! Bytes that may have a private key in them, as they grow and are decoded.
//!
//! **Invariants.** Where bytes move to a larger place, nothing of them is left at the old one.
//! **Not here.** That the last place is wiped: it is kept in a [`Zeroizing`], or wiped by its owner.

use zeroize::{Zeroize, Zeroizing};

/// Makes room for so many more bytes.
pub fn reserve(bytes: &mut Vec<u8>, more_bytes: usize) {
    let needed_bytes = bytes.len() + more_bytes;
    if bytes.capacity() >= needed_bytes {
        return;
    }
    let capacity = if bytes.is_empty() { needed_bytes } else { needed_bytes.next_power_of_two() };
    let mut larger = Vec::with_capacity(capacity);
    larger.extend_from_slice(bytes);
    bytes.zeroize();
    *bytes = larger;
}

/// Appends.
pub fn extend(bytes: &mut Vec<u8>, more: &[u8]) {
    reserve(bytes, more.len());
    bytes.extend_from_slice(more);
}

/// A value of a query, decoded in one place.
pub fn decode(value: &str) -> Zeroizing<Vec<u8>> {
    let mut decoded = Zeroizing::new(Vec::with_capacity(value.len()));
    for (at, word) in value.split('+').enumerate() {
        if at > 0 {
            decoded.push(b' ');
        }
        decoded.extend(percent_encoding::percent_decode_str(word));
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_grows_keeps_its_bytes() {
        let mut bytes = Vec::new();
        for part in [&b"a"[..], b"", b"bcd", b"efghijklmnop"] {
            extend(&mut bytes, part);
        }
        assert_eq!(bytes, b"abcdefghijklmnop");
        reserve(&mut bytes, 100);
        assert!(bytes.capacity() >= 116);
    }

    proptest! {
        #[test]
        fn a_value_is_decoded_as_forms_are_and_never_moves(value in "[ -%\'-~]{0,80}") {
            let decoded = decode(&value);
            let pair = form_urlencoded::parse(format!("a={value}").as_bytes()).next().map(|(_, value)| value.into_owned());
            prop_assert_eq!(String::from_utf8_lossy(&decoded).into_owned(), pair.unwrap_or_default());
            prop_assert!(decoded.capacity() <= value.len().max(8));
        }
    }
}
