//! One run from the first join to the last CLOSED.
//!
//! **Invariants.** Every phase is bounded in time, also where the daemon does nothing any more; an interrupt or a fault ends
//! the load early, and what was measured until then is told. CPU is taken at the borders of the measured phase.
//! **Not here.** What the threads do (`worker`).

use crate::join::{self, NotJoined};
use crate::outcome::{Memory, Outcome, Seen};
use crate::payload::Pattern;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::record::Record;
use crate::session::Session;
use crate::shared::{Counts, Phase, Shared};
use crate::tally::Interval;
use crate::usage::{Moment, Usage};
use crate::worker::{self, Worker};
use dispatch_bench::proc;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(20);
/// How long connecting, draining and closing may stand still.
const STILL_MAX: Duration = Duration::from_secs(5);
/// The same once something is wrong: nothing has to come any more.
const STILL_AFTER_FAULT_MAX: Duration = Duration::from_millis(200);
/// How long each of them may take at all.
const GRACE_MAX: Duration = Duration::from_secs(60);
/// What the daemon frees and touches after the last device is seen in its memory.
const SETTLE: Duration = Duration::from_millis(200);

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum NotRun {
    /// A driver did not join.
    #[error(transparent)]
    NotJoined(#[from] NotJoined),
    /// The system says so.
    #[error("{0}: {1}")]
    Io(&'static str, io::Error),
    /// Devices are missing at the start.
    #[error("{0} of {1} devices connected and {2} OPENED came: {3:?}")]
    NotConnected(u64, usize, u64, Vec<String>),
    /// A thread of the load is gone.
    #[error("a thread of the load failed")]
    Thread,
}

/// A run under way.
struct Running {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    intervals: Receiver<Interval>,
    record: Record,
    is_interrupted: bool,
}

/// Runs a plan.
///
/// # Errors
/// [`NotRun`]; loss and faults are part of the outcome.
pub async fn run(plan: Plan) -> Result<Outcome, NotRun> {
    if !plan.cpus.is_empty() {
        worker::pin(&plan.cpus).map_err(|error| NotRun::Io("the tool cannot be pinned", error))?;
    }
    let progress = Progress::new(plan.scenario, plan.warm_up + plan.duration);
    let sessions = join::all(&plan).await?;
    let mut memory = Memory { before_devices_bytes: resident(&plan)?, ..Memory::default() };
    let mut running = Running::start(plan, sessions)?;
    progress.say("devices connect".to_owned());
    running.wait_for_devices().await?;
    tokio::time::sleep(SETTLE).await;
    memory.with_devices_bytes = resident(&running.plan)?;
    let (time, daemon, tool) = running.load(&progress).await?;
    memory.after_load_bytes = resident(&running.plan).unwrap_or(0);
    progress.say("what is under way arrives".to_owned());
    running.shared.advance(Phase::Draining);
    running.settle(|counts, _| counts.missing() == 0).await;
    running.shared.advance(Phase::Closing);
    running.settle(|counts, _| counts.opened == counts.closed).await;
    running.shared.advance(Phase::Ended);
    progress.end();
    let Running { plan, shared, threads, intervals, mut record, .. } = running;
    for thread in threads {
        let ended = thread.join().map_err(|_| NotRun::Thread)?;
        ended.map_err(|error| NotRun::Io("a thread of the load failed", error))?;
    }
    intervals.try_iter().for_each(|interval| record.add(&interval));
    record.finish();
    let daemon = daemon.map(|usage| (usage, memory));
    Ok(Outcome::new(&plan, &shared, record, Seen { time, daemon, tool }))
}

impl Running {
    /// Starts the threads, each with its share of the drivers.
    fn start(plan: Plan, sessions: Vec<Session>) -> Result<Running, NotRun> {
        let failed = |error| NotRun::Io("a thread of the load cannot start", error);
        let workers = plan.workers();
        let shared = Arc::new(Shared::new(workers, plan.devices));
        let pattern = Arc::new(Pattern::new(plan.sizes.max()));
        let plan = Arc::new(plan);
        let mut shares: Vec<Vec<Session>> = (0..workers).map(|_| Vec::new()).collect();
        for (index, session) in sessions.into_iter().enumerate() {
            shares[index % workers].push(session);
        }
        let (out, intervals) = channel();
        let mut threads = Vec::new();
        for (index, share) in shares.into_iter().enumerate() {
            let lent = (plan.clone(), shared.clone(), pattern.clone());
            let worker = Worker::new(index, lent, share, out.clone()).map_err(failed)?;
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("load-{index}")).spawn(move || {
                let ended = worker.run();
                if let Err(error) = &ended {
                    shared.fault(format!("a thread of the load failed: {error}"));
                }
                ended
            });
            threads.push(thread.map_err(failed)?);
        }
        Ok(Running { plan, shared, threads, intervals, record: Record::default(), is_interrupted: false })
    }

    /// Waits until every device that stays is connected, and every driver knows it.
    async fn wait_for_devices(&mut self) -> Result<(), NotRun> {
        let held = self.plan.devices_held() as u64;
        let opened = held * self.plan.drivers as u64;
        self.settle(move |counts, _| counts.connected == held && counts.opened == opened).await;
        let counts = self.shared.counts();
        if counts.connected != held || counts.opened != opened {
            self.shared.advance(Phase::Ended);
            let faults = self.shared.first_faults();
            return Err(NotRun::NotConnected(counts.connected, held as usize, counts.opened, faults));
        }
        Ok(())
    }

    /// Warms up, then measures: how long, what the daemon used, what the tool used.
    async fn load(&mut self, progress: &Progress) -> Result<(Duration, Option<Usage>, Usage), NotRun> {
        let moment = |pid| Moment::of(pid).map_err(|error| NotRun::Io("the process cannot be measured", error));
        progress.say("load begins".to_owned());
        let started = Instant::now();
        self.shared.advance(Phase::WarmUp);
        self.pass(started, started + self.plan.warm_up, progress).await;
        let daemon_from = self.plan.pid.map(moment).transpose()?;
        let tool_from = moment(std::process::id())?;
        let measured = Instant::now();
        self.shared.advance(Phase::Measured);
        self.pass(started, measured + self.plan.duration, progress).await;
        self.shared.advance(Phase::Draining);
        let time = measured.elapsed();
        // A daemon that died is a fault of the drivers that were joined, and no reason to tell nothing.
        let daemon_until = self.plan.pid.and_then(|pid| Moment::of(pid).ok());
        let tool_until = moment(std::process::id())?;
        let daemon = daemon_from.zip(daemon_until).map(|(from, until)| from.until(&until));
        Ok((time, daemon, tool_from.until(&tool_until)))
    }

    /// Lets the load that began at `started` run until this moment, or until something is wrong.
    async fn pass(&mut self, started: Instant, until: Instant, progress: &Progress) {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        while Instant::now() < until && self.shared.faults() == 0 && !self.is_interrupted {
            let left = until.saturating_duration_since(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(STEP.min(left)) => {}
                _ = &mut interrupted => self.is_interrupted = true,
            }
            self.take_intervals();
            progress.show(started.elapsed(), self.record.last());
        }
    }

    /// Waits until `is_done`, or nothing has changed for a while.
    async fn settle(&mut self, is_done: impl Fn(&Counts, &Plan) -> bool) {
        let started = Instant::now();
        let (mut changed, mut before) = (started, self.shared.counts());
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        while !(self.shared.is_entered() && is_done(&self.shared.counts(), &self.plan)) && started.elapsed() < GRACE_MAX
        {
            let still_max = if self.shared.faults() > 0 { STILL_AFTER_FAULT_MAX } else { STILL_MAX };
            if changed.elapsed() > still_max {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(STEP) => {}
                _ = &mut interrupted => break,
            }
            self.take_intervals();
            let counts = self.shared.counts();
            if counts != before {
                (changed, before) = (Instant::now(), counts);
            }
        }
    }

    fn take_intervals(&mut self) {
        while let Ok(interval) = self.intervals.try_recv() {
            self.record.add(&interval);
        }
    }
}

fn resident(plan: &Plan) -> Result<u64, NotRun> {
    let resident = plan.pid.map(proc::exact_resident_bytes).transpose();
    Ok(resident.map_err(|error| NotRun::Io("the daemon's memory cannot be read", error))?.unwrap_or(0))
}
