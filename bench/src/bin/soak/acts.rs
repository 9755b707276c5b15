//! What a driver does while it is joined: writes, closes, strays, naps, and its last word.
//!
//! **Invariants.** What the daemon is going to be told is recorded first. Writes never keep the driver from reading.
//! **Not here.** What it reads (`session`).

use super::payload;
use super::plan::{Leave, Pace};
use super::record::DeviceRecord;
use super::session::{Check, Session, UNREAD_TIME_MAX};
use super::tally::Count;
use super::world::World;
use dispatch_bench::websocket::{self, FIN, opcode};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use uring_dispatch::protocol::message::{DeviceAddr, FromDriver};

const BINARY: u8 = FIN | opcode::BINARY;
/// The step in which a driver that only waits looks around.
const STEP: Duration = Duration::from_millis(100);
/// What is sent in small parts at times is no longer than this.
const SPLIT_BYTES_MAX: usize = 2_000;
/// What one flood of a device is made of.
const FLOOD_WRITES_MAX: usize = 200;
const FLOOD_WRITE_BYTES: usize = 30_000;
/// Message bytes beside the data, at most.
const MESSAGE_HEAD_BYTES_MAX: usize = 64;

/// Acts until the driver has said its last word, or its socket fails.
pub async fn act(session: &Rc<Session>, world: &World, mut rng: ChaCha8Rng) {
    let until = session.plan.stay.map(|stay| Instant::now() + stay);
    let mut driver = Acting { session, world, rng: &mut rng, out: Vec::new(), next_ping: 0, next_datagram: 0 };
    loop {
        let stays = until.is_none_or(|until| Instant::now() < until) && !world.is_stopping();
        let step = if stays { driver.step().await } else { driver.leave().await.map(|()| true) };
        match step {
            Ok(false) => {}
            Ok(true) => return,
            // The reader sees why.
            Err(_) => return std::future::pending().await,
        }
    }
}

struct Acting<'a> {
    session: &'a Rc<Session>,
    world: &'a World,
    rng: &'a mut ChaCha8Rng,
    out: Vec<u8>,
    next_ping: u64,
    next_datagram: u64,
}

impl Acting<'_> {
    /// One act; true where it was the last.
    async fn step(&mut self) -> io::Result<bool> {
        let is_warden = self.session.plan.stay.is_none();
        match self.rng.random_range(0..100) {
            0..40 => self.write_some(),
            40..42 => self.close_one(),
            42 => self.flood_one(),
            43..50 => self.stray(),
            50..54 => self.say_what_is_ignored(),
            54..70 => self.ping(),
            70..80 if !is_warden => return self.nap().await.map(|()| false),
            _ => self.rest().await,
        }
        self.flush().await?;
        Ok(false)
    }

    async fn rest(&mut self) {
        let ms = if self.rng.random_bool(0.8) { self.rng.random_range(0..20) } else { self.rng.random_range(20..200) };
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    async fn nap(&mut self) -> io::Result<()> {
        let stall_ms = self.world.bounds.stall.as_millis() as u64;
        let ms = match self.session.plan.pace {
            Pace::Naps => self.rng.random_range(50..stall_ms * 2 / 5),
            Pace::LongNaps => self.rng.random_range(50..stall_ms * 2),
            Pace::Prompt | Pace::Slow => return Ok(()),
        };
        let until = Instant::now() + Duration::from_millis(ms);
        self.session.asleep_until.set(Some(until));
        tokio::time::sleep_until(until.into()).await;
        // Time to read what has gathered, and to answer.
        let read_until = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < read_until {
            tokio::time::sleep(STEP).await;
            self.flush().await?;
        }
        Ok(())
    }

    /// More for one device than it takes, if there is one that never reads.
    fn flood_one(&mut self) {
        let deaf = match &*self.session.check.borrow() {
            Check::Tcp(check) => {
                check.located().find(|(_, record)| !record.reads_at_once).map(|(id, record)| (id, record.clone()))
            }
            Check::Udp(_) => None,
        };
        let Some((id, record)) = deaf.or_else(|| self.any_device()) else { return };
        for _ in 0..self.rng.random_range(10..FLOOD_WRITES_MAX) {
            self.write(id, &record, FLOOD_WRITE_BYTES);
        }
    }

    fn write_some(&mut self) {
        let count = if self.rng.random_bool(0.8) { self.rng.random_range(1..4) } else { self.rng.random_range(4..30) };
        for _ in 0..count {
            if let Some((id, record)) = self.any_device() {
                let size = self.size();
                self.write(id, &record, size);
            } else if let Some((to, _)) = self.any_peer() {
                let size = self.datagram_size();
                let unit = payload::unit(self.session.writer, self.next_datagram, size);
                self.next_datagram += 1;
                self.message(FromDriver::Write { device: named(Some(to.ip()), to.port().into()), data: &unit });
            }
        }
    }

    fn write(&mut self, id: u64, record: &Rc<DeviceRecord>, size: usize) {
        let number = record.write(self.session.writer);
        self.session.fresh.borrow_mut().push((record.clone(), number + 1));
        let unit = payload::unit(self.session.writer, number, size.max(payload::HEAD_BYTES));
        self.message(FromDriver::Write { device: named(Some(record.source), id), data: &unit });
        if self.rng.random_bool(0.05) {
            self.message(FromDriver::Write { device: named(Some(record.source), id), data: b"" });
        }
    }

    fn close_one(&mut self) {
        let Some((id, record)) = self.any_device() else { return };
        // Some last words, which must arrive.
        if self.rng.random_bool(0.5) {
            let size = self.size();
            self.write(id, &record, size);
        }
        record.close(self.session.writer);
        self.message(FromDriver::Close { device: named(Some(record.source), id) });
    }

    /// Writes and closes that name no device of this driver. None may have any effect.
    fn stray(&mut self) {
        self.world.tally.one(Count::PoisonSent);
        let device = match (&*self.session.check.borrow(), self.any_device()) {
            (Check::Udp(_), _) => match self.rng.random_range(0..4) {
                0 => named(None, 5_000),
                1 => named(Some(IpAddr::from([127, 10, 0, 1])), 0),
                2 => named(Some(IpAddr::from([127, 10, 0, 1])), 70_000 + self.rng.random_range(0..1_000)),
                _ => named(Some(IpAddr::from([127, 10, 0, 1])), u64::MAX),
            },
            (Check::Tcp(_), Some((id, _))) if self.rng.random_bool(0.4) => {
                named(Some(IpAddr::from([127, 66, 6, 6])), id)
            }
            (Check::Tcp(_), Some((id, _))) if self.rng.random_bool(0.3) => named(None, id),
            (Check::Tcp(check), _) => match (self.foreign(), check.any_gone()) {
                (Some(foreign), _) if self.rng.random_bool(0.7) => foreign,
                (_, Some(gone)) => named(Some(IpAddr::from([127, 10, 0, 1])), gone),
                _ => named(Some(IpAddr::from([127, 10, 0, 1])), u64::MAX - self.rng.random_range(0..1_000)),
            },
        };
        let size = self.rng.random_range(0..200);
        let poison = payload::poison(self.session.writer, 0, size);
        self.message(FromDriver::Write { device, data: &poison });
        if self.rng.random_bool(0.5) {
            self.message(FromDriver::Close { device });
        }
    }

    /// A device on this port that other drivers accept and this one does not.
    fn foreign(&mut self) -> Option<DeviceAddr> {
        let plan = &self.session.plan;
        self.world.sessions().into_iter().find_map(|other| {
            if other.plan.port != plan.port {
                return None;
            }
            match &*other.check.borrow() {
                Check::Tcp(check) => check
                    .located()
                    .find(|(_, record)| !plan.accept.accepts(record.source))
                    .map(|(id, record)| named(Some(record.source), id)),
                Check::Udp(_) => None,
            }
        })
    }

    fn say_what_is_ignored(&mut self) {
        let mask = self.rng.random();
        match self.rng.random_range(0..3) {
            0 => websocket::append(&mut self.out, FIN | opcode::TEXT, "grüße".as_bytes(), mask),
            1 => websocket::append(&mut self.out, BINARY, &[2, 1, 2, 3], mask),
            _ => websocket::append(&mut self.out, FIN | opcode::PONG, b"unasked", mask),
        }
    }

    fn ping(&mut self) {
        let mut ping = self.session.ping.borrow_mut();
        if let Some((number, since, _)) = &*ping {
            if since.elapsed() > UNREAD_TIME_MAX && self.session.plan.pace == Pace::Prompt {
                self.session
                    .violation(self.world, &format!("a ping was not answered in {UNREAD_TIME_MAX:?} ({number})"));
            }
            return;
        }
        let number = self.next_ping;
        self.next_ping += 1;
        websocket::append(&mut self.out, FIN | opcode::PING, &number.to_be_bytes(), self.rng.random());
        *ping = Some((number, Instant::now(), self.session.fresh.take()));
    }

    /// The driver's last word.
    async fn leave(&mut self) -> io::Result<()> {
        let leave = self.session.plan.leave;
        if matches!(leave, Leave::Close | Leave::Fault(_)) {
            self.write_some();
        }
        if leave == Leave::Mute && !self.world.is_stopping() {
            return self.stay_mute().await;
        }
        let leave = if leave == Leave::Mute { Leave::Close } else { leave };
        if leave == Leave::Close && self.session.plan.stay.is_none() {
            self.wait_for_ends().await?;
        }
        self.session.said.set(Some(leave));
        match leave {
            Leave::Close => websocket::append_close(&mut self.out, 1000, "bye", self.rng.random()),
            Leave::Fault(fault) => fault.append(&mut self.out, self.world.bounds.message_bytes_max, self.rng),
            Leave::Reset | Leave::Vanish | Leave::Mute => {}
        }
        self.flush().await
    }

    /// Waits to be let go.
    async fn stay_mute(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.session.said.set(Some(Leave::Mute));
        tokio::time::sleep(self.world.bounds.silence).await;
        Ok(())
    }

    /// A warden sees every device of its port end.
    async fn wait_for_ends(&mut self) -> io::Result<()> {
        const ENDS_TIME_MAX: Duration = Duration::from_secs(30);
        let mut until = Instant::now() + ENDS_TIME_MAX;
        while Instant::now() < until && !self.world.is_draining() {
            self.flush().await?;
            if !self.world.is_quiet() {
                until = Instant::now() + ENDS_TIME_MAX;
            } else if !matches!(&*self.session.check.borrow(), Check::Tcp(check) if check.open() > 0) {
                return Ok(());
            }
            tokio::time::sleep(STEP).await;
        }
        if let (Check::Tcp(check), false) = (&*self.session.check.borrow(), self.world.is_draining()) {
            let text = format!("devices were never CLOSED ({}):{}", check.open(), check.still_open());
            self.session.violation(self.world, &text);
        }
        Ok(())
    }

    fn any_device(&mut self) -> Option<(u64, Rc<DeviceRecord>)> {
        let check = self.session.check.borrow();
        let Check::Tcp(check) = &*check else { return None };
        let count = check.located().count();
        let at = if count == 0 { return None } else { self.rng.random_range(0..count) };
        check.located().nth(at).map(|(id, record)| (id, record.clone()))
    }

    fn any_peer(&mut self) -> Option<(SocketAddr, u64)> {
        let check = self.session.check.borrow();
        let Check::Udp(check) = &*check else { return None };
        let peers = check.peers();
        (!peers.is_empty()).then(|| peers[self.rng.random_range(0..peers.len())])
    }

    fn size(&mut self) -> usize {
        match self.rng.random_range(0..100) {
            0..60 => self.rng.random_range(0..200),
            60..90 => self.rng.random_range(200..4_000),
            90..98 => self.rng.random_range(4_000..40_000),
            _ => self.rng.random_range(40_000..self.world.bounds.message_bytes_max - MESSAGE_HEAD_BYTES_MAX),
        }
    }

    fn datagram_size(&mut self) -> usize {
        match self.rng.random_range(0..100) {
            0..70 => self.rng.random_range(0..1_500),
            70..95 => self.rng.random_range(1_500..65_507),
            95..98 => 65_507,
            _ => self.rng.random_range(65_508..66_000),
        }
    }

    fn message(&mut self, message: FromDriver<'_>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        websocket::append(&mut self.out, BINARY, &bytes, self.rng.random());
    }

    /// Sends what was gathered, pongs first, sometimes in small parts.
    async fn flush(&mut self) -> io::Result<()> {
        let mut out = self.session.control.take();
        out.append(&mut self.out);
        let part = if out.len() < SPLIT_BYTES_MAX && self.rng.random_bool(0.2) {
            self.rng.random_range(1..50)
        } else {
            usize::MAX
        };
        let mut rest = &out[..];
        while !rest.is_empty() {
            let count = self.send_some(&rest[..rest.len().min(part)]).await?;
            rest = &rest[count..];
            if part < usize::MAX {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    async fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let until = Instant::now() + UNREAD_TIME_MAX;
        loop {
            let writable = tokio::time::timeout_at(until.into(), self.session.stream.writable()).await;
            if writable.is_err() {
                let text = format!("the daemon left the driver's socket unread for {UNREAD_TIME_MAX:?}");
                self.session.violation(self.world, &text);
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.session.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

fn named(ip: Option<IpAddr>, id_or_port: u64) -> DeviceAddr {
    DeviceAddr { ip, id_or_port }
}
