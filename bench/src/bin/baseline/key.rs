//! The names by which sessions, ports and devices are found.
//!
//! **Invariants.** A key names a place in its own table alone.
//! **Not here.** The tables.

/// A place in the table of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionKey(pub u32);

/// An opening of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortKey(pub u32);

/// A place in the table of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceKey(pub u32);
