//! A driver that opens and closes a port of its own all the time: ids begin at 0 whenever the port is opened afresh, and
//! a device may connect as soon as the join is answered.
//!
//! **Invariants.** One driver on one port at a time, so that every number is known.
//! **Not here.** Drivers that share ports (`session`).

use super::tally::Count;
use super::world::World;
use dispatch_bench::driver::{self, Join, Joined};
use dispatch_bench::tunnel::Wire;
use dispatch_bench::websocket::{self, Frame, Frames};
use dispatch_bench::{device, http};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uring_dispatch::policy::port_id::Transport;
use uring_dispatch::protocol::message::ToDriver;

const STEP_TIME_MAX: Duration = Duration::from_secs(10);
const CYCLE_TIME_MAX: Duration = Duration::from_secs(30);
const ACCEPT: &str = "127.30.0.1,::1";

/// How the port was before a join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// Closed: ids begin at 0.
    Afresh,
    /// Perhaps still open: ids may go on, and devices may be there.
    Unknown,
}

/// Cycles the port until the run stops.
pub async fn act(world: Rc<World>, port: u16, mut rng: ChaCha8Rng) {
    // After a takeover, devices of the round before may still be there.
    let mut opening = if world.round == 0 { Opening::Afresh } else { Opening::Unknown };
    while !world.is_stopping() {
        let cycled = tokio::time::timeout(CYCLE_TIME_MAX, cycle(&world, port, opening, &mut rng)).await;
        match cycled {
            Ok(Ok(next)) => opening = next,
            _ if world.is_draining() => return,
            Ok(Err(fault)) => {
                world.tally.violation(&fault, &format!("cycler of port {port}"));
                opening = Opening::Unknown;
            }
            Err(_) => {
                world.tally.violation(&format!("a cycle took {CYCLE_TIME_MAX:?}"), &format!("cycler of port {port}"));
                opening = Opening::Unknown;
            }
        }
        world.tally.one(Count::PortCycles);
        let pause = Duration::from_millis(rng.random_range(0..50));
        world.pause(pause).await;
    }
}

/// Joins, lets devices come, and leaves; whether the port is closed then, or maybe not yet.
async fn cycle(world: &World, port: u16, opening: Opening, rng: &mut ChaCha8Rng) -> Result<Opening, String> {
    let join = Join {
        api: world.api,
        wire: Wire::Plain,
        base: "/api/server",
        transport: Transport::Tcp,
        port,
        devices: Wire::Plain,
        accept: ACCEPT,
        token: &world.token,
        receive_bytes: None,
    };
    let Joined { mut stream, first } = driver::join(&join).await.map_err(|error| error.to_string())?;
    let mut frames = Frames::default();
    frames.push(&first);
    let mut devices = Vec::new();
    let mut last_id = None;
    for number in 0..rng.random_range(0..5) {
        let six = rng.random_bool(0.3);
        let source = if six { Ipv6Addr::LOCALHOST.into() } else { IpAddr::from([127, 30, 0, 1]) };
        let connected = device::connect(source, port, None).await;
        let mut device = connected.map_err(|error| {
            format!("a device could not connect after the join was answered: {error}, from {source}")
        })?;
        let tag: [u8; 8] = rng.random();
        device.write_all(&tag).await.map_err(|error| format!("a device could not send: {error}"))?;
        devices.push(device);
        let id = id_of(tag, &mut stream, &mut frames).await?;
        if (opening == Opening::Afresh && id != number) || last_id.is_some_and(|last| id <= last) {
            return Err(format!(
                "a device has the wrong id ({id} after {last_id:?}, the join's {number}th, {opening:?})"
            ));
        }
        last_id = Some(id);
    }
    let mut out = Vec::new();
    websocket::append_close(&mut out, 1000, "", rng.random());
    stream.write_all(&out).await.map_err(|error| format!("the close frame could not be sent: {error}"))?;
    stream.read_to_end(&mut Vec::new()).await.map_err(|error| format!("the session's end was {error}"))?;
    if rng.random_bool(0.5) {
        for mut device in devices {
            let ended = device.read_to_end(&mut Vec::new()).await;
            ended.map_err(|error| format!("a device was not ended in order as the port closed: {error}"))?;
        }
    }
    if rng.random_bool(0.5) {
        return Ok(Opening::Unknown);
    }
    wait_for_closed(world, port).await.map(|()| Opening::Afresh)
}

/// Reads until the device that sent `tag` is known; its id.
async fn id_of(tag: [u8; 8], stream: &mut TcpStream, frames: &mut Frames) -> Result<u64, String> {
    let mut buffer = vec![0; 4096];
    let until = Instant::now() + STEP_TIME_MAX;
    loop {
        while let Some(frame) = frames.next_frame().map_err(|fault| fault.to_string())? {
            let Frame::Binary(message) = frame else { continue };
            match ToDriver::decode(message).map_err(|fault| fault.to_string())? {
                ToDriver::Received { device, data } if data == tag => return Ok(device.id_or_port),
                // Devices of the join before may still be there.
                _ => {}
            }
        }
        match tokio::time::timeout_at(until.into(), stream.read(&mut buffer)).await {
            Ok(Ok(count @ 1..)) => frames.push(&buffer[..count]),
            Ok(end) => return Err(format!("instead of a device's data came the end: {end:?}")),
            Err(_) => return Err(format!("a device's data did not come in {STEP_TIME_MAX:?}")),
        }
    }
}

async fn wait_for_closed(world: &World, port: u16) -> Result<(), String> {
    let until = Instant::now() + STEP_TIME_MAX;
    let key = format!("\"{port}\":");
    while Instant::now() < until {
        let answer = http::get(world.api, "/api/server", &world.token).await.map_err(|error| error.to_string())?;
        if !answer.body.contains(&key) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err("the port stays open though its driver left".to_owned())
}
