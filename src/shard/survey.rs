//! Looking through what a shard has, for lists and for those who are to be disconnected.
//!
//! **Invariants.** It is done in slices, between which the loop turns, so that nothing else waits for it; what comes or
//! goes meanwhile is found or not. A port is not kept by being looked at.
//! **Not here.** Which rows are wanted, and in which order (`policy::listing`).

use super::Shard;
use crate::policy::ending::DeviceEnd;
use crate::policy::listing::{DeviceRow, FlapRow, Kind, Page, PortRow, Query, RefusalRow, RowOf};
use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::shard::port::Port;
use crate::shard::presence::Presence;
use crate::shard::ring;
use std::rc::{Rc, Weak};

/// Rows that are looked at in one go: some tens of microseconds.
const SLICE_ROWS: usize = 256;
/// Devices or drivers that are disconnected in one go.
const SLICE_ENDINGS: usize = 16;

/// How much has been done since the loop turned.
#[derive(Default)]
struct Slice(usize);

impl Slice {
    /// So many rows were looked at; lets the loop turn when they are enough.
    async fn spend(&mut self, rows: usize) {
        self.0 += rows;
        if self.0 >= SLICE_ROWS {
            self.0 = 0;
            ring::turn().await;
        }
    }
}

impl Shard {
    /// The page of a query, as far as it is found here.
    pub(super) async fn survey(&self, query: &Query) -> Page<RowOf> {
        let mut page = Page::new(query);
        self.visit(query, |row| page.offer(query.place_of(row.as_row()), row)).await;
        page
    }

    /// Identities of all rows that match, or of so many that they are too many.
    pub(super) async fn gather(&self, query: &Query) -> Vec<u128> {
        let mut identities = Vec::new();
        let enough = query.expected.unwrap_or(1).saturating_add(1);
        let keep = |row: RowOf| {
            if identities.len() < enough {
                identities.push(row.as_row().identity());
            }
        };
        self.visit(query, keep).await;
        identities
    }

    /// Disconnects those that are still there, or forgives those that flap, and says how many that were.
    pub(super) async fn disconnect(&self, kind: Kind, identities: &[u128]) -> usize {
        let mut count = 0;
        for some in identities.chunks(SLICE_ENDINGS) {
            for identity in some {
                count += usize::from(match kind {
                    Kind::Drivers => self.disconnect_driver(*identity),
                    Kind::Devices => self.disconnect_device(*identity).is_some(),
                    Kind::Flapping => self.resources.shared.gate.forgive(FlapRow::of_identity(*identity)),
                    Kind::Ports | Kind::Refusals => false,
                });
            }
            ring::turn().await;
        }
        count
    }

    fn disconnect_driver(&self, identity: u128) -> bool {
        let session = u64::try_from(identity).ok().map(SessionId);
        let presence = session.and_then(|session| self.resources.presences.borrow().get(&session).cloned());
        presence.is_some_and(|presence| presence.disconnect())
    }

    fn disconnect_device(&self, identity: u128) -> Option<()> {
        let (port, id) = DeviceRow::of_identity(identity)?;
        let port = self.ports.borrow().get(&port).cloned()?;
        port.device(id)?.end(DeviceEnd::Operator);
        Some(())
    }

    async fn visit(&self, query: &Query, mut each: impl FnMut(RowOf)) {
        match query.kind() {
            Kind::Ports => self.visit_ports(query, each).await,
            Kind::Drivers => self.visit_drivers(query, each).await,
            Kind::Refusals => self.visit_refusals(query, each),
            Kind::Flapping => self.visit_flapping(query, each).await,
            Kind::Devices => {
                let mut slice = Slice::default();
                for port in self.ports_of(query) {
                    visit_devices(&port, query, self.resources.clock_s.get(), &mut slice, &mut each).await;
                }
            }
        }
    }

    async fn visit_ports(&self, query: &Query, mut each: impl FnMut(RowOf)) {
        let mut slice = Slice::default();
        let now_s = self.resources.clock_s.get();
        for port in self.ports_of(query) {
            let row = port.upgrade().map(|port| port_row(&port));
            let row = row.map(RowOf::Port).filter(|row| query.takes(row.as_row(), now_s, |_| true));
            row.into_iter().for_each(&mut each);
            slice.spend(1).await;
        }
    }

    fn visit_refusals(&self, query: &Query, mut each: impl FnMut(RowOf)) {
        for refusal in self.resources.refusals.borrow().held() {
            let row = RowOf::Refusal(RefusalRow { shard: self.resources.shard, refusal: *refusal });
            if query.takes(row.as_row(), 0, |_| true) {
                each(row);
            }
        }
    }

    /// Sources are the process's: each shard looks through a part of them.
    async fn visit_flapping(&self, query: &Query, mut each: impl FnMut(RowOf)) {
        let mut slice = Slice::default();
        for (ip, flap) in self.resources.shared.gate.flapping(self.resources.shard) {
            let row = RowOf::Flap(FlapRow { ip, flap });
            if query.takes(row.as_row(), 0, |_| true) {
                each(row);
            }
            slice.spend(1).await;
        }
    }

    async fn visit_drivers(&self, query: &Query, mut each: impl FnMut(RowOf)) {
        let now_s = self.resources.clock_s.get();
        let mut next = Some(SessionId(query.scope().id.unwrap_or(0)));
        while let Some(from) = next.take() {
            let some: Vec<Rc<Presence>> =
                self.resources.presences.borrow().range(from..).take(SLICE_ROWS).map(|(_, p)| p.clone()).collect();
            for presence in &some {
                let row = RowOf::Driver(presence.row());
                if query.takes(row.as_row(), now_s, |module| presence.module.as_deref() == Some(module)) {
                    each(row);
                }
            }
            if some.len() == SLICE_ROWS && query.scope().id.is_none() {
                next = some.last().map(|last| SessionId(last.id.0 + 1));
                ring::turn().await;
            }
        }
    }

    /// The ports that a query may find something on.
    fn ports_of(&self, query: &Query) -> Vec<Weak<Port>> {
        let ports = self.ports.borrow();
        if let Some(only) = query.scope().port {
            return ports.get(&only).map(Rc::downgrade).into_iter().collect();
        }
        let wanted = |(id, _): &(&PortId, _)| query.takes_port(**id);
        ports.iter().filter(wanted).map(|(_, port)| Rc::downgrade(port)).collect()
    }
}

async fn visit_devices(port: &Weak<Port>, query: &Query, now_s: u32, slice: &mut Slice, each: &mut impl FnMut(RowOf)) {
    let only = query.scope().id;
    let mut next = Some(only.unwrap_or(0));
    while let Some(from) = next.take() {
        let Some(port) = port.upgrade() else { return };
        let mut seen = 0;
        let mut last = from;
        let rows_max = if only.is_some() { 1 } else { SLICE_ROWS };
        port.visit_devices(from, rows_max, |device| {
            (seen, last) = (seen + 1, device.id());
            let row = RowOf::Device(device.row());
            if query.takes(row.as_row(), now_s, |module| device.has_module(module)) {
                each(row);
            }
        });
        drop(port);
        if only.is_none() && seen == rows_max {
            next = Some(last + 1);
        }
        slice.spend(seen + 1).await;
    }
}

fn port_row(port: &Port) -> PortRow {
    let count = port.count();
    PortRow {
        port: count.port,
        shard: port.resources().shard,
        since_s: port.ledger().since_s,
        drivers: count.drivers,
        devices: count.devices,
        received_bytes: count.received_bytes,
        written_bytes: count.written_bytes,
        backlog_bytes: count.outbox_bytes,
        waits: port.ledger().waits_count(),
        dropped: port.ledger().dropped_count(),
        refused: port.ledger().refused_count(),
    }
}
