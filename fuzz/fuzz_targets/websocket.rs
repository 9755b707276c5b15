//! See `uring_dispatch_fuzz::websocket`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::websocket::check(input));
