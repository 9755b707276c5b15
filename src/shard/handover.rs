//! Handing sockets to another daemon, and holding those of one until drivers join.
//!
//! The sockets themselves change hands, as duplicates: what waits in their queues and buffers stays there. A shard that
//! hands over accepts nothing meanwhile and lets no driver join a port, so that what it lists is all there is; if the
//! other daemon fails, it resumes.
//!
//! **Invariants.** Nothing that waits in a socket is lost by handing it over. A socket that is held closes when nobody has
//! joined its port in time.
//! **Not here.** The other daemon (`takeover`), and who decides (`server`).

use super::Shard;
use crate::policy::port_id::{PortId, Transport};
use crate::policy::sources::Family;
use crate::shard::accept::Entrance;
use crate::shard::ring;
use crate::shard::sockets;
use rustix::net::sockopt::socket_cookie;
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::RefCell;
use std::io;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long a pause of the API waits for those who have just connected to be answered.
const NEWCOMERS_TIME_MAX: Duration = Duration::from_secs(2);
/// How long the pause of a port's listener may take: its accept is cancelled, and that is all.
const PAUSE_TIME_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether a pause is complete.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// A socket that changes hands.
#[derive(Debug)]
pub struct Handed {
    /// What it is for.
    pub place: Place,
    /// It.
    pub socket: Socket,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Drivers connect to it, by this entrance.
    Api(Entrance),
    /// Devices reach a port by it, in one family.
    Port(PortId, Family),
}

/// What a shard does while it lists its sockets, and after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meanwhile {
    /// It goes on.
    Serve,
    /// It accepts no device and lets no driver join, until it resumes or drains.
    Freeze,
}

impl Handed {
    /// A socket of devices, by what it says of itself; `None` where it is of another kind.
    pub fn of_port(socket: Socket) -> Option<Self> {
        let family = match socket.domain().ok()? {
            Domain::IPV4 => Family::V4,
            Domain::IPV6 => Family::V6,
            _ => return None,
        };
        let listens = socket.is_listener().unwrap_or(false);
        let transport = match (socket.r#type().ok()?, socket.protocol().ok()??) {
            (Type::STREAM, Protocol::TCP) if listens => Transport::Tcp,
            (Type::DGRAM, Protocol::UDP) => Transport::Udp,
            _ => return None,
        };
        let number = NonZeroU16::new(socket.local_addr().ok()?.as_socket()?.port())?;
        Some(Handed { place: Place::Port(PortId { transport, number }, family), socket })
    }

    /// What its duplicates have in common.
    ///
    /// # Errors
    /// What getsockopt(2) says.
    pub fn cookie(&self) -> io::Result<u64> {
        Ok(socket_cookie(&self.socket)?)
    }
}

/// Sockets of ports that no driver has joined yet.
#[derive(Debug, Default)]
pub struct Held(RefCell<Vec<HeldSocket>>);

#[derive(Debug)]
struct HeldSocket {
    port: PortId,
    family: Family,
    socket: Socket,
    /// Datagrams that it had dropped before it was ours.
    dropped: u32,
    until: Instant,
}

impl Held {
    /// Whether there is a socket of this port and family.
    pub fn has(&self, port: PortId, family: Family) -> bool {
        self.0.borrow().iter().any(|held| (held.port, held.family) == (port, family))
    }

    /// The sockets of this port and family, each with the datagrams that it had dropped as it was handed over; there may be
    /// several where several were handed over.
    pub fn take(&self, port: PortId, family: Family) -> Vec<(Socket, u32)> {
        let mut held = self.0.borrow_mut();
        let taken = held.extract_if(.., |held| (held.port, held.family) == (port, family));
        taken.map(|held| (held.socket, held.dropped)).collect()
    }

    /// Closes all of them.
    pub fn close(&self) {
        self.0.borrow_mut().clear();
    }

    fn close_expired(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|held| {
            let waits = held.until > now;
            if !waits {
                let PortId { transport, number } = held.port;
                tracing::info!(
                    server_protocol = transport.name(),
                    server_port = number.get(),
                    "no driver came back to a port that was handed over"
                );
            }
            waits
        });
    }

    fn duplicates(&self) -> io::Result<Vec<Handed>> {
        let duplicate = |held: &HeldSocket| {
            Ok(Handed { place: Place::Port(held.port, held.family), socket: held.socket.try_clone()? })
        };
        self.0.borrow().iter().map(duplicate).collect()
    }
}

impl Shard {
    /// Holds sockets of ports whose home is here, for so long as drivers have to come back.
    pub(super) fn inherit(self: &Rc<Self>, sockets: Vec<Handed>) {
        let limits = self.resources.limits();
        let until = Instant::now() + limits.takeover_wait_max;
        for Handed { place, socket } in sockets {
            let Place::Port(port, family) = place else { continue };
            if let Err(error) = sockets::adopt(port, &socket, &limits) {
                tracing::warn!(%port, %error, "the buffers of a socket that was handed over stay as they were");
            }
            let dropped = ring::dropped(&socket).unwrap_or_default();
            self.held.0.borrow_mut().push(HeldSocket { port, family, socket, dropped, until });
        }
        let shard = self.clone();
        ring::spawn(async move {
            tokio::time::sleep_until(until.into()).await;
            shard.held.close_expired();
        });
    }

    /// Pauses the API, and replies when those who have just connected have been answered, or have had time enough.
    pub(super) fn pause(self: &Rc<Self>, reply: mpsc::Sender<usize>) {
        self.api.borrow().iter().for_each(|(_, api)| api.pause());
        let shard = self.clone();
        ring::spawn(async move {
            let is_quiet = || {
                let accepts = shard.api.borrow().iter().any(|(_, api)| api.is_accepting());
                !accepts && !shard.resources.newcomers.are_awaited()
            };
            if !wait_until(is_quiet, NEWCOMERS_TIME_MAX).await {
                tracing::info!("not all who had just connected were answered before the API paused");
            }
            let _ = reply.send(shard.resources.shard).await;
        });
    }

    /// Lists duplicates of all sockets.
    pub(super) fn hand_over(self: &Rc<Self>, meanwhile: Meanwhile, reply: oneshot::Sender<io::Result<Vec<Handed>>>) {
        if meanwhile == Meanwhile::Freeze {
            self.frozen.set(true);
            self.ports.borrow().values().for_each(|port| port.pause_accepting());
        }
        let shard = self.clone();
        ring::spawn(async move {
            if meanwhile == Meanwhile::Freeze {
                let is_quiet = || !shard.ports.borrow().values().any(|port| port.is_accepting());
                wait_until(is_quiet, PAUSE_TIME_MAX).await;
            }
            // Whoever asked may have gone.
            let _ = reply.send(shard.duplicates());
        });
    }

    /// Goes on as if nothing had been paused or frozen.
    pub(super) fn resume(&self) {
        self.frozen.set(false);
        self.resumed_at.set(Instant::now());
        self.api.borrow().iter().for_each(|(_, api)| api.resume());
        self.ports.borrow().values().for_each(|port| port.resume_accepting());
        // Rules that have come meanwhile opened no socket.
        self.follow_rules();
    }

    fn duplicates(&self) -> io::Result<Vec<Handed>> {
        let mut all = self.held.duplicates()?;
        for (entrance, api) in self.api.borrow().iter() {
            all.push(Handed { place: Place::Api(*entrance), socket: api.duplicate()? });
        }
        for port in self.ports.borrow().values() {
            all.extend(port.duplicates()?);
        }
        Ok(all)
    }
}

/// Waits for something that takes turns of the loop, and not longer than this; says whether it came.
async fn wait_until(is_so: impl Fn() -> bool, time_max: Duration) -> bool {
    let until = Instant::now() + time_max;
    while !is_so() && Instant::now() < until {
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    is_so()
}
