//! The pulse of a shard: a clock that is cheap to read, how promptly the shard's loop comes round, and that it does.
//!
//! **Invariants.** The clock never goes back, and is late by a beat and the lag of its timer at most. The first moment is
//! taken before the shard serves anybody: what comes right behind the start has come since.
//! **Not here.** What the times are used for, and which moments are held (`policy::history`).

use crate::policy::history::Moment;
use crate::shard::resources::Resources;
use crate::shard::ring;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Time between beats: a clock of seconds needs no more, and an idle shard is hardly woken.
const BEAT: Duration = Duration::from_millis(250);

/// Beats for as long as the process lives. A task of its own.
pub async fn beat(resources: Rc<Resources>) {
    loop {
        remember(&resources);
        let due = Instant::now() + BEAT;
        tokio::time::sleep_until(due.into()).await;
        let woken = Instant::now();
        resources.clock_s.set(u32::try_from((woken - resources.shared.started.at).as_secs()).unwrap_or(u32::MAX));
        resources.timer_lag.observe(woken.saturating_duration_since(due));
        ring::turn().await;
        resources.loop_turn.observe(woken.elapsed());
        resources.shared.vitals.beat(resources.shard);
    }
}

/// Takes what the shard has and has counted, where a step has passed.
fn remember(resources: &Resources) {
    resources.history.borrow_mut().take(resources.clock_s.get(), || Moment {
        sessions: resources.sessions.get(),
        devices: resources.devices.get(),
        counts: resources.counts.taken(),
    });
}
