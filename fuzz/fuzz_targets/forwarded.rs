//! See `uring_dispatch_fuzz::forwarded`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::forwarded::check(input));
