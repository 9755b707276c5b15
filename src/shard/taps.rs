//! The taps of one shard's ports: who gets a copy of their messages.
//!
//! **Invariants.** Nothing waits for a tap: what finds no room in its outbox is dropped and counted, and the tap is told
//! how many as soon as there is room. While there are none, a message costs one look at a number.
//! **Not here.** Which messages a tap wants (`policy::tap_filter`), and its WebSocket (`edge`).

use crate::policy::counts::{Count, Counts};
use crate::policy::port_id::PortId;
use crate::policy::roster::SessionId;
use crate::policy::tap_filter::TapFilter;
use crate::protocol::frame::DATAGRAM_BYTES_MAX;
use crate::protocol::message::DeviceName;
use crate::protocol::tapped::{TapEvent, Tapped};
use crate::shard::commands::{Action, Payload};
use crate::shard::outbox::{Appended, Outbox, Served, Subscription};
use crate::shard::resources::Resources;
use crate::shard::ring;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Every tap of a shard's ports, open or not.
#[derive(Default)]
pub struct Taps {
    /// How many there are: a plain number, as every message looks at it.
    count: Cell<usize>,
    taps: RefCell<Vec<Rc<Tap>>>,
}

struct Tap {
    port: PortId,
    filter: TapFilter,
    subscription: Rc<Subscription>,
    /// Messages that it has not been told of, nor of their number.
    dropped: Cell<u64>,
}

/// What a driver does to a device, kept for taps.
pub enum Done {
    /// It writes this.
    Written(Bytes),
    /// It has it disconnected.
    Closed,
}

impl Done {
    /// What an action does.
    #[cold]
    pub fn of(action: &Action) -> Self {
        match action {
            Action::Write(Payload::Small(data)) => Done::Written(Bytes::copy_from_slice(data)),
            Action::Write(Payload::Large(large)) => Done::Written(large.data.clone()),
            Action::Close => Done::Closed,
        }
    }
}

/// Adds a tap, which stays until its session lets go or [`Taps::finish`]. It is told first whether its port is open.
pub fn begin(
    resources: &Rc<Resources>,
    port: PortId,
    session: SessionId,
    filter: TapFilter,
    outbox: Outbox,
    state: TapEvent,
) {
    let (subscription, flusher) = Subscription::new(session, None, outbox);
    let tap = Rc::new(Tap { port, filter, subscription, dropped: Cell::new(0) });
    // The outbox is empty.
    tap.append(&Tapped { time_us: now_us(), event: state });
    resources.taps.add(tap.clone());
    let resources = resources.clone();
    ring::spawn(async move {
        if flusher.run().await == Served::Left {
            resources.taps.remove(&tap);
        }
    });
}

impl Taps {
    /// Whether nobody taps any port of the shard.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.get() == 0
    }

    /// Every tap gets what it was sent, then the end.
    pub fn finish(&self) {
        self.count.set(0);
        self.taps.take().iter().for_each(|tap| tap.subscription.finish());
    }

    /// Tells the taps of a port. `has_module` says whether the driver with a module id has to do with it.
    #[cold]
    pub fn tell(&self, counts: &Counts, port: PortId, event: TapEvent, has_module: impl Fn(&str) -> bool) {
        let tapped = Tapped { time_us: now_us(), event };
        for tap in self.taps.borrow().iter() {
            let wanted = tap.port == port && tap.filter.wants(event.device(), &has_module);
            if wanted && tap.append(&tapped) == Appended::Full {
                counts.one(Count::TapMessagesDropped);
                if tap.dropped.replace(tap.dropped.get() + 1) == 0 {
                    ring::spawn(tell_dropped(tap.clone()));
                }
            }
        }
    }

    /// Tells the taps of a port what the driver with this module id has done to a device. A large write is told in parts.
    pub fn tell_done(&self, counts: &Counts, port: PortId, device: DeviceName, module: Option<&str>, done: &Done) {
        let tell = |event| self.tell(counts, port, event, |other| module == Some(other));
        let module = module.unwrap_or_default();
        match done {
            Done::Closed => tell(TapEvent::Close { device, module }),
            Done::Written(data) if data.is_empty() => tell(TapEvent::Write { device, module, data }),
            Done::Written(data) => {
                data.chunks(DATAGRAM_BYTES_MAX).for_each(|data| tell(TapEvent::Write { device, module, data }));
            }
        }
    }

    fn add(&self, tap: Rc<Tap>) {
        let mut taps = self.taps.borrow_mut();
        taps.push(tap);
        self.count.set(taps.len());
    }

    fn remove(&self, tap: &Rc<Tap>) {
        let mut taps = self.taps.borrow_mut();
        taps.retain(|other| !Rc::ptr_eq(other, tap));
        self.count.set(taps.len());
    }
}

impl Tap {
    /// Appends a message if there is room, and if the tap has been told what it missed before.
    fn append(&self, tapped: &Tapped) -> Appended {
        if self.dropped.get() > 0 { Appended::Full } else { self.subscription.try_append(tapped) }
    }
}

/// Tells a tap how many messages it has missed once there is room; until then all are missed, so that the number stands
/// where they would. A task of its own.
async fn tell_dropped(tap: Rc<Tap>) {
    let dropped = || Some(Tapped { time_us: now_us(), event: TapEvent::Dropped { count: tap.dropped.get() } });
    tap.subscription.append_with(dropped).await;
    tap.dropped.set(0);
}

fn now_us() -> u64 {
    // A clock before 1970 is told as 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
