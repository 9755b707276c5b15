//! A soak: the daemon is started, loaded for a while, emptied, compared with its start, and stopped.
//!
//! **Invariants.** Actors end before the wardens, so that those see every device end.
//! **Not here.** What actors do; drains under load (`restarts`); upgrades in the middle of it (`takeovers`).

use super::arguments::{Arguments, DRAIN_TIME_MAX};
use super::baseline::{self, Sample};
use super::plan::Plan;
use super::report::{self, Summary};
use super::tally::Count;
use super::world::World;
use super::{cycler, pattern, requester, session, takeovers, tcp_device, udp_device};
use dispatch_bench::daemon::Daemon;
use dispatch_bench::http::ShardReport;
use dispatch_bench::proc;
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use uring_dispatch::policy::port_id::Transport;

const PROGRESS_STEP: Duration = Duration::from_secs(10);
const SAMPLE_STEP: Duration = Duration::from_millis(500);
const TURN_STEP: Duration = Duration::from_millis(20);
/// How long actors may take to end.
const ACTORS_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the wardens may take to join.
const WARDENS_TIME_MAX: Duration = Duration::from_secs(5);

/// Actors of a run.
pub struct Actors {
    /// Drivers that stay.
    pub wardens: JoinSet<()>,
    /// Everybody else.
    pub others: JoinSet<()>,
}

/// Runs one soak; how many violations there were.
///
/// # Errors
/// Where the daemon cannot be started or asked.
pub async fn run(arguments: &Arguments) -> io::Result<u64> {
    let launch = arguments.launch()?;
    let mut daemon = Daemon::start(&launch).await?;
    let mut world =
        World::new(launch.api, launch.token.clone(), arguments.topology(), arguments.bounds(), Rc::default());
    let start = Sample::baseline(world.api, &world.token, daemon.pid()).await?;
    let mut actors = start_actors(&world, arguments, arguments.seed).await;
    let time = Duration::from_secs_f64(arguments.minutes * 60.0 / f64::from(arguments.takeovers + 1));
    let mut peak = watch(&world, &mut daemon, time).await?;
    for _ in 0..arguments.takeovers {
        (daemon, world, actors) = takeovers::take_over(arguments, &launch, daemon, &world, actors).await?;
        peak = peak.peak(&watch(&world, &mut daemon, time).await?);
    }
    world.stop();
    join_all(&world, &mut actors.others, "an actor").await;
    // What is on its way arrives.
    tokio::time::sleep(SAMPLE_STEP).await;
    world.quiet();
    join_all(&world, &mut actors.wardens, "a warden").await;
    let (end, report) = baseline::wait_until_back(world.api, &world.token, daemon.pid(), &start, &world.tally).await?;
    judge_counts(&world, &report);
    daemon.terminate()?;
    judge_exit(&world, &mut daemon).await?;
    let summary = Summary::new(arguments, &world.tally, [start, peak, end], report);
    report::print(&summary, arguments.json.as_deref())
}

/// Starts wardens, waits until they have joined, then starts everybody else.
pub async fn start_actors(world: &Rc<World>, arguments: &Arguments, seed: u64) -> Actors {
    let mut next_actor = 0;
    let mut next_rng = || {
        next_actor += 1;
        ChaCha8Rng::seed_from_u64(pattern::mix(seed).wrapping_add(next_actor))
    };
    let mut wardens = JoinSet::new();
    let tcp = world.topology.shared.iter().map(|port| Plan::warden(Transport::Tcp, *port));
    let udp = world.topology.shared_datagrams.iter().map(|port| Plan::warden(Transport::Udp, *port));
    for plan in tcp.chain(udp) {
        let (world, mut rng) = (world.clone(), next_rng());
        wardens.spawn_local(async move { session::live(&world, plan, &mut rng).await });
    }
    let until = Instant::now() + WARDENS_TIME_MAX;
    while world.sessions().len() < wardens.len() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut others = JoinSet::new();
    for _ in 0..arguments.drivers {
        others.spawn_local(act_as_drivers(world.clone(), next_rng()));
    }
    for _ in 0..arguments.devices {
        others.spawn_local(tcp_device::act(world.clone(), next_rng()));
    }
    for _ in 0..arguments.datagram_devices {
        others.spawn_local(udp_device::act(world.clone(), next_rng()));
    }
    for port in world.topology.cycled.clone() {
        others.spawn_local(cycler::act(world.clone(), port, next_rng()));
    }
    others.spawn_local(requester::act(world.clone(), next_rng()));
    others.spawn_local(watch_turns(world.clone()));
    Actors { wardens, others }
}

/// One session after the other until the run stops.
async fn act_as_drivers(world: Rc<World>, mut rng: ChaCha8Rng) {
    while !world.is_stopping() {
        let plan = Plan::random(&world, &mut rng);
        session::live(&world, plan, &mut rng).await;
        let pause = Duration::from_millis(rng.random_range(0..300));
        world.pause(pause).await;
    }
}

/// Notes how late the soak itself is.
async fn watch_turns(world: Rc<World>) {
    while !world.is_stopping() {
        let due = Instant::now() + TURN_STEP;
        tokio::time::sleep_until(due.into()).await;
        world.tally.turn(due.elapsed());
    }
}

/// Lets the load run for `time`, looking after it; what the daemon held at most.
async fn watch(world: &World, daemon: &mut Daemon, time: Duration) -> io::Result<Sample> {
    let started = Instant::now();
    let mut progress_at = started + PROGRESS_STEP;
    let mut peak = Sample::default();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    while started.elapsed() < time {
        tokio::select! {
            () = tokio::time::sleep(SAMPLE_STEP) => {}
            _ = &mut interrupted => break,
        }
        if let Some(status) = daemon.has_ended()? {
            world.tally.violation(&format!("the daemon ended by itself: {status}"), "the daemon");
            break;
        }
        let (sample, _) = Sample::take(world.api, &world.token, daemon.pid()).await?;
        peak = peak.peak(&sample);
        for session in world.sessions() {
            if let Some(text) = session.overdue() {
                session.violation(world, &text);
            }
        }
        world.forget_old();
        if Instant::now() >= progress_at {
            progress_at += PROGRESS_STEP;
            report::progress(world, &sample);
        }
    }
    Ok(peak)
}

/// Waits for actors to end; one that does not, or that failed, is a violation.
pub async fn join_all(world: &World, actors: &mut JoinSet<()>, who: &str) {
    let joined = async {
        while let Some(joined) = actors.join_next().await {
            if let Err(error) = joined {
                world.tally.violation(&format!("{who} failed: {error}"), "the daemon");
            }
        }
    };
    if tokio::time::timeout(ACTORS_TIME_MAX, joined).await.is_err() {
        world
            .tally
            .violation(&format!("{who} did not end in {ACTORS_TIME_MAX:?}, {} are left", actors.len()), "the daemon");
        actors.abort_all();
    }
    // While their sockets are open: closed ones have no line.
    world.note_kernel_drops(|port| proc::datagrams_dropped(port).unwrap_or(0));
}

/// What the daemon has counted must agree with itself and with what was seen.
fn judge_counts(world: &World, report: &ShardReport) {
    let tally = &world.tally;
    for (begun, ended) in
        [("devices_opened", "devices_ended"), ("sessions_joined", "sessions_ended"), ("ports_opened", "ports_closed")]
    {
        if report.count(begun) != report.count(ended) {
            tally.violation(
                &format!("{begun} {} but {ended} {}", report.count(begun), report.count(ended)),
                "the daemon",
            );
        }
    }
    if report.count("tasks_failed") > 0 {
        tally.violation(&format!("{} tasks of the daemon failed", report.count("tasks_failed")), "the daemon");
    }
    let taken = report.count("datagrams_received") + report.count("datagrams_ignored_source");
    let books = world.datagrams.values();
    let reached: u64 = books.map(|book| book.sent.get().saturating_sub(book.kernel_dropped.get())).sum();
    if taken < reached || taken > tally.get(Count::DatagramsSent) {
        let what = format!("the daemon counted {taken} datagrams, {reached} reached its shared ports");
        tally.violation(&what, &format!("{:?}", world.datagrams));
    }
    for (port, book) in &world.datagrams {
        let lost = book.sent_to_warden.get().saturating_sub(book.received_by_warden.get());
        let counted = book.kernel_dropped.get() + report.count("datagrams_dropped_outbox");
        if lost > counted || book.received_by_warden.get() > book.sent_to_warden.get() {
            let what = format!("datagrams were lost that nobody counted: {lost} lost, {counted} counted");
            tally.violation(&what, &format!("port {port}, {book:?}"));
        }
    }
}

/// Waits for the daemon's exit after SIGTERM.
pub async fn judge_exit(world: &World, daemon: &mut Daemon) -> io::Result<Duration> {
    let told_at = Instant::now();
    match daemon.exit(DRAIN_TIME_MAX + Duration::from_secs(2)).await? {
        Some(status) if status.success() => {}
        Some(status) => world.tally.violation(&format!("the daemon ended with {status}"), "the daemon"),
        None => world.tally.violation("it did not end within its deadline", "the daemon"),
    }
    if told_at.elapsed() >= DRAIN_TIME_MAX {
        world.tally.violation(&format!("the drain took its whole deadline, {:?}", told_at.elapsed()), "the daemon");
    }
    Ok(told_at.elapsed())
}
