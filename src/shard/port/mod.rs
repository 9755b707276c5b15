//! One open port at its home: its sockets, its devices and the roster of who is joined.
//!
//! **Invariants.** A family's socket is open exactly while a joined driver accepts a source of it, or while the port is open
//! where listed balancers have addresses of it. TCP ids count up from
//! 0 and are used once. Dropping a port stops its sockets.
//! **Not here.** Which ports there are (`shard`), who is let in (`admission`), what a device does (`device`) and how
//! datagrams travel (`udp`).

mod admission;
mod following;
mod replacing;

pub use admission::Arrival;

use crate::policy::budget::Reservation;
use crate::policy::counts::{Count, PortCount};
use crate::policy::ending::{DeviceEnd, JoinRefusal};
use crate::policy::port_id::{PortId, Transport};
use crate::policy::roster::{Audience, Roster, SessionId};
use crate::policy::sources::{Family, Sources};
use crate::protocol::message::{DeviceAddr, DeviceName, IpText, ToDriver};
use crate::shard::commands::{Action, Commands};
use crate::shard::device::Device;
use crate::shard::handover::{Handed, Held, Place};
use crate::shard::ledger::Ledger;
use crate::shard::outbox::{Appended, Subscription};
use crate::shard::resources::Resources;
use crate::shard::ring::{self, Datagrams, Listener};
use crate::shard::taps::Done;
use crate::shard::tls::Identity;
use crate::shard::{accept, sockets, udp};
use replacing::Replacing;
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::{Rc, Weak};

/// One open port.
pub struct Port {
    ledger: Rc<Ledger>,
    roster: RefCell<Roster<Rc<Subscription>>>,
    devices: RefCell<BTreeMap<u64, Rc<Device>>>,
    next_device: Cell<u64>,
    /// Devices whose drivers have not all been told CLOSED.
    unannounced: Cell<usize>,
    sockets: RefCell<Vec<(Family, PortSocket)>>,
    draining: Cell<bool>,
    /// Where a new connection of a source takes the place of its old one.
    replacing: Rc<Replacing>,
    _slot: Reservation,
}

/// One family's socket.
enum PortSocket {
    Listener(Rc<Listener>),
    Datagrams(Rc<Datagrams>),
}

impl PortSocket {
    fn stop(&self) {
        match self {
            PortSocket::Listener(listener) => listener.stop(),
            PortSocket::Datagrams(datagrams) => datagrams.stop(),
        }
    }

    /// Datagrams that the kernel has dropped since this was last asked.
    fn new_drops(&self) -> u64 {
        match self {
            PortSocket::Listener(_) => 0,
            PortSocket::Datagrams(datagrams) => datagrams.new_drops().into(),
        }
    }
}

impl Port {
    /// A port without sockets or drivers.
    pub fn new(id: PortId, resources: Rc<Resources>, slot: Reservation, identity: Option<Identity>) -> Rc<Self> {
        let port = Rc::new(Port {
            ledger: Ledger::new(id, resources, identity),
            roster: RefCell::default(),
            devices: RefCell::default(),
            next_device: Cell::new(0),
            unannounced: Cell::new(0),
            sockets: RefCell::default(),
            draining: Cell::new(false),
            replacing: Rc::default(),
            _slot: slot,
        });
        port.follow_replacing();
        port
    }

    /// Transport and number.
    pub fn id(&self) -> PortId {
        self.ledger.port
    }

    /// What it shares with the rest of its shard.
    pub fn resources(&self) -> &Rc<Resources> {
        &self.ledger.resources
    }

    /// What it shares with its devices.
    pub fn ledger(&self) -> &Rc<Ledger> {
        &self.ledger
    }

    /// Who is joined. Borrowed: not to be held across an await.
    pub fn roster(&self) -> Ref<'_, Roster<Rc<Subscription>>> {
        self.roster.borrow()
    }

    /// Whether a join for devices with TLS, or without, may be one of this port. One with another key may, which is
    /// logged: the port goes on with its own.
    ///
    /// # Errors
    /// Where the port's devices speak TLS and the join's do not, or the reverse.
    pub fn check_identity(&self, wanted: Option<&Identity>) -> Result<(), JoinRefusal> {
        match (&self.ledger.secured, wanted) {
            (None, None) => Ok(()),
            (Some(_), None) => Err(JoinRefusal::OpenWithTls),
            (None, Some(_)) => Err(JoinRefusal::OpenWithoutTls),
            (Some(secured), Some(wanted)) => {
                if secured.identity().public_key != wanted.public_key
                    && let Some(left_out) = secured.key_log.pass()
                {
                    let port = self.id();
                    tracing::warn!(%port, left_out, "a driver brought another key: the port goes on with the first");
                }
                Ok(())
            }
        }
    }

    /// Opens the sockets that `sources` need and that are not open; those that are held are taken.
    ///
    /// # Errors
    /// Why they cannot be opened; then none of them is. A host that lacks one of two families is no error.
    pub fn open_sockets(self: &Rc<Self>, sources: &Sources, held: &Held) -> Result<(), JoinRefusal> {
        self.open_families(|family| sources.has(family) || self.is_balanced(family), held)
    }

    fn open_families(self: &Rc<Self>, is_needed: impl Fn(Family) -> bool, held: &Held) -> Result<(), JoinRefusal> {
        let mut opened = Vec::new();
        let mut served = false;
        let families = || Family::ALL.into_iter().filter(|&family| is_needed(family));
        for family in families() {
            if held.has(self.id(), family) || self.sockets.borrow().iter().any(|(open, _)| *open == family) {
                served = true;
                continue;
            }
            match sockets::open(self.id(), family, &self.resources().limits()) {
                Ok(socket) => opened.push((family, socket, 0)),
                Err(JoinRefusal::NoFamily) => tracing::warn!(port = %self.id(), ?family, "the host lacks this family"),
                Err(refusal) => return Err(refusal),
            }
        }
        if opened.is_empty() && !served {
            return Err(JoinRefusal::NoFamily);
        }
        for family in families() {
            opened.extend(held.take(self.id(), family).into_iter().map(|(socket, dropped)| (family, socket, dropped)));
        }
        for (family, socket, dropped) in opened {
            let socket = match self.id().transport {
                Transport::Tcp => {
                    let listener = Rc::new(Listener::new(socket));
                    ring::spawn(accept::devices(Rc::downgrade(self), listener.clone()));
                    PortSocket::Listener(listener)
                }
                Transport::Udp => {
                    let datagrams = Rc::new(Datagrams::new(socket, dropped));
                    ring::spawn(udp::receive(Rc::downgrade(self), datagrams.clone()));
                    PortSocket::Datagrams(datagrams)
                }
            };
            self.sockets.borrow_mut().push((family, socket));
        }
        Ok(())
    }

    /// Whether listed balancers have addresses of this family: devices of either family may come through them.
    fn is_balanced(&self, family: Family) -> bool {
        self.id().transport == Transport::Tcp && self.resources().rules().balancers.devices.has_family(family)
    }

    /// Adds a session, which is then told of the devices that are there.
    pub fn join(self: &Rc<Self>, session: SessionId, sources: Sources, subscription: Rc<Subscription>) {
        if self.devices.borrow().values().any(|device| sources.accepts(device.source())) {
            subscription.introduce_below(self.next_device.get());
            ring::spawn(introduce(Rc::downgrade(self), subscription.clone()));
        }
        self.roster.borrow_mut().join(session, sources, subscription);
    }

    /// Removes a session, ends the devices that nobody accepts any more, and stops the sockets that nobody needs.
    pub fn leave(&self, session: SessionId) {
        self.roster.borrow_mut().leave(session);
        self.end_devices(DeviceEnd::Orphaned, Device::is_orphan);
        self.devices.borrow().values().for_each(|device| device.flush_for_left(session));
        self.stop_unneeded();
    }

    /// Whether there was one.
    fn stop_unneeded(&self) -> bool {
        let roster = self.roster.borrow();
        self.stop_sockets(|family| !roster.has(family) && !self.is_balanced(family))
    }

    /// Whether nobody is joined.
    pub fn is_empty(&self) -> bool {
        self.roster.borrow().is_empty()
    }

    /// Lets no new device in. A socket for datagrams stays for what drivers have sent.
    pub fn stop_accepting(&self) {
        self.stop_sockets(|_| self.id().transport == Transport::Tcp);
    }

    /// Lets no new device in until it is resumed; those that connect wait in the kernel's queue.
    pub fn pause_accepting(&self) {
        self.listeners().iter().for_each(|listener| listener.pause());
    }

    /// Lets devices in again.
    pub fn resume_accepting(&self) {
        self.listeners().iter().for_each(|listener| listener.resume());
    }

    /// Whether a device may be let in at any moment.
    pub fn is_accepting(&self) -> bool {
        self.listeners().iter().any(|listener| listener.is_accepting())
    }

    /// Its sockets once more, to be handed over.
    ///
    /// # Errors
    /// That there is no descriptor left.
    pub fn duplicates(&self) -> io::Result<Vec<Handed>> {
        let duplicate = |(family, socket): &(Family, PortSocket)| {
            let socket = match socket {
                PortSocket::Listener(listener) => listener.duplicate()?,
                PortSocket::Datagrams(datagrams) => datagrams.duplicate()?,
            };
            Ok(Handed { place: Place::Port(self.id(), *family), socket })
        };
        self.sockets.borrow().iter().map(duplicate).collect()
    }

    fn listeners(&self) -> Vec<Rc<Listener>> {
        let listener = |(_, socket): &(Family, PortSocket)| match socket {
            PortSocket::Listener(listener) => Some(listener.clone()),
            PortSocket::Datagrams(_) => None,
        };
        self.sockets.borrow().iter().filter_map(listener).collect()
    }

    /// Stops what is left and ends every device; when all have ended, the sessions are let go.
    pub fn drain(&self) {
        self.draining.set(true);
        self.stop_sockets(|_| true);
        self.end_devices(DeviceEnd::Drained, |_| true);
        self.finish_when_drained();
    }

    /// What still holds the drain up shortly before its deadline goes: sessions that others wait for, and devices that
    /// have not been flushed. The rest then ends as it should.
    pub fn hasten_drain(&self) {
        self.roster.borrow().subscribers().filter(|s| s.is_waited_for()).for_each(|s| s.finish());
        self.devices.borrow().values().for_each(|device| device.abort(DeviceEnd::Drained));
    }

    /// Whether it is draining and its sessions have been let go.
    pub fn is_drained(&self) -> bool {
        self.draining.get() && self.unannounced.get() == 0
    }

    /// How many are joined and connected, and what was carried; counts what the kernel has dropped.
    pub fn count(&self) -> PortCount {
        self.sockets.borrow().iter().for_each(|(_, socket)| self.count_drops(socket));
        let roster = self.roster.borrow();
        PortCount {
            port: self.id(),
            drivers: roster.len(),
            devices: self.devices.borrow().len(),
            received_bytes: self.ledger.received_bytes(),
            written_bytes: self.ledger.written_bytes(),
            outbox_bytes: roster.subscribers().map(|subscription| subscription.open_bytes()).sum(),
        }
    }

    /// Shows devices from an id on, in the order of ids, so many at most.
    pub fn visit_devices(&self, from: u64, count_max: usize, each: impl FnMut(&Rc<Device>)) {
        self.devices.borrow().range(from..).take(count_max).map(|(_, device)| device).for_each(each);
    }

    /// The device with this id.
    pub fn device(&self, id: u64) -> Option<Rc<Device>> {
        self.devices.borrow().get(&id).cloned()
    }

    /// The socket for datagrams of this family, while it is open.
    pub fn datagrams(&self, family: Family) -> Option<Rc<Datagrams>> {
        self.sockets.borrow().iter().find_map(|(open, socket)| match socket {
            PortSocket::Datagrams(datagrams) if *open == family => Some(datagrams.clone()),
            _ => None,
        })
    }

    /// Carries out what a session's driver asks of devices, or drops and counts it.
    pub fn carry_out(&self, session: SessionId, commands: Commands) {
        let transport = self.id().transport;
        let dropped = match transport {
            Transport::Tcp => Count::WritesDropped,
            Transport::Udp => Count::DatagramsDroppedWrite,
        };
        // Drivers often ask several things of one device in a row.
        let mut last = None;
        let is_tapped = !self.resources().taps.is_empty();
        commands.carry_out(|name, action, paid| {
            let copy = is_tapped.then(|| Done::of(&action));
            let done = if transport == Transport::Udp {
                matches!(&action, Action::Write(payload) if udp::send(self, session, name, payload.bytes()))
            } else {
                let known = last.take().filter(|(before, _)| *before == name);
                let device = known.map_or_else(|| self.find(session, name), |(_, device)| device);
                let done = device.as_ref().is_some_and(|device| device.carry_out(session, action, paid));
                last = Some((name, device));
                done
            };
            if !done {
                self.ledger.dropped(dropped, 1);
            } else if let Some(copy) = copy {
                self.tell_taps(session, name, &copy);
            }
        });
    }

    /// Gives taps a copy of what a driver has done. What is dropped is not told, as no device sees it.
    #[cold]
    fn tell_taps(&self, session: SessionId, device: DeviceAddr, done: &Done) {
        let Some(ip) = device.ip else { return };
        let roster = self.roster.borrow();
        let subscription = roster.subscribers().find(|subscription| subscription.session() == session);
        let module = subscription.and_then(|subscription| subscription.module());
        let device = DeviceName { ip: IpText::new(ip), id_or_port: device.id_or_port };
        let Resources { taps, counts, .. } = &**self.resources();
        taps.tell_done(counts, self.id(), device, module, done);
    }

    /// Lets the device go that holds most of a session's credit, of `window_bytes` in all, unless what the session waits
    /// for has come back meanwhile. All that it has paid is here: its commands came before.
    pub fn let_go(&self, session: SessionId, wanted_bytes: usize, window_bytes: usize) {
        let devices = self.devices.borrow();
        let holding: Vec<(usize, &Rc<Device>)> = devices
            .values()
            .map(|device| (device.credit_of(session), device))
            .filter(|(credit_bytes, _)| *credit_bytes > 0)
            .collect();
        let held_bytes: usize = holding.iter().map(|(credit_bytes, _)| credit_bytes).sum();
        if held_bytes + wanted_bytes <= window_bytes {
            return;
        }
        if let Some((credit_bytes, device)) = holding.into_iter().max_by_key(|(credit_bytes, _)| *credit_bytes) {
            let (end, resources) = (DeviceEnd::Stalled, self.resources());
            if let Some(left_out) = resources.let_go_log.pass(device.source()) {
                let PortId { transport, number } = self.id();
                tracing::warn!(
                    server_protocol = transport.name(), server_port = number.get(), remote_ip = %device.source(),
                    device = device.id(), credit_bytes, reason = %end.reason(), left_out,
                    "device let go: it holds most of its driver's write window"
                );
            }
            resources.counts.one(Count::DevicesStalled);
            device.abort(end);
        }
    }

    /// A device is gone that held this audience.
    pub fn release(&self, audience: &Rc<Audience<Rc<Subscription>>>) {
        self.roster.borrow_mut().release(audience);
    }

    /// Takes a device out of the table.
    pub fn forget(&self, device: &Device) {
        self.devices.borrow_mut().remove(&device.id());
    }

    /// A device's drivers have been told CLOSED, and its task holds its audience no longer.
    pub fn device_announced(&self, device: &Device) {
        self.replacing.is_gone(device);
        self.unannounced.set(self.unannounced.get() - 1);
        self.finish_when_drained();
    }

    fn finish_when_drained(&self) {
        if self.is_drained() {
            self.roster.borrow().subscribers().for_each(|subscription| subscription.finish());
            self.roster.borrow_mut().clear();
        }
    }

    /// The device that a driver's command names, if it is one of its own.
    fn find(&self, session: SessionId, name: DeviceAddr) -> Option<Rc<Device>> {
        let device = self.devices.borrow().get(&name.id_or_port)?.clone();
        (name.ip == Some(device.source()) && device.is_accepted_by(session)).then_some(device)
    }

    /// The first device that a session accepts and has not been told of.
    fn next_stranger(&self, subscription: &Subscription) -> Option<DeviceName> {
        let devices = self.devices.borrow();
        let strangers = devices.range(subscription.strangers()).map(|(_, device)| device);
        let accepted = |device: &&Rc<Device>| device.is_accepted_by(subscription.session());
        strangers.into_iter().find(accepted).map(|device| device.name())
    }

    fn end_devices(&self, why: DeviceEnd, which: impl Fn(&Device) -> bool) {
        for device in self.devices.borrow().values().filter(|device| which(device)) {
            device.end(why);
        }
    }

    fn count_drops(&self, socket: &PortSocket) {
        self.ledger.dropped(Count::DatagramsDroppedKernel, socket.new_drops());
    }

    /// Whether there was one.
    fn stop_sockets(&self, which: impl Fn(Family) -> bool) -> bool {
        let mut sockets = self.sockets.borrow_mut();
        let before = sockets.len();
        sockets.retain(|(family, socket)| {
            let stops = which(*family);
            if stops {
                self.count_drops(socket);
                socket.stop();
            }
            !stops
        });
        sockets.len() < before
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop_sockets(|_| true);
        self.ledger.secured.iter().for_each(|secured| secured.end_handshakes());
        self.replacing.wake();
    }
}

/// Tells a session of the devices that were there before it, as its outbox has room. A task of its own.
async fn introduce(port: Weak<Port>, subscription: Rc<Subscription>) {
    let next = || port.upgrade()?.next_stranger(&subscription);
    let introduced = |device: Option<u64>| {
        subscription.introduced(device);
        port.upgrade().iter().for_each(|port| port.resources().counts.one(Count::MessagesToDrivers));
    };
    loop {
        while let Some(device) = next() {
            if subscription.try_append(&ToDriver::Opened { device }) != Appended::Yes {
                break;
            }
            introduced(Some(device.id_or_port));
        }
        subscription.wake_strangers();
        let last = Cell::new(None);
        let opened = || {
            let device = next()?;
            last.set(Some(device.id_or_port));
            Some(ToDriver::Opened { device })
        };
        if !subscription.append_with(opened).await {
            break;
        }
        introduced(last.get());
    }
    subscription.introduced(None);
    subscription.wake_strangers();
}
