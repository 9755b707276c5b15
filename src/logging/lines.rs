//! Lines on their way to an output that may be slow, or take nothing at all.
//!
//! **Invariants.** Whoever logs never waits: so many lines wait at most, more are dropped and counted. Nobody waits for the
//! output but its own thread, and whoever says for how long.
//! **Not here.** What a line says (`logging`).

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// The way to the output, for as many as like. Each write is a line.
#[derive(Clone)]
pub(super) struct Lines {
    /// Has no bound of its own, so that a flush finds room behind the lines.
    waiting: Sender<Item>,
    counts: Arc<Counts>,
    lines_max: usize,
}

#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicUsize,
}

enum Item {
    Line(Vec<u8>),
    /// Everything before it was written.
    Flush(SyncSender<()>),
}

impl Lines {
    /// Lines to this output, of which so many wait.
    ///
    /// # Errors
    /// That the thread which writes them cannot be had.
    pub(super) fn written_to(output: impl Write + Send + 'static, lines_max: usize) -> io::Result<Self> {
        let (waiting, items) = channel();
        let counts = Arc::new(Counts::default());
        let lines = Lines { waiting, counts: counts.clone(), lines_max };
        std::thread::Builder::new().name("log".into()).spawn(move || write(output, &items, &counts))?;
        Ok(lines)
    }

    /// Lines that found no room.
    pub(super) fn dropped(&self) -> usize {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the lines before are written, and no longer than this.
    pub(super) fn flush(&self, time_max: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.waiting.send(Item::Flush(done)).is_ok() {
            // Either way there is nothing more to do for them.
            let _ = is_done.recv_timeout(time_max);
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Counts { waiting, dropped } = &*self.counts;
        if waiting.fetch_add(1, Ordering::Relaxed) >= self.lines_max {
            waiting.fetch_sub(1, Ordering::Relaxed);
            dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            // The thread is there for as long as anything logs.
            let _ = self.waiting.send(Item::Line(line.to_vec()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's own. An output that fails may work again later.
fn write(mut output: impl Write, items: &Receiver<Item>, counts: &Counts) {
    for item in items {
        match item {
            Item::Line(line) => {
                counts.waiting.fetch_sub(1, Ordering::Relaxed);
                let _ = output.write_all(&line);
            }
            Item::Flush(done) => {
                let _ = output.flush();
                let _ = done.send(());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An output that takes a line only when the test says so.
    struct Stuck(Receiver<()>, Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.1.send(bytes.to_vec());
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_a_stuck_output_has_no_room_for_are_dropped_and_counted() {
        let (release, released) = channel();
        let (begun, began) = channel();
        let mut lines = Lines::written_to(Stuck(released, begun), 2).unwrap();
        lines.write_all(b"taken by the stuck output").unwrap();
        assert_eq!(began.recv().unwrap(), b"taken by the stuck output");
        for line in [b"1", b"2", b"3", b"4", b"5"] {
            lines.write_all(line).unwrap();
        }
        assert_eq!(lines.dropped(), 3);
        // It says when it is over; that it ends is what is proven.
        lines.flush(Duration::from_millis(1));
        drop(release);
        lines.flush(Duration::MAX);
        assert_eq!(began.try_iter().collect::<Vec<_>>(), [b"1", b"2"]);
    }
}
