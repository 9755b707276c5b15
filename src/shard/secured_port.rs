//! What a port with TLS has beside its devices: who it is to them, what their bytes are wrapped in, and the handshakes that
//! are not over.
//!
//! **Invariants.** A bounded number of handshakes is under way, and all end with the port. A device's cipher is there from
//! its handshake to its end.
//! **Not here.** The handshake (`tls`), and what is in the bytes (`device`).

use crate::shard::cipher::{Cipher, Last, Opened, SealFault};
use crate::shard::ring::Stream;
use crate::shard::tls::Identity;
use crate::shard::waiting::Waiting;
use bytes::Bytes;
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Devices of a port that shake hands at a time; others wait in the kernel.
const HANDSHAKES_MAX: usize = 64;

/// TLS of one port.
pub struct SecuredPort {
    identity: Identity,
    /// Beside the devices, so that one without TLS is no larger for it.
    ciphers: RefCell<HashMap<u64, Rc<Cipher>>>,
    handshakes: RefCell<HashMap<u64, Waiting>>,
    next_handshake: Cell<u64>,
    /// Room for another handshake.
    pub room: Arc<Semaphore>,
}

/// A handshake while it is under way.
pub struct UnderWay {
    port: Rc<SecuredPort>,
    number: u64,
    /// What tells it that the port has ended.
    pub waiting: Waiting,
}

impl SecuredPort {
    /// A port that shows this identity.
    pub fn new(identity: Identity) -> Rc<Self> {
        Rc::new(SecuredPort {
            identity,
            ciphers: RefCell::default(),
            handshakes: RefCell::default(),
            next_handshake: Cell::new(0),
            room: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        })
    }

    /// Who it is to its devices.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A handshake begins.
    pub fn begin(self: &Rc<Self>, stream: &Stream) -> UnderWay {
        let number = self.next_handshake.replace(self.next_handshake.get() + 1);
        let waiting = Waiting::new(stream);
        self.handshakes.borrow_mut().insert(number, waiting.clone());
        UnderWay { port: self.clone(), number, waiting }
    }

    /// Ends the handshakes that are under way.
    pub fn end_handshakes(&self) {
        self.handshakes.borrow().values().for_each(Waiting::let_go);
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

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.port.handshakes.borrow_mut().remove(&self.number);
    }
}
