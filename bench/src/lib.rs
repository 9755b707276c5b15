//! What the programs of this package share: the daemon as a process, a driver's and a device's sockets, and what the
//! system tells of both. It promises nothing to anyone else.

pub mod daemon;
pub mod device;
pub mod driver;
pub mod http;
pub mod proc;
pub mod tunnel;
pub mod websocket;
