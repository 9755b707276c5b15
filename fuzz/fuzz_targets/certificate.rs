//! See `uring_dispatch_fuzz::certificate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::certificate::check(input));
