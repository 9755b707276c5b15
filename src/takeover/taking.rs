//! The new daemon's side: it asks the one that runs for its sockets.
//!
//! **Invariants.** Nothing is accepted before the other one has said that it leaves. What fails until then ends this daemon,
//! and the other goes on.
//! **Not here.** Starting with the sockets (`server`).

use super::wire::Wire;
use super::{Inventory, Line, PAUSE_TIME_MAX, TakeoverError, VERSION};
use crate::service::handed::Inherited;
use crate::shard::handover::Handed;
use crate::shard::mailbox::Peers;
use socket2::Socket;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What was taken over, and the way to the daemon that had it.
#[derive(Debug)]
pub struct Taken {
    wire: Wire,
    /// Where daemons meet.
    pub meeting: Option<UnixListener>,
    /// The sockets.
    pub sockets: Inherited,
}

/// Asks the daemon at this path for its sockets. It goes on as before until it is told that this one is ready.
///
/// # Errors
/// That there is none, or that it does not give them.
pub fn take(path: &Path) -> Result<Taken, TakeoverError> {
    let stream = UnixStream::connect(path).map_err(|error| TakeoverError::Nobody { path: path.to_owned(), error })?;
    let wire = Wire::new(stream)?;
    wire.say(&Line::Hello { version: VERSION })?;
    let mut taken = Taken { wire, meeting: None, sockets: Inherited::default() };
    taken.receive()?;
    Ok(taken)
}

impl Taken {
    /// Says that this daemon has started, waits until the other has paused and then until it leaves, and has the shards
    /// accept.
    ///
    /// # Errors
    /// That the other one is gone, goes on itself, or did not pause in time.
    pub async fn finish(mut self, peers: &Peers) -> Result<(), TakeoverError> {
        self.wire.say(&Line::Ready)?;
        self.receive()?;
        peers.inherit(self.sockets.ports).await;
        self.wire.say(&Line::Taken)?;
        self.wire.expect(&Line::Go, PAUSE_TIME_MAX)?;
        peers.resume().await;
        Ok(())
    }

    /// Takes the sockets that are announced next; those of before are gone by then.
    fn receive(&mut self) -> Result<(), TakeoverError> {
        let Inventory { meetings, api, tls, ports } = match self.wire.hear(PAUSE_TIME_MAX)? {
            Line::Sockets(inventory) => inventory,
            line => return Err(TakeoverError::Unexpected { line: format!("{line:?}") }),
        };
        let count = [api, tls, ports].into_iter().fold(meetings, usize::saturating_add);
        let mut descriptors = self.wire.receive(count)?.into_iter();
        let meetings: Vec<OwnedFd> = descriptors.by_ref().take(meetings).collect();
        if let Some(meeting) = meetings.into_iter().next() {
            self.meeting = Some(UnixListener::from(meeting));
        }
        let mut listeners = |count| descriptors.by_ref().take(count).map(Socket::from).collect();
        let (api, tls) = (listeners(api), listeners(tls));
        let port = |descriptor| Handed::of_port(Socket::from(descriptor)).ok_or(TakeoverError::Socket);
        let ports = descriptors.map(port).collect::<Result<_, _>>()?;
        self.sockets = Inherited { api, tls, ports, ..Inherited::default() };
        Ok(())
    }
}
