//! What the service manager (systemd, or whoever speaks as it does) is told: ready, reloading, stopping, and that every
//! shard's loop turns.
//!
//! A thread of its own tells it, as the manager's socket may be full; where no manager waits, there is none.
//!
//! **Invariants.** The watchdog is fed only when every shard has told a beat since it was fed last. Whoever gives a notice
//! never waits.
//! **Not here.** The sockets that the manager hands over (`handed`), and when notices are given (`server`).

pub mod handed;

use crate::shard::accept::Entrance;
use crate::shard::handover::{Handed, Place};
use crate::shard::vitals::Vitals;
use sd_notify::NotifyState;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Notices that wait while the manager's socket is full; more are dropped.
const NOTICES_MAX: usize = 16;
/// How often it is looked whether the watchdog may be fed, in parts of its time.
const LOOKS: u32 = 4;
/// It is not looked more often than this, however short that time is: a shard tells four beats a second.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(50);

/// The name in the manager's store of the API's listeners; no .socket unit has it.
const STORED_API: &str = "stored-api";
/// The same of those with TLS.
const STORED_TLS: &str = "stored-tls";
/// The name there of device ports' sockets.
const STORED_PORT: &str = "stored-port";
/// Descriptors of one notice; the kernel takes no more (SCM_MAX_FD).
const STORED_BATCH: usize = 253;
/// How long a stop waits for the manager to take the sockets.
const STORE_TIME_MAX: Duration = Duration::from_secs(1);

/// The way to the service manager.
#[derive(Debug, Clone)]
pub struct Service {
    notices: Option<SyncSender<Notice>>,
}

#[derive(Debug)]
enum Notice {
    Ready(String),
    Reloading,
    Stopping,
    Store(Vec<Handed>, oneshot::Sender<()>),
    Unstore(&'static [&'static str]),
}

impl Service {
    /// Starts the thread that tells the manager, where there is one (`NOTIFY_SOCKET`); its watchdog is fed as
    /// `WATCHDOG_USEC` asks.
    ///
    /// # Errors
    /// That the thread cannot be had.
    pub fn start(vitals: Vitals) -> io::Result<Self> {
        if std::env::var_os("NOTIFY_SOCKET").is_none_or(|path| path.is_empty()) {
            return Ok(Service { notices: None });
        }
        let (notices, given) = sync_channel(NOTICES_MAX);
        let watchdog = sd_notify::watchdog_enabled().filter(|time| !time.is_zero());
        let teller = Teller { vitals, watchdog, is_failing: false };
        std::thread::Builder::new().name("service".into()).spawn(move || teller.run(&given))?;
        Ok(Service { notices: Some(notices) })
    }

    /// The daemon serves, from its start or again after a reload; `status` is a line for people.
    pub fn ready(&self, status: String) {
        self.give(Notice::Ready(status));
    }

    /// The daemon begins to read its settings anew; [`ready`](Self::ready) ends it.
    pub fn reloading(&self) {
        self.give(Notice::Reloading);
    }

    /// The daemon begins to drain.
    pub fn stopping(&self) {
        self.give(Notice::Stopping);
    }

    /// Whether there is a manager.
    pub fn is_there(&self) -> bool {
        self.notices.is_some()
    }

    /// Leaves sockets with the manager, who hands them to the next daemon; as many as its store takes
    /// (`FileDescriptorStoreMax`). Waits until that is done, for a second at most.
    pub async fn store(&self, sockets: Vec<Handed>) {
        let (done, stored) = oneshot::channel();
        self.give(Notice::Store(sockets, done));
        // Either way there is nothing more to do for them.
        let _ = tokio::time::timeout(STORE_TIME_MAX, stored).await;
    }

    /// Has the manager forget what was left with it: this daemon has it.
    pub fn unstore(&self) {
        self.give(Notice::Unstore(&[STORED_API, STORED_TLS, STORED_PORT]));
    }

    /// Has the manager close the API's listeners that were left with it, while a daemon starts that is elsewhere.
    pub fn unstore_api(&self) {
        self.give(Notice::Unstore(&[STORED_API, STORED_TLS]));
    }

    fn give(&self, notice: Notice) {
        if let Some(notices) = &self.notices {
            // Where the manager takes nothing, there is nothing better to do.
            let _ = notices.try_send(notice);
        }
    }
}

/// The thread's own.
struct Teller {
    vitals: Vitals,
    watchdog: Option<Duration>,
    is_failing: bool,
}

impl Teller {
    /// Tells what is given, and feeds the watchdog from when the daemon is ready, for as long as the process lives.
    fn run(mut self, given: &Receiver<Notice>) {
        loop {
            let Ok(notice) = given.recv() else { return };
            let is_ready = matches!(notice, Notice::Ready(_));
            self.tell(notice);
            if is_ready {
                break;
            }
        }
        let Some(time) = self.watchdog else {
            return given.iter().for_each(|notice| self.tell(notice));
        };
        let mut fed = Fed { beats: vec![0; self.vitals.beats().len()], at: Instant::now(), is_late: false };
        loop {
            match given.recv_timeout((time / LOOKS).max(LOOK_PAUSE_MIN)) {
                Ok(notice) => self.tell(notice),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if fed.may_be_fed(self.vitals.beats(), time) {
                self.send(&[NotifyState::Watchdog]);
            }
        }
    }

    fn tell(&mut self, notice: Notice) {
        match notice {
            Notice::Ready(status) => self.send(&[NotifyState::Ready, NotifyState::Status(&status)]),
            Notice::Store(sockets, done) => {
                self.store(&sockets);
                let _ = done.send(());
            }
            Notice::Unstore(names) => {
                for name in names {
                    self.send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
                }
            }
            Notice::Stopping => self.send(&[NotifyState::Stopping, NotifyState::Status("draining")]),
            Notice::Reloading => {
                // Without the time, the manager takes it for a reload that nobody asked for.
                let now = NotifyState::monotonic_usec_now();
                let states: Vec<NotifyState> = std::iter::once(NotifyState::Reloading).chain(now).collect();
                self.send(&states);
            }
        }
    }

    fn store(&mut self, sockets: &[Handed]) {
        for name in [STORED_API, STORED_TLS, STORED_PORT] {
            let named = sockets.iter().filter(|handed| stored_name(handed.place) == name);
            let descriptors: Vec<BorrowedFd<'_>> = named.map(|handed| handed.socket.as_fd()).collect();
            for batch in descriptors.chunks(STORED_BATCH) {
                // An error that waits in a socket of datagrams is no reason to forget it.
                let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
                let sent = sd_notify::notify_with_fds(&states, batch);
                self.warn_once(sent);
            }
        }
    }

    fn send(&mut self, states: &[NotifyState<'_>]) {
        let sent = sd_notify::notify(states);
        self.warn_once(sent);
    }

    fn warn_once(&mut self, sent: io::Result<()>) {
        if let Err(error) = &sent
            && !self.is_failing
        {
            tracing::warn!(%error, "the service manager cannot be told");
        }
        self.is_failing = sent.is_err();
    }
}

/// What a socket is called in the manager's store.
const fn stored_name(place: Place) -> &'static str {
    match place {
        Place::Api(Entrance::Plain) => STORED_API,
        Place::Api(Entrance::Tls) => STORED_TLS,
        Place::Port(..) => STORED_PORT,
    }
}

/// When the watchdog was fed last, and what the shards had told by then.
struct Fed {
    beats: Vec<u64>,
    at: Instant,
    is_late: bool,
}

impl Fed {
    /// Whether every shard has told a beat since the last time that this was so. Says once which have not for half of the
    /// watchdog's time.
    fn may_be_fed(&mut self, beats: Vec<u64>, time: Duration) -> bool {
        let silent: Vec<usize> = (0..beats.len()).filter(|&shard| beats[shard] == self.beats[shard]).collect();
        if silent.is_empty() {
            if self.is_late {
                tracing::warn!("every shard turns again: the watchdog is fed");
            }
            *self = Fed { beats, at: Instant::now(), is_late: false };
            return true;
        }
        if !self.is_late && self.at.elapsed() >= time / 2 {
            self.is_late = true;
            tracing::error!(shards = ?silent, "shards do not turn: the watchdog is not fed");
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_when_every_shard_has_told_a_beat_since() {
        let mut fed = Fed { beats: vec![0; 2], at: Instant::now(), is_late: false };
        let time = Duration::from_secs(60);
        assert!(!fed.may_be_fed(vec![1, 0], time), "one has told none");
        assert!(fed.may_be_fed(vec![1, 5], time));
        assert!(!fed.may_be_fed(vec![1, 6], time), "one has told none since");
        assert!(fed.may_be_fed(vec![2, 6], time));
    }
}
