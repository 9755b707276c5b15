//! The devices of one thread: connected, told to send, read, and closed.
//!
//! **Invariants.** A turn sends so many messages at most, so that reading is never put off. Without a rate no more than
//! so many messages of a device are under way.
//! **Not here.** One device's socket (`device`); devices that come and go (`churn`).

use crate::churn::Churn;
use crate::device::{Device, Lost, Route};
use crate::pacer::Pacer;
use crate::plan::{Flow, Plan};
use crate::poller::{Interest, Poller, Ready};
use crate::shared::Phase;
use crate::work::Work;
use std::net::SocketAddr;
use uring_dispatch::policy::port_id::Transport;

/// Messages of one turn at most.
pub const SENDS_A_TURN: usize = 256;
/// Connects of one turn at most.
const CONNECTS_A_TURN: usize = 32;
/// Datagrams that are under way for so long are lost, where no later one tells.
const DATAGRAM_LOST_NS: u64 = 50_000_000;

/// The place of one device.
#[derive(Debug)]
pub struct Slot {
    /// How it is reached, and which it is.
    pub route: Route,
    /// The device, while it is connected.
    pub device: Option<Device>,
    /// The number of the first message of the next device here.
    pub next: u64,
    sent_ns: u64,
    given_up: u64,
}

/// The devices of one thread.
#[derive(Debug)]
pub struct Fleet {
    slots: Vec<Slot>,
    connected: usize,
    /// Slots whose devices stay and send.
    senders: Vec<usize>,
    at: usize,
    pacer: Option<Pacer>,
    churn: Churn,
}

impl Fleet {
    /// The devices of thread `worker`, none of them connected.
    pub fn new(plan: &Plan, worker: usize) -> Self {
        let slot = |number: usize| {
            let port = plan.ports[plan.port_of(number)];
            let route = Route {
                transport: port.transport,
                to: SocketAddr::new(plan.api.ip(), port.number),
                from: plan.source_of(number),
                stream: number as u32,
                flow: port.flow,
            };
            Slot { route, device: None, next: 0, sent_ns: 0, given_up: 0 }
        };
        let slots: Vec<Slot> = (worker..plan.devices).step_by(plan.workers()).map(slot).collect();
        let having = |wanted: &[Flow]| -> Vec<usize> {
            (0..slots.len()).filter(|index| wanted.contains(&slots[*index].route.flow)).collect()
        };
        let (senders, churn) = (having(&[Flow::Up, Flow::Echo]), Churn::new(having(&[Flow::Churn])));
        Fleet { slots, connected: 0, senders, at: 0, pacer: None, churn }
    }

    /// Connects some more; whether all are.
    pub fn connect(&mut self, work: &mut Work<'_>, poller: &Poller) -> bool {
        let until = (self.connected + CONNECTS_A_TURN).min(self.slots.len());
        for index in self.connected..until {
            let slot = &mut self.slots[index];
            if slot.route.flow == Flow::Churn {
                continue;
            }
            let connected = Device::connect(&slot.route, 0).and_then(|device| {
                poller.add(&device, index as u64, Interest::Read)?;
                Ok(device)
            });
            match connected {
                Ok(device) => {
                    slot.device = Some(device);
                    work.tally.counts.connected += u64::from(slot.route.transport == Transport::Tcp);
                }
                Err(error) => work.shared.fault(format!("device {} cannot connect: {error}", slot.route.stream)),
            }
        }
        self.connected = until;
        until == self.slots.len()
    }

    /// From now on messages are due.
    pub fn start(&mut self, plan: &Plan, now_ns: u64) {
        let share = |count: usize| plan.rate.map(|rate| rate * count as f64 / plan.devices as f64);
        self.pacer = share(self.senders.len()).map(|rate| Pacer::new(now_ns, rate));
        self.churn.start(share(self.churn.count()), now_ns);
    }

    /// When the next message is due.
    pub fn next_ns(&self) -> Option<u64> {
        let of_senders = self.pacer.as_ref().filter(|_| !self.senders.is_empty()).map(Pacer::next_ns);
        of_senders.into_iter().chain(self.churn.next_ns()).min()
    }

    /// Sends what is due; whether that was anything.
    pub fn generate(&mut self, work: &mut Work<'_>, poller: &Poller) -> bool {
        let churned = self.churn.generate(&mut self.slots, work, poller);
        if self.senders.is_empty() {
            return churned;
        }
        let sent = if self.pacer.is_some() { self.send_due(work, poller) } else { self.send_allowed(work, poller) };
        churned || sent
    }

    /// What the rate says.
    fn send_due(&mut self, work: &mut Work<'_>, poller: &Poller) -> bool {
        for count in 0..SENDS_A_TURN {
            let due = self.pacer.as_mut().and_then(|pacer| pacer.take(work.now_ns));
            let Some((number, intended_ns)) = due else { return count > 0 };
            let index = self.senders[number as usize % self.senders.len()];
            let slot = &mut self.slots[index];
            let Some(device) = &mut slot.device else { continue };
            if let Err(lost) = device.add_due(intended_ns) {
                slot.lose(work, &lost);
            } else if !device.waits_for_room {
                slot.send(index, work, poller);
            }
        }
        true
    }

    /// As many for each device as may be under way, from the device on where the last turn stopped.
    fn send_allowed(&mut self, work: &mut Work<'_>, poller: &Poller) -> bool {
        let mut sent = 0;
        for _ in 0..self.senders.len() {
            self.at = (self.at + 1) % self.senders.len();
            let index = self.senders[self.at];
            sent += self.slots[index].send_allowed(index, work, poller);
            if sent >= SENDS_A_TURN as u64 {
                break;
            }
        }
        sent > 0
    }

    /// Does what a socket is ready for.
    pub fn ready(&mut self, ready: Ready, work: &mut Work<'_>, poller: &Poller) {
        let index = ready.token as usize;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let Some(device) = &mut slot.device else { return };
        if ready.is_writable && device.waits_for_room {
            slot.send(index, work, poller);
        }
        let Some(device) = &mut slot.device else { return };
        if !ready.is_readable {
            return;
        }
        match device.read(work) {
            Ok(false) => {}
            Ok(true) if slot.route.flow == Flow::Churn => {
                slot.device = None;
                self.churn.ended(index);
            }
            Ok(true) if work.shared.phase() >= Phase::Closing => slot.device = None,
            Ok(true) => slot.lose(work, &Lost::Eof),
            Err(lost) => {
                slot.lose(work, &lost);
                if slot.route.flow == Flow::Churn {
                    self.churn.ended(index);
                }
            }
        }
    }

    /// Nothing that is due and not begun is sent any more.
    pub fn stop(&mut self) {
        self.slots.iter_mut().filter_map(|slot| slot.device.as_mut()).for_each(Device::forget_due);
        self.churn.stop();
    }

    /// Closes every device.
    pub fn close(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.device = None);
    }
}

impl Slot {
    /// Sends as many as may be under way; how many that were.
    fn send_allowed(&mut self, index: usize, work: &mut Work<'_>, poller: &Poller) -> u64 {
        let Some(device) = &mut self.device else { return 0 };
        if device.waits_for_room {
            return 0;
        }
        let begun = device.begun();
        let arrived = work.shared.arrived(self.route.stream).max(self.given_up);
        let allowed = (arrived + work.plan.under_way).saturating_sub(begun);
        if allowed == 0 {
            let is_lost = self.route.transport == Transport::Udp && work.now_ns > self.sent_ns + DATAGRAM_LOST_NS;
            self.given_up = if is_lost { begun } else { self.given_up };
            return 0;
        }
        for _ in 0..allowed {
            if let Err(lost) = device.add_due(work.now_ns) {
                self.lose(work, &lost);
                return 0;
            }
        }
        self.sent_ns = work.now_ns;
        self.send(index, work, poller);
        allowed
    }

    /// Sends what is due, and waits for room where there is none.
    pub fn send(&mut self, index: usize, work: &mut Work<'_>, poller: &Poller) {
        let Some(device) = &mut self.device else { return };
        let receivers = if self.route.flow == Flow::Echo { 1 } else { work.plan.drivers as u64 };
        let sent = device.send_due(work, receivers).and_then(|waits_for_room| {
            if waits_for_room != device.waits_for_room {
                device.waits_for_room = waits_for_room;
                let interest = if waits_for_room { Interest::Both } else { Interest::Read };
                poller.change(&*device, index as u64, interest)?;
            }
            // A device that comes for one message has nothing more to say once it has left.
            if self.route.flow == Flow::Churn && !waits_for_room { device.finish() } else { Ok(()) }
        });
        if let Err(error) = sent {
            self.lose(work, &Lost::Io(error));
        }
    }

    /// Notes that the device is lost, and closes it.
    pub fn lose(&mut self, work: &Work<'_>, lost: &Lost) {
        work.shared.fault(format!("device {}: {lost}", self.route.stream));
        self.device = None;
    }
}
