//! The process: start-up checks, one thread a shard, signals, the drain.
//!
//! **Invariants.** Whatever keeps the daemon from starting is one [`StartError`] with one line. After start-up this
//! thread only waits: for a signal, for settings that are read again, for shards to drain, for the deadline.
//! **Not here.** Settings (`config`), what a shard does (`shard`, `edge`), a signal to stop that nothing waits for
//! (`signals`).

mod certificates;
mod inheritance;
mod leaving;
mod reload;
mod signals;

use crate::config::{Config, ConfigError, Loaded, Loader, Switch};
use crate::edge::api::{Api, WAITING_BYTES_MAX};
use crate::edge::identities::Identities;
use crate::edge::session::session_bytes_max;
use crate::logging::{self, LogFormat};
use crate::policy::ending::ProcessEnd;
use crate::policy::limits::Limits;
use crate::policy::rules::Rules;
use crate::service::Service;
use crate::service::handed::HandedError;
use crate::shard::Shard;
use crate::shard::accept::Entrance;
use crate::shard::device;
use crate::shard::mailbox::{Peers, Request};
use crate::shard::resources::{LogControl, Resources, Shared};
use crate::shard::ring::{self, DatagramBatch, Listener};
use crate::shard::tls::{HANDSHAKE_BYTES_MAX, Identity};
use crate::shard::vitals::Vitals;
use crate::takeover::TakeoverError;
use inheritance::Inheritance;
use leaving::Leaving;
use reload::Reloader;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The first kernel with everything that a ring is set up with (single issuer).
const KERNEL_MIN: (u32, u32) = (6, 0);
/// How long a start waits for what an earlier process has not given back yet: locked memory, or the API's address.
const RESTART_WAIT: Duration = Duration::from_secs(3);
const RESTART_STEP: Duration = Duration::from_millis(50);
/// Room for signals and ends of shards while nobody takes events.
const EVENTS_BEYOND_SHARDS: usize = 16;

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel is older than the rings need.
    #[error("Linux {}.{} or newer is needed, this is {found}", KERNEL_MIN.0, KERNEL_MIN.1)]
    Kernel {
        /// Its release.
        found: String,
    },
    /// The API's address cannot be had.
    #[error("the API cannot listen on {address} ({settings}): {error}")]
    Listen {
        /// What says so.
        settings: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
    /// What the service manager hands over is not what the API needs.
    #[error(transparent)]
    Handed(#[from] HandedError),
    /// Nothing is taken over, or nobody could take over from this one.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// io_uring is not to be had.
    #[error(
        "io_uring is refused ({error}): look at the sysctl kernel.io_uring_disabled (it must be 0) and at the \
         container's seccomp profile (it must allow io_uring_setup, io_uring_enter and io_uring_register)"
    )]
    RingRefused {
        /// What the kernel says.
        error: io::Error,
    },
    /// Locked memory does not suffice for the rings.
    #[error(
        "locked memory does not suffice: {shards} rings of {entries} entries need up to {need_kib} KiB, the limit \
         (ulimit -l) is {limit}; raise it, or lower --ring-entries or --workers"
    )]
    LockedMemory {
        /// Rings.
        shards: usize,
        /// Entries of each.
        entries: u32,
        /// What they may take.
        need_kib: u64,
        /// The limit as text.
        limit: String,
    },
    /// A ring cannot be made for another reason.
    #[error("a ring of {entries} entries (--ring-entries) cannot be made: {error}")]
    Ring {
        /// Its entries.
        entries: u32,
        /// What the kernel says.
        error: io::Error,
    },
    /// Memory does not suffice for the receive buffers.
    #[error(
        "there is no memory for {count} receive buffers (--receive-buffers) of {bytes} bytes (--receive-buffer-bytes) for \
         each of {shards} shards (--workers): {error}"
    )]
    ReceiveBuffers {
        /// Shards.
        shards: usize,
        /// Buffers of each.
        count: u16,
        /// Bytes of each of these.
        bytes: usize,
        /// What the system says.
        error: io::Error,
    },
    /// A thread or the signal handlers cannot be had.
    #[error("a thread of the daemon cannot be started: {0}")]
    Thread(io::Error),
}

/// Everything that the process's own thread waits for.
#[derive(Debug)]
enum Event {
    Started,
    StartFailed(StartError),
    ShardEnded,
    /// A signal to stop.
    Stop,
    /// A signal to read the settings again.
    Reload,
    /// What that has found.
    Loaded(Box<Result<Loaded, ConfigError>>),
    /// Another daemon has the sockets.
    TakenOver,
}

/// Whether a reload was asked for while the shards started, or took what the last one brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Yes,
    No,
}

/// Runs the daemon until it is told to stop. Returns on the thread that called; shards' threads are then still there, as
/// a runtime with operations in flight is never dropped: the caller ends the process.
///
/// # Errors
/// [`StartError`] where it cannot start.
pub fn run(mut loaded: Loaded, loader: Loader) -> Result<ProcessEnd, StartError> {
    check_kernel()?;
    let handed = inheritance::handed(&loaded.config)?;
    let shards = loaded.config.shards;
    let (events, mut happened) = mpsc::channel(2 * shards + EVENTS_BEYOND_SHARDS);
    let started_whole = signals::watch(events.clone()).map_err(StartError::Thread)?;
    let mut inheritance = Inheritance::take(handed, &loaded.config)?;
    let descriptors = raise_descriptor_limit();
    let vitals = Vitals::new(shards);
    let service = Service::start(vitals.clone()).map_err(StartError::Thread)?;
    let listeners = inheritance.api_listeners(&mut loaded, &service)?;
    inheritance.make_meeting(&loaded.config)?;
    let rules = Arc::new(reload::rules(&loaded.config, descriptors));
    let shared = start_shards(&loaded.config, &rules, listeners, &vitals, &events)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StartError::Thread)?;
    runtime.block_on(async {
        let peers = shared.peers.clone();
        inheritance.give_ports(&peers).await;
        let (mut started, mut asked) = (0, Asked::No);
        while started < shards {
            match happened.recv().await {
                Some(Event::Started) => started += 1,
                Some(Event::StartFailed(error)) => return Err(error),
                Some(Event::Reload) => asked = Asked::Yes,
                Some(_) | None => return Ok(ended(ProcessEnd::ShardFailed, logging::FLUSH_TIME_MAX)),
            }
        }
        inheritance.settle(&peers, &vitals, &service, &events).await?;
        started_whole.tell();
        log_start(&loaded.config, &rules.limits, descriptors);
        let status = format!("{shards} shards serve at {}", loaded.config.api_address);
        service.ready(status.clone());
        let reloader = Reloader::new((loaded, loader), descriptors, rules.token.clone(), shared, events);
        let mut leaving = Leaving { peers, vitals, service, status, reloader };
        if asked == Asked::Yes {
            leaving.reload();
        }
        let (end, time_left) = leaving.wait_for_the_end(&mut happened).await;
        Ok(ended(end, time_left))
    })
}

/// Says how the daemon ends, as the last line of the log, which is written within this time or not at all.
fn ended(end: ProcessEnd, time_left: Duration) -> ProcessEnd {
    tracing::info!(?end, "dispatch ends");
    logging::flush(time_left.min(logging::FLUSH_TIME_MAX));
    end
}

/// Starts a thread for each shard, which tells of its start and of its end.
fn start_shards(
    config: &Config,
    rules: &Arc<Rules>,
    listeners: Vec<Vec<(socket2::Socket, Entrance)>>,
    vitals: &Vitals,
    events: &mpsc::Sender<Event>,
) -> Result<Shared, StartError> {
    let (peers, mailboxes) = Peers::new(config.shards);
    let log =
        LogControl { dropped_lines: logging::dropped_lines, filter: logging::filter, set_filter: logging::set_filter };
    let shared = Shared::new(&rules.limits, log, peers, vitals.clone());
    let identities = Identities::default();
    let cores = match config.pin {
        Switch::On => core_affinity::get_core_ids().unwrap_or_default(),
        Switch::Off => Vec::new(),
    };
    for (shard, (listeners, mailbox)) in listeners.into_iter().zip(mailboxes).enumerate() {
        let thread = ShardThread {
            shard,
            shards: config.shards,
            core: (!cores.is_empty()).then(|| cores[shard % cores.len()]),
            shared: shared.clone(),
            rules: rules.clone(),
            identities: identities.clone(),
            identity: config.tls.as_ref().map(|tls| tls.identity.clone()),
            events: events.clone(),
        };
        std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || thread.run(listeners, mailbox))
            .map_err(StartError::Thread)?;
    }
    Ok(shared)
}

#[expect(clippy::disallowed_methods, reason = "nothing runs on this thread yet")]
fn pause() {
    std::thread::sleep(RESTART_STEP);
}

/// What one shard's thread is made of. Its end, a panic included, is told when it drops.
struct ShardThread {
    shard: usize,
    shards: usize,
    core: Option<core_affinity::CoreId>,
    shared: Shared,
    rules: Arc<Rules>,
    identities: Identities,
    identity: Option<Identity>,
    events: mpsc::Sender<Event>,
}

impl Drop for ShardThread {
    fn drop(&mut self) {
        let _ = self.events.try_send(Event::ShardEnded);
    }
}

impl ShardThread {
    fn run(self, listeners: Vec<(socket2::Socket, Entrance)>, mailbox: mpsc::Receiver<Request>) {
        if let Some(core) = self.core
            && !core_affinity::set_for_current(core)
        {
            tracing::warn!(shard = self.shard, core = core.id, "the shard's thread cannot be pinned");
        }
        let runtime = match self.make_runtime() {
            // Never dropped, not even by a panic: operations may be in flight.
            Ok(runtime) => ManuallyDrop::new(runtime),
            Err(error) => return drop(self.events.blocking_send(Event::StartFailed(error))),
        };
        runtime.block_on(async {
            let (shared, rules, identity) = (self.shared.clone(), self.rules.clone(), self.identity.clone());
            let resources = match Resources::new(self.shard, shared, rules, identity) {
                Ok(resources) => Rc::new(resources),
                Err(error) => return drop(self.events.send(Event::StartFailed(self.receive_buffers(error))).await),
            };
            let api = Api::new(resources.clone(), self.identities.clone());
            let mut serving = Vec::with_capacity(listeners.len());
            for (socket, entrance) in listeners {
                let listener = Rc::new(Listener::new(socket));
                // Until every shard has started, and has what it inherits.
                listener.pause();
                ring::spawn(api.clone().serve(listener.clone(), entrance));
                serving.push((entrance, listener));
            }
            self.shared.vitals.beat(self.shard);
            let _ = self.events.send(Event::Started).await;
            Shard::new(resources, serving).run(mailbox).await;
        });
    }

    /// A ring and its runtime, waiting for locked memory a while.
    fn make_runtime(&self) -> Result<tokio_uring::Runtime, StartError> {
        let entries = self.rules.limits.ring_entries;
        let until = Instant::now() + RESTART_WAIT;
        loop {
            match ring::runtime(entries) {
                Ok(runtime) => return Ok(runtime),
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory && Instant::now() < until => {
                    pause();
                }
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => return Err(self.locked_memory()),
                Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) => {
                    return Err(StartError::RingRefused { error });
                }
                Err(error) => return Err(StartError::Ring { entries, error }),
            }
        }
    }

    fn receive_buffers(&self, error: io::Error) -> StartError {
        let Limits { receive_buffers: count, receive_buffer_bytes: bytes, .. } = self.rules.limits;
        StartError::ReceiveBuffers { shards: self.shards, count, bytes, error }
    }

    fn locked_memory(&self) -> StartError {
        /// Measured: 32 KiB at 256 entries, 128 KiB at 1,024, 512 KiB at 4,096.
        const BYTES_AN_ENTRY: u64 = 128;
        let entries = self.rules.limits.ring_entries;
        let limit = getrlimit(Resource::Memlock).current;
        StartError::LockedMemory {
            shards: self.shards,
            entries,
            need_kib: self.shards as u64 * u64::from(entries) * BYTES_AN_ENTRY / 1024,
            limit: limit.map_or_else(|| "unlimited".to_owned(), |bytes| format!("{} KiB", bytes / 1024)),
        }
    }
}

fn check_kernel() -> Result<(), StartError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < KERNEL_MIN { Err(StartError::Kernel { found: release }) } else { Ok(()) }
}

/// Raises the soft limit of descriptors to the hard one, and says what it is.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the descriptor limit cannot be raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Says what runs, and what its bounds add up to.
fn log_start(config: &Config, limits: &Limits, descriptors: u64) {
    const MIB: usize = 1 << 20;
    let buffers = config.shards * usize::from(limits.receive_buffers) * limits.receive_buffer_bytes;
    let datagrams = config.shards * DatagramBatch::BYTES;
    let devices = limits.devices_max.saturating_mul(device::RESIDENT_BYTES_MAX);
    let waiting = limits.devices_max.saturating_mul(limits.receive_buffer_bytes);
    let sessions = limits.session_memory_bytes_max;
    let handshake = WAITING_BYTES_MAX + config.tls.as_ref().map_or(0, |_| HANDSHAKE_BYTES_MAX);
    let handshakes = limits.handshakes_max * handshake + limits.answer_bytes_max;
    let parts = [sessions, buffers, datagrams, devices, waiting, handshakes];
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %config.api_address,
        tls_address = config.tls.as_ref().map(|tls| tls.address.to_string()),
        shards = config.shards,
        descriptors,
        devices_max = limits.devices_max,
        sessions_max = limits.sessions_max.min(sessions / session_bytes_max(limits).max(1)),
        session_memory_mib = sessions / MIB,
        receive_buffers_mib = buffers / MIB,
        datagrams_mib = datagrams / MIB,
        devices_mib = devices / MIB,
        waiting_devices_mib = waiting / MIB,
        handshakes_mib = handshakes / MIB,
        worst_case_mib = parts.into_iter().fold(0, usize::saturating_add) / MIB,
        "dispatch serves"
    );
    if config.log_format == LogFormat::Readable {
        tracing::info!("to see it work: `dispatch listen tcp 6001` is a driver, and `nc 127.0.0.1 6001` a device");
    }
}
