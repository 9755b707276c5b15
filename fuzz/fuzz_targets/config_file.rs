//! See `uring_dispatch_fuzz::config_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::config_file::check(input));
