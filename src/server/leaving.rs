//! The end of the process, and what is waited for until then.
//!
//! **Invariants.** A drain has one deadline. A shard whose thread ends while the daemon drains ends the process as failed.
//! **Not here.** How a drain goes (`drain`), and what a reload does (`reload`).

use super::Event;
use super::certificates;
use super::reload::Reloader;
use crate::drain::{self, Pace};
use crate::policy::ending::ProcessEnd;
use crate::service::Service;
use crate::shard::handover::Meanwhile;
use crate::shard::mailbox::{Peers, Request};
use crate::shard::vitals::Vitals;
use tokio::sync::mpsc;

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
    /// meanwhile; then drains, under one deadline.
    pub(super) async fn wait_for_the_end(&mut self, happened: &mut mpsc::Receiver<Event>) -> ProcessEnd {
        let mut warnings = tokio::time::interval(certificates::WARNING_INTERVAL);
        let pace = loop {
            let event = tokio::select! {
                event = happened.recv() => event,
                _ = warnings.tick() => {
                    self.reloader.warn_of_expiry();
                    continue;
                }
            };
            match event {
                Some(Event::Stop) => break Pace::AtOnce,
                Some(Event::TakenOver) => break Pace::InWaves,
                Some(Event::Reload) => self.reload(),
                Some(Event::Loaded(loaded)) => {
                    self.reloader.finish(*loaded).await;
                    self.tell_reloaded();
                }
                _ => return ProcessEnd::ShardFailed,
            }
        };
        self.vitals.drain();
        self.service.stopping();
        let time_max = self.reloader.drain_time_max();
        let drain_ms_max = time_max.as_millis() as u64;
        match pace {
            Pace::AtOnce => tracing::info!(drain_ms_max, "told to stop: draining"),
            Pace::InWaves => tracing::info!(drain_ms_max, "another daemon has taken over: draining"),
        }
        let drain = async {
            if pace == Pace::AtOnce && self.service.is_there() {
                self.store().await;
            }
            drain::run(&self.peers, pace, time_max).await;
        };
        tokio::select! {
            () = drain => ProcessEnd::Drained,
            () = tokio::time::sleep(time_max) => ProcessEnd::DrainDeadline,
            end = next_but_reloads(happened) => end,
        }
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

    /// Leaves the sockets with the service manager, for the daemon that it starts next.
    async fn store(&self) {
        self.peers.ask_all(|reply| Request::Pause { reply }).await;
        match self.peers.hand_over(Meanwhile::Freeze).await {
            Ok(sockets) => self.service.store(sockets).await,
            Err(error) => tracing::warn!(%error, "the sockets cannot be left with the service manager"),
        }
    }
}

/// What ends a drain early. What is left to do is not worth other settings.
async fn next_but_reloads(happened: &mut mpsc::Receiver<Event>) -> ProcessEnd {
    loop {
        match happened.recv().await {
            Some(Event::Reload | Event::Loaded(_)) => {}
            Some(Event::Stop | Event::TakenOver) => return ProcessEnd::SecondSignal,
            _ => return ProcessEnd::ShardFailed,
        }
    }
}
