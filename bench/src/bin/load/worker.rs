//! One thread of the load: waits for its sockets, does what they are ready for, and sends what is due.
//!
//! **Invariants.** It never waits for longer than a turn may take, and ends with the run.
//! **Not here.** What a device or a driver does (`fleet`, `session`).

use crate::fleet::Fleet;
use crate::payload::Pattern;
use crate::plan::Plan;
use crate::poller::{Events, Interest, Poller, Ready};
use crate::session::{Ended, Session};
use crate::shared::{Phase, Shared};
use crate::tally::{Interval, Tally};
use crate::targets::wait_ns;
use crate::work::{READ_BYTES, Work};
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Tells a session's token from a device's.
const SESSION: u64 = 1 << 63;
/// The longest wait where nothing is due.
const WAIT_MAX: Duration = Duration::from_millis(5);
/// The longest wait for what another thread may allow.
const WAIT_FOR_OTHERS_MAX: Duration = Duration::from_micros(50);

/// One thread of the load.
#[derive(Debug)]
pub struct Worker {
    index: usize,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    pattern: Arc<Pattern>,
    tally: Tally,
    poller: Poller,
    sessions: Vec<Option<Session>>,
    fleet: Fleet,
    phase: Phase,
    wait_max: Duration,
}

impl Worker {
    /// Thread `index` with these drivers; what it measures goes to `out`.
    ///
    /// # Errors
    /// What epoll(7) says.
    pub fn new(
        index: usize,
        (plan, shared, pattern): (Arc<Plan>, Arc<Shared>, Arc<Pattern>),
        sessions: Vec<Session>,
        out: Sender<Interval>,
    ) -> io::Result<Self> {
        let poller = Poller::new()?;
        for (at, session) in sessions.iter().enumerate() {
            poller.add(session.stream(), SESSION | at as u64, Interest::Read)?;
        }
        let waits_for_others = plan.workers() > 1 && plan.rate.is_none();
        Ok(Worker {
            index,
            fleet: Fleet::new(&plan, index),
            plan,
            shared,
            pattern,
            tally: Tally::new(out),
            poller,
            sessions: sessions.into_iter().map(Some).collect(),
            phase: Phase::Connecting,
            wait_max: if waits_for_others { WAIT_FOR_OTHERS_MAX } else { WAIT_MAX },
        })
    }

    /// Runs until the run has ended.
    ///
    /// # Errors
    /// Where the thread cannot be pinned, or cannot wait for its sockets.
    pub fn run(mut self) -> io::Result<()> {
        // Waits end when they should, and not up to 50 µs later.
        set_current_timer_slack(NonZeroU64::new(1))?;
        if let Some(cpu) = self.plan.cpus.get(self.index) {
            pin(&[*cpu])?;
        }
        let (mut read, mut scratch) = (vec![0; READ_BYTES].into_boxed_slice(), Vec::new());
        let (plan, shared, pattern) = (self.plan.clone(), self.shared.clone(), self.pattern.clone());
        let mut events = Events::new();
        loop {
            let now_ns = shared.now_ns();
            let phase = shared.phase();
            self.tally.roll(phase, now_ns);
            shared.publish(self.index, phase, self.tally.counts);
            let mut work = Work {
                plan: &plan,
                shared: &shared,
                pattern: &pattern,
                tally: &mut self.tally,
                read: &mut read,
                scratch: &mut scratch,
                now_ns,
            };
            if phase != self.phase {
                enter(phase, self.phase, &mut self.fleet, &mut self.sessions, &work);
                self.phase = phase;
            }
            if phase == Phase::Ended {
                return Ok(());
            }
            let is_busy = match phase {
                Phase::Connecting => !self.fleet.connect(&mut work, &self.poller),
                _ if phase.is_load() => {
                    let generated = self.fleet.generate(&mut work, &self.poller);
                    generate(&mut self.sessions, &self.poller, &mut work) || generated
                }
                _ => false,
            };
            let wait = if is_busy { 0 } else { wait(phase, &self.fleet, &self.sessions, &shared, self.wait_max) };
            self.poller.wait(wait, &mut events)?;
            work.now_ns = shared.now_ns();
            for ready in events.iter() {
                if ready.token & SESSION == 0 {
                    self.fleet.ready(ready, &mut work, &self.poller);
                } else {
                    serve(&mut self.sessions, ready, &self.poller, &mut work);
                }
            }
        }
    }
}

/// Pins the present thread.
///
/// # Errors
/// What sched_setaffinity(2) says.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// What a phase begins with.
fn enter(phase: Phase, before: Phase, fleet: &mut Fleet, sessions: &mut [Option<Session>], work: &Work<'_>) {
    let plan = work.plan;
    if phase.is_load() && !before.is_load() {
        fleet.start(plan, work.now_ns);
        for session in sessions.iter_mut().flatten().filter(|session| session.is_source()) {
            let share = plan.devices_of(session.port) as f64 / plan.devices as f64;
            if let Some(rate) = plan.rate {
                session.pace(work.now_ns, rate * share);
            }
        }
    }
    if phase >= Phase::Draining {
        fleet.stop();
    }
    if phase >= Phase::Closing {
        fleet.close();
    }
    if phase == Phase::Ended {
        sessions.iter_mut().flatten().for_each(Session::leave);
    }
}

/// Lets drivers send what is due; whether there is more.
fn generate(sessions: &mut [Option<Session>], poller: &Poller, work: &mut Work<'_>) -> bool {
    let before = work.tally.counts.sent;
    for (at, slot) in sessions.iter_mut().enumerate() {
        let Some(session) = slot.as_mut().filter(|session| session.is_source()) else { continue };
        let done = session.generate(work).map_err(Ended::from);
        settle(slot, at, done, poller, work);
    }
    work.tally.counts.sent > before
}

/// Does what a session's socket is ready for.
fn serve(sessions: &mut [Option<Session>], ready: Ready, poller: &Poller, work: &mut Work<'_>) {
    let at = (ready.token & !SESSION) as usize;
    let Some(slot) = sessions.get_mut(at) else { return };
    let Some(session) = slot else { return };
    let mut done = Ok(());
    if ready.is_writable {
        done = session.flush().map_err(Ended::from);
    }
    if done.is_ok() && ready.is_readable && session.interest != Interest::Write {
        done = session.read(work);
    }
    settle(slot, at, done, poller, work);
}

/// Notes how a session ended, or waits for what it needs.
fn settle(slot: &mut Option<Session>, at: usize, done: Result<(), Ended>, poller: &Poller, work: &Work<'_>) {
    let Some(session) = slot else { return };
    let settled = done.and_then(|()| {
        let wanted = session.wanted();
        if wanted != session.interest {
            session.interest = wanted;
            poller.change(session.stream(), SESSION | at as u64, wanted)?;
        }
        Ok(())
    });
    if let Err(ended) = settled {
        work.shared.fault(format!("driver of port {}: {ended}", work.plan.ports[session.port].number));
        *slot = None;
    }
}

fn wait(phase: Phase, fleet: &Fleet, sessions: &[Option<Session>], shared: &Shared, wait_max: Duration) -> u64 {
    let of_sessions = sessions.iter().flatten().filter_map(Session::next_ns);
    let next_ns = fleet.next_ns().into_iter().chain(of_sessions).min().filter(|_| phase.is_load());
    let now_ns = shared.now_ns();
    wait_ns(next_ns.unwrap_or(u64::MAX), now_ns, wait_max)
}
