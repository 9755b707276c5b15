//! The bounds as flags: a default, a least and a greatest value each, and the reason in half a line.
//!
//! **Invariants.** Every field of `Limits` has one flag and one variable here, named like the field with its unit.
//! **Not here.** How bounds depend on each other (`config`), what happens at one.

use std::time::Duration;

use clap::Args;
use clap::builder::TypedValueParser;

use super::arguments::number;
use super::memory::session_memory_bytes_default;
use crate::policy::access::{PortRanges, PortRangesError};
use crate::policy::limits::Limits;
use crate::policy::port_rules::{DeviceRules, PortRules};

const GIBIBYTE: u64 = 1 << 30;
pub(super) const HOUR_MS: u64 = 3_600_000;
const COUNT_MAX: u64 = 100_000_000;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Drivers")]
pub(super) struct DriverArguments {
    /// Head of a request; the newest drivers put PEM keys into the query
    #[arg(long, value_name = "BYTES", env = "DISPATCH_REQUEST_HEAD_BYTES_MAX")]
    #[arg(default_value = "65536", value_parser = number::<usize>(1_024, 16_777_216))]
    request_head_bytes_max: usize,
    /// Time for a request's head to arrive, as a peer that says nothing holds a descriptor; and for the certificate of a join
    #[arg(long, value_name = "MS", env = "DISPATCH_REQUEST_HEAD_MS_MAX")]
    #[arg(default_value = "10000", value_parser = milliseconds(100, HOUR_MS))]
    request_head_ms_max: Duration,
    /// One message of a driver; above it the session ends (1009), as it is held in memory whole
    #[arg(long, value_name = "BYTES", env = "DISPATCH_MESSAGE_BYTES_MAX")]
    #[arg(default_value = "1048576", value_parser = number::<usize>(131_072, GIBIBYTE))]
    message_bytes_max: usize,
    /// How long a driver may take nothing of what waits for it, as it holds back devices it shares; counts half while its own writes wait, and is best kept above twice that wait
    #[arg(long, value_name = "MS", env = "DISPATCH_STALL_MS_MAX")]
    #[arg(default_value = "20000", value_parser = milliseconds(100, HOUR_MS))]
    stall_ms_max: Duration,
    /// How long a driver waits for devices to take its writes; drivers give up on a write after 10 s
    #[arg(long, value_name = "MS", env = "DISPATCH_CREDIT_WAIT_MS_MAX")]
    #[arg(default_value = "8000", value_parser = milliseconds(100, HOUR_MS))]
    credit_wait_ms_max: Duration,
    /// How long a close, a leaving driver or a drain waits for earlier writes that make no progress
    #[arg(long, value_name = "MS", env = "DISPATCH_FLUSH_MS_MAX")]
    #[arg(default_value = "8000", value_parser = milliseconds(100, HOUR_MS))]
    flush_ms_max: Duration,
    /// Time between pings to an idle driver; proxies in between cut silent ones after minutes
    #[arg(long, value_name = "MS", env = "DISPATCH_PING_INTERVAL_MS")]
    #[arg(default_value = "30000", value_parser = milliseconds(100, HOUR_MS))]
    ping_interval_ms: Duration,
    /// How long a driver may show no life; longer than two pings, so that one lost answer does not end it
    #[arg(long, value_name = "MS", env = "DISPATCH_DRIVER_SILENCE_MS_MAX")]
    #[arg(default_value = "75000", value_parser = milliseconds(200, 24 * HOUR_MS))]
    driver_silence_ms_max: Duration,
    /// Drivers in all; more are refused (503). 0 for no number, as memory bounds them already
    #[arg(long, value_name = "COUNT", env = "DISPATCH_SESSIONS_MAX")]
    #[arg(default_value = "0", value_parser = count(COUNT_MAX))]
    sessions_max: usize,
    /// Taps in all; more are refused (503). Each is reserved memory, as a driver is; 0 lets none in
    #[arg(long, value_name = "COUNT", env = "DISPATCH_TAPS_MAX")]
    #[arg(default_value = "16", value_parser = number::<usize>(0, 1_024))]
    taps_max: usize,
    /// Drivers that show the same token; more are refused (429). 0 for no number
    #[arg(long, value_name = "COUNT", env = "DISPATCH_SESSIONS_PER_TOKEN_MAX")]
    #[arg(default_value = "0", value_parser = count(COUNT_MAX))]
    sessions_per_token_max: usize,
    /// Connections to the API that have not joined; above it the one that waits longest is let go. At most half of the
    /// descriptors that are kept from devices
    #[arg(long, value_name = "COUNT", env = "DISPATCH_HANDSHAKES_MAX")]
    #[arg(default_value = "512", value_parser = count(COUNT_MAX))]
    handshakes_max: usize,
    /// Open ports in all; more are refused (503). 0 for no number
    #[arg(long, value_name = "COUNT", env = "DISPATCH_PORTS_MAX", default_value = "0", value_parser = count(131_072))]
    ports_max: usize,
    /// How long a closing socket waits for the other end, so that what was written last arrives
    #[arg(long, value_name = "MS", env = "DISPATCH_LINGER_MS_MAX")]
    #[arg(default_value = "2000", value_parser = milliseconds(0, HOUR_MS))]
    linger_ms_max: Duration,
    /// How long leaving takes at most after SIGTERM, the last tenth of it for log and exit; orchestrators kill after 10 s
    /// or more
    #[arg(long, value_name = "MS", env = "DISPATCH_DRAIN_MS_MAX")]
    #[arg(default_value = "10000", value_parser = milliseconds(0, HOUR_MS))]
    drain_ms_max: Duration,
    /// How long a port that was handed over by another daemon waits for its drivers; devices that connect wait with it
    #[arg(long, value_name = "MS", env = "DISPATCH_TAKEOVER_WAIT_MS_MAX")]
    #[arg(default_value = "15000", value_parser = milliseconds(0, HOUR_MS))]
    takeover_wait_ms_max: Duration,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Devices")]
pub(super) struct DeviceArguments {
    /// Devices in all; no more are accepted until there is room. 0 for the descriptor limit less 5 %, at least 64; never
    /// more than that
    #[arg(long, value_name = "COUNT", env = "DISPATCH_DEVICES_MAX")]
    #[arg(default_value = "0", value_parser = number::<usize>(0, COUNT_MAX))]
    devices_max: usize,
    /// Devices of one port; more are disconnected at once. 0 for no number
    #[arg(long, value_name = "COUNT", env = "DISPATCH_DEVICES_PER_PORT_MAX")]
    #[arg(default_value = "0", value_parser = count(COUNT_MAX))]
    devices_per_port_max: usize,
    /// Devices of one source (an address), on all ports, those amid a TLS handshake included; more are disconnected at once.
    /// 0 for no number
    #[arg(long, value_name = "COUNT", env = "DISPATCH_DEVICES_PER_SOURCE_MAX")]
    #[arg(default_value = "0", value_parser = count(COUNT_MAX))]
    devices_per_source_max: usize,
    /// Connections of one source in a second, on all ports; one that connects more often flaps, and is refused for a while.
    /// Devices behind one address count together. 0 for no number
    #[arg(long, value_name = "COUNT", env = "DISPATCH_SOURCE_CONNECTS_PER_SECOND_MAX")]
    #[arg(default_value = "0", value_parser = count(1_000_000))]
    source_connects_per_second_max: usize,
    /// How long a source that flaps is refused
    #[arg(long, value_name = "MS", env = "DISPATCH_SOURCE_REFUSED_MS")]
    #[arg(default_value = "60000", value_parser = milliseconds(100, 24 * HOUR_MS))]
    source_refused_ms: Duration,
    /// How long nothing may come from a TCP device, nor go to it; then it is disconnected. For all ports, or such as
    /// `6001=60,2000-2999=0,600`: the first that names a port holds, and 0 is no bound
    #[arg(long, value_name = "SECONDS", env = "DISPATCH_DEVICE_IDLE_SECONDS_MAX")]
    #[arg(default_value = "0", value_parser = PortRules::parse)]
    device_idle_seconds_max: PortRules,
    /// How long a TCP device may be connected, by port as above
    #[arg(long, value_name = "SECONDS", env = "DISPATCH_DEVICE_AGE_SECONDS_MAX")]
    #[arg(default_value = "0", value_parser = PortRules::parse)]
    device_age_seconds_max: PortRules,
    /// Ports, such as `6001,2000-2999`, or `none`, on which a new connection from a source replaces its old one, as of a
    /// device that lost power and comes back before it is missed
    #[arg(long, value_name = "PORTS", env = "DISPATCH_REPLACE_DEVICES")]
    #[arg(default_value = "none", value_parser = ports_or_none)]
    replace_devices: PortsOrNone,
    /// Idle time before the first of three probes, and between them; finds devices that lost power
    #[arg(long, value_name = "MS", env = "DISPATCH_DEVICE_KEEPALIVE_MS")]
    #[arg(default_value = "10000", value_parser = milliseconds(1_000, 32_767_000))]
    device_keepalive_ms: Duration,
    /// How long a device may take nothing of what waits for it, alive or not. 0 leaves it to the kernel
    #[arg(long, value_name = "MS", env = "DISPATCH_DEVICE_USER_TIMEOUT_MS")]
    #[arg(default_value = "120000", value_parser = milliseconds(0, 24 * HOUR_MS))]
    device_user_timeout_ms: Duration,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory")]
pub(super) struct MemoryArguments {
    /// All drivers together; a join that does not fit is refused (503). 0 for half of what the container or machine has
    #[arg(long, value_name = "BYTES", env = "DISPATCH_SESSION_MEMORY_BYTES_MAX")]
    #[arg(default_value = "0", value_parser = number::<usize>(0, 1 << 50))]
    session_memory_bytes_max: usize,
    /// Long answers of the API that are not taken yet, all together; one that does not fit is refused (503)
    #[arg(long, value_name = "BYTES", env = "DISPATCH_ANSWER_BYTES_MAX")]
    #[arg(default_value = "16777216", value_parser = number::<usize>(65_536, GIBIBYTE))]
    answer_bytes_max: usize,
    /// On their way to one driver before its devices wait; at least three whole datagrams
    #[arg(long, value_name = "BYTES", env = "DISPATCH_OUTBOX_BYTES_MAX")]
    #[arg(default_value = "262144", value_parser = number::<usize>(204_800, GIBIBYTE))]
    outbox_bytes_max: usize,
    /// Of one driver on their way to devices before its socket is left unread
    #[arg(long, value_name = "BYTES", env = "DISPATCH_WRITE_WINDOW_BYTES_MAX")]
    #[arg(default_value = "262144", value_parser = number::<usize>(4_096, GIBIBYTE))]
    write_window_bytes_max: usize,
    /// The kernel's buffer of one TCP connection, each way; it takes up to twice that. 0 leaves it to grow to several
    /// MiB for a peer that does not read, which a container's limit counts; raise it for fast links over long distances
    #[arg(long, value_name = "BYTES", env = "DISPATCH_SOCKET_BYTES")]
    #[arg(default_value = "65536", value_parser = number::<usize>(0, GIBIBYTE))]
    socket_bytes: usize,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Shards")]
pub(super) struct RingArguments {
    /// Receive buffers of a shard; shared by its devices, as idle ones hold none
    #[arg(long, value_name = "COUNT", env = "DISPATCH_RECEIVE_BUFFERS")]
    #[arg(default_value = "1024", value_parser = number::<u16>(1, 32_768))]
    receive_buffers: u16,
    /// One receive buffer; the most that one read of a device takes
    #[arg(long, value_name = "BYTES", env = "DISPATCH_RECEIVE_BUFFER_BYTES")]
    #[arg(default_value = "4096", value_parser = number::<usize>(256, 1_048_576))]
    receive_buffer_bytes: usize,
    /// Submission entries of a shard's ring; locked memory is 128 KiB at 1024, and the usual limit is 8 MiB a user
    #[arg(long, value_name = "COUNT", env = "DISPATCH_RING_ENTRIES")]
    #[arg(default_value = "1024", value_parser = number::<u32>(8, 32_768))]
    ring_entries: u32,
}

/// The bounds that these arguments ask for. `devices_max` may be 0: what it stands for is known when the descriptor
/// limit is.
pub(super) fn limits(
    drivers: &DriverArguments,
    devices: &DeviceArguments,
    memory: &MemoryArguments,
    ring: &RingArguments,
    tls_handshake_time_max: Duration,
) -> Limits {
    let session_memory_bytes_max = match memory.session_memory_bytes_max {
        0 => session_memory_bytes_default(),
        set => set,
    };
    Limits {
        request_head_bytes_max: drivers.request_head_bytes_max,
        request_head_time_max: drivers.request_head_ms_max,
        tls_handshake_time_max,
        message_bytes_max: drivers.message_bytes_max,
        outbox_bytes_max: memory.outbox_bytes_max,
        write_window_bytes_max: memory.write_window_bytes_max,
        socket_bytes: memory.socket_bytes,
        session_memory_bytes_max,
        answer_bytes_max: memory.answer_bytes_max,
        receive_buffers: ring.receive_buffers,
        receive_buffer_bytes: ring.receive_buffer_bytes,
        ring_entries: ring.ring_entries,
        stall_time_max: drivers.stall_ms_max,
        credit_wait_max: drivers.credit_wait_ms_max,
        flush_time_max: drivers.flush_ms_max,
        ping_interval: drivers.ping_interval_ms,
        driver_silence_max: drivers.driver_silence_ms_max,
        device_keepalive: devices.device_keepalive_ms,
        device_user_timeout: devices.device_user_timeout_ms,
        devices_max: devices.devices_max,
        devices_per_port_max: devices.devices_per_port_max,
        devices_per_source_max: devices.devices_per_source_max,
        source_connects_per_second_max: devices.source_connects_per_second_max,
        source_refused_time: devices.source_refused_ms,
        sessions_per_token_max: drivers.sessions_per_token_max,
        sessions_max: drivers.sessions_max,
        taps_max: drivers.taps_max,
        handshakes_max: drivers.handshakes_max,
        ports_max: drivers.ports_max,
        linger_time_max: drivers.linger_ms_max,
        takeover_wait_max: drivers.takeover_wait_ms_max,
        drain_time_max: drivers.drain_ms_max,
    }
}

/// What these arguments lay down for devices, by port.
pub(super) fn device_rules(devices: &DeviceArguments) -> DeviceRules {
    DeviceRules {
        idle: devices.device_idle_seconds_max.clone(),
        age: devices.device_age_seconds_max.clone(),
        replacing: devices.replace_devices.0.clone(),
    }
}

/// Some ports, or none: clap would take a bare `Option` for one that may be left out.
#[derive(Debug, Clone)]
struct PortsOrNone(Option<PortRanges>);

fn ports_or_none(text: &str) -> Result<PortsOrNone, PortRangesError> {
    if text.trim() == "none" {
        Ok(PortsOrNone(None))
    } else {
        PortRanges::parse(text).map(|ports| PortsOrNone(Some(ports)))
    }
}

/// A parser of times.
pub(super) fn milliseconds(min: u64, max: u64) -> impl TypedValueParser<Value = Duration> {
    number::<u64>(min, max).map(Duration::from_millis)
}

/// A parser of counts where 0 stands for none of its own.
fn count(max: u64) -> impl TypedValueParser<Value = usize> {
    number::<usize>(0, max).map(|count| if count == 0 { usize::MAX } else { count })
}
