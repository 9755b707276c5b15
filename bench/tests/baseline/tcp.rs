//! The baselines for connections.
//!
//! **Invariants.** Every scenario runs with `tcp` and with `epoll`.
//! **Not here.** Speed.

use crate::harness::{Baseline, Driver, LOCALHOST, Told, WAIT_MAX, device, free_port, pattern};
use dispatch_bench::device::connect;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uring_dispatch::protocol::message::FromDriver;

const KINDS: [&str; 2] = ["tcp", "epoll"];

async fn connected(port: u16, count: u64) -> Vec<TcpStream> {
    let mut devices = Vec::new();
    for _ in 0..count {
        devices.push(connect(LOCALHOST, port, None).await.expect("a connection"));
    }
    devices
}

/// Waits until the driver was told of so many more devices.
async fn opened(driver: &mut Driver, count: u64) {
    for _ in 0..count {
        assert!(matches!(driver.next().await, Told::Opened(_)));
    }
}

async fn read_exactly(device: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    tokio::time::timeout(WAIT_MAX, device.read_exact(&mut bytes)).await.expect("bytes in time").expect("bytes");
    bytes
}

async fn read_to_end(device: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(WAIT_MAX, device.read_to_end(&mut bytes)).await.expect("an end in time").expect("bytes");
    bytes
}

/// What a driver hears of each device until so many are closed; panics where an order is broken.
async fn heard(driver: &mut Driver, closed: usize) -> BTreeMap<u64, Vec<u8>> {
    let (mut open, mut ended) = (BTreeMap::new(), BTreeMap::new());
    while ended.len() < closed {
        match driver.next().await {
            Told::Opened(id) => assert!(!ended.contains_key(&id) && open.insert(id, Vec::new()).is_none()),
            Told::Received(id, data) => open.get_mut(&id).expect("an open device").extend(data),
            Told::Closed(id) => drop(ended.insert(id, open.remove(&id).expect("an open device"))),
            other => panic!("{other:?}"),
        }
    }
    ended
}

#[tokio::test]
async fn what_a_hundred_devices_send_arrives_whole() {
    for kind in KINDS {
        let baseline = Baseline::start(kind);
        let port = free_port();
        let mut driver = baseline.join(port).await;
        let mut devices = connected(port, 100).await;
        for round in 0..20 {
            for (index, device) in devices.iter_mut().enumerate() {
                device.write_all(&pattern(index as u64, round * 500, 500)).await.expect("a write");
            }
        }
        drop(devices);
        let heard = heard(&mut driver, 100).await;
        // Connected one after the other: the ids are in that order.
        for id in 0..100 {
            assert!(heard[&id] == pattern(id, 0, 10_000), "{kind}: what device {id} sent");
        }
    }
}

#[tokio::test]
async fn writes_arrive_whole_and_before_a_close() {
    for kind in KINDS {
        let baseline = Baseline::start(kind);
        let port = free_port();
        let mut driver = baseline.join(port).await;
        let mut devices = connected(port, 100).await;
        opened(&mut driver, 100).await;
        for round in 0..10 {
            let data: Vec<Vec<u8>> = (0..100).map(|id| pattern(id, round * 300, 300)).collect();
            let write = |id: usize| FromDriver::Write { device: device(id as u64), data: &data[id] };
            driver.send(&(0..100).map(write).collect::<Vec<_>>()).await;
        }
        let last = |id: u64| {
            [FromDriver::Write { device: device(id), data: b"bye" }, FromDriver::Close { device: device(id) }]
        };
        driver.send(&(0..100).flat_map(last).collect::<Vec<_>>()).await;
        for (id, device) in devices.iter_mut().enumerate() {
            let mut expected = pattern(id as u64, 0, 3_000);
            expected.extend_from_slice(b"bye");
            assert!(read_to_end(device).await == expected, "{kind}: what was written to device {id}");
        }
        let mut closed: Vec<u64> = Vec::new();
        while closed.len() < 100 {
            match driver.next().await {
                Told::Closed(id) => closed.push(id),
                other => panic!("{kind}: {other:?}"),
            }
        }
        closed.sort_unstable();
        assert_eq!(closed, (0..100).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_driver_that_reads_late_gets_all() {
    const BYTES: usize = 4 << 20;
    for kind in KINDS {
        let baseline = Baseline::start(kind);
        let port = free_port();
        let mut driver = baseline.try_join(port, Some(4096)).await.expect("a join");
        let mut devices = connected(port, 3).await;
        for (id, device) in devices.iter_mut().enumerate() {
            // More than the kernel holds: it is taken while the driver's socket is full.
            let written = device.write_all(&pattern(id as u64, 0, BYTES)).await;
            written.expect("a write");
        }
        drop(devices);
        let heard = heard(&mut driver, 3).await;
        for id in 0..3 {
            assert!(heard[&id] == pattern(id, 0, BYTES), "{kind}: what device {id} sent");
        }
    }
}

#[tokio::test]
async fn a_device_that_reads_late_gets_all_and_holds_up_nobody() {
    const BYTES: usize = 256 << 10;
    const WRITES: usize = 32;
    for kind in KINDS {
        let baseline = Baseline::start(kind);
        let port = free_port();
        let mut driver = baseline.join(port).await;
        let mut late = connect(LOCALHOST, port, Some(4096)).await.expect("a connection");
        let mut prompt = connected(port, 1).await.remove(0);
        opened(&mut driver, 2).await;
        for at in 0..WRITES {
            let data = pattern(0, at * BYTES, BYTES);
            driver.send(&[FromDriver::Write { device: device(0), data: &data }]).await;
        }
        driver.send(&[FromDriver::Write { device: device(1), data: b"prompt" }]).await;
        assert_eq!(read_exactly(&mut prompt, 6).await, b"prompt");
        // Its own end must not cut what was written to it.
        dispatch_bench::device::half_close(&late).expect("a shutdown");
        assert!(read_to_end(&mut late).await == pattern(0, 0, WRITES * BYTES), "{kind}");
        assert_eq!(driver.next().await, Told::Closed(0));
    }
}

#[tokio::test]
async fn drivers_share_a_port_and_have_ports_of_their_own() {
    for kind in KINDS {
        let baseline = Baseline::start(kind);
        let (shared, own) = (free_port(), free_port());
        let mut first = baseline.join(shared).await;
        let mut devices = connected(shared, 1).await;
        opened(&mut first, 1).await;
        let mut second = baseline.join(shared).await;
        opened(&mut second, 1).await;
        let mut third = baseline.join(own).await;
        devices.extend(connected(own, 1).await);
        devices[0].write_all(b"to both").await.expect("a write");
        devices[1].write_all(b"to one").await.expect("a write");
        for driver in [&mut first, &mut second] {
            assert_eq!(driver.next().await, Told::Received(0, b"to both".to_vec()));
        }
        assert_eq!(third.next().await, Told::Opened(0));
        assert_eq!(third.next().await, Told::Received(0, b"to one".to_vec()));
        second.send(&[FromDriver::Write { device: device(0), data: b"from the second" }]).await;
        assert_eq!(read_exactly(&mut devices[0], 15).await, b"from the second");
    }
}

#[tokio::test]
async fn a_goodbye_is_answered_and_the_last_closes_the_port() {
    for kind in KINDS {
        let baseline = Baseline::start(kind);
        let port = free_port();
        let mut driver = baseline.join(port).await;
        let mut device_ = connected(port, 1).await.remove(0);
        opened(&mut driver, 1).await;
        driver.ping(b"alive?").await;
        assert_eq!(driver.next().await, Told::Pong(b"alive?".to_vec()));
        driver.send(&[FromDriver::Write { device: device(0), data: b"last words" }]).await;
        driver.say_goodbye().await;
        assert_eq!(driver.next().await, Told::Close(1000));
        assert_eq!(driver.next().await, Told::End);
        assert_eq!(read_to_end(&mut device_).await, b"last words");
        assert!(connect(LOCALHOST, port, None).await.is_err(), "{kind}: the port is open");
        let mut driver = baseline.join(port).await;
        let _device = connected(port, 1).await;
        assert_eq!(driver.next().await, Told::Opened(0));
    }
}

#[tokio::test]
async fn a_port_in_use_is_refused_and_a_signal_ends_it() {
    for kind in KINDS {
        let baseline = Baseline::start(kind);
        let refused = baseline.try_join(baseline.api.port(), None).await;
        assert!(matches!(refused, Err(dispatch_bench::driver::JoinError::Refused { status: 409, .. })));
        assert!(!baseline.terminate().success());
    }
}
