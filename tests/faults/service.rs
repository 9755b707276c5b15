//! The well-behaved driver and device that an attack must not disturb, and what the attack costs the daemon.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::harness::{
    Addr, BASES, Daemon, Device, Event, Opcode, Setup, Transport, Until, Wire, cpu_time, fds, free_port,
    resident_bytes, write,
};

/// How often the service is used.
const INTERVAL: Duration = Duration::from_millis(50);
/// How often it is used at least.
const ROUND_TRIPS_MIN: usize = 10;
/// What a round trip may take: machines that test are busy.
const MEDIAN_MAX: Duration = Duration::from_millis(250);
const NEARLY_ALL_MAX: Duration = Duration::from_secs(2);
/// What the daemon may spend in a quarter of a second of nothing after an attack.
const QUIET_CPU_MAX: Duration = Duration::from_millis(60);

/// What an attack has cost at most, beyond what the daemon had before.
#[derive(Debug)]
pub struct Toll {
    pub resident_bytes: u64,
    pub fds: usize,
    pub log_bytes: u64,
    /// Processor time a second of the attack.
    pub cpu_a_second: Duration,
}

impl Toll {
    /// Fails where it cost more than this.
    pub fn assert_at_most(&self, resident_mib: u64, fds: usize) {
        assert!(self.resident_bytes <= resident_mib << 20, "more than {resident_mib} MiB: {self:?}");
        assert!(self.fds <= fds, "more than {fds} descriptors: {self:?}");
        assert!(self.log_bytes <= 2 << 20, "too much log: {self:?}");
    }
}

/// Attacks take turns, so that one is not measured by what another costs.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A daemon as it is deployed, to be attacked. Its receive buffers are few, so that they do not count for memory that
/// the attack takes.
pub fn setup(shards: usize) -> Setup {
    Setup::new(shards).variable("LOG_LEVEL", "info").limit("receive-buffers", 128)
}

/// Attacks, while a driver and its device keep their service; says what that cost. Afterwards the daemon is quiet.
pub fn served_during(daemon: &Daemon, attack: impl FnOnce()) -> Toll {
    let mut service = Service::begin(daemon);
    let done = AtomicBool::new(false);
    let toll = std::thread::scope(|scope| {
        let serving = scope.spawn(|| service.use_until(daemon, &done));
        scope.spawn(|| assert_newcomers_served(daemon, &done));
        let until = Until(&done);
        attack();
        drop(until);
        serving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert_quiet(daemon);
    toll
}

/// Fails unless the daemon comes to rest.
fn assert_quiet(daemon: &Daemon) {
    crate::harness::eventually("the daemon is quiet", || {
        let before = cpu_time(daemon.pid());
        std::thread::sleep(Duration::from_millis(250));
        (cpu_time(daemon.pid()) - before < QUIET_CPU_MAX).then_some(())
    });
}

struct Service {
    driver: Wire,
    device: Device,
    addr: Addr,
}

impl Service {
    fn begin(daemon: &Daemon) -> Self {
        let port = free_port();
        let mut driver = daemon.wire(Transport::Tcp, port, "127.0.0.9");
        let device = Device::connect("127.0.0.9", port);
        let addr = driver.event().addr().clone();
        Self { driver, device, addr }
    }

    fn use_until(&mut self, daemon: &Daemon, done: &AtomicBool) -> Toll {
        let pid = daemon.pid();
        let before = (resident_bytes(pid), fds(pid).len(), daemon.log_bytes(), cpu_time(pid));
        let mut toll = Toll { resident_bytes: 0, fds: 0, log_bytes: 0, cpu_a_second: Duration::ZERO };
        let start = Instant::now();
        let mut trips = Vec::new();
        while !done.load(Ordering::Relaxed) || trips.len() < ROUND_TRIPS_MIN {
            trips.push(timed(|| self.round_trip()));
            toll.resident_bytes = toll.resident_bytes.max(resident_bytes(pid).saturating_sub(before.0));
            toll.fds = toll.fds.max(fds(pid).len().saturating_sub(before.1));
            std::thread::sleep(INTERVAL);
        }
        toll.log_bytes = daemon.log_bytes() - before.2;
        toll.cpu_a_second = (cpu_time(pid) - before.3).div_f64(start.elapsed().as_secs_f64());
        assert_quick(trips);
        eprintln!("{toll:?}");
        toll
    }

    fn round_trip(&mut self) {
        self.device.send(b"there");
        assert_eq!(self.driver.event(), Event::Received(self.addr.clone(), b"there".to_vec()));
        self.driver.send_frame(Opcode::Binary, &write(&self.addr, b"and back"));
        self.device.expect(b"and back");
    }
}

/// Fails unless health checks are answered within the harness's patience, each on a connection of its own. They queue
/// behind connections of the attack that came before them.
fn assert_newcomers_served(daemon: &Daemon, done: &AtomicBool) {
    let path = format!("{}/healthz", BASES[0]);
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        longest = longest.max(timed(|| assert_eq!(daemon.fetch(&path).status, 200)));
        std::thread::sleep(INTERVAL);
    }
    eprintln!("health checks within {longest:?}");
}

fn timed(turn: impl FnOnce()) -> Duration {
    let start = Instant::now();
    turn();
    start.elapsed()
}

fn assert_quick(mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, nearly_all) = (times[times.len() / 2], times[(times.len() - 1) * 95 / 100]);
    eprintln!("{} round trips with a median of {median:?}, 95 % within {nearly_all:?}", times.len());
    assert!(median < MEDIAN_MAX, "round trips: a median of {median:?}");
    assert!(nearly_all < NEARLY_ALL_MAX, "round trips: 95 % within {nearly_all:?}");
}
