//! The bounds that the daemon works within: one plain value, made once at start-up, copied to every shard.
//!
//! **Invariants.** Every field has its unit in its name or type; the command line guarantees the minima stated here.
//! **Not here.** Defaults and their reasons (`config`), what happens at a bound (whoever owns the thing bounded).

use std::time::Duration;

/// How much of the end's time is kept for the log and the exit, as a part of it.
const EXIT_PART: u32 = 10;

/// Every bound a shard or a session works within.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one HTTP request head; more is 431.
    pub request_head_bytes_max: usize,
    /// Time for one request head to arrive; more is 408.
    pub request_head_time_max: Duration,
    /// Time for one TLS handshake; whoever takes longer is let go.
    pub tls_handshake_time_max: Duration,
    /// Bytes of one WebSocket message of a driver; more is close code 1009. At least 128 KiB.
    pub message_bytes_max: usize,
    /// Bytes on their way to one driver, before its port's devices wait. At least 200 KiB: three whole datagrams.
    pub outbox_bytes_max: usize,
    /// Bytes of one driver on their way to devices, before its socket is left unread.
    pub write_window_bytes_max: usize,
    /// Bytes that all sessions together may reserve; a join that does not fit is 503.
    pub session_memory_bytes_max: usize,
    /// Bytes of long answers to requests on their way, all together; one that does not fit is 503.
    pub answer_bytes_max: usize,
    /// The kernel's buffers of one TCP connection, each way, as they are asked for; 0 leaves them to the kernel.
    pub socket_bytes: usize,
    /// Receive buffers of a shard; readers wait when all are out.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer.
    pub receive_buffer_bytes: usize,
    /// Submission entries of a shard's ring.
    pub ring_entries: u32,
    /// How long a driver may take nothing of what waits for it (close code 1013).
    pub stall_time_max: Duration,
    /// How long a driver may wait for write credit before the device that holds most of it is let go.
    pub credit_wait_max: Duration,
    /// How long writes may make no progress that a close, a leave or a drain waits for.
    pub flush_time_max: Duration,
    /// How long an idle driver is left without a ping.
    pub ping_interval: Duration,
    /// How long a driver may show no life (close code 1011).
    pub driver_silence_max: Duration,
    /// Idle time before the first of three keepalive probes to a device, and the time between them.
    pub device_keepalive: Duration,
    /// How long a device may acknowledge nothing of what waits for it (TCP_USER_TIMEOUT); zero leaves it to the kernel.
    pub device_user_timeout: Duration,
    /// Devices of the whole process; above it none is accepted until there is room.
    pub devices_max: usize,
    /// Devices of one port; more are disconnected at once. `usize::MAX` for no limit.
    pub devices_per_port_max: usize,
    /// Devices of one source, on all ports; more are disconnected at once. `usize::MAX` for no limit.
    pub devices_per_source_max: usize,
    /// Connections of one source in a second, on all ports, before it is refused for a while. `usize::MAX` for no limit.
    pub source_connects_per_second_max: usize,
    /// How long a source is refused that connects more often.
    pub source_refused_time: Duration,
    /// Sessions of the whole process; more are 503. `usize::MAX` for no limit.
    pub sessions_max: usize,
    /// Taps of the whole process; more are 503.
    pub taps_max: usize,
    /// Sessions of one token; more are 429. `usize::MAX` for no limit.
    pub sessions_per_token_max: usize,
    /// Connections to the API that have not joined, in the whole process; above it the one that waits longest is let go.
    pub handshakes_max: usize,
    /// Open ports of the whole process; more are 503. `usize::MAX` for no limit.
    pub ports_max: usize,
    /// How long a closing socket waits for the other end's FIN before it is closed.
    pub linger_time_max: Duration,
    /// How long a port that was handed over waits for its drivers, before it is closed.
    pub takeover_wait_max: Duration,
    /// How long the end of the process may take in all.
    pub drain_time_max: Duration,
}

impl Limits {
    /// How long drivers and devices have of that: the last part is for the log and the exit.
    pub fn delivery_time_max(&self) -> Duration {
        self.drain_time_max - self.drain_time_max / EXIT_PART
    }

    /// By when of that the log is given up, too: the rest is for the exit.
    pub fn log_time_max(&self) -> Duration {
        self.drain_time_max - self.drain_time_max / (2 * EXIT_PART)
    }
}
