//! What a port with TLS has beside its devices: who it is to them, what their bytes are wrapped in, and the handshakes that
//! are not over.
//!
//! **Invariants.** A bounded number of handshakes is under way; those that wait for one to be over have read nothing, and
//! hold no more than a device without TLS. All end with the port. A device's cipher is there from its handshake to its end.
//! **Not here.** Who goes first (`policy::rooms`), the handshake (`tls`), and what is in the bytes (`device`).

use crate::policy::rooms::{Arrived, Rooms};
use crate::shard::cipher::{Cipher, Last, Opened, SealFault};
use crate::shard::gate::SourcePlace;
use crate::shard::log_gate::LogGate;
use crate::shard::ring::Stream;
use crate::shard::tls::Identity;
use crate::shard::waiting::Waiting;
use bytes::Bytes;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Devices of a port that shake hands at a time; others wait.
const HANDSHAKES_MAX: usize = 64;

/// TLS of one port.
pub struct SecuredPort {
    identity: Identity,
    /// Beside the devices, so that one without TLS is no larger for it.
    ciphers: RefCell<HashMap<u64, Rc<Cipher>>>,
    handshakes: RefCell<Handshakes>,
    /// For lines about drivers that bring another key.
    pub key_log: LogGate,
}

/// The handshakes of a port that are not over.
struct Handshakes {
    rooms: Rooms,
    all: HashMap<u64, Entry>,
}

struct Entry {
    waiting: Waiting,
    source: IpAddr,
    place: Option<SourcePlace>,
    /// Told once there is room for it.
    room: Option<oneshot::Sender<()>>,
}

/// A handshake that is not over. Its room, and its place among those of its source, are given back when it drops.
pub struct Handshake {
    port: Rc<SecuredPort>,
    number: u64,
    source: IpAddr,
    waiting: Waiting,
    room: Option<oneshot::Receiver<()>>,
}

impl SecuredPort {
    /// A port that shows this identity.
    pub fn new(identity: Identity) -> Rc<Self> {
        Rc::new(SecuredPort {
            identity,
            ciphers: RefCell::default(),
            handshakes: RefCell::new(Handshakes { rooms: Rooms::new(HANDSHAKES_MAX), all: HashMap::new() }),
            key_log: LogGate::default(),
        })
    }

    /// Who it is to its devices.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A connection is to shake hands, as soon as there is room for it. The one whose room it takes is let go.
    pub fn begin(self: &Rc<Self>, stream: &Stream, source: IpAddr, place: Option<SourcePlace>) -> Handshake {
        let mut handshakes = self.handshakes.borrow_mut();
        let (number, arrived) = handshakes.rooms.arrive(source);
        if let Arrived::InPlaceOf(longest) = arrived {
            handshakes.all.get_mut(&longest).into_iter().for_each(Entry::let_go);
        }
        let (tell, told) = (arrived == Arrived::Outside).then(oneshot::channel).unzip();
        let waiting = Waiting::new(stream);
        handshakes.all.insert(number, Entry { waiting: waiting.clone(), source, place, room: tell });
        Handshake { port: self.clone(), number, source, waiting, room: told }
    }

    /// Lets the handshakes of a source go.
    pub fn let_go_of(&self, source: IpAddr) {
        let mut handshakes = self.handshakes.borrow_mut();
        handshakes.all.values_mut().filter(|entry| entry.source == source).for_each(Entry::let_go);
    }

    /// Ends the handshakes that are not over.
    pub fn end_handshakes(&self) {
        self.handshakes.borrow_mut().all.values_mut().for_each(Entry::let_go);
    }

    /// A device is there whose bytes are wrapped so.
    pub fn keep(&self, device: u64, cipher: Cipher) {
        self.ciphers.borrow_mut().insert(device, Rc::new(cipher));
    }

    /// A device is gone.
    pub fn forget(&self, device: u64) {
        self.ciphers.borrow_mut().remove(&device);
    }

    /// Opens what a device has sent; as [`Cipher::open`].
    pub fn open<'a>(&self, device: u64, bytes: &'a [u8]) -> Opened<'a> {
        let gone = || Opened { data: Cow::default(), last: Some(Last::Fault(io::ErrorKind::NotConnected.into())) };
        self.cipher(device).map_or_else(gone, |cipher| cipher.open(bytes))
    }

    /// What TLS itself wants sent to a device.
    pub fn pending(&self, device: u64) -> Bytes {
        self.cipher(device).map_or_else(Bytes::new, |cipher| cipher.pending())
    }

    /// Seals what is sent to a device next.
    ///
    /// # Errors
    /// As [`Cipher::seal`].
    pub fn seal(&self, device: u64, bytes: &[u8]) -> Result<Bytes, SealFault> {
        let gone = || SealFault::Failed(io::ErrorKind::NotConnected.into());
        self.cipher(device).ok_or_else(gone)?.seal_copy(bytes)
    }

    /// The last bytes to a device: that nothing follows.
    pub fn farewell(&self, device: u64) -> Bytes {
        self.cipher(device).map_or_else(Bytes::new, |cipher| cipher.farewell())
    }

    fn cipher(&self, device: u64) -> Option<Rc<Cipher>> {
        self.ciphers.borrow().get(&device).cloned()
    }
}

impl Entry {
    fn let_go(&mut self) {
        self.waiting.let_go();
        self.place = None;
    }
}

impl Handshake {
    /// What tells it that it is let go.
    pub fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    /// Waits for room, for `time` at most; false where none came, and once it is let go.
    pub async fn has_room(&mut self, time: Duration) -> bool {
        let Some(room) = self.room.take() else { return true };
        tokio::select! {
            biased;
            () = self.waiting.until_let_go() => false,
            told = tokio::time::timeout(time, room) => matches!(told, Ok(Ok(()))),
        }
    }

    /// It is over, and well: the place among those of its source, which its device has from here on.
    pub fn finish(self) -> Option<SourcePlace> {
        self.port.handshakes.borrow_mut().all.get_mut(&self.number).and_then(|entry| entry.place.take())
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let handshakes = &mut *self.port.handshakes.borrow_mut();
        handshakes.all.remove(&self.number);
        let next = handshakes.rooms.leave(self.number, self.source);
        // One that has just given up leaves in its turn.
        if let Some(room) = next.and_then(|next| handshakes.all.get_mut(&next)?.room.take()) {
            let _ = room.send(());
        }
    }
}
