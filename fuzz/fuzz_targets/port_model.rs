//! See `uring_dispatch_fuzz::port_model`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::port_model::check(input));
