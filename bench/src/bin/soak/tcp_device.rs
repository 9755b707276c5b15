//! A TCP device's life: it connects, sends its stream in its kind's way, reads what drivers write, and ends.
//!
//! **Invariants.** Its record says what it has offered before the daemon can have it, and that it is over when it is.
//! Every wait is bounded.
//! **Not here.** What follows from its end (`record`), what drivers are told (`tcp_check`).

use super::pattern;
use super::payload::Units;
use super::record::DeviceRecord;
use super::tally::Count;
use super::world::World;
use dispatch_bench::device;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// How long the daemon's end may take once the device has closed its side: drivers that sleep may hold it back.
const END_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a send may wait.
const SEND_TIME_MAX: Duration = Duration::from_secs(30);
/// What a device sends first; enough to be located by.
const FIRST_BYTES: usize = 48;
const READ_BYTES: usize = 64 << 10;
/// The receive buffer of a device that never reads.
const DEAF_RECEIVE_BYTES: u32 = 4 << 10;

/// What kind of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sends in bursts, then closes its side and waits for the daemon's.
    Orderly,
    /// Sends as fast as it may, then as above.
    Flood,
    /// Sends a few bytes at a time, then as above.
    Trickle,
    /// Closes its side at once after its first bytes.
    HalfClose,
    /// Sends once and stays, until a driver closes it or its time is over.
    Idle,
    /// Resets its connection in the middle.
    Reset,
    /// Never reads.
    Deaf,
    /// Closes without reading what came.
    Rude,
    /// Sends nothing.
    Silent,
}

impl Kind {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..100) {
            0..30 => Kind::Orderly,
            30..40 => Kind::Flood,
            40..52 => Kind::Trickle,
            52..60 => Kind::HalfClose,
            60..78 => Kind::Idle,
            78..86 => Kind::Reset,
            86..91 => Kind::Deaf,
            91..96 => Kind::Rude,
            _ => Kind::Silent,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Orderly => "orderly",
            Kind::Flood => "flooding",
            Kind::Trickle => "trickling",
            Kind::HalfClose => "half-closing",
            Kind::Idle => "idle",
            Kind::Reset => "resetting",
            Kind::Deaf => "deaf",
            Kind::Rude => "rude",
            Kind::Silent => "silent",
        }
    }

    fn reads_at_once(self) -> bool {
        !matches!(self, Kind::Deaf | Kind::Rude)
    }

    fn closes_in_order(self) -> bool {
        !matches!(self, Kind::Reset | Kind::Deaf | Kind::Rude)
    }
}

/// How the reading side ended.
#[derive(Debug)]
enum Heard {
    Eof,
    Failed(io::ErrorKind),
}

/// One life after the other until the run stops.
pub async fn act(world: Rc<World>, mut rng: ChaCha8Rng) {
    while !world.is_stopping() {
        live(&world, &mut rng).await;
        let pause = Duration::from_millis(rng.random_range(0..400));
        world.pause(pause).await;
    }
}

fn source(rng: &mut ChaCha8Rng) -> IpAddr {
    let host = rng.random_range(1..=8);
    match rng.random_range(0..100) {
        0..60 => IpAddr::from([127, 10, 0, host]),
        60..70 => IpAddr::from([127, 10, rng.random(), rng.random_range(1..255)]),
        70..84 => IpAddr::from([127, 20, 0, host]),
        84..88 => IpAddr::from([127, 99, 0, host]),
        _ => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]),
    }
}

async fn live(world: &World, rng: &mut ChaCha8Rng) {
    let kind = Kind::random(rng);
    let source = source(rng);
    let ports = if rng.random_bool(0.75) { &world.topology.shared } else { &world.topology.free };
    let port = ports[rng.random_range(0..ports.len())];
    let has_warden = world.has_warden(port, source);
    let record = Rc::new(DeviceRecord::new(rng.random(), port, source, kind.name(), kind.reads_at_once(), has_warden));
    world.add_device(record.clone());
    let receive_bytes = (kind == Kind::Deaf).then_some(DEAF_RECEIVE_BYTES);
    let connected = device::connect(source, port, receive_bytes).await;
    let wired = match connected {
        Ok(stream) => world.topology.wire_of(port).over(stream).await,
        failed => failed,
    };
    match wired {
        Ok(stream) => {
            world.tally.one(Count::DevicesConnected);
            let device = Living { world, record: &record, stream: &stream };
            device.run(kind, rng).await;
        }
        Err(_) if !has_warden || world.is_draining() => world.tally.one(Count::DevicesRefused),
        Err(error) => world.tally.violation(&format!("a device could not connect: {error}"), &record.to_string()),
    }
    record.ended_at.set(Some(Instant::now()));
}

struct Living<'a> {
    world: &'a World,
    record: &'a Rc<DeviceRecord>,
    stream: &'a TcpStream,
}

impl Living<'_> {
    async fn run(&self, kind: Kind, rng: &mut ChaCha8Rng) {
        if !kind.reads_at_once() {
            return self.run_without_reading(kind, rng).await;
        }
        let listening = self.listen();
        let speaking = self.speak(kind, rng);
        tokio::pin!(listening, speaking);
        let heard = tokio::select! {
            heard = &mut listening => heard,
            spoken = &mut speaking => match spoken {
                Ok(()) if kind.closes_in_order() => match tokio::time::timeout(END_TIME_MAX, listening).await {
                    Ok(heard) => heard,
                    Err(_) => return self.violation("the daemon did not end its side after the device had closed its own"),
                },
                Ok(()) => return self.reset(),
                // The end of the daemon's stream comes first, if it ended it.
                Err(_) => match tokio::time::timeout(END_TIME_MAX, listening).await {
                    Ok(heard) => heard,
                    Err(_) => return self.violation("a send failed, and nothing more was heard"),
                },
            },
        };
        self.judge(&heard);
    }

    fn reset(&self) {
        self.world.tally.ending("device: reset of its own");
        // Fails only where the connection is gone.
        let _ = device::reset_on_close(self.stream);
    }

    fn judge(&self, heard: &Heard) {
        let (world, record) = (self.world, self.record);
        let own = if record.half_closed_at.get().is_some() { "after its own" } else { "without its own" };
        match heard {
            Heard::Eof => {
                world.tally.ending(format!("device: the daemon's end {own}"));
                for fault in record.judge_end(world.drained_at(), &world.tally) {
                    self.violation(&fault);
                }
            }
            // Nobody accepts it, or it still waited to be let in when a drain closed the port.
            Heard::Failed(kind) if (!record.has_warden || world.is_draining()) && record.id.get().is_none() => {
                world.tally.ending(format!("device: refused, {kind}"));
            }
            Heard::Failed(kind) => self.violation(&format!("the daemon reset it ({kind}) {own}")),
        }
    }

    // Speaking.

    async fn speak(&self, kind: Kind, rng: &mut ChaCha8Rng) -> io::Result<()> {
        match kind {
            Kind::Silent => self.stay(rng, 3_000).await,
            Kind::Idle => {
                self.send(FIRST_BYTES).await?;
                self.stay(rng, 6_000).await;
            }
            Kind::HalfClose => self.send(FIRST_BYTES + rng.random_range(0..5_000)).await?,
            Kind::Flood => {
                let total = rng.random_range(100_000..4_000_000);
                while (self.record.offered.get() as usize) < total && !self.world.is_stopping() {
                    self.send(rng.random_range(1_000..60_000)).await?;
                }
            }
            Kind::Trickle => {
                self.send(FIRST_BYTES).await?;
                for _ in 0..rng.random_range(20..200) {
                    self.send(rng.random_range(1..20)).await?;
                    self.world.pause(Duration::from_millis(rng.random_range(1..40))).await;
                }
            }
            Kind::Orderly | Kind::Reset | Kind::Deaf | Kind::Rude => {
                self.send(FIRST_BYTES).await?;
                for _ in 0..rng.random_range(1..40) {
                    self.send(rng.random_range(1..9_000)).await?;
                    self.world.pause(Duration::from_millis(rng.random_range(0..100))).await;
                }
            }
        }
        if kind.closes_in_order() {
            self.record.half_closed_at.set(Some(Instant::now()));
            device::half_close(self.stream)?;
        }
        Ok(())
    }

    async fn stay(&self, rng: &mut ChaCha8Rng, ms_max: u64) {
        self.world.pause(Duration::from_millis(rng.random_range(0..ms_max))).await;
    }

    /// Sends the stream's next bytes.
    async fn send(&self, count: usize) -> io::Result<()> {
        let position = self.record.offered.get();
        let mut bytes = vec![0; count];
        pattern::fill(self.record.nonce, position, &mut bytes);
        self.record.offered.set(position + count as u64);
        let until = Instant::now() + SEND_TIME_MAX;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if tokio::time::timeout_at(until.into(), self.stream.writable()).await.is_err() {
                self.violation(&format!("nothing was taken of it for {SEND_TIME_MAX:?}"));
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.stream.try_write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    // Listening.

    async fn listen(&self) -> Heard {
        let mut units = Units::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            if let Err(error) = self.stream.readable().await {
                return Heard::Failed(error.kind());
            }
            match self.stream.try_read(&mut buffer) {
                Ok(0) => {
                    if units.left() > 0 && self.record.reads_at_once {
                        self.violation(&format!(
                            "the daemon ended it inside a write, {} bytes of it came",
                            units.left()
                        ));
                    }
                    return Heard::Eof;
                }
                Ok(count) => units.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Heard::Failed(error.kind()),
            }
            if let Err(fault) = self.take(&mut units) {
                self.violation(&fault);
                return Heard::Eof;
            }
        }
    }

    fn take(&self, units: &mut Units) -> Result<(), String> {
        while let Some(unit) = units.next_unit().map_err(|fault| fault.to_string())? {
            self.record.receive(unit.writer, unit.number)?;
            self.world.tally.one(Count::WritesVerified);
            self.world.tally.add(Count::BytesVerifiedToDevices, unit.len as u64);
        }
        Ok(())
    }

    async fn run_without_reading(&self, kind: Kind, rng: &mut ChaCha8Rng) {
        // It may be let go meanwhile, which ends its sends.
        let spoken = self.speak(kind, rng).await.is_ok();
        if kind == Kind::Deaf {
            self.stay(rng, 8_000).await;
            // What came until then is still right, as far as it goes.
            let _ = tokio::time::timeout(Duration::from_millis(200), self.listen()).await;
        }
        self.world.tally.ending(format!(
            "device: {} closed, {}",
            kind.name(),
            if spoken { "everything sent" } else { "let go" }
        ));
    }

    fn violation(&self, text: &str) {
        self.world.tally.violation(text, &self.record.to_string());
    }
}
