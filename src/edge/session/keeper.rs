//! The keeper of a session: pings an idle driver, and ends one that takes nothing or shows no life.
//!
//! **Invariants.** It waits for timers alone, so it may be aborted. Progress is what the driver has acknowledged. A driver
//! that takes nothing goes within twice the stall time, and so does one whose session has ended, whatever it takes.
//! **Not here.** What an ending does to the socket (`writer`).

use super::Session;
use crate::policy::ending::SessionEnd;
use std::rc::Rc;
use std::time::Duration;

/// How often it looks, at most and at least; in between it is a quarter of the shortest limit.
const STEP_MAX: Duration = Duration::from_secs(5);
const STEP_MIN: Duration = Duration::from_millis(50);

impl Session {
    /// Looks after the session for as long as it is served. Timers alone.
    pub(super) async fn keep(self: Rc<Self>) {
        let limits = self.resources.limits();
        let shortest = limits.stall_time_max.min(limits.ping_interval).min(limits.driver_silence_max);
        let step = (shortest / 4).clamp(STEP_MIN, STEP_MAX);
        let mut arrived_bytes = 0;
        // Counted in steps: a pause of the whole process is one step, not time that the driver let pass.
        let (mut stuck, mut silent, mut unpinged) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        loop {
            tokio::time::sleep(step).await;
            // What the driver takes, not what the kernel takes, which wakes a send by the third of its buffer.
            let arrived_now = self.taken_bytes.get().saturating_sub(self.stream.unacknowledged_bytes() as u64);
            // One that has ended is given the time and no more: whoever takes a little now and then would keep its place.
            let is_over = self.end.get().is_some_and(|end| end != SessionEnd::Drained);
            let is_stuck = self.is_sending.get() && (is_over || arrived_now <= arrived_bytes);
            arrived_bytes = arrived_now.max(arrived_bytes);
            stuck = if is_stuck { stuck + self.stuck_step(step) } else { Duration::ZERO };
            // A message that has arrived is life; one that only the kernel has is not, and nor is a ping.
            if self.message_under_way.get().is_some_and(|end| end <= arrived_now) {
                self.message_under_way.set(None);
                self.is_alive.set(true);
            }
            (silent, unpinged) =
                if self.is_alive.take() { (Duration::ZERO, Duration::ZERO) } else { (silent + step, unpinged + step) };
            if stuck >= limits.stall_time_max {
                self.set_end(SessionEnd::Stalled);
                self.stream.abandon_send();
            } else if silent >= limits.driver_silence_max {
                self.set_end(SessionEnd::Silent);
            } else if unpinged >= limits.ping_interval {
                unpinged = Duration::ZERO;
                self.websocket.borrow_mut().ping();
                self.control_due.notify_one();
            }
        }
    }

    /// What a step without progress counts for. A socket whose receive buffer is full refuses acknowledgements along with
    /// the data, and once it is read again the driver's next probe may be as far off as it was unread: so that time counts
    /// half.
    fn stuck_step(&self, step: Duration) -> Duration {
        if self.is_reading.get() { step } else { step / 2 }
    }
}
