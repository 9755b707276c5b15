//! The devices that a driver writes to, and what it owes each.
//!
//! **Invariants.** Messages of a target have the numbers 0, 1, 2 …; without a rate no more than so many are under way.
//! **Not here.** Sending what is appended (`session`).

use crate::event::append_write;
use crate::pacer::Pacer;
use crate::payload::Head;
use crate::work::Work;
use std::time::Duration;
use uring_dispatch::policy::port_id::Transport;

/// One device that is written to.
#[derive(Debug)]
struct Target {
    address: Box<[u8]>,
    id: u64,
    stream: u32,
    next: u64,
}

/// The devices of one port, as its first driver writes to them.
#[derive(Debug, Default)]
pub struct Targets {
    targets: Vec<Target>,
    pacer: Option<Pacer>,
}

impl Targets {
    /// A device is there.
    pub fn add(&mut self, address: &[u8], id: u64, stream: u32) {
        self.targets.push(Target { address: address.into(), id, stream, next: 0 });
    }

    /// From now on messages are due at `rate` a second in all.
    pub fn pace(&mut self, now_ns: u64, rate: f64) {
        self.pacer = Some(Pacer::new(now_ns, rate));
    }

    /// When the next message is due.
    pub fn next_ns(&self) -> Option<u64> {
        self.pacer.as_ref().filter(|_| !self.targets.is_empty()).map(Pacer::next_ns)
    }

    /// Appends what is due to `out`, up to `out_bytes_max`.
    pub fn append_due(&mut self, work: &mut Work<'_>, out: &mut Vec<u8>, out_bytes_max: usize) {
        let count = self.targets.len();
        let Some(pacer) = &mut self.pacer else { return self.append_allowed(work, out, out_bytes_max) };
        while count > 0 && out.len() < out_bytes_max {
            let Some((number, intended_ns)) = pacer.take(work.now_ns) else { return };
            self.targets[number as usize % count].append(work, intended_ns, out);
        }
    }

    /// As many for each target as may be under way.
    fn append_allowed(&mut self, work: &mut Work<'_>, out: &mut Vec<u8>, out_bytes_max: usize) {
        for target in &mut self.targets {
            let until = work.shared.arrived(target.stream) + work.plan.under_way;
            while target.next < until && out.len() < out_bytes_max {
                target.append(work, work.now_ns, out);
            }
        }
    }
}

impl Target {
    fn append(&mut self, work: &mut Work<'_>, intended_ns: u64, out: &mut Vec<u8>) {
        let size = work.plan.sizes.of(self.stream, self.next);
        let head = Head { stream: self.stream, size, sequence: self.next, intended_ns };
        append_write(out, &self.address, self.id, [&head.to_bytes(), work.pattern.body(&head)]);
        self.next += 1;
        work.tally.sent(Transport::Tcp, intended_ns, work.now_ns, 1);
    }
}

/// How long until something is due.
pub fn wait_ns(next_ns: u64, now_ns: u64, wait_max: Duration) -> u64 {
    next_ns.saturating_sub(now_ns).min(wait_max.as_nanos() as u64)
}
