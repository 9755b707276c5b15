//! Who is let in of those that connect to a port.
//!
//! **Invariants.** The checks run in one order: a driver accepts the source, the source does not flap, its old connection
//! has made way where it is to, the port has room, the source has room. Who is refused used no id and holds nothing. Where
//! devices speak TLS, all but the third come before the handshake, so that it is not computed in vain, and the place of the
//! source is taken from there on; whether the port has room is asked again after it, as others may have been quicker.
//! **Not here.** Accepting (`accept`), the handshake (`device::entering`), and how a source is judged (`policy::origins`).

use super::{Port, replacing};
use crate::policy::counts::Count;
use crate::policy::ending::DeviceRefusal;
use crate::policy::port_id::PortId;
use crate::policy::refusals::Refused;
use crate::protocol::message::ToDriver;
use crate::protocol::tapped::TapEvent;
use crate::shard::cipher::Cipher;
use crate::shard::device::{self, Device};
use crate::shard::gate::{self, SourcePlace};
use crate::shard::outbox::Appended;
use crate::shard::ring::{self, Stream};
use crate::shard::secured_port::SecuredPort;
use crate::shard::slots::Slot;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// A connection that has been accepted, and is not a device yet.
pub struct Arrival {
    /// It.
    pub stream: Stream,
    /// Its other end, in canonical form.
    pub remote: SocketAddr,
    /// Its place among the devices of the process.
    pub slot: Slot,
    /// Its place among the devices of its source, where it was taken before its handshake.
    pub place: Option<SourcePlace>,
    /// What it has sent that was read already, behind a balancer's header or its handshake.
    pub first: Vec<u8>,
    /// What its bytes are wrapped in, from its handshake on.
    pub cipher: Cipher,
}

impl Port {
    /// Lets a device in, if a driver accepts its source and the limits leave room for it; after its source's old device
    /// has ended, where it takes that one's place.
    pub fn admit(self: &Rc<Self>, arrival: Arrival) {
        // It was accepted in the moment that its listener was stopped for good.
        if self.draining.get() {
            return;
        }
        let source = arrival.remote.ip();
        if self.roster.borrow().accepting(source).next().is_none() {
            return self.refuse(source, DeviceRefusal::Source);
        }
        if let Err(refused) = self.resources().shared.gate.connects(source) {
            if refused == gate::Refused::FromHere {
                self.tell_flapping(source);
            }
            return self.refuse(source, DeviceRefusal::Flapping);
        }
        let Some(secured) = &self.ledger.secured else { return self.enter(arrival) };
        match self.place_for_handshake(secured, source) {
            Ok(place) => {
                let arrival = Arrival { place, ..arrival };
                ring::spawn(device::shake_hands(Rc::downgrade(self), secured.clone(), arrival));
            }
            Err(refusal) => self.refuse(source, refusal),
        }
    }

    /// Whether a device of this source may shake hands, and its place among those of its source. None where it is taken
    /// after the handshake: the source's old device goes first then, and makes room.
    fn place_for_handshake(&self, secured: &SecuredPort, source: IpAddr) -> Result<Option<SourcePlace>, DeviceRefusal> {
        if self.replacing.is_on() {
            secured.let_go_of(source);
        }
        if self.replacing.makes_way(source) {
            return Ok(None);
        }
        self.port_has_room()?;
        self.place_of(source)
    }

    fn port_has_room(&self) -> Result<(), DeviceRefusal> {
        let has_room = self.devices.borrow().len() < self.resources().limits().devices_per_port_max;
        if has_room { Ok(()) } else { Err(DeviceRefusal::Limit) }
    }

    fn place_of(&self, source: IpAddr) -> Result<Option<SourcePlace>, DeviceRefusal> {
        self.ledger.counts_sources().then(|| self.resources().shared.gate.enters(source)).transpose()
    }

    /// Lets a device in, after its handshake where its port has one.
    pub fn enter(self: &Rc<Self>, arrival: Arrival) {
        if self.replacing.is_on() {
            replacing::admit(self, arrival);
        } else {
            self.let_in(arrival);
        }
    }

    /// Lets a device in, if the limits leave room for it.
    pub(super) fn let_in(self: &Rc<Self>, arrival: Arrival) -> Option<Rc<Device>> {
        let Arrival { stream, remote, slot, place, first, cipher } = arrival;
        let source = remote.ip();
        if self.draining.get() {
            return None;
        }
        let entered =
            self.port_has_room().and_then(|()| place.map_or_else(|| self.place_of(source), |place| Ok(Some(place))));
        let place = match entered {
            Ok(place) => place,
            Err(refusal) => {
                self.refuse(source, refusal);
                return None;
            }
        };
        // Not before: an audience is released by its device.
        let Some(audience) = self.roster.borrow_mut().audience(source) else {
            self.refuse(source, DeviceRefusal::Source);
            return None;
        };
        let id = self.next_device.get();
        self.next_device.set(id + 1);
        let device = Device::new(id, stream, remote.port(), audience.clone(), self, self.ledger(), slot);
        place.into_iter().for_each(SourcePlace::hold);
        if let Some(secured) = &self.ledger.secured {
            secured.keep(id, cipher);
        }
        self.devices.borrow_mut().insert(id, device.clone());
        self.unannounced.set(self.unannounced.get() + 1);
        let counts = &self.resources().counts;
        counts.one(Count::DevicesOpened);
        tracing::debug!(port = %self.id(), remote_ip = %source, device = id, "device opened");
        device.tap(|device| TapEvent::Opened { device });
        let opened = ToDriver::Opened { device: device.name() };
        let mut unopened = Vec::new();
        for (_, subscription) in audience.subscribers().iter() {
            match subscription.try_append(&opened) {
                Appended::Yes => counts.one(Count::MessagesToDrivers),
                Appended::Full => unopened.push(subscription.clone()),
                Appended::Closed => {}
            }
        }
        if unopened.is_empty() && first.is_empty() {
            ring::spawn(device::serve(device.clone()));
        } else {
            ring::spawn(device::serve_late(device.clone(), unopened, first));
        }
        Some(device)
    }

    /// Counts and tells that one is not let in.
    pub fn refuse(&self, remote_ip: IpAddr, refusal: DeviceRefusal) {
        self.ledger.refused(Count::of(refusal));
        self.resources().refused(Refused::Device, remote_ip, Some(self.id()), refusal.name());
        let PortId { transport, number } = self.id();
        tracing::debug!(
            server_protocol = transport.name(), server_port = number.get(), %remote_ip, reason = refusal.name(),
            "device refused"
        );
    }

    fn tell_flapping(&self, remote_ip: IpAddr) {
        let resources = self.resources();
        resources.counts.one(Count::SourcesFlapping);
        if let Some(left_out) = resources.flapping_log.pass(remote_ip) {
            let PortId { transport, number } = self.id();
            let refused_ms = resources.limits().source_refused_time.as_millis() as u64;
            tracing::warn!(
                server_protocol = transport.name(), server_port = number.get(), %remote_ip, refused_ms, left_out,
                "a source connects too often: it is refused for a while"
            );
        }
    }
}
