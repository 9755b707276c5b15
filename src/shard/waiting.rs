//! A connection that waits for something to be over, and may be let go before: for another one, or as it takes too long.
//!
//! **Invariants.** It is let go once and for all, wherever it waits: its receive ends from outside, and whatever else it
//! waits for is raced with [`Waiting::until_let_go`].
//! **Not here.** Who is let go, and when (`edge::handshakes`, `secured_port`).

use crate::shard::ring::{Stream, Timer};
use std::cell::Cell;
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// One that waits. Clones are the same.
#[derive(Clone)]
pub struct Waiting(Rc<Inner>);

struct Inner {
    stream: Stream,
    is_let_go: Cell<bool>,
    told: Notify,
}

impl Waiting {
    /// It begins to wait.
    pub fn new(stream: &Stream) -> Self {
        Waiting(Rc::new(Inner { stream: stream.clone(), is_let_go: Cell::new(false), told: Notify::new() }))
    }

    /// Its socket.
    pub fn stream(&self) -> &Stream {
        &self.0.stream
    }

    /// Lets it go: its receive is interrupted, or the next one at once.
    pub fn let_go(&self) {
        if !self.0.is_let_go.replace(true) {
            self.0.stream.interrupt();
            self.0.told.notify_waiters();
        }
    }

    /// Whether it was let go.
    pub fn is_let_go(&self) -> bool {
        self.0.is_let_go.get()
    }

    /// Waits until it is let go. May be raced.
    pub async fn until_let_go(&self) {
        // From here on no word is missed.
        let told = self.0.told.notified();
        if !self.is_let_go() {
            told.await;
        }
    }

    /// Lets it go after `time`. From when it is let go, its pending send ends, and every later one.
    pub fn bound(&self, time: Duration) -> Timer {
        let waiting = self.clone();
        Timer::spawn(async move {
            let _ = tokio::time::timeout(time, waiting.until_let_go()).await;
            waiting.let_go();
            waiting.0.stream.abandon_send();
        })
    }

    /// Shuts its socket down once it is let go, which ends a [linger](Stream::linger).
    pub fn bound_linger(&self) -> Timer {
        let waiting = self.clone();
        Timer::spawn(async move {
            waiting.until_let_go().await;
            waiting.0.stream.shutdown(Shutdown::Both);
        })
    }
}
