//! How the daemon leaves: its drivers and devices are told in waves, under one deadline.
//!
//! A wave is a part of the ports. Before each, what drivers had sent gets to the ports; few drivers are one wave. With many,
//! waves come at irregular times, so that those who are told do not all come to the next daemon at once.
//!
//! **Invariants.** No device ends before every shard has sent on what its drivers had sent.
//! **Not here.** How a shard settles and drains (`shard`).

use crate::shard::mailbox::{Peers, Request, Wave};
use std::time::Duration;

/// Drivers of one wave, about.
const WAVE_SESSIONS: usize = 100;
/// Waves at most: with their pauses and what each takes, they are well within the time of a drain.
const WAVES_MAX: usize = 8;
/// The longest pause between two waves; the time of a drain bounds it, too.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Who comes to the next daemon, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// The next daemon is not there yet: everybody is told at once.
    AtOnce,
    /// It is there, and waits for them.
    InWaves,
}

/// Has every shard end what it has in good order.
pub async fn run(peers: &Peers, pace: Pace, time_max: Duration) {
    let count = match pace {
        Pace::AtOnce => 1,
        Pace::InWaves => {
            let sessions: usize = peers.count().await.iter().map(|shard| shard.sessions).sum();
            (1 + sessions / WAVE_SESSIONS).min(WAVES_MAX)
        }
    };
    let pause_max = PAUSE_MAX.min(time_max / (4 * WAVES_MAX as u32));
    for index in 0..count {
        let mut replied = peers.ask_all(|reply| Request::Settle { reply }).await;
        let wave = Wave { index, count };
        if index + 1 == count {
            replied = replied.min(peers.ask_all(|reply| Request::Drain { wave, reply: Some(reply) }).await);
        } else {
            for shard in 0..peers.shards() {
                peers.ask(shard, Request::Drain { wave, reply: None }).await;
            }
            tokio::time::sleep(pause_max.mul_f64(chance())).await;
        }
        if replied < peers.shards() {
            // The shard that is missing tells its end itself.
            std::future::pending::<()>().await;
        }
    }
}

/// Any number from 0 to 1.
fn chance() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}
