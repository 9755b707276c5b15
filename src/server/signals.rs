//! Signals, on a thread of their own.
//!
//! **Invariants.** A signal to stop is never waited with where there is nothing to deliver: it ends a daemon that has not
//! started whole at once, and so does the second one whatever the first one's end is busy with.
//! **Not here.** What the first one brings about (`leaving`).

use super::{Event, ended};
use crate::policy::ending::ProcessEnd;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that a signal to reload leaves room for: where so many wait, one of them is another such signal.
const ROOM_FOR_OTHERS: usize = super::EVENTS_BEYOND_SHARDS / 2;
/// How long an end at once waits for the log.
const FLUSH_TIME_MAX: Duration = Duration::from_millis(100);

/// What the daemon says when it has started whole: from then on it has drivers and devices to tell.
pub(super) struct StartedWhole(Arc<AtomicBool>);

impl StartedWhole {
    pub(super) fn tell(self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Turns signals into events, or ends the process.
///
/// # Errors
/// That the thread or the signals cannot be had.
pub(super) fn watch(events: mpsc::Sender<Event>) -> io::Result<StartedWhole> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let is_started = Arc::new(AtomicBool::new(false));
    let started_whole = StartedWhole(is_started.clone());
    let watch = move || {
        let mut is_told_to_stop = false;
        for signal in signals.forever() {
            if signal == SIGHUP {
                if events.capacity() > ROOM_FOR_OTHERS {
                    let _ = events.try_send(Event::Reload);
                }
            } else if is_told_to_stop {
                exit(ProcessEnd::SecondSignal);
            } else if is_started.load(Ordering::Relaxed) {
                is_told_to_stop = true;
                // Whoever takes events may be on the way out by itself; then there is nothing to bring about.
                let _ = events.try_send(Event::Stop);
            } else {
                exit(ProcessEnd::Drained);
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch)?;
    Ok(started_whole)
}

#[expect(clippy::disallowed_methods, reason = "main may wait for something that does not come")]
fn exit(end: ProcessEnd) -> ! {
    std::process::exit(ended(end, FLUSH_TIME_MAX).exit_code().into())
}
