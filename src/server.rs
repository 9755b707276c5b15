//! The process: start-up checks, one thread a shard, signals, the drain.
//!
//! **Invariants.** Whatever keeps the daemon from starting is one [`StartError`] with one line. After start-up this
//! thread only waits: for a signal, for shards to drain, for the deadline.
//! **Not here.** Settings (`config`), what a shard does (`shard`, `edge`).

use crate::config::{self, Config, DaemonSecrets, Switch};
use crate::drain::{self, Pace};
use crate::edge::api::Api;
use crate::edge::session::session_bytes_max;
use crate::logging::{self, LogFormat};
use crate::policy::ending::ProcessEnd;
use crate::policy::token::Token;
use crate::service::Service;
use crate::service::handed::{self, HandedError, Inherited};
use crate::shard::handover::Meanwhile;
use crate::shard::mailbox::{Peers, Request};
use crate::shard::resources::{LogControl, Resources, Shared};
use crate::shard::ring::{self, Listener};
use crate::shard::vitals::Vitals;
use crate::shard::{Shard, sockets};
use crate::takeover::{self, Meeting, Taken, TakeoverError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
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
    #[error("the API cannot listen on {address} (--host, --port): {error}")]
    Listen {
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
    TakenOver,
}

/// Runs the daemon until it is told to stop. Returns on the thread that called; shards' threads are then still there, as
/// a runtime with operations in flight is never dropped: the caller ends the process.
///
/// # Errors
/// [`StartError`] where it cannot start.
pub fn run(mut config: Config) -> Result<ProcessEnd, StartError> {
    check_kernel()?;
    let (inherited, taken) = inherit(&config)?;
    let has_stored = taken.is_none() && !(inherited.api.is_empty() && inherited.ports.is_empty());
    let descriptors = raise_descriptor_limit();
    config.limits.devices_max = config::devices_max(descriptors, config.limits.devices_max);
    config.limits.handshakes_max = config::handshakes_max(descriptors, config.limits.handshakes_max);
    let (events, mut happened) = mpsc::channel(config.shards + EVENTS_BEYOND_SHARDS);
    watch_signals(events.clone())?;
    let listeners = api_listeners(&mut config, inherited.api)?;
    let (meeting, taken) = meeting(&config, taken)?;
    let vitals = Vitals::new(config.shards);
    let service = Service::start(vitals.clone()).map_err(StartError::Thread)?;
    let peers = start_shards(&config, listeners, &vitals, events.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(StartError::Thread)?;
    runtime.block_on(async {
        peers.inherit(inherited.ports).await;
        for _ in 0..config.shards {
            match happened.recv().await {
                Some(Event::Started) => {}
                Some(Event::StartFailed(error)) => return Err(error),
                Some(Event::Signal) => return Ok(ProcessEnd::Drained),
                Some(Event::ShardEnded | Event::TakenOver) | None => return Ok(ProcessEnd::ShardFailed),
            }
        }
        match taken {
            Some(taken) => taken.finish(&peers).await?,
            None => peers.resume().await,
        }
        if has_stored {
            service.unstore();
        }
        if let Some(meeting) = meeting {
            open_meeting(meeting, &peers, &vitals, events)?;
        }
        log_start(&config, descriptors);
        service.ready(format!("{} shards serve at {}", config.shards, config.api_address));
        let leaving = Leaving { peers, vitals, service, drain_time_max: config.limits.drain_time_max };
        let end = leaving.wait_for_the_end(&mut happened).await;
        tracing::info!(?end, "dispatch ends");
        Ok(end)
    })
}

/// What this daemon starts with: the sockets of the one that runs, or those that the service manager hands over.
fn inherit(config: &Config) -> Result<(Inherited, Option<Taken>), StartError> {
    let handed = handed::inherited()?;
    let (Switch::On, Some(path)) = (config.upgrades.takeover, &config.upgrades.socket) else {
        return Ok((handed, None));
    };
    let mut taken = takeover::take(path)?;
    let (api, ports) = (std::mem::take(&mut taken.api), std::mem::take(&mut taken.ports));
    Ok((Inherited { api, ports }, Some(taken)))
}

/// Where the next daemon finds this one: the place that was taken over with the rest, else a new one.
fn meeting(config: &Config, taken: Option<Taken>) -> Result<(Option<Meeting>, Option<Taken>), StartError> {
    let Some(path) = &config.upgrades.socket else { return Ok((None, taken)) };
    let Some(mut taken) = taken else { return Ok((Some(Meeting::make(path)?), None)) };
    let meeting = taken.meeting.take().map(Meeting::of);
    Ok((meeting, Some(taken)))
}

/// Starts the thread that hands everything over to the next daemon.
fn open_meeting(
    meeting: Meeting,
    peers: &Peers,
    vitals: &Vitals,
    events: mpsc::Sender<Event>,
) -> Result<(), StartError> {
    let (peers, vitals) = (peers.clone(), vitals.clone());
    let taken_over = move || drop(events.blocking_send(Event::TakenOver));
    let serve = move || takeover::serve(&meeting, &peers, &vitals, taken_over);
    std::thread::Builder::new().name("takeover".into()).spawn(serve).map(drop).map_err(StartError::Thread)
}

/// The API's listeners, of each shard: those that were inherited, else our own. Where the first are, is where the API is,
/// whatever the settings say.
fn api_listeners(
    config: &mut Config,
    inherited: Vec<socket2::Socket>,
) -> Result<Vec<Vec<socket2::Socket>>, StartError> {
    let Some(first) = inherited.first() else {
        return Ok(open_api(config)?.into_iter().map(|listener| vec![listener]).collect());
    };
    let address = handed::listening_on(first).ok_or(TakeoverError::Socket)?;
    (config.api_address, config.access.api_port) = (address, address.port());
    sockets::deal_api(&inherited, config.shards, config.limits.socket_bytes)
        .map_err(|error| StartError::Listen { address, error })
}

/// Starts a thread for each shard, which tells of its start and of its end.
fn start_shards(
    config: &Config,
    listeners: Vec<Vec<socket2::Socket>>,
    vitals: &Vitals,
    events: mpsc::Sender<Event>,
) -> Result<Peers, StartError> {
    let (peers, mailboxes) = Peers::new(config.shards);
    let log =
        LogControl { dropped_lines: logging::dropped_lines, filter: logging::filter, set_filter: logging::set_filter };
    let (limits, access) = (config.limits, config.access.clone());
    let shared = Shared::new(limits, access, config.observation, log, peers.clone(), vitals.clone());
    let DaemonSecrets { secret, next, .. } = &config.secrets;
    let token = Token::new(secret.expose().to_owned(), next.as_ref().map(|next| next.expose().to_owned()));
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
            token: token.clone(),
            events: events.clone(),
        };
        std::thread::Builder::new()
            .name(format!("shard-{shard}"))
            .spawn(move || thread.run(listeners, mailbox))
            .map_err(StartError::Thread)?;
    }
    Ok(peers)
}

/// Opens the API's listeners, waiting a while for an address in use: a daemon that was killed leaves it so until the
/// kernel has taken its ring apart.
fn open_api(config: &Config) -> Result<Vec<socket2::Socket>, StartError> {
    let address = config.api_address;
    let until = Instant::now() + RESTART_WAIT;
    loop {
        match sockets::open_api(address, config.shards, config.limits.socket_bytes) {
            Ok(listeners) => return Ok(listeners),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => pause(),
            Err(error) => return Err(StartError::Listen { address, error }),
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
    events: mpsc::Sender<Event>,
}

impl Drop for ShardThread {
    fn drop(&mut self) {
        let _ = self.events.try_send(Event::ShardEnded);
    }
}

impl ShardThread {
    fn run(self, listeners: Vec<socket2::Socket>, mailbox: mpsc::Receiver<Request>) {
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
            let resources = Rc::new(Resources::new(self.shard, self.shared.clone()));
            let api = Api::new(resources.clone(), self.token.clone());
            let listeners: Vec<_> = listeners.into_iter().map(|socket| Rc::new(Listener::new(socket))).collect();
            for listener in &listeners {
                // Until every shard has started, and has what it inherits.
                listener.pause();
                ring::spawn(api.clone().serve(listener.clone()));
            }
            self.shared.vitals.beat(self.shard);
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
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        address = %config.api_address,
        shards = config.shards,
        descriptors,
        devices_max = limits.devices_max,
        sessions_max = limits.session_memory_bytes_max / session_bytes_max(limits).max(1),
        session_memory_mib = sessions / MIB,
        receive_buffers_mib = buffers / MIB,
        waiting_devices_mib = devices / MIB,
        worst_case_mib = (sessions.saturating_add(buffers).saturating_add(devices)) / MIB,
        "dispatch serves"
    );
    if config.log_format == LogFormat::Readable {
        tracing::info!("to see it work: `dispatch listen tcp 6001` is a driver, and `nc 127.0.0.1 6001` a device");
    }
}

/// Turns SIGTERM and SIGINT into events, on a thread of its own.
fn watch_signals(events: mpsc::Sender<Event>) -> Result<(), StartError> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(StartError::Thread)?;
    let watch = move || {
        for _ in signals.forever() {
            if events.blocking_send(Event::Signal).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop).map_err(StartError::Thread)
}

/// What the end of the process takes.
struct Leaving {
    peers: Peers,
    vitals: Vitals,
    service: Service,
    drain_time_max: Duration,
}

impl Leaving {
    /// Waits for a signal, for another daemon that has taken over, or for a shard's thread to end; then drains, under one
    /// deadline.
    async fn wait_for_the_end(&self, happened: &mut mpsc::Receiver<Event>) -> ProcessEnd {
        let pace = match happened.recv().await {
            Some(Event::Signal) => Pace::AtOnce,
            Some(Event::TakenOver) => Pace::InWaves,
            _ => return ProcessEnd::ShardFailed,
        };
        self.vitals.drain();
        self.service.stopping();
        let drain_ms_max = self.drain_time_max.as_millis() as u64;
        match pace {
            Pace::AtOnce => tracing::info!(drain_ms_max, "told to stop: draining"),
            Pace::InWaves => tracing::info!(drain_ms_max, "another daemon has taken over: draining"),
        }
        let drain = async {
            if pace == Pace::AtOnce && self.service.is_there() {
                self.store().await;
            }
            drain::run(&self.peers, pace, self.drain_time_max).await;
        };
        tokio::select! {
            () = drain => ProcessEnd::Drained,
            () = tokio::time::sleep(self.drain_time_max) => ProcessEnd::DrainDeadline,
            event = happened.recv() => match event {
                Some(Event::Signal | Event::TakenOver) => ProcessEnd::SecondSignal,
                _ => ProcessEnd::ShardFailed,
            },
        }
    }

    /// Leaves the sockets with the service manager, for the daemon that it starts next.
    async fn store(&self) {
        self.peers.ask_all(|reply| Request::Pause { reply }).await;
        match self.peers.hand_over(Meanwhile::Freeze).await {
            Ok(sockets) => self.service.store(sockets),
            Err(error) => tracing::warn!(%error, "the sockets cannot be left with the service manager"),
        }
    }
}
