//! See `uring_dispatch_fuzz::accept_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| uring_dispatch_fuzz::accept_list::check(input));
