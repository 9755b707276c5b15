//! What this daemon starts with: the sockets of the one that runs, those that the service manager hands over, or its own.
//!
//! **Invariants.** The daemon that runs goes on as if nothing had happened until this one has started whole.
//! **Not here.** The way from one daemon to the next (`takeover`), and from the service manager (`service::handed`).

use super::{Event, RESTART_WAIT, StartError, pause};
use crate::config::{Config, Loaded, Origin, Switch};
use crate::service::Service;
use crate::service::handed::{self, Inherited};
use crate::shard::accept::Entrance;
use crate::shard::mailbox::Peers;
use crate::shard::sockets;
use crate::shard::vitals::Vitals;
use crate::takeover::{self, Meeting, Taken, TakeoverError};
use socket2::Socket;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;
use tokio::sync::mpsc;

/// The settings that say where the API is, and where it is with TLS.
const PLAIN_SETTINGS: &str = "--host, --port";
const TLS_SETTINGS: &str = "--tls-host, --tls-port";

/// The sockets of those before, and who they were.
pub(super) struct Inheritance {
    sockets: Inherited,
    /// The daemon that is taken over.
    taken: Option<Taken>,
    /// Where the next daemon finds this one.
    meeting: Option<Meeting>,
}

/// What the service manager hands over. To be asked before anything is opened.
pub(super) fn handed(config: &Config) -> Result<Inherited, StartError> {
    Ok(handed::inherited(config.api_address, config.tls.as_ref().map(|tls| tls.address))?)
}

impl Inheritance {
    /// Takes what there is beside what was handed over. Waits for the daemon that runs, where that is taken over.
    pub(super) fn take(handed: Inherited, config: &Config) -> Result<Self, StartError> {
        let (Switch::On, Some(path)) = (config.upgrades.takeover, &config.upgrades.socket) else {
            return Ok(Inheritance { sockets: handed, taken: None, meeting: None });
        };
        let mut taken = takeover::take(path)?;
        let sockets = std::mem::take(&mut taken.sockets);
        Ok(Inheritance { sockets, taken: Some(taken), meeting: None })
    }

    /// The API's listeners, of each shard: those that were inherited, else our own. Where the first are, is where the API
    /// is, whatever the settings say: those of a .socket unit or of the daemon that is taken over may be elsewhere, which is
    /// warned of where the settings say anything.
    pub(super) fn api_listeners(
        &mut self,
        loaded: &mut Loaded,
        service: &Service,
    ) -> Result<Vec<Vec<(Socket, Entrance)>>, StartError> {
        if self.sockets.is_stale {
            // They may hold the address.
            service.unstore_api();
        }
        let is_set = |names: &[&str]| {
            let mut set = loaded.settings.iter().filter(|setting| setting.origin != Origin::Default);
            set.any(|setting| names.contains(&setting.name()))
        };
        let (is_set, is_tls_set) = (is_set(&["host", "port"]), is_set(&["tls_host", "tls_port"]));
        let config = &mut loaded.config;
        let (plain, tls) = (std::mem::take(&mut self.sockets.api), std::mem::take(&mut self.sockets.tls));
        let mut listeners: Vec<Vec<(Socket, Entrance)>> = (0..config.shards).map(|_| Vec::new()).collect();
        let mut add = |sockets: Vec<Vec<Socket>>, entrance| {
            for (own, sockets) in listeners.iter_mut().zip(sockets) {
                own.extend(sockets.into_iter().map(|socket| (socket, entrance)));
            }
        };
        if is_set {
            warn_if_elsewhere(&plain, config.api_address, PLAIN_SETTINGS);
        }
        let (address, sockets) = listen(plain, config.api_address, config, PLAIN_SETTINGS)?;
        add(sockets, Entrance::Plain);
        (config.api_address, config.access.api_port) = (address, address.port());
        if config.tls.is_none() && !tls.is_empty() {
            tracing::warn!("a listener for TLS was handed over, and no TLS is set: it is closed");
        }
        if let Some(address) = config.tls.as_ref().map(|tls| tls.address) {
            if is_tls_set {
                warn_if_elsewhere(&tls, address, TLS_SETTINGS);
            }
            let (address, sockets) = listen(tls, address, config, TLS_SETTINGS)?;
            add(sockets, Entrance::Tls);
            config.tls.iter_mut().for_each(|tls| tls.address = address);
            config.access.api_tls_port = Some(address.port());
        }
        Ok(listeners)
    }

    /// Makes the place where the next daemon finds this one, or takes over the one that is there.
    pub(super) fn make_meeting(&mut self, config: &Config) -> Result<(), StartError> {
        let Some(path) = &config.upgrades.socket else { return Ok(()) };
        self.meeting = match &mut self.taken {
            Some(taken) => taken.meeting.take().map(Meeting::of),
            None => Some(Meeting::make(path)?),
        };
        Ok(())
    }

    /// Gives the shards the sockets of device ports.
    pub(super) async fn give_ports(&mut self, peers: &Peers) {
        peers.inherit(std::mem::take(&mut self.sockets.ports)).await;
    }

    /// Every shard has started: those before are let go, and the next daemon may come.
    pub(super) async fn settle(
        self,
        peers: &Peers,
        vitals: &Vitals,
        service: &Service,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), StartError> {
        match self.taken {
            Some(taken) => taken.finish(peers).await?,
            None => peers.resume().await,
        }
        if self.sockets.was_stored {
            service.unstore();
        }
        let Some(meeting) = self.meeting else { return Ok(()) };
        let (peers, vitals, events) = (peers.clone(), vitals.clone(), events.clone());
        let taken_over = move || drop(events.blocking_send(Event::TakenOver));
        let serve = move || takeover::serve(&meeting, &peers, &vitals, taken_over);
        std::thread::Builder::new().name("takeover".into()).spawn(serve).map(drop).map_err(StartError::Thread)
    }
}

/// Warns where none of the listeners that were inherited is where the settings say.
fn warn_if_elsewhere(inherited: &[Socket], wanted: SocketAddr, settings: &'static str) {
    let is_wanted = |address: &SocketAddr| {
        // A wildcard of either family may serve both.
        let is_same = address.ip() == wanted.ip() || (address.ip().is_unspecified() && wanted.ip().is_unspecified());
        is_same && address.port() == wanted.port()
    };
    let addresses: Vec<SocketAddr> = inherited.iter().filter_map(handed::listening_on).collect();
    if !addresses.is_empty() && !addresses.iter().any(is_wanted) {
        tracing::warn!(
            settings, set = %wanted, ?addresses,
            "the API listens where it was handed a listener, and not where the settings say"
        );
    }
}

/// The listeners of one address, of each shard: those that were inherited, which may be at another, else our own. Waits a
/// while for an address in use: a daemon that was killed leaves it so until the kernel has taken its ring apart.
fn listen(
    inherited: Vec<Socket>,
    address: SocketAddr,
    config: &Config,
    settings: &'static str,
) -> Result<(SocketAddr, Vec<Vec<Socket>>), StartError> {
    if let Some(first) = inherited.first() {
        let address = handed::listening_on(first).ok_or(TakeoverError::Socket)?;
        let dealt = sockets::deal_api(&inherited, config.shards);
        return Ok((address, dealt.map_err(|error| StartError::Listen { settings, address, error })?));
    }
    let until = Instant::now() + RESTART_WAIT;
    loop {
        match sockets::open_api(address, config.shards) {
            Ok(listeners) => return Ok((address, listeners.into_iter().map(|listener| vec![listener]).collect())),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => pause(),
            Err(error) => return Err(StartError::Listen { settings, address, error }),
        }
    }
}
