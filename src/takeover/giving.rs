//! The running daemon's side: it hands its sockets over to one that asks.
//!
//! **Invariants.** Until it has said `go`, this one can go on as if nothing had been asked; the other accepts nothing before.
//! One that is stopping does not say it. No shard is waited for without end.
//! **Not here.** What happens once the other serves (`drain`).

use super::wire::Wire;
use super::{ANSWER_TIME_MAX, Inventory, LIST_TIME_MAX, Line, START_TIME_MAX, TakeoverError, VERSION};
use crate::shard::accept::Entrance;
use crate::shard::handover::{Handed, Meanwhile, Place};
use crate::shard::mailbox::{Peers, Request};
use crate::shard::vitals::Vitals;
use std::collections::HashSet;
use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// How long accepting rests that fails.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Where daemons meet: a Unix socket that listens.
#[derive(Debug)]
pub struct Meeting(UnixListener);

impl Meeting {
    /// Makes the socket; one that a daemon has left behind is replaced.
    ///
    /// # Errors
    /// That another daemon listens there, or what the kernel says.
    pub fn make(path: &Path) -> Result<Self, TakeoverError> {
        let fault = |error| TakeoverError::Meeting { path: path.to_owned(), error };
        let is_left_behind = || {
            // A file of another kind refuses, too.
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
            let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            is_socket && UnixStream::connect(path).is_err_and(refuses)
        };
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind() => {
                std::fs::remove_file(path).map_err(fault)?;
                UnixListener::bind(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(fault)?;
        // Whoever connects is asked who it is; this keeps others from connecting at all.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fault)?;
        Ok(Meeting(listener))
    }

    /// One that was handed over.
    pub fn of(listener: UnixListener) -> Self {
        Meeting(listener)
    }
}

/// Hands the sockets over to whoever asks and may, until one has taken them; then calls `taken_over`. It waits, so it has a
/// thread of its own.
pub fn serve(meeting: &Meeting, peers: &Peers, vitals: &Vitals, taken_over: impl FnOnce()) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else { return };
    loop {
        let given = meeting.0.accept().map_err(TakeoverError::Broken).and_then(|(stream, _)| {
            tracing::info!("another daemon asks for the sockets");
            let giving = Giving { wire: Wire::new(stream)?, meeting, peers, vitals };
            runtime.block_on(giving.give())
        });
        match given {
            Ok(()) => return taken_over(),
            Err(error) => tracing::warn!(%error, "not taken over: the daemon goes on"),
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "this thread serves nobody else")]
fn pause() {
    std::thread::sleep(ERROR_PAUSE);
}

/// One conversation.
struct Giving<'a> {
    wire: Wire,
    meeting: &'a Meeting,
    peers: &'a Peers,
    vitals: &'a Vitals,
}

impl Giving<'_> {
    async fn give(&self) -> Result<(), TakeoverError> {
        match self.wire.hear(ANSWER_TIME_MAX)? {
            Line::Hello { version: VERSION } => self.refuse_if_stopping()?,
            Line::Hello { .. } => {
                return Err(self.refuse("the two speak different versions of the takeover"));
            }
            line => return Err(TakeoverError::Unexpected { line: format!("{line:?}") }),
        }
        let mut known = HashSet::new();
        let mut sockets = self.in_time(self.peers.hand_over(Meanwhile::Serve)).await?;
        // Those of ports come and go while this daemon serves.
        sockets.retain(|handed| matches!(handed.place, Place::Api(_)));
        let sockets = news(&mut known, sockets)?;
        self.hand(&sockets, Some(self.meeting))?;
        drop(sockets);
        self.wire.expect(&Line::Ready, START_TIME_MAX)?;
        self.refuse_if_stopping()?;
        let handed = self.hand_rest(&mut known).await;
        if handed.is_err() && !self.vitals.is_draining() {
            self.peers.resume().await;
        }
        handed
    }

    /// Pauses, hands over the sockets of ports, and tells the other daemon to go once it has them.
    async fn hand_rest(&self, known: &mut HashSet<u64>) -> Result<(), TakeoverError> {
        let pause_and_list = async {
            self.peers.ask_all(|reply| Request::Pause { reply }).await;
            self.peers.hand_over(Meanwhile::Freeze).await
        };
        let sockets = news(known, self.in_time(pause_and_list).await?)?;
        self.hand(&sockets, None)?;
        self.wire.expect(&Line::Taken, ANSWER_TIME_MAX)?;
        self.refuse_if_stopping()?;
        self.wire.say(&Line::Go)
    }

    /// What the shards list, if they do so in time.
    async fn in_time(&self, list: impl Future<Output = io::Result<Vec<Handed>>>) -> Result<Vec<Handed>, TakeoverError> {
        match tokio::time::timeout(LIST_TIME_MAX, list).await {
            Ok(listed) => Ok(listed?),
            Err(_) => Err(self.refuse("its shards do not answer in time")),
        }
    }

    fn refuse_if_stopping(&self) -> Result<(), TakeoverError> {
        if self.vitals.is_draining() { Err(self.refuse("the daemon is stopping")) } else { Ok(()) }
    }

    fn hand(&self, sockets: &[Handed], meeting: Option<&Meeting>) -> Result<(), TakeoverError> {
        let (mut api, mut tls, mut ports) = (Vec::new(), Vec::new(), Vec::new());
        for Handed { place, socket } in sockets {
            let kind = match place {
                Place::Api(Entrance::Plain) => &mut api,
                Place::Api(Entrance::Tls) => &mut tls,
                Place::Port(..) => &mut ports,
            };
            kind.push(socket.as_fd());
        }
        let mut descriptors: Vec<BorrowedFd<'_>> = meeting.iter().map(|meeting| meeting.0.as_fd()).collect();
        let inventory = Inventory { meetings: descriptors.len(), api: api.len(), tls: tls.len(), ports: ports.len() };
        descriptors.extend(api.into_iter().chain(tls).chain(ports));
        self.wire.say(&Line::Sockets(inventory))?;
        self.wire.send(&descriptors)
    }

    /// Tells the other one no, for a reason that is also what comes of it here.
    fn refuse(&self, reason: &str) -> TakeoverError {
        let reason = reason.to_owned();
        match self.wire.say(&Line::Refused { reason: reason.clone() }) {
            Ok(()) => TakeoverError::Refused { reason },
            Err(error) => error,
        }
    }
}

/// Those that are not known, each once: shards may share one.
fn news(known: &mut HashSet<u64>, sockets: Vec<Handed>) -> io::Result<Vec<Handed>> {
    let mut news = Vec::with_capacity(sockets.len());
    for handed in sockets {
        if known.insert(handed.cookie()?) {
            news.push(handed);
        }
    }
    Ok(news)
}
