//! Who is let in of those that connect to a port.
//!
//! **Invariants.** Who is refused used no id and holds nothing. A device with TLS is judged before its handshake and after.
//! **Not here.** Accepting (`accept`), and the handshake (`device::entering`).

use super::Port;
use crate::policy::counts::Count;
use crate::policy::ending::DeviceRefusal;
use crate::policy::port_id::PortId;
use crate::policy::refusals::Refused;
use crate::protocol::message::ToDriver;
use crate::protocol::tapped::TapEvent;
use crate::shard::device::Device;
use crate::shard::device::{self, Entering};
use crate::shard::outbox::Appended;
use crate::shard::ring::{self, Stream};
use crate::shard::slots::Slot;
use crate::shard::tls::Secured;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

impl Port {
    /// Lets a device in, if a driver accepts its source and the port has room; with TLS after its handshake.
    pub fn admit(self: &Rc<Self>, stream: Stream, remote: SocketAddr, slot: Slot) {
        if !self.has_room_for(remote.ip()) {
            return;
        }
        let options =
            stream.set_nodelay().and_then(|()| stream.set_keepalive(self.resources().limits().device_keepalive));
        if let Err(error) = options {
            // The connection is dead already; the first receive says how.
            tracing::debug!(port = %self.id(), remote_ip = %remote.ip(), %error, "socket options were not taken");
        }
        match &self.ledger.secured {
            None => self.let_in(stream, remote, slot, None),
            Some(secured) => {
                let entering = Entering { stream, remote, slot };
                ring::spawn(device::shake_hands(Rc::downgrade(self), secured.clone(), entering));
            }
        }
    }

    /// Lets a device in whose handshake is over, if that still holds.
    pub fn admit_secured(self: &Rc<Self>, entering: Entering, secured: Secured) {
        let Entering { stream, remote, slot } = entering;
        if self.has_room_for(remote.ip()) {
            self.let_in(stream, remote, slot, Some(secured));
        }
    }

    /// Whether a driver accepts this source and the port has room for it; counted where not.
    fn has_room_for(&self, source: IpAddr) -> bool {
        // It was accepted in the moment that its listener was stopped for good.
        if self.draining.get() {
            return false;
        }
        if self.roster.borrow().accepting(source).next().is_none() {
            self.ledger.refused(Count::DevicesRefusedSource);
            self.refuse(source, DeviceRefusal::Source);
            return false;
        }
        if self.devices.borrow().len() >= self.resources().limits().devices_per_port_max {
            self.ledger.refused(Count::DevicesRefusedLimit);
            self.refuse(source, DeviceRefusal::Limit);
            return false;
        }
        true
    }

    fn let_in(self: &Rc<Self>, stream: Stream, remote: SocketAddr, slot: Slot, secured: Option<Secured>) {
        let source = remote.ip();
        let counts = &self.resources().counts;
        // Not before: an audience is released by its device.
        let Some(audience) = self.roster.borrow_mut().audience(source) else { return };
        let id = self.next_device.get();
        self.next_device.set(id + 1);
        let device = Device::new(id, stream, remote.port(), audience.clone(), self, self.ledger(), slot);
        let first = secured.map(|secured| device.secure(secured)).unwrap_or_default();
        self.devices.borrow_mut().insert(id, device.clone());
        self.unannounced.set(self.unannounced.get() + 1);
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
            ring::spawn(device::serve(device));
        } else {
            ring::spawn(device::serve_late(device, unopened, first));
        }
    }

    fn refuse(&self, remote_ip: IpAddr, refusal: DeviceRefusal) {
        self.resources().refused(Refused::Device, remote_ip, Some(self.id()), refusal.name());
        let PortId { transport, number } = self.id();
        tracing::debug!(
            server_protocol = transport.name(), server_port = number.get(), %remote_ip, reason = refusal.name(),
            "device refused"
        );
    }
}
