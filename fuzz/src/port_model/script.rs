//! What happens to a port, read from an input: three bytes an event.

/// Places for drivers; one that left makes room for another.
pub const SLOTS: usize = 4;
/// Addresses that a driver may accept, and one that none does.
pub const SOURCES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "2001:db8::7", "192.168.7.9", "203.0.113.9"];
/// How an accept list names the first four.
const ENTRIES: [&str; SOURCES.len() - 1] = ["10.0.0.1", "10.0.0.2/31", "2001:db8::/32", "::ffff:192.168.7.0/120"];
/// Sizes of an outbox: from one that a single message overfills.
const OUTBOX_BYTES: [usize; 4] = [300, 900, 3_000, 30_000];
const EVENTS_MAX: usize = 400;

/// Some of the first four sources, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceSet(u8);

impl SourceSet {
    /// Whether the source at this place of [`SOURCES`] is one of them.
    pub fn holds(self, source: usize) -> bool {
        self.0 >> source & 1 == 1
    }

    /// The accept list.
    pub fn list(self) -> String {
        let entries = ENTRIES.iter().enumerate().filter(|(at, _)| self.holds(*at));
        entries.map(|(_, entry)| *entry).collect::<Vec<_>>().join(", ")
    }
}

/// One event. A device is counted among those that are connected, and a slot may be empty: then nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A driver joins.
    Join { slot: usize, sources: SourceSet, outbox_bytes: usize },
    /// A driver lets go of its inbox.
    Leave { slot: usize },
    /// A device connects from a source.
    Connect { source: usize },
    /// A device closes.
    Disconnect { device: usize },
    /// A device sends this many times this many bytes.
    Send { device: usize, times: usize, bytes: usize },
    /// A driver takes this many chunks, as far as they are there.
    Take { slot: usize, chunks: usize },
    /// The tasks get this many turns.
    Turns { turns: usize },
}

/// The events of an input.
pub fn read(input: &[u8]) -> impl Iterator<Item = Event> {
    input.chunks_exact(3).take(EVENTS_MAX).map(|event| {
        let (kind, who, what) = (event[0] % 8, usize::from(event[1]), usize::from(event[2]));
        let slot = who % SLOTS;
        match kind {
            0 => Event::Join {
                slot,
                sources: SourceSet(1 + event[2] % 15),
                outbox_bytes: OUTBOX_BYTES[who / SLOTS % OUTBOX_BYTES.len()],
            },
            1 => Event::Leave { slot },
            2 => Event::Connect { source: who % SOURCES.len() },
            3 => Event::Disconnect { device: who },
            4 => Event::Send { device: who, times: 1, bytes: what * 4 },
            5 => Event::Send { device: who, times: what % 16, bytes: 60 },
            6 => Event::Take { slot, chunks: 1 + what % 4 },
            _ => Event::Turns { turns: 1 + what % 8 },
        }
    })
}
