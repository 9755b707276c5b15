//! See `uring_dispatch_fuzz::list_query`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::list_query::check(input));
