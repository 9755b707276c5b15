//! Upgrades without a gap: a daemon takes the sockets of the one that runs over, which then drains and ends.
//!
//! What changes hands are the listening sockets themselves, of drivers and of devices, and those of datagrams: none of them
//! is ever closed, so nothing that waits in one is reset or lost. (With SO_REUSEPORT the kernel resets what waits in a
//! listener that closes, however many others there are.) The two meet at a Unix socket, and say in lines of JSON:
//!
//! | who | line | what happens |
//! |---|---|---|
//! | new | `hello` | its version of this protocol |
//! | old | `sockets` | those of the API, and this one: how many follow of each kind; they come behind the line, in batches |
//! | new | `ready` | its shards run, and accept nothing yet. Until here the old one goes on as ever |
//! | old | `sockets` | it has paused: no accept is pending, whoever had just connected is answered, no driver may join. Those of ports follow: a listener that both had could not be opened anew by either |
//! | new | `taken` | it has all it needs, and accepts nothing yet |
//! | old | `go` | the one step that counts: from here on it drains, and the new one accepts. Connections made in between have waited in the sockets |
//!
//! Then the old one drains: what it had accepted, it serves to its end. Its drivers are told 1001 in waves, come to the new
//! one, and join; the port's sockets are held for them (`shard::handover`), with the devices and datagrams that came
//! meanwhile. The number of shards may differ: listeners of the API are dealt out (`shard::sockets`), ports have homes by
//! their hash. If anything fails before `go`, or takes too long, the new one ends without having accepted anything, and the old
//! one resumes: nobody notices.
//!
//! The Unix socket changes hands, too, so that the next upgrade finds it at the same path.
//!
//! **Invariants.** Only the daemon's own user and root are talked to, in either direction. Every wait has a bound, and none
//! of them is on a shard's thread.
//! **Not here.** Listing and holding sockets (`shard::handover`), and the drain (`drain`).

mod giving;
mod taking;
mod wire;

pub use giving::{Meeting, serve};
pub use taking::{Taken, take};

use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The version of the protocol; one that speaks another is refused.
const VERSION: u32 = 2;
/// How long either waits for the other where that has nothing to do but to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a start may take: it may wait for locked memory.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// How long the old one's shards may take to list their sockets, and to pause: they wait for those who have just connected.
const LIST_TIME_MAX: Duration = Duration::from_secs(5);
/// How long the new one waits for that. It is longer, so that the old one's word is heard.
const PAUSE_TIME_MAX: Duration = Duration::from_secs(10);

/// What the two say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
enum Line {
    /// The new one asks.
    Hello {
        /// Its version of the protocol.
        version: u32,
    },
    /// Sockets follow: first the Unix socket, then those of the API, without TLS and with, then those of ports, which say
    /// themselves what they are.
    Sockets(Inventory),
    /// The new one has started.
    Ready,
    /// The new one has everything, and would accept.
    Taken,
    /// The new one is to accept: the old one leaves.
    Go,
    /// The old one does not want to.
    Refused {
        /// Why.
        reason: String,
    },
}

/// How many sockets of each kind there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Inventory {
    /// Unix sockets where daemons meet.
    meetings: usize,
    /// Listeners of the API.
    api: usize,
    /// Those where it speaks TLS.
    tls: usize,
    /// Sockets of device ports.
    ports: usize,
}

/// Why a takeover fails, for either daemon.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// Nobody is there to be taken over, or to take over.
    #[error("no daemon answers at {path:?} (--takeover-socket): {error}")]
    Nobody {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The place where daemons meet cannot be had.
    #[error("no socket can be made at {path:?} (--takeover-socket): {error}")]
    Meeting {
        /// Where.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The other one runs as a user that may not.
    #[error("the other daemon runs as user {uid}, which is neither root nor the own")]
    User {
        /// Its user.
        uid: u32,
    },
    /// The other one said no.
    #[error("the running daemon refuses: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// It said nothing for as long as it is waited for.
    #[error("the other daemon did not answer in time")]
    Late,
    /// It closed the conversation.
    #[error("the other daemon has gone")]
    Gone,
    /// The system says no to something else.
    #[error("the takeover broke off: {0}")]
    Broken(io::Error),
    /// It said something else than it should have.
    #[error("the other daemon speaks otherwise: {line:?}")]
    Unexpected {
        /// What.
        line: String,
    },
    /// A descriptor is not the socket that it was said to be.
    #[error("the running daemon hands over a socket that is none of the API or of a port")]
    Socket,
}

impl From<io::Error> for TakeoverError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => TakeoverError::Late,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                TakeoverError::Gone
            }
            _ => TakeoverError::Broken(error),
        }
    }
}
