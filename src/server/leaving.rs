//! The end of the process, and what is waited for until then.
//!
//! **Invariants.** A drain has one deadline, which leaving the sockets with the service manager counts on, and behind which
//! there is time for the log. A shard whose thread ends while the daemon drains ends the process as failed.
//! **Not here.** How a drain goes (`drain`), what a reload does (`reload`), and a second signal to stop (`signals`).

use super::certificates;
use super::reload::Reloader;
use super::{Asked, Event};
use crate::config::{ConfigError, Loaded};
use crate::drain::{self, Pace};
use crate::policy::ending::ProcessEnd;
use crate::policy::limits::Limits;
use crate::service::Service;
use crate::shard::handover::Meanwhile;
use crate::shard::mailbox::{Peers, Request};
use crate::shard::vitals::Vitals;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// How long leaving the sockets with the service manager may take, as a part of the drain's time.
const STORE_PART: u32 = 10;

/// What the end of the process takes.
pub(super) struct Leaving {
    pub(super) peers: Peers,
    pub(super) vitals: Vitals,
    pub(super) service: Service,
    /// What the service manager is told while the daemon serves.
    pub(super) status: String,
    pub(super) reloader: Reloader,
}

impl Leaving {
    /// Waits for a signal to stop, for another daemon that has taken over, or for a shard's thread to end, and reloads
    /// meanwhile; then drains, under one deadline. Says how it ends, and how much time there is for the log.
    pub(super) async fn wait_for_the_end(&mut self, happened: &mut mpsc::Receiver<Event>) -> (ProcessEnd, Duration) {
        let pace = match self.serve(happened).await {
            Event::Stop => Pace::AtOnce,
            Event::TakenOver => Pace::InWaves,
            _ => return (ProcessEnd::ShardFailed, Duration::MAX),
        };
        let limits = self.reloader.limits();
        let until = Instant::now() + limits.log_time_max();
        let end = self.drain(pace, limits, happened).await;
        (end, until.saturating_duration_since(Instant::now()))
    }

    /// Ends everything in good order, within the time that there is for it.
    async fn drain(&self, pace: Pace, limits: Limits, happened: &mut mpsc::Receiver<Event>) -> ProcessEnd {
        self.vitals.drain();
        self.service.stopping();
        let drain_ms_max = limits.drain_time_max.as_millis() as u64;
        match pace {
            Pace::AtOnce => tracing::info!(drain_ms_max, "told to stop: draining"),
            Pace::InWaves => tracing::info!(drain_ms_max, "another daemon has taken over: draining"),
        }
        let drain = async {
            if pace == Pace::AtOnce && self.service.is_there() {
                self.store(limits.drain_time_max / STORE_PART).await;
            }
            drain::run(&self.peers, pace, limits.delivery_time_max()).await;
        };
        tokio::select! {
            () = drain => ProcessEnd::Drained,
            () = tokio::time::sleep(limits.delivery_time_max()) => ProcessEnd::DrainDeadline,
            () = a_shard_fails(happened) => ProcessEnd::ShardFailed,
        }
    }

    /// Reloads when told to, until something else happens.
    async fn serve(&mut self, happened: &mut mpsc::Receiver<Event>) -> Event {
        let mut warnings = tokio::time::interval(certificates::WARNING_INTERVAL);
        loop {
            let event = tokio::select! {
                event = next(happened) => event,
                _ = warnings.tick() => {
                    self.reloader.warn_of_expiry();
                    continue;
                }
            };
            let end = match event {
                Event::Reload => {
                    self.reload();
                    None
                }
                Event::Loaded(loaded) => self.finish_reload(*loaded, happened).await,
                other => Some(other),
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Brings about what was read, unless something happens meanwhile that ends the daemon.
    async fn finish_reload(
        &mut self,
        loaded: Result<Loaded, ConfigError>,
        happened: &mut mpsc::Receiver<Event>,
    ) -> Option<Event> {
        let mut asked = Asked::No;
        {
            let mut finish = pin!(self.reloader.finish(loaded));
            loop {
                tokio::select! {
                    () = &mut finish => break,
                    event = next(happened) => match event {
                        Event::Reload => asked = Asked::Yes,
                        end => return Some(end),
                    },
                }
            }
        }
        match asked {
            Asked::Yes => self.reload(),
            Asked::No => self.tell_reloaded(),
        }
        None
    }

    /// Begins to read the settings again.
    pub(super) fn reload(&mut self) {
        self.service.reloading();
        self.reloader.begin();
        self.tell_reloaded();
    }

    /// Tells the service manager, unless settings are being read.
    fn tell_reloaded(&self) {
        if self.reloader.is_idle() {
            self.service.ready(self.status.clone());
        }
    }

    /// Leaves the sockets with the service manager, for the daemon that it starts next. Those who have just connected have
    /// half of this time.
    async fn store(&self, time_max: Duration) {
        let until = Instant::now() + time_max;
        let _ = timeout(time_max / 2, self.peers.ask_all(|reply| Request::Pause { reply })).await;
        let store = async {
            match self.peers.hand_over(Meanwhile::Freeze).await {
                Ok(sockets) => self.service.store(sockets).await,
                Err(error) => tracing::warn!(%error, "the sockets cannot be left with the service manager"),
            }
        };
        if timeout_at(until, store).await.is_err() {
            tracing::warn!("the sockets were not left with the service manager in time");
        }
    }
}

/// The next that happens.
async fn next(happened: &mut mpsc::Receiver<Event>) -> Event {
    // Shards, which have a way to tell, are there for as long as the process.
    happened.recv().await.unwrap_or(Event::ShardEnded)
}

/// Waits for what ends a drain early. What is left to do is not worth other settings, and a drain that a takeover has begun
/// was not told to stop yet.
async fn a_shard_fails(happened: &mut mpsc::Receiver<Event>) {
    loop {
        match next(happened).await {
            Event::Reload | Event::Loaded(_) => {}
            Event::TakenOver => tracing::info!("another daemon has taken over: draining already"),
            Event::Stop => tracing::info!("told to stop: draining already"),
            _ => return,
        }
    }
}
