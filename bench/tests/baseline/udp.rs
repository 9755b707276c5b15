//! The baseline for datagrams.
//!
//! **Invariants.** Few enough datagrams are under way that the kernel drops none.
//! **Not here.** Speed.

use crate::harness::{Baseline, LOCALHOST, Told, WAIT_MAX, device, free_port, pattern};
use dispatch_bench::device::{datagrams, target};
use std::collections::BTreeSet;
use uring_dispatch::protocol::message::FromDriver;

#[tokio::test]
async fn datagrams_arrive_whole_in_both_directions() {
    let baseline = Baseline::start("udp");
    let port = free_port();
    let mut driver = baseline.join(port).await;
    let mut other = baseline.join(port).await;
    let socket = datagrams(LOCALHOST).await.expect("a socket");
    let source = u64::from(socket.local_addr().expect("an address").port());
    for len in [0, 1, 64, 1_472, 65_507] {
        let data = pattern(len as u64, 0, len);
        socket.send_to(&data, target(LOCALHOST, port)).await.expect("a datagram");
        assert_eq!(driver.next().await, Told::Received(source, data.clone()));
        assert_eq!(other.next().await, Told::Received(source, data.clone()));
        driver.send(&[FromDriver::Write { device: device(source), data: &data }]).await;
        let mut bytes = vec![0; 65_536];
        let received = tokio::time::timeout(WAIT_MAX, socket.recv_from(&mut bytes)).await.expect("a datagram in time");
        let (count, from) = received.expect("a datagram");
        assert_eq!((&bytes[..count], from), (&data[..], target(LOCALHOST, port)));
    }
}

#[tokio::test]
async fn bursts_of_many_devices_arrive_whole() {
    const BURST: u64 = 100;
    let baseline = Baseline::start("udp");
    let port = free_port();
    let mut driver = baseline.join(port).await;
    let mut devices = Vec::new();
    for _ in 0..10 {
        devices.push(datagrams(LOCALHOST).await.expect("a socket"));
    }
    let ports: Vec<u64> = devices.iter().map(|device| device.local_addr().expect("an address").port().into()).collect();
    let mut expected = BTreeSet::new();
    for number in 0..BURST {
        for (device, source) in devices.iter().zip(&ports) {
            let data = pattern(source + number, 0, 64);
            device.send_to(&data, target(LOCALHOST, port)).await.expect("a datagram");
            expected.insert((*source, data));
        }
    }
    while !expected.is_empty() {
        match driver.next().await {
            Told::Received(source, data) => assert!(expected.remove(&(source, data))),
            other => panic!("{other:?}"),
        }
    }
    let data: Vec<Vec<u8>> = (0..BURST).map(|number| pattern(number, 0, 64)).collect();
    let to = |source: u64| data.iter().map(move |data| FromDriver::Write { device: device(source), data });
    driver.send(&ports.iter().flat_map(|source| to(*source)).collect::<Vec<_>>()).await;
    for socket in &devices {
        for data in &data {
            let mut bytes = [0; 100];
            let received = tokio::time::timeout(WAIT_MAX, socket.recv(&mut bytes)).await.expect("a datagram in time");
            assert_eq!(&bytes[..received.expect("a datagram")], &data[..]);
        }
    }
}
