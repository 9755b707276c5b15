//! Upgrades in the middle of the load: the next daemon takes the sockets of the one that runs, which drains as it would on
//! a signal, while new actors come to the next one.
//!
//! **Invariants.** No device and no driver is refused meanwhile. The old daemon's actors are judged as at any drain.
//! **Not here.** The judging itself (`session`, `record`), drains without a successor (`restarts`).

use super::arguments::Arguments;
use super::pattern;
use super::run::{Actors, join_all, judge_exit, start_actors};
use super::world::World;
use dispatch_bench::daemon::{Daemon, Launch};
use dispatch_bench::http;
use std::io;
use std::rc::Rc;

/// Has the next daemon take over from this one, and waits for this one's end; the next, with its world and its actors.
///
/// # Errors
/// Where the next daemon cannot be started or asked.
pub async fn take_over(
    arguments: &Arguments,
    launch: &Launch,
    mut daemon: Daemon,
    world: &World,
    mut actors: Actors,
) -> io::Result<(Daemon, Rc<World>, Actors)> {
    let mut launch = launch.clone();
    launch.flags.push("--takeover=on".to_owned());
    let joined = async || http::shards(world.api, &world.token).await.map(|report| report.count("sessions_joined"));
    let joined_before = joined().await?;
    let mut next = Daemon::spawn(&launch)?;
    world.drain();
    // Counts of one daemon never fall.
    next.wait_until(&launch, async || joined().await.is_ok_and(|joined| joined < joined_before)).await?;
    let next_world = world.next();
    let seed = pattern::mix(arguments.seed ^ u64::from(next_world.round));
    let next_actors = start_actors(&next_world, arguments, seed).await;
    judge_exit(world, &mut daemon).await?;
    join_all(world, &mut actors.others, "an actor").await;
    join_all(world, &mut actors.wardens, "a warden").await;
    let took = world.drained_at().map(|at| at.elapsed().as_secs_f64()).unwrap_or_default();
    println!("takeover {:3}  everybody of the old daemon gone after {took:.3} s", next_world.round);
    Ok((next, next_world, next_actors))
}
