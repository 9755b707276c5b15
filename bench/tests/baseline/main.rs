//! Each baseline as a process: what devices and drivers send arrives whole and in order, also where it is read late.
#![allow(clippy::unwrap_used, missing_docs)]

mod harness;
mod tcp;
mod udp;
