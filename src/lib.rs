//! The library behind `dispatch`, for its tests, fuzz targets and examples. It promises nothing to anyone else.

pub mod command;
pub mod config;
pub mod drain;
pub mod edge;
pub mod logging;
pub mod policy;
pub mod protocol;
pub mod server;
pub mod service;
pub mod shard;
pub mod takeover;
