//! Proves that connections that come in a flood are so many at most as the limits say, wherever they wait: for their turn
//! to compute, or to be let out.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::tls::{Authority, TlsDevice, connect, hello};
use crate::harness::{Daemon, Setup, Until, fds, free_port, read};

scenarios! {
    whose_hello_has_come_waits_for_no_turn_once_it_is_let_go,
    who_lingers_after_a_failed_handshake_makes_room,
    who_lingers_after_a_refused_request_makes_room,
}

/// Connections of a flood.
const FLOOD: usize = 300;
/// How many of a shard may wait.
const WAITING_MAX: usize = 4;
/// Sockets of a shard that are on their way in or out.
const PASSING: usize = 16;

/// A daemon whose handshakes take it a millisecond, as RSA's do; and its port with TLS.
fn slow_daemon(authority: &Authority, shards: usize) -> (Setup, u16) {
    let (setup, port) = authority.daemon(shards);
    let files = [include_str!("certificates/version-1.crt"), include_str!("certificates/version-1.key")];
    for (name, text) in ["cert.pem", "key.pem"].into_iter().zip(files) {
        authority.file(name, text);
    }
    (setup.limit("handshakes-max", WAITING_MAX * shards), port)
}

fn sockets(daemon: &Daemon) -> usize {
    fds(daemon.pid()).iter().filter(|target| target.starts_with("socket:")).count()
}

/// The most sockets that the daemon had beyond what it has by itself, while a flood of connections that say `words` came
/// in at once and until each had an answer or had ended; and the flood, which is still there.
fn most_sockets(daemon: &Daemon, port: u16, words: &[u8]) -> (usize, Vec<TcpStream>) {
    let before = sockets(daemon);
    // They all wait in the kernel before the first is accepted.
    daemon.signal(Signal::STOP);
    let mut flood: Vec<TcpStream> = (0..FLOOD).map(|_| connect(port)).collect();
    for stream in &mut flood {
        stream.write_all(words).unwrap();
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let most = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(sockets(daemon).saturating_sub(before));
                std::thread::sleep(Duration::from_millis(1));
            }
            most
        });
        let until = Until(&is_over);
        daemon.signal(Signal::CONT);
        for stream in &mut flood {
            // It may have been reset, as not all was read that it said.
            let _ = read(stream, &mut [0; 4_096]);
        }
        drop(until);
        (most.join().unwrap(), flood)
    })
}

fn whose_hello_has_come_waits_for_no_turn_once_it_is_let_go(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = slow_daemon(&authority, shards);
    setup.run(|daemon| {
        let (most, _flood) = most_sockets(daemon, port, &hello());
        assert!(most <= (WAITING_MAX + PASSING) * shards, "{most} sockets");
        // The others are still there, and say nothing more.
        TlsDevice::connect(port);
        daemon.until_count("tls_handshakes_late", (FLOOD - WAITING_MAX * shards) as u64);
    });
}

fn who_lingers_after_a_failed_handshake_makes_room(shards: usize) {
    let authority = Authority::new();
    let (setup, port) = slow_daemon(&authority, shards);
    setup.run(|daemon| {
        let (most, _flood) = most_sockets(daemon, port, b"no TLS at all, but long enough");
        assert!(most <= (WAITING_MAX + PASSING) * shards, "{most} sockets");
        TlsDevice::connect(port);
    });
}

fn who_lingers_after_a_refused_request_makes_room(shards: usize) {
    let port = free_port();
    Setup::new(shards).api_port(port).limit("handshakes-max", WAITING_MAX * shards).run(|daemon| {
        let (most, _flood) = most_sockets(daemon, port, b"no HTTP at all\r\n\r\n");
        assert!(most <= (WAITING_MAX + PASSING) * shards, "{most} sockets");
    });
}
