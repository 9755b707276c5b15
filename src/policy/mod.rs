//! Decisions, pure: no io, no async, no clock. Uses `protocol` alone.

pub mod access;
pub mod attempts;
pub mod balancers;
pub mod budget;
pub mod certificate;
pub mod counts;
pub mod ending;
pub mod histogram;
pub mod history;
pub mod limits;
pub mod listing;
pub mod metrics;
pub mod origins;
pub mod port_id;
pub mod port_rules;
pub mod refusals;
pub mod rooms;
pub mod roster;
pub mod rules;
pub mod sources;
pub mod tap_filter;
pub mod token;
