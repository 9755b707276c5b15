//! See `uring_dispatch_fuzz::http_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::http_head::check(input));
