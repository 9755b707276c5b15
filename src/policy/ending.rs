//! How joins are refused and how sessions, devices, ports and the process end: one value each, and one table from it to
//! HTTP status, close code, exit code, name and log level.
//!
//! **Invariants.** Every ending has a name that is unique among its kind; close codes are those of RFC 6455 section 7.4.1.
//! **Not here.** Carrying an ending out (`shard`, `edge`, `server`).

use crate::policy::port_id::PortId;
use crate::protocol::message::MessageError;
use crate::protocol::proxy_header::ProxyFault;
use ipnet::IpNet;
use std::borrow::Cow;
use std::io::ErrorKind;
use tracing::Level;

/// Why a join was refused before the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRefusal {
    /// Another program holds the port.
    InUse,
    /// It is open, and its devices speak TLS.
    OpenWithTls,
    /// It is open, and its devices speak no TLS.
    OpenWithoutTls,
    /// The process may not open the port.
    NotAllowed,
    /// The port is the API's own.
    OwnPort,
    /// The operator does not let drivers open this port.
    PortNotAllowed(PortId),
    /// The operator does not let drivers accept this entry of the list.
    SourceNotAllowed(IpNet),
    /// The host has no such address family.
    NoFamily,
    /// What the session may use does not fit into the memory for sessions.
    NoMemory,
    /// As many sessions as are allowed.
    TooManySessions,
    /// As many sessions of its token as are allowed.
    TooManyOfToken,
    /// As many open ports as are allowed.
    TooManyPorts,
    /// As many taps as are allowed.
    TooManyTaps,
    /// The daemon is stopping.
    Draining,
    /// The port could not be opened for another reason.
    Io(ErrorKind),
}

impl JoinRefusal {
    /// The names of all refusals, for counters and logs.
    pub const NAMES: [&'static str; 15] = [
        "in_use",
        "not_permitted",
        "own_port",
        "port_not_allowed",
        "source_not_allowed",
        "no_family",
        "no_memory",
        "too_many_sessions",
        "too_many_ports",
        "too_many_taps",
        "draining",
        "io",
        "open_with_tls",
        "open_without_tls",
        "too_many_of_token",
    ];

    /// Where its name stands among [`NAMES`](Self::NAMES).
    pub fn index(self) -> usize {
        match self {
            JoinRefusal::InUse => 0,
            JoinRefusal::NotAllowed => 1,
            JoinRefusal::OwnPort => 2,
            JoinRefusal::PortNotAllowed(_) => 3,
            JoinRefusal::SourceNotAllowed(_) => 4,
            JoinRefusal::NoFamily => 5,
            JoinRefusal::NoMemory => 6,
            JoinRefusal::TooManySessions => 7,
            JoinRefusal::TooManyPorts => 8,
            JoinRefusal::TooManyTaps => 9,
            JoinRefusal::Draining => 10,
            JoinRefusal::Io(_) => 11,
            JoinRefusal::OpenWithTls => 12,
            JoinRefusal::OpenWithoutTls => 13,
            JoinRefusal::TooManyOfToken => 14,
        }
    }

    /// A name for counters and logs.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            JoinRefusal::InUse | JoinRefusal::OpenWithTls | JoinRefusal::OpenWithoutTls => 409,
            JoinRefusal::NotAllowed
            | JoinRefusal::OwnPort
            | JoinRefusal::PortNotAllowed(_)
            | JoinRefusal::SourceNotAllowed(_) => 403,
            JoinRefusal::TooManyOfToken => 429,
            JoinRefusal::NoFamily
            | JoinRefusal::NoMemory
            | JoinRefusal::TooManySessions
            | JoinRefusal::TooManyPorts
            | JoinRefusal::TooManyTaps
            | JoinRefusal::Draining
            | JoinRefusal::Io(_) => 503,
        }
    }

    /// What the driver and its operator read.
    pub fn reason(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            JoinRefusal::InUse => "the port is in use by another program",
            JoinRefusal::OpenWithTls => "the port is open with TLS: join it by tls_dispatch",
            JoinRefusal::OpenWithoutTls => "the port is open without TLS: join it by tcp_dispatch",
            JoinRefusal::NotAllowed => "the daemon is not allowed to open this port",
            JoinRefusal::OwnPort => "the port is that of the daemon's own API",
            JoinRefusal::PortNotAllowed(port) => {
                return Cow::Owned(format!("{port} is not among the ports that drivers may open (--allow-ports)"));
            }
            JoinRefusal::SourceNotAllowed(entry) => {
                let is_address = entry.prefix_len() == entry.max_prefix_len();
                let entry = if is_address { entry.addr().to_string() } else { entry.to_string() };
                return Cow::Owned(format!(
                    "{entry} is not within the sources that drivers may accept (--allow-sources)"
                ));
            }
            JoinRefusal::NoFamily => "the host has no socket of the address family that accept asks for",
            JoinRefusal::NoMemory => "no room for another session in the memory for sessions",
            JoinRefusal::TooManySessions => "no room for another session",
            JoinRefusal::TooManyOfToken => "no room for another session of this token (--sessions-per-token-max)",
            JoinRefusal::TooManyPorts => "no room for another port",
            JoinRefusal::TooManyTaps => "no room for another tap",
            JoinRefusal::Draining => "the daemon is stopping",
            JoinRefusal::Io(kind) => return Cow::Owned(format!("the port could not be opened: {kind}")),
        })
    }
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionEnd {
    /// The driver sent a close frame; it is answered with its own code.
    DriverClosed,
    /// The driver's connection ended without a close frame.
    DriverGone,
    /// The driver's connection failed.
    Io(ErrorKind),
    /// A binary message that cannot be decoded.
    Undecodable(MessageError),
    /// The driver broke the WebSocket protocol.
    Violation,
    /// A message over the size limit.
    TooBig,
    /// A text message that is not UTF-8.
    NotUtf8,
    /// The driver took nothing of what waited for it.
    Stalled,
    /// The driver showed no life.
    Silent,
    /// A large message found no room in the memory for sessions.
    NoMemory,
    /// The daemon stops.
    Drained,
    /// A defect ended the session's task or its port.
    Failed,
    /// The operator disconnected the driver.
    Operator,
    /// The keys of its TLS have sealed as much as they may.
    KeysUsedUp,
}

impl SessionEnd {
    /// The code of the daemon's close frame; `None` where none of its own is sent.
    pub fn close_code(self) -> Option<u16> {
        match self {
            SessionEnd::DriverClosed | SessionEnd::DriverGone | SessionEnd::Io(_) | SessionEnd::KeysUsedUp => None,
            SessionEnd::Drained => Some(1001),
            SessionEnd::Undecodable(_) | SessionEnd::Violation => Some(1002),
            SessionEnd::NotUtf8 => Some(1007),
            SessionEnd::Operator => Some(1008),
            SessionEnd::TooBig => Some(1009),
            SessionEnd::Silent | SessionEnd::Failed => Some(1011),
            SessionEnd::Stalled | SessionEnd::NoMemory => Some(1013),
        }
    }

    /// The reason in the close frame and in the log; at most 123 bytes.
    pub fn reason(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            SessionEnd::DriverClosed => "the driver closed",
            SessionEnd::DriverGone => "the driver is gone",
            SessionEnd::Io(kind) => return Cow::Owned(format!("the driver's connection failed: {kind}")),
            SessionEnd::Undecodable(fault) => return Cow::Owned(fault.to_string()),
            SessionEnd::Violation => "WebSocket protocol error",
            SessionEnd::TooBig => "message over the size limit",
            SessionEnd::NotUtf8 => "text is not UTF-8",
            SessionEnd::Stalled => "the driver took nothing of what waited for it",
            SessionEnd::Silent => "the driver showed no life",
            SessionEnd::NoMemory => "no room for a large message",
            SessionEnd::Drained => "the daemon stops",
            SessionEnd::Failed => "internal error",
            SessionEnd::Operator => "disconnected by the operator",
            SessionEnd::KeysUsedUp => "the keys of its TLS 1.2 are used up",
        })
    }

    /// The names of all endings, for counters and logs.
    pub const NAMES: [&'static str; 14] = [
        "driver_closed",
        "driver_gone",
        "io",
        "undecodable",
        "violation",
        "too_big",
        "not_utf8",
        "stalled",
        "silent",
        "no_memory",
        "drained",
        "failed",
        "operator",
        "keys_used_up",
    ];

    /// Where its name stands among [`NAMES`](Self::NAMES).
    pub fn index(self) -> usize {
        match self {
            SessionEnd::DriverClosed => 0,
            SessionEnd::DriverGone => 1,
            SessionEnd::Io(_) => 2,
            SessionEnd::Undecodable(_) => 3,
            SessionEnd::Violation => 4,
            SessionEnd::TooBig => 5,
            SessionEnd::NotUtf8 => 6,
            SessionEnd::Stalled => 7,
            SessionEnd::Silent => 8,
            SessionEnd::NoMemory => 9,
            SessionEnd::Drained => 10,
            SessionEnd::Failed => 11,
            SessionEnd::Operator => 12,
            SessionEnd::KeysUsedUp => 13,
        }
    }

    /// A name for counters and logs.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// How loud the ending is logged.
    pub fn level(self) -> Level {
        match self {
            SessionEnd::DriverClosed
            | SessionEnd::DriverGone
            | SessionEnd::Io(_)
            | SessionEnd::Drained
            | SessionEnd::Operator
            | SessionEnd::KeysUsedUp => Level::INFO,
            SessionEnd::Failed => Level::ERROR,
            _ => Level::WARN,
        }
    }
}

/// Why a device, or a datagram, is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceRefusal {
    /// No driver accepts its source.
    Source,
    /// Its port has as many devices as are allowed.
    Limit,
    /// Its source has as many devices as are allowed.
    SourceLimit,
    /// Its source has connected too often, and is refused for a while.
    Flapping,
    /// A newer connection of its source came before it was let in.
    Replaced,
    /// It comes from a listed balancer, which does not say whose it is.
    Balancer(ProxyFault),
}

impl DeviceRefusal {
    /// A name for logs.
    pub fn name(self) -> &'static str {
        match self {
            DeviceRefusal::Source => "source",
            DeviceRefusal::Limit => "limit",
            DeviceRefusal::SourceLimit => "source_limit",
            DeviceRefusal::Flapping => "flapping",
            DeviceRefusal::Replaced => "replaced",
            DeviceRefusal::Balancer(fault) => fault.name(),
        }
    }
}

/// How a device ends; its drivers get CLOSED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceEnd {
    /// It closed its sending side.
    DeviceClosed,
    /// Its connection was reset or failed.
    Io(ErrorKind),
    /// It acknowledged nothing, or answered no keepalive probe, for too long.
    TimedOut,
    /// A driver sent CLOSE.
    DriverClosed,
    /// The last driver that accepts its source left.
    Orphaned,
    /// It held back its driver's writes for too long.
    Stalled,
    /// The daemon stops.
    Drained,
    /// A defect ended its task.
    Failed,
    /// The operator disconnected it.
    Operator,
    /// Nothing came from it, and nothing went to it, for as long as its port allows.
    Idle,
    /// It was connected for as long as its port allows.
    Aged,
    /// A newer connection of its source took its place.
    Replaced,
    /// The keys of its TLS have sealed as much as they may.
    KeysUsedUp,
}

impl DeviceEnd {
    /// The ending that a failed receive or send means.
    pub fn from_io(error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => DeviceEnd::TimedOut,
            kind => DeviceEnd::Io(kind),
        }
    }

    /// The names of all endings, for counters and logs.
    pub const NAMES: [&'static str; 13] = [
        "device_closed",
        "io",
        "timed_out",
        "driver_closed",
        "orphaned",
        "stalled",
        "drained",
        "failed",
        "operator",
        "idle",
        "aged",
        "replaced",
        "keys_used_up",
    ];

    /// Where its name stands among [`NAMES`](Self::NAMES).
    pub fn index(self) -> usize {
        match self {
            DeviceEnd::DeviceClosed => 0,
            DeviceEnd::Io(_) => 1,
            DeviceEnd::TimedOut => 2,
            DeviceEnd::DriverClosed => 3,
            DeviceEnd::Orphaned => 4,
            DeviceEnd::Stalled => 5,
            DeviceEnd::Drained => 6,
            DeviceEnd::Failed => 7,
            DeviceEnd::Operator => 8,
            DeviceEnd::Idle => 9,
            DeviceEnd::Aged => 10,
            DeviceEnd::Replaced => 11,
            DeviceEnd::KeysUsedUp => 12,
        }
    }

    /// A name for counters and logs.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// What the log says of it.
    pub fn reason(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            DeviceEnd::DeviceClosed => "the device closed",
            DeviceEnd::Io(kind) => return Cow::Owned(format!("the device's connection failed: {kind}")),
            DeviceEnd::TimedOut => "the device acknowledged nothing, or answered no probe",
            DeviceEnd::DriverClosed => "a driver closed it",
            DeviceEnd::Orphaned => "no driver accepts its source any more",
            DeviceEnd::Stalled => "it took nothing of what waited for it",
            DeviceEnd::Drained => "the daemon stops",
            DeviceEnd::Failed => "internal error",
            DeviceEnd::Operator => "disconnected by the operator",
            DeviceEnd::Idle => "nothing came or went for too long",
            DeviceEnd::Aged => "it was connected for as long as it may",
            DeviceEnd::Replaced => "its source connected again",
            DeviceEnd::KeysUsedUp => "the keys of its TLS 1.2 are used up",
        })
    }
}

/// How a port ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortEnd {
    /// The last driver left.
    Left,
    /// The daemon stops.
    Drained,
}

impl PortEnd {
    /// A name for logs.
    pub fn name(self) -> &'static str {
        match self {
            PortEnd::Left => "left",
            PortEnd::Drained => "drained",
        }
    }
}

/// How the process ends once it has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessEnd {
    /// It was told to stop, and everything was delivered.
    Drained,
    /// It was told to stop, and not everything was delivered in time.
    DrainDeadline,
    /// It was told to stop twice.
    SecondSignal,
    /// A shard's thread ended.
    ShardFailed,
}

impl ProcessEnd {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            ProcessEnd::Drained | ProcessEnd::DrainDeadline => 0,
            ProcessEnd::SecondSignal => 130,
            // EX_SOFTWARE of sysexits.h.
            ProcessEnd::ShardFailed => 70,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_into_a_close_frame() {
        const REASON_BYTES_MAX: usize = 123;
        let longest = MessageError::DataSize { size: u32::MAX, left: usize::MAX };
        for end in [SessionEnd::Undecodable(longest), SessionEnd::Stalled, SessionEnd::Io(ErrorKind::ConnectionReset)] {
            assert!(end.reason().len() <= REASON_BYTES_MAX, "{end:?}");
        }
    }

    #[test]
    fn a_port_in_use_is_a_conflict_and_a_full_daemon_unavailable() {
        assert_eq!(JoinRefusal::InUse.status(), 409);
        assert_eq!(JoinRefusal::NotAllowed.status(), 403);
        assert_eq!(JoinRefusal::NoMemory.status(), 503);
    }
}
