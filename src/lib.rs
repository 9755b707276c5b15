//! The library behind `dispatch`, for its tests, fuzz targets and examples. It promises nothing to anyone else.

pub mod policy;
pub mod protocol;
pub mod shard;
