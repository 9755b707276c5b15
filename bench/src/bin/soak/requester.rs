//! Requests beside the drivers': good and bad ones, and connections that say nothing or break off.
//!
//! **Invariants.** Every answer is the contract's.
//! **Not here.** Joins that succeed (`session`).

use super::tally::Count;
use super::world::World;
use dispatch_bench::{device, http};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Requests, and the status that each is answered with.
const REQUESTS: [(&str, u16); 10] = [
    ("GET /api/server HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n", 200),
    ("GET /api/dispatch/v1/ HTTP/1.1\r\nAuthorization: TOKEN\r\n", 200),
    ("GET /api/server/healthz HTTP/1.1\r\n", 200),
    ("GET /api/server/version HTTP/1.1\r\n", 200),
    ("GET /api/server HTTP/1.1\r\nAuthorization: Bearer wrong\r\n", 401),
    ("GET /api/server/nothing HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n", 404),
    ("POST /api/server HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n", 405),
    ("GET /api/server/tcp_dispatch?port=2 HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n", 422),
    ("GET /api/server/tcp_dispatch?port=70000&accept=::1 HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n", 400),
    ("GET /api/server/tcp_dispatch?port=2&accept=::1 HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\n", 426),
];

/// Requests until the run stops.
pub async fn act(world: Rc<World>, mut rng: ChaCha8Rng) {
    while !world.is_stopping() {
        if rng.random_bool(0.3) {
            break_off(&world, &mut rng).await;
        } else {
            let (request, status) = REQUESTS[rng.random_range(0..REQUESTS.len())];
            ask(&world, request, status).await;
        }
        let pause = Duration::from_millis(rng.random_range(0..200));
        world.pause(pause).await;
    }
}

async fn ask(world: &World, request: &str, status: u16) {
    let request = request.replace("TOKEN", &world.token) + "Host: soak\r\nConnection: close\r\n\r\n";
    match http::exchange(world.api, request.as_bytes()).await {
        Ok(answer) if answer.status == status => world.tally.one(Count::RequestsAnswered),
        _ if world.is_draining() => {}
        other => world.tally.violation(&format!("a wrong answer: {other:?}, due was {status}"), &request),
    }
}

/// A connection that sends part of a head, or nothing, and then goes.
async fn break_off(world: &World, rng: &mut ChaCha8Rng) {
    let Ok(mut stream) = TcpStream::connect(world.api).await else { return };
    let head = b"GET /api/server/tcp_dispatch?port=1&accept=127.0.0.1 HTTP/1.1\r\nHost: x\r\n";
    let part = rng.random_range(0..head.len());
    let _ = stream.write_all(&head[..part]).await;
    world.pause(Duration::from_millis(rng.random_range(0..500))).await;
    if rng.random_bool(0.5) {
        let _ = device::reset_on_close(&stream);
    }
    world.tally.ending("request: broken off");
}
