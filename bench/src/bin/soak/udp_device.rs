//! UDP devices: sockets that send datagrams of every size to the daemon's ports and check what comes back.
//!
//! **Invariants.** What is sent is counted, so that what is lost can be compared with what was counted as lost.
//! **Not here.** What drivers are told (`udp_check`).

use super::payload::{self, HEAD_BYTES};
use super::tally::Count;
use super::world::{Sender, World};
use dispatch_bench::device;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

/// The largest datagram of UDP over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;
const PAUSE_MS_MAX: u64 = 60;

/// One life after the other until the run stops.
pub async fn act(world: Rc<World>, mut rng: ChaCha8Rng) {
    while !world.is_stopping() {
        if let Err(error) = live(&world, &mut rng).await {
            world.tally.violation(&format!("a UDP device failed: {error}"), "");
            world.pause(Duration::from_secs(1)).await;
        }
    }
}

fn source(rng: &mut ChaCha8Rng) -> IpAddr {
    let host = rng.random_range(1..=8);
    match rng.random_range(0..100) {
        0..60 => IpAddr::from([127, 10, 0, host]),
        60..80 => IpAddr::from([127, 20, 0, host]),
        80..85 => IpAddr::from([127, 99, 0, host]),
        _ => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1u16]),
    }
}

async fn live(world: &World, rng: &mut ChaCha8Rng) -> io::Result<()> {
    let ports = if rng.random_bool(0.8) { &world.topology.shared_datagrams } else { &world.topology.free_datagrams };
    let port = ports[rng.random_range(0..ports.len())];
    let source = source(rng);
    let socket = device::datagrams(source).await?;
    let sender =
        Rc::new(Sender { nonce: rng.random(), address: socket.local_addr()?, sent: Cell::new(0), round: world.round });
    world.senders.borrow_mut().insert(sender.nonce, sender.clone());
    let until = Instant::now() + Duration::from_millis(rng.random_range(200..6_000));
    let mut next_numbers = BTreeMap::new();
    while Instant::now() < until && !world.is_stopping() {
        let burst = if rng.random_bool(0.1) { rng.random_range(5..60) } else { rng.random_range(1..4) };
        for _ in 0..burst {
            send(world, &sender, &socket, port, rng).await;
        }
        let pause = Duration::from_millis(rng.random_range(0..PAUSE_MS_MAX));
        let _ = tokio::time::timeout(pause, receive(world, &sender, &socket, port, &mut next_numbers)).await;
    }
    world.tally.ending("device: UDP socket closed");
    Ok(())
}

async fn send(world: &World, sender: &Sender, socket: &UdpSocket, port: u16, rng: &mut ChaCha8Rng) {
    let source = sender.address.ip();
    let size = match rng.random_range(0..100) {
        0..5 => 0,
        5..70 => rng.random_range(0..1_500),
        70..95 => rng.random_range(1_500..DATAGRAM_BYTES_MAX),
        _ => DATAGRAM_BYTES_MAX,
    };
    let number = sender.sent.get();
    // Before it is sent, as a driver may have it at once.
    sender.sent.set(number + u64::from(size >= HEAD_BYTES));
    let sent = socket.send_to(&payload::unit(sender.nonce, number, size), device::target(source, port)).await;
    if sent.is_err() {
        return;
    }
    world.tally.one(Count::DatagramsSent);
    if let Some(book) = world.datagrams.get(&port) {
        book.sent.set(book.sent.get() + 1);
        book.sent_to_warden.set(book.sent_to_warden.get() + u64::from(world.has_warden(port, source)));
    }
}

/// Receives for as long as it is let.
async fn receive(world: &World, sender: &Sender, socket: &UdpSocket, port: u16, next_numbers: &mut BTreeMap<u64, u64>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX + 1];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        let judged = payload::datagram(&buffer[..len]).map_err(|fault| fault.to_string()).and_then(|unit| {
            let Some(unit) = unit else { return Ok(()) };
            let next = next_numbers.entry(unit.writer).or_default();
            if unit.number < *next {
                return Err(format!("a datagram came again ({unit:?}, due is {next})"));
            }
            *next = unit.number + 1;
            // Another port's driver may still write to whoever had this address before.
            match world.sessions().iter().find(|session| session.writer == unit.writer) {
                Some(session) if session.plan.port != from.port() => {
                    Err(format!("a datagram came from {from}, its driver is on port {}", session.plan.port))
                }
                _ => Ok(()),
            }
        });
        if let Err(fault) = judged {
            world.tally.violation(&fault, &format!("UDP device {} of port {port}", sender.address));
        }
        world.tally.one(Count::DatagramsVerifiedToDevices);
        world.tally.add(Count::DatagramBytesVerifiedToDevices, len as u64);
    }
}
