//! Decisions, pure: no io, no async, no clock. Uses `protocol` alone.

pub mod limits;
