//! Drains under full load: the daemon is told to stop in the middle of everything, again and again, on the same ports.
//!
//! **Invariants.** What was known before the signal is judged: every reading driver gets CLOSED of each of its devices
//! and then 1001, every reading device the writes that the daemon had read, whole, and the end.
//! **Not here.** The judging itself (`session`, `record`).

use super::arguments::Arguments;
use super::baseline::Sample;
use super::pattern;
use super::report::{self, Summary};
use super::run::{join_all, judge_exit, start_actors};
use super::tally::Tally;
use super::world::World;
use dispatch_bench::daemon::Daemon;
use dispatch_bench::http::ShardReport;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Load before a drain.
const LOAD_MS: std::ops::Range<u64> = 1_500..6_000;

/// Drains `rounds` times; how many violations there were.
///
/// # Errors
/// Where the daemon cannot be started.
pub async fn run(arguments: &Arguments, rounds: u32) -> io::Result<u64> {
    let launch = arguments.launch()?;
    let mut rng = ChaCha8Rng::seed_from_u64(arguments.seed);
    let tally = Rc::new(Tally::default());
    let mut last = Sample::default();
    for round in 1..=rounds {
        let seed = pattern::mix(arguments.seed ^ u64::from(round));
        let mut daemon = Daemon::start(&launch).await?;
        let world =
            World::new(launch.api, launch.token.clone(), arguments.topology(), arguments.bounds(), tally.clone());
        let mut actors = start_actors(&world, arguments, seed).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(LOAD_MS))).await;
        (last, _) = Sample::take(world.api, &world.token, daemon.pid()).await?;
        world.drain();
        daemon.terminate()?;
        let took = judge_exit(&world, &mut daemon).await?;
        join_all(&world, &mut actors.others, "an actor").await;
        join_all(&world, &mut actors.wardens, "a warden").await;
        report::round(&world, round, took, &last);
    }
    let summary = Summary::new(arguments, &tally, [Sample::default(), last, Sample::default()], ShardReport::default());
    report::print(&summary, arguments.json.as_deref())
}
