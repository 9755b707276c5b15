//! Accept lists that random inputs have shown to be read differently from what the contract says.
#![allow(clippy::unwrap_used, missing_docs)]

use uring_dispatch::policy::sources::{Sources, SourcesError};

#[test]
fn a_block_is_an_address_and_a_length_and_its_address_is_read_as_one_alone() {
    for address in ["010.0.0.1", "10.0.00.3", "10.0.0.08"] {
        assert_eq!(Sources::parse(address), Err(SourcesError::Entry(address.to_owned())));
        let block = format!("{address}/8");
        assert_eq!(Sources::parse(&block), Err(SourcesError::Entry(block.clone())));
    }
}
