//! Devices that connect, send one message, and close.
//!
//! **Invariants.** A slot has one device at a time; the next begins when the daemon has closed the one before.
//! **Not here.** The slots themselves (`fleet`).

use crate::device::{Device, Lost};
use crate::fleet::Slot;
use crate::pacer::Pacer;
use crate::poller::{Interest, Poller};
use crate::work::Work;
use std::collections::VecDeque;

/// Devices that begin in one turn at most.
const STARTS_A_TURN: usize = 32;
/// Devices that wait for a slot at most; what is due beyond it is left out, and shows in the rate.
const WAITING_MAX: usize = 1 << 16;

/// Devices that come and go.
#[derive(Debug)]
pub struct Churn {
    count: usize,
    free: VecDeque<usize>,
    /// When devices should have begun for which there was no slot.
    waiting: VecDeque<u64>,
    pacer: Option<Pacer>,
}

impl Churn {
    /// In these slots.
    pub fn new(slots: Vec<usize>) -> Self {
        Churn { count: slots.len(), free: slots.into(), waiting: VecDeque::new(), pacer: None }
    }

    /// How many slots there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// From now on devices are due; without a rate whenever a slot is free.
    pub fn start(&mut self, rate: Option<f64>, now_ns: u64) {
        self.pacer = rate.map(|rate| Pacer::new(now_ns, rate));
    }

    /// When the next device is due.
    pub fn next_ns(&self) -> Option<u64> {
        self.pacer.as_ref().filter(|_| self.count > 0).map(Pacer::next_ns)
    }

    /// Begins what is due; whether that was anything.
    pub fn generate(&mut self, slots: &mut [Slot], work: &mut Work<'_>, poller: &Poller) -> bool {
        if self.count == 0 {
            return false;
        }
        while let Some((_, intended_ns)) = self.pacer.as_mut().and_then(|pacer| pacer.take(work.now_ns)) {
            if self.waiting.len() < WAITING_MAX {
                self.waiting.push_back(intended_ns);
            }
        }
        for count in 0..STARTS_A_TURN {
            let is_due = self.pacer.is_none() || !self.waiting.is_empty();
            let Some(index) = is_due.then(|| self.free.pop_front()).flatten() else { return count > 0 };
            let intended_ns = self.waiting.pop_front().unwrap_or(work.now_ns);
            if let Err(lost) = begin(&mut slots[index], index, intended_ns, work, poller) {
                slots[index].lose(work, &lost);
                self.free.push_back(index);
            }
        }
        true
    }

    /// The device of this slot is gone.
    pub fn ended(&mut self, index: usize) {
        self.free.push_back(index);
    }

    /// Nothing begins any more.
    pub fn stop(&mut self) {
        self.waiting.clear();
    }
}

fn begin(slot: &mut Slot, index: usize, intended_ns: u64, work: &mut Work<'_>, poller: &Poller) -> Result<(), Lost> {
    let mut device = Device::connect(&slot.route, slot.next)?;
    poller.add(&device, index as u64, Interest::Read)?;
    slot.next += 1;
    work.now_ns = work.shared.now_ns();
    device.add_due(intended_ns)?;
    slot.device = Some(device);
    slot.send(index, work, poller);
    Ok(())
}
