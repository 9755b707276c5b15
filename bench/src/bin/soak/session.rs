//! One driver's session from join to end: what comes is judged at once, and so is the end.
//!
//! **Invariants.** Every end that neither the plan nor a drain explains is a violation. Every wait is bounded.
//! **Not here.** What the driver sends (`acts`), what it intends (`plan`).

use super::acts;
use super::plan::{Leave, Pace, Plan};
use super::record::DeviceRecord;
use super::tally::Count;
use super::tcp_check::TcpCheck;
use super::udp_check::UdpCheck;
use super::world::World;
use dispatch_bench::driver::{self, Join, JoinError};
use dispatch_bench::tunnel::Wire;
use dispatch_bench::websocket::{self, FIN, Frame, Frames, opcode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use uring_dispatch::policy::port_id::Transport;

/// How long a driver's end may take once it has said its last word.
const END_TIME_MAX: Duration = Duration::from_secs(20);
/// How long the daemon may leave a driver's socket unread, and a ping unanswered.
pub const UNREAD_TIME_MAX: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 << 10;
const SLOW_READ_BYTES: usize = 16 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(60);

/// Writes that wait for the daemon's word: device, and how many of ours to it there were.
pub type Writes = Vec<(Rc<DeviceRecord>, u64)>;

/// One session.
#[derive(Debug)]
pub struct Session {
    /// What it does.
    pub plan: Plan,
    /// What its writes are marked with.
    pub writer: u64,
    /// The driver's socket.
    pub stream: TcpStream,
    /// What it knows.
    pub check: RefCell<Check>,
    /// Bytes of its own that go out before anything else: pongs.
    pub control: RefCell<Vec<u8>>,
    /// Until when it does nothing at all.
    pub asleep_until: Cell<Option<Instant>>,
    /// What it has said last.
    pub said: Cell<Option<Leave>>,
    /// Writes since the last ping.
    pub fresh: RefCell<Writes>,
    /// The ping that is under way: number, since when, the writes before it.
    pub ping: RefCell<Option<(u64, Instant, Writes)>>,
    read: RefCell<Writes>,
    last_nap_at: Cell<Option<Instant>>,
}

/// What a session knows of devices.
#[derive(Debug)]
pub enum Check {
    /// On a TCP port.
    Tcp(TcpCheck),
    /// On a UDP port.
    Udp(UdpCheck),
}

/// How a session ended, as its driver saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The daemon sent a close frame.
    Closed(u16, String),
    /// The daemon closed its side without one; with so many bytes of a frame left.
    Eof(usize),
    /// The connection was reset.
    Reset(io::ErrorKind),
    /// The driver was gone first.
    Own,
    /// Neither came in time.
    Late,
}

/// Joins as `plan` says and lives the session to its end.
pub async fn live(world: &Rc<World>, plan: Plan, rng: &mut ChaCha8Rng) {
    let writer = rng.random();
    let bases = ["/api/server", "/api/dispatch/v1"];
    let wire = if rng.random_bool(0.3) { Wire::Tls } else { Wire::Plain };
    let join = Join {
        api: if wire == Wire::Tls { world.api_tls } else { world.api },
        wire,
        base: bases[rng.random_range(0..2)],
        transport: plan.transport,
        port: plan.port,
        devices: world.topology.wire_of(plan.port),
        accept: plan.accept.text(),
        token: &world.token,
        receive_bytes: plan.receive_bytes,
    };
    let joined = match driver::join(&join).await {
        Ok(joined) => joined,
        Err(_) if world.is_draining() => return world.tally.ending("join: refused by a drain"),
        Err(JoinError::Refused { status, body }) => {
            return world.tally.violation(&format!("a join was refused with {status} {body}"), &format!("{plan:?}"));
        }
        Err(error) => return world.tally.violation(&format!("a join failed: {error}"), &format!("{plan:?}")),
    };
    world.tally.one(Count::DriversJoined);
    let is_warden = plan.stay.is_none();
    let check = match plan.transport {
        Transport::Tcp => Check::Tcp(TcpCheck::new(plan.port, plan.accept.clone())),
        Transport::Udp => Check::Udp(UdpCheck::new(plan.port, plan.accept.clone(), is_warden)),
    };
    let session = Rc::new(Session {
        plan,
        writer,
        stream: joined.stream,
        check: RefCell::new(check),
        control: RefCell::default(),
        asleep_until: Cell::new(None),
        said: Cell::new(None),
        fresh: RefCell::default(),
        ping: RefCell::default(),
        read: RefCell::default(),
        last_nap_at: Cell::new(None),
    });
    world.add_session(&session);
    let acts_rng = ChaCha8Rng::from_rng(rng);
    let end = session.run(world, joined.first, acts_rng).await;
    session.judge_end(world, &end);
    if session.said.get() == Some(Leave::Reset) {
        // Fails only where the connection is gone, which is as good.
        let _ = dispatch_bench::device::reset_on_close(&session.stream);
    }
}

impl Session {
    async fn run(self: &Rc<Self>, world: &World, first: Vec<u8>, rng: ChaCha8Rng) -> End {
        let reading = self.receive(world, first);
        let acting = acts::act(self, world, rng);
        tokio::pin!(reading, acting);
        tokio::select! {
            end = &mut reading => return end,
            () = &mut acting => {}
        }
        match self.said.get() {
            Some(Leave::Reset | Leave::Vanish) => End::Own,
            _ => tokio::time::timeout(END_TIME_MAX, reading).await.unwrap_or(End::Late),
        }
    }

    async fn receive(&self, world: &World, first: Vec<u8>) -> End {
        let mut frames = Frames::default();
        frames.push(&first);
        let mut close = None;
        let (size, pause) = match self.plan.pace {
            Pace::Slow => (SLOW_READ_BYTES, SLOW_PAUSE),
            _ => (READ_BYTES, Duration::ZERO),
        };
        let mut buffer = vec![0; size];
        loop {
            loop {
                match frames.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) if close.is_some() => {
                        let what = if matches!(frame, Frame::Binary(_)) { "a message" } else { "a control frame" };
                        self.violation(world, &format!("{what} came after the close frame ({close:?})"));
                    }
                    Ok(Some(Frame::Close(code, reason))) => close = Some(End::Closed(code, reason)),
                    Ok(Some(frame)) => self.take(frame, world),
                    Err(fault) => {
                        self.violation(world, &fault.to_string());
                        return close.unwrap_or(End::Own);
                    }
                }
            }
            self.sleep_on(pause).await;
            match self.read_some(&mut buffer).await {
                Ok(0) => return close.unwrap_or(End::Eof(frames.left())),
                Ok(count) => frames.push(&buffer[..count]),
                Err(error) => return close.unwrap_or(End::Reset(error.kind())),
            }
        }
    }

    async fn sleep_on(&self, pause: Duration) {
        while let Some(until) = self.asleep_until.get() {
            if Instant::now() >= until {
                self.asleep_until.set(None);
                self.last_nap_at.set(Some(Instant::now()));
            }
            tokio::time::sleep_until(until.into()).await;
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    async fn read_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn take(&self, frame: Frame<'_>, world: &World) {
        let judged = match frame {
            Frame::Binary(message) => match &mut *self.check.borrow_mut() {
                Check::Tcp(check) => check.take(message, world),
                Check::Udp(check) => check.take(message, world),
            },
            Frame::Ping(payload) if self.plan.leave != Leave::Mute => {
                websocket::append(&mut self.control.borrow_mut(), FIN | opcode::PONG, payload, [1, 2, 3, 4]);
                Ok(())
            }
            Frame::Pong(payload) => self.take_pong(payload, world),
            Frame::Ping(_) | Frame::Close(..) => Ok(()),
        };
        if let Err(fault) = judged {
            self.violation(world, &fault);
        }
    }

    /// Everything before a ping that was answered is read; what was read before the ping was sent is queued.
    fn take_pong(&self, payload: &[u8], world: &World) -> Result<(), String> {
        let Some((number, since, writes)) = self.ping.take() else {
            return Err("a pong that was not asked for".into());
        };
        if payload != number.to_be_bytes() {
            return Err(format!("a pong with {payload:02x?} for ping {number}"));
        }
        if !matches!(self.plan.pace, Pace::Naps | Pace::LongNaps) {
            world.tally.pong(since);
        }
        for (record, count) in &writes {
            record.was_read(self.writer, *count);
        }
        for (record, count) in self.read.replace(writes) {
            record.was_queued(self.writer, count);
        }
        Ok(())
    }

    /// Whether the daemon may have let it go, as it took nothing for too long.
    fn may_be_let_go(&self) -> bool {
        self.plan.pace == Pace::LongNaps
    }

    fn judge_end(&self, world: &World, end: &End) {
        let tally = &world.tally;
        let said = self.said.get();
        match (said, end) {
            (_, End::Own) => tally.ending(format!("driver: {said:?} of its own")),
            (_, End::Closed(1013, _)) if self.may_be_let_go() => tally.ending("driver: let go, 1013"),
            (_, End::Eof(_) | End::Reset(_)) if self.may_be_let_go() => tally.ending("driver: let go, reset"),
            (Some(Leave::Close), End::Closed(1000, _)) => {
                tally.ending("driver: closed in order");
                self.note_left(world);
            }
            (Some(Leave::Fault(fault)), End::Closed(code, _)) if *code == fault.close_code() => {
                tally.ending(format!("driver: ended by a fault, {code}"));
                self.note_left(world);
            }
            (Some(Leave::Mute), End::Closed(1011, _)) => tally.ending("driver: silent, 1011"),
            (_, End::Closed(1001, _)) if world.is_draining() => self.judge_drained(world),
            (_, End::Eof(_) | End::Reset(_)) if world.is_draining() && said.is_some() => {
                tally.ending("driver: leaving as the daemon drained");
            }
            (_, end) => {
                let what =
                    format!("the session ended unexpectedly after {}: {end:?}", said.map_or("nothing", Leave::name));
                self.violation(world, &what);
            }
        }
    }

    fn judge_drained(&self, world: &World) {
        world.tally.ending("driver: drained, 1001");
        if let Check::Tcp(check) = &*self.check.borrow()
            && check.open() > 0
        {
            let text = format!(
                "the close frame of a drain came before CLOSED of {} devices:{}",
                check.open(),
                check.still_open()
            );
            self.violation(world, &text);
        }
    }

    fn note_left(&self, world: &World) {
        if let Check::Tcp(check) = &*self.check.borrow() {
            for (_, record) in check.located().filter(|_| !world.is_draining()) {
                record.left(self.writer);
            }
        }
    }

    /// A device that should have been reported CLOSED long ago, while the driver reads.
    pub fn overdue(&self) -> Option<String> {
        let read_lately = self.last_nap_at.get().is_none_or(|at| at.elapsed() > UNREAD_TIME_MAX);
        match &*self.check.borrow() {
            Check::Tcp(check) if read_lately && self.said.get().is_none() => check.overdue(),
            _ => None,
        }
    }

    /// Something that the contract rules out.
    pub fn violation(&self, world: &World, what: &str) {
        let Plan { transport, port, accept, pace, leave, .. } = &self.plan;
        let who = format!(
            "driver {:016x} on {} {port}, accepting {:?}, {pace:?}, {leave:?}",
            self.writer,
            transport.name(),
            accept.text()
        );
        world.tally.violation(what, &who);
    }
}
