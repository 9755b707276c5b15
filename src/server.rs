//! The process: start-up checks, one thread a shard, signals, the drain.
//!
//! **Invariants.** Whatever keeps the daemon from starting is one [`StartError`] with one line. After start-up this
//! thread only waits: for a signal, for shards to drain, for the deadline.
//! **Not here.** Settings (`config`), the API's certificate (`certificates`), what a shard does (`shard`, `edge`).

mod certificates;

use crate::config::{self, Config, DaemonSecrets, Switch};
use crate::edge::api::Api;
use crate::edge::identities::Identities;
use crate::edge::line::Entrance;
use crate::edge::session::session_bytes_max;
use crate::logging::{self, LogFormat};
use crate::policy::ending::ProcessEnd;
use crate::policy::token::Token;
use crate::shard::mailbox::{Peers, Request};
use crate::shard::resources::{LogControl, Resources, Shared};
use crate::shard::ring::{self, Listener};
use crate::shard::tls::{HANDSHAKE_BYTES_MAX, Identity};
use crate::shard::{Shard, sockets};
use certificates::Certificates;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::rc::Rc;
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
        /// The settings that say so.
        settings: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel says.
        error: io::Error,
    },
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
    Signal,
    ReadAgain,
}

/// Runs the daemon until it is told to stop. Returns on the thread that called; shards' threads are then still there, as
/// a runtime with operations in flight is never dropped: the caller ends the process.
///
/// # Errors
/// [`StartError`] where it cannot start.
pub fn run(mut config: Config) -> Result<ProcessEnd, StartError> {
    check_kernel()?;
    let descriptors = raise_descriptor_limit();
    config.limits.devices_max = config::devices_max(descriptors, config.limits.devices_max);
    config.limits.handshakes_max = config::handshakes_max(descriptors, config.limits.handshakes_max);
    let (events, mut happened) = mpsc::channel(config.shards + EVENTS_BEYOND_SHARDS);
    watch_signals(events.clone())?;
    let peers = start_shards(&config, events)?;
    let mut certificates = config.tls.as_ref().map(|tls| Certificates::new(tls.files.clone(), &tls.identity));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StartError::Thread)?;
    runtime.block_on(async {
        for _ in 0..config.shards {
            match happened.recv().await {
                Some(Event::Started | Event::ReadAgain) => {}
                Some(Event::StartFailed(error)) => return Err(error),
                Some(Event::Signal) => return Ok(ProcessEnd::Drained),
                Some(Event::ShardEnded) | None => return Ok(ProcessEnd::ShardFailed),
            }
        }
        log_start(&config, descriptors);
        let asked = wait_for_a_signal(&mut happened, &peers, &mut certificates).await;
        let end = match asked {
            Ok(()) => drain(&mut happened, &peers, config.limits.drain_time_max).await,
            Err(end) => end,
        };
        tracing::info!(?end, "dispatch ends");
        Ok(end)
    })
}

/// Opens the API and starts a thread for each shard, which tells of its start and of its end.
fn start_shards(config: &Config, events: mpsc::Sender<Event>) -> Result<Peers, StartError> {
    let plain = open_api(config, config.api_address, "--host, --port")?;
    let secure = config.tls.as_ref().map(|tls| open_api(config, tls.address, "--tls-host, --tls-port"));
    let mut secure = secure.transpose()?.unwrap_or_default().into_iter();
    let (peers, mailboxes) = Peers::new(config.shards);
    let log =
        LogControl { dropped_lines: logging::dropped_lines, filter: logging::filter, set_filter: logging::set_filter };
    let shared = Shared::new(config.limits, config.access.clone(), config.observation, log, peers.clone());
    let DaemonSecrets { secret, next, .. } = &config.secrets;
    let token = Token::new(secret.expose().to_owned(), next.as_ref().map(|next| next.expose().to_owned()));
    let identities = Identities::new(config.device_certs.clone());
    let cores = match config.pin {
        Switch::On => core_affinity::get_core_ids().unwrap_or_default(),
        Switch::Off => Vec::new(),
    };
    for (shard, (plain, mailbox)) in plain.into_iter().zip(mailboxes).enumerate() {
        let listeners = [Some((plain, Entrance::Plain)), secure.next().map(|socket| (socket, Entrance::Tls))];
        let thread = ShardThread {
            shard,
            shards: config.shards,
            core: (!cores.is_empty()).then(|| cores[shard % cores.len()]),
            shared: shared.clone(),
            token: token.clone(),
            identities: identities.clone(),
            identity: config.tls.as_ref().map(|tls| tls.identity.clone()),
            events: events.clone(),
        };
        std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || thread.run(listeners.into_iter().flatten(), mailbox))
            .map_err(StartError::Thread)?;
    }
    Ok(peers)
}

/// Opens the API's listeners, waiting a while for an address in use: a daemon that was killed leaves it so until the
/// kernel has taken its ring apart.
fn open_api(config: &Config, address: SocketAddr, settings: &'static str) -> Result<Vec<socket2::Socket>, StartError> {
    let until = Instant::now() + RESTART_WAIT;
    loop {
        match sockets::open_api(address, config.shards, config.limits.socket_bytes) {
            Ok(listeners) => return Ok(listeners),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => pause(),
            Err(error) => return Err(StartError::Listen { settings, address, error }),
        }
    }
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
    token: Token,
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
    fn run(self, sockets: impl Iterator<Item = (socket2::Socket, Entrance)>, mailbox: mpsc::Receiver<Request>) {
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
            let resources = Rc::new(Resources::new(self.shard, self.shared.clone(), self.identity.clone()));
            let api = Api::new(resources.clone(), self.token.clone(), self.identities.clone());
            let mut listeners = Vec::new();
            for (socket, entrance) in sockets {
                let listener = Rc::new(Listener::new(socket));
                ring::spawn(api.clone().serve(listener.clone(), entrance));
                listeners.push(listener);
            }
            let _ = self.events.send(Event::Started).await;
            Shard::new(resources, listeners).run(mailbox).await;
        });
    }

    /// A ring and its runtime, waiting for locked memory a while.
    fn make_runtime(&self) -> Result<tokio_uring::Runtime, StartError> {
        let entries = self.shared.limits.ring_entries;
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

    fn locked_memory(&self) -> StartError {
        /// Measured: 32 KiB at 256 entries, 128 KiB at 1,024, 512 KiB at 4,096.
        const BYTES_AN_ENTRY: u64 = 128;
        let entries = self.shared.limits.ring_entries;
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
fn log_start(config: &Config, descriptors: u64) {
    const MIB: usize = 1 << 20;
    let limits = &config.limits;
    let buffers = config.shards * usize::from(limits.receive_buffers) * limits.receive_buffer_bytes;
    let devices = limits.devices_max.saturating_mul(limits.receive_buffer_bytes);
    let sessions = limits.session_memory_bytes_max;
    let handshakes = config.tls.as_ref().map_or(0, |_| limits.handshakes_max * HANDSHAKE_BYTES_MAX);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %config.api_address,
        tls_address = config.tls.as_ref().map(|tls| tls.address.to_string()),
        shards = config.shards,
        descriptors,
        devices_max = limits.devices_max,
        sessions_max = limits.session_memory_bytes_max / session_bytes_max(limits).max(1),
        session_memory_mib = sessions / MIB,
        receive_buffers_mib = buffers / MIB,
        waiting_devices_mib = devices / MIB,
        tls_handshakes_mib = handshakes / MIB,
        worst_case_mib = sessions.saturating_add(buffers + handshakes).saturating_add(devices) / MIB,
        "dispatch serves"
    );
    if config.log_format == LogFormat::Readable {
        tracing::info!("to see it work: `dispatch listen tcp 6001` is a driver, and `nc 127.0.0.1 6001` a device");
    }
}

/// Turns SIGTERM, SIGINT and SIGHUP into events, on a thread of its own.
fn watch_signals(events: mpsc::Sender<Event>) -> Result<(), StartError> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(StartError::Thread)?;
    let watch = move || {
        for signal in signals.forever() {
            let event = if signal == SIGHUP { Event::ReadAgain } else { Event::Signal };
            if events.blocking_send(event).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop).map_err(StartError::Thread)
}

/// Waits until the process is told to stop, and looks after its certificate meanwhile.
///
/// # Errors
/// The end of the process where a shard's thread ends.
async fn wait_for_a_signal(
    happened: &mut mpsc::Receiver<Event>,
    peers: &Peers,
    certificates: &mut Option<Certificates>,
) -> Result<(), ProcessEnd> {
    let mut warnings = tokio::time::interval(certificates::WARNING_INTERVAL);
    loop {
        let event = tokio::select! {
            event = happened.recv() => event,
            _ = warnings.tick() => {
                certificates.iter().for_each(Certificates::warn);
                continue;
            }
        };
        match (event, &mut *certificates) {
            (Some(Event::Signal), _) => return Ok(()),
            (Some(Event::ReadAgain), Some(certificates)) => certificates.reload(peers).await,
            (Some(Event::ReadAgain), None) => tracing::info!("SIGHUP: there is no certificate to read again"),
            _ => return Err(ProcessEnd::ShardFailed),
        }
    }
}

/// Has everything end in good order, under one deadline.
async fn drain(happened: &mut mpsc::Receiver<Event>, peers: &Peers, drain_time_max: Duration) -> ProcessEnd {
    tracing::info!(drain_ms_max = drain_time_max.as_millis() as u64, "told to stop: draining");
    let drain = async {
        // No device ends before every shard has sent on what its drivers had sent.
        ask_all(peers, |reply| Request::Settle { reply }).await;
        ask_all(peers, |reply| Request::Drain { reply }).await;
    };
    let interrupted = async {
        loop {
            match happened.recv().await {
                Some(Event::Signal) => return ProcessEnd::SecondSignal,
                Some(Event::ReadAgain) => {}
                _ => return ProcessEnd::ShardFailed,
            }
        }
    };
    tokio::select! {
        () = drain => ProcessEnd::Drained,
        () = tokio::time::sleep(drain_time_max) => ProcessEnd::DrainDeadline,
        end = interrupted => end,
    }
}

/// Asks every shard, and waits until each has replied.
async fn ask_all(peers: &Peers, request: impl Fn(mpsc::Sender<usize>) -> Request) {
    let (reply, mut replies) = mpsc::channel(peers.shards());
    for shard in 0..peers.shards() {
        peers.ask(shard, request(reply.clone())).await;
    }
    for _ in 0..peers.shards() {
        replies.recv().await;
    }
}
